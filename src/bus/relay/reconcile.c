/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the VMM wants of its rings, and what the device has of them.
 *
 * A VMM starts and stops each queue by itself; the device has all of them start and stop
 * together, and goes on with them by itself when a back-end is lost and found. So whenever
 * the set of rings is to be another, or one of them elsewhere, all are taken back (a pause,
 * after which each place is known), and the set that is wanted then is handed over as a new
 * session. Memory, kick and call descriptors change under rings that run.
 *
 * The idea to read it by: step() compares, and does the first thing that differs. It is
 * called until nothing differs, or until the device has to be waited for.
 *
 * The places. Rings that a back-end gave back go on from where it stopped. Rings with which
 * one was lost go on from their used index; what it had begun of the rest the in-flight
 * area knows. The area is the VMM's, who brings it along at each start, or else the device's
 * own, which is kept for rings that the VMM did not take back. A ring that it did take back
 * then, with requests outstanding and no area, can be started again only when none are
 * outstanding: else the driver has to reset, for what was begun nobody knows.
 *
 * A VMM that takes its queues one by one would have the others started anew each time. So
 * starts are held for a moment after a queue was taken, and with STATUS until DRIVER_OK.
 */
#include "bus/relay/relay.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "virtio/blk-format.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <stdlib.h>

#define HOLD_NS (UINT64_C(20) * 1000000)

#define DRIVER_IS_READY                                                                       \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK |  \
	 VIRTIO_CONFIG_S_DRIVER_OK)

/* --- what the VMM wants ------------------------------------------------------ */

