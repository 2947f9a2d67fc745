/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The centre of the PCI model: the driver's status, resets, and the callbacks of the device.
 * It also dispatches an access to the file that has the register.
 *
 * Key idea: a reset takes as long as the back-end needs to return the rings. Until then the
 * model is busy, and the status register shows the old status.
 *
 * virtio 1.3, sections 2.1, 3.1 and 4.1.4.
 */
#include "virtio-pci/private.h"

#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <string.h>

#define LEGACY_BAR_BYTES 128 /* registers and the device's config */
#define MSIX_BAR_BYTES (4 * VUBLK_VIRTIO_PCI_PAGE_BYTES)
#define MODERN_BAR_BYTES (VUBLK_VIRTIO_PCI_NUM_PAGES * VUBLK_VIRTIO_PCI_PAGE_BYTES)

/* Features that only a legacy driver can use. */
#define LEGACY_FEATURES (VUBLK_BIT(VIRTIO_F_NOTIFY_ON_EMPTY) | VUBLK_BIT(VIRTIO_F_ANY_LAYOUT))
/* Features that this transport implements itself, without the device. */
#define TRANSPORT_FEATURES VUBLK_BIT(VIRTIO_F_RING_RESET)

/* --- being busy ------------------------------------------------------------------------------ */

#define MAY(to) (1u << VUBLK_VIRTIO_PCI_##to)

/* The permitted transitions: a reset overrides everything, and only a larger reset overrides a reset. */
static const unsigned char busy_transitions[VUBLK_VIRTIO_PCI_NUM_BUSY] = {
	[VUBLK_VIRTIO_PCI_IDLE] = MAY(RESETTING) | MAY(RESETTING_BUS) | MAY(WRITING_CONFIG) |
				  MAY(CHANGING_QUEUE),
	[VUBLK_VIRTIO_PCI_RESETTING] = MAY(IDLE) | MAY(RESETTING_BUS),
	[VUBLK_VIRTIO_PCI_RESETTING_BUS] = MAY(IDLE),
	[VUBLK_VIRTIO_PCI_WRITING_CONFIG] = MAY(IDLE) | MAY(RESETTING) | MAY(RESETTING_BUS) |
					     MAY(CHANGING_QUEUE),
	[VUBLK_VIRTIO_PCI_CHANGING_QUEUE] = MAY(IDLE) | MAY(RESETTING) | MAY(RESETTING_BUS),
};

bool vublk_virtio_pci_set_busy(struct vublk_virtio_pci *pci, enum vublk_virtio_pci_busy busy)
{
	enum vublk_virtio_pci_busy before = pci->busy;

	if (!(busy_transitions[before] & (1u << busy)))
		return false;
	pci->busy = busy;
	if (before == VUBLK_VIRTIO_PCI_CHANGING_QUEUE && busy != VUBLK_VIRTIO_PCI_IDLE)
		vublk_virtio_pci_release(pci);
	if (busy == VUBLK_VIRTIO_PCI_IDLE && pci->ops->idle)
		pci->ops->idle(pci->opaque);
	return true;
}

bool vublk_virtio_pci_is_busy(const struct vublk_virtio_pci *pci)
{
	return pci->busy != VUBLK_VIRTIO_PCI_IDLE;
}

int vublk_virtio_pci_hold(struct vublk_virtio_pci *pci)
{
	if (!pci->holds++)
		vublk_device_set_vm_running(pci->device, false);
	return vublk_device_has_rings_out(pci->device);
}

void vublk_virtio_pci_release(struct vublk_virtio_pci *pci)
{
	if (pci->holds && !--pci->holds)
		vublk_device_set_vm_running(pci->device, true);
}

/* --- reset ------------------------------------------------------------------------------------ */

static void finish_reset(struct vublk_virtio_pci *pci)
{
	bool whole = pci->busy == VUBLK_VIRTIO_PCI_RESETTING_BUS;

	pci->status = 0;
	pci->device_feature_select = 0;
	pci->driver_feature_select = 0;
	pci->driver_features = 0;
	pci->queue_select = 0;
	vublk_virtio_pci_queues_reset(pci);
	vublk_virtio_pci_irqs_reset(pci);
	if (whole) {
		vublk_virtio_pci_config_reset(pci);
		vublk_virtio_pci_irqs_update(pci);
	}
	vublk_virtio_pci_set_busy(pci, VUBLK_VIRTIO_PCI_IDLE);
}

