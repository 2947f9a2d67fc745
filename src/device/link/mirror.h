/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_DEVICE_LINK_MIRROR_H
#define VUBLK_DEVICE_LINK_MIRROR_H

/* The mirror of the disk to a second back-end. The public interface is <vublk/mirror.h>. */
#include "frontend/frontend.h"
#include "plane/thread.h"
#include "util/loop.h"

#include <vublk/mirror.h>

struct vublk_device;
struct vublk_device_reliance;

/* The phases of a mirror (mirror.c). */
enum vublk_device_mirror_phase {
	VUBLK_DEVICE_MIRROR_NONE,
	VUBLK_DEVICE_MIRROR_INTERRUPTED, /* an earlier process has left a mirror that can be
					    resumed; until the mirror is resumed, the plane marks
					    the driver's writes in the state file */
	VUBLK_DEVICE_MIRROR_EXCHANGING, /* the requests are being moved to the plane */
	VUBLK_DEVICE_MIRROR_CONNECTING, /* the handshake with the target is under way */
	VUBLK_DEVICE_MIRROR_STARTING,   /* the target is being given memory and rings */
	VUBLK_DEVICE_MIRROR_COPYING,    /* the plane copies the disk, and sends the driver's writes
					   to both disks */
	VUBLK_DEVICE_MIRROR_LEAVING,    /* the plane has ended the mirror for a switch, and the
					   target executes a flush */
	VUBLK_DEVICE_MIRROR_LEFT,       /* the flush is complete, so the target has all data of the
					   disk in stable storage */
};

struct vublk_device_mirror {
	enum vublk_device_mirror_phase phase;
	char target[256]; /* the path of the target; kept after the end of the mirror */
	uint64_t rate;
	struct vublk_loop_task failed_task; /* posted when the plane has ended the mirror because of
					       `failure` */
	int fd; /* the connection to the target, until the handshake begins; -1: none */
	struct vublk_frontend frontend;
	struct vublk_plane_side *side;
	struct vublk_frontend_region region; /* the memory of `side` */
	struct vublk_frontend_memory memory; /* contains only `region` */
	struct vublk_frontend_queue *rings;  /* one per queue */
	struct vublk_loop_source flushed; /* becomes readable when the flush may be complete */
	/* called once, when the flush has succeeded, or when the mirror ends; NULL: not due */
	void (*left)(struct vublk_device *device, const struct vublk_error *error);
	struct vublk_loop_timer safe_timer; /* armed while the marks in the state file may be
					       outdated and the file cannot be written */
	struct vublk_error failure; /* why the last mirror failed or was interrupted; code 0:
				       neither */
	bool is_interrupted; /* the mirror in the state file has not been resumed; may be true up to
				phase STARTING */
	bool is_recording;   /* the plane marks writes for the interrupted mirror */
};

/* --- mirror.c ------------------------------------------------------------------ */

void vublk_device_mirror_init(struct vublk_device *device);
/* Ends the mirror without a notice. Idempotent. */
void vublk_device_mirror_drop(struct vublk_device *device);
/*
 * Called in realize after vublk_device_mirror_state_check(). Records whether the state file has a
 * mirror that can be resumed. Does not change the file, because the program may realize the device
 * without intending to write.
 */
void vublk_device_mirror_find_interrupted(struct vublk_device *device);
/*
 * Called when the path of the next start is chosen. If there is an interrupted mirror, makes the
 * plane mark all later writes. If that is impossible, ends that mirror.
 */
void vublk_device_mirror_begin_start(struct vublk_device *device);
/*
 * Called in unrealize. Ends the mirror in this process; with a state file, the next process can
 * resume it. Idempotent.
 */
void vublk_device_mirror_suspend(struct vublk_device *device);
/* Ends the mirror because of `error`, without calling the callback `left`. */
void vublk_device_mirror_abandon(struct vublk_device *device, const struct vublk_error *error);
/*
 * Ends the mirror, if there is one, because a VMM is migrating the VM, and a migration cannot be
 * refused. A switch to the target then fails.
 */
void vublk_device_mirror_end_for_migration(struct vublk_device *device);
/*
 * For a switch to the target. Called when the plane has no outstanding request. Ends the mirror in
 * the plane, flushes the target, and then calls `left`. Error: EBUSY if the target does not have
 * the same data as the disk, or has incomplete requests; the mirror then continues.
 */
int vublk_device_mirror_leave(struct vublk_device *device,
			      void (*left)(struct vublk_device *device,
					   const struct vublk_error *error),
			      struct vublk_error *error);
/* Checks that the target has the same data as the disk. Error: EBUSY. */
int vublk_device_mirror_check_synced(struct vublk_device *device, struct vublk_error *error);
/*
 * For a switch, after vublk_device_mirror_leave() has called `left`. Makes the target the only path
 * of the disk, and closes the connection to the target, to which the caller then connects again.
 * Errors: ENOTCONN if the target was lost, and those of vublk_mirror_state_commit_switch().
 */
int vublk_device_mirror_commit(struct vublk_device *device, struct vublk_error *error);
/*
 * Returns whether there is a mirror, or one is being set up. An interrupted mirror does not count.
 */
bool vublk_device_is_mirrored(const struct vublk_device *device);

/* --- mirror-state.c; its other functions are in device.h ------------------------------ */

/*
 * If there is a state file, records in it that the disk is mirrored to the back-end at `target`.
 * The record stays until vublk_mirror_state_end() or vublk_mirror_state_commit_switch(). Sets
 * *resumed as vublk_mirror_state_begin() does; without a file, to false.
 */
int vublk_device_mirror_state_begin(struct vublk_device *device, const char *target, bool *resumed,
				    struct vublk_error *error);
/*
 * Makes the plane mark all later writes in the state file, which must record an interrupted mirror.
 */
int vublk_device_mirror_state_record(struct vublk_device *device, struct vublk_error *error);

/* --- compat.c --------------------------------------------------------------------- */

/*
 * Checks that the limits in `config`, which a back-end offers, satisfy `reliance`. Error: ENOTSUP.
 */
int vublk_device_check_limits_of(const struct vublk_device_reliance *reliance,
				 const uint8_t *config, struct vublk_error *error);

/* --- mirror-state.c, continued --------------------------------------------------------- */

/*
 * Called after a failure of the state file, whose marks may now be outdated. Tries to make the file
 * empty, and after a failure tries again later. `device` is a struct vublk_device.
 */
void vublk_device_mirror_state_make_safe(void *device);

/* --- mirror-check.c -------------------------------------------------------------- */

/*
 * Checks that the target's offer is enough for the disk and its driver. `error` calls the target
 * "it" or "the back-end", so the caller has to prepend the target's path.
 */
int vublk_device_mirror_check(const struct vublk_device *device, struct vublk_error *error);

#endif
