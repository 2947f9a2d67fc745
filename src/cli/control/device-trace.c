/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The command `trace` of the control socket of `vublk device`: begins and ends a trace, and answers
 * with records that were not read yet.
 *
 * Key idea: a client repeats the command to get further records. This process keeps no state per
 * client: if a client stops asking, the device ends the trace.
 */
#include "cli/control/device-trace.h"

#include "cli/cli.h"
#include "cli/control/json.h"
#include "cli/control/trace-names.h"

#include <vublk/shadow.h>

#include <errno.h>
#include <inttypes.h>
#include <time.h>

#define RECORDS_PER_ANSWER 512
#define NS_PER_S INT64_C(1000000000)

const char *const vublk_device_trace_arguments[] = { "start", "stop", "number", NULL };

/* --- arguments, on the control thread ------------------------------------------------------ */

static int take_flag(struct json_object *arguments, const char *name, bool *flag,
		     struct vublk_error *error)
{
	struct json_object *value;

	if (!json_object_object_get_ex(arguments, name, &value))
		return 0;
	*flag = json_object_get_boolean(value);
	if (json_object_is_type(value, json_type_boolean))
		return 0;
	return vublk_cli_error(error, EINVAL, "'%s' must be true or false", name);
}

int vublk_device_check_trace(struct json_object *arguments, void *copy, struct vublk_error *error)
{
	struct vublk_trace_command *command = copy;
	struct json_object *value;
	int r = take_flag(arguments, "start", &command->starts, error);

	if (!r)
		r = take_flag(arguments, "stop", &command->stops, error);
	if (r)
		return r;
	if (json_object_object_get_ex(arguments, "number", &value)) {
		if (!json_object_is_type(value, json_type_int) || json_object_get_int64(value) <= 0)
			return vublk_cli_error(error, EINVAL, "'number' must be a positive integer: "
					       "the number in the answer to 'start'");
		command->number = json_object_get_uint64(value);
	}
	if (command->starts != !command->number || (command->starts && command->stops))
		return vublk_cli_error(error, EINVAL, "a trace needs either 'start', or the "
				       "'number' of a trace that was started");
	return 0;
}

/* --- the device's thread --------------------------------------------------------------------- */

/*
 * Begins a trace. A trace needs shadow rings, so the command has no result until the requests have
 * been moved to the shadow rings, or the move was refused.
 */
static int start_trace(void *owner, struct vublk_trace_command *command, struct vublk_error *error)
{
	struct vublk_shadow_info shadow;
	int r = command->is_started ? 0 : vublk_bus_start_trace(owner, error);

	if (r)
		return r;
	command->is_started = true;
	vublk_device_get_shadow(vublk_bus_device(owner), &shadow, sizeof(shadow));
	if (shadow.is_changing)
		return 1;
	if (shadow.is_shadowed || !shadow.refusal[0])
		return 0;
	vublk_bus_stop_trace(owner);
	return vublk_cli_error(error, EBUSY, "a trace needs shadow rings, but they cannot be used: "
			       "%s",
			       shadow.refusal);
}

int vublk_device_run_trace(void *owner, void *copy, struct vublk_error *error)
{
	struct vublk_trace_command *command = copy;
	struct vublk_trace_info info;
	int r = 0;

	if (!command->starts && !command->number)
		return vublk_cli_error(error, EINVAL, "a trace must begin with 'start'; vublk ctl "
				       "SOCKET trace does that");
	if (command->starts)
		r = start_trace(owner, command, error);
	if (r)
		return r;
	vublk_device_get_trace_info(vublk_bus_device(owner), &info, sizeof(info));
	if (command->starts)
		command->number = info.number;
	if (command->number != info.number)
		return vublk_cli_error(error, ESTALE, "trace %" PRIu64 " has ended or never "
				       "started; the latest trace is %" PRIu64, command->number,
				       info.number);
	if (command->stops)
		vublk_bus_stop_trace(owner);
	return 0;
}

/* --- the control thread ---------------------------------------------------------------------- */

static int64_t read_clock(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * NS_PER_S + now.tv_nsec;
}

/*
 * Adds a time in ns since 1970. `ns` is the time on CLOCK_MONOTONIC (0: unknown), and `offset_ns`
 * is the difference between CLOCK_REALTIME and that clock.
 */
static void add_time(struct json_object *object, const char *name, uint64_t ns, int64_t offset_ns)
{
	json_object_object_add(object, name,
			       ns ? json_object_new_int64((int64_t)ns + offset_ns) : NULL);
}

static void add_name(struct json_object *object, const char *member, const char *name,
		     unsigned number)
{
	char text[16];

	snprintf(text, sizeof(text), "%u", number);
	vublk_json_add_text(object, member, name ? name : text);
}

static struct json_object *record_json(const struct vublk_trace_record *record, int64_t offset_ns)
{
	struct json_object *object = json_object_new_object();

	vublk_json_add_u64(object, "queue", record->queue);
	add_name(object, "type", vublk_trace_type_name(record->type), record->type);
	vublk_json_add_u64(object, "sector", record->sector);
	vublk_json_add_u64(object, "bytes", record->bytes);
	add_name(object, "status", vublk_trace_status_name(record->status), record->status);
	add_time(object, "taken_ns", record->taken_ns, offset_ns);
	add_time(object, "submitted_ns", record->submitted_ns, offset_ns);
	add_time(object, "completed_ns", record->completed_ns, offset_ns);
	if (record->taken_ns)
		vublk_json_add_u64(object, "latency_ns", record->completed_ns - record->taken_ns);
	else
		json_object_object_add(object, "latency_ns", NULL);
	return object;
}

struct json_object *vublk_device_format_trace(void *owner, const void *copy)
{
	const struct vublk_device *device = vublk_bus_device(owner);
	const struct vublk_trace_command *command = copy;
	int64_t offset_ns = read_clock(CLOCK_REALTIME) - read_clock(CLOCK_MONOTONIC);
	struct json_object *result = json_object_new_object();
	struct json_object *records = json_object_new_array();
	struct vublk_trace_record record;
	struct vublk_trace_info info;

	for (unsigned i = 0; i < RECORDS_PER_ANSWER &&
	     vublk_device_read_trace(device, &record, sizeof(record)); i++)
		json_object_array_add(records, record_json(&record, offset_ns));
	vublk_device_get_trace_info(device, &info, sizeof(info));
	vublk_json_add_u64(result, "number", command->number);
	vublk_json_add_bool(result, "active", info.is_on);
	vublk_json_add_u64(result, "dropped", info.dropped);
	json_object_object_add(result, "records", records);
	return result;
}
