/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_FAULT_H
#define VUBLK_UTIL_FAULT_H

/*
 * These functions make the process survive a peer that removes pages from shared memory.
 *
 * A peer that holds the descriptor can truncate the file, or punch a hole into a file of huge pages
 * when no free huge page is left. The next access to a removed page raises SIGBUS on the accessing
 * thread. Accesses to guarded mappings survive this signal: the handler replaces the page with an
 * empty one, records the fault in the owner's `struct vublk_fault`, and signals the record's
 * eventfd. Data that was read from such a page is worthless, so the owner must check the record
 * before it acts on the data.
 *
 * The handler passes every other SIGBUS to the handler that was installed before it.
 */
#include "util/atomic.h"

#include <vublk/error.h>

#include <stdbool.h>
#include <stdint.h>

/* The kinds of memory that can lose a page. */
enum vublk_fault_kind {
	VUBLK_FAULT_MEMORY = 1,    /* a region of guest memory */
	VUBLK_FAULT_INFLIGHT = 2,  /* the in-flight area */
	VUBLK_FAULT_DIRTY_LOG = 4, /* the dirty log */
	VUBLK_FAULT_MIRROR_STATE = 8, /* the state file of a mirror */
};

/* The record of one owner. It must outlive the owner's guarded mappings. */
struct vublk_fault {
	unsigned kinds;    /* bits of vublk_fault_kind; any thread, atomic */
	uintptr_t address; /* the first address that faulted; any thread, atomic */
	int fd;            /* an eventfd, signalled at the first fault; -1: there is none */
};

/* Returns whether a page was lost. Costs one relaxed load. */
static inline bool vublk_fault_happened(const struct vublk_fault *fault)
{
	return vublk_load_relaxed(&fault->kinds);
}

/*
 * Returns which kind of memory has lost a page, as words for a message, such as "the guest's
 * memory". If several kinds have lost one, returns the first of them in the order of
 * vublk_fault_kind. A page must have been lost.
 */
const char *vublk_fault_name(const struct vublk_fault *fault);

/*
 * Guards a mapping of `fd`. At a fault, the handler replaces one page of the file's page size or,
 * if the process has too many mappings for that, the whole mapping. The first call installs the
 * SIGBUS handler, unless the program handles SIGBUS itself (<vublk/sigbus.h>). Error: ENOMEM.
 */
int vublk_fault_guard(void *address, uint64_t bytes, int fd, struct vublk_fault *fault,
		      enum vublk_fault_kind kind, struct vublk_error *error);
/*
 * Ends the guard of a mapping. Must be called before unmapping. A no-op for a mapping that is not
 * guarded.
 */
void vublk_fault_unguard(const void *address);

#endif
