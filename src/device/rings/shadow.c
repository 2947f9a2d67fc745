/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file puts the request plane between the driver's rings and the back-end's, if the property
 * `shadow` is on. The driver's rings are attached to the plane from the first start to the end of a
 * pause or a reset, and each connection to a back-end gets rings of the plane's own (a side).
 *
 * Key idea: for the rest of the device a start and a stop are the same as without the plane: the
 * plane's rings take the place of the driver's in device->rings. A loss is different: nothing has
 * to be guessed afterwards, because the plane knows every request. So the driver's rings stay with
 * the plane, and a pause during an outage waits for the next back-end, which executes what the
 * driver is waiting for; but not longer than request-timeout-ms.
 */
#include "device/device.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/memfd.h"
#include "util/memory-file.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_blk.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/stat.h>

#define NS_PER_MS UINT64_C(1000000)

/* Data segments of a request for which the plane has room, whatever the config says. */
#define LEAST_SEGMENTS 128
/* A buffer that crosses memory regions counts more than once. */
#define EXTRA_SEGMENTS 14

bool vublk_device_shadow_has_backend(const struct vublk_device *device)
{
	return vublk_device_is_shadowed(device) &&
	       vublk_plane_thread_has_side(device->shadow.thread);
}

bool vublk_device_shadow_has_requests(const struct vublk_device *device)
{
	return vublk_device_shadow_is_attached(device) &&
	       vublk_plane_thread_outstanding(device->shadow.thread);
}

bool vublk_device_needs_backend(const struct vublk_device *device)
{
	return vublk_device_should_run(device) ||
	       (device->status && vublk_device_shadow_has_requests(device));
}

bool vublk_device_has_rings_out(const struct vublk_device *device)
{
	return vublk_device_backend_has_rings(device) || vublk_device_shadow_is_attached(device);
}

/* --- the back-end's side --------------------------------------------------------- */

static void free_side(struct vublk_device *device)
{
	struct vublk_device_shadow *shadow = &device->shadow;

	vublk_plane_side_free(shadow->side);
	shadow->side = NULL;
	free(shadow->regions.regions);
	shadow->regions = (struct vublk_frontend_memory){ 0 };
}

static unsigned choose_segments(const struct vublk_device *device)
{
	const struct virtio_blk_config *config = (const void *)device->config;
	unsigned seg_max = device->features & VUBLK_BIT(VIRTIO_BLK_F_SEG_MAX) ?
			   le32toh(config->seg_max) : 1;

	return VUBLK_MAX(seg_max, (unsigned)LEAST_SEGMENTS) + EXTRA_SEGMENTS;
}

void vublk_device_shadow_limit(const struct vublk_device *device, struct virtio_blk_config *config)
{
	unsigned room = vublk_device_is_shadowed(device) ?
			device->shadow.max_segments - EXTRA_SEGMENTS : VUBLK_RING_MAX_INDIRECT - 2;

	if (device->settings.shadow && le32toh(config->seg_max) > room)
		config->seg_max = htole32(room);
}

/* The region stays the same while the connection lasts, because some back-ends require that. */
static int make_side(struct vublk_device *device, struct vublk_error *error)
{
	struct vublk_device_shadow *shadow = &device->shadow;
	uint16_t sizes[VUBLK_MAX_QUEUES];
	int r = 0;

	for (unsigned i = 0; i < device->num_queues; i++)
		sizes[i] = device->queues[i].size;
	if (!shadow->side)
		r = vublk_plane_side_new(device->num_queues,
					 (unsigned)device->settings.queue_size,
					 shadow->max_segments, &shadow->side, error);
	return r < 0 ? r : vublk_plane_side_reset(shadow->side, sizes,
						  vublk_device_session_features(device), error);
}

/* The memory of the plane's rings comes last, because its address is the highest. */
static int add_side_memory(struct vublk_device *device, struct vublk_error *error)
{
	struct vublk_device_shadow *shadow = &device->shadow;
	unsigned n = device->memory.num_regions;
	struct vublk_frontend_region *regions = calloc(n + 1, sizeof(*regions));
	struct stat st;

	if (!regions)
		return vublk_error_set_errno(error, ENOMEM, "cannot keep a memory table");
	if (fstat(shadow->side->region.fd, &st) < 0) {
		free(regions);
		return vublk_error_set_errno(error, errno, "cannot examine the shadow rings");
	}
	for (unsigned i = 0; i < n; i++)
		regions[i] = device->memory.regions[i];
	regions[n] = (struct vublk_frontend_region){
		.region = {
			.guest_addr = VUBLK_PLANE_REGION_ADDR,
			.size_bytes = shadow->side->region.bytes,
			.fd = shadow->side->region.fd,
		},
		.file_device = st.st_dev,
		.file_inode = st.st_ino,
	};
	free(shadow->regions.regions);
	shadow->regions = (struct vublk_frontend_memory){ n + 1, regions };
	return 0;
}

