/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sets the permissions and the group of the file of a socket that socket.c has created.
 *
 * Key idea: a client can connect only if the socket listens and the client may write to the
 * socket's file. So the permissions and the group are set before the socket listens. They are set
 * through an O_PATH descriptor, after a check that it refers to a socket. If a symbolic link or
 * another file has replaced the socket, nothing is changed.
 */
#include "proto/socket-access.h"

#include "util/error.h"
#include "util/fd.h"
#include "util/option.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_MODE 0777
#define MAX_GROUP (UINT32_MAX - 1) /* chown() takes the group -1 as "no change" */
#define FIRST_GROUP_BYTES 1024
#define MAX_GROUP_BYTES (4u << 20) /* large enough for a group with very many members */

/* --- values -------------------------------------------------------------------------- */

int vublk_socket_access_parse_mode(const char *text, struct vublk_socket_access *access,
				   struct vublk_error *error)
{
	size_t digits = text ? strspn(text, "01234567") : 0;
	unsigned long mode = digits ? strtoul(text, NULL, 8) : 0;

	if (!digits || text[digits] || mode > MAX_MODE)
		return vublk_error_set(error, EINVAL, VUBLK_SOCKET_MODE_NAME " must be octal "
				       "permissions from 0 to 0777, such as 0660, not '%s'",
				       text ? text : "");
	access->mode = (mode_t)mode;
	access->has_mode = true;
	return 0;
}

/* Returns 0, -ENOENT if no group has that name, or the negative errno of a failed lookup. */
static int find_group(const char *name, gid_t *group)
{
	struct group entry, *found = NULL;
	char *buffer = NULL;
	int code = ERANGE;

	for (size_t bytes = FIRST_GROUP_BYTES; code == ERANGE && bytes <= MAX_GROUP_BYTES;
	     bytes *= 2) {
		free(buffer);
		buffer = malloc(bytes);
		code = buffer ? getgrnam_r(name, &entry, buffer, bytes, &found) : ENOMEM;
	}
	if (found)
		*group = found->gr_gid;
	free(buffer);
	return found ? 0 : -(code ? code : ENOENT);
}

int vublk_socket_access_parse_group(const char *text, struct vublk_socket_access *access,
				    struct vublk_error *error)
{
	bool is_number = text && text[0] && !text[strspn(text, "0123456789")];
	uint64_t number = 0;
	gid_t group = 0;
	int r;

	if (is_number) {
		r = vublk_parse_u64(VUBLK_SOCKET_GROUP_NAME, text, 0, MAX_GROUP, &number, error);
		if (r < 0)
			return r;
		group = (gid_t)number;
	} else {
		r = text ? find_group(text, &group) : -ENOENT;
		if (r == -ENOMEM)
			return vublk_error_set_errno(error, ENOMEM, "cannot look up the group '%s'",
						     text);
		if (r < 0)
			return vublk_error_set(error, EINVAL, VUBLK_SOCKET_GROUP_NAME " must be "
					       "the name or number of a group; there is no group "
					       "'%s'",
					       text ? text : "");
	}
	access->group = group;
	access->has_group = true;
	return 0;
}

/* --- the file ------------------------------------------------------------------------ */

static int group_failed(const struct vublk_socket_access *access, int code,
			struct vublk_error *error)
{
	return vublk_error_set_errno(error, code, "cannot change the socket's group to %u%s",
				     (unsigned)access->group, code == EPERM ? " (only root and "
									      "members of that "
									      "group may do "
									      "this)" : "");
}

/*
 * Tries to change the group of a new socket that has no file. The kernel checks the same permission
 * for it as for a socket's file.
 */
int vublk_socket_access_check(const struct vublk_socket_access *access, struct vublk_error *error)
{
	VUBLK_FD int fd = -1;

	if (!access->has_group)
		return 0;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return vublk_error_set_errno(error, errno, "cannot create a socket");
	return fchown(fd, (uid_t)-1, access->group) < 0 ? group_failed(access, errno, error) : 0;
}

static int set_mode(int fd, mode_t mode)
{
	char name[40];

	/* fchmod() refuses O_PATH descriptors, so use the descriptor's path in /proc. */
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	return chmod(name, mode);
}

int vublk_socket_access_apply(const struct vublk_socket_access *access, const char *path,
			      struct vublk_error *error)
{
	VUBLK_FD int fd = -1;
	struct stat st;

	if (!access->has_mode && !access->has_group)
		return 0;
	fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return vublk_error_set_errno(error, errno, "cannot open the new socket '%s'", path);
	if (!S_ISSOCK(st.st_mode))
		return vublk_error_set(error, EEXIST, "another file replaced the new socket '%s'; "
				       "choose a directory in which only trusted users can create "
				       "files",
				       path);
	if (access->has_group && fchownat(fd, "", (uid_t)-1, access->group, AT_EMPTY_PATH) < 0)
		return group_failed(access, errno, error);
	if (access->has_mode && set_mode(fd, access->mode) < 0)
		return vublk_error_set_errno(error, errno, "cannot set the permissions of the "
					     "socket '%s' to %04o", path, (unsigned)access->mode);
	return 0;
}
