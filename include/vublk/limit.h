/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_LIMIT_H
#define VUBLK_LIMIT_H

/*
 * Limits of a device: how many requests and bytes per second it passes to the back-end. The limits
 * can be set, changed and removed at any time, while the disk is in use.
 *
 * The device holds the requests that have to wait, and passes them to the back-end later. Queues
 * with waiting requests take turns. Under a limit, each request uses up time: 10 ms at 100 requests
 * per second. A request passes when the time of all earlier requests has elapsed. Its own time does
 * not delay it: even a request that is larger than the burst passes, but later requests wait for
 * longer. A request that is repeated after the loss of a back-end does not count again.
 *
 * A stop of the rings does not wait for a limit: the waiting requests pass immediately, and later
 * requests wait for longer.
 *
 * The device sees requests only on shadow rings. While there is a limit, requests that would take
 * the direct path take shadow rings (<vublk/shadow.h>), if that is possible. Properties of the
 * device set the initial limits: iops, iops-read, iops-write, bps, bps-read, bps-write and
 * burst-ms.
 */

#include <vublk/bus.h>
#include <vublk/device.h>
#include <vublk/error.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/*
 * 0 means no limit. A request waits until all limits that apply to it let it pass. Requests other
 * than reads and writes (flush, discard, write zeroes, secure erase, the request for the serial)
 * count as writes of 0 bytes.
 */
struct vublk_limits {
	uint64_t iops;       /* requests per second */
	uint64_t iops_read;  /* reads per second */
	uint64_t iops_write; /* all other requests per second */
	uint64_t bps;        /* bytes of data per second */
	uint64_t bps_read;   /* bytes of reads per second */
	uint64_t bps_write;  /* bytes of writes per second */
	/*
	 * How much unused time is saved, in milliseconds: after the driver has been idle, as many
	 * requests as fit in this time pass immediately. 1 to 3600000; 0: the default, 100.
	 */
	uint64_t burst_ms;
};

/*
 * Replaces the limits of a device. If all limits are 0, nothing is limited, and the waiting
 * requests pass. Limits that differ from the current ones start afresh: neither earlier requests
 * nor unused time count. vublk_device_get_shadow() says whether requests pass through the device
 * now.
 *
 * `limits` is borrowed during the call; `limits_bytes` is sizeof(struct vublk_limits).
 * Returns: 0, or a negative errno; in that case nothing has changed.
 * Errors:
 *   EINVAL  a rate is above 10^15, burst_ms is above 3600000, or the struct has a member that
 *           this library does not know
 * States: any.
 * Threads: the one that calls vublk_device_process(), between two calls.
 */
int vublk_device_set_limits(struct vublk_device *device, const struct vublk_limits *limits,
			    size_t limits_bytes, struct vublk_error *error);

/*
 * Fills `limits` with the current limits; burst_ms is never 0. `limits_bytes` is sizeof(struct
 * vublk_limits).
 * Errors: none.
 * States: any.
 * Threads: the one that calls vublk_device_process(), between two calls.
 */
void vublk_device_get_limits(const struct vublk_device *device, struct vublk_limits *limits,
			     size_t limits_bytes);

/*
 * Returns the number of requests that a limit is holding back.
 * Errors: none.
 * States: any.
 * Threads: the one that calls vublk_device_process(), between two calls.
 */
unsigned vublk_device_count_limited(const struct vublk_device *device);

/*
 * Sets the limits of the device that a bus presents, as vublk_device_set_limits() does.
 *
 * `limits` is borrowed during the call; `limits_bytes` is sizeof(struct vublk_limits).
 * Returns: 0, or a negative errno; in that case nothing has changed.
 * Errors: those of vublk_device_set_limits().
 * States: any.
 * Threads: the one that calls vublk_bus_process(), between two calls.
 */
int vublk_bus_set_limits(struct vublk_bus *bus, const struct vublk_limits *limits,
			 size_t limits_bytes, struct vublk_error *error);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
