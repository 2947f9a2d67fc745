/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_DIRTY_LOG_H
#define VUBLK_BACKEND_DIRTY_LOG_H

/*
 * The mapping of the dirty log that the front-end shares. It changes only while no queue
 * runs. request.c and virtio/split-device.c set the bits.
 */
#include "proto/vhost-user/codec.h"
#include "util/memory-file.h"
#include "virtio/dirty-log.h"

struct vublk_backend_dirty_log {
	struct vublk_dirty_log dirty;
	struct vublk_memory_part part; /* not mapped: no log */
	struct vublk_fault *fault; /* set once: records the pages that the front-end removes */
};

/*
 * SET_LOG_BASE: maps a log in place of the previous log; on failure the previous log stays.
 * `features` are the accepted protocol features. The message keeps the descriptor.
 */
int vublk_backend_dirty_log_set(struct vublk_backend_dirty_log *log,
				const struct vublk_vu_message *message, uint64_t features,
				struct vublk_error *error);

/* Idempotent. */
void vublk_backend_dirty_log_unmap(struct vublk_backend_dirty_log *log);

#endif
