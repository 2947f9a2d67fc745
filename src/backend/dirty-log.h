/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_DIRTY_LOG_H
#define VUBLK_BACKEND_DIRTY_LOG_H

/*
 * The dirty log that the front-end shares, mapped. It changes only while no queue
 * runs. What is marked in it, and when, is in request.c and virtio/split-device.c.
 */
#include "proto/vhost-user/codec.h"
#include "util/fault.h"
#include "virtio/dirty-log.h"

struct vublk_backend_dirty_log {
	struct vublk_dirty_log dirty;
	void *mapping; /* NULL: there is none */
	uint64_t mapping_bytes;
	struct vublk_fault *fault; /* set once: records the pages that the front-end removes */
};

/*
 * SET_LOG_BASE: maps the log in place of the one before; on failure that stays. The
 * descriptor remains the message's.
 */
int vublk_backend_dirty_log_set(struct vublk_backend_dirty_log *log,
				const struct vublk_vu_message *message,
				struct vublk_error *error);

/* Idempotent. */
void vublk_backend_dirty_log_unmap(struct vublk_backend_dirty_log *log);

#endif
