/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLOCKING_H
#define VUBLK_BLOCKING_H

/*
 * A disk without queues: blocking reads and writes of ordinary memory, for tools and for bindings
 * to other languages.
 *
 *   struct vublk_blk *blk;
 *   vublk_blk_open("/run/disk.sock", NULL, NULL, 0, &blk, &error);
 *   vublk_blk_pread(blk, 510, signature, 2, 0, &error);
 *   vublk_blk_close(blk, 0, NULL);
 *
 * Each call returns when its request is complete. The loss of a back-end is handled as the options
 * of the disk say (see <vublk/blk.h>), so a call may wait for the next back-end. Several threads
 * may make these calls at the same time. The calls take turns: one lock covers a whole call. Call
 * vublk_blk_close() only when all of them have returned.
 *
 * Memory: data is copied through a buffer, which the first read or write allocates. The buffer has
 * room for 8 pieces (fewer if queue-size is smaller) of 128 KiB, or of one block if a block is
 * larger. It takes one of the back-end's memory slots, and is freed with the disk. Up to 8 pieces
 * of a longer request are in flight at the same time.
 *
 * The queue: the first call reserves the last queue that the application does not use, that is, for
 * which it has not called vublk_blk_queue(). Afterwards vublk_blk_queue() returns NULL for that
 * queue. Leave one queue unused, or open the disk with one more queue (num-queues). Requests on the
 * application's queues are not ordered with these calls.
 *
 * The request of a call that fails may have been executed in part.
 *
 * Unless a function says otherwise:
 * States: the disk is open.
 * Threads: any, except handlers.
 */

#include <vublk/blk.h>
#include <vublk/error.h>

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/*
 * Reads `bytes` bytes at byte `offset` of the disk into `buffer`. The range may be anywhere on the
 * disk, and the buffer at any address. `flags` must be 0.
 * Errors:
 *   EINVAL          a flag is set, or the range is empty or ends past the end of the disk
 *   EBUSY           the application uses all queues, a handler made the call, or the disk is not
 *                   open
 *   ENOMEM, EMFILE  no memory or no descriptor for the buffer
 *   ENOSPC          the back-end has no memory slot left for the buffer
 *   EIO             the back-end failed to execute the request
 *   ENOTSUP         the back-end does not support the request
 *   ENOTCONN        the back-end is lost permanently
 *   ETIMEDOUT       the back-end has been lost for longer than fail-after-ms
 *   ETIME           a request did not complete within request-deadline-ms
 *   EPROTO          the back-end broke the ring, or its answer has no valid status
 */
int vublk_blk_pread(struct vublk_blk *blk, uint64_t offset, void *buffer, size_t bytes,
		    uint32_t flags, struct vublk_error *error);

/*
 * Writes `bytes` bytes from `buffer`, which may be at any address, to byte `offset` of the disk.
 * `offset` and `bytes` must be multiples of block_size_bytes, except that the range may end at the
 * end of the disk. To write a part of a block, read the block, change it, and write it. The library
 * does not do this itself, because its write could overwrite a change that another writer made
 * after the read.
 * With VUBLK_BLK_FUA in `flags` the data is stable when this function returns 0. The library sends
 * a flush after each piece, so a long write is faster without the flag and with one
 * vublk_blk_pflush() after it.
 * Errors: those of vublk_blk_pread(), and:
 *   EINVAL      the range is not aligned
 *   EROFS       the disk is read-only
 *   EOWNERDEAD  with VUBLK_BLK_FUA: a back-end was lost before the write was stable
 */
int vublk_blk_pwrite(struct vublk_blk *blk, uint64_t offset, const void *buffer, size_t bytes,
		     uint32_t flags, struct vublk_error *error);

/*
 * Flushes the disk: when this function returns 0, all writes that completed before the call, on any
 * queue, are stable. `flags` must be 0. The blocking calls are executed one after another, so the
 * result is reliable unless flushes or writes with VUBLK_BLK_FUA are in flight on other queues; see
 * vublk_blk_flush() in <vublk/blk.h>.
 * Errors: those of vublk_blk_pread() that are not about the range or the buffer, and:
 *   EOWNERDEAD  a back-end was lost, and writes that it had completed may be lost, too
 *               (see the option unflushed in <vublk/blk.h>)
 */
int vublk_blk_pflush(struct vublk_blk *blk, uint32_t flags, struct vublk_error *error);

/*
 * These calls are the blocking forms of vublk_blk_discard() and vublk_blk_write_zeroes(), and take
 * the same ranges and flags.
 * Errors: those of vublk_blk_pwrite(), except those about the buffer, and:
 *   ENOTSUP  the feature was not negotiated
 */
int vublk_blk_pdiscard(struct vublk_blk *blk, uint64_t offset, uint64_t bytes, uint32_t flags,
		       struct vublk_error *error);
int vublk_blk_pwrite_zeroes(struct vublk_blk *blk, uint64_t offset, uint64_t bytes,
			    uint32_t flags, struct vublk_error *error);

/*
 * Fills `stats` with the counters of the queue that these calls use, as vublk_blk_queue_get_stats()
 * does for the application's queues. Each piece counts as a request, so a long read counts as
 * several requests. Before the first call the counters are 0. Does not wait for a call that is
 * under way. `stats` is filled with zeroes on failure.
 * Errors:
 *   ENOTSUP  the disk was opened without the option statistics=on
 *   EBUSY    the disk is not open
 * Threads: any, handlers included.
 */
int vublk_blk_get_blocking_stats(const struct vublk_blk *blk, struct vublk_blk_stats *stats,
				 size_t stats_bytes);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
