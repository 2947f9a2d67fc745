/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_NOTIFY_H
#define VUBLK_CLI_NOTIFY_H

/*
 * Messages to the program that supervises this process, which is usually systemd: the protocol of
 * sd_notify(3). A message is a datagram of lines NAME=VALUE to the Unix socket that the environment
 * variable NOTIFY_SOCKET names.
 *
 * The tool does not use libsystemd, because libsystemd would load further libraries into each
 * process that serves a disk.
 */

#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

struct vublk_notify {
	int fd; /* -1: no program wants messages */
	struct sockaddr_un address;
	socklen_t address_bytes;
	/*
	 * The supervisor ends this process if it gets no WATCHDOG=1 for this time. 0: the
	 * supervisor does not watch this process.
	 */
	uint64_t watchdog_ns;
};

/*
 * Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID, and removes them from the environment, so
 * that no child process sends messages in the name of this process. Unusable values count as
 * missing, as in sd_notify(3).
 */
void vublk_notify_open(struct vublk_notify *notify);
void vublk_notify_close(struct vublk_notify *notify);

/*
 * Sends `lines` without waiting. Returns 0, or a negative errno. -EAGAIN: the supervisor has too
 * many unread messages, and the caller has to try again later. A no-op if no program wants
 * messages.
 */
int vublk_notify_send(const struct vublk_notify *notify, const char *lines);

#endif
