/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_DEVICE_DEVICE_H
#define VUBLK_DEVICE_DEVICE_H

/*
 * The inside of the device; what a bus sees of it is <vublk/device.h>.
 *
 * A callback of the bus may unrealize the device. So a function that calls one
 * does it last, or looks at device->life afterwards: another number, another life.
 */
#include "frontend/frontend.h"
#include "util/fault.h"
#include "util/log.h"
#include "util/loop.h"
#include "util/watch.h"

#include <vublk/device.h>

/* What can happen to a device. A row of the table in state.c says what follows. */
enum vublk_device_event {
	VUBLK_DEVICE_EVENT_REALIZE,        /* the bus wants it to connect */
	VUBLK_DEVICE_EVENT_REALIZED,       /* the handshake is done, the config is good */
	VUBLK_DEVICE_EVENT_REALIZE_FAILED, /* the last try has failed */
	VUBLK_DEVICE_EVENT_START,          /* the driver is ready, and the VM runs */
	VUBLK_DEVICE_EVENT_STARTED,        /* the back-end has everything */
	VUBLK_DEVICE_EVENT_STOP,           /* reset, pause, or a start that cannot go on */
	VUBLK_DEVICE_EVENT_STOPPED,        /* the back-end has given the rings back */
	VUBLK_DEVICE_EVENT_LOST,           /* the connection broke */
	VUBLK_DEVICE_EVENT_RECONNECT,      /* there is a connection again */
	VUBLK_DEVICE_EVENT_RECONNECTED,    /* the handshake is done, and what it said will do */
	VUBLK_DEVICE_EVENT_UNREALIZE,      /* the bus gives it up */
	VUBLK_DEVICE_NUM_EVENTS,
};

/* The values of the properties; properties.c has their names and defaults. */
struct vublk_device_settings {
	char chardev[sizeof(((struct vublk_device_info *)0)->chardev)];
	bool server; /* listen at chardev; else connect to it */
	uint64_t num_queues; /* VUBLK_DEVICE_AUTO: the back-end's */
	uint64_t num_queues_limit;
	uint64_t queue_size;
	uint64_t request_timeout_ms;
	uint64_t realize_retries;
	uint64_t config_poll_ms;
	uint64_t keepalive_ms;          /* 0: never; VUBLK_DEVICE_AUTO */
	uint64_t reconnect_ms;          /* 0: a loss is for good */
	uint64_t reconnect_deadline_ms; /* 0: none */
	bool inflight; /* counts only for a device that reconnects, or with inflight_migration */
	bool inflight_migration;
	bool warn_unflushed;
	bool config_wce;
	bool discard;
	bool write_zeroes;
	bool event_idx;
	bool indirect_desc;
	bool seg_max_adjust;
	bool skip_get_vring_base; /* on forced shutdown */
};

#define VUBLK_DEVICE_AUTO UINT64_MAX

enum vublk_device_config_read {
	VUBLK_DEVICE_READ_NONE,
	VUBLK_DEVICE_READ_UNDER_WAY,
};

/* A write to the config has succeeded when it can be read. */
enum vublk_device_config_write {
	VUBLK_DEVICE_WRITE_NONE,
	VUBLK_DEVICE_WRITE_SENT,
	VUBLK_DEVICE_WRITE_ACCEPTED,   /* waits for a read that began after it */
	VUBLK_DEVICE_WRITE_CONFIRMING, /* that read is under way */
	VUBLK_DEVICE_WRITE_RESTORING,  /* what was loaded, and nobody waits for it */
};

/* The way back to a back-end (reconnect.c). */
struct vublk_device_reconnect {
	uint64_t lost_ns;  /* when the outage began; 0: there is none */
	uint64_t tried_ns; /* the last try */
	uint64_t pause_ms; /* before the next; doubled each time, up to a limit */
	unsigned refusals; /* in this outage: back-ends that were reached, and did not start */
	unsigned short_runs; /* back-ends in a row that started and were lost within reconnect-ms */
	struct vublk_error refusal; /* of the last try */
	uint32_t said[16];          /* checksums of the reasons that were logged in this outage */
	unsigned num_said;
	bool warned_unflushed;
	bool config_changed;        /* what the new back-end says differs */
	struct vublk_watch watch; /* of the socket's directory */
	bool said_unwatched;      /* logged that there is no inotify */
};

