/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changes the eventfd or the mask of a vector, or the vector of a queue or of the config, and
 * reroutes the calls of the queues accordingly. The vectors themselves are in irq.c; queue.c chooses
 * the eventfd that receives the calls of a queue.
 *
 * Key idea: after a change of an eventfd or a mask, first the queues are rerouted, and then pending
 * interrupts are delivered. So an interrupt that becomes pending while queues are rerouted is not
 * lost.
 */
#include "virtio-pci/private.h"

#include "util/fd.h"

/* Reroutes the calls of all queues that have this vector. */
static void route_queues(struct vublk_virtio_pci *pci, unsigned vector)
{
	for (unsigned i = 0; i < pci->num_queues; i++)
		if (pci->queues[i].vector == vector)
			vublk_virtio_pci_queue_route(&pci->queues[i]);
}

/* Replaces a vector's eventfd. The old one is closed only after the queues have been rerouted. */
void vublk_virtio_pci_set_vector_fd(struct vublk_virtio_pci *pci, unsigned vector, int fd)
{
	int before;

	if (vector >= pci->num_vectors) {
		vublk_fd_close(&fd);
		return;
	}
	before = pci->vectors[vector].fd;
	pci->vectors[vector].fd = fd;
	route_queues(pci, vector);
	vublk_fd_close(&before);
	vublk_virtio_pci_deliver(pci, &pci->vectors[vector]);
}

void vublk_virtio_pci_mask_vector(struct vublk_virtio_pci *pci, unsigned vector, bool masked)
{
	if (vector >= pci->num_vectors)
		return;
	pci->vectors[vector].masked = masked;
	route_queues(pci, vector);
	vublk_virtio_pci_deliver(pci, &pci->vectors[vector]);
}

void vublk_virtio_pci_irqs_update(struct vublk_virtio_pci *pci)
{
	if (!vublk_virtio_pci_msix_is_enabled(pci))
		vublk_virtio_pci_forget_pending(pci);
	for (unsigned i = 0; i < pci->num_queues; i++)
		vublk_virtio_pci_queue_route(&pci->queues[i]);
	for (unsigned i = 0; i < pci->num_vectors; i++)
		vublk_virtio_pci_deliver(pci, &pci->vectors[i]);
	vublk_virtio_pci_deliver_intx(pci);
}

void vublk_virtio_pci_write_config_vector(struct vublk_virtio_pci *pci, uint32_t value)
{
	pci->config_vector = vublk_virtio_pci_accept_vector(pci, value);
}

void vublk_virtio_pci_write_queue_vector(struct vublk_virtio_pci *pci, uint32_t value)
{
	struct vublk_virtio_pci_queue *queue = vublk_virtio_pci_selected(pci);

	if (!queue)
		return;
	queue->vector = vublk_virtio_pci_accept_vector(pci, value);
	vublk_virtio_pci_queue_route(queue);
}
