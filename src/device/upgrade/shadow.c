/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Hands over the shadow rings of a device, with the requests that are outstanding, and the counters
 * of requests; see upgrade.h.
 *
 * Key idea: src/plane/handover.c writes and reads the state of the plane, and this file the state
 * that the device keeps about the plane. In the new process, this file makes the plane: first the
 * thread, which is parked, then the side and the driver's rings, and then the requests.
 */
#include "device/device.h"
#include "device/upgrade/upgrade.h"

#include "plane/handover.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <string.h>

/* The state that the device keeps about the plane. */
struct shadow_state {
	enum vublk_device_path path;
	unsigned max_segments;
	bool has_rings;   /* the plane has the driver's rings */
	bool has_backend; /* the plane uses its side */
};

static void visit_area(struct vublk_device_inflight *area, struct vublk_fields *fields)
{
	vublk_field_fd(fields, &area->fd);
	VUBLK_FIELD(fields, area->offset);
	VUBLK_FIELD(fields, area->size_bytes);
	VUBLK_FIELD(fields, area->num_queues);
	VUBLK_FIELD(fields, area->queue_size);
}

static void visit(struct shadow_state *state, struct vublk_fields *fields)
{
	VUBLK_FIELD(fields, state->path);
	VUBLK_FIELD(fields, state->max_segments);
	VUBLK_FIELD(fields, state->has_rings);
	VUBLK_FIELD(fields, state->has_backend);
}

void vublk_device_give_shadow(struct vublk_device *device, struct vublk_sections_writer *to)
{
	struct vublk_device_shadow *shadow = &device->shadow;
	struct vublk_fields fields = { .to = to };
	struct shadow_state state = {
		.path = device->exchange.path,
		.max_segments = shadow->max_segments,
		.has_rings = vublk_device_shadow_is_attached(device),
	};

	if (!shadow->thread)
		return;
	state.has_backend = vublk_plane_thread_has_side(shadow->thread);
	vublk_section_begin(to, "device-shadow", 1, false);
	visit(&state, &fields);
	visit_area(&shadow->side_area, &fields);
	VUBLK_FIELD(&fields, shadow->num_broken);
	if (shadow->side)
		vublk_plane_side_give(shadow->side, to);
	vublk_plane_give(vublk_plane_thread_plane(shadow->thread), to);
}

/* --- taking ------------------------------------------------------------------------------- */

static int refuse(struct vublk_error *error)
{
	return vublk_error_set(error, EINVAL, "the state of the shadow rings that the old "
			       "process sent is invalid");
}

int vublk_device_read_shadow(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_device *device = owner;
	struct vublk_device_shadow *shadow = &device->shadow;
	struct vublk_fields fields = { .from = from };
	struct shadow_state state = { 0 };
	int r;

	if (!device->num_queues || device->num_rings || shadow->thread)
		return refuse(error);
	visit(&state, &fields);
	if (state.path > VUBLK_DEVICE_PATH_SHADOW || from->is_bad ||
	    state.has_rings > (state.path == VUBLK_DEVICE_PATH_SHADOW) ||
	    state.has_backend > state.has_rings)
		return refuse(error);
	r = vublk_device_statistics_realize(device, error);
	if (!r)
		r = vublk_device_shadow_adopt(device, state.max_segments, error);
	if (r < 0)
		return r;
	device->exchange.path = state.path;
	device->exchange.is_reported_shadowed = vublk_device_is_shadowed(device);
	shadow->takes_rings = state.has_rings;
	shadow->takes_side = state.has_backend;
	visit_area(&shadow->side_area, &fields);
	VUBLK_FIELD(&fields, shadow->num_broken);
	return 0;
}

/* Returns whether this process is making a plane from the sections of the old process. */
static bool is_taken(const struct vublk_device *device)
{
	return device->shadow.thread && vublk_plane_thread_is_parked(device->shadow.thread);
}

int vublk_device_read_side(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_device *device = owner;

	if (!is_taken(device) || device->shadow.side || device->shadow.memory)
		return refuse(error);
	return vublk_device_shadow_adopt_side(device, from, error);
}

/* Called before the first section of the plane. */
static int begin_plane(struct vublk_device *device, struct vublk_error *error)
{
	struct vublk_device_shadow *shadow = &device->shadow;
	int r = 0;

	if (shadow->memory || (shadow->takes_side && !shadow->side))
		return refuse(error);
	if (shadow->takes_side)
		r = vublk_plane_thread_adopt_side(shadow->thread, shadow->side, error);
	if (!r && shadow->takes_rings)
		r = vublk_device_shadow_adopt_rings(device, error);
	return r;
}

int vublk_device_read_plane(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_device *device = owner;
	int r = 0;

	if (!is_taken(device))
		return refuse(error);
	if (!strcmp(from->name, "plane"))
		r = begin_plane(device, error);
	return r < 0 ? r : vublk_plane_take_section(vublk_plane_thread_plane(device->shadow.thread),
						    from, error);
}

