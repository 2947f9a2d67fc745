/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_MEMORY_H
#define VUBLK_MEMORY_H

#include <stdint.h>

/*
 * A region of the memory that contains the rings and buffers. The region is a part of a file that
 * both the driver's side and the back-end map. Address, size and offset are in bytes and need not
 * be multiples of the page size, because the protocol does not require that. A back-end that
 * requires such multiples refuses other regions.
 */
struct vublk_memory_region {
	uint64_t guest_addr;  /* the address that the driver puts into descriptors */
	uint64_t size_bytes;  /* not 0 */
	int fd;               /* memfd, shared file or DAX device; vublk_device_set_memory()
				 duplicates it */
	uint64_t fd_offset;   /* where in the file the region begins */
	uint64_t reserved[2]; /* must be 0, otherwise EINVAL; the struct never changes */
};

/* The largest number of regions that a device keeps; a back-end may accept fewer. */
#define VUBLK_MEMORY_MAX_REGIONS 509

/* How many bytes one bit of the dirty log covers, even if the host has larger pages. */
#define VUBLK_DIRTY_PAGE_BYTES 4096

#endif