int vublk_relay_queues_init(struct vublk_relay *relay, struct vublk_error *error)
{
	relay->num_queues = vublk_device_num_queues(relay->device);
	relay->queues = calloc(relay->num_queues, sizeof(*relay->queues));
	if (!relay->queues)
		return vublk_error_set_errno(error, ENOMEM, "cannot keep %u queues",
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

/* Without the feature a VMM cannot ask for a drain that the back-end did not do by itself. */
bool vublk_relay_has_left(const struct vublk_relay *relay, const struct vublk_relay_queue *queue)
{
	return queue->undrained &&
	       relay->protocol_features & VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_SKIP_DRAIN);
}

/*
 * QEMU disables a ring before it asks for its base, and only then says whether the drain may
 * be skipped. The ring has been stopped by then, with requests left in the area.
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

bool vublk_relay_is_suspended(const struct vublk_relay *relay)
{
	for (unsigned i = 0; i < relay->num_queues; i++)
		if (vublk_relay_is_started(&relay->queues[i]))
			return false;
	return true;
}

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

/* With its guest addresses in `ring`. A ring that is in no memory waits for that. */
static bool is_wanted(const struct vublk_relay *relay, const struct vublk_relay_queue *queue,
		      struct vublk_device_queue *ring)
{
	return vublk_relay_is_started(queue) && queue->size &&
	       (queue->enabled || vublk_relay_is_drained(queue)) &&
	       queue->has_addr && relay->has_features &&
	       vublk_relay_memory_find_ring(relay, queue, ring);
}

void vublk_relay_hold(struct vublk_relay *relay)
{
	vublk_loop_timer_arm(&relay->bus->loop, &relay->hold_timer, vublk_now_ns() + HOLD_NS);
}

void vublk_relay_release(struct vublk_relay *relay)
{
	vublk_loop_timer_disarm(&relay->hold_timer);
	vublk_relay_memory_check_shared(relay);
}

void vublk_relay_drop_area(struct vublk_relay *relay)
{
	vublk_fd_close(&relay->area.fd);
	relay->area_is_vmms = false;
}

/* The device may still have the ring: what was handed over stays until it is taken back. */
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

/* --- telling the driver -------------------------------------------------------- */

void vublk_relay_tell_needs_reset(struct vublk_relay *relay)
{
	relay->device_status = VIRTIO_CONFIG_S_NEEDS_RESET;
	for (unsigned i = 0; i < relay->num_queues; i++)
		if (relay->queues[i].err_fd >= 0)
			vublk_eventfd_signal(relay->queues[i].err_fd);
}

/* --- taking back ----------------------------------------------------------------- */

/* Whether starts wait for the timer, or for what disarms it. */
static bool holds(const struct vublk_relay *relay)
{
	return relay->hold_timer.loop;
}

static bool differs(const struct vublk_relay *relay, const struct vublk_relay_queue *queue)
{
	struct vublk_device_queue wanted, given;

	if (!is_wanted(relay, queue, &wanted))
		return vublk_relay_is_handed(queue);
	if (vublk_relay_is_drained(queue))
		return true;
	if (!vublk_relay_is_handed(queue))
		return !holds(relay);
	return vublk_device_get_queue(relay->device, queue->index, &given) < 0 ||
	       given.size != wanted.size || given.desc_addr != wanted.desc_addr ||
	       given.avail_addr != wanted.avail_addr || given.used_addr != wanted.used_addr;
}

static bool must_take_back(const struct vublk_relay *relay)
{
	if (relay->changes & ~(unsigned)VUBLK_RELAY_MEMORY)
		return true;
	for (unsigned i = 0; i < relay->num_queues; i++)
		if (differs(relay, &relay->queues[i]))
			return true;
	return false;
}

/* Where the ring stands. False: unknown, because the ring is in no memory. */
static bool collect_place(struct vublk_relay *relay, struct vublk_relay_queue *queue)
{
	struct vublk_device_place place;
	struct vublk_error error;

	queue->outstanding = 0;
	queue->undrained = 0;
	if (vublk_device_queue_place(relay->device, queue->index, &place, &error) < 0) {
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

/* The device's own area is of use as long as a ring that it was for is wanted again. */
static void collect_area(struct vublk_relay *relay, bool is_of_use)
{
	struct vublk_device_inflight area;

	if (relay->area_is_vmms)
		return;
	vublk_relay_drop_area(relay);
	if (!is_of_use || vublk_device_get_inflight(relay->device, &area) < 0)
		return;
	area.fd = fcntl(area.fd, F_DUPFD_CLOEXEC, 0);
	relay->area = area;
}

/* What a lost back-end left, and no area tells of. A reset makes it nobody's concern. */
static void mark_uncertain(struct vublk_relay *relay)
{
	for (unsigned i = 0; i < relay->num_queues; i++) {
		struct vublk_relay_queue *queue = &relay->queues[i];

		if (relay->changes & VUBLK_RELAY_RESET)
			vublk_relay_begin_anew(relay, queue);
		else if (queue->outstanding && relay->area.fd < 0)
			vublk_relay_change_ring(relay, queue, VUBLK_RELAY_RING_DOUBT);
	}
}

/* What the device is to have in the next one is given to it again. */
static void end_session(struct vublk_relay *relay)
{
	relay->changes &= ~(unsigned)VUBLK_RELAY_RESET;
	relay->changes |= VUBLK_RELAY_FEATURES | VUBLK_RELAY_AREA;
	vublk_device_set_status(relay->device, 0, NULL);
}

static void forget_handed(struct vublk_relay_queue *queue)
{
	queue->kick_changed = queue->call_changed = false;
	vublk_fd_close(&queue->handed_kick_fd);
	vublk_fd_close(&queue->handed_call_fd);
}

/* True: the VMM wants it to run again. */
static bool collect_ring(struct vublk_relay *relay, struct vublk_relay_queue *queue)
{
	bool is_over = relay->changes & VUBLK_RELAY_RESET; /* the VMM may have begun another */
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

/* The rings are at rest: notes where each stands, and ends the session with the device. */
static void collect(struct vublk_relay *relay)
{
	bool is_of_use = false;

	for (unsigned i = 0; i < relay->num_queues; i++)
		if (vublk_relay_is_handed(&relay->queues[i]))
			is_of_use |= collect_ring(relay, &relay->queues[i]);
	collect_area(relay, is_of_use);
	mark_uncertain(relay);
	end_session(relay);
	vublk_device_set_vm_running(relay->device, true);
	for (unsigned i = 0; i < relay->num_queues; i++)
		forget_handed(&relay->queues[i]);
	vublk_relay_change_set(relay, VUBLK_RELAY_SET_RECLAIM);
}

/*
 * A VMM that knows of no requests in its in-flight area takes them for complete. One that
 * accepted GET_VRING_BASE_SKIP_DRAIN says of each ring which it wants.
 */
static bool wants_drain(const struct vublk_relay *relay)
{
	if (!(relay->protocol_features & VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_INFLIGHT)))
		return true;
	for (unsigned i = 0; i < relay->num_queues; i++)
		if (vublk_relay_is_drained(&relay->queues[i]))
			return true;
	return false;
}

static void take_back(struct vublk_relay *relay)
{
	if (relay->set == VUBLK_RELAY_SET_PAUSING) {
		collect(relay);
		return;
	}
	vublk_relay_change_set(relay, VUBLK_RELAY_SET_PAUSE);
	vublk_device_set_drains(relay->device, wants_drain(relay));
	vublk_device_set_vm_running(relay->device, false);
}

/* --- handing over ------------------------------------------------------------------ */

/* It waits for another kick descriptor. */
static void leave_out(struct vublk_relay *relay, struct vublk_relay_queue *queue)
{
	vublk_relay_withdraw_queue(relay, queue);
	vublk_device_set_queue(relay->device, queue->index, NULL, NULL);
	vublk_relay_change_ring(relay, queue, VUBLK_RELAY_RING_RECLAIM);
	forget_handed(queue);
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
			       "%u queues of %u", queue->index, queue->size, area->num_queues,
			       area->queue_size);
}

/*
 * Of a ring whose requests nobody knows: it can go on when there are none, or when all that
 * the lost back-end had taken are complete.
 */
static bool is_certain(struct vublk_relay *relay, struct vublk_relay_queue *queue)
{
	struct vublk_device_place place = { 0 };

	if (relay->area_is_vmms)
		vublk_relay_change_ring(relay, queue, VUBLK_RELAY_RING_CERTAIN);
	if (!vublk_relay_is_uncertain(queue))
		return true;
	if (!vublk_device_queue_place(relay->device, queue->index, &place, NULL) &&
	    (!place.outstanding || (queue->undrained && !place.undrained))) {
		vublk_relay_begin_anew(relay, queue);
		return true;
	}
	vublk_log_limited(&relay->bus->log, &relay->bus->limit, VUBLK_LOG_WARNING,
			  "queue %u is not started: a back-end was lost with up to %u requests, and "
			  "nobody knows which of them it had begun; the driver has to reset the "
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
	return vublk_device_set_queue(relay->device, queue->index, ring, error);
}

/* True: it is handed over. */
static bool hand_over_queue(struct vublk_relay *relay, struct vublk_relay_queue *queue)
{
	struct vublk_device_queue ring;
	struct vublk_error error;

	if (!is_wanted(relay, queue, &ring))
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

/* Somebody else's fault than a queue's: none of them is tried again by itself. */
static void refuse_all(struct vublk_relay *relay, const struct vublk_error *error)
{
	vublk_relay_fail(relay, error);
	for (unsigned i = 0; i < relay->num_queues; i++)
		if (vublk_relay_is_handed(&relay->queues[i]))
			leave_out(relay, &relay->queues[i]);
}

/* When the VMM has taken the last ring back, the device's own area is of no more use. */
static bool drop_stale_area(struct vublk_relay *relay)
{
	if (relay->area.fd < 0 || relay->area_is_vmms)
		return false;
	if (!vublk_relay_is_suspended(relay))
		return false;
	vublk_relay_drop_area(relay);
	mark_uncertain(relay);
	end_session(relay);
	return true;
}

static unsigned count_wanted(const struct vublk_relay *relay, bool *resumes)
{
	struct vublk_device_queue ring;
	unsigned count = 0;

	*resumes = false;
	for (unsigned i = 0; i < relay->num_queues; i++)
		if (is_wanted(relay, &relay->queues[i], &ring)) {
			count++;
			*resumes |= relay->queues[i].base != 0;
		}
	return count;
}

/*
 * A driver that has turned the write cache off said so to an earlier session. The VMM does not
 * repeat it, and the back-end's own doubts ended when the device read the config. So a session
 * that begins with rings in use writes through, until the VMM reads the config or sets wce.
 * 1: the device has been asked. -ENOTCONN: there is no back-end, and the rings wait for one.
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
			  "durable until it sets wce");
	return 1;
}

/* True: something was done. */
static bool hand_over(struct vublk_relay *relay)
{
	struct vublk_error error;
	unsigned handed = 0;
	bool resumes;
	int r;

	if (drop_stale_area(relay))
		return true;
	if (!count_wanted(relay, &resumes) || holds(relay))
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

/* --- the rest ------------------------------------------------------------------------ */

static void give_features(struct vublk_relay *relay)
{
	struct vublk_error error;

	relay->changes &= ~(unsigned)VUBLK_RELAY_FEATURES;
	if (!relay->has_features ||
	    !vublk_device_ack_features(relay->device, relay->features & ~VUBLK_RELAY_OWN_FEATURES,
				       &error))
		return;
	relay->has_features = false;
	vublk_relay_fail(relay, &error);
}

static bool wants_log(const struct vublk_relay *relay)
{
	return relay->has_features && relay->log.fd >= 0 && relay->memory.num_regions &&
	       relay->features & VUBLK_BIT(VHOST_F_LOG_ALL);
}

void vublk_relay_refuse_log(struct vublk_relay *relay, const struct vublk_error *error)
{
	relay->is_logging = false;
	relay->features &= ~VUBLK_BIT(VHOST_F_LOG_ALL);
	vublk_relay_fail(relay, error);
}

/* Rings that run have to be told; the others log from their start on. */
static void change_log(struct vublk_relay *relay)
{
	struct vublk_error error;
	int r;

	relay->changes &= ~(unsigned)VUBLK_RELAY_LOG;
	if (relay->is_logging)
		r = vublk_device_dirty_log_stop(relay->device, &error);
	else
		r = vublk_device_dirty_log_start(relay->device, &relay->log, &error);
	relay->is_logging = !relay->is_logging;
	if (r > 0)
		relay->asked = VUBLK_RELAY_ASKED_LOG;
	if (r < 0)
		vublk_relay_refuse_log(relay, &error);
}

static void give_area(struct vublk_relay *relay)
{
	struct vublk_error error;

	relay->changes &= ~(unsigned)VUBLK_RELAY_AREA;
	if (relay->area.fd < 0 ||
	    !vublk_device_set_inflight(relay->device, &relay->area, &error))
		return;
	vublk_relay_drop_area(relay);
	vublk_relay_fail(relay, &error);
}

static void give_memory(struct vublk_relay *relay)
{
	struct vublk_error error;
	int r;

	relay->changes &= ~(unsigned)VUBLK_RELAY_MEMORY;
	r = vublk_relay_memory_give(relay, &error);
	if (r > 0)
		relay->asked = VUBLK_RELAY_ASKED_MEMORY;
	if (r >= 0)
		return;
	vublk_relay_memory_roll_back(relay);
	vublk_relay_fail(relay, &error);
}

static void replace(struct vublk_relay *relay, struct vublk_relay_queue *queue, int given,
		    int *handed,
		    int (*set)(struct vublk_device *device, unsigned index, int fd,
			       struct vublk_error *error))
{
	struct vublk_error error;
	int fd = given < 0 ? -1 : fcntl(given, F_DUPFD_CLOEXEC, 0);
	int r;

	if (given >= 0 && fd < 0) {
		vublk_error_set_errno(&error, errno, "queue %u's descriptor cannot be kept",
				      queue->index);
		vublk_relay_fail(relay, &error);
		return;
	}
	r = set(relay->device, queue->index, fd, &error);
	if (r < 0) {
		vublk_fd_close(&fd);
		vublk_relay_fail(relay, &error);
		return;
	}
	vublk_fd_close(handed);
	*handed = fd;
	if (r > 0)
		relay->asked = VUBLK_RELAY_ASKED_NOTIFIERS;
}

/* True: one has changed. */
static bool change_notifiers(struct vublk_relay *relay)
{
	bool changed = false;

	for (unsigned i = 0; i < relay->num_queues; i++) {
		struct vublk_relay_queue *queue = &relay->queues[i];

		changed |= queue->kick_changed || queue->call_changed;
		if (queue->kick_changed)
			replace(relay, queue, queue->kick_fd, &queue->handed_kick_fd,
				vublk_device_set_queue_kick);
		if (queue->call_changed)
			replace(relay, queue, queue->call_fd, &queue->handed_call_fd,
				vublk_device_set_queue_call);
		queue->kick_changed = queue->call_changed = false;
	}
	return changed;
}

/* The first thing that differs. False: nothing does. */
static bool step(struct vublk_relay *relay)
{
	if (relay->set == VUBLK_RELAY_SET_PAUSING ||
	    (relay->set == VUBLK_RELAY_SET_OUT && must_take_back(relay)))
		take_back(relay);
	else if (relay->changes & VUBLK_RELAY_RESET)
		end_session(relay);
	else if (relay->changes & VUBLK_RELAY_LOG)
		change_log(relay);
	else if (relay->changes & VUBLK_RELAY_MEMORY)
		give_memory(relay);
	else if (relay->is_logging != wants_log(relay))
		change_log(relay);
	else if (relay->changes & VUBLK_RELAY_FEATURES)
		give_features(relay);
	else if (relay->changes & VUBLK_RELAY_AREA)
		give_area(relay);
	else
		return relay->set == VUBLK_RELAY_SET_OUT ? change_notifiers(relay) : hand_over(relay);
	return true;
}

static bool is_under_way(const struct vublk_relay *relay)
{
	enum vublk_device_state state = vublk_device_state(relay->device);

	return relay->asked || state == VUBLK_DEVICE_STARTING ||
	       state == VUBLK_DEVICE_STOPPING ||
	       (relay->set == VUBLK_RELAY_SET_PAUSING && state == VUBLK_DEVICE_RUNNING);
}

bool vublk_relay_settle(struct vublk_relay *relay)
{
	while (!is_under_way(relay))
		if (!step(relay))
			return true;
	return false;
}
