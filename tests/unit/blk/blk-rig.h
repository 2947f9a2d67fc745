/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_BLK_RIG_H
#define VUBLK_TESTS_BLK_RIG_H

/* A disk on the stand-in device, and a record of the events that its handler got. */

#include "fake-device.h"
#include "harness.h"

#include <vublk/blk.h>

#include <pthread.h>

#define KIB 1024
#define DISK_BYTES (1024 * KIB)

extern struct vublk_error error; /* of the last call that failed */

extern struct told {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned events[VUBLK_BLK_WRITES_LOST + 1];
	char text[VUBLK_ERROR_TEXT_BYTES];
	struct vublk_blk *blk; /* the handler calls functions of this disk */
	uint64_t capacity_bytes;
	int close_result;
} told;

/* Blocks until the event has come at least once since the last wait for this event. */
void wait_for_event(enum vublk_blk_event event);

/* These functions open a disk with the present plan; set_up() makes the usual plan first. */
extern const struct vublk_option blk_fails_at_once[]; /* the loss of the back-end is permanent */
struct vublk_blk *open_disk_with(const struct vublk_option *options);
struct vublk_blk *open_disk(void); /* with blk_fails_at_once */
struct vublk_blk *set_up(void);
void tear_down(struct vublk_blk *blk);

/* Opens a disk with the usual plan and this many queues. */
struct vublk_blk *begin(unsigned num_queues, const struct vublk_option *options);
/* lose() loses the back-end, and find() finds another; both return when the event has come. */
void lose(void);
void find(void);

/* Adds and submits `count` reads. */
void read_many(struct vublk_blk *blk, unsigned queue, unsigned count);

#endif
