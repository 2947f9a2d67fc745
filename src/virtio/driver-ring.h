/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_DRIVER_RING_H
#define VUBLK_VIRTIO_DRIVER_RING_H

#include "virtio/ring.h"

/* The fields are the ring's own; see virtio/ring.h for the calls. */
struct vublk_driver_ring {
	struct vublk_split_ring memory;
	unsigned size;
};

#endif
