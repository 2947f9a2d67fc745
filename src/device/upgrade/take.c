/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Makes a device from the state that another process has written with give.c; see upgrade.h.
 *
 * Key idea: all steps that can fail come first, and have no effect outside this process. The steps
 * that do have such an effect (the timers, the search for a back-end, the signals) come when the
 * device belongs to this process.
 */
#include "device/device.h"
#include "device/upgrade/upgrade.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <stdlib.h>

/* --- the device ----------------------------------------------------------------------------- */

static bool is_known_state(uint64_t state)
{
	return state == VUBLK_DEVICE_STOPPED || state == VUBLK_DEVICE_RUNNING ||
	       state == VUBLK_DEVICE_LOST;
}

static void read_session(struct vublk_device *device, struct vublk_section *from)
{
	device->features = vublk_section_get(from);
	device->acked_features = vublk_section_get(from);
	device->has_acked_features = vublk_section_get(from);
	device->status = (uint8_t)vublk_section_get(from);
	device->early_kick = (enum vublk_device_early_kick)vublk_section_get(from);
	device->resume = (enum vublk_device_resume)vublk_section_get(from);
	device->vm_running = vublk_section_get(from);
	device->drains = vublk_section_get(from);
	device->leaves_requests = vublk_section_get(from);
	device->is_shutting_down = vublk_section_get(from);
	device->has_tight_areas = vublk_section_get(from);
}

static void read_config(struct vublk_device *device, struct vublk_section *from)
{
	device->config_read_again = vublk_section_get(from);
	device->config_generation = (uint32_t)vublk_section_get(from);
	vublk_section_get_bytes(from, device->config, sizeof(device->config));
	vublk_section_get_bytes(from, device->backend_config, sizeof(device->backend_config));
}

static int read_device(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_device *device = owner;
	uint64_t state = vublk_section_get(from);
	uint64_t num_queues = vublk_section_get(from);
	int r;

	if (device->num_queues || !is_known_state(state) || !num_queues ||
	    num_queues > VUBLK_MAX_QUEUES)
		return vublk_error_set(error, EINVAL, "the state of the device is not valid: state "
				       "%u with %u queues",
				       (unsigned)state, (unsigned)num_queues);
	device->num_queues = (unsigned)num_queues;
	r = vublk_device_queues_init(device, error);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < device->num_queues; i++)
		device->queues[i] = (struct vublk_device_queue){ .kick_fd = -1, .call_fd = -1 };
	device->life++;
	vublk_device_adopt_state(device, (enum vublk_device_state)state);
	read_session(device, from);
	read_config(device, from);
	vublk_section_get_error(from, &device->failure);
	return 0;
}

static int read_paths(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_device *device = owner;
	struct vublk_device_paths *paths = &device->paths;

	paths->active = (unsigned)vublk_section_get(from);
	paths->last = (unsigned)vublk_section_get(from);
	paths->since_ns = vublk_section_get(from);
	paths->num_moves = (unsigned)vublk_section_get(from);
	paths->is_held = vublk_section_get(from);
	paths->logged_held = vublk_section_get(from);
	if (paths->active < vublk_device_num_paths(device) &&
	    paths->last < vublk_device_num_paths(device))
		return 0;
	return vublk_error_set(error, EINVAL, "the state contains the index %u of a back-end's path, but the device has "
			       "only %u paths",
			       VUBLK_MAX(paths->active, paths->last), vublk_device_num_paths(device));
}

static void read_peer(struct vublk_peer *peer, struct vublk_section *from)
{
	peer->pidfd = vublk_section_get_fd(from);
	peer->pid = (int64_t)vublk_section_get(from);
	vublk_section_get_text(from, peer->why, sizeof(peer->why));
}

static int read_fence(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_device *device = owner;
	struct vublk_device_fence *fence = &device->fence;
	bool awaits;

	read_peer(&fence->peer, from);
	read_peer(&fence->owner, from);
	fence->has_owner = vublk_section_get(from);
	fence->owns = vublk_section_get(from);
	fence->must_end = vublk_section_get(from);
	awaits = vublk_section_get(from);
	fence->num_former = (unsigned)VUBLK_MIN(vublk_section_get(from),
						(uint64_t)VUBLK_DEVICE_MAX_FORMER);
	for (unsigned i = 0; i < fence->num_former; i++)
		read_peer(&fence->former[i], from);
	if (awaits)
		vublk_device_fence_await(device);
	return 0;
}

static int read_frontend(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_device *device = owner;

	return vublk_frontend_take(&device->frontend, from, vublk_device_path(device),
				   (unsigned)device->settings.request_timeout_ms, error);
}

static int read_frontend_region(void *owner, struct vublk_section *from,
				struct vublk_error *error)
{
	struct vublk_device *device = owner;

	return vublk_frontend_take_region(&device->frontend, from, error);
}

/* --- queues --------------------------------------------------------------------------------- */

/*
 * Checks that the device has the queue with this index. The section "device", which has the number of queues, must have been
 * read before.
 */
