/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Shares a queue of the disk among nbdkit's threads; see queue.h.
 *
 * Key idea: a thread of nbdkit adds its requests under the queue's lock and sleeps. The queue's own
 * thread takes all completions and wakes the calls whose requests are complete. A request transfers
 * data to or from a piece, which has a buffer in the disk's memory, and the call copies the data
 * between this buffer and nbdkit's. So a call can return while its requests are in flight, because
 * they do not use nbdkit's buffer. The queue's thread frees their pieces when they complete.
 */
#include "plugins/nbdkit/queue.h"

#include "plugins/nbdkit/error.h"
#include "plugins/nbdkit/wait.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define COMPLETIONS 32

enum operation { READ, WRITE, DISCARD, ZERO };

struct vublk_nbdkit_call {
	struct vublk_nbdkit_queue *queue;
	struct vublk_nbdkit_range *range; /* NULL: the call changes nothing */
	pthread_cond_t completed;
	unsigned in_flight;
	int result;
	struct vublk_error error;
	unsigned num_pieces;
	unsigned num_used; /* how many pieces, from pieces[0] on, have an offset and a length */
	struct vublk_nbdkit_piece *pieces[VUBLK_NBDKIT_PIECES_OF_CALL];
};

/* --- the queue's thread --------------------------------------------------------------------- */

static void free_piece(struct vublk_nbdkit_queue *queue, struct vublk_nbdkit_piece *piece)
{
	piece->call = NULL;
	piece->next = queue->free;
	queue->free = piece;
	pthread_cond_signal(&queue->piece_freed);
}

static void piece_completed(struct vublk_nbdkit_queue *queue, struct vublk_nbdkit_piece *piece,
			    const struct vublk_blk_completion *completion)
{
	struct vublk_nbdkit_call *call = piece->call;

	piece->in_flight = false;
	if (!call) {
		vublk_nbdkit_ranges_leave(queue->ranges, piece->range);
		piece->range = NULL;
		free_piece(queue, piece);
		return;
	}
	if (completion->result && !call->result)
		call->result = vublk_blk_completion_error(queue->queue, completion, &call->error);
	if (!--call->in_flight)
		pthread_cond_signal(&call->completed);
}

/* Takes the completions that have arrived. Returns whether the thread may sleep. */
static bool take_completions(struct vublk_nbdkit_queue *queue)
{
	struct vublk_blk_completion completions[COMPLETIONS];
	int n = vublk_blk_poll(queue->queue, completions, COMPLETIONS);

	for (int i = 0; i < n; i++) {
		struct vublk_nbdkit_piece *piece = completions[i].user_data;

		piece->completed(queue, piece, &completions[i]);
	}
	if (n)
		pthread_cond_broadcast(&queue->room);
	return !n && !vublk_blk_arm(queue->queue);
}

static void *run(void *opaque)
{
	struct vublk_nbdkit_queue *queue = opaque;
	struct pollfd fds[] = {
		{ .fd = vublk_blk_queue_fd(queue->queue), .events = POLLIN },
		{ .fd = queue->stop_fd, .events = POLLIN },
	};

	for (;;) {
		bool may_sleep, stops;

		pthread_mutex_lock(&queue->lock);
		may_sleep = take_completions(queue);
		stops = queue->stops;
		pthread_mutex_unlock(&queue->lock);
		if (stops)
			return NULL;
		if (may_sleep)
			poll(fds, 2, -1);
	}
}

int vublk_nbdkit_queue_start(struct vublk_nbdkit_queue *queue, struct vublk_blk_queue *of_disk,
			  struct vublk_nbdkit_ranges *ranges, char *memory, uint64_t piece_bytes,
			  struct vublk_error *error)
{
	int r = 0;

	*queue = (struct vublk_nbdkit_queue){
		.ranges = ranges, .piece_bytes = piece_bytes,
		.stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
	};
	if (queue->stop_fd < 0)
		r = errno;
	pthread_mutex_init(&queue->lock, NULL);
	pthread_cond_init(&queue->piece_freed, NULL);
	pthread_cond_init(&queue->room, NULL);
	for (unsigned i = 0; i < VUBLK_NBDKIT_PIECES; i++) {
		queue->pieces[i].completed = piece_completed;
		queue->pieces[i].buffer = memory + i * piece_bytes;
		free_piece(queue, &queue->pieces[i]);
	}
	queue->queue = of_disk;
	if (!r)
		r = pthread_create(&queue->thread, NULL, run, queue);
	if (!r)
		return 0;
	queue->queue = NULL;
	if (queue->stop_fd >= 0)
		close(queue->stop_fd);
	return vublk_nbdkit_error(error, r, "cannot start a thread for a queue: %s", strerror(r));
}

