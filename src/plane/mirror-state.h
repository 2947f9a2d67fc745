/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_MIRROR_STATE_H
#define VUBLK_PLANE_MIRROR_STATE_H

/*
 * The state file of a mirror tells the next process which of two disks is the authoritative one,
 * and in which regions the two may differ.
 *
 * Key idea: before a write is submitted to a back-end, its regions are marked in the file, and the
 * marks are made stable on the storage. When both back-ends have made the write stable, the marks
 * may be removed at any time. So a region in which the disks differ is always marked, no matter
 * whether the process, a back-end or the machine fails first.
 *
 * The file has a header and a bitmap. The header has two copies, each with a sequence number and a
 * CRC. A change writes one copy after the other and waits for the storage each time. So one copy is
 * intact whenever a write is interrupted. After a complete change, the loss of one copy does not
 * bring back an older header. In the bitmap, 0 means that the region is marked. So a page that the
 * file has lost, which reads as zeros, marks its regions.
 *
 * A write to a region that is not marked waits for one fdatasync() of the file, which is as slow as
 * a small synchronous write to its file system. All writes that arrive during this time share the
 * next fdatasync(). A write to a marked region does not wait. A region stays marked while it is in
 * use, because vublk_mirror_state_age() removes a mark only if the region was not written between
 * two calls. The marks need 4 bytes and 2 bits of memory per region.
 *
 * Threads: one at a time, except that any thread may call vublk_mirror_state_is_stable() and
 * vublk_mirror_state_has_failed() at any time. The functions that write the header block for a few
 * milliseconds or longer. The functions for marks do not block, unless their comment says so.
 */
#include "util/atomic.h"

#include <vublk/error.h>

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#define VUBLK_MIRROR_STATE_PATH_BYTES 256
#define VUBLK_MIRROR_STATE_SERIAL_BYTES 24
#define VUBLK_MIRROR_STATE_MAX_REGIONS (UINT64_C(1) << 26)

/*
 * The identity of a disk. If both disks of a mirror have serials, and these differ, a disk with a
 * serial is recognized by it. Otherwise a disk is recognized by its path.
 */
struct vublk_mirror_state_disk {
	char path[VUBLK_MIRROR_STATE_PATH_BYTES];     /* of the back-end's socket, absolute */
	char serial[VUBLK_MIRROR_STATE_SERIAL_BYTES]; /* as the back-end reports it; may be empty */
	uint64_t bytes;                               /* the size of the disk */
};

enum vublk_mirror_state_phase {
	VUBLK_MIRROR_STATE_NEW,       /* there has been no mirror */
	VUBLK_MIRROR_STATE_SINGLE,    /* only the authoritative disk is up to date */
	VUBLK_MIRROR_STATE_MIRRORING, /* the disks are the same, except in marked regions */
};

struct vublk_mirror_state_info {
	enum vublk_mirror_state_phase phase;
	unsigned authoritative; /* the index of the disk that is up to date */
	struct vublk_mirror_state_disk disks[2]; /* of the last mirror */
	uint64_t generation; /* grows whenever the phase or the authoritative disk changes */
	uint64_t region_bytes, num_regions; /* of the last mirror */
	bool was_repaired; /* one copy of the header was damaged when the file was opened */
};

/* Identifies a set of marks; see vublk_mirror_state_mark(). */
typedef uint32_t vublk_mirror_state_ticket;

struct vublk_mirror_state;

/*
 * Fills `disk`. If `path` is relative, stores it with the working directory before it. `serial` may
 * be NULL. Errors: ENAMETOOLONG if the path or the serial is too long, and those of getcwd(3).
 */
int vublk_mirror_state_disk_init(struct vublk_mirror_state_disk *disk, const char *path,
				 const char *serial, uint64_t bytes, struct vublk_error *error);

/* --- mirror-state.c: life and header ---------------------------------------------------------- */

/*
 * Opens the file at `path` and locks it. A missing file is created, with the phase NEW. Errors:
 * EBUSY if another process uses the file, EINVAL if the file is not a state file or is damaged,
 * ENOSPC and others of open(2).
 *
 * If the phase is MIRRORING, the previous process did not end its mirror. The caller must call
 * vublk_mirror_state_begin() or vublk_mirror_state_end() before it submits a write, because until
 * then writes cannot be marked.
 */
int vublk_mirror_state_open(const char *path, struct vublk_mirror_state **state,
			    struct vublk_error *error);
/*
 * Closes the file. If a mirror was begun and not ended, the phase is still MIRRORING when the file
 * is opened again. Calls vublk_mirror_state_make_safe(). NULL is a no-op.
 */
void vublk_mirror_state_close(struct vublk_mirror_state *state);
/*
 * Stops using the marks, as vublk_mirror_state_close() does, but keeps the file open and locked.
 * Afterwards vublk_mirror_state_begin() can resume the mirror. Does nothing without a mirror.
 */
void vublk_mirror_state_suspend(struct vublk_mirror_state *state);

void vublk_mirror_state_get_info(const struct vublk_mirror_state *state,
				 struct vublk_mirror_state_info *info);

/*
 * Checks that `disk` is the authoritative one; in the phase NEW, accepts any disk. Errors: ESTALE
 * if the disk is not up to date or not in the file, EIO if an earlier write of the header failed.
 */
