/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Counters of requests, as JSON and as metrics; see stats.h. */
#include "cli/control/stats.h"

#include "cli/cli.h"
#include "cli/control/json.h"

#include <vublk/version.h>

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#define SECOND_NS 1e9

/* --- switching ----------------------------------------------------------------------- */

const char *const vublk_stats_arguments[] = { "enable", NULL };

int vublk_stats_check(struct json_object *arguments, void *copy, struct vublk_error *error)
{
	struct json_object *value;
	enum vublk_stats_switching *switching = copy;

	if (!json_object_object_get_ex(arguments, "enable", &value))
		return 0;
	if (!json_object_is_type(value, json_type_boolean))
		return vublk_cli_error(error, EINVAL, "'enable' must be true or false");
	*switching = json_object_get_boolean(value) ? VUBLK_STATS_SWITCH_ON : VUBLK_STATS_SWITCH_OFF;
	return 0;
}

/* --- JSON ---------------------------------------------------------------------------- */

/*
 * Returns the time in ns that `percent` percent of the requests did not exceed, rounded up to the
 * limit of its bucket, but not above the longest time.
 */
static uint64_t percentile(const struct vublk_request_stats *stats, double percent)
{
	double wanted = ceil(percent * (double)stats->count / 100 - 1e-6);
	uint64_t seen = 0;

	for (unsigned i = 0; i < VUBLK_LATENCY_BUCKETS; i++) {
		seen += stats->latency[i];
		if (seen && (double)seen >= wanted)
			return VUBLK_CLI_MIN(vublk_latency_limit(i), stats->max_ns);
	}
	return stats->max_ns;
}

static struct json_object *latency_json(const struct vublk_request_stats *stats)
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

static struct json_object *stats_json(const struct vublk_request_stats *stats)
{
	struct json_object *object = json_object_new_object();

	vublk_json_add_u64(object, "count", stats->count);
	vublk_json_add_u64(object, "bytes", stats->bytes);
	vublk_json_add_u64(object, "errors", stats->errors);
	vublk_json_add_u64(object, "in_flight", stats->in_flight);
	json_object_object_add(object, "latency_ns", latency_json(stats));
	return object;
}

struct json_object *vublk_stats_requests_json(const struct vublk_stats_counters *counters,
					      unsigned queue)
{
	struct json_object *requests = NULL;
	struct vublk_request_stats stats;

	for (unsigned i = 0; i < VUBLK_REQUEST_NUM_KINDS; i++) {
		counters->get(counters->object, queue, i, &stats, sizeof(stats));
		if (!stats.count && !stats.in_flight)
			continue;
		if (!requests)
			requests = json_object_new_object();
		json_object_object_add(requests, vublk_request_kind_name(i), stats_json(&stats));
	}
	return requests;
}

/* --- metrics ------------------------------------------------------------------------- */

/* A metric with one sample per queue and kind of request. */
struct family {
	const char *name, *type, *help;
	size_t offset; /* of the counter in struct vublk_request_stats */
};

static const struct family families[] = {
	{ "vublk_requests_total", "counter", "Requests that are complete",
	  offsetof(struct vublk_request_stats, count) },
	{ "vublk_request_errors_total", "counter", "Requests that failed",
	  offsetof(struct vublk_request_stats, errors) },
	{ "vublk_request_bytes_total", "counter", "Bytes of requests that succeeded",
	  offsetof(struct vublk_request_stats, bytes) },
	{ "vublk_requests_in_flight", "gauge", "Requests that are not complete",
	  offsetof(struct vublk_request_stats, in_flight) },
};

