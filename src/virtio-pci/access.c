/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Receives a driver's accesses to the BARs and to the configuration space, and calls the file that
 * implements the register. This file itself implements the window, a capability through which
 * firmware accesses a BAR without mapping it.
 *
 * Key idea: this file calls all files that implement registers, and none of them calls this file.
 * The window is here because it can reach every register.
 *
 * virtio 1.3, section 4.1.4.
 */
#include "virtio-pci/private.h"

#include <string.h>

#define PCI_CFG_DATA offsetof(struct virtio_pci_cfg_cap, pci_cfg_data)

/* --- the BARs --------------------------------------------------------------------------------- */

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
	case VUBLK_VIRTIO_PCI_PAGE_NOTIFY: /* the offset selects the queue; the value is ignored */
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

/* --- the window ------------------------------------------------------------------------------- */

struct window {
	unsigned bar;
	uint32_t offset, bytes;
};

/*
 * Stores in `window` the part of a BAR that the driver has selected. Returns false if the selection
 * is invalid.
 */
static bool find_window(const struct vublk_virtio_pci *pci, struct window *window)
{
	unsigned cap = pci->pci_cfg_cap;

	window->bar = pci->config[cap + offsetof(struct virtio_pci_cap, bar)];
	window->offset = vublk_virtio_pci_config_get(pci, cap + offsetof(struct virtio_pci_cap, offset), 4);
	window->bytes = vublk_virtio_pci_config_get(pci, cap + offsetof(struct virtio_pci_cap, length), 4);
	return (window->bytes == 1 || window->bytes == 2 || window->bytes == 4) &&
	       window->offset % window->bytes == 0 &&
	       vublk_range_within(window->offset, window->bytes,
				  vublk_virtio_pci_bar_bytes(pci, window->bar));
}

/*
 * Returns whether an access to the configuration space lies within the window's data field, and
 * thus reaches the BAR. A larger access that includes the field, as in a dump of the whole space,
 * must not affect the device.
 */
static bool is_window_access(const struct vublk_virtio_pci *pci, uint64_t offset, unsigned bytes)
{
	return offset >= pci->pci_cfg_cap + PCI_CFG_DATA &&
	       vublk_range_within(offset - (pci->pci_cfg_cap + PCI_CFG_DATA), bytes, 4);
}

static void access_window(struct vublk_virtio_pci *pci, bool is_write)
{
	uint8_t *data = pci->config + pci->pci_cfg_cap + PCI_CFG_DATA;
	struct window window;

	if (!find_window(pci, &window))
		return;
	if (is_write)
		vublk_virtio_pci_bar_write(pci, window.bar, window.offset, data, window.bytes);
	else
		vublk_virtio_pci_bar_read(pci, window.bar, window.offset, data, window.bytes);
}

/* --- the configuration space ---------------------------------------------------------------- */

void vublk_virtio_pci_config_read(struct vublk_virtio_pci *pci, uint64_t offset, void *data,
				  unsigned bytes)
{
	uint32_t status = vublk_virtio_pci_config_get(pci, PCI_STATUS, 2) & ~(uint32_t)PCI_STATUS_INTERRUPT;

	if (vublk_virtio_pci_intx_level(pci))
		status |= PCI_STATUS_INTERRUPT;
	vublk_virtio_pci_config_set(pci, PCI_STATUS, 2, status);
	if (is_window_access(pci, offset, bytes))
		access_window(pci, false);
	vublk_virtio_pci_copy(data, bytes, offset, pci->config, sizeof(pci->config));
}

void vublk_virtio_pci_config_write(struct vublk_virtio_pci *pci, uint64_t offset,
				   const void *data, unsigned bytes)
{
	const uint8_t *from = data;

	for (unsigned i = 0; i < bytes && vublk_range_within(offset, i + 1, sizeof(pci->config));
	     i++) {
		uint8_t mask = pci->writable[offset + i];
		uint8_t *byte = &pci->config[offset + i];

		*byte = (uint8_t)((*byte & ~mask) | (from[i] & mask));
	}
	if (vublk_ranges_overlap(offset, bytes, PCI_COMMAND, 2) ||
	    vublk_ranges_overlap(offset, bytes, pci->msix_cap + PCI_MSIX_FLAGS, 2))
		vublk_virtio_pci_irqs_update(pci);
	if (is_window_access(pci, offset, bytes))
		access_window(pci, true);
}
