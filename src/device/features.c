/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The virtio features that the device offers, and those that the driver has accepted. The names of
 * the bits are in virtio/blk-format.c.
 *
 * Key idea: a feature is offered if it is in the list below, the back-end offers it, and no
 * property hides it. Features that the device does not support (packed rings, in-order, ring reset,
 * translation, notification data) are not in the list. RO is an exception: the property read-only
 * adds it to the offer. Of the features that the driver accepts, the device sends the back-end only
 * those that the back-end has offered.
 */
#include "device/device.h"

#include "util/checked.h"
#include "util/error.h"
#include "virtio/blk-format.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stddef.h>
#include <string.h>

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

#define FIELDS(bit, first, next) \
	{ bit, offsetof(struct virtio_blk_config, first), offsetof(struct virtio_blk_config, next) }

/*
 * The config fields of each feature: the bytes from `begin` up to, but not including, `end`. A
 * feature is offered only if the back-end's config is long enough to contain these fields.
 */
static const struct {
	unsigned bit;
	unsigned begin, end;
} fields[] = {
	FIELDS(VIRTIO_BLK_F_SIZE_MAX, size_max, seg_max),
	FIELDS(VIRTIO_BLK_F_SEG_MAX, seg_max, geometry),
	FIELDS(VIRTIO_BLK_F_GEOMETRY, geometry, blk_size),
	FIELDS(VIRTIO_BLK_F_BLK_SIZE, blk_size, physical_block_exp),
	FIELDS(VIRTIO_BLK_F_TOPOLOGY, physical_block_exp, wce),
	FIELDS(VIRTIO_BLK_F_CONFIG_WCE, wce, unused),
	FIELDS(VIRTIO_BLK_F_DISCARD, max_discard_sectors, max_write_zeroes_sectors),
	FIELDS(VIRTIO_BLK_F_WRITE_ZEROES, max_write_zeroes_sectors, unused1),
	{ VUBLK_BLK_F_SECURE_ERASE, 60, 72 },
};

/*
 * Features for requests that change the disk. A read-only device hides them, as a read-only `vublk
 * serve` does.
 */
#define WRITING_FEATURES \
	(VUBLK_BIT(VIRTIO_BLK_F_DISCARD) | VUBLK_BIT(VIRTIO_BLK_F_WRITE_ZEROES) | \
	 VUBLK_BIT(VUBLK_BLK_F_SECURE_ERASE))

static uint64_t bit_unless(bool wanted, unsigned bit)
{
	return wanted ? 0 : VUBLK_BIT(bit);
}

static uint64_t bits_of_device(void)
{
	uint64_t features = 0;

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(device_bits); i++)
		features |= VUBLK_BIT(device_bits[i]);
	return features;
}

/* --- policy ------------------------------------------------------------------------------- */

uint64_t vublk_device_hidden_features(const struct vublk_device_settings *settings)
{
	return settings->features_off | (settings->read_only ? WRITING_FEATURES : 0) |
	       bit_unless(settings->config_wce, VIRTIO_BLK_F_CONFIG_WCE) |
	       bit_unless(settings->discard, VIRTIO_BLK_F_DISCARD) |
	       bit_unless(settings->write_zeroes, VIRTIO_BLK_F_WRITE_ZEROES) |
	       bit_unless(settings->event_idx, VIRTIO_RING_F_EVENT_IDX) |
	       bit_unless(settings->indirect_desc, VIRTIO_RING_F_INDIRECT_DESC);
}

/*
 * To the back-end, a hidden feature looks like one that the driver has declined. A driver may
 * decline every feature except two: VERSION_1, without which the device does not use a back-end,
 * and RO, without which a driver would write to a read-only disk.
 */
int vublk_device_check_features_off(const struct vublk_device_settings *settings,
				    struct vublk_error *error)
{
	uint64_t hideable = bits_of_device() & ~VUBLK_BIT(VIRTIO_F_VERSION_1) &
			    ~VUBLK_BIT(VIRTIO_BLK_F_RO);
	char names[VUBLK_FEATURE_LIST_BYTES];

	if (settings->features_off & ~hideable) {
		vublk_features_list(settings->features_off & ~hideable, names);
		return vublk_error_set(error, EINVAL,
				       "features-off contains %s, which the device either requires "
				       "or never offers; remove it from features-off", names);
	}
	if (settings->features_off & VUBLK_BIT(VIRTIO_BLK_F_MQ) &&
	    settings->num_queues != VUBLK_DEVICE_AUTO && settings->num_queues > 1)
		return vublk_error_set(error, EINVAL,
				       "features-off hides VIRTIO_BLK_F_MQ, without which a driver "
				       "uses only one queue, but num-queues is %u; set num-queues "
				       "to 1",
				       (unsigned)settings->num_queues);
	return 0;
}

/* --- the offer ---------------------------------------------------------------------------- */

uint64_t vublk_device_offer_features(const struct vublk_device *device)
{
	uint64_t features = bits_of_device() & device->frontend.info.features;

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(fields); i++)
		features &= ~bit_unless(device->frontend.info.config_bytes >= fields[i].end,
					fields[i].bit);
	features &= ~bit_unless(device->num_queues > 1, VIRTIO_BLK_F_MQ);
	features &= ~vublk_device_hidden_features(&device->settings);
	return device->settings.read_only ? features | VUBLK_BIT(VIRTIO_BLK_F_RO) : features;
}

/*
 * The byte `wce` keeps its value even if its feature is not offered, because after a reconnection
 * the device compares this byte with that of the next back-end.
 */
void vublk_device_clear_fields(const struct vublk_device *device,
			       uint8_t config[VUBLK_BLK_CONFIG_BYTES])
{
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(fields); i++)
		if (fields[i].bit != VIRTIO_BLK_F_CONFIG_WCE &&
		    !(device->features & VUBLK_BIT(fields[i].bit)))
			memset(config + fields[i].begin, 0, fields[i].end - fields[i].begin);
}

uint64_t vublk_device_features(const struct vublk_device *device)
{
	return device->features;
}

/*
 * Whether legacy and modern drivers use the same format of rings and requests. On a little-endian
 * machine they do, and the device tells the back-end that every driver is modern, because some
 * back-ends accept no legacy driver.
 */
static const bool legacy_is_the_same = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;

bool vublk_device_has_legacy_driver(const struct vublk_device *device)
{
	return device->has_acked_features &&
	       !(device->acked_features & VUBLK_BIT(VIRTIO_F_VERSION_1));
}

uint64_t vublk_device_session_features(const struct vublk_device *device)
{
	uint64_t features = device->acked_features;

	if (device->shadow.adds_flush)
		features |= VUBLK_BIT(VIRTIO_BLK_F_FLUSH);
	/*
	 * Leaves out features that the back-end has not offered, because RO may come from the
	 * property read-only.
	 */
	return (features & device->frontend.info.features) | VUBLK_BIT(VIRTIO_F_VERSION_1);
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
				       "the driver did not accept VIRTIO_F_VERSION_1; legacy "
				       "drivers are supported only on little-endian machines");
	bit = (unsigned)__builtin_ctzll(unknown);
	return vublk_error_set(error, EINVAL,
			       "the driver accepted feature bit %u (%s), which was not offered "
			       "(offered: 0x%" PRIx64 ")", bit,
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
