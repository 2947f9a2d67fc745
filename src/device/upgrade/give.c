/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes the state of a device for another process, which reads it with take.c; see upgrade.h.
 *
 * Key idea: this file does not write what the new process can determine itself. For example, the
 * rings that the back-end has are those that the driver has set up, and the new process arms the
 * timers and posts the tasks again.
 */
#include "device/device.h"
#include "device/upgrade/upgrade.h"

#include "util/error.h"

#include <errno.h>

/* --- the quiet point ---------------------------------------------------------------------- */

int vublk_device_handover_check(const struct vublk_device *device, struct vublk_error *error)
{
	uint32_t mirror = 1u << VUBLK_DEVICE_SHADOW_FOR_MIRROR;

	if (device->mirror_state)
		return vublk_error_set(error, EBUSY, "the device has the property mirror-state, and the "
				       "state file of a mirror cannot be handed to another process; stop "
				       "this process, and start the new one as usual");
	if (vublk_device_shadow_reasons(device) & mirror)
		return vublk_error_set(error, EBUSY, "the disk is being mirrored, and a mirror cannot be "
				       "handed to another process; end the mirror first (vublk ctl PATH "
				       "mirror stop)");
	if (device->shadow.thread && vublk_fault_happened(&device->shadow.fault))
		return vublk_error_set(error, EBUSY, "a page of %s cannot be accessed, and all requests "
				       "fail until the device is reset; reset the VM first", vublk_fault_name(&device->shadow.fault));
	return 0;
}

void vublk_device_handover_prepare(struct vublk_device *device)
{
	device->exchange.waits = true;
	vublk_device_reconsider_path(device);
}

void vublk_device_handover_cancel(struct vublk_device *device)
{
	if (device->shadow.thread)
		vublk_plane_thread_unpark(device->shadow.thread);
	if (!device->exchange.waits)
		return;
	device->exchange.waits = false;
	vublk_device_reconsider_path(device);
}

static bool is_exchanging(const struct vublk_device *device)
{
	return device->exchange.phase != VUBLK_DEVICE_EXCHANGE_NONE &&
	       device->exchange.phase != VUBLK_DEVICE_EXCHANGE_REFUSED;
}

static bool is_log_settled(const struct vublk_device *device)
{
	return device->dirty.phase == VUBLK_DEVICE_DIRTY_OFF ||
	       device->dirty.phase == VUBLK_DEVICE_DIRTY_ON;
}

const char *vublk_device_handover_obstacle(const struct vublk_device *device)
{
	switch (device->state) {
	case VUBLK_DEVICE_STOPPED:
	case VUBLK_DEVICE_RUNNING:
	case VUBLK_DEVICE_LOST:
		break;
	case VUBLK_DEVICE_STARTING:
		return "the back-end has not finished starting the rings";
	case VUBLK_DEVICE_STOPPING:
		return "the back-end has not returned the rings";
	default:
		return "the device is not connected to its back-end";
	}
	if (is_exchanging(device))
		return "the requests are being moved to or from the shadow rings";
	if (device->path_switch.phase != VUBLK_DEVICE_SWITCH_NONE)
		return "the disk is being switched to another back-end";
	if (device->memory_change_under_way || device->inflight_under_way ||
	    device->num_notifiers || !is_log_settled(device))
		return "the back-end has not yet confirmed a change";
	if (device->config_read != VUBLK_DEVICE_READ_NONE ||
	    device->config_write != VUBLK_DEVICE_WRITE_NONE)
		return "the back-end's config is being read or written";
	return vublk_frontend_handover_obstacle(&device->frontend);
}

const char *vublk_device_handover_freeze(struct vublk_device *device)
{
	struct vublk_device_shadow *shadow = &device->shadow;
	const char *obstacle;

	if (!shadow->thread)
		return NULL;
	vublk_plane_thread_park(shadow->thread);
	obstacle = vublk_plane_thread_obstacle(shadow->thread, shadow->num_broken);
	if (obstacle)
		vublk_plane_thread_unpark(shadow->thread);
	return obstacle;
}

/* --- sections ----------------------------------------------------------------------------- */

