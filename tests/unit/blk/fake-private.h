/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_FAKE_PRIVATE_H
#define VUBLK_TESTS_FAKE_PRIVATE_H

/* The state that the files of the stand-in device share. */

#include "fake-device.h"

#include "virtio/memory-map.h"

#include <pthread.h>

#define FAKE_MAX_IOV 1024

struct fake_queue {
	struct vublk_device_queue queue;
	struct vublk_device_ring ring;
	struct iovec iov[FAKE_MAX_IOV];
	struct vublk_chain taken;
	unsigned kicks;
	pthread_t thread;
	int own_kick_fd; /* the thread's copy of the kick descriptor */
};


extern struct fake_queue fake_queues[FAKE_MAX_QUEUES];

/* Protects the following variables, the rings, and further variables of fake-device.c. */
extern pthread_mutex_t fake_lock;
extern struct vublk_memory_map_region fake_regions[VUBLK_MEMORY_MAX_REGIONS];
extern struct vublk_memory_map fake_map;
extern int fake_rings_fd; /* the file of the first region, which contains the rings */

#endif
