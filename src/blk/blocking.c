/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The blocking calls (<vublk/blocking.h>), which work on ordinary memory. They use a queue of the
 * disk that is reserved for them. The code here only cuts, copies and waits. The queue handles
 * requests, limits and lost back-ends.
 *
 * Key idea: a call becomes a job, and the job is cut into pieces. Each piece occupies a slot of the
 * bounce buffer from its submission until its completion is taken. A call returns only when all its
 * slots are free, so each completion belongs to the current call.
 */
#include "blk/disk.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/struct.h"

#include <vublk/blocking.h>

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <string.h>

/* A call and its progress. */
struct job {
	uint32_t type;        /* VIRTIO_BLK_T_... */
	const char *name;     /* of the call, for error texts */
	uint64_t offset;      /* the caller's range of the disk */
	uint64_t bytes;
	char *into;           /* the caller's buffer, for a read */
	const char *from;     /* the caller's buffer, for a write */
	uint32_t flags;
	uint64_t next, end;   /* the range that is not submitted yet, in whole blocks or up to the
				 end of the disk */
	int result;           /* the first failure, after which nothing more is submitted */
};

static bool is_data(const struct job *job)
{
	return job->type == VIRTIO_BLK_T_IN || job->type == VIRTIO_BLK_T_OUT;
}

/* --- the queue and the bounce buffer -------------------------------------------------------- */

static int claim_queue(struct vublk_blk *blk, struct vublk_error *error)
{
	for (unsigned i = blk->num_queues; i-- && !blk->blocking.queue;)
		if (vublk_blk_queue_claim(&blk->queues[i], VUBLK_BLK_QUEUE_OF_BLOCKING_CALLS))
			vublk_store_release(&blk->blocking.queue, &blk->queues[i]); /* J */
	if (!blk->blocking.queue)
		return vublk_error_set(error, EBUSY, "no queue is free for blocking calls, because "
				       "the application uses every queue (%u); leave one unused, or open the "
				       "disk with one more (num-queues)",
				       blk->num_queues);
	blk->blocking.num_slots = VUBLK_MIN(blk->queue_size, (unsigned)VUBLK_BLK_BOUNCE_SLOTS);
	return 0;
}

static int prepare(struct vublk_blk *blk, const struct job *job, struct vublk_error *error)
{
	struct vublk_blk_blocking *blocking = &blk->blocking;
	struct vublk_error why = { 0 };
	int r = 0;

	if (!blocking->queue)
		r = claim_queue(blk, error);
	if (r || !is_data(job) || blocking->bounce)
		return r;
	blocking->slot_bytes = VUBLK_MAX(blocking->queue->limits.block_bytes,
					 (uint32_t)VUBLK_BLK_BOUNCE_SLOT_BYTES);
	blocking->bounce = vublk_blk_alloc(blk, (size_t)blocking->num_slots * blocking->slot_bytes,
					   &why);
	if (!blocking->bounce)
		r = vublk_error_set(error, why.code, "%s: %s", job->name, why.text);
	return r;
}

/* --- one piece ------------------------------------------------------------------------------- */

/*
 * Returns how many bytes of the piece belong to the caller's range. Stores where these bytes begin
 * in the slot and in the caller's buffer.
 */
static size_t part_of(const struct job *job, const struct vublk_blk_bounce_slot *slot,
		      size_t *in_slot, uint64_t *in_buffer)
{
	uint64_t first = VUBLK_MAX(slot->offset, job->offset);
	uint64_t end = VUBLK_MIN(slot->offset + slot->bytes, job->offset + job->bytes);

	*in_slot = first - slot->offset;
	*in_buffer = first - job->offset;
	return end - first;
}

static int add_data(struct vublk_blk_blocking *blocking, const struct job *job,
		    struct vublk_blk_bounce_slot *slot, struct vublk_error *error)
{
	char *bounce = blocking->bounce + (slot - blocking->slots) * blocking->slot_bytes;

	slot->offset = job->next;
	slot->bytes = VUBLK_MIN(job->end - job->next, (uint64_t)blocking->slot_bytes);
	if (job->type == VIRTIO_BLK_T_IN)
		return vublk_blk_read(blocking->queue, slot->offset, bounce, slot->bytes,
				      job->flags, slot, error);
	memcpy(bounce, job->from + (slot->offset - job->offset), slot->bytes);
	return vublk_blk_write(blocking->queue, slot->offset, bounce, slot->bytes, job->flags,
			       slot, error);
}

