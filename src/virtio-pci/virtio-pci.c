/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The centre of the PCI model: the driver's status, resets, notifications, the device's own config,
 * and the callbacks of the device. The driver's accesses arrive in access.c.
 *
 * Key idea: a reset does not end before the back-end has returned the rings. Until then the model
 * is busy, and the status register shows the old status.
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

/* Features that only a legacy driver can use. */
#define LEGACY_FEATURES (VUBLK_BIT(VIRTIO_F_NOTIFY_ON_EMPTY) | VUBLK_BIT(VIRTIO_F_ANY_LAYOUT))
/* Features that this transport implements itself, without the device. */
#define TRANSPORT_FEATURES VUBLK_BIT(VIRTIO_F_RING_RESET)

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
 * Ends a reset if the back-end has returned the rings and no write to the config is in progress.
 * Without the second condition, a driver that reads the config after its reset could see the config
 * change because of that write.
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

static int accept_features(struct vublk_virtio_pci *pci, struct vublk_error *error)
{
	return vublk_device_ack_features(pci->device, pci->driver_features & ~TRANSPORT_FEATURES,
					 error);
}

static bool knows_no_features_ok(const struct vublk_virtio_pci *pci)
{
	return pci->transitional && !(pci->status & VIRTIO_CONFIG_S_FEATURES_OK);
}

/*
 * Called when the driver is ready, or when a legacy driver kicks before it is ready. Gives the
 * device the queues, the memory and, for a driver without FEATURES_OK, the features. A no-op if the
 * device already has queues.
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
			       "the driver set FEATURES_OK but did not accept VIRTIO_F_VERSION_1, "
			       "which every driver that sets FEATURES_OK must accept");
}

static void write_bits(struct vublk_virtio_pci *pci, uint8_t bits)
{
	bool starts = bits & VIRTIO_CONFIG_S_DRIVER_OK && !vublk_virtio_pci_is_driven(pci);
	struct vublk_error error;
	int r = 0;

	if (bits & ~pci->status & VIRTIO_CONFIG_S_FEATURES_OK &&
	    check_features_ok(pci, &error) < 0) {
		vublk_log_limited(pci->log, &pci->log_limit, VUBLK_LOG_WARNING,
				  "refused the driver's features: %s", error.text);
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
 * A write sets bits of the status. Writing 0 resets the device, which clears all bits. During a
 * reset, other writes are ignored.
 */
void vublk_virtio_pci_write_status(struct vublk_virtio_pci *pci, uint32_t value)
{
	uint8_t status = (uint8_t)value;

	if (!status)
		begin_reset(pci, VUBLK_VIRTIO_PCI_RESETTING);
	else if (!is_resetting(pci))
		write_bits(pci, status & (uint8_t)~VIRTIO_CONFIG_S_NEEDS_RESET);
}

/*
 * Starts the device for a legacy driver that kicks `queue` before DRIVER_OK and expects its
 * requests to be served.
 */
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

/* A kick that comes before the rings run is not lost, because it stays in the eventfd. */
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

/* --- the device's own config ------------------------------------------------------------------ */

/*
 * Reads the device's own config. The first read after a change of the config changes the
 * generation, so that a driver notices if its reads mix two versions.
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
				  "ignored a write to the configuration: %s", error.text);
	pci->writes_config = r > 0;
	if (r > 0)
		vublk_virtio_pci_set_busy(pci, VUBLK_VIRTIO_PCI_WRITING_CONFIG);
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
	return vublk_error_set(error, EINVAL, "%u MSI-X vectors were requested; the maximum is %u",
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
		return vublk_error_set(error, ENOMEM, "cannot allocate memory for a PCI device");
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
