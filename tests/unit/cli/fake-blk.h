/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_FAKE_BLK_H
#define VUBLK_TESTS_FAKE_BLK_H

/*
 * <vublk/blk.h> over a piece of memory, for tests of what uses it: no back-end, no
 * rings; completions come in a random order, and it does wrong what it is told to.
 * A test program links it instead of the library.
 */

#include <vublk/blk.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define FAKE_NOWHERE UINT64_MAX
#define FAKE_MAX_QUEUES 8

struct fake_disk {
	/* what it is */
	char path[128];
	struct vublk_blk_info info;
	const char *serial;
	unsigned char *content;

	/* what it does wrong */
	uint64_t fail_offset;       /* requests that touch this byte fail ... */
	int fail_code;              /* ... with this */
	uint64_t flip_offset;       /* this byte and the next are read as others, each by a bit */
	uint64_t lose_offset;       /* a write that begins here is lost ... */
	unsigned lose_after;        /* ... from this one on (0: the first) */
	uint64_t keep_offset;       /* a read that begins here succeeds and brings ... */
	uint32_t keep_after;        /* ... only so many bytes */
	unsigned die_after;         /* requests, then the back-end is gone; 0: never */
	unsigned stall_after;       /* requests, then nothing is completed; 0: never */
	unsigned full_every;        /* each n-th request finds the queue full; 0: never */
	/*
	 * After each n-th request the back-end is lost, and with it what was completed and not
	 * flushed; 0: never. The next one executes what is in flight, and the event
	 * WRITES_LOST is told.
	 */
	unsigned forget_every;
	unsigned max_losses;        /* 0: no limit */
	/*
	 * After so many requests an outage is reported; 0: never. Then the next back-end
	 * connects, with another serial and another capacity if they are set.
	 */
	unsigned replace_after;
	uint64_t next_capacity_bytes;
	const char *next_serial;

	/* what it does not stand: a write that overlaps another request of its queue */
	bool no_overlap;

	/* what was done with it */
	atomic_uint reads, writes, zeroes, discards, flushes, lost, refused;
	atomic_uint requests;
	atomic_uint open;
	atomic_uint losses;

	/* for forget_every; under `lock` */
	pthread_mutex_t lock;
	unsigned char *stable;      /* the content that the next back-end has */
	unsigned char *flushing;    /* of the flush that is under way: one at a time */
	struct vublk_blk *blk;      /* opened last */
};

/*
 * A disk of so many bytes, all 0xdd, at a socket in the scratch folder of the case.
 * Freed with fake_disk_free().
 */
struct fake_disk *fake_disk_new(const char *name, uint64_t bytes, unsigned num_queues);
void fake_disk_free(struct fake_disk *disk);

#endif
