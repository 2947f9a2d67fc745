/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_NBDKIT_DISK_H
#define VUBLK_NBDKIT_DISK_H

/*
 * The disk that nbdkit serves. All connections share it. Each connection uses one queue of the
 * disk; several connections may use the same queue.
 *
 * Unless a comment says otherwise, the functions return 0, or a negative errno with a sentence in
 * `error`. The errors are those of the block API, and ESHUTDOWN (queue.h), which has no sentence.
 */

#include "plugins/nbdkit/flush.h"
#include "plugins/nbdkit/queue.h"
#include "plugins/nbdkit/ranges.h"
#include "plugins/nbdkit/wait.h"

struct vublk_nbdkit_disk {
	struct vublk_blk *blk;
	uint64_t block_bytes;
	struct vublk_nbdkit_ranges ranges;
	struct vublk_nbdkit_flusher flusher;
	unsigned num_queues;
	struct vublk_nbdkit_queue *queues;
	pthread_mutex_t lock; /* protects the member `connections` of each queue */
};

/* The connection of an NBD client. nbdkit calls such an object a handle. */
struct vublk_nbdkit_connection {
	struct vublk_nbdkit_disk *disk;
	struct vublk_nbdkit_queue *queue;
	struct vublk_nbdkit_pace pace; /* of its requests that fail with ESHUTDOWN (wait.h) */
	uint64_t known_failures; /* the number of failed flushes that the client knows of; protected
				    by the lock of the flusher's queue */
};

int vublk_nbdkit_disk_open(struct vublk_nbdkit_disk *disk, const char *path,
			const struct vublk_option *options,
			const struct vublk_blk_handlers *handlers, struct vublk_error *error);
/*
 * Closes the disk. Waits at most `wait_ms` for the requests in flight. Does nothing if the disk is
 * not open.
 */
int vublk_nbdkit_disk_close(struct vublk_nbdkit_disk *disk, int wait_ms, struct vublk_error *error);

/*
 * Opens a connection on the queue that has the fewest connections. Returns NULL if there is no
 * memory.
 */
struct vublk_nbdkit_connection *vublk_nbdkit_connection_open(struct vublk_nbdkit_disk *disk);
void vublk_nbdkit_connection_close(struct vublk_nbdkit_connection *connection);

/* Reads or writes any range of bytes: it may begin and end within a block. */
int vublk_nbdkit_read(struct vublk_nbdkit_connection *connection, void *buffer, size_t bytes,
		   uint64_t offset, struct vublk_error *error);
int vublk_nbdkit_write(struct vublk_nbdkit_connection *connection, const void *buffer, size_t bytes,
		    uint64_t offset, bool fua, struct vublk_error *error);
/* Discards the blocks that are completely within the range. Other blocks keep their data. */
int vublk_nbdkit_trim(struct vublk_nbdkit_connection *connection, uint64_t bytes, uint64_t offset,
		   bool fua, struct vublk_error *error);
/*
 * Fills the range with zeroes. Error: ENOTSUP if the back-end does not offer WRITE ZEROES, or if
 * the range does not begin and end at a block boundary.
 */
int vublk_nbdkit_zero(struct vublk_nbdkit_connection *connection, uint64_t bytes, uint64_t offset,
		   uint32_t flags, bool fua, struct vublk_error *error);

#endif
