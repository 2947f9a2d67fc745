/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Records that writes were lost after they had completed.
 *
 * Key idea: if a write-back fails, the kernel reports the failure once per open file, at the next
 * sync of that file. Then the kernel forgets both the failure and the data. All queues share one
 * open file. So the sync of one queue may get the report about another queue's data, and the other
 * queue's next sync succeeds. Therefore the engine records that a sync has failed. Afterwards each
 * flush and each durable write of this image fails, on every queue and for every front-end.
 *
 * These rules also apply to O_DIRECT. A drive that could not flush its cache may have dropped the
 * contents of the cache, and file systems serve some direct writes through the page cache. So a
 * later sync that succeeds proves nothing about the writes before the failed one.
 *
 * The failure must be recorded before any request gets the result of a sync that ran at the same
 * time as the failed one; sync.c ensures this order. For a buffered file on a disk, a durable write
 * is therefore a plain write followed by a sync of sync.c. RWF_DSYNC would sync on its own: it
 * could consume the report about another write, and its result would not tell whether the write or
 * the sync has failed. Direct writes use RWF_DSYNC, because it may save a flush of the drive's
 * cache (FUA). The page cache then normally has no data whose loss could be reported, and each
 * write is flushed after it has reached the drive.
 *
 * Discards, zeroes and a new size need no special rule: the same sync makes them stable, and their
 * system calls do not consume the kernel's report.
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
 * A relaxed load is enough, because no other data depends on the flag. If a driver sees a failed
 * flush and then sends another flush, on any queue, its accesses to the rings order the two.
 */
bool vublk_file_has_lost_writes(const struct vublk_file *file)
{
	return vublk_load_relaxed(&file->lost_writes);
}

void vublk_file_lose_writes(struct vublk_file *file, int result)
{
	if (vublk_exchange_acquire(&file->lost_writes, true))
		return;
	vublk_log(file->engine.host->log, VUBLK_LOG_ERROR,
		  "a flush of %s failed (%s), so completed writes may be lost, and all further "
		  "flushes and durable writes of this image will fail; check the disk that stores "
		  "it, then restart this program", file->engine.description,
		  strerrordesc_np(-result));
}
