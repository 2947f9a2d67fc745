/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The commands `stats` and `metrics` of the control socket of `vublk device`; see stats.h.
 *
 * Key idea: the state of the device is available with or without shadow rings, but the device
 * counts requests only while they pass through shadow rings. The commands do not move requests to
 * or from shadow rings.
 */
#include "cli/control/device-stats.h"

#include "cli/control/json.h"

#include <inttypes.h>

int vublk_device_copy_stats(void *owner, void *copy, struct vublk_error *error)
{
	struct vublk_device_stats_copy *stats = copy;

	vublk_device_status_copy(owner, &stats->status);
	stats->sees_requests = vublk_device_sees_requests(vublk_bus_device(owner));
	if (stats->switching == VUBLK_STATS_KEEP)
		return 0;
	return vublk_bus_set_statistics(owner, stats->switching == VUBLK_STATS_SWITCH_ON, error);
}

static int get(const void *device, unsigned queue, enum vublk_request_kind kind,
	       struct vublk_request_stats *stats, size_t stats_bytes)
{
	return vublk_device_get_stats(device, queue, kind, stats, stats_bytes);
}

static struct vublk_stats_counters counters_of(const struct vublk_bus *bus,
					       const struct vublk_device_stats_copy *stats)
{
	return (struct vublk_stats_counters){
		.object = vublk_bus_device(bus), .get = get, .num_queues = stats->status.num_queues,
	};
}

/* --- stats --------------------------------------------------------------------------- */

static struct json_object *queues_json(const struct vublk_bus *bus,
				       const struct vublk_device_stats_copy *stats)
{
	struct vublk_stats_counters counters = counters_of(bus, stats);
	struct json_object *queues = json_object_new_array();

	for (unsigned i = 0; i < stats->status.num_set_up; i++) {
		const struct vublk_device_status_queue *queue = &stats->status.queues[i];
		struct json_object *object = vublk_device_status_queue_json(queue);
		struct json_object *requests = vublk_stats_requests_json(&counters, queue->index);

		json_object_object_add(object, "requests",
				       requests ? requests : json_object_new_object());
		json_object_array_add(queues, object);
	}
	return queues;
}

struct json_object *vublk_device_format_stats(void *owner, const void *copy)
{
	const struct vublk_device_stats_copy *stats = copy;
	const struct vublk_bus_info *bus = &stats->status.bus;
	struct json_object *result = json_object_new_object();

	vublk_json_add_text(result, "state", bus->state);
	vublk_json_add_text(result, "device", vublk_device_state_name(stats->status.state));
	vublk_json_add_u64(result, "outages", bus->outages);
	vublk_json_add_u64(result, "outage_ms", bus->outage_ms);
	vublk_json_add_u64(result, "outage_total_ms", bus->outage_total_ms);
	vublk_json_add_u64(result, "reconnects", bus->reconnects);
	vublk_json_add_bool(result, "enabled", vublk_device_has_statistics(vublk_bus_device(owner)));
	vublk_json_add_bool(result, "available", stats->sees_requests);
	if (!stats->sees_requests)
		vublk_json_add_text(result, "why_unavailable", "requests pass directly between the "
				    "driver and the back-end; to count them, send the command shadow "
				    "with the argument on");
	json_object_object_add(result, "queues", queues_json(owner, stats));
	return result;
}

/* --- metrics ------------------------------------------------------------------------- */

static void print_states(FILE *out, enum vublk_device_state now)
{
	vublk_stats_print_head(out, "vublk_device_state", "gauge", "1 for the current state");
	for (unsigned i = 0; i < VUBLK_DEVICE_NUM_STATES; i++)
		fprintf(out, "vublk_device_state{state=\"%s\"} %d\n", vublk_device_state_name(i),
			i == now);
}

static void print_outages(FILE *out, const struct vublk_bus_info *bus)
{
	vublk_stats_print_number(out, "vublk_outages_total", "counter",
				 "Number of times that the connection to a back-end was lost",
				 bus->outages);
	vublk_stats_print_number(out, "vublk_reconnects_total", "counter",
				 "Number of outages that ended with a connection", bus->reconnects);
	vublk_stats_print_head(out, "vublk_outage_seconds_total", "counter",
			       "Duration of all outages, including the current one");
	fprintf(out, "vublk_outage_seconds_total %.3f\n", (double)bus->outage_total_ms / 1000);
	vublk_stats_print_head(out, "vublk_outage_seconds", "gauge",
			       "Duration of the current outage, or 0");
	fprintf(out, "vublk_outage_seconds %.3f\n", (double)bus->outage_ms / 1000);
}

static void print_replays(FILE *out, const struct vublk_replay_info *replay)
{
	if (!replay->is_on)
		return;
	vublk_stats_print_number(out, "vublk_replay_kept_bytes", "gauge",
				 "Size of the copies of writes that no flush covers",
				 replay->kept_bytes);
	vublk_stats_print_number(out, "vublk_replay_max_bytes", "gauge",
				 "Limit of vublk_replay_kept_bytes", replay->max_bytes);
	vublk_stats_print_number(out, "vublk_replays_total", "counter",
				 "Number of times that the kept copies were given to a back-end",
				 replay->replays);
	vublk_stats_print_number(out, "vublk_replayed_writes_total", "counter",
				 "Number of kept writes that were repeated", replay->total_writes);
	vublk_stats_print_number(out, "vublk_replayed_bytes_total", "counter",
				 "Number of bytes in the writes that were repeated", replay->total_bytes);
}

static void print_queues(FILE *out, const struct vublk_device_status *status)
{
	vublk_stats_print_head(out, "vublk_queue_outstanding", "gauge",
			       "Requests in the driver's ring that are not complete");
	for (unsigned i = 0; i < status->num_set_up; i++)
		if (status->queues[i].has_place)
			fprintf(out, "vublk_queue_outstanding{queue=\"%u\"} %u\n",
				status->queues[i].index, status->queues[i].place.outstanding);
}

static void print(FILE *out, void *owner, const void *copy)
{
	const struct vublk_device_stats_copy *stats = copy;
	const struct vublk_device_status *status = &stats->status;
	struct vublk_stats_counters counters = counters_of(owner, stats);

	vublk_stats_print_disk(out, status->size_bytes);
	vublk_stats_print_number(out, "vublk_back_end_connected", "gauge",
				 "1 while a back-end is connected",
				 vublk_device_status_has_backend(status));
	vublk_stats_print_number(out, "vublk_vmm_connected", "gauge", "1 while a VMM is connected",
				 status->bus.has_vmm);
	print_states(out, status->state);
	print_outages(out, &status->bus);
	print_replays(out, &status->replay);
	print_queues(out, status);
	vublk_stats_print_number(out, "vublk_statistics_enabled", "gauge",
				 "1 while requests that pass through the device are counted",
				 vublk_device_has_statistics(counters.object));
	vublk_stats_print_number(out, "vublk_statistics_available", "gauge",
				 "1 while requests pass through the device", stats->sees_requests);
	vublk_stats_print_requests(out, &counters);
}

struct json_object *vublk_device_format_metrics(void *owner, const void *copy)
{
	return vublk_stats_metrics(print, owner, copy);
}
