/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_FRONTEND_FRONTEND_H
#define VUBLK_FRONTEND_FRONTEND_H

#include "proto/vhost-user/channel.h"
#include "util/log.h"
#include "util/loop.h"
#include "virtio/blk-format.h"

#include <vublk/device.h>
#include <vublk/error.h>
#include <vublk/memory.h>

/*
 * The front-end of a vhost-user connection: the messages of a device to its back-end.
 * No call waits. Each request that has an answer has a deadline, after which the connection
 * counts as lost.
 *
 * There is one way to fail: an event that breaks the connection (a send that fails, a reply
 * that violates a rule, a deadline, the peer's end of file) turns every later call into a
 * no-op, and ops->lost() is called once, from the loop and never from inside a call. After
 * lost() there is no other callback: no done() follows.
 */

/* The default of the time that a back-end may take to answer a request. */
#define VUBLK_FRONTEND_DEFAULT_TIMEOUT_MS 5000

enum vublk_frontend_state {
	VUBLK_FRONTEND_CLOSED,      /* no connection */
	VUBLK_FRONTEND_NEGOTIATING, /* the handshake is under way */
	VUBLK_FRONTEND_READY,       /* the device's requests may be sent */
	VUBLK_FRONTEND_FAILED,      /* broken; lost() is about to be called */
	VUBLK_FRONTEND_NUM_STATES,
};

enum vublk_frontend_event {
	VUBLK_FRONTEND_EVENT_OPENED,
	VUBLK_FRONTEND_EVENT_NEGOTIATED,
	VUBLK_FRONTEND_EVENT_BROKE,
	VUBLK_FRONTEND_EVENT_CLOSED,
	VUBLK_FRONTEND_NUM_EVENTS,
};

struct vublk_frontend;

/* Called from the loop only; each may close the front-end. */
struct vublk_frontend_ops {
	/* The handshake is done: frontend->info and the config are known. */
	void (*negotiated)(void *opaque);
	/* The connection is lost and has been closed. */
	void (*lost)(void *opaque, const struct vublk_error *error);
	/* The back-end reports, at any time, that its config has changed. */
	void (*config_changed)(void *opaque);
	/* The back channel is closed: the back-end can no longer report changes of the config. */
	void (*back_channel_closed)(void *opaque);
};

/* The back-end's answers about itself. */
struct vublk_frontend_info {
	uint64_t features;
	uint64_t protocol_features;          /* offered */
	uint64_t accepted_protocol_features;
	uint32_t max_queues;
	uint32_t memory_slots;
	uint32_t config_bytes;
};

/* A request whose answer is outstanding. */
struct vublk_frontend_expected;

/* `reply` is valid during the call; its descriptors are closed afterwards unless they are taken. */
typedef void vublk_frontend_reply_fn(void *opaque, unsigned tag,
				     struct vublk_vu_message *reply);

/*
 * Messages that belong together. They are sent in pieces; a piece waits while many answers to
 * earlier pieces are outstanding, so that the messages do not fill the socket of a back-end that
 * reads slowly.
 */
struct vublk_frontend_batch {
	struct vublk_frontend *frontend; /* NULL: not under way */
	/* Sends the messages of piece `index` with vublk_frontend_batch_...(). */
	void (*send_piece)(void *owner, unsigned index);
	/*
	 * Called when a message of the piece was refused; `first`: no message was refused before.
	 * May be NULL.
	 */
	void (*refused)(void *owner, unsigned index, bool first);
	void *owner;
	/* Called when all messages are answered. `error` is the first refusal, or NULL. */
	void (*done)(void *opaque, const struct vublk_error *error);
	void *opaque;
	unsigned num_pieces, next_piece;
	unsigned unconfirmed;    /* messages since the last one that has an answer */
	unsigned num_waiting;    /* answers that are outstanding */
	struct vublk_error refusal;
};

/* A region of memory. Regions with the same device and inode number are in the same file. */
struct vublk_frontend_region {
	struct vublk_memory_region region; /* fd: borrowed from the device; not used in the shadow */
	uint64_t file_device, file_inode;
};

struct vublk_frontend_memory {
	unsigned num_regions;
	struct vublk_frontend_region *regions; /* borrowed from the device */
};

