/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Decides whether a new back-end can replace a lost one. Compares the new back-end's offer with
 * what the driver relies on: the features that it has accepted, the number of queues, and the
 * limits in the config.
 *
 * Key idea: the new offer may contain more than the driver relies on, but not less. A driver that
 * has not accepted features yet relies only on the number of queues.
 */
#include "device/device.h"

#include "util/checked.h"
#include "util/error.h"
#include "virtio/blk-format.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_blk.h>
#include <stddef.h>
#include <string.h>

/* --- features ------------------------------------------------------------------------------ */

static int check_features(const struct vublk_device *device,
			  const struct vublk_device_reliance *reliance, struct vublk_error *error)
{
	uint64_t missing = reliance->accepted & ~device->features;
	char names[VUBLK_FEATURE_LIST_BYTES];

	/*
	 * Read-only is checked first, because a read-only back-end also lacks the features for
	 * writing, and the error should name the cause. A driver that never accepts RO (SeaBIOS)
	 * may use any read-only back-end if the previous one was read-only, too.
	 */
	if (reliance->has_accepted && device->features & VUBLK_BIT(VIRTIO_BLK_F_RO) &&
	    !(reliance->accepted & VUBLK_BIT(VIRTIO_BLK_F_RO)) && !reliance->was_read_only)
		return vublk_error_set(error, EROFS,
				       "the back-end is read-only, but the previous one was "
				       "writable; use a writable back-end");
	if (missing & VUBLK_BIT(VIRTIO_BLK_F_RO))
		return vublk_error_set(error, ENOTSUP,
				       "the back-end is writable, but the driver relies on a "
				       "read-only disk; set read-only=on or use a read-only "
				       "back-end");
	vublk_features_list(missing, names);
	if (missing)
		return vublk_error_set(error, ENOTSUP,
				       "the back-end does not offer %s, which the driver accepted "
				       "from the previous back-end; use a back-end that does",
				       names);
	return 0;
}

/* --- limits ----------------------------------------------------------------------------------- */

#define LIMIT(feature, field, exact) \
	{ feature, offsetof(struct virtio_blk_config, field), exact, #field }

/* The config fields that a driver reads once and relies on. */
static const struct {
	unsigned feature;
	unsigned offset; /* of the field in the config; the field has 32 bits */
	bool exact;      /* the value must stay the same; false: it may grow */
	const char *name;
} limits[] = {
	LIMIT(VIRTIO_BLK_F_SIZE_MAX, size_max, false),
	LIMIT(VIRTIO_BLK_F_SEG_MAX, seg_max, false),
	LIMIT(VIRTIO_BLK_F_BLK_SIZE, blk_size, true),
	LIMIT(VIRTIO_BLK_F_DISCARD, max_discard_sectors, false),
	LIMIT(VIRTIO_BLK_F_DISCARD, max_discard_seg, false),
	LIMIT(VIRTIO_BLK_F_WRITE_ZEROES, max_write_zeroes_sectors, false),
	LIMIT(VIRTIO_BLK_F_WRITE_ZEROES, max_write_zeroes_seg, false),
};

static uint32_t read_limit(const uint8_t *config, unsigned offset)
{
	uint32_t value;

	memcpy(&value, config + offset, sizeof(value));
	return le32toh(value);
}

int vublk_device_check_limits_of(const struct vublk_device_reliance *reliance,
				 const uint8_t *config, struct vublk_error *error)
{
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(limits); i++) {
		uint32_t was = read_limit(reliance->config, limits[i].offset);
		uint32_t is = read_limit(config, limits[i].offset);

		if (!(reliance->accepted & VUBLK_BIT(limits[i].feature)) || is == was ||
		    (!limits[i].exact && is > was))
			continue;
		return vublk_error_set(error, ENOTSUP,
				       "the back-end reports %u for %s, but the driver relies on "
				       "%s%u", is, limits[i].name,
				       limits[i].exact ? "" : "at least ", was);
	}
	return 0;
}

