/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Flushes that the application does not see, and that have failed; see unflushed.h. */
#include "blk/unflushed.h"

#include "blk/queue.h"

#include <errno.h>

int vublk_blk_flush_result(struct vublk_blk_queue *queue, const struct vublk_blk_request *request,
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
