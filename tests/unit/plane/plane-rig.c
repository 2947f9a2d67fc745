/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "plane-rig.h"

#include "harness.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "virtio/blk-format.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define SLOT_BYTES 8192 /* of guest memory for each request */

static void on_side_broke(void *opaque, const struct vublk_error *error)
{
	struct plane_rig *rig = opaque;

	rig->side_broke++;
	rig->error = *error;
}

static void on_queue_broke(void *opaque, unsigned index, const struct vublk_error *error)
{
	struct plane_rig *rig = opaque;

	rig->queue_broke++;
	rig->error = *error;
}

static void on_mirror_failed(void *opaque, const struct vublk_error *error)
{
	struct plane_rig *rig = opaque;

	rig->mirror_failed++;
	rig->error = *error;
}

static void on_mirror_synced(void *opaque)
{
	struct plane_rig *rig = opaque;

	rig->mirror_synced++;
}

static const struct vublk_plane_ops ops = {
	.side_broke = on_side_broke,
	.queue_broke = on_queue_broke,
	.mirror_failed = on_mirror_failed,
	.mirror_synced = on_mirror_synced,
};

void *rig_host(struct plane_rig *rig, uint64_t addr)
{
	return rig->region.host + (addr - RIG_BASE);
}

static uint64_t ring_addr(unsigned queue)
{
	return RIG_BASE + queue * RIG_RING_BYTES;
}

static uint64_t slot_addr(const struct plane_rig *rig, unsigned queue, uint16_t token)
{
	return ring_addr(rig->num_queues) + (uint64_t)(queue * rig->size + token) * SLOT_BYTES;
}

uint64_t rig_header(const struct plane_rig *rig, unsigned queue, uint16_t token)
{
	return slot_addr(rig, queue, token);
}

uint64_t rig_data(const struct plane_rig *rig, unsigned queue, uint16_t token)
{
	return slot_addr(rig, queue, token) + 64;
}

uint64_t rig_status(const struct plane_rig *rig, unsigned queue, uint16_t token)
{
	return slot_addr(rig, queue, token) + 32;
}

/* --- set-up --------------------------------------------------------------- */

static void init_queue(struct plane_rig *rig, unsigned queue, uint16_t base,
		       struct vublk_plane_setup *setup)
{
	struct vublk_split_ring memory;

	*setup = (struct vublk_plane_setup){
		.size = (uint16_t)rig->size,
		.base = base,
		.desc_addr = ring_addr(queue),
		.avail_addr = ring_addr(queue) + 0x8000,
		.used_addr = ring_addr(queue) + 0x10000,
		.kick_fd = -1,
		.call_fd = -1,
	};
	memory.desc = rig_host(rig, setup->desc_addr);
	memory.avail = rig_host(rig, setup->avail_addr);
	memory.used = rig_host(rig, setup->used_addr);
	assert_int_equal(vublk_driver_ring_init(&rig->drivers[queue], &memory, rig->size, base,
						rig->features, NULL), 0);
}

void rig_init(struct plane_rig *rig, unsigned num_queues, unsigned size, uint16_t base,
	      uint64_t features)
{
	*rig = (struct plane_rig){
		.num_queues = num_queues, .size = size, .side_size = size, .features = features,
	};
	rig->fault.fd = -1;
	rig->region = (struct vublk_memory_map_region){
		RIG_BASE, RIG_BASE, RIG_BYTES, calloc(1, RIG_BYTES),
	};
	rig->map = (struct vublk_memory_map){ 1, &rig->region };
	for (unsigned i = 0; i < num_queues; i++)
		init_queue(rig, i, base, &rig->setups[i]);
	assert_int_equal(vublk_plane_init(&rig->plane, num_queues, RIG_MAX_SEGMENTS, &ops, rig, NULL, &rig->limit,
					  NULL), 0);
	assert_int_equal(vublk_plane_attach(&rig->plane, rig->setups, features, &rig->map, &rig->fault,
					    NULL), 0);
}

void rig_keep_writes(struct plane_rig *rig, uint64_t bytes)
{
	rig->log_bytes = bytes;
	assert_int_equal(vublk_plane_keep_writes(&rig->plane, bytes, NULL), 0);
}

static void free_side(struct plane_rig *rig)
{
	for (unsigned i = 0; rig->side && i < rig->num_queues; i++)
		vublk_device_ring_deinit(&rig->devices[i]);
	vublk_plane_side_free(rig->side);
	rig->side = NULL;
	while (rig->num_old_sides)
		vublk_plane_side_free(rig->old_sides[--rig->num_old_sides]);
}

