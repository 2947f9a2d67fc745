/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The contents of the PCI configuration space: a conventional header, the five virtio capabilities,
 * and MSI-X. A driver's accesses to this space are in access.c.
 *
 * Key idea: one array has the contents of the space, and another one has a mask of the writable
 * bits. A driver learns the size of a BAR from the low bits of the BAR's address, which are not
 * writable.
 *
 * PCI 3.0, section 6; virtio 1.3, section 4.1.4.
 */
#include "virtio-pci/private.h"

#include <linux/virtio_ids.h>
#include <string.h>

#define VENDOR 0x1af4
#define DEVICE_MODERN (0x1040 + VIRTIO_ID_BLOCK)
#define DEVICE_TRANSITIONAL 0x1001
#define SUBSYSTEM_MODERN 0x1100
#define CLASS_STORAGE_SCSI 0x0100 /* base class and subclass, the same as those of other virtio
				     disks */
#define FIRST_CAPABILITY 0x40

#define MSIX_BYTES PCI_CAP_MSIX_SIZEOF
#define PCI_CFG_DATA offsetof(struct virtio_pci_cfg_cap, pci_cfg_data)

_Static_assert(sizeof(struct virtio_pci_cap) == 16, "layout");
_Static_assert(sizeof(struct virtio_pci_notify_cap) == 20, "layout");
_Static_assert(sizeof(struct virtio_pci_cfg_cap) == 20, "layout");

/* --- little-endian fields ----------------------------------------------------------------- */

static void put(uint8_t *to, unsigned offset, unsigned bytes, uint32_t value)
{
	for (unsigned i = 0; i < bytes; i++)
		to[offset + i] = (uint8_t)(value >> (8 * i));
}

uint32_t vublk_virtio_pci_config_get(const struct vublk_virtio_pci *pci, unsigned offset,
				     unsigned bytes)
{
	uint32_t value = 0;

	for (unsigned i = 0; i < bytes; i++)
		value |= (uint32_t)pci->config[offset + i] << (8 * i);
	return value;
}

void vublk_virtio_pci_config_set(struct vublk_virtio_pci *pci, unsigned offset, unsigned bytes,
				 uint32_t value)
{
	put(pci->config, offset, bytes, value);
}

/* --- the contents -------------------------------------------------------------------- */

static void put_header(struct vublk_virtio_pci *pci)
{
	uint8_t *config = pci->config;

	put(config, PCI_VENDOR_ID, 2, VENDOR);
	put(config, PCI_DEVICE_ID, 2, pci->transitional ? DEVICE_TRANSITIONAL : DEVICE_MODERN);
	put(config, PCI_STATUS, 2, PCI_STATUS_CAP_LIST);
	put(config, PCI_REVISION_ID, 1, pci->transitional ? 0 : 1);
	put(config, PCI_CLASS_DEVICE, 2, CLASS_STORAGE_SCSI);
	put(config, PCI_SUBSYSTEM_VENDOR_ID, 2, VENDOR);
	put(config, PCI_SUBSYSTEM_ID, 2, pci->transitional ? VIRTIO_ID_BLOCK : SUBSYSTEM_MODERN);
	put(config, PCI_INTERRUPT_PIN, 1, 1);
	put(pci->writable, PCI_COMMAND, 2,
	    PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY |
	    PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE);
	put(pci->writable, PCI_CACHE_LINE_SIZE, 1, 0xff);
	put(pci->writable, PCI_LATENCY_TIMER, 1, 0xff);
	put(pci->writable, PCI_INTERRUPT_LINE, 1, 0xff);
}

static void put_bar(struct vublk_virtio_pci *pci, unsigned bar, uint32_t flags)
{
	unsigned offset = PCI_BASE_ADDRESS_0 + 4 * bar;
	uint32_t bytes = vublk_virtio_pci_bar_bytes(pci, bar);

	put(pci->config, offset, 4, flags);
	put(pci->writable, offset, 4, ~(bytes - 1));
	if (flags & PCI_BASE_ADDRESS_MEM_TYPE_64)
		put(pci->writable, offset + 4, 4, UINT32_MAX);
}

static void put_bars(struct vublk_virtio_pci *pci)
{
	if (pci->transitional)
		put_bar(pci, VUBLK_VIRTIO_PCI_BAR_LEGACY, PCI_BASE_ADDRESS_SPACE_IO);
	put_bar(pci, VUBLK_VIRTIO_PCI_BAR_MSIX, PCI_BASE_ADDRESS_SPACE_MEMORY);
	put_bar(pci, VUBLK_VIRTIO_PCI_BAR_MODERN,
		PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH);
}

/* Adds a capability to the list. Returns the offset for the next one. */
static unsigned put_capability(struct vublk_virtio_pci *pci, unsigned offset, uint8_t id,
			       unsigned bytes)
{
	put(pci->config, offset, 1, id);
	put(pci->config, offset + PCI_CAP_LIST_NEXT, 1, offset + bytes);
	return offset + bytes;
}

