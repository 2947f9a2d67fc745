/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The commands of the control socket of `vublk device`; docs/control.md describes their results.
 *
 * Key idea: the device never blocks, whatever its back-end does, so commands get answers during an
 * outage, too.
 */
#include "cli/control/commands.h"

#include "cli/cli.h"
#include "cli/control/device-limit.h"
#include "cli/control/device-mirror.h"
#include "cli/control/device-shadow.h"
#include "cli/control/device-pause.h"
#include "cli/control/timeout.h"
#include "cli/control/device-stats.h"
#include "cli/control/device-status.h"
#include "cli/control/device-switch.h"
#include "cli/control/device-trace.h"
#include "cli/control/json.h"

#include <vublk/upgrade.h>

static int copy_status(void *owner, void *copy, struct vublk_error *error)
{
	vublk_device_status_copy(owner, copy);
	return 0;
}

/* --- the control thread ----------------------------------------------------------------- */

static struct json_object *paths_json(const struct vublk_device_status *status)
{
	struct json_object *paths = json_object_new_array();

	for (unsigned i = 0; i < status->num_paths; i++)
		json_object_array_add(paths, json_object_new_string(status->paths[i].chardev));
	return paths;
}

static struct json_object *fence_json(const struct vublk_device_fence_info *fence)
{
	struct json_object *object;

	if (!fence->is_held)
		return NULL;
	object = json_object_new_object();
	vublk_json_add_u64(object, "pid", (uint64_t)fence->pid);
	vublk_json_add_text(object, "reason", fence->reason);
	return object;
}

static struct json_object *backend_json(const struct vublk_device_status *status)
{
	const struct vublk_device_info *info = &status->device;
	struct json_object *backend = json_object_new_object();

	vublk_json_add_text(backend, "chardev", info->chardev);
	json_object_object_add(backend, "paths", paths_json(status));
	json_object_object_add(backend, "waits_for", fence_json(&status->fence));
	vublk_json_add_bool(backend, "connected", vublk_device_status_has_backend(status));
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

static struct json_object *vmm_json(const struct vublk_device_status *status)
{
	struct json_object *vmm;

	if (!status->bus.has_vmm)
		return NULL;
	vmm = json_object_new_object();
	vublk_json_add_u64(vmm, "pid", (uint64_t)status->bus.vmm_pid);
	vublk_json_add_u64(vmm, "driver_status", status->driver_status);
	return vmm;
}

static struct json_object *format_status(void *owner, const void *copy)
{
	const struct vublk_device_status *status = copy;
	struct json_object *result = json_object_new_object();
	struct json_object *queues = json_object_new_array();

	vublk_json_add_text(result, "state", status->bus.state);
	vublk_json_add_text(result, "device", vublk_device_state_name(status->state));
	vublk_json_add_text(result, "pause", vublk_device_pause_name(&status->bus));
	vublk_json_add_u64(result, "size_bytes", status->size_bytes);
	vublk_json_add_u64(result, "num_queues", status->num_queues);
	vublk_json_add_features(result, "features", status->features, vublk_feature_name);
	json_object_object_add(result, "back_end", backend_json(status));
	json_object_object_add(result, "vmm", vmm_json(status));
	json_object_object_add(result, "shadow", vublk_device_shadow_json(&status->shadow));
	json_object_object_add(result, "replay", vublk_device_status_replay_json(&status->replay));
	for (unsigned i = 0; i < status->num_set_up; i++)
		json_object_array_add(queues, vublk_device_status_queue_json(&status->queues[i]));
	json_object_object_add(result, "queues", queues);
	return result;
}

/* --- upgrade ------------------------------------------------------------------------------ */

static int begin_upgrade(void *owner, void *copy, struct vublk_error *error)
{
	const struct vublk_control_connection *connection = copy;

	return vublk_bus_hand_over(owner, connection->fd, &connection->extra,
				   sizeof(connection->extra), error);
}

const struct vublk_control_command vublk_device_commands[] = {
	{ "status", NULL, sizeof(struct vublk_device_status), NULL, copy_status, format_status },
	{ "limit", vublk_device_limit_arguments, sizeof(struct vublk_limit_command),
	  vublk_device_check_limit, vublk_device_run_limit, vublk_device_format_limit },
	{ "shadow", vublk_device_shadow_arguments, sizeof(struct vublk_shadow_command),
	  vublk_device_check_shadow_command, vublk_device_run_shadow, vublk_device_format_shadow },
	{ "mirror", vublk_device_mirror_arguments, sizeof(struct vublk_mirror_command),
	  vublk_device_check_mirror, vublk_device_run_mirror, vublk_device_format_mirror },
	{ "switch", vublk_device_switch_arguments, sizeof(struct vublk_switch_command),
	  vublk_device_check_switch, vublk_device_run_switch, vublk_device_format_switch },
	{ "pause", vublk_control_timeout_arguments, sizeof(struct vublk_device_pause_copy),
	  vublk_device_check_pause, vublk_device_run_pause, vublk_device_format_pause },
	{ "resume", NULL, 0, NULL, vublk_device_run_resume, vublk_device_format_resume },
	{ "stats", vublk_stats_arguments, sizeof(struct vublk_device_stats_copy), vublk_stats_check,
	  vublk_device_copy_stats, vublk_device_format_stats },
	{ "metrics", NULL, sizeof(struct vublk_device_stats_copy), NULL, vublk_device_copy_stats,
	  vublk_device_format_metrics },
	{ "upgrade", NULL, sizeof(struct vublk_control_connection), NULL, begin_upgrade, NULL, true },
	{ "trace", vublk_device_trace_arguments, sizeof(struct vublk_trace_command),
	  vublk_device_check_trace, vublk_device_run_trace, vublk_device_format_trace },
	{ NULL },
};
