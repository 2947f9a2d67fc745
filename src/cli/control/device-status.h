/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_DEVICE_STATUS_H
#define VUBLK_CLI_CONTROL_DEVICE_STATUS_H

/*
 * A copy of the state of a device. The commands of `vublk device` make the copy on the device's
 * thread, and use it on the control thread.
 */
#include <vublk/bus.h>
#include <vublk/device.h>
#include <vublk/paths.h>
#include <vublk/shadow.h>
#include <vublk/statistics.h>

struct vublk_device_status_queue {
	unsigned index;
	struct vublk_device_queue setup;
	struct vublk_device_place place;
	bool has_place; /* `place` is valid; false: the ring could not be read from the
			   guest's memory */
};

struct vublk_device_status {
	struct vublk_bus_info bus;
	struct vublk_device_info device;
	struct vublk_shadow_info shadow;
	struct vublk_replay_info replay;
	enum vublk_device_state state;
	unsigned num_queues;
	uint64_t features;
	uint64_t size_bytes;
	uint8_t driver_status;
	struct vublk_device_path_info paths[VUBLK_MAX_PATHS];
	unsigned num_paths;
	struct vublk_device_fence_info fence;
	struct vublk_device_status_queue queues[VUBLK_MAX_QUEUES]; /* only the queues that are
								      set up */
	unsigned num_set_up;
};

/* Copies the state of `bus` and its device into `status`. Must be called on the device's thread. */
void vublk_device_status_copy(const struct vublk_bus *bus, struct vublk_device_status *status);

/* The functions below use only the copy, on the control thread. */
struct json_object;
bool vublk_device_status_has_backend(const struct vublk_device_status *status);
/*
 * Returns the JSON object that describes unflushed=replay in the result of `status`; NULL: replay
 * is not in use.
 */
struct json_object *vublk_device_status_replay_json(const struct vublk_replay_info *replay);
/*
 * Returns the JSON object that describes a queue in the result of `status`: its index, size and
 * base, and the number of outstanding requests (null: not known).
 */
struct json_object *vublk_device_status_queue_json(const struct vublk_device_status_queue *queue);

#endif
