/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_DEVICE_DEVICE_H
#define VUBLK_DEVICE_DEVICE_H

/*
 * The declarations that the files of this folder share. The interface for a bus is
 * <vublk/device.h>.
 *
 * A callback of the bus may unrealize the device. So a function that calls a callback must call it
 * last, or check afterwards that device->life still has the same value.
 *
 * "The plane" is the request plane (src/plane): a thread that passes requests between the driver's
 * rings and rings of its own, the shadow rings. "Error: EINVAL" means that the function returns
 * -EINVAL and fills `error` with a sentence. Times whose names end in _ns are on the clock of
 * vublk_now_ns().
 *
 * No two files call each other, directly or through others; tests/lint checks this. So when an
 * operation for which a start or a stop waits has ended, its file posts an update
 * (vublk_device_post_update()) instead of calling start-stop.c.
 */
#include "device/exchange.h"
#include "device/link/paths.h"
#include "device/notice.h"
#include "frontend/frontend.h"
#include "plane/mirror-state.h"
#include "plane/thread.h"
#include "util/fault.h"
#include "util/log.h"
#include "util/loop.h"
#include "util/watch.h"

#include <vublk/device.h>
#include <vublk/limit.h>
#include <vublk/trace.h>

/* The events of a device. The table in state.c says which state follows. */
enum vublk_device_event {
	VUBLK_DEVICE_EVENT_REALIZE,        /* the bus calls vublk_device_realize() */
	VUBLK_DEVICE_EVENT_REALIZED,       /* the handshake is done, and the config is valid */
	VUBLK_DEVICE_EVENT_REALIZE_FAILED, /* the last try of realize has failed */
	VUBLK_DEVICE_EVENT_START,          /* the device begins to hand the rings to the back-end */
	VUBLK_DEVICE_EVENT_STARTED,        /* the back-end has confirmed the whole start */
	VUBLK_DEVICE_EVENT_STOP,           /* a reset, a pause, an exchange of the request path, or
					      a failed start */
	VUBLK_DEVICE_EVENT_STOPPED,        /* the back-end has returned the rings */
	VUBLK_DEVICE_EVENT_LOST,           /* the connection ended, before or after the handshake */
	VUBLK_DEVICE_EVENT_RECONNECT,      /* a new connection is open */
	VUBLK_DEVICE_EVENT_RECONNECTED,    /* the handshake is done, and the back-end is suitable */
	VUBLK_DEVICE_EVENT_UNREALIZE,      /* the bus calls vublk_device_unrealize() */
	VUBLK_DEVICE_NUM_EVENTS,
};

/* The values of the properties. properties.c has their names and defaults. */
struct vublk_device_settings {
	/* in order of preference; unset paths are empty and come last */
	char chardevs[VUBLK_MAX_PATHS][sizeof(((struct vublk_device_info *)0)->chardev)];
	uint64_t failover_ms; /* how long the device tries one path in an outage */
	char fence[8]; /* none or exit */
	bool server; /* the device listens at its only path; false: it connects */
	uint64_t num_queues; /* VUBLK_DEVICE_AUTO: the back-end's number, up to num_queues_limit */
	uint64_t num_queues_limit;
	uint64_t queue_size;
	uint64_t request_timeout_ms;
	uint64_t realize_retries;
	uint64_t config_poll_ms;
	uint64_t keepalive_ms;          /* 0: no keepalive; or VUBLK_DEVICE_AUTO */
	uint64_t reconnect_ms;          /* 0: the device does not look for another back-end */
	uint64_t reconnect_deadline_ms; /* 0: no deadline */
	bool inflight; /* used only if the device reconnects, or with inflight_migration */
	bool inflight_migration;
	char mirror_state[VUBLK_MIRROR_STATE_PATH_BYTES]; /* the state file; empty: none */
	char unflushed[8]; /* auto or replay */
	uint64_t replay_mib;
	bool warn_unflushed;
	bool config_wce;
	bool discard;
	bool write_zeroes;
	bool event_idx;
	bool indirect_desc;
	bool seg_max_adjust;
	bool read_only;        /* the driver sees a read-only disk, whatever the back-end offers */
	uint64_t features_off; /* virtio feature bits that are hidden from the driver */
	char serial[VUBLK_BLK_ID_BYTES + 1]; /* the answer to GET_ID; empty: the back-end answers */
	bool skip_get_vring_base; /* a forced shutdown does not stop the rings */
	enum vublk_shadow shadow; /* on, off, or auto: the device decides (path.c) */
	bool statistics;          /* requests that pass through the plane are counted */
	uint64_t slow_request_ms; /* 0: slow requests are not reported */
	uint64_t shadow_queue_size; /* entries of each shadow ring; VUBLK_DEVICE_AUTO: as many as
				       the driver's ring has */
	struct vublk_limits limits; /* may change while the disk is in use (limits.c) */
};