static bool is_resetting(const struct vublk_virtio_pci *pci)
{
	return pci->busy == VUBLK_VIRTIO_PCI_RESETTING || pci->busy == VUBLK_VIRTIO_PCI_RESETTING_BUS;
}

/*
 * The reset waits for a write to the config, so that a driver that reads the config after
 * its reset cannot see the write change it.
 */
static void try_finish_reset(struct vublk_virtio_pci *pci)
{
	if (is_resetting(pci) && !vublk_device_has_rings_out(pci->device) && !pci->writes_config)
		finish_reset(pci);
}

static void begin_reset(struct vublk_virtio_pci *pci, enum vublk_virtio_pci_busy kind)
{
	if (!vublk_virtio_pci_set_busy(pci, kind))
		return;
	vublk_device_set_status(pci->device, 0, NULL);
	try_finish_reset(pci);
}

void vublk_virtio_pci_reset(struct vublk_virtio_pci *pci)
{
	begin_reset(pci, VUBLK_VIRTIO_PCI_RESETTING_BUS);
}

/* --- the driver's status ---------------------------------------------------------------------- */

uint64_t vublk_virtio_pci_features(const struct vublk_virtio_pci *pci)
{
	return (vublk_device_features(pci->device) & ~LEGACY_FEATURES) | TRANSPORT_FEATURES;
}

bool vublk_virtio_pci_is_driven(const struct vublk_virtio_pci *pci)
{
	return pci->status & VIRTIO_CONFIG_S_DRIVER_OK;
}

static int accept_features(struct vublk_virtio_pci *pci, struct vublk_error *error)
{
	return vublk_device_ack_features(pci->device, pci->driver_features & ~TRANSPORT_FEATURES,
					 error);
}

void vublk_virtio_pci_on_failure(struct vublk_virtio_pci *pci, const struct vublk_error *error)
{
	vublk_log_limited(pci->log, &pci->log_limit, VUBLK_LOG_WARNING,
			  "the driver has to reset the device: %s", error->text);
	pci->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	if (vublk_virtio_pci_is_driven(pci))
		vublk_virtio_pci_raise_config(pci);
}

static bool knows_no_features_ok(const struct vublk_virtio_pci *pci)
{
	return pci->transitional && !(pci->status & VIRTIO_CONFIG_S_FEATURES_OK);
}

/*
 * Gives the device features, queues and memory when the driver is ready. Does nothing if the
 * first kick of a legacy driver has done so before.
 */
static int prepare_start(struct vublk_virtio_pci *pci, struct vublk_error *error)
{
	int r = 0;

	if (vublk_virtio_pci_queues_are_handed_over(pci))
		return 0;
	if (!(pci->status & VIRTIO_CONFIG_S_FEATURES_OK) && !pci->transitional)
		return vublk_error_set(error, EPROTO,
				       "the driver set DRIVER_OK without FEATURES_OK");
	if (knows_no_features_ok(pci))
		r = accept_features(pci, error);
	if (!r)
		r = vublk_virtio_pci_queues_hand_over(pci, error);
	if (!r && pci->ops->before_start)
		r = pci->ops->before_start(pci->opaque, error);
	return r;
}

static int check_features_ok(struct vublk_virtio_pci *pci, struct vublk_error *error)
{
	if (pci->driver_features & VUBLK_BIT(VIRTIO_F_VERSION_1))
		return accept_features(pci, error);
	return vublk_error_set(error, EPROTO,
			       "it has no VIRTIO_F_VERSION_1, and a legacy driver has no FEATURES_OK");
}

