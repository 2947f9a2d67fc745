/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_MIGRANT_H
#define VUBLK_TESTS_MIGRANT_H

/*
 * A guest that migrates. All of its state is in its memory, so a copy of the memory is a copy of
 * the guest. It continuously writes to its disk, reads the data back, and remembers which data each
 * page has received. So it finds out sooner or later if a migration has changed such a page. In
 * `written`, the guest marks the pages that its processor writes, as a VMM would. Its disk writes
 * to other pages, which the guest does not mark.
 */
#include <stdbool.h>
#include <stdint.h>

#define MIGRANT_QUEUES 2
#define MIGRANT_SLOTS 5 /* requests per queue, each a chain of three descriptors */
#define MIGRANT_RING_SIZE 16
#define MIGRANT_BUFFERS 128 /* pages into which the guest reads, in turn */
#define MIGRANT_PAGE 4096
#define MIGRANT_PAGES 256
#define MIGRANT_BYTES (MIGRANT_PAGES * MIGRANT_PAGE)
#define MIGRANT_GUEST_ADDR UINT64_C(0x40000000)
#define MIGRANT_DISK_BYTES (MIGRANT_QUEUES * MIGRANT_SLOTS * MIGRANT_PAGE)

/* The VMM's view of the guest: its memory, and which pages its processor has written. */
struct migrant {
	char *memory;
	uint64_t written[MIGRANT_PAGES / 64]; /* a bitmap; cleared by the code that copies the
						 memory */
	int kicks[MIGRANT_QUEUES];
};

/* These return the guest addresses of the parts of a queue's ring. */
uint64_t migrant_desc_addr(unsigned queue);
uint64_t migrant_avail_addr(unsigned queue);
uint64_t migrant_used_addr(unsigned queue);

/*
 * Clears the memory, which must be mapped, and boots a new guest there. Marks all pages as written.
 */
void migrant_boot(struct migrant *migrant);
/* Starts a write in each idle slot and kicks, so that every slot has a request outstanding. */
void migrant_submit(struct migrant *migrant);
/*
 * Takes completed requests and checks their status and data. Starts the read that follows a write.
 * Returns the number of completions.
 */
unsigned migrant_collect(struct migrant *migrant);
/* Returns whether no request is outstanding. */
bool migrant_is_idle(const struct migrant *migrant);
/*
 * These return the number of requests that have completed since the boot, and the number of faults
 * that the guest has found.
 */
uint64_t migrant_num_done(const struct migrant *migrant);
unsigned migrant_num_wrong(const struct migrant *migrant);
/* Checks every page into which the guest has read, unless a new read of that page has begun. */
void migrant_verify(struct migrant *migrant);
/* Returns whether the guest has read data into this page and will check the page again. */
bool migrant_remembers(const struct migrant *migrant, unsigned page);
/*
 * Returns whether `page` is equal to the last data that the guest wrote to the slot's page of the
 * disk.
 */
bool migrant_owns(const struct migrant *migrant, unsigned queue, unsigned slot,
		  const void *page);

#endif
