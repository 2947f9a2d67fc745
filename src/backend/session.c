/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Executes the operations of a session; see session.h. messages.c executes the messages,
 * session-queues.c starts and stops the queues, and backend.c accepts the front-ends.
 *
 * Key idea: step() is called whenever progress may be possible, until it returns false. Each call
 * advances the session by one phase.
 */
#include "backend/session.h"

#include "handover/server.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <stdlib.h>

/* --- operations ------------------------------------------------------------ */

static void begin(struct vublk_session *session, const struct vublk_session_operation *operation)
{
	session->operation = operation;
	session->phase = VUBLK_SESSION_STOPPING_QUEUES;
}

static const struct vublk_session_operation operation_hold = { "hold", NULL, NULL };

static void run_operation(struct vublk_session *session)
{
	if (session->operation == &operation_hold && session->wants_hold && !session->wants_end) {
		session->phase = VUBLK_SESSION_HELD;
		session->owner->held(session->owner->opaque);
		return;
	}
	if (!session->result && session->operation->run)
		session->result = session->operation->run(session, &session->error);
	if (session->phase == VUBLK_SESSION_ENDED)
		return;
	session->phase = VUBLK_SESSION_STARTING_QUEUES;
	vublk_session_start_queues(session);
}

/* Ends an operation. If the operation may have read lost memory, the front-end gets no answer. */
static void finish_operation(struct vublk_session *session)
{
	session->phase = VUBLK_SESSION_READING;
	vublk_session_notice_fault(session);
	vublk_back_channel_set_suspended(&session->server.back_channel, vublk_session_is_suspended(session));
	if (session->operation->finish && !vublk_fault_happened(&session->fault))
		session->operation->finish(session, session->result, &session->error);
	session->operation = NULL;
	session->concerned = NULL;
	session->result = 0;
}

/* --- the end --------------------------------------------------------------- */

static void on_end(void *opaque)
{
	struct vublk_session *session = opaque;

	session->owner->ended(session->owner->opaque);
}

/*
 * Posts a task that tells the owner that the session has ended. This function must not tell the
 * owner itself, because the owner frees the session, which functions on the stack still use.
 */
static int run_end(struct vublk_session *session, struct vublk_error *error)
{
	vublk_session_notice_fault(session);
	vublk_vu_server_stop(&session->server);
	session->phase = VUBLK_SESSION_ENDED;
	vublk_loop_post(session->owner->loop, &session->end_task);
	return 0;
}

static const struct vublk_session_operation operation_end = { "end", run_end, NULL };

void vublk_session_end(struct vublk_session *session)
{
	session->wants_end = true;
	if (session->phase == VUBLK_SESSION_READING || session->phase == VUBLK_SESSION_HELD)
		vublk_vu_server_run(&session->server);
}

/* --- a hold ---------------------------------------------------------------- */

void vublk_session_hold(struct vublk_session *session, bool between_messages)
{
	session->wants_hold = true;
	session->holds_between_messages = between_messages;
	if (session->phase == VUBLK_SESSION_READING)
		vublk_vu_server_run(&session->server);
}

bool vublk_session_is_held(const struct vublk_session *session)
{
	return session->phase == VUBLK_SESSION_HELD;
}

/* Leaves the phase HELD. If the session has to end, the queues stay stopped. */
static void leave_hold(struct vublk_session *session)
{
	session->wants_hold = false;
	session->phase = VUBLK_SESSION_STARTING_QUEUES;
	if (!session->wants_end)
		vublk_session_start_queues(session);
}

void vublk_session_release(struct vublk_session *session)
{
	if (!session->wants_hold)
		return;
	session->wants_hold = false;
	if (session->phase == VUBLK_SESSION_STOPPING_QUEUES && session->operation == &operation_hold)
		vublk_session_continue_all(session);
	if (session->phase == VUBLK_SESSION_HELD)
		vublk_vu_server_run(&session->server);
}

/* --- a new size ------------------------------------------------------------ */

static int run_rescan(struct vublk_session *session, struct vublk_error *error)
{
	const struct vublk_session_owner *owner = session->owner;
	uint64_t before = owner->engine->geometry.size_bytes;

	if (!vublk_engine_rescan(owner->engine, owner->limit))
		return 0;
	vublk_back_channel_tell_config(&session->server.back_channel);
	owner->resized(owner->opaque, before);
	return 0;
}

static void finish_rescan(struct vublk_session *session, int result,
			  const struct vublk_error *error)
{
	if (result)
		vublk_log_limited(session->owner->log, session->owner->limit, VUBLK_LOG_ERROR, "%s",
				  error->text);
}

static const struct vublk_session_operation operation_rescan = {
	"rescan", run_rescan, finish_rescan,
};

void vublk_session_rescan(struct vublk_session *session)
{
	session->wants_rescan = true;
	if (session->phase == VUBLK_SESSION_READING)
		vublk_vu_server_run(&session->server);
}

/* --- a session of another process ------------------------------------------ */

static const struct vublk_session_operation operation_take = { "take over", NULL, finish_rescan };

