/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Makes a mock execute requests; see the header. */
#include "harness.h"

#include "mock/executor.h"

#include "device/device.h"
#include "util/checked.h"
#include "util/fd.h"
#include "util/memfd.h"
#include "virtio/blk-format.h"

#include <string.h>
#include <sys/socket.h>

/* --- the ring -------------------------------------------------------------------------------- */

void executor_stop(struct executor *executor)
{
	vublk_device_ring_deinit(&executor->ring);
	executor->ring.size = 0;
	vublk_unmap(executor->regions[1].host, executor->regions[1].size_bytes);
	memset(executor->regions, 0, sizeof(executor->regions));
	executor->num_held = 0;
	executor->is_awake = false;
}

/*
 * The mirror's target uses the rings of the mirror. The other back-ends, and the target after a
 * switch, use those of the plane, or the driver's.
 */
static const struct vublk_plane_side *find_side(const struct executor *executor)
{
	const struct vublk_device *device = executor->rig->device;
	bool is_target = device->mirror.side && !strcmp(device->mirror.target, executor->mock->path);

	return is_target ? device->mirror.side : device->shadow.side;
}

/* Maps the region itself, because the device frees a side before the mock sees the loss. */
static void map_memory(struct executor *executor)
{
	const struct vublk_plane_side *side = find_side(executor);

	executor->regions[0] = (struct vublk_memory_map_region){
		RIG_GUEST_ADDR, RIG_GUEST_ADDR, RIG_MEMORY_BYTES, executor->rig->memory,
	};
	executor->map = (struct vublk_memory_map){ 1, executor->regions };
	if (!side)
		return;
	executor->regions[1] = (struct vublk_memory_map_region){
		VUBLK_PLANE_REGION_ADDR, VUBLK_PLANE_REGION_ADDR, side->region.bytes,
		vublk_map_shared(side->region.fd, 0, side->region.bytes, NULL),
	};
	assert_non_null(executor->regions[1].host);
	executor->map.num_regions = 2;
}

static void start_ring(struct executor *executor)
{
	const struct mock *mock = executor->mock;
	const struct vhost_vring_addr *addr = &mock->given_addrs[0];
	struct vublk_split_ring memory;

	executor_stop(executor);
	map_memory(executor);
	memory.desc = vublk_memory_map_user(&executor->map, addr->desc_user_addr,
					    vublk_split_desc_bytes(RIG_QUEUE_SIZE));
	memory.avail = vublk_memory_map_user(&executor->map, addr->avail_user_addr,
					     vublk_split_avail_bytes(RIG_QUEUE_SIZE));
	memory.used = vublk_memory_map_user(&executor->map, addr->used_user_addr,
					    vublk_split_used_bytes(RIG_QUEUE_SIZE));
	assert_true(memory.desc && memory.avail && memory.used);
	assert_int_equal(vublk_device_ring_init(&executor->ring, &memory, RIG_QUEUE_SIZE,
						mock->given_bases[0], mock->accepted_features,
						NULL), 0);
	vublk_device_ring_enable_kicks(&executor->ring);
}

/* --- requests -------------------------------------------------------------------------------- */

/* Copies up to `bytes` bytes between the disk and the iovecs, and returns how many. */
static size_t move(char *disk, size_t bytes, const struct iovec *iov, unsigned count, bool reads)
{
	size_t done = 0;

	for (unsigned i = 0; i < count; i++) {
		size_t part = VUBLK_MIN(iov[i].iov_len, bytes - done);

		memcpy(reads ? iov[i].iov_base : disk + done, reads ? disk + done : iov[i].iov_base,
		       part);
		done += part;
	}
	return done;
}

