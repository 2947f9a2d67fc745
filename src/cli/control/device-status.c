/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The copy of a device's state, which the commands of `vublk device` make; see device-status.h. */
#include "cli/control/device-status.h"

#include "cli/control/json.h"

#include <endian.h>

#define SECTOR_BYTES 512

/* --- the device's thread --------------------------------------------------------------- */

static void copy_queues(const struct vublk_device *device, struct vublk_device_status *status)
{
	for (unsigned i = 0; i < status->num_queues && i < VUBLK_MAX_QUEUES; i++) {
		struct vublk_device_status_queue *queue = &status->queues[status->num_set_up];

		queue->index = i;
		if (vublk_device_get_queue(device, i, &queue->setup, sizeof(queue->setup)) < 0 ||
		    !queue->setup.size)
			continue;
		queue->has_place = !vublk_device_queue_place(device, i, &queue->place,
							     sizeof(queue->place), NULL);
		status->num_set_up++;
	}
}

static void copy_paths(const struct vublk_device *device, struct vublk_device_status *status)
{
	status->num_paths = vublk_device_num_paths(device);
	vublk_device_get_fence(device, &status->fence, sizeof(status->fence));
	for (unsigned i = 0; i < status->num_paths; i++)
		vublk_device_get_path(device, i, &status->paths[i], sizeof(status->paths[i]));
}

void vublk_device_status_copy(const struct vublk_bus *bus, struct vublk_device_status *status)
{
	const struct vublk_device *device = vublk_bus_device(bus);
	uint64_t sectors = 0;

	vublk_bus_get_info(bus, &status->bus, sizeof(status->bus));
	vublk_device_get_info(device, &status->device, sizeof(status->device));
	vublk_device_get_shadow(device, &status->shadow, sizeof(status->shadow));
	vublk_device_get_replay(device, &status->replay, sizeof(status->replay));
	status->state = vublk_device_state(device);
	status->num_queues = vublk_device_num_queues(device);
	status->features = vublk_device_features(device);
	status->driver_status = vublk_device_status(device);
	vublk_device_config_read(device, 0, &sectors, sizeof(sectors)); /* the member `capacity` */
	status->size_bytes = le64toh(sectors) * SECTOR_BYTES;
	copy_paths(device, status);
	copy_queues(device, status);
}

/* --- the control thread ----------------------------------------------------------------- */

bool vublk_device_status_has_backend(const struct vublk_device_status *status)
{
	enum vublk_device_state state = status->state;

	return state == VUBLK_DEVICE_STOPPED || state == VUBLK_DEVICE_STARTING ||
	       state == VUBLK_DEVICE_RUNNING || state == VUBLK_DEVICE_STOPPING;
}

struct json_object *vublk_device_status_replay_json(const struct vublk_replay_info *replay)
{
	struct json_object *object;

	if (!replay->is_on)
		return NULL;
	object = json_object_new_object();
	vublk_json_add_u64(object, "kept_bytes", replay->kept_bytes);
	vublk_json_add_u64(object, "max_bytes", replay->max_bytes);
	vublk_json_add_bool(object, "replaying", replay->is_replaying);
	vublk_json_add_text(object, "failure", replay->failure);
	vublk_json_add_u64(object, "replays", replay->replays);
	vublk_json_add_u64(object, "last_writes", replay->last_writes);
	vublk_json_add_u64(object, "last_bytes", replay->last_bytes);
	return object;
}

struct json_object *vublk_device_status_queue_json(const struct vublk_device_status_queue *queue)
{
	struct json_object *object = json_object_new_object();

	vublk_json_add_u64(object, "index", queue->index);
	vublk_json_add_u64(object, "size", queue->setup.size);
	vublk_json_add_u64(object, "base", queue->setup.base);
	if (queue->has_place)
		vublk_json_add_u64(object, "outstanding", queue->place.outstanding);
	else
		json_object_object_add(object, "outstanding", NULL);
	return object;
}