void vublk_nbdkit_queue_stop(struct vublk_nbdkit_queue *queue)
{
	if (!queue->queue)
		return;
	pthread_mutex_lock(&queue->lock);
	queue->stops = true;
	pthread_mutex_unlock(&queue->lock);
	eventfd_write(queue->stop_fd, 1);
	pthread_join(queue->thread, NULL);
	close(queue->stop_fd);
	queue->queue = NULL;
}

/* --- calls ---------------------------------------------------------------------------------- */

/*
 * Waits until a piece is free. Then takes all free pieces, but at most `wanted` and at most
 * VUBLK_NBDKIT_PIECES_OF_CALL.
 */
static int begin(struct vublk_nbdkit_call *call, struct vublk_nbdkit_queue *queue,
		 struct vublk_nbdkit_range *range, uint64_t wanted)
{
	int r = 0;

	*call = (struct vublk_nbdkit_call){ .queue = queue, .range = range };
	pthread_cond_init(&call->completed, NULL);
	pthread_mutex_lock(&queue->lock);
	while (!queue->free && !r)
		r = vublk_nbdkit_wait(&queue->piece_freed, &queue->lock);
	while (queue->free && call->num_pieces < wanted &&
	       call->num_pieces < VUBLK_NBDKIT_PIECES_OF_CALL) {
		struct vublk_nbdkit_piece *piece = queue->free;

		queue->free = piece->next;
		piece->call = call;
		call->pieces[call->num_pieces++] = piece;
	}
	pthread_mutex_unlock(&queue->lock);
	return call->num_pieces ? 0 : r;
}

static int end(struct vublk_nbdkit_call *call, int r, struct vublk_error *error)
{
	pthread_mutex_lock(&call->queue->lock);
	for (unsigned i = 0; i < call->num_pieces; i++)
		if (!call->pieces[i]->in_flight)
			free_piece(call->queue, call->pieces[i]);
	pthread_mutex_unlock(&call->queue->lock);
	pthread_cond_destroy(&call->completed);
	if (r)
		*error = call->error;
	return r;
}

static int add(struct vublk_nbdkit_call *call, struct vublk_nbdkit_piece *piece,
	       enum operation operation, uint32_t flags)
{
	struct vublk_blk_queue *queue = call->queue->queue;
	struct vublk_error *error = &call->error;

	switch (operation) {
	case READ:
		return vublk_blk_read(queue, piece->offset, piece->buffer, piece->bytes, flags,
				      piece, error);
	case WRITE:
		return vublk_blk_write(queue, piece->offset, piece->buffer, piece->bytes, flags,
				       piece, error);
	case DISCARD:
		return vublk_blk_discard(queue, piece->offset, piece->bytes, flags, piece, error);
	default:
		return vublk_blk_write_zeroes(queue, piece->offset, piece->bytes, flags, piece,
					      error);
	}
}

/* Adds the request of a piece. Waits while the queue is full. */
static int add_waiting(struct vublk_nbdkit_call *call, struct vublk_nbdkit_piece *piece,
		       enum operation operation, uint32_t flags)
{
	int r;

	while ((r = add(call, piece, operation, flags)) == -EAGAIN) {
		vublk_blk_submit(call->queue->queue);
		r = vublk_nbdkit_wait(&call->queue->room, &call->queue->lock);
		if (r)
			return r;
	}
	if (!r) {
		piece->in_flight = true;
		call->in_flight++;
	}
	return r;
}

/*
 * Leaves the requests in flight to the queue's thread, because the call has to return. If the call
 * is a change, each of these requests becomes a user of its range, so that later changes of the
 * range wait for them.
 */
static void abandon(struct vublk_nbdkit_call *call)
{
	for (unsigned i = 0; i < call->num_pieces; i++) {
		struct vublk_nbdkit_piece *piece = call->pieces[i];

		if (!piece->in_flight)
			continue;
		piece->call = NULL;
		piece->range = call->range;
		if (piece->range)
			vublk_nbdkit_ranges_hold(call->queue->ranges, piece->range);
		call->pieces[i--] = call->pieces[--call->num_pieces];
	}
}

