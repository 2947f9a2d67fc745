/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_SESSION_H
#define VUBLK_BACKEND_SESSION_H

/*
 * The session of one connected front-end. Only the control thread uses it.
 *
 * Key idea: a session executes one operation at a time: a message, a check of the disk's size, a
 * hold (vublk_session_hold()), the start of a session that another process has begun, or its own
 * end. Each operation except the end takes the same steps: stop the queues that it concerns and
 * wait for their requests; run, while no worker uses the data that it changes; start the queues
 * that should run; answer. During an operation, the control thread serves its loop, and further
 * messages wait in the socket.
 */
#include "backend/dirty-log.h"
#include "backend/memory.h"
#include "backend/queue.h"
#include "proto/vhost-user/server.h"
#include "util/log.h"
#include "util/loop.h"

struct vublk_session;

enum vublk_session_phase {
	VUBLK_SESSION_READING,         /* there is no operation */
	VUBLK_SESSION_STOPPING_QUEUES, /* waits until the queues have drained */
	VUBLK_SESSION_HELD,            /* the queues are stopped until the owner releases the
					  session */
	VUBLK_SESSION_STARTING_QUEUES, /* waits until the workers have the queues */
	VUBLK_SESSION_ENDED,           /* waits until the owner frees the session */
};

/* An operation. `run` and `finish` may be NULL. The operations are in session.c and messages.c. */
struct vublk_session_operation {
	const char *name;
	int (*run)(struct vublk_session *session, struct vublk_error *error);
	void (*finish)(struct vublk_session *session, int result,
		       const struct vublk_error *error);
	bool is_message;
};

/* The objects, settings and callbacks that the owner of a session supplies. */
struct vublk_session_owner {
	struct vublk_loop *loop;
	const struct vublk_log *log;
	struct vublk_log_limit *limit; /* the control thread's limit, for log lines that
					  front-ends can cause */
	struct vublk_engine *engine;
	struct vublk_backend_worker **workers;
	unsigned num_workers;
	unsigned num_queues;
	struct vublk_statistics *statistics; /* the counters of the queues, which outlive the
						session */
	unsigned seg_max;
	bool write_cache;
	bool inflight; /* whether an in-flight area is offered */
	uint64_t message_timeout_ms;
	int listen_fd; /* the socket at which the next front-end waits; -1: there is none */
	const char *serial; /* VUBLK_BLK_ID_BYTES bytes long */
	/*
	 * Called when the session has ended and the queues are stopped. The owner must free the
	 * session.
	 */
	void (*ended)(void *opaque);
	/*
	 * Called when a message was refused, or when the session closes the connection because a
	 * message is invalid or late, or because a page of shared memory was lost.
	 */
	void (*refused)(void *opaque, const struct vublk_error *why);
	/* Called when the size of the disk has changed. */
	void (*resized)(void *opaque, uint64_t before_bytes);
	/* Called when the session is held. The owner must not free it in this call. */
	void (*held)(void *opaque);
	void *opaque;
};

struct vublk_session {
	const struct vublk_session_owner *owner;
	struct vublk_vu_server server; /* the connection, and the message that is being served */

	/* what was negotiated */
	uint64_t features;
	uint8_t status;
	bool write_cache; /* the current value of the config field wce */
	bool resumes;           /* the session continues earlier rings, or an in-flight area that
				   was already used */
	bool knows_write_cache; /* the front-end has read or set the config field wce in this
				   session */

	struct vublk_fault fault; /* set when a page of memory, inflight or dirty_log was lost */
	struct vublk_loop_source fault_source;
	struct vublk_backend_memory memory;
	struct vublk_inflight_area inflight;
	struct vublk_backend_dirty_log dirty_log;
	struct vublk_queue *queues;
	unsigned num_used; /* how many queues are initialised: all up to the highest index that a
			      message has named */
	bool enables_all;  /* SET_FEATURES came without PROTOCOL_FEATURES, so queues are enabled
			      from the beginning */

	/* the operation in progress */
	enum vublk_session_phase phase;
	const struct vublk_session_operation *operation;
	bool said_no_memory;
	unsigned waiting; /* how many answers of workers have not arrived yet */
	struct vublk_loop_timer worker_timer; /* always armed while `waiting` is not 0 */
	struct vublk_queue *concerned; /* the queue that the message is about, or NULL */
	int result;
	struct vublk_error error;
	bool wants_rescan; /* the next operation is a rescan */
	bool wants_end;
	bool wants_hold;            /* the next operation is a hold */
	uint64_t held_ns;           /* when the last hold began */
	bool holds_between_messages; /* the hold must not begin while a message has been received or
					sent in part */
	bool warned_of_seg_max;
	struct vublk_loop_task end_task;
};

