/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every way to lose a back-end, at every message of every phase of a device's life.
 * test-device-reconnect.c tests what happens to requests.
 *
 * Key idea: the cases combine three lists: phases, messages, and kinds of loss. Each combination
 * ends with the same checks: the device runs with the next back-end, and nothing of the lost
 * connection remains.
 */
#include "harness.h"

#include "mock/device-rig.h"

#include "device/device.h"
#include "util/checked.h"
#include "util/fd.h"
#include "util/loop.h"
#include "util/memfd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define QUEUES 2

static void begin(struct device_rig *rig, struct mock *mock)
{
	rig_prepare(rig, mock, "1");
	rig_set(rig, "request-timeout-ms", "25");
	rig_realize(rig);
	rig_start(rig, QUEUES);
}

static void set_status(struct device_rig *rig, uint8_t status)
{
	struct vublk_error error;

	if (vublk_device_set_status(rig->device, status, &error) < 0)
		fail_msg("%s", error.text);
}

#define TIME_LIMIT_NS (UINT64_C(20) * 1000000000)

/*
 * Runs one turn of the loop. Fails after the time `until`, which is on the clock of vublk_now_ns().
 */
static void step(struct device_rig *rig, uint64_t until)
{
	rig_turn(rig, 100);
	if (vublk_now_ns() > until)
		fail_msg("nothing more happens; the device is %s",
			 vublk_device_state_name(vublk_device_state(rig->device)));
}

/* Runs the loop until the device is in `state`. */
static void reach(struct device_rig *rig, enum vublk_device_state state)
{
	uint64_t until = vublk_now_ns() + TIME_LIMIT_NS;

	while (vublk_device_state(rig->device) != state)
		step(rig, until);
}

/* --- the phases ------------------------------------------------------------------------------- */

/*
 * A phase of a device's life. `enter` makes a running device send the messages of the phase, and
 * `leave` makes the device run again.
 */
struct phase {
	const char *name;
	void (*enter)(struct device_rig *rig, struct mock *mock, uint32_t request);
	void (*leave)(struct device_rig *rig, struct mock *mock);
	bool is_new_session; /* the next session has a new in-flight area */
	const uint32_t *requests;
	unsigned num_requests;
};

#define REQUESTS(...) \
	(const uint32_t[]){ __VA_ARGS__ }, sizeof((const uint32_t[]){ __VA_ARGS__ }) / sizeof(uint32_t)

#define HANDSHAKE                                                                          \
	VUBLK_VU_GET_FEATURES, VUBLK_VU_GET_PROTOCOL_FEATURES, VUBLK_VU_GET_QUEUE_NUM,     \
	VUBLK_VU_GET_MAX_MEM_SLOTS, VUBLK_VU_SET_BACKEND_REQ_FD, VUBLK_VU_GET_CONFIG

#define START                                                                              \
	VUBLK_VU_SET_FEATURES, VUBLK_VU_GET_STATUS, VUBLK_VU_SET_INFLIGHT_FD,              \
	VUBLK_VU_SET_VRING_ADDR, VUBLK_VU_SET_VRING_ERR, VUBLK_VU_SET_VRING_CALL,          \
	VUBLK_VU_SET_VRING_KICK, VUBLK_VU_SET_VRING_ENABLE, VUBLK_VU_SET_STATUS

#define STOP VUBLK_VU_SET_VRING_ENABLE, VUBLK_VU_GET_VRING_BASE, VUBLK_VU_SET_STATUS

static void enter_outage(struct device_rig *rig, struct mock *mock, uint32_t request)
{
	mock_hang_up(mock);
}

static void enter_realize(struct device_rig *rig, struct mock *mock, uint32_t request)
{
	vublk_device_unrealize(rig->device);
	assert_int_equal(vublk_device_realize(rig->device, NULL), 0);
}

/* Realizes the device again each time that a fault has ended the attempt, then starts the rings. */
static void leave_realize(struct device_rig *rig, struct mock *mock)
{
	uint64_t until = vublk_now_ns() + TIME_LIMIT_NS;

	while (vublk_device_state(rig->device) != VUBLK_DEVICE_STOPPED) {
		step(rig, until);
		if (vublk_device_state(rig->device) == VUBLK_DEVICE_CREATED)
			assert_int_equal(vublk_device_realize(rig->device, NULL), 0);
	}
	rig_start(rig, QUEUES);
}

