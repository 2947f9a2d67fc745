/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Exchanges the request path of rings that run, from the direct path to the plane or back: the
 * outstanding requests are completed, the back-end returns the rings, and the rings are started on
 * the other path. start-stop.c stops and starts the rings; path.c says which path is wanted.
 *
 * Key idea: rings change their path only while no request is outstanding, that is, the base of each
 * ring equals its used index, and the in-flight area records no request. So either path can
 * continue with the rings, and the exchange can be undone until the new path takes a request. All
 * rings change together, because some back-ends stop all rings at the first GET_VRING_BASE.
 *
 * The bus can see the state of the device change. An exchange that completes calls started(), but
 * not stopped().
 */
#include "device/device.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdlib.h>

#define NS_PER_MS UINT64_C(1000000)
/* While direct rings drain, the device checks their indices at this interval. */
#define LOOK_NS NS_PER_MS
/*
 * After this many successive checks without progress, the rings are assumed to have drained.
 * Without avail_event the device cannot see that slow storage still executes requests, so it waits
 * longer.
 */
#define QUIET_LOOKS 20
#define QUIET_LOOKS_BLIND 100

/* --- refusals ------------------------------------------------------------------------------- */

static void settle(struct vublk_device *device)
{
	vublk_loop_timer_disarm(&device->exchange.timer);
	vublk_loop_post(&device->loop, &device->exchange.notice_task);
	vublk_device_post_update(device); /* the dirty log may have waited for the exchange */
}

static void refuse(struct vublk_device *device, enum vublk_device_exchange_event event,
		   const struct vublk_error *cause)
{
	vublk_device_refuse_shadow(device, cause);
	vublk_device_exchange_change(device, event, cause->text);
	settle(device);
}

/* --- draining -------------------------------------------------------------------------------- */

bool vublk_device_exchange_is_due(const struct vublk_device *device)
{
	bool is_wanted = vublk_device_shadow_reasons(device);

	if (device->exchange.waits && device->path_switch.phase == VUBLK_DEVICE_SWITCH_NONE &&
	    device->dirty.phase != VUBLK_DEVICE_DIRTY_TO_START)
		return false;
	return vublk_device_is_shadowed(device) != is_wanted &&
	       vublk_device_shadow_is_sound(device);
}

/*
 * Returns whether the back-end has completed the requests that were outstanding when the exchange
 * began, and no change of its kick and call descriptors or of the dirty log is under way. A
 * back-end that hangs must not be asked for the rings, because the device would disconnect it for
 * not answering.
 */
static bool is_alive(const struct vublk_device *device)
{
	uint16_t used, avail;

	if (device->num_notifiers || vublk_device_dirty_log_is_changing(device))
		return false;
	for (unsigned i = 0; i < device->num_queues; i++)
		if (device->queues[i].size &&
		    !vublk_device_read_indices(device, i, &used, &avail, NULL) &&
		    (int16_t)(used - device->exchange.marks[i]) < 0)
			return false;
	return true;
}

static bool has_avail_event(const struct vublk_device *device)
{
	return device->acked_features & VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX);
}

/*
 * Returns how many requests of the ring the back-end has taken but not completed. Computes the
 * number from avail_event, which is the index of the next request that the back-end will take.
 * Back-ends with libvhost-user write avail_event when they take a request, other back-ends when
 * they begin to wait for a kick, so the result can be too small, but not too large. -1: avail_event
 * is outdated or unknown.
 */
static int count_taken(const struct vublk_device *device, unsigned index, uint16_t used,
		       uint16_t avail)
{
	uint16_t event;

	if (used == avail)
		return 0;
	if (!has_avail_event(device) ||
	    vublk_device_read_avail_event(device, index, &event, NULL) < 0)
		return -1;
	event = (uint16_t)(event - used);
	return event <= (uint16_t)(avail - used) ? event : -1;
}

/*
 * Returns whether no used index has changed since the last check, and no ring is known to have
 * requests that were taken and not completed. Sets *is_sure to whether all rings have certainly
 * drained.
 */
static bool is_quiet(struct vublk_device *device, bool *is_sure)
{
	bool is_quiet = true;
	uint16_t used, avail;

	*is_sure = true;
	for (unsigned i = 0; i < device->num_queues; i++) {
		int taken;

		if (!device->queues[i].size ||
		    vublk_device_read_indices(device, i, &used, &avail, NULL) < 0)
			continue;
		taken = count_taken(device, i, used, avail);
		is_quiet &= device->exchange.marks[i] == used && taken <= 0;
		device->exchange.marks[i] = used;
		*is_sure &= !taken;
	}
	return is_quiet;
}

