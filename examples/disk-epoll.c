/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reads a whole disk behind a vhost-user socket and prints the sum of its bytes, as disk-sum.c
 * does, but with an epoll loop in place of vublk_blk_wait(). This example shows how a program that
 * already has an event loop uses <vublk/blk.h>. The loop waits for two descriptors: the queue's
 * descriptor, and a pipe that carries the events of the disk from the disk's own thread.
 *
 *   cc disk-epoll.c $(pkg-config --cflags --libs vublk) -o disk-epoll
 *   ./disk-epoll /run/disk.sock
 */
#include <vublk/blk.h>

#include <inttypes.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <unistd.h>

#define DEPTH 8
#define CHUNK_BYTES (256 * 1024)

struct reader {
	struct vublk_blk_queue *queue;
	uint64_t capacity_bytes, next, sum;
	struct chunk { uint8_t *data; size_t bytes; } chunks[DEPTH];
};

static int fail(const char *what, const struct vublk_error *error)
{
	fprintf(stderr, "disk-epoll: %s: %s\n", what, error->text);
	return 1;
}

/* Adds a read of the next part of the disk, unless the end of the disk is reached. */
static int read_next(struct reader *reader, struct chunk *chunk, struct vublk_error *error)
{
	uint64_t offset = reader->next, left = reader->capacity_bytes - offset;

	chunk->bytes = left < CHUNK_BYTES ? (size_t)left : CHUNK_BYTES;
	reader->next += chunk->bytes;
	if (!chunk->bytes)
		return 0;
	return vublk_blk_read(reader->queue, offset, chunk->data, chunk->bytes, 0, chunk, error);
}

static int start(struct reader *reader, struct vublk_blk *blk, struct vublk_error *error)
{
	struct vublk_blk_info info;
	uint8_t *memory = vublk_blk_alloc(blk, DEPTH * CHUNK_BYTES, error);

	if (!memory)
		return fail("cannot allocate the buffers", error);
	vublk_blk_get_info(blk, &info, sizeof(info));
	reader->queue = vublk_blk_queue(blk, 0);
	reader->capacity_bytes = info.capacity_bytes;
	for (int i = 0; i < DEPTH; i++) {
		reader->chunks[i].data = memory + i * CHUNK_BYTES;
		if (read_next(reader, &reader->chunks[i], error))
			return fail("cannot read", error);
	}
	vublk_blk_submit(reader->queue);
	return 0;
}

/* Adds the bytes of all completed reads to the sum, and uses their buffers for the next reads. */
static int take(struct reader *reader, struct vublk_error *error)
{
	struct vublk_blk_completion done;

	while (vublk_blk_poll(reader->queue, &done, 1)) {
		struct chunk *chunk = done.user_data;

		if (done.result)
			return fprintf(stderr, "disk-epoll: a read failed with errno %d\n",
				       -done.result);
		for (size_t i = 0; i < chunk->bytes; i++)
			reader->sum += chunk->data[i];
		if (read_next(reader, chunk, error))
			return fail("cannot read", error);
	}
	vublk_blk_submit(reader->queue);
	return 0;
}

/* Runs on the disk's own thread, and passes the event to the loop. */
static void on_event(void *opaque, enum vublk_blk_event event, const struct vublk_error *error)
{
	const int *pipe_fds = opaque;

	(void)error;
	if (write(pipe_fds[1], &event, sizeof(event)) < 0)
		perror("disk-epoll: cannot pass an event of the disk to the loop");
}

static void print_event(int fd)
{
	enum vublk_blk_event event;

	if (read(fd, &event, sizeof(event)) == sizeof(event))
		fprintf(stderr, "disk-epoll: the disk reports event %d (enum vublk_blk_event)\n",
			(int)event);
}

static void watch(int epoll_fd, int fd)
{
	struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };

	epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

/* Arms the queue before each sleep, and does not sleep if completions are already waiting. */
static int run(struct reader *reader, int epoll_fd, int events_fd, struct vublk_error *error)
{
	int r = 0;

	while (!r && vublk_blk_in_flight(reader->queue)) {
		struct epoll_event event;
		bool ready = vublk_blk_arm(reader->queue);
		int n = epoll_wait(epoll_fd, &event, 1, ready ? 0 : -1);

		if (n > 0 && event.data.fd == events_fd)
			print_event(events_fd);
		r = take(reader, error);
	}
	return r;
}

int main(int argc, char **argv)
{
	struct vublk_error error = { 0 };
	struct reader reader = { 0 };
	int pipe_fds[2], epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	struct vublk_blk_handlers handlers = { .event = on_event, .opaque = pipe_fds };
	struct vublk_blk *blk;
	int r;

	if (argc != 2 || epoll_fd < 0 || pipe(pipe_fds)) {
		fprintf(stderr, "usage: disk-epoll SOCKET\n");
		return 2;
	}
	if (vublk_blk_open(argv[1], NULL, &handlers, sizeof(handlers), &blk, &error))
		return fail(argv[1], &error);
	r = start(&reader, blk, &error);
	if (!r) {
		watch(epoll_fd, vublk_blk_queue_fd(reader.queue));
		watch(epoll_fd, pipe_fds[0]);
		r = run(&reader, epoll_fd, pipe_fds[0], &error);
	}
	vublk_blk_close(blk, 0, NULL);
	if (!r)
		printf("%" PRIu64 "\n", reader.sum);
	return r;
}