/* Gives the plane the driver's descriptors, which the bus has given the device. */
static int adopt_notifiers(struct vublk_device *device, struct vublk_error *error)
{
	int r = 0;

	for (unsigned i = 0; i < device->num_queues && !r; i++)
		if (device->queues[i].size)
			r = vublk_plane_thread_adopt_notifiers(device->shadow.thread, i,
							       device->queues[i].kick_fd,
							       device->queues[i].call_fd, error);
	return r;
}

int vublk_device_take_shadow_end(struct vublk_device *device, struct vublk_error *error)
{
	struct vublk_device_shadow *shadow = &device->shadow;
	bool has_rings = vublk_device_shadow_is_attached(device), has_backend = false;
	bool runs = device->state == VUBLK_DEVICE_RUNNING && vublk_device_is_shadowed(device);
	int r = 0;

	if (is_taken(device))
		has_backend = vublk_plane_thread_has_side(shadow->thread);
	if (has_rings != shadow->takes_rings || has_backend != shadow->takes_side ||
	    has_backend != runs || (shadow->side && !vublk_device_is_connected(device)))
		return refuse(error);
	if (!is_taken(device))
		return 0;
	if (has_rings)
		r = adopt_notifiers(device, error);
	if (!r && has_rings)
		r = vublk_device_dirty_log_give(device, error);
	return r < 0 ? r : vublk_plane_take_end(vublk_plane_thread_plane(shadow->thread), error);
}

/*
 * Signals the driver, in case the old process was killed between a completion and its signal, and
 * resumes the plane's thread, which then looks at every ring.
 */
void vublk_device_take_shadow_begin(struct vublk_device *device)
{
	struct vublk_replay_info replay;

	if (!is_taken(device))
		return;
	vublk_device_get_replay(device, &replay, sizeof(replay));
	device->notices.replays = replay.replays;
	for (unsigned i = 0; vublk_device_shadow_is_attached(device) && i < device->num_queues; i++)
		if (device->queues[i].size && device->queues[i].call_fd >= 0)
			vublk_eventfd_signal(device->queues[i].call_fd);
	if (vublk_device_shadow_is_attached(device) && vublk_device_should_run(device))
		vublk_device_shadow_resume(device);
	vublk_plane_thread_unpark(device->shadow.thread);
}

/* --- counters --------------------------------------------------------------------------------- */

static void visit_counters(struct vublk_request_stats *stats, struct vublk_fields *fields)
{
	VUBLK_FIELD(fields, stats->count);
	VUBLK_FIELD(fields, stats->errors);
	VUBLK_FIELD(fields, stats->bytes);
	VUBLK_FIELD(fields, stats->in_flight);
	VUBLK_FIELD(fields, stats->total_ns);
	VUBLK_FIELD(fields, stats->max_ns);
	for (unsigned i = 0; i < VUBLK_LATENCY_BUCKETS; i++)
		VUBLK_FIELD(fields, stats->latency[i]);
}

/* Writes the counters that are not 0. The thread that updates the counters must be parked. */
void vublk_device_give_statistics(const struct vublk_device *device,
				  struct vublk_sections_writer *to)
{
	struct vublk_statistics *counters = device->statistics.counters;
	struct vublk_fields fields = { .to = to };

	for (unsigned i = 0; counters && i < device->num_queues; i++)
		for (unsigned kind = 0; kind < VUBLK_REQUEST_NUM_KINDS; kind++) {
			struct vublk_request_stats *stats = &counters->queues[i].kinds[kind];

			if (!stats->count && !stats->in_flight)
				continue;
			vublk_section_begin(to, "device-statistics", 1, true);
			vublk_section_put(to, i);
			vublk_section_put(to, kind);
			visit_counters(stats, &fields);
		}
}

int vublk_device_read_statistics(void *owner, struct vublk_section *from,
				 struct vublk_error *error)
{
	struct vublk_device *device = owner;
	struct vublk_fields fields = { .from = from };
	uint64_t queue = vublk_section_get(from), kind = vublk_section_get(from);
	bool is_on = device->settings.statistics;
	int r = 0;

	if (queue >= device->num_queues || kind >= VUBLK_REQUEST_NUM_KINDS)
		return vublk_error_set(error, EINVAL, "the state counts requests of queue %u and "
				       "kind %u, but the device has %u queues and %u kinds",
				       (unsigned)queue, (unsigned)kind, device->num_queues,
				       (unsigned)VUBLK_REQUEST_NUM_KINDS);
	if (!device->statistics.counters) {
		r = vublk_device_set_statistics(device, true, error);
		if (!r)
			r = vublk_device_set_statistics(device, is_on, error);
	}
	if (!r)
		visit_counters(&device->statistics.counters->queues[queue].kinds[kind], &fields);
	return r;
}
