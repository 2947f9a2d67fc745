/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_BLK_FORMAT_H
#define VUBLK_VIRTIO_BLK_FORMAT_H

/*
 * Definitions of virtio-blk (virtio 1.3, section 5.2) that the kernel's <linux/virtio_blk.h> lacks.
 * vublk_feature_name() of <vublk/device.h> returns the names of the feature bits.
 */

#include <linux/virtio_blk.h>
#include <stdint.h>

#define VUBLK_SECTOR_BYTES 512
#define VUBLK_SECTOR_SHIFT 9

/* Bits of the specification that kernel headers lack, or that only newer kernel headers have. */
#define VUBLK_BLK_F_LIFETIME 15
#define VUBLK_BLK_F_SECURE_ERASE 16
#define VUBLK_BLK_F_ZONED 17
#define VUBLK_VIRTIO_F_IN_ORDER 35
#define VUBLK_VIRTIO_F_NOTIFICATION_DATA 38
#define VUBLK_VIRTIO_F_RING_RESET 40

/* The configuration space with every field of virtio 1.3. */
#define VUBLK_BLK_CONFIG_BYTES 96
/*
 * The size of the configuration space of older peers, which ends with write_zeroes_may_unmap and
 * its padding.
 */
#define VUBLK_BLK_CONFIG_OLD_BYTES 60

#define VUBLK_BLK_WCE_OFFSET 32
#define VUBLK_BLK_ID_BYTES 20

#endif
