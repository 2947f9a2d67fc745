/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_FRONTEND_FRONTEND_H
#define VUBLK_FRONTEND_FRONTEND_H

#include "proto/vhost-user/channel.h"
#include "util/log.h"
#include "util/loop.h"
#include "util/sections.h"
#include "virtio/blk-format.h"

#include <vublk/device.h>
#include <vublk/error.h>
#include <vublk/memory.h>

/*
 * The front-end of a vhost-user connection: sends a device's messages to its back-end. No call
 * blocks. The back-end has a time limit for each answer. The time begins when the request is sent
 * or when the previous request is answered, whichever is later. If the back-end misses the
 * deadline, the connection counts as lost.
 *
 * There is only one way to fail. An event that breaks the connection (a failed send, a reply that
 * violates a rule, a missed deadline, the peer's end of file) turns every later call into a no-op,
 * except vublk_frontend_close(). Unless the owner makes that call first, the loop calls ops->lost()
 * once, never during another call. No other callback is called after the failure, not even the
 * done() of an operation that is under way.
 */

/* The default time limit for each answer of the back-end. */
#define VUBLK_FRONTEND_DEFAULT_TIMEOUT_MS 5000

enum vublk_frontend_state {
	VUBLK_FRONTEND_CLOSED,      /* no connection */
	VUBLK_FRONTEND_NEGOTIATING, /* the handshake is not complete */
	VUBLK_FRONTEND_READY,       /* the device's requests may be sent */
	VUBLK_FRONTEND_FAILED,      /* the connection is broken; lost() will be called */
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

/* The owner's functions. They are called only from the loop, and may close the front-end. */
struct vublk_frontend_ops {
	/* The handshake is done. frontend->info and frontend->config are valid. */
	void (*negotiated)(void *opaque);
	/* The connection is lost and has been closed. */
	void (*lost)(void *opaque, const struct vublk_error *error);
	/*
	 * The back-end has reported that its config has changed. May be called before
	 * negotiated().
	 */
	void (*config_changed)(void *opaque);
	/*
	 * The back channel is closed, so the back-end can no longer report changes of its config.
	 */
	void (*back_channel_closed)(void *opaque);
};

/* What the front-end knows about the back-end, mostly from the handshake. */
struct vublk_frontend_info {
	uint64_t features;
	uint64_t protocol_features;          /* those that the back-end offers */
	uint64_t accepted_protocol_features;
	uint32_t max_queues;
	uint32_t memory_slots;
	uint32_t config_bytes;
};

/* A request whose answer is outstanding. */
struct vublk_frontend_expected;

/*
 * Called with the answer to a request. `opaque` and `tag` are the arguments of
 * vublk_frontend_ask(). `reply` is valid only during the call. Afterwards the front-end closes
 * those descriptors in `reply` that the function has not taken.
 */
typedef void vublk_frontend_reply_fn(void *opaque, unsigned tag,
				     struct vublk_vu_message *reply);

/*
 * A batch: messages that belong together (batch.c). They are sent in pieces. While many answers to
 * earlier pieces are outstanding, the next piece waits, so that the messages do not fill the socket
 * of a slow back-end.
 */
struct vublk_frontend_batch {
	struct vublk_frontend *frontend; /* NULL: no batch is under way */
	/*
	 * Sends the messages of piece `index`, each with vublk_frontend_batch_send(),
	 * _send_confirmed() or _ask().
	 */
	void (*send_piece)(void *owner, unsigned index);
	/*
	 * Called when the back-end's confirmation says that it refuses a message of piece `index`.
	 * `first`: this is the first refusal in the batch. May be NULL.
	 */
	void (*refused)(void *owner, unsigned index, bool first);
	void *owner;
	/*
	 * Called when all messages that were sent have been answered. After a refusal no further
	 * piece is sent, and `error` is the first refusal; otherwise it is NULL.
	 */
	void (*done)(void *opaque, const struct vublk_error *error);
	void *opaque;
	unsigned num_pieces, next_piece;
	unsigned unconfirmed;    /* how many messages without an answer were sent after the last
				    message with an answer */
	unsigned num_waiting;    /* how many answers are outstanding */
	struct vublk_error refusal;
};

/* A region of memory. Regions with the same device and inode number are in the same file. */
struct vublk_frontend_region {
	struct vublk_memory_region region; /* fd is borrowed from the device; it is not valid in
					      `shadow` */
	uint64_t file_device, file_inode;
};

struct vublk_frontend_memory {
	unsigned num_regions;
	struct vublk_frontend_region *regions; /* borrowed from the device */
};

struct vublk_frontend_memory_change {
	struct vublk_frontend_batch batch;
	/* the regions that the back-end was given, except those whose ADD_MEM_REG it refused */
	struct vublk_frontend_region shadow[VUBLK_MEMORY_MAX_REGIONS];
	unsigned num_shadow;
	/*
	 * the changes to send: with memory slots, one message per removal, then one per addition;
	 * otherwise one message with the whole table, which is in `additions`
	 */
	unsigned num_removals;
	struct vublk_frontend_region removals[VUBLK_MEMORY_MAX_REGIONS];
	unsigned num_additions;
	struct vublk_frontend_region additions[VUBLK_MEMORY_MAX_REGIONS];
};

/* A queue as it appears in the messages. All addresses are guest addresses. */
struct vublk_frontend_queue {
	uint16_t index;
	uint16_t size;
	uint16_t base;
	uint64_t desc_addr, avail_addr, used_addr;
	int kick_fd, call_fd, err_fd; /* borrowed; -1: none */
};

struct vublk_frontend_rings {
	struct vublk_frontend_batch batch;
	bool any_kick; /* a SET_VRING_KICK was sent, so the back-end may have worked on a ring */
	bool skips_drain; /* the rings are stopped by GET_VRING_BASE_SKIP_DRAIN instead of
			     GET_VRING_BASE */
	unsigned num_queues;
	struct vublk_frontend_queue *queues; /* borrowed until done() */
};

/* A kick or call descriptor that replaces another while the rings run. */
struct vublk_frontend_notifier {
	uint32_t request; /* SET_VRING_KICK or SET_VRING_CALL */
	uint16_t queue;
	int fd; /* borrowed; -1: none */
};

struct vublk_frontend_notifiers {
	struct vublk_frontend_batch batch;
	const struct vublk_frontend_notifier *changes; /* borrowed until done() */
};

struct vublk_frontend_inflight {
	struct vublk_frontend_batch batch;
	struct vublk_device_inflight *area; /* borrowed until done(), as are the queues */
	const struct vublk_frontend_queue *queues;
	unsigned num_queues;
	void (*done)(void *opaque, const struct vublk_error *error);
	void *opaque;
};

struct vublk_frontend_dirty_log_change {
	struct vublk_frontend_batch batch;
	uint64_t features;
	const struct vublk_frontend_queue *queues; /* borrowed until done() */
};

/* The part of a start that concerns the whole device: the features that the driver accepted. */
struct vublk_frontend_session {
	struct vublk_frontend_batch batch;
	uint64_t features;
};

typedef void vublk_frontend_config_fn(void *opaque, const uint8_t *config, unsigned bytes,
				      const struct vublk_error *error);

struct vublk_frontend_config_read {
	unsigned size_index;     /* index of the size that was requested last (config.c) */
	unsigned num_bytes;      /* how many bytes `data` has */
	uint8_t data[VUBLK_BLK_CONFIG_BYTES];
	vublk_frontend_config_fn *done; /* NULL: no read is under way */
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
	struct vublk_log_limit *limit; /* belongs to the owner, and outlives connections */
	unsigned timeout_ms;
	/*
	 * Called when receiving fails while the answer to `request` is outstanding, usually because
	 * the back-end has hung up. If the probable reason is known, prepends it to `error`
	 * (frontend.c).
	 */
	void (*explain_loss)(const struct vublk_frontend *frontend, uint32_t request,
			     struct vublk_error *error);
	/* set by the owner before it opens the front-end */
	bool wants_inflight; /* the handshake accepts INFLIGHT_SHMFD */
	bool wants_undrained_stops; /* the handshake also accepts GET_VRING_BASE_INFLIGHT and
				       GET_VRING_BASE_SKIP_DRAIN */