struct vublk_frontend_memory_change {
	struct vublk_frontend_batch batch;
	/* the regions that the back-end has, as far as is known */
	struct vublk_frontend_region shadow[VUBLK_MEMORY_MAX_REGIONS];
	unsigned num_shadow;
	/* the messages: removals first, then additions; or one whole table */
	unsigned num_removals;
	struct vublk_frontend_region removals[VUBLK_MEMORY_MAX_REGIONS];
	unsigned num_additions;
	struct vublk_frontend_region additions[VUBLK_MEMORY_MAX_REGIONS];
};

/* A queue as the back-end is told of it. Addresses are guest addresses. */
struct vublk_frontend_queue {
	uint16_t index;
	uint16_t size;
	uint16_t base;
	uint64_t desc_addr, avail_addr, used_addr;
	int kick_fd, call_fd, err_fd; /* borrowed; -1: none */
};

struct vublk_frontend_rings {
	struct vublk_frontend_batch batch;
	bool any_kick; /* a kick descriptor has been sent: the back-end may work on the ring from
	                  that time on */
	bool skips_drain; /* the stop uses GET_VRING_BASE_SKIP_DRAIN */
	unsigned num_queues;
	struct vublk_frontend_queue *queues; /* borrowed until done */
};

/* A kick or call descriptor that replaces another while the rings run. */
struct vublk_frontend_notifier {
	uint32_t request; /* SET_VRING_KICK or SET_VRING_CALL */
	uint16_t queue;
	int fd; /* borrowed; -1: none */
};

struct vublk_frontend_notifiers {
	struct vublk_frontend_batch batch;
	const struct vublk_frontend_notifier *changes; /* borrowed until done */
};

struct vublk_frontend_inflight {
	struct vublk_frontend_batch batch;
	struct vublk_device_inflight *area; /* borrowed until done, like the queues */
	const struct vublk_frontend_queue *queues;
	unsigned num_queues;
	void (*done)(void *opaque, const struct vublk_error *error);
	void *opaque;
};

struct vublk_frontend_dirty_log_change {
	struct vublk_frontend_batch batch;
	uint64_t features;
	const struct vublk_frontend_queue *queues; /* borrowed until done */
};

/* The part of the set-up that concerns all queues: the features that the driver accepted. */
struct vublk_frontend_session {
	struct vublk_frontend_batch batch;
	uint64_t features;
};

typedef void vublk_frontend_config_fn(void *opaque, const uint8_t *config, unsigned bytes,
				      const struct vublk_error *error);

struct vublk_frontend_config_read {
	unsigned size_index;     /* into the sizes that are tried */
	unsigned num_bytes;      /* received so far */
	uint8_t data[VUBLK_BLK_CONFIG_BYTES];
	vublk_frontend_config_fn *done; /* NULL: not under way */
	void *opaque;
};

struct vublk_frontend_back_channel {
	struct vublk_channel channel;
	struct vublk_loop_source source;
};

struct vublk_frontend {
	enum vublk_frontend_state state;
	const struct vublk_frontend_ops *ops;
	void *opaque;
	struct vublk_loop *loop;
	const struct vublk_log *log;
	struct vublk_log_limit *limit; /* the owner's, which outlives connections */
	unsigned timeout_ms;
	/*
	 * Called when the back-end hung up instead of answering `request`: prepends to the error
	 * what the reason may be, if a reason is known (frontend.c).
	 */
	void (*explain_loss)(const struct vublk_frontend *frontend, uint32_t request,
			     struct vublk_error *error);
	/* The owner sets these two before it opens the front-end. */
	bool wants_inflight; /* accept INFLIGHT_SHMFD */
	bool wants_undrained_stops; /* accept GET_VRING_BASE_INFLIGHT and _SKIP_DRAIN, too */

	struct vublk_channel channel;
	struct vublk_loop_source source;
	struct vublk_loop_timer deadline;
	struct vublk_loop_task lost_task;
	struct vublk_error failure;

	struct vublk_frontend_expected *expected; /* oldest first */
	struct vublk_frontend_expected **expected_end;
	uint64_t num_answers;
	unsigned round_trips; /* for the log: requests that were sent while no answer was outstanding */