void vublk_session_prepare_take(struct vublk_session *session)
{
	begin(session, &operation_take);
}

void vublk_session_begin_taken(struct vublk_session *session)
{
	vublk_vu_server_run(&session->server);
}

void vublk_session_tell_size(struct vublk_session *session)
{
	vublk_back_channel_tell_config(&session->server.back_channel);
}

/* --- the steps ------------------------------------------------------------- */

/*
 * Receives the next message. Returns true if an operation has begun or the connection was closed.
 */
static bool begin_message(struct vublk_session *session)
{
	int r = vublk_vu_server_receive(&session->server);

	if (r > 0) {
		begin(session, &vublk_session_message);
		session->result = vublk_session_begin_message(session, &session->error);
	}
	return r;
}

/* Begins the next operation. Returns false if the session has to wait for a message. */
static bool begin_next(struct vublk_session *session)
{
	if (session->wants_end) {
		begin(session, &operation_end);
		vublk_session_stop_all(session);
		return true;
	}
	if (session->wants_rescan) {
		session->wants_rescan = false;
		begin(session, &operation_rescan);
		vublk_session_stop_all(session);
		return true;
	}
	if (session->wants_hold &&
	    !(session->holds_between_messages && vublk_upgrade_has_parts(&session->server))) {
		begin(session, &operation_hold);
		session->held_ns = vublk_now_ns();
		vublk_session_stop_all(session);
		return true;
	}
	return begin_message(session);
}

static bool step(void *opaque)
{
	struct vublk_session *session = opaque;

	if (session->waiting)
		return false;
	switch (session->phase) {
	case VUBLK_SESSION_READING:
		return begin_next(session);
	case VUBLK_SESSION_STOPPING_QUEUES:
		run_operation(session);
		return true;
	case VUBLK_SESSION_HELD:
		if (session->wants_hold && !session->wants_end)
			return false;
		leave_hold(session);
		return true;
	case VUBLK_SESSION_STARTING_QUEUES:
		finish_operation(session);
		return true;
	default: /* ENDED: the owner frees the session */
		return false;
	}
}

static bool is_reading(const void *opaque)
{
	const struct vublk_session *session = opaque;

	return session->phase == VUBLK_SESSION_READING;
}

static void close_session(void *opaque)
{
	struct vublk_session *session = opaque;

	session->wants_end = true;
}

static void on_refused(void *opaque, const struct vublk_error *why)
{
	struct vublk_session *session = opaque;

	session->owner->refused(session->owner->opaque, why);
}

static const struct vublk_vu_server_ops server_ops = {
	.has_message = vublk_session_has_message,
	.step = step,
	.is_reading = is_reading,
	.close = close_session,
	.refused = on_refused,
};

/* --- life ------------------------------------------------------------------ */

/*
 * Allocates the queues. The disk offers many more queues than a front-end uses, so each queue is
 * initialised at its first use.
 */
static int make_queues(struct vublk_session *session, struct vublk_error *error)
{
	const struct vublk_session_owner *owner = session->owner;

	session->queues = aligned_alloc(VUBLK_CACHE_LINE,
					owner->num_queues * sizeof(*session->queues));
	if (!session->queues)
		return vublk_error_set(error, ENOMEM, "cannot allocate memory for %u queues",
				       owner->num_queues);
	return 0;
}

int vublk_session_new(const struct vublk_session_owner *owner, int fd,
		      struct vublk_session **result, struct vublk_error *error)
{
	struct vublk_session *session = calloc(1, sizeof(*session));
	int r;

	if (!session) {
		vublk_fd_close(&fd);
		return vublk_error_set(error, ENOMEM, "cannot allocate memory for a session");
	}
	session->owner = owner;
	session->fault.fd = -1;
	vublk_vu_server_init(&session->server, &server_ops, session, fd, owner->loop, owner->log,
			     owner->limit);
	session->server.num_queues = owner->num_queues;
	vublk_session_make_offer(session);
	session->write_cache = owner->write_cache;
	vublk_session_queues_init(session);
	session->end_task = (struct vublk_loop_task){ .fn = on_end, .opaque = session };
	r = make_queues(session, error);
	if (!r)
		r = vublk_session_watch_fault(session, error);
	if (!r)
		r = vublk_vu_server_start(&session->server, owner->listen_fd,
					  owner->message_timeout_ms, error);
	if (r) {
		vublk_session_free(session);
		return r;
	}
	*result = session;
	return 0;
}

void vublk_session_free(struct vublk_session *session)
{
	if (!session)
		return;
	vublk_loop_timer_disarm(&session->worker_timer);
	vublk_vu_server_deinit(&session->server);
	for (unsigned i = 0; session->queues && i < session->num_used; i++)
		vublk_queue_deinit(&session->queues[i]);
	free(session->queues);
	vublk_inflight_area_unmap(&session->inflight);
	vublk_backend_dirty_log_unmap(&session->dirty_log);
	vublk_backend_memory_clear(&session->memory);
	vublk_loop_remove(&session->fault_source);
	vublk_fd_close(&session->fault.fd);
	free(session);
}
