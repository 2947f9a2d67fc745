/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The commands `stats` and `metrics` of the control socket of `vublk serve`.
 *
 * Key idea: any thread may read the counters, so the control thread reads them itself, one queue
 * and type at a time, without asking the server's thread.
 */
#include "cli/control/serve-stats.h"

#include "cli/cli.h"
#include "cli/control/json.h"

#include <vublk/version.h>

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define SECOND_NS 1e9

/* --- stats --------------------------------------------------------------------------- */

/* What the arguments ask for. */
enum switching {
	KEEP,
	SWITCH_ON,
	SWITCH_OFF,
};

const char *const vublk_serve_stats_arguments[] = { "enable", NULL };

int vublk_serve_check_stats(struct json_object *arguments, void *copy, struct vublk_error *error)
{
	struct json_object *value;
	enum switching *switching = copy;

	if (!json_object_object_get_ex(arguments, "enable", &value))
		return 0;
	if (!json_object_is_type(value, json_type_boolean))
		return vublk_cli_error(error, EINVAL, "'enable' must be true or false");
	*switching = json_object_get_boolean(value) ? SWITCH_ON : SWITCH_OFF;
	return 0;
}

/* The time that `percent` of the requests did not exceed, rounded up to the bucket's limit. */
static uint64_t percentile(const struct vublk_backend_stats *stats, double percent)
{
	double wanted = ceil(percent * (double)stats->count / 100 - 1e-6);
	uint64_t seen = 0;

	for (unsigned i = 0; i < VUBLK_BACKEND_LATENCY_BUCKETS; i++) {
		seen += stats->latency[i];
		if (seen && (double)seen >= wanted)
			return VUBLK_CLI_MIN(vublk_backend_latency_limit(i), stats->max_ns);
	}
	return stats->max_ns;
}

static struct json_object *latency_json(const struct vublk_backend_stats *stats)
{
	static const struct { const char *name; double percent; } rows[] = {
		{ "p50", 50 }, { "p90", 90 }, { "p99", 99 }, { "p99_9", 99.9 }, { "p99_99", 99.99 },
	};
	struct json_object *latency = json_object_new_object();

	vublk_json_add_u64(latency, "mean", stats->count ? stats->total_ns / stats->count : 0);
	for (size_t i = 0; i < VUBLK_CLI_ARRAY_SIZE(rows); i++)
		vublk_json_add_u64(latency, rows[i].name, percentile(stats, rows[i].percent));
	vublk_json_add_u64(latency, "max", stats->max_ns);
	return latency;
}

static struct json_object *stats_json(const struct vublk_backend_stats *stats)
{
	struct json_object *object = json_object_new_object();

	vublk_json_add_u64(object, "count", stats->count);
	vublk_json_add_u64(object, "bytes", stats->bytes);
	vublk_json_add_u64(object, "errors", stats->errors);
	vublk_json_add_u64(object, "in_flight", stats->in_flight);
	json_object_object_add(object, "latency_ns", latency_json(stats));
	return object;
}

/* Returns NULL if the queue has had no request. */
static struct json_object *queue_json(const struct vublk_backend *backend, unsigned index)
{
	struct json_object *queue = NULL, *requests = NULL;
	struct vublk_backend_stats stats;

	for (unsigned i = 0; i < VUBLK_BACKEND_NUM_REQUESTS; i++) {
		vublk_backend_get_stats(backend, index, i, &stats, sizeof(stats));
		if (!stats.count && !stats.in_flight)
			continue;
		if (!queue) {
			queue = json_object_new_object();
			requests = json_object_new_object();
			vublk_json_add_u64(queue, "index", index);
			json_object_object_add(queue, "requests", requests);
		}
		json_object_object_add(requests, vublk_backend_request_name(i), stats_json(&stats));
	}
	return queue;
}

static unsigned num_queues(const struct vublk_backend *backend)
{
	struct vublk_backend_stats stats;
	unsigned n = 0;

	while (!vublk_backend_get_stats(backend, n, VUBLK_BACKEND_READ, &stats, sizeof(stats)))
		n++;
	return n;
}

struct json_object *vublk_serve_format_stats(void *owner, const void *copy)
{
	const enum switching *switching = copy;
	struct json_object *result = json_object_new_object();
	struct json_object *queues = json_object_new_array();

	if (*switching != KEEP)
		vublk_backend_set_statistics(owner, *switching == SWITCH_ON);
	for (unsigned i = 0, n = num_queues(owner); i < n; i++) {
		struct json_object *queue = queue_json(owner, i);

		if (queue)
			json_object_array_add(queues, queue);
	}
	vublk_json_add_bool(result, "enabled", vublk_backend_has_statistics(owner));
	json_object_object_add(result, "queues", queues);
	return result;
}

/* --- metrics ------------------------------------------------------------------------- */

/* A family with one sample per queue and type. */
struct family {
	const char *name, *type, *help;
	size_t offset; /* of the counter in struct vublk_backend_stats */
};

