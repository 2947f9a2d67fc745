/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Decides when a change (a write, write-zeroes or discard request) may begin.
 *
 * Key idea: after a loss of the server, a write that was in flight is sent again, although the
 * server may already have executed it. If another write to the same place had completed since then,
 * the repeated write would overwrite newer data. So a change waits until no older change overlaps
 * it. The order applies to the whole disk, because queues have different connections. Reads do not
 * wait: a repeated read changes no data, and a repeated change writes the same data again.
 *
 * The changes are in a hash table of the chunks (128 KiB each) that they touch. A change of more
 * than two chunks is in a separate list, which is searched for every other change. Such changes are
 * few, because they are large. Each list begins with the newest claim.
 *
 * A change that waits is in the list of one older change that overlaps it, and is checked again only
 * when that change is complete. So a thousand writes to one block cost no more than a thousand
 * writes to different blocks.
 */
#include "engines/nbd/nbd.h"

#define CHUNK_SHIFT 17 /* chunks of 128 KiB */

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

/* Returns the newest change of the list that is older than `request` and overlaps it, or NULL. */
static struct nbd_request *find_older(const struct nbd_claim *claim,
				      const struct nbd_request *request)
{
	const struct vublk_engine_io *io = request->io;

	for (; claim; claim = claim->next) {
		const struct vublk_engine_io *other = claim->request->io;

		if (claim->request->number < request->number &&
		    other->offset < io->offset + io->bytes && io->offset < other->offset + other->bytes)
			return claim->request;
	}
	return NULL;
}

/*
 * Returns a change for which `request`, whose claims are in the lists, must wait, or NULL. The older
 * claims of a list are those after the claim of `request`.
 */
static struct nbd_request *find_blocker(struct nbd_order *order, const struct nbd_request *request)
{
	uint64_t n = num_chunks(request->io), num_others = n > NBD_MAX_CLAIMS ? n : 0;
	struct nbd_request *blocker = num_others ? NULL : find_older(order->wide, request);

	for (unsigned i = 0; i < request->num_claims && !blocker; i++)
		blocker = find_older(request->claims[i].next, request);
	for (uint64_t i = 0; i < num_others && i < NBD_NUM_BUCKETS && !blocker; i++)
		blocker = find_older(*bucket(order, first_chunk(request->io) + i), request);
	return blocker;
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
	struct nbd_request *blocker;

	request->number = ++order->last_number;
	request->waiters.first = NULL;
	request->num_claims = 0;
	if (n > NBD_MAX_CLAIMS)
		add_claim(request, &order->wide);
	for (uint64_t i = 0; n <= NBD_MAX_CLAIMS && i < n; i++)
		add_claim(request, bucket(order, first_chunk(request->io) + i));
	blocker = find_blocker(order, request);
	if (blocker)
		vublk_nbd_list_append(&blocker->waiters, request);
	return !blocker;
}

void vublk_nbd_order_remove(struct nbd_order *order, struct nbd_request *request,
			    struct nbd_list *started)
{
	struct nbd_list waiters = request->waiters;

	for (unsigned i = 0; i < request->num_claims; i++) {
		struct nbd_claim *claim = &request->claims[i];

		*claim->link = claim->next;
		if (claim->next)
			claim->next->link = claim->link;
	}
	request->num_claims = 0;
	while (waiters.first) {
		struct nbd_request *waiter = vublk_nbd_list_take(&waiters);
		struct nbd_request *blocker = find_blocker(order, waiter);

		vublk_nbd_list_append(blocker ? &blocker->waiters : started, waiter);
	}
}
