/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_LAST_FLUSH_H
#define VUBLK_PLANE_LAST_FLUSH_H

/*
 * The flush before the device leaves a back-end on purpose. The caller must have called
 * vublk_plane_lose_side() when no request was outstanding, so the plane does not use the side. The
 * back-end must still run the rings.
 */
#include "plane/plane.h"

/*
 * Submits a flush. Returns the descriptor that becomes readable when there may be an answer. Error:
 * ENOENT if no flush is needed, because the back-end has no FLUSH (completed writes are stable
 * then) or no queue is in use.
 */
int vublk_plane_last_flush_begin(struct vublk_plane_side *side);
/*
 * Clears the descriptor and looks for the answer. Returns 1 if the flush has succeeded, and 0 if
 * there is no answer yet. Errors, with a sentence: EIO if it failed, EPROTO if the back-end broke
 * the ring.
 */
int vublk_plane_last_flush_end(struct vublk_plane_side *side, struct vublk_error *error);

#endif
