/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_DEVICE_EXCHANGE_H
#define VUBLK_DEVICE_EXCHANGE_H

/*
 * The path of the driver's requests, and the exchange of this path while the rings run
 * (rings/exchange.c). Part of device.h. "The plane" is the request plane (src/plane).
 */
#include "util/loop.h"

#include <vublk/device.h>
#include <vublk/shadow.h>

/* The path of requests between the driver and the back-end. */
enum vublk_device_path {
	VUBLK_DEVICE_PATH_DIRECT, /* the back-end has the driver's rings */
	VUBLK_DEVICE_PATH_SHADOW, /* the plane has the driver's rings, and the back-end has the
				     plane's */
};

/* The phases of an exchange. The table in exchange-phase.c says which phase follows. */
enum vublk_device_exchange_phase {
	VUBLK_DEVICE_EXCHANGE_NONE,
	VUBLK_DEVICE_EXCHANGE_DRAINING, /* the requests on the current path are being completed */
	VUBLK_DEVICE_EXCHANGE_PARKING,  /* only from the direct path: the back-end gets no more
					   kicks, and completes the requests that it has taken */
	VUBLK_DEVICE_EXCHANGE_STOPPING, /* the back-end returns the rings */
	VUBLK_DEVICE_EXCHANGE_STARTING, /* the rings are being started on the other path */
	VUBLK_DEVICE_EXCHANGE_UNDOING,  /* the rings are being started on the old path again */
	VUBLK_DEVICE_EXCHANGE_REFUSED,  /* the exchange failed; the old path stays until the session
					   ends, the back-end is lost, or the set of reasons to use
					   the plane changes */
	VUBLK_DEVICE_EXCHANGE_NUM_PHASES,
};

enum vublk_device_exchange_event {
	VUBLK_DEVICE_EXCHANGE_EVENT_BEGIN,     /* the rings run, and the other path is wanted */
	VUBLK_DEVICE_EXCHANGE_EVENT_START,     /* the rings are being started with the plane, and
						  may be started on the direct path if that fails */
	VUBLK_DEVICE_EXCHANGE_EVENT_ALIVE,     /* on the direct path, the back-end has completed the
						  requests that were outstanding at BEGIN */
	VUBLK_DEVICE_EXCHANGE_EVENT_DRAINED,   /* the requests on the current path are complete, or
						  the back-end polls the rings */
	VUBLK_DEVICE_EXCHANGE_EVENT_STOPPED,   /* the back-end has returned the rings, and no
						  request is outstanding */
	VUBLK_DEVICE_EXCHANGE_EVENT_STARTED,   /* the rings run */
	VUBLK_DEVICE_EXCHANGE_EVENT_OVERDUE,   /* request-timeout-ms has passed */
	VUBLK_DEVICE_EXCHANGE_EVENT_REFUSED,   /* the exchange cannot begin, the back-end returned
						  rings with requests outstanding, or the rings
						  cannot be started on the other path */
	VUBLK_DEVICE_EXCHANGE_EVENT_OVERTAKEN, /* a pause, a reset, or a change of the memory or of
						  the wanted path takes precedence */
	VUBLK_DEVICE_EXCHANGE_EVENT_LOST,      /* the back-end was lost */
	VUBLK_DEVICE_EXCHANGE_NUM_EVENTS,
};

/* The reasons for which the plane is wanted. Each value is the number of a bit. */
enum vublk_device_shadow_reason {
	/* these follow from the state of the device */
	VUBLK_DEVICE_SHADOW_FOR_PROPERTY, /* shadow=on */
	VUBLK_DEVICE_SHADOW_FOR_RECORDS,  /* shadow=auto, the device reconnects, and the back-end
					     records no requests */
	VUBLK_DEVICE_SHADOW_FOR_AREA,     /* the plane records requests in the session's in-flight
					     area, which the back-end would not do */
	VUBLK_DEVICE_SHADOW_FOR_LOG,      /* the dirty log is on, and the back-end cannot log */
	VUBLK_DEVICE_SHADOW_FOR_LIMIT,    /* limits are set */
	VUBLK_DEVICE_SHADOW_FOR_REPLAY,   /* unflushed=replay */
	/* other files set these, most of them with vublk_device_want_shadow() */
	VUBLK_DEVICE_SHADOW_FOR_TRACE,
	VUBLK_DEVICE_SHADOW_FOR_MIRROR,
	VUBLK_DEVICE_SHADOW_FOR_SWITCH,
	VUBLK_DEVICE_SHADOW_FOR_FLUSH, /* the plane has to fail the driver's next flush */
	VUBLK_DEVICE_SHADOW_NUM_REASONS,
};

/*
 * Called from the device's loop with the path that the requests take. `refusal` says why this is
 * not the wanted path; NULL: no change was refused.
 */
typedef void vublk_device_settled_fn(void *opaque, enum vublk_device_path path,
				     const struct vublk_error *refusal);