static void write_bits(struct vublk_virtio_pci *pci, uint8_t bits)
{
	bool starts = bits & VIRTIO_CONFIG_S_DRIVER_OK && !vublk_virtio_pci_is_driven(pci);
	struct vublk_error error;
	int r = 0;

	if (bits & ~pci->status & VIRTIO_CONFIG_S_FEATURES_OK &&
	    check_features_ok(pci, &error) < 0) {
		vublk_log_limited(pci->log, &pci->log_limit, VUBLK_LOG_WARNING,
				  "the driver's choice of features is refused: %s", error.text);
		bits &= (uint8_t)~VIRTIO_CONFIG_S_FEATURES_OK;
	}
	pci->status |= bits;
	if (starts)
		r = prepare_start(pci, &error);
	if (!r)
		r = vublk_device_set_status(pci->device, pci->status, &error);
	if (r < 0)
		vublk_virtio_pci_on_failure(pci, &error);
}

/*
 * A driver sets bits, and clears all of them by writing 0, which is a reset. A write during a
 * reset comes too early and is ignored.
 */
void vublk_virtio_pci_write_status(struct vublk_virtio_pci *pci, uint8_t status)
{
	if (!status)
		begin_reset(pci, VUBLK_VIRTIO_PCI_RESETTING);
	else if (!is_resetting(pci))
		write_bits(pci, status & (uint8_t)~VIRTIO_CONFIG_S_NEEDS_RESET);
}

/* A legacy driver may kick before DRIVER_OK and expects its requests to be served. */
static void start_on_kick(struct vublk_virtio_pci *pci, unsigned queue)
{
	struct vublk_error error;
	int r = prepare_start(pci, &error);

	if (!r)
		r = vublk_device_set_status(pci->device, pci->status, &error);
	if (r < 0)
		vublk_virtio_pci_on_failure(pci, &error);
	else
		vublk_device_kick(pci->device, queue);
}

/* A kick before the rings run is not lost, because the eventfd keeps it. */
void vublk_virtio_pci_notify(struct vublk_virtio_pci *pci, unsigned queue)
{
	if (queue >= pci->num_queues || !vublk_virtio_pci_queue_is_enabled(&pci->queues[queue]))
		return;
	if (!vublk_virtio_pci_is_driven(pci) && knows_no_features_ok(pci) &&
	    !(pci->status & VIRTIO_CONFIG_S_NEEDS_RESET))
		start_on_kick(pci, queue);
	else
		vublk_eventfd_signal(pci->queues[queue].kick_fd);
}

struct vublk_virtio_pci_queue *vublk_virtio_pci_selected(struct vublk_virtio_pci *pci)
{
	return pci->queue_select < pci->num_queues ? &pci->queues[pci->queue_select] : NULL;
}

/* --- the device's own config ------------------------------------------------------------------ */

/*
 * The generation changes with the first read that shows a new config, so that a driver
 * notices when its reads mix two of them.
 */
void vublk_virtio_pci_read_device_config(struct vublk_virtio_pci *pci, uint64_t offset,
					 void *data, unsigned bytes)
{
	uint32_t generation = vublk_device_config_generation(pci->device);

	if (generation != pci->known_generation)
		pci->generation++;
	pci->known_generation = generation;
	memset(data, 0, bytes);
	if (offset < VUBLK_VIRTIO_PCI_PAGE_BYTES)
		vublk_device_config_read(pci->device, (unsigned)offset, data, bytes);
}

void vublk_virtio_pci_write_device_config(struct vublk_virtio_pci *pci, uint64_t offset,
					  const void *data, unsigned bytes)
{
	struct vublk_error error;
	int r;

	if (offset >= VUBLK_VIRTIO_PCI_PAGE_BYTES || vublk_virtio_pci_is_busy(pci))
		return;
	r = vublk_device_config_write(pci->device, (unsigned)offset, data, bytes, &error);
	if (r < 0)
		vublk_log_limited(pci->log, &pci->log_limit, VUBLK_LOG_WARNING,
				  "a write to the config was ignored: %s", error.text);
	pci->writes_config = r > 0;
	if (r > 0)
		vublk_virtio_pci_set_busy(pci, VUBLK_VIRTIO_PCI_WRITING_CONFIG);
}

/* --- accesses --------------------------------------------------------------------------------- */

