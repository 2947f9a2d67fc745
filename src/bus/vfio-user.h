/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BUS_VFIO_USER_H
#define VUBLK_BUS_VFIO_USER_H

/*
 * The vfio-user bus: a virtio-blk PCI device served on a Unix socket, for VMMs with a
 * vfio-user client. The guest's memory and the eventfds of its interrupts come over the
 * socket and go on to the back-end; requests never pass here, but each of the driver's
 * kicks is a message.
 *
 *   new -> set the device's properties -> start ... ready() -> clients come and go -> free
 *
 * One client at a time; the next is accepted when the device is reset after the one
 * before. One thread: the one that calls vublk_vfio_user_process(), from which every
 * callback comes. No call blocks.
 */

#include "bus/virtio-pci.h"

#include <vublk/device.h>
#include <vublk/error.h>

struct vublk_vfio_user;

struct vublk_vfio_user_handlers {
	/*
	 * The end of vublk_vfio_user_start(): error NULL: clients may connect; else the
	 * device's realize failed, or the socket cannot be listened at, and it may be
	 * started again. May be NULL.
	 */
	void (*ready)(void *opaque, const struct vublk_error *error);
	/* The back-end will not come back; clients are served all the same. May be NULL. */
	void (*gave_up)(void *opaque, const struct vublk_error *error);
	void *opaque;
	struct vublk_log log;
};

/* A device without properties yet. `path`, `options` and `handlers` are copied. */
int vublk_vfio_user_new(const char *path, const struct vublk_virtio_pci_options *options,
			const struct vublk_vfio_user_handlers *handlers,
			struct vublk_vfio_user **bus, struct vublk_error *error);

/* At any moment, and at once; not from a callback. NULL is nothing. */
void vublk_vfio_user_free(struct vublk_vfio_user *bus);

/* For its properties, before the start, and for what there is to know of it. */
struct vublk_device *vublk_vfio_user_device(struct vublk_vfio_user *bus);

/* Realizes the device, then listens. EBUSY: it has been started; else as realize fails. */
int vublk_vfio_user_start(struct vublk_vfio_user *bus, struct vublk_error *error);

/* Polls readable when process() has something to do. */
int vublk_vfio_user_fd(const struct vublk_vfio_user *bus);
/* 0, or a negative errno of the loop itself. */
int vublk_vfio_user_process(struct vublk_vfio_user *bus);

#endif
