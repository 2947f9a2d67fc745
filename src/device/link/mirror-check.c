/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Decides whether a back-end can be the target of a mirror: it has to be large enough for the whole
 * disk, and the driver must be able to continue with it.
 */
#include "device/device.h"

#include "util/checked.h"
#include "util/error.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_blk.h>

static uint64_t sectors_of(const uint8_t *config)
{
	return le64toh(((const struct virtio_blk_config *)(const void *)config)->capacity);
}

static int check_features(const struct vublk_device *device, struct vublk_error *error)
{
	const struct vublk_frontend_info *info = &device->mirror.frontend.info;
	uint64_t missing = device->acked_features & ~info->features & ~VUBLK_BIT(VIRTIO_BLK_F_RO);
	char names[VUBLK_FEATURE_LIST_BYTES];

	if (info->features & VUBLK_BIT(VIRTIO_BLK_F_RO))
		return vublk_error_set(error, EROFS, "it is read-only; export it writable");
	if (device->features & VUBLK_BIT(VIRTIO_BLK_F_RO) && !device->settings.read_only)
		return vublk_error_set(error, ENOTSUP, "it is writable, but the driver was shown a "
				       "read-only disk; start the device with read-only=on");
	if (!missing)
		return 0;
	vublk_features_list(missing, names);
	return vublk_error_set(error, ENOTSUP, "it does not offer %s, which the driver has "
			       "accepted; use a back-end that does, or start the device with "
			       "the property that hides it", names);
}

int vublk_device_mirror_check(const struct vublk_device *device, struct vublk_error *error)
{
	const struct vublk_frontend *frontend = &device->mirror.frontend;
	const struct vublk_device_reliance reliance = {
		.has_accepted = device->has_acked_features,
		.accepted = device->acked_features,
		.config = device->config,
	};
	uint64_t has = sectors_of(frontend->config), needs = sectors_of(device->config);
	int r = check_features(device, error);

	if (r < 0)
		return r;
	if (has < needs)
		return vublk_error_set(error, ENOSPC, "it has %" PRIu64 " bytes, but the disk "
				       "has %" PRIu64 " bytes; make it at least as large",
				       has << VUBLK_SECTOR_SHIFT, needs << VUBLK_SECTOR_SHIFT);
	if (frontend->info.max_queues < device->num_queues)
		return vublk_error_set(error, ENOTSUP, "it has %u queue%s, but the device has %u; "
				       "give it more queues",
				       (unsigned)frontend->info.max_queues,
				       frontend->info.max_queues == 1 ? "" : "s", device->num_queues);
	return vublk_device_check_limits_of(&reliance, frontend->config, error);
}
