/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Hands the rings that the VMM has started over to the device, as one new session.
 *
 * Key idea: a ring that cannot be handed over is withdrawn, so that the hand-over is not tried
 * again before the VMM sends another kick descriptor. One bad ring does not stop the other rings.
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

/* Withdraws the ring until the VMM sends another kick descriptor. */
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
			       "queue %u of %u entries has no place in the in-flight area, which is for "
			       "%u queues of %u entries", queue->index, queue->size, area->num_queues,
			       area->queue_size);
}

/*
 * An uncertain ring can start when no request is outstanding, or when the requests that were
 * left are complete.
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
			  "queue %u is not started: a back-end was lost with up to %u requests, and "
			  "it is unknown which of them it had begun; the driver has to reset the "
			  "device", queue->index, place.outstanding);
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
		return vublk_error_set_errno(error, errno, "queue %u's descriptors cannot be kept",
					     queue->index);
	return vublk_device_set_queue(relay->device, queue->index, ring, sizeof(*ring), error);
}

/* Returns true if the ring is handed over. */
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

/* No single queue is at fault, so all of them wait for another kick descriptor. */
static void refuse_all(struct vublk_relay *relay, const struct vublk_error *error)
{
	vublk_relay_fail(relay, error);
	for (unsigned i = 0; i < relay->num_queues; i++)
		if (vublk_relay_is_handed(&relay->queues[i]))
			leave_out(relay, &relay->queues[i]);
}

/* When the VMM has stopped its last ring, the device's own area is dropped. */
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
 * A driver may have turned the write cache off in an earlier session. The VMM does not repeat that
 * setting, and the back-end assumes that the VMM knows the setting, because the device has read the
 * config. So a session that begins with rings in use writes through until the VMM reads the config
 * or sets wce. 1: the device has been asked. -ENOTCONN: no back-end; the rings wait.
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
			  "the VMM resumes a disk without having read its config, so every write is "
			  "durable until the VMM sets wce");
	return 1;
}

/* True: something was done. */
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