void rig_connect(struct plane_rig *rig)
{
	uint16_t sizes[RIG_MAX_QUEUES];

	for (unsigned i = 0; i < rig->num_queues; i++)
		sizes[i] = (uint16_t)rig->side_size;
	assert_int_equal(vublk_plane_side_new(rig->num_queues, rig->side_size, RIG_MAX_SEGMENTS,
					      rig->plane.replay, &rig->side, NULL), 0);
	assert_int_equal(vublk_plane_side_reset(rig->side, sizes, rig->features, NULL), 0);
	rig->side_regions[0] = rig->region;
	rig->side_regions[1] = (struct vublk_memory_map_region){
		VUBLK_PLANE_REGION_ADDR, VUBLK_PLANE_REGION_ADDR, rig->side->region.bytes,
		rig->side->region.host,
	};
	rig->side_map = (struct vublk_memory_map){ 2, rig->side_regions };
	for (unsigned i = 0; i < rig->num_queues; i++)
		assert_int_equal(vublk_device_ring_init(&rig->devices[i],
							&rig->side->region.queues[i].ring,
							rig->side_size, 0, rig->features, NULL), 0);
	vublk_plane_set_side(&rig->plane, rig->side);
	rig->is_notified = true;
}

void rig_lose(struct plane_rig *rig)
{
	vublk_plane_lose_side(&rig->plane);
	free_side(rig);
}

void rig_deinit(struct plane_rig *rig)
{
	rig_end_mirror(rig);
	rig_lose(rig);
	vublk_plane_detach(&rig->plane);
	vublk_plane_deinit(&rig->plane);
	for (unsigned i = 0; i < rig->num_queues; i++)
		vublk_driver_ring_deinit(&rig->drivers[i]);
	free(rig->region.host);
}

/* --- another plane ----------------------------------------------------------- */

void rig_give(struct plane_rig *rig, struct vublk_sections_writer *to)
{
	*to = (struct vublk_sections_writer){ .failed = false };
	if (rig->side)
		vublk_plane_side_give(rig->side, to);
	vublk_plane_give(&rig->plane, to);
	assert_false(to->failed);
}

struct taking {
	struct plane_rig *rig;
	struct rig_successor *next;
};

static int read_side(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct taking *taking = owner;
	struct plane_rig *rig = taking->rig;

	if (taking->next->side)
		return vublk_error_set(error, EINVAL, "a second side");
	return vublk_plane_side_take(from, rig->num_queues, rig->side_size, RIG_MAX_SEGMENTS,
				     rig->log_bytes, &taking->next->side, error);
}

/* Sets the side first, as the device does before it reads the sections of the plane. */
static int read_plane(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct taking *taking = owner;

	taking->next->plane.side = taking->next->side;
	return vublk_plane_take_section(&taking->next->plane, from, error);
}

static const struct vublk_section_type sections[] = {
	{ "plane-side", false, read_side }, { "plane", false, read_plane },
	{ "plane-log", false, read_plane }, { "plane-queue", false, read_plane },
	{ "plane-slot", false, read_plane }, { "plane-ring", false, read_plane },
	{ NULL },
};

static void init_successor(struct plane_rig *rig, struct rig_successor *next)
{
	struct vublk_plane *plane = &next->plane;

	*next = (struct rig_successor){ .error.code = 0 };
	assert_int_equal(vublk_plane_init(plane, rig->num_queues, RIG_MAX_SEGMENTS, &ops, rig, NULL,
					  &rig->limit, NULL), 0);
	if (rig->log_bytes)
		assert_int_equal(vublk_plane_keep_writes(plane, rig->log_bytes, NULL), 0);
	plane->hooks = rig->plane.hooks;
	plane->limits = rig->plane.limits;
	plane->limits.num_waiting = 0;
	memset(plane->limits.num_of_kind, 0, sizeof(plane->limits.num_of_kind));
	for (unsigned i = 0; i < VUBLK_PLANE_NUM_BUCKETS; i++) {
		plane->limits.requests[i].paid_ns = plane->limits.requests[i].rest = 0;
		plane->limits.bytes[i].paid_ns = plane->limits.bytes[i].rest = 0;
	}
	plane->counts.slow_ns = rig->plane.counts.slow_ns;
	plane->now_ns = rig->plane.now_ns;
	assert_int_equal(vublk_plane_adopt(plane, rig->setups, rig->features, &rig->map,
					   &rig->fault, NULL), 0);
}

