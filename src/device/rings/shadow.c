/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Connects the request plane (src/plane) with the rest of the device. On the shadow path, the plane
 * has the driver's rings from a start until a pause, a reset or an exchange of the request path
 * takes them away. The back-end has a side instead: a set of rings that the plane makes for each
 * connection.
 *
 * Key idea: the rest of the device starts and stops rings as it does without the plane, because the
 * side's rings take the place of the driver's in device->rings. A loss is different: the plane has
 * a record of every request, so the driver's rings stay with the plane, and the next back-end
 * executes the outstanding requests. A pause of the VM during an outage waits for these requests,
 * but at most for request-timeout-ms.
 */
#include "device/device.h"

#include "plane/handover.h"
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
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>

#define NS_PER_MS UINT64_C(1000000)

/* The plane has room for at least this many data segments per request, whatever the config says. */
#define LEAST_SEGMENTS 128
/* Room for more segments, because the plane splits a buffer that spans several memory regions. */
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

bool vublk_device_shadow_is_unsettled(const struct vublk_device *device)
{
	return vublk_device_shadow_is_attached(device) &&
	       !vublk_plane_thread_is_settled(device->shadow.thread);
}

bool vublk_device_shadow_is_sound(const struct vublk_device *device)
{
	return !device->shadow.num_broken && !vublk_fault_happened(&device->shadow.fault);
}

bool vublk_device_needs_backend(const struct vublk_device *device)
{
	return vublk_device_should_run(device) ||
	       (device->status && vublk_device_shadow_is_unsettled(device));
}

bool vublk_device_has_rings_out(const struct vublk_device *device)
{
	return vublk_device_backend_has_rings(device) || vublk_device_shadow_is_attached(device);
}

/* --- the back-end's side --------------------------------------------------------- */

void vublk_device_shadow_free_side(struct vublk_device *device)
{
	struct vublk_device_shadow *shadow = &device->shadow;

	vublk_plane_side_free(shadow->side);
	shadow->side = NULL;
	vublk_fd_close(&shadow->side_area.fd);
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

/*
 * Returns how many of the driver's segments fit in one request of the plane or, before the plane is
 * made, would fit.
 */
static unsigned room_of(const struct vublk_device *device)
{
	return device->shadow.thread ? device->shadow.max_segments - EXTRA_SEGMENTS :
	       VUBLK_RING_MAX_INDIRECT - 2;
}

void vublk_device_shadow_limit(const struct vublk_device *device, struct virtio_blk_config *config)
{
	if (device->settings.shadow != VUBLK_SHADOW_OFF && le32toh(config->seg_max) > room_of(device))
		config->seg_max = htole32(room_of(device));
}

/*
 * Returns how many entries the side's ring has for a driver's ring of `size` entries. Size 0, which
 * is a queue that is not used, stays 0.
 */
static uint16_t side_size(const struct vublk_device *device, uint16_t size)
{
	bool is_given = device->settings.shadow_queue_size != VUBLK_DEVICE_AUTO;

	return is_given && size ? (uint16_t)device->settings.shadow_queue_size : size;
}

/*
 * Checks that seg_max is not above the plane's room. The driver may have read a higher value before
 * the plane was wanted.
 */
static int check_segments(const struct vublk_device *device, struct vublk_error *error)
{
	const struct virtio_blk_config *config = (const void *)device->config;

	if (!(device->features & VUBLK_BIT(VIRTIO_BLK_F_SEG_MAX)) ||
	    le32toh(config->seg_max) <= room_of(device))
		return 0;
	return vublk_error_set(error, ENOTSUP, "the driver may use up to %u segments per request, "
			       "but the shadow rings have room for only %u segments; start the "
			       "device with shadow=auto",
			       le32toh(config->seg_max), room_of(device));
}

int vublk_device_shadow_check(const struct vublk_device *device, struct vublk_error *error)
{
	bool has_indirect = device->acked_features & VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC);

	for (unsigned i = 0; i < device->num_queues && !has_indirect; i++)
		if (side_size(device, device->queues[i].size) < device->queues[i].size)
			return vublk_error_set(error, ENOTSUP, "the driver's requests may need "
					       "more than the %u entries of a shadow ring; remove "
					       "shadow-queue-size or start the device with "
					       "shadow=auto",
					       side_size(device, device->queues[i].size));
	return check_segments(device, error);
}