#define VUBLK_DEVICE_AUTO UINT64_MAX

/*
 * Returns whether a device with these settings looks for another back-end (or awaits one) after a
 * loss.
 */
static inline bool vublk_device_will_reconnect(const struct vublk_device_settings *settings)
{
	return settings->reconnect_ms || settings->server;
}

enum vublk_device_config_read {
	VUBLK_DEVICE_READ_NONE,
	VUBLK_DEVICE_READ_UNDER_WAY,
};

/* The phases of a write to the config, which succeeds when the new value has been read back. */
enum vublk_device_config_write {
	VUBLK_DEVICE_WRITE_NONE,
	VUBLK_DEVICE_WRITE_SENT,
	VUBLK_DEVICE_WRITE_ACCEPTED,   /* the back-end has answered; the value must now be read
					  back */
	VUBLK_DEVICE_WRITE_CONFIRMING, /* the value is being read back */
	VUBLK_DEVICE_WRITE_RESTORING,  /* the device restores a saved value; the bus is not told */
};

/* An outage, and the search for another back-end (outage.c, reconnect.c). */
struct vublk_device_reconnect {
	uint64_t lost_ns;  /* when the outage began; 0: no outage */
	uint64_t tried_ns; /* when the last try began */
	uint64_t pause_ms; /* the pause before the next try; doubles with each try, up to a limit */
	unsigned refusals; /* tries in this outage that reached a back-end but failed; reset when a
			      socket appears, the lost process ends, or the active path changes */
	unsigned short_runs; /* how many outages in a row began less than reconnect-ms after the
				last try */
	struct vublk_error refusal;  /* why the last try failed */
	uint32_t logged_reasons[16]; /* checksums of the reasons that were logged in this outage */
	unsigned num_logged_reasons;
	bool warned_unflushed;
	bool config_changed;        /* the new back-end's offer has changed the driver's config */
	struct vublk_watch watch; /* watches the socket's directory for a new file */
	bool logged_unwatched;    /* it was logged that the directory cannot be watched */
};

/* The socket at which the device listens for back-ends, with the property server (listen.c). */
struct vublk_device_listener {
	int fd;     /* -1: not listening */
	ino_t file; /* inode of the socket's file; 0: this process must not remove the file */
	ino_t taken_file; /* in an upgrade: becomes `file` when this process owns the device */
	struct vublk_loop_source source; /* polled only while the device waits for a back-end */
};

/* Where the rings resume at the next start. */
enum vublk_device_resume {
	VUBLK_DEVICE_RESUME_NOTHING, /* at their bases, which are known */
	VUBLK_DEVICE_RESUME_NOTIFY,  /* at their bases; a kick or a call may have been lost */
	VUBLK_DEVICE_RESUME_INFLIGHT, /* at their bases; the in-flight area has requests */
	VUBLK_DEVICE_RESUME_RINGS,   /* at their used indices, if the next back-end knows which
					requests were begun, or no request was outstanding */
	VUBLK_DEVICE_RESUME_NEVER,   /* nowhere: the driver has to reset the device */
};

/* Whether a legacy driver has kicked before DRIVER_OK. Saved states contain the numbers. */
enum vublk_device_early_kick {
	VUBLK_DEVICE_KICK_NONE = 0,
	VUBLK_DEVICE_KICK_STARTS = 1, /* the kick counted as DRIVER_OK */
	VUBLK_DEVICE_KICK_REFUSED = 2, /* the kick came, but the queues that are set up cannot be
					  started */
	VUBLK_DEVICE_NUM_EARLY_KICKS,
};

/* The phases of the dirty log (dirty-log.c). */
enum vublk_device_dirty_phase {
	VUBLK_DEVICE_DIRTY_OFF,
	VUBLK_DEVICE_DIRTY_ON,       /* the log is on, also for rings that start later */
	VUBLK_DEVICE_DIRTY_TO_START, /* the bus wants the log on; the device waits until the rings
	                                have started or stopped */
	VUBLK_DEVICE_DIRTY_STARTING, /* messages to switch the log on are under way */
	VUBLK_DEVICE_DIRTY_UNDOING,  /* the back-end refused the log: messages to switch the log
					off are under way */
	VUBLK_DEVICE_DIRTY_TO_STOP,  /* the bus wants the log off; the device waits until the rings
	                                have started or stopped */
	VUBLK_DEVICE_DIRTY_STOPPING, /* messages to switch the log off are under way */
};

struct vublk_device_dirty {
	enum vublk_device_dirty_phase phase;
	struct vublk_device_dirty_log log; /* the device owns fd; fd -1: no log */
	uint64_t *bitmap;           /* mapped at its first use; NULL before that */
	struct vublk_fault fault;   /* set if the log's file was truncated */
	struct vublk_error refusal; /* why the back-end refused the log, in phase UNDOING */
};

