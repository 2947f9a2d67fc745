/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_NBD_FLUSH_H
#define VUBLK_NBD_FLUSH_H

/*
 * The flushes of all connections. The disk has at most one flush in flight, because a back-end may
 * report a storage error to only one of several (vublk_blk_flush()). A flush that fails counts for
 * every connection and for every write with FUA that is under way, because it may have been about
 * their data.
 */

#include "plugins/nbdkit/queue.h"

struct vublk_nbd_flusher {
	struct vublk_nbd_piece piece; /* has no memory */
	struct vublk_nbd_queue *queue; /* its lock protects the fields below */
	pthread_cond_t ended;
	uint64_t begun;    /* how many flushes have begun */
	uint64_t finished; /* equal to `begun`, or less by one */
	uint64_t failures; /* how many of them failed */
	struct vublk_error error; /* of the last failure */
};

void vublk_nbd_flusher_init(struct vublk_nbd_flusher *flusher, struct vublk_nbd_queue *queue);

/* Returns how many flushes have failed. */
uint64_t vublk_nbd_flusher_failures(struct vublk_nbd_flusher *flusher);

/*
 * Waits for a flush that begins after this call. `known` is the number of failures that the caller
 * knows of, and is updated.
 * EIO: this flush failed, or another one of which the caller did not know.
 * ESHUTDOWN: the server or the client's connection ended first.
 */
int vublk_nbd_flush(struct vublk_nbd_flusher *flusher, uint64_t *known,
		    struct vublk_error *error);

#endif
