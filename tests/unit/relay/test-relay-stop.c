/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A VMM stops its rings: which message the relay sends to the back-end, and whether requests may
 * stay in the in-flight area.
 *
 * The back-end is the mock, on a thread of its own. It returns BEGUN as the base of each stopped
 * ring. The ring's used index says how many of the requests before BEGUN are complete.
 */
#include "relay-mock.h"

#include "util/atomic.h"
#include "util/checked.h"

#define BEGUN 3
#define QUEUES 2

#define UNDRAINED VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_INFLIGHT)
#define SKIP_DRAIN VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_SKIP_DRAIN)

static unsigned received(struct relay_mock *mock, uint32_t request)
{
	unsigned n;

	relay_mock_stop(mock);
	n = mock->mock.received[request];
	relay_mock_continue(mock);
	return n;
}

/*
 * Starts everything. The VMM has an in-flight area, and accepts all protocol features except
 * `without`. Queue 0 has BEGUN available requests.
 */
static void begin(struct relay_mock *mock, struct relay *relay, struct backend_rig *rig,
		  struct rig_area *area, uint64_t without)
{
	const struct vublk_option properties[] = { { "inflight-migration", "on" }, { 0 } };

	relay_mock_init(mock);
	mock->mock.base = BEGUN;
	/* the mock makes a new area of the requested size for each GET_INFLIGHT_FD */
	mock->mock.insists_on_area = true;
	relay_mock_open(mock, relay, properties);
	relay_connect(relay, rig);
	rig_negotiate(rig);
	rig->protocol_features &= ~without;
	assert_int_equal(rig_set_u64(rig, VUBLK_VU_SET_PROTOCOL_FEATURES, rig->protocol_features),
			 0);
	assert_int_equal(rig_set_mem_table(rig), 0);
	rig_get_area(rig, area);
	assert_int_equal(rig_set_area(rig, area), 0);
	for (unsigned i = 0; i < QUEUES; i++)
		rig_start_queue(rig, i, RIG_SIZE, 0);
	relay_driver_ok(rig);
	rig->queues[0].ring.avail->idx = BEGUN;
}

/* Frees everything except the rig, which must already be closed. */
static void end(struct relay_mock *mock, struct relay *relay, struct rig_area *area)
{
	rig_drop_area(area);
	relay_mock_close(mock, relay);
}

static void complete(struct backend_rig *rig, unsigned index, uint16_t used)
{
	vublk_store_release(&rig->queues[index].ring.used->idx, used);
}

static void ask_base(struct backend_rig *rig, uint32_t request, unsigned index)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, request);
	message.payload.state.index = index;
	message.header.size = sizeof(message.payload.state);
	rig_send(rig, &message);
}

static void expect_base(struct backend_rig *rig, uint32_t request, unsigned base)
{
	struct vublk_vu_message reply;

	rig_receive(rig, &reply);
	assert_int_equal(reply.header.request, request);
	assert_int_equal(reply.payload.state.num, base);
}

/* Disables the rings, as QEMU does before it requests the bases. */
static void disable(struct backend_rig *rig)
{
	for (unsigned i = 0; i < QUEUES; i++)
		assert_int_equal(rig_set_state(rig, VUBLK_VU_SET_VRING_ENABLE, i, 0), 0);
}

static void test_skip_drain(void **state)
{
	for (unsigned disables = 0; disables < 2; disables++) {
		struct relay_mock mock;
		struct rig_area area;
		struct relay relay;
		struct backend_rig rig;

		begin(&mock, &relay, &rig, &area, 0);
		if (disables)
			disable(&rig);
		ask_base(&rig, VUBLK_VU_GET_VRING_BASE_SKIP_DRAIN, 0);
		expect_base(&rig, VUBLK_VU_GET_VRING_BASE_SKIP_DRAIN, BEGUN);
		assert_int_equal(received(&mock, VUBLK_VU_GET_VRING_BASE), 0);
		assert_int_equal(received(&mock, VUBLK_VU_GET_VRING_BASE_SKIP_DRAIN), QUEUES);
		relay_close_vmm(&relay, &rig);
		end(&mock, &relay, &area);
	}
}

/*
 * When the VMM disables queue 0, the stop leaves requests in the in-flight area. The VMM then asks
 * for a drain. The relay answers only after the back-end has executed these requests.
 */