static const struct family families[] = {
	{ "vublk_requests_total", "counter", "Requests that are complete",
	  offsetof(struct vublk_backend_stats, count) },
	{ "vublk_request_errors_total", "counter", "Requests that failed",
	  offsetof(struct vublk_backend_stats, errors) },
	{ "vublk_request_bytes_total", "counter", "Bytes of requests that succeeded",
	  offsetof(struct vublk_backend_stats, bytes) },
	{ "vublk_requests_in_flight", "gauge", "Requests that are not complete",
	  offsetof(struct vublk_backend_stats, in_flight) },
};

static void print_head(FILE *out, const char *name, const char *type, const char *help)
{
	fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void print_family(FILE *out, const struct vublk_backend *backend,
			 const struct family *family)
{
	struct vublk_backend_stats stats;

	print_head(out, family->name, family->type, family->help);
	for (unsigned queue = 0, n = num_queues(backend); queue < n; queue++)
		for (unsigned i = 0; i < VUBLK_BACKEND_NUM_REQUESTS; i++) {
			vublk_backend_get_stats(backend, queue, i, &stats, sizeof(stats));
			if (!stats.count && !stats.in_flight)
				continue;
			fprintf(out, "%s{queue=\"%u\",type=\"%s\"} %" PRIu64 "\n", family->name,
				queue, vublk_backend_request_name(i),
				*(const uint64_t *)((const char *)&stats + family->offset));
		}
}

/* Adds up the times of all queues. */
static void add_up(const struct vublk_backend *backend, enum vublk_backend_request request,
		   struct vublk_backend_stats *sum)
{
	struct vublk_backend_stats stats;

	*sum = (struct vublk_backend_stats){ 0 };
	for (unsigned i = 0, n = num_queues(backend); i < n; i++) {
		vublk_backend_get_stats(backend, i, request, &stats, sizeof(stats));
		sum->total_ns += stats.total_ns;
		for (unsigned b = 0; b < VUBLK_BACKEND_LATENCY_BUCKETS; b++) {
			sum->latency[b] += stats.latency[b];
			sum->count += stats.latency[b]; /* so that it agrees with the buckets */
		}
	}
}

/* Prometheus needs few buckets; each power of 4 is the limit of one of our buckets. */
static void print_histogram(FILE *out, const char *name, const char *type,
			    const struct vublk_backend_stats *sum)
{
	uint64_t limit = 4096, seen = 0;

	for (unsigned i = 0; i < VUBLK_BACKEND_LATENCY_BUCKETS; i++) {
		seen += sum->latency[i];
		if (vublk_backend_latency_limit(i) != limit)
			continue;
		fprintf(out, "%s_bucket{type=\"%s\",le=\"%.9g\"} %" PRIu64 "\n", name, type,
			(double)limit / SECOND_NS, seen);
		limit *= 4;
	}
	fprintf(out, "%s_bucket{type=\"%s\",le=\"+Inf\"} %" PRIu64 "\n", name, type, sum->count);
	fprintf(out, "%s_sum{type=\"%s\"} %.9f\n", name, type, (double)sum->total_ns / SECOND_NS);
	fprintf(out, "%s_count{type=\"%s\"} %" PRIu64 "\n", name, type, sum->count);
}

static void print_latency(FILE *out, const struct vublk_backend *backend)
{
	static const char name[] = "vublk_request_duration_seconds";
	struct vublk_backend_stats sum;

	print_head(out, name, "histogram", "Time from taking a request to its completion");
	for (unsigned i = 0; i < VUBLK_BACKEND_NUM_REQUESTS; i++) {
		add_up(backend, i, &sum);
		if (sum.count)
			print_histogram(out, name, vublk_backend_request_name(i), &sum);
	}
}

static void print_server(FILE *out, const struct vublk_backend_info *info, bool counts)
{
	print_head(out, "vublk_info", "gauge", "The version, always 1");
	fprintf(out, "vublk_info{version=\"%s\"} 1\n", vublk_version());
	print_head(out, "vublk_disk_size_bytes", "gauge", "Size of the disk");
	fprintf(out, "vublk_disk_size_bytes %" PRIu64 "\n", info->size_bytes);
	print_head(out, "vublk_front_end_connected", "gauge", "1 while a front-end is connected");
	fprintf(out, "vublk_front_end_connected %d\n", info->state == VUBLK_BACKEND_SERVING);
	print_head(out, "vublk_statistics_enabled", "gauge", "1 while requests are counted");
	fprintf(out, "vublk_statistics_enabled %d\n", counts);
}

int vublk_serve_copy_info(void *owner, void *copy, struct vublk_error *error)
{
	vublk_backend_get_info(owner, copy, sizeof(struct vublk_backend_info));
	return 0;
}

struct json_object *vublk_serve_format_metrics(void *owner, const void *copy)
{
	struct json_object *result;
	char *text = NULL;
	size_t bytes;
	FILE *out = open_memstream(&text, &bytes);

	if (!out)
		return NULL;
	print_server(out, copy, vublk_backend_has_statistics(owner));
	for (size_t i = 0; i < VUBLK_CLI_ARRAY_SIZE(families); i++)
		print_family(out, owner, &families[i]);
	print_latency(out, owner);
	if (fclose(out)) {
		free(text);
		return NULL;
	}
	result = json_object_new_object();
	vublk_json_add_text(result, "content_type", "text/plain; version=0.0.4");
	vublk_json_add_text(result, "text", text);
	free(text);
	return result;
}
