/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The fence records which processes had the rings, and finds out whether one of them may still
 * write to the disk. paths.c checks the fence before the device tries a back-end at another path.
 *
 * Key idea: the end of a connection does not stop the back-end. A back-end that hangs, or that
 * closed the connection with requests under way, may later write to the disk, and overwrite what
 * the next back-end has written. Only the end of its process rules this out, so the device keeps a
 * pidfd of the process, even after another process has taken its place at the same path. A process
 * that was never given rings has nothing to write.
 */
#include "device/device.h"

#include "util/error.h"
#include "util/struct.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>

static bool awaits_exit(const struct vublk_device *device)
{
	return !strcmp(device->settings.fence, "exit");
}

/*
 * Returns whether the device needs a fence: it has several paths or the property fence=exit. A
 * device without a fence does not even open a pidfd.
 */
static bool is_needed(const struct vublk_device *device)
{
	return device->settings.chardevs[1][0] || awaits_exit(device);
}

void vublk_device_fence_connected(struct vublk_device *device)
{
	struct vublk_device_fence *fence = &device->fence;

	vublk_peer_close(&fence->peer);
	fence->owns = false;
	if (!is_needed(device))
		return;
	vublk_peer_find(&fence->peer, device->frontend.channel.fd);
	if (fence->peer.pidfd < 0)
		vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING,
				  "cannot find the process of the back-end '%s' (%s); if the "
				  "connection is lost, the device cannot tell whether that process "
				  "is still running", vublk_device_path(device), fence->peer.why);
}

static void forget_former(struct vublk_device_fence *fence, unsigned index)
{
	vublk_peer_close(&fence->former[index]);
	fence->former[index] = fence->former[--fence->num_former];
	vublk_peer_init(&fence->former[fence->num_former]);
}

/*
 * Keeps the owner in `former` if it is alive and is not the process of the current connection.
 * Equal PIDs mean the same process, because the PID of a live process is not reused.
 */
static void keep_owner(struct vublk_device *device)
{
	struct vublk_device_fence *fence = &device->fence;
	struct vublk_peer *owner = &fence->owner;

	for (unsigned i = fence->num_former; i--;)
		if (vublk_peer_has_ended(&fence->former[i]) ||
		    (fence->peer.pid && fence->former[i].pid == fence->peer.pid))
			forget_former(fence, i);
	if (owner->pidfd < 0 || vublk_peer_has_ended(owner) ||
	    (owner->pid && owner->pid == fence->peer.pid))
		return;
	if (fence->num_former == VUBLK_DEVICE_MAX_FORMER) {
		vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING,
				  "%u processes that had the disk before are alive; the device no longer "
				  "waits for process %" PRId64 " before the disk continues at another path",
				  fence->num_former + 1, fence->former[0].pid);
		forget_former(fence, 0);
	}
	vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_INFO,
			  "process %" PRId64 ", which had the disk before, is alive; if the "
			  "connection to the back-end is lost, this process, too, has to end "
			  "before the disk continues at another path",
			  owner->pid);
	fence->former[fence->num_former++] = *owner;
	vublk_peer_init(owner);
}

void vublk_device_fence_claim(struct vublk_device *device)
{
	struct vublk_device_fence *fence = &device->fence;

	if (fence->owns || !is_needed(device))
		return;
	vublk_loop_remove(&fence->source);
	keep_owner(device);
	vublk_peer_close(&fence->owner);
	fence->owner = fence->peer;
	vublk_peer_init(&fence->peer);
	fence->has_owner = fence->owns = true;
}

/*
 * If the connection stays open when the owner ends, another process has the connection, too: `vublk
 * serve --take-over` has replaced the owner. The device cannot identify the new process, so it must
 * not mistake the end of the old one for the end of the back-end.
 */
static void doubt_owner(struct vublk_device *device)
{
	struct vublk_device_fence *fence = &device->fence;

	if (fence->owns && !device->frontend.peer_has_closed && vublk_peer_has_ended(&fence->owner))
		vublk_peer_was_replaced(&fence->owner);
}