static void enter_first_start(struct device_rig *rig, struct mock *mock, uint32_t request)
{
	struct mock_fault fault = mock->fault;

	mock->fault.kind = MOCK_NO_FAULT;
	rig_stop(rig);
	mock_forget(mock);
	mock->fault = fault;
	rig_set_up(rig, QUEUES);
	set_status(rig, VIRTIO_CONFIG_S_DRIVER_OK);
}

static void change_memory(struct device_rig *rig)
{
	struct vublk_memory_region regions[] = {
		{ RIG_GUEST_ADDR, RIG_MEMORY_BYTES, rig->memfd, 0 },
		{ rig->device->memory.num_regions > 1 ? 0x2000 : 0x1000, 0x1000, rig->memfd, 0 },
	};
	unsigned count = rig->device->memory.num_regions == 1 ? 2 : 1;

	assert_int_equal(vublk_device_set_memory(rig->device, regions, count, NULL), 1);
}

static void enter_work(struct device_rig *rig, struct mock *mock, uint32_t request)
{
	uint8_t wce;

	switch (request) {
	case VUBLK_VU_GET_CONFIG:
		mock_send_config_change(mock, false);
		break;
	case VUBLK_VU_ADD_MEM_REG:
	case VUBLK_VU_REM_MEM_REG:
		if ((rig->device->memory.num_regions == 1) != (request == VUBLK_VU_ADD_MEM_REG)) {
			struct mock_fault fault = mock->fault;

			mock->fault.kind = MOCK_NO_FAULT;
			change_memory(rig);
			rig_wait(rig, RIG_MEMORY_CHANGED, rig->calls[RIG_MEMORY_CHANGED] + 1);
			mock_forget(mock);
			mock->fault = fault;
		}
		change_memory(rig);
		break;
	case VUBLK_VU_SET_CONFIG:
		vublk_device_config_read(rig->device, 32, &wce, 1);
		wce = !wce;
		assert_int_equal(vublk_device_config_write(rig->device, 32, &wce, 1, NULL), 1);
		break;
	case VUBLK_VU_SET_VRING_KICK:
		assert_int_equal(vublk_device_set_queue_kick(rig->device, 1, rig->kicks[1], NULL), 1);
		break;
	case VUBLK_VU_SET_VRING_CALL:
		assert_int_equal(vublk_device_set_queue_call(rig->device, 1, rig->callfds[1], NULL),
				 1);
		break;
	}
}

static void enter_pause(struct device_rig *rig, struct mock *mock, uint32_t request)
{
	assert_int_equal(vublk_device_set_vm_running(rig->device, false), 1);
}

static void leave_pause(struct device_rig *rig, struct mock *mock)
{
	reach(rig, VUBLK_DEVICE_STOPPED);
	vublk_device_set_vm_running(rig->device, true);
}

static void enter_reset(struct device_rig *rig, struct mock *mock, uint32_t request)
{
	set_status(rig, 0);
}

static void leave_reset(struct device_rig *rig, struct mock *mock)
{
	reach(rig, VUBLK_DEVICE_STOPPED);
	rig_start(rig, QUEUES);
}

static void leave_by_itself(struct device_rig *rig, struct mock *mock)
{
}

static const struct phase phases[] = {
	{ "realizing", enter_realize, leave_realize, true, REQUESTS(HANDSHAKE) },
	{ "starting", enter_first_start, leave_by_itself, true,
	  REQUESTS(START, VUBLK_VU_GET_INFLIGHT_FD) },
	{ "running", enter_work, leave_by_itself, false,
	  REQUESTS(VUBLK_VU_GET_CONFIG, VUBLK_VU_SET_CONFIG, VUBLK_VU_ADD_MEM_REG,
		   VUBLK_VU_REM_MEM_REG, VUBLK_VU_SET_VRING_CALL, VUBLK_VU_SET_VRING_KICK) },
	{ "pausing", enter_pause, leave_pause, false, REQUESTS(STOP) },
	{ "resetting", enter_reset, leave_reset, true, REQUESTS(STOP) },
	{ "reconnecting", enter_outage, leave_by_itself, false, REQUESTS(HANDSHAKE) },
	{ "starting again", enter_outage, leave_by_itself, false,
	  REQUESTS(START, VUBLK_VU_ADD_MEM_REG) },
};

