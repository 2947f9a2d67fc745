/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_BLK_FORMAT_H
#define VUBLK_VIRTIO_BLK_FORMAT_H

/*
 * Definitions of virtio-blk (virtio 1.3, section 5.2) that the kernel's <linux/virtio_blk.h> lacks.
 * The names of the feature bits come from vublk_feature_name() in <vublk/device.h>.
 */

#include <vublk/error.h>

#include <linux/virtio_blk.h>
#include <stddef.h>
#include <stdint.h>

#define VUBLK_SECTOR_BYTES 512
#define VUBLK_SECTOR_SHIFT 9

/* Feature bits that no kernel header has, or that only newer kernel headers have. */
#define VUBLK_BLK_F_LIFETIME 15
#define VUBLK_BLK_F_SECURE_ERASE 16
#define VUBLK_BLK_F_ZONED 17
#define VUBLK_VIRTIO_F_IN_ORDER 35
#define VUBLK_VIRTIO_F_NOTIFICATION_DATA 38
#define VUBLK_VIRTIO_F_RING_RESET 40

/* The size of the configuration space with every field of virtio 1.3. */
#define VUBLK_BLK_CONFIG_BYTES 96
/*
 * The size that older peers use. Their configuration space ends with write_zeroes_may_unmap and its
 * padding.
 */
#define VUBLK_BLK_CONFIG_OLD_BYTES 60

#define VUBLK_BLK_WCE_OFFSET 32
#define VUBLK_BLK_ID_BYTES 20

/* The size of the text that vublk_features_list() writes. A longer list is truncated. */
#define VUBLK_FEATURE_LIST_BYTES 400

/* Writes the names and numbers of the bits in `features`, separated by commas. */
void vublk_features_list(uint64_t features, char text[VUBLK_FEATURE_LIST_BYTES]);
/*
 * Parses a set of feature bits: a number (0x2000), or names joined by + (discard+topology). Names
 * may be in upper or lower case, with or without the prefix VIRTIO_BLK_F_, VIRTIO_RING_F_ or
 * VIRTIO_F_. An empty text is the empty set. EINVAL: the text is invalid; the error text begins
 * with `name`.
 */
int vublk_features_parse(const char *name, const char *text, uint64_t *features,
			 struct vublk_error *error);

#endif