	struct vublk_channel channel;
	struct vublk_loop_source source;
	struct vublk_loop_timer deadline;
	uint64_t answered_ns; /* when the last answer arrived */
	struct vublk_loop_task lost_task;
	struct vublk_error failure;
	bool peer_has_closed; /* the back-end had closed its end when the connection was lost */

	struct vublk_frontend_expected *expected; /* oldest first */
	struct vublk_frontend_expected **expected_end;
	uint64_t num_answers;
	unsigned round_trips; /* for the log: how many requests were sent while no answer was
				 outstanding */

	struct vublk_frontend_info info;
	struct vublk_frontend_config_read config_read;
	uint8_t config[VUBLK_BLK_CONFIG_BYTES]; /* the config as the handshake read it */
	struct vublk_frontend_memory_change memory;
	struct vublk_frontend_session session;
	struct vublk_frontend_inflight inflight;
	struct vublk_frontend_rings start, stop;
	const struct vublk_device_dirty_log *dirty_log; /* the device's; NULL: the log is off */
	struct vublk_frontend_dirty_log_change dirty_log_change;
	struct vublk_frontend_notifiers notifiers;
	struct vublk_frontend_batch config_write;
	uint8_t config_write_wce;
	struct vublk_frontend_back_channel back_channel;
};

/* --- life (frontend.c; close, fail and has: connection.c) ----------------------------------- */

/* Initializes `frontend`, without a connection. All other arguments are borrowed. */
void vublk_frontend_init(struct vublk_frontend *frontend, struct vublk_loop *loop,
			 const struct vublk_log *log, struct vublk_log_limit *limit,
			 const struct vublk_frontend_ops *ops,
			 void *opaque);

/*
 * Connects to the Unix socket at `path` and begins the handshake. The state must be CLOSED. A
 * failure changes nothing.
 */
int vublk_frontend_open(struct vublk_frontend *frontend, const char *path, unsigned timeout_ms,
			struct vublk_error *error);

/*
 * Begins the handshake on a socket that is connected and non-blocking. `path` is for the log. Takes
 * ownership of `fd`, even on failure. The state must be CLOSED.
 */
int vublk_frontend_open_fd(struct vublk_frontend *frontend, int fd, const char *path,
			   unsigned timeout_ms, struct vublk_error *error);

/* Closes the connection in any state; callbacks may call this. No callback follows. Idempotent. */
void vublk_frontend_close(struct vublk_frontend *frontend);

/* Breaks the connection; lost() follows with `error`. A no-op if no connection is open. */
void vublk_frontend_fail(struct vublk_frontend *frontend, const struct vublk_error *error);

bool vublk_frontend_has(const struct vublk_frontend *frontend, unsigned protocol_feature);

/* Returns whether no answer is outstanding. */
static inline bool vublk_frontend_is_idle(const struct vublk_frontend *frontend)
{
	return !frontend->expected;
}

/*
 * Returns whether the back-end can report changes of its config, that is, whether the back channel
 * is open.
 */
static inline bool vublk_frontend_reports_config(const struct vublk_frontend *frontend)
{
	return frontend->back_channel.source.loop;
}

/* Returns whether the back-end has at least one memory region on this connection. */
static inline bool vublk_frontend_has_memory(const struct vublk_frontend *frontend)
{
	return frontend->memory.num_shadow;
}

/*
 * Returns whether the latest start on this connection has sent a SET_VRING_KICK. If so, the
 * back-end may have begun to work on a ring.
 */
static inline bool vublk_frontend_may_have_begun(const struct vublk_frontend *frontend)
{
	return frontend->start.any_kick;
}

/* These functions do the work of init and open that concerns the connection (connection.c). */
void vublk_frontend_init_connection(struct vublk_frontend *frontend);
int vublk_frontend_attach(struct vublk_frontend *frontend, int fd, const char *path,
			  unsigned timeout_ms, struct vublk_error *error);

/* --- messages (connection.c) ---------------------------------------------------- */

/* Sends a request that has no answer. */
void vublk_frontend_send(struct vublk_frontend *frontend, struct vublk_vu_message *message);

/*
 * Sends a request, and calls `fn` with `opaque` and `tag` when the answer has arrived. If the
 * answer has fewer than `min_bytes` bytes of payload, or belongs to another request, the connection
 * fails, and `fn` is not called.
 */
void vublk_frontend_ask(struct vublk_frontend *frontend, struct vublk_vu_message *message,
			unsigned min_bytes, vublk_frontend_reply_fn *fn, void *opaque,
			unsigned tag);

/*
 * Sends a request that every back-end answers immediately. If the back-end hangs, it misses the
 * deadline, and the connection fails.
 */
void vublk_frontend_ping(struct vublk_frontend *frontend);

/* --- batches (batch.c) ------------------------------------------------------------ */

/*
 * Begins a batch. The caller must have set the members owner, send_piece and refused; this function
 * sets the others. done() is called from the loop. A no-op unless the state is READY.
 */
void vublk_frontend_batch_begin(struct vublk_frontend *frontend,
				struct vublk_frontend_batch *batch, unsigned num_pieces,
				void (*done)(void *opaque, const struct vublk_error *error),
				void *opaque);
/* Called by send_piece(): sends a request that has no answer. */
void vublk_frontend_batch_send(struct vublk_frontend_batch *batch,
			       struct vublk_vu_message *message);
/* Called by send_piece(): sends a request that the back-end confirms if it can (REPLY_ACK). */
void vublk_frontend_batch_send_confirmed(struct vublk_frontend_batch *batch,
					 struct vublk_vu_message *message);
/*
 * Called by send_piece(): sends a request that has an answer of its own. `fn` gets the batch as
 * `opaque`. `fn` may call vublk_frontend_batch_refuse(), and must call
 * vublk_frontend_batch_answered() last.
 */
void vublk_frontend_batch_ask(struct vublk_frontend_batch *batch,
			      struct vublk_vu_message *message, unsigned min_bytes,
			      vublk_frontend_reply_fn *fn);
/*
 * Called by a reply function, as its last action. Counts the answer, and sends pieces that have
 * been waiting for it. After the last answer, calls done().
 */
void vublk_frontend_batch_answered(struct vublk_frontend_batch *batch);
/* Called by a reply function: records that the answer is a refusal. The first refusal is kept. */
void vublk_frontend_batch_refuse(struct vublk_frontend_batch *batch, int code,
				 const char *format, ...) __attribute__((format(printf, 3, 4)));

/* --- steps ------------------------------------------------------------------------ */

/* Begins the handshake. Called by vublk_frontend_open_fd() (negotiate.c). */
void vublk_frontend_negotiate(struct vublk_frontend *frontend);
/* Called at the end of the handshake: enters READY and calls ops->negotiated() (connection.c). */
void vublk_frontend_set_negotiated(struct vublk_frontend *frontend);

/*
 * Returns how many memory regions the device may give to the back-end: as many as the back-end
 * accepts, but at most VUBLK_MEMORY_MAX_REGIONS (memory.c).
 */
unsigned vublk_frontend_memory_slots(const struct vublk_frontend *frontend);
/*
 * Changes the back-end's memory to `memory`. The descriptors of the regions are borrowed until
 * done() (memory.c).
 */
void vublk_frontend_set_memory(struct vublk_frontend *frontend,
			       const struct vublk_frontend_memory *memory,
			       void (*done)(void *opaque, const struct vublk_error *error),
			       void *opaque);

/*
 * Called when a back-end refused memory, or hung up instead of accepting it. Some back-ends refuse
 * a region that does not consist of whole pages. If the change adds such regions, prepends a
 * description of the first one to `error` (memory.c).
 */
void vublk_frontend_explain_memory(const struct vublk_frontend *frontend,
				   struct vublk_error *error);

/*
 * Tells the back-end the features that the driver accepted. All messages are sent before the call
 * returns, so the caller may set the memory without waiting for done(). The back-end logs its
 * writes in `dirty_log`; NULL: it does not log them. The log is borrowed until the next call of
 * this function or of vublk_frontend_set_dirty_log(), or until the connection ends (vring.c).
 */
void vublk_frontend_begin_session(struct vublk_frontend *frontend, uint64_t features,
				  const struct vublk_device_dirty_log *dirty_log,
				  void (*done)(void *opaque, const struct vublk_error *error),
				  void *opaque);
/*
 * Gives the back-end the in-flight area. The caller must have begun the session, and must set the
 * memory only afterwards. If area->fd is -1, the back-end first makes the area: the caller must
 * have set area->num_queues and area->queue_size, and the front-end sets the area's fd, size_bytes
 * and offset when the back-end has answered. INFLIGHT_SHMFD must have been negotiated (inflight.c).
 */
void vublk_frontend_set_inflight(struct vublk_frontend *frontend,
				 struct vublk_device_inflight *area,
				 const struct vublk_frontend_queue *queues, unsigned num_queues,
				 void (*done)(void *opaque, const struct vublk_error *error),
				 void *opaque);
/*
 * Asks the back-end to make a new in-flight area, as vublk_frontend_set_inflight() does if area->fd
 * is -1, but does not send the area back to the back-end. `area` is borrowed until done(). No call
 * of vublk_frontend_set_inflight() may be under way (inflight.c).
 */
void vublk_frontend_get_inflight(struct vublk_frontend *frontend,
				 struct vublk_device_inflight *area,
				 void (*done)(void *opaque, const struct vublk_error *error),
				 void *opaque);
/*
 * Called when a back-end refused the in-flight area, or hung up instead of accepting it. Rewrites
 * `error`, which then also has the probable reason and a remedy (inflight.c).
 */
void vublk_frontend_explain_inflight(const struct vublk_frontend *frontend,
				     struct vublk_error *error);
/*
 * Gives the back-end the rings. The caller must have begun the session and set the memory. `queues`
 * is borrowed until done() (vring.c).
 */
void vublk_frontend_start_rings(struct vublk_frontend *frontend,
				struct vublk_frontend_queue *queues, unsigned num_queues,
				void (*done)(void *opaque, const struct vublk_error *error),
				void *opaque);
/*
 * Replaces kick and call descriptors while the rings run. Only one call may be under way (vring.c).
 */
void vublk_frontend_set_notifiers(struct vublk_frontend *frontend,
				  const struct vublk_frontend_notifier *changes, unsigned count,
				  void (*done)(void *opaque, const struct vublk_error *error),
				  void *opaque);
/*
 * Switches the dirty log on while the rings run. If `dirty_log` is NULL, switches it off.
 * `features` must be those of the session. LOG_SHMFD must have been negotiated. Only one call may
 * be under way (dirty-log.c).
 */
void vublk_frontend_set_dirty_log(struct vublk_frontend *frontend,
				  const struct vublk_device_dirty_log *dirty_log,
				  uint64_t features, const struct vublk_frontend_queue *queues,
				  unsigned num_queues,
				  void (*done)(void *opaque, const struct vublk_error *error),
				  void *opaque);
/* --- messages of more than one step (messages.c) ----------------------------------- */

/* Sends a request whose payload is `value`. The back-end confirms the request if it can. */
void vublk_frontend_send_u64(struct vublk_frontend_batch *batch, uint32_t request, uint64_t value);
/*
 * Sends a request whose payload is a queue index and the number `num`. The back-end confirms
 * SET_VRING_ENABLE if it can, and none of the other requests.
 */
void vublk_frontend_send_state(struct vublk_frontend_batch *batch, uint32_t request,
			       unsigned index, unsigned num);
/*
 * These functions send the features, and a queue's addresses. If frontend->dirty_log is set, the
 * messages also turn the log on.
 */
void vublk_frontend_send_features(struct vublk_frontend_batch *batch, uint64_t features);
void vublk_frontend_send_addresses(struct vublk_frontend_batch *batch,
				   const struct vublk_frontend_queue *queue);

/* Sends the descriptor, size and offset of the dirty log's bitmap (dirty-log.c). */
void vublk_frontend_send_log_base(struct vublk_frontend_batch *batch,
				  const struct vublk_device_dirty_log *dirty_log);
/*
 * Returns whether a stop of the rings may leave incomplete requests in the in-flight area.
 * `drains`: the caller wants the stop to wait until the requests are complete. A back-end with
 * GET_VRING_BASE_INFLIGHT but without GET_VRING_BASE_SKIP_DRAIN cannot be told to wait.
 */
bool vublk_frontend_leaves_requests(const struct vublk_frontend *frontend, bool drains);
/*
 * Stops the rings. When done() is called without an error, the base of each of `queues` is the
 * index at which its ring resumes, and the requests that the back-end had begun are complete,
 * unless vublk_frontend_leaves_requests() returns true.
 */
void vublk_frontend_stop_rings(struct vublk_frontend *frontend,
			       struct vublk_frontend_queue *queues, unsigned num_queues,
			       bool drains,
			       void (*done)(void *opaque, const struct vublk_error *error),
			       void *opaque);

/*
 * Reads the part of the config that the back-end has and that its features need. Only one call may
 * be under way (config.c).
 */
void vublk_frontend_read_config(struct vublk_frontend *frontend, vublk_frontend_config_fn *done,
				void *opaque);
/*
 * Switches the back-end's write cache on (`wce` 1) or off (0). The error of done() is EIO if the
 * back-end refuses. Only one call may be under way (config.c).
 */
void vublk_frontend_write_wce(struct vublk_frontend *frontend, uint8_t wce,
			      void (*done)(void *opaque, const struct vublk_error *error),
			      void *opaque);

/*
 * Creates a socket pair, and sends one end to the back-end (back-channel.c; close: connection.c).
 */
void vublk_frontend_open_back_channel(struct vublk_frontend *frontend);
void vublk_frontend_close_back_channel(struct vublk_frontend *frontend);

/* --- in an upgrade (handover.c) ---------------------------------------------------------- */

/* Returns why the connection cannot be handed over now, as a static string, or NULL if it can. */
const char *vublk_frontend_handover_obstacle(const struct vublk_frontend *frontend);
/* Writes a section `back-end`, and a section `back-end-memory` per memory region. */
void vublk_frontend_give(const struct vublk_frontend *frontend, struct vublk_sections_writer *to);
/*
 * These functions read the sections that vublk_frontend_give() writes. The first one reads
 * `back-end`, and opens the front-end if it was connected; the state must be CLOSED. The second one
 * reads a section `back-end-memory`.
 */
int vublk_frontend_take(struct vublk_frontend *frontend, struct vublk_section *from,
			const char *path, unsigned timeout_ms, struct vublk_error *error);
int vublk_frontend_take_region(struct vublk_frontend *frontend, struct vublk_section *from,
			       struct vublk_error *error);
/*
 * Opens the front-end on a connection whose handshake is complete (connection.c). Takes ownership
 * of `fd`, even on failure.
 */
int vublk_frontend_adopt(struct vublk_frontend *frontend, int fd, const char *path,
			 unsigned timeout_ms, struct vublk_error *error);
/*
 * Uses `fd` as the front-end's end of the back channel (back-channel.c). Takes ownership of `fd`,
 * even on failure.
 */
int vublk_frontend_adopt_back_channel(struct vublk_frontend *frontend, int fd,
				      struct vublk_error *error);

/* --- for tests and logs ------------------------------------------------------------- */

const char *vublk_frontend_state_name(enum vublk_frontend_state state);
const char *vublk_frontend_event_name(enum vublk_frontend_event event);
/*
 * Returns the state that follows `state` after `event`, or -1 if the event has no effect in this
 * state.
 */
int vublk_frontend_next_state(enum vublk_frontend_state state, enum vublk_frontend_event event);

#endif