/*
 * Returns whether the back-end has handled the idle descriptors, and no change of descriptors or of
 * the dirty log is under way.
 */
static bool is_parked(const struct vublk_device *device)
{
	return !device->num_notifiers && device->exchange.is_fenced &&
	       !vublk_device_dirty_log_is_changing(device);
}

static bool has_drained(struct vublk_device *device)
{
	struct vublk_device_exchange *exchange = &device->exchange;
	unsigned enough = has_avail_event(device) ? QUIET_LOOKS : QUIET_LOOKS_BLIND;
	bool is_sure, quiet;

	if (!is_parked(device))
		return false;
	quiet = is_quiet(device, &is_sure);
	exchange->num_quiet = quiet ? exchange->num_quiet + 1 : 0;
	return is_sure || exchange->num_quiet >= enough;
}

/*
 * Returns whether the back-end polls the rings: it takes requests although it gets no kicks, so the
 * rings never become quiet under load. The evidence is that the back-end completes requests that
 * the driver has added after is_fenced was set. A back-end that waits for kicks may complete as
 * many of these as the ring has entries, so more are needed; after the deadline, one is enough.
 */
static bool is_polling(const struct vublk_device *device, bool is_overdue)
{
	const struct vublk_device_exchange *exchange = &device->exchange;
	uint16_t used, avail;

	if (!is_parked(device))
		return false;
	for (unsigned i = 0; i < device->num_queues; i++)
		if (device->queues[i].size &&
		    !vublk_device_read_indices(device, i, &used, &avail, NULL) &&
		    (int16_t)(used - exchange->fences[i]) >
		    (is_overdue ? 0 : (int)device->queues[i].size))
			return true;
	return false;
}

static void note_avail(const struct vublk_device *device, uint16_t *indices)
{
	uint16_t used, avail;

	for (unsigned i = 0; i < device->num_queues; i++)
		if (device->queues[i].size &&
		    !vublk_device_read_indices(device, i, &used, &avail, NULL))
			indices[i] = avail;
}

static void free_arrays(struct vublk_device *device)
{
	free(device->exchange.marks);
	free(device->exchange.fences);
	free(device->exchange.idle_fds);
	device->exchange.marks = NULL;
	device->exchange.fences = NULL;
	device->exchange.idle_fds = NULL;
}

static void close_idle_fds(struct vublk_device *device)
{
	if (device->exchange.idle_fds)
		vublk_fd_close_all(device->exchange.idle_fds, device->num_queues);
}

static void on_parked(void *opaque, const struct vublk_error *error);

/*
 * Resumes the current path after an exchange was ended in phase `from`. While the idle descriptors
 * are being sent, they stay open; on_parked() closes them.
 */
static void go_back(struct vublk_device *device, enum vublk_device_exchange_phase from)
{
	if (!device->num_notifiers)
		close_idle_fds(device);
	if (from == VUBLK_DEVICE_EXCHANGE_PARKING)
		vublk_device_notifiers_renew_kicks(device);
	if (vublk_device_shadow_is_attached(device))
		vublk_device_shadow_resume(device);
}

static void give_up(struct vublk_device *device)
{
	enum vublk_device_exchange_phase from = device->exchange.phase;
	struct vublk_error error;

	vublk_error_set(&error, ETIMEDOUT, "the outstanding requests were not completed within %u "
			"ms", (unsigned)device->settings.request_timeout_ms);
	refuse(device, VUBLK_DEVICE_EXCHANGE_EVENT_OVERDUE, &error);
	go_back(device, from);
}

/*
 * Gives the back-end idle descriptors: kick descriptors that the device never signals, so that the
 * back-end takes no more requests. Otherwise a back-end such as qemu-storage-daemon 7.2 would
 * return rings without waiting for the requests that it has taken, and crash when these complete.
 *
 * Each ring gets a descriptor of its own, because a back-end may signal the descriptors itself:
 * qemu-storage-daemon 11.1 signals each descriptor that it is given, and closes the connection if
 * another ring has already read the signal that it wants to read.
 */
