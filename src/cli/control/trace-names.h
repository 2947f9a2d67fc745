/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_TRACE_NAMES_H
#define VUBLK_CLI_CONTROL_TRACE_NAMES_H

/* The names of types and statuses in a trace. Both ends of the control socket use them. */
#include <stdint.h>

/*
 * These functions return a name as a static string; NULL: the type or status has no name, so use
 * its number.
 */
const char *vublk_trace_type_name(uint32_t type);
const char *vublk_trace_status_name(uint8_t status);

/*
 * These functions return the number that `name` stands for. `name` is a name from the functions
 * above or a decimal number; NULL and any other text stand for 0.
 */
uint32_t vublk_trace_type_number(const char *name);
uint8_t vublk_trace_status_number(const char *name);

#endif