int vublk_device_shadow_prepare(struct vublk_device *device, struct vublk_error *error)
{
	int r;

	if (!vublk_device_is_shadowed(device))
		return 0;
	r = make_side(device, error);
	return r < 0 ? r : add_side_memory(device, error);
}

int vublk_device_shadow_refresh(struct vublk_device *device, struct vublk_error *error)
{
	return device->shadow.side ? add_side_memory(device, error) : 0;
}

const struct vublk_frontend_memory *vublk_device_shadow_memory(const struct vublk_device *device)
{
	return device->shadow.side ? &device->shadow.regions : &device->memory;
}

void vublk_device_shadow_collect(struct vublk_device *device)
{
	for (unsigned i = 0; device->shadow.side && i < device->num_rings; i++) {
		struct vublk_frontend_queue *ring = &device->rings[i];
		const struct vublk_plane_side_queue *queue =
			&device->shadow.side->queues[ring->index];

		ring->base = 0;
		ring->desc_addr = queue->memory->desc_addr;
		ring->avail_addr = queue->memory->avail_addr;
		ring->used_addr = queue->memory->used_addr;
		ring->kick_fd = queue->kick_fd;
		ring->call_fd = queue->call_fd;
	}
}

/* --- the driver's side ------------------------------------------------------------- */

static int map_memory(struct vublk_device *device, struct vublk_plane_memory **memory,
		      struct vublk_error *error)
{
	unsigned n = device->memory.num_regions;
	struct vublk_memory_region *regions = calloc(n ? n : 1, sizeof(*regions));
	int r;

	if (!regions)
		return vublk_error_set_errno(error, ENOMEM, "cannot map the guest's memory");
	for (unsigned i = 0; i < n; i++)
		regions[i] = device->memory.regions[i].region;
	r = vublk_plane_memory_new(regions, n, &device->shadow.fault, memory, error);
	free(regions);
	return r;
}

/* Maps the in-flight area of the driver's session, if there is one. */
static int map_area(struct vublk_device *device, struct vublk_error *error)
{
	const struct vublk_device_inflight *area = &device->inflight;
	struct vublk_device_shadow *shadow = &device->shadow;
	struct vublk_memory_file file;
	int r;

	if (!vublk_device_is_tracked(device))
		return 0;
	if (area->offset % sizeof(uint64_t))
		return vublk_error_set(error, EINVAL, "the in-flight area's offset, %" PRIu64
				       ", is not a multiple of 8", area->offset);
	r = vublk_memory_file_check(area->fd, area->offset, area->size_bytes, &file, error);
	if (!r)
		r = vublk_memory_file_map(area->fd, &file, area->offset, area->size_bytes,
					  &shadow->fault, VUBLK_FAULT_INFLIGHT, &shadow->area, error);
	if (r < 0)
		vublk_error_prepend(error, "the in-flight area");
	return r;
}

static void unmap_area(struct vublk_device *device)
{
	struct vublk_memory_part *area = &device->shadow.area;

	vublk_unmap(area->mapping, area->mapping_bytes);
	*area = (struct vublk_memory_part){ 0 };
}

/* Where the requests of a queue are recorded; NULL: nowhere. */
static struct vublk_inflight_split *region_of(const struct vublk_device *device, unsigned index)
{
	const struct vublk_device_inflight *area = &device->inflight;

	if (!device->shadow.area.mapping || index >= area->num_queues ||
	    device->queues[index].size > area->queue_size)
		return NULL;
	return (struct vublk_inflight_split *)
		(device->shadow.area.start + index *
		 vublk_inflight_split_stride(area->size_bytes, area->num_queues, area->queue_size));
}

static int attach(struct vublk_device *device, const struct vublk_plane_memory *memory,
		  struct vublk_error *error)
{
	struct vublk_plane_setup setups[VUBLK_MAX_QUEUES] = { 0 };
	int r = map_area(device, error);