	struct vublk_frontend_info info;
	struct vublk_frontend_config_read config_read;
	uint8_t config[VUBLK_BLK_CONFIG_BYTES]; /* as read in the handshake */
	struct vublk_frontend_memory_change memory;
	struct vublk_frontend_session session;
	struct vublk_frontend_inflight inflight;
	struct vublk_frontend_rings start, stop;
	const struct vublk_device_dirty_log *dirty_log; /* the device's; NULL: off */
	struct vublk_frontend_dirty_log_change dirty_log_change;
	struct vublk_frontend_notifiers notifiers;
	struct vublk_frontend_batch config_write;
	uint8_t config_write_wce;
	struct vublk_frontend_back_channel back_channel;
};

/*
 * --- life (frontend.c; close, fail and has: connection.c)
 * ------------------------------------------------------
 */

/* All arguments except `frontend` are borrowed. */
void vublk_frontend_init(struct vublk_frontend *frontend, struct vublk_loop *loop,
			 const struct vublk_log *log, struct vublk_log_limit *limit,
			 const struct vublk_frontend_ops *ops,
			 void *opaque);

/*
 * Connects to the Unix socket at `path` and begins the handshake. After a failure nothing has
 * changed. State CLOSED.
 */
int vublk_frontend_open(struct vublk_frontend *frontend, const char *path, unsigned timeout_ms,
			struct vublk_error *error);

/*
 * Begins the handshake on a socket that is already connected and non-blocking; `path` is for the
 * log. Takes ownership of `fd`, also on failure. State CLOSED.
 */
int vublk_frontend_open_fd(struct vublk_frontend *frontend, int fd, const char *path,
			   unsigned timeout_ms, struct vublk_error *error);

/* Closes the connection, in any state and from any callback; no callback follows. Idempotent. */
void vublk_frontend_close(struct vublk_frontend *frontend);

/* Abandons the connection for the reason given: lost() follows. */
void vublk_frontend_fail(struct vublk_frontend *frontend, const struct vublk_error *error);

bool vublk_frontend_has(const struct vublk_frontend *frontend, unsigned protocol_feature);

/* Whether no answer is outstanding. */
static inline bool vublk_frontend_is_idle(const struct vublk_frontend *frontend)
{
	return !frontend->expected;
}

/*
 * Whether the back-end can report that its config changed, that is, whether the back channel is
 * open.
 */
static inline bool vublk_frontend_reports_config(const struct vublk_frontend *frontend)
{
	return frontend->back_channel.source.loop;
}

/* Whether the back-end has memory that it was given on this connection and that was not removed. */
static inline bool vublk_frontend_has_memory(const struct vublk_frontend *frontend)
{
	return frontend->memory.num_shadow;
}

/*
 * Whether the last start has sent a kick descriptor, so that the back-end may have worked on a ring
 * since.
 */
static inline bool vublk_frontend_may_have_begun(const struct vublk_frontend *frontend)
{
	return frontend->start.any_kick;
}

/* The parts of init and open that concern the connection (connection.c). */
void vublk_frontend_init_connection(struct vublk_frontend *frontend);
int vublk_frontend_attach(struct vublk_frontend *frontend, int fd, const char *path,
			  unsigned timeout_ms, struct vublk_error *error);

/* --- messages (connection.c) ---------------------------------------------------- */

/* Sends a request that has no answer. */
void vublk_frontend_send(struct vublk_frontend *frontend, struct vublk_vu_message *message);

/*
 * Sends a request whose answer has at least `min_bytes` of payload. A shorter answer, or the
 * answer to another request, breaks the connection, and `fn` is not called.
 */
void vublk_frontend_ask(struct vublk_frontend *frontend, struct vublk_vu_message *message,
			unsigned min_bytes, vublk_frontend_reply_fn *fn, void *opaque,
			unsigned tag);

/*
 * Checks that the back-end does not hang: sends a request that every back-end answers immediately.
 */
void vublk_frontend_ping(struct vublk_frontend *frontend);

/* --- batches (batch.c) ------------------------------------------------------------ */

