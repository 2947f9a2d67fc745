/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_DIRTY_LOG_H
#define VUBLK_BACKEND_DIRTY_LOG_H

/*
 * The mapping of the dirty log that the front-end shares. It changes only while no queue
 * runs. request.c and virtio/split-device.c set the bits.
 */
#include "proto/vhost-user/codec.h"
#include "util/fault.h"
#include "virtio/dirty-log.h"

struct vublk_backend_dirty_log {
	struct vublk_dirty_log dirty;
	void *mapping; /* NULL: no log */
	uint64_t mapping_bytes;
	struct vublk_fault *fault; /* set once: records the pages that the front-end removes */
};

/*
 * SET_LOG_BASE: maps a log in place of the previous log; on failure the previous log stays. The
 * message keeps the descriptor.
 */
int vublk_backend_dirty_log_set(struct vublk_backend_dirty_log *log,
				const struct vublk_vu_message *message,
				struct vublk_error *error);

/* Idempotent. */
void vublk_backend_dirty_log_unmap(struct vublk_backend_dirty_log *log);

#endif
