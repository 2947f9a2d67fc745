/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_HANDOVER_H
#define VUBLK_PLANE_HANDOVER_H

/*
 * These functions hand a plane to another process, with the requests that are outstanding. The
 * driver and the back-end do not notice.
 *
 * Key idea: a plane is handed over between two rounds, when each request is in one of a few states.
 * Everything that the other process needs is in the slots, in the private fields of the rings, and
 * in files that both processes map. Neither giving nor taking changes memory that a peer can see.
 * So the old process can continue until the new one begins, and also if the new one fails.
 *
 * The new process checks everything that it reads, as it would check a peer's input.
 */
#include "plane/plane.h"
#include "util/sections.h"

/* --- the old process -------------------------------------------------------------------- */

/* Returns why the plane cannot be handed over now, as a static string, or NULL if it can. */
const char *vublk_plane_handover_obstacle(const struct vublk_plane *plane);
/* Writes a side: the file descriptors of its memory and its eventfds, its features and its limits. */
void vublk_plane_side_give(struct vublk_plane_side *side, struct vublk_sections_writer *to);
/*
 * Writes the plane: the log of writes, the driver's rings, the requests and the side's rings. There
 * must be no obstacle.
 */
void vublk_plane_give(struct vublk_plane *plane, struct vublk_sections_writer *to);

/* --- the new process -------------------------------------------------------------------- */

/*
 * Reads the section that vublk_plane_side_give() has written. The other arguments are those of
 * vublk_plane_side_new() in the other process. Errors: ENOTSUP if the memory has the layout of
 * another version, EINVAL, and others.
 */
int vublk_plane_side_take(struct vublk_section *from, unsigned num_queues, unsigned size,
			  unsigned max_segments, bool has_own, struct vublk_plane_side **side,
			  struct vublk_error *error);
/*
 * Reads one of the sections that vublk_plane_give() has written. Before the first section, the
 * caller must set plane->side if the other plane had a side, and then call vublk_plane_adopt() if
 * the other plane had the driver's rings. Errors: EINVAL, ENOMEM and others.
 */
int vublk_plane_take_section(struct vublk_plane *plane, struct vublk_section *from,
			     struct vublk_error *error);
/*
 * Called after the last section. Checks that the sections agree, and rebuilds the ready lists and
 * the order of the writes. Then the plane can do its first round. Error: EINVAL.
 */
int vublk_plane_take_end(struct vublk_plane *plane, struct vublk_error *error);

#endif