/* The request plane of this device (shadow.c). */
struct vublk_device_shadow {
	struct vublk_plane_thread *thread; /* NULL: not made yet */
	struct vublk_plane_memory *memory; /* the plane's mapping of the guest's memory; NULL: the
					      plane does not have the driver's rings */
	struct vublk_memory_part area;     /* the in-flight area, while the plane has the driver's
					      rings */
	struct vublk_fault fault;          /* set if `memory` or `area` cannot be accessed */
	struct vublk_loop_source fault_source;
	unsigned max_segments; /* data segments that fit in one request; 0: not chosen yet */
	bool adds_flush; /* FLUSH is negotiated with the back-end, although the driver has not
			    accepted it (replay.c) */
	struct vublk_plane_side *side; /* the plane's rings for the current connection; NULL: not
					  made yet */
	struct vublk_frontend_memory regions; /* the guest's regions (descriptors borrowed) and the
						 region of `side` */
	/* In-flight area of the plane's requests. Only the back-end uses it. */
	struct vublk_device_inflight side_area;
	unsigned num_broken; /* how many of the attached rings the driver has broken */
	/*
	 * in an upgrade: the plane comes from the old process (is_taken), where it had the driver's
	 * rings (takes_rings) and used a side (takes_side)
	 */
	bool is_taken, takes_rings, takes_side;
	struct vublk_loop_timer timer; /* armed while the plane's requests have a deadline */
	bool is_overdue; /* the stop has exceeded its deadline */
	void (*drained)(struct vublk_device *device);
};

/* The operator's pause (pause.c). */
struct vublk_device_pause {
	bool is_wanted;
	bool stops; /* the rings must stop; with the plane, false until its requests are complete */
};

/* The trace of requests (trace.c). */
struct vublk_device_trace {
	struct vublk_plane_trace *ring; /* atomic pointer; NULL: there has been no trace */
	bool is_wanted;                 /* there is a trace: the plane writes records to `ring` */
	struct vublk_loop_timer timer;  /* armed during a trace; ends a trace that is not read */
};

struct vublk_device {
	enum vublk_device_state state;
	uint64_t life; /* changes with each realize and unrealize */
	struct vublk_device_bus_ops bus_ops;
	const struct vublk_device_bus_ops *ops; /* points to `bus_ops`, the copy of the callbacks */
	void *bus;
	struct vublk_log log;
	struct vublk_log_limit limit; /* for log lines that a driver or a back-end can cause */
	struct vublk_loop loop;
	struct vublk_loop_task update_task; /* calls vublk_device_update() */
	struct vublk_device_settings settings;

	struct vublk_frontend frontend;
	struct vublk_loop_timer connect_timer; /* expires when the next try is due or, with the
						  property server, at the deadline of the outage */
	unsigned tries; /* how many times realize has tried the first path */
	int lent_fd;    /* connected socket for the next try, from the bus or a switch; -1: none */
	bool is_lent;   /* realize uses a lent connection, so it makes only one try */
	struct vublk_device_reconnect reconnect;
	struct vublk_device_notices notices;
	struct vublk_device_paths paths;
	struct vublk_device_fence fence;
	struct vublk_device_switch path_switch;
	struct vublk_mirror_state *mirror_state; /* NULL: there is no state file */
	struct vublk_device_mirror mirror;
	struct vublk_device_statistics statistics;
	struct vublk_device_listener listener;
	enum vublk_device_resume resume;
	struct vublk_device_inflight inflight; /* belongs to the driver's session, which a reset
						  ends; the device owns fd; fd -1: no area */
	struct vublk_error failure; /* why the last start failed; code 0: it did not fail */

	/* what the driver sees, and what the driver, the bus and the operator have set */
	unsigned num_queues;
	uint64_t features; /* offered to the driver */
	uint64_t acked_features;
	bool has_acked_features; /* the driver has accepted features, possibly none */
	uint8_t status;
	enum vublk_device_early_kick early_kick;
	bool is_shutting_down; /* a forced shutdown: the device does not reconnect */
	bool vm_running; /* set by the bus; survives realize and unrealize */
	struct vublk_device_pause pause; /* set by the operator; survives realize and unrealize */
	bool drains;     /* each stop waits for all requests; survives realize and unrealize */
	bool leaves_requests; /* the last stop may have left requests in the in-flight area */
	uint8_t config[VUBLK_BLK_CONFIG_BYTES];
	uint8_t backend_config[VUBLK_BLK_CONFIG_BYTES]; /* as the back-end sent it; `config` is made
							   from it */
	uint32_t config_generation;

	/* reads and writes of the config that are under way */
	enum vublk_device_config_read config_read;
	struct vublk_loop_timer config_timer; /* polls the config while the back-end does not report
						 changes */
	bool config_read_again; /* the config may have changed since a read began, so another read
				   follows */
	enum vublk_device_config_write config_write;
	uint8_t config_write_wce;

	struct vublk_loop_timer keepalive_timer; /* armed while the rings run */

