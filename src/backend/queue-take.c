/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Takes chains from a virtqueue and turns them into requests, on the queue's worker.
 * queue-complete.c handles the completions.
 *
 * Key idea: nothing here allocates or locks. There are as many requests as the ring has entries,
 * and a chain is taken only when a request is free.
 */
#include "backend/queue.h"

#include "proto/vhost-user/server.h"
#include "util/fd.h"
#include "util/kill-point.h"
#include "util/memfd.h"

#include <errno.h>

static struct vublk_request *take_free_request(struct vublk_queue *queue)
{
	struct vublk_request *request = queue->free_requests;

	if (request)
		queue->free_requests = request->next_free;
	return request;
}

/* --- the ring -------------------------------------------------------------- */

static void ring_is_broken(struct vublk_queue *queue, const struct vublk_error *error)
{
	queue->phase = VUBLK_QUEUE_BROKEN;
	if (vublk_fault_happened(queue->fault))
		return; /* the session logs which memory was lost */
	vublk_log_limited(queue->log, queue->limit, VUBLK_LOG_ERROR,
			  "queue %u is stopped because its driver broke the ring: %s",
			  queue->index, error->text);
	if (queue->err_fd >= 0)
		vublk_eventfd_signal(queue->err_fd);
}

/* Handles the result `r` of taking a chain. Returns whether there may be another chain. */
static bool took(struct vublk_queue *queue, struct vublk_request *request, int r,
		 const struct vublk_error *error, struct vublk_engine_queue *engine)
{
	if (r == 1 || r == -EBADMSG) {
		queue->outstanding++;
		vublk_inflight_queue_take(&queue->inflight, request->chain.head);
		vublk_kill_point("after-fetch");
	}
	if (r == 1) {
		vublk_request_begin(request, engine);
		return true;
	}
	if (r == -EBADMSG) {
		if (!vublk_fault_happened(queue->fault))
			vublk_log_limited(queue->log, queue->limit, VUBLK_LOG_WARNING,
					  "queue %u: rejected a malformed request: %s",
					  queue->index, error->text);
		vublk_queue_push(queue, request, 0);
		return true;
	}
	vublk_queue_free_request(queue, request);
	if (r < 0)
		ring_is_broken(queue, error);
	return false;
}

unsigned vublk_queue_take(struct vublk_queue *queue, struct vublk_engine_queue *engine,
			  unsigned max)
{
	struct vublk_error error;
	unsigned n = 0;

	error.code = 0;
	error.text[0] = '\0'; /* clearing the whole text would cost too much in each call that finds
				 no chain */
	while (n < max && queue->phase == VUBLK_QUEUE_TAKING) {
		struct vublk_request *request = take_free_request(queue);
		int r;

		if (!request)
			break;
		r = vublk_device_ring_take(&queue->ring, queue->map, &request->chain, &error);
		if (!took(queue, request, r, &error, engine))
			break;
		n++;
	}
	return n;
}

/*
 * If this many checks since the last kick have found requests, the driver certainly sends no kicks.
 * At the first such check, a kick may still be on its way.
 */
#define CERTAIN_LOOKS 2

bool vublk_queue_is_unkicked(struct vublk_queue *queue)
{
	if (queue->phase != VUBLK_QUEUE_TAKING || queue->setup.kick_fd < 0 ||
	    !queue->free_requests || vublk_device_ring_enable_kicks(&queue->ring))
		return false;
	if (++queue->unkicked == CERTAIN_LOOKS)
		vublk_log_limited(queue->log, queue->limit, VUBLK_LOG_WARNING,
				  "queue %u: the driver does not send kicks for its requests, so "
				  "each request may wait a second, and longer after an idle time; "
				  "start the back-end with --poll=busy for such a driver", queue->index);
	return true;
}

void vublk_queue_begin(struct vublk_queue *queue, struct vublk_engine_queue *engine)
{
	struct vublk_error error = { 0 };

	if (queue->pending.count)
		vublk_log_limited(queue->log, queue->limit, VUBLK_LOG_INFO,
				  "queue %u: repeating %u request%s that the previous back-end "
				  "did not complete", queue->index, queue->pending.count,
				  queue->pending.count == 1 ? "" : "s");
	for (unsigned i = 0; i < queue->pending.count; i++) {
		struct vublk_request *request = take_free_request(queue);
		int r = vublk_device_ring_take_again(&queue->ring, queue->map,
						     queue->pending.heads[i], &request->chain,
						     &error);

		if (!took(queue, request, r, &error, engine))
			break;
	}
	/* The previous back-end may have died after a completion and before its call. */
	if (queue->call_fd >= 0)
		vublk_eventfd_signal(queue->call_fd);
}

/* --- memory that is not shared ------------------------------------------------ */

/*
 * If no request has come this long after the first kick, on_quiet() checks whether a warning is
 * due. A driver may kick before it adds its first request.
 */
#define QUIET_NS UINT64_C(2000000000)

/*
 * If no request has come since the queue started, warns that the memory may not be shared. A kick
 * without a request is legal, so this function warns only if the memory also contains only zeros.
 */
static void on_quiet(void *opaque)
{
	struct vublk_queue *queue = opaque;
	const struct vublk_memory_map_region *lowest = &queue->map->regions[0];

	if (vublk_device_ring_base(&queue->ring) != queue->first || queue->outstanding ||
	    queue->phase != VUBLK_QUEUE_TAKING ||
	    vublk_vu_is_no_vm(lowest->guest_addr, lowest->user_addr) ||
	    !vublk_memory_is_blank(lowest->host, lowest->size_bytes))
		return;
	vublk_log_limited(queue->log, queue->limit, VUBLK_LOG_WARNING,
			  "queue %u: the driver sent a kick, but its ring has been empty since it "
			  "started: %s%s",
			  queue->index, VUBLK_VU_PRIVATE_MEMORY, VUBLK_VU_SHARE_IT);
}

/*
 * At the first kick, starts the timer of on_quiet(). A driver that writes to another copy of the
 * memory waits forever for its first request, so the log must give the reason.
 */
void vublk_queue_kicked(struct vublk_queue *queue, struct vublk_loop *loop)
{
	if (queue->was_kicked)
		return;
	queue->was_kicked = true;
	queue->quiet_timer = (struct vublk_loop_timer){ .fn = on_quiet, .opaque = queue };
	vublk_loop_timer_arm(loop, &queue->quiet_timer, vublk_now_ns() + QUIET_NS);
}
