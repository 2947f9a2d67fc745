/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_SESSION_H
#define VUBLK_BACKEND_SESSION_H

/*
 * A front-end that is connected. All of it belongs to the control thread.
 *
 * A session does one operation at a time: a message, a new look at the disk's
 * size, its own end. Each has the same course: the queues that it concerns are
 * stopped, which waits for their requests; it is done, with no worker in the way;
 * the queues that are to run are started; it is answered. Meanwhile the control
 * thread serves its loop, and the front-end's further messages wait in the socket.
 */
#include "backend/dirty-log.h"
#include "backend/memory.h"
#include "backend/queue.h"
#include "proto/vhost-user/back-channel.h"
#include "proto/vhost-user/channel.h"
#include "proto/message-timeout.h"
#include "util/log.h"
#include "util/loop.h"

struct vublk_session;

enum vublk_session_phase {
	VUBLK_SESSION_READING,         /* no operation */
	VUBLK_SESSION_STOPPING_QUEUES, /* until they have drained */
	VUBLK_SESSION_STARTING_QUEUES, /* until their workers have them */
	VUBLK_SESSION_ENDED,           /* to be freed */
};

/* An operation; each part NULL: nothing to do. session.c, messages.c */
struct vublk_session_operation {
	const char *name;
	int (*run)(struct vublk_session *session, struct vublk_error *error);
	void (*finish)(struct vublk_session *session, int result,
		       const struct vublk_error *error);
};

/* What the session's owner gives and is told. */
struct vublk_session_owner {
	struct vublk_loop *loop;
	const struct vublk_log *log;
	struct vublk_log_limit *limit; /* of what front-ends cause; the control thread's */
	struct vublk_engine *engine;
	struct vublk_worker **workers;
	unsigned num_workers;
	unsigned num_queues;
	unsigned seg_max;
	bool write_cache;
	bool inflight; /* whether an in-flight area is on offer */
	uint64_t message_timeout_ms;
	int listen_fd; /* where the next front-end waits; -1: none can */
	const char *serial; /* VUBLK_BLK_ID_BYTES of it */
	/* The front-end is gone, the queues are stopped; the owner frees the session. */
	void (*ended)(void *opaque);
	void *opaque;
};

struct vublk_session {
	const struct vublk_session_owner *owner;
	struct vublk_channel channel;
	struct vublk_loop_source source;
	struct vublk_message_timeout message_timeout;
	struct vublk_back_channel back_channel; /* requests of ours to the front-end */

	/* what was negotiated */
	uint64_t features;
	uint64_t protocol_features;
	uint8_t status;
	bool write_cache; /* config.wce, as the driver set it */
	bool resumes;           /* an earlier session's rings or in-flight area */
	bool knows_write_cache; /* the front-end: it has read config.wce here, or set it */

	struct vublk_fault fault; /* of the three that follow */
	struct vublk_loop_source fault_source;
	struct vublk_backend_memory memory;
	struct vublk_inflight_area inflight;
	struct vublk_backend_dirty_log dirty_log;
	struct vublk_queue *queues;
	unsigned num_used; /* queues that a message was about; memory of the others is untouched */
	bool enables_all;  /* without protocol features queues begin enabled */

	/* the operation */
	enum vublk_session_phase phase;
	const struct vublk_session_operation *operation;
	bool said_no_memory;
	unsigned waiting; /* answers of workers */
	struct vublk_loop_timer worker_timer; /* while there are some, and a little longer */
	struct vublk_queue *concerned; /* the queue that the message is about, or NULL */
	int result;
	struct vublk_error error;
	bool wants_rescan; /* to be done next */
	bool wants_end;
	bool warned_of_seg_max;

	/* of the operation that is a message */
	struct vublk_vu_message request;
	struct vublk_vu_message reply; /* header.size 0: an acknowledgement, if asked for */
	int reply_fd;                  /* owned; sent with the reply */
	struct vublk_loop_task end_task;
};

/* Serves the front-end on the socket `fd`, which is taken over, also on failure. */
int vublk_session_new(const struct vublk_session_owner *owner, int fd,
		      struct vublk_session **session, struct vublk_error *error);
/* After owner->ended(). NULL is nothing. */
void vublk_session_free(struct vublk_session *session);

/* Ends it as soon as its queues have drained; owner->ended() is called. */
void vublk_session_end(struct vublk_session *session);

/* Looks at the engine's size again, and tells the front-end of a change. */
void vublk_session_rescan(struct vublk_session *session);

/* --- for messages.c -------------------------------------------------------- */

/* A message is about the queue of this index, which is less than owner->num_queues. */
struct vublk_queue *vublk_session_use_queue(struct vublk_session *session, unsigned index);
/* Whether the queue is with its worker. */
bool vublk_session_runs(const struct vublk_queue *queue);
/* Has the queue stopped, if it runs, before the operation's run() is called. */
void vublk_session_stop_queue(struct vublk_session *session, struct vublk_queue *queue);
/* The same by vublk_queue_suspend(). */
void vublk_session_suspend_queue(struct vublk_session *session, struct vublk_queue *queue);
void vublk_session_stop_all(struct vublk_session *session);
/*
 * Whether the driver may take the disk for write-through although config.wce says otherwise:
 * it may have set wce when another process served it, and the front-end does not repeat that.
 */
bool vublk_session_doubts_write_cache(const struct vublk_session *session);

/* --- messages.c ------------------------------------------------------------ */

/* The operation that is the message in session->request, its queues being stopped. */
int vublk_session_begin_message(struct vublk_session *session,
				const struct vublk_session_operation **operation,
				struct vublk_error *error);
/* The operation of a message that was refused; it only answers. */
extern const struct vublk_session_operation vublk_session_message;

#endif
