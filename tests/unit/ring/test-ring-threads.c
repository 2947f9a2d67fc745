/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A driver and a device, each on its own thread. The threads sleep on eventfds, or poll. After a
 * lost wake-up, the case hangs until the runner's time limit. ThreadSanitizer checks the order of
 * the accesses to data and rings.
 */
#include "harness.h"
#include "ring-rig.h"

#include "util/atomic.h"
#include "util/checked.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define EVENT_IDX VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX)
#define INDIRECT VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC)
#define ON_EMPTY VUBLK_BIT(VIRTIO_F_NOTIFY_ON_EMPTY)

#ifdef VUBLK_TSAN
#define TRANSFERS 80000
#else
#define TRANSFERS 400000
#endif

/* Per request: a table of two descriptors (32 bytes), the request's number, the answer's number. */
#define AREA_BYTES 64

enum waiting { SLEEPING, POLLING };

struct pair {
	struct ring_rig rig;
	enum waiting waiting;
	unsigned transfers, depth;
	int kick, call;
	unsigned kicks, calls; /* counted by the thread that sends them */
};


static void signal_fd(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) != sizeof(one))
		abort();
}

static void sleep_on(int fd)
{
	uint64_t count;

	if (read(fd, &count, sizeof(count)) != sizeof(count))
		abort();
}

/* --- the driver ------------------------------------------------------------ */

struct submitter {
	struct pair *pair;
	struct rig_random random;
	unsigned submitted, completed;
	uint16_t idle[VUBLK_RING_MAX_SIZE];
	unsigned num_idle;
	uint64_t expected[VUBLK_RING_MAX_SIZE]; /* by token */
};

static bool submit(struct submitter *s)
{
	struct ring_rig *rig = &s->pair->rig;
	uint16_t token = s->idle[s->num_idle - 1];
	uint64_t area = RIG_GUEST_BASE + (uint64_t)token * AREA_BYTES;
	const struct vublk_ring_buffer buffers[2] = { { area + 32, 8 }, { area + 40, 8 } };
	struct vublk_ring_indirect indirect = { NULL, area };

	if (rig->config.features & INDIRECT && token & 1)
		indirect.table = rig_data(rig, area);
	s->expected[token] = rig_random(&s->random);
	memcpy(rig_data(rig, area + 32), &s->expected[token], 8);
	if (vublk_driver_ring_add(&rig->driver, buffers, 1, 1, &indirect, token) < 0)
		return false;
	s->num_idle--;
	s->submitted++;
	return true;
}

static void submit_some(struct submitter *s)
{
	struct pair *pair = s->pair;
	unsigned n = 1 + rig_random_below(&s->random, pair->depth);

	while (n-- && s->num_idle && s->submitted < pair->transfers && submit(s))
		continue;
	if (vublk_driver_ring_publish(&pair->rig.driver)) {
		pair->kicks++;
		signal_fd(pair->kick);
	}
}

/* Takes completions. Returns their number, or -1 if one is wrong or the ring is broken. */
static int reap(struct submitter *s)
{
	struct ring_rig *rig = &s->pair->rig;
	uint16_t token;
	uint32_t bytes;
	int n = 0, ret;

	while ((ret = vublk_driver_ring_take(&rig->driver, &token, &bytes, NULL)) > 0) {
		uint64_t reply;

		memcpy(&reply, rig_data(rig, RIG_GUEST_BASE + token * AREA_BYTES + 40), 8);
		if (bytes != 8 || reply != ~s->expected[token])
			return -1;
		s->idle[s->num_idle++] = token;
		s->completed++;
		n++;
	}
	return ret < 0 ? -1 : n;
}

static void driver_waits(struct pair *pair)
{
	if (pair->waiting == POLLING) {
		sched_yield();
		return;
	}
	if (vublk_driver_ring_enable_calls(&pair->rig.driver))
		sleep_on(pair->call);
	vublk_driver_ring_disable_calls(&pair->rig.driver);
}

static void *drive(void *opaque)
{
	struct submitter s = { .pair = opaque, .random = { 12345 } };

	for (uint16_t token = 0; token < s.pair->depth; token++)
		s.idle[s.num_idle++] = token;
	if (s.pair->waiting == POLLING)
		vublk_driver_ring_disable_calls(&s.pair->rig.driver);
	while (s.completed < s.pair->transfers) {
		int n;

		submit_some(&s);
		n = reap(&s);
		if (n < 0)
			return "the driver got a wrong completion";
		if (n == 0 && vublk_driver_ring_outstanding(&s.pair->rig.driver))
			driver_waits(s.pair);
	}
	return NULL;
}

/* --- the device ------------------------------------------------------------ */

static void answer(const struct vublk_chain *chain)
{
	uint64_t number;

	memcpy(&number, chain->iov[0].iov_base, 8);
	number = ~number;
	memcpy(chain->iov[1].iov_base, &number, 8);
}