uint32_t vublk_virtio_pci_bar_bytes(const struct vublk_virtio_pci *pci, unsigned bar)
{
	switch (bar) {
	case VUBLK_VIRTIO_PCI_BAR_LEGACY:
		return pci->transitional ? LEGACY_BAR_BYTES : 0;
	case VUBLK_VIRTIO_PCI_BAR_MSIX:
		return MSIX_BAR_BYTES;
	case VUBLK_VIRTIO_PCI_BAR_MODERN:
		return MODERN_BAR_BYTES;
	default:
		return 0;
	}
}

void vublk_virtio_pci_copy(void *data, unsigned bytes, uint64_t offset, const void *from,
			   unsigned from_bytes)
{
	unsigned there = offset < from_bytes ? from_bytes - (unsigned)offset : 0;
	unsigned count = VUBLK_MIN(bytes, there);

	memset(data, 0, bytes);
	if (count)
		memcpy(data, (const uint8_t *)from + offset, count);
}

static void write_register(struct vublk_virtio_pci *pci,
			   const struct vublk_virtio_pci_register *registers,
			   unsigned num_registers, uint64_t offset, const void *data,
			   unsigned bytes)
{
	for (unsigned i = 0; i < num_registers; i++) {
		uint32_t value = 0;

		if (registers[i].offset != offset || registers[i].bytes != bytes)
			continue;
		memcpy(&value, data, bytes);
		registers[i].write(pci, value);
		return;
	}
}

void vublk_virtio_pci_registers_write(struct vublk_virtio_pci *pci,
				      const struct vublk_virtio_pci_register *registers,
				      unsigned num_registers, uint64_t offset, const void *data,
				      unsigned bytes)
{
	if (bytes != 8) {
		write_register(pci, registers, num_registers, offset, data, bytes);
		return;
	}
	write_register(pci, registers, num_registers, offset, data, 4);
	write_register(pci, registers, num_registers, offset + 4, (const uint8_t *)data + 4, 4);
}

static void read_modern(struct vublk_virtio_pci *pci, uint64_t offset, void *data, unsigned bytes)
{
	uint64_t within = offset % VUBLK_VIRTIO_PCI_PAGE_BYTES;
	uint8_t isr;

	switch (offset / VUBLK_VIRTIO_PCI_PAGE_BYTES) {
	case VUBLK_VIRTIO_PCI_PAGE_COMMON:
		vublk_virtio_pci_common_read(pci, within, data, bytes);
		break;
	case VUBLK_VIRTIO_PCI_PAGE_ISR:
		isr = within || !bytes ? 0 : vublk_virtio_pci_take_isr(pci);
		vublk_virtio_pci_copy(data, bytes, within, &isr, sizeof(isr));
		break;
	case VUBLK_VIRTIO_PCI_PAGE_DEVICE:
		vublk_virtio_pci_read_device_config(pci, within, data, bytes);
		break;
	default: /* notification registers are write-only */
		memset(data, 0, bytes);
	}
}

static void write_modern(struct vublk_virtio_pci *pci, uint64_t offset, const void *data,
			 unsigned bytes)
{
	uint64_t within = offset % VUBLK_VIRTIO_PCI_PAGE_BYTES;

	switch (offset / VUBLK_VIRTIO_PCI_PAGE_BYTES) {
	case VUBLK_VIRTIO_PCI_PAGE_COMMON:
		vublk_virtio_pci_common_write(pci, within, data, bytes);
		break;
	case VUBLK_VIRTIO_PCI_PAGE_DEVICE:
		vublk_virtio_pci_write_device_config(pci, within, data, bytes);
		break;
	case VUBLK_VIRTIO_PCI_PAGE_NOTIFY: /* the offset and the value both name the queue */
		vublk_virtio_pci_notify(pci, (unsigned)(within / VUBLK_VIRTIO_PCI_NOTIFY_MULTIPLIER));
		break;
	default:
		break;
	}
}