	struct vublk_device_dirty dirty;
	struct vublk_device_shadow shadow;
	struct vublk_device_exchange exchange;
	struct vublk_device_trace trace;
	bool memory_change_under_way; /* the back-end has not confirmed the bus's change of the
					 memory yet */
	bool inflight_under_way; /* the back-end is making an in-flight area for the bus; a start
				    waits for the area */
	bool has_tight_areas;    /* the back-end's last in-flight area had no padding */
	struct vublk_device_inflight made_inflight;
	struct vublk_frontend_memory memory; /* the device owns the descriptors of the regions */

	struct vublk_device_queue *queues; /* one per queue; size 0: not set up */
	uint16_t *bases;                   /* one per queue: avail index where the queue resumes */
	int32_t *lost_avail;               /* one per queue: avail index at the loss; -1: unknown */
	struct vublk_frontend_queue *rings; /* num_rings elements: the rings that the back-end has
					       or is being given */
	unsigned num_rings;
	struct vublk_loop_source *kick_sources; /* one per queue: watches the kick descriptor for
						   early kicks */
	uint8_t *notifiers_changed; /* one per queue: which descriptors the back-end does not have
				       yet (notifiers.c) */
	struct vublk_frontend_notifier *notifiers; /* sent to the back-end, but not confirmed */
	unsigned num_notifiers;
	struct vublk_device_ring_error *ring_errors; /* one for each element of `rings` */
	unsigned num_ring_errors;
};

/* --- device.c, state.c ---------------------------------------------------------------- */

const char *vublk_device_event_name(enum vublk_device_event event);
/*
 * Returns the state that follows `event` in `state` according to the table; -1: `event` does not
 * occur in `state`.
 */
int vublk_device_next_state(enum vublk_device_state state, enum vublk_device_event event);
/*
 * Changes the state as the table says, and logs `why` (may be NULL). Returns false if `event` does
 * not occur in the current state. Apart from this function, only vublk_device_adopt_state() changes
 * the state.
 */
bool vublk_device_change_state(struct vublk_device *device, enum vublk_device_event event,
			       const char *why);
/* For an upgrade: puts the device into `state`, which it had in the old process. */
void vublk_device_adopt_state(struct vublk_device *device, enum vublk_device_state state);
/* Returns whether the device is connected, that is, in a state from STOPPED to STOPPING. */
bool vublk_device_is_connected(const struct vublk_device *device);
/* Returns whether the driver has set DRIVER_OK, or its early kick counts as DRIVER_OK. */
bool vublk_device_is_driver_ready(const struct vublk_device *device);
/*
 * Returns whether the rings should run as soon as there is a back-end: the driver is ready, the VM
 * runs, and no pause by the operator requires the rings to stop.
 */
bool vublk_device_should_run(const struct vublk_device *device);
/*
 * Returns whether a back-end is needed: because the rings should run, or because a stop waits until
 * the plane's requests are complete and its writes are stable (shadow.c). A reset does not wait.
 */
bool vublk_device_needs_backend(const struct vublk_device *device);
/* Returns whether the back-end has the rings, is being given them, or is asked to return them. */
bool vublk_device_backend_has_rings(const struct vublk_device *device);
/*
 * Checks that the driver's set-up may be changed: the device is realized, neither the back-end nor
 * the plane has the rings, and the rings do not resume by themselves. Error: EBUSY; `what` names
 * the change in its message.
 */
int vublk_device_require_set_up(const struct vublk_device *device, const char *what,
				struct vublk_error *error);
/* Always returns -EBUSY. `error` says that the current state does not permit the operation `what`. */
int vublk_device_forbid(const struct vublk_device *device, const char *what,
			struct vublk_error *error);
/* Checks that the device is in `state`. Error: EBUSY; `what` names the operation in its message. */
int vublk_device_require(const struct vublk_device *device, enum vublk_device_state state,
			 const char *what, struct vublk_error *error);

/* --- properties.c ------------------------------------------------------------------ */

void vublk_device_settings_init(struct vublk_device_settings *settings);
/* Checks the settings at realize, including combinations of properties. Error: EINVAL. */
int vublk_device_settings_check(const struct vublk_device_settings *settings,
				struct vublk_error *error);

/* --- features.c -------------------------------------------------------------------- */

uint64_t vublk_device_offer_features(const struct vublk_device *device);
/* Returns the features that `settings` hides from the driver if the back-end offers them. */
uint64_t vublk_device_hidden_features(const struct vublk_device_settings *settings);
/*
 * Checks the property features-off. Error: EINVAL if it has a bit that cannot be hidden, or hides
 * MQ from a device with several queues.
 */
int vublk_device_check_features_off(const struct vublk_device_settings *settings,
				    struct vublk_error *error);
/* Zeroes in `config` the fields of the features that are not offered, except `wce`. */
void vublk_device_clear_fields(const struct vublk_device *device,
			       uint8_t config[VUBLK_BLK_CONFIG_BYTES]);
