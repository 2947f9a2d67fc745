/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The disk's features and configuration space (virtio 1.3, sections 5.2.3 and 5.2.4).
 *
 * Key idea: a field that depends on a feature is filled only if the feature is offered; otherwise
 * it is zero.
 */
#include "backend/config.h"

#include "proto/vhost-user/codec.h"
#include "util/checked.h"

#include <linux/vhost_types.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

uint64_t vublk_backend_features(const struct vublk_engine_geometry *geometry)
{
	uint64_t features = VUBLK_BIT(VIRTIO_BLK_F_SEG_MAX) | VUBLK_BIT(VIRTIO_BLK_F_BLK_SIZE) |
			    VUBLK_BIT(VIRTIO_BLK_F_TOPOLOGY) | VUBLK_BIT(VIRTIO_BLK_F_FLUSH) |
			    VUBLK_BIT(VIRTIO_BLK_F_CONFIG_WCE) | VUBLK_BIT(VIRTIO_BLK_F_MQ) |
			    VUBLK_BIT(VIRTIO_F_NOTIFY_ON_EMPTY) | VUBLK_BIT(VHOST_F_LOG_ALL) |
			    VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC) |
			    VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX) |
			    VUBLK_BIT(VUBLK_VU_VIRTIO_F_PROTOCOL_FEATURES) |
			    VUBLK_BIT(VIRTIO_F_VERSION_1);

	if (geometry->read_only)
		return features | VUBLK_BIT(VIRTIO_BLK_F_RO);
	if (geometry->discard_bytes)
		features |= VUBLK_BIT(VIRTIO_BLK_F_DISCARD);
	return features | VUBLK_BIT(VIRTIO_BLK_F_WRITE_ZEROES);
}

static uint8_t log2_of(uint32_t power_of_two)
{
	return (uint8_t)__builtin_ctz(power_of_two);
}

/*
 * Converts a preferred I/O size to blocks. Returns 0 (not known) if the size is not a multiple of
 * the block size, or is one block. A preferred size of one block would tell the driver nothing new,
 * but would make Windows split its requests into single blocks.
 */
static uint32_t io_blocks(const struct vublk_engine_geometry *geometry, uint32_t bytes)
{
	return bytes % geometry->block_bytes || bytes == geometry->block_bytes ?
		       0 : bytes / geometry->block_bytes;
}

static void fill_topology(const struct vublk_engine_geometry *geometry,
			  struct virtio_blk_config *config)
{
	uint32_t blocks = geometry->physical_block_bytes / geometry->block_bytes;
	uint32_t min_io = io_blocks(geometry, geometry->physical_block_bytes);

	config->physical_block_exp = blocks ? log2_of(blocks) : 0;
	config->min_io_size = min_io <= UINT16_MAX ? (uint16_t)min_io : 0;
	config->opt_io_size = io_blocks(geometry, geometry->optimal_io_bytes);
}

static void fill_ranges(const struct vublk_engine_geometry *geometry,
			struct virtio_blk_config *config)
{
	if (geometry->discard_bytes) {
		config->max_discard_sectors = VUBLK_BACKEND_MAX_RANGE_SECTORS;
		config->max_discard_seg = VUBLK_BACKEND_MAX_RANGES;
		config->discard_sector_alignment =
			VUBLK_MAX(geometry->discard_bytes, geometry->block_bytes) /
			VUBLK_SECTOR_BYTES;
	}
	config->max_write_zeroes_sectors = VUBLK_BACKEND_MAX_RANGE_SECTORS;
	config->max_write_zeroes_seg = VUBLK_BACKEND_MAX_RANGES;
	config->write_zeroes_may_unmap = geometry->zeroes_may_unmap;
}

void vublk_backend_config_fill(const struct vublk_engine_geometry *geometry,
			       unsigned num_queues, unsigned seg_max, bool write_cache,
			       struct virtio_blk_config *config)
{
	*config = (struct virtio_blk_config){
		.capacity = geometry->size_bytes / VUBLK_SECTOR_BYTES,
		.seg_max = seg_max,
		.blk_size = geometry->block_bytes,
		.wce = write_cache,
		.num_queues = (uint16_t)num_queues,
	};
	fill_topology(geometry, config);
	if (!geometry->read_only)
		fill_ranges(geometry, config);
}
