/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The device as an object: new, free, process, get_info. The other files do the work.
 *
 * Key idea: start reading at state.c, which has the states. link/ finds a back-end and handles its
 * loss; rings/ starts, stops and resumes the rings; save/ saves and loads the state of a device;
 * upgrade/ hands a device over to another process.
 */
#include "device/device.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/struct.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int vublk_device_new(const struct vublk_device_bus_ops *ops, size_t ops_bytes, void *bus,
		     const struct vublk_log *log, struct vublk_device **device,
		     struct vublk_error *error)
{
	struct vublk_device *made = calloc(1, sizeof(*made));
	int r;

	if (!made)
		return vublk_error_set_errno(error, ENOMEM, "cannot allocate a device");
	r = vublk_struct_in(&made->bus_ops, sizeof(made->bus_ops), ops, ops_bytes,
			    "vublk_device_bus_ops", error);
	if (!r)
		r = vublk_loop_init(&made->loop, error);
	if (r < 0) {
		free(made);
		return r;
	}
	made->ops = &made->bus_ops;
	made->bus = bus;
	made->vm_running = true;
	if (log)
		made->log = *log;
	made->inflight.fd = made->made_inflight.fd = -1;
	made->update_task.fn = vublk_device_on_update_task;
	made->update_task.opaque = made;
	made->config_timer.fn = vublk_device_on_config_timer;
	made->config_timer.opaque = made;
	made->keepalive_timer.fn = vublk_device_on_keepalive_timer;
	made->keepalive_timer.opaque = made;
	made->shadow.fault.fd = -1;
	vublk_device_statistics_init(made);
	made->shadow.side_area.fd = -1;
	vublk_device_exchange_init(made);
	vublk_device_trace_init(made);
	vublk_device_dirty_log_init(made);
	vublk_device_settings_init(&made->settings);
	vublk_device_connect_init(made);
	*device = made;
	return 0;
}

void vublk_device_free(struct vublk_device *device)
{
	if (!device)
		return;
	vublk_device_unrealize(device);
	vublk_device_statistics_deinit(device);
	vublk_fd_close(&device->lent_fd);
	vublk_device_trace_deinit(device);
	vublk_loop_deinit(&device->loop);
	free(device);
}

int vublk_device_fd(const struct vublk_device *device)
{
	return vublk_loop_fd(&device->loop);
}

int vublk_device_process(struct vublk_device *device)
{
	int r = vublk_loop_process(&device->loop, 0);

	vublk_device_report_pause(device);
	return r < 0 ? r : 0;
}

/*
 * Returns the protocol features that a bus may offer to its VMM. They depend on the back-end, and
 * on whether the plane is in the data path.
 */
static uint64_t bus_protocol_features(const struct vublk_device *device)
{
	uint64_t drains = VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_INFLIGHT) |
			  VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_SKIP_DRAIN);
	uint64_t features = device->frontend.info.accepted_protocol_features & drains;

	if (vublk_device_records_requests(device))
		features |= VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD);
	if (!vublk_device_dirty_log_check_backend(device, NULL))
		features |= VUBLK_BIT(VUBLK_VU_F_LOG_SHMFD);
	return features;
}

void vublk_device_get_info(const struct vublk_device *device, struct vublk_device_info *info,
			   size_t info_bytes)
{
	const struct vublk_frontend_info *backend = &device->frontend.info;
	struct vublk_device_info all = {
		.backend_features = backend->features,
		.backend_protocol_features = backend->protocol_features,
		.protocol_features = backend->accepted_protocol_features,
		.backend_max_queues = backend->max_queues,
		.backend_memory_slots = vublk_device_memory_slots(device),
		.backend_config_bytes = backend->config_bytes,
		.bus_protocol_features = (uint32_t)bus_protocol_features(device),
		.features = device->features,
		.hidden_features = backend->features &
				   vublk_device_hidden_features(&device->settings),
	};

	_Static_assert(sizeof(all.backend_config) == sizeof(device->backend_config), "all of it");
	strcpy(all.chardev, vublk_device_path(device));
	if (device->num_queues)
		memcpy(all.backend_config, device->backend_config, sizeof(all.backend_config));
	vublk_struct_out(info, info_bytes, &all, sizeof(all));
}
