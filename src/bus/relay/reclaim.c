/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reclaims rings from the device: decides when that is necessary, and finds out where each ring
 * stopped and which of its requests may have been begun.
 *
 * Key idea: the device stops all rings together, so the relay reclaims all of them, in two steps: a
 * pause, after which the relay can read the positions, and then the end of the device's session.
 *
 * Positions: a ring that a back-end returned continues where the back-end stopped. A ring that ran
 * when its back-end was lost continues at its used index, and the in-flight area says which of the
 * requests after that index the lost back-end had begun. Either the VMM owns the area and sets it
 * at each start, or the area is the device's own, which the relay keeps only for rings that the VMM
 * has not stopped. Without an area, a ring with outstanding requests is uncertain: unless these
 * requests turn out to be complete, the driver has to reset the device.
 */
#include "bus/relay/relay.h"

#include "util/checked.h"
#include "util/fd.h"

#include <fcntl.h>

/* --- when ------------------------------------------------------------------ */

static bool differs(const struct vublk_relay *relay, const struct vublk_relay_queue *queue)
{
	struct vublk_device_queue wanted, given;

	if (!vublk_relay_is_wanted(relay, queue, &wanted))
		return vublk_relay_is_handed(queue);
	if (vublk_relay_is_drained(queue))
		return true;
	if (!vublk_relay_is_handed(queue))
		return !vublk_relay_holds(relay);
	return vublk_device_get_queue(relay->device, queue->index, &given, sizeof(given)) < 0 ||
	       given.size != wanted.size || given.desc_addr != wanted.desc_addr ||
	       given.avail_addr != wanted.avail_addr || given.used_addr != wanted.used_addr;
}

/* While rings run, the device accepts VUBLK_RELAY_MEMORY, but none of the other `changes`. */
bool vublk_relay_must_reclaim(const struct vublk_relay *relay)
{
	if (relay->changes & ~(unsigned)VUBLK_RELAY_MEMORY)
		return true;
	for (unsigned i = 0; i < relay->num_queues; i++)
		if (differs(relay, &relay->queues[i]))
			return true;
	return false;
}

/* --- how ------------------------------------------------------------------- */

/*
 * Records where the ring stopped. Returns false if the device cannot read the ring; the recorded
 * position is then uncertain.
 */
static bool collect_place(struct vublk_relay *relay, struct vublk_relay_queue *queue)
{
	struct vublk_device_place place;
	struct vublk_error error;

	queue->outstanding = 0;
	queue->undrained = 0;
	if (vublk_device_queue_place(relay->device, queue->index, &place, sizeof(place), &error) < 0) {
		vublk_log_limited(&relay->bus->log, &relay->bus->limit, VUBLK_LOG_WARNING, "%s",
				  error.text);
		queue->base = vublk_device_queue_base(relay->device, queue->index);
		return false;
	}
	queue->base = place.base;
	queue->undrained = place.undrained;
	if (!place.is_known)
		queue->outstanding = place.outstanding;
	return true;
}

/* Records the position of a ring that has stopped. Returns whether the ring should run again. */
static bool collect_ring(struct vublk_relay *relay, struct vublk_relay_queue *queue)
{
	bool is_over = relay->changes & VUBLK_RELAY_RESET; /* the next driver sets the ring up
							      again */
	bool is_known = is_over || collect_place(relay, queue);

	if (vublk_relay_is_drained(queue)) {
		vublk_fd_close(&queue->kick_fd);
		vublk_relay_hold(relay);
	}
	vublk_relay_change_ring(relay, queue, VUBLK_RELAY_RING_RECLAIM);
	if (!is_known)
		vublk_relay_change_ring(relay, queue, VUBLK_RELAY_RING_DOUBT);
	return vublk_relay_is_started(queue);
}

/* Keeps the device's own area if one of the reclaimed rings will run again. */
static void collect_area(struct vublk_relay *relay, bool is_needed)
{
	struct vublk_device_inflight area;

	if (relay->area_is_vmms)
		return;
	vublk_relay_drop_area(relay);
	if (!is_needed || vublk_device_get_inflight(relay->device, &area, sizeof(area)) < 0)
		return;
	area.fd = fcntl(area.fd, F_DUPFD_CLOEXEC, 0);
	relay->area = area;
}

/* If a reset is pending, the requests of the previous session no longer matter. */
void vublk_relay_mark_uncertain(struct vublk_relay *relay)
{
	for (unsigned i = 0; i < relay->num_queues; i++) {
		struct vublk_relay_queue *queue = &relay->queues[i];

		if (relay->changes & VUBLK_RELAY_RESET)
			vublk_relay_begin_anew(relay, queue);
		else if (queue->outstanding && relay->area.fd < 0)
			vublk_relay_change_ring(relay, queue, VUBLK_RELAY_RING_DOUBT);
	}
}

/* The features and the area belong to the device's session, so the next session gets them again. */
void vublk_relay_end_device_session(struct vublk_relay *relay)
{
	relay->changes &= ~(unsigned)VUBLK_RELAY_RESET;
	relay->changes |= VUBLK_RELAY_FEATURES | VUBLK_RELAY_AREA;
	vublk_device_set_status(relay->device, 0, NULL);
}

void vublk_relay_close_handed(struct vublk_relay_queue *queue)
{
	queue->kick_changed = queue->call_changed = false;
	vublk_fd_close(&queue->handed_kick_fd);
	vublk_fd_close(&queue->handed_call_fd);
}

/* Called when the rings have stopped: records their positions and ends the device's session. */
static void collect(struct vublk_relay *relay)
{
	bool is_needed = false;

	for (unsigned i = 0; i < relay->num_queues; i++)
		if (vublk_relay_is_handed(&relay->queues[i]))
			is_needed |= collect_ring(relay, &relay->queues[i]);
	collect_area(relay, is_needed);
	vublk_relay_mark_uncertain(relay);
	vublk_relay_end_device_session(relay);
	vublk_device_set_vm_running(relay->device, true);
	for (unsigned i = 0; i < relay->num_queues; i++)
		vublk_relay_close_handed(&relay->queues[i]);
	vublk_relay_change_set(relay, VUBLK_RELAY_SET_RECLAIM);
}

/*
 * Returns whether the back-end has to complete all requests that it has begun before it returns the
 * rings. A VMM without GET_VRING_BASE_INFLIGHT assumes that all requests before the base are
 * complete. A VMM with GET_VRING_BASE_SKIP_DRAIN chooses for each ring whether the stop completes
 * them.
 */
static bool wants_drain(const struct vublk_relay *relay)
{
	if (!(relay->server.protocol_features & VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_INFLIGHT)))
		return true;
	for (unsigned i = 0; i < relay->num_queues; i++)
		if (vublk_relay_is_drained(&relay->queues[i]))
			return true;
	return false;
}

void vublk_relay_reclaim(struct vublk_relay *relay)
{
	if (relay->set == VUBLK_RELAY_SET_PAUSING) {
		collect(relay);
		return;
	}
	vublk_relay_change_set(relay, VUBLK_RELAY_SET_PAUSE);
	vublk_device_set_drains(relay->device, wants_drain(relay));
	/* After a reset no request matters, so there is no need to pause first. */
	if (relay->changes & VUBLK_RELAY_RESET)
		vublk_device_set_status(relay->device, 0, NULL);
	else
		vublk_device_set_vm_running(relay->device, false);
}