void vublk_virtio_pci_bar_read(struct vublk_virtio_pci *pci, unsigned bar, uint64_t offset,
			       void *data, unsigned bytes)
{
	if (offset >= vublk_virtio_pci_bar_bytes(pci, bar))
		memset(data, 0, bytes);
	else if (bar == VUBLK_VIRTIO_PCI_BAR_LEGACY)
		vublk_virtio_pci_legacy_read(pci, offset, data, bytes);
	else if (bar == VUBLK_VIRTIO_PCI_BAR_MSIX)
		vublk_virtio_pci_msix_read(pci, offset, data, bytes);
	else
		read_modern(pci, offset, data, bytes);
}

void vublk_virtio_pci_bar_write(struct vublk_virtio_pci *pci, unsigned bar, uint64_t offset,
				const void *data, unsigned bytes)
{
	if (offset >= vublk_virtio_pci_bar_bytes(pci, bar))
		return;
	if (bar == VUBLK_VIRTIO_PCI_BAR_LEGACY)
		vublk_virtio_pci_legacy_write(pci, offset, data, bytes);
	else if (bar == VUBLK_VIRTIO_PCI_BAR_MSIX)
		vublk_virtio_pci_msix_write(pci, offset, data, bytes);
	else
		write_modern(pci, offset, data, bytes);
}

/* --- callbacks of the device ------------------------------------------------------------------ */

void vublk_virtio_pci_on_stopped(struct vublk_virtio_pci *pci)
{
	if (pci->busy == VUBLK_VIRTIO_PCI_CHANGING_QUEUE)
		vublk_virtio_pci_queues_change(pci);
	else
		try_finish_reset(pci);
}

void vublk_virtio_pci_on_config_changed(struct vublk_virtio_pci *pci)
{
	if (vublk_virtio_pci_is_driven(pci))
		vublk_virtio_pci_raise_config(pci);
}

void vublk_virtio_pci_on_config_written(struct vublk_virtio_pci *pci)
{
	pci->writes_config = false;
	if (pci->busy == VUBLK_VIRTIO_PCI_WRITING_CONFIG)
		vublk_virtio_pci_set_busy(pci, VUBLK_VIRTIO_PCI_IDLE);
	else
		try_finish_reset(pci);
}

/* --- life cycle ------------------------------------------------------------------------------- */

static int check_vectors(unsigned num_vectors, struct vublk_error *error)
{
	if (num_vectors <= VUBLK_VIRTIO_PCI_MAX_VECTORS)
		return 0;
	return vublk_error_set(error, EINVAL, "%u MSI-X vectors are too many; at most %u are possible",
			       num_vectors, VUBLK_VIRTIO_PCI_MAX_VECTORS);
}

int vublk_virtio_pci_new(struct vublk_device *device, struct vublk_loop *loop,
			 const struct vublk_log *log,
			 const struct vublk_virtio_pci_options *options,
			 const struct vublk_virtio_pci_ops *ops, void *opaque,
			 struct vublk_virtio_pci **out, struct vublk_error *error)
{
	unsigned num_queues = vublk_device_num_queues(device);
	struct vublk_virtio_pci *pci;
	int r = check_vectors(options->num_vectors, error);

	if (r < 0)
		return r;
	pci = calloc(1, sizeof(*pci) + num_queues * sizeof(pci->queues[0]));
	if (!pci)
		return vublk_error_set(error, ENOMEM, "no memory for a PCI device");
	pci->device = device;
	pci->loop = loop;
	pci->log = log;
	pci->ops = ops;
	pci->opaque = opaque;
	pci->transitional = options->transitional;
	pci->num_queues = num_queues;
	pci->num_vectors = options->num_vectors ? options->num_vectors :
		VUBLK_MIN(num_queues + 1, (unsigned)VUBLK_VIRTIO_PCI_MAX_VECTORS);
	pci->known_generation = vublk_device_config_generation(device);
	vublk_virtio_pci_config_reset(pci);
	vublk_virtio_pci_irqs_init(pci);
	r = vublk_virtio_pci_queues_init(pci, error);
	if (r < 0) {
		vublk_virtio_pci_free(pci);
		return r;
	}
	*out = pci;
	return 0;
}

void vublk_virtio_pci_free(struct vublk_virtio_pci *pci)
{
	if (!pci)
		return;
	vublk_virtio_pci_queues_deinit(pci);
	vublk_virtio_pci_irqs_deinit(pci);
	free(pci);
}
