/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_BLK_PEER_H
#define VUBLK_TESTS_BLK_PEER_H

/*
 * A back-end in a process of its own, for tests of the block API. VUBLK_TEST_PEER names it:
 * "qemu-storage-daemon", or the path of our tool.
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

/* The case is skipped if there is no such back-end. */
void start_peer_as(bool writable);
void start_peer(void);
void end_peer(void);
/* Returns when the peer's process has stopped. */
void stop_peer_running(void);

/* Opens a disk of the peer. open_disk() also starts the peer, whose loss is permanent. */
struct vublk_blk *open_with(const struct vublk_option *options);
struct vublk_blk *open_disk(void);
/* Allocates a buffer of the disk. */
void *alloc(struct vublk_blk *blk, size_t bytes);
/* Waits for one request, and returns its result. */
int wait_one(struct vublk_blk_queue *queue);

#endif