/* Returns whether the driver has accepted its features, and VERSION_1 is not among them. */
bool vublk_device_has_legacy_driver(const struct vublk_device *device);
/*
 * Returns the features to send to the back-end: VERSION_1, and those that the driver has accepted
 * and the back-end has offered. May include FLUSH although the driver has not accepted it
 * (vublk_device_replay_begin_start()).
 */
uint64_t vublk_device_session_features(const struct vublk_device *device);

/* --- config.c ---------------------------------------------------------------------- */

/*
 * Checks `config`, which the back-end sent, and makes the driver's config from it. Stops offering
 * optional features whose fields make no sense, if the driver does not rely on them. Error: EPROTO
 * if `config` cannot be used; the driver's config then stays as it was.
 */
int vublk_device_take_config(struct vublk_device *device, const uint8_t *config,
			     struct vublk_error *error);
/* Increments the config's generation. Must be called when the driver's config has changed. */
void vublk_device_bump_config_generation(struct vublk_device *device);
/* Arms the timer that polls the config, unless polling is off or the back-end reports changes. */
void vublk_device_watch_config(struct vublk_device *device);
void vublk_device_on_config_timer(void *opaque);

/* --- memory.c ---------------------------------------------------------------------- */

void vublk_device_memory_deinit(struct vublk_frontend_memory *memory);

/* --- memory-room.c ----------------------------------------------------------------- */

/*
 * Returns the number of regions that a bus should offer for the guest's memory: all that the
 * back-end accepts, or one less if the property shadow permits the plane.
 */
unsigned vublk_device_memory_slots(const struct vublk_device *device);
/* Returns the number of regions that the back-end currently accepts for the guest's memory. */
unsigned vublk_device_memory_room(const struct vublk_device *device);
/* Checks that the plane's region fits next to the guest's regions. Error: ENOSPC or EINVAL. */
int vublk_device_memory_check_shadow(const struct vublk_device *device, struct vublk_error *error);
/*
 * Checks that all regions of `memory` end below the address of the plane's region. Error: EINVAL.
 */
int vublk_device_memory_check_plane(const struct vublk_frontend_memory *memory,
				    struct vublk_error *error);

/* --- queue.c ----------------------------------------------------------------------- */

int vublk_device_queues_init(struct vublk_device *device, struct vublk_error *error);
void vublk_device_queues_deinit(struct vublk_device *device);
/* Clears the driver's set-up of all queues. The bases stay, and can still be read. */
void vublk_device_queues_reset(struct vublk_device *device);
/* Checks the size of `queue` and the alignment of its ring. Error: EINVAL. */
int vublk_device_queue_check(const struct vublk_device *device, unsigned index,
			     const struct vublk_device_queue *queue, struct vublk_error *error);
/* Checks that the ring of each queue that is set up lies in `memory`. Error: EINVAL. */
int vublk_device_queues_check(const struct vublk_device *device,
			      const struct vublk_frontend_memory *memory,
			      struct vublk_error *error);
/*
 * Checks that the rings can be started: a back-end is connected or expected, the driver has
 * accepted features, and the rings lie in the memory. Error: EINVAL or ENOTCONN.
 */
int vublk_device_check_start(const struct vublk_device *device, struct vublk_error *error);
/* Fills device->rings with the driver's rings of the queues that are set up. */
void vublk_device_queues_collect(struct vublk_device *device);
/* Copies the base of each element of device->rings to device->bases, and empties device->rings. */
void vublk_device_queues_store_bases(struct vublk_device *device);
/*
 * Stops watching the kick descriptors until the next update. Must be called when one of them has
 * been replaced, because the bus may close the old one. Idempotent.
 */
void vublk_device_unwatch_kicks(struct vublk_device *device);

/* --- link/paths.c; the other functions are in link/paths.h --------------------------- */

/* Returns the socket path of the back-end that is connected or tried. */
static inline const char *vublk_device_path(const struct vublk_device *device)
{
	return device->settings.chardevs[device->paths.active];
}

/* --- link/connect.c ---------------------------------------------------------------- */

/* Initializes the front-end and the objects of the files in link/. */
void vublk_device_connect_init(struct vublk_device *device);

/* --- link/realize.c ---------------------------------------------------------------- */

/* Called in REALIZING when the handshake is done (first function) or a try has failed (second). */
void vublk_device_realize_negotiated(struct vublk_device *device);
void vublk_device_realize_failed(struct vublk_device *device, const struct vublk_error *error);

/* --- link/mirror-state.c ------------------------------------------------------------- */

/* Opens the file of the property mirror-state. A no-op without this property. */
int vublk_device_mirror_state_open(struct vublk_device *device, struct vublk_error *error);
void vublk_device_mirror_state_close(struct vublk_device *device);
/*
 * Checks that the connected back-end has the disk that is up to date according to the state file.
 * Error: ESTALE and others. Returns 0 if there is no file, or the file has failed.
 */
