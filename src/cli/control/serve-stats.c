/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The commands `stats` and `metrics` of the control socket of `vublk serve`; see stats.h. */
#include "cli/control/serve-stats.h"

#include "cli/control/json.h"
#include "cli/control/stats.h"

static int get(const void *backend, unsigned queue, enum vublk_request_kind kind,
	       struct vublk_request_stats *stats, size_t stats_bytes)
{
	return vublk_backend_get_stats(backend, queue, kind, stats, stats_bytes);
}

static struct vublk_stats_counters counters_of(const struct vublk_backend *backend)
{
	struct vublk_stats_counters counters = { .object = backend, .get = get };
	struct vublk_request_stats stats;

	while (!get(backend, counters.num_queues, VUBLK_REQUEST_READ, &stats, sizeof(stats)))
		counters.num_queues++;
	return counters;
}

struct json_object *vublk_serve_format_stats(void *owner, const void *copy)
{
	const enum vublk_stats_switching *switching = copy;
	struct vublk_stats_counters counters = counters_of(owner);
	struct json_object *result = json_object_new_object();
	struct json_object *queues = json_object_new_array();

	if (*switching != VUBLK_STATS_KEEP)
		vublk_backend_set_statistics(owner, *switching == VUBLK_STATS_SWITCH_ON);
	for (unsigned i = 0; i < counters.num_queues; i++) {
		struct json_object *requests = vublk_stats_requests_json(&counters, i), *queue;

		if (!requests)
			continue;
		queue = json_object_new_object();
		vublk_json_add_u64(queue, "index", i);
		json_object_object_add(queue, "requests", requests);
		json_object_array_add(queues, queue);
	}
	vublk_json_add_bool(result, "enabled", vublk_backend_has_statistics(owner));
	json_object_object_add(result, "queues", queues);
	return result;
}

int vublk_serve_copy_info(void *owner, void *copy, struct vublk_error *error)
{
	vublk_backend_get_info(owner, copy, sizeof(struct vublk_backend_info));
	return 0;
}

static void print(FILE *out, void *owner, const void *copy)
{
	const struct vublk_backend_info *info = copy;
	struct vublk_stats_counters counters = counters_of(owner);

	vublk_stats_print_disk(out, info->size_bytes);
	vublk_stats_print_number(out, "vublk_front_end_connected", "gauge",
				 "1 while a front-end is connected",
				 info->state == VUBLK_BACKEND_SERVING);
	vublk_stats_print_number(out, "vublk_statistics_enabled", "gauge",
				 "1 while requests are counted",
				 vublk_backend_has_statistics(owner));
	vublk_stats_print_requests(out, &counters);
}

struct json_object *vublk_serve_format_metrics(void *owner, const void *copy)
{
	return vublk_stats_metrics(print, owner, copy);
}
