/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_DIRTY_LOG_H
#define VUBLK_BACKEND_DIRTY_LOG_H

/*
 * The mapping of the dirty log that the front-end shares. The mapping changes only while no queue
 * runs. request.c and virtio/split-device.c set the bits of the log.
 */
#include "proto/vhost-user/codec.h"
#include "util/memory-file.h"
#include "virtio/dirty-log.h"

struct vublk_backend_dirty_log {
	struct vublk_dirty_log dirty;
	struct vublk_memory_part part; /* part.mapping NULL: there is no log */
	int fd;               /* owned while the log is mapped; kept for an upgrade */
	uint64_t mmap_offset;
	struct vublk_fault *fault; /* set once; records whether a page was lost (util/fault.h) */
};

/*
 * Executes SET_LOG_BASE: maps a log, which replaces the previous one. After a failure the previous
 * log stays. `features` are the accepted protocol features. On success, takes the descriptor out of
 * the message.
 */
int vublk_backend_dirty_log_set(struct vublk_backend_dirty_log *log,
				struct vublk_vu_message *message, uint64_t features,
				struct vublk_error *error);

/* Unmaps the log. Idempotent. */
void vublk_backend_dirty_log_unmap(struct vublk_backend_dirty_log *log);

#endif
