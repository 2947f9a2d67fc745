/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_DEVICE_SHADOW_H
#define VUBLK_DEVICE_SHADOW_H

/*
 * Connects the request plane (src/plane) with the device; see rings/shadow.c. Part of device.h. A
 * side is the set of rings that the plane makes for one connection to a back-end.
 */
#include "device/device.h"
#include "util/sections.h"

/*
 * Called in realize when the number of queues is known. Makes the plane if the property shadow is
 * on.
 */
int vublk_device_shadow_init(struct vublk_device *device, struct vublk_error *error);
/* Makes the plane (a thread) if it does not exist yet. The number of queues must be known. */
int vublk_device_shadow_make(struct vublk_device *device, struct vublk_error *error);
/* Checks that the plane has room for the longest requests of the driver. Error: ENOTSUP. */
int vublk_device_shadow_check(const struct vublk_device *device, struct vublk_error *error);
/*
 * Returns whether an exchange of the request path is possible: the driver has broken no ring that
 * the plane has, and no access of the plane to the guest's memory or the in-flight area has failed.
 */
bool vublk_device_shadow_is_sound(const struct vublk_device *device);
/*
 * Unless shadow=off, lowers seg_max in `config` to the number of segments for which the plane has
 * room.
 */
void vublk_device_shadow_limit(const struct vublk_device *device,
			       struct virtio_blk_config *config);
/* Abandons the driver's rings, and frees the plane and its side. Idempotent. */
void vublk_device_shadow_deinit(struct vublk_device *device);
/*
 * Returns whether the plane is in the data path. While the rings do not run, returns whether the
 * next start will use the plane.
 */
static inline bool vublk_device_is_shadowed(const struct vublk_device *device)
{
	return device->exchange.path == VUBLK_DEVICE_PATH_SHADOW;
}
/* Returns whether the plane has the driver's rings. */
static inline bool vublk_device_shadow_is_attached(const struct vublk_device *device)
{
	return device->shadow.memory;
}
/*
 * Returns whether the plane has a back-end for requests: from the end of a start to a stop or a
 * loss.
 */
bool vublk_device_shadow_has_backend(const struct vublk_device *device);
/* Returns whether the plane has requests of the driver that are not complete. */
bool vublk_device_shadow_has_requests(const struct vublk_device *device);

/*
 * Returns whether the plane has the driver's rings and either requests that are not complete, or
 * copies of completed writes that no flush has made stable.
 */
bool vublk_device_shadow_is_unsettled(const struct vublk_device *device);

/* --- rings/replay.c: completed writes that are not stable ------------------------------------- */

/*
 * Returns whether the plane keeps copies of completed writes until they are stable
 * (unflushed=replay).
 */
bool vublk_device_replays(const struct vublk_device *device);
/*
 * With unflushed=replay, returns whether the plane has copies of writes that are not stable, or
 * requests that are not complete. Otherwise returns false.
 */
bool vublk_device_replay_has_writes(const struct vublk_device *device);
/*
 * Called when the plane has been made. With unflushed=replay, makes the plane keep copies of
 * completed writes.
 */
int vublk_device_replay_init(struct vublk_device *device, struct vublk_error *error);
/*
 * Checks that the new back-end's disk is large enough for the writes that the plane keeps. Error:
 * ENOSPC.
 */
int vublk_device_replay_check_backend(const struct vublk_device *device,
				      struct vublk_error *error);
/*
 * Called when a start begins and its path is chosen. Decides whether FLUSH is negotiated although
 * the driver has not accepted it, so that the plane can flush the writes of which it keeps copies.
 */
void vublk_device_replay_begin_start(struct vublk_device *device);
/*
 * Returns how many bytes the back-end accepts in one segment (size_max), or 0 if there is no limit.
 */
uint32_t vublk_device_replay_segment_bytes(const struct vublk_device *device);
/* Stores in `error` that a stop has waited too long for completed writes to become stable. */
void vublk_device_replay_overdue(const struct vublk_device *device, struct vublk_error *error);
/*
 * Called before the plane is freed. Warns if no back-end is connected and the plane has writes that
 * the lost back-end may not have kept, because these writes are then lost.
 */
void vublk_device_replay_abandon(struct vublk_device *device);
/* Reports how a replay has ended. `opaque` is the device. */
void vublk_device_replay_ended(void *opaque);
/*
 * Called when the back-end has failed a flush that the plane sent for a mirror. The plane makes the
 * driver's next flush fail, so the plane is needed until then. `opaque` is the device.
 */
void vublk_device_flush_must_fail(void *opaque);
/*
 * Called when, after vublk_device_flush_must_fail(), the plane has made a flush of the driver fail.
 * The plane is then no longer needed for this reason. `opaque` is the device.
 */
void vublk_device_flush_failed(void *opaque);

/* --- memory-room.c ----------------------------------------------------------------------- */

/*
 * Returns whether the plane's region has a slot in the back-end's memory table, or one slot must
 * stay free for it.
 */
bool vublk_device_plane_needs_slot(const struct vublk_device *device);
/*
 * Like vublk_device_plane_needs_slot(), but also returns true if the next start must use the plane,
 * because the plane has the driver's rings or copies of completed writes. Without a slot, each such
 * start would fail.
 */
bool vublk_device_plane_will_need_slot(const struct vublk_device *device);
/*
 * Refuses a memory table: the back-end accepts only `slots` regions, in addition to the region of
 * the shadow rings if `has_plane` is true. Returns -ENOSPC.
 */
