/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The connection to a back-end: the socket, the outstanding answers, their deadlines, and the
 * single path by which a connection fails. The messages are in the other files of this folder.
 *
 * Key idea: the protocol has no transaction numbers, and answers come in the order of the requests.
 * So requests are sent without waiting, and the expected answers form a queue, whose oldest entry
 * says which answer must come next and by what time. A failure during a call only ends what is
 * under way, changes the state and posts a task. The task closes the connection and calls lost().
 *
 * Specification: "Communication", "Message Specification".
 */
#include "frontend/frontend.h"

#include "util/checked.h"
#include "util/error.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>

/* How many messages are received before other descriptors of the loop get their turn. */
#define MESSAGES_PER_TURN 64

struct vublk_frontend_expected {
	struct vublk_frontend_expected *next;
	uint32_t request;
	unsigned min_bytes;
	uint64_t sent_ns;
	vublk_frontend_reply_fn *fn;
	void *opaque;
	unsigned tag;
};

/* --- state ------------------------------------------------------------------ */

static const char *const state_names[VUBLK_FRONTEND_NUM_STATES] = {
	[VUBLK_FRONTEND_CLOSED] = "closed",
	[VUBLK_FRONTEND_NEGOTIATING] = "negotiating",
	[VUBLK_FRONTEND_READY] = "ready",
	[VUBLK_FRONTEND_FAILED] = "failed",
};

static const char *const event_names[VUBLK_FRONTEND_NUM_EVENTS] = {
	[VUBLK_FRONTEND_EVENT_OPENED] = "opened",
	[VUBLK_FRONTEND_EVENT_NEGOTIATED] = "negotiated",
	[VUBLK_FRONTEND_EVENT_BROKE] = "broke",
	[VUBLK_FRONTEND_EVENT_CLOSED] = "was closed",
};

#define NEXT(state) (VUBLK_FRONTEND_##state + 1) /* 0 in the table: the event has no effect in that
						    state */

static const unsigned char transitions[VUBLK_FRONTEND_NUM_STATES][VUBLK_FRONTEND_NUM_EVENTS] = {
	[VUBLK_FRONTEND_CLOSED] = {
		[VUBLK_FRONTEND_EVENT_OPENED] = NEXT(NEGOTIATING),
	},
	[VUBLK_FRONTEND_NEGOTIATING] = {
		[VUBLK_FRONTEND_EVENT_NEGOTIATED] = NEXT(READY),
		[VUBLK_FRONTEND_EVENT_BROKE] = NEXT(FAILED),
		[VUBLK_FRONTEND_EVENT_CLOSED] = NEXT(CLOSED),
	},
	[VUBLK_FRONTEND_READY] = {
		[VUBLK_FRONTEND_EVENT_BROKE] = NEXT(FAILED),
		[VUBLK_FRONTEND_EVENT_CLOSED] = NEXT(CLOSED),
	},
	[VUBLK_FRONTEND_FAILED] = {
		[VUBLK_FRONTEND_EVENT_CLOSED] = NEXT(CLOSED),
	},
};

const char *vublk_frontend_state_name(enum vublk_frontend_state state)
{
	return state_names[state];
}

const char *vublk_frontend_event_name(enum vublk_frontend_event event)
{
	return event_names[event];
}

int vublk_frontend_next_state(enum vublk_frontend_state state, enum vublk_frontend_event event)
{
	return transitions[state][event] - 1;
}

/*
 * The only function that changes the state after the initialization. Returns false if the event has
 * no effect in this state.
 */
static bool change_state(struct vublk_frontend *frontend, enum vublk_frontend_event event,
			 const char *why)
{
	int next = vublk_frontend_next_state(frontend->state, event);

	if (next < 0)
		return false;
	vublk_log(frontend->log, VUBLK_LOG_DEBUG, "connection: %s, %s -> %s%s%s",
		  state_names[frontend->state], event_names[event], state_names[next],
		  why ? ": " : "", why ? why : "");
	frontend->state = next;
	return true;
}

static bool is_open(const struct vublk_frontend *frontend)
{
	return frontend->state == VUBLK_FRONTEND_NEGOTIATING ||
	       frontend->state == VUBLK_FRONTEND_READY;
}

