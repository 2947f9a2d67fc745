/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_DEVICE_DEVICE_H
#define VUBLK_DEVICE_DEVICE_H

/*
 * The declarations that the files of this folder share. The interface for a bus is
 * <vublk/device.h>.
 *
 * A callback of the bus may unrealize the device. So a function that calls a callback does so last,
 * or checks afterwards that device->life still has the same value.
 *
 * No two files call each other, directly or through others (tests/lint checks). A file that
 * finishes something for which a start or a stop may be waiting posts an update
 * (vublk_device_post_update()) instead of calling start-stop.c.
 */
#include "frontend/frontend.h"
#include "plane/thread.h"
#include "util/fault.h"
#include "util/log.h"
#include "util/loop.h"
#include "util/watch.h"

#include <vublk/device.h>

/* The events of a device. The table in state.c says which state follows. */
enum vublk_device_event {
	VUBLK_DEVICE_EVENT_REALIZE,        /* the bus calls vublk_device_realize() */
	VUBLK_DEVICE_EVENT_REALIZED,       /* the handshake is done, and the config is valid */
	VUBLK_DEVICE_EVENT_REALIZE_FAILED, /* the last try failed */
	VUBLK_DEVICE_EVENT_START,          /* the driver is ready, and the VM runs */
	VUBLK_DEVICE_EVENT_STARTED,        /* the back-end has confirmed all messages */
	VUBLK_DEVICE_EVENT_STOP,           /* reset, pause, or a start that cannot continue */
	VUBLK_DEVICE_EVENT_STOPPED,        /* the back-end has returned the rings */
	VUBLK_DEVICE_EVENT_LOST,           /* the connection broke */
	VUBLK_DEVICE_EVENT_RECONNECT,      /* a new connection is open */
	VUBLK_DEVICE_EVENT_RECONNECTED,    /* the handshake is done, and the back-end offers enough */
	VUBLK_DEVICE_EVENT_UNREALIZE,      /* the bus calls vublk_device_unrealize() */
	VUBLK_DEVICE_NUM_EVENTS,
};

/* The values of the properties. Their names and defaults are in properties.c. */
struct vublk_device_settings {
	char chardev[sizeof(((struct vublk_device_info *)0)->chardev)];
	bool server; /* listen at chardev; false: connect to it */
	uint64_t num_queues; /* VUBLK_DEVICE_AUTO: as many as the back-end has */
	uint64_t num_queues_limit;
	uint64_t queue_size;
	uint64_t request_timeout_ms;
	uint64_t realize_retries;
	uint64_t config_poll_ms;
	uint64_t keepalive_ms;          /* 0: never; VUBLK_DEVICE_AUTO */
	uint64_t reconnect_ms;          /* 0: a lost back-end is not looked for */
	uint64_t reconnect_deadline_ms; /* 0: no deadline */
	bool inflight; /* effective if the device reconnects, or with inflight_migration */
	bool inflight_migration;
	bool warn_unflushed;
	bool config_wce;
	bool discard;
	bool write_zeroes;
	bool event_idx;
	bool indirect_desc;
	bool seg_max_adjust;
	bool read_only;        /* shown to the driver as read-only, whatever the back-end offers */
	uint64_t features_off; /* bits that are not offered */
	char serial[VUBLK_BLK_ID_BYTES + 1]; /* for a bus that answers GET_ID; empty: the back-end's */
	bool skip_get_vring_base; /* on forced shutdown */
	bool shadow;              /* the request plane is in the data path */
};

#define VUBLK_DEVICE_AUTO UINT64_MAX

/* Whether a device with these settings looks for another back-end, or waits for one. */
static inline bool vublk_device_will_reconnect(const struct vublk_device_settings *settings)
{
	return settings->reconnect_ms || settings->server;
}

enum vublk_device_config_read {
	VUBLK_DEVICE_READ_NONE,
	VUBLK_DEVICE_READ_UNDER_WAY,
};

/*
 * The phases of a write to the config. The write has succeeded when the new value has been read
 * back.
 */
