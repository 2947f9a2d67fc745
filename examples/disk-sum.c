/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reads a whole disk behind a vhost-user socket and prints the sum of its bytes:
 * the smallest use of <vublk/blk.h> that keeps several requests in flight.
 *
 *   cc disk-sum.c $(pkg-config --cflags --libs vublk) -o disk-sum
 *   ./disk-sum /run/disk.sock
 */
#include <vublk/blk.h>

#include <inttypes.h>
#include <stdio.h>

#define DEPTH 8
#define CHUNK_BYTES (256 * 1024)

static int fail(const char *what, const struct vublk_error *error)
{
	fprintf(stderr, "disk-sum: %s: %s\n", what, error->text);
	return 1;
}

/* Adds a read of up to CHUNK_BYTES at `*next`. The completion will return the buffer's address. */
static int read_next(struct vublk_blk_queue *queue, const struct vublk_blk_info *info,
		     uint64_t *next, uint8_t *buffer, size_t *bytes, struct vublk_error *error)
{
	uint64_t left = info->capacity_bytes - *next;
	int r;

	*bytes = left < CHUNK_BYTES ? (size_t)left : CHUNK_BYTES;
	if (!*bytes)
		return 0;
	r = vublk_blk_read(queue, *next, buffer, *bytes, 0, buffer, error);
	*next += *bytes;
	return r;
}

static int sum_disk(struct vublk_blk *blk, uint64_t *sum, struct vublk_error *error)
{
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	struct vublk_blk_completion done;
	struct vublk_blk_info info;
	size_t bytes[DEPTH];
	uint64_t next = 0;
	uint8_t *memory;

	vublk_blk_get_info(blk, &info, sizeof(info));
	memory = vublk_blk_alloc(blk, DEPTH * CHUNK_BYTES, error);
	if (!memory)
		return fail("cannot allocate the buffers", error);
	for (int i = 0; i < DEPTH; i++)
		if (read_next(queue, &info, &next, memory + i * CHUNK_BYTES, &bytes[i], error))
			return fail("cannot read", error);
	while (vublk_blk_in_flight(queue)) {
		uint8_t *buffer;
		size_t i;

		if (vublk_blk_wait(queue, &done, 1, 1, -1, error) < 0)
			return fail("cannot wait for a read", error);
		if (done.result) {
			fprintf(stderr, "disk-sum: a read failed with errno %d\n", -done.result);
			return 1;
		}
		buffer = done.user_data;
		i = (size_t)(buffer - memory) / CHUNK_BYTES;
		for (size_t k = 0; k < bytes[i]; k++)
			*sum += buffer[k];
		if (read_next(queue, &info, &next, buffer, &bytes[i], error))
			return fail("cannot read", error);
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct vublk_error error = { 0 };
	struct vublk_blk *blk;
	uint64_t sum = 0;
	int r;

	if (argc != 2) {
		fprintf(stderr, "usage: disk-sum SOCKET\n");
		return 2;
	}
	if (vublk_blk_open(argv[1], NULL, NULL, 0, &blk, &error))
		return fail(argv[1], &error);
	r = sum_disk(blk, &sum, &error);
	vublk_blk_close(blk, 0, NULL);
	if (!r)
		printf("%" PRIu64 "\n", sum);
	return r;
}
