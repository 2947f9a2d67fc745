/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Watches the directory of the back-end's socket during an outage, so that the device notices when
 * a new back-end creates its socket, whatever has happened to the old socket's file. connect.c
 * handles the events.
 *
 * Key idea: the watch only makes recovery faster. A watch may be impossible: no inotify instance is
 * left, the directory does not exist yet, or the file system reports nothing. Then the timer of
 * reconnect.c leads to the same tries, but later.
 */
#include "device/device.h"

#include "util/error.h"

#include <errno.h>

/*
 * Logs that the directory cannot be watched. A missing directory is logged at debug level only,
 * because it may appear later; any other reason is logged once per device.
 */
static void log_unwatched(struct vublk_device *device, const struct vublk_error *error)
{
	bool may_appear = error->code == ENOENT || error->code == ENOTDIR;
	bool is_news = !may_appear && !device->reconnect.logged_unwatched;

	vublk_log_limited(&device->log, &device->limit,
			  is_news ? VUBLK_LOG_INFO : VUBLK_LOG_DEBUG,
			  "%s; the device tries to reconnect periodically instead%s", error->text,
			  error->code == EMFILE ?
			  " (fs.inotify.max_user_instances limits the number of inotify "
			  "instances)" : "");
	device->reconnect.logged_unwatched |= is_news;
}

void vublk_device_watch_socket(struct vublk_device *device)
{
	struct vublk_error error;

	if (vublk_watch_start(&device->reconnect.watch, &device->loop, vublk_device_path(device),
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
