/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The blocking calls (<vublk/blocking.h>): ordinary memory in, ordinary memory out, on a queue
 * of the disk that they keep to themselves. Everything about requests, limits and lost
 * back-ends is the queue's; this file only cuts, copies and waits.
 *
 * Key idea: a call is a job whose pieces pass through the slots of one bounce buffer. A slot is
 * filled and sent while there is one, and freed when its completion is taken, so a call never
 * returns with a request in flight: no completion can arrive in the wrong call.
 */
#include "blk/disk.h"

#include "util/checked.h"
#include "util/error.h"

#include <vublk/blocking.h>

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <string.h>

/* What one call asks for. */
struct job {
	uint32_t type;        /* VIRTIO_BLK_T_... */
	const char *name;     /* in errors */
	uint64_t offset;      /* the caller's range */
	uint64_t bytes;
	char *into;           /* of a read */
	const char *from;     /* of a write */
	uint32_t flags;
	uint64_t next, end;   /* in whole blocks: what is not sent yet */
	int result;           /* the first failure; no piece is sent after it */
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
			blk->blocking.queue = &blk->queues[i];
	if (!blk->blocking.queue)
		return vublk_error_set(error, EBUSY, "no queue is left for blocking calls: the "
				       "application has asked for all %u; leave one to them, or "
				       "open the disk with one more (num-queues)",
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

/* The part of the caller's range that lies in the piece, and its place in the piece. */
static size_t part_of(const struct job *job, const struct vublk_blk_bounce_slot *slot,
		      size_t *skip, uint64_t *at)
{
	uint64_t first = VUBLK_MAX(slot->offset, job->offset);
	uint64_t end = VUBLK_MIN(slot->offset + slot->bytes, job->offset + job->bytes);

	*skip = first - slot->offset;
	*at = first - job->offset;
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

/* Anything else is one request, which the queue itself splits. */
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
	uint64_t at;
	size_t skip, bytes = part_of(job, slot, &skip, &at);

	memcpy(job->into + at, bounce + skip, bytes);
}

/* --- a job ------------------------------------------------------------------------------------- */

static const char *reason_of(int result)
{
	switch (-result) {
	case EIO:
		return "the back-end reports an I/O error";
	case ENOTSUP:
		return "the back-end does not support it";
	case ENOTCONN:
		return "the back-end is lost for good, and whether it was executed is not known";
	case ETIMEDOUT:
		return "no back-end was found within fail-after-ms, and whether it was executed "
		       "is not known";
	case ETIME:
		return "it was not completed within request-deadline-ms, and whether it was "
		       "executed is not known";
	case EOWNERDEAD:
		return "a back-end was lost that had completed writes, and no flush had made them "
		       "stable: write them again";
	case EPROTO:
		return "the back-end broke the protocol";
	default:
		return strerrordesc_np(-result);
	}
}

static void fail(struct job *job, int result, struct vublk_error *error)
{
	if (job->result)
		return;
	job->result = result;
	if (job->type == VIRTIO_BLK_T_FLUSH)
		vublk_error_set(error, -result, "%s: %s", job->name, reason_of(result));
	else
		vublk_error_set(error, -result, "%s of %" PRIu64 " bytes at byte %" PRIu64 ": %s",
				job->name, job->bytes, job->offset, reason_of(result));
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

/* Waiting fails only for lack of the kernel's memory, and ends nothing: it is tried again. */
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
			fail(job, completions[i].result, error);
		else if (job->type == VIRTIO_BLK_T_IN)
			take_data(blocking, job, slot);
	}
}

static int run(struct vublk_blk *blk, struct job *job, struct vublk_error *error)
{
	struct vublk_blk_blocking *blocking = &blk->blocking;
	int r;

	if (vublk_inproc_is_own_thread(blk->inproc))
		return vublk_error_set(error, EBUSY, "%s: a handler must not block the disk's own "
				       "thread", job->name);
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

/* --- the calls ----------------------------------------------------------------------------------- */

/* Whole blocks around the caller's range, none past the end of the disk. */
static int round_range(struct vublk_blk *blk, struct job *job, struct vublk_error *error)
{
	uint64_t capacity = vublk_load_relaxed(&blk->capacity_bytes);
	uint64_t block = blk->queues[0].limits.block_bytes;

	if (!job->bytes)
		return vublk_error_set(error, EINVAL, "%s of 0 bytes at byte %" PRIu64
				       ": there is nothing to do", job->name, job->offset);
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
		return vublk_error_set(error, EINVAL, "write of %zu bytes at byte %" PRIu64
				       ": both must be multiples of the block size %u: read the "
				       "blocks at both ends, change them, and write them whole",
				       bytes, offset, blk->queues[0].limits.block_bytes);
	return run(blk, &job, error);
}

/* One request: the range stands for it. */
static int run_one(struct vublk_blk *blk, struct job *job, struct vublk_error *error)
{
	job->end = 1;
	return run(blk, job, error);
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