bool vublk_frontend_has(const struct vublk_frontend *frontend, unsigned protocol_feature)
{
	return frontend->info.accepted_protocol_features & VUBLK_BIT(protocol_feature);
}

/* --- the end ------------------------------------------------------------------ */

void vublk_frontend_close_back_channel(struct vublk_frontend *frontend)
{
	vublk_loop_remove(&frontend->back_channel.source);
	vublk_channel_deinit(&frontend->back_channel.channel);
}

/*
 * Ends everything that is under way: outstanding answers, batches and the back channel. Does not
 * call done(), because either lost() informs the owner, or the owner itself has closed the
 * connection.
 */
static void drop_everything(struct vublk_frontend *frontend)
{
	vublk_loop_timer_disarm(&frontend->deadline);
	vublk_loop_remove(&frontend->source);
	while (frontend->expected) {
		struct vublk_frontend_expected *expected = frontend->expected;

		frontend->expected = expected->next;
		free(expected);
	}
	frontend->expected_end = &frontend->expected;
	frontend->memory.batch.frontend = NULL;
	frontend->memory.num_shadow = 0;
	frontend->session.batch.frontend = NULL;
	frontend->inflight.batch.frontend = NULL;
	frontend->start.batch.frontend = NULL;
	frontend->stop.batch.frontend = NULL;
	frontend->notifiers.batch.frontend = NULL;
	frontend->dirty_log_change.batch.frontend = NULL;
	frontend->dirty_log = NULL;
	frontend->config_write.frontend = NULL;
	frontend->config_read.done = NULL;
	vublk_frontend_close_back_channel(frontend);
}

void vublk_frontend_close(struct vublk_frontend *frontend)
{
	if (!frontend->loop)
		return;
	drop_everything(frontend);
	vublk_loop_cancel(frontend->loop, &frontend->lost_task);
	vublk_channel_deinit(&frontend->channel);
	change_state(frontend, VUBLK_FRONTEND_EVENT_CLOSED, NULL);
}

void vublk_frontend_fail(struct vublk_frontend *frontend, const struct vublk_error *error)
{
	if (!change_state(frontend, VUBLK_FRONTEND_EVENT_BROKE, error->text))
		return;
	frontend->failure = *error;
	drop_everything(frontend);
	vublk_loop_post(frontend->loop, &frontend->lost_task);
}

/* Returns whether the peer has closed the connection. */
static bool has_closed(int fd)
{
	struct pollfd look = { .fd = fd, .events = POLLRDHUP };

	return poll(&look, 1, 0) == 1;
}

static void on_lost_task(void *opaque)
{
	struct vublk_frontend *frontend = opaque;
	struct vublk_error error = frontend->failure;

	frontend->peer_has_closed = has_closed(frontend->channel.fd);
	vublk_frontend_close(frontend);
	frontend->ops->lost(frontend->opaque, &error);
}

/* --- deadlines ------------------------------------------------------------------ */

/*
 * Arms the timer for the oldest request. The back-end answers in order, so the time for a request
 * cannot begin before the previous request has been answered.
 */
static void watch_oldest(struct vublk_frontend *frontend)
{
	const struct vublk_frontend_expected *oldest = frontend->expected;

	if (oldest)
		vublk_loop_timer_arm(frontend->loop, &frontend->deadline,
				     VUBLK_MAX(oldest->sent_ns, frontend->answered_ns) +
					     frontend->timeout_ms * UINT64_C(1000000));
	else
		vublk_loop_timer_disarm(&frontend->deadline);
}

/* --- sending ---------------------------------------------------------------------- */

void vublk_frontend_send(struct vublk_frontend *frontend, struct vublk_vu_message *message)
{
	struct vublk_error error;

	if (!is_open(frontend))
		return;
	if (vublk_channel_send(&frontend->channel, message, &error) < 0) {
		vublk_error_prepend(&error, "%s",
				    vublk_vu_request_name(VUBLK_VU_TO_BACKEND,
							  message->header.request));
		vublk_frontend_fail(frontend, &error);
		return;
	}
	if (vublk_channel_wants_write(&frontend->channel))
		vublk_loop_modify(&frontend->source, EPOLLIN | EPOLLOUT);
}

