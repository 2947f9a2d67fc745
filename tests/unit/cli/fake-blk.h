/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_FAKE_BLK_H
#define VUBLK_TESTS_FAKE_BLK_H

/*
 * An implementation of <vublk/blk.h> in memory, without back-end and rings, for tests of programs
 * that use this interface. Completions are in random order, and the disk misbehaves on request. A
 * test program links this disk instead of the library.
 */

#include <vublk/blk.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define FAKE_NOWHERE UINT64_MAX
#define FAKE_MAX_QUEUES 8

struct fake_disk {
	/* properties */
	char path[128];
	struct vublk_blk_info info;
	const char *serial;
	unsigned char *content;
	size_t content_bytes; /* stays, even if a new back-end reports another capacity */

	/* faults, chosen by the test */
	uint64_t fail_offset;       /* requests that include this byte fail ... */
	int fail_code;              /* ... with this errno */
	uint64_t flip_offset;       /* this byte and the next ones are read with one bit flipped */
	uint64_t lose_offset;       /* a write that begins here is lost ... */
	unsigned lose_after;        /* ... beginning with this write (0: the first) */
	uint64_t keep_offset;       /* a read that begins here succeeds and transfers ... */
	uint32_t keep_after;        /* ... only this many bytes */
	unsigned die_after;         /* the back-end disconnects after this many requests; 0: never */
	unsigned stall_after;       /* nothing is completed after this many requests; 0: never */
	unsigned full_every;        /* each n-th request finds the queue full; 0: never */
	/*
	 * After each n-th request the back-end is lost with all unflushed writes; 0: never. The
	 * next back-end executes the requests in flight, and WRITES_LOST is reported.
	 */
	unsigned forget_every;
	unsigned max_losses;        /* 0: no limit */
	/*
	 * After this many requests an outage is reported; 0: never. Then the next back-end
	 * connects, with another serial and another capacity if they are set.
	 */
	unsigned replace_after;
	uint64_t next_capacity_bytes;
	const char *next_serial;

	/* fail the case when a write overlaps another request of its queue */
	bool no_overlap;

	/* counts */
	atomic_uint reads, writes, zeroes, discards, flushes, lost, refused;
	atomic_uint requests;
	atomic_uint open;
	atomic_uint losses;

	/* for forget_every; under `lock` */
	pthread_mutex_t lock;
	unsigned char *stable;      /* the content that the next back-end has */
	unsigned char *flushing;    /* the content that the present flush covers; one at a time */
	struct vublk_blk *blk;      /* the handle that was opened last */
};

/*
 * Makes a disk of `bytes` bytes, all 0xdd, at a socket in the scratch folder of the case. The
 * caller frees it with fake_disk_free().
 */
struct fake_disk *fake_disk_new(const char *name, uint64_t bytes, unsigned num_queues);
void fake_disk_free(struct fake_disk *disk);

#endif
