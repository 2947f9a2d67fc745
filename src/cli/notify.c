/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Messages to the program that supervises this process; see notify.h and sd_notify(3). */
#include "cli/notify.h"

#include "cli/cli.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NS_PER_US UINT64_C(1000)

/*
 * Fills the address from its text: an absolute path, or '@' and a name in the abstract namespace.
 * Returns the length of the address, or 0 if the text is neither.
 */
static socklen_t fill_address(struct sockaddr_un *address, const char *text)
{
	size_t bytes = text ? strlen(text) : 0;

	if (bytes < 2 || bytes >= sizeof(address->sun_path) || (text[0] != '/' && text[0] != '@'))
		return 0;
	*address = (struct sockaddr_un){ .sun_family = AF_UNIX };
	memcpy(address->sun_path, text, bytes);
	if (text[0] == '@')
		address->sun_path[0] = '\0';
	else
		bytes++; /* the final NUL is part of the address of a path */
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + bytes);
}

/* Returns the number in the environment variable `name`, or 0 if it is not a number. */
static uint64_t get_number(const char *name)
{
	const char *text = getenv(name);
	uint64_t value = 0;

	if (!text || vublk_cli_parse_number(name, text, 0, UINT64_MAX / NS_PER_US, &value, NULL))
		return 0;
	return value;
}

static uint64_t get_watchdog_ns(void)
{
	if (getenv("WATCHDOG_PID") && get_number("WATCHDOG_PID") != (uint64_t)getpid())
		return 0;
	return get_number("WATCHDOG_USEC") * NS_PER_US;
}

void vublk_notify_open(struct vublk_notify *notify)
{
	*notify = (struct vublk_notify){ .fd = -1 };
	notify->address_bytes = fill_address(&notify->address, getenv("NOTIFY_SOCKET"));
	if (notify->address_bytes)
		notify->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (notify->fd >= 0)
		notify->watchdog_ns = get_watchdog_ns();
	unsetenv("NOTIFY_SOCKET");
	unsetenv("WATCHDOG_USEC");
	unsetenv("WATCHDOG_PID");
}

void vublk_notify_close(struct vublk_notify *notify)
{
	if (notify->fd >= 0)
		close(notify->fd);
	notify->fd = -1;
}

int vublk_notify_send(const struct vublk_notify *notify, const char *lines)
{
	ssize_t sent;

	if (notify->fd < 0)
		return 0;
	do
		sent = sendto(notify->fd, lines, strlen(lines), MSG_NOSIGNAL,
			      (const struct sockaddr *)&notify->address, notify->address_bytes);
	while (sent < 0 && errno == EINTR);
	return sent < 0 ? -errno : 0;
}
