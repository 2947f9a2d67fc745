/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Cuts requests into pieces that respect the device's limits (virtio 1.3, section 5.2.4: size_max,
 * seg_max, max_discard_sectors, max_write_zeroes_sectors).
 *
 * Key idea: a piece is filled as far as the limits permit, segment by segment. Then it is trimmed
 * to whole blocks, and the cursor moves back by the trimmed bytes. So the iovecs of a request may
 * have any length, as long as their sum is a multiple of the block size.
 */
#include "blk/split.h"

#include "util/checked.h"

#include <errno.h>

/*
 * Adds memory to a piece. Extends the last buffer if the memory directly follows it and the limits
 * permit; otherwise begins another buffer. Returns how many bytes were added, or 0 if all buffers
 * are in use.
 */
static uint32_t append(const struct vublk_blk_limits *limits, struct vublk_ring_buffer *buffers,
		       unsigned *num, uint64_t addr, uint32_t bytes)
{
	struct vublk_ring_buffer *last = *num ? &buffers[*num - 1] : NULL;
	uint32_t room = 0;

	if (last && last->addr + last->bytes == addr)
		room = limits->max_segment_bytes - last->bytes;
	if (room) {
		bytes = VUBLK_MIN(bytes, room);
		last->bytes += bytes;
		return bytes;
	}
	if (*num == limits->max_segments)
		return 0;
	buffers[(*num)++] = (struct vublk_ring_buffer){ addr, bytes };
	return bytes;
}

static void skip_empty(struct vublk_blk_cursor *cursor)
{
	while (cursor->index < cursor->iovcnt &&
	       cursor->offset == cursor->iov[cursor->index].iov_len) {
		cursor->index++;
		cursor->offset = 0;
	}
}

/* Removes `excess` bytes from the end of a piece, and moves the cursor back by as many. */
static void trim(struct vublk_blk_cursor *cursor, struct vublk_ring_buffer *buffers,
		 unsigned *num, uint64_t excess)
{
	for (uint64_t rest = excess; rest;) {
		struct vublk_ring_buffer *last = &buffers[*num - 1];
		uint32_t cut = (uint32_t)VUBLK_MIN(rest, (uint64_t)last->bytes);

		last->bytes -= cut;
		rest -= cut;
		if (!last->bytes)
			(*num)--;
	}
	for (uint64_t rest = excess; rest;) {
		size_t cut;

		if (!cursor->offset) {
			cursor->index--;
			cursor->offset = cursor->iov[cursor->index].iov_len;
		}
		cut = VUBLK_MIN(rest, (uint64_t)cursor->offset);
		cursor->offset -= cut;
		rest -= cut;
	}
}

int64_t vublk_blk_split_any(const struct vublk_blk_limits *limits,
			    const struct vublk_inproc_regions *regions,
			    struct vublk_inproc_region_cache *cache,
			    struct vublk_blk_cursor *cursor, uint64_t left,
			    struct vublk_ring_buffer *buffers, unsigned *num_buffers)
{
	uint64_t most = VUBLK_MIN(left, (uint64_t)limits->max_piece_bytes);
	uint64_t bytes = 0, excess;
	unsigned num = 0;

	while (bytes < most) {
		uint64_t addr, part, there;
		const struct iovec *iov;

		skip_empty(cursor);
		if (cursor->index >= cursor->iovcnt)
			return -EFAULT;
		iov = &cursor->iov[cursor->index];
		there = vublk_inproc_regions_find(regions, cache,
						  (char *)iov->iov_base + cursor->offset, &addr);
		if (!there)
			return -EFAULT;
		part = VUBLK_MIN(iov->iov_len - cursor->offset, most - bytes);
		part = VUBLK_MIN(part, there);
		part = VUBLK_MIN(part, (uint64_t)limits->max_segment_bytes);
		part = append(limits, buffers, &num, addr, (uint32_t)part);
		if (!part)
			break;
		bytes += part;
		cursor->offset += part;
	}
	excess = bytes == left ? 0 : bytes & (limits->block_bytes - 1);
	trim(cursor, buffers, &num, excess);
	if (bytes == excess)
		return -E2BIG;
	*num_buffers = num;
	return (int64_t)(bytes - excess);
}

uint64_t vublk_blk_split_range(uint64_t offset, uint64_t left, uint64_t max, uint64_t alignment)
{
	uint64_t past;

	if (left <= max)
		return left;
	past = alignment > 1 ? (offset + max) % alignment : 0;
	return past < max ? max - past : max;
}
