/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sends batches. A batch is a set of messages that belong together. They are sent without waiting
 * for the answer to each one, and done() is called once, when the last one has been answered. The
 * owner of the batch decides which messages are in it.
 *
 * Key idea: a batch consists of numbered pieces, and the owner's send_piece() sends a piece. The
 * next piece is sent only while few answers are outstanding; after each answer, further pieces may
 * follow. So 256 queues need only a few round trips, and yet the messages exceed neither the room
 * in the socket nor the limit of descriptors in transit.
 *
 * After messages that have no answer, the batch sends GET_FEATURES as a barrier, unless a message
 * with an answer follows anyway. Requests are answered in order, so when the barrier is answered,
 * the back-end has read all messages before it. Without REPLY_ACK, barriers replace all
 * confirmations. A barrier does not say whether a message succeeded. But a confirmation is not
 * reliable either: some back-ends confirm even messages that failed.
 *
 * Specification: "VHOST_USER_PROTOCOL_F_REPLY_ACK".
 */
#include "frontend/frontend.h"

#include "util/error.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>

/*
 * No further piece is sent while this many answers are outstanding; the second limit is for batches
 * without confirmations (no REPLY_ACK).
 */
#define MAX_WAITING 32
#define MAX_WAITING_BARRIERS 4
#define MESSAGES_PER_BARRIER 64 /* after this many messages without an answer, a barrier is sent */

static void on_barrier(void *opaque, unsigned tag, struct vublk_vu_message *reply)
{
	vublk_frontend_batch_answered(opaque);
}

static void send_barrier(struct vublk_frontend_batch *batch)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, VUBLK_VU_GET_FEATURES);
	vublk_frontend_batch_ask(batch, &message, sizeof(uint64_t), on_barrier);
}

static bool is_complete(const struct vublk_frontend_batch *batch)
{
	return !batch->num_waiting && !batch->unconfirmed &&
	       (batch->next_piece == batch->num_pieces || batch->refusal.code);
}

/*
 * Returns the number of outstanding answers at which no further piece is sent. It is smaller
 * without REPLY_ACK, because each answer to a barrier then stands for many messages.
 */
static unsigned max_waiting(const struct vublk_frontend_batch *batch)
{
	return vublk_frontend_has(batch->frontend, VUBLK_VU_F_REPLY_ACK) ? MAX_WAITING :
									   MAX_WAITING_BARRIERS;
}

/*
 * Sends pieces until the limit of outstanding answers is reached, a message of the batch has been
 * refused, or no piece is left. If a send fails, the connection fails, which sets batch->frontend
 * to NULL.
 */
static void pump(struct vublk_frontend_batch *batch)
{
	while (batch->frontend && batch->next_piece < batch->num_pieces &&
	       batch->num_waiting < max_waiting(batch) && !batch->refusal.code) {
		batch->send_piece(batch->owner, batch->next_piece);
		batch->next_piece++;
		if (batch->unconfirmed >= MESSAGES_PER_BARRIER)
			send_barrier(batch);
	}
	if (batch->frontend && batch->unconfirmed && !batch->num_waiting)
		send_barrier(batch);
}

void vublk_frontend_batch_begin(struct vublk_frontend *frontend,
				struct vublk_frontend_batch *batch, unsigned num_pieces,
				void (*done)(void *opaque, const struct vublk_error *error),
				void *opaque)
{
	if (frontend->state != VUBLK_FRONTEND_READY)
		return;
	batch->frontend = frontend;
	batch->done = done;
	batch->opaque = opaque;
	batch->num_pieces = num_pieces;
	batch->next_piece = 0;
	batch->num_waiting = 0;
	batch->unconfirmed = 0;
	batch->refusal.code = 0;
	pump(batch);
	if (batch->frontend && !batch->num_waiting) /* no answer is outstanding, so the barrier's
						       answer calls done() from the loop */
		send_barrier(batch);
}

void vublk_frontend_batch_send(struct vublk_frontend_batch *batch,
			       struct vublk_vu_message *message)
{
	if (!batch->frontend)
		return;
	batch->unconfirmed++;
	vublk_frontend_send(batch->frontend, message);
}

void vublk_frontend_batch_ask(struct vublk_frontend_batch *batch,
			      struct vublk_vu_message *message, unsigned min_bytes,
			      vublk_frontend_reply_fn *fn)
{
	if (!batch->frontend)
		return;
	batch->num_waiting++;
	batch->unconfirmed = 0;
	vublk_frontend_ask(batch->frontend, message, min_bytes, fn, batch, batch->next_piece);
}

static void on_confirmation(void *opaque, unsigned tag, struct vublk_vu_message *reply)
{
	struct vublk_frontend_batch *batch = opaque;
	bool first = !batch->refusal.code;

	if (reply->payload.u64) {
		vublk_frontend_batch_refuse(batch, EIO,
					    "the back-end refused %s (it replied %" PRIu64 ")",
					    vublk_vu_request_name(VUBLK_VU_TO_BACKEND,
								  reply->header.request),
					    reply->payload.u64);
		if (batch->refused)
			batch->refused(batch->owner, tag, first);
	}
	vublk_frontend_batch_answered(batch);
}

void vublk_frontend_batch_send_confirmed(struct vublk_frontend_batch *batch,
					 struct vublk_vu_message *message)
{
	if (!batch->frontend)
		return;
	if (!vublk_frontend_has(batch->frontend, VUBLK_VU_F_REPLY_ACK)) {
		vublk_frontend_batch_send(batch, message);
		return;
	}
	message->header.flags |= VUBLK_VU_FLAG_NEED_REPLY;
	vublk_frontend_batch_ask(batch, message, sizeof(uint64_t), on_confirmation);
}

void vublk_frontend_batch_refuse(struct vublk_frontend_batch *batch, int code,
				 const char *format, ...)
{
	va_list args;

	if (batch->refusal.code)
		return;
	va_start(args, format);
	vublk_error_set_va(&batch->refusal, code, format, args);
	va_end(args);
}

void vublk_frontend_batch_answered(struct vublk_frontend_batch *batch)
{
	batch->num_waiting--;
	pump(batch);
	if (!batch->frontend || !is_complete(batch))
		return;
	batch->frontend = NULL;
	batch->done(batch->opaque, batch->refusal.code ? &batch->refusal : NULL);
}