/* --- the kinds of loss ------------------------------------------------------------------------------------ */

static const struct mock_fault ways[] = {
	{ .kind = MOCK_CUT, .bytes = 0 },
	{ .kind = MOCK_RESET },
	{ .kind = MOCK_WRONG_REQUEST },
	{ .kind = MOCK_SHORT },
	{ .kind = MOCK_HUGE },
	{ .kind = MOCK_SILENCE },
	{ .kind = MOCK_CUT, .bytes = 1 }, { .kind = MOCK_CUT, .bytes = 2 },
	{ .kind = MOCK_CUT, .bytes = 3 }, { .kind = MOCK_CUT, .bytes = 4 },
	{ .kind = MOCK_CUT, .bytes = 5 }, { .kind = MOCK_CUT, .bytes = 6 },
	{ .kind = MOCK_CUT, .bytes = 7 }, { .kind = MOCK_CUT, .bytes = 8 },
	{ .kind = MOCK_CUT, .bytes = 9 }, { .kind = MOCK_CUT, .bytes = 10 },
	{ .kind = MOCK_CUT, .bytes = 11 }, { .kind = MOCK_CUT, .bytes = 12 },
	{ .kind = MOCK_CUT, .bytes = 13 }, { .kind = MOCK_CUT, .bytes = 14 },
	{ .kind = MOCK_CUT, .bytes = 15 }, { .kind = MOCK_CUT, .bytes = 16 },
	{ .kind = MOCK_CUT, .bytes = 17 }, { .kind = MOCK_CUT, .bytes = 18 },
	{ .kind = MOCK_CUT, .bytes = 19 },
};

/*
 * Sets the indices as if all requests were complete, so that the device can resume the rings after
 * each loss.
 */
static void complete_all(struct device_rig *rig, struct mock *mock)
{
	mock->base = 7;
	for (unsigned i = 0; i < QUEUES; i++)
		rig_set_indices(rig, i, 7, 7);
}

struct seen {
	uint64_t features, inode;
	uint32_t capacity;
	unsigned fds, mappings;
};

/*
 * Returns the number of open descriptors, without those that outlive a connection: one per memory
 * region, and the one that watches the socket's directory.
 */
static unsigned count_fds(const struct device_rig *rig)
{
	return vublk_test_count_fds() - rig->device->memory.num_regions -
	       rig->device->reconnect.watch.is_open;
}

static struct seen look(struct device_rig *rig, const struct mock *mock)
{
	struct seen seen = {
		.features = mock->accepted_features,
		.inode = mock->inflight_inode,
		.fds = count_fds(rig),
		.mappings = vublk_test_count_mappings(),
	};

	vublk_device_config_read(rig->device, 0, &seen.capacity, sizeof(seen.capacity));
	return seen;
}

static void expect_as_before(struct device_rig *rig, const struct mock *mock, const struct seen *before,
			     const struct phase *phase)
{
	struct seen now = look(rig, mock);

	assert_int_equal(vublk_device_status(rig->device), VIRTIO_CONFIG_S_DRIVER_OK);
	assert_int_equal(now.features, before->features);
	assert_int_equal(now.capacity, before->capacity);
	assert_int_equal(now.fds, before->fds);
	assert_int_equal(now.mappings, before->mappings);
	if (!phase->is_new_session) {
		assert_int_equal(now.inode, before->inode);
		assert_int_equal(mock->given_bases[0], 7);
		assert_int_equal(mock->given_bases[1], 7);
	}
	assert_int_equal(rig->calls[RIG_NEEDS_RESET], 0);
	assert_true(vublk_frontend_is_idle(&rig->device->frontend));
}

