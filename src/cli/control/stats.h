/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_STATS_H
#define VUBLK_CLI_CONTROL_STATS_H

/*
 * The commands `stats` and `metrics` of both programs, `vublk serve` and `vublk device`. The
 * functions return the request counters as JSON, or print them in the text format of Prometheus.
 *
 * Key idea: any thread may read the counters, so the control thread reads them itself, one queue
 * and kind of request at a time, and does not disturb the thread that serves the disk.
 */
#include <vublk/error.h>
#include <vublk/statistics.h>

#include <json-c/json.h>
#include <stdio.h>

/*
 * The counters of the served object `object`. get() must read them as vublk_backend_get_stats()
 * does.
 */
struct vublk_stats_counters {
	const void *object;
	int (*get)(const void *object, unsigned queue, enum vublk_request_kind kind,
		   struct vublk_request_stats *stats, size_t stats_bytes);
	unsigned num_queues;
};

/* The meaning of the argument `enable` of the command `stats`. KEEP: the argument was not given. */
enum vublk_stats_switching {
	VUBLK_STATS_KEEP,
	VUBLK_STATS_SWITCH_ON,
	VUBLK_STATS_SWITCH_OFF,
};

/*
 * The names of the arguments of `stats`, and the function that reads them (see struct
 * vublk_control_command). The memory at `copy` must begin with an enum vublk_stats_switching, which
 * the function sets.
 */
extern const char *const vublk_stats_arguments[];
int vublk_stats_check(struct json_object *arguments, void *copy, struct vublk_error *error);

/*
 * Returns an object with the counters of queue `queue`, one member per kind of request that the
 * queue has had; NULL if the queue has had no request.
 */
struct json_object *vublk_stats_requests_json(const struct vublk_stats_counters *counters,
					      unsigned queue);

/* Prints the two lines with which a metric begins: HELP and TYPE. */
void vublk_stats_print_head(FILE *out, const char *name, const char *type, const char *help);
/* Prints a metric that consists of one number. */
void vublk_stats_print_number(FILE *out, const char *name, const char *type, const char *help,
			      uint64_t value);
/* Prints the metrics with which each output begins: the version, and the size of the disk. */
void vublk_stats_print_disk(FILE *out, uint64_t size_bytes);
/* Prints the metrics that are computed from the request counters. */
void vublk_stats_print_requests(FILE *out, const struct vublk_stats_counters *counters);
/*
 * Returns the result of `metrics`, which contains the text that print() prints. `owner` and `copy`
 * are passed to print(). Returns NULL if there is no memory.
 */
struct json_object *vublk_stats_metrics(void (*print)(FILE *out, void *owner, const void *copy),
					void *owner, const void *copy);

#endif