/* The socket to which back-ends connect, with the property server (listen.c). */
struct vublk_device_listener {
	int fd;     /* -1: none */
	ino_t file; /* of the socket at chardev's path */
	struct vublk_loop_source source; /* while a back-end is waited for */
};

/* What of the rings a back-end that is lost or stopped leaves open, until they run again. */
enum vublk_device_resume {
	VUBLK_DEVICE_RESUME_NOTHING, /* each base is known */
	VUBLK_DEVICE_RESUME_NOTIFY,  /* ... but a kick or a call may have been lost */
	VUBLK_DEVICE_RESUME_INFLIGHT, /* ... and what the area has is still to be done */
	VUBLK_DEVICE_RESUME_RINGS,   /* the rings were out: their used indices tell */
	VUBLK_DEVICE_RESUME_NEVER,   /* ... and that was not enough: the driver has to reset */
};

/*
 * A legacy driver may kick before it sets DRIVER_OK, and means the same (kick.c). The
 * numbers are in saved states.
 */
enum vublk_device_early_kick {
	VUBLK_DEVICE_KICK_NONE = 0,
	VUBLK_DEVICE_KICK_STARTS = 1,
	VUBLK_DEVICE_KICK_REFUSED = 2, /* what it has set up cannot be started */
	VUBLK_DEVICE_NUM_EARLY_KICKS,
};

/* The dirty log; dirty-log.c. */
enum vublk_device_dirty_phase {
	VUBLK_DEVICE_DIRTY_OFF,
	VUBLK_DEVICE_DIRTY_ON,       /* of rings that run, and of those that will */
	VUBLK_DEVICE_DIRTY_TO_START, /* the bus wants it on; the rings are on their way */
	VUBLK_DEVICE_DIRTY_STARTING, /* the back-end is being told */
	VUBLK_DEVICE_DIRTY_UNDOING,  /* ... and refused: it is told to leave it */
	VUBLK_DEVICE_DIRTY_TO_STOP,  /* the bus wants it off; the rings are on their way */
	VUBLK_DEVICE_DIRTY_STOPPING, /* the back-end is being told */
};

struct vublk_device_dirty {
	enum vublk_device_dirty_phase phase;
	struct vublk_frontend_dirty_log log;
	uint64_t *bitmap;           /* mapped when it is first read */
	struct vublk_fault fault;   /* the pages of it that its owner removed */
	struct vublk_error refusal; /* while it is being undone */
};

struct vublk_device {
	enum vublk_device_state state;
	uint64_t life; /* counts realize and unrealize */
	const struct vublk_device_bus_ops *ops;
	void *bus;
	struct vublk_log log;
	struct vublk_log_limit limit; /* of what drivers and back-ends cause */
	struct vublk_loop loop;
	struct vublk_device_settings settings;

	struct vublk_frontend frontend;
	struct vublk_loop_timer connect_timer; /* the next try to realize, or to reconnect */
	unsigned tries;
	struct vublk_device_reconnect reconnect;
	struct vublk_device_listener listener;
	enum vublk_device_resume resume;
	struct vublk_frontend_inflight_area inflight; /* of the driver's session, until reset */
	struct vublk_error failure; /* why rings that are being stopped will not run again */

	/* what the driver sees */
	unsigned num_queues;
	uint64_t features; /* offered */
	uint64_t acked_features;
	bool has_acked_features; /* by a legacy driver that may be none at all */
	uint8_t status;
	enum vublk_device_early_kick early_kick;
	bool is_shutting_down; /* by force: no back-end is looked for any more */
	bool vm_running; /* what the bus says; it outlives realize and unrealize */
	bool drains;     /* the same */
	bool leaves_requests; /* the stop that has begun last: in the in-flight area */
	uint8_t config[VUBLK_BLK_CONFIG_BYTES];
	uint32_t config_generation;

	/* requests about the config that are under way */
	enum vublk_device_config_read config_read;
	struct vublk_loop_timer config_timer; /* reads it anew, where changes are not told */
	bool config_read_again; /* it changed once more meanwhile */
	enum vublk_device_config_write config_write;
	uint8_t config_write_wce;

	struct vublk_loop_timer keepalive_timer; /* while the rings run */