static void lose(struct device_rig *rig, struct mock *mock, const struct phase *phase, uint32_t request,
		 const struct mock_fault *way)
{
	uint64_t until = vublk_now_ns() + TIME_LIMIT_NS;
	unsigned disconnected = rig->calls[RIG_LOST];
	struct seen before;

	complete_all(rig, mock);
	rig_settle(rig);
	before = look(rig, mock);
	mock_forget(mock);
	mock->fault = *way;
	mock->fault.request = request;
	phase->enter(rig, mock, request);
	phase->leave(rig, mock);
	while (mock->num_connections < 1 || vublk_device_state(rig->device) != VUBLK_DEVICE_RUNNING)
		step(rig, until);
	mock->fault.kind = MOCK_NO_FAULT;
	rig_settle(rig);
	if (phase->enter != enter_realize && rig->calls[RIG_LOST] == disconnected)
		fail_msg("the fault %d in %s was not met", way->kind,
			 vublk_vu_request_name(VUBLK_VU_TO_BACKEND, request));
	expect_as_before(rig, mock, &before, phase);
}

/*
 * Returns whether the answer is valid despite the fault. The last bytes of the answer to
 * GET_INFLIGHT_FD are padding, which some back-ends omit.
 */
static bool is_good_answer(uint32_t request, const struct mock_fault *way)
{
	return request == VUBLK_VU_GET_INFLIGHT_FD && way->kind == MOCK_SHORT;
}

static void lose_in_each_way(const struct phase *phase)
{
	struct mock mock;
	struct device_rig rig;

	begin(&rig, &mock);
	rig_set_indices(&rig, 0, 0, 0);
	for (unsigned i = 0; i < phase->num_requests; i++)
		for (size_t k = 0; k < VUBLK_ARRAY_SIZE(ways); k++) {
			if (is_good_answer(phase->requests[i], &ways[k]))
				continue;
			printf("# %s, %s, way %zu\n", phase->name,
			       vublk_vu_request_name(VUBLK_VU_TO_BACKEND, phase->requests[i]), k);
			lose(&rig, &mock, phase, phase->requests[i], &ways[k]);
		}
	rig_end(&rig, &mock);
}

#define IN_PHASE(name, index)                                            \
	static void test_##name(void **state)                            \
	{                                                                \
		lose_in_each_way(&phases[index]);                        \
	}
IN_PHASE(realizing, 0)
IN_PHASE(starting, 1)
IN_PHASE(running, 2)
IN_PHASE(pausing, 3)
IN_PHASE(resetting, 4)
IN_PHASE(reconnecting, 5)
IN_PHASE(starting_again, 6)

/* --- connecting ---------------------------------------------------------------------------------- */

/*
 * After the loss there is a back-end, a socket without a listener, another kind of file, or a
 * listener that closes the first connections. The device reconnects as soon as there is a back-end.
 */
static void test_connecting(void **state)
{
	const struct phase *phase = &phases[5];
	struct mock mock;
	struct device_rig rig;

	begin(&rig, &mock);
	for (unsigned way = 0; way < 4; way++) {
		struct seen before;
		FILE *file;

		complete_all(&rig, &mock);
		rig_settle(&rig);
		before = look(&rig, &mock);
		mock_forget(&mock);
		if (way == 3)
			mock.close_first = 3;
		if (way == 2)
			mock_die(&mock);
		else
			mock_hang_up(&mock);
		if (way == 1)
			vublk_fd_close(&mock.listen_fd); /* the socket's file remains */
		if (way == 2) {
			file = fopen(mock.path, "we");
			fclose(file);
		}
		rig_wait(&rig, RIG_LOST, 1 + way);
		for (unsigned i = 0; i < 20; i++)
			step(&rig, UINT64_MAX);
		if (way == 2)
			remove(mock.path);
		if (mock.listen_fd < 0)
			mock_live_again(&mock);
		reach(&rig, VUBLK_DEVICE_RUNNING);
		rig_settle(&rig);
		expect_as_before(&rig, &mock, &before, phase);
	}
	rig_end(&rig, &mock);
}

/* --- unrealize ----------------------------------------------------------------------------------- */

/*
 * The device waits for an answer that does not come. Unrealize takes effect immediately, in any
 * phase, and nothing remains.
 */