static void give_device(const struct vublk_device *device, struct vublk_sections_writer *to)
{
	vublk_section_begin(to, "device", 1, false);
	vublk_section_put(to, device->state);
	vublk_section_put(to, device->num_queues);
	vublk_section_put(to, device->features);
	vublk_section_put(to, device->acked_features);
	vublk_section_put(to, device->has_acked_features);
	vublk_section_put(to, device->status);
	vublk_section_put(to, device->early_kick);
	vublk_section_put(to, device->resume);
	vublk_section_put(to, device->vm_running);
	vublk_section_put(to, device->drains);
	vublk_section_put(to, device->leaves_requests);
	vublk_section_put(to, device->is_shutting_down);
	vublk_section_put(to, device->has_tight_areas);
	vublk_section_put(to, device->config_read_again);
	vublk_section_put(to, device->config_generation);
	vublk_section_put_bytes(to, device->config, sizeof(device->config));
	vublk_section_put_bytes(to, device->backend_config, sizeof(device->backend_config));
	vublk_section_put_error(to, &device->failure);
}

static void give_queue(const struct vublk_device *device, unsigned index,
		       struct vublk_sections_writer *to)
{
	const struct vublk_device_queue *queue = &device->queues[index];

	vublk_section_begin(to, "device-queue", 1, false);
	vublk_section_put(to, index);
	vublk_section_put(to, queue->size);
	vublk_section_put(to, device->bases[index]);
	vublk_section_put(to, queue->base);
	vublk_section_put(to, queue->desc_addr);
	vublk_section_put(to, queue->avail_addr);
	vublk_section_put(to, queue->used_addr);
	vublk_section_put(to, (uint64_t)device->lost_avail[index]);
	vublk_section_put(to, device->notifiers_changed[index]);
}

static void give_ring_error(const struct vublk_device *device, unsigned index,
			    struct vublk_sections_writer *to)
{
	vublk_section_begin(to, "device-ring-error", 1, false);
	vublk_section_put(to, device->rings[index].index);
	vublk_section_put(to, vublk_device_ring_error_is_watched(device, index));
	vublk_section_put_fd(to, device->rings[index].err_fd);
}

static void give_memory(const struct vublk_frontend_region *region,
			struct vublk_sections_writer *to)
{
	vublk_section_begin(to, "device-memory", 1, false);
	vublk_section_put(to, region->region.guest_addr);
	vublk_section_put(to, region->region.size_bytes);
	vublk_section_put(to, region->region.fd_offset);
	vublk_section_put_fd(to, region->region.fd);
	vublk_section_put(to, region->file_device);
	vublk_section_put(to, region->file_inode);
}

static void give_area(const struct vublk_device *device, struct vublk_sections_writer *to)
{
	const struct vublk_device_inflight *area = &device->inflight;

	vublk_section_begin(to, "device-inflight", 1, false);
	vublk_section_put_fd(to, area->fd);
	vublk_section_put(to, area->offset);
	vublk_section_put(to, area->size_bytes);
	vublk_section_put(to, area->num_queues);
	vublk_section_put(to, area->queue_size);
}

static void give_log(const struct vublk_device *device, struct vublk_sections_writer *to)
{
	const struct vublk_device_dirty *dirty = &device->dirty;

	vublk_section_begin(to, "device-log", 1, false);
	vublk_section_put(to, dirty->phase);
	vublk_section_put_fd(to, dirty->log.fd);
	vublk_section_put(to, dirty->log.offset);
	vublk_section_put(to, dirty->log.size_bytes);
	vublk_section_put(to, device->frontend.dirty_log != NULL);
}

static void give_outage(const struct vublk_device *device, struct vublk_sections_writer *to)
{
	const struct vublk_device_reconnect *reconnect = &device->reconnect;

	vublk_section_begin(to, "device-outage", 1, true);
	vublk_section_put(to, reconnect->lost_ns);
	vublk_section_put(to, reconnect->tried_ns);
	vublk_section_put(to, reconnect->pause_ms);
	vublk_section_put(to, reconnect->refusals);
	vublk_section_put(to, reconnect->short_runs);
	vublk_section_put(to, reconnect->warned_unflushed);
	vublk_section_put(to, reconnect->config_changed);
	vublk_section_put(to, reconnect->logged_unwatched);
	vublk_section_put_error(to, &reconnect->refusal);
}

