/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_BLK_FRAME_H
#define VUBLK_VIRTIO_BLK_FRAME_H

/*
 * Finds the header, the data and the status byte of a virtio-blk request in its chain (virtio 1.3,
 * sections 2.7.4 and 5.2.6.4).
 *
 * Key idea: the driver may split a request into buffers as it likes. So the header is the first 16
 * bytes of the readable buffers, the status is the last byte of the writable ones, and the rest is
 * data. The header is copied, because the driver can change it at any time.
 */
#include "util/checked.h"
#include "util/compiler.h"
#include "virtio/ring.h"

#include <linux/virtio_blk.h>
#include <stddef.h>
#include <string.h>

#define VUBLK_BLK_HEADER_BYTES sizeof(struct virtio_blk_outhdr)

_Static_assert(VUBLK_BLK_HEADER_BYTES == 16, "wire size");

/*
 * The readable or the writable buffers of a chain. `guest_addrs` has the guest address of each
 * iovec, or is NULL.
 */
struct vublk_blk_buffers {
	struct iovec *iov;
	uint64_t *guest_addrs;
	unsigned num;
};

static inline struct vublk_blk_buffers vublk_blk_readable(const struct vublk_chain *chain)
{
	return (struct vublk_blk_buffers){ chain->iov, chain->guest_addrs, chain->num_out };
}

static inline struct vublk_blk_buffers vublk_blk_writable(const struct vublk_chain *chain)
{
	return (struct vublk_blk_buffers){
		&chain->iov[chain->num_out],
		chain->guest_addrs ? &chain->guest_addrs[chain->num_out] : NULL,
		chain->num_in,
	};
}

static inline void vublk_blk_drop_first(struct vublk_blk_buffers *buffers)
{
	buffers->iov++;
	buffers->num--;
	if (buffers->guest_addrs)
		buffers->guest_addrs++;
}

/*
 * Copies the first `bytes` bytes of the buffers to `to`, and removes them from the buffers. The
 * buffers must have at least `bytes` bytes.
 */
static inline void vublk_blk_take_front(struct vublk_blk_buffers *buffers, void *to, size_t bytes)
{
	char *at = to;

	while (bytes) {
		struct iovec *iov = buffers->iov;
		size_t n = VUBLK_MIN(iov->iov_len, bytes);

		memcpy(at, iov->iov_base, n);
		at += n;
		bytes -= n;
		iov->iov_base = (char *)iov->iov_base + n;
		iov->iov_len -= n;
		if (buffers->guest_addrs)
			*buffers->guest_addrs += n;
		if (!iov->iov_len)
			vublk_blk_drop_first(buffers);
	}
}

/*
 * Removes the header from the buffers and copies it to `header`. The buffers must contain a whole
 * header. The fast path is for a header in a buffer of its own, which most drivers use.
 */
static inline void vublk_blk_take_header(struct vublk_blk_buffers *readable,
					 struct virtio_blk_outhdr *header)
{
	if (VUBLK_UNLIKELY(readable->iov->iov_len != VUBLK_BLK_HEADER_BYTES)) {
		vublk_blk_take_front(readable, header, VUBLK_BLK_HEADER_BYTES);
		return;
	}
	memcpy(header, readable->iov->iov_base, VUBLK_BLK_HEADER_BYTES);
	vublk_blk_drop_first(readable);
}

/* Removes the last byte of the buffers and returns its address. The buffers must not be empty. */
static inline uint8_t *vublk_blk_take_status(struct vublk_blk_buffers *writable)
{
	struct iovec *last = &writable->iov[writable->num - 1];

	last->iov_len--;
	if (!last->iov_len)
		writable->num--;
	return (uint8_t *)last->iov_base + last->iov_len;
}

#endif
