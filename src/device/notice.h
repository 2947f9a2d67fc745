/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_DEVICE_NOTICE_H
#define VUBLK_DEVICE_NOTICE_H

/* What the device reports to the program that uses it: notices, and counters of requests. */
#include "util/loop.h"
#include "util/notice.h"

struct vublk_device;
struct vublk_error;
struct vublk_plane_slow;
struct vublk_statistics;

/* The handler of notices, and what the device has reported so far (notice.c). */
struct vublk_device_notices {
	struct vublk_notifier notifier; /* set by the program; survives realize and unrealize */
	uint64_t size_bytes; /* the size that was reported last */
	uint64_t requests;   /* how many requests were incomplete when the current back-end was
				connected */
	uint32_t refusal;    /* checksum of the refusal that was reported last; 0: none */
	uint32_t path;       /* checksum of the path of the last back-end that was connected */
	bool has_loss;       /* a loss was reported to the program, but not yet the end of that
				outage */
	bool is_expected;    /* the device itself closed the last connection, and is connecting
				again */
	bool is_paused;      /* the completion of the current pause was reported */
	uint64_t replays;    /* the number of replays when the last one was reported */
};

/*
 * The counters of requests that pass through the plane, and the search for slow requests
 * (statistics.c).
 */
struct vublk_device_statistics {
	struct vublk_statistics *counters; /* accessed atomically; NULL: counting was never on */
	struct vublk_loop_timer slow_timer; /* with slow-request-ms: expires when the next search
					       for slow requests is due */
};

/* --- notice.c ---------------------------------------------------------------------- */

/*
 * Each of these functions reports one event to the program's handler; see <vublk/notice.h>. A
 * handler must not change the device. vublk_device_notify_lost() reports nothing if the device
 * itself closed the connection (ECANCELED).
 */
void vublk_device_notify_connected(struct vublk_device *device);
void vublk_device_notify_lost(struct vublk_device *device, const struct vublk_error *error);
/*
 * Reports the recovery from a loss that was reported, unless no back-end is connected or the driver
 * has to reset the device. Must be called before reconnect.lost_ns is cleared.
 */
void vublk_device_notify_outage_end(struct vublk_device *device);
/*
 * Reports why a back-end cannot be used. A reason is not reported twice in a row, unless a
 * connection or a loss comes in between.
 */
void vublk_device_notify_refused(struct vublk_device *device, const struct vublk_error *error);
void vublk_device_notify_gave_up(struct vublk_device *device, const struct vublk_error *error);
/* Called when the config that the driver sees has changed. Reports a new size of the disk. */
void vublk_device_notify_config(struct vublk_device *device);
void vublk_device_notify_needs_reset(struct vublk_device *device, const struct vublk_error *error);
/* `kind` is a notice of the mirror or of a switch. `error` is the reason; NULL: no reason. */
void vublk_device_notify_target(struct vublk_device *device, enum vublk_notice_kind kind,
				const char *target, const struct vublk_error *error);
/* Reports a notice of `kind` that has no member except `reason` (may be NULL). */
void vublk_device_notify_reason(struct vublk_device *device, enum vublk_notice_kind kind,
				const char *reason);
/* Reports that a pause has been requested, or has been ended. */
void vublk_device_notify_pause(struct vublk_device *device, bool paused);
void vublk_device_notify_limits(struct vublk_device *device);
void vublk_device_notify_replayed(struct vublk_device *device, uint64_t writes, uint64_t bytes);
void vublk_device_notify_slow(struct vublk_device *device, const struct vublk_plane_slow *slow);

/* --- rings/pause.c ----------------------------------------------------------------- */

/* Reports, once per pause, that the disk is paused. */
void vublk_device_report_pause(struct vublk_device *device);

/* --- statistics.c ------------------------------------------------------------------ */

void vublk_device_statistics_init(struct vublk_device *device);
void vublk_device_statistics_deinit(struct vublk_device *device);
/* Called in realize: switches counting on if the property statistics is on. */
int vublk_device_statistics_realize(struct vublk_device *device, struct vublk_error *error);
/*
 * Gives the plane, if there is one, the counters and slow-request-ms. Called when the plane has
 * been made and when counting is switched on or off.
 */
void vublk_device_give_counts(struct vublk_device *device);

#endif