/*
 * With fence=exit, a process that had the rings has to end only if the device closed the
 * connection, because the back-end did not answer in time or broke the protocol. Such a back-end
 * may not know that it was abandoned. A back-end that closed the connection knows that it has lost
 * the rings.
 */
void vublk_device_fence_lost(struct vublk_device *device, const struct vublk_error *error)
{
	struct vublk_device_fence *fence = &device->fence;

	if (vublk_frontend_may_have_begun(&device->frontend))
		vublk_device_fence_claim(device);
	doubt_owner(device);
	fence->must_end = awaits_exit(device) && fence->owns &&
			  (error->code == ETIMEDOUT || error->code == EPROTO);
}

/* Returns an owner whose process may still be running, or NULL if all have ended. */
static const struct vublk_peer *find_living(const struct vublk_device_fence *fence)
{
	if (fence->has_owner && !vublk_peer_has_ended(&fence->owner))
		return &fence->owner;
	for (unsigned i = 0; i < fence->num_former; i++)
		if (!vublk_peer_has_ended(&fence->former[i]))
			return &fence->former[i];
	return NULL;
}

int vublk_device_fence_check(const struct vublk_device *device, struct vublk_error *error)
{
	const struct vublk_peer *owner = find_living(&device->fence);
	const char *which;

	if (!owner)
		return 0;
	which = owner == &device->fence.owner ? "the previous" : "an earlier";
	if (owner->pidfd < 0)
		return vublk_error_set(error, EBUSY, "the process of the previous back-end cannot "
				       "be found (%s) and may still write to the disk; make sure "
				       "that it has ended, then restart this device", owner->why);
	if (!owner->pid)
		return vublk_error_set(error, EBUSY, "the process of %s back-end, which is in "
				       "another PID namespace, is alive and may still write to the "
				       "disk; end it", which);
	return vublk_error_set(error, EBUSY, "process %" PRId64 " of %s back-end is alive "
			       "and may still write to the disk; end it (kill -KILL %" PRId64 ")",
			       owner->pid, which, owner->pid);
}

int vublk_device_fence_hold(struct vublk_device *device, struct vublk_error *error)
{
	int r = device->fence.must_end ? vublk_device_fence_check(device, error) : 0;

	if (r < 0)
		vublk_device_fence_await(device);
	else
		device->fence.must_end = false;
	return r;
}

void vublk_device_fence_await(struct vublk_device *device)
{
	struct vublk_device_fence *fence = &device->fence;
	const struct vublk_peer *owner = find_living(fence);

	if (owner && owner->pidfd >= 0 && !fence->source.loop)
		vublk_loop_add(&device->loop, &fence->source, owner->pidfd, EPOLLIN, NULL);
}

void vublk_device_fence_release(struct vublk_device *device)
{
	struct vublk_device_fence *fence = &device->fence;

	vublk_loop_remove(&fence->source);
	vublk_peer_close(&fence->owner);
	fence->has_owner = fence->owns = fence->must_end = false;
}

void vublk_device_fence_drop(struct vublk_device *device)
{
	vublk_device_fence_release(device);
	vublk_peer_close(&device->fence.peer);
	while (device->fence.num_former)
		forget_former(&device->fence, 0);
}

void vublk_device_get_fence(const struct vublk_device *device, struct vublk_device_fence_info *info,
			    size_t info_bytes)
{
	struct vublk_device_fence_info own = { .pid = 0 };
	bool is_awaited = device->paths.since_ns &&
			  (device->paths.is_held || device->fence.must_end);
	struct vublk_error error;

	if (is_awaited && vublk_device_fence_check(device, &error) < 0) {
		own.is_held = true;
		own.pid = find_living(&device->fence)->pid;
		snprintf(own.reason, sizeof(own.reason), "%s", error.text);
	}
	vublk_struct_out(info, info_bytes, &own, sizeof(own));
}
