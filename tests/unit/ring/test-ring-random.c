/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The driver's end and the device's end do random steps in random order. A model computes the
 * expected results: which chain is taken, with which segments and bytes; whether a chain fits; and
 * whether a kick or a call is wanted.
 *
 * In the model, an end can also sleep. It then takes nothing until it is woken or polls. A sleeping
 * end must not have anything to take, unless a wake-up is pending.
 */
#include "harness.h"
#include "ring-rig.h"

#include "util/checked.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define EVENT_IDX VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX)
#define INDIRECT VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC)
#define ON_EMPTY VUBLK_BIT(VIRTIO_F_NOTIFY_ON_EMPTY)

#define MAX_BUFFERS 6
#define MAX_BUFFER_BYTES 200
#define TABLE_BYTES (MAX_BUFFERS * 16)
/* The size of an area does not divide a page, so some buffers and tables span two regions. */
#define AREA_BYTES (TABLE_BYTES + 16 + MAX_BUFFERS * MAX_BUFFER_BYTES)
#define MAX_SEGMENTS (MAX_BUFFERS * 2)

/* A request. Its token is its index in model.requests. */
struct request {
	unsigned num_out, num_in, needed;
	struct vublk_ring_buffer buffers[MAX_BUFFERS];
	struct iovec iov[MAX_SEGMENTS];
	unsigned num_iov, num_out_iov;
	uint8_t seed;
	uint16_t head;
	uint32_t reply;
};

/* A queue of tokens: first in, first out. */
struct fifo {
	uint16_t tokens[VUBLK_RING_MAX_SIZE];
	unsigned count;
};

/* One end's notification state in the model. */
struct notification {
	bool first;     /* the other end has published nothing since that end's init */
	bool enabled;   /* used without EVENT_IDX */
	uint16_t event; /* used with EVENT_IDX */
	bool sleeping;
	bool pending;   /* a wake-up was sent and not received yet */
};

struct model {
	struct ring_rig rig;
	struct rig_random random;
	struct request requests[VUBLK_RING_MAX_SIZE];
	struct fifo idle, added, published, taken, pushed, done;
	unsigned num_free;
	uint16_t added_index, published_index, taken_index, used_index, done_index;
	struct notification kicks, calls;
	unsigned completed;
};

static struct model model;

static unsigned below(unsigned bound)
{
	return rig_random_below(&model.random, bound);
}

static uint16_t fifo_remove(struct fifo *fifo, unsigned at)
{
	uint16_t token = fifo->tokens[at];

	fifo->count--;
	memmove(&fifo->tokens[at], &fifo->tokens[at + 1],
		(fifo->count - at) * sizeof(fifo->tokens[0]));
	return token;
}

static void fifo_append(struct fifo *fifo, uint16_t token)
{
	fifo->tokens[fifo->count++] = token;
}

static uint8_t pattern(const struct request *request, unsigned i)
{
	return (uint8_t)(request->seed + 31 * i + (i >> 8));
}

/* --- the driver's side ----------------------------------------------------- */

static void make_buffers(struct request *request, uint16_t token)
{
	uint64_t addr = RIG_GUEST_BASE + (uint64_t)token * AREA_BYTES + TABLE_BYTES;
	unsigned at = 0;

	request->num_out = below(MAX_BUFFERS);
	request->num_in = below(MAX_BUFFERS + 1 - request->num_out);
	if (request->num_out + request->num_in == 0)
		request->num_in = 1;
	request->seed = (uint8_t)below(256);
	for (unsigned i = 0; i < request->num_out + request->num_in; i++) {
		uint32_t bytes = 1 + below(MAX_BUFFER_BYTES);
		uint8_t *data = rig_data(&model.rig, addr);

		request->buffers[i] = (struct vublk_ring_buffer){ addr, bytes };
		for (unsigned b = 0; b < bytes; b++)
			data[b] = i < request->num_out ? pattern(request, at++) : 0;
		addr += bytes;
	}
}

/* Computes the segments that the device must get, without the code under test. */
static void expect_segments(struct request *request)
{
	request->num_iov = request->num_out_iov = 0;
	for (unsigned i = 0; i < request->num_out + request->num_in; i++) {
		uint64_t addr = request->buffers[i].addr;
		uint64_t end = addr + request->buffers[i].bytes;

		for (unsigned r = 0; r < model.rig.map.num_regions; r++) {
			const struct vublk_memory_map_region *region = &model.rig.regions[r];
			uint64_t from = VUBLK_MAX(addr, region->guest_addr);
			uint64_t to = VUBLK_MIN(end, region->guest_addr + region->size_bytes);

			if (from >= to)
				continue;
			request->iov[request->num_iov++] = (struct iovec){
				region->host + (from - region->guest_addr), to - from,
			};
			request->num_out_iov += i < request->num_out;
		}
	}
}

