/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_LAST_FLUSH_H
#define VUBLK_PLANE_LAST_FLUSH_H

/*
 * The flush before the device leaves a back-end on purpose: the old back-end of a switch, or a
 * mirror's target. The plane must have stopped using the side while no request was outstanding
 * (vublk_plane_lose_side(), vublk_plane_mirror_end()). The back-end must still run the rings.
 */
#include "plane/plane.h"

/*
 * Submits a flush. Returns the descriptor that becomes readable when the flush may be complete.
 * Error: ENOENT if no flush is needed, because no queue is in use or because the back-end has no
 * FLUSH, which means that completed writes are stable.
 */
int vublk_plane_last_flush_begin(struct vublk_plane_side *side);
/*
 * Clears the descriptor that vublk_plane_last_flush_begin() has returned, and checks for the
 * completion. Returns 1 if the flush has succeeded, and 0 if it is not complete yet. Errors: EIO if
 * the flush failed, EPROTO if the back-end broke the ring.
 */
int vublk_plane_last_flush_end(struct vublk_plane_side *side, struct vublk_error *error);

#endif
