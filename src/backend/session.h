/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_SESSION_H
#define VUBLK_BACKEND_SESSION_H

/*
 * The session of one connected front-end. All of it belongs to the control thread.
 *
 * Key idea: a session does one operation at a time: a message, a check of the disk's size, or its
 * own end. Each operation takes the same steps: stop the queues that it concerns and wait for their
 * requests; run the operation, while no worker uses the data that it changes; start the queues that
 * are to run; answer. Meanwhile the control thread serves its loop, and further messages wait in
 * the socket.
 */
#include "backend/dirty-log.h"
#include "backend/memory.h"
#include "backend/queue.h"
#include "proto/vhost-user/server.h"
#include "util/log.h"
#include "util/loop.h"

struct vublk_session;

enum vublk_session_phase {
	VUBLK_SESSION_READING,         /* no operation */
	VUBLK_SESSION_STOPPING_QUEUES, /* until they have drained */
	VUBLK_SESSION_STARTING_QUEUES, /* until their workers have them */
	VUBLK_SESSION_ENDED,           /* to be freed */
};

/* An operation; run and finish may be NULL. The operations are in session.c and messages.c. */
struct vublk_session_operation {
	const char *name;
	int (*run)(struct vublk_session *session, struct vublk_error *error);
	void (*finish)(struct vublk_session *session, int result,
		       const struct vublk_error *error);
	bool is_message;
};

/* What the session's owner provides. The owner is notified when the session has ended. */
struct vublk_session_owner {
	struct vublk_loop *loop;
	const struct vublk_log *log;
	struct vublk_log_limit *limit; /* of lines that front-ends cause; the control thread's */
	struct vublk_engine *engine;
	struct vublk_backend_worker **workers;
	unsigned num_workers;
	unsigned num_queues;
	struct vublk_statistics *statistics; /* of the queues, which outlive the session */
	unsigned seg_max;
	bool write_cache;
	bool inflight; /* whether an in-flight area is offered */
	uint64_t message_timeout_ms;
	int listen_fd; /* where the next front-end waits; -1: nowhere */
	const char *serial; /* VUBLK_BLK_ID_BYTES of it */
	/*
	 * The front-end has disconnected and the queues are stopped; the owner frees the session.
	 */
	void (*ended)(void *opaque);
	void *opaque;
};

struct vublk_session {
	const struct vublk_session_owner *owner;
	struct vublk_vu_server server; /* the connection, and the message that is served */

	/* what was negotiated */
	uint64_t features;
	uint8_t status;
	bool write_cache; /* config.wce, as the driver set it */
	bool resumes;           /* it continues an earlier session's rings or in-flight area */
	bool knows_write_cache; /* the front-end has read config.wce in this session, or set it */

	struct vublk_fault fault; /* of memory, inflight and dirty_log */
	struct vublk_loop_source fault_source;
	struct vublk_backend_memory memory;
	struct vublk_inflight_area inflight;
	struct vublk_backend_dirty_log dirty_log;
	struct vublk_queue *queues;
	unsigned num_used; /* initialised queues: up to the highest that a message was about */
	bool enables_all;  /* without protocol features queues are enabled from the start */

	/* the operation */
	enum vublk_session_phase phase;
	const struct vublk_session_operation *operation;
	bool said_no_memory;
	unsigned waiting; /* answers of workers that are due */
	struct vublk_loop_timer worker_timer; /* armed while answers are due, or longer */
	struct vublk_queue *concerned; /* the queue that the message is about, or NULL */
	int result;
	struct vublk_error error;
	bool wants_rescan; /* a rescan is to be done next */
	bool wants_end;
	bool warned_of_seg_max;
	struct vublk_loop_task end_task;
};

/* Serves the front-end on the socket `fd`, which is taken even if this fails. */
int vublk_session_new(const struct vublk_session_owner *owner, int fd,
		      struct vublk_session **session, struct vublk_error *error);
/* To be called after owner->ended(). NULL is a no-op. */
void vublk_session_free(struct vublk_session *session);

/* Ends the session as soon as its queues have drained, and then calls owner->ended(). */
void vublk_session_end(struct vublk_session *session);

/* Checks the engine's size again, and tells the front-end if it has changed. */
void vublk_session_rescan(struct vublk_session *session);

/* --- session-queues.c ------------------------------------------------------ */

void vublk_session_queues_init(struct vublk_session *session);
/* A message is about the queue of this index, which is less than owner->num_queues. */
struct vublk_queue *vublk_session_use_queue(struct vublk_session *session, unsigned index);
/* Whether the queue is with its worker. */
bool vublk_session_runs(const struct vublk_queue *queue);
/* Whether no ring is started: from SET_VRING_KICK to GET_VRING_BASE, enabled or not. */
bool vublk_session_is_suspended(const struct vublk_session *session);
/* Stops the queue, if it runs, before the operation's run() is called. */
void vublk_session_stop_queue(struct vublk_session *session, struct vublk_queue *queue);
/* Like vublk_session_stop_queue(), but by vublk_queue_suspend(). */
void vublk_session_suspend_queue(struct vublk_session *session, struct vublk_queue *queue);
void vublk_session_stop_all(struct vublk_session *session);
/* Starts the queues that are to run and do not run yet. */
void vublk_session_start_queues(struct vublk_session *session);
/*
 * Whether the driver may take the disk for write-through although config.wce says otherwise: the
 * driver may have set wce when another process served it, and the front-end does not repeat that
 * setting.
 */
bool vublk_session_doubts_write_cache(const struct vublk_session *session);

/* --- session-fault.c ------------------------------------------------------- */

int vublk_session_watch_fault(struct vublk_session *session, struct vublk_error *error);
/* Ends the session if memory of the front-end could not be accessed. */
void vublk_session_notice_fault(struct vublk_session *session);

/* --- messages.c ------------------------------------------------------------ */

bool vublk_session_has_message(uint32_t request);
/* Notes the protocol features that are offered. */
void vublk_session_make_offer(struct vublk_session *session);
/* Checks the message and stops the queues that must not run while it is executed. */
int vublk_session_begin_message(struct vublk_session *session, struct vublk_error *error);
/* The operation that executes the message, or, if the message was refused, only answers it. */
extern const struct vublk_session_operation vublk_session_message;

#endif