static int expect(struct vublk_frontend *frontend, uint32_t request, unsigned min_bytes,
		  vublk_frontend_reply_fn *fn, void *opaque, unsigned tag)
{
	struct vublk_frontend_expected *expected = calloc(1, sizeof(*expected));
	struct vublk_error error;

	if (!expected) {
		vublk_error_set_errno(&error, ENOMEM, "cannot allocate memory to wait for the "
				      "answer to %s",
				      vublk_vu_request_name(VUBLK_VU_TO_BACKEND, request));
		vublk_frontend_fail(frontend, &error);
		return -ENOMEM;
	}
	*expected = (struct vublk_frontend_expected){
		.request = request,
		.min_bytes = min_bytes,
		.sent_ns = vublk_now_ns(),
		.fn = fn,
		.opaque = opaque,
		.tag = tag,
	};
	if (!frontend->expected)
		frontend->round_trips++;
	*frontend->expected_end = expected;
	frontend->expected_end = &expected->next;
	watch_oldest(frontend);
	return 0;
}

void vublk_frontend_ask(struct vublk_frontend *frontend, struct vublk_vu_message *message,
			unsigned min_bytes, vublk_frontend_reply_fn *fn, void *opaque,
			unsigned tag)
{
	if (!is_open(frontend))
		return;
	if (!expect(frontend, message->header.request, min_bytes, fn, opaque, tag))
		vublk_frontend_send(frontend, message);
}

static void on_pong(void *opaque, unsigned tag, struct vublk_vu_message *reply)
{
}

void vublk_frontend_ping(struct vublk_frontend *frontend)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, VUBLK_VU_GET_FEATURES);
	vublk_frontend_ask(frontend, &message, sizeof(uint64_t), on_pong, NULL, 0);
}

/* --- receiving -------------------------------------------------------------------- */

static int check_reply(const struct vublk_frontend *frontend,
		       const struct vublk_vu_message *reply, struct vublk_error *error)
{
	const struct vublk_frontend_expected *expected = frontend->expected;

	if (!expected)
		return vublk_error_set(error, EPROTO,
				       "the back-end sent %s (number %u), but the device was not "
				       "waiting for an answer",
				       vublk_vu_request_name(VUBLK_VU_TO_BACKEND,
							     reply->header.request),
				       reply->header.request);
	return vublk_vu_check_reply(expected->request, expected->min_bytes, reply, error);
}

static void on_reply(struct vublk_frontend *frontend, struct vublk_vu_message *reply)
{
	struct vublk_frontend_expected *expected = frontend->expected;
	struct vublk_error error;

	if (check_reply(frontend, reply, &error) < 0) {
		vublk_frontend_fail(frontend, &error);
		return;
	}
	frontend->expected = expected->next;
	if (!frontend->expected)
		frontend->expected_end = &frontend->expected;
	frontend->num_answers++;
	frontend->answered_ns = vublk_now_ns();
	watch_oldest(frontend);
	expected->fn(expected->opaque, expected->tag, reply);
	free(expected);
}

/*
 * Fails the connection with `error`. If an answer is outstanding, first prepends the name of its
 * request to `error`.
 */
static void fail_receiving(struct vublk_frontend *frontend, struct vublk_error *error)
{
	uint32_t request = frontend->expected ? frontend->expected->request : 0;

	/* yc-libvhost-server uses 44, the number that GET_VRING_BASE_SKIP_DRAIN had in a draft. */
	if (request == VUBLK_VU_GET_VRING_BASE_SKIP_DRAIN)
		vublk_error_prepend(error, "no answer to GET_VRING_BASE_SKIP_DRAIN, which is "
				    "message %u (if the back-end expects this message as number "
				    "44, set inflight-migration=off)", request);
	else if (request)
		vublk_error_prepend(error, "no answer to %s",
				    vublk_vu_request_name(VUBLK_VU_TO_BACKEND, request));
	if (request)
		frontend->explain_loss(frontend, request, error);
	vublk_frontend_fail(frontend, error);
}

/*
 * Receives messages. A callback may close the connection, which ends the loop below, unless the
 * callback also opens a new connection. In that case the loop continues on the new one.
 */
