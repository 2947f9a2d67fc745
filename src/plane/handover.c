/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The sections of a plane; see handover.h.
 *
 * Key idea: for each section, one function either writes or reads all its fields. Values that
 * follow from other fields are not written but computed again: the place of a request on the disk,
 * the order of the writes, and the lists.
 */
#include "plane/handover.h"

#include "util/error.h"
#include "util/fd.h"
#include "virtio/ring-handover.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define OWN_REQUEST UINT16_MAX /* stands for the plane's own flush, which belongs to no chain of the
				  driver */

static void begin(struct vublk_sections_writer *to, const char *name, struct vublk_fields *fields)
{
	vublk_section_begin(to, name, 1, false);
	*fields = (struct vublk_fields){ .to = to };
}

static int contradiction(struct vublk_error *error, const char *what, unsigned index)
{
	return vublk_error_set(error, EINVAL, "the state of the shadow rings is inconsistent: %s %u",
			       what, index);
}

/* --- the plane --------------------------------------------------------------------------- */

static void visit_bucket(struct vublk_bucket *bucket, struct vublk_fields *fields)
{
	VUBLK_FIELD(fields, bucket->paid_ns);
	VUBLK_FIELD(fields, bucket->rest);
}

/*
 * Leaves out the rates of the limits, because they are properties, which the new plane has already.
 */
static void visit_plane(struct vublk_plane *plane, struct vublk_fields *fields)
{
	VUBLK_FIELD(fields, plane->takes);
	VUBLK_FIELD(fields, plane->limits.next_queue);
	for (unsigned i = 0; i < VUBLK_PLANE_NUM_BUCKETS; i++) {
		visit_bucket(&plane->limits.requests[i], fields);
		visit_bucket(&plane->limits.bytes[i], fields);
	}
}

static int read_plane(struct vublk_plane *plane, struct vublk_fields *fields,
		      struct vublk_error *error)
{
	visit_plane(plane, fields);
	return plane->limits.next_queue < plane->num_queues ? 0 :
	       contradiction(error, "there is no queue", plane->limits.next_queue);
}

/* --- the driver's rings -------------------------------------------------------------------- */

static void visit_queue(struct vublk_plane_queue *queue, struct vublk_fields *fields)
{
	VUBLK_FIELD(fields, queue->phase);
	VUBLK_FIELD(fields, queue->inflight.counter);
	VUBLK_FIELD(fields, queue->inflight.last_batch_head);
	vublk_device_ring_fields(&queue->ring, fields);
}

static struct vublk_plane_queue *find_queue(struct vublk_plane *plane, struct vublk_fields *fields,
					    unsigned *index)
{
	*index = 0;
	VUBLK_FIELD(fields, *index);
	if (*index >= plane->num_queues ||
	    plane->queues[*index].phase == VUBLK_PLANE_QUEUE_UNUSED)
		return NULL;
	return &plane->queues[*index];
}

static int read_queue(struct vublk_plane *plane, struct vublk_fields *fields,
		      struct vublk_error *error)
{
	unsigned index;
	struct vublk_plane_queue *queue = find_queue(plane, fields, &index);

	if (!queue)
		return contradiction(error, "there is no queue", index);
	visit_queue(queue, fields);
	if ((queue->phase != VUBLK_PLANE_QUEUE_TAKING && queue->phase != VUBLK_PLANE_QUEUE_BROKEN) ||
	    queue->inflight.last_batch_head >= VUBLK_RING_MAX_SIZE ||
	    (queue->inflight.region &&
	     queue->inflight.last_batch_head >= queue->setup.inflight_entries)) {
		queue->phase = VUBLK_PLANE_QUEUE_TAKING;
		return contradiction(error, "invalid fields of queue", index);
	}
	return 0;
}

/* --- requests ------------------------------------------------------------------------------ */

static void visit_segment(struct vublk_ring_buffer *segment, struct vublk_fields *fields)
{
	VUBLK_FIELD(fields, segment->addr);
	VUBLK_FIELD(fields, segment->bytes);
}

