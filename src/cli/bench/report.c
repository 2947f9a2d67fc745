/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Prints the result of a bench as text or as JSON.
 *
 * Key idea: the JSON has the field names and units of fio's output, so that programs that read
 * fio's JSON can read this JSON, too. Fields whose values a bench does not measure are left out.
 */
#include "cli/bench/bench.h"

#include "cli/cli.h"

#include <vublk/version.h>

#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <time.h>

static const double percentiles[] = {
	1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 99.5, 99.9, 99.95, 99.99,
};

const char *vublk_bench_direction_name(enum vublk_bench_direction direction)
{
	static const char *const names[] = { "read", "write", "trim", "sync" };

	return names[direction];
}

static double seconds(const struct vublk_bench_result *result)
{
	return (double)result->runtime_ns / 1e9;
}

static double per_second(const struct vublk_bench_result *result, uint64_t count)
{
	return result->runtime_ns ? (double)count / seconds(result) : 0;
}

/* --- text --------------------------------------------------------------------- */

static void print_percentiles(FILE *out, const struct vublk_histogram *latency)
{
	static const double shown[] = { 50, 90, 99, 99.9, 99.99 };
	char text[VUBLK_CLI_TEXT_BYTES];

	fprintf(out, "    percentiles  ");
	for (size_t i = 0; i < VUBLK_CLI_ARRAY_SIZE(shown); i++)
		fprintf(out, "%s%g %%: %s", i ? ", " : "", shown[i],
			vublk_cli_format_ns(text, (double)vublk_histogram_percentile(latency,
										    shown[i])));
	fputc('\n', out);
}

static void print_latency(FILE *out, const struct vublk_histogram *latency)
{
	char min[VUBLK_CLI_TEXT_BYTES], mean[VUBLK_CLI_TEXT_BYTES], max[VUBLK_CLI_TEXT_BYTES],
		stddev[VUBLK_CLI_TEXT_BYTES];

	fprintf(out, "    latency      min %s, mean %s, max %s, stddev %s\n",
		vublk_cli_format_ns(min, (double)latency->min),
		vublk_cli_format_ns(mean, vublk_histogram_mean(latency)),
		vublk_cli_format_ns(max, (double)latency->max),
		vublk_cli_format_ns(stddev, vublk_histogram_stddev(latency)));
	print_percentiles(out, latency);
}

static void print_direction(FILE *out, const struct vublk_bench_result *total,
			    enum vublk_bench_direction direction)
{
	const struct vublk_bench_stats *stats = &total->stats[direction];
	char iops[VUBLK_CLI_TEXT_BYTES], speed[VUBLK_CLI_TEXT_BYTES], bytes[VUBLK_CLI_TEXT_BYTES];

	if (!stats->requests)
		return;
	fprintf(out, "  %-5s %s IOPS", vublk_bench_direction_name(direction),
		vublk_cli_format_count(iops, per_second(total, stats->requests)));
	if (stats->bytes)
		fprintf(out, ", %s/s, %s",
			vublk_cli_format_bytes(speed, (uint64_t)per_second(total, stats->bytes)),
			vublk_cli_format_bytes(bytes, stats->bytes));
	fprintf(out, " in %.2f s\n", seconds(total));
	print_latency(out, &stats->latency_ns);
}

void vublk_bench_print_text(FILE *out, const char *socket, const struct vublk_bench_config *config,
			    const struct vublk_bench_result *total)
{
	double cpu_us = (double)total->runtime_ns / 1e3 * config->num_jobs;

	fprintf(out, "%s: %s, %" PRIu32 " bytes per block, iodepth %u, %u job%s, %s mode", socket,
		config->rw, config->block_bytes, config->depth, config->num_jobs,
		config->num_jobs == 1 ? "" : "s", config->poll ? "poll" : "event");
	if (config->rate_iops)
		fprintf(out, ", at most %" PRIu64 " IOPS per job", config->rate_iops);
	fputc('\n', out);
	for (unsigned d = 0; d < VUBLK_BENCH_NUM_DIRECTIONS; d++)
		print_direction(out, total, d);
	if (cpu_us > 0)
		fprintf(out, "  cpu   user %.1f %%, system %.1f %% of a job's thread, %" PRIu64
			" context switches\n", (double)total->user_us * 100 / cpu_us,
			(double)total->system_us * 100 / cpu_us, total->context_switches);
	if (config->verify)
		fprintf(out, "  verified %" PRIu64 " block%s, all correct\n",
			total->verified_blocks, total->verified_blocks == 1 ? "" : "s");
}

/* --- JSON --------------------------------------------------------------------- */

static void add_u64(struct json_object *object, const char *name, uint64_t value)
{
	json_object_object_add(object, name, json_object_new_uint64(value));
}

static void add_double(struct json_object *object, const char *name, double value)
{
	char text[64];

	snprintf(text, sizeof(text), "%.6f", value);
	json_object_object_add(object, name, json_object_new_double_s(value, text));
}

static void add_text(struct json_object *object, const char *name, const char *value)
{
	json_object_object_add(object, name, json_object_new_string(value));
}

