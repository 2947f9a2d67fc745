/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Recognizes a vfio-user socket. This file is not a vfio-user client: it only sends one VERSION
 * message and reads the header of the answer.
 *
 * vfio-user specification 0.9.2, "Header" and "VFIO_USER_VERSION".
 */
#include "cli/vfio-probe.h"

#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define COMMAND_VERSION 1
#define TYPE_MASK 0xf
#define TYPE_REPLY 1
#define MESSAGE_ID 0x7662

struct header {
	uint16_t id;
	uint16_t command;
	uint32_t bytes;
	uint32_t flags;
	uint32_t error;
};

struct version_message {
	struct header header;
	uint16_t major;
	uint16_t minor;
	char capabilities[4];
};

static bool ask_version(int fd)
{
	struct version_message message = {
		.header = { .id = MESSAGE_ID, .command = COMMAND_VERSION, .bytes = sizeof(message) },
		.minor = 1, .capabilities = "{}",
	};
	struct pollfd wait = { .fd = fd, .events = POLLIN };
	struct header reply;

	return send(fd, &message, sizeof(message), MSG_NOSIGNAL) == sizeof(message) &&
	       poll(&wait, 1, VUBLK_VFIO_PROBE_MS) == 1 &&
	       recv(fd, &reply, sizeof(reply), MSG_WAITALL | MSG_DONTWAIT) == sizeof(reply) &&
	       reply.id == MESSAGE_ID && reply.command == COMMAND_VERSION &&
	       (reply.flags & TYPE_MASK) == TYPE_REPLY;
}

bool vublk_vfio_probe(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	bool found = false;
	int fd;

	if (strlen(path) >= sizeof(address.sun_path))
		return false;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return false;
	if (!connect(fd, (struct sockaddr *)&address, sizeof(address)))
		found = ask_version(fd);
	close(fd);
	return found;
}