/* Makes one request per used piece, and waits until all of these requests are complete. */
static int execute(struct vublk_nbdkit_call *call, enum operation operation, uint32_t flags)
{
	struct vublk_nbdkit_queue *queue = call->queue;
	int r = 0;

	pthread_mutex_lock(&queue->lock);
	for (unsigned i = 0; i < call->num_used && !r; i++)
		r = add_waiting(call, call->pieces[i], operation, flags);
	if (r && !call->result)
		call->result = r;
	vublk_blk_submit(queue->queue);
	for (r = 0; call->in_flight && !r;)
		r = vublk_nbdkit_wait(&call->completed, &queue->lock);
	if (call->in_flight) {
		abandon(call);
		call->result = r;
	}
	pthread_mutex_unlock(&queue->lock);
	return call->result;
}

/*
 * Assigns the part of the disk from `next` to `limit`, or as much of it as fits, to the pieces.
 * Returns where the last piece ends.
 */
static uint64_t divide(struct vublk_nbdkit_call *call, uint64_t next, uint64_t limit)
{
	for (call->num_used = 0; call->num_used < call->num_pieces && next < limit;) {
		struct vublk_nbdkit_piece *piece = call->pieces[call->num_used++];
		uint64_t left = limit - next;

		piece->offset = next;
		piece->bytes = left < call->queue->piece_bytes ? left : call->queue->piece_bytes;
		next += piece->bytes;
	}
	return next;
}

/*
 * Copies from the pieces to the client's buffer `to` or, if `to` is NULL, from the client's buffer
 * `from` to the pieces. The client's buffer has the `bytes` bytes of the disk at `offset`. Bytes of
 * the pieces outside this range are not copied.
 */
static void copy(struct vublk_nbdkit_call *call, char *to, const char *from, size_t bytes,
		 uint64_t offset)
{
	for (unsigned i = 0; i < call->num_used; i++) {
		struct vublk_nbdkit_piece *piece = call->pieces[i];
		uint64_t first = piece->offset, last = first + piece->bytes;

		if (first < offset)
			first = offset;
		if (last > offset + bytes)
			last = offset + bytes;
		if (to)
			memcpy(to + (first - offset), piece->buffer + (first - piece->offset),
			       last - first);
		else
			memcpy(piece->buffer + (first - piece->offset), from + (first - offset),
			       last - first);
	}
}

static uint64_t pieces_for(const struct vublk_nbdkit_queue *queue, uint64_t bytes)
{
	return (bytes + queue->piece_bytes - 1) / queue->piece_bytes;
}

int vublk_nbdkit_queue_read(struct vublk_nbdkit_queue *queue, uint64_t start, uint64_t limit,
			 char *buffer, size_t bytes, uint64_t offset, struct vublk_error *error)
{
	struct vublk_nbdkit_call call;
	int r = begin(&call, queue, NULL, pieces_for(queue, limit - start));

	while (!r && start < limit) {
		start = divide(&call, start, limit);
		r = execute(&call, READ, 0);
		if (!r)
			copy(&call, buffer, NULL, bytes, offset);
	}
	return end(&call, r, error);
}

int vublk_nbdkit_queue_write(struct vublk_nbdkit_queue *queue, struct vublk_nbdkit_range *range,
			  const char *buffer, size_t bytes, uint64_t offset,
			  struct vublk_error *error)
{
	bool has_edges = range->offset != offset || range->end != offset + bytes;
	uint64_t next = range->offset;
	struct vublk_nbdkit_call call;
	int r = begin(&call, queue, range, pieces_for(queue, range->end - range->offset));

	while (!r && next < range->end) {
		next = divide(&call, next, range->end);
		if (has_edges)
			r = execute(&call, READ, 0);
		if (r)
			break;
		copy(&call, NULL, buffer, bytes, offset);
		r = execute(&call, WRITE, 0);
	}
	return end(&call, r, error);
}

static int change_all(struct vublk_nbdkit_queue *queue, struct vublk_nbdkit_range *range,
		      enum operation operation, uint32_t flags, struct vublk_error *error)
{
	struct vublk_nbdkit_call call;
	int r = begin(&call, queue, range, 1);

	if (!r) {
		call.pieces[0]->offset = range->offset;
		call.pieces[0]->bytes = range->end - range->offset;
		call.num_used = 1;
		r = execute(&call, operation, flags);
	}
	return end(&call, r, error);
}

int vublk_nbdkit_queue_discard(struct vublk_nbdkit_queue *queue, struct vublk_nbdkit_range *range,
			    struct vublk_error *error)
{
	return change_all(queue, range, DISCARD, 0, error);
}

int vublk_nbdkit_queue_zero(struct vublk_nbdkit_queue *queue, struct vublk_nbdkit_range *range,
			 uint32_t flags, struct vublk_error *error)
{
	return change_all(queue, range, ZERO, flags, error);
}
