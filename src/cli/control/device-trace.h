/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_DEVICE_TRACE_H
#define VUBLK_CLI_CONTROL_DEVICE_TRACE_H

/* Functions of the command `trace`, for the table in device-commands.c. */
#include <vublk/trace.h>

#include <json-c/json.h>

struct vublk_trace_command {
	bool starts, stops;
	bool is_started; /* run() has begun the trace; the command may still wait until the requests
			    have been moved to shadow rings */
	uint64_t number; /* of the trace that the client reads; 0: not given. run() sets it for a
			    new trace */
};

extern const char *const vublk_device_trace_arguments[];
int vublk_device_check_trace(struct json_object *arguments, void *copy, struct vublk_error *error);
int vublk_device_run_trace(void *owner, void *copy, struct vublk_error *error);
struct json_object *vublk_device_format_trace(void *owner, const void *copy);

#endif
