/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_ATTACH_PARAMS_H
#define VUBLK_CLI_ATTACH_PARAMS_H

/*
 * The properties of the disk that the kernel gets: its size and limits, and whether it has a cache,
 * discards and write zeroes.
 */
#include "cli/attach/ublk-abi.h"

#include <vublk/blk.h>

/*
 * Fills the parameters of a block device whose largest request has `request_bytes`. Fails if the
 * kernel cannot have such a disk.
 */
int vublk_attach_params(const struct vublk_blk_info *info, uint32_t request_bytes,
			struct ublk_params *params, struct vublk_error *error);

/*
 * Checks that the disk can continue a device that was made with the parameters `before`: the device
 * keeps its size, block size and access.
 */
int vublk_attach_check_params(const struct ublk_params *before, const struct ublk_params *now,
			      struct vublk_error *error);

/* Returns the size of the block device: that of the disk without a last block that is incomplete. */
uint64_t vublk_attach_sectors(const struct vublk_blk_info *info);

#endif
