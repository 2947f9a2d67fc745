/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_POLICY_H
#define VUBLK_PLANE_POLICY_H

/*
 * The requests that the plane answers itself, because the disk that the driver sees differs from
 * the back-end's: it may be read-only, lack features, or have another serial. A driver that
 * respects the properties that it sees sends no request that the plane refuses. The plane also
 * fails a flush of the driver after one of the device's own flushes has failed.
 */
#include "virtio/blk-format.h"

#include <stdbool.h>
#include <stdint.h>

struct vublk_plane;
struct vublk_plane_slot;

struct vublk_plane_policy {
	bool is_read_only;        /* writes get IOERR */
	uint64_t hidden_features; /* a discard, write zeroes or secure erase gets UNSUPP if its
				     feature is in this set */
	char serial[VUBLK_BLK_ID_BYTES + 1]; /* the answer to GET_ID; empty: the back-end answers */
};

/* Copies the policy, which applies to the requests that are taken later. */
void vublk_plane_set_policy(struct vublk_plane *plane, const struct vublk_plane_policy *policy);
/*
 * Returns the status with which a parsed request ends, or VUBLK_PLANE_NO_STATUS if the back-end has
 * to execute the request. `status` is the parser's result, in the same form. Called while
 * VUBLK_PLANE_HOOK_POLICY is set.
 */
uint8_t vublk_plane_apply_policy(struct vublk_plane *plane, struct vublk_plane_slot *slot,
				 uint8_t status);
/*
 * Makes the driver's next flush fail. Called when the back-end has failed a flush that the driver
 * does not know of. After a failed flush, a back-end may drop the writes that it could not make
 * stable, and its next flush may succeed without them. Then the driver would not learn of the loss.
 */
void vublk_plane_fail_next_flush(struct vublk_plane *plane);
/*
 * Returns the status with which a flush of the driver has to fail, and calls ops->flush_failed().
 * Called while VUBLK_PLANE_HOOK_FAIL_FLUSH is set, which this function clears.
 */
uint8_t vublk_plane_fail_flush(struct vublk_plane *plane);
/*
 * Fails those flushes of the driver that were taken and are not submitted. Called when none of them
 * may succeed. Returns their number. If it is not 0, the caller must call vublk_plane_sort_held().
 */
unsigned vublk_plane_fail_held_flushes(struct vublk_plane *plane);
/* Writes the disk's identifier to the buffers of a GET_ID, as far as they have room. */
void vublk_plane_write_id(struct vublk_plane *plane, const struct vublk_plane_slot *slot,
			  const char id[VUBLK_BLK_ID_BYTES]);

#endif
