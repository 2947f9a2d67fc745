/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Hands the rings that the VMM has started over to the device, as one new session.
 *
 * Key idea: a ring that cannot be handed over is withdrawn, so that the hand-over is not attempted
 * again before the VMM sends another kick descriptor. One bad ring does not keep the other rings
 * from starting.
 */
#include "bus/relay/relay.h"

#include "util/error.h"
#include "util/fd.h"
#include "virtio/blk-format.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>

#define DRIVER_IS_READY                                                                       \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK |  \
	 VIRTIO_CONFIG_S_DRIVER_OK)

/* --- one ring -------------------------------------------------------------- */

/* Withdraws the ring, so that it does not start before the VMM sends another kick descriptor. */
static void leave_out(struct vublk_relay *relay, struct vublk_relay_queue *queue)
{
	vublk_relay_withdraw_queue(relay, queue);
	vublk_device_set_queue(relay->device, queue->index, NULL, 0, NULL);
	vublk_relay_change_ring(relay, queue, VUBLK_RELAY_RING_RECLAIM);
	vublk_relay_close_handed(queue);
}

static int check_area(const struct vublk_relay *relay, const struct vublk_relay_queue *queue,
		      struct vublk_error *error)
{
	const struct vublk_device_inflight *area = &relay->area;

	if (area->fd < 0 ||
	    (queue->index < area->num_queues && queue->size <= area->queue_size))
		return 0;
	return vublk_error_set(error, EPROTO,
			       "the in-flight area is for %u queue%s of %u entries, so it has no "
			       "room for queue %u, which has %u entries (queues are numbered "
			       "from 0)",
			       area->num_queues, area->num_queues == 1 ? "" : "s",
			       area->queue_size, queue->index, queue->size);
}

/*
 * Returns whether the ring may start. An uncertain ring (reclaim.c) may start only if the VMM has
 * set an in-flight area, if no request is outstanding, or if the requests that a stop left are
 * complete by now.
 */
static bool is_certain(struct vublk_relay *relay, struct vublk_relay_queue *queue)
{
	struct vublk_device_place place = { 0 };

	if (relay->area_is_vmms)
		vublk_relay_change_ring(relay, queue, VUBLK_RELAY_RING_CERTAIN);
	if (!vublk_relay_is_uncertain(queue))
		return true;
	if (!vublk_device_queue_place(relay->device, queue->index, &place, sizeof(place), NULL) &&
	    (!place.outstanding || (queue->undrained && !place.undrained))) {
		vublk_relay_begin_anew(relay, queue);
		return true;
	}
	vublk_log_limited(&relay->bus->log, &relay->bus->limit, VUBLK_LOG_WARNING,
			  "queue %u cannot start: the connection to a back-end was lost with up to "
			  "%u request%s outstanding, and the device cannot tell which of them the "
			  "back-end had begun; the driver must reset the device", queue->index,
			  place.outstanding, place.outstanding == 1 ? "" : "s");
	vublk_relay_tell_needs_reset(relay);
	return false;
}

static int give_queue(struct vublk_relay *relay, struct vublk_relay_queue *queue,
		      struct vublk_device_queue *ring, struct vublk_error *error)
{
	int r = check_area(relay, queue, error);

	if (r < 0)
		return r;
	if (queue->kick_fd >= 0)
		queue->handed_kick_fd = fcntl(queue->kick_fd, F_DUPFD_CLOEXEC, 0);
	if (queue->call_fd >= 0)
		queue->handed_call_fd = fcntl(queue->call_fd, F_DUPFD_CLOEXEC, 0);
	ring->kick_fd = queue->handed_kick_fd;
	ring->call_fd = queue->handed_call_fd;
	ring->base = queue->base;
	if ((queue->kick_fd >= 0) != (ring->kick_fd >= 0) ||
	    (queue->call_fd >= 0) != (ring->call_fd >= 0))
		return vublk_error_set_errno(error, errno, "cannot duplicate the descriptors of "
					     "queue %u",
					     queue->index);
	return vublk_device_set_queue(relay->device, queue->index, ring, sizeof(*ring), error);
}

