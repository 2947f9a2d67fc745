/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checks whether the disk's phase permits a public call. The phases change in open.c and blk.c.
 *
 * Key idea: an application has the handle of a disk before the disk is open. So calls that need an
 * open disk check the phase first, and they all fail with the same error text.
 */
#include "blk/disk.h"
#include "util/error.h"

#include <errno.h>

int vublk_blk_require_running(const struct vublk_blk *blk, struct vublk_error *error)
{
	if (vublk_blk_is_running(blk))
		return 0;
	return vublk_error_set(error, EBUSY, "the disk is not open; vublk_blk_open_finish() says "
			       "whether it is still being opened or why that failed");
}