static void visit_range(struct virtio_blk_discard_write_zeroes *range, struct vublk_fields *fields)
{
	uint64_t sector = range->sector;
	uint32_t num_sectors = range->num_sectors, flags = range->flags;

	VUBLK_FIELD(fields, sector);
	VUBLK_FIELD(fields, num_sectors);
	VUBLK_FIELD(fields, flags);
	*range = (struct virtio_blk_discard_write_zeroes){ sector, num_sectors, flags };
}

/* Writes or reads the segments and the ranges. The caller has checked how many there are. */
static void visit_place(struct vublk_plane *plane, struct vublk_plane_slot *slot,
			struct vublk_fields *fields)
{
	struct vublk_plane_queue *queue = &plane->queues[slot->queue];

	if (fields->from)
		slot->segments = slot->num_segments <= VUBLK_PLANE_SHORT_SEGMENTS ?
			slot->short_segments :
			&queue->segments[(size_t)slot->head * plane->max_segments];
	for (unsigned i = 0; i < slot->num_segments; i++)
		visit_segment(&slot->segments[i], fields);
	for (unsigned i = 0; i < slot->num_ranges; i++)
		visit_range(&queue->ranges[(size_t)slot->head * VUBLK_PLANE_MAX_RANGES + i], fields);
}

static int visit_slot(struct vublk_plane *plane, struct vublk_plane_slot *slot,
		      enum vublk_plane_slot_state *state, struct vublk_fields *fields)
{
	uint32_t type = slot->type, priority = slot->priority;
	uint64_t sector = slot->sector;

	VUBLK_FIELD(fields, *state);
	VUBLK_FIELD(fields, type);
	VUBLK_FIELD(fields, priority);
	VUBLK_FIELD(fields, sector);
	slot->header = (struct virtio_blk_outhdr){ type, priority, sector };
	VUBLK_FIELD(fields, slot->status_addr);
	VUBLK_FIELD(fields, slot->copy);
	VUBLK_FIELD(fields, slot->flush_mark);
	VUBLK_FIELD(fields, slot->num_segments);
	VUBLK_FIELD(fields, slot->num_ranges);
	if (slot->num_segments > plane->max_segments || slot->num_ranges > VUBLK_PLANE_MAX_RANGES)
		return -EINVAL;
	visit_place(plane, slot, fields);
	vublk_plane_count_fields(plane, slot, fields);
	return 0;
}

static void give_slot(struct vublk_plane *plane, struct vublk_plane_slot *slot,
		      struct vublk_sections_writer *to)
{
	enum vublk_plane_slot_state state = slot->state;
	struct vublk_fields fields;

	begin(to, "plane-slot", &fields);
	vublk_section_put(to, slot->queue);
	vublk_section_put(to, slot->head);
	visit_slot(plane, slot, &state, &fields);
}

/*
 * Adds the request to the list, in `state`. Returns false if the request cannot be in this state,
 * or if vublk_plane_keep_adopt() refuses it.
 */
static bool begin_slot(struct vublk_plane *plane, struct vublk_plane_slot *slot,
		       enum vublk_plane_slot_state state)
{
	vublk_plane_append(plane, slot);
	switch (state) {
	case VUBLK_PLANE_SLOT_HELD:
		break;
	case VUBLK_PLANE_SLOT_WAITING:
		vublk_plane_waiting_add(plane, slot);
		break;
	case VUBLK_PLANE_SLOT_SUBMITTED:
		slot->state = state;
		plane->num_held--;
		plane->num_submitted++;
		break;
	default:
		return false;
	}
	return vublk_plane_keep_adopt(plane, slot);
}

static int read_slot(struct vublk_plane *plane, struct vublk_fields *fields,
		     struct vublk_error *error)
{
	unsigned index;
	struct vublk_plane_queue *queue = find_queue(plane, fields, &index);
	enum vublk_plane_slot_state state = VUBLK_PLANE_SLOT_FREE;
	struct vublk_plane_slot *slot;
	uint16_t head = 0;

