/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Exchanges the direct data path for shadow rings, and back, under a load that verifies its data.
 * The back-end is real: `vublk serve`, or the qemu-storage-daemon that VUBLK_TEST_PEER names.
 *
 * The driver waits for calls, and kicks only when the ring asks for a kick. So the case hangs if a
 * notification or a request is lost.
 */
#include "relay-rig.h"

#include "util/atomic.h"
#include "util/checked.h"

#include <vublk/shadow.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define QUEUES 2
#define DEPTH 8 /* the maximum number of outstanding requests per queue */
#define BLOCK 4096
#define EXCHANGES vublk_test_rounds(1000)
#define SLOW_EXCHANGES vublk_test_rounds(100) /* each takes longer, because the device waits longer */

static unsigned num_exchanges; /* atomic; written by the relay's thread */
static unsigned num_refusals;

/* --- the exchanges, on the relay's thread ------------------------------------------- */

/*
 * Requests the other data path if the device is running and no exchange is under way. Counts the
 * exchanges that it requests, and the refusals.
 */
static void exchange(struct relay *relay)
{
	const struct vublk_device *device = vublk_bus_device(relay->bus);
	struct vublk_shadow_info info;
	struct vublk_error error;
	int r;

	vublk_device_get_shadow(device, &info, sizeof(info));
	if (info.is_changing || vublk_device_state(device) != VUBLK_DEVICE_RUNNING)
		return;
	if (info.refusal[0])
		printf("# refused: %s\n", info.refusal);
	num_refusals += info.refusal[0] != 0;
	r = vublk_bus_set_shadow(relay->bus, info.is_shadowed ? VUBLK_SHADOW_OFF : VUBLK_SHADOW_ON,
				 &error);
	if (r < 0) {
		fprintf(stderr, "%s\n", error.text);
		abort();
	}
	vublk_store_release(&num_exchanges, num_exchanges + 1);
}

/* --- the load -------------------------------------------------------------------------- */

/*
 * For each token, the test writes a block, reads it back and compares, again and again. The data
 * differs between rounds.
 */
static struct {
	bool is_sent, is_read;
	unsigned round;
} tokens[QUEUES][DEPTH];

static char *block_of(struct backend_rig *rig, unsigned queue, unsigned token)
{
	return rig_data(rig, queue) + token * BLOCK;
}

static char fill_of(unsigned queue, unsigned token)
{
	return (char)(tokens[queue][token].round * 31 + token * 7 + queue + 1);
}

static void send_next(struct backend_rig *rig, unsigned queue, unsigned token)
{
	char *block = block_of(rig, queue, token);
	bool reads = tokens[queue][token].is_read;

	memset(block, reads ? 0 : fill_of(queue, token), BLOCK);
	rig_add(rig, queue, (uint16_t)token, reads ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT,
		(queue * DEPTH + token) * (BLOCK / 512), token * BLOCK, BLOCK);
	tokens[queue][token].is_sent = true;
}

static void check(struct backend_rig *rig, unsigned queue, unsigned token)
{
	const char *block = block_of(rig, queue, token);

	assert_true(token < DEPTH && tokens[queue][token].is_sent);
	tokens[queue][token].is_sent = false;
	assert_int_equal(rig_status(rig, queue, (uint16_t)token), VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < BLOCK && tokens[queue][token].is_read; i++)
		assert_int_equal(block[i], fill_of(queue, token));
	tokens[queue][token].round += tokens[queue][token].is_read;
	tokens[queue][token].is_read = !tokens[queue][token].is_read;
}

/*
 * Waits for one completion on each queue that has outstanding requests. If `continues`, sends the
 * next request with the same token. Returns the number of outstanding requests.
 */