static int check_index(const struct vublk_device *device, uint64_t index,
		       struct vublk_error *error)
{
	if (index < device->num_queues)
		return 0;
	return vublk_error_set(error, EINVAL, "the state names queue %u of a device with %u queues",
			       (unsigned)index, device->num_queues);
}

static int read_queue(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_device *device = owner;
	uint64_t index = vublk_section_get(from);
	int r = check_index(device, index, error);
	struct vublk_device_queue *queue;

	if (r < 0)
		return r;
	queue = &device->queues[index];
	queue->size = (uint16_t)vublk_section_get(from);
	device->bases[index] = (uint16_t)vublk_section_get(from);
	queue->base = (uint16_t)vublk_section_get(from);
	queue->desc_addr = vublk_section_get(from);
	queue->avail_addr = vublk_section_get(from);
	queue->used_addr = vublk_section_get(from);
	device->lost_avail[index] = (int32_t)vublk_section_get(from);
	device->notifiers_changed[index] = (uint8_t)vublk_section_get(from);
	return queue->size ? vublk_device_queue_check(device, (unsigned)index, queue, error) : 0;
}

/*
 * Reads the eventfd on which the back-end reports errors of a ring. The sections of all queues and
 * of the shadow rings must have been read before, because the first call collects the rings.
 */
static int read_ring_error(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_device *device = owner;
	unsigned index = (unsigned)vublk_section_get(from);
	bool is_watched = vublk_section_get(from);
	VUBLK_FD int fd = vublk_section_get_fd(from);

	if (vublk_device_is_shadowed(device) && !device->shadow.side)
		return vublk_error_set(error, EINVAL, "the shadow rings are missing");
	if (!device->num_rings) {
		vublk_device_queues_collect(device);
		vublk_device_shadow_collect(device);
	}
	return vublk_device_ring_error_adopt(device, index, vublk_fd_steal(&fd), is_watched,
					     error);
}

void vublk_device_take_notifiers(struct vublk_device *device, unsigned index, int kick_fd,
				 int call_fd)
{
	if (index >= device->num_queues)
		return;
	device->queues[index].kick_fd = kick_fd;
	device->queues[index].call_fd = call_fd;
	for (unsigned i = 0; i < device->num_rings && !vublk_device_is_shadowed(device); i++) {
		if (device->rings[i].index != index)
			continue;
		device->rings[i].kick_fd = kick_fd;
		device->rings[i].call_fd = call_fd;
	}
}

/* --- memory, area, log ------------------------------------------------------------------------ */

static int read_memory(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_device *device = owner;
	struct vublk_frontend_memory *memory = &device->memory;
	struct vublk_frontend_region *regions, *region;

	if (memory->num_regions >= VUBLK_MEMORY_MAX_REGIONS)
		return vublk_error_set(error, EINVAL, "the state has more than %u memory regions "
				       "of the guest",
				       VUBLK_MEMORY_MAX_REGIONS);
	regions = realloc(memory->regions, (memory->num_regions + 1) * sizeof(*regions));
	if (!regions)
		return vublk_error_set_errno(error, ENOMEM, "cannot allocate a memory table");
	memory->regions = regions;
	region = &regions[memory->num_regions++];
	*region = (struct vublk_frontend_region){ .region.fd = -1 };
	region->region.guest_addr = vublk_section_get(from);
	region->region.size_bytes = vublk_section_get(from);
	region->region.fd_offset = vublk_section_get(from);
	region->region.fd = vublk_section_get_fd(from);
	region->file_device = vublk_section_get(from);
	region->file_inode = vublk_section_get(from);
	return 0;
}

static int read_area(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_device_inflight *area = &((struct vublk_device *)owner)->inflight;

	area->fd = vublk_section_get_fd(from);
	area->offset = vublk_section_get(from);
	area->size_bytes = vublk_section_get(from);
	area->num_queues = (uint16_t)vublk_section_get(from);
	area->queue_size = (uint16_t)vublk_section_get(from);
	return 0;
}

static int read_log(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_device *device = owner;
	struct vublk_device_dirty *dirty = &device->dirty;

	dirty->phase = (enum vublk_device_dirty_phase)vublk_section_get(from);
	dirty->log.fd = vublk_section_get_fd(from);
	dirty->log.offset = vublk_section_get(from);
	dirty->log.size_bytes = vublk_section_get(from);
	if (vublk_section_get(from))
		device->frontend.dirty_log = &dirty->log;
	return 0;
}

/* --- the outage ------------------------------------------------------------------------------- */

static int read_outage(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_device_reconnect *reconnect = &((struct vublk_device *)owner)->reconnect;

	reconnect->lost_ns = vublk_section_get(from);
	reconnect->tried_ns = vublk_section_get(from);
	reconnect->pause_ms = vublk_section_get(from);
	reconnect->refusals = (unsigned)vublk_section_get(from);
	reconnect->short_runs = (unsigned)vublk_section_get(from);
	reconnect->warned_unflushed = vublk_section_get(from);
	reconnect->config_changed = vublk_section_get(from);
	reconnect->logged_unwatched = vublk_section_get(from);
	vublk_section_get_error(from, &reconnect->refusal);
	return 0;
}

