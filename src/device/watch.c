/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The directory of the back-end's socket, watched while there is no back-end: a new
 * one is noticed when it makes its socket, whatever happened to the old file.
 *
 * The watch makes recovery quick and no more than that: without it (no inotify left,
 * a directory that is not there yet, a file system that tells nothing) the timer of
 * reconnect.c does the same, later.
 *
 * The inotify instance stays from the first outage to unrealize, for the kernel takes
 * milliseconds to give one up; only its watch comes and goes.
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

/* What a watch that was given up has left in the queue is no news. */
static void read_event(const struct vublk_device_reconnect *reconnect,
		       const struct inotify_event *event, const char *name, struct news *news)
{
	if (event->wd != reconnect->watch_descriptor && !(event->mask & IN_Q_OVERFLOW))
		return;
	if (event->mask & VANISHES)
		news->vanished = true;
	/* After an overflow anything may have happened. */
	if (event->mask & IN_Q_OVERFLOW ||
	    (event->mask & APPEARS && event->len && !strcmp(name, event->name)))
		news->appeared = true;
}

/* The kernel's records: they are whole, and end with their names. */
static bool read_events(const struct vublk_device_reconnect *reconnect, const char *name,
			struct news *news)
{
	char buffer[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	ssize_t bytes = read(reconnect->watch_fd, buffer, sizeof(buffer));

	for (ssize_t at = 0; at < bytes;) {
		const struct inotify_event *event = (const void *)(buffer + at);

		read_event(reconnect, event, name, news);
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
		if (!read_events(&device->reconnect, name, &news))
			break;
	if (news.vanished)
		vublk_device_unwatch_socket(device);
	if (news.appeared || news.vanished)
		vublk_device_reconnect_wake(device);
}

/* --- the watch ------------------------------------------------------------------------------ */

static int open_watch(struct vublk_device *device, struct vublk_error *error)
{
	struct vublk_device_reconnect *reconnect = &device->reconnect;
	char directory[sizeof(device->settings.chardev) + 1];

	directory_name(device->settings.chardev, directory);
	if (reconnect->watch_fd < 0)
		reconnect->watch_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (reconnect->watch_fd >= 0)
		reconnect->watch_descriptor =
			inotify_add_watch(reconnect->watch_fd, directory,
					  APPEARS | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR);
	if (reconnect->watch_fd < 0 || reconnect->watch_descriptor < 0)
		return vublk_error_set_errno(error, errno, "cannot watch the directory '%s'",
					     directory);
	return vublk_loop_add(&device->loop, &reconnect->watch, reconnect->watch_fd, EPOLLIN,
			      error);
}

void vublk_device_watch_socket(struct vublk_device *device)
{
	struct vublk_error error;

	if (!device->reconnect.watch.loop && open_watch(device, &error) < 0)
		vublk_log(&device->log, VUBLK_LOG_DEBUG, "%s; the socket is looked for by time",
			  error.text);
}

void vublk_device_unwatch_socket(struct vublk_device *device)
{
	struct vublk_device_reconnect *reconnect = &device->reconnect;

	if (!reconnect->watch.loop)
		return;
	vublk_loop_remove(&reconnect->watch);
	inotify_rm_watch(reconnect->watch_fd, reconnect->watch_descriptor);
	reconnect->watch_descriptor = -1;
}

void vublk_device_close_watch(struct vublk_device *device)
{
	vublk_device_unwatch_socket(device);
	vublk_fd_close(&device->reconnect.watch_fd);
}
