/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest's memory: checks the table that the bus gives, duplicates its descriptors, and keeps
 * the table until the next one replaces it. The messages are in frontend/memory.c.
 *
 * Key idea: while the rings do not run, the back-end gets new memory only with the next start. The
 * exception is the removal of all memory, which takes effect immediately if that is possible.
 */
#include "device/device.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/memory-file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <unistd.h>

void vublk_device_memory_deinit(struct vublk_frontend_memory *memory)
{
	for (unsigned i = 0; i < memory->num_regions; i++)
		vublk_fd_close(&memory->regions[i].region.fd);
	free(memory->regions);
	*memory = (struct vublk_frontend_memory){ 0 };
}

/* --- checks --------------------------------------------------------------------------- */

static int check_region(const struct vublk_memory_region *region, unsigned index,
			struct vublk_error *error)
{
	if (!region->size_bytes)
		return vublk_error_set(error, EINVAL, "memory region %u is empty; expected a size "
				       "of at least 1 byte", index);
	if (region->reserved[0] || region->reserved[1])
		return vublk_error_set(error, EINVAL, "memory region %u has a reserved member that "
				       "is not 0",
				       index);
	if (region->size_bytes - 1 > UINT64_MAX - region->guest_addr ||
	    !vublk_range_within(region->fd_offset, region->size_bytes, INT64_MAX))
		return vublk_error_set(error, EINVAL,
				       "memory region %u (at 0x%" PRIx64 ", %" PRIu64 " bytes, "
				       "file offset %" PRIu64 ") exceeds the address space or the "
				       "largest file offset", index, region->guest_addr,
				       region->size_bytes, region->fd_offset);
	return 0;
}

static int check_overlaps(const struct vublk_memory_region *regions, unsigned index,
			  struct vublk_error *error)
{
	const struct vublk_memory_region *region = &regions[index];

	for (unsigned i = 0; i < index; i++)
		if (vublk_ranges_overlap(region->guest_addr, region->size_bytes,
					 regions[i].guest_addr, regions[i].size_bytes))
			return vublk_error_set(error, EINVAL,
					       "memory regions %u and %u overlap", i, index);
	return 0;
}

static int check_slots(const struct vublk_device *device, unsigned num_regions,
		       struct vublk_error *error)
{
	/*
	 * A later start may need a slot for the plane, so a table that grows has to leave one free.
	 * A table that does not grow takes no further slot.
	 */
	bool has_plane = num_regions > device->memory.num_regions ?
			 vublk_device_plane_will_need_slot(device) :
			 vublk_device_plane_needs_slot(device);
	unsigned slots = VUBLK_MEMORY_MAX_REGIONS;

	if (vublk_device_is_connected(device))
		slots = vublk_frontend_memory_slots(&device->frontend);
	if (has_plane && slots)
		slots--;
	if (num_regions <= slots)
		return 0;
	return vublk_device_too_many_regions(num_regions, slots, has_plane, error);
}

/* --- the table --------------------------------------------------------------------------- */

static int take_region(struct vublk_frontend_memory *memory,
		       const struct vublk_memory_region *region, struct vublk_error *error)
{
	unsigned index = memory->num_regions;
	struct vublk_frontend_region *taken = &memory->regions[index];
	struct vublk_memory_file file;
	VUBLK_FD int fd = fcntl(region->fd, F_DUPFD_CLOEXEC, 0);
	int r;

	if (fd < 0)
		return vublk_error_set_errno(error, errno,
					     "cannot duplicate descriptor %d of memory region %u",
					     region->fd, index);
	r = vublk_memory_file_check(fd, region->fd_offset, region->size_bytes, &file, error);
	if (r < 0) {
		vublk_error_prepend(error, "memory region %u", index);
		return r;
	}
	taken->region = *region;
	taken->region.fd = vublk_fd_steal(&fd);
	taken->file_device = file.device;
	taken->file_inode = file.inode;
	memory->num_regions++;
	return 0;
}

static int take_table(struct vublk_frontend_memory *memory,
		      const struct vublk_memory_region *regions, unsigned num_regions,
		      struct vublk_error *error)
{
	int r = 0;

	memory->regions = calloc(num_regions ? num_regions : 1, sizeof(*memory->regions));
	if (!memory->regions)
		return vublk_error_set_errno(error, ENOMEM, "cannot allocate a memory table");
	for (unsigned i = 0; i < num_regions && !r; i++) {
		r = check_region(&regions[i], i, error);
		if (!r)
			r = check_overlaps(regions, i, error);
		if (!r)
			r = take_region(memory, &regions[i], error);
	}
	return r;
}

/* --- the call ------------------------------------------------------------------------------ */

