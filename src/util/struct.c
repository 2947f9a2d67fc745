/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copies structs between the program and the library. A struct may have another size in the program
 * than in the library, because the two were compiled with different versions of the headers.
 *
 * Key idea: members are only ever added at the end, and 0 in a new member selects the behaviour of
 * a library without this member. So a struct that is extended with zeroes keeps its meaning.
 */
#include "util/struct.h"

#include "util/checked.h"
#include "util/error.h"

#include <errno.h>
#include <string.h>

static int check_tail(const char *tail, size_t bytes, const char *name, struct vublk_error *error)
{
	for (size_t i = 0; i < bytes; i++)
		if (tail[i])
			return vublk_error_set(error, EINVAL,
					       "struct %s sets a member that this version of "
					       "libvublk does not know; use the version of "
					       "libvublk for which the program was built, or a "
					       "newer one", name);
	return 0;
}

int vublk_struct_in(void *own, size_t own_bytes, const void *given, size_t given_bytes,
		    const char *name, struct vublk_error *error)
{
	size_t common = given ? VUBLK_MIN(own_bytes, given_bytes) : 0;
	int r = 0;

	if (given && given_bytes > own_bytes)
		r = check_tail((const char *)given + own_bytes, given_bytes - own_bytes, name,
			       error);
	if (r)
		return r;
	memset((char *)own + common, 0, own_bytes - common);
	if (common)
		memcpy(own, given, common);
	return 0;
}

int vublk_struct_check_bytes(size_t given_bytes, size_t least_bytes, const char *type,
			     const char *member, struct vublk_error *error)
{
	if (given_bytes >= least_bytes)
		return 0;
	return vublk_error_set(error, EINVAL, "the size passed for %s, %zu bytes, does not include "
			       "its member %s; pass the sizeof of the struct", type, given_bytes,
			       member);
}

void vublk_struct_out(void *given, size_t given_bytes, const void *own, size_t own_bytes)
{
	size_t common = VUBLK_MIN(own_bytes, given_bytes);

	if (!given_bytes)
		return; /* `given` may be NULL */
	memcpy(given, own, common);
	memset((char *)given + common, 0, given_bytes - common);
}
