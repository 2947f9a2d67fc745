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

#include <errno.h>

/* A missing directory may appear later; a lack of inotify is logged once per device. */
static void log_unwatched(struct vublk_device *device, const struct vublk_error *error)
{
	bool may_appear = error->code == ENOENT || error->code == ENOTDIR;
	bool is_news = !may_appear && !device->reconnect.logged_unwatched;

	vublk_log_limited(&device->log, &device->limit,
			  is_news ? VUBLK_LOG_INFO : VUBLK_LOG_DEBUG,
			  "%s; the device reconnects by a timer instead%s", error->text,
			  error->code == EMFILE ?
			  " (fs.inotify.max_user_instances limits inotify)" : "");
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
