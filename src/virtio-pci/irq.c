/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Raises interrupts: MSI-X with its pending bits, and INTx for drivers without MSI-X. routing.c
 * changes vectors and masks.
 *
 * Key idea: the back-end signals an eventfd for each call of a queue. While MSI-X is enabled, and
 * the queue's vector has an eventfd and is not masked, the back-end has the vector's eventfd.
 * Otherwise the back-end has the queue's own eventfd, and the loop turns the signal into a pending
 * bit, or a bit in the ISR.
 *
 * The mask bits in the MSI-X table have no effect here. They are set after a reset, and a client
 * that emulates MSI-X itself never clears them. Such a client masks a vector by removing the
 * vector's eventfd. The Function Mask bit, which masks all vectors, does have an effect.
 *
 * virtio 1.3, sections 4.1.4.5 and 4.1.5; PCI 3.0, section 6.8.
 */
#include "virtio-pci/private.h"

#include "util/fd.h"

#include <string.h>

#define ISR_QUEUE 0x1

void vublk_virtio_pci_irqs_init(struct vublk_virtio_pci *pci)
{
	pci->intx_fd = -1;
	for (unsigned i = 0; i < VUBLK_VIRTIO_PCI_MAX_VECTORS; i++)
		pci->vectors[i].fd = -1;
	vublk_virtio_pci_irqs_reset(pci);
}

void vublk_virtio_pci_irqs_deinit(struct vublk_virtio_pci *pci)
{
	vublk_fd_close(&pci->intx_fd);
	for (unsigned i = 0; i < VUBLK_VIRTIO_PCI_MAX_VECTORS; i++)
		vublk_fd_close(&pci->vectors[i].fd);
}

void vublk_virtio_pci_forget_pending(struct vublk_virtio_pci *pci)
{
	for (unsigned i = 0; i < pci->num_vectors; i++)
		pci->vectors[i].pending = false;
}

void vublk_virtio_pci_irqs_reset(struct vublk_virtio_pci *pci)
{
	vublk_virtio_pci_forget_pending(pci);
	pci->config_vector = VIRTIO_MSI_NO_VECTOR;
	pci->isr = 0;
}

/* --- MSI-X -------------------------------------------------------------------------------- */

unsigned vublk_virtio_pci_num_vectors(const struct vublk_virtio_pci *pci)
{
	return pci->num_vectors;
}

uint16_t vublk_virtio_pci_accept_vector(const struct vublk_virtio_pci *pci, uint32_t vector)
{
	return vector < pci->num_vectors ? (uint16_t)vector : VIRTIO_MSI_NO_VECTOR;
}

static bool is_open(const struct vublk_virtio_pci *pci,
		    const struct vublk_virtio_pci_vector *vector)
{
	return vublk_virtio_pci_msix_is_enabled(pci) && !vublk_virtio_pci_msix_is_masked(pci) &&
	       !vector->masked && vector->fd >= 0;
}

int vublk_virtio_pci_direct_fd(const struct vublk_virtio_pci *pci, uint16_t vector)
{
	if (vector >= pci->num_vectors || !is_open(pci, &pci->vectors[vector]))
		return -1;
	return pci->vectors[vector].fd;
}

void vublk_virtio_pci_deliver(struct vublk_virtio_pci *pci, struct vublk_virtio_pci_vector *vector)
{
	if (!vector->pending || !is_open(pci, vector))
		return;
	vector->pending = false;
	vublk_eventfd_signal(vector->fd);
}

void vublk_virtio_pci_raise_vector(struct vublk_virtio_pci *pci, unsigned vector)
{
	if (vector >= pci->num_vectors || !vublk_virtio_pci_msix_is_enabled(pci))
		return;
	pci->vectors[vector].pending = true;
	vublk_virtio_pci_deliver(pci, &pci->vectors[vector]);
}

/* --- INTx ---------------------------------------------------------------------------------- */

bool vublk_virtio_pci_intx_level(const struct vublk_virtio_pci *pci)
{
	return pci->isr && !vublk_virtio_pci_msix_is_enabled(pci);
}

void vublk_virtio_pci_deliver_intx(struct vublk_virtio_pci *pci)
{
	if (!vublk_virtio_pci_intx_level(pci) || vublk_virtio_pci_intx_is_disabled(pci) ||
	    pci->intx_masked || pci->intx_fd < 0)
		return;
	pci->intx_masked = true;
	vublk_eventfd_signal(pci->intx_fd);
}

void vublk_virtio_pci_set_intx_fd(struct vublk_virtio_pci *pci, int fd)
{
	vublk_fd_close(&pci->intx_fd);
	pci->intx_fd = fd;
	pci->intx_masked = false;
	vublk_virtio_pci_deliver_intx(pci);
}

void vublk_virtio_pci_mask_intx(struct vublk_virtio_pci *pci, bool masked)
{
	pci->intx_masked = masked;
	vublk_virtio_pci_deliver_intx(pci);
}

void vublk_virtio_pci_raise_intx(struct vublk_virtio_pci *pci)
{
	if (pci->intx_fd >= 0)
		vublk_eventfd_signal(pci->intx_fd);
}

uint8_t vublk_virtio_pci_take_isr(struct vublk_virtio_pci *pci)
{
	uint8_t isr = pci->isr;

	pci->isr = 0;
	return isr;
}

/* --- events ----------------------------------------------------------------------------------- */

void vublk_virtio_pci_raise_queue(struct vublk_virtio_pci_queue *queue)
{
	struct vublk_virtio_pci *pci = queue->pci;

	if (vublk_virtio_pci_msix_is_enabled(pci)) {
		vublk_virtio_pci_raise_vector(pci, queue->vector);
		return;
	}
	pci->isr |= ISR_QUEUE;
	vublk_virtio_pci_deliver_intx(pci);
}

void vublk_virtio_pci_raise_config(struct vublk_virtio_pci *pci)
{
	pci->isr |= VIRTIO_PCI_ISR_CONFIG;
	vublk_virtio_pci_raise_vector(pci, pci->config_vector);
	vublk_virtio_pci_deliver_intx(pci);
}

/* --- the table and the pending bits ----------------------------------------------------------- */

static void collect_pending(const struct vublk_virtio_pci *pci, uint8_t *bits)
{
	for (unsigned i = 0; i < pci->num_vectors; i++)
		if (pci->vectors[i].pending)
			bits[i / 8] |= (uint8_t)(1u << (i % 8));
}

void vublk_virtio_pci_msix_read(const struct vublk_virtio_pci *pci, uint64_t offset, void *data,
				unsigned bytes)
{
	uint8_t bits[VUBLK_VIRTIO_PCI_PBA_BYTES] = { 0 };

	if (offset < VUBLK_VIRTIO_PCI_PBA_OFFSET) {
		vublk_virtio_pci_copy(data, bytes, offset, pci->table, sizeof(pci->table));
		return;
	}
	collect_pending(pci, bits);
	vublk_virtio_pci_copy(data, bytes, offset - VUBLK_VIRTIO_PCI_PBA_OFFSET, bits,
			      sizeof(bits));
}

void vublk_virtio_pci_msix_write(struct vublk_virtio_pci *pci, uint64_t offset,
				 const void *data, unsigned bytes)
{
	if (vublk_range_within(offset, bytes, pci->num_vectors * PCI_MSIX_ENTRY_SIZE))
		memcpy(pci->table + offset, data, bytes);
}
