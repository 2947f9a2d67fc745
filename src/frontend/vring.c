/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Gives the rings to the back-end, stops them, and replaces their eventfds while they run.
 * device/rings/start-stop.c decides when.
 *
 * Key idea: the messages have an order that every known back-end accepts. The features come first,
 * because they determine the layout of the rings. The sizes, addresses and eventfds of all queues
 * follow. SET_VRING_ENABLE comes last, because some back-ends begin as soon as they have what they
 * need. Kick and call eventfds are sent again at each start, because some back-ends close them when
 * a ring stops. All queues are stopped together, because some back-ends stop everything when the
 * first queue is stopped.
 *
 * A stop either waits for the requests that the back-end has begun, or leaves them in the in-flight
 * area. With the protocol feature GET_VRING_BASE_SKIP_DRAIN, the message that the front-end sends
 * decides which. With GET_VRING_BASE_INFLIGHT alone, as in earlier versions of the specification,
 * GET_VRING_BASE leaves the requests in the area.
 *
 * Specification: "Ring states", "Starting and stopping".
 */
#include "frontend/frontend.h"

#include "util/checked.h"
#include "util/error.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_config.h>

#define STATUS_FEATURES_OK \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK)

/* --- messages ------------------------------------------------------------------- */

/*
 * Sends an eventfd of queue `index`. `fd` -1: the message says that there is no eventfd. Without a
 * kick descriptor the back-end has to poll; without a call descriptor the driver has to.
 */
static void send_eventfd(struct vublk_frontend_batch *batch, uint32_t request, unsigned index,
			 int fd)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, request);
	message.header.size = sizeof(message.payload.u64);
	message.payload.u64 = index | (fd < 0 ? VUBLK_VU_VRING_NO_FD : 0);
	if (fd >= 0) {
		message.fds[0] = fd;
		message.num_fds = 1;
	}
	vublk_frontend_batch_send_confirmed(batch, &message);
}

/* --- the device status, if STATUS was negotiated --------------------------- */

static void on_features_status(void *opaque, unsigned tag, struct vublk_vu_message *reply)
{
	struct vublk_frontend_batch *batch = opaque;

	if (!(reply->payload.u64 & VIRTIO_CONFIG_S_FEATURES_OK))
		vublk_frontend_batch_refuse(batch, EPROTO,
					    "the back-end rejects features that it offered itself "
					    "(after SET_FEATURES its status is 0x%" PRIx64 ", "
					    "without FEATURES_OK)", reply->payload.u64);
	vublk_frontend_batch_answered(batch);
}

static void send_features_ok(struct vublk_frontend_batch *batch)
{
	struct vublk_vu_message message;

	if (!vublk_frontend_has(batch->frontend, VUBLK_VU_F_STATUS))
		return;
	vublk_frontend_send_u64(batch, VUBLK_VU_SET_STATUS, STATUS_FEATURES_OK);
	vublk_vu_message_init(&message, VUBLK_VU_GET_STATUS);
	vublk_frontend_batch_ask(batch, &message, sizeof(uint64_t), on_features_status);
}

/* --- session -------------------------------------------------------------------------- */

/*
 * Sends the only piece of the session's batch. The batch does not include the memory, because the
 * in-flight area may have to be sent before the memory.
 */
static void send_session(void *owner, unsigned index)
{
	struct vublk_frontend_session *session = owner;
	const struct vublk_frontend *frontend = session->batch.frontend;

	if (frontend->dirty_log)
		vublk_frontend_send_log_base(&session->batch, frontend->dirty_log);
	vublk_frontend_send_features(&session->batch, session->features);
	if (session->batch.frontend)
		send_features_ok(&session->batch);
}

void vublk_frontend_begin_session(struct vublk_frontend *frontend, uint64_t features,
				  const struct vublk_device_dirty_log *dirty_log,
				  void (*done)(void *opaque, const struct vublk_error *error),
				  void *opaque)
{
	struct vublk_frontend_session *session = &frontend->session;

	frontend->dirty_log = dirty_log;
	session->features = features;
	session->batch.owner = session;
	session->batch.send_piece = send_session;
	vublk_frontend_batch_begin(frontend, &session->batch, 1, done, opaque);
}

/* --- start -------------------------------------------------------------------------- */

static void send_queue(struct vublk_frontend_rings *rings,
		       const struct vublk_frontend_queue *queue)
{
	struct vublk_frontend_batch *batch = &rings->batch;

	vublk_frontend_send_state(batch, VUBLK_VU_SET_VRING_NUM, queue->index, queue->size);
	vublk_frontend_send_state(batch, VUBLK_VU_SET_VRING_BASE, queue->index, queue->base);
	vublk_frontend_send_addresses(batch, queue);
	send_eventfd(batch, VUBLK_VU_SET_VRING_ERR, queue->index, queue->err_fd);
	send_eventfd(batch, VUBLK_VU_SET_VRING_CALL, queue->index, queue->call_fd);
	send_eventfd(batch, VUBLK_VU_SET_VRING_KICK, queue->index, queue->kick_fd);
	rings->any_kick |= batch->frontend != NULL; /* unchanged if the connection broke */
}

/*
 * Sends a piece of the batch. The first pieces set up one queue each, and the next ones enable one
 * queue each. If STATUS was negotiated, one more piece sets the status.
 */
