/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_SPLIT_CHAIN_H
#define VUBLK_VIRTIO_SPLIT_CHAIN_H

#include "virtio/device-ring.h"

/*
 * Reads the chain that begins at `head` (within the ring) into `chain`, whose iov and max_iov
 * are set. Returns 1, or -EBADMSG and a sentence: the chain breaks a rule, and only chain->head is
 * valid.
 */
int vublk_split_read_chain(struct vublk_device_ring *ring, const struct vublk_memory_map *map,
			   uint16_t head, struct vublk_chain *chain, struct vublk_error *error);

#endif
