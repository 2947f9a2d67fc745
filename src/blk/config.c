/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Interprets the configuration space for the driver (virtio 1.3, section 5.2.4). blk.c and open.c
 * decide when to read it.
 *
 * Key idea: the back-end is not trusted. A field that depends on a feature is used only if the
 * feature was negotiated. An invalid value is replaced by a safe one.
 */
#include "blk/config.h"

#include "blk/queue.h"
#include "util/checked.h"
#include "util/error.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

/*
 * The largest piece of a request, unless a block is larger. Guests send requests of about this
 * size, so back-ends are tested with it.
 */
#define MAX_PIECE_BYTES (UINT32_C(1) << 20)
#define MAX_BLOCK_BYTES (UINT32_C(2) << 20)
#define MAX_PHYSICAL_EXP 15

static bool has(const struct vublk_blk_info *info, unsigned feature)
{
	return info->features & VUBLK_BIT(feature);
}

static void describe_blocks(const struct virtio_blk_config *config, struct vublk_blk_info *info)
{
	uint32_t block = has(info, VIRTIO_BLK_F_BLK_SIZE) ? le32toh(config->blk_size) : 0;
	uint64_t optimal;

	if (block < VUBLK_SECTOR_BYTES || block > MAX_BLOCK_BYTES || !vublk_is_power_of_two(block))
		block = VUBLK_SECTOR_BYTES;
	info->block_size_bytes = block;
	info->physical_block_bytes = block;
	info->optimal_io_bytes = 0;
	if (!has(info, VIRTIO_BLK_F_TOPOLOGY))
		return;
	if (config->physical_block_exp <= MAX_PHYSICAL_EXP)
		info->physical_block_bytes = block << config->physical_block_exp;
	optimal = (uint64_t)le32toh(config->opt_io_size) * block;
	if (optimal <= UINT32_MAX)
		info->optimal_io_bytes = (uint32_t)optimal;
}

/*
 * Computes how many segments a piece may have, and how long a segment may be. If the device does
 * not offer SEG_MAX (how many segments it accepts), a piece has one segment. Linux does the same,
 * so such devices are rarely tested with more. A chain is never longer than the queue (section
 * 2.7.5.3.1), with or without an indirect table.
 */
static void describe_segments(const struct virtio_blk_config *config, unsigned queue_size,
			      struct vublk_blk_info *info)
{
	uint32_t most = VUBLK_MIN(queue_size, (unsigned)VUBLK_BLK_MAX_CHAIN) -
			VUBLK_BLK_CHAIN_OVERHEAD;
	uint32_t segments = has(info, VIRTIO_BLK_F_SEG_MAX) ? le32toh(config->seg_max) : 1;
	uint32_t bytes = has(info, VIRTIO_BLK_F_SIZE_MAX) ? le32toh(config->size_max) : 0;

	segments = VUBLK_MAX(segments, UINT32_C(1));
	info->max_segments = VUBLK_MIN(segments, most);
	info->max_segment_bytes = bytes ? VUBLK_MIN(bytes, MAX_PIECE_BYTES) : MAX_PIECE_BYTES;
}

/*
 * Converts a limit to bytes, rounded down to whole blocks. As in other drivers, 0 means no limit.
 */
static uint64_t range_limit(const struct vublk_blk_info *info, uint32_t sectors)
{
	uint64_t bytes = (uint64_t)(sectors ? sectors : UINT32_MAX) << VUBLK_SECTOR_SHIFT;

	return bytes & ~(uint64_t)(info->block_size_bytes - 1);
}

static void describe_ranges(const struct virtio_blk_config *config, struct vublk_blk_info *info)
{
	uint64_t alignment = (uint64_t)le32toh(config->discard_sector_alignment)
			     << VUBLK_SECTOR_SHIFT;

	info->max_discard_bytes = 0;
	info->discard_alignment_bytes = 0;
	if (has(info, VIRTIO_BLK_F_DISCARD)) {
		info->max_discard_bytes = range_limit(info, le32toh(config->max_discard_sectors));
		info->discard_alignment_bytes = alignment % info->block_size_bytes || !alignment ?
						info->block_size_bytes : alignment;
	}
	info->max_write_zeroes_bytes = 0;
	info->write_zeroes_may_unmap = false;
	if (has(info, VIRTIO_BLK_F_WRITE_ZEROES)) {
		info->max_write_zeroes_bytes =
			range_limit(info, le32toh(config->max_write_zeroes_sectors));
		info->write_zeroes_may_unmap = config->write_zeroes_may_unmap;
	}
}

int vublk_blk_config_describe(const uint8_t *bytes, uint64_t features, unsigned queue_size,
			      struct vublk_blk_info *info, struct vublk_error *error)
{
	struct virtio_blk_config config;
	uint64_t sectors;

	_Static_assert(sizeof(config) <= VUBLK_BLK_CONFIG_BYTES, "the whole config is read");
	memcpy(&config, bytes, sizeof(config));
	sectors = le64toh(config.capacity);
	if (sectors > INT64_MAX >> VUBLK_SECTOR_SHIFT)
		return vublk_error_set(error, EPROTO, "the back-end reports a capacity of "
				       "%" PRIu64 " sectors, but a disk can have at most %" PRIu64,
				       sectors, (uint64_t)INT64_MAX >> VUBLK_SECTOR_SHIFT);
	info->features = features;
	info->capacity_bytes = sectors << VUBLK_SECTOR_SHIFT;
	info->read_only = has(info, VIRTIO_BLK_F_RO);
	info->flush = has(info, VIRTIO_BLK_F_FLUSH);
	info->can_set_write_cache = has(info, VIRTIO_BLK_F_CONFIG_WCE);
	info->write_cache = info->can_set_write_cache ? config.wce != 0 : info->flush;
	describe_blocks(&config, info);
	describe_segments(&config, queue_size, info);
	describe_ranges(&config, info);
	memcpy(info->config, bytes, sizeof(info->config));
	return 0;
}

int vublk_blk_config_limits(const struct vublk_blk_info *info, struct vublk_blk_limits *limits,
			    struct vublk_error *error)
{
	uint64_t most = (uint64_t)info->max_segments * info->max_segment_bytes;

	if (most < info->block_size_bytes)
		return vublk_error_set(error, ENOTSUP,
				       "the back-end accepts at most %u segment%s of %u bytes per "
				       "request, which is less than one block (%u bytes)",
				       info->max_segments, info->max_segments == 1 ? "" : "s",
				       info->max_segment_bytes,
				       info->block_size_bytes);
	*limits = (struct vublk_blk_limits){
		.block_bytes = info->block_size_bytes,
		.max_segments = info->max_segments,
		.max_segment_bytes = info->max_segment_bytes,
		.max_piece_bytes = VUBLK_MAX(MAX_PIECE_BYTES, info->block_size_bytes),
		.max_discard_bytes = info->max_discard_bytes,
		.discard_alignment_bytes = info->discard_alignment_bytes,
		.max_write_zeroes_bytes = info->max_write_zeroes_bytes,
	};
	return 0;
}
