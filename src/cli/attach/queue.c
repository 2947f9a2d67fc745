/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Executes the requests of one queue of the block device; see queue.h.
 *
 * Key idea: a tag is in one of two places. At first its command waits in the kernel
 * (`with_kernel`), which completes the command when there is a request for the tag. Then the tag is
 * in this process (`here`) until the disk has executed the request. The tag's next command reports
 * the result and waits for the next request. When the device is stopped, the kernel completes all
 * commands with UBLK_IO_RES_ABORT. The thread ends when no tag is left in either place.
 *
 * One io_uring_enter() reports results, takes requests, and waits for either the kernel or the
 * back-end, because the ring also polls the descriptor of the disk's queue.
 */
#include "cli/attach/queue.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SECTOR_SHIFT 9
#define BATCH 32
#define POLL_DATA UINT64_MAX

/* --- commands to the kernel -------------------------------------------------------- */

static char *buffer_of(const struct vublk_attach_queue *queue, uint16_t tag)
{
	return queue->buffers + (size_t)tag * queue->buffer_bytes;
}

/* The ring has an entry for each tag and one for the poll, so an entry is always free. */
static void put_command(struct vublk_attach_queue *queue, unsigned command, uint16_t tag, int result)
{
	const struct ublksrv_io_cmd argument = {
		.q_id = queue->index, .tag = tag, .result = result,
		.addr = (uintptr_t)buffer_of(queue, tag),
	};
	struct io_uring_sqe *sqe = io_uring_get_sqe(&queue->ring);

	io_uring_prep_rw(IORING_OP_URING_CMD, sqe, queue->char_fd, NULL, 0, 0);
	sqe->cmd_op = queue->is_plain ? command : (uint32_t)VUBLK_UBLK_IO(command);
	memcpy((char *)sqe + offsetof(struct io_uring_sqe, cmd), &argument, sizeof(argument));
	io_uring_sqe_set_data64(sqe, tag);
	queue->with_kernel++;
}

static void commit(struct vublk_attach_queue *queue, uint16_t tag, int result)
{
	queue->here--;
	put_command(queue, UBLK_IO_COMMIT_AND_FETCH_REQ, tag, result);
}

static void put_poll(struct vublk_attach_queue *queue)
{
	struct io_uring_sqe *sqe;

	if (queue->is_polling)
		return;
	sqe = io_uring_get_sqe(&queue->ring);
	io_uring_prep_poll_add(sqe, vublk_blk_queue_fd(queue->disk), POLLIN);
	io_uring_sqe_set_data64(sqe, POLL_DATA);
	queue->is_polling = true;
}

/* --- requests ---------------------------------------------------------------------- */

/*
 * Translates an error of the disk for the kernel, whose block layer distinguishes only a few
 * errors. Never returns -EAGAIN, which a program would take as a request to try again.
 */
static int result_of_error(int ret)
{
	return ret == -ENOTSUP ? -EOPNOTSUPP : -EIO;
}

static void say_failure(struct vublk_attach_queue *queue, const struct vublk_error *error)
{
	vublk_cli_say_limited("attach", &queue->failure_limit, "%s: a request failed: %s", queue->name,
			      error->text);
}

/*
 * Returns the result to report for a request that succeeded: the number of bytes that were read or
 * written; 0 for other requests.
 */
static int success(const struct ublksrv_io_desc *request)
{
	uint8_t op = ublksrv_get_op(request);

	return op == UBLK_IO_OP_READ || op == UBLK_IO_OP_WRITE ?
		       (int)(request->nr_sectors << SECTOR_SHIFT) : 0;
}

