/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_RING_HANDOVER_H
#define VUBLK_VIRTIO_RING_HANDOVER_H

/*
 * Hands one end of a ring over to another process while the ring's other end runs.
 *
 * Key idea: the new process initializes its end without writing to the shared memory, and then
 * reads the private fields that the old process has sent. So the other end does not notice the
 * change, and the old process can continue if the new one fails.
 */
#include "util/sections.h"
#include "virtio/device-ring.h"
#include "virtio/driver-ring.h"

/*
 * Like the init functions of virtio/ring.h, but these do not write to the shared memory. The
 * functions below then read the private fields. Errors: ENOMEM, EINVAL.
 */
int vublk_driver_ring_adopt(struct vublk_driver_ring *ring, const struct vublk_split_ring *memory,
			    unsigned size, uint64_t features, struct vublk_error *error);
int vublk_device_ring_adopt(struct vublk_device_ring *ring, const struct vublk_split_ring *memory,
			    unsigned size, uint64_t features, struct vublk_error *error);

/*
 * Writes or reads the private fields of a driver end. All chains that were added must have been
 * published. After reading, the caller has to call vublk_driver_ring_check().
 */
void vublk_driver_ring_fields(struct vublk_driver_ring *ring, struct vublk_fields *fields);
/*
 * Checks that each descriptor is either free or belongs to one chain, and that the indices agree
 * with the chains. Error: EINVAL.
 */
int vublk_driver_ring_check(const struct vublk_driver_ring *ring, struct vublk_error *error);

/*
 * Writes or reads the private fields of a device end, except its taken chains, for which there is
 * vublk_device_ring_adopt_chain(). All completions must have been published.
 */
void vublk_device_ring_fields(struct vublk_device_ring *ring, struct vublk_fields *fields);
/*
 * Records that the chain at `head` was taken and is not complete. Error: EPROTO if `head` is out of
 * range, or the chain is recorded already.
 */
int vublk_device_ring_adopt_chain(struct vublk_device_ring *ring, uint16_t head,
				  struct vublk_error *error);

#endif
