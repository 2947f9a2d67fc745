/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Prints the result of a chaos run as text or as JSON. */
#include "cli/chaos/chaos.h"

#include "cli/cli.h"
#include "cli/text.h"

#include <vublk/version.h>

#include <inttypes.h>
#include <json-c/json.h>

uint64_t vublk_chaos_count_faults(const struct vublk_chaos_result *result)
{
	uint64_t count = result->counts.stuck;

	for (unsigned f = VUBLK_CHAOS_NONE + 1; f < VUBLK_CHAOS_NUM_FAULTS; f++)
		count += result->counts.faults[f];
	return count;
}

static unsigned count_actions(const struct vublk_chaos_result *result)
{
	unsigned count = 0;

	for (unsigned d = 0; d < VUBLK_CHAOS_NUM_ACTIONS; d++)
		count += result->actions[d];
	return count;
}

static uint64_t count_requests(const struct vublk_chaos_result *result)
{
	uint64_t count = 0;

	for (unsigned op = 0; op < VUBLK_CHAOS_NUM_OPS; op++)
		count += result->counts.requests[op];
	return count;
}

/* --- text --------------------------------------------------------------------- */

static void print_actions(FILE *out, const struct vublk_chaos_result *result)
{
	const char *separator = ": ";

	fprintf(out, "  faults       %u", count_actions(result));
	for (unsigned d = 0; d < VUBLK_CHAOS_NUM_ACTIONS; d++) {
		if (!result->actions[d])
			continue;
		fprintf(out, "%s%u %s", separator, result->actions[d],
			d == VUBLK_CHAOS_OWN ? "by the back-end itself" : vublk_chaos_action_name(d));
		separator = ", ";
	}
	if (result->own_end[0])
		fprintf(out, ", the last by %s", result->own_end);
	fprintf(out, "; %u starts\n", result->starts);
}

static void print_requests(FILE *out, const struct vublk_chaos_result *result)
{
	const struct vublk_chaos_counts *counts = &result->counts;

	fprintf(out, "  requests     %" PRIu64, count_requests(result));
	for (unsigned op = 0; op < VUBLK_CHAOS_NUM_OPS; op++)
		fprintf(out, "%s%" PRIu64 " %s", op ? ", " : ": ", counts->requests[op],
			vublk_chaos_op_name(op));
	fprintf(out, "\n  in flight    %" PRIu64 " when a back-end was lost\n"
		"  overlapping  %" PRIu64 " blocks changed while another change was in flight\n"
		"  verified     %" PRIu64 " blocks\n", result->in_flight, counts->overlapping,
		counts->verified_blocks);
	if (counts->forgotten_blocks)
		fprintf(out, "  forgotten    %" PRIu64 " blocks fell back to older content, none older than "
			"the last flush\n", counts->forgotten_blocks);
}

static void print_outage(FILE *out, const struct vublk_histogram *outage)
{
	char median[VUBLK_CLI_TEXT_BYTES], worst[VUBLK_CLI_TEXT_BYTES];

	if (outage->count)
		fprintf(out, "  reconnect    median %s, worst %s, of %" PRIu64 " reconnects, from "
			"the socket's appearance to the first completion\n",
			vublk_cli_format_ns(median,
					    (double)vublk_histogram_percentile(outage, 50)),
			vublk_cli_format_ns(worst, (double)outage->max), outage->count);
}

