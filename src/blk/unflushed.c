/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Determines the results of flushes, and counts the failures that the application does not see; see
 * unflushed.h.
 */
#include "blk/unflushed.h"

#include "blk/queue.h"
#include "blk/replay.h"

#include "util/fd.h"

#include <errno.h>

static int result_of(struct vublk_blk_queue *queue, const struct vublk_blk_request *request,
		     int result)
{
	uint64_t failures = vublk_blk_flush_failures(queue->flushes);
	bool is_unseen = request == &queue->own_flush || request->fua;
	uint64_t told = is_unseen ? request->failures_before : queue->told_failures;

	if (!is_unseen)
		queue->told_failures = failures;
	else if (result)
		__atomic_add_fetch(&queue->flushes->unseen_failures, 1, __ATOMIC_RELEASE); /* K */
	return result || told == failures ? result : -EIO;
}

static void end(struct vublk_blk_queue *queue, struct vublk_blk_request *request, int result)
{
	result = result_of(queue, request, result);
	if (queue->write_log)
		vublk_blk_keep_flushed(queue, request, result);
	if (!result)
		vublk_blk_flush_succeeded(queue->flushes, request->flush_number);
	if (!request->result)
		request->result = result;
}

bool vublk_blk_flush_own_in_flight(const struct vublk_blk_flushes *flushes, uint64_t newest)
{
	for (unsigned i = 0; i < flushes->num_queues; i++) {
		uint64_t number = vublk_load_seq(&flushes->queues[i].own_in_flight); /* L */

		if (number && number <= newest)
			return true;
	}
	return false;
}

void vublk_blk_flush_own_ended(struct vublk_blk_queue *queue)
{
	const struct vublk_blk_flushes *flushes = queue->flushes;

	if (!vublk_load_relaxed(&queue->own_in_flight))
		return;
	vublk_store_seq(&queue->own_in_flight, 0); /* L */
	for (unsigned i = 0; i < flushes->num_queues; i++)
		if (vublk_load_seq(&flushes->queues[i].awaits_own)) /* L */
			vublk_eventfd_signal(flushes->queues[i].inproc->call_fd);
}

void vublk_blk_flush_completed(struct vublk_blk_queue *queue, struct vublk_blk_request *request,
			       int result)
{
	uint64_t newest = vublk_load_acquire(&queue->flushes->begun);
	bool is_own = request == &queue->own_flush;

	if (!result && !is_own && vublk_blk_flush_own_in_flight(queue->flushes, newest)) {
		request->state = VUBLK_BLK_REQUEST_AWAITS_OWN;
		request->awaited_flush = newest;
		vublk_blk_list_append(&queue->awaiting, request);
		vublk_store_seq(&queue->awaits_own, true); /* L */
		return;
	}
	end(queue, request, result);
	if (is_own)
		vublk_blk_flush_own_ended(queue);
}

struct vublk_blk_request *vublk_blk_flush_take_awaited(struct vublk_blk_queue *queue)
{
	struct vublk_blk_request *request = queue->awaiting.first;

	if (!request || vublk_blk_flush_own_in_flight(queue->flushes, request->awaited_flush))
		return NULL;
	queue->awaiting.first = request->next;
	if (!queue->awaiting.first) {
		queue->awaiting.last = NULL;
		vublk_store_relaxed(&queue->awaits_own, false);
	}
	end(queue, request, 0);
	return request;
}