static void park(struct vublk_device *device)
{
	vublk_device_exchange_change(device, VUBLK_DEVICE_EXCHANGE_EVENT_ALIVE, NULL);
	device->exchange.num_quiet = 0;
	device->exchange.is_fenced = false;
	for (unsigned i = 0; i < device->num_rings; i++)
		if (device->rings[i].kick_fd >= 0)
			device->notifiers[device->num_notifiers++] =
				(struct vublk_frontend_notifier){
					.request = VUBLK_VU_SET_VRING_KICK,
					.queue = device->rings[i].index,
					.fd = device->exchange.idle_fds[device->rings[i].index],
				};
	if (device->num_notifiers)
		vublk_frontend_set_notifiers(&device->frontend, device->notifiers,
					     device->num_notifiers, on_parked, device);
}

static bool is_signalled(int fd)
{
	struct pollfd event = { fd, POLLIN, 0 };

	return fd >= 0 && poll(&event, 1, 0) > 0;
}

static void on_fenced(void *opaque, const struct vublk_error *error)
{
	struct vublk_device *device = opaque;

	device->exchange.is_fenced = true;
	note_avail(device, device->exchange.fences);
	on_parked(device, error);
}

/*
 * A back-end that signals the idle descriptors itself may read these signals after it has confirmed
 * the descriptors, and then takes requests. So the device waits until the signals have been read,
 * and then asks for one more answer. Such a back-end answers on the thread that has read the
 * signals, so it has taken these requests before it answers.
 */
static void fence(struct vublk_device *device)
{
	for (unsigned i = 0; i < device->num_queues; i++)
		if (is_signalled(device->exchange.idle_fds[i]))
			return;
	device->num_notifiers = 1; /* marks an empty batch as under way */
	vublk_frontend_set_notifiers(&device->frontend, device->notifiers, 0, on_fenced, device);
}

static void set_deadline(struct vublk_device *device, uint64_t now)
{
	device->exchange.deadline_ns = now + device->settings.request_timeout_ms * NS_PER_MS;
}

static void look(struct vublk_device *device)
{
	struct vublk_device_exchange *exchange = &device->exchange;
	uint64_t now = vublk_now_ns(), next;

	if (device->num_notifiers) /* the answers have deadlines of their own (frontend.h) */
		set_deadline(device, now);
	next = exchange->deadline_ns;
	if (!vublk_device_is_shadowed(device)) {
		next = VUBLK_MIN(now + LOOK_NS, next);
		if (exchange->phase == VUBLK_DEVICE_EXCHANGE_DRAINING && is_alive(device))
			park(device);
		if (exchange->phase == VUBLK_DEVICE_EXCHANGE_PARKING && !device->num_notifiers &&
		    !exchange->is_fenced)
			fence(device);
		if (exchange->phase == VUBLK_DEVICE_EXCHANGE_PARKING &&
		    (has_drained(device) || is_polling(device, now >= exchange->deadline_ns))) {
			exchange->drained(device);
			return;
		}
	}
	if (now >= exchange->deadline_ns)
		give_up(device);
	else
		vublk_loop_timer_arm(&device->loop, &exchange->timer, next);
}

/*
 * Called when the back-end has answered the messages of park() or fence(). Ignores an error: a
 * back-end that refuses the idle descriptors keeps taking requests, but most back-ends complete
 * their requests before they return a ring. So the device asks for the rings when they seem to have
 * drained.
 */
static void on_parked(void *opaque, const struct vublk_error *error)
{
	struct vublk_device *device = opaque;

	device->num_notifiers = 0;
	if (device->exchange.phase == VUBLK_DEVICE_EXCHANGE_PARKING)
		look(device);
	else
		vublk_device_post_update(device); /* the update sends the driver's descriptors */
	if (device->exchange.phase != VUBLK_DEVICE_EXCHANGE_DRAINING &&
	    device->exchange.phase != VUBLK_DEVICE_EXCHANGE_PARKING)
		close_idle_fds(device);
}

static void on_timer(void *opaque)
{
	look(opaque);
}

static int make_idle_fds(struct vublk_device *device, struct vublk_error *error)
{
	int *fds = device->exchange.idle_fds, r = 0;

	for (unsigned i = 0; !r && i < device->num_queues; i++)
		if (fds[i] < 0 && device->queues[i].size) {
			fds[i] = vublk_eventfd_new();
			if (fds[i] < 0)
				r = vublk_error_set_errno(error, -fds[i], "cannot create an eventfd "
							  "for a change to shadow rings");
		}
	if (r < 0)
		close_idle_fds(device);
	return r;
}

