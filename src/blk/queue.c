/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The life of a queue's requests, from the application to the ring and back. piece.c has the format
 * of a piece, request.c checks the arguments of requests, and recover.c handles the loss of a
 * back-end.
 *
 * Key idea: each request is in one of five places. `cutting` is the list of requests that are not
 * completely cut into pieces yet, in the order in which they are issued. Only the first request of
 * this list has pieces on the ring, and vublk_blk_queue_pump() continues with it when slots become
 * free. A request that is completely cut is in no list, but the slots of its pieces point to it.
 * `awaiting` is the list of flushes that the back-end has completed, but that wait for the disk's
 * own flushes (unflushed.h). `done` is the list of completed requests whose completions have not
 * been taken. `free` is the stack of unused requests.
 *
 * If the back-end breaks a ring, the contents of the ring cannot be trusted, and the back-end may
 * still write to the requests' buffers. So the disk's thread first reclaims all rings, and then the
 * requests in flight fail.
 */
#include "blk/queue.h"

#include "blk/fua.h"
#include "blk/piece.h"
#include "blk/replay.h"
#include "util/checked.h"
#include "util/compiler.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/loop.h"
#include "util/probe.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

/* --- lists ------------------------------------------------------------------------ */

static struct vublk_blk_request *take_first(struct vublk_blk_list *list)
{
	struct vublk_blk_request *request = list->first;

	list->first = request->next;
	if (!list->first)
		list->last = NULL;
	return request;
}

/* --- init and deinit ---------------------------------------------------------------- */

static unsigned table_entries(unsigned size, bool has_indirect)
{
	return has_indirect ? VUBLK_MIN(size, (unsigned)VUBLK_BLK_MAX_CHAIN) : 0;
}

uint64_t vublk_blk_queue_shared_bytes(unsigned size, bool has_indirect)
{
	return (uint64_t)size * (sizeof(struct vublk_blk_shared_slot) +
				 table_entries(size, has_indirect) * sizeof(struct vring_desc));
}

static void release_all_slots(struct vublk_blk_queue *queue)
{
	for (unsigned i = 0; i < queue->size; i++) {
		queue->slots[i].request = NULL;
		queue->free_slots[i] = (uint16_t)(queue->size - 1 - i);
	}
	queue->num_free_slots = queue->size;
	queue->overlap = (struct vublk_blk_overlap){ 0 };
}

static int allocate(struct vublk_blk_queue *queue, bool want_statistics,
		    struct vublk_error *error)
{
	queue->buffers = calloc(queue->limits.max_segments + VUBLK_BLK_CHAIN_OVERHEAD,
				sizeof(*queue->buffers));
	queue->slots = calloc(queue->size, sizeof(*queue->slots));
	queue->free_slots = calloc(queue->size, sizeof(*queue->free_slots));
	queue->requests = calloc(queue->size, sizeof(*queue->requests));
	if (want_statistics)
		queue->statistics = vublk_blk_statistics_new(queue->size);
	if (!queue->buffers || !queue->slots || !queue->free_slots || !queue->requests ||
	    (want_statistics && !queue->statistics))
		return vublk_error_set(error, ENOMEM, "cannot allocate memory for queue %u with %u "
				       "requests",
				       queue->index, queue->size);
	release_all_slots(queue);
	for (unsigned i = 0; i < queue->size; i++) {
		queue->requests[i].next = queue->free;
		queue->free = &queue->requests[i];
	}
	return 0;
}

void vublk_blk_queue_bind(struct vublk_blk_queue *queue)
{
	queue->shared = (struct vublk_blk_shared_slot *)queue->inproc->extra;
	queue->shared_addr = queue->inproc->extra_addr;
	queue->tables = (struct vring_desc *)&queue->shared[queue->size];
	queue->tables_addr = queue->shared_addr + queue->size * sizeof(*queue->shared);
}

/*
 * Sets the log of writes. Limits a piece to a quarter of the queue's stream, so that several pieces
 * fit.
 */