static int add_to_disk(struct vublk_attach_queue *queue, const struct ublksrv_io_desc *request,
		       uint16_t tag, struct vublk_error *error)
{
	uint64_t offset = request->start_sector << SECTOR_SHIFT;
	uint64_t bytes = (uint64_t)request->nr_sectors << SECTOR_SHIFT;
	uint32_t fua = request->op_flags & UBLK_IO_F_FUA ? VUBLK_BLK_FUA : 0;
	uint32_t no_unmap = request->op_flags & UBLK_IO_F_NOUNMAP ? VUBLK_BLK_NO_UNMAP : 0;
	void *user_data = (void *)(uintptr_t)(tag + 1);

	switch (ublksrv_get_op(request)) {
	case UBLK_IO_OP_READ:
		return vublk_blk_read(queue->disk, offset, buffer_of(queue, tag), bytes, 0, user_data,
				      error);
	case UBLK_IO_OP_WRITE:
		return vublk_blk_write(queue->disk, offset, buffer_of(queue, tag), bytes, fua,
				       user_data, error);
	case UBLK_IO_OP_FLUSH:
		return vublk_blk_flush(queue->disk, 0, user_data, error);
	case UBLK_IO_OP_DISCARD:
		return vublk_blk_discard(queue->disk, offset, bytes, fua, user_data, error);
	case UBLK_IO_OP_WRITE_ZEROES:
		return vublk_blk_write_zeroes(queue->disk, offset, bytes, fua | no_unmap, user_data,
					      error);
	default:
		return vublk_cli_error(error, ENOTSUP, "the kernel sent a request of unknown type %u",
				       ublksrv_get_op(request));
	}
}

/* Gives a request to the disk. Returns false if the disk's queue is full. */
static bool start(struct vublk_attach_queue *queue, uint16_t tag)
{
	const struct ublksrv_io_desc request = queue->requests[tag];
	struct vublk_error error = { 0 };
	int ret = add_to_disk(queue, &request, tag, &error);

	if (ret == -EAGAIN && vublk_blk_in_flight(queue->disk))
		return false;
	if (ret) {
		say_failure(queue, &error);
		commit(queue, tag, result_of_error(ret));
	}
	return true;
}

static void start_waiting(struct vublk_attach_queue *queue)
{
	struct vublk_attach_waiting *waiting = &queue->waiting;

	while (waiting->count && start(queue, waiting->tags[waiting->first])) {
		waiting->first = (waiting->first + 1) % queue->depth;
		waiting->count--;
	}
}

static void take_request(struct vublk_attach_queue *queue, uint16_t tag)
{
	struct vublk_attach_waiting *waiting = &queue->waiting;

	waiting->tags[(waiting->first + waiting->count++) % queue->depth] = tag;
}

static void take_completion(struct vublk_attach_queue *queue,
			    const struct vublk_blk_completion *completion)
{
	uint16_t tag = (uint16_t)((uintptr_t)completion->user_data - 1);
	struct vublk_error error = { 0 };

	if (vublk_disk_watch_take(queue->watch, completion))
		return;
	if (completion->result) {
		vublk_blk_completion_error(queue->disk, completion, &error);
		say_failure(queue, &error);
		commit(queue, tag, result_of_error(completion->result));
		return;
	}
	commit(queue, tag, success(&queue->requests[tag]));
}

static void take_completions(struct vublk_attach_queue *queue)
{
	struct vublk_blk_completion completions[BATCH];
	unsigned count;

	do {
		count = vublk_blk_poll(queue->disk, completions, BATCH);
		for (unsigned i = 0; i < count; i++)
			take_completion(queue, &completions[i]);
	} while (count == BATCH);
}

/* --- the thread -------------------------------------------------------------------- */

static void take_cqe(struct vublk_attach_queue *queue, const struct io_uring_cqe *cqe)
{
	if (cqe->user_data == POLL_DATA) {
		queue->is_polling = false;
		return;
	}
	queue->with_kernel--;
	if (cqe->res == UBLK_IO_RES_OK) {
		queue->here++;
		take_request(queue, (uint16_t)cqe->user_data);
	} else if (cqe->res != UBLK_IO_RES_ABORT) {
		vublk_cli_say_limited("attach", &queue->failure_limit,
				      "%s: the ublk driver refused a command: %s", queue->name,
				      strerror(-cqe->res));
	}
}

static void take_cqes(struct vublk_attach_queue *queue)
{
	struct io_uring_cqe *cqe;
	unsigned head, count = 0;

	io_uring_for_each_cqe(&queue->ring, head, cqe) {
		take_cqe(queue, cqe);
		count++;
	}
	io_uring_cq_advance(&queue->ring, count);
}

