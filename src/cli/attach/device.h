/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_ATTACH_DEVICE_H
#define VUBLK_CLI_ATTACH_DEVICE_H

/*
 * The block device that `vublk attach` serves: a new device, or one that it takes over from a
 * process that has died.
 */
#include "cli/attach/queue.h"
#include "cli/attach/ublk.h"
#include "cli/crew.h"
#include "cli/disk.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct vublk_attach {
	/* set by the command */
	struct vublk_disk_options disk;
	char *socket;              /* the canonical path */
	int64_t wanted_id;         /* the number of a new device; -1: the first free number */
	unsigned depth;            /* requests per queue of a new device */
	uint32_t request_bytes;    /* the largest request of a new device */
	int wake_fd;               /* an eventfd: a signal has arrived, or a thread has ended */
	int resize_fd;             /* an eventfd: the size in the kernel may have to change */

	struct vublk_ublk ublk;
	struct ublksrv_ctrl_dev_info info;
	char node[VUBLK_UBLK_NODE_BYTES];
	bool is_resumed;           /* the device of a process that has died is resumed */
	struct vublk_blk *blk;
	struct vublk_disk_watch watch;
	struct vublk_cli_limit lost_limit; /* used by the disk's thread */
	struct vublk_cli_limit resized_limit;
	int char_fd;
	int claim_fd;              /* keeps other processes from attaching the socket */
	struct vublk_attach_queue *queues;
	struct vublk_crew crew;

	/* protected by `lock` */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned num_ready;
	unsigned num_ended;
	struct vublk_error failure; /* of the first thread that could not start */
};

/*
 * Makes a device, or resumes the device of the socket if its process has died. Opens the disk and
 * starts the threads. On success programs can use the device.
 */
int vublk_attach_start(struct vublk_attach *attach, struct vublk_error *error);

/*
 * Returns whether all threads have ended or are about to end, because the kernel has stopped the
 * device.
 */
bool vublk_attach_has_ended(struct vublk_attach *attach);

/* Tells the kernel the size of the disk, which has changed. Warns if the kernel cannot change it. */
void vublk_attach_resize(struct vublk_attach *attach);

/*
 * Must be called instead of vublk_attach_finish() if vublk_attach_start() has failed. Removes a new
 * device. A resumed device stays; if its threads have been started, this function ends the process.
 */
void vublk_attach_abandon(struct vublk_attach *attach);

/*
 * Frees everything, and removes the device if the kernel has stopped it. The threads must have
 * ended or be about to end.
 */
void vublk_attach_finish(struct vublk_attach *attach);

#endif
