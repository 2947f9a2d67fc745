/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Counters of requests, and the search for slow requests, while requests pass through the plane;
 * see <vublk/statistics.h>.
 *
 * Key idea: the counters are allocated when counting is first switched on, and freed only with the
 * device, so any thread may read them.
 */
#include "device/device.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/struct.h"

#include <errno.h>

#define NS_PER_MS UINT64_C(1000000)
#define SHORTEST_SEARCH_MS 10

bool vublk_device_sees_requests(const struct vublk_device *device)
{
	return vublk_device_is_shadowed(device);
}

static struct vublk_statistics *counters_of(const struct vublk_device *device)
{
	return vublk_load_acquire(&device->statistics.counters);
}

int vublk_device_set_statistics(struct vublk_device *device, bool on, struct vublk_error *error)
{
	struct vublk_statistics *counters = counters_of(device);

	if (!counters && on) {
		counters = vublk_statistics_new(VUBLK_MAX_QUEUES, false);
		if (!counters)
			return vublk_error_set_errno(error, ENOMEM, "cannot allocate the "
						     "statistics of requests");
		vublk_store_release(&device->statistics.counters, counters);
	}
	if (counters)
		vublk_store_relaxed(&counters->is_on, on);
	device->settings.statistics = on; /* as a property, so that an upgrade hands the setting
					     over */
	vublk_device_give_counts(device);
	return 0;
}

bool vublk_device_has_statistics(const struct vublk_device *device)
{
	const struct vublk_statistics *counters = counters_of(device);

	return counters && vublk_load_relaxed(&counters->is_on);
}

int vublk_device_get_stats(const struct vublk_device *device, unsigned queue,
			   enum vublk_request_kind kind, struct vublk_request_stats *stats,
			   size_t stats_bytes)
{
	const struct vublk_statistics *counters = counters_of(device);
	static const struct vublk_request_stats zeroes;

	if (counters)
		return vublk_statistics_get(counters, queue, kind, stats, stats_bytes);
	if (queue >= VUBLK_MAX_QUEUES || (unsigned)kind >= VUBLK_REQUEST_NUM_KINDS)
		return -EINVAL;
	vublk_struct_out(stats, stats_bytes, &zeroes, sizeof(zeroes));
	return 0;
}

/* --- slow requests ------------------------------------------------------------------ */

static void arm(struct vublk_device *device)
{
	uint64_t ms = VUBLK_MAX(device->settings.slow_request_ms / 2, (uint64_t)SHORTEST_SEARCH_MS);

	vublk_loop_timer_arm(&device->loop, &device->statistics.slow_timer,
			     vublk_now_ns() + ms * NS_PER_MS);
}

static void on_slow_timer(void *opaque)
{
	struct vublk_device *device = opaque;
	struct vublk_plane_slow slow;

	if (!device->shadow.thread)
		return;
	arm(device);
	if (vublk_plane_thread_find_slow(device->shadow.thread, &slow))
		vublk_device_notify_slow(device, &slow);
}

/* --- the plane ------------------------------------------------------------------------- */

int vublk_device_statistics_realize(struct vublk_device *device, struct vublk_error *error)
{
	if (!device->settings.statistics || counters_of(device))
		return 0;
	return vublk_device_set_statistics(device, true, error);
}

void vublk_device_give_counts(struct vublk_device *device)
{
	if (!device->shadow.thread)
		return;
	vublk_plane_thread_set_counts(device->shadow.thread, counters_of(device),
				      device->settings.slow_request_ms * NS_PER_MS);
	if (device->settings.slow_request_ms && !device->statistics.slow_timer.loop)
		arm(device);
}

void vublk_device_statistics_init(struct vublk_device *device)
{
	device->statistics.slow_timer = (struct vublk_loop_timer){
		.fn = on_slow_timer, .opaque = device,
	};
}

void vublk_device_statistics_deinit(struct vublk_device *device)
{
	vublk_loop_timer_disarm(&device->statistics.slow_timer);
	vublk_statistics_free(device->statistics.counters);
}
