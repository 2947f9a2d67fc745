/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Notices of the device: see <vublk/notice.h>.
 *
 * Key idea: the code in which an event occurs makes one call to this file, and this file gathers
 * the data that only the notice needs. It counts the outstanding requests only if there is a
 * handler.
 */
#include "device/device.h"

#include "util/crc32c.h"
#include "util/probe.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <string.h>

#define NS_PER_MS UINT64_C(1000000)

void vublk_device_set_notice_handler(struct vublk_device *device, vublk_notice_fn *fn, void *opaque)
{
	device->notices.notifier = (struct vublk_notifier){ fn, opaque };
}

static void notify(struct vublk_device *device, const struct vublk_notice *notice)
{
	vublk_notify(&device->notices.notifier, notice);
}

static uint64_t size_bytes(const struct vublk_device *device)
{
	const struct virtio_blk_config *config = (const void *)device->config;

	return le64toh(config->capacity) * VUBLK_SECTOR_BYTES;
}

static uint64_t count_requests(const struct vublk_device *device)
{
	struct vublk_device_place place;
	uint64_t n = 0;

	for (unsigned i = 0; i < device->num_queues; i++)
		if (device->queues[i].size &&
		    !vublk_device_queue_place(device, i, &place, sizeof(place), NULL))
			n += place.outstanding;
	return n;
}

void vublk_device_notify_connected(struct vublk_device *device)
{
	struct vublk_device_notices *notices = &device->notices;
	const char *path = vublk_device_path(device);
	uint32_t sum = vublk_crc32c(path, strlen(path));
	bool is_known = notices->is_expected && notices->path == sum;

	notices->size_bytes = size_bytes(device);
	notices->refusal = 0;
	notices->is_expected = false;
	notices->path = sum;
	if (!notices->notifier.fn || is_known)
		return;
	notices->requests = count_requests(device);
	notify(device, &(struct vublk_notice){
		.kind = VUBLK_NOTICE_CONNECTED, .size_bytes = notices->size_bytes,
		.back_end = path,
	});
}

void vublk_device_notify_lost(struct vublk_device *device, const struct vublk_error *error)
{
	struct vublk_device_notices *notices = &device->notices;

	notices->is_expected = error->code == ECANCELED;
	notices->refusal = 0;
	if (notices->is_expected)
		return;
	VUBLK_PROBE2(device_lost, error->code, error->text);
	notices->has_loss = true;
	notify(device, &(struct vublk_notice){
		.kind = VUBLK_NOTICE_LOST, .reason = error->text,
	});
}

void vublk_device_notify_outage_end(struct vublk_device *device)
{
	struct vublk_device_notices *notices = &device->notices;
	uint64_t lost_ns = device->reconnect.lost_ns, outage_ms;
	bool has_recovered = notices->has_loss && lost_ns && vublk_device_is_connected(device) &&
			     device->resume != VUBLK_DEVICE_RESUME_NEVER; /* otherwise a needs-reset
									     notice was sent */

	notices->has_loss = false;
	if (!has_recovered)
		return;
	outage_ms = (vublk_now_ns() - lost_ns) / NS_PER_MS;
	VUBLK_PROBE1(device_recovered, outage_ms);
	notify(device, &(struct vublk_notice){
		.kind = VUBLK_NOTICE_RECOVERED, .requests = notices->requests,
		.outage_ms = outage_ms,
	});
}

void vublk_device_notify_refused(struct vublk_device *device, const struct vublk_error *error)
{
	uint32_t sum = vublk_crc32c(error->text, strlen(error->text));

	if (device->notices.refusal == sum)
		return;
	device->notices.refusal = sum;
	device->notices.is_expected = false;
	notify(device, &(struct vublk_notice){
		.kind = VUBLK_NOTICE_REFUSED, .reason = error->text,
	});
}

void vublk_device_notify_gave_up(struct vublk_device *device, const struct vublk_error *error)
{
	notify(device, &(struct vublk_notice){
		.kind = VUBLK_NOTICE_GAVE_UP, .reason = error->text,
	});
}

void vublk_device_notify_config(struct vublk_device *device)
{
	struct vublk_notice notice = {
		.kind = VUBLK_NOTICE_RESIZED, .before_bytes = device->notices.size_bytes,
		.size_bytes = size_bytes(device),
	};

	device->notices.size_bytes = notice.size_bytes;
	if (notice.size_bytes != notice.before_bytes)
		notify(device, &notice);
}

void vublk_device_notify_slow(struct vublk_device *device, const struct vublk_plane_slow *slow)
{
	notify(device, &(struct vublk_notice){
		.kind = VUBLK_NOTICE_SLOW_REQUEST, .queue = slow->queue, .request = slow->kind,
		.offset_bytes = slow->offset, .bytes = slow->bytes, .requests = slow->num_slow,
		.waited_ms = slow->waited_ns / NS_PER_MS,
	});
}

void vublk_device_notify_needs_reset(struct vublk_device *device, const struct vublk_error *error)
{
	notify(device, &(struct vublk_notice){
		.kind = VUBLK_NOTICE_NEEDS_RESET, .reason = error->text,
	});
}

void vublk_device_notify_target(struct vublk_device *device, enum vublk_notice_kind kind,
				const char *target, const struct vublk_error *error)
{
	notify(device, &(struct vublk_notice){
		.kind = kind, .back_end = target, .reason = error ? error->text : NULL,
	});
}

void vublk_device_notify_reason(struct vublk_device *device, enum vublk_notice_kind kind,
				const char *reason)
{
	notify(device, &(struct vublk_notice){ .kind = kind, .reason = reason });
}

void vublk_device_notify_pause(struct vublk_device *device, bool paused)
{
	struct vublk_notice notice = {
		.kind = paused ? VUBLK_NOTICE_PAUSING : VUBLK_NOTICE_RESUMED,
	};

	if (!device->notices.notifier.fn)
		return;
	if (paused)
		notice.requests = count_requests(device);
	notify(device, &notice);
}

void vublk_device_notify_limits(struct vublk_device *device)
{
	notify(device, &(struct vublk_notice){
		.kind = VUBLK_NOTICE_LIMITS_CHANGED, .limits = &device->settings.limits,
		.limits_bytes = sizeof(device->settings.limits),
	});
}

void vublk_device_notify_replayed(struct vublk_device *device, uint64_t writes, uint64_t bytes)
{
	notify(device, &(struct vublk_notice){
		.kind = VUBLK_NOTICE_REPLAYED, .requests = writes, .bytes = bytes,
	});
}