enum vublk_device_config_write {
	VUBLK_DEVICE_WRITE_NONE,
	VUBLK_DEVICE_WRITE_SENT,
	VUBLK_DEVICE_WRITE_ACCEPTED,   /* waiting for a read that begins after the answer */
	VUBLK_DEVICE_WRITE_CONFIRMING, /* that read is under way */
	VUBLK_DEVICE_WRITE_RESTORING,  /* restores a loaded value; the bus does not wait for it */
};

/* An outage, and the search for another back-end (outage.c, reconnect.c). */
struct vublk_device_reconnect {
	uint64_t lost_ns;  /* when the outage began; 0: no outage */
	uint64_t tried_ns; /* when the last try began */
	uint64_t pause_ms; /* pause before the next try; doubled each time, up to a limit */
	unsigned refusals; /* tries in this outage that reached a back-end which did not start */
	unsigned short_runs; /* back-ends in a row that started and were lost within reconnect-ms */
	struct vublk_error refusal;  /* why the last try failed */
	uint32_t logged_reasons[16]; /* checksums of the sentences logged in this outage */
	unsigned num_logged_reasons;
	bool warned_unflushed;
	bool config_changed;        /* the new back-end's config differs from the lost one's */
	struct vublk_watch watch; /* for a new file in the socket's directory */
	bool logged_unwatched;    /* logged that inotify is not available */
};

/* The socket to which back-ends connect, with the property server (listen.c). */
struct vublk_device_listener {
	int fd;     /* -1: not listening */
	ino_t file; /* inode of the socket at chardev's path */
	struct vublk_loop_source source; /* in the loop while the device waits for a back-end */
};

/* What the device knows about the rings after the last back-end, until the rings run again. */
enum vublk_device_resume {
	VUBLK_DEVICE_RESUME_NOTHING, /* each ring's base is known */
	VUBLK_DEVICE_RESUME_NOTIFY,  /* likewise, but a kick or a call may have been lost */
	VUBLK_DEVICE_RESUME_INFLIGHT, /* likewise, and the requests in the in-flight area are to be
	                                 executed */
	VUBLK_DEVICE_RESUME_RINGS,   /* the back-end was lost with the rings: each may resume at its
	                                used index */
	VUBLK_DEVICE_RESUME_NEVER,   /* requests could be lost: the driver has to reset */
};

/*
 * The states of a legacy driver's kick before DRIVER_OK, which starts the device (early-kick.c).
 * The numbers are part of saved states.
 */
enum vublk_device_early_kick {
	VUBLK_DEVICE_KICK_NONE = 0,
	VUBLK_DEVICE_KICK_STARTS = 1,
	VUBLK_DEVICE_KICK_REFUSED = 2, /* the queues that are set up cannot be started */
	VUBLK_DEVICE_NUM_EARLY_KICKS,
};

/* The phases of the dirty log (dirty-log.c). */
enum vublk_device_dirty_phase {
	VUBLK_DEVICE_DIRTY_OFF,
	VUBLK_DEVICE_DIRTY_ON,       /* writes of rings that run or start are logged */
	VUBLK_DEVICE_DIRTY_TO_START, /* the bus wants the log on; the device waits until the rings
	                                have started or stopped */
	VUBLK_DEVICE_DIRTY_STARTING, /* messages to switch the log on are under way */
	VUBLK_DEVICE_DIRTY_UNDOING,  /* refused: messages to switch the log off are under way */
	VUBLK_DEVICE_DIRTY_TO_STOP,  /* the bus wants the log off; the device waits until the rings
	                                have started or stopped */
	VUBLK_DEVICE_DIRTY_STOPPING, /* messages to switch the log off are under way */
};

struct vublk_device_dirty {
	enum vublk_device_dirty_phase phase;
	struct vublk_device_dirty_log log; /* fd owned; -1: no log */
	uint64_t *bitmap;           /* mapped by the first read; NULL before */
	struct vublk_fault fault;   /* set when the owner of the file has truncated it */
	struct vublk_error refusal; /* why the back-end refused the log, in phase UNDOING */
};