void vublk_stats_print_head(FILE *out, const char *name, const char *type, const char *help)
{
	fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

void vublk_stats_print_number(FILE *out, const char *name, const char *type, const char *help,
			      uint64_t value)
{
	vublk_stats_print_head(out, name, type, help);
	fprintf(out, "%s %" PRIu64 "\n", name, value);
}

void vublk_stats_print_disk(FILE *out, uint64_t size_bytes)
{
	vublk_stats_print_head(out, "vublk_info", "gauge", "The version, as a label; always 1");
	fprintf(out, "vublk_info{version=\"%s\"} 1\n", vublk_version());
	vublk_stats_print_number(out, "vublk_disk_size_bytes", "gauge", "Size of the disk",
				 size_bytes);
}

static void print_family(FILE *out, const struct vublk_stats_counters *counters,
			 const struct family *family)
{
	struct vublk_request_stats stats;

	vublk_stats_print_head(out, family->name, family->type, family->help);
	for (unsigned queue = 0; queue < counters->num_queues; queue++)
		for (unsigned i = 0; i < VUBLK_REQUEST_NUM_KINDS; i++) {
			counters->get(counters->object, queue, i, &stats, sizeof(stats));
			if (!stats.count && !stats.in_flight)
				continue;
			fprintf(out, "%s{queue=\"%u\",type=\"%s\"} %" PRIu64 "\n", family->name,
				queue, vublk_request_kind_name(i),
				*(const uint64_t *)((const char *)&stats + family->offset));
		}
}

/* Stores the sum over all queues of the times and latencies of one kind of request in `sum`. */
static void add_up(const struct vublk_stats_counters *counters, enum vublk_request_kind kind,
		   struct vublk_request_stats *sum)
{
	struct vublk_request_stats stats;

	*sum = (struct vublk_request_stats){ 0 };
	for (unsigned i = 0; i < counters->num_queues; i++) {
		counters->get(counters->object, i, kind, &stats, sizeof(stats));
		sum->total_ns += stats.total_ns;
		for (unsigned b = 0; b < VUBLK_LATENCY_BUCKETS; b++) {
			sum->latency[b] += stats.latency[b];
			sum->count += stats.latency[b]; /* the sum of the buckets, so that it
							   agrees with them */
		}
	}
}

/*
 * Prints a histogram with few buckets, which is enough for Prometheus. The limits in ns are powers
 * of 4, because each of these is also the limit of a bucket in struct vublk_request_stats.
 */
static void print_histogram(FILE *out, const char *name, const char *type,
			    const struct vublk_request_stats *sum)
{
	uint64_t limit = 4096, seen = 0;

	for (unsigned i = 0; i < VUBLK_LATENCY_BUCKETS; i++) {
		seen += sum->latency[i];
		if (vublk_latency_limit(i) != limit)
			continue;
		fprintf(out, "%s_bucket{type=\"%s\",le=\"%.9g\"} %" PRIu64 "\n", name, type,
			(double)limit / SECOND_NS, seen);
		limit *= 4;
	}
	fprintf(out, "%s_bucket{type=\"%s\",le=\"+Inf\"} %" PRIu64 "\n", name, type, sum->count);
	fprintf(out, "%s_sum{type=\"%s\"} %.9f\n", name, type, (double)sum->total_ns / SECOND_NS);
	fprintf(out, "%s_count{type=\"%s\"} %" PRIu64 "\n", name, type, sum->count);
}

static void print_latency(FILE *out, const struct vublk_stats_counters *counters)
{
	static const char name[] = "vublk_request_duration_seconds";
	struct vublk_request_stats sum;

	vublk_stats_print_head(out, name, "histogram", "Time from taking a request to its "
			       "completion");
	for (unsigned i = 0; i < VUBLK_REQUEST_NUM_KINDS; i++) {
		add_up(counters, i, &sum);
		if (sum.count)
			print_histogram(out, name, vublk_request_kind_name(i), &sum);
	}
}

void vublk_stats_print_requests(FILE *out, const struct vublk_stats_counters *counters)
{
	for (size_t i = 0; i < VUBLK_CLI_ARRAY_SIZE(families); i++)
		print_family(out, counters, &families[i]);
	print_latency(out, counters);
}

struct json_object *vublk_stats_metrics(void (*print)(FILE *out, void *owner, const void *copy),
					void *owner, const void *copy)
{
	struct json_object *result;
	char *text = NULL;
	size_t bytes;
	FILE *out = open_memstream(&text, &bytes);

	if (!out)
		return NULL;
	print(out, owner, copy);
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