/*
 * Takes some chains, completes them in the same or the reverse order, and publishes them. Returns
 * their number, or -1 if a chain is wrong or the ring is broken.
 */
static int serve(struct pair *pair, struct rig_random *random)
{
	struct vublk_device_ring *ring = &pair->rig.device;
	struct iovec iov[2];
	struct vublk_chain chain = { .max_iov = 2, .iov = iov };
	unsigned most = 1 + rig_random_below(random, 8);
	uint16_t heads[8];
	int n = 0, ret = 0;

	while ((unsigned)n < most &&
	       (ret = vublk_device_ring_take(ring, &pair->rig.map, &chain, NULL)) > 0) {
		if (chain.num_out != 1 || chain.num_in != 1 || chain.in_bytes != 8)
			return -1;
		answer(&chain);
		heads[n++] = chain.head;
	}
	for (int i = 0; i < n; i++)
		vublk_device_ring_push(ring, heads[most & 1 ? i : n - 1 - i], 8);
	if (vublk_device_ring_publish(ring)) {
		pair->calls++;
		signal_fd(pair->call);
	}
	return ret < 0 ? -1 : n;
}

static void device_waits(struct pair *pair)
{
	if (pair->waiting == POLLING) {
		sched_yield();
		return;
	}
	if (vublk_device_ring_enable_kicks(&pair->rig.device))
		sleep_on(pair->kick);
	vublk_device_ring_disable_kicks(&pair->rig.device);
}

static void *be_device(void *opaque)
{
	struct pair *pair = opaque;
	struct rig_random random = { 54321 };
	unsigned done = 0;

	if (pair->waiting == POLLING)
		vublk_device_ring_disable_kicks(&pair->rig.device);
	while (done < pair->transfers) {
		int n = serve(pair, &random);

		if (n < 0)
			return "the device got a wrong chain";
		done += (unsigned)n;
		if (n == 0)
			device_waits(pair);
	}
	return NULL;
}

/* --- cases ----------------------------------------------------------------- */

static void run(uint64_t features, unsigned size, unsigned depth, enum waiting waiting,
		unsigned transfers)
{
	struct pair *pair = calloc(1, sizeof(*pair));
	pthread_t driver, device;
	void *driver_wrong, *device_wrong;

	assert_non_null(pair);
	rig_init(&pair->rig, &(struct rig_config){ size, 65000, features, 65536, 5, true });
	pair->waiting = waiting;
	pair->depth = depth;
	pair->transfers = transfers;
	pair->kick = eventfd(0, EFD_CLOEXEC);
	pair->call = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(pthread_create(&device, NULL, be_device, pair), 0);
	assert_int_equal(pthread_create(&driver, NULL, drive, pair), 0);
	pthread_join(driver, &driver_wrong);
	pthread_join(device, &device_wrong);
	assert_null(driver_wrong);
	assert_null(device_wrong);
	assert_int_equal(vublk_driver_ring_outstanding(&pair->rig.driver), 0);
	print_message("%u transfers, %u kicks, %u calls\n", transfers, pair->kicks, pair->calls);
	close(pair->kick);
	close(pair->call);
	rig_deinit(&pair->rig);
	free(pair);
}

static void test_sleep_event_idx(void **state)
{
	run(EVENT_IDX, 256, 64, SLEEPING, TRANSFERS);
}

static void test_sleep_event_idx_indirect(void **state)
{
	run(EVENT_IDX | INDIRECT, 64, 64, SLEEPING, TRANSFERS);
}

static void test_sleep_flags(void **state)
{
	run(0, 256, 64, SLEEPING, TRANSFERS);
}

static void test_sleep_notify_on_empty(void **state)
{
	run(EVENT_IDX | ON_EMPTY, 128, 32, SLEEPING, TRANSFERS / 2);
}

/* With one request at a time, both ends sleep, or are about to sleep, at each transfer. */
static void test_sleep_depth_1(void **state)
{
	run(EVENT_IDX, 2, 1, SLEEPING, TRANSFERS / 20);
	run(0, 2, 1, SLEEPING, TRANSFERS / 20);
}

/*
 * The requests need twice as many entries as the ring has, so the driver's end often has no room.
 */
static void test_sleep_full_ring(void **state)
{
	run(EVENT_IDX, 8, 8, SLEEPING, TRANSFERS / 4);
}

static void test_poll(void **state)
{
	run(EVENT_IDX | INDIRECT, 1024, 128, POLLING, TRANSFERS);
	run(0, 128, 64, POLLING, TRANSFERS);
}

/* --- publish, then look ---------------------------------------------------- */

/*
 * One end publishes while the other end decides whether to sleep. The publishing end may notify the
 * other end (`told`), and the other end may sleep (`slept`), but it must not sleep without a
 * notification. The two threads meet before each round, because the critical time is only a few
 * nanoseconds.
 */
