/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_DIRTY_LOG_H
#define VUBLK_VIRTIO_DIRTY_LOG_H

#include "virtio/memory-map.h"

#include <vublk/memory.h>

#include <stdbool.h>
#include <stdint.h>

/*
 * The front-end's bitmap of the guest's pages that a device has written to, a bit a
 * page from guest address 0 on ("Migration" of the vhost-user specification). The
 * front-end takes bits away while we set them.
 */
struct vublk_dirty_log {
	uint8_t *bits; /* NULL: there is none */
	uint64_t bytes;
};

/* Whether every page of [addr, addr + bytes) has its bit. */
bool vublk_dirty_log_covers(const struct vublk_dirty_log *log, uint64_t addr, uint64_t bytes);

/*
 * Marks the pages of [addr, addr + bytes), which were written to: the writes come
 * first, for whoever takes the bit away copies the page next. Pages that have no bit
 * are passed over; whoever marks has asked vublk_dirty_log_covers() before.
 */
void vublk_dirty_log_mark(const struct vublk_dirty_log *log, uint64_t addr, uint64_t bytes);

/* The same for memory as it is mapped here, each iovec within one region of `map`. */
void vublk_dirty_log_mark_iov(const struct vublk_dirty_log *log,
			      const struct vublk_memory_map *map, const struct iovec *iov,
			      unsigned num_iov);

#endif
