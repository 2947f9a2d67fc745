/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_RING_RIG_H
#define VUBLK_TESTS_RING_RIG_H

/*
 * The driver's end and the device's end of one ring, and memory for data that both ends share. The
 * driver has one mapping of the data memory. For the device, this memory consists of several
 * regions, whose guest addresses are adjacent but whose host addresses are not. Each part of the
 * ring is an allocation of exactly the part's size, so that a sanitizer detects an access outside
 * of the part.
 */

#include "virtio/device-ring.h"
#include "virtio/driver-ring.h"

#include <stdbool.h>
#include <stdint.h>

#define RIG_GUEST_BASE UINT64_C(0x7fff0000)
#define RIG_MAX_REGIONS 64

struct rig_config {
	unsigned size;
	uint16_t base;
	uint64_t features;
	uint64_t data_bytes; /* rounded up to whole pages */
	unsigned num_regions;
	/*
	 * The device uses the driver's mapping. ThreadSanitizer compares addresses, so it would
	 * miss a race on one byte through two mappings.
	 */
	bool one_mapping;
};

struct ring_rig {
	struct rig_config config;
	struct vublk_split_ring memory;
	struct vublk_driver_ring driver;
	struct vublk_device_ring device;
	int fd;
	char *data; /* the driver's mapping, which begins at RIG_GUEST_BASE */
	uint64_t data_bytes;
	struct vublk_memory_map map;
	struct vublk_memory_map_region regions[RIG_MAX_REGIONS];
};

/* Makes the rig. A failure ends the case. */
void rig_init(struct ring_rig *rig, const struct rig_config *config);
void rig_deinit(struct ring_rig *rig);

/* Returns the driver's pointer to a guest address. */
static inline void *rig_data(struct ring_rig *rig, uint64_t addr)
{
	return rig->data + (addr - RIG_GUEST_BASE);
}

/* A small random number generator. The same seed gives the same numbers on any machine. */
struct rig_random {
	uint64_t state;
};

uint64_t rig_random(struct rig_random *random);
/* Returns a number from 0 to bound - 1. */
unsigned rig_random_below(struct rig_random *random, unsigned bound);

#endif
