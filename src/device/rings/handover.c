/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The state that a bus carries over from one session of the driver to the next: the in-flight area,
 * and the position of each ring. If a VMM sets up the queues one by one, or has an area of its own,
 * the bus ends the session and begins another one with the same area and positions.
 *
 * Key idea: an area that the bus gives is treated like an area that was loaded (save/). Only the
 * plane, or a back-end that reads the area, can resume the requests that the area records as begun.
 * Without either, resume.c refuses to guess.
 *
 * Specification: "Inflight I/O tracking".
 */
#include "device/device.h"

#include "proto/vhost-user/inflight.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/struct.h"
#include "util/fd.h"
#include "util/memfd.h"
#include "util/memory-file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

/* --- the area ------------------------------------------------------------------------- */

static int check_area(const struct vublk_device *device, const struct vublk_device_inflight *area,
		      struct vublk_error *error)
{
	uint64_t least = area->num_queues * vublk_inflight_split_least_bytes(area->queue_size);
	struct vublk_memory_file file;
	int r;

	if (!area->num_queues || area->num_queues > device->num_queues || !area->queue_size ||
	    area->queue_size > VUBLK_MAX_QUEUE_SIZE)
		return vublk_error_set(error, EINVAL,
				       "the in-flight area is for %u queues of %u entries, but the "
				       "device has %u queues of at most %u entries",
				       area->num_queues, area->queue_size,
				       device->num_queues, VUBLK_MAX_QUEUE_SIZE);
	if (area->size_bytes < least)
		return vublk_error_set(error, EINVAL,
				       "the in-flight area has %" PRIu64 " bytes, but %u queues of "
				       "%u entries need at least %" PRIu64, area->size_bytes,
				       area->num_queues, area->queue_size, least);
	r = vublk_memory_file_check(area->fd, area->offset, area->size_bytes, &file, error);
	if (r < 0)
		vublk_error_prepend(error, "the in-flight area");
	return r;
}

/*
 * Reads `bytes` bytes of a file. Returns 0 or a negative errno; -EIO: the file is too short,
 * because its owner has truncated it.
 */
static int read_whole(int fd, uint64_t offset, void *to, uint64_t bytes)
{
	char *at = to;

	while (bytes) {
		ssize_t n = pread(fd, at, bytes, (off_t)offset);

		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		at += n;
		offset += (uint64_t)n;
		bytes -= (uint64_t)n;
	}
	return 0;
}

/*
 * Reads the part of the area that belongs to queue `index`. Does not map the file, because the
 * owner of the file may truncate it at any time. Error: ENOTSUP if the layout is unknown.
 */
static int read_region(const struct vublk_device_inflight *area, unsigned index,
		       struct vublk_inflight_split *region, struct vublk_error *error)
{
	uint64_t stride = vublk_inflight_split_stride(area->size_bytes, area->num_queues,
						      area->queue_size);
	int r = read_whole(area->fd, area->offset + index * stride, region,
			   vublk_inflight_split_least_bytes(area->queue_size));

	if (r < 0)
		return vublk_error_set_errno(error, -r, "cannot read the in-flight area");
	if (!region->features)
		return 0;
	return vublk_error_set(error, ENOTSUP,
			       "the in-flight area has the features 0x%" PRIx64 " for queue %u; "
			       "only 0 (split ring) is supported", region->features, index);
}

static int count_begun(const struct vublk_device_inflight *area, unsigned *begun,
		       struct vublk_error *error)
{
	struct vublk_inflight_split *region =
		malloc(vublk_inflight_split_least_bytes(area->queue_size));
	int r = 0;

	if (!region)
		return vublk_error_set_errno(error, ENOMEM, "cannot allocate memory to check the "
					     "in-flight area");
	*begun = 0;
	for (unsigned i = 0; i < area->num_queues && !r; i++) {
		r = read_region(area, i, region, error);
		for (unsigned k = 0; k < area->queue_size && !r; k++)
			*begun += region->desc[k].inflight != 0;
	}
	free(region);
	return r;
}

int vublk_device_count_inflight(const struct vublk_device *device, unsigned *begun,
				struct vublk_error *error)
{
	return count_begun(&device->inflight, begun, error);
}

int vublk_device_set_inflight(struct vublk_device *device,
			      const struct vublk_device_inflight *given, size_t given_bytes,
			      struct vublk_error *error)
{
	int r = vublk_device_require_set_up(device, "setting the in-flight area", error);
	struct vublk_device_inflight area;
	unsigned begun = 0;

	if (!r)
		r = vublk_struct_needs(struct vublk_device_inflight, fd, given, given_bytes, error);
	if (!r)
		r = vublk_struct_in(&area, sizeof(area), given, given_bytes,
				    "vublk_device_inflight", error);
	if (!r)
		r = check_area(device, &area, error);
	if (!r)
		r = count_begun(&area, &begun, error);
	if (r < 0)
		return r;
	area.fd = fcntl(area.fd, F_DUPFD_CLOEXEC, 0);
	if (area.fd < 0)
		return vublk_error_set_errno(error, errno, "cannot duplicate the in-flight area's "
					     "descriptor");
	vublk_device_drop_inflight(device);
	device->inflight = area;
	device->resume = begun ? VUBLK_DEVICE_RESUME_INFLIGHT : VUBLK_DEVICE_RESUME_NOTHING;
	return 0;
}

