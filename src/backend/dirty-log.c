/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Maps the dirty log ("Log description" of the vhost-user specification).
 *
 * Key idea: the memory map and the used rings can change after the log was set. So queue.c, not
 * this file, checks at each start of a queue whether the log covers both.
 */
#include "backend/dirty-log.h"

#include "proto/vhost-user/request.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/memfd.h"

int vublk_backend_dirty_log_set(struct vublk_backend_dirty_log *log,
				struct vublk_vu_message *message, uint64_t features,
				struct vublk_error *error)
{
	const struct vublk_vu_log *wire = &message->payload.log;
	struct vublk_memory_file file;
	struct vublk_memory_part part;
	int r = vublk_vu_check_log_base(message, features, &file, error);

	if (r)
		return r;
	r = vublk_memory_file_map(message->fds[0], &file, wire->offset, wire->size_bytes,
				  log->fault, VUBLK_FAULT_DIRTY_LOG, &part, error);
	if (r) {
		vublk_error_prepend(error, "SET_LOG_BASE");
		return r;
	}
	vublk_backend_dirty_log_unmap(log);
	log->part = part;
	log->fd = vublk_vu_message_take_fd(message, 0);
	log->mmap_offset = wire->offset;
	log->dirty = (struct vublk_dirty_log){ (uint8_t *)part.start, wire->size_bytes };
	return 0;
}

void vublk_backend_dirty_log_unmap(struct vublk_backend_dirty_log *log)
{
	if (!log->part.mapping)
		return;
	vublk_unmap(log->part.mapping, log->part.mapping_bytes);
	vublk_fd_close(&log->fd);
	*log = (struct vublk_backend_dirty_log){ .fault = log->fault };
}
