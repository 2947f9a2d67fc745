/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Implements <vublk/trace.h>. The request plane writes the records; see plane/trace.h.
 *
 * Key idea: another thread may read the ring of records at any time, so the ring is freed only with
 * the device. A timer ends a trace that no program has read for VUBLK_TRACE_LEASE_MS.
 */
#include "device/device.h"

#include "util/atomic.h"
#include "util/error.h"
#include "util/struct.h"

#include <errno.h>

#define LEASE_NS (VUBLK_TRACE_LEASE_MS * UINT64_C(1000000))

static uint64_t end_of_lease(const struct vublk_device *device)
{
	return vublk_load_relaxed(&device->trace.ring->read_ns) + LEASE_NS;
}

int vublk_device_start_trace(struct vublk_device *device, struct vublk_error *error)
{
	struct vublk_device_trace *trace = &device->trace;

	if (trace->is_wanted && vublk_now_ns() < end_of_lease(device))
		return vublk_error_set(error, EBUSY, "another trace is being read; end it first");
	vublk_device_stop_trace(device);
	if (!trace->ring)
		vublk_store_release(&trace->ring, vublk_plane_trace_new());
	if (!trace->ring)
		return vublk_error_set_errno(error, ENOMEM, "cannot allocate the records of a "
					     "trace");
	vublk_plane_trace_begin(trace->ring, vublk_now_ns());
	trace->is_wanted = true;
	if (device->shadow.thread)
		vublk_plane_thread_set_trace(device->shadow.thread, trace->ring);
	vublk_loop_timer_arm(&device->loop, &trace->timer, end_of_lease(device));
	vublk_device_notify_reason(device, VUBLK_NOTICE_TRACE_STARTED, NULL);
	vublk_device_want_shadow(device, VUBLK_DEVICE_SHADOW_FOR_TRACE, true, NULL, NULL);
	return 0;
}

void vublk_device_stop_trace(struct vublk_device *device)
{
	struct vublk_device_trace *trace = &device->trace;

	if (!trace->is_wanted)
		return;
	vublk_device_notify_reason(device, VUBLK_NOTICE_TRACE_ENDED,
				   vublk_now_ns() < end_of_lease(device) ?
				   "the trace was ended by request" : "no program reads the trace");
	trace->is_wanted = false;
	if (device->shadow.thread)
		vublk_plane_thread_set_trace(device->shadow.thread, NULL);
	vublk_plane_trace_end(trace->ring);
	vublk_loop_timer_disarm(&trace->timer);
	vublk_device_want_shadow(device, VUBLK_DEVICE_SHADOW_FOR_TRACE, false, NULL, NULL);
}

static void on_timer(void *opaque)
{
	struct vublk_device *device = opaque;

	if (vublk_now_ns() < end_of_lease(device))
		vublk_loop_timer_arm(&device->loop, &device->trace.timer, end_of_lease(device));
	else
		vublk_device_stop_trace(device);
}

int vublk_device_read_trace(const struct vublk_device *device, struct vublk_trace_record *record,
			    size_t record_bytes)
{
	struct vublk_plane_trace *ring = vublk_load_acquire(&device->trace.ring);
	struct vublk_trace_record own;

	if (!ring || !vublk_plane_trace_read(ring, vublk_now_ns(), &own))
		return 0;
	vublk_struct_out(record, record_bytes, &own, sizeof(own));
	return 1;
}

void vublk_device_get_trace_info(const struct vublk_device *device, struct vublk_trace_info *info,
				 size_t info_bytes)
{
	const struct vublk_plane_trace *ring = vublk_load_acquire(&device->trace.ring);
	struct vublk_trace_info own = { 0 };

	if (ring) {
		own.is_on = vublk_load_acquire(&ring->is_on);
		own.number = vublk_load_relaxed(&ring->number);
		own.dropped = vublk_load_relaxed(&ring->dropped);
	}
	vublk_struct_out(info, info_bytes, &own, sizeof(own));
}

void vublk_device_trace_init(struct vublk_device *device)
{
	device->trace.timer = (struct vublk_loop_timer){ .fn = on_timer, .opaque = device };
}

void vublk_device_trace_deinit(struct vublk_device *device)
{
	vublk_loop_timer_disarm(&device->trace.timer);
	vublk_plane_trace_free(device->trace.ring);
	device->trace.ring = NULL;
}
