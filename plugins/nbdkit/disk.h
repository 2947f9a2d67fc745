/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_NBD_DISK_H
#define VUBLK_NBD_DISK_H

/*
 * The disk that nbdkit serves. All connections share it, and each connection has one of its queues.
 *
 * Unless a function says otherwise, it returns 0 or a negative errno and fills `error`. The errors
 * are those of the block API, and ESHUTDOWN of queue.h, for which `error` has no sentence.
 */

#include "plugins/nbdkit/flush.h"
#include "plugins/nbdkit/queue.h"
#include "plugins/nbdkit/ranges.h"
#include "plugins/nbdkit/wait.h"

struct vublk_nbd_disk {
	struct vublk_blk *blk;
	uint64_t block_bytes;
	struct vublk_nbd_ranges ranges;
	struct vublk_nbd_flusher flusher;
	unsigned num_queues;
	struct vublk_nbd_queue *queues;
	pthread_mutex_t lock; /* protects the queues' numbers of connections */
};

/* What nbdkit calls a handle: a connection of an NBD client. */
struct vublk_nbd_connection {
	struct vublk_nbd_disk *disk;
	struct vublk_nbd_queue *queue;
	struct vublk_nbd_pace pace; /* of its requests that end without a result */
	uint64_t known_failures; /* of flushes; protected by the flusher's lock */
};

int vublk_nbd_disk_open(struct vublk_nbd_disk *disk, const char *path,
			const struct vublk_option *options,
			const struct vublk_blk_handlers *handlers, struct vublk_error *error);
/* Waits at most `wait_ms` for what is in flight. A disk that is not open is a no-op. */
int vublk_nbd_disk_close(struct vublk_nbd_disk *disk, int wait_ms, struct vublk_error *error);

/* NULL: no memory. */
struct vublk_nbd_connection *vublk_nbd_connection_open(struct vublk_nbd_disk *disk);
void vublk_nbd_connection_close(struct vublk_nbd_connection *connection);

/* The ranges may begin and end anywhere. */
int vublk_nbd_read(struct vublk_nbd_connection *connection, void *buffer, size_t bytes,
		   uint64_t offset, struct vublk_error *error);
int vublk_nbd_write(struct vublk_nbd_connection *connection, const void *buffer, size_t bytes,
		    uint64_t offset, bool fua, struct vublk_error *error);
/* Discards the whole blocks of the range. */
int vublk_nbd_trim(struct vublk_nbd_connection *connection, uint64_t bytes, uint64_t offset,
		   bool fua, struct vublk_error *error);
/* ENOTSUP: the back-end cannot, or the range does not begin and end with a block. */
int vublk_nbd_zero(struct vublk_nbd_connection *connection, uint64_t bytes, uint64_t offset,
		   uint32_t flags, bool fua, struct vublk_error *error);

#endif