int vublk_device_too_many_regions(unsigned num_regions, unsigned slots, bool has_plane,
				  struct vublk_error *error);

/* --- rings/shadow.c, continued ----------------------------------------------------------- */

/*
 * A start calls these functions in the order prepare(), memory(), collect(), attach(), run(). If
 * the back-end records requests, the start also calls collect() and area() before memory().
 * Without the plane, collect(), attach() and run() are no-ops, and the other functions keep the
 * region of an existing side in the back-end's memory table.
 */
int vublk_device_shadow_prepare(struct vublk_device *device, struct vublk_error *error);
/*
 * Called when the guest's memory has changed. If there is a side, rebuilds the back-end's memory
 * table, which includes the side's region.
 */
int vublk_device_shadow_refresh(struct vublk_device *device, struct vublk_error *error);
const struct vublk_frontend_memory *vublk_device_shadow_memory(const struct vublk_device *device);
void vublk_device_shadow_collect(struct vublk_device *device); /* after queues_collect() */
int vublk_device_shadow_attach(struct vublk_device *device, struct vublk_error *error);
int vublk_device_shadow_run(struct vublk_device *device, struct vublk_error *error);

/*
 * If the plane has the driver's rings, makes the plane take no more requests and returns true;
 * otherwise returns false. When all requests of the plane are complete, `drained` (may be NULL) is
 * called. If they take longer than request-timeout-ms, the back-end counts as lost; without a
 * back-end, an update returns the rings. An exchange has a deadline of its own instead.
 */
bool vublk_device_shadow_stop(struct vublk_device *device,
			      void (*drained)(struct vublk_device *device));
/*
 * For the operator's pause. Makes the plane take no more requests. The pause stops the rings when
 * all of the plane's requests are complete, however long that takes. The plane must have the rings.
 */
void vublk_device_shadow_hold(struct vublk_device *device);
/*
 * Undoes vublk_device_shadow_stop(): the plane takes requests again, unless a switch to another path
 * holds them back (vublk_device_switch_holds()) or the operator has paused the device. The plane
 * must have the rings.
 */
void vublk_device_shadow_resume(struct vublk_device *device);
/*
 * Makes the plane stop using its side. Called before the back-end returns the side's rings, and
 * before a switch leaves the back-end. A no-op without the plane.
 */
void vublk_device_shadow_part(struct vublk_device *device);
/*
 * Stores the bases of the driver's rings, and takes these rings away from the plane, whose requests
 * must all be complete.
 */
void vublk_device_shadow_return(struct vublk_device *device);
/* Frees the side of the current connection. Idempotent. */
void vublk_device_shadow_free_side(struct vublk_device *device);
/*
 * Returns the in-flight area for the back-end at a start; fd -1: the back-end has to make the area.
 */
struct vublk_device_inflight *vublk_device_shadow_area(struct vublk_device *device);
/*
 * Takes the driver's rings away from the plane, which drops the requests that are not complete.
 * Idempotent.
 */
void vublk_device_shadow_drop(struct vublk_device *device);
/*
 * Called when the back-end is lost. Frees the side. Returns false if the device must not wait for
 * the next back-end, because a stop has exceeded its deadline.
 */
bool vublk_device_shadow_lose(struct vublk_device *device);
/*
 * Called when the back-end has confirmed the guest's new memory. If the plane has the driver's
 * rings, maps the new memory for the plane, which then takes requests again.
 */
int vublk_device_shadow_change_memory(struct vublk_device *device, struct vublk_error *error);
/*
 * These functions give the plane the current kick or call descriptor of queue `index`. They are
 * no-ops if the plane does not have the driver's rings. See vublk_plane_thread_set_kick() and
 * vublk_plane_thread_set_call().
 */
int vublk_device_shadow_set_kick(struct vublk_device *device, unsigned index,
				 struct vublk_error *error);
void vublk_device_shadow_set_call(struct vublk_device *device, unsigned index);
/*
 * Makes the plane mark the pages that it writes in `bitmap`, which has `bytes` bytes. NULL: the
 * plane marks no pages. A no-op if the plane does not have the driver's rings.
 */
void vublk_device_shadow_log(struct vublk_device *device, uint64_t *bitmap, uint64_t bytes);

/*
 * For an upgrade. The first function makes the plane, with its thread parked, for the state that
 * another process has sent. The second makes the side from the section `from`. The third gives the
 * plane the driver's rings, without changing them. If one fails, the device has to be unrealized.
 */
int vublk_device_shadow_adopt(struct vublk_device *device, unsigned max_segments,
			      struct vublk_error *error);
int vublk_device_shadow_adopt_side(struct vublk_device *device, struct vublk_section *from,
				   struct vublk_error *error);
int vublk_device_shadow_adopt_rings(struct vublk_device *device, struct vublk_error *error);

/* --- limits.c ---------------------------------------------------------------------- */

#define VUBLK_DEVICE_MAX_RATE UINT64_C(1000000000000000)
#define VUBLK_DEVICE_MAX_BURST_MS 3600000
#define VUBLK_DEVICE_BURST_MS "100" /* the default of burst-ms */

/* Checks the ranges of `limits`. Error: EINVAL. */
int vublk_device_check_limits(const struct vublk_limits *limits, struct vublk_error *error);

#endif