static int make_arrays(struct vublk_device *device, struct vublk_error *error)
{
	struct vublk_device_exchange *exchange = &device->exchange;

	if (exchange->marks)
		return 0;
	exchange->marks = calloc(device->num_queues, sizeof(*exchange->marks));
	exchange->fences = calloc(device->num_queues, sizeof(*exchange->fences));
	exchange->idle_fds = calloc(device->num_queues, sizeof(*exchange->idle_fds));
	if (!exchange->marks || !exchange->fences || !exchange->idle_fds) {
		free_arrays(device);
		return vublk_error_set_errno(error, ENOMEM, "cannot allocate memory to switch "
					     "requests between shadow rings and the direct path");
	}
	for (unsigned i = 0; i < device->num_queues; i++)
		exchange->idle_fds[i] = -1;
	return 0;
}

static int prepare(struct vublk_device *device, struct vublk_error *error)
{
	int r = 0;

	if (!vublk_device_is_shadowed(device)) {
		r = vublk_device_check_shadow(device, error);
		if (!r)
			r = vublk_device_shadow_make(device, error);
	}
	if (!r)
		r = make_arrays(device, error);
	if (!r && !vublk_device_is_shadowed(device))
		r = make_idle_fds(device, error);
	return r;
}

void vublk_device_exchange_begin(struct vublk_device *device,
				 void (*drained)(struct vublk_device *device))
{
	struct vublk_device_exchange *exchange = &device->exchange;
	struct vublk_error error;

	if (prepare(device, &error) < 0) {
		refuse(device, VUBLK_DEVICE_EXCHANGE_EVENT_REFUSED, &error);
		return;
	}
	vublk_device_exchange_change(device, VUBLK_DEVICE_EXCHANGE_EVENT_BEGIN, NULL);
	exchange->refusal.code = 0;
	exchange->drained = drained;
	set_deadline(device, vublk_now_ns());
	if (!vublk_device_shadow_stop(device, drained))
		note_avail(device, exchange->marks);
	look(device);
}

void vublk_device_exchange_cancel(struct vublk_device *device)
{
	enum vublk_device_exchange_phase from = device->exchange.phase;

	if (from != VUBLK_DEVICE_EXCHANGE_DRAINING && from != VUBLK_DEVICE_EXCHANGE_PARKING)
		return;
	vublk_device_exchange_change(device, VUBLK_DEVICE_EXCHANGE_EVENT_OVERTAKEN, NULL);
	settle(device);
	go_back(device, from);
}

void vublk_device_exchange_drained(struct vublk_device *device)
{
	vublk_loop_timer_disarm(&device->exchange.timer);
	close_idle_fds(device);
	vublk_device_exchange_change(device, VUBLK_DEVICE_EXCHANGE_EVENT_DRAINED, NULL);
}

/* --- the rings are back ----------------------------------------------------------------------- */

/*
 * Checks that all requests before the base of each ring are complete, and that the in-flight area
 * records no request. Error: EIO and others.
 */
static int check_drained(struct vublk_device *device, struct vublk_error *error)
{
	unsigned begun = 0;
	int r = 0;

	for (unsigned i = 0; i < device->num_queues; i++) {
		uint16_t used, avail, left;

		if (!device->queues[i].size)
			continue;
		r = vublk_device_read_indices(device, i, &used, &avail, error);
		if (r < 0)
			return r;
		left = vublk_device_count_undrained(device, i, used);
		if (left)
			return vublk_error_set(error, EIO, "the back-end returned queue %u at "
					       "index %u with %u requests outstanding; expected 0",
					       i,
					       device->bases[i], left);
	}
	if (vublk_device_is_tracked(device))
		r = vublk_device_count_inflight(device, &begun, error);
	if (begun)
		r = vublk_error_set(error, EIO, "the back-end returned the rings with %u requests "
				    "in the in-flight area; expected 0", begun);
	return r;
}

/*
 * Checks that the rings have drained, and makes each ring resume at its used index. The back-end
 * may have returned another base, for example if it refused the ring.
 */
static int continue_at_used_index(struct vublk_device *device, struct vublk_error *error)
{
	int r = check_drained(device, error);

	for (unsigned i = 0; i < device->num_queues && !r; i++) {
		uint16_t used, avail;

		if (!device->queues[i].size)
			continue;
		r = vublk_device_read_indices(device, i, &used, &avail, error);
		if (!r)
			device->bases[i] = used;
	}
	return r;
}

