/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The commands of the control socket of `vublk serve`; docs/control.md describes their results.
 *
 * Key idea: run() copies public structs of <vublk/backend.h>, and format() turns the copy into
 * JSON.
 */
#include "cli/control/commands.h"

#include "cli/cli.h"
#include "cli/control/json.h"
#include "cli/control/serve-drain.h"
#include "cli/control/serve-stats.h"
#include "cli/control/stats.h"
#include "cli/control/timeout.h"

#include <vublk/backend.h>
#include <vublk/device.h>
#include <vublk/upgrade.h>

#include <errno.h>

/* --- status ------------------------------------------------------------------------- */

struct status {
	struct vublk_backend_info info;
	struct vublk_backend_queue_info queues[VUBLK_MAX_QUEUES];
};

static int copy_status(void *owner, void *copy, struct vublk_error *error)
{
	struct status *status = copy;

	vublk_backend_get_info(owner, &status->info, sizeof(status->info));
	for (unsigned i = 0; i < status->info.num_used_queues && i < VUBLK_MAX_QUEUES; i++)
		vublk_backend_get_queue_info(owner, i, &status->queues[i],
					     sizeof(status->queues[i]));
	return 0;
}

static struct json_object *disk_json(const struct vublk_backend_info *info)
{
	struct json_object *disk = json_object_new_object();

	vublk_json_add_text(disk, "storage", info->description);
	vublk_json_add_u64(disk, "size_bytes", info->size_bytes);
	vublk_json_add_u64(disk, "block_bytes", info->block_bytes);
	vublk_json_add_u64(disk, "physical_block_bytes", info->physical_block_bytes);
	vublk_json_add_bool(disk, "read_only", info->read_only);
	vublk_json_add_bool(disk, "write_cache", info->write_cache);
	vublk_json_add_text(disk, "serial", info->serial);
	return disk;
}

static struct json_object *frontend_json(const struct vublk_backend_info *info)
{
	struct json_object *frontend;

	if (info->state != VUBLK_BACKEND_SERVING && info->state != VUBLK_BACKEND_STOPPING)
		return NULL;
	frontend = json_object_new_object();
	vublk_json_add_u64(frontend, "pid", (uint64_t)info->peer_pid);
	vublk_json_add_features(frontend, "features", info->features, vublk_feature_name);
	vublk_json_add_features(frontend, "protocol_features", info->protocol_features,
				vublk_protocol_feature_name);
	return frontend;
}

static struct json_object *queue_json(unsigned index, const struct vublk_backend_queue_info *info)
{
	struct json_object *queue = json_object_new_object();

	vublk_json_add_u64(queue, "index", index);
	vublk_json_add_bool(queue, "running", info->is_running);
	vublk_json_add_u64(queue, "size", info->size);
	vublk_json_add_u64(queue, "avail_index", info->avail_index);
	vublk_json_add_u64(queue, "used_index", info->used_index);
	return queue;
}

static struct json_object *format_status(void *owner, const void *copy)
{
	const struct status *status = copy;
	const struct vublk_backend_info *info = &status->info;
	struct json_object *result = json_object_new_object();
	struct json_object *queues = json_object_new_array();

	vublk_json_add_text(result, "state", vublk_backend_state_name(info->state));
	vublk_json_add_text(result, "drain", vublk_serve_drain_name(info));
	json_object_object_add(result, "disk", disk_json(info));
	vublk_json_add_u64(result, "num_queues", info->num_queues);
	vublk_json_add_u64(result, "num_threads", info->num_threads);
	json_object_object_add(result, "front_end", frontend_json(info));
	for (unsigned i = 0; i < info->num_used_queues && i < VUBLK_MAX_QUEUES; i++)
		json_object_array_add(queues, queue_json(i, &status->queues[i]));
	json_object_object_add(result, "queues", queues);
	return result;
}

/* --- resize ------------------------------------------------------------------------- */

struct resize {
	bool is_asked;
	uint64_t rescans; /* the number of rescans before the command; a later rescan sees the new
			     size */
	uint64_t deadline_ns;
	uint64_t before_bytes, size_bytes;
};

#define RESIZE_NS UINT64_C(10000000000)

/*
 * Requests a rescan, and waits until the back-end has read the size. The back-end stops its queues
 * before it reads the size, so the command takes as long as the slowest request in the storage.
 */
static int run_resize(void *owner, void *copy, struct vublk_error *error)
{
	struct vublk_backend_info info;
	struct resize *resize = copy;

	vublk_backend_get_info(owner, &info, sizeof(info));
	if (!resize->is_asked) {
		*resize = (struct resize){
			.is_asked = true, .rescans = info.rescans,
			.deadline_ns = vublk_cli_now_ns() + RESIZE_NS,
			.before_bytes = info.size_bytes,
		};
		vublk_backend_rescan(owner);
		return 1;
	}
	resize->size_bytes = info.size_bytes;
	if (info.rescans != resize->rescans)
		return 0;
	if (vublk_cli_now_ns() < resize->deadline_ns)
		return 1;
	return vublk_cli_error(error, ETIMEDOUT, "the new size was not read within %u s; it will "
			       "be read when the storage has completed its requests",
			       (unsigned)(RESIZE_NS / 1000000000));
}

static struct json_object *format_resize(void *owner, const void *copy)
{
	const struct resize *resize = copy;
	struct json_object *result = json_object_new_object();

	vublk_json_add_u64(result, "before_bytes", resize->before_bytes);
	vublk_json_add_u64(result, "size_bytes", resize->size_bytes);
	return result;
}

/* --- upgrade ------------------------------------------------------------------------ */

static int begin_upgrade(void *owner, void *copy, struct vublk_error *error)
{
	struct vublk_control_connection *connection = copy;

	return vublk_backend_hand_over(owner, connection->fd, &connection->extra,
				       sizeof(connection->extra), error);
}

const struct vublk_control_command vublk_serve_commands[] = {
	{ "status", NULL, sizeof(struct status), NULL, copy_status, format_status },
	{ "resize", NULL, sizeof(struct resize), NULL, run_resize, format_resize },
	{ "drain", vublk_control_timeout_arguments, sizeof(struct vublk_serve_drain_copy),
	  vublk_serve_check_drain, vublk_serve_run_drain, vublk_serve_format_drain,
	  .is_about_the_end = true },
	{ "stats", vublk_stats_arguments, sizeof(enum vublk_stats_switching), vublk_stats_check,
	  NULL, vublk_serve_format_stats },
	{ "metrics", NULL, sizeof(struct vublk_backend_info), NULL, vublk_serve_copy_info,
	  vublk_serve_format_metrics },
	{ "upgrade", NULL, sizeof(struct vublk_control_connection), NULL, begin_upgrade, NULL, true },
	{ NULL },
};