static unsigned put_virtio_capability(struct vublk_virtio_pci *pci, unsigned offset, uint8_t type,
				      enum vublk_virtio_pci_page page, unsigned bytes)
{
	put(pci->config, offset + offsetof(struct virtio_pci_cap, cap_len), 1, bytes);
	put(pci->config, offset + offsetof(struct virtio_pci_cap, cfg_type), 1, type);
	put(pci->config, offset + offsetof(struct virtio_pci_cap, bar), 1,
	    VUBLK_VIRTIO_PCI_BAR_MODERN);
	put(pci->config, offset + offsetof(struct virtio_pci_cap, offset), 4,
	    page * VUBLK_VIRTIO_PCI_PAGE_BYTES);
	put(pci->config, offset + offsetof(struct virtio_pci_cap, length), 4,
	    VUBLK_VIRTIO_PCI_PAGE_BYTES);
	return put_capability(pci, offset, PCI_CAP_ID_VNDR, bytes);
}

/*
 * Adds the window (see access.c). A driver writes the fields bar, offset and length to select the
 * part of a BAR that the window shows.
 */
static unsigned put_window(struct vublk_virtio_pci *pci, unsigned offset)
{
	unsigned end = put_virtio_capability(pci, offset, VIRTIO_PCI_CAP_PCI_CFG, 0,
					     sizeof(struct virtio_pci_cfg_cap));

	pci->pci_cfg_cap = offset;
	put(pci->config, offset + offsetof(struct virtio_pci_cap, bar), 1, 0);
	put(pci->config, offset + offsetof(struct virtio_pci_cap, length), 4, 0);
	put(pci->writable, offset + offsetof(struct virtio_pci_cap, bar), 1, 0xff);
	put(pci->writable, offset + offsetof(struct virtio_pci_cap, offset), 4, UINT32_MAX);
	put(pci->writable, offset + offsetof(struct virtio_pci_cap, length), 4, UINT32_MAX);
	put(pci->writable, offset + PCI_CFG_DATA, 4, UINT32_MAX);
	return end;
}

static unsigned put_msix(struct vublk_virtio_pci *pci, unsigned offset)
{
	pci->msix_cap = offset;
	put(pci->config, offset + PCI_MSIX_FLAGS, 2, pci->num_vectors - 1);
	put(pci->writable, offset + PCI_MSIX_FLAGS, 2,
	    PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	put(pci->config, offset + PCI_MSIX_TABLE, 4, VUBLK_VIRTIO_PCI_BAR_MSIX);
	put(pci->config, offset + PCI_MSIX_PBA, 4,
	    VUBLK_VIRTIO_PCI_PBA_OFFSET | VUBLK_VIRTIO_PCI_BAR_MSIX);
	return put_capability(pci, offset, PCI_CAP_ID_MSIX, MSIX_BYTES);
}

static void put_capabilities(struct vublk_virtio_pci *pci)
{
	unsigned at = FIRST_CAPABILITY, last;

	put(pci->config, PCI_CAPABILITY_LIST, 1, at);
	at = put_virtio_capability(pci, at, VIRTIO_PCI_CAP_COMMON_CFG,
				   VUBLK_VIRTIO_PCI_PAGE_COMMON, sizeof(struct virtio_pci_cap));
	put(pci->config, at + VIRTIO_PCI_NOTIFY_CAP_MULT, 4, VUBLK_VIRTIO_PCI_NOTIFY_MULTIPLIER);
	at = put_virtio_capability(pci, at, VIRTIO_PCI_CAP_NOTIFY_CFG,
				   VUBLK_VIRTIO_PCI_PAGE_NOTIFY,
				   sizeof(struct virtio_pci_notify_cap));
	at = put_virtio_capability(pci, at, VIRTIO_PCI_CAP_ISR_CFG, VUBLK_VIRTIO_PCI_PAGE_ISR,
				   sizeof(struct virtio_pci_cap));
	at = put_virtio_capability(pci, at, VIRTIO_PCI_CAP_DEVICE_CFG,
				   VUBLK_VIRTIO_PCI_PAGE_DEVICE, sizeof(struct virtio_pci_cap));
	at = put_window(pci, at);
	last = at;
	put_msix(pci, at);
	put(pci->config, last + PCI_CAP_LIST_NEXT, 1, 0);
}

void vublk_virtio_pci_config_reset(struct vublk_virtio_pci *pci)
{
	memset(pci->config, 0, sizeof(pci->config));
	memset(pci->writable, 0, sizeof(pci->writable));
	put_header(pci);
	put_bars(pci);
	put_capabilities(pci);
	memset(pci->table, 0, sizeof(pci->table));
	for (unsigned i = 0; i < pci->num_vectors; i++)
		put(pci->table, i * PCI_MSIX_ENTRY_SIZE + PCI_MSIX_ENTRY_VECTOR_CTRL, 4,
		    PCI_MSIX_ENTRY_CTRL_MASKBIT);
}

/* --- queries for the other files -------------------------------------------------------------- */

bool vublk_virtio_pci_msix_is_enabled(const struct vublk_virtio_pci *pci)
{
	return vublk_virtio_pci_config_get(pci, pci->msix_cap + PCI_MSIX_FLAGS, 2) & PCI_MSIX_FLAGS_ENABLE;
}

bool vublk_virtio_pci_msix_is_masked(const struct vublk_virtio_pci *pci)
{
	return vublk_virtio_pci_config_get(pci, pci->msix_cap + PCI_MSIX_FLAGS, 2) & PCI_MSIX_FLAGS_MASKALL;
}

bool vublk_virtio_pci_intx_is_disabled(const struct vublk_virtio_pci *pci)
{
	return vublk_virtio_pci_config_get(pci, PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE;
}