/* The request plane, with the property shadow (shadow.c). */
struct vublk_device_shadow {
	struct vublk_plane_thread *thread; /* NULL: off */
	struct vublk_plane_memory *memory; /* the mapping that the plane uses; NULL: not attached */
	struct vublk_memory_part area;     /* the in-flight area, while attached */
	struct vublk_fault fault;          /* of the mapping */
	struct vublk_loop_source fault_source;
	unsigned max_segments; /* of a request; constant */
	struct vublk_plane_side *side; /* of the present connection; NULL: not made */
	struct vublk_frontend_memory regions; /* the guest's, borrowed, and the side's */
	struct vublk_loop_timer timer; /* armed while a stop waits for requests */
	bool is_overdue; /* the stop waits no longer */
	void (*drained)(struct vublk_device *device);
};

struct vublk_device {
	enum vublk_device_state state;
	uint64_t life; /* changes with each realize and unrealize */
	struct vublk_device_bus_ops bus_ops;
	const struct vublk_device_bus_ops *ops; /* &bus_ops */
	void *bus;
	struct vublk_log log;
	struct vublk_log_limit limit; /* for lines that drivers and back-ends can cause */
	struct vublk_loop loop;
	struct vublk_loop_task update_task; /* vublk_device_update() */
	struct vublk_device_settings settings;

	struct vublk_frontend frontend;
	struct vublk_loop_timer connect_timer; /* the next try to realize or to reconnect */
	unsigned tries; /* number of tries to realize */
	int lent_fd;    /* the bus's connection for the next try, duplicated; -1: none */
	bool is_lent;   /* realized on a lent connection: there is no other try */
	struct vublk_device_reconnect reconnect;
	struct vublk_device_listener listener;
	enum vublk_device_resume resume;
	struct vublk_device_inflight inflight; /* of the driver's session, until reset; fd owned;
	                                          -1: no area */
	struct vublk_error failure; /* why rings are stopped for good; code 0: no failure */

	/* what the driver sees and sets */
	unsigned num_queues;
	uint64_t features; /* offered */
	uint64_t acked_features;
	bool has_acked_features; /* a legacy driver may have accepted no bit */
	uint8_t status;
	enum vublk_device_early_kick early_kick;
	bool is_shutting_down; /* forced shutdown: no other back-end is looked for */
	bool vm_running; /* set by the bus; kept over realize and unrealize */
	bool drains;     /* also set by the bus and kept */
	bool leaves_requests; /* the last stop did not wait for requests in the in-flight area */
	uint8_t config[VUBLK_BLK_CONFIG_BYTES];
	uint8_t backend_config[VUBLK_BLK_CONFIG_BYTES]; /* from which `config` was made */
	uint32_t config_generation;

	/* config requests that are under way */
	enum vublk_device_config_read config_read;
	struct vublk_loop_timer config_timer; /* reads the config again if the back-end reports no
	                                         changes */
	bool config_read_again; /* the config changed during a read */
	enum vublk_device_config_write config_write;
	uint8_t config_write_wce;

	struct vublk_loop_timer keepalive_timer; /* while the rings run */

	struct vublk_device_dirty dirty;
	struct vublk_device_shadow shadow;
	bool memory_change_under_way; /* the bus changed it; the back-end has not confirmed yet */
	bool inflight_under_way; /* the back-end makes an area for the bus; no start meanwhile */
	bool has_tight_areas;    /* the last area that a back-end made had no padding */
	struct vublk_device_inflight made_inflight;
	struct vublk_frontend_memory memory; /* the device owns its descriptors */