	struct vublk_device_dirty dirty;
	bool memory_change_under_way; /* asked for by the bus while the rings run */
	bool inflight_under_way; /* the back-end is making an area for the bus: no start meanwhile */
	bool has_tight_areas;    /* the last area that a back-end made had no padding */
	struct vublk_frontend_inflight_area made_inflight;
	struct vublk_frontend_memory memory; /* the descriptors in it are the device's */

	struct vublk_device_queue *queues; /* num_queues; size 0: not set */
	uint16_t *bases;                   /* num_queues: where each goes on */
	int32_t *lost_avail;               /* num_queues: the avail index at the loss; -1: not known */
	struct vublk_frontend_queue *rings; /* those that are handed over */
	unsigned num_rings;
	struct vublk_device_kick_watch *kick_watches; /* num_queues */
	uint8_t *notifiers_changed; /* num_queues: what the back-end does not have yet (notify.c) */
	struct vublk_frontend_notifier *notifiers; /* on their way to it */
	unsigned num_notifiers;
	struct vublk_device_ring_error *ring_errors; /* one for each of them */
	unsigned num_ring_errors;
};

/* --- state.c --------------------------------------------------------------------- */

const char *vublk_device_event_name(enum vublk_device_event event);
/* What the table says; -1: the event does not occur in this state. */
int vublk_device_next_state(enum vublk_device_state state, enum vublk_device_event event);
/* The only way to another state; false: the event means nothing in this one. */
bool vublk_device_change_state(struct vublk_device *device, enum vublk_device_event event,
			       const char *why);
/* Connected: from STOPPED to STOPPING. */
bool vublk_device_is_connected(const struct vublk_device *device);
/* The driver has set DRIVER_OK, or it is a legacy one that has kicked before that. */
bool vublk_device_is_driver_ready(const struct vublk_device *device);
/*
 * EBUSY, and a sentence, unless what the driver sets up may change: the rings are not
 * out, and nothing that they are to go on with by themselves.
 */
int vublk_device_require_set_up(const struct vublk_device *device, const char *what,
				struct vublk_error *error);
/* EBUSY, and a sentence with both states, unless the device is in `state`. */
int vublk_device_require(const struct vublk_device *device, enum vublk_device_state state,
			 const char *what, struct vublk_error *error);

/* --- properties.c ------------------------------------------------------------------ */

void vublk_device_settings_init(struct vublk_device_settings *settings);
/* What one value alone cannot tell: ranges, and what belongs together. */
int vublk_device_settings_check(const struct vublk_device_settings *settings,
				struct vublk_error *error);

/* --- features.c -------------------------------------------------------------------- */

uint64_t vublk_device_offer_features(const struct vublk_device *device);
/* The driver has accepted features, and VERSION_1 is none of them. */
bool vublk_device_has_legacy_driver(const struct vublk_device *device);
/* What the back-end is told that the driver accepted. */
uint64_t vublk_device_session_features(const struct vublk_device *device);

/* --- config.c ---------------------------------------------------------------------- */

/*
 * Checks a config as it came and makes it the device's own copy: queues and limits
 * as the device has them. EPROTO and a sentence if it is absurd.
 */
int vublk_device_take_config(struct vublk_device *device, const uint8_t *config,
			     struct vublk_error *error);
/* Reads it every now and then from here on, if the back-end cannot say that it changed. */
void vublk_device_watch_config(struct vublk_device *device);
void vublk_device_on_config_timer(void *opaque);

/* --- realize.c --------------------------------------------------------------------- */

extern const struct vublk_frontend_ops vublk_device_frontend_ops;
void vublk_device_on_connect_timer(void *opaque);
/* Begins the handshake: on `fd`, which is taken over, or connects first (-1). */
int vublk_device_open_frontend(struct vublk_device *device, int fd, struct vublk_error *error);
/* A back-end has connected to the device. */
void vublk_device_on_connection(struct vublk_device *device, int fd);

/* --- listen.c ---------------------------------------------------------------------- */

void vublk_device_listener_init(struct vublk_device *device);
int vublk_device_listener_open(struct vublk_device *device, struct vublk_error *error);
/* Nobody connects any more, and the file is gone. Idempotent. */
void vublk_device_listener_close(struct vublk_device *device);
/* Takes one connection, as soon as there is one. Idempotent, and so is its end. */
void vublk_device_listen(struct vublk_device *device);
void vublk_device_unlisten(struct vublk_device *device);