static void driver_adds(void)
{
	bool in_table = model.rig.config.features & INDIRECT && below(2);
	struct vublk_ring_indirect indirect = { NULL, 0 };
	struct request *request;
	unsigned at;
	uint16_t token;
	int ret;

	if (!model.idle.count)
		return;
	at = below(model.idle.count);
	token = model.idle.tokens[at];
	request = &model.requests[token];
	make_buffers(request, token);
	expect_segments(request);
	if (in_table) {
		indirect.addr = RIG_GUEST_BASE + (uint64_t)token * AREA_BYTES;
		indirect.table = rig_data(&model.rig, indirect.addr);
	}
	request->needed = in_table ? 1 : request->num_out + request->num_in;
	ret = vublk_driver_ring_add(&model.rig.driver, request->buffers, request->num_out,
				    request->num_in, &indirect, token);
	if (request->needed > model.num_free) {
		assert_int_equal(ret, -ENOSPC);
		return;
	}
	assert_int_equal(ret, 0);
	model.num_free -= request->needed;
	model.added_index++;
	fifo_append(&model.added, fifo_remove(&model.idle, at));
}

/*
 * Returns whether the end to which `notification` belongs wants a notification when the other end
 * moves its index from `before` to `now`.
 */
static bool wanted(struct notification *notification, uint16_t before, uint16_t now)
{
	bool first = notification->first;

	notification->first = false;
	if (first)
		return true;
	if (!(model.rig.config.features & EVENT_IDX))
		return notification->enabled;
	for (uint16_t i = before; i != now; i++)
		if (i == notification->event)
			return true;
	return false;
}

static void driver_publishes(void)
{
	bool kick = vublk_driver_ring_publish(&model.rig.driver);

	if (!model.added.count) {
		assert_false(kick);
		return;
	}
	while (model.added.count)
		fifo_append(&model.published, fifo_remove(&model.added, 0));
	assert_int_equal(kick, wanted(&model.kicks, model.published_index, model.added_index));
	model.published_index = model.added_index;
	model.kicks.pending |= kick;
}

static void check_reply(const struct request *request)
{
	unsigned at = 0;

	for (unsigned i = request->num_out; i < request->num_out + request->num_in; i++) {
		const uint8_t *data = rig_data(&model.rig, request->buffers[i].addr);

		for (unsigned b = 0; b < request->buffers[i].bytes; b++)
			assert_int_equal(data[b], (uint8_t)~pattern(request, at++));
	}
}

static void driver_takes(void)
{
	struct vublk_error error = { 0 };
	struct request *request;
	uint16_t token = 0;
	uint32_t bytes = 0;
	int ret = vublk_driver_ring_take(&model.rig.driver, &token, &bytes, &error);

	if (!model.done.count) {
		assert_int_equal(ret, 0);
		return;
	}
	assert_string_equal(error.text, "");
	assert_int_equal(ret, 1);
	assert_int_equal(token, model.done.tokens[0]);
	request = &model.requests[token];
	assert_int_equal(bytes, request->reply);
	check_reply(request);
	model.num_free += request->needed;
	model.done_index++;
	model.completed++;
	fifo_append(&model.idle, fifo_remove(&model.done, 0));
}

static void driver_sleeps(void)
{
	bool may_sleep = vublk_driver_ring_enable_calls(&model.rig.driver);

	assert_int_equal(may_sleep, model.done.count == 0);
	model.calls.enabled = true;
	model.calls.event = model.done_index;
	model.calls.sleeping = may_sleep;
}

static void driver_polls(void)
{
	vublk_driver_ring_disable_calls(&model.rig.driver);
	model.calls.enabled = false;
}

/* --- the device's side ----------------------------------------------------- */

static void check_chain(const struct request *request, const struct vublk_chain *chain)
{
	unsigned at = 0;

	assert_int_equal(chain->num_out + chain->num_in, request->num_iov);
	assert_int_equal(chain->num_out, request->num_out_iov);
	for (unsigned i = 0; i < request->num_iov; i++) {
		const uint8_t *data = chain->iov[i].iov_base;

		assert_ptr_equal(chain->iov[i].iov_base, request->iov[i].iov_base);
		assert_int_equal(chain->iov[i].iov_len, request->iov[i].iov_len);
		for (size_t b = 0; i < chain->num_out && b < chain->iov[i].iov_len; b++)
			assert_int_equal(data[b], pattern(request, at++));
	}
	assert_int_equal(chain->out_bytes, at);
}