int vublk_mirror_state_admit(const struct vublk_mirror_state *state,
			     const struct vublk_mirror_state_disk *disk, struct vublk_error *error);

/*
 * Begins to mirror `source`, which vublk_mirror_state_admit() must accept, to `target`. If the
 * phase is MIRRORING with the same disks, sizes and region size, the marks are those that the
 * previous process left, and *resumed is true. Otherwise all regions are marked. Reserves the space
 * for the bitmap, and starts the thread that syncs. `region_bytes` must be a power of two. Nothing
 * changes if the error is one of vublk_mirror_state_admit(), EBUSY (there is a mirror already), or
 * EINVAL because both paths are the same. After any other failure there is no mirror, as after
 * vublk_mirror_state_end().
 */
int vublk_mirror_state_begin(struct vublk_mirror_state *state,
			     const struct vublk_mirror_state_disk *source,
			     const struct vublk_mirror_state_disk *target, uint64_t region_bytes,
			     bool *resumed, struct vublk_error *error);
/*
 * Ends the mirror, so that only the authoritative disk is up to date. Must be called before the
 * first write that is not marked. Does nothing without a mirror. After a failure the file is empty
 * if that was possible, so that no process can start with the file. The authoritative disk may
 * still be used.
 */
int vublk_mirror_state_end(struct vublk_mirror_state *state, struct vublk_error *error);
/*
 * Ends the mirror, and makes the other disk the authoritative one. No write may be in flight, both
 * disks must be identical, and their data stable. Only after success may the caller write to the
 * other disk. After a failure the caller may continue with the current disk, and the file is as
 * after a failure of vublk_mirror_state_end(). Error: EINVAL if there is no mirror, and others.
 */
int vublk_mirror_state_commit_switch(struct vublk_mirror_state *state, struct vublk_error *error);

/*
 * Must be called repeatedly after a failure of vublk_mirror_state_end() or
 * vublk_mirror_state_commit_switch(). If the file could not be made empty, tries again, because the
 * next process would trust the file's marks, although later writes were not marked. Error: EIO if
 * this attempt fails, too. `state` NULL is a no-op.
 */
int vublk_mirror_state_make_safe(struct vublk_mirror_state *state, struct vublk_error *error);

/* --- mirror-marks.c: only between begin and end ----------------------------------------------- */

/*
 * Marks the regions of a write to `bytes` bytes at `offset` of the disk. The write may be submitted
 * as soon as vublk_mirror_state_is_stable() is true for the ticket. Until then, it has to wait, and
 * the caller must call vublk_mirror_state_start_sync() or vublk_mirror_state_sync(). One such call
 * is enough for many marks.
 */
vublk_mirror_state_ticket vublk_mirror_state_mark(struct vublk_mirror_state *state, uint64_t offset,
						  uint64_t bytes);
/*
 * Called when both disks have the same data in a region, both back-ends have made the data stable,
 * and no write to the region is in flight. The mark stays in the file until
 * vublk_mirror_state_age() removes it. Until then, a write that marks the region again needs no
 * sync.
 */
void vublk_mirror_state_clear(struct vublk_mirror_state *state, uint64_t region);
/*
 * Removes the marks of all regions that were clear at the previous call and have not been marked
 * since. Returns how many marks were removed. The storage gets the change later. Should be called
 * about once per second. The next vublk_mirror_state_start_sync() syncs even without new marks,
 * which checks that the file is intact.
 */
uint64_t vublk_mirror_state_age(struct vublk_mirror_state *state);
/*
 * Returns whether a region is marked in the file. Also returns true if the file has lost a page or
 * a sync has failed.
 */
bool vublk_mirror_state_is_marked(const struct vublk_mirror_state *state, uint64_t region);
/* Returns how many regions are marked in the file. */
uint64_t vublk_mirror_state_num_marked(const struct vublk_mirror_state *state);

/*
 * Makes all marks stable, and waits until they are. Returns the failure of this or an earlier sync:
 * the file was truncated or removed, or the storage has failed. A failure is final: no further
 * ticket becomes stable, and the caller must end the mirror.
 */
int vublk_mirror_state_sync(struct vublk_mirror_state *state, struct vublk_error *error);
/*
 * Like vublk_mirror_state_sync(), but does not wait for the thread that syncs. When a sync is done,
 * the eventfd of vublk_mirror_state_fd() becomes readable. If a sync is in progress, another one
 * follows. Does nothing if, since the last call, no mark was added and vublk_mirror_state_age() was
 * not called.
 */
void vublk_mirror_state_start_sync(struct vublk_mirror_state *state);
int vublk_mirror_state_fd(const struct vublk_mirror_state *state);
/* Clears the eventfd, and returns what vublk_mirror_state_sync() returns. Does not block. */
int vublk_mirror_state_take_result(struct vublk_mirror_state *state, struct vublk_error *error);

/* Returns whether all marks of the ticket are stable on the storage. */
bool vublk_mirror_state_is_stable(const struct vublk_mirror_state *state,
				  vublk_mirror_state_ticket ticket);
/* Returns whether a sync has failed. The check is cheap: one load. */
bool vublk_mirror_state_has_failed(const struct vublk_mirror_state *state);

#endif