/*
 * Makes the next start signal kicks and calls, because a notification may have been lost on the old
 * path.
 */
static void note_notifications(struct vublk_device *device)
{
	if (device->resume == VUBLK_DEVICE_RESUME_NOTHING)
		device->resume = VUBLK_DEVICE_RESUME_NOTIFY;
}

/* If the rings should no longer run, ends the exchange and returns true. */
static bool is_overtaken(struct vublk_device *device)
{
	if (vublk_device_should_run(device))
		return false;
	vublk_device_exchange_change(device, VUBLK_DEVICE_EXCHANGE_EVENT_OVERTAKEN, NULL);
	settle(device);
	return true;
}

static int turn(struct vublk_device *device)
{
	struct vublk_device_exchange *exchange = &device->exchange;
	bool is_wanted = vublk_device_shadow_reasons(device);
	struct vublk_error error;

	if (is_overtaken(device))
		return 0;
	note_notifications(device);
	if (check_drained(device, &error) < 0) {
		refuse(device, VUBLK_DEVICE_EXCHANGE_EVENT_REFUSED, &error);
		return 1;
	}
	exchange->path = is_wanted ? VUBLK_DEVICE_PATH_SHADOW : VUBLK_DEVICE_PATH_DIRECT;
	vublk_device_exchange_change(device, VUBLK_DEVICE_EXCHANGE_EVENT_STOPPED, NULL);
	return 1;
}

/*
 * Makes the rings start on the old path again after a start on the other path has failed. The other
 * path has taken no request. Returns the same values as vublk_device_exchange_turn().
 */
static int turn_back(struct vublk_device *device, struct vublk_error *error)
{
	struct vublk_device_exchange *exchange = &device->exchange;
	struct vublk_error cause = device->failure;
	int r = 0;

	if (vublk_device_is_shadowed(device)) {
		vublk_device_shadow_drop(device);
		exchange->path = VUBLK_DEVICE_PATH_DIRECT;
	} else {
		r = continue_at_used_index(device, error);
		exchange->path = VUBLK_DEVICE_PATH_SHADOW;
	}
	if (r < 0)
		return r;
	device->failure.code = 0;
	note_notifications(device);
	if (is_overtaken(device))
		return 0;
	refuse(device, VUBLK_DEVICE_EXCHANGE_EVENT_REFUSED, &cause);
	return 1;
}

int vublk_device_exchange_turn(struct vublk_device *device, struct vublk_error *error)
{
	switch (device->exchange.phase) {
	case VUBLK_DEVICE_EXCHANGE_STOPPING:
		return turn(device);
	case VUBLK_DEVICE_EXCHANGE_STARTING:
		if (device->failure.code)
			return turn_back(device, error);
		is_overtaken(device);
		return 0;
	case VUBLK_DEVICE_EXCHANGE_UNDOING:
		is_overtaken(device);
		return 0;
	default:
		return 0;
	}
}

/* --- the end ---------------------------------------------------------------------------------- */

void vublk_device_exchange_started(struct vublk_device *device)
{
	vublk_device_report_path(device);
	if (!vublk_device_exchange_change(device, VUBLK_DEVICE_EXCHANGE_EVENT_STARTED, NULL))
		return;
	settle(device);
	if (device->exchange.phase == VUBLK_DEVICE_EXCHANGE_NONE)
		vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_INFO, "requests now use "
				  "%s",
				  vublk_device_is_shadowed(device) ? "the shadow rings" :
				  "the direct path");
}

void vublk_device_exchange_init(struct vublk_device *device)
{
	device->exchange.timer.fn = on_timer;
	device->exchange.timer.opaque = device;
	vublk_device_path_init(device);
}

void vublk_device_exchange_end(struct vublk_device *device,
			       enum vublk_device_exchange_event event)
{
	if (vublk_device_exchange_change(device, event, NULL))
		settle(device);
	close_idle_fds(device);
}

void vublk_device_exchange_deinit(struct vublk_device *device)
{
	vublk_device_exchange_end(device, VUBLK_DEVICE_EXCHANGE_EVENT_LOST);
	vublk_loop_cancel(&device->loop, &device->exchange.notice_task);
	vublk_loop_timer_disarm(&device->exchange.timer);
	free_arrays(device);
	device->exchange.refusal.code = 0;
	device->exchange.path = VUBLK_DEVICE_PATH_DIRECT;
}