static void receive(struct vublk_frontend *frontend)
{
	for (unsigned i = 0; i < MESSAGES_PER_TURN && is_open(frontend); i++) {
		struct vublk_vu_message message;
		struct vublk_error error;
		int r = vublk_channel_receive(&frontend->channel, &message, &error);

		if (r < 0)
			fail_receiving(frontend, &error);
		if (r <= 0)
			return;
		on_reply(frontend, &message);
		vublk_vu_message_deinit(&message);
	}
}

static void flush(struct vublk_frontend *frontend)
{
	struct vublk_error error;
	int r = vublk_channel_flush(&frontend->channel, &error);

	/*
	 * If the back-end has closed the connection, do not fail yet, but read the messages that it
	 * sent before. One of them may explain the loss.
	 */
	if (r < 0 && error.code != ENOTCONN)
		vublk_frontend_fail(frontend, &error);
	else if (r <= 0)
		vublk_loop_modify(&frontend->source, EPOLLIN);
}

static void on_socket(void *opaque, uint32_t events)
{
	struct vublk_frontend *frontend = opaque;

	if (events & EPOLLOUT)
		flush(frontend);
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && is_open(frontend))
		receive(frontend);
}

/* --- missed deadlines ------------------------------------------------------------- */

/*
 * Called when the oldest deadline has passed. The loop may be late, which is not the back-end's
 * fault. So this function first reads the messages in the socket, and fails the connection only if
 * none of them is an answer.
 */
static void on_deadline(void *opaque)
{
	struct vublk_frontend *frontend = opaque;
	uint64_t answers_before = frontend->num_answers;
	struct vublk_error error;

	receive(frontend);
	if (!is_open(frontend) || !frontend->expected)
		return;
	if (frontend->num_answers != answers_before) {
		watch_oldest(frontend);
		return;
	}
	vublk_error_set(&error, ETIMEDOUT,
			"the back-end did not answer %s within %u ms; check whether it hangs%s, "
			"or raise request-timeout-ms",
			vublk_vu_request_name(VUBLK_VU_TO_BACKEND, frontend->expected->request),
			frontend->timeout_ms, frontend->num_answers ? "" :
			" or already serves another front-end, such as a VM (a back-end serves "
			"only one at a time)");
	vublk_frontend_fail(frontend, &error);
}

/* --- the beginning ------------------------------------------------------------------ */

void vublk_frontend_init_connection(struct vublk_frontend *frontend)
{
	frontend->state = VUBLK_FRONTEND_CLOSED;
	frontend->channel.fd = -1;
	frontend->expected_end = &frontend->expected;
	frontend->source.fn = on_socket;
	frontend->source.opaque = frontend;
	frontend->deadline.fn = on_deadline;
	frontend->deadline.opaque = frontend;
	frontend->lost_task.fn = on_lost_task;
	frontend->lost_task.opaque = frontend;
}

int vublk_frontend_attach(struct vublk_frontend *frontend, int fd, const char *path,
			  unsigned timeout_ms, struct vublk_error *error)
{
	int r;

	vublk_channel_init(&frontend->channel, fd);
	r = vublk_loop_add(frontend->loop, &frontend->source, fd, EPOLLIN, error);
	if (r < 0) {
		vublk_channel_deinit(&frontend->channel);
		return r;
	}
	frontend->timeout_ms = timeout_ms;
	frontend->num_answers = 0;
	frontend->round_trips = 0;
	frontend->start.any_kick = false;
	frontend->info = (struct vublk_frontend_info){ 0 };
	change_state(frontend, VUBLK_FRONTEND_EVENT_OPENED, path);
	return 0;
}

void vublk_frontend_set_negotiated(struct vublk_frontend *frontend)
{
	change_state(frontend, VUBLK_FRONTEND_EVENT_NEGOTIATED, NULL);
	frontend->ops->negotiated(frontend->opaque);
}

int vublk_frontend_adopt(struct vublk_frontend *frontend, int fd, const char *path,
			 unsigned timeout_ms, struct vublk_error *error)
{
	int r = vublk_frontend_attach(frontend, fd, path, timeout_ms, error);

	if (!r)
		change_state(frontend, VUBLK_FRONTEND_EVENT_NEGOTIATED, "by another process");
	return r;
}
