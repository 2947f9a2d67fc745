/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_FAKE_BLK_H
#define VUBLK_TESTS_FAKE_BLK_H

/*
 * An implementation of <vublk/blk.h> in memory, without a back-end and rings, for tests of programs
 * that use this interface. It completes requests in random order, and has the faults that a test
 * chooses. A test program links this implementation instead of the library.
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
	size_t content_bytes; /* constant, even if a new back-end reports another capacity */

	/* faults that the test chooses; an offset is FAKE_NOWHERE if the test does not set it */
	uint64_t fail_offset;       /* requests whose range contains this byte fail ... */
	int fail_code;              /* ... with this positive errno */
	uint64_t flip_offset;       /* reads return a flipped bit in each of 8 bytes from here on */
	uint64_t lose_offset;       /* writes that begin at this offset have no effect ... */
	unsigned lose_after;        /* ... after this many that had an effect */
	uint64_t keep_offset;       /* a read that begins here succeeds, but transfers ... */
	uint32_t keep_after;        /* ... at most this many bytes */
	unsigned die_after;         /* all requests after this many fail with ENOTCONN; 0: none */
	unsigned stall_after;       /* after more than this many requests, no request completes;
				       0: never */
	unsigned full_every;        /* every n-th request finds the queue full, if another is in
				       flight; 0: none does */
	/*
	 * At every n-th request the back-end is lost with all unflushed writes; 0: never. The next
	 * back-end executes some of the requests in flight, and WRITES_LOST is reported.
	 */
	unsigned forget_every;
	unsigned max_losses;        /* 0: no limit */
	/*
	 * At the request with this number an outage is reported; 0: never. Then the next back-end
	 * connects. It has the following capacity and serial, if they are set.
	 */
	unsigned replace_after;
	uint64_t next_capacity_bytes;
	const char *next_serial;

	/* The case fails if a write overlaps another request in flight on its queue. */
	bool no_overlap;

	/* counters */
	atomic_uint reads, writes, zeroes, discards, flushes, lost, refused;
	atomic_uint requests;
	atomic_uint open;           /* handles that are open now */
	atomic_uint losses;         /* of the back-end */

	/* protects the content and the requests in flight, and the following members */
	pthread_mutex_t lock;
	unsigned char *stable;      /* the content at the last completed flush. A loss with
				       forget_every goes back to it */
	unsigned char *flushing;    /* the content that the flush in flight covers; at most
				       one */
	struct vublk_blk *blk;      /* the handle of the last open */
};

/*
 * Makes a disk of `bytes` bytes, all 0xdd, at a socket in the scratch folder of the case. The
 * caller frees it with fake_disk_free().
 */
struct fake_disk *fake_disk_new(const char *name, uint64_t bytes, unsigned num_queues);
void fake_disk_free(struct fake_disk *disk);

#endif
