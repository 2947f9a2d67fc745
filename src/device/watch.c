/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The directory of the back-end's socket, watched while there is no back-end: a new
 * one is noticed when it makes its socket, whatever happened to the old file.
 *
 * The watch makes recovery quick and no more than that: without it (no inotify left,
 * a directory that is not there yet, a file system that tells nothing) the timer of
 * reconnect.c does the same, later.
 */
#include "device/device.h"

#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <unistd.h>

#define APPEARS (IN_CREATE | IN_MOVED_TO | IN_ATTRIB)
#define VANISHES (IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED)

/* Reads at a time; a directory that is written to without end must not hold the loop. */
#define READS_A_TURN 16

static const char *file_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static void directory_name(const char *path, char *directory)
{
	size_t bytes = (size_t)(file_name(path) - path);

	memcpy(directory, path, bytes);
	strcpy(directory + bytes, bytes ? "" : ".");
}

/* --- what is told ----------------------------------------------------------------------- */

struct news {
	bool appeared;
	bool vanished; /* the directory: what is watched is not where the path leads */
};

static void read_event(const struct inotify_event *event, const char *name, struct news *news)
{
	if (event->mask & VANISHES)
		news->vanished = true;
	/* After an overflow anything may have happened. */
	if (event->mask & IN_Q_OVERFLOW ||
	    (event->mask & APPEARS && event->len && !strcmp(name, event->name)))
		news->appeared = true;
}

/* The kernel's records: they are whole, and end with their names. */
static bool read_events(int fd, const char *name, struct news *news)
{
	char buffer[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	ssize_t bytes = read(fd, buffer, sizeof(buffer));

	for (ssize_t at = 0; at < bytes;) {
		const struct inotify_event *event = (const void *)(buffer + at);

		read_event(event, name, news);
		at += (ssize_t)(sizeof(*event) + event->len);
	}
	return bytes > 0;
}

void vublk_device_on_watch(void *opaque, uint32_t events)
{
	struct vublk_device *device = opaque;
	const char *name = file_name(device->settings.chardev);
	struct news news = { false, false };

	for (unsigned i = 0; i < READS_A_TURN; i++)
		if (!read_events(device->reconnect.watch_fd, name, &news))
			break;
	if (news.vanished)
		vublk_device_unwatch_socket(device);
	if (news.appeared || news.vanished)
		vublk_device_reconnect_wake(device);
}

/* --- the watch ------------------------------------------------------------------------------ */

static int open_watch(struct vublk_device *device, struct vublk_error *error)
{
	char directory[sizeof(device->settings.chardev) + 1];
	VUBLK_FD int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	int r;

	directory_name(device->settings.chardev, directory);
	if (fd < 0 || inotify_add_watch(fd, directory, APPEARS | IN_DELETE_SELF | IN_MOVE_SELF |
					IN_ONLYDIR) < 0)
		return vublk_error_set_errno(error, errno, "cannot watch the directory '%s'",
					     directory);
	r = vublk_loop_add(&device->loop, &device->reconnect.watch, fd, EPOLLIN, error);
	if (!r)
		device->reconnect.watch_fd = vublk_fd_steal(&fd);
	return r;
}

void vublk_device_watch_socket(struct vublk_device *device)
{
	struct vublk_error error;

	if (device->reconnect.watch_fd < 0 && open_watch(device, &error) < 0)
		vublk_log(&device->log, VUBLK_LOG_DEBUG, "%s; the socket is looked for by time",
			  error.text);
}

void vublk_device_unwatch_socket(struct vublk_device *device)
{
	vublk_loop_remove(&device->reconnect.watch);
	vublk_fd_close(&device->reconnect.watch_fd);
}
