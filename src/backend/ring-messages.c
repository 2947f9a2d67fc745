/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The messages about one queue: SET_VRING_..., GET_VRING_BASE. The functions
 * vublk_session_stop_...() stop the queue before the message is executed.
 *
 * Specification: "Starting and stopping rings", "Front-end message types".
 */
#include "backend/messages.h"

#include "util/fd.h"

/* --- set-up ---------------------------------------------------------------- */

static int refuse_running(struct vublk_session *session, struct vublk_error *error)
{
	return vublk_vu_refuse_running(&session->server.request,
				       vublk_session_runs(session->concerned), error);
}

int vublk_session_set_vring_num(struct vublk_session *session, struct vublk_error *error)
{
	int r = refuse_running(session, error);

	if (!r)
		r = vublk_vu_check_vring_num(&session->server.request, 1, VUBLK_RING_MAX_SIZE, error);
	if (!r)
		session->concerned->setup.size = session->server.request.payload.state.num;
	return r;
}

int vublk_session_set_vring_addr(struct vublk_session *session, struct vublk_error *error)
{
	int r = vublk_vu_check_vring_addr(&session->server.request, error);

	if (r)
		return r;
	session->concerned->setup.addr = session->server.request.payload.addr;
	session->concerned->setup.has_addr = true;
	return 0;
}

int vublk_session_set_vring_base(struct vublk_session *session, struct vublk_error *error)
{
	int r = refuse_running(session, error);

	if (!r)
		r = vublk_vu_check_vring_base(&session->server.request, error);
	if (!r)
		session->concerned->setup.base =
			(uint16_t)session->server.request.payload.state.num;
	return r;
}

void vublk_session_stop_concerned(struct vublk_session *session)
{
	vublk_session_stop_queue(session, session->concerned);
}

int vublk_session_set_vring_call(struct vublk_session *session, struct vublk_error *error)
{
	return vublk_vu_take_vring_fd(&session->server.request, &session->concerned->setup.call_fd,
				      error);
}

int vublk_session_set_vring_err(struct vublk_session *session, struct vublk_error *error)
{
	return vublk_vu_take_vring_fd(&session->server.request, &session->concerned->setup.err_fd,
				      error);
}

/* --- start and stop -------------------------------------------------------- */

int vublk_session_set_vring_kick(struct vublk_session *session, struct vublk_error *error)
{
	struct vublk_queue *queue = session->concerned;
	int r = vublk_vu_take_vring_fd(&session->server.request, &queue->setup.kick_fd, error);

	if (!r)
		queue->setup.has_kick = true;
	return r;
}

void vublk_session_stop_if_enable_changes(struct vublk_session *session)
{
	struct vublk_queue *queue = session->concerned;

	if (queue->setup.enabled != !!session->server.request.payload.state.num)
		vublk_session_stop_queue(session, queue);
}

int vublk_session_set_vring_enable(struct vublk_session *session, struct vublk_error *error)
{
	int r = vublk_vu_check_vring_enable(&session->server.request, error);

	if (!r)
		session->concerned->setup.enabled = session->server.request.payload.state.num;
	return r;
}

/*
 * Stops the queue for a message that asks for the queue's base. If the message permits it, requests
 * stay in the in-flight area. But the stop always waits for requests that the engine has. Otherwise
 * the kernel could still write to the driver's memory, or an old write could reach the disk after a
 * newer write of the next back-end.
 */
void vublk_session_stop_for_base(struct vublk_session *session)
{
	if (vublk_vu_skips_drain(session->server.request.header.request, session->server.protocol_features))
		vublk_session_suspend_queue(session, session->concerned);
	else
		vublk_session_stop_queue(session, session->concerned);
}

/* Answers with the base of a queue that has stopped. The next SET_VRING_KICK can start it again. */
int vublk_session_get_vring_base(struct vublk_session *session, struct vublk_error *error)
{
	struct vublk_queue *queue = session->concerned;

	vublk_fd_close(&queue->setup.kick_fd);
	queue->setup.has_kick = false;
	session->server.reply.payload.state.index = queue->index;
	session->server.reply.payload.state.num = queue->setup.base;
	session->server.reply.header.size = sizeof(session->server.reply.payload.state);
	return 0;
}
