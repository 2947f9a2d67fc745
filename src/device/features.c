/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file handles the virtio features that the device offers and those that the driver has
 * accepted. Names of feature bits are in virtio/blk-format.c.
 *
 * Key idea: each feature needs the back-end. It is offered if it is in the list below, the
 * back-end offers it, and no property disables it. Features that the device does not support
 * (packed rings, in-order, ring reset, translation, notification data) are not in the list.
 */
#include "device/device.h"

#include "util/checked.h"
#include "util/error.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stddef.h>

static const unsigned device_bits[] = {
	VIRTIO_BLK_F_SIZE_MAX,
	VIRTIO_BLK_F_SEG_MAX,
	VIRTIO_BLK_F_GEOMETRY,
	VIRTIO_BLK_F_RO,
	VIRTIO_BLK_F_BLK_SIZE,
	VIRTIO_BLK_F_FLUSH,
	VIRTIO_BLK_F_TOPOLOGY,
	VIRTIO_BLK_F_CONFIG_WCE,
	VIRTIO_BLK_F_MQ,
	VIRTIO_BLK_F_DISCARD,
	VIRTIO_BLK_F_WRITE_ZEROES,
	VUBLK_BLK_F_SECURE_ERASE,
	VIRTIO_F_NOTIFY_ON_EMPTY,
	VIRTIO_F_ANY_LAYOUT,
	VIRTIO_RING_F_INDIRECT_DESC,
	VIRTIO_RING_F_EVENT_IDX,
	VIRTIO_F_VERSION_1,
};

/* A feature whose config fields the back-end does not have cannot be offered. */
static const struct {
	unsigned bit;
	unsigned needs_bytes;
} needs_config[] = {
	{ VIRTIO_BLK_F_SIZE_MAX, offsetof(struct virtio_blk_config, seg_max) },
	{ VIRTIO_BLK_F_SEG_MAX, offsetof(struct virtio_blk_config, geometry) },
	{ VIRTIO_BLK_F_GEOMETRY, offsetof(struct virtio_blk_config, blk_size) },
	{ VIRTIO_BLK_F_BLK_SIZE, offsetof(struct virtio_blk_config, physical_block_exp) },
	{ VIRTIO_BLK_F_TOPOLOGY, offsetof(struct virtio_blk_config, wce) },
	{ VIRTIO_BLK_F_CONFIG_WCE, offsetof(struct virtio_blk_config, unused) },
	{ VIRTIO_BLK_F_DISCARD, offsetof(struct virtio_blk_config, max_write_zeroes_sectors) },
	{ VIRTIO_BLK_F_WRITE_ZEROES, offsetof(struct virtio_blk_config, unused1) },
	{ VUBLK_BLK_F_SECURE_ERASE, 72 },
};

static uint64_t without(uint64_t features, bool wanted, unsigned bit)
{
	return wanted ? features : features & ~VUBLK_BIT(bit);
}

static uint64_t bits_of_device(void)
{
	uint64_t features = 0;

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(device_bits); i++)
		features |= VUBLK_BIT(device_bits[i]);
	return features;
}

uint64_t vublk_device_offer_features(const struct vublk_device *device)
{
	const struct vublk_device_settings *settings = &device->settings;
	uint64_t features = bits_of_device() & device->frontend.info.features;

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(needs_config); i++)
		features = without(features,
				   device->frontend.info.config_bytes >= needs_config[i].needs_bytes,
				   needs_config[i].bit);
	features = without(features, device->num_queues > 1, VIRTIO_BLK_F_MQ);
	features = without(features, settings->config_wce, VIRTIO_BLK_F_CONFIG_WCE);
	features = without(features, settings->discard, VIRTIO_BLK_F_DISCARD);
	features = without(features, settings->write_zeroes, VIRTIO_BLK_F_WRITE_ZEROES);
	features = without(features, settings->event_idx, VIRTIO_RING_F_EVENT_IDX);
	features = without(features, settings->indirect_desc, VIRTIO_RING_F_INDIRECT_DESC);
	return features;
}

uint64_t vublk_device_features(const struct vublk_device *device)
{
	return device->features;
}

/*
 * On a little-endian machine the rings and requests of a legacy driver are those of a modern
 * one. So the back-end is told that the driver is modern, because some back-ends accept no
 * other.
 */
static const bool legacy_is_the_same = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;

bool vublk_device_has_legacy_driver(const struct vublk_device *device)
{
	return device->has_acked_features &&
	       !(device->acked_features & VUBLK_BIT(VIRTIO_F_VERSION_1));
}

uint64_t vublk_device_session_features(const struct vublk_device *device)
{
	return device->acked_features | VUBLK_BIT(VIRTIO_F_VERSION_1);
}

static int check_acked(const struct vublk_device *device, uint64_t features,
		       struct vublk_error *error)
{
	uint64_t unknown = features & ~device->features;
	unsigned bit;

	if (!unknown && (features & VUBLK_BIT(VIRTIO_F_VERSION_1) || legacy_is_the_same))
		return 0;
	if (!unknown)
		return vublk_error_set(error, ENOTSUP,
				       "the driver did not accept VIRTIO_F_VERSION_1; a legacy "
				       "driver is supported on little-endian machines only");
	bit = (unsigned)__builtin_ctzll(unknown);
	return vublk_error_set(error, EINVAL,
			       "the driver accepted feature bit %u (%s), which was not offered "
			       "(0x%" PRIx64 ")", bit,
			       vublk_feature_name(bit) ? vublk_feature_name(bit) : "no name",
			       device->features);
}

int vublk_device_ack_features(struct vublk_device *device, uint64_t features,
			      struct vublk_error *error)
{
	int r = vublk_device_require_set_up(device, "accepting features", error);

	if (!r)
		r = check_acked(device, features, error);
	if (r < 0)
		return r;
	device->acked_features = features;
	device->has_acked_features = true;
	vublk_device_post_update(device);
	return 0;
}
