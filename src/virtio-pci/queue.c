/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Keeps the queues as the driver has set them up, and hands them over to the device: all of them
 * when the driver is ready, and a single one when the driver enables or resets it later. The
 * registers of the queues are in common-config.c and legacy-config.c, their states in
 * queue-state.c.
 *
 * Key idea: the device accepts or drops a queue only while no ring runs. So the model stops all
 * rings to change a single queue. When the back-end has returned the rings, the model makes the
 * change, and the other rings resume where they stopped.
 *
 * virtio 1.3, sections 2.6.1 and 4.1.4.3.
 */
#include "virtio-pci/private.h"

#include "util/error.h"
#include "util/fd.h"
#include "virtio/ring.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <sys/epoll.h>

/* --- life cycle ------------------------------------------------------------------------------- */

static void reset_queue(struct vublk_virtio_pci_queue *queue)
{
	vublk_virtio_pci_queue_change_state(queue, VUBLK_VIRTIO_PCI_QUEUE_EVENT_RESET);
	queue->size = (uint16_t)vublk_device_queue_size(queue->pci->device);
	queue->direct = false;
	queue->desc_addr = 0;
	queue->avail_addr = 0;
	queue->used_addr = 0;
}

void vublk_virtio_pci_queues_reset(struct vublk_virtio_pci *pci)
{
	for (unsigned i = 0; i < pci->num_queues; i++) {
		reset_queue(&pci->queues[i]);
		pci->queues[i].vector = VIRTIO_MSI_NO_VECTOR;
		vublk_eventfd_clear(pci->queues[i].kick_fd);
		vublk_eventfd_clear(pci->queues[i].call_fd);
	}
}

static void on_call(void *opaque, uint32_t events)
{
	struct vublk_virtio_pci_queue *queue = opaque;

	if (vublk_eventfd_clear(queue->call_fd) > 0)
		vublk_virtio_pci_raise_queue(queue);
}

static int init_queue(struct vublk_virtio_pci_queue *queue, struct vublk_virtio_pci *pci,
		      struct vublk_error *error)
{
	queue->pci = pci;
	queue->vector = VIRTIO_MSI_NO_VECTOR;
	queue->kick_fd = vublk_eventfd_new();
	queue->call_fd = vublk_eventfd_new();
	queue->call_source.fn = on_call;
	queue->call_source.opaque = queue;
	reset_queue(queue);
	if (queue->kick_fd < 0)
		return vublk_error_set_errno(error, -queue->kick_fd,
					     "cannot create an eventfd for kicks");
	if (queue->call_fd < 0)
		return vublk_error_set_errno(error, -queue->call_fd,
					     "cannot create an eventfd for calls");
	return vublk_loop_add(pci->loop, &queue->call_source, queue->call_fd, EPOLLIN, error);
}

int vublk_virtio_pci_queues_init(struct vublk_virtio_pci *pci, struct vublk_error *error)
{
	int r = 0;

	for (unsigned i = 0; i < pci->num_queues; i++) {
		pci->queues[i].kick_fd = -1;
		pci->queues[i].call_fd = -1;
	}
	for (unsigned i = 0; i < pci->num_queues && !r; i++)
		r = init_queue(&pci->queues[i], pci, error);
	return r;
}

void vublk_virtio_pci_queues_deinit(struct vublk_virtio_pci *pci)
{
	for (unsigned i = 0; i < pci->num_queues; i++) {
		vublk_loop_remove(&pci->queues[i].call_source);
		vublk_fd_close(&pci->queues[i].kick_fd);
		vublk_fd_close(&pci->queues[i].call_fd);
	}
}

/* --- to the device --------------------------------------------------------------------------- */

static unsigned index_of(const struct vublk_virtio_pci_queue *queue)
{
	return (unsigned)(queue - queue->pci->queues);
}

static int choose_call_fd(struct vublk_virtio_pci_queue *queue)
{
	int fd = vublk_virtio_pci_direct_fd(queue->pci, queue->vector);

	queue->direct = fd >= 0;
	return queue->direct ? fd : queue->call_fd;
}

static int hand_over(struct vublk_virtio_pci_queue *queue, struct vublk_error *error)
{
	struct vublk_device_queue set_up = {
		.size = queue->size,
		.desc_addr = queue->desc_addr,
		.avail_addr = queue->avail_addr,
		.used_addr = queue->used_addr,
		.kick_fd = queue->kick_fd,
		.call_fd = choose_call_fd(queue),
	};
	bool is_enabled = vublk_virtio_pci_queue_is_enabled(queue);
	int r = vublk_device_set_queue(queue->pci->device, index_of(queue),
				       is_enabled ? &set_up : NULL,
				       sizeof(struct vublk_device_queue), error);

	if (!r && is_enabled)
		vublk_virtio_pci_queue_change_state(queue, VUBLK_VIRTIO_PCI_QUEUE_EVENT_ACCEPTED);
	return r;
}