int rig_take_over(struct plane_rig *rig, const struct vublk_sections_writer *state,
		  struct rig_successor *next)
{
	struct taking taking = { rig, next };
	const struct vublk_section_table table = { sections, &taking };
	int *fds = malloc(state->num_fds * sizeof(*fds) + 1);
	struct vublk_sections_reader from = {
		state->bytes, state->num_bytes, fds, (unsigned)state->num_fds,
	};
	int r;

	for (size_t i = 0; i < state->num_fds; i++) {
		fds[i] = fcntl(state->fds[i], F_DUPFD_CLOEXEC, 0);
		assert_true(fds[i] >= 0);
	}
	init_successor(rig, next);
	r = vublk_sections_read(&from, &table, 1, &next->error);
	if (!r)
		r = vublk_plane_take_end(&next->plane, &next->error);
	for (size_t i = 0; i < state->num_fds; i++)
		vublk_fd_close(&fds[i]);
	free(fds);
	return r;
}

static void free_plane(struct vublk_plane *plane)
{
	plane->side = NULL; /* the rings belong to another plane */
	vublk_plane_detach(plane);
	vublk_plane_deinit(plane);
}

void rig_discard(struct plane_rig *rig, struct rig_successor *next)
{
	free_plane(&next->plane);
	vublk_plane_side_free(next->side);
}

void rig_install(struct plane_rig *rig, struct rig_successor *next)
{
	free_plane(&rig->plane);
	if (rig->side)
		rig->old_sides[rig->num_old_sides++] = rig->side;
	rig->plane = next->plane;
	/* The order of the writes has pointers into the struct's old copy, so it is built again. */
	for (struct vublk_plane_slot *slot = rig->plane.first; slot; slot = slot->next)
		slot->order = (struct vublk_order_write){ 0 };
	vublk_order_reset(&rig->plane.order);
	vublk_plane_begin_writes_again(&rig->plane);
	rig->side = next->side;
	rig->is_notified = true;
}

/* --- the driver -------------------------------------------------------------- */

static void fill_request(struct plane_rig *rig, unsigned queue, uint16_t token,
			 const struct rig_request *request)
{
	struct virtio_blk_outhdr *header = rig_host(rig, rig_header(rig, queue, token));
	uint64_t *data = rig_host(rig, rig_data(rig, queue, token));

	*header = (struct virtio_blk_outhdr){ .type = request->type, .sector = request->sector };
	*(uint8_t *)rig_host(rig, rig_status(rig, queue, token)) = 0x77;
	for (unsigned i = 0; i < request->num_sectors; i++)
		data[i * VUBLK_SECTOR_BYTES / sizeof(*data)] =
			request->type == VIRTIO_BLK_T_OUT ? request->id : 0;
}

int rig_add(struct plane_rig *rig, unsigned queue, uint16_t token, const struct rig_request *request)
{
	struct vublk_ring_buffer buffers[2 + RIG_SECTORS];
	bool is_read = request->type == VIRTIO_BLK_T_IN || request->type == VIRTIO_BLK_T_GET_ID;
	unsigned n = 0, num_in = 1;
	int r;

	buffers[n++] = (struct vublk_ring_buffer){ rig_header(rig, queue, token), 16 };
	for (unsigned i = 0; i < request->num_sectors; i++)
		buffers[n++] = (struct vublk_ring_buffer){
			rig_data(rig, queue, token) + i * VUBLK_SECTOR_BYTES, VUBLK_SECTOR_BYTES,
		};
	buffers[n++] = (struct vublk_ring_buffer){ rig_status(rig, queue, token), 1 };
	num_in += is_read ? request->num_sectors : 0;
	r = vublk_driver_ring_add(&rig->drivers[queue], buffers, n - num_in, num_in, NULL, token);
	if (r)
		return r;
	fill_request(rig, queue, token, request);
	rig->requests[queue][token] = *request;
	rig->requests[queue][token].is_used = true;
	rig->outstanding++;
	rig->is_notified |= vublk_driver_ring_publish(&rig->drivers[queue]);
	return 0;
}

bool rig_take(struct plane_rig *rig, unsigned queue, uint16_t *token, uint32_t *bytes)
{
	struct vublk_error error;
	int r = vublk_driver_ring_take(&rig->drivers[queue], token, bytes, &error);

	if (r < 0)
		fail_msg("the plane broke the driver's ring: %s", error.text);
	if (!r)
		return false;
	assert_true(rig->requests[queue][*token].is_used);
	rig->requests[queue][*token].is_used = false;
	rig->outstanding--;
	return true;
}

/* --- the back-end -------------------------------------------------------------- */

static bool take_chain(struct vublk_device_ring *device, const struct vublk_memory_map *map,
		       struct rig_chain *chain)
{
	struct vublk_error error;
	int r;

