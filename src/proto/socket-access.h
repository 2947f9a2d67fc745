/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PROTO_SOCKET_ACCESS_H
#define VUBLK_PROTO_SOCKET_ACCESS_H

/*
 * The permissions and the group of a listening socket's file. They decide which processes may
 * connect.
 */
#include <vublk/error.h>

#include <stdbool.h>
#include <sys/types.h>

#define VUBLK_SOCKET_MODE_NAME "socket-mode"
#define VUBLK_SOCKET_MODE_TEXT                                                                \
	"permissions of the socket's file in octal, such as 0660, regardless of the umask"
#define VUBLK_SOCKET_GROUP_NAME "socket-group"
#define VUBLK_SOCKET_GROUP_TEXT "group of the socket's file, a name or a number"

/* If all members are zero, the umask and the directory decide, as for any new file. */
struct vublk_socket_access {
	bool has_mode, has_group;
	mode_t mode;
	gid_t group;
};

/*
 * These functions parse the permissions (octal) and the group (a name or a number) into `access`.
 * EINVAL: the mode is not octal or is above 0777, or there is no such group; ENOMEM: there is no
 * memory to look up the group.
 */
int vublk_socket_access_parse_mode(const char *text, struct vublk_socket_access *access,
				   struct vublk_error *error);
int vublk_socket_access_parse_group(const char *text, struct vublk_socket_access *access,
				    struct vublk_error *error);

/*
 * Checks, before the socket is created, that this process may give a socket the group in `access`.
 * EPERM: the process may not.
 */
int vublk_socket_access_check(const struct vublk_socket_access *access, struct vublk_error *error);

/*
 * Sets the mode and the group of the socket that is bound at `path`. Must be called between bind()
 * and listen(): before listen() the kernel refuses every connection, so no client can connect with
 * other permissions.
 */
int vublk_socket_access_apply(const struct vublk_socket_access *access, const char *path,
			      struct vublk_error *error);

#endif
