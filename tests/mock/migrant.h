/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_MIGRANT_H
#define VUBLK_TESTS_MIGRANT_H

/*
 * A guest that migrates. All of its state is in its memory, so a copy of the memory is the guest.
 * It continuously writes its disk, reads it back, and remembers what it has read into which page.
 * So the guest notices, sooner or later, if the migration has changed a page of its memory. Writes
 * by its processor are marked here, as a VMM would see them. Writes by its disk go to pages of
 * their own and are not marked here.
 */
#include <stdbool.h>
#include <stdint.h>

#define MIGRANT_QUEUES 2
#define MIGRANT_SLOTS 5 /* outstanding requests per queue: chains of three descriptors in a ring of sixteen */
#define MIGRANT_RING_SIZE 16
#define MIGRANT_BUFFERS 128 /* pages that are read into, in turn */
#define MIGRANT_PAGE 4096
#define MIGRANT_PAGES 256
#define MIGRANT_BYTES (MIGRANT_PAGES * MIGRANT_PAGE)
#define MIGRANT_GUEST_ADDR UINT64_C(0x40000000)
#define MIGRANT_DISK_BYTES (MIGRANT_QUEUES * MIGRANT_SLOTS * MIGRANT_PAGE)

/* The VMM's view: where the memory is, and which pages the guest's processor has written to. */
struct migrant {
	char *memory;
	uint64_t written[MIGRANT_PAGES / 64]; /* cleared by the code that copies */
	int kicks[MIGRANT_QUEUES];
};

/* Guest addresses of a queue's ring. */
uint64_t migrant_desc_addr(unsigned queue);
uint64_t migrant_avail_addr(unsigned queue);
uint64_t migrant_used_addr(unsigned queue);

/* A new guest in zeroed memory. */
void migrant_boot(struct migrant *migrant);
/* Fills each slot: afterwards all of them have a request outstanding. */
void migrant_submit(struct migrant *migrant);
/* Takes completed requests and checks their data; returns their number. */
unsigned migrant_collect(struct migrant *migrant);
/* Whether no request is outstanding. */
bool migrant_is_idle(const struct migrant *migrant);
/* Requests that have completed since boot, and those with wrong data. */
uint64_t migrant_num_done(const struct migrant *migrant);
unsigned migrant_num_wrong(const struct migrant *migrant);
/* Checks every page that the guest has read from the disk and not reused since. */
void migrant_verify(struct migrant *migrant);
/* Whether the page was read into and will still be checked. */
bool migrant_remembers(const struct migrant *migrant, unsigned page);
/* Whether `page` is what the guest wrote last to the slot's page of the disk. */
bool migrant_owns(const struct migrant *migrant, unsigned queue, unsigned slot,
		  const void *page);

#endif