int vublk_device_mirror_state_check(const struct vublk_device *device, struct vublk_error *error);

/* --- link/loss.c ------------------------------------------------------------- */

/* Called when the back-end of a connected device is lost. */
void vublk_device_on_loss(struct vublk_device *device, const struct vublk_error *error);

/* --- link/reconnect.c -------------------------------------------------------------- */

/* Called at the loss of a back-end. If the device reconnects, begins to look for another one. */
void vublk_device_reconnect_begin(struct vublk_device *device, const struct vublk_error *error);
/*
 * With the property server: called when the connect timer expires in an outage. Ends the search at
 * the deadline of the outage; before the deadline, listens again.
 */
void vublk_device_reconnect_overdue(struct vublk_device *device);
/* Called in an outage when a handshake is done (first function) or a try has failed (second). */
void vublk_device_reconnect_negotiated(struct vublk_device *device);
void vublk_device_reconnect_failed(struct vublk_device *device, const struct vublk_error *error);
/*
 * Called when a new try may succeed: a socket has appeared, or the process that had the rings has
 * ended. In LOST, tries again immediately. In every state, makes the pauses short again.
 */
void vublk_device_reconnect_wake(struct vublk_device *device);

/* --- link/outage.c ----------------------------------------------------------------- */

#define VUBLK_DEVICE_SHORTEST_PAUSE_MS 1

void vublk_device_outage_begin(struct vublk_device *device, uint64_t now);
/* Ends the outage: cancels the next try, resets the counters, reports the end. Idempotent. */
void vublk_device_outage_end(struct vublk_device *device);
/*
 * Returns when the search for a back-end ends, on the clock of vublk_now_ns(); UINT64_MAX: never.
 */
uint64_t vublk_device_outage_deadline_ns(const struct vublk_device *device);
/* Returns the pause before the next try, and doubles the pause after it, up to a limit. */
uint64_t vublk_device_outage_next_pause_ms(struct vublk_device *device);
/* Logs and stores why a try failed. Warns and sends a notice only once per reason and outage. */
void vublk_device_outage_report(struct vublk_device *device, const struct vublk_error *error);

/* --- link/listen.c ----------------------------------------------------------------- */

int vublk_device_listener_open(struct vublk_device *device, struct vublk_error *error);
/* Closes the socket, and removes its file if this process owns it. Idempotent. */
void vublk_device_listener_close(struct vublk_device *device);
/* These functions start and stop polling the socket for the next connection. Idempotent. */
void vublk_device_listen(struct vublk_device *device);
void vublk_device_unlisten(struct vublk_device *device);
/*
 * Accepts a connection, stops polling, and returns the connection. On failure, returns a negative
 * errno: EAGAIN if no connection waits. After any other error, polling begins again after a pause.
 */
int vublk_device_listener_accept(struct vublk_device *device);

/* --- link/socket-watch.c ----------------------------------------------------------- */

/* Watches for a new socket at the active path. Idempotent. */
void vublk_device_watch_socket(struct vublk_device *device);
void vublk_device_unwatch_socket(struct vublk_device *device);
/* Stops watching and frees the watch. Idempotent. */
void vublk_device_close_watch(struct vublk_device *device);

/* --- link/compat.c ----------------------------------------------------------------- */

/*
 * Adopts the new back-end's features and config if they satisfy the driver and, if in use, the
 * dirty log, the plane's copies of completed writes, and the state file of a mirror. Otherwise
 * nothing changes, and `error` says what is missing.
 */
int vublk_device_take_offer(struct vublk_device *device, struct vublk_error *error);

/* What a driver relies on: the features that it has accepted, and the config that it has read. */
struct vublk_device_reliance {
	bool has_accepted;
	uint64_t accepted;
	bool was_read_only;    /* the driver was offered RO; false: not offered, or unknown */
	const uint8_t *config; /* NULL: unknown */
};

/* Checks that the device's current offer satisfies `reliance`. Error: ENOTSUP or EROFS. */
int vublk_device_check_reliance(const struct vublk_device *device,
				const struct vublk_device_reliance *reliance,
				struct vublk_error *error);

/* --- link/keepalive.c -------------------------------------------------------------- */

/* Called when the rings begin to run. Begins to check at intervals that the back-end answers. */
void vublk_device_keepalive_begin(struct vublk_device *device);
void vublk_device_on_keepalive_timer(void *opaque);

/* --- rings/start-stop.c ------------------------------------------------------------ */

/*
 * Compares the state of the rings with what the driver, the VM and the operator want, and begins
 * the operation that is due: a start, a stop, an exchange of the request path. May call the bus's
 * callbacks.
 */