	struct vublk_device_queue *queues; /* num_queues; size 0: not set */
	uint16_t *bases;                   /* num_queues: the avail index at which each queue
	                                      resumes */
	int32_t *lost_avail;               /* num_queues: the avail index at the loss; -1: unknown */
	struct vublk_frontend_queue *rings; /* the rings that the back-end has or is given */
	unsigned num_rings;
	struct vublk_loop_source *kick_sources; /* num_queues: watched for early kicks */
	uint8_t *notifiers_changed; /* num_queues: what the back-end does not have yet (notifiers.c) */
	struct vublk_frontend_notifier *notifiers; /* sent and not confirmed */
	unsigned num_notifiers;
	struct vublk_device_ring_error *ring_errors; /* one for each ring */
	unsigned num_ring_errors;
};

/* --- device.c, state.c ---------------------------------------------------------------- */

const char *vublk_device_event_name(enum vublk_device_event event);
/*
 * Returns the state that the table has for the event; -1: the event does not occur in this state.
 */
int vublk_device_next_state(enum vublk_device_state state, enum vublk_device_event event);
/* The only function that changes the state. False: the event does not occur in this state. */
bool vublk_device_change_state(struct vublk_device *device, enum vublk_device_event event,
			       const char *why);
/* Whether the device is connected: its state is one of STOPPED to STOPPING. */
bool vublk_device_is_connected(const struct vublk_device *device);
/* Whether the driver has set DRIVER_OK, or a legacy driver has kicked before DRIVER_OK. */
bool vublk_device_is_driver_ready(const struct vublk_device *device);
/*
 * Whether the driver is ready and the VM runs, so that the rings should run as soon as there is a
 * back-end.
 */
bool vublk_device_should_run(const struct vublk_device *device);
/* Likewise, or a pause waits for requests that only a back-end can complete (shadow.c). */
bool vublk_device_needs_backend(const struct vublk_device *device);
/* Whether the back-end has the rings, or is being given or asked for them. */
bool vublk_device_backend_has_rings(const struct vublk_device *device);
/*
 * Returns EBUSY and a sentence unless the driver's set-up may be changed. It may be changed if the
 * rings are not out and no back-end will be given the rings as they are.
 */
int vublk_device_require_set_up(const struct vublk_device *device, const char *what,
				struct vublk_error *error);
/* Returns EBUSY, and a sentence that names both states, unless the device is in `state`. */
int vublk_device_require(const struct vublk_device *device, enum vublk_device_state state,
			 const char *what, struct vublk_error *error);

/* --- properties.c ------------------------------------------------------------------ */

void vublk_device_settings_init(struct vublk_device_settings *settings);
/* Checks that need more than one value: combinations, and ranges that depend on others. */
int vublk_device_settings_check(const struct vublk_device_settings *settings,
				struct vublk_error *error);

/* --- features.c -------------------------------------------------------------------- */

uint64_t vublk_device_offer_features(const struct vublk_device *device);
/* The features that the properties hide from the driver, whether or not the back-end has them. */
uint64_t vublk_device_hidden_features(const struct vublk_device_settings *settings);
/* Checks the property features-off; EINVAL and a sentence if it has a bit that cannot be hidden. */
int vublk_device_check_features_off(const struct vublk_device_settings *settings,
				    struct vublk_error *error);
/* Zeroes the config fields of the features that are not offered. */
void vublk_device_clear_fields(const struct vublk_device *device,
			       uint8_t config[VUBLK_BLK_CONFIG_BYTES]);
/* Whether the driver has accepted its features without VERSION_1. */
bool vublk_device_has_legacy_driver(const struct vublk_device *device);
/* The driver's accepted features in the form in which the back-end is given them. */
uint64_t vublk_device_session_features(const struct vublk_device *device);

/* --- config.c ---------------------------------------------------------------------- */

/*
 * Checks a config from the back-end and stores it as the device's own, with the device's
 * number of queues and limits. EPROTO and a sentence if the config is absurd.
 */
int vublk_device_take_config(struct vublk_device *device, const uint8_t *config,
			     struct vublk_error *error);
/* Called when the config that the driver sees has changed. */
void vublk_device_bump_config_generation(struct vublk_device *device);
/* Begins to poll the config if the back-end cannot report changes. */
void vublk_device_watch_config(struct vublk_device *device);
void vublk_device_on_config_timer(void *opaque);

