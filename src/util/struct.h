/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_STRUCT_H
#define VUBLK_UTIL_STRUCT_H

#include <vublk/error.h>

#include <stddef.h>

/*
 * The two ways across the ABI for a struct that may grow; <vublk/version.h> has the rules.
 */

/*
 * Copies the program's struct `given` of `given_bytes` into `own`, and zeroes what the program
 * does not have. `given` NULL: all of it. EINVAL: the program sets a member that is not here;
 * `name` is the struct's, for the sentence. `own` is untouched then.
 */
int vublk_struct_in(void *own, size_t own_bytes, const void *given, size_t given_bytes,
		    const char *name, struct vublk_error *error);

/* Copies `own` into the program's struct, and zeroes what is not here. */
void vublk_struct_out(void *given, size_t given_bytes, const void *own, size_t own_bytes);

#endif
