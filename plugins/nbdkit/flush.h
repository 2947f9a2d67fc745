/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_NBD_FLUSH_H
#define VUBLK_NBD_FLUSH_H

/*
 * The flushes of all connections. The disk has at most one flush in flight, because a back-end may
 * report a storage error to only one of several flushes (vublk_blk_flush()). If a flush fails, the
 * data of any connection, and of any change with FUA that is under way, may be lost. So each of
 * these gets the error.
 */

#include "plugins/nbdkit/queue.h"

struct vublk_nbd_flusher {
	struct vublk_nbd_piece piece; /* has no memory */
	struct vublk_nbd_queue *queue; /* its lock protects the fields below */
	pthread_cond_t ended;
	uint64_t begun;    /* how many flushes have begun */
	uint64_t finished; /* how many flushes have ended: `begun`, or one less */
	uint64_t failures; /* how many flushes have failed */
	struct vublk_error error; /* of the last failure */
};

void vublk_nbd_flusher_init(struct vublk_nbd_flusher *flusher, struct vublk_nbd_queue *queue);

/* Returns how many flushes have failed. */
uint64_t vublk_nbd_flusher_failures(struct vublk_nbd_flusher *flusher);

/*
 * Waits for a flush that begins after this call. `known` is the number of failures that the caller
 * knows of, and is updated. EIO: this flush failed, or an earlier flush failed and the caller did
 * not know of its failure. ESHUTDOWN: the server or the client's connection ended first.
 */
int vublk_nbd_flush(struct vublk_nbd_flusher *flusher, uint64_t *known,
		    struct vublk_error *error);

#endif
