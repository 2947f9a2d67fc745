/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_NOTICE_H
#define VUBLK_NOTICE_H

/*
 * Notices tell a program what happens to a disk, so that the program can react or inform an
 * operator. The log has the same events as sentences for a person; a program gets numbers here and
 * does not have to parse sentences.
 *
 * A device, a bus and a back-end have one handler each. A handler is optional, and does not change
 * what the library does.
 *
 * Unless a function says otherwise:
 * States: any.
 */

#include <vublk/statistics.h>

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

struct vublk_backend;
struct vublk_bus;
struct vublk_device;
struct vublk_limits;

/*
 * The kinds. "Client" means the VMM of a bus, or the front-end of a back-end. The parentheses say
 * which objects report the notice, and which members of struct vublk_notice it sets.
 */
enum vublk_notice_kind {
	/*
	 * A back-end is connected, the first or a later one (device, bus: back_end, size_bytes).
	 * Not reported if the device itself closed the connection and reconnects at the same path.
	 */
	VUBLK_NOTICE_CONNECTED,
	/* The back-end was lost (device, bus: reason). */
	VUBLK_NOTICE_LOST,
	/*
	 * The outage has ended: the rings run again, or no driver needs them (device, bus:
	 * outage_ms, requests). If the driver has to reset the device, VUBLK_NOTICE_NEEDS_RESET is
	 * reported instead.
	 */
	VUBLK_NOTICE_RECOVERED,
	/*
	 * No back-end can be used at the moment; the device tries again (device, bus: reason). A
	 * reason is not reported twice in a row.
	 */
	VUBLK_NOTICE_REFUSED,
	/* The device no longer looks for a back-end (device, bus: reason). */
	VUBLK_NOTICE_GAVE_UP,
	/* The size of the disk has changed (all: before_bytes, size_bytes). */
	VUBLK_NOTICE_RESIZED,
	/* A ring cannot continue, so the driver has to reset the device (device, bus: reason). */
	VUBLK_NOTICE_NEEDS_RESET,
	/* A client connected (bus, back-end: pid). */
	VUBLK_NOTICE_CLIENT_CONNECTED,
	/* The client disconnected; the next client can use the disk (bus, back-end: pid). */
	VUBLK_NOTICE_CLIENT_DISCONNECTED,
	/*
	 * A client, or a message of a client, was refused (bus, back-end: reason, pid). If the
	 * refusal closes the connection, VUBLK_NOTICE_CLIENT_DISCONNECTED follows.
	 */
	VUBLK_NOTICE_CLIENT_REFUSED,
	/*
	 * A request has been incomplete for longer than slow-request-ms (device, bus: queue,
	 * request, offset_bytes, bytes, waited_ms, requests). Reported only while requests pass
	 * through the device. One notice stands for all requests that have become slow since the
	 * device last checked, and describes the oldest of them.
	 */
	VUBLK_NOTICE_SLOW_REQUEST,
	/* The target of the mirror has received the whole disk (device, bus: back_end). */
	VUBLK_NOTICE_MIRROR_SYNCED,
	/* The mirror has failed; the disk is not affected (device, bus: back_end, reason). */
	VUBLK_NOTICE_MIRROR_ENDED,
	/* A mirror was requested, and the target accepts connections (device, bus: back_end). */
	VUBLK_NOTICE_MIRROR_STARTED,
	/*
	 * The mirror was ended by request, or by a switch to its target (device, bus: back_end,
	 * reason).
	 */
	VUBLK_NOTICE_MIRROR_STOPPED,
	/* A pause was requested (device, bus: requests). */
	VUBLK_NOTICE_PAUSING,
	/* The disk is paused: no request is outstanding (device, bus). */
	VUBLK_NOTICE_PAUSED,
	/* The pause was ended by request, whether or not it was complete (device, bus). */
	VUBLK_NOTICE_RESUMED,
	/* The limits have changed (device, bus: limits, limits_bytes). */
	VUBLK_NOTICE_LIMITS_CHANGED,
	/* Requests now pass through shadow rings (device, bus: reason, words joined by commas). */
	VUBLK_NOTICE_SHADOW_ON,
	/* Requests now take the direct path (device, bus). */
	VUBLK_NOTICE_SHADOW_OFF,
	/* The path of requests should change, but stays as it is (device, bus: reason). */
	VUBLK_NOTICE_SHADOW_REFUSED,
	/* A switch to another back-end has begun (device, bus: back_end). */
	VUBLK_NOTICE_SWITCH_STARTED,
	/* The switch has succeeded (device, bus: back_end). */
	VUBLK_NOTICE_SWITCHED,
	/* The switch has failed (device, bus: back_end, which is its target; reason). */
	VUBLK_NOTICE_SWITCH_FAILED,
	/* A trace has begun (device, bus). */
	VUBLK_NOTICE_TRACE_STARTED,
	/* The trace has ended (device, bus: reason). */
	VUBLK_NOTICE_TRACE_ENDED,
	/*
	 * The next back-end has executed the copies of completed writes that the previous one had
	 * not flushed (device, bus: requests, bytes). Only with unflushed=replay. Follows
	 * VUBLK_NOTICE_RECOVERED, because the rings have to run first. Other requests wait until
	 * this notice.
	 */
	VUBLK_NOTICE_REPLAYED,
	/*
	 * The back-end failed to execute the copies. Until another attempt succeeds, requests wait
	 * and flushes fail (device, bus: reason).
	 */
	VUBLK_NOTICE_REPLAY_FAILED,
	/* A drain was requested: the back-end takes no more requests (back-end). */
	VUBLK_NOTICE_DRAIN_STARTED,
	/* All requests are complete, the storage is flushed, and the service ends (back-end). */
	VUBLK_NOTICE_DRAINED,
	/* The drain has failed, and the disk is served as before (back-end: reason). */
	VUBLK_NOTICE_DRAIN_FAILED,
	VUBLK_NOTICE_NUM_KINDS,
};