static void set_write_log(struct vublk_blk_queue *queue, struct vublk_write_log *log)
{
	uint32_t block = queue->limits.block_bytes;
	uint64_t quarter;

	queue->write_log = log;
	queue->stream = &log->streams[queue->index];
	quarter = VUBLK_MAX(queue->stream->size_bytes / 4 & -(uint64_t)block, (uint64_t)block);
	queue->limits.max_piece_bytes = (uint32_t)VUBLK_MIN(queue->limits.max_piece_bytes, quarter);
}

int vublk_blk_queue_init(struct vublk_blk_queue *queue, const struct vublk_blk_queue_setup *setup,
			 struct vublk_error *error)
{
	int r;

	queue->on_broken_ring = setup->on_broken_ring;
	queue->opaque = setup->opaque;
	queue->index = setup->index;
	queue->size = setup->size;
	queue->features = setup->features;
	queue->has_indirect = setup->features & VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC);
	queue->limits = setup->limits;
	if (setup->write_log)
		set_write_log(queue, setup->write_log);
	/*
	 * With statistics or a log of writes, every request takes the general path, so that the
	 * fast path need not handle these features.
	 */
	queue->max_plain_bytes = !queue->has_indirect || setup->statistics || setup->write_log ? 0 :
				 VUBLK_MIN(setup->limits.max_segment_bytes,
					   setup->limits.max_piece_bytes);
	queue->may_unmap = setup->may_unmap;
	queue->inproc = setup->inproc;
	queue->regions = setup->regions;
	queue->capacity_bytes = setup->capacity_bytes;
	queue->flushes = setup->flushes;
	queue->log = setup->log;
	queue->serial = setup->serial;
	queue->table_entries = table_entries(queue->size, queue->has_indirect);
	vublk_blk_gate_init(&queue->gate, setup->inproc->kick_fd);
	vublk_blk_queue_bind(queue);
	r = vublk_driver_ring_init(&queue->ring, &setup->inproc->ring, queue->size, 0,
				   setup->features, error);
	if (!r) {
		vublk_driver_ring_disable_calls(&queue->ring);
		r = allocate(queue, setup->statistics, error);
	}
	if (r)
		vublk_blk_queue_deinit(queue);
	return r;
}

void vublk_blk_queue_deinit(struct vublk_blk_queue *queue)
{
	if (queue->inproc)
		vublk_blk_gate_deinit(&queue->gate);
	queue->inproc = NULL;
	vublk_driver_ring_deinit(&queue->ring);
	vublk_blk_statistics_free(queue->statistics);
	free(queue->buffers);
	free(queue->slots);
	free(queue->free_slots);
	free(queue->requests);
	queue->statistics = NULL;
	queue->buffers = NULL;
	queue->slots = NULL;
	queue->free_slots = NULL;
	queue->requests = NULL;
}

/* --- requests -------------------------------------------------------------------------- */

struct vublk_blk_request *vublk_blk_queue_get_request(struct vublk_blk_queue *queue)
{
	struct vublk_blk_request *request = queue->free;

	if (!request)
		return NULL;
	queue->free = request->next;
	*request = (struct vublk_blk_request){ .state = VUBLK_BLK_REQUEST_FREE };
	queue->in_flight++;
	return request;
}

void vublk_blk_queue_put_request(struct vublk_blk_queue *queue, struct vublk_blk_request *request)
{
	request->state = VUBLK_BLK_REQUEST_FREE;
	request->next = queue->free; /* used next, because its memory is in the CPU cache */
	queue->free = request;
	queue->in_flight--;
}

void vublk_blk_queue_finish(struct vublk_blk_queue *queue, struct vublk_blk_request *request,
			    int result)
{
	request->state = VUBLK_BLK_REQUEST_DONE;
	request->fua = VUBLK_BLK_FUA_NONE;
	request->result = result;
	vublk_blk_list_append(&queue->done, request);
	queue->num_done++;
}

