/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_DEVICE_SAVE_SAVE_H
#define VUBLK_DEVICE_SAVE_SAVE_H

/*
 * The saved state of a device, and the codec of this state (stream.c), which does not access a
 * device. save.c copies the state from and to a device.
 */
#include "device/device.h"

/*
 * The version of the format that is written. A reader accepts every minor version of its major
 * version: a newer minor version adds sections that may be skipped, and fields at the end of
 * sections.
 */
#define VUBLK_SAVE_MAJOR 1
#define VUBLK_SAVE_MINOR 0

/* An in-flight area for 256 queues of 1024 entries has about 4 MiB, with padding or without. */
#define VUBLK_SAVE_MAX_AREA_BYTES (UINT64_C(64) << 20)

/* Where the rings resume. The numbers are part of the stream. */
enum vublk_save_rings {
	VUBLK_SAVE_RINGS_KNOWN = 0,    /* at their bases; no request is in flight */
	VUBLK_SAVE_RINGS_INFLIGHT = 1, /* at their bases, and the area has requests that have begun */
	VUBLK_SAVE_RINGS_LOST = 2,     /* the back-end was lost while it had them: at their used
					  indices; an area, if any, has the begun requests */
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

	const uint8_t *area; /* borrowed; for split rings; NULL: there is no area */
	uint64_t area_bytes;
	uint16_t area_num_queues, area_queue_size; /* as they were in the request for the area */
};

/* Allocates the stream of `state`, which the caller frees with free(). */
int vublk_save_encode(const struct vublk_save_state *state, void **stream, size_t *stream_bytes,
		      struct vublk_error *error);

/*
 * Reads a stream from an untrusted source: EINVAL and a sentence if the stream is damaged or
 * contradicts itself, ENOTSUP if the stream is newer than this program. `state` has pointers into
 * `stream`, and is unspecified after a failure.
 */
int vublk_save_decode(const void *stream, size_t stream_bytes, struct vublk_save_state *state,
		      struct vublk_error *error);

#endif
