/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_STRUCT_H
#define VUBLK_UTIL_STRUCT_H

#include <vublk/error.h>

#include <stddef.h>

/*
 * These functions copy structs from the program and to the program. The structs may grow in later
 * versions of the library; <vublk/version.h> has the rules.
 */

/*
 * Copies the program's struct `given` of `given_bytes` to `own`, and zeroes the members that the
 * program's struct lacks. `given` NULL: zeroes all members. Error: EINVAL if the program has set a
 * member that this library lacks; the message calls the struct `name`, and `own` is untouched.
 */
int vublk_struct_in(void *own, size_t own_bytes, const void *given, size_t given_bytes,
		    const char *name, struct vublk_error *error);

/*
 * Checks that `given`, a `type` of `given_bytes`, is long enough to contain `member`. Error:
 * EINVAL. Must be called before vublk_struct_in() for a member for which 0 is not a safe default,
 * such as a descriptor. `given` NULL: the result is 0.
 */
#define vublk_struct_needs(type, member, given, given_bytes, error) \
	vublk_struct_check_bytes((given) ? (given_bytes) : sizeof(type), \
				 offsetof(type, member) + sizeof(((type *)0)->member), \
				 #type, #member, error)
int vublk_struct_check_bytes(size_t given_bytes, size_t least_bytes, const char *type,
			     const char *member, struct vublk_error *error);

/*
 * Copies `own` to the program's struct, and zeroes the members that this library lacks. If
 * `given_bytes` is 0, the call is a no-op, and `given` may be NULL.
 */
void vublk_struct_out(void *given, size_t given_bytes, const void *own, size_t own_bytes);

#endif