/*
 * Issues as many pieces of the request as fit. Returns true if the request is completely cut or has
 * failed.
 */
static bool cut(struct vublk_blk_queue *queue, struct vublk_blk_request *request)
{
	int r = 1;

	while (!request->result) {
		r = vublk_blk_piece_issue(queue, request);
		if (r < 0)
			request->result = r;
		else if (!r)
			return false;
		else if (!request->left)
			break;
	}
	request->state = request->fua ? VUBLK_BLK_REQUEST_FUA_ISSUED : VUBLK_BLK_REQUEST_ISSUED;
	return true;
}

void vublk_blk_queue_start(struct vublk_blk_queue *queue, struct vublk_blk_request *request)
{
	request->state = VUBLK_BLK_REQUEST_CUTTING;
	if (queue->cutting.first || !cut(queue, request))
		vublk_blk_list_append(&queue->cutting, request);
	else if (!request->pieces)
		vublk_blk_queue_finish(queue, request, request->result);
}

static VUBLK_ALWAYS_INLINE void kick_by(struct vublk_blk_queue *queue, void (*signal_fd)(int fd))
{
	if (!queue->unpublished || queue->state != VUBLK_BLK_QUEUE_WORKS)
		return;
	queue->unpublished = false;
	if (vublk_driver_ring_publish(&queue->ring))
		signal_fd(queue->inproc->kick_fd);
}

static void kick(struct vublk_blk_queue *queue)
{
	kick_by(queue, vublk_eventfd_write); /* may block; the disk's thread then unblocks the
						owner */
}

static VUBLK_COLD void finish_awaited(struct vublk_blk_queue *queue)
{
	struct vublk_blk_request *request;

	while ((request = vublk_blk_flush_take_awaited(queue)))
		vublk_blk_queue_finish(queue, request, request->result);
}

/* Returns whether vublk_blk_queue_pump() may be able to issue or finish a request. */
static inline bool may_pump(const struct vublk_blk_queue *queue)
{
	return (queue->cutting.first || queue->wants_flush || queue->awaiting.first) &&
	       queue->state == VUBLK_BLK_QUEUE_WORKS;
}

static void cut_waiting(struct vublk_blk_queue *queue)
{
	if (VUBLK_UNLIKELY(queue->awaiting.first))
		finish_awaited(queue);
	if (VUBLK_UNLIKELY(queue->wants_flush))
		vublk_blk_own_flush(queue);
	while (queue->cutting.first && cut(queue, queue->cutting.first)) {
		struct vublk_blk_request *request = take_first(&queue->cutting);

		if (!request->pieces)
			vublk_blk_queue_finish(queue, request, request->result);
	}
}

void vublk_blk_queue_pump(struct vublk_blk_queue *queue)
{
	cut_waiting(queue);
	kick(queue);
}

void vublk_blk_queue_pump_for_owner(struct vublk_blk_queue *queue)
{
	cut_waiting(queue);
	kick_by(queue, vublk_eventfd_signal);
}

void vublk_blk_submit(struct vublk_blk_queue *queue)
{
	vublk_blk_gate_enter(&queue->gate);
	kick(queue);
	vublk_blk_gate_leave(&queue->gate);
}

unsigned vublk_blk_in_flight(const struct vublk_blk_queue *queue)
{
	return queue->in_flight;
}

/* --- completions ------------------------------------------------------------------------- */

/*
 * Returns the result with which a request fails. A flush or a write with FUA that already has the
 * result EOWNERDEAD, because writes may be lost, keeps it.
 */
static int result_of_failure(const struct vublk_blk_queue *queue,
			     const struct vublk_blk_request *request)
{
	return request->result == -EOWNERDEAD ? -EOWNERDEAD : -queue->failure.code;
}