static size_t execute(struct executor *executor, const struct executor_request *request)
{
	const struct vublk_chain *chain = &request->chain;
	const struct virtio_blk_outhdr *header = request->iov[0].iov_base;
	unsigned last = chain->num_out + chain->num_in - 1;
	uint64_t at = header->sector << VUBLK_SECTOR_SHIFT;
	size_t bytes = 0;

	assert_true(request->iov[0].iov_len == sizeof(*header) && request->iov[last].iov_len == 1);
	assert_true(at < EXECUTOR_DISK_BYTES);
	if (header->type == VIRTIO_BLK_T_IN)
		bytes = move(executor->disk + at, EXECUTOR_DISK_BYTES - at,
			     &request->iov[chain->num_out], chain->num_in - 1, true);
	else if (header->type == VIRTIO_BLK_T_OUT)
		move(executor->disk + at, EXECUTOR_DISK_BYTES - at, &request->iov[1],
		     chain->num_out - 1, false);
	*(uint8_t *)request->iov[last].iov_base = VIRTIO_BLK_S_OK;
	return bytes + 1;
}

static void complete_one(struct executor *executor)
{
	struct executor_request *request = &executor->held[0];
	size_t bytes = execute(executor, request);

	vublk_device_ring_push(&executor->ring, request->chain.head, (uint32_t)bytes);
	executor->num_held--;
	for (unsigned i = 0; i < executor->num_held; i++) {
		executor->held[i] = executor->held[i + 1];
		executor->held[i].chain.iov = executor->held[i].iov;
	}
	if (vublk_device_ring_publish(&executor->ring) && executor->mock->call_fds[0] >= 0)
		vublk_eventfd_signal(executor->mock->call_fds[0]);
}

/* Returns false if there is no request, or the ring is not the driver's any more. */
static bool take_one(struct executor *executor)
{
	struct executor_request *request = &executor->held[executor->num_held];
	struct vublk_error error;
	int r;

	request->chain = (struct vublk_chain){ .max_iov = EXECUTOR_MAX_IOV, .iov = request->iov };
	r = vublk_device_ring_take(&executor->ring, &executor->map, &request->chain, &error);
	if (r < 0)
		fail_msg("%s", error.text);
	executor->num_held += (unsigned)r;
	return r;
}

static bool take(struct executor *executor)
{
	bool worked = false;

	if (executor->mock->kick_fds[0] >= 0 && vublk_eventfd_clear(executor->mock->kick_fds[0]) == 1)
		executor->is_awake = true;
	while (executor->is_awake && executor->num_held < RIG_QUEUE_SIZE) {
		if (take_one(executor))
			worked = true;
		else if (vublk_device_ring_enable_kicks(&executor->ring))
			executor->is_awake = false;
	}
	return worked;
}

/* --- messages -------------------------------------------------------------------------------- */

/* Returns the request type of the next message, or 0 if no message has arrived. */
static uint32_t peek(const struct mock *mock)
{
	struct vublk_vu_header header;

	return recv(mock->channel.fd, &header, sizeof(header), MSG_PEEK | MSG_DONTWAIT) ==
		       (ssize_t)sizeof(header) ? header.request : 0;
}

static void return_ring(struct executor *executor)
{
	while (executor->num_held)
		complete_one(executor);
	executor->mock->base = vublk_device_ring_base(&executor->ring);
	executor_stop(executor);
}

static bool handle_message(struct executor *executor)
{
	struct mock *mock = executor->mock;
	uint32_t request;
	bool worked;

	if (mock->channel.fd < 0) {
		executor_stop(executor);
		return mock_pump(mock);
	}
	request = peek(mock);
	if (request == VUBLK_VU_GET_VRING_BASE && executor->ring.size)
		return_ring(executor);
	worked = mock_pump_once(mock);
	if (mock->channel.fd < 0)
		executor_stop(executor);
	else if (worked && request == VUBLK_VU_SET_VRING_KICK && !executor->ring.size)
		start_ring(executor);
	return worked;
}

bool executor_turn(struct executor *executor)
{
	bool worked = handle_message(executor);

	if (!executor->ring.size)
		return worked;
	worked |= take(executor);
	if (executor->num_held && ++executor->num_turns > executor->delay) {
		executor->num_turns = 0;
		complete_one(executor);
	}
	return worked || executor->num_held;
}
