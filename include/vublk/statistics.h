/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_STATISTICS_H
#define VUBLK_STATISTICS_H

/*
 * Counters of requests, per queue and kind. Back-ends (<vublk/backend.h>) and devices have such
 * counters. Nothing is counted before counting is switched on.
 *
 * Unless a function says otherwise:
 * States: any.
 * Threads: any.
 */

#include <vublk/error.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

struct vublk_bus;
struct vublk_device;

enum vublk_request_kind {
	VUBLK_REQUEST_READ,
	VUBLK_REQUEST_WRITE,
	VUBLK_REQUEST_FLUSH,
	VUBLK_REQUEST_DISCARD,
	VUBLK_REQUEST_WRITE_ZEROES,
	VUBLK_REQUEST_OTHER, /* of any other type, such as the request for the serial */
	VUBLK_REQUEST_NUM_KINDS,
};

/*
 * Returns the name of a kind, for example "read", as a static string, or NULL if there is no such
 * kind.
 */
const char *vublk_request_kind_name(enum vublk_request_kind kind);

#define VUBLK_LATENCY_BUCKETS 288

/*
 * Counters of the requests of one queue and kind, over all clients and over the whole time that
 * counting was on. A request that has no header or breaks the ring is not counted.
 */
struct vublk_request_stats {
	uint64_t count;     /* completed requests, whatever their result */
	uint64_t errors;    /* how many of these failed or were refused */
	uint64_t bytes;     /* bytes of data of those that succeeded */
	uint64_t in_flight; /* requests that were taken from the ring, but are not complete */
	uint64_t total_ns;  /* the sum of the times from taking a request to its completion */
	uint64_t max_ns;    /* the longest of these times */
	/*
	 * latency[i]: how many requests took less than vublk_latency_limit(i), but not less than
	 * vublk_latency_limit(i - 1).
	 */
	uint64_t latency[VUBLK_LATENCY_BUCKETS];
};

/*
 * Returns the upper limit of bucket `bucket` of vublk_request_stats.latency, in nanoseconds;
 * UINT64_MAX for the last bucket, which has no limit.
 * Errors: none.
 */
uint64_t vublk_latency_limit(unsigned bucket);

/* --- the counters of a device ----------------------------------------------------------------- */

/*
 * Returns whether requests pass through the device (<vublk/shadow.h>). If they do not, the device
 * cannot count them. The result can change when the device is realized, and when the path of
 * requests is exchanged.
 * Threads: the device's thread. For the device of a bus, that is the thread that calls
 * vublk_bus_process(), between two calls.
 */
bool vublk_device_sees_requests(const struct vublk_device *device);

/*
 * These functions start (`on` true) or stop counting requests, and set the property `statistics`
 * accordingly. The counters keep their values. Counting can be on while no requests pass through
 * the device, but then nothing is counted. A request is counted if it begins while counting is on.
 * Errors:
 *   ENOMEM  no memory for the counters
 * Threads: the device's thread. For the device of a bus, that is the thread that calls
 * vublk_bus_process(), between two calls.
 */
int vublk_device_set_statistics(struct vublk_device *device, bool on, struct vublk_error *error);
int vublk_bus_set_statistics(struct vublk_bus *bus, bool on, struct vublk_error *error);

/*
 * Returns whether requests are counted, or would be if they passed through the device.
 * Errors: none.
 */
bool vublk_device_has_statistics(const struct vublk_device *device);

/*
 * Fills `stats` with the counters of the requests of kind `kind` on queue `queue`. The counters are
 * 0 if no request was ever counted. `stats_bytes` is sizeof(struct vublk_request_stats). Each
 * counter is exact, but while requests are executed, one counter may include a request that another
 * counter does not include yet. On failure *stats is untouched.
 * Errors:
 *   EINVAL  `queue` is not less than VUBLK_MAX_QUEUES, or there is no such kind
 */
int vublk_device_get_stats(const struct vublk_device *device, unsigned queue,
			   enum vublk_request_kind kind, struct vublk_request_stats *stats,
			   size_t stats_bytes);

/* --- the copies of unflushed=replay ------------------------------------------------------------ */

/*
 * The copies of completed writes that a device with unflushed=replay keeps, and how many of them it
 * has written to later back-ends. Passed with its size; see <vublk/version.h>.
 */
struct vublk_replay_info {
	bool is_on;          /* the device keeps copies; otherwise all members are 0 */
	bool is_replaying;   /* the copies are being written; requests wait until all are written */
	uint64_t kept_bytes; /* the memory for the current copies and their headers */
	uint64_t max_bytes;  /* the limit of `kept_bytes` (property replay-mib) */
	uint64_t replays;    /* how many times a back-end has executed the copies */
	uint64_t last_writes, last_bytes;   /* the number of writes in the last replay, and the
					       bytes of their data */
	uint64_t total_writes, total_bytes; /* the same for all replays together */
	/*
	 * Why the last replay failed: one sentence; empty: none has failed since the last success.
	 */
	char failure[VUBLK_ERROR_TEXT_BYTES];
};

/*
 * Fills `info` with the current state of the copies. `info_bytes` is sizeof(struct
 * vublk_replay_info). May wait for the library's internal threads, but not for a back-end.
 * Errors: none.
 * Threads: the device's thread. For the device of a bus, that is the thread that calls
 * vublk_bus_process(), between two calls.
 */
void vublk_device_get_replay(const struct vublk_device *device, struct vublk_replay_info *info,
			     size_t info_bytes);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