static unsigned turn(struct backend_rig *rig, bool continues)
{
	unsigned left = 0;

	for (unsigned q = 0; q < QUEUES; q++) {
		unsigned token, sent = 0;

		for (unsigned i = 0; i < DEPTH; i++)
			sent += tokens[q][i].is_sent;
		if (!sent)
			continue;
		token = rig_take(rig, q, NULL);
		check(rig, q, token);
		if (continues) {
			send_next(rig, q, token);
			rig_kick(rig, q);
		}
		left += sent - !continues;
	}
	return left;
}

static void run_load(struct backend_rig *rig, unsigned exchanges)
{
	unsigned long requests = 0;

	memset(tokens, 0, sizeof(tokens));
	for (unsigned q = 0; q < QUEUES; q++) {
		for (unsigned i = 0; i < DEPTH; i++)
			send_next(rig, q, i);
		rig_kick(rig, q);
	}
	for (; vublk_load_acquire(&num_exchanges) < exchanges; requests += QUEUES)
		turn(rig, true);
	while (turn(rig, false))
		;
	printf("# %lu requests, %u exchanges\n", requests, vublk_load_acquire(&num_exchanges));
}

/* --- the cases ----------------------------------------------------------------------------- */

static void skip_without_qemu(bool needs_area)
{
	if (!getenv("VUBLK_TEST_PEER"))
		return;
	if (system("command -v qemu-storage-daemon >/dev/null 2>&1"))
		vublk_test_skip("qemu-storage-daemon is not installed");
	if (needs_area)
		vublk_test_skip("qemu-storage-daemon has no in-flight area");
}

static void run(const char *event_idx, const char *option, bool has_area, unsigned exchanges)
{
	const struct vublk_option properties[] = {
		{ "event_idx", event_idx }, { "keepalive-ms", "0" }, { NULL, NULL },
	};
	struct relay relay;
	struct backend_rig rig;
	struct rig_area area;

	num_exchanges = num_refusals = 0;
	relay_open_alone(&relay, properties);
	relay_start_backend(&relay, option);
	relay_wait(&relay, "listening on");
	if (has_area)
		relay_start_vmm_with_area(&relay, &rig, &area, QUEUES);
	else
		relay_start_vmm(&relay, &rig, QUEUES);
	relay_write_and_read(&rig, 0, QUEUES, 'a');
	vublk_store_release(&relay.hook, exchange);
	run_load(&rig, exchanges);
	vublk_store_release(&relay.hook, NULL);
	assert_false(relay_has_said(&relay, "must reset the device"));
	assert_false(relay_has_said(&relay, "waits for a back-end"));
	relay_write_and_read(&rig, 0, QUEUES, 'b');
	if (has_area) {
		assert_int_equal(rig_count_inflight(&area, 0), 0);
		rig_drop_area(&area);
	}
	relay_end(&relay, &rig);
	assert_int_equal(num_refusals, 0);
}

static void test_exchanges(void **state)
{
	skip_without_qemu(false);
	run("on", "inflight=off", false, EXCHANGES);
}

/* The back-end takes requests without kicks. */
static void test_exchanges_with_a_polling_back_end(void **state)
{
	if (getenv("VUBLK_TEST_PEER"))
		vublk_test_skip("qemu-storage-daemon does not poll rings");
	run("on", "poll=busy", false, SLOW_EXCHANGES);
}

static void test_exchanges_without_event_idx(void **state)
{
	skip_without_qemu(false);
	run("off", "inflight=off", false, SLOW_EXCHANGES);
}

static void test_exchanges_with_area(void **state)
{
	skip_without_qemu(true);
	run("on", "inflight=on", true, EXCHANGES);
}

static void test_exchanges_with_area_of_the_relay(void **state)
{
	skip_without_qemu(true);
	run("off", "inflight=on", false, SLOW_EXCHANGES);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_exchanges),
		VUBLK_TEST(test_exchanges_with_a_polling_back_end),
		VUBLK_TEST(test_exchanges_without_event_idx),
		VUBLK_TEST(test_exchanges_with_area),
		VUBLK_TEST(test_exchanges_with_area_of_the_relay),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
