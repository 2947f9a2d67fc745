/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The commands of the control socket of `vublk serve`; docs/control.md describes their results.
 *
 * Key idea: run() copies public structs of <vublk/backend.h>, and format() makes JSON of the copy.
 */
#include "cli/control/commands.h"

#include "cli/cli.h"
#include "cli/control/json.h"
#include "cli/control/serve-stats.h"

#include <vublk/backend.h>
#include <vublk/device.h>

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
	uint64_t rescans; /* before; the first one that follows sees the new size */
	uint64_t deadline_ns;
	uint64_t before_bytes, size_bytes;
};

#define RESIZE_NS UINT64_C(10000000000)

/*
 * The server stops its queues before it reads the size, so this takes as long as the slowest
 * request that the storage has.
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
	return vublk_cli_error(error, ETIMEDOUT, "the size is not read yet, because the storage has "
			       "not completed its requests; it will be read when these are complete");
}

static struct json_object *format_resize(void *owner, const void *copy)
{
	const struct resize *resize = copy;
	struct json_object *result = json_object_new_object();

	vublk_json_add_u64(result, "before_bytes", resize->before_bytes);
	vublk_json_add_u64(result, "size_bytes", resize->size_bytes);
	return result;
}

const struct vublk_control_command vublk_serve_commands[] = {
	{ "status", NULL, sizeof(struct status), NULL, copy_status, format_status },
	{ "resize", NULL, sizeof(struct resize), NULL, run_resize, format_resize },
	{ "stats", vublk_serve_stats_arguments, VUBLK_SERVE_STATS_COPY_BYTES,
	  vublk_serve_check_stats, NULL, vublk_serve_format_stats },
	{ "metrics", NULL, sizeof(struct vublk_backend_info), NULL, vublk_serve_copy_info,
	  vublk_serve_format_metrics },
	{ NULL },
};
