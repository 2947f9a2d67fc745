/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_MIRROR_FILE_H
#define VUBLK_PLANE_MIRROR_FILE_H

/* The file below mirror-state.h: how it is created, locked, checked and synced, and its header. */
#include "plane/mirror-state.h"

#include <sys/types.h>

#define VUBLK_MIRROR_FILE_PATH_BYTES 4096
/* The bitmap begins here; the headers are before it. */
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
 * Makes `path` absolute, with the working directory, and stores it in `absolute`, which has `room`
 * bytes.
 */
int vublk_mirror_file_absolute(const char *path, char *absolute, size_t room,
			       struct vublk_error *error);

/*
 * Opens or creates the file at `path`, and locks it; see vublk_mirror_state_open(). Reads the
 * header. If one of its copies is damaged or older, writes it again; if it was damaged,
 * *was_repaired is true.
 */
int vublk_mirror_file_open(struct vublk_mirror_file *file, const char *path,
			   struct vublk_mirror_header *header, bool *was_repaired,
			   struct vublk_error *error);
/* Closes and unlocks the file. Idempotent. */
void vublk_mirror_file_close(struct vublk_mirror_file *file);

/*
 * Increments header->sequence, and writes both copies of the header. Each is stable before the next
 * one is written. On failure the storage may have the old or the new header.
 */
int vublk_mirror_file_write(struct vublk_mirror_file *file, struct vublk_mirror_header *header,
			    struct vublk_error *error);
/*
 * Makes the file empty, so that it is refused at the next start. For a file whose header could not
 * be written. On failure the storage may have the old file.
 */
int vublk_mirror_file_invalidate(struct vublk_mirror_file *file);

/*
 * Makes the file's contents stable. Fails if the file has less than `bytes` bytes, or is not at its
 * path any more: then the next process would not find it.
 */
int vublk_mirror_file_sync(const struct vublk_mirror_file *file, uint64_t bytes,
			   struct vublk_error *error);

/* Returns how many regions the header's mirror has; 0 if the header has had no mirror. */
uint64_t vublk_mirror_header_num_regions(const struct vublk_mirror_header *header);
/* Returns how many bytes the bitmap of these regions has. A multiple of 4096. */
uint64_t vublk_mirror_bitmap_bytes(uint64_t num_regions);

#endif