	VUBLK_FIELD(fields, head);
	if (!queue || head >= queue->setup.size || fields->from->is_bad)
		return contradiction(error, "there is no queue", index);
	if (vublk_device_ring_adopt_chain(&queue->ring, head, error) < 0)
		return contradiction(error, "a chain occurs twice in queue", index);
	slot = &queue->slots[head];
	if (visit_slot(plane, slot, &state, fields) < 0 || !vublk_plane_derive(plane, slot) ||
	    !vublk_plane_is_mapped(plane->map, slot) || !begin_slot(plane, slot, state))
		return contradiction(error, "an invalid request of queue", index);
	if (plane->replay && slot->flush_mark > vublk_write_log_mark(&plane->replay->log))
		return contradiction(error, "an invalid flush of queue", index);
	return 0;
}

/* --- the back-end's rings ------------------------------------------------------------------- */

static void visit_side(struct vublk_plane_side *side, struct vublk_fields *fields)
{
	VUBLK_FIELD(fields, side->features);
	VUBLK_FIELD(fields, side->max_segment_bytes);
	for (unsigned i = 0; i < side->num_queues; i++) {
		vublk_field_fd(fields, &side->queues[i].kick_fd);
		vublk_field_fd(fields, &side->queues[i].call_fd);
	}
}

void vublk_plane_side_give(struct vublk_plane_side *side, struct vublk_sections_writer *to)
{
	struct vublk_fields fields;

	begin(to, "plane-side", &fields);
	vublk_section_put(to, VUBLK_PLANE_REGION_LAYOUT);
	vublk_section_put_fd(to, side->region.fd);
	visit_side(side, &fields);
}

int vublk_plane_side_take(struct vublk_section *from, unsigned num_queues, unsigned size,
			  unsigned max_segments, bool has_own, struct vublk_plane_side **result,
			  struct vublk_error *error)
{
	struct vublk_fields fields = { .from = from };
	uint64_t layout = vublk_section_get(from);
	VUBLK_FD int fd = vublk_section_get_fd(from);
	struct vublk_plane_side *side;
	int r;

	if (layout != VUBLK_PLANE_REGION_LAYOUT)
		return vublk_error_set(error, ENOTSUP, "the shadow rings have the layout %" PRIu64
				       ", and this version knows only %d: take over with a version "
				       "that has the same layout", layout, VUBLK_PLANE_REGION_LAYOUT);
	if (fd < 0)
		return vublk_error_set(error, EINVAL, "the memory of the shadow rings is missing");
	r = vublk_plane_side_adopt(num_queues, size, max_segments, has_own, vublk_fd_steal(&fd),
				   &side, error);
	if (r < 0)
		return r;
	visit_side(side, &fields);
	for (unsigned i = 0; i < num_queues && !r; i++)
		if (side->queues[i].kick_fd < 0 || side->queues[i].call_fd < 0)
			r = contradiction(error, "an eventfd is missing for queue", i);
	if (r < 0)
		vublk_plane_side_free(side);
	else
		*result = side;
	return r;
}

static void give_ring(const struct vublk_plane *plane, unsigned index,
		      struct vublk_sections_writer *to)
{
	struct vublk_plane_side_queue *queue = &plane->side->queues[index];
	struct vublk_fields fields;

	begin(to, "plane-ring", &fields);
	vublk_section_put(to, index);
	vublk_section_put(to, queue->ring.size);
	vublk_driver_ring_fields(&queue->ring, &fields);
	for (unsigned i = 0; i < queue->ring.size; i++) {
		if (queue->ring.slots[i].serial == VUBLK_DRIVER_RING_NONE)
			continue;
		vublk_section_put(to, vublk_plane_replay_owns(plane, queue, (uint16_t)i) ?
				  OWN_REQUEST : queue->slots[i]->head);
	}
}