static void give_peer(const struct vublk_peer *peer, struct vublk_sections_writer *to)
{
	vublk_section_put_fd(to, peer->pidfd);
	vublk_section_put(to, (uint64_t)peer->pid);
	vublk_section_put_text(to, peer->why);
}

/*
 * Writes the paths and the fence. Must be called before the connection is written, because the
 * reader of the connection needs the active path.
 */
static void give_paths(const struct vublk_device *device, struct vublk_sections_writer *to)
{
	const struct vublk_device_paths *paths = &device->paths;
	const struct vublk_device_fence *fence = &device->fence;

	vublk_section_begin(to, "device-paths", 1, false);
	vublk_section_put(to, paths->active);
	vublk_section_put(to, paths->last);
	vublk_section_put(to, paths->since_ns);
	vublk_section_put(to, paths->num_moves);
	vublk_section_put(to, paths->is_held);
	vublk_section_put(to, paths->logged_held);
	vublk_section_begin(to, "device-fence", 1, false);
	give_peer(&fence->peer, to);
	give_peer(&fence->owner, to);
	vublk_section_put(to, fence->has_owner);
	vublk_section_put(to, fence->owns);
	vublk_section_put(to, fence->must_end);
	vublk_section_put(to, fence->source.loop != NULL);
	vublk_section_put(to, fence->num_former);
	for (unsigned i = 0; i < fence->num_former; i++)
		give_peer(&fence->former[i], to);
}

static void give_notices(const struct vublk_device *device, struct vublk_sections_writer *to)
{
	const struct vublk_device_notices *notices = &device->notices;

	vublk_section_begin(to, "device-notices", 1, true);
	vublk_section_put(to, notices->size_bytes);
	vublk_section_put(to, notices->requests);
	vublk_section_put(to, notices->refusal);
	vublk_section_put(to, notices->has_loss);
	vublk_section_put(to, notices->is_expected);
	vublk_section_put(to, notices->path);
	vublk_section_put(to, notices->is_paused);
}

/*
 * Writes the operator's pause, which lasts until the operator ends it. So a reader that does not
 * support pauses must not skip this section.
 */
static void give_pause(const struct vublk_device *device, struct vublk_sections_writer *to)
{
	if (!device->pause.is_wanted)
		return;
	vublk_section_begin(to, "device-pause", 1, false);
	vublk_section_put(to, device->pause.stops);
}

static void give_listener(const struct vublk_device *device, struct vublk_sections_writer *to)
{
	if (device->listener.fd < 0)
		return;
	vublk_section_begin(to, "device-listener", 1, false);
	vublk_section_put_fd(to, device->listener.fd);
	vublk_section_put(to, device->listener.file);
}

void vublk_device_give(struct vublk_device *device, struct vublk_sections_writer *to)
{
	give_device(device, to);
	give_paths(device, to);
	vublk_frontend_give(&device->frontend, to);
	for (unsigned i = 0; i < device->num_queues; i++)
		if (device->queues[i].size || device->bases[i])
			give_queue(device, i, to);
	for (unsigned i = 0; i < device->memory.num_regions; i++)
		give_memory(&device->memory.regions[i], to);
	give_area(device, to);
	give_log(device, to);
	vublk_device_give_statistics(device, to);
	vublk_device_give_shadow(device, to);
	for (unsigned i = 0; device->state == VUBLK_DEVICE_RUNNING && i < device->num_rings; i++)
		give_ring_error(device, i, to);
	give_outage(device, to);
	give_notices(device, to);
	give_pause(device, to);
	give_listener(device, to);
}

/*
 * Without the inode of the socket's file, vublk_device_listener_close() does not remove the file.
 */
void vublk_device_disown(struct vublk_device *device)
{
	device->listener.file = 0;
	if (device->trace.is_wanted)
		vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_INFO,
				  "the trace of requests ends, because another process has taken over");
}
