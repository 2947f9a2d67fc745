/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_ATTACH_QUEUE_H
#define VUBLK_CLI_ATTACH_QUEUE_H

/*
 * A queue of the block device: a thread that takes requests from the kernel and gives them to one
 * queue of the disk.
 *
 * Key idea: a tag is the kernel's number of a request, from 0 to depth - 1. Each tag has its own
 * buffer in the disk's shared memory. The kernel copies between this buffer and the pages of the
 * request, and the back-end uses the buffer directly. So data is copied once, by the kernel, and
 * never by vublk.
 */
#include "cli/attach/ublk-abi.h"
#include "cli/cli.h"
#include "cli/disk-watch.h"

#include <vublk/blk.h>

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>

/* The tags of requests for which the disk's queue had no room, in the order of their arrival. */
struct vublk_attach_waiting {
	uint16_t *tags;
	unsigned first;
	unsigned count;
};

struct vublk_attach_queue {
	/* set before the thread starts, and constant afterwards */
	/*
	 * The thread calls ready() once: with NULL when all tags wait for requests, or with the
	 * error if the start has failed. The thread calls ended() when it ends.
	 */
	void (*ready)(void *opaque, const struct vublk_error *failure);
	void (*ended)(void *opaque);
	void *opaque;
	const char *name;              /* of the block device, for messages */
	uint16_t index;
	uint16_t depth;
	uint32_t buffer_bytes;         /* of one tag */
	bool is_plain;                 /* the driver is older than Linux 6.4; see ublk.h */
	int char_fd;
	char *buffers;                 /* of all tags, in the disk's memory */
	struct vublk_blk_queue *disk;
	struct vublk_disk_watch *watch; /* NULL except in queue 0, which requests the serial */

	/* used by the thread */
	struct io_uring ring;
	const struct ublksrv_io_desc *requests; /* by tag; the kernel writes them */
	unsigned with_kernel;          /* tags that wait in the kernel for a request */
	unsigned here;                 /* tags whose requests are being executed */
	bool is_polling;               /* the ring watches the descriptor of the disk's queue */
	struct vublk_attach_waiting waiting;
	struct vublk_cli_limit failure_limit;
};

/* The thread of a queue: executes requests until the kernel stops the device. */
void vublk_attach_queue_work(void *queue);

#endif
