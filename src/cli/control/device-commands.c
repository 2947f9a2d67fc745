/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The commands of the control socket of `vublk device`; docs/control.md describes their results.
 *
 * Key idea: the device never blocks, whatever its back-end does, so a command is answered during an
 * outage as well.
 */
#include "cli/control/commands.h"

#include "cli/cli.h"
#include "cli/control/json.h"

#include <vublk/bus.h>
#include <vublk/device.h>

#include <endian.h>
#include <string.h>

#define SECTOR_BYTES 512

struct queue {
	unsigned index;
	struct vublk_device_queue setup;
	struct vublk_device_place place;
	bool has_place; /* the ring is in the memory that the VMM shares */
};

struct status {
	struct vublk_bus_info bus;
	struct vublk_device_info device;
	enum vublk_device_state state;
	unsigned num_queues;
	uint64_t features;
	uint64_t size_bytes;
	uint8_t driver_status;
	struct queue queues[VUBLK_MAX_QUEUES]; /* those that are set up */
	unsigned num_set_up;
};

/* --- the device's thread --------------------------------------------------------------- */

static void copy_queues(const struct vublk_device *device, struct status *status)
{
	for (unsigned i = 0; i < status->num_queues && i < VUBLK_MAX_QUEUES; i++) {
		struct queue *queue = &status->queues[status->num_set_up];

		queue->index = i;
		if (vublk_device_get_queue(device, i, &queue->setup, sizeof(queue->setup)) < 0 ||
		    !queue->setup.size)
			continue;
		queue->has_place = !vublk_device_queue_place(device, i, &queue->place,
							     sizeof(queue->place), NULL);
		status->num_set_up++;
	}
}

static int copy_status(void *owner, void *copy, struct vublk_error *error)
{
	const struct vublk_device *device = vublk_bus_device(owner);
	struct status *status = copy;
	uint64_t sectors = 0;

	vublk_bus_get_info(owner, &status->bus, sizeof(status->bus));
	vublk_device_get_info(device, &status->device, sizeof(status->device));
	status->state = vublk_device_state(device);
	status->num_queues = vublk_device_num_queues(device);
	status->features = vublk_device_features(device);
	status->driver_status = vublk_device_status(device);
	vublk_device_config_read(device, 0, &sectors, sizeof(sectors)); /* the member `capacity` */
	status->size_bytes = le64toh(sectors) * SECTOR_BYTES;
	copy_queues(device, status);
	return 0;
}

/* --- the control thread ----------------------------------------------------------------- */

static bool has_backend(enum vublk_device_state state)
{
	return state == VUBLK_DEVICE_STOPPED || state == VUBLK_DEVICE_STARTING ||
	       state == VUBLK_DEVICE_RUNNING || state == VUBLK_DEVICE_STOPPING;
}

static struct json_object *backend_json(const struct status *status)
{
	const struct vublk_device_info *info = &status->device;
	struct json_object *backend = json_object_new_object();

	vublk_json_add_text(backend, "chardev", info->chardev);
	vublk_json_add_bool(backend, "connected", has_backend(status->state));
	vublk_json_add_u64(backend, "outages", status->bus.outages);
	vublk_json_add_u64(backend, "outage_ms", status->bus.outage_ms);
	vublk_json_add_text(backend, "reason", status->bus.reason);
	vublk_json_add_u64(backend, "max_queues", info->backend_max_queues);
	vublk_json_add_u64(backend, "memory_slots", info->backend_memory_slots);
	vublk_json_add_features(backend, "features", info->backend_features, vublk_feature_name);
	vublk_json_add_features(backend, "protocol_features", info->protocol_features,
				vublk_protocol_feature_name);
	return backend;
}

static struct json_object *vmm_json(const struct status *status)
{
	struct json_object *vmm;

	if (!status->bus.has_vmm)
		return NULL;
	vmm = json_object_new_object();
	vublk_json_add_u64(vmm, "pid", (uint64_t)status->bus.vmm_pid);
	vublk_json_add_u64(vmm, "driver_status", status->driver_status);
	return vmm;
}

static struct json_object *queue_json(const struct queue *queue)
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

static struct json_object *format_status(void *owner, const void *copy)
{
	const struct status *status = copy;
	struct json_object *result = json_object_new_object();
	struct json_object *queues = json_object_new_array();

	vublk_json_add_text(result, "state", status->bus.state);
	vublk_json_add_text(result, "device", vublk_device_state_name(status->state));
	vublk_json_add_u64(result, "size_bytes", status->size_bytes);
	vublk_json_add_u64(result, "num_queues", status->num_queues);
	vublk_json_add_features(result, "features", status->features, vublk_feature_name);
	json_object_object_add(result, "back_end", backend_json(status));
	json_object_object_add(result, "vmm", vmm_json(status));
	for (unsigned i = 0; i < status->num_set_up; i++)
		json_object_array_add(queues, queue_json(&status->queues[i]));
	json_object_object_add(result, "queues", queues);
	return result;
}

const struct vublk_control_command vublk_device_commands[] = {
	{ "status", NULL, sizeof(struct status), NULL, copy_status, format_status },
	{ NULL },
};
