/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Remembers that writes were lost after they had been acknowledged.
 *
 * Key idea: the kernel reports the failure of a write-back once per open file, by the next
 * sync of that file, and then forgets both the failure and the data. All queues share one
 * open file, so the sync that gets the report is not necessarily the one whose data was lost,
 * and the next sync succeeds. So a failed sync is remembered here: afterwards each flush
 * and each durable write of this image fails, on every queue and for every front-end.
 *
 * This applies to O_DIRECT as well. A drive whose cache could not be flushed may have dropped
 * the contents of the cache, and file systems serve some direct writes through the page cache.
 * So a later sync that succeeds proves nothing about the writes before the failed one.
 *
 * Discards, zeroes and a new size need no rule of their own: the same sync makes them stable,
 * and their system calls do not consume the kernel's report.
 */
#include "backend/engine/file/file.h"

#include "util/atomic.h"
#include "util/log.h"

#include <string.h>

bool vublk_file_makes_stable(const struct vublk_engine_io *io)
{
	return io->op == VUBLK_OP_FLUSH || io->flags & VUBLK_IO_DURABLE;
}

/*
 * Relaxed, because no other data depends on the flag. If a driver sees a failed flush and then
 * sends another flush, on any queue, its accesses to the rings order the two.
 */
bool vublk_file_has_lost_writes(const struct vublk_file *file)
{
	return vublk_load_relaxed(&file->lost_writes);
}

void vublk_file_lose_writes(struct vublk_file *file, int result)
{
	if (vublk_exchange_acquire(&file->lost_writes, true))
		return;
	vublk_log(file->engine.log, VUBLK_LOG_ERROR,
		  "a flush of %s failed (%s), so data that was acknowledged before it may be lost; "
		  "every flush and every durable write of this image fails from now on; check the "
		  "disk under it, then restart this program", file->engine.description,
		  strerrordesc_np(-result));
}
