/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Watches the directory of the back-end's socket while there is no back-end, so that a new back-end
 * is noticed when it creates its socket, whatever happened to the old file. connect.c handles the
 * events.
 *
 * Key idea: the watch only makes recovery faster. Without it (no inotify instance left, a
 * directory that does not exist yet, a file system that reports nothing) the timer of
 * reconnect.c does the same, later.
 */
#include "device/device.h"

#include "util/error.h"

#include <errno.h>

/* A missing directory may appear later; a lack of inotify is logged once per device. */
static void log_unwatched(struct vublk_device *device, const struct vublk_error *error)
{
	bool may_appear = error->code == ENOENT || error->code == ENOTDIR;
	bool is_news = !may_appear && !device->reconnect.logged_unwatched;

	vublk_log_limited(&device->log, &device->limit,
			  is_news ? VUBLK_LOG_INFO : VUBLK_LOG_DEBUG,
			  "%s; the device tries to reconnect at intervals instead%s", error->text,
			  error->code == EMFILE ?
			  " (fs.inotify.max_user_instances limits the inotify instances)" : "");
	device->reconnect.logged_unwatched |= is_news;
}

void vublk_device_watch_socket(struct vublk_device *device)
{
	struct vublk_error error;

	if (vublk_watch_start(&device->reconnect.watch, &device->loop, device->settings.chardev,
			      &error) < 0)
		log_unwatched(device, &error);
}

void vublk_device_unwatch_socket(struct vublk_device *device)
{
	vublk_watch_stop(&device->reconnect.watch);
}

void vublk_device_close_watch(struct vublk_device *device)
{
	vublk_watch_close(&device->reconnect.watch);
}
