/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_CONFIG_H
#define VUBLK_BLK_CONFIG_H

#include "blk/split.h"
#include "virtio/blk-format.h"

#include <vublk/blk.h>

#include <stdint.h>

/* The features that this driver supports. */
#define VUBLK_BLK_DRIVER_FEATURES \
	(VUBLK_BIT(VIRTIO_BLK_F_SIZE_MAX) | VUBLK_BIT(VIRTIO_BLK_F_SEG_MAX) | \
	 VUBLK_BIT(VIRTIO_BLK_F_GEOMETRY) | VUBLK_BIT(VIRTIO_BLK_F_RO) | \
	 VUBLK_BIT(VIRTIO_BLK_F_BLK_SIZE) | VUBLK_BIT(VIRTIO_BLK_F_FLUSH) | \
	 VUBLK_BIT(VIRTIO_BLK_F_TOPOLOGY) | VUBLK_BIT(VIRTIO_BLK_F_CONFIG_WCE) | \
	 VUBLK_BIT(VIRTIO_BLK_F_MQ) | VUBLK_BIT(VIRTIO_BLK_F_DISCARD) | \
	 VUBLK_BIT(VIRTIO_BLK_F_WRITE_ZEROES) | VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC) | \
	 VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX) | VUBLK_BIT(VIRTIO_F_VERSION_1))

/*
 * Fills info->features and the fields of `info` that come from the config space. Sizes are in
 * bytes. Safe values replace missing and invalid ones. `config` has VUBLK_BLK_CONFIG_BYTES bytes.
 * EPROTO: the capacity in the config is larger than any disk can be.
 */
int vublk_blk_config_describe(const uint8_t *config, uint64_t features, unsigned queue_size,
			      struct vublk_blk_info *info, struct vublk_error *error);

/*
 * Computes the limits of a piece (split.h). ENOTSUP: the device's limits do not permit a piece of
 * one block.
 */
int vublk_blk_config_limits(const struct vublk_blk_info *info, struct vublk_blk_limits *limits,
			    struct vublk_error *error);

#endif
