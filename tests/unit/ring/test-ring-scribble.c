/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A second thread writes to the rings all the time, as a hostile peer can. Most values are nearly
 * valid, because random values would be refused at the first check. The cases check that the
 * results of the tested end lie in the driver's memory and do not exceed the caller's arrays. The
 * sanitizers find other errors.
 */
#include "harness.h"
#include "ring-rig.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "virtio/split.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define EVENT_IDX VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX)
#define INDIRECT VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC)

#ifdef VUBLK_TSAN
#define ROUNDS 20000
#else
#define ROUNDS 200000
#endif

#define SIZE 16
#define DATA_BYTES (4 * 4096)
#define TABLE_ENTRIES 16
#define MAX_IOV 24

struct scribbler {
	struct ring_rig rig;
	struct rig_random random;
	pthread_t thread;
	bool stop;
};

static struct scribbler scribbler;

static unsigned below(unsigned bound)
{
	return rig_random_below(&scribbler.random, bound);
}

/* Writes a descriptor, which is usually valid. */
static void scribble_desc(struct vring_desc *desc, unsigned entries)
{
	uint64_t addr = RIG_GUEST_BASE + below(DATA_BYTES);
	uint32_t bytes = 1 + below(600);
	uint16_t flags = (uint16_t)(below(2) ? VRING_DESC_F_NEXT : 0);

	if (below(3) == 0)
		flags |= VRING_DESC_F_WRITE;
	if (below(8) == 0) {
		flags = VRING_DESC_F_INDIRECT;
		addr = RIG_GUEST_BASE + 4096 - 32;
		bytes = 16 * (1 + below(TABLE_ENTRIES));
	}
	if (below(50) == 0)
		addr = rig_random(&scribbler.random);
	if (below(50) == 0)
		bytes = (uint32_t)rig_random(&scribbler.random);
	vublk_split_write_desc(desc, addr, bytes, flags,
			       (uint16_t)below(entries + (below(50) == 0)));
}

/* Writes to the ring, mostly as a driver does, while our device end reads it. */
static void scribble_as_driver(void)
{
	const struct vublk_split_ring *memory = &scribbler.rig.memory;
	uint16_t index = vublk_load_relaxed(&memory->avail->idx);

	scribble_desc(&memory->desc[below(SIZE)], SIZE);
#ifndef VUBLK_TSAN /* our device end copies tables by memcpy(), which TSan rightly reports */
	scribble_desc(rig_data(&scribbler.rig, RIG_GUEST_BASE + 4096 - 32 + 16 * below(TABLE_ENTRIES)),
		      TABLE_ENTRIES);
#endif
	vublk_store_relaxed(&memory->avail->ring[below(SIZE)], below(SIZE + (below(100) == 0)));
	if (below(4) == 0)
		vublk_store_relaxed(&memory->avail->idx, index + 1);
	if (below(2000) == 0)
		vublk_store_relaxed(&memory->avail->idx, index + below(65536));
	vublk_store_relaxed(vublk_split_used_event(memory, SIZE), below(65536));
	vublk_store_relaxed(&memory->avail->flags, below(2));
	vublk_store_relaxed(&memory->used->idx, below(65536));
}

/* Writes to the ring, mostly as a device does, while our driver end reads it. */
static void scribble_as_device(void)
{
	const struct vublk_split_ring *memory = &scribbler.rig.memory;
	uint16_t index = vublk_load_relaxed(&memory->used->idx);

	vublk_store_relaxed(&memory->used->ring[below(SIZE)].id, below(SIZE + (below(50) == 0)));
	vublk_store_relaxed(&memory->used->ring[below(SIZE)].len, below(65536));
	if (below(4) == 0)
		vublk_store_relaxed(&memory->used->idx, index + 1);
	if (below(2000) == 0)
		vublk_store_relaxed(&memory->used->idx, index + below(65536));
	vublk_store_relaxed(vublk_split_avail_event(memory, SIZE), below(65536));
	vublk_store_relaxed(&memory->used->flags, below(2));
	scribble_desc(&memory->desc[below(SIZE)], SIZE);
	vublk_store_relaxed(&memory->avail->ring[below(SIZE)], below(65536));
	vublk_store_relaxed(&memory->avail->idx, below(65536));
}

static void *run_as_driver(void *opaque)
{
	while (!vublk_load_relaxed(&scribbler.stop))
		scribble_as_driver();
	return NULL;
}

static void *run_as_device(void *opaque)
{
	while (!vublk_load_relaxed(&scribbler.stop))
		scribble_as_device();
	return NULL;
}

static void start(void *(*run)(void *), uint64_t features)
{
	scribbler = (struct scribbler){ .random = { 987654321 } };
	rig_init(&scribbler.rig, &(struct rig_config){ SIZE, 0, features, DATA_BYTES, 4, true });
	assert_int_equal(pthread_create(&scribbler.thread, NULL, run, NULL), 0);
}

static void stop(void)
{
	vublk_store_relaxed(&scribbler.stop, true);
	pthread_join(scribbler.thread, NULL);
	rig_deinit(&scribbler.rig);
}

/* --- the device end under a scribbling driver ------------------------------ */