bool vublk_blk_queue_is_in_flight(const struct vublk_blk_request *request)
{
	return request->state == VUBLK_BLK_REQUEST_CUTTING ||
	       request->state == VUBLK_BLK_REQUEST_ISSUED ||
	       request->state == VUBLK_BLK_REQUEST_FUA_ISSUED ||
	       request->state == VUBLK_BLK_REQUEST_AWAITS_OWN;
}

void vublk_blk_queue_fail_all(struct vublk_blk_queue *queue, enum vublk_blk_queue_state state)
{
	queue->state = state;
	queue->cutting = queue->awaiting = (struct vublk_blk_list){ NULL, NULL };
	vublk_store_relaxed(&queue->awaits_own, false);
	queue->unpublished = false;
	release_all_slots(queue);
	if (queue->write_log) {
		vublk_blk_flush_own_ended(queue);
		vublk_blk_keep_reset(queue);
	}
	for (unsigned i = 0; i < queue->size; i++) {
		struct vublk_blk_request *request = &queue->requests[i];

		if (vublk_blk_queue_is_in_flight(request))
			vublk_blk_queue_finish(queue, request,
					       result_of_failure(queue, request));
	}
}

void vublk_blk_queue_piece_ended(struct vublk_blk_queue *queue, struct vublk_blk_request *request)
{
	if ((!request->pieces && request->state == VUBLK_BLK_REQUEST_ISSUED) ||
	    (request->fua && vublk_blk_fua_has_ended(queue, request)))
		vublk_blk_queue_finish(queue, request, request->result);
}

static VUBLK_COLD void break_queue(struct vublk_blk_queue *queue)
{
	vublk_error_prepend(&queue->failure, "queue %u", queue->index);
	queue->state = VUBLK_BLK_QUEUE_BROKEN;
	vublk_log_limited(queue->log, &queue->log_limit, VUBLK_LOG_ERROR, "%s",
			  queue->failure.text);
	queue->on_broken_ring(queue->opaque, &queue->failure);
}

/* Prefetches the status byte of the next completed piece, if one is known. */
static inline void prefetch_next(const struct vublk_blk_queue *queue)
{
	uint16_t token;

	if (vublk_driver_ring_peek(&queue->ring, &token))
		__builtin_prefetch(&queue->shared[token].status);
}

/*
 * Takes completed pieces off the ring until one of them completes its request, and returns this
 * request. NULL: the ring has no more completed pieces, or is broken.
 */
static VUBLK_ALWAYS_INLINE struct vublk_blk_request *take_ended(struct vublk_blk_queue *queue)
{
	uint16_t token = 0;
	uint32_t bytes; /* ignored, because some back-ends report wrong lengths; the status byte
			   has the result */
	int r;

	while ((r = vublk_driver_ring_take_inline(&queue->ring, &token, &bytes,
						  &queue->failure)) > 0) {
		struct vublk_blk_request *request;

		prefetch_next(queue);
		request = vublk_blk_piece_complete(queue, token);
		if (!request->pieces && request->state == VUBLK_BLK_REQUEST_ISSUED)
			return request;
		if (request->fua && vublk_blk_fua_piece_completed(queue, request))
			return request;
	}
	if (r < 0)
		break_queue(queue);
	return NULL;
}

void vublk_blk_queue_take_all(struct vublk_blk_queue *queue)
{
	struct vublk_blk_request *request;

	while (queue->state == VUBLK_BLK_QUEUE_WORKS && (request = take_ended(queue)))
		vublk_blk_queue_finish(queue, request, request->result);
}

/* Fills `completion` for the application and frees the request. */
static VUBLK_ALWAYS_INLINE void give(struct vublk_blk_queue *queue,
				     struct vublk_blk_request *request,
				     struct vublk_blk_completion *completion, bool counted)
{
	if (counted)
		vublk_blk_statistics_end(queue, request);
	completion->user_data = request->user_data;
	completion->result = request->result;
	completion->reserved = 0;
	VUBLK_PROBE4(blk_complete, queue->index, request->type, request->user_data, request->result);
	vublk_blk_queue_put_request(queue, request);
}

