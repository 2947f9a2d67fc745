/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_CTL_TRACE_H
#define VUBLK_CLI_CONTROL_CTL_TRACE_H

/*
 * `vublk ctl SOCKET trace`: begins a trace and asks for its records until a signal, the maximum
 * number of requests or the device ends it.
 */
#include <vublk/error.h>

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

struct vublk_ctl_trace_options {
	const char *format; /* NULL: text */
	const char *output; /* a file's name; NULL: standard output */
	uint64_t max;       /* requests; 0: no limit */
};

/* Returns whether `format` is the name of an output format. */
bool vublk_ctl_trace_has_format(const char *format);

/*
 * Sends the command `trace` with `arguments`, of which the function takes ownership. Stores the
 * result of the command in `result`; the caller frees it. Returns 0 or a negative errno.
 */
typedef int vublk_ctl_ask(void *opaque, struct json_object *arguments, struct json_object **result,
			  struct vublk_error *error);

/*
 * Runs a trace and writes its records to the output. `ask` is called with `opaque`. Returns 0 when
 * a signal, `max` requests or the device has ended the trace, or a negative errno.
 */
int vublk_ctl_trace(vublk_ctl_ask *ask, void *opaque, const struct vublk_ctl_trace_options *options,
		    struct vublk_error *error);

#endif
