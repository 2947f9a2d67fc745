/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file maps the dirty log ("Log description" of the vhost-user specification).
 *
 * Key idea: the log must lie within its file, as a memory region must. Whether the log covers the
 * memory and the rings is checked when a queue starts, because the memory and the rings can change
 * after the log was set.
 */
#include "backend/dirty-log.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/memfd.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

static int check_message(const struct vublk_vu_message *message, struct vublk_error *error)
{
	const struct vublk_vu_log *wire = &message->payload.log;
	struct stat st;

	if (!wire->size_bytes)
		return vublk_error_set(error, EPROTO, "SET_LOG_BASE gives an empty log");
	if (fstat(message->fds[0], &st) < 0 || !S_ISREG(st.st_mode) ||
	    !vublk_range_within(wire->offset, wire->size_bytes, (uint64_t)st.st_size))
		return vublk_error_set(error, EPROTO, "SET_LOG_BASE's descriptor is not a memory "
				       "file of at least %" PRIu64 " bytes after the offset %"
				       PRIu64, wire->size_bytes, wire->offset);
	return 0;
}

int vublk_backend_dirty_log_set(struct vublk_backend_dirty_log *log,
				const struct vublk_vu_message *message,
				struct vublk_error *error)
{
	const struct vublk_vu_log *wire = &message->payload.log;
	uint64_t inside = wire->offset % (uint64_t)sysconf(_SC_PAGESIZE);
	void *mapping;
	int r = check_message(message, error);

	if (r)
		return r;
	mapping = vublk_map_guarded(message->fds[0], wire->offset - inside,
				    inside + wire->size_bytes, log->fault,
				    VUBLK_FAULT_DIRTY_LOG, error);
	if (!mapping) {
		r = -errno;
		vublk_error_prepend(error, "SET_LOG_BASE");
		return r;
	}
	vublk_backend_dirty_log_unmap(log);
	*log = (struct vublk_backend_dirty_log){
		.dirty = { (uint8_t *)mapping + inside, wire->size_bytes },
		.mapping = mapping,
		.mapping_bytes = inside + wire->size_bytes,
		.fault = log->fault,
	};
	return 0;
}

void vublk_backend_dirty_log_unmap(struct vublk_backend_dirty_log *log)
{
	vublk_unmap(log->mapping, log->mapping_bytes);
	*log = (struct vublk_backend_dirty_log){ .fault = log->fault };
}
