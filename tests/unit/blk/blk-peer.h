/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_BLK_PEER_H
#define VUBLK_TESTS_BLK_PEER_H

/*
 * A back-end in a process of its own, for tests of the block API. The environment variable
 * VUBLK_TEST_PEER names it: "qemu-storage-daemon", or the path of the tool `vublk`.
 */

#include <vublk/blk.h>

#include <stdbool.h>
#include <sys/types.h>

#define KIB 1024
#define MIB (1024 * KIB)
#define DISK_BYTES ((uint64_t)32 * MIB)
#define NUM_QUEUES 4

extern struct vublk_error error; /* of the last call that failed */

extern struct peer {
	pid_t pid;
	char image[108];
	char socket[108];
	bool is_qemu;
} peer;

/*
 * Starts the back-end with a new image of zeroes. Skips the case if VUBLK_TEST_PEER is not set, or
 * names qemu-storage-daemon and this program is not installed.
 */
void start_peer_as(bool writable);
void start_peer(void); /* writable */
/* Kills the back-end and waits until it has ended. */
void end_peer(void);
/* Sends SIGSTOP to the back-end. Returns when its process has stopped. */
void stop_peer_running(void);

/* Opens the disk of the back-end, which must have been started. */
struct vublk_blk *open_with(const struct vublk_option *options);
/* Starts the back-end, and opens its disk with four queues and without reconnection. */
struct vublk_blk *open_disk(void);
/* Allocates memory that the disk shares with the back-end. */
void *alloc(struct vublk_blk *blk, size_t bytes);
/* Waits until one request of the queue has completed, and returns its result. */
int wait_one(struct vublk_blk_queue *queue);

#endif