/*
 * Gives the application the completions of the requests in `done`, and then of those that the
 * back-end has completed, at most `max` in total. Usually reads the used index only once. Pumps the
 * queue if requests wait. `counted` is a constant in each copy of this function, which saves a
 * branch.
 */
static VUBLK_ALWAYS_INLINE unsigned collect(struct vublk_blk_queue *queue,
					    struct vublk_blk_completion *completions,
					    unsigned max, bool counted)
{
	struct vublk_blk_request *request;
	unsigned n = 0;

	for (; n < max && queue->num_done; n++, queue->num_done--)
		give(queue, take_first(&queue->done), &completions[n], counted);
	if (queue->state != VUBLK_BLK_QUEUE_WORKS)
		return n;
	while (n < max && (!n || vublk_driver_ring_has_seen(&queue->ring)) &&
	       (request = take_ended(queue)))
		give(queue, request, &completions[n++], counted);
	/* If the ring is broken, the state is BROKEN, and may_pump() returns false. */
	if (may_pump(queue))
		vublk_blk_queue_pump(queue);
	return n;
}

static VUBLK_NOINLINE unsigned collect_counted(struct vublk_blk_queue *queue,
					       struct vublk_blk_completion *completions,
					       unsigned max)
{
	return collect(queue, completions, max, true);
}

static void disable_calls(struct vublk_blk_queue *queue)
{
	if (!queue->calls_enabled)
		return;
	queue->calls_enabled = false;
	vublk_driver_ring_disable_calls(&queue->ring);
}

/*
 * Returns whether a poll has nothing to do. A caller that spins polls mostly without success, so
 * the check has to be cheap.
 */
static inline bool is_quiet(const struct vublk_blk_queue *queue)
{
	return queue->state == VUBLK_BLK_QUEUE_WORKS && !queue->num_done &&
	       !queue->calls_enabled && !queue->cutting.first && !queue->awaiting.first &&
	       !vublk_driver_ring_has_completion_inline(&queue->ring);
}

static VUBLK_NOINLINE unsigned poll_busy(struct vublk_blk_queue *queue,
					 struct vublk_blk_completion *completions, unsigned max)
{
	disable_calls(queue);
	if (VUBLK_UNLIKELY(queue->statistics))
		return collect_counted(queue, completions, max);
	return collect(queue, completions, max, false);
}

int vublk_blk_poll(struct vublk_blk_queue *queue, struct vublk_blk_completion *completions,
		   unsigned max)
{
	unsigned n = 0;

	vublk_blk_gate_enter(&queue->gate);
	if (!is_quiet(queue))
		n = poll_busy(queue, completions, max);
	vublk_blk_gate_leave(&queue->gate);
	return (int)n;
}

int vublk_blk_queue_fd(const struct vublk_blk_queue *queue)
{
	return queue->inproc->call_fd;
}

/*
 * The signal is cleared before the check for completions, so a later completion makes the
 * descriptor readable again. The disk's thread may have taken completed pieces since the last poll,
 * so waiting requests may fit on the ring now. This function issues them, because the ring may have
 * no completion left that would wake the caller.
 */
bool vublk_blk_arm(struct vublk_blk_queue *queue)
{
	bool ready;

	vublk_eventfd_clear(queue->inproc->call_fd);
	vublk_blk_gate_enter(&queue->gate);
	if (may_pump(queue))
		vublk_blk_queue_pump(queue);
	ready = queue->num_done;
	if (!ready && queue->state == VUBLK_BLK_QUEUE_WORKS) {
		queue->calls_enabled = true;
		ready = !vublk_driver_ring_enable_calls(&queue->ring);
	}
	vublk_blk_gate_leave(&queue->gate);
	return ready;
}