/* --- making an area ------------------------------------------------------------------------- */

void vublk_device_note_inflight_layout(struct vublk_device *device,
				       const struct vublk_device_inflight *area)
{
	device->has_tight_areas = area->size_bytes ==
		area->num_queues * vublk_inflight_split_least_bytes(area->queue_size);
}

static void on_made(void *opaque, const struct vublk_error *error)
{
	struct vublk_device *device = opaque;
	struct vublk_device_inflight made = device->made_inflight;

	device->made_inflight.fd = -1;
	device->inflight_under_way = false;
	if (!error)
		vublk_device_note_inflight_layout(device, &made);
	vublk_device_post_update(device); /* a start may wait for the area */
	if (device->ops->inflight_made)
		device->ops->inflight_made(device->bus, error ? NULL : &made, sizeof(made), error);
	vublk_fd_close(&made.fd);
}

/*
 * Makes an area in this process, with the layout of the last area that a back-end accepted or made.
 */
static int make_here(const struct vublk_device *device, struct vublk_device_inflight *area,
		     struct vublk_error *error)
{
	area->offset = 0;
	area->size_bytes = device->has_tight_areas ?
		area->num_queues * vublk_inflight_split_least_bytes(area->queue_size) :
		vublk_inflight_split_area_bytes(area->num_queues, area->queue_size);
	area->fd = vublk_memfd_new("vublk-inflight", area->size_bytes, error);
	return area->fd < 0 ? area->fd : 0;
}

static int make_inflight(struct vublk_device *device, struct vublk_device_inflight *area,
			 struct vublk_error *error)
{
	if (!area->num_queues || area->num_queues > device->num_queues || !area->queue_size ||
	    area->queue_size > VUBLK_MAX_QUEUE_SIZE)
		return vublk_error_set(error, EINVAL,
				       "an in-flight area for %u queues of %u entries was "
				       "requested, but the device has %u queues of at most %u "
				       "entries", area->num_queues,
				       area->queue_size, device->num_queues, VUBLK_MAX_QUEUE_SIZE);
	if (device->inflight_under_way)
		return vublk_error_set(error, EBUSY, "another in-flight area is being made; wait for "
				       "inflight_made()");
	if (device->state != VUBLK_DEVICE_STOPPED ||
	    (vublk_device_records_requests(device) && !vublk_device_backend_records(device)))
		return make_here(device, area, error);
	if (!vublk_device_backend_records(device))
		return vublk_error_set(error, ENOTSUP,
				       "the device has no in-flight area, because the back-end "
				       "does not offer INFLIGHT_SHMFD or the property inflight is "
				       "off");
	vublk_fd_close(&device->made_inflight.fd);
	device->inflight_under_way = true;
	device->made_inflight = (struct vublk_device_inflight){
		.fd = -1,
		.num_queues = area->num_queues,
		.queue_size = area->queue_size,
	};
	vublk_frontend_get_inflight(&device->frontend, &device->made_inflight, on_made, device);
	return 1;
}

int vublk_device_make_inflight(struct vublk_device *device, struct vublk_device_inflight *given,
			       size_t given_bytes, struct vublk_error *error)
{
	struct vublk_device_inflight area;
	int r = vublk_struct_in(&area, sizeof(area), given, given_bytes, "vublk_device_inflight",
				error);

	if (!r)
		r = make_inflight(device, &area, error);
	if (!r)
		vublk_struct_out(given, given_bytes, &area, sizeof(area));
	return r;
}

int vublk_device_get_inflight(const struct vublk_device *device,
			      struct vublk_device_inflight *area, size_t area_bytes)
{
	if (device->inflight.fd < 0)
		return -ENOENT;
	vublk_struct_out(area, area_bytes, &device->inflight, sizeof(device->inflight));
	return 0;
}

/* --- the rings ------------------------------------------------------------------------- */

int vublk_device_queue_place(const struct vublk_device *device, unsigned index,
			     struct vublk_device_place *out, size_t out_bytes,
			     struct vublk_error *error)
{
	struct vublk_device_place place = { 0 };
	uint16_t used, avail;
	int r;

	if (index >= device->num_queues || !device->queues[index].size)
		return vublk_error_set(error, EINVAL, "queue %u is not set up", index);
	r = vublk_device_read_indices(device, index, &used, &avail, error);
	if (r < 0) {
		vublk_error_prepend(error, "queue %u", index);
		return r;
	}
	place.is_known = device->resume != VUBLK_DEVICE_RESUME_RINGS &&
			  device->resume != VUBLK_DEVICE_RESUME_NEVER;
	place.base = place.is_known ? device->bases[index] : used;
	place.outstanding = vublk_device_count_outstanding(device, index, used, avail);
	place.undrained = place.is_known ? vublk_device_count_undrained(device, index, used) : 0;
	vublk_struct_out(out, out_bytes, &place, sizeof(place));
	return 0;
}
