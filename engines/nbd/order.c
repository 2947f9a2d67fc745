/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Decides when a change (a write, zeroes or a discard) may begin.
 *
 * Key idea: after a loss of the server, a write that was under way is submitted again. It may have
 * been executed before the loss. If another write to the same place had completed in the meantime,
 * the repetition would overwrite it. So a change waits until no older change overlaps it. The order
 * applies to the whole disk, because queues have different connections. Reads do not wait, because
 * repeating a read, or a change that overlaps it, alters nothing that has completed.
 *
 * The changes are in a hash table of the chunks that they touch. A change of more than two chunks
 * is in a separate list, which is searched for every other change. Such changes are few, because
 * they are large.
 */
#include "engines/nbd/nbd.h"

#define CHUNK_SHIFT 17

static uint64_t first_chunk(const struct vublk_engine_io *io)
{
	return io->offset >> CHUNK_SHIFT;
}

static uint64_t num_chunks(const struct vublk_engine_io *io)
{
	return io->bytes ? ((io->offset + io->bytes - 1) >> CHUNK_SHIFT) - first_chunk(io) + 1 : 0;
}

static struct nbd_claim **bucket(struct nbd_order *order, uint64_t chunk)
{
	return &order->buckets[chunk % NBD_NUM_BUCKETS];
}

static bool has_older(const struct nbd_claim *claim, const struct nbd_request *request)
{
	const struct vublk_engine_io *io = request->io;

	for (; claim; claim = claim->next) {
		const struct vublk_engine_io *other = claim->request->io;

		if (claim->request->number < request->number &&
		    other->offset < io->offset + io->bytes && io->offset < other->offset + other->bytes)
			return true;
	}
	return false;
}

static bool must_wait(struct nbd_order *order, const struct nbd_request *request)
{
	uint64_t n = num_chunks(request->io);

	if (has_older(order->wide, request))
		return true;
	for (uint64_t i = 0; i < n && i < NBD_NUM_BUCKETS; i++)
		if (has_older(*bucket(order, first_chunk(request->io) + i), request))
			return true;
	return false;
}

static void add_claim(struct nbd_request *request, struct nbd_claim **list)
{
	struct nbd_claim *claim = &request->claims[request->num_claims++];

	*claim = (struct nbd_claim){ .request = request, .next = *list, .link = list };
	if (*list)
		(*list)->link = &claim->next;
	*list = claim;
}

bool vublk_nbd_order_add(struct nbd_order *order, struct nbd_request *request)
{
	uint64_t n = num_chunks(request->io);
	bool may_begin;

	request->number = ++order->last_number;
	may_begin = !must_wait(order, request);
	request->num_claims = 0;
	if (n > NBD_MAX_CLAIMS)
		add_claim(request, &order->wide);
	for (uint64_t i = 0; n <= NBD_MAX_CLAIMS && i < n; i++)
		add_claim(request, bucket(order, first_chunk(request->io) + i));
	if (!may_begin)
		vublk_nbd_list_append(&order->blocked, request);
	return may_begin;
}

void vublk_nbd_order_remove(struct nbd_order *order, struct nbd_request *request)
{
	for (unsigned i = 0; i < request->num_claims; i++) {
		struct nbd_claim *claim = &request->claims[i];

		*claim->link = claim->next;
		if (claim->next)
			claim->next->link = claim->link;
	}
	request->num_claims = 0;
}

void vublk_nbd_order_start(struct nbd_order *order, struct nbd_list *list)
{
	struct nbd_list blocked = order->blocked;

	order->blocked.first = NULL;
	while (blocked.first) {
		struct nbd_request *request = vublk_nbd_list_take(&blocked);

		vublk_nbd_list_append(must_wait(order, request) ? &order->blocked : list, request);
	}
}
