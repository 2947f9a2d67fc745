/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A VMM stops its rings through the relay: which message the back-end gets, and whether
 * requests may be left in the in-flight area.
 *
 * The back-end is the mock, on a thread of its own. The mock answers that it stopped at BEGUN; the
 * ring's used index says how many of the requests before BEGUN are complete.
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

/* Connects a VMM with an in-flight area, which accepts all protocol features except `without`. */
static void begin(struct relay_mock *mock, struct relay *relay, struct backend_rig *rig,
		  struct rig_area *area, uint64_t without)
{
	const struct vublk_option properties[] = { { "inflight-migration", "on" }, { 0 } };

	relay_mock_init(mock);
	mock->mock.base = BEGUN;
	/* Otherwise the area that the mock makes has fewer entries than the rig's rings. */
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

/* Frees the rest, after the rig has been closed. */
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

/* Disables the rings, as QEMU does before it asks for the bases. */
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

/* The back-end executes requests that were left when the ring was disabled before it answers. */
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
	complete(&rig, 0, BEGUN); /* as a back-end completes the requests in the area */
	for (unsigned i = 0; i < QUEUES; i++) {
		ask_base(&rig, VUBLK_VU_GET_VRING_BASE, i);
		expect_base(&rig, VUBLK_VU_GET_VRING_BASE, BEGUN);
	}
	/* The relay has started and stopped only queue 0 again. */
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

/* A VMM must not take incomplete requests for completed ones. */
static void test_a_drain_that_is_none(void **state)
{
	struct relay_mock mock;
	struct rig_area area;
	struct relay relay;
	struct backend_rig rig;

	begin(&mock, &relay, &rig, &area, 0);
	disable(&rig);
	ask_base(&rig, VUBLK_VU_GET_VRING_BASE, 0);
	relay_wait(&relay, "queue 0 cannot be stopped, because its requests are not complete: 3 "
			   "of them");
	rig_wait_for_end(&rig);
	rig_close(&rig);
	end(&mock, &relay, &area);
}

/*
 * If the VMM accepts only GET_VRING_BASE_INFLIGHT, the plain message leaves requests; if it accepts
 * neither feature, the stop leaves none.
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
		VUBLK_TEST(test_a_drain_that_is_none),
		VUBLK_TEST(test_vmms_that_know_less),
		VUBLK_TEST(test_messages_that_are_refused),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
