/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * In-flight tracking of split rings, step by step as in "Inflight I/O tracking" of the
 * vhost-user specification.
 *
 * Key idea: another process reads the area after this one has died, possibly at any instruction. So
 * the order in which stores reach memory matters, and each store that must not overtake an earlier
 * store is a release. The letters mark these stores and their loads below:
 *   I  `counter` before `inflight`: a chain that counts as taken has a valid counter
 *   J  these four in this order: the list of the batch, the ring's used index (when the ring
 *      publishes the batch), the zero in `inflight`, `used_idx`
 * The front-end owns the area and may write to it at any time. So every index that is read from it
 * is checked, and nothing is read from it while the queue runs.
 */
#include "worker/inflight.h"

#include "util/atomic.h"
#include "util/error.h"
#include "util/kill-point.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- recovery -------------------------------------------------------------- */

/*
 * Finishes the record of the last batch, in case the previous process died after it published the
 * batch and before it recorded the new used index. The requests of that batch are complete.
 */
static int finish_last_batch(struct vublk_inflight_split *region, unsigned size,
			     uint16_t used_idx, struct vublk_error *error)
{
	uint16_t batch = (uint16_t)(used_idx - vublk_load_relaxed(&region->used_idx));
	uint16_t head = vublk_load_relaxed(&region->last_batch_head);

	if (batch > size)
		return vublk_error_set(error, EPROTO,
				       "the in-flight area does not belong to this ring: its used "
				       "index is %u, but the ring's is %u, and the difference of "
				       "%u exceeds the ring's %u entries",
				       vublk_load_relaxed(&region->used_idx), used_idx, batch,
				       size);
	for (; batch; batch--) {
		if (head >= size)
			return vublk_error_set(error, EPROTO,
					       "the last batch in the in-flight area names entry "
					       "%u, but the ring's last entry is %u", head,
					       size - 1);
		vublk_store_relaxed(&region->desc[head].inflight, 0);
		head = vublk_load_relaxed(&region->desc[head].next);
	}
	vublk_store_release(&region->used_idx, used_idx); /* J */
	return 0;
}

struct undone {
	uint64_t counter;
	uint16_t head;
};

static int compare_undone(const void *a, const void *b)
{
	uint64_t x = ((const struct undone *)a)->counter;
	uint64_t y = ((const struct undone *)b)->counter;

	return x < y ? -1 : x > y;
}

/*
 * Stores the requests in flight in `pending`, sorted by counter. Returns the counter's next value.
 */
static uint64_t collect_pending(const struct vublk_inflight_split *region, unsigned size,
			     struct vublk_inflight_pending *pending)
{
	struct undone undone[VUBLK_RING_MAX_SIZE];
	unsigned n = 0;

	for (unsigned i = 0; i < size; i++)
		if (vublk_load_acquire(&region->desc[i].inflight)) { /* I */
			undone[n].counter = vublk_load_relaxed(&region->desc[i].counter);
			undone[n++].head = (uint16_t)i;
		}
	qsort(undone, n, sizeof(undone[0]), compare_undone);
	for (unsigned i = 0; i < n; i++)
		pending->heads[i] = undone[i].head;
	pending->count = n;
	return n ? undone[n - 1].counter + 1 : 0;
}

static void init_region(struct vublk_inflight_split *region, uint16_t desc_num,
			uint16_t used_idx)
{
	/* Clear no more than this region, because the next region may follow without padding. */
	memset(region, 0, vublk_inflight_split_least_bytes(desc_num));
	region->desc_num = desc_num;
	region->used_idx = used_idx;
	vublk_store_release(&region->version, VUBLK_INFLIGHT_VERSION);
}

/*
 * A chain that was made available and is not complete is either in flight or was never taken. So
 * the next chain to take follows those that are complete or in flight. If there is a record,
 * SET_VRING_BASE is ignored, because front-ends differ in what they send after a crash.
 */
int vublk_inflight_queue_begin(struct vublk_inflight_queue *queue,
			       struct vublk_inflight_split *region, uint16_t desc_num,
			       const struct vublk_split_ring *ring, unsigned size,
			       uint16_t used_idx, uint16_t *base,
			       struct vublk_inflight_pending *pending, struct vublk_error *error)
{
	int r;

	pending->count = 0;
	*queue = (struct vublk_inflight_queue){ 0 };
	if (!region)
		return 0;
	if (!vublk_load_acquire(&region->version)) {
		init_region(region, desc_num, used_idx);
	} else {
		r = finish_last_batch(region, size, used_idx, error);
		if (r)
			return r;
		queue->counter = collect_pending(region, size, pending);
		r = vublk_inflight_check(pending, ring, size, used_idx, error);
		if (r)
			return r;
		queue->last_batch_head = vublk_load_relaxed(&region->last_batch_head);
		*base = (uint16_t)(used_idx + pending->count);
	}
	queue->region = region;
	return 0;
}

/* --- while the queue runs -------------------------------------------------- */

void vublk_inflight_queue_publish(struct vublk_inflight_queue *queue, uint16_t used_idx)
{
	if (!queue->region)
		return;
	for (unsigned i = 0; i < queue->num_batch; i++) {
		vublk_store_release(&queue->region->desc[queue->batch[i]].inflight, 0); /* J */
		vublk_kill_point("after-inflight-clear");
	}
	queue->num_batch = 0;
	vublk_store_release(&queue->region->used_idx, used_idx); /* J */
}
