/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_SPLIT_H
#define VUBLK_BLK_SPLIT_H

/*
 * Cuts a request into pieces that respect the device's limits: number of segments, bytes of a
 * segment, and bytes of a piece. Each piece consists of whole blocks, except the last piece of a
 * request that ends inside a block. The functions here do not use rings. The only shared state that
 * they read is the table of regions.
 */

#include "inproc/regions.h"
#include "virtio/ring.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* The limits of one piece. */
struct vublk_blk_limits {
	uint32_t block_bytes;       /* a power of two, at least 512 */
	uint32_t max_segments;      /* at least 1 */
	uint32_t max_segment_bytes; /* at least block_bytes / max_segments */
	uint32_t max_piece_bytes;   /* a multiple of block_bytes */
	uint64_t max_discard_bytes; /* a multiple of block_bytes; 0: no discards */
	uint64_t discard_alignment_bytes; /* a multiple of block_bytes */
	uint64_t max_write_zeroes_bytes;
};

/* A position in an array of iovecs. */
struct vublk_blk_cursor {
	const struct iovec *iov;
	int iovcnt;
	int index;
	size_t offset; /* in iov[index] */
};

/* The slow part of vublk_blk_split_next(), which handles any request. */
int64_t vublk_blk_split_any(const struct vublk_blk_limits *limits,
			    const struct vublk_inproc_regions *regions,
			    struct vublk_inproc_region_cache *cache,
			    struct vublk_blk_cursor *cursor, uint64_t left,
			    struct vublk_ring_buffer *buffers, unsigned *num_buffers);

/*
 * Cuts the next piece off the request and moves the cursor past that piece. `left` (not 0) is the
 * number of bytes of the request that are not cut yet. `buffers` has room for max_segments
 * elements; segments that are adjacent in guest memory are merged. Returns the number of bytes of
 * the piece. -EFAULT: the memory at the cursor is in no region; -E2BIG: one block is scattered over
 * more segments than the device accepts.
 *
 * The inline part handles the usual request: a buffer in one region that need not be cut.
 */
static inline int64_t vublk_blk_split_next(const struct vublk_blk_limits *limits,
					   const struct vublk_inproc_regions *regions,
					   struct vublk_inproc_region_cache *cache,
					   struct vublk_blk_cursor *cursor, uint64_t left,
					   struct vublk_ring_buffer *buffers,
					   unsigned *num_buffers)
{
	const struct iovec *iov = &cursor->iov[cursor->index];
	uint64_t addr;

	if (cursor->index < cursor->iovcnt && left <= iov->iov_len - cursor->offset &&
	    left <= limits->max_segment_bytes && left <= limits->max_piece_bytes &&
	    vublk_inproc_regions_find(regions, cache, (char *)iov->iov_base + cursor->offset,
				      &addr) >= left) {
		buffers[0] = (struct vublk_ring_buffer){ addr, (uint32_t)left };
		*num_buffers = 1;
		cursor->offset += left;
		return (int64_t)left;
	}
	return vublk_blk_split_any(limits, regions, cache, cursor, left, buffers, num_buffers);
}

/*
 * Returns the number of bytes of the next piece of a discard or write zeroes, at most `max`. The
 * part of the request that is not cut yet is `left` bytes at `offset`. A piece that is not the last
 * one ends at a multiple of `alignment`, if possible.
 */
uint64_t vublk_blk_split_range(uint64_t offset, uint64_t left, uint64_t max, uint64_t alignment);

#endif