static int check_queues(const struct vublk_device *device, struct vublk_error *error)
{
	if (device->num_queues <= device->frontend.info.max_queues)
		return 0;
	return vublk_error_set(error, ENOTSUP, "the back-end has %u queue%s, but the device has "
			       "%u; give the back-end more queues",
			       (unsigned)device->frontend.info.max_queues,
			       device->frontend.info.max_queues == 1 ? "" : "s", device->num_queues);
}

/*
 * If the path has changed, checks that the disk is not smaller than before. All paths lead to the
 * same storage, so a smaller disk at another path is a mistake. At the same path, the disk may have
 * become smaller, and the driver is notified of the change.
 */
static int check_size(const struct vublk_device *device, const uint8_t *before,
		      struct vublk_error *error)
{
	const struct virtio_blk_config *was = (const void *)before;
	const struct virtio_blk_config *is = (const void *)device->config;

	if (device->paths.active == device->paths.last ||
	    le64toh(is->capacity) >= le64toh(was->capacity))
		return 0;
	return vublk_error_set(error, EINVAL, "the back-end has %" PRIu64 " sectors, but the disk "
			       "had %" PRIu64 "; all paths must lead to the same storage",
			       le64toh(is->capacity),
			       le64toh(was->capacity));
}

/* --- both ---------------------------------------------------------------------------------- */

int vublk_device_check_reliance(const struct vublk_device *device,
			       const struct vublk_device_reliance *reliance,
			       struct vublk_error *error)
{
	int r = check_features(device, reliance, error);

	return r || !reliance->config ? r :
	       vublk_device_check_limits_of(reliance, device->config, error);
}

/*
 * Returns whether the driver can turn the write cache on and off. If so, the new back-end must be
 * given the driver's setting.
 */
static bool keeps_wce(const struct vublk_device *device)
{
	return device->acked_features & VUBLK_BIT(VIRTIO_BLK_F_CONFIG_WCE);
}

static int take(struct vublk_device *device, const struct vublk_device_reliance *reliance,
		struct vublk_error *error)
{
	int r = check_queues(device, error);

	if (!r)
		r = vublk_device_take_config(device, device->frontend.config, error);
	if (!r)
		r = check_size(device, reliance->config, error);
	if (!r)
		r = vublk_device_mirror_state_check(device, error);
	if (!r)
		r = vublk_device_check_reliance(device, reliance, error);
	if (!r)
		r = vublk_device_replay_check_backend(device, error);
	if (!r && vublk_device_dirty_log_of_start(device))
		r = vublk_device_dirty_log_check_backend(device, error);
	return r;
}

int vublk_device_take_offer(struct vublk_device *device, struct vublk_error *error)
{
	uint64_t features_before = device->features;
	uint8_t before[VUBLK_BLK_CONFIG_BYTES], theirs_before[VUBLK_BLK_CONFIG_BYTES];
	struct vublk_device_reliance reliance = {
		.has_accepted = device->has_acked_features,
		.accepted = device->acked_features,
		.was_read_only = features_before & VUBLK_BIT(VIRTIO_BLK_F_RO),
		.config = before,
	};
	int r;

	memcpy(before, device->config, sizeof(before));
	memcpy(theirs_before, device->backend_config, sizeof(theirs_before));
	device->features = vublk_device_offer_features(device);
	r = take(device, &reliance, error);
	if (r < 0) {
		device->features = features_before;
		memcpy(device->config, before, sizeof(before));
		memcpy(device->backend_config, theirs_before, sizeof(theirs_before));
		return r;
	}
	if (keeps_wce(device))
		device->config[VUBLK_BLK_WCE_OFFSET] = before[VUBLK_BLK_WCE_OFFSET];
	if (memcmp(before, device->config, sizeof(before)))
		device->reconnect.config_changed = true;
	return 0;
}
