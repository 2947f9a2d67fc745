/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_DISK_WATCH_H
#define VUBLK_CLI_DISK_WATCH_H

/*
 * A watch notices what happens to a command's disk while the command runs: outages, lost writes,
 * and a new back-end that serves another disk at the same socket.
 *
 * Threads: the disk's own thread calls vublk_disk_watch_event(). The one thread that passes its
 * queue to vublk_disk_watch_poll() requests the serial. Any thread may read the fields that are
 * marked "atomic".
 */

#include "cli/cli.h"
#include "cli/disk.h"

#include <vublk/blk.h>

#include <stdbool.h>
#include <stdint.h>

struct vublk_disk_watch {
	/* set before the disk is opened, and constant afterwards */
	const char *command;
	const char *path;

	struct vublk_blk *blk;          /* atomic; NULL until vublk_disk_watch_start() */
	unsigned outage;                /* atomic; 1: no back-end is connected */
	unsigned writes_lost;           /* atomic; 1: VUBLK_BLK_WRITES_LOST was reported */
	unsigned reconnections;         /* atomic */

	/* used by the disk's thread */
	uint64_t capacity_bytes;        /* set by vublk_disk_watch_start() */
	bool warned_capacity;
	struct vublk_cli_limit outage_limit, reconnected_limit;

	/* used by the thread that requests the serial */
	bool asks;                      /* whether the serial is requested and compared at all */
	bool asking;                    /* the request is in flight */
	bool has_answer;                /* the request was answered, and the back-end was not
					   replaced meanwhile */
	bool warned_serial;
	unsigned asked_at;              /* the number of reconnections when the request was added */
	char serial[VUBLK_BLK_ID_SIZE]; /* of the first back-end; empty: not known */
	char answer[VUBLK_BLK_ID_SIZE];
};

/*
 * Initializes `watch`, opens the disk with vublk_disk_watch_event() as its handler, and starts the
 * watch. `watch` must exist until the disk is closed, because a late answer of the back-end is
 * written into it.
 */
int vublk_disk_open_watched(const char *command, const char *path,
			    const struct vublk_disk_options *options,
			    struct vublk_disk_watch *watch, struct vublk_blk **blk,
			    struct vublk_error *error);

/*
 * Initializes a watch. `command` is the name of the command, for messages, and `path` is the path
 * of the socket; both are borrowed.
 */
void vublk_disk_watch_init(struct vublk_disk_watch *watch, const char *command, const char *path);

/* The handler of the disk's events. `watch` is the opaque pointer of struct vublk_blk_handlers. */
void vublk_disk_watch_event(void *watch, enum vublk_blk_event event,
			    const struct vublk_error *error);

/*
 * Starts the watch of `blk`, which must be open. `asks` says whether to request and compare
 * serials, which is useful only if the disk may reconnect.
 */
void vublk_disk_watch_start(struct vublk_disk_watch *watch, struct vublk_blk *blk, bool asks);

bool vublk_disk_watch_has_outage(const struct vublk_disk_watch *watch);
bool vublk_disk_watch_has_lost_writes(const struct vublk_disk_watch *watch);

/*
 * Requests the serial, unless a request for it is in flight or the current back-end has already
 * answered one. Must be called repeatedly, on the thread that uses `queue`, whenever that queue may
 * have room for a request. `watch` may be NULL.
 */
void vublk_disk_watch_poll(struct vublk_disk_watch *watch, struct vublk_blk_queue *queue);

/*
 * Processes the completion of the request for the serial. Returns false, and does nothing, if the
 * completion belongs to another request. `watch` may be NULL.
 */
bool vublk_disk_watch_take(struct vublk_disk_watch *watch,
			   const struct vublk_blk_completion *completion);

#endif