	chain->chain = (struct vublk_chain){ .max_iov = VUBLK_PLANE_MAX_IOV, .iov = chain->iov };
	r = vublk_device_ring_take(device, map, &chain->chain, &error);
	if (r < 0)
		fail_msg("the plane made a ring that is wrong: %s", error.text);
	if (!r)
		return false;
	assert_int_equal(chain->iov[0].iov_len, sizeof(chain->header));
	memcpy(&chain->header, chain->iov[0].iov_base, sizeof(chain->header));
	chain->status = chain->iov[chain->chain.num_out + chain->chain.num_in - 1].iov_base;
	return true;
}

bool rig_backend_take(struct plane_rig *rig, unsigned queue, struct rig_chain *chain)
{
	return take_chain(&rig->devices[queue], &rig->side_map, chain);
}

void rig_backend_push(struct plane_rig *rig, unsigned queue, const struct rig_chain *chain,
		      uint8_t status)
{
	*chain->status = status;
	vublk_device_ring_push(&rig->devices[queue], chain->chain.head, 1);
}

void rig_backend_publish(struct plane_rig *rig, unsigned queue)
{
	rig->is_notified |= vublk_device_ring_publish(&rig->devices[queue]);
}

/* --- the target -------------------------------------------------------------------- */

/* The target has no access to the driver's memory. */
static void connect_target(struct plane_rig *rig, unsigned size)
{
	struct vublk_plane_side *side;
	uint16_t sizes[RIG_MAX_QUEUES];

	for (unsigned i = 0; i < rig->num_queues; i++)
		sizes[i] = (uint16_t)size;
	assert_int_equal(vublk_plane_side_new(rig->num_queues, size, 32, false, &side, NULL), 0);
	assert_int_equal(vublk_plane_side_reset(side, sizes, rig->features, NULL), 0);
	rig->target.side = side;
	rig->target.region = (struct vublk_memory_map_region){
		VUBLK_PLANE_REGION_ADDR, VUBLK_PLANE_REGION_ADDR, side->region.bytes,
		side->region.host,
	};
	rig->target.map = (struct vublk_memory_map){ 1, &rig->target.region };
	for (unsigned i = 0; i < rig->num_queues; i++)
		assert_int_equal(vublk_device_ring_init(&rig->target.devices[i],
							&side->region.queues[i].ring, size, 0,
							rig->features, NULL), 0);
}

int rig_mirror(struct plane_rig *rig, uint64_t bytes, uint64_t region_bytes, unsigned size,
	       uint64_t rate)
{
	struct vublk_plane_mirror_setup setup = {
		.bytes = bytes, .region_bytes = region_bytes, .rate = rate, .timeout_ms = 1000000,
	};
	int r;

	connect_target(rig, size);
	setup.target = rig->target.side;
	setup.state = rig->mirror_state;
	r = vublk_plane_mirror_begin(&rig->plane, &setup, NULL);
	if (r < 0)
		rig_end_mirror(rig);
	rig->is_notified = true;
	return r;
}

void rig_complete(struct plane_rig *rig, unsigned queue, uint8_t status)
{
	struct rig_chain chain;
	uint16_t token;
	uint32_t bytes;

	assert_true(rig_backend_take(rig, queue, &chain));
	rig_backend_push(rig, queue, &chain, status);
	rig_backend_publish(rig, queue);
	vublk_plane_work(&rig->plane);
	assert_true(rig_take(rig, queue, &token, &bytes));
}

void rig_end_mirror(struct plane_rig *rig)
{
	if (!rig->target.side)
		return;
	vublk_plane_mirror_end(&rig->plane);
	vublk_plane_mirror_close(&rig->plane);
	for (unsigned i = 0; i < rig->num_queues; i++)
		vublk_device_ring_deinit(&rig->target.devices[i]);
	vublk_plane_side_free(rig->target.side);
	rig->target.side = NULL;
	rig->is_notified = true;
}

bool rig_target_take(struct plane_rig *rig, unsigned queue, struct rig_chain *chain)
{
	return take_chain(&rig->target.devices[queue], &rig->target.map, chain);
}

void rig_target_push(struct plane_rig *rig, unsigned queue, const struct rig_chain *chain,
		     uint8_t status)
{
	*chain->status = status;
	vublk_device_ring_push(&rig->target.devices[queue], chain->chain.head, 1);
}

void rig_target_publish(struct plane_rig *rig, unsigned queue)
{
	rig->is_notified |= vublk_device_ring_publish(&rig->target.devices[queue]);
}
