/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file times and counts the plane's requests; see count.h.
 *
 * Key idea: the plane's list has the requests in the order in which they were taken, so the
 * requests that have waited longest are at its front.
 */
#include "plane/plane.h"

#include "util/atomic.h"
#include "util/loop.h"
#include "util/sections.h"

static struct vublk_plane_count *count_of(struct vublk_plane *plane,
					  const struct vublk_plane_slot *slot)
{
	return &plane->queues[slot->queue].counts[slot->head];
}

static bool is_counting(const struct vublk_plane_counts *counts)
{
	return counts->statistics && vublk_load_relaxed(&counts->statistics->is_on);
}

/*
 * Sets or clears VUBLK_PLANE_HOOK_TIME. When timing is turned off, the hook stays set until all
 * timed requests have ended, because each end has to be recorded.
 */
static void set_hook(struct vublk_plane *plane)
{
	const struct vublk_plane_counts *counts = &plane->counts;

	if (is_counting(counts) || counts->slow_ns || counts->num_timed)
		plane->hooks |= VUBLK_PLANE_HOOK_TIME;
	else
		plane->hooks &= ~VUBLK_PLANE_HOOK_TIME;
}

void vublk_plane_set_counts(struct vublk_plane *plane, struct vublk_statistics *statistics,
			    uint64_t slow_ns)
{
	plane->counts.statistics = statistics;
	plane->counts.slow_ns = slow_ns;
	set_hook(plane);
}

void vublk_plane_count_begin(struct vublk_plane *plane, const struct vublk_plane_slot *slot)
{
	struct vublk_plane_counts *counts = &plane->counts;
	struct vublk_plane_count *count = count_of(plane, slot);
	struct vublk_queue_statistics *queue;

	if (!is_counting(counts) && !counts->slow_ns)
		return;
	*count = (struct vublk_plane_count){ .begun_ns = vublk_now_ns() };
	counts->num_timed++;
	if (!is_counting(counts) || slot->queue >= counts->statistics->num_queues)
		return;
	queue = &counts->statistics->queues[slot->queue];
	count->stats = &queue->kinds[vublk_statistics_kind(slot->type)];
	vublk_statistics_add_begun(count->stats);
}

static void forget(struct vublk_plane *plane, struct vublk_plane_count *count)
{
	*count = (struct vublk_plane_count){ 0 };
	plane->counts.num_timed--;
	set_hook(plane);
}

void vublk_plane_count_end(struct vublk_plane *plane, const struct vublk_plane_slot *slot,
			   uint8_t status)
{
	struct vublk_plane_count *count = count_of(plane, slot);

	if (!count->begun_ns)
		return;
	if (count->stats)
		vublk_statistics_add_ended(count->stats, vublk_now_ns() - count->begun_ns,
					   vublk_plane_bytes(plane, slot), status == VIRTIO_BLK_S_OK);
	forget(plane, count);
}

void vublk_plane_count_drop(struct vublk_plane *plane, const struct vublk_plane_slot *slot)
{
	struct vublk_plane_count *count = count_of(plane, slot);

	if (!count->begun_ns)
		return;
	if (count->stats)
		vublk_statistics_add_left(count->stats);
	forget(plane, count);
}

/* --- another process ---------------------------------------------------------------- */

void vublk_plane_count_fields(struct vublk_plane *plane, const struct vublk_plane_slot *slot,
			      struct vublk_fields *fields)
{
	struct vublk_plane_count *count = count_of(plane, slot);
	struct vublk_statistics *statistics = plane->counts.statistics;
	bool is_counted = count->stats;

	VUBLK_FIELD(fields, count->begun_ns);
	VUBLK_FIELD(fields, count->is_reported);
	VUBLK_FIELD(fields, is_counted);
	if (!fields->from || !count->begun_ns)
		return;
	if (is_counted && statistics && slot->queue < statistics->num_queues)
		count->stats = &statistics->queues[slot->queue]
					.kinds[vublk_statistics_kind(slot->type)];
	plane->counts.num_timed++;
	set_hook(plane);
}

/* --- slow requests ------------------------------------------------------------------ */

static void describe(const struct vublk_plane *plane, const struct vublk_plane_slot *slot,
		     uint64_t waited_ns, struct vublk_plane_slow *slow)
{
	*slow = (struct vublk_plane_slow){
		.queue = slot->queue,
		.kind = vublk_statistics_kind(slot->type),
		.offset = slot->bytes ? slot->offset : 0,
		.bytes = vublk_plane_bytes(plane, slot),
		.waited_ns = waited_ns,
	};
}

bool vublk_plane_find_slow(struct vublk_plane *plane, struct vublk_plane_slow *slow)
{
	uint64_t now = vublk_now_ns();
	unsigned num_slow = 0;
	bool found = false;

	if (!plane->counts.slow_ns || !plane->counts.num_timed)
		return false;
	for (const struct vublk_plane_slot *slot = plane->first; slot; slot = slot->next) {
		struct vublk_plane_count *count = count_of(plane, slot);

		if (!count->begun_ns)
			continue;
		if (now - count->begun_ns < plane->counts.slow_ns)
			break;
		num_slow++;
		if (!count->is_reported && !found) {
			found = true;
			describe(plane, slot, now - count->begun_ns, slow);
		}
		count->is_reported = true;
	}
	slow->num_slow = num_slow;
	return found;
}