/*
 * Sends the new commands. If the disk has no more completions, waits for the kernel or for the
 * back-end.
 */
static int enter(struct vublk_attach_queue *queue)
{
	int ret;

	if (vublk_blk_arm(queue->disk)) {
		ret = io_uring_submit_and_get_events(&queue->ring);
	} else {
		put_poll(queue);
		ret = io_uring_submit_and_wait(&queue->ring, 1);
	}
	return ret == -EINTR || ret == -EAGAIN || ret == -EBUSY ? 0 : ret;
}

static void run(struct vublk_attach_queue *queue)
{
	int ret = 0;

	while (ret >= 0 && queue->with_kernel + queue->here) {
		take_cqes(queue);
		start_waiting(queue);
		vublk_disk_watch_poll(queue->watch, queue->disk);
		vublk_blk_submit(queue->disk);
		take_completions(queue);
		if (queue->with_kernel + queue->here)
			ret = enter(queue);
	}
	if (ret < 0)
		vublk_cli_fail("attach", "%s: a queue's thread ends, because io_uring failed: %s",
			       queue->name, strerror(-ret));
}

/* Returns the size of the array in which the kernel describes the requests of one queue. */
static size_t requests_bytes(const struct vublk_attach_queue *queue)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	return (queue->depth * sizeof(*queue->requests) + page - 1) / page * page;
}

static int map_requests(struct vublk_attach_queue *queue, struct vublk_error *error)
{
	off_t offset = UBLKSRV_CMD_BUF_OFFSET +
		       (off_t)queue->index * UBLK_MAX_QUEUE_DEPTH * (off_t)sizeof(*queue->requests);
	void *map = mmap(NULL, requests_bytes(queue), PROT_READ, MAP_SHARED | MAP_POPULATE,
			 queue->char_fd, offset);

	if (map == MAP_FAILED)
		return vublk_cli_error_errno(error, errno, "cannot map the requests of %s",
					     queue->name);
	queue->requests = map;
	return 0;
}

static int set_up(struct vublk_attach_queue *queue, struct vublk_error *error)
{
	int ret = io_uring_queue_init(queue->depth + 1u, &queue->ring,
				      IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SINGLE_ISSUER);

	if (ret) {
		queue->ring.ring_fd = -1;
		return vublk_cli_error_errno(error, -ret, "cannot set up io_uring for %s", queue->name);
	}
	queue->waiting.tags = calloc(queue->depth, sizeof(*queue->waiting.tags));
	if (!queue->waiting.tags)
		return vublk_cli_error_errno(error, ENOMEM, "cannot serve %s", queue->name);
	return map_requests(queue, error);
}

/*
 * Makes all tags wait in the kernel. If the kernel refuses a command, that command completes before
 * io_uring_submit() returns.
 */
static int fetch(struct vublk_attach_queue *queue, struct vublk_error *error)
{
	struct io_uring_cqe *cqe;
	int ret;

	for (uint16_t tag = 0; tag < queue->depth; tag++)
		put_command(queue, UBLK_IO_FETCH_REQ, tag, 0);
	do
		ret = io_uring_submit(&queue->ring);
	while (ret == -EINTR);
	if (ret >= 0 && !io_uring_peek_cqe(&queue->ring, &cqe))
		ret = cqe->res;
	if (ret < 0)
		return vublk_cli_error_errno(error, -ret, "the ublk driver refused queue %u of %s",
					     queue->index, queue->name);
	return 0;
}

static void tear_down(struct vublk_attach_queue *queue)
{
	if (queue->ring.ring_fd >= 0)
		io_uring_queue_exit(&queue->ring);
	if (queue->requests)
		munmap((void *)(uintptr_t)queue->requests, requests_bytes(queue));
	free(queue->waiting.tags);
}

void vublk_attach_queue_work(void *opaque)
{
	struct vublk_attach_queue *queue = opaque;
	struct vublk_error error = { 0 };
	int ret = set_up(queue, &error);

	if (!ret)
		ret = fetch(queue, &error);
	queue->ready(queue->opaque, ret ? &error : NULL);
	if (!ret)
		run(queue);
	tear_down(queue);
	queue->ended(queue->opaque);
}
