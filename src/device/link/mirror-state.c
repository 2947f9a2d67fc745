/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Implements the property mirror-state: opens the state file of a mirror (plane/mirror-state.h),
 * and checks whether a back-end has the disk that is up to date according to the file.
 *
 * Key idea: all paths of the device lead to the same storage. So a back-end is accepted if the file
 * contains any path of the device, but never if the file says that the back-end's path leads to the
 * outdated disk. A mirror keeps the path that the file has for the disk, even if the device uses
 * another path.
 */
#include "device/device.h"

#include "util/error.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_blk.h>
#include <string.h>

#define SECTOR_BYTES 512
#define AGAIN_NS UINT64_C(5000000000) /* the time between two tries to empty a file that has
					 failed */

int vublk_device_mirror_state_open(struct vublk_device *device, struct vublk_error *error)
{
	struct vublk_mirror_state_info info;
	int r;

	if (!device->settings.mirror_state[0] || device->mirror_state)
		return 0;
	if (device->lent_fd >= 0)
		return vublk_error_set(error, EINVAL, "mirror-state needs a back-end with a path; a "
				       "device on a connected descriptor has none; remove "
				       "mirror-state");
	r = vublk_mirror_state_open(device->settings.mirror_state, &device->mirror_state, error);
	if (r < 0)
		return r;
	vublk_mirror_state_get_info(device->mirror_state, &info);
	if (info.was_repaired)
		vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING,
				  "the header of the mirror's state file '%s' was damaged, and has "
				  "been replaced by its intact second copy", device->settings.mirror_state);
	return 0;
}

void vublk_device_mirror_state_make_safe(void *opaque)
{
	struct vublk_device *device = opaque;
	struct vublk_error error;

	if (vublk_mirror_state_make_safe(device->mirror_state, &error) < 0)
		vublk_loop_timer_arm(&device->loop, &device->mirror.safe_timer,
				     vublk_now_ns() + AGAIN_NS);
}

void vublk_device_mirror_state_close(struct vublk_device *device)
{
	struct vublk_error error;

	vublk_loop_timer_disarm(&device->mirror.safe_timer);
	if (vublk_mirror_state_make_safe(device->mirror_state, &error) < 0)
		vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING, "%s", error.text);
	vublk_mirror_state_close(device->mirror_state);
	device->mirror_state = NULL;
}

/* Fills `disk` with `path` and the size that the back-end in use has reported. */
static int get_disk(const struct vublk_device *device, const char *path,
		    struct vublk_mirror_state_disk *disk, struct vublk_error *error)
{
	const struct virtio_blk_config *config = (const void *)device->backend_config;

	return vublk_mirror_state_disk_init(disk, path, NULL,
					    le64toh(config->capacity) * SECTOR_BYTES, error);
}

/* Returns whether the file says that `disk` is out of date. */
static bool is_stale(const struct vublk_device *device, const struct vublk_mirror_state_disk *disk)
{
	struct vublk_mirror_state_info info;

	vublk_mirror_state_get_info(device->mirror_state, &info);
	return !strcmp(info.disks[!info.authoritative].path, disk->path);
}

/*
 * Stores in `disk` the path that the file has for the disk that is up to date, if this is a path of
 * the device. Otherwise returns false.
 */
static bool find_valid_path(const struct vublk_device *device, struct vublk_mirror_state_disk *disk)
{
	struct vublk_mirror_state_disk other;

	for (unsigned i = 0; i < vublk_device_num_paths(device); i++) {
		if (get_disk(device, device->settings.chardevs[i], &other, NULL) < 0 ||
		    vublk_mirror_state_admit(device->mirror_state, &other, NULL) < 0)
			continue;
		*disk = other;
		return true;
	}
	return false;
}

/*
 * Fills `disk` with the disk of the back-end in use. If the active path is not in the file, `disk`
 * gets the path that the file has for the disk that is up to date. Errors: those of
 * vublk_mirror_state_admit().
 */
static int find_disk(const struct vublk_device *device, struct vublk_mirror_state_disk *disk,
		     struct vublk_error *error)
{
	int r = get_disk(device, vublk_device_path(device), disk, error);

	if (!r)
		r = vublk_mirror_state_admit(device->mirror_state, disk, error);
	return r == -ESTALE && !is_stale(device, disk) && find_valid_path(device, disk) ? 0 : r;
}

int vublk_device_mirror_state_check(const struct vublk_device *device, struct vublk_error *error)
{
	struct vublk_mirror_state_disk disk;
	int r = device->mirror_state ? find_disk(device, &disk, error) : 0;

	return r == -EIO ? 0 : r; /* the file failed in this process, and the device has logged that */
}

int vublk_device_mirror_state_begin(struct vublk_device *device, const char *target, bool *resumed,
				    struct vublk_error *error)
{
	struct vublk_mirror_state_disk from, to;
	uint64_t region_bytes = VUBLK_PLANE_MIRROR_REGION_BYTES;
	int r;

	*resumed = false;
	if (!device->mirror_state)
		return 0;
	r = find_disk(device, &from, error);
	if (!r)
		r = get_disk(device, target, &to, error);
	while (!r && from.bytes / region_bytes >= VUBLK_PLANE_MIRROR_MAX_REGIONS)
		region_bytes *= 2;
	return r < 0 ? r : vublk_mirror_state_begin(device->mirror_state, &from, &to, region_bytes,
						    resumed, error);
}

int vublk_device_mirror_state_record(struct vublk_device *device, struct vublk_error *error)
{
	const struct vublk_mirror_state_disk *from, *to;
	struct vublk_mirror_state_disk now;
	struct vublk_mirror_state_info info;
	bool resumed;
	int r = get_disk(device, vublk_device_path(device), &now, error);

	if (r < 0)
		return r;
	vublk_mirror_state_get_info(device->mirror_state, &info);
	from = &info.disks[info.authoritative];
	to = &info.disks[!info.authoritative];
	if (now.bytes != from->bytes)
		return vublk_error_set(error, EINVAL, "the disk has %" PRIu64 " bytes, but had %"
				       PRIu64 " when the mirror began", now.bytes, from->bytes);
	r = vublk_mirror_state_begin(device->mirror_state, from, to, info.region_bytes, &resumed, error);
	return r < 0 ? r : vublk_plane_thread_record_for_mirror(device->shadow.thread,
								device->mirror_state, error);
}
