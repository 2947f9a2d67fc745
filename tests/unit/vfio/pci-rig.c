/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Drives the virtio-pci model; see pci-rig.h. A failure inside the rig fails the test. */
#include "harness.h"

#include "pci-rig.h"

#include "util/fd.h"
#include "util/memfd.h"
#include "virtio/ring.h"

#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define DEADLINE_NS (UINT64_C(20) * 1000000000)

/* --- what goes between the model and the device ----------------------------------------------- */

static void on_callback(struct device_rig *base, enum rig_callback callback)
{
	struct pci_rig *rig = (struct pci_rig *)base;

	if (!rig->pci)
		return;
	switch (callback) {
	case RIG_STOPPED:
		vublk_virtio_pci_on_stopped(rig->pci);
		break;
	case RIG_CONFIG_CHANGED:
		vublk_virtio_pci_on_config_changed(rig->pci);
		break;
	case RIG_CONFIG_WRITTEN:
		vublk_virtio_pci_on_config_written(rig->pci);
		break;
	case RIG_NEEDS_RESET:
		vublk_virtio_pci_on_failure(rig->pci, &base->errors[callback]);
		break;
	default:
		break;
	}
}

static int before_start(void *opaque, struct vublk_error *error)
{
	struct pci_rig *rig = opaque;
	struct vublk_memory_region region = {
		RIG_GUEST_ADDR, RIG_MEMORY_BYTES, rig->rig.memfd, 0,
	};

	return rig->no_memory ? 0 : vublk_device_set_memory(rig->rig.device, &region, 1, error);
}

static void on_idle(void *opaque)
{
	((struct pci_rig *)opaque)->num_idle++;
}

static const struct vublk_virtio_pci_ops ops = { .before_start = before_start, .idle = on_idle };

static void on_word(void *opaque, enum vublk_log_level level, const char *text)
{
	struct pci_rig *rig = opaque;

	rig->num_words++;
	snprintf(rig->last_word, sizeof(rig->last_word), "%s", text);
}

/* --- life cycle ------------------------------------------------------------------------------- */

void pci_rig_init(struct pci_rig *rig, bool transitional, void (*prepare)(struct pci_rig *rig))
{
	struct vublk_virtio_pci_options options = { .transitional = transitional };
	struct vublk_error error;

	memset(rig, 0, sizeof(*rig));
	mock_init(&rig->mock);
	rig_init_with_mock(&rig->rig, &rig->mock);
	if (prepare)
		prepare(rig);
	rig->rig.memfd = vublk_memfd_new("rig", RIG_MEMORY_BYTES, NULL);
	rig->rig.memory = vublk_map_shared(rig->rig.memfd, 0, RIG_MEMORY_BYTES, NULL);
	assert_non_null(rig->rig.memory);
	rig->rig.hook = on_callback;
	rig->log = (struct vublk_log){ on_word, rig, VUBLK_LOG_DEBUG };
	rig_realize(&rig->rig);
	assert_int_equal(vublk_loop_init(&rig->loop, NULL), 0);
	if (vublk_virtio_pci_new(rig->rig.device, &rig->loop, &rig->log, &options, &ops, rig,
				 &rig->pci, &error) < 0)
		fail_msg("%s", error.text);
}

void pci_rig_deinit(struct pci_rig *rig)
{
	vublk_device_unrealize(rig->rig.device);
	vublk_virtio_pci_free(rig->pci);
	vublk_loop_deinit(&rig->loop);
	rig_deinit(&rig->rig);
	mock_deinit(&rig->mock);
}

void pci_settle(struct pci_rig *rig)
{
	do
		rig_settle(&rig->rig);
	while (vublk_loop_process(&rig->loop, 0) > 0);
}

void pci_wait(struct pci_rig *rig, bool (*condition)(struct pci_rig *rig))
{
	uint64_t until = vublk_now_ns() + DEADLINE_NS;

	while (pci_settle(rig), !condition(rig)) {
		struct pollfd fd = { vublk_device_fd(rig->rig.device), POLLIN, 0 };

		poll(&fd, 1, 10);
		assert_true(vublk_now_ns() < until);
	}
}

void expect_state(struct pci_rig *rig, enum vublk_device_state state)
{
	pci_settle(rig);
	if (vublk_device_state(rig->rig.device) != state)
		fail_msg("the device is %s, not %s",
			 vublk_device_state_name(vublk_device_state(rig->rig.device)),
			 vublk_device_state_name(state));
}

/* --- accesses --------------------------------------------------------------------------------- */

uint64_t pci_read(struct pci_rig *rig, unsigned bar, uint64_t offset, unsigned bytes)
{
	uint64_t value = 0;

	vublk_virtio_pci_bar_read(rig->pci, bar, offset, &value, bytes);
	return value;
}

void pci_write(struct pci_rig *rig, unsigned bar, uint64_t offset, unsigned bytes, uint64_t value)
{
	vublk_virtio_pci_bar_write(rig->pci, bar, offset, &value, bytes);
}

