/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_NBDKIT_FLUSH_H
#define VUBLK_NBDKIT_FLUSH_H

/*
 * The flushes of all connections. At most one flush is in flight, because a back-end may report a
 * storage error to only one of several flushes (vublk_blk_flush()). If a flush fails, data of any
 * connection may be lost, also that of a change with FUA. So every change with FUA that is in
 * progress fails, and so does the next flush on every connection.
 */

#include "plugins/nbdkit/queue.h"

struct vublk_nbdkit_flusher {
	struct vublk_nbdkit_piece piece; /* the request of the flush; has no buffer */
	struct vublk_nbdkit_queue *queue; /* its lock protects the fields below */
	pthread_cond_t ended;
	uint64_t begun;    /* how many flushes have begun */
	uint64_t finished; /* how many flushes have ended: `begun`, or one less during a flush */
	uint64_t failures; /* how many flushes have failed */
	struct vublk_error error; /* of the last failure */
};

void vublk_nbdkit_flusher_init(struct vublk_nbdkit_flusher *flusher, struct vublk_nbdkit_queue *queue);

/* Returns how many flushes have failed. */
uint64_t vublk_nbdkit_flusher_failures(struct vublk_nbdkit_flusher *flusher);

/*
 * Waits until a flush that began after the start of this call has ended. `known` is the number of
 * failures that the caller knows of, and is updated. EIO: this flush failed, or an earlier flush
 * failed and the caller did not know of that failure. ESHUTDOWN: the server or the client's
 * connection ended before the flush.
 */
int vublk_nbdkit_flush(struct vublk_nbdkit_flusher *flusher, uint64_t *known,
		    struct vublk_error *error);

#endif
