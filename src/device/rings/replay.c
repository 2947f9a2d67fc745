/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The device's part of unflushed=replay. The plane keeps a copy of each completed write until a
 * flush has made the write stable, and writes the copies to the next back-end (src/plane/replay.c).
 *
 * Key idea: the copies belong to the disk and not to a session of the driver, so they outlive
 * pauses and resets. But a stop waits until the copied writes are stable, because a VMM may
 * continue the guest elsewhere, where the copies are not available.
 */
#include "device/device.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/struct.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <string.h>

bool vublk_device_replays(const struct vublk_device *device)
{
	return device->shadow.thread && !strcmp(device->settings.unflushed, "replay");
}

bool vublk_device_replay_has_writes(const struct vublk_device *device)
{
	return vublk_device_replays(device) &&
	       !vublk_plane_thread_is_settled(device->shadow.thread);
}

/*
 * If the back-end does not offer FLUSH, warns that unflushed=replay has no effect. Such a back-end
 * has no write cache (virtio 1.3, section 5.2.6.2).
 */
static void warn_of_missing_flush(struct vublk_device *device)
{
	if (device->features & VUBLK_BIT(VIRTIO_BLK_F_FLUSH))
		return;
	vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING,
			  "unflushed=replay has no effect, because the back-end at '%s' does not "
			  "offer FLUSH; a write counts as stable when it completes",
			  vublk_device_path(device));
}

int vublk_device_replay_init(struct vublk_device *device, struct vublk_error *error)
{
	if (!vublk_device_replays(device))
		return 0;
	warn_of_missing_flush(device);
	return vublk_plane_thread_keep_writes(device->shadow.thread,
					      device->settings.replay_mib << 20, error);
}

int vublk_device_replay_check_backend(const struct vublk_device *device, struct vublk_error *error)
{
	const struct virtio_blk_config *config = (const void *)device->config;
	uint64_t end, sectors = le64toh(config->capacity);

	if (!vublk_device_replays(device))
		return 0;
	end = vublk_plane_thread_end_of_kept(device->shadow.thread);
	if (end >> VUBLK_SECTOR_SHIFT <= sectors)
		return 0;
	return vublk_error_set(error, ENOSPC, "the back-end has %" PRIu64 " sectors of 512 bytes, "
			       "but the device must repeat a completed write that ends at sector "
			       "%" PRIu64 "; use a back-end that is large enough", sectors,
			       end >> VUBLK_SECTOR_SHIFT);
}

/*
 * A driver that does not accept FLUSH may follow a driver that left unflushed writes. If FLUSH were
 * not negotiated, the plane could repeat these writes, but would have to free its copies while the
 * back-end may have the writes only in its own memory. If FLUSH is negotiated, the back-end may
 * cache this driver's writes, too, so the plane flushes each of them before it completes the write.
 */
void vublk_device_replay_begin_start(struct vublk_device *device)
{
	device->shadow.adds_flush = !(device->acked_features & VUBLK_BIT(VIRTIO_BLK_F_FLUSH)) &&
				    vublk_device_is_shadowed(device) &&
				    vublk_device_replay_has_writes(device) &&
				    vublk_plane_thread_end_of_kept(device->shadow.thread);
}

uint32_t vublk_device_replay_segment_bytes(const struct vublk_device *device)
{
	const struct virtio_blk_config *config = (const void *)device->config;

	return device->features & VUBLK_BIT(VIRTIO_BLK_F_SIZE_MAX) ? le32toh(config->size_max) : 0;
}

void vublk_device_replay_overdue(const struct vublk_device *device, struct vublk_error *error)
{
	vublk_error_set(error, ETIMEDOUT, "the driver's rings must stop, but completed writes were "
			"not flushed within %u ms; this process keeps copies of these writes for "
			"the next back-end",
			(unsigned)device->settings.request_timeout_ms);
}

/*
 * Does not warn while a back-end is connected, because that back-end has the writes, and loses them
 * only if it dies later.
 */
void vublk_device_replay_abandon(struct vublk_device *device)
{
	if (!vublk_device_replays(device) || vublk_device_is_connected(device) ||
	    !vublk_plane_thread_end_of_kept(device->shadow.thread))
		return;
	vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING,
			  "the device is closed without a back-end, and discards its copies of writes "
			  "that were completed but not flushed; if the back-end at '%s' has not stored "
			  "these writes, they are lost",
			  vublk_device_path(device));
}

void vublk_device_replay_ended(void *opaque)
{
	struct vublk_device *device = opaque;
	struct vublk_plane_replay_info info;

	vublk_plane_thread_get_replay(device->shadow.thread, &info);
	if (info.replays != device->notices.replays)
		vublk_device_notify_replayed(device, info.last_writes, info.last_bytes);
	if (info.failure)
		vublk_device_notify_reason(device, VUBLK_NOTICE_REPLAY_FAILED, info.failure);
	device->notices.replays = info.replays;
}

void vublk_device_get_replay(const struct vublk_device *device, struct vublk_replay_info *info,
			     size_t info_bytes)
{
	struct vublk_replay_info own = { .is_on = vublk_device_replays(device) };
	struct vublk_plane_replay_info plane;

	if (own.is_on) {
		vublk_plane_thread_get_replay(device->shadow.thread, &plane);
		own.is_replaying = plane.is_replaying;
		own.kept_bytes = plane.kept_bytes;
		own.max_bytes = plane.max_bytes;
		own.replays = plane.replays;
		own.total_writes = plane.total_writes;
		own.total_bytes = plane.total_bytes;
		own.last_writes = plane.last_writes;
		own.last_bytes = plane.last_bytes;
		snprintf(own.failure, sizeof(own.failure), "%s", plane.failure ? plane.failure : "");
	}
	vublk_struct_out(info, info_bytes, &own, sizeof(own));
}

/* --- flushes that the driver does not know of ------------------------------------------------ */

void vublk_device_flush_must_fail(void *opaque)
{
	struct vublk_device *device = opaque;

	device->exchange.reasons |= (uint32_t)1 << VUBLK_DEVICE_SHADOW_FOR_FLUSH;
	vublk_device_post_update(device);
}

void vublk_device_flush_failed(void *opaque)
{
	struct vublk_device *device = opaque;

	device->exchange.reasons &= ~((uint32_t)1 << VUBLK_DEVICE_SHADOW_FOR_FLUSH);
	vublk_device_post_update(device);
}