/* --- memory.c ---------------------------------------------------------------------- */

void vublk_device_memory_deinit(struct vublk_frontend_memory *memory);

/* Returns the number of regions of the guest's memory for which the back-end has room. */
unsigned vublk_device_memory_slots(const struct vublk_device *device);

/* --- queue.c ----------------------------------------------------------------------- */

int vublk_device_queues_init(struct vublk_device *device, struct vublk_error *error);
void vublk_device_queues_deinit(struct vublk_device *device);
/* Forgets what the driver set up. The bases stay readable. */
void vublk_device_queues_reset(struct vublk_device *device);
/* Checks whether a queue's size and alignment are possible; EINVAL and a sentence if not. */
int vublk_device_queue_check(const struct vublk_device *device, unsigned index,
			     const struct vublk_device_queue *queue, struct vublk_error *error);
/* Checks whether each queue's ring lies in the memory; EINVAL and a sentence if not. */
int vublk_device_queues_check(const struct vublk_device *device,
			      const struct vublk_frontend_memory *memory,
			      struct vublk_error *error);
/* Checks whether the driver's set-up can be started; EINVAL or ENOTCONN and a sentence if not. */
int vublk_device_check_start(const struct vublk_device *device, struct vublk_error *error);
/* Fills device->rings with the queues that are set up. */
void vublk_device_queues_collect(struct vublk_device *device);
/* Stores the index at which each returned ring resumes; device->rings is empty afterwards. */
void vublk_device_queues_store_bases(struct vublk_device *device);
/*
 * Stops watching the kick descriptors; called before one is replaced. The next update watches them
 * again. Idempotent.
 */
void vublk_device_unwatch_kicks(struct vublk_device *device);

/* --- link/connect.c ---------------------------------------------------------------- */

/* Initializes the connect timer, the listener, the socket watch and the front-end. */
void vublk_device_connect_init(struct vublk_device *device);

/* --- link/realize.c ---------------------------------------------------------------- */

/* Called in state REALIZING when the handshake is done, and when the try failed. */
void vublk_device_realize_negotiated(struct vublk_device *device);
void vublk_device_realize_failed(struct vublk_device *device, const struct vublk_error *error);

/* --- link/loss.c ------------------------------------------------------------- */

/* Called when the back-end was lost while the device was connected. */
void vublk_device_on_loss(struct vublk_device *device, const struct vublk_error *error);

/* --- link/reconnect.c -------------------------------------------------------------- */

/*
 * Called when the back-end has just been lost. Looks for another back-end if the properties say so.
 */
void vublk_device_reconnect_begin(struct vublk_device *device, const struct vublk_error *error);
/*
 * Called when, with the property server, the connect timer expires before a back-end has connected.
 */
void vublk_device_reconnect_overdue(struct vublk_device *device);
/* Called when the handshake is done, and when the try failed. */
void vublk_device_reconnect_negotiated(struct vublk_device *device);
void vublk_device_reconnect_failed(struct vublk_device *device, const struct vublk_error *error);
/* Called when the socket's directory has changed: makes the next try now. */
void vublk_device_reconnect_wake(struct vublk_device *device);

/* --- link/outage.c ----------------------------------------------------------------- */

#define VUBLK_DEVICE_SHORTEST_PAUSE_MS 1

void vublk_device_outage_begin(struct vublk_device *device, uint64_t now);
/* Ends the outage: makes no further try, and forgets the failed ones. Idempotent. */
void vublk_device_outage_end(struct vublk_device *device);
/* The time at which the device stops looking for a back-end; UINT64_MAX: there is no such time. */
uint64_t vublk_device_outage_deadline_ns(const struct vublk_device *device);
/* Returns the pause before the next try. The pause after that is longer. */
uint64_t vublk_device_outage_next_pause_ms(struct vublk_device *device);
/* Logs why a try failed: each reason once per outage. */
void vublk_device_outage_report(struct vublk_device *device, const struct vublk_error *error);