static void test_unrealize_during_each_wait(void **state)
{
	for (size_t p = 0; p < VUBLK_ARRAY_SIZE(phases); p++)
		for (unsigned i = 0; i < phases[p].num_requests; i++) {
			unsigned fds = vublk_test_count_fds();
			struct mock mock;
			struct device_rig rig;

			begin(&rig, &mock);
			complete_all(&rig, &mock);
			mock_forget(&mock);
			mock.fault = (struct mock_fault){ .kind = MOCK_SILENCE,
							  .request = phases[p].requests[i] };
			phases[p].enter(&rig, &mock, phases[p].requests[i]);
			while (!mock.silent)
				step(&rig, vublk_now_ns() + TIME_LIMIT_NS);
			vublk_device_unrealize(rig.device);
			assert_int_equal(vublk_device_state(rig.device), VUBLK_DEVICE_CREATED);
			memset(rig.calls, 0, sizeof(rig.calls));
			rig_settle(&rig);
			for (unsigned k = 0; k < RIG_NUM_CALLBACKS; k++)
				assert_int_equal(rig.calls[k], 0);
			rig_end(&rig, &mock);
			assert_int_equal(vublk_test_count_fds(), fds);
		}
}

/* --- some queues ------------------------------------------------------------------------------------- */

/* Of four queues, only 0 and 2 are set up. They resume, and no message concerns another queue. */
static void test_some_queues(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, "1");
	rig_set_up(&rig, 3);
	assert_int_equal(vublk_device_set_queue(rig.device, 1, NULL, 0, NULL), 0);
	set_status(&rig, VIRTIO_CONFIG_S_DRIVER_OK);
	rig_wait(&rig, RIG_STARTED, 1);
	rig_set_indices(&rig, 0, 3, 5);
	rig_set_indices(&rig, 1, 1, 9); /* queue 1 has no ring, so the device must not read it */
	rig_set_indices(&rig, 2, 65535, 1);
	for (unsigned i = 2; i <= 4; i++) {
		mock_forget(&mock);
		mock.given_bases[1] = 77;
		mock_hang_up(&mock);
		rig_wait(&rig, RIG_STARTED, i);
		assert_int_equal(mock.received[VUBLK_VU_SET_VRING_KICK], 2);
		assert_int_equal(mock.given_bases[0], 3);
		assert_int_equal(mock.given_bases[1], 77);
		assert_int_equal(mock.given_bases[2], 65535);
		assert_int_equal(mock.inflight.num_queues, 4);
	}
	rig_stop(&rig);
	assert_int_equal(mock.received[VUBLK_VU_GET_VRING_BASE], 2);
	rig_end(&rig, &mock);
}

/* --- resize -------------------------------------------------------------------------------------------- */

static void expect_capacity(struct device_rig *rig, uint64_t sectors)
{
	uint64_t capacity;

	vublk_device_config_read(rig->device, 0, &capacity, sizeof(capacity));
	assert_int_equal(capacity, sectors);
}

/*
 * The disk is resized in each state. The back-end reports the change, except in an outage, in which
 * case the device finds the new size when it reconnects.
 */
static void test_resize_at_each_moment(void **state)
{
	enum { STOPPED, STARTING, RUNNING, STOPPING, OUTAGE, MOMENTS };

	for (unsigned moment = 0; moment < MOMENTS; moment++) {
		struct mock mock;
		struct device_rig rig;

		rig_begin(&rig, &mock, "1");
		rig_set_up(&rig, QUEUES);
		if (moment >= STARTING)
			set_status(&rig, VIRTIO_CONFIG_S_DRIVER_OK);
		if (moment >= RUNNING)
			rig_wait(&rig, RIG_STARTED, 1);
		if (moment == STOPPING)
			vublk_device_set_vm_running(rig.device, false);
		((struct virtio_blk_config *)mock.config)->capacity = 8192;
		if (moment == OUTAGE)
			mock_hang_up(&mock);
		else
			mock_send_config_change(&mock, true);
		rig_wait(&rig, RIG_CONFIG_CHANGED, 1);
		assert_int_equal(vublk_device_config_generation(rig.device), 2);
		expect_capacity(&rig, 8192);
		if (moment == STOPPED)
			set_status(&rig, VIRTIO_CONFIG_S_DRIVER_OK);
		vublk_device_set_vm_running(rig.device, true);
		reach(&rig, VUBLK_DEVICE_RUNNING);
		rig_settle(&rig);
		assert_int_equal(rig.calls[RIG_CONFIG_CHANGED], 1);
		rig_end(&rig, &mock);
	}
}