bool vublk_blk_queue_gave_up(struct vublk_blk_queue *queue, int result)
{
	bool gave_up;

	vublk_blk_gate_enter(&queue->gate);
	gave_up = queue->failure.code && result == -queue->failure.code;
	vublk_blk_gate_leave(&queue->gate);
	return gave_up;
}

static const char *describe_result(int result)
{
	switch (-result) {
	case EIO:
		return "the back-end failed to execute the request; see its log for the reason";
	case ENOTSUP:
		return "the back-end does not support the request";
	case EOWNERDEAD:
		return "the connection to a back-end was lost before completed writes were "
		       "flushed, so these writes may be lost; write them again";
	case EPROTO:
		return "the back-end completed the request without a valid status";
	case EFAULT:
		return "the memory of the request was unregistered while the request was in flight";
	default:
		return strerrordesc_np(-result);
	}
}

/*
 * Fills `error` with the reason for `result`. Returns whether the reason is the failure of the
 * queue.
 */
static bool explain(struct vublk_blk_queue *queue, int result, struct vublk_error *error)
{
	struct vublk_error failure;

	vublk_blk_gate_enter(&queue->gate);
	failure = queue->failure;
	vublk_blk_gate_leave(&queue->gate);
	if (failure.code != -result)
		vublk_error_set(error, -result, "%s", describe_result(result));
	else if (failure.code == ENOTCONN) /* the texts for ETIME and ETIMEDOUT already say that */
		vublk_error_set(error, -result, "%s; the request may or may not have been executed",
				failure.text);
	else
		vublk_error_set(error, -result, "%s", failure.text);
	return failure.code == -result;
}

void vublk_blk_queue_explain(struct vublk_blk_queue *queue, int result, struct vublk_error *error)
{
	explain(queue, result, error);
}

int vublk_blk_completion_error(struct vublk_blk_queue *queue,
			       const struct vublk_blk_completion *completion,
			       struct vublk_error *error)
{
	if (completion->result && !explain(queue, completion->result, error))
		vublk_error_prepend(error, "queue %u", queue->index);
	return completion->result;
}

int vublk_blk_left_ms(uint64_t deadline_ns)
{
	uint64_t now;

	if (deadline_ns == UINT64_MAX)
		return -1;
	now = vublk_now_ns();
	return now >= deadline_ns ? 0 : (int)((deadline_ns - now + 999999) / 1000000);
}

/*
 * Sleeps until the back-end calls or the deadline passes. Returns 0 if the deadline had passed
 * before the sleep, and otherwise 1. Negative errno: the wait failed.
 */
static int sleep_for_call(struct vublk_blk_queue *queue, uint64_t deadline_ns,
			  struct vublk_error *error)
{
	struct pollfd pollfd = { .fd = queue->inproc->call_fd, .events = POLLIN };
	int left = vublk_blk_left_ms(deadline_ns);
	int r;

	if (!left)
		return 0;
	if (vublk_blk_arm(queue))
		return 1;
	r = poll(&pollfd, 1, left);
	if (r < 0 && errno != EINTR)
		return vublk_error_set_errno(error, errno, "cannot wait for queue %u",
					     queue->index);
	return 1;
}

int vublk_blk_wait(struct vublk_blk_queue *queue, struct vublk_blk_completion *completions,
		   unsigned min, unsigned max, int timeout_ms, struct vublk_error *error)
{
	uint64_t deadline_ns = UINT64_MAX;
	unsigned n;

	if (timeout_ms >= 0)
		deadline_ns = vublk_now_ns() + (uint64_t)timeout_ms * 1000000;
	min = VUBLK_MIN(min, max);
	vublk_blk_submit(queue);
	n = (unsigned)vublk_blk_poll(queue, completions, max);
	while (n < min && queue->in_flight) {
		int r = sleep_for_call(queue, deadline_ns, error);

		if (r < 0 && !n)
			return r;
		if (r <= 0)
			break;
		n += (unsigned)vublk_blk_poll(queue, completions + n, max - n);
	}
	return (int)n;
}