/*
 * Returns the name of a kind, for example "client_connected", as a static string, or NULL if there
 * is no such kind.
 * Threads: any.
 */
const char *vublk_notice_name(enum vublk_notice_kind kind);

/* One notice. Members that its kind does not set are 0. */
struct vublk_notice {
	enum vublk_notice_kind kind;
	const char *reason;    /* one sentence; SHADOW_ON: words; valid during the call */
	int64_t pid;           /* the process that connected; 0: unknown */
	uint64_t size_bytes;   /* of the disk */
	uint64_t before_bytes; /* the size before the change */
	uint64_t outage_ms;    /* the length of the outage */
	/*
	 * In VUBLK_NOTICE_RECOVERED: how many of the requests that the driver had made available
	 * were incomplete when the next back-end was connected. In VUBLK_NOTICE_SLOW_REQUEST: how
	 * many requests have become slow. In VUBLK_NOTICE_PAUSING: how many requests are not
	 * complete. In VUBLK_NOTICE_REPLAYED: the number of writes.
	 */
	uint64_t requests;
	uint32_t queue;                  /* of the request */
	enum vublk_request_kind request;
	uint64_t offset_bytes;           /* on the disk; 0 if the request has no range */
	uint64_t bytes;                  /* the length of the request's data or ranges, or of all
					    writes that were replayed */
	uint64_t waited_ms;              /* since the device took the request from the driver's
					    ring */
	const char *back_end; /* the path of the back-end's socket; valid during the call */
	const struct vublk_limits *limits; /* <vublk/limit.h>; valid during the call */
	size_t limits_bytes;               /* the size of the library's struct vublk_limits */
};

/*
 * Receives one notice, which is valid during the call. `notice_bytes` is the size of the library's
 * struct: a program built with a larger struct treats the members past that size as 0. The function
 * is called on the thread that calls the process() or run() function of the object, and blocks that
 * thread while it runs. It must not call functions that change or free the object.
 */
typedef void vublk_notice_fn(void *opaque, const struct vublk_notice *notice, size_t notice_bytes);

/*
 * These functions set the handler of an object: `fn` is called with `opaque` for each later notice.
 * If `fn` is NULL, notices are dropped. A later call replaces the handler. The handler of a bus
 * also receives the notices of its device.
 * Threads: the one that calls the process() or run() function of the object, between two calls.
 */
void vublk_device_set_notice_handler(struct vublk_device *device, vublk_notice_fn *fn,
				     void *opaque);
void vublk_bus_set_notice_handler(struct vublk_bus *bus, vublk_notice_fn *fn, void *opaque);
void vublk_backend_set_notice_handler(struct vublk_backend *backend, vublk_notice_fn *fn,
				      void *opaque);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
