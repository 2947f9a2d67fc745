/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_ATTACH_PARAMS_H
#define VUBLK_CLI_ATTACH_PARAMS_H

/*
 * The properties of the disk that the kernel needs to know: its size and limits, and whether it has
 * a write cache, discard and write zeroes.
 */
#include "cli/attach/ublk-abi.h"

#include <vublk/blk.h>

/*
 * Fills the parameters of a block device whose largest request has `request_bytes` bytes. Returns
 * -ENOTSUP if the kernel does not support such a disk.
 */
int vublk_attach_params(const struct vublk_blk_info *info, uint32_t request_bytes,
			struct ublk_params *params, struct vublk_error *error);

/*
 * Checks that the disk fits a device that was made with the parameters `before`: it must not be
 * smaller or have larger blocks, and must not have become read-only or got a write cache. Returns
 * -ENOTSUP if it does not fit.
 */
int vublk_attach_check_params(const struct ublk_params *before, const struct ublk_params *now,
			      struct vublk_error *error);

/*
 * Returns the size of the block device in sectors: the size of the disk without an incomplete last
 * block.
 */
uint64_t vublk_attach_sectors(const struct vublk_blk_info *info);

#endif