void vublk_device_update(struct vublk_device *device);
void vublk_device_on_update_task(void *opaque);
/*
 * Calls vublk_device_update() later, from the loop. The files that start-stop.c calls use this
 * function, because they must not call start-stop.c. Unrealize cancels the call.
 */
static inline void vublk_device_post_update(struct vublk_device *device)
{
	vublk_loop_post(&device->loop, &device->update_task);
}
/* Discards the driver's session: accepted features, queues, in-flight area, rings in the plane. */
void vublk_device_end_session(struct vublk_device *device);

/* --- rings/early-kick.c ------------------------------------------------------------ */

/*
 * Watches the kick descriptors if a kick would start the device, and otherwise stops watching them.
 * Only vublk_device_update() calls this function.
 */
void vublk_device_watch_kicks(struct vublk_device *device);
/*
 * Called when a kick has arrived. Returns true if the kick is a legacy driver's first one before
 * DRIVER_OK and makes the driver ready. If the driver's queues cannot be started, calls
 * needs_reset() and returns false.
 */
bool vublk_device_take_early_kick(struct vublk_device *device);

/* --- rings/notifiers.c ------------------------------------------------------------- */

/*
 * Sends the descriptors that the back-end does not have yet, if the rings run and no stop is due.
 * With the plane, completes the pending changes instead, and may call the bus's callbacks.
 */
void vublk_device_notifiers_send(struct vublk_device *device);
/*
 * Called when the rings were returned or lost. Signals the call descriptors that have changed, and
 * drops all pending changes, because the next start hands over the current descriptors.
 */
void vublk_device_notifiers_settle(struct vublk_device *device);
/* Makes the next update send each direct ring's kick descriptor again, and then signal it. */
void vublk_device_notifiers_renew_kicks(struct vublk_device *device);
/*
 * These functions signal the kick or the call descriptor of each ring, in case a notification was
 * lost.
 */
void vublk_device_kick_rings(struct vublk_device *device);
void vublk_device_call_rings(struct vublk_device *device);

/* --- rings/ring-error.c ------------------------------------------------------------ */

/*
 * Called when the driver has to reset the device. Logs the reason, reports it to the program, and
 * tells the bus, which may unrealize the device.
 */
void vublk_device_raise_needs_reset(struct vublk_device *device, const struct vublk_error *error);
/*
 * The first function gives each ring an eventfd on which the back-end reports errors, and watches
 * these eventfds. The second function closes them, and is idempotent.
 */
int vublk_device_ring_errors_watch(struct vublk_device *device, struct vublk_error *error);
void vublk_device_ring_errors_unwatch(struct vublk_device *device);
/* Returns whether the eventfd of rings[i] is watched, that is, no error was reported. */
bool vublk_device_ring_error_is_watched(const struct vublk_device *device, unsigned i);
/*
 * For an upgrade: gives the next element of device->rings the eventfd `fd`, which the back-end
 * already has, and watches `fd` if `is_watched`. Takes ownership of `fd`, even on failure. Error:
 * EINVAL if that element is not the ring of queue `index`, or `fd` is negative; ENOMEM.
 */
int vublk_device_ring_error_adopt(struct vublk_device *device, unsigned index, int fd,
				  bool is_watched, struct vublk_error *error);

/* --- rings/inflight.c -------------------------------------------------------------- */

/*
 * Returns whether the back-end records in an in-flight area which requests it has begun. With the
 * plane, these are the plane's requests, and the area is of no use to another back-end.
 */
bool vublk_device_backend_records(const struct vublk_device *device);
/* Returns whether the back-end records the driver's requests in an in-flight area. */
bool vublk_device_uses_inflight(const struct vublk_device *device);
/*
 * Returns whether the back-end or the plane records in an in-flight area which requests were begun.
 */
bool vublk_device_records_requests(const struct vublk_device *device);
/*
 * Tells the front-end which protocol features of in-flight areas to accept in the next handshake.
 */
void vublk_device_ask_for_inflight(struct vublk_device *device);
/* Closes the in-flight area of the driver's session. Idempotent. */
void vublk_device_drop_inflight(struct vublk_device *device);

/* --- rings/indices.c --------------------------------------------------------------- */

/*
 * Reads the used and avail index of queue `index`, which must be set up, from the guest's memory.
 */
int vublk_device_read_indices(const struct vublk_device *device, unsigned index, uint16_t *used,
			      uint16_t *avail, struct vublk_error *error);
/*
 * Reads avail_event of queue `index`, which must be set up. If EVENT_IDX was accepted, this is the
 * avail index after which the back-end wants the next kick.
 */
int vublk_device_read_avail_event(const struct vublk_device *device, unsigned index,
				  uint16_t *event, struct vublk_error *error);
/*
 * Returns an upper bound on the number of incomplete requests of a ring with these indices. After a
 * loss, counts only requests that the lost back-end may have seen.
 */
uint16_t vublk_device_count_outstanding(const struct vublk_device *device, unsigned index,
					uint16_t used, uint16_t avail);

