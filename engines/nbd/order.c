/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Decides when a request may begin.
 *
 * Key idea: after a loss of the server, a write that was under way is submitted again. It may have
 * been executed before the loss. If another write to the same place had completed in the meantime,
 * the repetition would overwrite it. So a request waits until no older request overlaps it, unless
 * both read. The order counts for the whole disk, because queues have different connections.
 */
#include "engines/nbd/nbd.h"

static bool overlaps(const struct vublk_engine_io *a, const struct vublk_engine_io *b)
{
	if (a->op == VUBLK_OP_READ && b->op == VUBLK_OP_READ)
		return false;
	return a->offset < b->offset + b->bytes && b->offset < a->offset + a->bytes;
}

static bool must_wait(const struct nbd_request *request)
{
	for (const struct nbd_request *r = request->older; r; r = r->older)
		if (overlaps(r->io, request->io))
			return true;
	return false;
}

bool vublk_nbd_order_add(struct nbd_order *order, struct nbd_request *request)
{
	bool may_begin;

	pthread_mutex_lock(&order->lock);
	request->older = order->newest;
	request->newer = NULL;
	if (order->newest)
		order->newest->newer = request;
	order->newest = request;
	may_begin = !must_wait(request);
	request->is_blocked = !may_begin;
	order->num_blocked += !may_begin;
	pthread_mutex_unlock(&order->lock);
	return may_begin;
}

static void start_unblocked(struct nbd_order *order, struct nbd_request *from)
{
	for (struct nbd_request *r = from; r && order->num_blocked; r = r->newer) {
		if (!r->is_blocked || must_wait(r))
			continue;
		r->is_blocked = false;
		order->num_blocked--;
		vublk_nbd_connection_submit(r->queue->connection, r);
	}
}

void vublk_nbd_order_remove(struct nbd_order *order, struct nbd_request *request)
{
	pthread_mutex_lock(&order->lock);
	if (request->older)
		request->older->newer = request->newer;
	if (request->newer)
		request->newer->older = request->older;
	else
		order->newest = request->older;
	start_unblocked(order, request->newer);
	pthread_mutex_unlock(&order->lock);
}
