/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_MEMORY_H
#define VUBLK_MEMORY_H

#include <stdint.h>

/*
 * The memory in which rings and buffers live, as a device hands it to its
 * back-end: pieces of files that both sides map.
 */
struct vublk_memory_region {
	uint64_t guest_addr;  /* where the driver sees it; what descriptors hold */
	uint64_t size_bytes;  /* not 0 */
	int fd;               /* memfd, hugetlbfs or shared file; see who owns it at each call */
	uint64_t fd_offset;   /* where in the file it begins */
	uint64_t reserved[2]; /* 0, else EINVAL; the struct's size never changes */
};
/*
 * Neither the address nor the size nor the offset has to be a multiple of the page size: the
 * protocol does not ask for it. There may be back-ends that do, and they refuse such a region.
 */

/* The most regions that a device keeps; a back-end may offer fewer. */
#define VUBLK_MEMORY_MAX_REGIONS 509

/* What a bit of the dirty log stands for, whatever the host's pages are. */
#define VUBLK_DIRTY_PAGE_BYTES 4096

#endif
