/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_DIRTY_LOG_H
#define VUBLK_VIRTIO_DIRTY_LOG_H

#include "virtio/memory-map.h"

#include <vublk/memory.h>

#include <stdbool.h>
#include <stdint.h>

/*
 * The front-end's bitmap of the guest pages that a device has written to. It has one bit per page,
 * from guest address 0 ("Migration" of the vhost-user specification). The front-end clears bits
 * while the device sets them.
 */
struct vublk_dirty_log {
	uint8_t *bits; /* NULL: there is no log */
	uint64_t bytes;
};

/* Returns whether every page of [addr, addr + bytes) has a bit in the log. */
bool vublk_dirty_log_covers(const struct vublk_dirty_log *log, uint64_t addr, uint64_t bytes);

/*
 * Marks the pages of [addr, addr + bytes). Must be called after the writes, because the front-end
 * clears a bit and then copies the page. Pages without a bit are skipped, so the caller must have
 * checked vublk_dirty_log_covers().
 */
void vublk_dirty_log_mark(const struct vublk_dirty_log *log, uint64_t addr, uint64_t bytes);

/*
 * Marks the pages that the iovecs cover. Each iovec has a host address, and must lie within one
 * region of `map`.
 */
void vublk_dirty_log_mark_iov(const struct vublk_dirty_log *log,
			      const struct vublk_memory_map *map, const struct iovec *iov,
			      unsigned num_iov);

#endif