static void device_takes(void)
{
	struct iovec iov[MAX_SEGMENTS];
	struct vublk_chain chain = { .max_iov = MAX_SEGMENTS, .iov = iov };
	struct vublk_error error = { 0 };
	struct request *request;
	uint16_t token;
	int ret = vublk_device_ring_take(&model.rig.device, &model.rig.map, &chain, &error);

	if (!model.published.count) {
		assert_int_equal(ret, 0);
		return;
	}
	assert_string_equal(error.text, "");
	assert_int_equal(ret, 1);
	token = fifo_remove(&model.published, 0);
	request = &model.requests[token];
	check_chain(request, &chain);
	request->head = chain.head;
	model.taken_index++;
	fifo_append(&model.taken, token);
}

static void device_pushes(void)
{
	struct request *request;
	unsigned at = 0;
	uint16_t token;

	if (!model.taken.count)
		return;
	token = fifo_remove(&model.taken, below(model.taken.count));
	request = &model.requests[token];
	for (unsigned i = request->num_out_iov; i < request->num_iov; i++)
		for (size_t b = 0; b < request->iov[i].iov_len; b++)
			((uint8_t *)request->iov[i].iov_base)[b] =
				(uint8_t)~pattern(request, at++);
	request->reply = (uint32_t)rig_random(&model.random);
	vublk_device_ring_push(&model.rig.device, request->head, request->reply);
	fifo_append(&model.pushed, token);
}

static void device_publishes(void)
{
	bool call = vublk_device_ring_publish(&model.rig.device);
	uint16_t before = model.used_index;
	bool want;

	if (!model.pushed.count) {
		assert_false(call);
		return;
	}
	model.used_index = (uint16_t)(before + model.pushed.count);
	while (model.pushed.count)
		fifo_append(&model.done, fifo_remove(&model.pushed, 0));
	want = wanted(&model.calls, before, model.used_index);
	want |= model.rig.config.features & ON_EMPTY && !model.published.count;
	assert_int_equal(call, want);
	model.calls.pending |= call;
}

static void device_sleeps(void)
{
	bool may_sleep = vublk_device_ring_enable_kicks(&model.rig.device);

	assert_int_equal(may_sleep, model.published.count == 0);
	model.kicks.enabled = true;
	model.kicks.event = model.taken_index;
	model.kicks.sleeping = may_sleep;
}

static void device_polls(void)
{
	vublk_device_ring_disable_kicks(&model.rig.device);
	model.kicks.enabled = false;
}

/*
 * The device dies and another one continues. The new device takes again the chains that the old one
 * had taken but whose completion it had not published.
 */
static void device_dies(void)
{
	struct iovec iov[MAX_SEGMENTS];
	struct vublk_chain chain = { .max_iov = MAX_SEGMENTS, .iov = iov };
	const struct rig_config *config = &model.rig.config;
	uint16_t base = vublk_device_ring_base(&model.rig.device);

	vublk_device_ring_deinit(&model.rig.device);
	assert_int_equal(vublk_device_ring_init(&model.rig.device, &model.rig.memory, config->size,
						base, config->features, NULL), 0);
	while (model.pushed.count)
		fifo_append(&model.taken, fifo_remove(&model.pushed, 0));
	for (unsigned i = 0; i < model.taken.count; i++) {
		const struct request *request = &model.requests[model.taken.tokens[i]];

		assert_int_equal(vublk_device_ring_take_again(&model.rig.device, &model.rig.map,
							      request->head, &chain, NULL), 1);
		assert_int_equal(chain.head, request->head);
		check_chain(request, &chain);
		assert_int_equal(vublk_device_ring_take_again(&model.rig.device, &model.rig.map,
							      request->head, &chain, NULL),
				 -EPROTO);
	}
	model.calls.first = true;
	model.kicks.enabled = true;
	model.kicks.event = base;
	model.kicks.sleeping = false;
}

/* --- running --------------------------------------------------------------- */

static void check_state(void)
{
	const struct ring_rig *rig = &model.rig;
	unsigned outstanding = model.added.count + model.published.count + model.taken.count +
			       model.pushed.count + model.done.count;

	assert_int_equal(vublk_driver_ring_outstanding(&rig->driver), outstanding);
	assert_int_equal(vublk_driver_ring_has_completion(&rig->driver), model.done.count > 0);
	assert_int_equal(vublk_device_ring_has_chain(&rig->device), model.published.count > 0);
	assert_int_equal(vublk_device_ring_base(&rig->device), model.taken_index);
	assert_int_equal(vublk_device_ring_used(&rig->device), model.used_index);
	if (model.kicks.sleeping && model.published.count)
		assert_true(model.kicks.pending);
	if (model.calls.sleeping && model.done.count)
		assert_true(model.calls.pending);
}

