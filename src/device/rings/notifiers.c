/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Handles kick and call descriptors (notifiers). A bus may replace a descriptor while the rings
 * run, to mask an interrupt or to route it elsewhere. The device signals a descriptor whenever a
 * signal may have been lost.
 *
 * Key idea: one bit per descriptor says whether it has to be sent, and all such descriptors are
 * sent in one batch. At most one batch is outstanding. So the device sends at most one message per
 * descriptor and round trip, however often the bus replaces a descriptor. When the back-end has
 * confirmed a new descriptor, the device signals that descriptor once, because a signal on the old
 * one may have been missed.
 *
 * Specification: "VHOST_USER_SET_VRING_KICK", "VHOST_USER_SET_VRING_CALL".
 */
#include "device/device.h"

#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <string.h>

enum { KICK = 1, CALL = 2 };

static int fd_of(const struct vublk_device *device, unsigned index, unsigned which)
{
	const struct vublk_device_queue *queue = &device->queues[index];

	return which == KICK ? queue->kick_fd : queue->call_fd;
}

static unsigned which_is(const struct vublk_frontend_notifier *notifier)
{
	return notifier->request == VUBLK_VU_SET_VRING_KICK ? KICK : CALL;
}

/*
 * Signals the current descriptor of queue `index`. The bus may have replaced and closed the
 * descriptor that was sent.
 */
static void signal_once(const struct vublk_device *device, unsigned index, unsigned which)
{
	int fd = fd_of(device, index, which);

	if (fd >= 0)
		vublk_eventfd_signal(fd);
}

/* --- to the back-end ---------------------------------------------------------------------- */

static void add_change(struct vublk_device *device, unsigned index, unsigned which)
{
	if (!(device->notifiers_changed[index] & which))
		return;
	device->notifiers_changed[index] &= (uint8_t)~which;
	device->notifiers[device->num_notifiers++] = (struct vublk_frontend_notifier){
		.request = which == KICK ? VUBLK_VU_SET_VRING_KICK : VUBLK_VU_SET_VRING_CALL,
		.queue = (uint16_t)index,
		.fd = fd_of(device, index, which),
	};
}

static void on_sent(void *opaque, const struct vublk_error *error)
{
	struct vublk_device *device = opaque;
	unsigned count = device->num_notifiers;

	device->num_notifiers = 0;
	if (error) {
		vublk_frontend_fail(&device->frontend, error);
		return;
	}
	for (unsigned i = 0; i < count; i++)
		signal_once(device, device->notifiers[i].queue,
			    which_is(&device->notifiers[i]));
	vublk_device_post_update(device); /* a stop may wait for the confirmation */
	vublk_device_notifiers_send(device);
	if (!device->num_notifiers && device->state == VUBLK_DEVICE_RUNNING &&
	    device->ops->notifiers_changed)
		device->ops->notifiers_changed(device->bus);
}

void vublk_device_notifiers_settle(struct vublk_device *device)
{
	for (unsigned i = 0; i < device->num_queues; i++)
		if (device->notifiers_changed[i] & CALL)
			signal_once(device, i, CALL);
	memset(device->notifiers_changed, 0, device->num_queues);
	device->num_notifiers = 0;
}

/*
 * Ends all pending changes, including those that began on the direct path. The plane already has
 * the current descriptors.
 */
static void end_change(struct vublk_device *device)
{
	bool is_changed = false;

	for (unsigned i = 0; i < device->num_queues; i++)
		is_changed |= device->notifiers_changed[i];
	vublk_device_notifiers_settle(device);
	if (is_changed && device->ops->notifiers_changed)
		device->ops->notifiers_changed(device->bus);
}

void vublk_device_notifiers_send(struct vublk_device *device)
{
	if (device->state == VUBLK_DEVICE_RUNNING && vublk_device_is_shadowed(device)) {
		end_change(device);
		return;
	}
	if (device->state != VUBLK_DEVICE_RUNNING || device->num_notifiers ||
	    !vublk_device_should_run(device)) /* a stop is due, and more messages would delay it */
		return;
	for (unsigned i = 0; i < device->num_queues; i++) {
		add_change(device, i, KICK);
		add_change(device, i, CALL);
	}
	if (device->num_notifiers)
		vublk_frontend_set_notifiers(&device->frontend, device->notifiers,
					     device->num_notifiers, on_sent, device);
}

void vublk_device_notifiers_renew_kicks(struct vublk_device *device)
{
	for (unsigned i = 0; i < device->num_rings; i++)
		device->notifiers_changed[device->rings[i].index] |= KICK;
	vublk_device_post_update(device);
}

/* --- every ring at once ---------------------------------------------------------------- */

void vublk_device_kick_rings(struct vublk_device *device)
{
	for (unsigned i = 0; i < device->num_rings; i++)
		if (device->rings[i].kick_fd >= 0)
			vublk_eventfd_signal(device->rings[i].kick_fd);
}

void vublk_device_call_rings(struct vublk_device *device)
{
	for (unsigned i = 0; i < device->num_rings; i++)
		signal_once(device, device->rings[i].index, CALL);
}

/* --- the calls ------------------------------------------------------------------------------- */

/*
 * Puts the current descriptors of queue `index` into those messages of a start or a batch that have
 * not been sent yet.
 */
static void replace(struct vublk_device *device, unsigned index)
{
	for (unsigned i = 0; i < device->num_notifiers; i++)
		if (device->notifiers[i].queue == index)
			device->notifiers[i].fd = fd_of(device, index,
							which_is(&device->notifiers[i]));
	for (unsigned i = 0; i < device->num_rings; i++) {
		if (device->rings[i].index != index)
			continue;
		device->rings[i].kick_fd = device->queues[index].kick_fd;
		device->rings[i].call_fd = device->queues[index].call_fd;
	}
}

static int change(struct vublk_device *device, unsigned index, unsigned which, int fd,
		  struct vublk_error *error)
{
	struct vublk_device_queue *queue, before;

	if (index >= device->num_queues || !device->queues[index].size)
		return vublk_error_set(error, EINVAL,
				       "queue %u is not set up, so its %s descriptor cannot be "
				       "replaced",
				       index, which == KICK ? "kick" : "call");
	queue = &device->queues[index];
	before = *queue;
	*(which == KICK ? &queue->kick_fd : &queue->call_fd) = fd;
	vublk_device_unwatch_kicks(device);
	vublk_device_post_update(device);
	if (vublk_device_is_shadowed(device)) {
		int r = 0;

		if (which == CALL)
			vublk_device_shadow_set_call(device, index);
		else
			r = vublk_device_shadow_set_kick(device, index, error);
		if (r < 0)
			*queue = before;
		return r;
	}
	if (!vublk_device_has_rings_out(device))
		return 0;
	replace(device, index);
	device->notifiers_changed[index] |= (uint8_t)which;
	vublk_device_notifiers_send(device);
	return 1;
}

int vublk_device_set_queue_kick(struct vublk_device *device, unsigned index, int fd,
				struct vublk_error *error)
{
	return change(device, index, KICK, fd, error);
}

int vublk_device_set_queue_call(struct vublk_device *device, unsigned index, int fd,
				struct vublk_error *error)
{
	return change(device, index, CALL, fd, error);
}