struct race {
	struct ring_rig rig;
	unsigned rounds;
	unsigned arrived; /* each thread adds 3 per round */
	bool told, slept;
	void (*publish)(struct race *race);
	void (*sleep)(struct race *race);
};

static void meet(struct race *race, unsigned *met)
{
	unsigned spins = 0;

	*met += 2;
	__atomic_add_fetch(&race->arrived, 1, __ATOMIC_ACQ_REL);
	while ((int)(vublk_load_acquire(&race->arrived) - *met) < 0) {
		vublk_cpu_relax();
		if (++spins % 200 == 0)
			sched_yield();
	}
}

static void *publish_often(void *opaque)
{
	struct race *race = opaque;
	unsigned met = 0;

	for (unsigned i = 0; i < race->rounds; i++) {
		meet(race, &met);
		race->publish(race);
		meet(race, &met);
		meet(race, &met); /* meanwhile, the main thread checks the round */
	}
	return NULL;
}

static void add_to_race(struct race *race)
{
	const struct vublk_ring_buffer buffer = { RIG_GUEST_BASE, 8 };

	assert_int_equal(vublk_driver_ring_add(&race->rig.driver, &buffer, 1, 0, NULL, 0), 0);
}

static void push_in_race(struct race *race)
{
	struct iovec iov[1];
	struct vublk_chain chain = { .max_iov = 1, .iov = iov };

	assert_int_equal(vublk_device_ring_take(&race->rig.device, &race->rig.map, &chain, NULL), 1);
	vublk_device_ring_push(&race->rig.device, chain.head, 0);
}

static void take_in_race(struct race *race)
{
	uint16_t token;
	uint32_t bytes;

	assert_int_equal(vublk_driver_ring_take(&race->rig.driver, &token, &bytes, NULL), 1);
}

static void driver_publishes(struct race *race)
{
	race->told = vublk_driver_ring_publish(&race->rig.driver);
}

static void device_publishes(struct race *race)
{
	race->told = vublk_device_ring_publish(&race->rig.device);
}

static void device_sleeps(struct race *race)
{
	race->slept = vublk_device_ring_enable_kicks(&race->rig.device);
}

static void driver_sleeps(struct race *race)
{
	race->slept = vublk_driver_ring_enable_calls(&race->rig.driver);
}

/*
 * Adds an entry, which the round publishes. Before that, the other end disables notifications.
 */
static void prepare(struct race *race, bool kicks)
{
	if (kicks) {
		vublk_device_ring_disable_kicks(&race->rig.device);
		add_to_race(race);
		return;
	}
	vublk_driver_ring_disable_calls(&race->rig.driver);
	add_to_race(race);
	vublk_driver_ring_publish(&race->rig.driver);
	push_in_race(race);
}

static void finish(struct race *race, bool kicks)
{
	if (kicks) {
		push_in_race(race);
		vublk_device_ring_publish(&race->rig.device);
	}
	take_in_race(race);
}

static void run_race(bool kicks, uint64_t features)
{
	struct race *race = calloc(1, sizeof(*race));
	unsigned met = 0, told = 0, awake = 0;
	pthread_t thread;

	assert_non_null(race);
	rig_init(&race->rig, &(struct rig_config){ 4, 0, features, 4096, 1, true });
	race->rounds = TRANSFERS / 4;
	race->publish = kicks ? driver_publishes : device_publishes;
	race->sleep = kicks ? device_sleeps : driver_sleeps;
	prepare(race, kicks);
	assert_int_equal(pthread_create(&thread, NULL, publish_often, race), 0);
	for (unsigned i = 0; i < race->rounds; i++) {
		meet(race, &met);
		race->sleep(race);
		meet(race, &met);
		if (!race->told && race->slept)
			fail_msg("a wake-up was lost in round %u", i);
		told += race->told;
		awake += !race->slept;
		finish(race, kicks);
		prepare(race, kicks);
		meet(race, &met);
	}
	pthread_join(thread, NULL);
	print_message("%u rounds, %u told, %u stayed awake\n", race->rounds, told, awake);
	rig_deinit(&race->rig);
	free(race);
}

static void test_no_kick_is_lost(void **state)
{
	run_race(true, EVENT_IDX);
	run_race(true, 0);
}

static void test_no_call_is_lost(void **state)
{
	run_race(false, EVENT_IDX);
	run_race(false, 0);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST_LONG(test_sleep_event_idx, 120),
		VUBLK_TEST_LONG(test_sleep_event_idx_indirect, 120),
		VUBLK_TEST_LONG(test_sleep_flags, 120),
		VUBLK_TEST_LONG(test_sleep_notify_on_empty, 120),
		VUBLK_TEST_LONG(test_sleep_depth_1, 120),
		VUBLK_TEST_LONG(test_sleep_full_ring, 120),
		VUBLK_TEST_LONG(test_poll, 120),
		VUBLK_TEST_LONG(test_no_kick_is_lost, 120),
		VUBLK_TEST_LONG(test_no_call_is_lost, 120),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