static void wake(struct notification *notification)
{
	if (notification->pending) {
		notification->pending = false;
		notification->sleeping = false;
	}
}

static void driver_step(void)
{
	unsigned n = 1 + below(8);

	switch (below(8)) {
	case 0: case 1: case 2:
		while (n--)
			driver_adds();
		break;
	case 3: case 4:
		driver_publishes();
		break;
	case 5:
		for (wake(&model.calls); n && !model.calls.sleeping; n--)
			driver_takes();
		break;
	case 6:
		driver_sleeps();
		break;
	default:
		driver_polls();
		model.calls.sleeping = false;
		break;
	}
}

static void device_step(void)
{
	unsigned n = 1 + below(8);

	switch (below(8)) {
	case 0: case 1:
		for (wake(&model.kicks); n && !model.kicks.sleeping; n--)
			device_takes();
		break;
	case 2: case 3:
		while (n--)
			device_pushes();
		break;
	case 4: case 5:
		device_publishes();
		break;
	case 6:
		device_sleeps();
		break;
	default:
		if (below(50) == 0)
			device_dies();
		else
			device_polls();
		model.kicks.sleeping = false;
		break;
	}
}

/*
 * Completes all outstanding chains. An end that sleeps takes nothing, so a lost wake-up leaves a
 * chain outstanding.
 */
static void drain(void)
{
	driver_publishes();
	wake(&model.kicks);
	while (!model.kicks.sleeping) {
		while (model.published.count)
			device_takes();
		device_sleeps();
	}
	while (model.taken.count)
		device_pushes();
	device_publishes();
	wake(&model.calls);
	while (!model.calls.sleeping) {
		while (model.done.count)
			driver_takes();
		driver_sleeps();
	}
	assert_int_equal(model.idle.count, model.rig.config.size);
}

static void run(unsigned size, uint64_t features, uint64_t seed)
{
	struct rig_config config = {
		.size = size,
		.features = features,
		.data_bytes = (uint64_t)size * AREA_BYTES,
	};
	uint64_t pages = config.data_bytes / 4096 + 1;

	model = (struct model){ .random = { seed * 2654435761u + 1 } };
	config.base = (uint16_t)(65536 - below(1500));
	config.num_regions = 1 + below((unsigned)VUBLK_MIN(pages, UINT64_C(40)));
	rig_init(&model.rig, &config);
	for (unsigned i = 0; i < size; i++)
		fifo_append(&model.idle, (uint16_t)i);
	model.num_free = size;
	model.added_index = model.published_index = model.taken_index = config.base;
	model.used_index = model.done_index = config.base;
	model.kicks = model.calls = (struct notification){ true, true, config.base, false, false };
	for (unsigned i = 0; i < 4000 || (i < 40000 && model.completed < 2000); i++) {
		if (below(2))
			driver_step();
		else
			device_step();
		check_state();
	}
	drain();
	check_state();
	rig_deinit(&model.rig);
}

static void run_all(uint64_t features)
{
	for (unsigned size = 2; size <= VUBLK_RING_MAX_SIZE; size *= 2)
		for (uint64_t seed = 1; seed <= 3; seed++)
			run(size, features, seed);
}

#define RANDOM_TEST(name, features) \
	static void test_random_##name(void **state) { run_all(features); }

RANDOM_TEST(direct, 0)
RANDOM_TEST(indirect, INDIRECT)
RANDOM_TEST(event_idx, EVENT_IDX)
RANDOM_TEST(event_idx_indirect, EVENT_IDX | INDIRECT)
RANDOM_TEST(on_empty, ON_EMPTY)
RANDOM_TEST(on_empty_indirect, ON_EMPTY | INDIRECT)
RANDOM_TEST(on_empty_event_idx, ON_EMPTY | EVENT_IDX)
RANDOM_TEST(on_empty_event_idx_indirect, ON_EMPTY | EVENT_IDX | INDIRECT)

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_random_direct),
		VUBLK_TEST(test_random_indirect),
		VUBLK_TEST(test_random_event_idx),
		VUBLK_TEST(test_random_event_idx_indirect),
		VUBLK_TEST(test_random_on_empty),
		VUBLK_TEST(test_random_on_empty_indirect),
		VUBLK_TEST(test_random_on_empty_event_idx),
		VUBLK_TEST(test_random_on_empty_event_idx_indirect),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
