/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The common configuration: the registers with which a modern driver negotiates features and sets
 * up queues. The registers of a legacy driver are in legacy-config.c.
 *
 * Key idea: a read has no side effect, so each read fills the whole structure and copies the
 * requested bytes from it. A write addresses one register, for which the table has a function.
 *
 * virtio 1.3, section 4.1.4.3.
 */
#include "virtio-pci/private.h"

#include <linux/virtio_config.h>
#include <string.h>

/* The structure in <linux/virtio_pci.h> lacks the last two fields. */
struct common_config {
	struct virtio_pci_common_cfg base;
	__le16 queue_notify_data;
	__le16 queue_reset;
};

_Static_assert(offsetof(struct common_config, queue_notify_data) == VIRTIO_PCI_COMMON_Q_NDATA,
	       "layout");
#define QUEUE_RESET offsetof(struct common_config, queue_reset)

static bool has(const struct vublk_virtio_pci *pci, unsigned feature)
{
	return pci->driver_features & VUBLK_BIT(feature);
}

/* Returns the half of `features` that `select` chooses, or 0 if `select` is neither 0 nor 1. */
static uint32_t window(uint64_t features, uint32_t select)
{
	return select < 2 ? (uint32_t)(features >> (32 * select)) : 0;
}

/* --- reading ------------------------------------------------------------------------------- */

static void show_queue(struct vublk_virtio_pci *pci, struct common_config *common)
{
	const struct vublk_virtio_pci_queue *queue = vublk_virtio_pci_selected(pci);

	common->base.queue_msix_vector = VIRTIO_MSI_NO_VECTOR;
	if (!queue)
		return;
	common->base.queue_size = queue->size;
	common->base.queue_msix_vector = queue->vector;
	common->base.queue_enable = vublk_virtio_pci_queue_is_enabled(queue);
	common->base.queue_notify_off = pci->queue_select;
	common->base.queue_desc_lo = (uint32_t)queue->desc_addr;
	common->base.queue_desc_hi = (uint32_t)(queue->desc_addr >> 32);
	common->base.queue_avail_lo = (uint32_t)queue->avail_addr;
	common->base.queue_avail_hi = (uint32_t)(queue->avail_addr >> 32);
	common->base.queue_used_lo = (uint32_t)queue->used_addr;
	common->base.queue_used_hi = (uint32_t)(queue->used_addr >> 32);
	common->queue_notify_data = pci->queue_select;
	common->queue_reset = vublk_virtio_pci_queue_is_resetting(queue);
}

void vublk_virtio_pci_common_read(struct vublk_virtio_pci *pci, uint64_t offset, void *data,
				  unsigned bytes)
{
	struct common_config common = { .base = {
		.device_feature_select = pci->device_feature_select,
		.device_feature = window(vublk_virtio_pci_features(pci),
					 pci->device_feature_select),
		.guest_feature_select = pci->driver_feature_select,
		.guest_feature = window(pci->driver_features, pci->driver_feature_select),
		.msix_config = pci->config_vector,
		.num_queues = (uint16_t)pci->num_queues,
		.device_status = pci->status,
		.config_generation = pci->generation,
		.queue_select = pci->queue_select,
	} };

	show_queue(pci, &common);
	vublk_virtio_pci_copy(data, bytes, offset, &common, sizeof(common));
}

/* --- writing ------------------------------------------------------------------------------- */

static void write_device_feature_select(struct vublk_virtio_pci *pci, uint32_t value)
{
	pci->device_feature_select = value;
}

static void write_driver_feature_select(struct vublk_virtio_pci *pci, uint32_t value)
{
	pci->driver_feature_select = value;
}

/* Ignores bits that were not offered, and all writes after FEATURES_OK. */
static void write_driver_feature(struct vublk_virtio_pci *pci, uint32_t value)
{
	unsigned shift = 32 * (pci->driver_feature_select & 1);

	if (pci->driver_feature_select > 1 || pci->status & VIRTIO_CONFIG_S_FEATURES_OK)
		return;
	pci->driver_features &= ~((uint64_t)UINT32_MAX << shift);
	pci->driver_features |= ((uint64_t)value << shift) & vublk_virtio_pci_features(pci);
}

