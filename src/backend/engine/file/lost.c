/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes that were lost after they had been acknowledged.
 *
 * Key idea: the kernel reports the failure of a write-back once per open file, by the next
 * sync of that file, and then forgets both the failure and the data. All queues share one
 * open file, so the sync that gets the report is not necessarily the one whose data is gone,
 * and the next sync succeeds. So a failed sync is remembered here: from then on each flush
 * and each durable write of this image fails, on every queue and for every front-end.
 *
 * That is so with O_DIRECT as well. A drive whose cache could not be flushed may have dropped
 * what was in it, and file systems serve some direct writes by the page cache; a later sync
 * that succeeds would prove nothing about the writes before it.
 *
 * Discards, zeroes and a new size need no rule of their own. They are made stable by the same
 * sync, and the calls that make them leave the kernel's report to it.
 */
#include "backend/engine/file/file.h"

#include "util/atomic.h"
#include "util/log.h"

#include <string.h>

bool vublk_file_promises(const struct vublk_engine_io *io)
{
	return io->op == VUBLK_OP_FLUSH || io->flags & VUBLK_IO_DURABLE;
}

/*
 * Relaxed, because nothing else is read on the strength of it. A driver that has seen a
 * failed flush and then sends another, on whichever queue, orders the two by its rings.
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