struct vublk_device_exchange {
	enum vublk_device_exchange_phase phase;
	enum vublk_device_path path; /* the current path; while the rings do not run, the path of
					the next start */
	bool waits; /* an upgrade is being prepared: the path changes only for a switch to another
		       back-end, or for a dirty log, because the upgrade waits for the end of both */
	uint32_t reasons; /* to use the plane, set by vublk_device_want_shadow(): bits numbered by
			     enum vublk_device_shadow_reason. path.c computes the other reasons */
	bool is_reported_shadowed; /* the last notice to the program said that requests pass through
				      the plane */
	struct vublk_error refusal; /* why the path is not the wanted one; code 0: no exchange was
				       refused */
	void (*drained)(struct vublk_device *device);
	uint16_t *marks; /* one per queue: in DRAINING the used index that the ring has to reach, in
			    PARKING the used index at the last check */
	unsigned num_quiet; /* how many successive checks have found no progress of any ring */
	int *idle_fds;      /* one per queue: the kick descriptor while parking, which is an eventfd
			       that the device never signals; -1: none */
	bool is_fenced;     /* a back-end that signals the idle_fds itself has handled these
			       signals */
	uint16_t *fences;   /* one per queue: the avail index when is_fenced was set */
	struct vublk_loop_timer timer; /* expires when the next check of the direct rings is due, or
					  at the deadline */
	uint64_t deadline_ns;
	struct {
		vublk_device_settled_fn *fn; /* NULL: no call is due */
		void *opaque;
	} notices[VUBLK_DEVICE_SHADOW_NUM_REASONS];
	struct vublk_loop_task notice_task;
};

const char *vublk_device_exchange_phase_name(enum vublk_device_exchange_phase phase);
const char *vublk_device_exchange_event_name(enum vublk_device_exchange_event event);
/*
 * Returns the phase that follows `event` in `phase` according to the table, or -1 if the event has
 * no effect.
 */
int vublk_device_exchange_next(enum vublk_device_exchange_phase phase,
			       enum vublk_device_exchange_event event);
/*
 * Changes the phase as the table says, and logs `why` (may be NULL). No other function changes the
 * phase. Returns false if the event has no effect in this phase.
 */
bool vublk_device_exchange_change(struct vublk_device *device,
				  enum vublk_device_exchange_event event, const char *why);

/* --- what is wanted --------------------------------------------------------------------- */

/*
 * Records whether `reason` needs the plane (`wanted`). If the path has to change, the exchange
 * begins in the device's loop. `settled` (may be NULL) is called once, with `opaque`, when no
 * change of the path is pending: the path is the one that all reasons together require, a change
 * was refused, or the rings do not run. The next call for the same reason replaces `settled`.
 */
void vublk_device_want_shadow(struct vublk_device *device, enum vublk_device_shadow_reason reason,
			      bool wanted, vublk_device_settled_fn *settled, void *opaque);
/* Must be called when a reason that follows from the device's state may have changed. */
void vublk_device_reconsider_path(struct vublk_device *device);
/* Returns the reasons for which the plane is wanted, as a set of bits. */
uint32_t vublk_device_shadow_reasons(const struct vublk_device *device);
/*
 * Checks that the plane could take over the current rings with the current back-end. Error:
 * ENOTSUP, ENOSPC or EINVAL.
 */
int vublk_device_check_shadow(const struct vublk_device *device, struct vublk_error *error);
/* Returns whether the direct path may be used if the plane is wanted but cannot be used. */
bool vublk_device_may_be_direct(const struct vublk_device *device);
/* Records and logs `cause`, which says why the path cannot change. The current path stays. */
void vublk_device_refuse_shadow(struct vublk_device *device, const struct vublk_error *cause);
/*
 * Chooses the path of the next start. A no-op during an exchange and after a refusal. The rings
 * must not run.
 */
void vublk_device_choose_path(struct vublk_device *device);

/*
 * Sends the program a notice if the path of requests has changed since the last notice. Must be
 * called when the rings run.
 */
void vublk_device_report_path(struct vublk_device *device);

void vublk_device_path_init(struct vublk_device *device);

/* --- the exchange ------------------------------------------------------------------------ */

void vublk_device_exchange_init(struct vublk_device *device);
/* Ends an exchange, or the phase REFUSED, with `event` (LOST or OVERTAKEN). Idempotent. */
void vublk_device_exchange_end(struct vublk_device *device,
			       enum vublk_device_exchange_event event);
void vublk_device_exchange_deinit(struct vublk_device *device);

/* Returns whether rings that run have to change to the other path. */
bool vublk_device_exchange_is_due(const struct vublk_device *device);
/*
 * Begins an exchange of rings that run. When the requests on the current path are complete, or the
 * back-end polls the rings, calls `drained`, which has to stop the rings. If the exchange ends
 * earlier, `drained` is not called.
 */
void vublk_device_exchange_begin(struct vublk_device *device,
				 void (*drained)(struct vublk_device *device));
/* Must be called before the rings are stopped for the exchange. */
void vublk_device_exchange_drained(struct vublk_device *device);
/*
 * Cancels an exchange that has not stopped the rings yet: the current path continues. Idempotent.
 */
void vublk_device_exchange_cancel(struct vublk_device *device);
/*
 * Called when the back-end has returned the rings. Returns 1 if an exchange has to start them
 * again, without telling the bus, and 0 if they stay stopped. Error: EIO and others if the start on
 * the other path has failed and the old path cannot continue either.
 */
int vublk_device_exchange_turn(struct vublk_device *device, struct vublk_error *error);
/*
 * Must be called when the rings have begun to run. Ends the exchange that led to this start, if
 * any.
 */
void vublk_device_exchange_started(struct vublk_device *device);

#endif