static struct json_object *latency_json(const struct vublk_histogram *latency,
					bool with_percentiles)
{
	struct json_object *object = json_object_new_object(), *list;
	char name[32];

	add_u64(object, "min", latency->count ? latency->min : 0);
	add_u64(object, "max", latency->max);
	add_double(object, "mean", vublk_histogram_mean(latency));
	add_double(object, "stddev", vublk_histogram_stddev(latency));
	add_u64(object, "N", latency->count);
	if (!with_percentiles || !latency->count)
		return object;
	list = json_object_new_object();
	for (size_t i = 0; i < VUBLK_CLI_ARRAY_SIZE(percentiles); i++) {
		snprintf(name, sizeof(name), "%f", percentiles[i]);
		add_u64(list, name, vublk_histogram_percentile(latency, percentiles[i]));
	}
	json_object_object_add(object, "percentile", list);
	return object;
}

static struct json_object *direction_json(const struct vublk_bench_result *result,
					  enum vublk_bench_direction direction)
{
	const struct vublk_bench_stats *stats = &result->stats[direction];
	struct json_object *object = json_object_new_object();

	add_u64(object, "io_bytes", stats->bytes);
	add_u64(object, "io_kbytes", stats->bytes / 1024);
	add_u64(object, "bw_bytes", (uint64_t)per_second(result, stats->bytes));
	add_u64(object, "bw", (uint64_t)per_second(result, stats->bytes) / 1024);
	add_double(object, "iops", per_second(result, stats->requests));
	add_u64(object, "runtime", stats->requests ? result->runtime_ns / 1000000 : 0);
	add_u64(object, "total_ios", stats->requests);
	json_object_object_add(object, "clat_ns", latency_json(&stats->latency_ns, true));
	json_object_object_add(object, "lat_ns", latency_json(&stats->latency_ns, false));
	return object;
}

static struct json_object *sync_json(const struct vublk_bench_result *result)
{
	const struct vublk_bench_stats *stats = &result->stats[VUBLK_BENCH_SYNC];
	struct json_object *object = json_object_new_object();

	json_object_object_add(object, "lat_ns", latency_json(&stats->latency_ns, true));
	add_u64(object, "total_ios", stats->requests);
	return object;
}

static struct json_object *options_json(const struct vublk_bench_config *config)
{
	struct json_object *object = json_object_new_object();
	char text[32];

	/* All job options are strings, as in fio's output. */
	add_text(object, "ioengine", "vublk");
	add_text(object, "rw", config->rw);
	add_text(object, "mode", config->poll ? "poll" : "event");
	snprintf(text, sizeof(text), "%" PRIu32, config->block_bytes);
	add_text(object, "bs", text);
	snprintf(text, sizeof(text), "%u", config->depth);
	add_text(object, "iodepth", text);
	snprintf(text, sizeof(text), "%u", config->num_jobs);
	add_text(object, "numjobs", text);
	if (config->rate_iops) {
		snprintf(text, sizeof(text), "%" PRIu64, config->rate_iops);
		add_text(object, "rate_iops", text);
	}
	return object;
}

/* Makes the JSON object of `result`, which is the sum of `threads` jobs. */
static struct json_object *job_json(const struct vublk_bench_config *config,
				    const struct vublk_bench_result *result, unsigned threads)
{
	struct json_object *object = json_object_new_object();
	double cpu_us = (double)result->runtime_ns / 1e3 * threads;

	add_text(object, "jobname", "vublk");
	add_u64(object, "groupid", 0);
	add_u64(object, "error", 0);
	add_u64(object, "elapsed", (result->runtime_ns + 999999999) / 1000000000);
	json_object_object_add(object, "job options", options_json(config));
	for (unsigned d = VUBLK_BENCH_READ; d < VUBLK_BENCH_SYNC; d++)
		json_object_object_add(object, vublk_bench_direction_name(d),
				       direction_json(result, d));
	json_object_object_add(object, "sync", sync_json(result));
	add_u64(object, "job_runtime", result->runtime_ns / 1000000 * threads);
	add_double(object, "usr_cpu", cpu_us > 0 ? (double)result->user_us * 100 / cpu_us : 0);
	add_double(object, "sys_cpu", cpu_us > 0 ? (double)result->system_us * 100 / cpu_us : 0);
	add_u64(object, "ctx", result->context_switches);
	add_u64(object, "majf", result->major_faults);
	add_u64(object, "minf", result->minor_faults);
	if (config->verify)
		add_u64(object, "verified_blocks", result->verified_blocks);
	return object;
}

void vublk_bench_print_json(FILE *out, const char *socket, const struct vublk_bench_config *config,
			    const struct vublk_bench_result *results, unsigned num_results)
{
	struct json_object *root = json_object_new_object(), *jobs = json_object_new_array();
	struct json_object *global = json_object_new_object();

	add_text(root, "vublk version", VUBLK_VERSION_STRING);
	add_u64(root, "timestamp", (uint64_t)time(NULL));
	add_text(global, "filename", socket);
	json_object_object_add(root, "global options", global);
	for (unsigned i = 0; i < num_results; i++)
		json_object_array_add(jobs, job_json(config, &results[i],
						     config->num_jobs / num_results));
	json_object_object_add(root, "jobs", jobs);
	fprintf(out, "%s\n", json_object_to_json_string_ext(root, JSON_C_TO_STRING_PRETTY |
							    JSON_C_TO_STRING_SPACED |
							    JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(root);
}