/* The caller has set owner, send_piece and refused of the batch; this function sets the others. */
void vublk_frontend_batch_begin(struct vublk_frontend *frontend,
				struct vublk_frontend_batch *batch, unsigned num_pieces,
				void (*done)(void *opaque, const struct vublk_error *error),
				void *opaque);
/* From send_piece(): a request that has no answer. */
void vublk_frontend_batch_send(struct vublk_frontend_batch *batch,
			       struct vublk_vu_message *message);
/* From send_piece(): a request that the back-end confirms if it can (REPLY_ACK). */
void vublk_frontend_batch_send_confirmed(struct vublk_frontend_batch *batch,
					 struct vublk_vu_message *message);
/* From send_piece(): a request with an answer of its own, which `fn` may treat as a refusal. */
void vublk_frontend_batch_ask(struct vublk_frontend_batch *batch,
			      struct vublk_vu_message *message, unsigned min_bytes,
			      vublk_frontend_reply_fn *fn);
/* From a reply function, as its last call: counts the answer. The last answer calls done(). */
void vublk_frontend_batch_answered(struct vublk_frontend_batch *batch);
/* From a reply function: notes that the answer is a refusal. The first refusal is kept. */
void vublk_frontend_batch_refuse(struct vublk_frontend_batch *batch, int code,
				 const char *format, ...) __attribute__((format(printf, 3, 4)));

/* --- steps ------------------------------------------------------------------------ */

/* The handshake, which vublk_frontend_open() begins (negotiate.c). */
void vublk_frontend_negotiate(struct vublk_frontend *frontend);
/* The end of the handshake (connection.c). */
void vublk_frontend_set_negotiated(struct vublk_frontend *frontend);

/* How many regions the back-end takes (memory.c). */
unsigned vublk_frontend_memory_slots(const struct vublk_frontend *frontend);
/*
 * Tells the back-end how the memory has changed. `memory` and its descriptors are borrowed
 * until done() (memory.c).
 */
void vublk_frontend_set_memory(struct vublk_frontend *frontend,
			       const struct vublk_frontend_memory *memory,
			       void (*done)(void *opaque, const struct vublk_error *error),
			       void *opaque);

/*
 * Called when a back-end hung up when it was given memory: prepends to the error the first region
 * that the back-end may not accept, if there is such a region (memory.c).
 */
void vublk_frontend_explain_memory(const struct vublk_frontend *frontend,
				   struct vublk_error *error);

/*
 * Tells the back-end the features that the driver accepted. All messages are sent before the
 * call returns, so the memory may be set without waiting for done(). With a dirty log (NULL:
 * no log) the back-end logs its writes; the log is borrowed until vublk_frontend_set_dirty_log()
 * or the end of the connection (vring.c).
 */
void vublk_frontend_begin_session(struct vublk_frontend *frontend, uint64_t features,
				  const struct vublk_device_dirty_log *dirty_log,
				  void (*done)(void *opaque, const struct vublk_error *error),
				  void *opaque);
/*
 * Gives the back-end the in-flight area, after the session and before the memory. If area->fd is
 * -1, the back-end makes the area first: the caller has set num_queues and queue_size of the area,
 * and the front-end sets fd, size_bytes and offset when the back-end has answered. INFLIGHT_SHMFD
 * has been negotiated (inflight.c).
 */
void vublk_frontend_set_inflight(struct vublk_frontend *frontend,
				 struct vublk_device_inflight *area,
				 const struct vublk_frontend_queue *queues, unsigned num_queues,
				 void (*done)(void *opaque, const struct vublk_error *error),
				 void *opaque);
/*
 * Lets the back-end make a new area, as the previous function does if area->fd is -1, but does not
 * give the area to the back-end afterwards. `area` is borrowed until done(). Not permitted while
 * vublk_frontend_set_inflight() is under way (inflight.c).
 */
void vublk_frontend_get_inflight(struct vublk_frontend *frontend,
				 struct vublk_device_inflight *area,
				 void (*done)(void *opaque, const struct vublk_error *error),
				 void *opaque);
/*
 * Called when a back-end refused the area, or hung up when it was given the area: prepends to the
 * error what may be wrong (inflight.c).
 */