	for (unsigned i = 0; i < device->num_queues && !r; i++) {
		const struct vublk_device_queue *queue = &device->queues[i];

		setups[i] = (struct vublk_plane_setup){
			.size = queue->size,
			.base = device->bases[i],
			.desc_addr = queue->desc_addr,
			.avail_addr = queue->avail_addr,
			.used_addr = queue->used_addr,
			.kick_fd = queue->kick_fd,
			.call_fd = queue->call_fd,
			.inflight = region_of(device, i),
			.inflight_entries = device->inflight.queue_size,
		};
	}
	if (!r)
		r = vublk_plane_thread_attach(device->shadow.thread, setups,
					      vublk_device_session_features(device), memory,
					      &device->shadow.fault, error);
	if (r < 0)
		unmap_area(device);
	return r;
}

/* Maps the memory as it is now; a mapping that the plane does not use any more is removed. */
static int give_memory(struct vublk_device *device, struct vublk_error *error)
{
	struct vublk_device_shadow *shadow = &device->shadow;
	struct vublk_plane_memory *memory;
	int r = map_memory(device, &memory, error);

	if (r < 0)
		return r;
	if (vublk_device_shadow_is_attached(device))
		r = vublk_plane_thread_set_memory(shadow->thread, memory, &shadow->fault, error);
	else
		r = attach(device, memory, error);
	if (r < 0) {
		vublk_plane_memory_free(memory);
		return r;
	}
	vublk_plane_memory_free(shadow->memory);
	shadow->memory = memory;
	return 0;
}

int vublk_device_shadow_attach(struct vublk_device *device, struct vublk_error *error)
{
	return vublk_device_is_shadowed(device) ? give_memory(device, error) : 0;
}

int vublk_device_shadow_run(struct vublk_device *device, struct vublk_error *error)
{
	struct vublk_device_shadow *shadow = &device->shadow;

	if (!vublk_device_is_shadowed(device))
		return 0;
	if (vublk_device_should_run(device))
		vublk_device_shadow_resume(device);
	return vublk_plane_thread_set_side(shadow->thread, shadow->side, error);
}

int vublk_device_shadow_change_memory(struct vublk_device *device, struct vublk_error *error)
{
	int r;

	if (!vublk_device_shadow_is_attached(device))
		return 0;
	r = give_memory(device, error);
	if (!r)
		vublk_device_shadow_resume(device);
	return r;
}

int vublk_device_shadow_set_notifiers(struct vublk_device *device, unsigned index,
				      struct vublk_error *error)
{
	const struct vublk_device_queue *queue = &device->queues[index];

	if (!vublk_device_shadow_is_attached(device))
		return 0;
	return vublk_plane_thread_set_notifiers(device->shadow.thread, index, queue->kick_fd,
						queue->call_fd, error);
}

void vublk_device_shadow_log(struct vublk_device *device, uint64_t *bitmap, uint64_t bytes)
{
	struct vublk_dirty_log log = { (uint8_t *)bitmap, bytes };

	if (vublk_device_shadow_is_attached(device))
		vublk_plane_thread_set_dirty_log(device->shadow.thread, bitmap ? &log : NULL);
}

/* A fault ends with the driver's session. */
static int watch_fault(struct vublk_device *device, struct vublk_error *error)
{
	struct vublk_device_shadow *shadow = &device->shadow;

	vublk_loop_remove(&shadow->fault_source);
	vublk_eventfd_clear(shadow->fault.fd);
	shadow->fault = (struct vublk_fault){ .fd = shadow->fault.fd };
	return vublk_loop_add(&device->loop, &shadow->fault_source, shadow->fault.fd, EPOLLIN,
			      error);
}

static void detach(struct vublk_device *device)
{
	struct vublk_device_shadow *shadow = &device->shadow;

	vublk_plane_thread_detach(shadow->thread);
	unmap_area(device);
	vublk_plane_memory_free(shadow->memory);
	shadow->memory = NULL;
	shadow->is_overdue = false;
	vublk_loop_timer_disarm(&shadow->timer);
	watch_fault(device, NULL); /* it was in the loop before, so this cannot fail for lack of memory */
}

void vublk_device_shadow_drop(struct vublk_device *device)
{
	if (vublk_device_shadow_is_attached(device))
		detach(device);
}

/* Returns the driver's rings, whose requests are complete. */
void vublk_device_shadow_return(struct vublk_device *device)
{
	for (unsigned i = 0; i < device->num_queues; i++)
		if (device->queues[i].size)
			device->bases[i] = vublk_plane_thread_base(device->shadow.thread, i);
	detach(device);
}

/* --- stops ------------------------------------------------------------------------ */

