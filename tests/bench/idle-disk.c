/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Puts a short load on a disk, and then keeps the disk open and idle. After a load, a back-end or
 * device with adaptive polling may still poll. This program shows whether it stops. The program
 * prints "idle" when the load is over, and then sleeps until a signal ends it.
 *
 *     idle-disk SOCKET
 */
#include <vublk/blk.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define REQUESTS 100000
#define BLOCK_BYTES 4096

static void check(bool is_good, const char *what, const struct vublk_error *error)
{
	if (is_good)
		return;
	fprintf(stderr, "idle-disk: %s: %s\n", what, error->text);
	exit(1);
}

int main(int argc, char **argv)
{
	struct vublk_blk_completion completion;
	struct vublk_error error = { 0 };
	struct vublk_blk_queue *queue;
	struct vublk_blk *disk;
	void *buffer;

	if (argc != 2) {
		fprintf(stderr, "idle-disk: expected one argument, the back-end's socket\n");
		return 2;
	}
	check(!vublk_blk_open(argv[1], NULL, NULL, 0, &disk, &error), argv[1], &error);
	queue = vublk_blk_queue(disk, 0);
	buffer = vublk_blk_alloc(disk, BLOCK_BYTES, &error);
	check(buffer, "a buffer", &error);
	for (unsigned i = 0; i < REQUESTS; i++) {
		check(!vublk_blk_read(queue, 0, buffer, BLOCK_BYTES, 0, NULL, &error), "a read", &error);
		vublk_blk_submit(queue);
		while (!vublk_blk_poll(queue, &completion, 1))
			;
	}
	puts("idle");
	fflush(stdout);
	for (;;)
		pause();
}