/*
 * Submits a request without data. This file handles the request as one piece; the queue may split
 * it further.
 */
static int add_other(struct vublk_blk_blocking *blocking, const struct job *job,
		     struct vublk_blk_bounce_slot *slot, struct vublk_error *error)
{
	slot->bytes = job->bytes;
	switch (job->type) {
	case VIRTIO_BLK_T_DISCARD:
		return vublk_blk_discard(blocking->queue, job->offset, job->bytes, job->flags,
					 slot, error);
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return vublk_blk_write_zeroes(blocking->queue, job->offset, job->bytes,
					      job->flags, slot, error);
	default:
		return vublk_blk_flush(blocking->queue, job->flags, slot, error);
	}
}

static struct vublk_blk_bounce_slot *find_free(struct vublk_blk_blocking *blocking)
{
	for (unsigned i = 0; i < blocking->num_slots; i++)
		if (!blocking->slots[i].in_use)
			return &blocking->slots[i];
	return NULL;
}

static void take_data(const struct vublk_blk_blocking *blocking, const struct job *job,
		      const struct vublk_blk_bounce_slot *slot)
{
	const char *bounce = blocking->bounce + (slot - blocking->slots) * blocking->slot_bytes;
	uint64_t in_buffer;
	size_t in_slot, bytes = part_of(job, slot, &in_slot, &in_buffer);

	memcpy(job->into + in_buffer, bounce + in_slot, bytes);
}

/* --- a job ------------------------------------------------------------------------------------ */

/* Records a failure. The first one is the result of the call. */
static void fail(const struct vublk_blk_blocking *blocking, struct job *job, int result,
		 struct vublk_error *error)
{
	if (job->result)
		return;
	job->result = result;
	vublk_blk_queue_explain(blocking->queue, result, error);
	if (job->type == VIRTIO_BLK_T_FLUSH)
		vublk_error_prepend(error, "%s", job->name);
	else
		vublk_error_prepend(error, "%s of %" PRIu64 " bytes at byte %" PRIu64, job->name,
				    job->bytes, job->offset);
}

static bool has_more(const struct job *job)
{
	return !job->result && job->next < job->end;
}

static void send_pieces(struct vublk_blk_blocking *blocking, struct job *job,
			struct vublk_error *error)
{
	struct vublk_blk_bounce_slot *slot;

	while (has_more(job) && (slot = find_free(blocking))) {
		int r = is_data(job) ? add_data(blocking, job, slot, error) :
				       add_other(blocking, job, slot, error);

		if (r) {
			job->result = r;
			return;
		}
		slot->in_use = true;
		blocking->in_flight++;
		job->next = is_data(job) ? job->next + slot->bytes : job->end;
	}
}

/*
 * Waits for completions of pieces and takes them. The wait fails only if the kernel lacks memory.
 * The requests are then still in flight, so the caller waits again.
 */
static void take_pieces(struct vublk_blk_blocking *blocking, struct job *job,
			struct vublk_error *error)
{
	struct vublk_blk_completion completions[VUBLK_BLK_BOUNCE_SLOTS];
	int n = vublk_blk_wait(blocking->queue, completions, 1, VUBLK_BLK_BOUNCE_SLOTS, -1, NULL);

	if (n < 0)
		sched_yield();
	for (int i = 0; i < n; i++) {
		struct vublk_blk_bounce_slot *slot = completions[i].user_data;

		slot->in_use = false;
		blocking->in_flight--;
		if (completions[i].result)
			fail(blocking, job, completions[i].result, error);
		else if (job->type == VIRTIO_BLK_T_IN)
			take_data(blocking, job, slot);
	}
}

static int run(struct vublk_blk *blk, struct job *job, struct vublk_error *error)
{
	struct vublk_blk_blocking *blocking = &blk->blocking;
	int r;

	if (vublk_inproc_is_own_thread(blk->inproc))
		return vublk_error_set(error, EBUSY, "%s: a handler must not make a blocking call "
				       "on the disk's own thread; make it from another thread",
				       job->name);
	pthread_mutex_lock(&blocking->lock);
	r = prepare(blk, job, error);
	while (!r && (has_more(job) || blocking->in_flight)) {
		send_pieces(blocking, job, error);
		if (blocking->in_flight)
			take_pieces(blocking, job, error);
	}
	pthread_mutex_unlock(&blocking->lock);
	return r ? r : job->result;
}

/* --- the calls -------------------------------------------------------------------------------- */

