/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_STRUCT_H
#define VUBLK_UTIL_STRUCT_H

#include <vublk/error.h>

#include <stddef.h>

/*
 * Copies a struct that may grow across the ABI, in either direction; <vublk/version.h> has the
 * rules.
 */

/*
 * Copies the program's struct `given` of `given_bytes` into `own`, and zeroes the members that
 * the program's struct lacks; all of them if `given` is NULL. EINVAL: the program has set a
 * member that this library lacks; the sentence calls the struct `name`, and `own` is untouched.
 */
int vublk_struct_in(void *own, size_t own_bytes, const void *given, size_t given_bytes,
		    const char *name, struct vublk_error *error);

/*
 * Copies `own` into the program's struct, and zeroes the members that this library lacks. 0 bytes: a
 * no-op, and `given` may be NULL.
 */
void vublk_struct_out(void *given, size_t given_bytes, const void *own, size_t own_bytes);

#endif