int vublk_virtio_pci_queues_hand_over(struct vublk_virtio_pci *pci, struct vublk_error *error)
{
	int r = 0;

	for (unsigned i = 0; i < pci->num_queues && !r; i++)
		r = hand_over(&pci->queues[i], error);
	return r;
}

bool vublk_virtio_pci_queues_are_handed_over(const struct vublk_virtio_pci *pci)
{
	for (unsigned i = 0; i < pci->num_queues; i++)
		if (vublk_virtio_pci_queue_is_in_device(&pci->queues[i]))
			return true;
	return false;
}

/*
 * No call is lost between the old and the new eventfd, because the device signals the new one once.
 * The result of vublk_device_set_queue_call() is ignored, because the replacement cannot fail while
 * the device has the queue.
 */
void vublk_virtio_pci_queue_route(struct vublk_virtio_pci_queue *queue)
{
	bool was_direct = queue->direct;
	int fd;

	if (!vublk_virtio_pci_queue_is_in_device(queue))
		return;
	fd = choose_call_fd(queue);
	if (was_direct || queue->direct)
		vublk_device_set_queue_call(queue->pci->device, index_of(queue), fd, NULL);
}

bool vublk_virtio_pci_for_each_ring_part(const struct vublk_virtio_pci *pci,
					 bool (*fn)(void *opaque, uint64_t addr, uint64_t bytes),
					 void *opaque)
{
	for (unsigned i = 0; i < pci->num_queues; i++) {
		const struct vublk_virtio_pci_queue *queue = &pci->queues[i];

		if (vublk_virtio_pci_queue_is_enabled(queue) &&
		    (!fn(opaque, queue->desc_addr, vublk_split_desc_bytes(queue->size)) ||
		     !fn(opaque, queue->avail_addr, vublk_split_avail_bytes(queue->size)) ||
		     !fn(opaque, queue->used_addr, vublk_split_used_bytes(queue->size))))
			return false;
	}
	return true;
}

/* --- changing a single queue ------------------------------------------------------------------ */

static void begin_change(struct vublk_virtio_pci *pci)
{
	if (vublk_virtio_pci_set_busy(pci, VUBLK_VIRTIO_PCI_CHANGING_QUEUE) &&
	    !vublk_virtio_pci_hold(pci))
		vublk_virtio_pci_queues_change(pci);
}

static int change_queue(struct vublk_virtio_pci_queue *queue, struct vublk_error *error)
{
	switch (queue->state) {
	case VUBLK_VIRTIO_PCI_QUEUE_CANCELLING:
	case VUBLK_VIRTIO_PCI_QUEUE_RESETTING:
		reset_queue(queue);
		vublk_eventfd_clear(queue->kick_fd);
		return hand_over(queue, error);
	case VUBLK_VIRTIO_PCI_QUEUE_ENABLED:
		return hand_over(queue, error);
	default:
		return 0;
	}
}

void vublk_virtio_pci_queues_change(struct vublk_virtio_pci *pci)
{
	struct vublk_error error;
	int r = 0;

	for (unsigned i = 0; i < pci->num_queues && !r; i++)
		r = change_queue(&pci->queues[i], &error);
	vublk_virtio_pci_release(pci);
	vublk_virtio_pci_set_busy(pci, VUBLK_VIRTIO_PCI_IDLE);
	if (r < 0)
		vublk_virtio_pci_on_failure(pci, &error);
}

void vublk_virtio_pci_queue_enable(struct vublk_virtio_pci_queue *queue)
{
	if (!vublk_virtio_pci_queue_change_state(queue, VUBLK_VIRTIO_PCI_QUEUE_EVENT_ENABLE))
		return;
	if (vublk_virtio_pci_is_driven(queue->pci))
		begin_change(queue->pci);
}

void vublk_virtio_pci_queue_reset(struct vublk_virtio_pci_queue *queue)
{
	if (!vublk_virtio_pci_queue_is_enabled(queue))
		return;
	if (!vublk_virtio_pci_is_driven(queue->pci)) {
		reset_queue(queue);
		return;
	}
	vublk_virtio_pci_queue_change_state(queue, VUBLK_VIRTIO_PCI_QUEUE_EVENT_BEGIN_RESET);
	begin_change(queue->pci);
}
