/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_DEVICE_SAVE_SAVE_H
#define VUBLK_DEVICE_SAVE_SAVE_H

/*
 * The saved state of a device: what is in it, and how it stands in a stream. The codec
 * (save-stream.c) changes no device; save.c takes the state from one and gives it to one.
 */
#include "device/device.h"

/*
 * The format that is written. A reader takes every minor version of its major one:
 * what a newer minor adds are sections that may be skipped, and fields at a section's end.
 */
#define VUBLK_SAVE_MAJOR 1
#define VUBLK_SAVE_MINOR 0

/* An in-flight area of 256 queues of 1024 entries has 8 MiB in either layout. */
#define VUBLK_SAVE_MAX_AREA_BYTES (UINT64_C(64) << 20)

/* Where the rings go on. The numbers are in the stream. */
enum vublk_save_rings {
	VUBLK_SAVE_RINGS_KNOWN = 0,    /* from their bases; nothing is outstanding but what is
					  available */
	VUBLK_SAVE_RINGS_INFLIGHT = 1, /* from their bases, and the area has requests that began */
	VUBLK_SAVE_RINGS_LOST = 2,     /* the back-end went with them: the used indices tell, and
					  the area if there is one */
	VUBLK_SAVE_RINGS_NEVER = 3,    /* the driver has to reset the device first */
	VUBLK_SAVE_NUM_RINGS,
};

struct vublk_save_state {
	uint16_t num_queues, queue_size;
	uint8_t status;
	enum vublk_save_rings rings;
	bool has_features;
	uint64_t features; /* that the driver accepted */
	uint8_t early_kick; /* enum vublk_device_early_kick */
	struct vublk_device_queue queues[VUBLK_MAX_QUEUES]; /* without descriptors; size 0: not set */

	bool has_config;
	uint32_t config_generation;
	uint8_t config[VUBLK_BLK_CONFIG_BYTES];

	const uint8_t *area; /* borrowed; NULL: none. Of split rings. */
	uint64_t area_bytes;
	uint16_t area_num_queues, area_queue_size; /* as the back-end was asked for it */
};

/* The stream of `state`, allocated: the caller's, with free(). */
int vublk_save_encode(const struct vublk_save_state *state, void **stream, size_t *stream_bytes,
		      struct vublk_error *error);

/*
 * Reads a stream, which may come from anybody: EINVAL and a sentence when it is damaged or
 * makes no sense in itself, ENOTSUP when it is newer than this program. `state` holds
 * pointers into `stream`, and is unspecified after a failure.
 */
int vublk_save_decode(const void *stream, size_t stream_bytes, struct vublk_save_state *state,
		      struct vublk_error *error);

#endif
