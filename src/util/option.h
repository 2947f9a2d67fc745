/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_OPTION_H
#define VUBLK_UTIL_OPTION_H

#include <vublk/error.h>

#include <stdbool.h>
#include <stdint.h>

/*
 * Values as a person writes them. Each parser fails with EINVAL and one sentence
 * that names the option, what was expected, and what came.
 */

/* A whole number, decimal or 0x, between min and max. */
int vublk_parse_u64(const char *name, const char *text, uint64_t min, uint64_t max,
		    uint64_t *value, struct vublk_error *error);

/* A size in bytes with an optional suffix k, M, G, T (powers of 1,024). */
int vublk_parse_bytes(const char *name, const char *text, uint64_t min, uint64_t max,
		      uint64_t *value, struct vublk_error *error);

/* on/off, true/false, yes/no, 1/0. */
int vublk_parse_bool(const char *name, const char *text, bool *value, struct vublk_error *error);

#endif