static void on_memory_changed(void *opaque, const struct vublk_error *error)
{
	struct vublk_device *device = opaque;
	struct vublk_error own;

	if (vublk_device_shadow_change_memory(device, &own) < 0) {
		vublk_frontend_fail(&device->frontend, &own);
		return;
	}
	device->memory_change_under_way = false;
	vublk_device_switch_memory_changed(device);
	vublk_device_post_update(device); /* a start or a stop may wait for the end of this
					     change */
	if (device->ops->memory_changed)
		device->ops->memory_changed(device->bus, error);
}

static int check_state(const struct vublk_device *device, struct vublk_error *error)
{
	/*
	 * While the rings do not run, another change is permitted during a removal, because the
	 * change takes effect with the next start, which waits for the end of the removal.
	 */
	if (device->memory_change_under_way && device->state == VUBLK_DEVICE_RUNNING)
		return vublk_error_set(error, EBUSY, "another change of the guest's memory is "
				       "still under way");
	switch (device->state) {
	case VUBLK_DEVICE_STOPPED:
	case VUBLK_DEVICE_RUNNING:
	case VUBLK_DEVICE_LOST:
	case VUBLK_DEVICE_RECONNECTING:
		return 0;
	default:
		return vublk_device_forbid(device, "setting the memory", error);
	}
}

/*
 * Returns whether the device removes all memory by closing the connection and making a new one. The
 * new connection avoids a fault of back-ends with libvhost-user: such a back-end remembers where
 * its rings were in removed memory. If the device then adds memory region by region, and the first
 * region does not contain the rings, the back-end closes the connection in the middle of a start.
 */
static bool hangs_up(const struct vublk_device *device)
{
	return device->state == VUBLK_DEVICE_STOPPED && device->settings.reconnect_ms &&
	       !device->settings.server && !device->is_shutting_down;
}

static void hang_up(struct vublk_device *device)
{
	struct vublk_error error;

	vublk_error_set(&error, ECANCELED,
			"the device closed the connection to the back-end because the guest's "
			"memory was removed");
	vublk_frontend_fail(&device->frontend, &error);
}

/*
 * Returns whether a table of `num_regions` regions takes effect immediately. While the rings do not
 * run, new memory waits for the next start. But the removal of all memory must not wait, because
 * the owner of the memory may reuse it. Without CONFIGURE_MEM_SLOTS, there is no message for such a
 * removal.
 */
static bool is_told_now(const struct vublk_device *device, unsigned num_regions)
{
	if (device->state == VUBLK_DEVICE_RUNNING)
		return true;
	return device->state == VUBLK_DEVICE_STOPPED && !num_regions &&
	       !device->memory_change_under_way && vublk_frontend_has_memory(&device->frontend) &&
	       (hangs_up(device) ||
		vublk_frontend_has(&device->frontend, VUBLK_VU_F_CONFIGURE_MEM_SLOTS));
}

static void send_memory(struct vublk_device *device)
{
	struct vublk_error error;

	if (vublk_device_shadow_refresh(device, &error) < 0)
		vublk_frontend_fail(&device->frontend, &error);
	else
		vublk_frontend_set_memory(&device->frontend, vublk_device_shadow_memory(device),
					  on_memory_changed, device);
}

int vublk_device_set_memory(struct vublk_device *device,
			    const struct vublk_memory_region *regions, unsigned num_regions,
			    struct vublk_error *error)
{
	struct vublk_frontend_memory memory = { 0 };
	bool running = device->state == VUBLK_DEVICE_RUNNING;
	bool told = is_told_now(device, num_regions);
	int r = check_state(device, error);

	if (!r)
		r = check_slots(device, num_regions, error);
	if (r < 0)
		return r;
	r = take_table(&memory, regions, num_regions, error);
	if (!r && vublk_device_plane_will_need_slot(device))
		r = vublk_device_memory_check_plane(&memory, error);
	if (!r)
		r = vublk_device_dirty_log_check(device, &memory, error);
	if (!r && (running || vublk_device_is_driver_ready(device)))
		r = vublk_device_queues_check(device, &memory, error);
	if (r < 0) {
		vublk_device_memory_deinit(&memory);
		return r;
	}
	vublk_device_memory_deinit(&device->memory);
	device->memory = memory;
	vublk_device_post_update(device);
	if (!told)
		return 0;
	if (hangs_up(device)) {
		hang_up(device);
		return 0;
	}
	vublk_device_exchange_cancel(device);
	device->memory_change_under_way = true;
	/* No request may use memory while the back-end maps it again, so the plane stops first. */
	if (!running || !vublk_device_shadow_stop(device, send_memory))
		send_memory(device);
	return 1;
}