void vublk_frontend_explain_inflight(const struct vublk_frontend *frontend,
				     struct vublk_error *error);
/*
 * Hands the rings over, after the session and the memory. The queues are borrowed until
 * done() (vring.c).
 */
void vublk_frontend_start_rings(struct vublk_frontend *frontend,
				struct vublk_frontend_queue *queues, unsigned num_queues,
				void (*done)(void *opaque, const struct vublk_error *error),
				void *opaque);
/* Replaces descriptors of rings that run. One call at a time (vring.c). */
void vublk_frontend_set_notifiers(struct vublk_frontend *frontend,
				  const struct vublk_frontend_notifier *changes, unsigned count,
				  void (*done)(void *opaque, const struct vublk_error *error),
				  void *opaque);
/*
 * Switches the dirty log on while the rings run, or off with NULL; `features` are those of the
 * session. LOG_SHMFD has been negotiated. One call at a time (dirty-log.c).
 */
void vublk_frontend_set_dirty_log(struct vublk_frontend *frontend,
				  const struct vublk_device_dirty_log *dirty_log,
				  uint64_t features, const struct vublk_frontend_queue *queues,
				  unsigned num_queues,
				  void (*done)(void *opaque, const struct vublk_error *error),
				  void *opaque);
/* --- messages of more than one step (messages.c) ----------------------------------- */

/* Sends a request that carries a number, and has it confirmed. */
void vublk_frontend_send_u64(struct vublk_frontend_batch *batch, uint32_t request, uint64_t value);
/* Sends a request that carries a queue index and a number; only SET_VRING_ENABLE is confirmed. */
void vublk_frontend_send_state(struct vublk_frontend_batch *batch, uint32_t request,
			       unsigned index, unsigned num);
/* If frontend->dirty_log is set, the features and the addresses' flags turn the dirty log on. */
void vublk_frontend_send_features(struct vublk_frontend_batch *batch, uint64_t features);
void vublk_frontend_send_addresses(struct vublk_frontend_batch *batch,
				   const struct vublk_frontend_queue *queue);

/* Gives the back-end the bitmap (dirty-log.c). */
void vublk_frontend_send_log_base(struct vublk_frontend_batch *batch,
				  const struct vublk_device_dirty_log *dirty_log);
/*
 * Whether a stop of the rings may leave disk requests in the in-flight area. `drains` says whether
 * the caller wants the stop to wait until these requests are complete; a back-end that has
 * GET_VRING_BASE_INFLIGHT alone cannot be told to wait.
 */
bool vublk_frontend_leaves_requests(const struct vublk_frontend *frontend, bool drains);
/*
 * Stops the rings; afterwards the base of each queue is the index at which its ring resumes. Disk
 * requests that the back-end had begun are complete, unless vublk_frontend_leaves_requests() is
 * true.
 */
void vublk_frontend_stop_rings(struct vublk_frontend *frontend,
			       struct vublk_frontend_queue *queues, unsigned num_queues,
			       bool drains,
			       void (*done)(void *opaque, const struct vublk_error *error),
			       void *opaque);

/* Reads as much of the config as the back-end has. One call at a time (config.c). */
void vublk_frontend_read_config(struct vublk_frontend *frontend, vublk_frontend_config_fn *done,
				void *opaque);
/* Sets the write cache. EIO: the back-end refused. One call at a time (config.c). */
void vublk_frontend_write_wce(struct vublk_frontend *frontend, uint8_t wce,
			      void (*done)(void *opaque, const struct vublk_error *error),
			      void *opaque);

/*
 * Opens a socket pair and gives the back-end the other end (back-channel.c; close: connection.c).
 */
void vublk_frontend_open_back_channel(struct vublk_frontend *frontend);
void vublk_frontend_close_back_channel(struct vublk_frontend *frontend);

/* --- for tests and logs ------------------------------------------------------------- */

const char *vublk_frontend_state_name(enum vublk_frontend_state state);
const char *vublk_frontend_event_name(enum vublk_frontend_event event);
/* The state that the table has for the event; -1: the event does not occur in this state. */
int vublk_frontend_next_state(enum vublk_frontend_state state, enum vublk_frontend_event event);

#endif
