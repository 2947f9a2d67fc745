/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_DEVICE_LINK_PATHS_H
#define VUBLK_DEVICE_LINK_PATHS_H

/*
 * The paths to the same storage, the fence between them, and the switch from one path to another.
 * The public interface is <vublk/paths.h>.
 */
#include "device/link/mirror.h"
#include "util/loop.h"
#include "util/peer.h"

#include <vublk/paths.h>

/* The path that the device uses, and the search for a back-end at the other paths (paths.c). */
struct vublk_device_paths {
	unsigned active; /* the index of the path that is connected or tried */
	unsigned last;   /* the index of the path of the last back-end that was connected */
	uint64_t since_ns;  /* when the device began to look for a back-end at the active path; 0:
			       there is no outage */
	unsigned num_moves; /* how many times the path has changed in this outage */
	bool is_held;       /* the next path's turn has come, but the fence does not permit the
			       move */
	bool logged_held;   /* it was logged that the fence does not permit the move */
	struct vublk_error absent; /* in realize: why the paths that were tried have failed; code 0:
				      no path has failed yet */
};

/* How many earlier owners the fence can record. */
#define VUBLK_DEVICE_MAX_FORMER 8

/* The processes that had the rings, and may still write to the disk (fence.c). */
struct vublk_device_fence {
	struct vublk_peer peer;  /* the process at the other end of the connection, until it is
				    given rings */
	struct vublk_peer owner; /* the process that was given rings last */
	bool has_owner;
	bool owns; /* `owner` belongs to the current connection, or to the one that was just lost */
	bool must_end; /* no back-end is accepted before the owners have ended (fence=exit) */
	struct vublk_loop_source source; /* becomes readable when an owner ends; in the loop while
					    the device waits for that end */
	/* processes that had the rings before `owner`, and were alive when it replaced them */
	struct vublk_peer former[VUBLK_DEVICE_MAX_FORMER];
	unsigned num_former;
};

/* The phases of a switch to another path (switch.c). */
enum vublk_device_switch_phase {
	VUBLK_DEVICE_SWITCH_NONE,
	VUBLK_DEVICE_SWITCH_EXCHANGING, /* the requests are being moved to the plane, unless it
					   already has the rings */
	VUBLK_DEVICE_SWITCH_DRAINING, /* the old back-end completes its requests */
	VUBLK_DEVICE_SWITCH_FLUSHING_TARGET, /* the new back-end executes a flush; only in a switch
						to a mirror */
	VUBLK_DEVICE_SWITCH_FLUSHING, /* the old back-end executes a flush */
	VUBLK_DEVICE_SWITCH_LEAVING,  /* the connection to the old back-end is being closed */
	VUBLK_DEVICE_SWITCH_MOVING,   /* the device connects to the new back-end and hands it the
					 rings */
	VUBLK_DEVICE_SWITCH_RETURNING, /* the switch has failed, and the outage has not ended */
	VUBLK_DEVICE_SWITCH_SEEKING,   /* a program asked for the switch in an outage: the device
					  looks for a back-end at the path */
};

/* How many results of switches are kept. */
#define VUBLK_DEVICE_NUM_SWITCH_RESULTS 8

struct vublk_device_switch_result {
	uint64_t number; /* the number of the switch; 0: the element is unused */
	struct vublk_error failure; /* code 0: the switch succeeded */
};

struct vublk_device_switch {
	enum vublk_device_switch_phase phase;
	unsigned home, target; /* indices of the old and the new path; VUBLK_MAX_PATHS: the
				  mirror */
	int fd; /* the connection to the new back-end, until the next try uses it; -1: there is
		   none */
	bool is_flushed;
	bool is_mirrored; /* the switch is to the target of the mirror, which becomes the only
			     path */
	bool is_first_try; /* in SEEKING: the first try at the path has not ended */
	struct vublk_loop_timer timer; /* expires at the deadline or, after the flush, when the next
					  check for unanswered messages is due */
	struct vublk_loop_source flushed; /* becomes readable when the flush may have been
					     answered */
	struct vublk_error failure; /* why this switch has failed; code 0: it has not failed */
	uint64_t number;            /* how many switches have begun */
	/* the result of switch N is at index N modulo the size of the array */
	struct vublk_device_switch_result results[VUBLK_DEVICE_NUM_SWITCH_RESULTS];
};

/* --- paths.c ------------------------------------------------------------------ */