static unsigned register_bytes(unsigned offset)
{
	switch (offset) {
	case VIRTIO_PCI_COMMON_STATUS:
	case VIRTIO_PCI_COMMON_CFGGENERATION:
		return 1;
	case VIRTIO_PCI_COMMON_MSIX:
	case VIRTIO_PCI_COMMON_NUMQ:
	case VIRTIO_PCI_COMMON_Q_SELECT:
	case VIRTIO_PCI_COMMON_Q_SIZE:
	case VIRTIO_PCI_COMMON_Q_MSIX:
	case VIRTIO_PCI_COMMON_Q_ENABLE:
	case VIRTIO_PCI_COMMON_Q_NOFF:
	case VIRTIO_PCI_COMMON_Q_NDATA:
	case QUEUE_RESET:
		return 2;
	default:
		return 4;
	}
}

uint32_t common_read(struct pci_rig *rig, unsigned offset)
{
	return (uint32_t)pci_read(rig, MODERN_BAR, COMMON + offset, register_bytes(offset));
}

void common_write(struct pci_rig *rig, unsigned offset, uint32_t value)
{
	pci_write(rig, MODERN_BAR, COMMON + offset, register_bytes(offset), value);
}

uint32_t config_read(struct pci_rig *rig, unsigned offset, unsigned bytes)
{
	uint32_t value = 0;

	vublk_virtio_pci_config_read(rig->pci, offset, &value, bytes);
	return value;
}

void config_write(struct pci_rig *rig, unsigned offset, unsigned bytes, uint32_t value)
{
	vublk_virtio_pci_config_write(rig->pci, offset, &value, bytes);
}

unsigned find_capability(struct pci_rig *rig, uint8_t id, uint8_t type)
{
	unsigned at = config_read(rig, PCI_CAPABILITY_LIST, 1);

	for (unsigned i = 0; at && i < 48; i++) {
		if (config_read(rig, at, 1) == id &&
		    (id != PCI_CAP_ID_VNDR || config_read(rig, at + 3, 1) == type))
			return at;
		at = config_read(rig, at + PCI_CAP_LIST_NEXT, 1);
	}
	return 0;
}

void enable_msix(struct pci_rig *rig, bool enabled)
{
	config_write(rig, find_capability(rig, PCI_CAP_ID_MSIX, 0) + PCI_MSIX_FLAGS, 2,
		     enabled ? PCI_MSIX_FLAGS_ENABLE : 0);
}

/* --- a driver --------------------------------------------------------------------------------- */

uint64_t ring_part(unsigned queue, unsigned part)
{
	uint64_t at = RIG_GUEST_ADDR + (uint64_t)queue * RIG_QUEUE_BYTES;

	if (part == 1)
		at += vublk_split_desc_bytes(RIG_QUEUE_SIZE);
	if (part == 2)
		at += RIG_QUEUE_BYTES / 2;
	return at;
}

void accept_features(struct pci_rig *rig, uint64_t without)
{
	for (unsigned i = 0; i < 2; i++) {
		common_write(rig, VIRTIO_PCI_COMMON_DFSELECT, i);
		common_write(rig, VIRTIO_PCI_COMMON_GFSELECT, i);
		common_write(rig, VIRTIO_PCI_COMMON_GF,
			     common_read(rig, VIRTIO_PCI_COMMON_DF) & ~(uint32_t)(without >> (32 * i)));
	}
	common_write(rig, VIRTIO_PCI_COMMON_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
}

void set_up_queue(struct pci_rig *rig, unsigned queue)
{
	common_write(rig, VIRTIO_PCI_COMMON_Q_SELECT, queue);
	common_write(rig, VIRTIO_PCI_COMMON_Q_SIZE, RIG_QUEUE_SIZE);
	for (unsigned part = 0; part < 3; part++) {
		uint64_t addr = ring_part(queue, part);

		common_write(rig, VIRTIO_PCI_COMMON_Q_DESCLO + 8 * part, (uint32_t)addr);
		common_write(rig, VIRTIO_PCI_COMMON_Q_DESCHI + 8 * part, (uint32_t)(addr >> 32));
	}
	common_write(rig, VIRTIO_PCI_COMMON_Q_ENABLE, 1);
}

void drive(struct pci_rig *rig, unsigned num_queues)
{
	accept_features(rig, 0);
	assert_true(common_read(rig, VIRTIO_PCI_COMMON_STATUS) & FEATURES_OK);
	for (unsigned i = 0; i < num_queues; i++)
		set_up_queue(rig, i);
	common_write(rig, VIRTIO_PCI_COMMON_STATUS,
		     ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
	expect_state(rig, VUBLK_DEVICE_RUNNING);
	assert_int_equal(common_read(rig, VIRTIO_PCI_COMMON_STATUS),
			 ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

bool was_signalled(int fd)
{
	return vublk_eventfd_clear(fd) > 0;
}

uint64_t num_signals(int fd)
{
	uint64_t count = 0;

	return read(fd, &count, sizeof(count)) == sizeof(count) ? count : 0;
}

int new_eventfd(int *duplicate)
{
	int fd = vublk_eventfd_new();

	assert_true(fd >= 0);
	*duplicate = dup(fd);
	assert_true(*duplicate >= 0);
	return fd;
}
