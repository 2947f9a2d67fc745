/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_WATCH_H
#define VUBLK_UTIL_WATCH_H

/*
 * Watches for a file to appear at a path. All watches of a process share one inotify
 * instance, because the kernel allows a user only a few instances (128 by default). A watch belongs
 * to the thread of its loop; different watches may use different loops.
 */
#include "util/loop.h"

#define VUBLK_WATCH_PATH_BYTES 256

struct vublk_watch {
	struct vublk_loop *loop; /* NULL: the watch is not started */
	/*
	 * Called when a file has appeared at the path, or the file's attributes have changed.
	 * `vanished`: the file's directory was removed or renamed, or events were lost. The owner
	 * must then stop and start the watch, so that it watches the directory to which the path
	 * now leads.
	 */
	void (*fn)(void *opaque, bool vanished);
	void *opaque;
	bool is_open;            /* the watch is counted as a user of the instance */
	unsigned generation;     /* of the instance; changes at fork() */
	struct vublk_loop_source source; /* for the inotify instance */
	struct vublk_loop_task task;

	/* protected by the lock in watch.c while the watch is started */
	struct vublk_watch *next;
	int descriptor; /* the kernel watch of the directory */
	char name[VUBLK_WATCH_PATH_BYTES];
	bool appeared, vanished;
};

/* Initializes `watch`, which must be zeroed. `fn` will be called from the loop of the watch. */
void vublk_watch_init(struct vublk_watch *watch, void (*fn)(void *opaque, bool vanished),
		      void *opaque);
/*
 * Starts the watch. A no-op if it is already started. EMFILE: no inotify instance is left; ENOSPC:
 * no kernel watch is left; ENOENT and others: the directory cannot be watched. After a failure `fn`
 * is not called, and the caller may try again.
 */
int vublk_watch_start(struct vublk_watch *watch, struct vublk_loop *loop, const char *path,
		      struct vublk_error *error);
/*
 * Stops the watch; `fn` is not called afterwards. The inotify instance stays open, because closing
 * it takes milliseconds.
 */
void vublk_watch_stop(struct vublk_watch *watch);
/*
 * Like vublk_watch_stop(), but the last watch of the process closes the inotify instance. A no-op
 * if the watch is closed.
 */
void vublk_watch_close(struct vublk_watch *watch);

#endif