/* --- reconnect.c, watch.c and offer.c ---------------------------------------------- */

void vublk_device_reconnect_init(struct vublk_device *device);
/* The back-end has just been lost: looks for another, if the properties say so. */
void vublk_device_reconnect_begin(struct vublk_device *device, const struct vublk_error *error);
/* Everything is as before the loss. */
void vublk_device_reconnect_end(struct vublk_device *device);
/* The next try is due, or made; the handshake is done; the try failed. */
void vublk_device_reconnect_on_timer(struct vublk_device *device);
/* On `fd`, or connects (-1). */
void vublk_device_reconnect_try(struct vublk_device *device, int fd);
void vublk_device_reconnect_negotiated(struct vublk_device *device);
void vublk_device_reconnect_failed(struct vublk_device *device, const struct vublk_error *error);

/* Calls vublk_device_reconnect_wake() when the socket appears. Idempotent. */
void vublk_device_watch_socket(struct vublk_device *device);
void vublk_device_unwatch_socket(struct vublk_device *device);
/* There will be no outage any more. Idempotent. */
void vublk_device_close_watch(struct vublk_device *device);
void vublk_device_on_watch(void *opaque, bool vanished);
void vublk_device_reconnect_wake(struct vublk_device *device);

/*
 * Takes over what the new back-end offers, if it is enough for what the driver
 * accepted; a sentence that names what is missing if not, and nothing is changed.
 */
int vublk_device_take_offer(struct vublk_device *device, struct vublk_error *error);
/* What a driver goes by: the features that it accepted, and the config that it read. */
struct vublk_device_promise {
	bool has_accepted;
	uint64_t accepted;
	const uint8_t *config; /* NULL: not known */
};

/* Whether what the device offers now keeps it; ENOTSUP or EROFS and a sentence if not. */
int vublk_device_check_promise(const struct vublk_device *device,
			       const struct vublk_device_promise *promise,
			       struct vublk_error *error);

/* --- recover.c ---------------------------------------------------------------------- */

/* Whether the back-end notes what it has begun, in an area that the next one gets. */
bool vublk_device_uses_inflight(const struct vublk_device *device);
/* What the next handshake accepts of that. */
void vublk_device_ask_for_inflight(struct vublk_device *device);
/* Takes the places over of rings that were given back, and what that leaves open. */
void vublk_device_rings_are_back(struct vublk_device *device);
/* The session's area is of no more use. Idempotent. */
void vublk_device_drop_inflight(struct vublk_device *device);
/* The back-end that had the rings has just been lost: notes how far the driver was. */
void vublk_device_note_loss(struct vublk_device *device);
/*
 * How many requests at most a ring's indices leave open: those that are not completed,
 * and after a loss of these only what the lost back-end may have seen.
 */
uint16_t vublk_device_count_outstanding(const struct vublk_device *device, unsigned index,
					uint16_t used, uint16_t avail);
/*
 * Whether this back-end can go on with the rings as they were left, and where: EIO and a
 * sentence when requests may be lost.
 */
int vublk_device_recover(struct vublk_device *device, struct vublk_error *error);
/* The indices of a queue that is set up, from the memory that is set. */
int vublk_device_read_indices(const struct vublk_device *device, unsigned index, uint16_t *used,
			      uint16_t *avail, struct vublk_error *error);
/* The lost back-end may have died between a completion and its call: each ring gets one. */
void vublk_device_call_rings(struct vublk_device *device);

/* --- carry.c -------------------------------------------------------------------------- */

/* A back-end has taken the area: others that are made without one are to be like it. */
void vublk_device_note_inflight_layout(struct vublk_device *device);

/* --- undrained.c ---------------------------------------------------------------------- */

/* Requests that the back-end took and had not completed when it gave the ring back. */
uint16_t vublk_device_count_undrained(const struct vublk_device *device, unsigned index,
				      uint16_t used);
/* The rings are back, and the back-end was to complete everything first: says so if not. */
void vublk_device_warn_undrained(struct vublk_device *device);
/* The back-end has just been lost with no ring in its hands. */
void vublk_device_note_loss_at_rest(struct vublk_device *device);

/* --- dirty-log.c ---------------------------------------------------------------------- */

