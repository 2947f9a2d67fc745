/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_DEVICE_UPGRADE_UPGRADE_H
#define VUBLK_DEVICE_UPGRADE_UPGRADE_H

/*
 * Hands a device to another process (give.c), or takes over the device of another process (take.c),
 * even while the rings run. The back-end and the driver do not notice. A device that is handed over
 * keeps its back-end, its rings and its descriptors. In contrast, a saved device (save/) is paused,
 * and continues with another back-end.
 *
 * Key idea: a device is handed over at a quiet point, when no message, no start and no stop is
 * under way. So the state consists of what the driver has set up and what the back-end has been
 * given. Requests may be outstanding: on the direct path the device does not see them, and those of
 * the shadow rings are part of the state (shadow.c).
 */
#include "util/sections.h"

#include <vublk/device.h>

#include <sys/types.h>

/* --- the old process -------------------------------------------------------------------- */

/* Checks for obstacles that do not end by themselves. Error: EBUSY if there is one. */
int vublk_device_handover_check(const struct vublk_device *device, struct vublk_error *error);
/*
 * The first function is called when a quiet point is wanted. Until the second one is called, no
 * exchange of the request path begins, except for a switch or a dirty log, no mirror begins, and an
 * exchange that still drains is cancelled. The second function is called if the handover fails, and
 * also undoes vublk_device_handover_freeze().
 */
void vublk_device_handover_prepare(struct vublk_device *device);
void vublk_device_handover_cancel(struct vublk_device *device);
/*
 * Returns why the device cannot be handed over at this moment, as a static string, or NULL if it
 * can.
 */
const char *vublk_device_handover_obstacle(const struct vublk_device *device);
/*
 * Called when there is no obstacle. Stops the thread of the shadow rings between two rounds, with
 * its requests outstanding. Returns NULL if this is a quiet point, so that the device may be given.
 * Otherwise the thread continues to run. The function then returns the obstacle, as a static
 * string, and the caller tries again a little later.
 */
const char *vublk_device_handover_freeze(struct vublk_device *device);
/* Writes the sections of the device to `to`. The device must be at a quiet point. */
void vublk_device_give(struct vublk_device *device, struct vublk_sections_writer *to);
/*
 * Called when the device belongs to another process. When the device is then freed, the file of its
 * listening socket remains, so that nothing changes outside this process.
 */
void vublk_device_disown(struct vublk_device *device);

/* --- the new process -------------------------------------------------------------------- */

/*
 * The functions that read the sections of a device. The last entry has no name. The device must be
 * in state CREATED, with its properties set. Until vublk_device_take_begin(), the device belongs to
 * the other process, does nothing by itself, and can be freed as after vublk_device_disown().
 */
extern const struct vublk_section_type vublk_device_sections[];
/*
 * Gives the device the bus's descriptors of queue `index`, which are borrowed as in
 * vublk_device_set_queue(). An index that is too large is ignored.
 */
void vublk_device_take_notifiers(struct vublk_device *device, unsigned index, int kick_fd,
				 int call_fd);
/*
 * Called when all sections have been read. Checks that the sections agree, and makes the objects
 * that the properties require, unless they exist already. Error: EINVAL or ENOMEM.
 */
int vublk_device_take_end(struct vublk_device *device, struct vublk_error *error);
/*
 * Called when the device belongs to this process. Arms the device's timers and continues the search
 * for a back-end if there is none. If the rings run, signals all kick and call descriptors. Cannot
 * fail.
 */
void vublk_device_take_begin(struct vublk_device *device);

/* --- shadow.c: the shadow rings --------------------------------------------------------- */

/* If there is a plane, writes it and its side. The plane's thread must be parked. */
void vublk_device_give_shadow(struct vublk_device *device, struct vublk_sections_writer *to);
/*
 * These functions read the sections that vublk_device_give_shadow() writes. The sections of the
 * queues and of the memory must have been read before.
 */
int vublk_device_read_shadow(void *owner, struct vublk_section *from, struct vublk_error *error);
int vublk_device_read_side(void *owner, struct vublk_section *from, struct vublk_error *error);
int vublk_device_read_plane(void *owner, struct vublk_section *from, struct vublk_error *error);
/*
 * The first function is called when all sections have been read, and the second when this process
 * owns the device.
 */
int vublk_device_take_shadow_end(struct vublk_device *device, struct vublk_error *error);
void vublk_device_take_shadow_begin(struct vublk_device *device);
/* These functions write and read the counters of requests. */
void vublk_device_give_statistics(const struct vublk_device *device,
				  struct vublk_sections_writer *to);
int vublk_device_read_statistics(void *owner, struct vublk_section *from,
				 struct vublk_error *error);

#endif
