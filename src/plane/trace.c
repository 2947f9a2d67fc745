/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The trace of a plane: the ring, its writer and its reader; see trace.h. */
#include "plane/plane.h"

#include "util/atomic.h"

#include <stdlib.h>

/* --- life ---------------------------------------------------------------------------- */

struct vublk_plane_trace *vublk_plane_trace_new(void)
{
	struct vublk_plane_trace *trace = aligned_alloc(VUBLK_CACHE_LINE, sizeof(*trace));

	if (!trace)
		return NULL;
	/* The records need no initialization, because each is written before it is read. */
	trace->head = trace->dropped = trace->begun_ns = trace->number = 0;
	trace->tail = trace->read_ns = 0;
	trace->is_on = false;
	return trace;
}

void vublk_plane_trace_free(struct vublk_plane_trace *trace)
{
	free(trace);
}

void vublk_plane_trace_begin(struct vublk_plane_trace *trace, uint64_t now_ns)
{
	vublk_store_relaxed(&trace->dropped, (uint64_t)0);
	vublk_store_relaxed(&trace->read_ns, now_ns);
	vublk_store_relaxed(&trace->number, trace->number + 1);
	vublk_store_relaxed(&trace->begun_ns, now_ns);
	vublk_store_release(&trace->is_on, true);
}

void vublk_plane_trace_end(struct vublk_plane_trace *trace)
{
	vublk_store_release(&trace->is_on, false);
}

/* --- the plane's thread ------------------------------------------------------------------- */

void vublk_plane_set_trace(struct vublk_plane *plane, struct vublk_plane_trace *trace)
{
	plane->trace = trace;
	plane->hooks &= ~VUBLK_PLANE_HOOK_TRACE;
	if (trace)
		plane->hooks |= VUBLK_PLANE_HOOK_TRACE;
}

static struct vublk_plane_times *times_of(const struct vublk_plane *plane,
					  const struct vublk_plane_slot *slot)
{
	return &plane->queues[slot->queue].times[slot->head];
}

void vublk_plane_trace_take(struct vublk_plane *plane, const struct vublk_plane_slot *slot)
{
	*times_of(plane, slot) = (struct vublk_plane_times){ .taken_ns = plane->now_ns() };
}

void vublk_plane_trace_submit(struct vublk_plane *plane, const struct vublk_plane_slot *slot)
{
	times_of(plane, slot)->submitted_ns = plane->now_ns();
}

/* Stores the lowest sector and the number of bytes of the request's data or ranges. */
static void fill_place(const struct vublk_plane *plane, const struct vublk_plane_slot *slot,
		       struct vublk_trace_record *record)
{
	const struct virtio_blk_discard_write_zeroes *ranges =
		&plane->queues[slot->queue].ranges[(size_t)slot->head * VUBLK_PLANE_MAX_RANGES];

	record->sector = slot->sector;
	record->bytes = vublk_plane_bytes(plane, slot);
	for (unsigned i = 0; i < slot->num_ranges; i++)
		if (!i || ranges[i].sector < record->sector)
			record->sector = ranges[i].sector;
}

static void write_record(const struct vublk_plane *plane, const struct vublk_plane_slot *slot,
			 uint8_t status, uint64_t now_ns)
{
	struct vublk_plane_trace *trace = plane->trace;
	const struct vublk_plane_times *times = times_of(plane, slot);
	struct vublk_trace_record *record = &trace->records[trace->head % VUBLK_TRACE_RECORDS];

	*record = (struct vublk_trace_record){
		.taken_ns = times->taken_ns < trace->begun_ns ? 0 : times->taken_ns,
		.submitted_ns = times->submitted_ns < trace->begun_ns ? 0 : times->submitted_ns,
		.completed_ns = now_ns,
		.type = slot->type,
		.queue = slot->queue,
		.status = status,
	};
	fill_place(plane, slot, record);
	vublk_store_release(&trace->head, trace->head + 1);
}

void vublk_plane_trace_complete(struct vublk_plane *plane, const struct vublk_plane_slot *slot,
				uint8_t status)
{
	struct vublk_plane_trace *trace = plane->trace;

	if (slot->type == VUBLK_PLANE_NO_TYPE)
		return;
	if (trace->head - vublk_load_acquire(&trace->tail) < VUBLK_TRACE_RECORDS)
		write_record(plane, slot, status, plane->now_ns());
	else
		vublk_store_relaxed(&trace->dropped, trace->dropped + 1);
}

/* --- the reader ----------------------------------------------------------------------------- */

/* Skips the records that an earlier trace has left. */
bool vublk_plane_trace_read(struct vublk_plane_trace *trace, uint64_t now_ns,
			    struct vublk_trace_record *record)
{
	vublk_store_relaxed(&trace->read_ns, now_ns);
	while (trace->tail != vublk_load_acquire(&trace->head)) {
		*record = trace->records[trace->tail % VUBLK_TRACE_RECORDS];
		vublk_store_release(&trace->tail, trace->tail + 1);
		if (record->completed_ns >= vublk_load_relaxed(&trace->begun_ns))
			return true;
	}
	return false;
}
