/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Puts a short load on each disk, one after the other, and then keeps the disks open and idle. After
 * a load, a back-end or device with adaptive polling may still poll. This program shows whether it
 * stops. The program prints "idle" when the load is over, and then sleeps until a signal ends it.
 *
 *     idle-disk [-n REQUESTS] SOCKET...
 */
#include <vublk/blk.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define REQUESTS 100000 /* per disk, without -n */
#define BLOCK_BYTES 4096

static void check(bool is_good, const char *what, const struct vublk_error *error)
{
	if (is_good)
		return;
	fprintf(stderr, "idle-disk: %s: %s\n", what, error->text);
	exit(1);
}

/* Opens a disk, which stays open, and puts a load of `requests` requests on it. */
static void use_disk(const char *path, unsigned requests)
{
	struct vublk_blk_completion completion;
	struct vublk_error error = { 0 };
	struct vublk_blk_queue *queue;
	struct vublk_blk *disk;
	void *buffer;

	check(!vublk_blk_open(path, NULL, NULL, 0, &disk, &error), path, &error);
	queue = vublk_blk_queue(disk, 0);
	buffer = vublk_blk_alloc(disk, BLOCK_BYTES, &error);
	check(buffer, "a buffer", &error);
	for (unsigned i = 0; i < requests; i++) {
		check(!vublk_blk_read(queue, 0, buffer, BLOCK_BYTES, 0, NULL, &error), "a read", &error);
		vublk_blk_submit(queue);
		while (!vublk_blk_poll(queue, &completion, 1))
			;
	}
}

int main(int argc, char **argv)
{
	unsigned requests = REQUESTS;
	int option;

	while ((option = getopt(argc, argv, "n:")) == 'n')
		requests = (unsigned)atoi(optarg);
	if (option != -1 || optind == argc) {
		fprintf(stderr, "usage: idle-disk [-n REQUESTS] SOCKET...\n");
		return 2;
	}
	for (int i = optind; i < argc; i++)
		use_disk(argv[i], requests);
	puts("idle");
	fflush(stdout);
	for (;;)
		pause();
}