/*
 * The first function is called when an outage begins, at `now`, and the second when it ends. `now`
 * and all times below are on the clock of vublk_now_ns().
 */
void vublk_device_paths_begin(struct vublk_device *device, uint64_t now);
void vublk_device_paths_end(struct vublk_device *device);
/*
 * Returns when the device has to call vublk_device_paths_advance(); UINT64_MAX: never, or only when
 * the process that had the rings has ended.
 */
uint64_t vublk_device_paths_deadline_ns(const struct vublk_device *device);
/* Makes `index` the active path, and watches for a socket there. Does not try to connect. */
void vublk_device_paths_choose(struct vublk_device *device, unsigned index, uint64_t now);
/*
 * Chooses the next path if its turn has come and the fence permits the move. If the fence forbids
 * the move, watches for the end of the owner and, after a short time, logs the reason.
 */
void vublk_device_paths_advance(struct vublk_device *device, uint64_t now);
/*
 * Called in realize when the try at the active path has failed with `cause`. If no process is at
 * that path and there is a next path, chooses the next path and returns true. Otherwise returns
 * false, and `all` says why each path has failed.
 */
bool vublk_device_paths_try_next(struct vublk_device *device, const struct vublk_error *cause,
				 struct vublk_error *all);
/* Called when realize begins anew. Makes the first path the active one, and clears the failures. */
void vublk_device_paths_rewind(struct vublk_device *device);
/* Called in realize when the back-end at the active path can be used. */
void vublk_device_paths_realized(struct vublk_device *device);

/* --- fence.c ------------------------------------------------------------------ */

/*
 * Called when a connection is open. Finds the process at its other end, if the device needs a
 * fence.
 */
void vublk_device_fence_connected(struct vublk_device *device);
/*
 * Called when the back-end has been given rings. Makes its process the owner; an earlier owner that
 * is alive is kept in `former`. Idempotent.
 */
void vublk_device_fence_claim(struct vublk_device *device);
/*
 * Called when a connection is lost with `error`. Decides whether the process of the lost back-end
 * has to end before any back-end is accepted (fence=exit).
 */
void vublk_device_fence_lost(struct vublk_device *device, const struct vublk_error *error);
/*
 * Checks that a back-end may be accepted, whatever its path. If the owner has to end first, begins
 * to watch for its end. Error: EBUSY.
 */
int vublk_device_fence_hold(struct vublk_device *device, struct vublk_error *error);
/*
 * Checks that all owners have ended, or that there are none. Error: EBUSY if one may still write to
 * the disk.
 */
int vublk_device_fence_check(const struct vublk_device *device, struct vublk_error *error);
/*
 * Watches for the end of an owner that is alive, if its pidfd is known. When the owner ends,
 * connect.c tries again. Idempotent.
 */
void vublk_device_fence_await(struct vublk_device *device);
/*
 * Called when the owner's back-end has nothing left to write, so that its process need not end.
 * Clears the owner. Idempotent.
 */
void vublk_device_fence_release(struct vublk_device *device);
/* Clears the peer and all owners. Idempotent. */
void vublk_device_fence_drop(struct vublk_device *device);

/* --- switch.c ----------------------------------------------------------------- */

void vublk_device_switch_init(struct vublk_device *device);
/* Abandons a switch because the device is unrealized. Idempotent. */
void vublk_device_switch_drop(struct vublk_device *device);
/*
 * Abandons a switch that has not left the old back-end yet. `why` becomes its result. Idempotent.
 */
void vublk_device_switch_cancel(struct vublk_device *device, const char *why);
/*
 * Returns whether a switch is holding new requests back, and the device is still connected to the
 * old back-end. Until the switch ends or the next back-end is connected, the plane must not take
 * requests. In state.c.
 */
bool vublk_device_switch_holds(const struct vublk_device *device);
/* Called when a change of the guest's memory has ended. Continues a switch that waited for it. */
void vublk_device_switch_memory_changed(struct vublk_device *device);
/*
 * The first function is called when the back-end of a connected device is lost and the search for
 * the next one has begun, the second when a try has failed, the third when the outage ends. The
 * first two may make the switch fail, and may choose the path that is tried next. The third may end
 * the switch.
 */
void vublk_device_switch_lost(struct vublk_device *device, const struct vublk_error *error);
void vublk_device_switch_failed(struct vublk_device *device, const struct vublk_error *error);
void vublk_device_switch_arrived(struct vublk_device *device);

#endif