/* --- link/listen.c ----------------------------------------------------------------- */

int vublk_device_listener_open(struct vublk_device *device, struct vublk_error *error);
/* Removes the socket and its file. Idempotent. */
void vublk_device_listener_close(struct vublk_device *device);
/* Start and stop waiting for one connection. Both calls are idempotent. */
void vublk_device_listen(struct vublk_device *device);
void vublk_device_unlisten(struct vublk_device *device);
/* Takes the connection and stops listening; negative: there is no connection. */
int vublk_device_listener_accept(struct vublk_device *device);

/* --- link/socket-watch.c ----------------------------------------------------------- */

/* Watches for a new socket at chardev's path. Idempotent. */
void vublk_device_watch_socket(struct vublk_device *device);
void vublk_device_unwatch_socket(struct vublk_device *device);
/* Stops watching and frees the watch. Idempotent. */
void vublk_device_close_watch(struct vublk_device *device);

/* --- link/compat.c ----------------------------------------------------------------- */

/*
 * Adopts the new back-end's offer if this offer is enough for the features that the driver has
 * accepted. Otherwise nothing changes, and the sentence names what is missing.
 */
int vublk_device_take_offer(struct vublk_device *device, struct vublk_error *error);

/* What a driver relies on: the features that it accepted and the config that it has read. */
struct vublk_device_reliance {
	bool has_accepted;
	uint64_t accepted;
	bool was_read_only;    /* the driver was offered RO; false: no, or unknown */
	const uint8_t *config; /* NULL: unknown */
};

/*
 * Checks whether the device's present offer satisfies the driver; ENOTSUP or EROFS and a sentence
 * if not.
 */
int vublk_device_check_reliance(const struct vublk_device *device,
				const struct vublk_device_reliance *reliance,
				struct vublk_error *error);

/* --- link/keepalive.c -------------------------------------------------------------- */

/*
 * Called when the rings run: begins to check regularly that the back-end answers, if the properties
 * say so.
 */
void vublk_device_keepalive_begin(struct vublk_device *device);
void vublk_device_on_keepalive_timer(void *opaque);

/* --- rings/start-stop.c ------------------------------------------------------------ */

/* Starts or stops the rings if they are not as the driver and the VM want them. */
void vublk_device_update(struct vublk_device *device);
void vublk_device_on_update_task(void *opaque);
/*
 * Calls vublk_device_update() later, from the loop, for files that start-stop.c calls. Unrealize
 * cancels this.
 */
static inline void vublk_device_post_update(struct vublk_device *device)
{
	vublk_loop_post(&device->loop, &device->update_task);
}
/* Forgets the driver's session: features, queues, in-flight area. */
void vublk_device_end_session(struct vublk_device *device);

/* --- rings/early-kick.c ------------------------------------------------------------ */

/*
 * Watches the kicks of a legacy driver while a kick would start the device. Only updates call this.
 */
void vublk_device_watch_kicks(struct vublk_device *device);
/*
 * Called when a kick has come. True: the kick makes the driver ready. Posts an update; may call the
 * bus.
 */
bool vublk_device_take_early_kick(struct vublk_device *device);

/* --- rings/notifiers.c ------------------------------------------------------------- */

/* Called when the rings run: sends the descriptors that have been changed meanwhile. */
void vublk_device_notifiers_send(struct vublk_device *device);
/*
 * Called when the rings were returned or lost: the next start hands over the present descriptors.
 */
void vublk_device_notifiers_settle(struct vublk_device *device);
/* Signals each ring's kick or call descriptor once, in case a notification was lost. */
void vublk_device_kick_rings(struct vublk_device *device);
void vublk_device_call_rings(struct vublk_device *device);

/* --- rings/ring-error.c ------------------------------------------------------------ */

/*
 * Called when only a reset by the driver can help: logs the reason and tells the bus, which may
 * unrealize the device.
 */
void vublk_device_raise_needs_reset(struct vublk_device *device, const struct vublk_error *error);
/*
 * The first function gives each ring an eventfd for its errors and watches it; the second closes
 * these eventfds and is idempotent.
 */