/* A back-end that is connected counts as lost. */
static void on_overdue(void *opaque)
{
	struct vublk_device *device = opaque;
	struct vublk_error error;

	device->shadow.is_overdue = true;
	vublk_error_set(&error, ETIMEDOUT, "%u requests were not completed within %u ms, and the "
			"driver's rings have to stop",
			vublk_plane_thread_outstanding(device->shadow.thread),
			(unsigned)device->settings.request_timeout_ms);
	vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING, "%s", error.text);
	if (vublk_device_backend_has_rings(device))
		vublk_frontend_fail(&device->frontend, &error);
	else
		vublk_device_post_update(device);
}

bool vublk_device_shadow_stop(struct vublk_device *device,
			      void (*drained)(struct vublk_device *device))
{
	struct vublk_device_shadow *shadow = &device->shadow;

	if (!vublk_device_shadow_is_attached(device))
		return false;
	shadow->drained = drained;
	vublk_plane_thread_stop(shadow->thread);
	if (!shadow->timer.loop)
		vublk_loop_timer_arm(&device->loop, &shadow->timer, vublk_now_ns() +
				     device->settings.request_timeout_ms * NS_PER_MS);
	return true;
}

void vublk_device_shadow_resume(struct vublk_device *device)
{
	device->shadow.is_overdue = false;
	vublk_loop_timer_disarm(&device->shadow.timer);
	vublk_plane_thread_resume(device->shadow.thread);
}

void vublk_device_shadow_part(struct vublk_device *device)
{
	if (vublk_device_is_shadowed(device))
		vublk_plane_thread_lose_side(device->shadow.thread);
}

static void on_drained(void *opaque)
{
	struct vublk_device *device = opaque;
	void (*drained)(struct vublk_device *device) = device->shadow.drained;

	vublk_loop_timer_disarm(&device->shadow.timer);
	device->shadow.drained = NULL;
	if (drained)
		drained(device);
}

/* --- losses ------------------------------------------------------------------------- */

bool vublk_device_shadow_lose(struct vublk_device *device)
{
	vublk_plane_thread_lose_side(device->shadow.thread);
	free_side(device);
	device->shadow.drained = NULL;
	return !device->shadow.is_overdue;
}

static void on_side_broke(void *opaque, const struct vublk_error *error)
{
	struct vublk_device *device = opaque;

	vublk_frontend_fail(&device->frontend, error);
}

static void on_queue_broke(void *opaque, unsigned index, const struct vublk_error *cause)
{
	struct vublk_device *device = opaque;
	struct vublk_error error = *cause;

	vublk_error_prepend(&error, "the driver broke the ring of queue %u, which needs a reset",
			    index);
	vublk_device_raise_needs_reset(device, &error);
}

static void on_fault(void *opaque, uint32_t events)
{
	struct vublk_device *device = opaque;
	struct vublk_error error;

	vublk_loop_remove(&device->shadow.fault_source);
	vublk_error_set(&error, EFAULT, "a page of %s cannot be accessed, because the VMM truncated its "
			"file, or it is a huge page and the host has none left; all requests fail "
			"until a reset", vublk_fault_name(&device->shadow.fault));
	vublk_device_raise_needs_reset(device, &error);
}

/* --- life ----------------------------------------------------------------------------- */

static const struct vublk_plane_thread_ops plane_ops = {
	.drained = on_drained,
	.side_broke = on_side_broke,
	.queue_broke = on_queue_broke,
};

int vublk_device_shadow_init(struct vublk_device *device, struct vublk_error *error)
{
	struct vublk_device_shadow *shadow = &device->shadow;
	int r;

	*shadow = (struct vublk_device_shadow){
		.timer = { .fn = on_overdue, .opaque = device },
		.fault_source = { .fn = on_fault, .opaque = device },
		.fault = { .fd = -1 },
	};
	if (!device->settings.shadow)
		return 0;
	shadow->fault.fd = vublk_eventfd_new();
	if (shadow->fault.fd < 0)
		return vublk_error_set_errno(error, -shadow->fault.fd, "cannot make an eventfd");
	r = watch_fault(device, error);
	if (r < 0)
		return r;
	shadow->max_segments = choose_segments(device);
	return vublk_plane_thread_new(device->num_queues, shadow->max_segments, &device->loop,
				      &plane_ops, device, &device->log, &shadow->thread, error);
}

void vublk_device_shadow_deinit(struct vublk_device *device)
{
	struct vublk_device_shadow *shadow = &device->shadow;

	if (shadow->thread) {
		vublk_device_shadow_lose(device);
		vublk_device_shadow_drop(device);
		vublk_plane_thread_free(shadow->thread);
		shadow->thread = NULL;
	}
	free_side(device);
	vublk_loop_timer_disarm(&shadow->timer);
	vublk_loop_remove(&shadow->fault_source);
	vublk_fd_close(&shadow->fault.fd);
}
