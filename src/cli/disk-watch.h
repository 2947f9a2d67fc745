/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_DISK_WATCH_H
#define VUBLK_CLI_DISK_WATCH_H

/*
 * What a command notices about its disk while it runs: outages, lost writes, and a new
 * back-end that serves another disk at the same socket.
 *
 * Threads: the disk's own thread calls vublk_disk_watch_event(). The thread that uses the
 * queue asks for the serial. The fields marked "atomic" are read by any thread.
 */

#include "cli/cli.h"
#include "cli/disk.h"

#include <vublk/blk.h>

#include <stdbool.h>
#include <stdint.h>

struct vublk_disk_watch {
	/* set before the disk is opened */
	const char *command;
	const char *path;

	struct vublk_blk *blk;          /* atomic; NULL until vublk_disk_watch_start() */
	unsigned outage;                /* atomic; there is no back-end at the moment */
	unsigned writes_lost;           /* atomic; VUBLK_BLK_WRITES_LOST was reported */
	unsigned reconnections;         /* atomic */

	/* the disk's thread */
	uint64_t capacity_bytes;        /* set by vublk_disk_watch_start() */
	bool warned_capacity;
	struct vublk_cli_limit outage_limit, reconnected_limit;

	/* the thread that uses the queue */
	bool asks;                      /* for the serial */
	bool asking;                    /* the request is in flight */
	bool has_answer;                /* to the request of `asked_at` */
	bool warned_serial;
	unsigned asked_at;              /* reconnections when the request was added */
	char serial[VUBLK_BLK_ID_SIZE]; /* of the first back-end; empty: not known */
	char answer[VUBLK_BLK_ID_SIZE];
};

/*
 * Opens a disk with a watch, by means of vublk_disk_open() and the three functions declared below.
 * The watch must exist until the disk is closed, because a late answer is written into it.
 */
int vublk_disk_open_watched(const char *command, const char *path,
			    const struct vublk_disk_options *options,
			    struct vublk_disk_watch *watch, struct vublk_blk **blk,
			    struct vublk_error *error);

/* `command` names the command in messages, `path` the socket; both are borrowed. */
void vublk_disk_watch_init(struct vublk_disk_watch *watch, const char *command, const char *path);

/* The `event` handler of the disk; the opaque pointer is the watch. */
void vublk_disk_watch_event(void *watch, enum vublk_blk_event event,
			    const struct vublk_error *error);

/* To be called when the disk is open. `asks`: compare serials, because the disk may reconnect. */
void vublk_disk_watch_start(struct vublk_disk_watch *watch, struct vublk_blk *blk, bool asks);

bool vublk_disk_watch_has_outage(const struct vublk_disk_watch *watch);
bool vublk_disk_watch_has_lost_writes(const struct vublk_disk_watch *watch);

/*
 * Adds a request for the serial unless the present back-end has already been asked. To be
 * called repeatedly on the thread that uses `queue`, when the queue is not full.
 */
void vublk_disk_watch_poll(struct vublk_disk_watch *watch, struct vublk_blk_queue *queue);

/* Returns true if the completion belongs to the request for the serial and has been processed. */
bool vublk_disk_watch_take(struct vublk_disk_watch *watch,
			   const struct vublk_blk_completion *completion);

#endif