/*
 * Returns the selected queue if it exists and is disabled, otherwise NULL. The size, the addresses
 * and the enable register of a queue are writable only while the queue is disabled.
 */
static struct vublk_virtio_pci_queue *disabled_queue(struct vublk_virtio_pci *pci)
{
	struct vublk_virtio_pci_queue *queue = vublk_virtio_pci_selected(pci);

	return queue && !vublk_virtio_pci_queue_is_enabled(queue) ? queue : NULL;
}

static void write_queue_size(struct vublk_virtio_pci *pci, uint32_t value)
{
	struct vublk_virtio_pci_queue *queue = disabled_queue(pci);

	if (queue && vublk_is_power_of_two(value) && value >= VUBLK_MIN_QUEUE_SIZE &&
	    value <= vublk_device_queue_size(pci->device))
		queue->size = (uint16_t)value;
}

static void write_queue_enable(struct vublk_virtio_pci *pci, uint32_t value)
{
	struct vublk_virtio_pci_queue *queue = disabled_queue(pci);

	if (queue && value == 1)
		vublk_virtio_pci_queue_enable(queue);
}

static void write_queue_reset(struct vublk_virtio_pci *pci, uint32_t value)
{
	struct vublk_virtio_pci_queue *queue = vublk_virtio_pci_selected(pci);

	if (queue && value == 1 && has(pci, VIRTIO_F_RING_RESET))
		vublk_virtio_pci_queue_reset(queue);
}

static uint64_t with_low(uint64_t addr, uint32_t value)
{
	return (addr & ~(uint64_t)UINT32_MAX) | value;
}

static uint64_t with_high(uint64_t addr, uint32_t value)
{
	return (uint32_t)addr | (uint64_t)value << 32;
}

#define ADDRESS_REGISTER(part, half) \
	static void write_##part##_##half(struct vublk_virtio_pci *pci, uint32_t value) \
	{ \
		struct vublk_virtio_pci_queue *queue = disabled_queue(pci); \
	\
		if (queue) \
			queue->part##_addr = with_##half(queue->part##_addr, value); \
	}

ADDRESS_REGISTER(desc, low)
ADDRESS_REGISTER(desc, high)
ADDRESS_REGISTER(avail, low)
ADDRESS_REGISTER(avail, high)
ADDRESS_REGISTER(used, low)
ADDRESS_REGISTER(used, high)

static const struct vublk_virtio_pci_register registers[] = {
	{ VIRTIO_PCI_COMMON_DFSELECT, 4, write_device_feature_select },
	{ VIRTIO_PCI_COMMON_GFSELECT, 4, write_driver_feature_select },
	{ VIRTIO_PCI_COMMON_GF, 4, write_driver_feature },
	{ VIRTIO_PCI_COMMON_MSIX, 2, vublk_virtio_pci_write_config_vector },
	{ VIRTIO_PCI_COMMON_STATUS, 1, vublk_virtio_pci_write_status },
	{ VIRTIO_PCI_COMMON_Q_SELECT, 2, vublk_virtio_pci_write_queue_select },
	{ VIRTIO_PCI_COMMON_Q_SIZE, 2, write_queue_size },
	{ VIRTIO_PCI_COMMON_Q_MSIX, 2, vublk_virtio_pci_write_queue_vector },
	{ VIRTIO_PCI_COMMON_Q_ENABLE, 2, write_queue_enable },
	{ VIRTIO_PCI_COMMON_Q_DESCLO, 4, write_desc_low },
	{ VIRTIO_PCI_COMMON_Q_DESCHI, 4, write_desc_high },
	{ VIRTIO_PCI_COMMON_Q_AVAILLO, 4, write_avail_low },
	{ VIRTIO_PCI_COMMON_Q_AVAILHI, 4, write_avail_high },
	{ VIRTIO_PCI_COMMON_Q_USEDLO, 4, write_used_low },
	{ VIRTIO_PCI_COMMON_Q_USEDHI, 4, write_used_high },
	{ QUEUE_RESET, 2, write_queue_reset },
};

void vublk_virtio_pci_common_write(struct vublk_virtio_pci *pci, uint64_t offset,
				   const void *data, unsigned bytes)
{
	vublk_virtio_pci_registers_write(pci, registers, VUBLK_ARRAY_SIZE(registers), offset, data,
					 bytes);
}
