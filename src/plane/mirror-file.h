/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_MIRROR_FILE_H
#define VUBLK_PLANE_MIRROR_FILE_H

/* The file of a mirror's state (mirror-state.h): functions that create, lock, check and sync it. */
#include "plane/mirror-state.h"

#include <sys/types.h>

#define VUBLK_MIRROR_FILE_PATH_BYTES 4096
/* The size of both copies of the header. The bitmap follows them. */
#define VUBLK_MIRROR_FILE_HEADERS_BYTES 8192u

struct vublk_mirror_file {
	int fd;
	dev_t device; /* device number and inode identify the file */
	ino_t inode;
	char path[VUBLK_MIRROR_FILE_PATH_BYTES]; /* absolute */
};

/* The contents of a header, in host byte order. */
struct vublk_mirror_header {
	uint64_t sequence; /* grows with each header that is written */
	uint64_t generation, region_bytes;
	uint32_t phase, authoritative;
	struct vublk_mirror_state_disk disks[2];
};

/*
 * Stores `path` in `absolute`, which has `room` bytes. If `path` is relative, puts the working
 * directory before it. Errors: ENAMETOOLONG, and those of getcwd(3).
 */
int vublk_mirror_file_absolute(const char *path, char *absolute, size_t room,
			       struct vublk_error *error);

/*
 * Opens or creates the file at `path`, and locks it; see vublk_mirror_state_open(). Reads the
 * header. If one of the header's copies is damaged or older, writes both again. *was_repaired tells
 * whether a copy was damaged.
 */
int vublk_mirror_file_open(struct vublk_mirror_file *file, const char *path,
			   struct vublk_mirror_header *header, bool *was_repaired,
			   struct vublk_error *error);
/* Closes and unlocks the file. Idempotent. */
void vublk_mirror_file_close(struct vublk_mirror_file *file);

/*
 * Increments header->sequence, and writes both copies of the header. The first one is stable before
 * the second one is written. On failure the storage may have the old or the new header.
 */
int vublk_mirror_file_write(struct vublk_mirror_file *file, struct vublk_mirror_header *header,
			    struct vublk_error *error);
/*
 * Makes the file empty when its header could not be written, so that the file is refused at the
 * next start. On failure the storage may have the old contents.
 */
int vublk_mirror_file_invalidate(struct vublk_mirror_file *file);

/*
 * Makes the file's contents stable. Fails if the file has fewer than `bytes` bytes, or is no longer
 * at its path, where the next process will look for it.
 */
int vublk_mirror_file_sync(const struct vublk_mirror_file *file, uint64_t bytes,
			   struct vublk_error *error);

/* Returns how many regions the last mirror in the header has; 0 if there has been no mirror. */
uint64_t vublk_mirror_header_num_regions(const struct vublk_mirror_header *header);
/* Returns the size of the bitmap for this number of regions, which is a multiple of 4096. */
uint64_t vublk_mirror_bitmap_bytes(uint64_t num_regions);

#endif