/*
 * Begins a session with the front-end on the socket `fd`. Takes ownership of `fd`, even on failure.
 */
int vublk_session_new(const struct vublk_session_owner *owner, int fd,
		      struct vublk_session **session, struct vublk_error *error);
/*
 * Frees the session. Must not be called before owner->ended(), except if no queue runs and the
 * connection belongs to another process. NULL is a no-op.
 */
void vublk_session_free(struct vublk_session *session);

/*
 * Ends the session after the current operation, when its queues have drained, and then calls
 * owner->ended().
 */
void vublk_session_end(struct vublk_session *session);

/*
 * Checks the engine's size again after the current operation, and tells the front-end and the owner
 * if it has changed.
 */
void vublk_session_rescan(struct vublk_session *session);

/*
 * After the current operation, holds the session: no queue runs, no request is outstanding, and
 * messages wait in the socket. Then calls owner->held(). With `between_messages` the hold does not
 * begin while a message has been received or sent in part, because the session could then not be
 * handed to another process.
 */
void vublk_session_hold(struct vublk_session *session, bool between_messages);
/*
 * Ends a hold, or cancels a hold that has not begun or is still waiting for outstanding requests.
 * The queues then take further requests. A no-op if no hold was requested.
 */
void vublk_session_release(struct vublk_session *session);
bool vublk_session_is_held(const struct vublk_session *session);
/*
 * For a session that another process has begun (upgrade/). The first function must be called when
 * all settings have been read. The second one starts the queues, and must be called when this
 * process has the disk.
 */
void vublk_session_prepare_take(struct vublk_session *session);
void vublk_session_begin_taken(struct vublk_session *session);
/* Tells the front-end that the size of the disk has changed. */
void vublk_session_tell_size(struct vublk_session *session);

/* --- session-queues.c ------------------------------------------------------ */

void vublk_session_queues_init(struct vublk_session *session);
/*
 * Returns the queue at `index`, which must be less than owner->num_queues. Initialises a queue at
 * its first use.
 */
struct vublk_queue *vublk_session_use_queue(struct vublk_session *session, unsigned index);
/* Returns whether the worker has the queue or was told to start it. */
bool vublk_session_runs(const struct vublk_queue *queue);
/*
 * Returns whether no ring is started. A ring is started from SET_VRING_KICK to GET_VRING_BASE or a
 * reset, whether it is enabled or not.
 */
bool vublk_session_is_suspended(const struct vublk_session *session);
/* Tells the worker to stop the queue, if the queue runs. The operation waits for the answer. */
void vublk_session_stop_queue(struct vublk_session *session, struct vublk_queue *queue);
/* Like vublk_session_stop_queue(), but calls vublk_queue_suspend(). */
void vublk_session_suspend_queue(struct vublk_session *session, struct vublk_queue *queue);
void vublk_session_stop_all(struct vublk_session *session);
/* Undoes the stop of each queue that has not stopped yet. */
void vublk_session_continue_all(struct vublk_session *session);
/* Starts the queues that should run and do not run. */
void vublk_session_start_queues(struct vublk_session *session);
/*
 * Returns whether the driver may rely on write-through although session->write_cache is set. The
 * driver may have set wce to 0 while another process served the disk, and the front-end does not
 * repeat that setting.
 */
bool vublk_session_doubts_write_cache(const struct vublk_session *session);

/* --- session-fault.c ------------------------------------------------------- */

int vublk_session_watch_fault(struct vublk_session *session, struct vublk_error *error);
/* If a page of shared memory was lost, logs that and makes the session end. */
void vublk_session_notice_fault(struct vublk_session *session);

/* --- messages.c ------------------------------------------------------------ */

bool vublk_session_has_message(uint32_t request);
/* Records which protocol features are offered. */
void vublk_session_make_offer(struct vublk_session *session);
/* Checks the message, and stops the queues that must not run while it is executed. */
int vublk_session_begin_message(struct vublk_session *session, struct vublk_error *error);
/*
 * The operation that executes the message. If vublk_session_begin_message() refused the message,
 * the operation only sends the answer.
 */
extern const struct vublk_session_operation vublk_session_message;

#endif
