/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The registers of a legacy driver, in the I/O BAR of a transitional device. The registers of a
 * modern driver are in common-config.c.
 *
 * Key idea: a legacy driver uses the same queues and status through an older set of registers. Such
 * a driver has only 32 feature bits and no FEATURES_OK, writes the page number of a ring instead of
 * three addresses, and may kick before DRIVER_OK. While MSI-X is enabled, the device's own config
 * begins four bytes later.
 *
 * virtio 1.3, section 4.1.4.10.
 */
#include "virtio-pci/private.h"

#include "virtio/ring.h"

#include <linux/virtio_config.h>
#include <string.h>

struct legacy_config {
	__le32 device_features;
	__le32 driver_features;
	__le32 queue_pfn;
	__le16 queue_size;
	__le16 queue_select;
	__le16 queue_notify;
	__u8 status;
	__u8 isr;
	__le16 config_vector;
	__le16 queue_vector;
};

_Static_assert(offsetof(struct legacy_config, isr) == VIRTIO_PCI_ISR, "layout");
_Static_assert(offsetof(struct legacy_config, queue_vector) == VIRTIO_MSI_QUEUE_VECTOR, "layout");
_Static_assert(sizeof(struct legacy_config) == VIRTIO_PCI_CONFIG_OFF(1), "layout");

/* Returns the offset at which the device's own config begins. */
static unsigned header_bytes(const struct vublk_virtio_pci *pci)
{
	return VIRTIO_PCI_CONFIG_OFF(vublk_virtio_pci_msix_is_enabled(pci));
}

/* --- reading ------------------------------------------------------------------------------- */

static void show_queue(struct vublk_virtio_pci *pci, struct legacy_config *legacy)
{
	const struct vublk_virtio_pci_queue *queue = vublk_virtio_pci_selected(pci);

	legacy->queue_vector = VIRTIO_MSI_NO_VECTOR;
	if (!queue)
		return;
	legacy->queue_pfn = (uint32_t)(queue->desc_addr >> VIRTIO_PCI_QUEUE_ADDR_SHIFT);
	legacy->queue_size = (uint16_t)vublk_device_queue_size(pci->device);
	legacy->queue_vector = queue->vector;
}

static void read_header(struct vublk_virtio_pci *pci, uint64_t offset, void *data, unsigned bytes)
{
	struct legacy_config legacy = {
		.device_features = (uint32_t)vublk_device_features(pci->device),
		.driver_features = (uint32_t)pci->driver_features,
		.queue_select = pci->queue_select,
		.status = pci->status,
		.config_vector = pci->config_vector,
	};

	show_queue(pci, &legacy);
	if (vublk_ranges_overlap(offset, bytes, VIRTIO_PCI_ISR, 1))
		legacy.isr = vublk_virtio_pci_take_isr(pci);
	vublk_virtio_pci_copy(data, bytes, offset, &legacy, header_bytes(pci));
}

void vublk_virtio_pci_legacy_read(struct vublk_virtio_pci *pci, uint64_t offset, void *data,
				  unsigned bytes)
{
	if (offset < header_bytes(pci))
		read_header(pci, offset, data, bytes);
	else
		vublk_virtio_pci_read_device_config(pci, offset - header_bytes(pci), data, bytes);
}

/* --- writing ------------------------------------------------------------------------------- */

static void write_features(struct vublk_virtio_pci *pci, uint32_t value)
{
	if (!vublk_virtio_pci_is_driven(pci))
		pci->driver_features = value & vublk_device_features(pci->device);
}

/*
 * Enables the selected queue with its ring at page number `value`, or resets the device if `value`
 * is 0. The avail ring follows the descriptors, and the used ring begins at the next page boundary.
 */
static void write_queue_pfn(struct vublk_virtio_pci *pci, uint32_t value)
{
	struct vublk_virtio_pci_queue *queue = vublk_virtio_pci_selected(pci);

	if (!value) {
		vublk_virtio_pci_write_status(pci, 0);
		return;
	}
	if (!queue || vublk_virtio_pci_queue_is_enabled(queue))
		return;
	queue->desc_addr = (uint64_t)value << VIRTIO_PCI_QUEUE_ADDR_SHIFT;
	queue->avail_addr = queue->desc_addr + vublk_split_desc_bytes(queue->size);
	queue->used_addr = vublk_round_up(queue->avail_addr + vublk_split_avail_bytes(queue->size),
					  VIRTIO_PCI_VRING_ALIGN);
	vublk_virtio_pci_queue_enable(queue);
}

static void write_queue_notify(struct vublk_virtio_pci *pci, uint32_t value)
{
	vublk_virtio_pci_notify(pci, value);
}

static const struct vublk_virtio_pci_register registers[] = {
	{ VIRTIO_PCI_GUEST_FEATURES, 4, write_features },
	{ VIRTIO_PCI_QUEUE_PFN, 4, write_queue_pfn },
	{ VIRTIO_PCI_QUEUE_SEL, 2, vublk_virtio_pci_write_queue_select },
	{ VIRTIO_PCI_QUEUE_NOTIFY, 2, write_queue_notify },
	{ VIRTIO_PCI_STATUS, 1, vublk_virtio_pci_write_status },
	/* The next two registers exist only while MSI-X is enabled. */
	{ VIRTIO_MSI_CONFIG_VECTOR, 2, vublk_virtio_pci_write_config_vector },
	{ VIRTIO_MSI_QUEUE_VECTOR, 2, vublk_virtio_pci_write_queue_vector },
};
#define NUM_MSIX_REGISTERS 2

void vublk_virtio_pci_legacy_write(struct vublk_virtio_pci *pci, uint64_t offset,
				   const void *data, unsigned bytes)
{
	unsigned count = VUBLK_ARRAY_SIZE(registers);

	if (!vublk_virtio_pci_msix_is_enabled(pci))
		count -= NUM_MSIX_REGISTERS;
	if (offset < header_bytes(pci))
		vublk_virtio_pci_registers_write(pci, registers, count, offset, data, bytes);
	else
		vublk_virtio_pci_write_device_config(pci, offset - header_bytes(pci), data, bytes);
}
