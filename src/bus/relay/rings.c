/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The rings as the VMM wants them: which are started and enabled, where they are, and when starts
 * are delayed. This file only records them; reconcile.c passes them on to the device later.
 *
 * Key idea: a VMM stops or starts its queues one by one. If the relay followed each step, it would
 * restart the other queues each time. So starts are delayed for a moment (HOLD_NS) after a queue is
 * stopped or disabled. With the protocol feature STATUS they are also delayed after a queue is
 * started or enabled, but not beyond DRIVER_OK.
 */
#include "bus/relay/relay.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdlib.h>

#define HOLD_NS (UINT64_C(20) * 1000000)

int vublk_relay_queues_init(struct vublk_relay *relay, struct vublk_error *error)
{
	relay->num_queues = vublk_device_num_queues(relay->device);
	relay->server.num_queues = relay->num_queues;
	relay->queues = calloc(relay->num_queues, sizeof(*relay->queues));
	if (!relay->queues)
		return vublk_error_set_errno(error, ENOMEM, "cannot allocate %u queues",
					     relay->num_queues);
	for (unsigned i = 0; i < relay->num_queues; i++)
		relay->queues[i] = (struct vublk_relay_queue){
			.index = i, .kick_fd = -1, .call_fd = -1, .err_fd = -1,
			.handed_kick_fd = -1, .handed_call_fd = -1,
		};
	return 0;
}

void vublk_relay_queues_deinit(struct vublk_relay *relay)
{
	for (unsigned i = 0; relay->queues && i < relay->num_queues; i++) {
		struct vublk_relay_queue *queue = &relay->queues[i];

		vublk_fd_close(&queue->kick_fd);
		vublk_fd_close(&queue->call_fd);
		vublk_fd_close(&queue->err_fd);
		vublk_fd_close(&queue->handed_kick_fd);
		vublk_fd_close(&queue->handed_call_fd);
	}
	free(relay->queues);
	relay->queues = NULL;
}

/* --- starting and stopping ------------------------------------------------- */

bool vublk_relay_is_wanted(const struct vublk_relay *relay, const struct vublk_relay_queue *queue,
			   struct vublk_device_queue *ring)
{
	return vublk_relay_is_started(queue) && queue->size &&
	       (queue->enabled || vublk_relay_is_drained(queue)) &&
	       queue->has_addr && relay->has_features &&
	       vublk_relay_memory_find_ring(relay, queue, ring);
}

bool vublk_relay_is_suspended(const struct vublk_relay *relay)
{
	for (unsigned i = 0; i < relay->num_queues; i++)
		if (vublk_relay_is_started(&relay->queues[i]))
			return false;
	return true;
}

void vublk_relay_withdraw_queue(struct vublk_relay *relay, struct vublk_relay_queue *queue)
{
	vublk_fd_close(&queue->kick_fd);
	vublk_relay_change_ring(relay, queue, VUBLK_RELAY_RING_WITHDRAW);
}

void vublk_relay_withdraw_all(struct vublk_relay *relay)
{
	for (unsigned i = 0; i < relay->num_queues; i++)
		vublk_relay_withdraw_queue(relay, &relay->queues[i]);
}

/*
 * Returns false for a VMM without GET_VRING_BASE_SKIP_DRAIN, because it cannot ask for the
 * completion of requests that a stop left.
 */
bool vublk_relay_has_left(const struct vublk_relay *relay, const struct vublk_relay_queue *queue)
{
	return queue->undrained &&
	       relay->server.protocol_features & VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_SKIP_DRAIN);
}

/*
 * QEMU disables a ring before it sends GET_VRING_BASE, and only GET_VRING_BASE says whether the
 * drain may be skipped. By then the ring may already have stopped and left requests in the
 * in-flight area.
 */
void vublk_relay_withdraw_drained(struct vublk_relay *relay, struct vublk_relay_queue *queue)
{
	if (!vublk_relay_is_handed(queue) && !vublk_relay_has_left(relay, queue)) {
		vublk_relay_withdraw_queue(relay, queue);
		return;
	}
	vublk_relay_change_ring(relay, queue, VUBLK_RELAY_RING_DRAIN);
	if (!vublk_relay_is_handed(queue))
		vublk_relay_release(relay);
}

/* --- delayed starts ----------------------------------------------------------- */

void vublk_relay_hold(struct vublk_relay *relay)
{
	vublk_loop_timer_arm(&relay->bus->loop, &relay->hold_timer, vublk_now_ns() + HOLD_NS);
}

void vublk_relay_release(struct vublk_relay *relay)
{
	vublk_loop_timer_disarm(&relay->hold_timer);
	vublk_relay_memory_check_shared(relay);
}

/* --- the end of what was set up -------------------------------------------- */

void vublk_relay_begin_anew(struct vublk_relay *relay, struct vublk_relay_queue *queue)
{
	queue->outstanding = 0;
	queue->undrained = 0;
	vublk_relay_change_ring(relay, queue, VUBLK_RELAY_RING_CERTAIN);
}

void vublk_relay_note_loss(struct vublk_relay *relay)
{
	for (unsigned i = 0; i < relay->num_queues; i++) {
		struct vublk_relay_queue *queue = &relay->queues[i];

		if (vublk_relay_is_handed(queue) || !queue->undrained)
			continue;
		queue->outstanding = queue->undrained;
		vublk_relay_change_ring(relay, queue, relay->area.fd < 0 ?
					VUBLK_RELAY_RING_DOUBT : VUBLK_RELAY_RING_CERTAIN);
	}
}

void vublk_relay_drop_area(struct vublk_relay *relay)
{
	vublk_fd_close(&relay->area.fd);
	relay->area_is_vmms = false;
}

/*
 * Forgets the queue's set-up. If the device has the ring, the eventfds that the device borrows stay
 * open until the ring is reclaimed.
 */
static void reset_queue(struct vublk_relay *relay, struct vublk_relay_queue *queue)
{
	vublk_relay_withdraw_queue(relay, queue);
	vublk_relay_begin_anew(relay, queue);
	queue->size = 0;
	queue->has_addr = false;
	queue->base = 0;
	queue->enabled = false;
}

void vublk_relay_reset(struct vublk_relay *relay)
{
	for (unsigned i = 0; i < relay->num_queues; i++)
		reset_queue(relay, &relay->queues[i]);
	vublk_relay_drop_area(relay);
	relay->has_features = false;
	relay->status = 0;
	relay->device_status = 0;
	relay->changes |= VUBLK_RELAY_RESET;
}

/* --- telling the driver ---------------------------------------------------- */

void vublk_relay_tell_needs_reset(struct vublk_relay *relay)
{
	relay->device_status = VIRTIO_CONFIG_S_NEEDS_RESET;
	for (unsigned i = 0; i < relay->num_queues; i++)
		if (relay->queues[i].err_fd >= 0)
			vublk_eventfd_signal(relay->queues[i].err_fd);
}
