/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Parameters of the block device; see params.h.
 *
 * Key idea: the block device has a write cache if the back-end accepts flushes, even if the disk's
 * configuration says that it has none. Some back-ends wrongly say so.
 */
#include "cli/attach/params.h"

#include "cli/cli.h"

#include <errno.h>
#include <inttypes.h>

#define SECTOR_SHIFT 9
#define MAX_BLOCK_BYTES 4096 /* of ublk_drv */

/* Returns the logarithm of the largest power of two that does not exceed `bytes`. */
static uint8_t shift_of(uint32_t bytes)
{
	return (uint8_t)(31 - __builtin_clz(bytes));
}

/*
 * Converts a limit in bytes to sectors, rounded down to whole blocks and to what the field can
 * hold.
 */
static uint32_t limit_of(uint64_t bytes, uint32_t block_bytes)
{
	uint64_t largest = UINT32_MAX;

	return (uint32_t)((VUBLK_CLI_MIN(bytes, largest) & ~(uint64_t)(block_bytes - 1)) >> SECTOR_SHIFT);
}

uint64_t vublk_attach_sectors(const struct vublk_blk_info *info)
{
	return (info->capacity_bytes & ~(uint64_t)(info->block_size_bytes - 1)) >> SECTOR_SHIFT;
}

static void fill_basic(const struct vublk_blk_info *info, uint32_t request_bytes,
		       struct ublk_param_basic *basic)
{
	uint32_t physical = VUBLK_CLI_MAX(info->physical_block_bytes, info->block_size_bytes);

	basic->logical_bs_shift = shift_of(info->block_size_bytes);
	basic->physical_bs_shift = shift_of(physical);
	basic->io_min_shift = basic->physical_bs_shift;
	basic->io_opt_shift = shift_of(VUBLK_CLI_MAX(info->optimal_io_bytes, physical));
	basic->max_sectors = request_bytes >> SECTOR_SHIFT;
	basic->dev_sectors = vublk_attach_sectors(info);
	if (info->read_only)
		basic->attrs |= UBLK_ATTR_READ_ONLY;
	if (info->flush)
		basic->attrs |= UBLK_ATTR_VOLATILE_CACHE | UBLK_ATTR_FUA;
}

static void fill_discard(const struct vublk_blk_info *info, struct ublk_param_discard *discard)
{
	uint64_t granularity = VUBLK_CLI_MAX(info->discard_alignment_bytes,
					     (uint64_t)info->block_size_bytes);

	discard->discard_granularity = (uint32_t)VUBLK_CLI_MIN(granularity, (uint64_t)1 << 31);
	discard->max_discard_sectors = limit_of(info->max_discard_bytes, info->block_size_bytes);
	discard->max_discard_segments = 1;
	discard->max_write_zeroes_sectors = limit_of(info->max_write_zeroes_bytes,
						     info->block_size_bytes);
}

int vublk_attach_params(const struct vublk_blk_info *info, uint32_t request_bytes,
			struct ublk_params *params, struct vublk_error *error)
{
	*params = (struct ublk_params){ .len = sizeof(*params), .types = UBLK_PARAM_TYPE_BASIC };
	if (info->block_size_bytes > MAX_BLOCK_BYTES)
		return vublk_cli_error(error, ENOTSUP, "the disk has blocks of %u bytes, but the ublk "
				       "driver supports at most %d", info->block_size_bytes,
				       MAX_BLOCK_BYTES);
	fill_basic(info, request_bytes, &params->basic);
	if (!params->basic.dev_sectors)
		return vublk_cli_error(error, ENOTSUP, "the disk is smaller than one block, and the kernel does "
				       "not support an empty block device");
	if (info->max_discard_bytes || info->max_write_zeroes_bytes) {
		params->types |= UBLK_PARAM_TYPE_DISCARD;
		fill_discard(info, &params->discard);
	}
	return 0;
}

int vublk_attach_check_params(const struct ublk_params *before, const struct ublk_params *now,
			      struct vublk_error *error)
{
	const struct ublk_param_basic *old = &before->basic, *new = &now->basic;

	if (new->dev_sectors < old->dev_sectors)
		return vublk_cli_error(error, ENOTSUP, "the disk has %" PRIu64 " bytes now, but the block "
				       "device has %" PRIu64, (uint64_t)new->dev_sectors << SECTOR_SHIFT,
				       (uint64_t)old->dev_sectors << SECTOR_SHIFT);
	if (new->logical_bs_shift > old->logical_bs_shift)
		return vublk_cli_error(error, ENOTSUP, "the disk has blocks of %u bytes now, but the "
				       "block device has blocks of %u bytes",
				       1u << new->logical_bs_shift, 1u << old->logical_bs_shift);
	if ((new->attrs & ~old->attrs) & UBLK_ATTR_READ_ONLY)
		return vublk_cli_error(error, ENOTSUP, "the disk is read-only now, but the block device "
				       "is not; detach it and attach the disk again");
	if ((new->attrs & ~old->attrs) & UBLK_ATTR_VOLATILE_CACHE)
		return vublk_cli_error(error, ENOTSUP, "the disk accepts flushes now, but the block device "
				       "was made without them; detach it and attach the disk again");
	return 0;
}