int vublk_device_ring_errors_watch(struct vublk_device *device, struct vublk_error *error);
void vublk_device_ring_errors_unwatch(struct vublk_device *device);

/* --- rings/inflight.c -------------------------------------------------------------- */

/* Whether the back-end records the requests that it has begun in an area for the next back-end. */
bool vublk_device_uses_inflight(const struct vublk_device *device);
/* Whether the back-end or the plane records the requests that were begun. */
bool vublk_device_records_requests(const struct vublk_device *device);
/*
 * Tells the front-end which protocol features of the in-flight area to accept in the next
 * handshake.
 */
void vublk_device_ask_for_inflight(struct vublk_device *device);
/* Closes the session's area. Idempotent. */
void vublk_device_drop_inflight(struct vublk_device *device);

/* --- rings/indices.c --------------------------------------------------------------- */

/* Reads the indices of a queue that is set up, in the memory that is set. */
int vublk_device_read_indices(const struct vublk_device *device, unsigned index, uint16_t *used,
			      uint16_t *avail, struct vublk_error *error);
/*
 * An upper bound on the number of incomplete requests, from the ring's indices. After a loss, only
 * requests that the lost back-end may have seen are counted.
 */
uint16_t vublk_device_count_outstanding(const struct vublk_device *device, unsigned index,
					uint16_t used, uint16_t avail);

/* --- rings/resume.c ---------------------------------------------------------------- */

/*
 * Called when the rings have been returned: stores their bases, and whether the back-end left
 * requests incomplete.
 */
void vublk_device_rings_are_back(struct vublk_device *device);
/*
 * Called when the back-end that had the rings has just been lost: records the avail index of each
 * ring.
 */
void vublk_device_note_loss(struct vublk_device *device);
/*
 * Decides whether this back-end can continue the rings as they were left, and at which index. EIO
 * and a sentence if requests could be lost or executed twice.
 */
int vublk_device_recover(struct vublk_device *device, struct vublk_error *error);

/* --- rings/handover.c -------------------------------------------------------------- */

/*
 * Called when a back-end has taken the area: areas that are made without a back-end get the layout
 * of this area.
 */
void vublk_device_note_inflight_layout(struct vublk_device *device);

/* --- rings/undrained.c ------------------------------------------------------------- */

/*
 * The number of requests that the back-end had taken and not completed when it returned the ring.
 */
uint16_t vublk_device_count_undrained(const struct vublk_device *device, unsigned index,
				      uint16_t used);
/*
 * Called when the rings have been returned by a stop that waits for all requests: warns if the
 * back-end did not wait.
 */
void vublk_device_warn_undrained(struct vublk_device *device);
/*
 * Called when a back-end that had no rings has just been lost: records whether it had left requests
 * incomplete.
 */
void vublk_device_note_loss_at_rest(struct vublk_device *device);

/* --- rings/shadow.c ---------------------------------------------------------------- */

/* Makes the plane, if the property is on and the number of queues is known. */
int vublk_device_shadow_init(struct vublk_device *device, struct vublk_error *error);
/* Lowers seg_max of a back-end's config to what the plane has room for, or will have. */
void vublk_device_shadow_limit(const struct vublk_device *device,
			       struct virtio_blk_config *config);
/* Drops the driver's rings and frees everything. Idempotent. */
void vublk_device_shadow_deinit(struct vublk_device *device);
/* Whether the plane is in the data path. */
static inline bool vublk_device_is_shadowed(const struct vublk_device *device)
{
	return device->shadow.thread;
}
/* Whether the plane has the driver's rings. */
static inline bool vublk_device_shadow_is_attached(const struct vublk_device *device)
{
	return device->shadow.memory;
}
/* Whether the plane gives requests to a back-end: from the end of a start to the stop. */
bool vublk_device_shadow_has_backend(const struct vublk_device *device);
/* Whether the driver waits for requests in the plane. */
bool vublk_device_shadow_has_requests(const struct vublk_device *device);