/*
 * Makes the side if the connection has none yet, and resets its rings. Later starts reuse the side,
 * because some back-ends do not accept other memory at the same address.
 */
static int make_side(struct vublk_device *device, struct vublk_error *error)
{
	struct vublk_device_shadow *shadow = &device->shadow;
	uint16_t sizes[VUBLK_MAX_QUEUES];
	int r = 0;

	for (unsigned i = 0; i < device->num_queues; i++)
		sizes[i] = side_size(device, device->queues[i].size);
	if (!shadow->side)
		r = vublk_plane_side_new(device->num_queues,
					 side_size(device, (uint16_t)device->settings.queue_size),
					 shadow->max_segments, vublk_device_replays(device),
					 &shadow->side, error);
	if (!r)
		shadow->side->max_segment_bytes = vublk_device_replay_segment_bytes(device);
	return r < 0 ? r : vublk_plane_side_reset(shadow->side, sizes,
						  vublk_device_session_features(device), error);
}

/* Fills shadow->regions: the guest's regions, then the side's, which has the highest address. */
static int add_side_memory(struct vublk_device *device, struct vublk_error *error)
{
	struct vublk_device_shadow *shadow = &device->shadow;
	unsigned n = device->memory.num_regions;
	struct vublk_frontend_region *regions = calloc(n + 1, sizeof(*regions));
	struct stat st;

	if (!regions)
		return vublk_error_set_errno(error, ENOMEM, "cannot allocate a memory table");
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

/*
 * For the direct path: clears the side's memory, if there is a side, and keeps it in the back-end's
 * table. If the memory were not cleared, a driver could make the back-end read old requests from
 * it.
 */
static int keep_side(struct vublk_device *device, struct vublk_error *error)
{
	if (!device->shadow.side)
		return 0;
	vublk_plane_side_clear(device->shadow.side);
	return add_side_memory(device, error);
}

int vublk_device_shadow_prepare(struct vublk_device *device, struct vublk_error *error)
{
	int r;

	if (!vublk_device_is_shadowed(device))
		return keep_side(device, error);
	/*
	 * This back-end may have fewer memory slots than the one that was connected when the memory
	 * was set.
	 */
	r = vublk_device_memory_check_shadow(device, error);
	if (!r)
		r = make_side(device, error);
	return r < 0 ? r : add_side_memory(device, error);
}

/*
 * Prepares to ask the back-end for a new in-flight area for the plane's requests. Without a new
 * area, a back-end with libvhost-user would continue to use the area of the driver's requests.
 */
static struct vublk_device_inflight *renew_side_area(struct vublk_device *device)
{
	struct vublk_device_inflight *area = &device->shadow.side_area;

	vublk_fd_close(&area->fd);
	*area = (struct vublk_device_inflight){
		.fd = -1,
		.num_queues = (uint16_t)device->num_queues,
		.queue_size = side_size(device, (uint16_t)device->settings.queue_size),
	};
	return area;
}

struct vublk_device_inflight *vublk_device_shadow_area(struct vublk_device *device)
{
	struct vublk_device_inflight *area = &device->inflight;

	if (vublk_device_is_shadowed(device))
		return renew_side_area(device);
	if (area->fd < 0) { /* the back-end has to make one, with room for every queue */
		area->num_queues = (uint16_t)device->num_queues;
		area->queue_size = (uint16_t)device->settings.queue_size;
	}
	return area;
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
	for (unsigned i = 0; vublk_device_is_shadowed(device) && i < device->num_rings; i++) {
		struct vublk_frontend_queue *ring = &device->rings[i];
		const struct vublk_plane_side_queue *queue =
			&device->shadow.side->queues[ring->index];

		ring->base = 0;
		ring->size = side_size(device, ring->size);
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

/* Maps the in-flight area of the driver's session for the plane, if there is an area. */
static int map_area(struct vublk_device *device, struct vublk_error *error)
{
	const struct vublk_device_inflight *area = &device->inflight;
	struct vublk_device_shadow *shadow = &device->shadow;
	struct vublk_memory_file file;
	int r;

	if (!vublk_device_is_tracked(device))
		return 0;
	if (area->offset % sizeof(uint64_t))
		return vublk_error_set(error, EINVAL, "the offset of the in-flight area is "
				       "%" PRIu64 "; expected a multiple of 8", area->offset);
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

/*
 * Returns the part of the in-flight area in which the requests of queue `index` are recorded, or
 * NULL if the area is not mapped, or has no room for this queue.
 */
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

/* Maps the in-flight area, and fills in one setup per queue. */
static int fill_setups(struct vublk_device *device, struct vublk_plane_setup *setups,
		       struct vublk_error *error)
{
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
	return r;
}

/*
 * Returns the features of the driver's rings. They do not depend on the back-end, because there may
 * be none when another process adopts the rings.
 */
static uint64_t driver_features(const struct vublk_device *device)
{
	return device->acked_features | VUBLK_BIT(VIRTIO_F_VERSION_1);
}

static int attach(struct vublk_device *device, const struct vublk_plane_memory *memory,
		  struct vublk_error *error)
{
	struct vublk_plane_setup setups[VUBLK_MAX_QUEUES] = { 0 };
	int r = fill_setups(device, setups, error);

	if (!r)
		r = vublk_plane_thread_attach(device->shadow.thread, setups,
					      driver_features(device), memory,
					      &device->shadow.fault, error);
	if (r < 0)
		unmap_area(device);
	return r;
}

/*
 * Maps the guest's current memory for the plane, and then frees the previous mapping. Attaches the
 * driver's rings if the plane does not have them.
 */
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

int vublk_device_shadow_set_kick(struct vublk_device *device, unsigned index,
				 struct vublk_error *error)
{
	if (!vublk_device_shadow_is_attached(device))
		return 0;
	return vublk_plane_thread_set_kick(device->shadow.thread, index,
					   device->queues[index].kick_fd, error);
}

void vublk_device_shadow_set_call(struct vublk_device *device, unsigned index)
{
	if (vublk_device_shadow_is_attached(device))
		vublk_plane_thread_set_call(device->shadow.thread, index,
					    device->queues[index].call_fd);
}

void vublk_device_shadow_log(struct vublk_device *device, uint64_t *bitmap, uint64_t bytes)
{
	struct vublk_dirty_log log = { (uint8_t *)bitmap, bytes };

	if (vublk_device_shadow_is_attached(device))
		vublk_plane_thread_set_dirty_log(device->shadow.thread, bitmap ? &log : NULL);
}

/*
 * Clears a recorded fault, and watches for the next one. Called when the plane has no rings, so that
 * a fault of its previous rings does not count for the next ones.
 */
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
	shadow->num_broken = 0;
	vublk_loop_timer_disarm(&shadow->timer);
	watch_fault(device, NULL); /* cannot fail, because the source was in the loop before */
}

void vublk_device_shadow_drop(struct vublk_device *device)
{
	if (vublk_device_shadow_is_attached(device))
		detach(device);
}

void vublk_device_shadow_return(struct vublk_device *device)
{
	for (unsigned i = 0; i < device->num_queues; i++)
		if (device->queues[i].size)
			device->bases[i] = vublk_plane_thread_base(device->shadow.thread, i);
	detach(device);
}

/* --- stops ------------------------------------------------------------------------ */

/* Called when a stop has exceeded its deadline. A back-end that has the rings counts as lost. */
static void on_overdue(void *opaque)
{
	struct vublk_device *device = opaque;
	unsigned count = vublk_plane_thread_outstanding(device->shadow.thread);
	struct vublk_error error;

	device->shadow.is_overdue = true;
	vublk_error_set(&error, ETIMEDOUT, "the driver's rings must stop, but %u request%s did not "
			"complete within %u ms", count, count == 1 ? "" : "s",
			(unsigned)device->settings.request_timeout_ms);
	if (!count)
		vublk_device_replay_overdue(device, &error);
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
	if (!shadow->timer.loop && device->exchange.phase != VUBLK_DEVICE_EXCHANGE_DRAINING)
		vublk_loop_timer_arm(&device->loop, &shadow->timer, vublk_now_ns() +
				     device->settings.request_timeout_ms * NS_PER_MS);
	return true;
}

static void on_held(struct vublk_device *device)
{
	device->pause.stops = device->pause.is_wanted;
	vublk_device_post_update(device);
}

void vublk_device_shadow_hold(struct vublk_device *device)
{
	device->shadow.drained = on_held;
	vublk_plane_thread_stop(device->shadow.thread);
}

void vublk_device_shadow_resume(struct vublk_device *device)
{
	device->shadow.is_overdue = false;
	vublk_loop_timer_disarm(&device->shadow.timer);
	if (vublk_device_switch_holds(device))
		return;
	if (device->pause.is_wanted)
		vublk_device_shadow_hold(device);
	else
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
	vublk_plane_thread_note_loss(device->shadow.thread);
	vublk_plane_thread_lose_side(device->shadow.thread);
	vublk_device_shadow_free_side(device);
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
	struct vublk_error error;

	device->shadow.num_broken++;
	vublk_error_set(&error, cause->code, "the driver broke the ring of queue %u: %s; the "
			"driver must reset the device", index, cause->text);
	vublk_device_raise_needs_reset(device, &error);
}

static void on_mirror_failed(void *opaque, const struct vublk_error *error)
{
	struct vublk_device *device = opaque;

	device->mirror.failure = *error;
	vublk_loop_post(&device->loop, &device->mirror.failed_task);
}

static void on_mirror_synced(void *opaque)
{
	struct vublk_device *device = opaque;

	vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_INFO,
			  "the mirror at '%s' has the same data as the disk", device->mirror.target);
	vublk_device_notify_target(device, VUBLK_NOTICE_MIRROR_SYNCED, device->mirror.target, NULL);
}

static void on_fault(void *opaque, uint32_t events)
{
	struct vublk_device *device = opaque;
	struct vublk_error error;

	vublk_loop_remove(&device->shadow.fault_source);
	vublk_error_set(&error, EFAULT, "a page of %s cannot be accessed, probably because the VMM "
			"truncated the file of that memory or the host has no free huge page; all "
			"requests fail until the device is reset",
			vublk_fault_name(&device->shadow.fault));
	vublk_device_raise_needs_reset(device, &error);
}

/* --- life ----------------------------------------------------------------------------- */

static const struct vublk_plane_thread_ops plane_ops = {
	.drained = on_drained,
	.side_broke = on_side_broke,
	.queue_broke = on_queue_broke,
	.flush_failed = vublk_device_flush_failed,
	.flush_must_fail = vublk_device_flush_must_fail,
	.mirror_failed = on_mirror_failed,
	.mirror_synced = on_mirror_synced,
	.replay_ended = vublk_device_replay_ended,
};

static void init(struct vublk_device *device)
{
	struct vublk_device_shadow *shadow = &device->shadow;

	*shadow = (struct vublk_device_shadow){
		.timer = { .fn = on_overdue, .opaque = device },
		.fault_source = { .fn = on_fault, .opaque = device },
		.fault = { .fd = -1 },
		.side_area = { .fd = -1 },
	};
}

int vublk_device_shadow_init(struct vublk_device *device, struct vublk_error *error)
{
	init(device);
	return device->settings.shadow == VUBLK_SHADOW_ON ?
	       vublk_device_shadow_make(device, error) : 0;
}

static void give_policy(struct vublk_device *device)
{
	struct vublk_plane_policy policy = {
		.is_read_only = device->settings.read_only,
		.hidden_features = vublk_device_hidden_features(&device->settings),
	};

	memcpy(policy.serial, device->settings.serial, sizeof(policy.serial));
	vublk_plane_thread_set_policy(device->shadow.thread, &policy);
}

int vublk_device_shadow_make(struct vublk_device *device, struct vublk_error *error)
{
	struct vublk_device_shadow *shadow = &device->shadow;
	int r;

	if (shadow->thread)
		return 0;
	if (shadow->fault.fd < 0)
		shadow->fault.fd = vublk_eventfd_new();
	if (shadow->fault.fd < 0)
		return vublk_error_set_errno(error, -shadow->fault.fd, "cannot create an eventfd "
					     "to detect faults of shared memory");
	r = watch_fault(device, error);
	if (r < 0)
		return r;
	if (!shadow->max_segments)
		shadow->max_segments = choose_segments(device);
	r = vublk_plane_thread_new(device->num_queues, shadow->max_segments, shadow->is_taken,
				   &device->loop, &plane_ops, device, &device->log,
				   &shadow->thread, error);
	if (r < 0)
		return r;
	vublk_plane_thread_set_limits(shadow->thread, &device->settings.limits);
	give_policy(device);
	vublk_device_give_counts(device);
	if (device->trace.is_wanted)
		vublk_plane_thread_set_trace(shadow->thread, device->trace.ring);
	r = vublk_device_replay_init(device, error);
	if (r < 0) { /* with unflushed=replay, a plane that cannot keep writes must not be used */
		vublk_plane_thread_unpark(shadow->thread);
		vublk_plane_thread_free(shadow->thread);
		shadow->thread = NULL;
	}
	return r;
}

void vublk_device_shadow_deinit(struct vublk_device *device)
{
	struct vublk_device_shadow *shadow = &device->shadow;

	if (shadow->thread) {
		if (vublk_plane_thread_is_parked(shadow->thread)) /* parked for a handover */
			vublk_plane_thread_abandon(shadow->thread);
		else
			vublk_device_replay_abandon(device);
		vublk_device_shadow_lose(device);
		vublk_device_shadow_drop(device);
		vublk_plane_thread_free(shadow->thread);
		shadow->thread = NULL;
	}
	device->exchange.reasons &= ~((uint32_t)1 << VUBLK_DEVICE_SHADOW_FOR_FLUSH);
	vublk_device_shadow_free_side(device);
	vublk_loop_timer_disarm(&shadow->timer);
	vublk_loop_remove(&shadow->fault_source);
	vublk_fd_close(&shadow->fault.fd);
}

/* --- another process ------------------------------------------------------------------- */

int vublk_device_shadow_adopt(struct vublk_device *device, unsigned max_segments,
			      struct vublk_error *error)
{
	if (max_segments < LEAST_SEGMENTS + EXTRA_SEGMENTS || max_segments > VUBLK_PLANE_MAX_IOV)
		return vublk_error_set(error, EINVAL, "the shadow rings have room for %u segments",
				       max_segments);
	init(device);
	device->shadow.max_segments = max_segments;
	device->shadow.is_taken = true;
	return vublk_device_shadow_make(device, error);
}

int vublk_device_shadow_adopt_side(struct vublk_device *device, struct vublk_section *from,
				   struct vublk_error *error)
{
	struct vublk_device_shadow *shadow = &device->shadow;
	int r = vublk_plane_side_take(from, device->num_queues,
				      side_size(device, (uint16_t)device->settings.queue_size),
				      shadow->max_segments, vublk_device_replays(device),
				      &shadow->side, error);

	return r < 0 ? r : add_side_memory(device, error);
}

int vublk_device_shadow_adopt_rings(struct vublk_device *device, struct vublk_error *error)
{
	struct vublk_plane_setup setups[VUBLK_MAX_QUEUES] = { 0 };
	struct vublk_device_shadow *shadow = &device->shadow;
	int r = map_memory(device, &shadow->memory, error);

	if (!r)
		r = fill_setups(device, setups, error);
	return r < 0 ? r : vublk_plane_thread_adopt(shadow->thread, setups, driver_features(device),
						    shadow->memory, &shadow->fault, error);
}
