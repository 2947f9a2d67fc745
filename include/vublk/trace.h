/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TRACE_H
#define VUBLK_TRACE_H

/*
 * A trace of a device: one record for each completed request, with the times at which the device
 * took it from the driver's ring, gave it to the back-end and completed it.
 *
 * Records wait in a ring buffer of fixed size until the program reads them. If the buffer is full,
 * records are dropped and counted; the driver's requests never wait for a reader. A trace that has
 * not been read for VUBLK_TRACE_LEASE_MS ends by itself.
 *
 * The device sees requests only on shadow rings. While there is a trace, requests that would take
 * the direct path take shadow rings (<vublk/shadow.h>), if that is possible. Without a trace, the
 * only cost per request is the test of a bit that other features share.
 */

#include <vublk/bus.h>
#include <vublk/device.h>
#include <vublk/error.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* The largest number of records that wait to be read. */
#define VUBLK_TRACE_RECORDS 16384
/* How long a trace continues after the last read. */
#define VUBLK_TRACE_LEASE_MS 10000

/*
 * A request that is complete. Times are on CLOCK_MONOTONIC, in nanoseconds. A malformed request
 * that the device refuses without knowing its type has no record.
 */
struct vublk_trace_record {
	uint64_t taken_ns;     /* when taken from the driver's ring; 0: before the trace */
	uint64_t submitted_ns; /* when last sent to the back-end; 0: never, or before the trace */
	uint64_t completed_ns;
	uint64_t sector;       /* of 512 bytes; the lowest if the request has several ranges */
	uint64_t bytes;        /* of data or of the ranges; 0: the request has neither */
	uint32_t type;         /* VIRTIO_BLK_T_... */
	uint16_t queue;
	uint8_t status;        /* VIRTIO_BLK_S_... */
};

struct vublk_trace_info {
	bool is_on;
	uint64_t number;  /* how many traces have begun, this one included */
	uint64_t dropped; /* records of this trace that were dropped */
};

/*
 * Begins a trace, and discards the unread records of an earlier trace. The records take about 1 MiB
 * of memory, which the device keeps until it is freed. vublk_device_get_shadow() says whether
 * requests pass through the device now.
 * Returns: 0, or a negative errno; in that case nothing has changed.
 * Errors:
 *   EBUSY   there is a trace, which was begun or read within VUBLK_TRACE_LEASE_MS
 *   ENOMEM  no memory
 * States: any.
 * Threads: the one that calls vublk_device_process(), between two calls.
 */
int vublk_device_start_trace(struct vublk_device *device, struct vublk_error *error);

/*
 * Ends the trace. Unread records remain readable. A no-op if there is no trace.
 * Errors: none.
 * States: any.
 * Threads: the one that calls vublk_device_process(), between two calls.
 */
void vublk_device_stop_trace(struct vublk_device *device);

/*
 * Reads the next record and fills `record` with it. `record_bytes` is sizeof(struct
 * vublk_trace_record). Never blocks.
 * Returns: 1: `record` is filled; 0: there is no record at the moment.
 * Errors: none.
 * States: any.
 * Threads: one at a time, which need not be the device's.
 */
int vublk_device_read_trace(const struct vublk_device *device, struct vublk_trace_record *record,
			    size_t record_bytes);

/*
 * Fills `info` with the state of the latest trace, or with zeroes if there was none. `info_bytes`
 * is sizeof(struct vublk_trace_info). Never blocks.
 * Errors: none.
 * States: any.
 * Threads: any.
 */
void vublk_device_get_trace_info(const struct vublk_device *device, struct vublk_trace_info *info,
				 size_t info_bytes);

/*
 * Begins a trace of the device that a bus presents, as vublk_device_start_trace() does.
 * Returns: 0, or a negative errno; in that case nothing has changed.
 * Errors: those of vublk_device_start_trace().
 * States: any.
 * Threads: the one that calls vublk_bus_process(), between two calls.
 */
int vublk_bus_start_trace(struct vublk_bus *bus, struct vublk_error *error);

/*
 * Ends the trace of the device that a bus presents, as vublk_device_stop_trace() does.
 * Errors: none.
 * States: any.
 * Threads: the one that calls vublk_bus_process(), between two calls.
 */
void vublk_bus_stop_trace(struct vublk_bus *bus);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