/* --- leaks --------------------------------------------------------------------------- */

struct holdings {
	unsigned fds, mappings, threads;
	size_t heap_bytes;
};

static unsigned count_lines(const char *path)
{
	FILE *file = fopen(path, "re");
	unsigned lines = 0;

	assert_non_null(file);
	for (int c; (c = fgetc(file)) != EOF;)
		lines += c == '\n';
	fclose(file);
	return lines;
}

static unsigned count_threads(void)
{
	DIR *dir = opendir("/proc/self/task");
	unsigned count = 0;

	assert_non_null(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

/*
 * Returns what the process holds. A sanitizer has its own heap, so `heap_bytes` is 0. It also maps
 * memory at any time, so only mappings of files count with a sanitizer.
 */
static struct holdings count_holdings(void)
{
	size_t heap_bytes = mallinfo2().uordblks;

	return (struct holdings){
		.fds = vublk_test_count_fds(),
		.mappings = heap_bytes ? count_lines("/proc/self/maps") : vublk_test_count_mappings(),
		.threads = count_threads(),
		.heap_bytes = heap_bytes,
	};
}

/* Loses the back-end in a way that depends on `turn`. Some ways also break the next connection. */
static void lose_somehow(struct device_rig *rig, struct mock *mock, unsigned turn)
{
	const struct mock_fault next[] = {
		{ .kind = MOCK_NO_FAULT },
		{ .kind = MOCK_CUT, .request = VUBLK_VU_GET_PROTOCOL_FEATURES, .bytes = 13 },
		{ .kind = MOCK_WRONG_REQUEST, .request = VUBLK_VU_SET_VRING_ADDR },
		{ .kind = MOCK_REFUSE, .request = VUBLK_VU_SET_VRING_ENABLE },
		{ .kind = MOCK_WITH_MANY_FDS, .request = VUBLK_VU_GET_CONFIG },
	};

	mock_forget(mock);
	mock->fault = next[turn % VUBLK_ARRAY_SIZE(next)];
	if (turn % 7 == 0) {
		mock_die(mock);
		reach(rig, VUBLK_DEVICE_LOST);
		mock_live_again(mock);
	} else {
		mock_hang_up(mock);
		reach(rig, VUBLK_DEVICE_LOST);
	}
}

#define RECONNECTS 10000
#define SETTLED 100 /* after this many losses, every code path has been used */

static void test_ten_thousand_reconnects(void **state)
{
	struct holdings settled = { 0 }, last;
	struct mock mock;
	struct device_rig rig;

	begin(&rig, &mock);
	complete_all(&rig, &mock);
	for (unsigned i = 1; i <= vublk_test_rounds(RECONNECTS); i++) {
		lose_somehow(&rig, &mock, i);
		reach(&rig, VUBLK_DEVICE_RUNNING);
		rig_settle(&rig);
		if (i == SETTLED)
			settled = count_holdings();
	}
	last = count_holdings();
	assert_int_equal(rig.calls[RIG_NEEDS_RESET], 0);
	assert_int_equal(last.fds, settled.fds);
	assert_int_equal(last.mappings, settled.mappings);
	assert_int_equal(last.threads, settled.threads);
	assert_int_equal(last.heap_bytes, settled.heap_bytes);
	rig_end(&rig, &mock);
}

/* --- memory that its owner changed --------------------------------------------------------- */

static void begin_with_open_memory(struct device_rig *rig, struct mock *mock)
{
	rig_prepare(rig, mock, NULL);
	rig->memfd = memfd_create("open", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(rig->memfd, RIG_MEMORY_BYTES), 0);
	rig->memory = vublk_map_shared(rig->memfd, 0, RIG_MEMORY_BYTES, NULL);
	assert_non_null(rig->memory);
	rig_set(rig, "reconnect-ms", "1");
	rig_set(rig, "inflight", "off"); /* so that the indices come from the rings */
	rig_realize(rig);
	rig_start(rig, QUEUES);
}

/* A peer can forbid new writable mappings of the memory. The device can still read the rings. */
static void test_sealed_memory(void **state)
{
	struct mock mock;
	struct device_rig rig;

	begin_with_open_memory(&rig, &mock);
	assert_int_equal(fcntl(rig.memfd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), 0);
	mock_hang_up(&mock);
	reach(&rig, VUBLK_DEVICE_LOST);
	reach(&rig, VUBLK_DEVICE_RUNNING);
	assert_int_equal(rig.calls[RIG_NEEDS_RESET], 0);
	rig_end(&rig, &mock);
}

/*
 * The memory of the rings is truncated. The device survives, but it does not know the indices at
 * which the rings resume, so the driver has to reset the device.
 */
static void test_truncated_memory(void **state)
{
	struct mock mock;
	struct device_rig rig;

	begin_with_open_memory(&rig, &mock);
	assert_int_equal(ftruncate(rig.memfd, 0), 0);
	mock_hang_up(&mock);
	rig_wait(&rig, RIG_NEEDS_RESET, 1);
	assert_int_equal(rig.errors[RIG_NEEDS_RESET].code, EIO);
	rig_end(&rig, &mock);
}

/*
 * The back-end accepts each connection but refuses the start, so the outage continues. The pause
 * between attempts grows beyond reconnect-ms, up to 16 times its value.
 */
static void test_refusals_lengthen_the_pause(void **state)
{
	const struct vublk_device_reconnect *reconnect;
	struct mock mock;
	struct device_rig rig;
	uint64_t before = 0;

	rig_prepare(&rig, &mock, "2");
	rig.quiet = true;
	rig_realize(&rig);
	rig_start(&rig, 1);
	reconnect = &rig.device->reconnect;
	mock.refused_request = VUBLK_VU_SET_VRING_KICK;
	mock_forget(&mock);
	mock_hang_up(&mock);
	for (unsigned refusals = 1; refusals < 9; refusals++) {
		rig_wait(&rig, RIG_LOST, 1 + refusals);
		assert_int_equal(reconnect->refusals, refusals);
		assert_true(reconnect->pause_ms >= before && reconnect->pause_ms <= 16 * 2);
		before = reconnect->pause_ms;
	}
	assert_int_equal(before, 16 * 2);
	mock_die(&mock);
	mock_live_again(&mock); /* the socket appears, so the device tries immediately */
	mock.refused_request = 0;
	rig_wait(&rig, RIG_STARTED, 2);
	assert_int_equal(reconnect->refusals, 0);
	assert_int_equal(reconnect->lost_ns, 0);
	rig_end(&rig, &mock);
}

/*
 * Each back-end starts and then hangs up. From the third loss on, the pause before the next
 * connection is longer each time.
 */
static void test_short_runs_lengthen_the_pause(void **state)
{
	const struct vublk_device_reconnect *reconnect;
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, NULL);
	rig_set(&rig, "reconnect-ms", "60000"); /* each run in this case is shorter */
	rig.quiet = true;
	rig_realize(&rig);
	rig_start(&rig, 1);
	reconnect = &rig.device->reconnect;
	for (unsigned losses = 1; losses < 9; losses++) {
		mock_forget(&mock);
		mock_hang_up(&mock);
		rig_wait(&rig, RIG_LOST, losses);
		/*
		 * The first loss does not count, because the connection that was lost was not a
		 * reconnection.
		 */
		assert_int_equal(reconnect->short_runs, losses - 1);
		assert_int_equal(reconnect->pause_ms, 2u << (losses > 1 ? losses - 2 : 0));
		rig_wait(&rig, RIG_STARTED, 1 + losses);
	}
	rig_end(&rig, &mock);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_realizing),
		VUBLK_TEST(test_starting),
		VUBLK_TEST(test_running),
		VUBLK_TEST(test_pausing),
		VUBLK_TEST(test_resetting),
		VUBLK_TEST(test_reconnecting),
		VUBLK_TEST(test_starting_again),
		VUBLK_TEST(test_connecting),
		VUBLK_TEST(test_unrealize_during_each_wait),
		VUBLK_TEST(test_some_queues),
		VUBLK_TEST(test_resize_at_each_moment),
		VUBLK_TEST(test_sealed_memory),
		VUBLK_TEST(test_truncated_memory),
		VUBLK_TEST(test_refusals_lengthen_the_pause),
		VUBLK_TEST(test_short_runs_lengthen_the_pause),
		VUBLK_TEST_LONG(test_ten_thousand_reconnects, 300),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