static void test_a_drain_after_a_disable(void **state)
{
	struct relay_mock mock;
	struct rig_area area;
	struct relay relay;
	struct backend_rig rig;

	begin(&mock, &relay, &rig, &area, 0);
	complete(&rig, 1, BEGUN);
	disable(&rig);
	assert_int_equal(received(&mock, VUBLK_VU_GET_VRING_BASE_SKIP_DRAIN), QUEUES);
	complete(&rig, 0, BEGUN); /* acts as the back-end, which completes these requests */
	for (unsigned i = 0; i < QUEUES; i++) {
		ask_base(&rig, VUBLK_VU_GET_VRING_BASE, i);
		expect_base(&rig, VUBLK_VU_GET_VRING_BASE, BEGUN);
	}
	/* Only queue 0 had requests left, so the relay drains only queue 0. */
	assert_int_equal(received(&mock, VUBLK_VU_GET_VRING_BASE), 1);
	relay_close_vmm(&relay, &rig);
	end(&mock, &relay, &area);
}

static void test_a_drain_of_rings_that_run(void **state)
{
	struct relay_mock mock;
	struct rig_area area;
	struct relay relay;
	struct backend_rig rig;

	begin(&mock, &relay, &rig, &area, 0);
	complete(&rig, 0, BEGUN);
	complete(&rig, 1, BEGUN);
	for (unsigned i = 0; i < QUEUES; i++) {
		ask_base(&rig, VUBLK_VU_GET_VRING_BASE, i);
		expect_base(&rig, VUBLK_VU_GET_VRING_BASE, BEGUN);
	}
	assert_int_equal(received(&mock, VUBLK_VU_GET_VRING_BASE_SKIP_DRAIN), 0);
	assert_int_equal(received(&mock, VUBLK_VU_GET_VRING_BASE), QUEUES);
	relay_close_vmm(&relay, &rig);
	end(&mock, &relay, &area);
}

/*
 * The VMM wants a drain, but no back-end executes the requests in the area. The relay refuses the
 * stop, because the VMM would assume that these requests are complete.
 */
static void test_a_drain_without_a_back_end(void **state)
{
	struct relay_mock mock;
	struct rig_area area;
	struct relay relay;
	struct backend_rig rig;

	begin(&mock, &relay, &rig, &area, 0);
	disable(&rig);
	ask_base(&rig, VUBLK_VU_GET_VRING_BASE, 0);
	relay_wait(&relay, "cannot stop queue 0: 3 of its requests wait in "
			   "the in-flight area for a back-end");
	rig_wait_for_end(&rig);
	rig_close(&rig);
	end(&mock, &relay, &area);
}

/*
 * If the VMM accepts GET_VRING_BASE_INFLIGHT but not SKIP_DRAIN, its GET_VRING_BASE may leave
 * requests. If it accepts neither, the stop must not leave any.
 */
static void test_vmms_that_know_less(void **state)
{
	static const struct {
		uint64_t without;
		uint32_t request;
	} vmms[] = {
		{ SKIP_DRAIN, VUBLK_VU_GET_VRING_BASE_SKIP_DRAIN },
		{ SKIP_DRAIN | UNDRAINED, VUBLK_VU_GET_VRING_BASE },
	};

	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(vmms); i++) {
		struct relay_mock mock;
		struct rig_area area;
		struct relay relay;
		struct backend_rig rig;

		begin(&mock, &relay, &rig, &area, vmms[i].without);
		if (vmms[i].without & UNDRAINED)
			complete(&rig, 0, BEGUN);
		ask_base(&rig, VUBLK_VU_GET_VRING_BASE, 0);
		expect_base(&rig, VUBLK_VU_GET_VRING_BASE, BEGUN);
		assert_int_equal(received(&mock, vmms[i].request), QUEUES);
		relay_close_vmm(&relay, &rig);
		end(&mock, &relay, &area);
	}
}

static void test_messages_that_are_refused(void **state)
{
	static const struct {
		uint64_t without;
		uint32_t request;
		const char *words;
	} refusals[] = {
		{ SKIP_DRAIN, VUBLK_VU_GET_VRING_BASE_SKIP_DRAIN, "(bit 23), which the front-end" },
		{ 0, VUBLK_VU_GET_SHMEM_CONFIG, "in a draft of the protocol" },
	};

	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(refusals); i++) {
		struct relay_mock mock;
		struct rig_area area;
		struct relay relay;
		struct backend_rig rig;

		begin(&mock, &relay, &rig, &area, refusals[i].without);
		ask_base(&rig, refusals[i].request, 0);
		relay_wait(&relay, refusals[i].words);
		rig_wait_for_end(&rig);
		rig_close(&rig);
		end(&mock, &relay, &area);
	}
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_skip_drain),
		VUBLK_TEST(test_a_drain_after_a_disable),
		VUBLK_TEST(test_a_drain_of_rings_that_run),
		VUBLK_TEST(test_a_drain_without_a_back_end),
		VUBLK_TEST(test_vmms_that_know_less),
		VUBLK_TEST(test_messages_that_are_refused),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