/*
 * Assigns the chain with `token` on the back-end's ring to the request of the driver's chain at
 * `head`. Returns false if that is impossible. `seen` marks the requests that have a chain already,
 * because each request has at most one chain.
 */
static bool find_request(struct vublk_plane *plane, unsigned index, uint16_t token, uint16_t head,
			 bool *seen)
{
	struct vublk_plane_side_queue *queue = &plane->side->queues[index];
	struct vublk_plane_queue *driver = &plane->queues[index];
	struct vublk_plane_slot *slot;

	if (queue->ring.slots[token].token != token)
		return false;
	if (head == OWN_REQUEST) /* has_owners() checks the plane's own flush when all rings have
				    been read */
		return true;
	if (head >= driver->setup.size || seen[head])
		return false;
	slot = &driver->slots[head];
	if (slot->state != VUBLK_PLANE_SLOT_SUBMITTED || slot->copy >= VUBLK_PLANE_COPY_AWAITS_FLUSH)
		return false;
	seen[head] = true;
	queue->slots[token] = slot;
	return true;
}

static bool find_requests(struct vublk_plane *plane, unsigned index, struct vublk_fields *fields)
{
	struct vublk_driver_ring *ring = &plane->side->queues[index].ring;
	bool seen[VUBLK_RING_MAX_SIZE] = { false };

	for (unsigned i = 0; i < ring->size; i++) {
		uint16_t head = 0;

		if (ring->slots[i].serial == VUBLK_DRIVER_RING_NONE)
			continue;
		VUBLK_FIELD(fields, head);
		if (!find_request(plane, index, (uint16_t)i, head, seen))
			return false;
	}
	return true;
}

/* Reads a ring of the back-end. The sections of the log and of the requests must have been read. */
static int read_ring(struct vublk_plane *plane, struct vublk_fields *fields,
		     struct vublk_error *error)
{
	struct vublk_plane_side_queue *queue;
	unsigned index, size = 0;
	int r;

	if (!find_queue(plane, fields, &index) || !plane->side || plane->side->queues[index].ring.size)
		return contradiction(error, "there is no queue", index);
	queue = &plane->side->queues[index];
	VUBLK_FIELD(fields, size);
	if (!size || size > plane->side->size)
		return contradiction(error, "an invalid size of ring", index);
	r = vublk_driver_ring_adopt(&queue->ring, &queue->memory->ring, size, plane->side->features,
				    error);
	if (r < 0)
		return r;
	vublk_driver_ring_fields(&queue->ring, fields);
	r = vublk_driver_ring_check(&queue->ring, error);
	if (!r && !find_requests(plane, index, fields))
		r = contradiction(error, "invalid requests of ring", index);
	return r;
}

/* --- completed writes ------------------------------------------------------------------------ */

static int read_log(struct vublk_plane *plane, struct vublk_fields *fields,
		    struct vublk_error *error)
{
	if (!plane->replay || plane->first)
		return vublk_error_set(error, EINVAL, "the state contains copies of completed writes, but "
				       "this device does not keep copies");
	return vublk_plane_replay_fields(plane, fields, error);
}

/* --- all of it ------------------------------------------------------------------------------- */

const char *vublk_plane_handover_obstacle(const struct vublk_plane *plane)
{
	if (plane->side && plane->side->is_broken)
		return "the back-end has broken a shadow ring";
	if (plane->fault && vublk_fault_happened(plane->fault))
		return "a page of the guest's memory was removed";
	if (plane->hooks & VUBLK_PLANE_HOOK_FAIL_FLUSH)
		return "the driver's next flush has to fail, because the back-end failed a flush that the device sent";
	if (plane->replay && !vublk_plane_replay_may_move(plane))
		return "completed writes are being repeated to the back-end";
	return NULL;
}

