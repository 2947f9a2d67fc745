/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file decides when requests pass the limits; see limit.h.
 *
 * Key idea: a request pays once, when it passes. After that it is held like any other request. It
 * may wait for an earlier write to the same place, and after the loss of a back-end it is submitted
 * again without paying again.
 */
#include "plane/plane.h"

#include "util/checked.h"

#include <vublk/limit.h>

#define NS_PER_MS UINT64_C(1000000)

/* --- buckets ------------------------------------------------------------------- */

static enum vublk_plane_bucket bucket_of(enum vublk_plane_kind kind)
{
	return kind == VUBLK_PLANE_READ ? VUBLK_PLANE_BUCKET_READ : VUBLK_PLANE_BUCKET_WRITE;
}

/* Returns the earliest time at which a request of this kind may pass. */
static uint64_t ready_ns(const struct vublk_plane_limits *limit, enum vublk_plane_kind kind)
{
	enum vublk_plane_bucket own = bucket_of(kind);
	uint64_t requests = VUBLK_MAX(
		vublk_bucket_ready_ns(&limit->requests[VUBLK_PLANE_BUCKET_ALL]),
		vublk_bucket_ready_ns(&limit->requests[own]));
	uint64_t bytes = VUBLK_MAX(vublk_bucket_ready_ns(&limit->bytes[VUBLK_PLANE_BUCKET_ALL]),
				   vublk_bucket_ready_ns(&limit->bytes[own]));

	return kind == VUBLK_PLANE_NO_DATA ? requests : VUBLK_MAX(requests, bytes);
}

static void pay(struct vublk_plane_limits *limit, const struct vublk_plane_slot *slot,
		uint64_t now_ns)
{
	enum vublk_plane_kind kind = vublk_plane_kind(slot);
	enum vublk_plane_bucket own = bucket_of(kind);

	vublk_bucket_pay(&limit->requests[VUBLK_PLANE_BUCKET_ALL], 1, now_ns);
	vublk_bucket_pay(&limit->requests[own], 1, now_ns);
	if (kind == VUBLK_PLANE_NO_DATA)
		return;
	vublk_bucket_pay(&limit->bytes[VUBLK_PLANE_BUCKET_ALL], slot->bytes, now_ns);
	vublk_bucket_pay(&limit->bytes[own], slot->bytes, now_ns);
}

/* --- passing ------------------------------------------------------------------- */

static void pass_first(struct vublk_plane *plane, struct vublk_plane_queue *queue,
		       enum vublk_plane_kind kind, uint64_t now_ns)
{
	struct vublk_plane_slot *slot = &queue->slots[queue->waiting[kind].first];

	pay(&plane->limits, slot, now_ns);
	vublk_plane_waiting_remove(plane, slot);
	vublk_plane_submit(plane, slot);
}

/* Returns whether the first request of list `a` is older than that of list `b`. */
static bool is_older(const struct vublk_plane_queue *queue, enum vublk_plane_kind a,
		     enum vublk_plane_kind b)
{
	return (int32_t)(queue->waiters[queue->waiting[a].first].number -
			 queue->waiters[queue->waiting[b].first].number) < 0;
}

/*
 * Lets one request of the queue pass: the oldest that the limits permit. Returns false if the
 * limits permit none.
 */
static bool pass_oldest(struct vublk_plane *plane, struct vublk_plane_queue *queue, uint64_t now_ns)
{
	int oldest = -1;

	for (int kind = 0; kind < VUBLK_PLANE_NUM_KINDS; kind++)
		if (queue->waiting[kind].count && ready_ns(&plane->limits, kind) <= now_ns &&
		    (oldest < 0 || is_older(queue, kind, oldest)))
			oldest = kind;
	if (oldest >= 0)
		pass_first(plane, queue, oldest, now_ns);
	return oldest >= 0;
}

unsigned vublk_plane_pass(struct vublk_plane *plane)
{
	struct vublk_plane_limits *limit = &plane->limits;
	unsigned n = 0, without = 0; /* without: queues in a row from which no request could pass */
	uint64_t now_ns;

	if (!plane->side || plane->side->is_broken)
		return 0;
	now_ns = plane->now_ns();
	while (limit->num_waiting && without < plane->num_queues) {
		struct vublk_plane_queue *queue = &plane->queues[limit->next_queue];

		limit->next_queue = (limit->next_queue + 1) % plane->num_queues;
		if (pass_oldest(plane, queue, now_ns)) {
			without = 0;
			n++;
		} else {
			without++;
		}
	}
	return n;
}

void vublk_plane_pass_all(struct vublk_plane *plane)
{
	uint64_t now_ns = plane->now_ns();

	if (!plane->limits.num_waiting)
		return;
	for (unsigned i = 0; i < plane->num_queues; i++)
		for (unsigned kind = 0; kind < VUBLK_PLANE_NUM_KINDS; kind++)
			while (plane->queues[i].waiting[kind].count)
				pass_first(plane, &plane->queues[i], kind, now_ns);
	vublk_plane_publish(plane);
}

uint64_t vublk_plane_next_pass_ns(const struct vublk_plane *plane)
{
	uint64_t next = UINT64_MAX;

	if (!plane->side || plane->side->is_broken)
		return next;
	for (unsigned kind = 0; kind < VUBLK_PLANE_NUM_KINDS; kind++)
		if (plane->limits.num_of_kind[kind])
			next = VUBLK_MIN(next, ready_ns(&plane->limits, kind));
	return next;
}

/* --- changes ------------------------------------------------------------------- */

void vublk_plane_set_limits(struct vublk_plane *plane, const struct vublk_limits *limits)
{
	const uint64_t requests[] = { limits->iops, limits->iops_read, limits->iops_write };
	const uint64_t bytes[] = { limits->bps, limits->bps_read, limits->bps_write };
	struct vublk_plane_limits *limit = &plane->limits;
	uint64_t now_ns = plane->now_ns(), burst_ns = limits->burst_ms * NS_PER_MS;
	bool is_limited = false;

	for (unsigned i = 0; i < VUBLK_PLANE_NUM_BUCKETS; i++) {
		vublk_bucket_init(&limit->requests[i], requests[i], burst_ns, now_ns);
		vublk_bucket_init(&limit->bytes[i], bytes[i], burst_ns, now_ns);
		is_limited |= requests[i] || bytes[i];
	}
	plane->hooks &= ~VUBLK_PLANE_HOOK_LIMIT;
	if (is_limited)
		plane->hooks |= VUBLK_PLANE_HOOK_LIMIT;
	else
		vublk_plane_pass_all(plane);
}