/* Called by a start, in this order; without the plane they do nothing. */
int vublk_device_shadow_prepare(struct vublk_device *device, struct vublk_error *error);
/* Adds the plane's memory to the table for the back-end again, because the guest's has changed. */
int vublk_device_shadow_refresh(struct vublk_device *device, struct vublk_error *error);
const struct vublk_frontend_memory *vublk_device_shadow_memory(const struct vublk_device *device);
void vublk_device_shadow_collect(struct vublk_device *device); /* after queues_collect() */
int vublk_device_shadow_attach(struct vublk_device *device, struct vublk_error *error);
int vublk_device_shadow_run(struct vublk_device *device, struct vublk_error *error);

/*
 * Takes no more requests. True: `drained` (may be NULL) is called when the driver has got back all
 * requests. If that takes too long, the back-end counts as lost; without a back-end, an update
 * returns the rings.
 */
bool vublk_device_shadow_stop(struct vublk_device *device,
			      void (*drained)(struct vublk_device *device));
/* Takes requests again after a stop that was not needed. */
void vublk_device_shadow_resume(struct vublk_device *device);
/* The back-end has returned the plane's rings, or is not to use them any more. */
void vublk_device_shadow_part(struct vublk_device *device);
/* Stores the bases and returns the driver's rings, whose requests are complete. */
void vublk_device_shadow_return(struct vublk_device *device);
/* Returns the driver's rings, whose requests do not matter any more. Idempotent. */
void vublk_device_shadow_drop(struct vublk_device *device);
/*
 * Called when the back-end is lost. False: the deadline of a stop has passed, so which requests were
 * executed is unknown.
 */
bool vublk_device_shadow_lose(struct vublk_device *device);
/* Maps the memory that was set while rings run, when the back-end has it. */
int vublk_device_shadow_change_memory(struct vublk_device *device, struct vublk_error *error);
/* Gives the plane the driver's present descriptors of a queue. */
int vublk_device_shadow_set_notifiers(struct vublk_device *device, unsigned index,
				      struct vublk_error *error);
/* Switches logging on, with this bitmap, or off (NULL). */
void vublk_device_shadow_log(struct vublk_device *device, uint64_t *bitmap, uint64_t bytes);

/* --- rings/dirty-log.c ------------------------------------------------------------- */

void vublk_device_dirty_log_init(struct vublk_device *device);
/* Switches the dirty log off without telling the back-end. Idempotent. */
void vublk_device_dirty_log_drop(struct vublk_device *device);
/* The log of rings that are started; NULL: they are not logged. */
const struct vublk_device_dirty_log *vublk_device_dirty_log_of_start(
	const struct vublk_device *device);
/* Called when the rings run: begins the change that the bus requested meanwhile. */
void vublk_device_dirty_log_started(struct vublk_device *device);
/*
 * Called when the rings do not run any more: ends the change that the bus requested. May call the
 * bus.
 */
void vublk_device_dirty_log_stopped(struct vublk_device *device);
/*
 * Called when a back-end that had the rings is lost: marks the pages that it may have written last.
 */
void vublk_device_dirty_log_mark_rings(struct vublk_device *device);
/* Whether messages about the log are under way. Until they end, the rings are not stopped. */
bool vublk_device_dirty_log_is_changing(const struct vublk_device *device);
/* Checks whether the log covers this memory; EINVAL and a sentence if not. */
int vublk_device_dirty_log_check(const struct vublk_device *device,
				 const struct vublk_frontend_memory *memory,
				 struct vublk_error *error);
/*
 * Gives the plane the bitmap, if the log is on. Without the plane it does nothing. ENOMEM: the
 * bitmap cannot be mapped.
 */
int vublk_device_dirty_log_give(struct vublk_device *device, struct vublk_error *error);
/* Checks whether the back-end can log; ENOTSUP and a sentence ("it cannot ...") if not. */
int vublk_device_dirty_log_check_backend(const struct vublk_device *device,
					 struct vublk_error *error);

#endif