/* Checks the caller's range, and extends it to whole blocks, but not past the end of the disk. */
static int round_range(struct vublk_blk *blk, struct job *job, struct vublk_error *error)
{
	uint64_t capacity = vublk_load_relaxed(&blk->capacity_bytes);
	int r = vublk_blk_require_running(blk, error);
	uint64_t block;

	if (r)
		return r;
	block = blk->queues[0].limits.block_bytes;
	if (!job->bytes)
		return vublk_error_set(error, EINVAL, "%s of 0 bytes at byte %" PRIu64 ": expected "
				       "at least 1 byte", job->name, job->offset);
	if (!vublk_range_within(job->offset, job->bytes, capacity))
		return vublk_error_set(error, EINVAL, "%s of %" PRIu64 " bytes at byte %" PRIu64
				       ": the disk ends at byte %" PRIu64,
				       job->name, job->bytes, job->offset, capacity);
	job->next = job->offset & ~(block - 1);
	job->end = VUBLK_MIN(vublk_round_up(job->offset + job->bytes, block), capacity);
	return 0;
}

int vublk_blk_pread(struct vublk_blk *blk, uint64_t offset, void *buffer, size_t bytes,
		    uint32_t flags, struct vublk_error *error)
{
	struct job job = {
		.type = VIRTIO_BLK_T_IN, .name = "read", .offset = offset, .bytes = bytes,
		.into = buffer, .flags = flags,
	};
	int r = round_range(blk, &job, error);

	return r ? r : run(blk, &job, error);
}

int vublk_blk_pwrite(struct vublk_blk *blk, uint64_t offset, const void *buffer, size_t bytes,
		     uint32_t flags, struct vublk_error *error)
{
	struct job job = {
		.type = VIRTIO_BLK_T_OUT, .name = "write", .offset = offset, .bytes = bytes,
		.from = buffer, .flags = flags,
	};
	int r = round_range(blk, &job, error);

	if (r)
		return r;
	if (job.next != offset || job.end != offset + bytes)
		return vublk_error_set(error, EINVAL, "write of %zu bytes at byte %" PRIu64 ": "
				       "expected multiples of the block size, %u bytes, for both "
				       "numbers; to change a part of a block, read it, change it "
				       "and write the whole block",
				       bytes, offset, blk->queues[0].limits.block_bytes);
	return run(blk, &job, error);
}

/*
 * Runs a job that is one request without data. For such a job, `next` is 0 and `end` is 1 until the
 * request is submitted.
 */
static int run_one(struct vublk_blk *blk, struct job *job, struct vublk_error *error)
{
	int r = vublk_blk_require_running(blk, error);

	job->end = 1;
	return r ? r : run(blk, job, error);
}

int vublk_blk_pflush(struct vublk_blk *blk, uint32_t flags, struct vublk_error *error)
{
	struct job job = { .type = VIRTIO_BLK_T_FLUSH, .name = "flush", .flags = flags };

	return run_one(blk, &job, error);
}

int vublk_blk_pdiscard(struct vublk_blk *blk, uint64_t offset, uint64_t bytes, uint32_t flags,
		       struct vublk_error *error)
{
	struct job job = {
		.type = VIRTIO_BLK_T_DISCARD, .name = "discard", .offset = offset, .bytes = bytes,
		.flags = flags,
	};

	return run_one(blk, &job, error);
}

int vublk_blk_pwrite_zeroes(struct vublk_blk *blk, uint64_t offset, uint64_t bytes,
			    uint32_t flags, struct vublk_error *error)
{
	struct job job = {
		.type = VIRTIO_BLK_T_WRITE_ZEROES, .name = "write zeroes", .offset = offset,
		.bytes = bytes, .flags = flags,
	};

	return run_one(blk, &job, error);
}

/* --- statistics ------------------------------------------------------------------------------- */

/* Takes no lock, because a call that waits for a back-end may hold the lock. */
int vublk_blk_get_blocking_stats(const struct vublk_blk *blk, struct vublk_blk_stats *stats,
				 size_t stats_bytes)
{
	const struct vublk_blk_stats zeroes = { 0 };
	const struct vublk_blk_queue *queue = vublk_load_acquire(&blk->blocking.queue); /* J */
	int r = vublk_blk_require_running(blk, NULL);

	if (!r && queue)
		return vublk_blk_queue_get_stats(queue, stats, stats_bytes);
	vublk_struct_out(stats, stats_bytes, &zeroes, sizeof(zeroes));
	if (r)
		return r;
	return vublk_inproc_wants_statistics(blk->inproc) ? 0 : -ENOTSUP;
}
