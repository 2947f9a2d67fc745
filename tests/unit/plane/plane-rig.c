/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "plane-rig.h"

#include "harness.h"

#include "util/checked.h"
#include "virtio/blk-format.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SLOT_BYTES 4096 /* of memory for each request of the driver */

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

static const struct vublk_plane_ops ops = { on_side_broke, on_queue_broke };

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
	struct vublk_plane_setup setups[RIG_MAX_QUEUES];

	*rig = (struct plane_rig){ .num_queues = num_queues, .size = size, .features = features };
	rig->fault.fd = -1;
	rig->region = (struct vublk_memory_map_region){
		RIG_BASE, RIG_BASE, RIG_BYTES, calloc(1, RIG_BYTES),
	};
	rig->map = (struct vublk_memory_map){ 1, &rig->region };
	for (unsigned i = 0; i < num_queues; i++)
		init_queue(rig, i, base, &setups[i]);
	assert_int_equal(vublk_plane_init(&rig->plane, num_queues, 32, &ops, rig, NULL, &rig->limit,
					  NULL), 0);
	assert_int_equal(vublk_plane_attach(&rig->plane, setups, features, &rig->map, &rig->fault,
					    NULL), 0);
}

static void free_side(struct plane_rig *rig)
{
	for (unsigned i = 0; rig->side && i < rig->num_queues; i++)
		vublk_device_ring_deinit(&rig->devices[i]);
	vublk_plane_side_free(rig->side);
	rig->side = NULL;
}

void rig_connect(struct plane_rig *rig)
{
	uint16_t sizes[RIG_MAX_QUEUES];

	for (unsigned i = 0; i < rig->num_queues; i++)
		sizes[i] = (uint16_t)rig->size;
	assert_int_equal(vublk_plane_side_new(rig->num_queues, rig->size, 32, &rig->side, NULL), 0);
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
							rig->size, 0, rig->features, NULL), 0);
	vublk_plane_set_side(&rig->plane, rig->side);
}

void rig_lose(struct plane_rig *rig)
{
	vublk_plane_lose_side(&rig->plane);
	free_side(rig);
}

void rig_deinit(struct plane_rig *rig)
{
	rig_lose(rig);
	vublk_plane_detach(&rig->plane);
	vublk_plane_deinit(&rig->plane);
	for (unsigned i = 0; i < rig->num_queues; i++)
		vublk_driver_ring_deinit(&rig->drivers[i]);
	free(rig->region.host);
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

/* The data is one buffer for each sector. */
int rig_add(struct plane_rig *rig, unsigned queue, uint16_t token, const struct rig_request *request)
{
	struct vublk_ring_buffer buffers[2 + RIG_SECTORS];
	bool is_read = request->type == VIRTIO_BLK_T_IN;
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
	vublk_driver_ring_publish(&rig->drivers[queue]);
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

bool rig_backend_take(struct plane_rig *rig, unsigned queue, struct rig_chain *chain)
{
	struct vublk_error error;
	int r;

	chain->chain = (struct vublk_chain){ .max_iov = VUBLK_PLANE_MAX_IOV, .iov = chain->iov };
	r = vublk_device_ring_take(&rig->devices[queue], &rig->side_map, &chain->chain, &error);
	if (r < 0)
		fail_msg("the plane made a ring that is wrong: %s", error.text);
	if (!r)
		return false;
	assert_int_equal(chain->iov[0].iov_len, sizeof(chain->header));
	memcpy(&chain->header, chain->iov[0].iov_base, sizeof(chain->header));
	chain->status = chain->iov[chain->chain.num_out + chain->chain.num_in - 1].iov_base;
	return true;
}

void rig_backend_push(struct plane_rig *rig, unsigned queue, const struct rig_chain *chain,
		      uint8_t status)
{
	*chain->status = status;
	vublk_device_ring_push(&rig->devices[queue], chain->chain.head, 1);
}

void rig_backend_publish(struct plane_rig *rig, unsigned queue)
{
	vublk_device_ring_publish(&rig->devices[queue]);
}