static void check_segment(const struct iovec *segment)
{
	const struct ring_rig *rig = &scribbler.rig;
	uint64_t offset = (uint64_t)((char *)segment->iov_base - rig->data);

	assert_true(segment->iov_len > 0);
	assert_true(vublk_range_within(offset, segment->iov_len, rig->data_bytes));
}

static void check_chain(const struct vublk_chain *chain)
{
	uint64_t bytes[2] = { 0 };

	assert_true(chain->head < SIZE);
	assert_true(chain->num_out + chain->num_in >= 1);
	assert_true(chain->num_out + chain->num_in <= MAX_IOV);
	for (unsigned i = 0; i < chain->num_out + chain->num_in; i++) {
		check_segment(&chain->iov[i]);
		bytes[i >= chain->num_out] += chain->iov[i].iov_len;
	}
	assert_int_equal(bytes[0], chain->out_bytes);
	assert_int_equal(bytes[1], chain->in_bytes);
}

/* Makes a new device end, which starts at the current avail index. */
static void restart_device(uint64_t features)
{
	struct ring_rig *rig = &scribbler.rig;
	uint16_t base = vublk_load_relaxed(&rig->memory.avail->idx);

	vublk_device_ring_deinit(&rig->device);
	assert_int_equal(vublk_device_ring_init(&rig->device, &rig->memory, SIZE, base, features,
						NULL), 0);
}

static void device_under_fire(uint64_t features)
{
	struct iovec iov[MAX_IOV];
	struct vublk_chain chain = { .max_iov = MAX_IOV, .iov = iov };
	unsigned good = 0, malformed = 0, broken = 0;

	start(run_as_driver, features);
	while (good < ROUNDS || !malformed || !broken) {
		struct vublk_error error = { 0 };
		int ret = vublk_device_ring_take(&scribbler.rig.device, &scribbler.rig.map, &chain,
						 &error);

		if (ret == 0) {
			vublk_device_ring_enable_kicks(&scribbler.rig.device);
			sched_yield();
		} else if (ret == -EPROTO) {
			assert_true(error.text[0]);
			broken++;
			restart_device(features);
		} else {
			assert_true(ret == 1 || ret == -EBADMSG);
			if (ret == 1)
				check_chain(&chain);
			good += ret == 1;
			malformed += ret == -EBADMSG;
			vublk_device_ring_push(&scribbler.rig.device, chain.head, 0);
			vublk_device_ring_publish(&scribbler.rig.device);
		}
	}
	print_message("%u good, %u malformed, %u broken\n", good, malformed, broken);
	stop();
}

static void test_device_end_direct(void **state)
{
	device_under_fire(0);
}

static void test_device_end_indirect(void **state)
{
	device_under_fire(INDIRECT | EVENT_IDX);
}

/* --- the driver end under a scribbling device ------------------------------ */

struct tokens {
	bool outstanding[SIZE];
	unsigned count;
};

static void add_some(struct tokens *tokens)
{
	const struct vublk_ring_buffer buffers[2] = { { RIG_GUEST_BASE, 16 }, { RIG_GUEST_BASE, 16 } };
	struct ring_rig *rig = &scribbler.rig;

	for (uint16_t token = 0; token < SIZE; token++) {
		int ret;

		if (tokens->outstanding[token])
			continue;
		ret = vublk_driver_ring_add(&rig->driver, buffers, 1, token & 1, NULL, token);
		if (ret < 0) {
			assert_int_equal(ret, -ENOSPC);
			break;
		}
		tokens->outstanding[token] = true;
		tokens->count++;
	}
	assert_int_equal(vublk_driver_ring_outstanding(&rig->driver), tokens->count);
	vublk_driver_ring_publish(&rig->driver);
}

static void restart_driver(struct tokens *tokens)
{
	struct ring_rig *rig = &scribbler.rig;

	*tokens = (struct tokens){ 0 };
	vublk_driver_ring_deinit(&rig->driver);
	assert_int_equal(vublk_driver_ring_init(&rig->driver, &rig->memory, SIZE, 65530, 0, NULL),
			 0);
}

static void test_driver_end(void **state)
{
	struct tokens tokens = { 0 };
	unsigned good = 0, broken = 0;

	start(run_as_device, 0);
	while (good < ROUNDS || !broken) {
		struct vublk_error error = { 0 };
		uint16_t token = SIZE;
		uint32_t bytes;
		int ret;

		add_some(&tokens);
		ret = vublk_driver_ring_take(&scribbler.rig.driver, &token, &bytes, &error);
		if (ret == 1) {
			assert_true(token < SIZE && tokens.outstanding[token]);
			tokens.outstanding[token] = false;
			tokens.count--;
			good++;
		} else if (ret == 0) {
			vublk_driver_ring_enable_calls(&scribbler.rig.driver);
			sched_yield();
		} else {
			assert_int_equal(ret, -EPROTO);
			assert_true(error.text[0]);
			broken++;
			restart_driver(&tokens);
		}
	}
	print_message("%u good, %u broken\n", good, broken);
	stop();
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST_LONG(test_device_end_direct, 400),
		VUBLK_TEST_LONG(test_device_end_indirect, 400),
		VUBLK_TEST_LONG(test_driver_end, 400),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
