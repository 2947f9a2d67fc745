/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_MIRROR_PRIVATE_H
#define VUBLK_PLANE_MIRROR_PRIVATE_H

/* The struct of a mirror's state, shared by mirror-state.c and mirror-marks.c. */
#include "plane/mirror-file.h"
#include "util/fault.h"

#include <pthread.h>

/*
 * The marks are collected in batches. New marks enter the open batch. A sync closes the open batch,
 * and makes it and all earlier ones stable. The ticket of a mark is the number of its batch. The
 * numbers may wrap. An old ticket may then look unstable, so that a write waits for a sync that it
 * does not need.
 */
struct vublk_mirror_marks {
	/* constant while the marks are in use */
	uint64_t num_regions, region_bytes;
	char *mapping; /* the mapping of the whole file, guarded against SIGBUS (util/fault.h);
			  NULL: the marks are not in use */
	uint64_t mapping_bytes;
	struct vublk_fault fault;
	int event_fd;
	pthread_t thread;

	/* the owner's */
	uint8_t *bitmap; /* in the mapping; a bit that is 0 marks its region */
	uint64_t bitmap_bytes;
	uint8_t *recent, *older; /* bitmaps: regions that are clear, but still marked in the file */
	vublk_mirror_state_ticket *tickets; /* the ticket of each region's last mark */
	vublk_mirror_state_ticket open;     /* the batch of the next mark */
	bool has_new;                       /* the open batch has to be synced */
	uint64_t num_marked;

	/* protected by the lock */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	vublk_mirror_state_ticket requested, done; /* the last batch to sync, and the last batch
						      that the thread has tried to sync */
	bool must_stop;
	struct vublk_error failure; /* code 0: no sync has failed */

	vublk_mirror_state_ticket stable; /* atomic; the last batch that is stable */
	bool has_failed;                  /* atomic */
};

struct vublk_mirror_state {
	struct vublk_mirror_file file;
	struct vublk_mirror_header header;
	bool was_repaired;
	bool is_invalid; /* the header could not be written, so the file is no longer used */
	bool is_unsafe;  /* the file is invalid, and the storage may still have its old contents */
	struct vublk_mirror_marks marks;
};

/* --- mirror-marks.c ------------------------------------------------------------------------- */

/*
 * Maps the file and starts the thread. The file must have the size for the mirror in the header,
 * and its marks must be stable.
 */
int vublk_mirror_marks_begin(struct vublk_mirror_state *state, struct vublk_error *error);
/* Ends the thread and unmaps the file. Idempotent. */
void vublk_mirror_marks_end(struct vublk_mirror_state *state);

#endif