/* Hands over one ring. Returns whether the device has it now. */
static bool hand_over_queue(struct vublk_relay *relay, struct vublk_relay_queue *queue)
{
	struct vublk_device_queue ring;
	struct vublk_error error;

	if (!vublk_relay_is_wanted(relay, queue, &ring))
		return false;
	if (give_queue(relay, queue, &ring, &error) < 0) {
		vublk_relay_fail(relay, &error);
		leave_out(relay, queue);
	} else if (!is_certain(relay, queue)) {
		leave_out(relay, queue);
	} else {
		vublk_relay_change_ring(relay, queue, VUBLK_RELAY_RING_HAND_OVER);
	}
	return vublk_relay_is_handed(queue);
}

/* --- all of them ----------------------------------------------------------- */

/*
 * Called when the device refuses the start as a whole, so no single ring is at fault. Withdraws all
 * rings that were handed over, until the VMM sends other kick descriptors.
 */
static void refuse_all(struct vublk_relay *relay, const struct vublk_error *error)
{
	vublk_relay_fail(relay, error);
	for (unsigned i = 0; i < relay->num_queues; i++)
		if (vublk_relay_is_handed(&relay->queues[i]))
			leave_out(relay, &relay->queues[i]);
}

/*
 * If the relay still keeps the device's own in-flight area although the VMM has stopped its last
 * ring, drops the area, ends the device's session and returns true.
 */
static bool drop_stale_area(struct vublk_relay *relay)
{
	if (relay->area.fd < 0 || relay->area_is_vmms)
		return false;
	if (!vublk_relay_is_suspended(relay))
		return false;
	vublk_relay_drop_area(relay);
	vublk_relay_mark_uncertain(relay);
	vublk_relay_end_device_session(relay);
	return true;
}

static unsigned count_wanted(const struct vublk_relay *relay, bool *resumes)
{
	struct vublk_device_queue ring;
	unsigned count = 0;

	*resumes = false;
	for (unsigned i = 0; i < relay->num_queues; i++)
		if (vublk_relay_is_wanted(relay, &relay->queues[i], &ring)) {
			count++;
			*resumes |= relay->queues[i].base != 0;
		}
	return count;
}

/*
 * If the rings were in use before (`resumes`) and the VMM has neither read nor set wce, turns the
 * write cache off until the VMM sets wce. The driver may have turned it off in an earlier session.
 * The VMM does not repeat that setting, and the back-end assumes that the VMM knows the current
 * setting, because the device has read the config. Returns 1 if the device will report the result,
 * 0 if the rings may start, and -ENOTCONN if the rings have to wait for a back-end.
 */
static int write_through(struct vublk_relay *relay, bool resumes)
{
	const uint8_t wce = 0;
	int r = 0;

	if (resumes && !relay->knows_write_cache)
		r = vublk_device_config_write(relay->device, VUBLK_BLK_WCE_OFFSET, &wce, sizeof(wce),
					      NULL);
	if (r == -ENOTCONN)
		return r;
	relay->knows_write_cache = true;
	if (r <= 0)
		return 0;
	relay->asked = VUBLK_RELAY_ASKED_WRITE_THROUGH;
	vublk_log_limited(&relay->bus->log, &relay->bus->limit, VUBLK_LOG_INFO,
			  "the VMM resumes a disk without having read its configuration, so the "
			  "back-end's write cache is turned off until the VMM sets wce");
	return 1;
}

bool vublk_relay_hand_over(struct vublk_relay *relay)
{
	struct vublk_error error;
	unsigned handed = 0;
	bool resumes;
	int r;

	if (drop_stale_area(relay))
		return true;
	if (!count_wanted(relay, &resumes) || vublk_relay_holds(relay))
		return false;
	r = write_through(relay, resumes);
	if (r)
		return r > 0;
	for (unsigned i = 0; i < relay->num_queues; i++)
		handed += hand_over_queue(relay, &relay->queues[i]);
	if (!handed)
		return true;
	if (vublk_device_set_status(relay->device, DRIVER_IS_READY, &error) < 0)
		refuse_all(relay, &error);
	else
		vublk_relay_change_set(relay, VUBLK_RELAY_SET_HAND_OVER);
	return true;
}