/* The ready lists are not written, because vublk_plane_take_end() rebuilds them from the slots. */
void vublk_plane_give(struct vublk_plane *plane, struct vublk_sections_writer *to)
{
	struct vublk_fields fields;

	begin(to, "plane", &fields);
	visit_plane(plane, &fields);
	if (plane->replay) {
		begin(to, "plane-log", &fields);
		vublk_plane_replay_fields(plane, &fields, NULL);
	}
	for (unsigned i = 0; i < plane->num_queues; i++) {
		if (plane->queues[i].phase == VUBLK_PLANE_QUEUE_UNUSED)
			continue;
		begin(to, "plane-queue", &fields);
		vublk_section_put(to, i);
		visit_queue(&plane->queues[i], &fields);
	}
	for (struct vublk_plane_slot *slot = plane->first; slot; slot = slot->next)
		give_slot(plane, slot, to);
	for (unsigned i = 0; plane->side && i < plane->num_queues; i++)
		if (plane->side->queues[i].ring.size)
			give_ring(plane, i, to);
}

static const struct {
	const char *name;
	int (*read)(struct vublk_plane *plane, struct vublk_fields *fields,
		    struct vublk_error *error);
} sections[] = {
	{ "plane", read_plane },
	{ "plane-log", read_log },
	{ "plane-queue", read_queue },
	{ "plane-slot", read_slot },
	{ "plane-ring", read_ring },
};

int vublk_plane_take_section(struct vublk_plane *plane, struct vublk_section *from,
			     struct vublk_error *error)
{
	struct vublk_fields fields = { .from = from };

	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(sections); i++)
		if (!strcmp(sections[i].name, from->name))
			return sections[i].read(plane, &fields, error);
	return vublk_error_set(error, EINVAL, "the state of the shadow rings has the "
			       "unknown section '%s'", from->name);
}

/* Returns whether each chain on the ring is a request of the driver or the plane's own flush. */
static bool has_owners(const struct vublk_plane *plane, const struct vublk_plane_side_queue *queue)
{
	for (unsigned i = 0; i < queue->ring.size; i++)
		if (queue->ring.slots[i].serial != VUBLK_DRIVER_RING_NONE &&
		    !queue->slots[i] != vublk_plane_replay_owns(plane, queue, (uint16_t)i))
			return false;
	return true;
}

/*
 * Counts the chains on the back-end's rings. Error: EINVAL if a queue in use has no ring, an unused
 * queue has a ring, or a chain has no owner.
 */
static int count_chains(const struct vublk_plane *plane, unsigned *count)
{
	*count = 0;
	for (unsigned i = 0; plane->side && i < plane->num_queues; i++) {
		const struct vublk_driver_ring *ring = &plane->side->queues[i].ring;
		bool is_used = plane->queues[i].phase != VUBLK_PLANE_QUEUE_UNUSED;

		if (is_used != (ring->size > 0) || !has_owners(plane, &plane->side->queues[i]))
			return -EINVAL;
		*count += vublk_driver_ring_outstanding(ring);
	}
	return 0;
}

int vublk_plane_take_end(struct vublk_plane *plane, struct vublk_error *error)
{
	unsigned own = plane->replay ? plane->replay->num_own : 0;
	unsigned awaiting = plane->replay ? plane->replay->num_awaiting : 0;
	unsigned num_chains;

	if (count_chains(plane, &num_chains) < 0 ||
	    num_chains != plane->num_submitted - awaiting + own)
		return contradiction(error, "the rings do not have all submitted requests, "
				     "whose number is", plane->num_submitted);
	if (plane->replay && (plane->replay->phase == VUBLK_PLANE_REPLAY_IDLE) != !plane->side)
		return contradiction(error, "the presence of a back-end contradicts the phase of "
				     "the replay,", plane->replay->phase);
	vublk_plane_begin_writes_again(plane);
	for (const struct vublk_plane_slot *slot = plane->first; slot; slot = slot->next)
		if (slot->state == VUBLK_PLANE_SLOT_SUBMITTED && slot->order.num_blockers)
			return contradiction(error, "a write was submitted too early in queue",
					     slot->queue);
	vublk_plane_sort_held(plane);
	plane->has_ended = true; /* the first round tries each held request */
	return 0;
}