void vublk_device_dirty_log_init(struct vublk_device *device);
/* Off at once; nobody is told. Idempotent. */
void vublk_device_dirty_log_drop(struct vublk_device *device);
/* What rings that are started log into; NULL: nothing. */
const struct vublk_frontend_dirty_log *vublk_device_dirty_log_of_start(
	const struct vublk_device *device);
/* The rings run: what was asked for meanwhile is begun. */
void vublk_device_dirty_log_started(struct vublk_device *device);
/* They run no more, or the back-end is gone: what was asked for holds. May call the bus. */
void vublk_device_dirty_log_stopped(struct vublk_device *device);
/* The back-end is gone with the rings: what it may have written there last is dirty. */
void vublk_device_dirty_log_mark_rings(struct vublk_device *device);
/* The back-end is being told: the rings are not taken back meanwhile. */
bool vublk_device_dirty_log_is_changing(const struct vublk_device *device);
/* Whether the log that is on has a place for this memory; EINVAL and a sentence if not. */
int vublk_device_dirty_log_check(const struct vublk_device *device,
				 const struct vublk_frontend_memory *memory,
				 struct vublk_error *error);
/* Whether the back-end can; ENOTSUP and a sentence ("it cannot ...") if not. */
int vublk_device_dirty_log_check_backend(const struct vublk_device *device,
					 struct vublk_error *error);

/* --- run.c ------------------------------------------------------------------------- */

/* Starts or stops, if what the driver wants is not what is. */
void vublk_device_update(struct vublk_device *device);
/* Whether what the driver has set up can be started; a sentence if not. */
int vublk_device_check_start(const struct vublk_device *device, struct vublk_error *error);
/* Forgets the driver's session: features, queues. */
void vublk_device_end_session(struct vublk_device *device);
/* The back-end is gone while the device was connected. */
void vublk_device_on_disconnect(struct vublk_device *device, const struct vublk_error *error);

/* --- kick.c -------------------------------------------------------------------------- */

int vublk_device_kick_watches_init(struct vublk_device *device);
void vublk_device_kick_watches_deinit(struct vublk_device *device);
/* Watches the kicks of a legacy driver, as long as one would start the device. Idempotent. */
void vublk_device_watch_kicks(struct vublk_device *device);
/* The rings have just been handed over: each gets a kick. */
void vublk_device_kick_rings(struct vublk_device *device);

/* --- keepalive.c ---------------------------------------------------------------------- */

/* The rings run: from here on the back-end is asked, if the properties say so. */
void vublk_device_keepalive_begin(struct vublk_device *device);
void vublk_device_on_keepalive_timer(void *opaque);

/* --- notify.c ------------------------------------------------------------------------ */

/* The rings run now: descriptors that were changed meanwhile follow. */
void vublk_device_notifiers_send(struct vublk_device *device);
/* The rings are back, or lost: the next start hands over what there is then. */
void vublk_device_notifiers_settle(struct vublk_device *device);

/* --- memory.c and queue.c ------------------------------------------------------------ */

void vublk_device_memory_deinit(struct vublk_frontend_memory *memory);
int vublk_device_queues_init(struct vublk_device *device, struct vublk_error *error);
void vublk_device_queues_deinit(struct vublk_device *device);
/* Forgets what the driver set up; where each queue goes on stays readable. */
void vublk_device_queues_reset(struct vublk_device *device);
/* Whether a queue's size and alignment are possible; EINVAL and a sentence if not. */
int vublk_device_queue_check(const struct vublk_device *device, unsigned index,
			     const struct vublk_device_queue *queue, struct vublk_error *error);
/* Whether each queue's ring lies in the memory; EINVAL and a sentence if not. */
int vublk_device_queues_check(const struct vublk_device *device,
			      const struct vublk_frontend_memory *memory,
			      struct vublk_error *error);
/* Makes device->rings of the queues that are set up. */
void vublk_device_queues_collect(struct vublk_device *device);
/*
 * Gives each ring an eventfd for its errors, and watches them (ring-error.c); undone
 * when the rings are back. Idempotent.
 */
int vublk_device_ring_errors_watch(struct vublk_device *device, struct vublk_error *error);
void vublk_device_ring_errors_unwatch(struct vublk_device *device);
/* Takes over where each ring goes on. */
void vublk_device_queues_store_bases(struct vublk_device *device);

#endif