static int read_notices(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_device_notices *notices = &((struct vublk_device *)owner)->notices;

	notices->size_bytes = vublk_section_get(from);
	notices->requests = vublk_section_get(from);
	notices->refusal = (uint32_t)vublk_section_get(from);
	notices->has_loss = vublk_section_get(from);
	notices->is_expected = vublk_section_get(from);
	notices->path = (uint32_t)vublk_section_get(from);
	notices->is_paused = vublk_section_get(from);
	return 0;
}

static int read_pause(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_device *device = owner;

	device->pause.is_wanted = true;
	device->pause.stops = vublk_section_get(from);
	return 0;
}

static int read_listener(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_device_listener *listener = &((struct vublk_device *)owner)->listener;

	listener->fd = vublk_section_get_fd(from);
	listener->taken_file = (ino_t)vublk_section_get(from);
	return 0;
}

const struct vublk_section_type vublk_device_sections[] = {
	{ "device", false, read_device },
	{ "device-paths", false, read_paths },
	{ "device-fence", false, read_fence },
	{ "back-end", false, read_frontend },
	{ "back-end-memory", false, read_frontend_region },
	{ "device-queue", false, read_queue },
	{ "device-ring-error", false, read_ring_error },
	{ "device-memory", false, read_memory },
	{ "device-inflight", false, read_area },
	{ "device-log", false, read_log },
	{ "device-statistics", true, vublk_device_read_statistics },
	{ "device-shadow", false, vublk_device_read_shadow },
	{ "plane-side", false, vublk_device_read_side },
	{ "plane", false, vublk_device_read_plane },
	{ "plane-log", false, vublk_device_read_plane },
	{ "plane-queue", false, vublk_device_read_plane },
	{ "plane-slot", false, vublk_device_read_plane },
	{ "plane-ring", false, vublk_device_read_plane },
	{ "device-outage", true, read_outage },
	{ "device-notices", true, read_notices },
	{ "device-pause", true, read_pause },
	{ "device-listener", false, read_listener },
	{ NULL },
};

/* --- the end ---------------------------------------------------------------------------------- */

static bool has_log_agreed(const struct vublk_device_dirty *dirty)
{
	return (dirty->phase == VUBLK_DEVICE_DIRTY_OFF) == (dirty->log.fd < 0) &&
	       dirty->phase <= VUBLK_DEVICE_DIRTY_ON;
}

/*
 * Makes the objects that the properties require and vublk_device_realize() would have made, unless
 * they exist already: the counters and the plane.
 */
static int realize_properties(struct vublk_device *device, struct vublk_error *error)
{
	int r = vublk_device_statistics_realize(device, error);

	if (r < 0 || device->shadow.thread)
		return r;
	return vublk_device_shadow_init(device, error);
}

int vublk_device_take_end(struct vublk_device *device, struct vublk_error *error)
{
	bool is_open = device->frontend.state == VUBLK_FRONTEND_READY;
	int r;

	if (!device->num_queues || is_open != vublk_device_is_connected(device) ||
	    (device->state == VUBLK_DEVICE_RUNNING &&
	     (!device->num_rings || device->num_ring_errors != device->num_rings)) ||
	    device->resume > VUBLK_DEVICE_RESUME_NEVER ||
	    device->early_kick >= VUBLK_DEVICE_NUM_EARLY_KICKS ||
	    !has_log_agreed(&device->dirty) || device->settings.server != (device->listener.fd >= 0))
		return vublk_error_set(error, EINVAL, "the state of the device contradicts itself");
	for (unsigned i = 0; i < device->memory.num_regions; i++)
		if (device->memory.regions[i].region.fd < 0)
			return vublk_error_set(error, EINVAL,
					       "the descriptor of memory region %u is missing", i);
	r = vublk_device_take_shadow_end(device, error);
	return r < 0 ? r : realize_properties(device, error);
}

/*
 * Continues the search for a back-end: listens (property `server`), or tries immediately, because
 * the old process may have consumed the inotify event, which does not occur again.
 */
static void resume_search(struct vublk_device *device)
{
	if (!vublk_device_will_reconnect(&device->settings) || device->is_shutting_down)
		return;
	if (!device->settings.server) {
		vublk_device_watch_socket(device);
		vublk_device_reconnect_wake(device);
		return;
	}
	if (vublk_device_outage_deadline_ns(device) != UINT64_MAX)
		vublk_loop_timer_arm(&device->loop, &device->connect_timer,
				     vublk_device_outage_deadline_ns(device));
	vublk_device_listen(device);
}

void vublk_device_take_begin(struct vublk_device *device)
{
	device->listener.file = device->listener.taken_file;
	vublk_device_take_shadow_begin(device);
	if (device->state == VUBLK_DEVICE_RUNNING) {
		vublk_device_kick_rings(device);
		vublk_device_call_rings(device);
		vublk_device_keepalive_begin(device);
	}
	if (device->state == VUBLK_DEVICE_LOST)
		resume_search(device);
	vublk_device_watch_config(device);
	vublk_device_reconsider_path(device); /* the old process may have cancelled an exchange */
	vublk_device_post_update(device);
}