void vublk_chaos_print_text(FILE *out, const struct vublk_chaos_config *config,
			    const struct vublk_chaos_result *result)
{
	const struct vublk_chaos_counts *counts = &result->counts;
	char text[2 * VUBLK_ERROR_TEXT_BYTES];

	fprintf(out, "%s: %u queue%s, iodepth %u, seed %" PRIu64 ", %.2f s\n", config->socket,
		config->num_queues, config->num_queues == 1 ? "" : "s", config->depth, config->seed,
		(double)result->runtime_ns / 1e9);
	print_actions(out, result);
	print_requests(out, result);
	print_outage(out, &result->outage_ns);
	fputs("  found       ", out);
	for (unsigned f = VUBLK_CHAOS_NONE + 1; f < VUBLK_CHAOS_NUM_FAULTS; f++)
		fprintf(out, " %" PRIu64 " %s,", counts->faults[f], vublk_chaos_fault_name(f));
	fprintf(out, " %u stuck\n", counts->stuck);
	for (unsigned i = 0; i < counts->num_sentences; i++) {
		vublk_cli_escape(text, sizeof(text), counts->sentences[i]);
		fprintf(out, "    %s\n", text);
	}
}

/* --- JSON --------------------------------------------------------------------- */

static void add_u64(struct json_object *object, const char *name, uint64_t value)
{
	json_object_object_add(object, name, json_object_new_uint64(value));
}

static struct json_object *found_json(const struct vublk_chaos_counts *counts)
{
	struct json_object *object = json_object_new_object();

	for (unsigned f = VUBLK_CHAOS_NONE + 1; f < VUBLK_CHAOS_NUM_FAULTS; f++)
		add_u64(object, vublk_chaos_fault_name(f), counts->faults[f]);
	add_u64(object, "stuck", counts->stuck);
	return object;
}

static struct json_object *outage_json(const struct vublk_histogram *outage)
{
	struct json_object *object = json_object_new_object();

	add_u64(object, "N", outage->count);
	add_u64(object, "median", vublk_histogram_percentile(outage, 50));
	add_u64(object, "max", outage->max);
	return object;
}

static void add_actions_and_requests(struct json_object *root,
				   const struct vublk_chaos_result *result)
{
	struct json_object *actions = json_object_new_object(), *requests = json_object_new_object();

	for (unsigned d = 0; d < VUBLK_CHAOS_NUM_ACTIONS; d++)
		add_u64(actions, vublk_chaos_action_name(d), result->actions[d]);
	for (unsigned op = 0; op < VUBLK_CHAOS_NUM_OPS; op++)
		add_u64(requests, vublk_chaos_op_name(op), result->counts.requests[op]);
	json_object_object_add(root, "faults", actions);
	json_object_object_add(root, "requests", requests);
}

void vublk_chaos_print_json(FILE *out, const struct vublk_chaos_config *config,
			    const struct vublk_chaos_result *result)
{
	struct json_object *root = json_object_new_object(), *sentences = json_object_new_array();
	const struct vublk_chaos_counts *counts = &result->counts;

	json_object_object_add(root, "vublk version",
			       json_object_new_string(VUBLK_VERSION_STRING));
	json_object_object_add(root, "socket", json_object_new_string(config->socket));
	add_u64(root, "queues", config->num_queues);
	add_u64(root, "iodepth", config->depth);
	add_u64(root, "seed", config->seed);
	add_u64(root, "runtime_ms", result->runtime_ns / 1000000);
	add_u64(root, "starts", result->starts);
	add_actions_and_requests(root, result);
	add_u64(root, "in_flight_at_losses", result->in_flight);
	add_u64(root, "overlapping_blocks", counts->overlapping);
	add_u64(root, "verified_blocks", counts->verified_blocks);
	add_u64(root, "forgotten_blocks", counts->forgotten_blocks);
	json_object_object_add(root, "reconnect_ns", outage_json(&result->outage_ns));
	json_object_object_add(root, "found", found_json(counts));
	for (unsigned i = 0; i < counts->num_sentences; i++)
		json_object_array_add(sentences, json_object_new_string(counts->sentences[i]));
	json_object_object_add(root, "sentences", sentences);
	vublk_cli_put_json(out, json_object_to_json_string_ext(root, JSON_C_TO_STRING_PRETTY |
							       JSON_C_TO_STRING_SPACED |
							       JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(root);
}