/* --- rings/resume.c ---------------------------------------------------------------- */

/*
 * Called when the back-end has returned device->rings. If these are the driver's rings, stores
 * their bases and records whether the in-flight area may have requests.
 */
void vublk_device_rings_are_back(struct vublk_device *device);
/*
 * Called at the loss of a back-end that had the driver's rings, and before the plane drops
 * requests. Makes the rings resume at their used indices, and records each ring's avail index.
 */
void vublk_device_note_loss(struct vublk_device *device);
/*
 * Decides at which index each ring resumes with the current back-end. Errors: EIO if requests could
 * be lost or executed twice, and others.
 */
int vublk_device_recover(struct vublk_device *device, struct vublk_error *error);

/* --- rings/handover.c -------------------------------------------------------------- */

/*
 * Called when a back-end has made or accepted an in-flight area. Records the area's layout, which
 * the device then uses for areas that it makes itself.
 */
void vublk_device_note_inflight_layout(struct vublk_device *device,
				       const struct vublk_device_inflight *area);
/* Stores in `begun` how many requests the session's in-flight area records as begun. */
int vublk_device_count_inflight(const struct vublk_device *device, unsigned *begun,
				struct vublk_error *error);

/* --- rings/undrained.c ------------------------------------------------------------- */

/*
 * Returns how many requests before the base of the ring are incomplete. Such requests exist if the
 * back-end returned the ring without completing them. `used` is the ring's current used index.
 */
uint16_t vublk_device_count_undrained(const struct vublk_device *device, unsigned index,
				      uint16_t used);
/* Called after a stop that waits for all requests. Warns if requests are still incomplete. */
void vublk_device_warn_undrained(struct vublk_device *device);
/*
 * Called when a back-end is lost that had no rings, or cannot have begun to work on them. Records
 * whether an earlier stop has left requests incomplete.
 */
void vublk_device_note_loss_at_rest(struct vublk_device *device);

/* --- trace.c ----------------------------------------------------------------------- */

void vublk_device_trace_init(struct vublk_device *device);
/* Frees the ring of records. The plane must have ended. Idempotent. */
void vublk_device_trace_deinit(struct vublk_device *device);

/* --- rings/pause.c ----------------------------------------------------------------- */

/*
 * Begins or ends the operator's pause. During the pause, vublk_device_is_paused() returns true when
 * no request is outstanding and the rings have stopped. Idempotent.
 */
void vublk_device_set_paused(struct vublk_device *device, bool paused);
bool vublk_device_is_pausing(const struct vublk_device *device);
bool vublk_device_is_paused(const struct vublk_device *device);
/* Called by vublk_device_update(): decides whether the rings must stop for the pause now. */
void vublk_device_pause_apply(struct vublk_device *device);

/* --- rings/dirty-log.c ------------------------------------------------------------- */

void vublk_device_dirty_log_init(struct vublk_device *device);
/*
 * Called by each update while the rings run. Completes a requested change of the log if the plane
 * has the rings, because then the back-end need not be told. Lets a requested start of the log fail
 * if only the plane could log, and the plane cannot be used. May call the bus's callbacks.
 */
void vublk_device_dirty_log_settle(struct vublk_device *device);
/* Switches the dirty log off and frees it, without telling the back-end. Idempotent. */
void vublk_device_dirty_log_drop(struct vublk_device *device);
/* Returns the log for rings that are being started; NULL: writes are not logged. */
const struct vublk_device_dirty_log *vublk_device_dirty_log_of_start(
	const struct vublk_device *device);
/* Called when the rings begin to run. Begins a change of the log that waited for the start. */
void vublk_device_dirty_log_started(struct vublk_device *device);
/*
 * Called when the rings have stopped, and when the back-end is lost. Ends a pending change of the
 * log. May call the bus's callbacks.
 */
void vublk_device_dirty_log_stopped(struct vublk_device *device);
/*
 * Called when a back-end that had the rings is lost. Marks the pages of the used rings, to which
 * the back-end may have written without marking them.
 */
void vublk_device_dirty_log_mark_rings(struct vublk_device *device);
/* Returns whether messages about the log are under way. A stop waits for their end. */
bool vublk_device_dirty_log_is_changing(const struct vublk_device *device);
/* If the log is on, checks that its bitmap is long enough for `memory`. Error: EINVAL. */
int vublk_device_dirty_log_check(const struct vublk_device *device,
				 const struct vublk_frontend_memory *memory,
				 struct vublk_error *error);
/* Gives the plane the bitmap, if the log is on and the plane is in the data path. Error: ENOMEM. */
int vublk_device_dirty_log_give(struct vublk_device *device, struct vublk_error *error);
/* Checks that the back-end or the plane can log. Error: ENOTSUP. */
int vublk_device_dirty_log_check_backend(const struct vublk_device *device,
					 struct vublk_error *error);

#include "device/shadow.h"

#endif
