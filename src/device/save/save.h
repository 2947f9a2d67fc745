/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_DEVICE_SAVE_SAVE_H
#define VUBLK_DEVICE_SAVE_SAVE_H

/*
 * The saved state of a device, and the codec of the state (stream.c), which does not access a
 * device. save.c copies the state from and to a device.
 */
#include "device/device.h"

/*
 * The version of the format that this program writes. A reader accepts every minor version of its
 * own and of older major versions, unless the stream has an unknown section that must not be
 * skipped. A newer minor version adds only sections, and fields at the end of sections.
 */
#define VUBLK_SAVE_MAJOR 1
#define VUBLK_SAVE_MINOR 0

/*
 * The largest in-flight area that can be saved. An area for 256 queues of 1024 entries takes about
 * 4 MiB.
 */
#define VUBLK_SAVE_MAX_AREA_BYTES (UINT64_C(64) << 20)

/* Where the rings resume. The numbers are part of the stream. */
enum vublk_save_rings {
	VUBLK_SAVE_RINGS_KNOWN = 0,    /* at their bases; no request is in flight */
	VUBLK_SAVE_RINGS_INFLIGHT = 1, /* at their bases; the in-flight area has requests that a
					  back-end has begun */
	VUBLK_SAVE_RINGS_LOST = 2,     /* at their used indices: the back-end was lost while it had
					  the rings; the in-flight area, if any, has the requests
					  that the back-end had begun */
	VUBLK_SAVE_RINGS_NEVER = 3,    /* the driver has to reset the device first */
	VUBLK_SAVE_NUM_RINGS,
};

struct vublk_save_state {
	uint16_t num_queues, queue_size;
	uint8_t status;
	enum vublk_save_rings rings;
	bool has_features;
	uint64_t features; /* those that the driver has accepted */
	uint8_t early_kick; /* enum vublk_device_early_kick */
	struct vublk_device_queue queues[VUBLK_MAX_QUEUES]; /* without descriptors; size 0: not set
							       up */

	bool has_config;
	uint32_t config_generation;
	uint8_t config[VUBLK_BLK_CONFIG_BYTES];

	const uint8_t *area; /* the in-flight area of split rings, borrowed; NULL: there is no
				area */
	uint64_t area_bytes;
	uint16_t area_num_queues, area_queue_size; /* the numbers of queues and entries for which
						      the area was made */
};

/* Writes `state` to a new stream, which the caller frees with free(). Error: ENOMEM. */
int vublk_save_encode(const struct vublk_save_state *state, void **stream, size_t *stream_bytes,
		      struct vublk_error *error);

/*
 * Reads a stream, which may be from an untrusted source, into `state`. Afterwards state->area
 * points into `stream`. Error: EINVAL if the stream is damaged or contradicts itself, ENOTSUP if it
 * has a newer major version, a section that must not be skipped, or an unknown layout of the area.
 * After a failure `state` is unspecified.
 */
int vublk_save_decode(const void *stream, size_t stream_bytes, struct vublk_save_state *state,
		      struct vublk_error *error);

#endif
