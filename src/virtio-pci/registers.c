/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Helpers for the files that implement registers: the sizes of the BARs, the selected queue, and
 * access to a group of registers.
 *
 * Key idea: a group of registers is a structure for reads and a table of functions for writes.
 */
#include "virtio-pci/private.h"

#include <string.h>

#define LEGACY_BAR_BYTES 128 /* the registers and the device's own config */
#define MSIX_BAR_BYTES (4 * VUBLK_VIRTIO_PCI_PAGE_BYTES)
#define MODERN_BAR_BYTES (VUBLK_VIRTIO_PCI_NUM_PAGES * VUBLK_VIRTIO_PCI_PAGE_BYTES)

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

struct vublk_virtio_pci_queue *vublk_virtio_pci_selected(struct vublk_virtio_pci *pci)
{
	return pci->queue_select < pci->num_queues ? &pci->queues[pci->queue_select] : NULL;
}

void vublk_virtio_pci_write_queue_select(struct vublk_virtio_pci *pci, uint32_t value)
{
	pci->queue_select = (uint16_t)value;
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
