/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Makes the device match the set-up that the VMM has made. This file defines the order of the
 * steps, and has all steps except those that reclaim rings (reclaim.c) or hand them over
 * (handover.c).
 *
 * Key idea: step() compares the device with the set-up and removes the first difference.
 * vublk_relay_settle() calls step() until there is no difference, or until the relay has to wait
 * for the device.
 *
 * A VMM starts and stops each queue separately. The device starts and stops all of them together,
 * and after a loss it resumes all of them by itself with the next back-end. So if the VMM wants a
 * different set of rings, or a ring at another address, the relay reclaims all rings and hands the
 * new set over as a new session. Memory, kick and call descriptors can change while rings run.
 */
#include "bus/relay/relay.h"
#include "device/link/mirror.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>

/* --- features, area and memory --------------------------------------------- */

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

static void give_area(struct vublk_relay *relay)
{
	struct vublk_error error;

	relay->changes &= ~(unsigned)VUBLK_RELAY_AREA;
	if (relay->area.fd < 0 ||
	    !vublk_device_set_inflight(relay->device, &relay->area, sizeof(relay->area), &error))
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

/* --- the dirty log --------------------------------------------------------- */

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

/*
 * Turns logging on or off, even while rings run. A ring that starts later is logged from its start.
 *
 * If the disk is being mirrored, the mirror ends here. Otherwise the device would refuse the log,
 * and QEMU before 9.1 would then abort, which ends the VM.
 */
static void change_log(struct vublk_relay *relay)
{
	struct vublk_error error;
	int r;

	relay->changes &= ~(unsigned)VUBLK_RELAY_LOG;
	if (!relay->is_logging)
		vublk_device_mirror_end_for_migration(relay->device);
	if (relay->is_logging)
		r = vublk_device_dirty_log_stop(relay->device, &error);
	else
		r = vublk_device_dirty_log_start(relay->device, &relay->log, sizeof(relay->log),
						 &error);
	relay->is_logging = !relay->is_logging;
	if (r > 0)
		relay->asked = VUBLK_RELAY_ASKED_LOG;
	if (r < 0)
		vublk_relay_refuse_log(relay, &error);
}

/* --- kick and call descriptors --------------------------------------------- */

/*
 * Gives the device a duplicate of the descriptor `given` (-1: no descriptor), because the VMM may
 * replace `given` while the device uses the duplicate.
 */
static void replace(struct vublk_relay *relay, struct vublk_relay_queue *queue, int given,
		    int *handed,
		    int (*set)(struct vublk_device *device, unsigned index, int fd,
			       struct vublk_error *error))
{
	struct vublk_error error;
	int fd = given < 0 ? -1 : fcntl(given, F_DUPFD_CLOEXEC, 0);
	int r;

	if (given >= 0 && fd < 0) {
		vublk_error_set_errno(&error, errno, "cannot duplicate a descriptor of queue %u",
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

/*
 * Gives the device the descriptors that have changed. Returns false if no descriptor has changed.
 */
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

/* --- the order ------------------------------------------------------------- */

/*
 * Removes the first difference between the device and the set-up. Returns false if no difference
 * can be removed now.
 */
static bool step(struct vublk_relay *relay)
{
	if (relay->set == VUBLK_RELAY_SET_PAUSING ||
	    (relay->set == VUBLK_RELAY_SET_OUT && vublk_relay_must_reclaim(relay)))
		vublk_relay_reclaim(relay);
	else if (relay->changes & VUBLK_RELAY_RESET)
		vublk_relay_end_device_session(relay);
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
		return relay->set == VUBLK_RELAY_SET_OUT ? change_notifiers(relay) : vublk_relay_hand_over(relay);
	return true;
}

static bool is_under_way(const struct vublk_relay *relay)
{
	enum vublk_device_state state = vublk_device_state(relay->device);

	return relay->asked || state == VUBLK_DEVICE_STARTING ||
	       state == VUBLK_DEVICE_STOPPING ||
	       (relay->set == VUBLK_RELAY_SET_PAUSING &&
		vublk_device_has_rings_out(relay->device));
}

bool vublk_relay_settle(struct vublk_relay *relay)
{
	while (!is_under_way(relay))
		if (!step(relay))
			return true;
	return false;
}
