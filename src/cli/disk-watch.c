/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reports outages of a command's disk, and warns if the next back-end seems to serve another disk.
 * The library reconnects, and the command decides when to end.
 *
 * Key idea: a disk is recognized by its capacity, which the library knows, and by its serial, which
 * costs a request. The serial of a later back-end is compared with the first serial. Its capacity
 * is compared with the first capacity or, after a resize, with the new capacity.
 */
#include "cli/disk-watch.h"

#include <inttypes.h>
#include <string.h>

void vublk_disk_watch_init(struct vublk_disk_watch *watch, const char *command, const char *path)
{
	*watch = (struct vublk_disk_watch){ .command = command, .path = path };
}

void vublk_disk_watch_start(struct vublk_disk_watch *watch, struct vublk_blk *blk, bool asks)
{
	struct vublk_blk_info info = { 0 };

	vublk_blk_get_info(blk, &info, sizeof(info));
	watch->capacity_bytes = info.capacity_bytes;
	watch->asks = asks;
	__atomic_store_n(&watch->blk, blk, __ATOMIC_RELEASE);
}

int vublk_disk_open_watched(const char *command, const char *path,
			    const struct vublk_disk_options *options,
			    struct vublk_disk_watch *watch, struct vublk_blk **blk,
			    struct vublk_error *error)
{
	const struct vublk_blk_handlers handlers = {
		.event = vublk_disk_watch_event, .opaque = watch,
	};
	int ret;

	vublk_disk_watch_init(watch, command, path);
	ret = vublk_disk_open(command, path, options, &handlers, blk, error);
	if (!ret)
		vublk_disk_watch_start(watch, *blk, vublk_disk_reconnects(options));
	return ret;
}

bool vublk_disk_watch_has_outage(const struct vublk_disk_watch *watch)
{
	return watch && __atomic_load_n(&watch->outage, __ATOMIC_RELAXED);
}

bool vublk_disk_watch_has_lost_writes(const struct vublk_disk_watch *watch)
{
	return watch && __atomic_load_n(&watch->writes_lost, __ATOMIC_ACQUIRE);
}

/* --- capacity ------------------------------------------------------------------- */

/*
 * Called when the disk has been resized. A back-end that reports a new size while it is connected
 * still serves the same disk, so the new capacity becomes the reference.
 */
static void take_resize(struct vublk_disk_watch *watch)
{
	struct vublk_blk *blk = __atomic_load_n(&watch->blk, __ATOMIC_ACQUIRE);
	struct vublk_blk_info info = { 0 };

	if (!blk || watch->outage)
		return;
	vublk_blk_get_info(blk, &info, sizeof(info));
	watch->capacity_bytes = info.capacity_bytes;
}

static void check_capacity(struct vublk_disk_watch *watch)
{
	struct vublk_blk *blk = __atomic_load_n(&watch->blk, __ATOMIC_ACQUIRE);
	struct vublk_blk_info info = { 0 };

	if (!blk)
		return;
	vublk_blk_get_info(blk, &info, sizeof(info));
	if (info.capacity_bytes == watch->capacity_bytes || watch->warned_capacity)
		return;
	watch->warned_capacity = true;
	vublk_cli_warn(watch->command, "the capacity of the disk at '%s' changed from %" PRIu64
		       " to %" PRIu64 " bytes when the new back-end connected; check that this "
		       "back-end serves the same disk", watch->path, watch->capacity_bytes,
		       info.capacity_bytes);
}

/* --- events --------------------------------------------------------------------- */

void vublk_disk_watch_event(void *opaque, enum vublk_blk_event event,
			    const struct vublk_error *error)
{
	struct vublk_disk_watch *watch = opaque;

	switch (event) {
	case VUBLK_BLK_LOST:
		__atomic_store_n(&watch->outage, 1, __ATOMIC_RELAXED);
		vublk_cli_say_limited(watch->command, &watch->outage_limit,
				      "%s; requests wait for the next back-end", error->text);
		break;
	case VUBLK_BLK_WRITES_LOST:
		__atomic_store_n(&watch->writes_lost, 1, __ATOMIC_RELEASE);
		break;
	case VUBLK_BLK_RECONNECTED:
		vublk_cli_say_limited(watch->command, &watch->reconnected_limit,
				      "a back-end is connected again");
		check_capacity(watch);
		__atomic_add_fetch(&watch->reconnections, 1, __ATOMIC_RELAXED);
		__atomic_store_n(&watch->outage, 0, __ATOMIC_RELAXED);
		break;
	case VUBLK_BLK_RESIZED:
		take_resize(watch);
		break;
	default:
		break;
	}
}

/* --- serial --------------------------------------------------------------------- */

static void compare_serials(struct vublk_disk_watch *watch)
{
	vublk_disk_clean_serial(watch->answer);
	if (!watch->serial[0]) {
		memcpy(watch->serial, watch->answer, sizeof(watch->serial));
		return;
	}
	if (!strcmp(watch->serial, watch->answer) || watch->warned_serial)
		return;
	watch->warned_serial = true;
	vublk_cli_warn(watch->command, "the serial of the disk at '%s' changed from '%s' to '%s' "
		       "when the new back-end connected; check that this back-end serves the same "
		       "disk", watch->path, watch->serial, watch->answer);
}

void vublk_disk_watch_poll(struct vublk_disk_watch *watch, struct vublk_blk_queue *queue)
{
	unsigned reconnections;

	if (!watch || !watch->asks || watch->asking)
		return;
	reconnections = __atomic_load_n(&watch->reconnections, __ATOMIC_RELAXED);
	if (watch->has_answer && watch->asked_at == reconnections)
		return;
	watch->asked_at = reconnections;
	watch->has_answer = false;
	watch->asking = !vublk_blk_get_id(queue, watch->answer, 0, watch, NULL);
}

bool vublk_disk_watch_take(struct vublk_disk_watch *watch,
			   const struct vublk_blk_completion *completion)
{
	if (!watch || completion->user_data != watch)
		return false;
	watch->asking = false;
	/*
	 * If the back-end was replaced after the request was added, either back-end may have
	 * answered it, so the serial is requested again.
	 */
	if (watch->asked_at != __atomic_load_n(&watch->reconnections, __ATOMIC_RELAXED))
		return true;
	watch->has_answer = true;
	if (!completion->result)
		compare_serials(watch);
	return true;
}
