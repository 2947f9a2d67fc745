/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_MIGRANT_H
#define VUBLK_TESTS_MIGRANT_H

/*
 * A guest that migrates: all that it is stands in its memory, so that whoever has a copy
 * of that has the guest. It writes its disk, reads it back and remembers what it has read
 * where, all the while; a page of its memory that is not what it was it notices, later at
 * the latest. What its processor writes it marks, as a hypervisor would see it; what its
 * disk writes into its memory is in pages of their own, and marked by nobody here.
 */
#include <stdbool.h>
#include <stdint.h>

#define MIGRANT_QUEUES 2
#define MIGRANT_SLOTS 5 /* requests of a queue at a time: chains of three in a ring of sixteen */
#define MIGRANT_RING_SIZE 16
#define MIGRANT_BUFFERS 128 /* pages that are read into, in turn */
#define MIGRANT_PAGE 4096
#define MIGRANT_PAGES 256
#define MIGRANT_BYTES (MIGRANT_PAGES * MIGRANT_PAGE)
#define MIGRANT_GUEST_ADDR UINT64_C(0x40000000)
#define MIGRANT_DISK_BYTES (MIGRANT_QUEUES * MIGRANT_SLOTS * MIGRANT_PAGE)

/* The hypervisor's view: where the memory is, and what its processor has written to. */
struct migrant {
	char *memory;
	uint64_t written[MIGRANT_PAGES / 64]; /* cleared by who copies */
	int kicks[MIGRANT_QUEUES];
};

/* Guest addresses of a queue's ring. */
uint64_t migrant_desc_addr(unsigned queue);
uint64_t migrant_avail_addr(unsigned queue);
uint64_t migrant_used_addr(unsigned queue);

/* A new guest in zeroed memory. */
void migrant_boot(struct migrant *migrant);
/* Begins what can be begun: each slot has a request outstanding afterwards. */
void migrant_submit(struct migrant *migrant);
/* Takes what is complete, and looks at it: how many requests that were. */
unsigned migrant_collect(struct migrant *migrant);
/* Whether nothing is outstanding. */
bool migrant_is_idle(const struct migrant *migrant);
/* Requests that were complete since it was booted, and those that were wrong. */
uint64_t migrant_num_done(const struct migrant *migrant);
unsigned migrant_num_wrong(const struct migrant *migrant);
/* Looks at all that it has read and not forgotten since. */
void migrant_verify(struct migrant *migrant);
/* Whether the page is one that was read into, and still looked at. */
bool migrant_remembers(const struct migrant *migrant, unsigned page);
/* Whether a slot's page of the disk is what the guest wrote there last. */
bool migrant_owns(const struct migrant *migrant, unsigned queue, unsigned slot,
		  const void *page);

#endif