static void send_start_piece(void *owner, unsigned index)
{
	struct vublk_frontend_rings *rings = owner;
	unsigned n = rings->num_queues;

	if (index < n)
		send_queue(rings, &rings->queues[index]);
	else if (index < 2 * n)
		vublk_frontend_send_state(&rings->batch, VUBLK_VU_SET_VRING_ENABLE,
			   rings->queues[index - n].index, 1);
	else
		vublk_frontend_send_u64(&rings->batch, VUBLK_VU_SET_STATUS, STATUS_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
}

static void on_start_refused(void *owner, unsigned index, bool first)
{
	struct vublk_frontend_rings *rings = owner;

	if (first && index < 2 * rings->num_queues)
		vublk_error_prepend(&rings->batch.refusal, "queue %u",
				    rings->queues[index % rings->num_queues].index);
}

void vublk_frontend_start_rings(struct vublk_frontend *frontend,
				struct vublk_frontend_queue *queues, unsigned num_queues,
				void (*done)(void *opaque, const struct vublk_error *error),
				void *opaque)
{
	struct vublk_frontend_rings *rings = &frontend->start;
	unsigned status = vublk_frontend_has(frontend, VUBLK_VU_F_STATUS);

	rings->any_kick = false;
	rings->queues = queues;
	rings->num_queues = num_queues;
	rings->batch.send_piece = send_start_piece;
	rings->batch.refused = on_start_refused;
	rings->batch.owner = rings;
	vublk_frontend_batch_begin(frontend, &rings->batch, 2 * num_queues + status, done,
				   opaque);
}

/* --- replacing descriptors while the rings run ---------------------------------------------- */

static void send_notifier(void *owner, unsigned index)
{
	struct vublk_frontend_notifiers *notifiers = owner;
	const struct vublk_frontend_notifier *change = &notifiers->changes[index];

	send_eventfd(&notifiers->batch, change->request, change->queue, change->fd);
}

static void on_notifier_refused(void *owner, unsigned index, bool first)
{
	struct vublk_frontend_notifiers *notifiers = owner;

	if (first)
		vublk_error_prepend(&notifiers->batch.refusal,
				    "queue %u: cannot replace a kick or call descriptor while the "
				    "ring runs",
				    notifiers->changes[index].queue);
}

void vublk_frontend_set_notifiers(struct vublk_frontend *frontend,
				  const struct vublk_frontend_notifier *changes, unsigned count,
				  void (*done)(void *opaque, const struct vublk_error *error),
				  void *opaque)
{
	struct vublk_frontend_notifiers *notifiers = &frontend->notifiers;

	notifiers->changes = changes;
	notifiers->batch.owner = notifiers;
	notifiers->batch.send_piece = send_notifier;
	notifiers->batch.refused = on_notifier_refused;
	vublk_frontend_batch_begin(frontend, &notifiers->batch, count, done, opaque);
}

/* --- stop --------------------------------------------------------------------------- */

static void on_vring_base(void *opaque, unsigned tag, struct vublk_vu_message *reply)
{
	struct vublk_frontend_batch *batch = opaque;
	struct vublk_frontend_rings *rings = batch->owner;
	struct vublk_frontend_queue *queue = &rings->queues[tag - rings->num_queues];
	const struct vhost_vring_state *state = &reply->payload.state;

	if (state->index != queue->index || state->num > UINT16_MAX)
		vublk_frontend_batch_refuse(batch, EPROTO,
					    "the answer to GET_VRING_BASE of queue %u names queue "
					    "%u and index %u; expected the same queue and an index "
					    "of at most 65535",
					    queue->index, state->index, state->num);
	else
		queue->base = (uint16_t)state->num;
	vublk_frontend_batch_answered(batch);
}

static void ask_base(struct vublk_frontend_rings *rings, const struct vublk_frontend_queue *queue)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, rings->skips_drain ? VUBLK_VU_GET_VRING_BASE_SKIP_DRAIN :
						VUBLK_VU_GET_VRING_BASE);
	message.header.size = sizeof(message.payload.state);
	message.payload.state.index = queue->index;
	vublk_frontend_batch_ask(&rings->batch, &message, sizeof(message.payload.state),
				 on_vring_base);
}

/*
 * Sends a piece of the batch. The first pieces disable one queue each, and the next ones ask for
 * one queue's base each. If STATUS was negotiated, one more piece clears the status.
 */
static void send_stop_piece(void *owner, unsigned index)
{
	struct vublk_frontend_rings *rings = owner;
	unsigned n = rings->num_queues;

	if (index < n)
		vublk_frontend_send_state(&rings->batch, VUBLK_VU_SET_VRING_ENABLE,
			   rings->queues[index].index, 0);
	else if (index < 2 * n)
		ask_base(rings, &rings->queues[index - n]);
	else
		vublk_frontend_send_u64(&rings->batch, VUBLK_VU_SET_STATUS, 0);
}

bool vublk_frontend_leaves_requests(const struct vublk_frontend *frontend, bool drains)
{
	if (vublk_frontend_has(frontend, VUBLK_VU_F_GET_VRING_BASE_SKIP_DRAIN))
		return !drains;
	return vublk_frontend_has(frontend, VUBLK_VU_F_GET_VRING_BASE_INFLIGHT);
}

void vublk_frontend_stop_rings(struct vublk_frontend *frontend,
			       struct vublk_frontend_queue *queues, unsigned num_queues,
			       bool drains, void (*done)(void *opaque, const struct vublk_error *error),
			       void *opaque)
{
	struct vublk_frontend_rings *rings = &frontend->stop;
	unsigned status = vublk_frontend_has(frontend, VUBLK_VU_F_STATUS);

	rings->skips_drain = !drains &&
			     vublk_frontend_has(frontend, VUBLK_VU_F_GET_VRING_BASE_SKIP_DRAIN);
	rings->queues = queues;
	rings->num_queues = num_queues;
	rings->batch.send_piece = send_stop_piece;
	rings->batch.owner = rings;
	vublk_frontend_batch_begin(frontend, &rings->batch, 2 * num_queues + status, done,
				   opaque);
}
