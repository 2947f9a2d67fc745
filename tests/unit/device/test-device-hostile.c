/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The device with back-ends whose answers break the rules of the protocol. The fuzz targets cover
 * arbitrary bytes.
 *
 * Key idea: every answer of a session is broken in every way that the mock knows. Each case ends in
 * time, with one sentence that names the message, and leaks no descriptor.
 */
#include "harness.h"

#include "mock/device-rig.h"

#include "util/checked.h"

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define NUM_QUEUES 2

/* A request that is answered in each session, and the size of the answer. */
struct answered {
	uint32_t request;
	unsigned bytes;
};

static const struct answered answered[] = {
	{ VUBLK_VU_GET_FEATURES, 20 },
	{ VUBLK_VU_GET_PROTOCOL_FEATURES, 20 },
	{ VUBLK_VU_GET_QUEUE_NUM, 20 },
	{ VUBLK_VU_GET_MAX_MEM_SLOTS, 20 },
	{ VUBLK_VU_SET_BACKEND_REQ_FD, 20 },
	{ VUBLK_VU_GET_CONFIG, 12 + 12 + 60 },
	{ VUBLK_VU_SET_FEATURES, 20 },
	{ VUBLK_VU_SET_STATUS, 20 },
	{ VUBLK_VU_GET_STATUS, 20 },
	{ VUBLK_VU_ADD_MEM_REG, 20 },
	{ VUBLK_VU_SET_VRING_ADDR, 20 },
	{ VUBLK_VU_SET_VRING_ERR, 20 },
	{ VUBLK_VU_SET_VRING_CALL, 20 },
	{ VUBLK_VU_SET_VRING_KICK, 20 },
	{ VUBLK_VU_SET_VRING_ENABLE, 20 },
	{ VUBLK_VU_GET_VRING_BASE, 20 },
};

#define FOR_EACH_ANSWERED(a) \
	for (const struct answered *a = answered; a < answered + VUBLK_ARRAY_SIZE(answered); a++)

static const char *name_of(uint32_t request)
{
	return vublk_vu_request_name(VUBLK_VU_TO_BACKEND, request);
}

/*
 * Runs a session with a fault in the first answer to `request`, and unrealizes the device. Returns
 * the code of the session's error; 0: no error.
 */
static int try_fault(struct device_rig *rig, struct mock *mock, enum mock_fault_kind kind,
		     uint32_t request, unsigned bytes, struct vublk_error *error)
{
	int code;

	mock_forget(mock);
	mock->fault = (struct mock_fault){ .kind = kind, .request = request, .bytes = bytes };
	code = rig_try_session(rig, NUM_QUEUES, error);
	vublk_device_unrealize(rig->device);
	rig_settle(rig);
	return code;
}

static void expect_sentence(const struct vublk_error *error, uint32_t request)
{
	if (!strstr(error->text, name_of(request)))
		fail_msg("no word of %s in: %s", name_of(request), error->text);
	if (!strstr(error->text, "/mock'"))
		fail_msg("no word of the back-end in: %s", error->text);
}

/* The list above must have exactly the requests that the back-end answers in a session. */
static void test_the_list_is_complete(void **state)
{
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, NULL);
	assert_int_equal(try_fault(&rig, &mock, MOCK_NO_FAULT, 0, 0, &error), 0);
	for (uint32_t request = 0; request < VUBLK_VU_REQUEST_END; request++) {
		bool listed = false;

		FOR_EACH_ANSWERED(a)
			listed |= a->request == request;
		if (listed != mock_is_answered(&mock, request))
			fail_msg("%s is %s", name_of(request), listed ? "not answered" : "answered");
	}
	rig_end(&rig, &mock);
}

static void test_end_of_file_at_every_byte(void **state)
{
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;
	unsigned fds;

	rig_prepare(&rig, &mock, NULL);
	assert_int_equal(try_fault(&rig, &mock, MOCK_NO_FAULT, 0, 0, &error), 0);
	fds = vublk_test_count_fds();
	FOR_EACH_ANSWERED(a)
		for (unsigned bytes = 0; bytes < a->bytes; bytes++) {
			int code = try_fault(&rig, &mock, MOCK_CUT, a->request, bytes, &error);

			if (code != ENOTCONN)
				fail_msg("%s after %u bytes: %d", name_of(a->request), bytes, code);
			assert_int_equal(vublk_test_count_fds(), fds);
		}
	rig_end(&rig, &mock);
}

static void test_wrong_answers(void **state)
{
	const enum mock_fault_kind kinds[] = {
		MOCK_WRONG_REQUEST, MOCK_NO_REPLY_FLAG, MOCK_WRONG_VERSION, MOCK_SHORT, MOCK_HUGE,
		MOCK_WITH_MANY_FDS,
	};
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;
	unsigned fds;

	rig_prepare(&rig, &mock, NULL);
	assert_int_equal(try_fault(&rig, &mock, MOCK_NO_FAULT, 0, 0, &error), 0);
	fds = vublk_test_count_fds();
	for (size_t k = 0; k < VUBLK_ARRAY_SIZE(kinds); k++)
		FOR_EACH_ANSWERED(a) {
			int code = try_fault(&rig, &mock, kinds[k], a->request, 0, &error);

			if (code != EPROTO)
				fail_msg("fault %d of %s: %d", kinds[k], name_of(a->request), code);
			expect_sentence(&error, a->request);
			assert_int_equal(vublk_test_count_fds(), fds);
		}
	rig_end(&rig, &mock);
}

/* The back-end stops answering, at each answer in turn. The deadline ends the session. */
static void test_silence_from_each_answer_on(void **state)
{
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, NULL);
	rig_set(&rig, "request-timeout-ms", "50");
	FOR_EACH_ANSWERED(a) {
		int code = try_fault(&rig, &mock, MOCK_SILENCE, a->request, 0, &error);

		if (code != ETIMEDOUT)
			fail_msg("%s: %d (%s)", name_of(a->request), code, error.text);
		expect_sentence(&error, a->request);
		assert_non_null(strstr(error.text, "within 50 ms"));
	}
	rig_end(&rig, &mock);
}

static void test_answers_that_nobody_asked_for(void **state)
{
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, NULL);
	FOR_EACH_ANSWERED(a) {
		int code = try_fault(&rig, &mock, MOCK_TWICE, a->request, 0, &error);

		/* The second answer to the last request comes after the end of the session. */
		if (code != EPROTO && !(a->request == VUBLK_VU_SET_STATUS && !code))
			fail_msg("%s: %d", name_of(a->request), code);
	}
	rig_end(&rig, &mock);
}

static void test_descriptors_with_answers_are_closed(void **state)
{
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;
	unsigned fds;

	rig_prepare(&rig, &mock, NULL);
	assert_int_equal(try_fault(&rig, &mock, MOCK_NO_FAULT, 0, 0, &error), 0);
	fds = vublk_test_count_fds();
	FOR_EACH_ANSWERED(a) {
		assert_int_equal(try_fault(&rig, &mock, MOCK_WITH_FDS, a->request, 0, &error), 0);
		assert_int_equal(vublk_test_count_fds(), fds);
	}
	rig_end(&rig, &mock);
}

/*
 * The back-end refuses one message, which ends the session. SET_BACKEND_REQ_FD is an exception,
 * because the device works without a back channel.
 */
static void test_refusals(void **state)
{
	const struct { uint32_t request; int code; } cases[] = {
		{ VUBLK_VU_SET_BACKEND_REQ_FD, 0 }, { VUBLK_VU_SET_FEATURES, EIO },
		{ VUBLK_VU_SET_STATUS, EIO }, { VUBLK_VU_ADD_MEM_REG, EIO },
		{ VUBLK_VU_SET_VRING_ADDR, EIO }, { VUBLK_VU_SET_VRING_CALL, EIO },
		{ VUBLK_VU_SET_VRING_KICK, EIO }, { VUBLK_VU_SET_VRING_ENABLE, EIO },
	};
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, NULL);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		unsigned disconnected = rig.calls[RIG_LOST];

		assert_int_equal(try_fault(&rig, &mock, MOCK_REFUSE, cases[i].request, 0, &error),
				 cases[i].code);
		if (!cases[i].code)
			continue;
		expect_sentence(&error, cases[i].request);
		assert_non_null(strstr(error.text, "refused"));
		assert_int_equal(rig.calls[RIG_LOST], disconnected + 1);
	}
	assert_int_equal(rig.calls[RIG_STARTED], 1);
	rig_end(&rig, &mock);
}

/*
 * The back-end refuses the second queue. The error names the queue, and the device stops the queues
 * that the back-end already has.
 */
static void test_refused_queue_is_named_and_undone(void **state)
{
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, NULL);
	mock.fault = (struct mock_fault){ MOCK_REFUSE, VUBLK_VU_SET_VRING_KICK, .nth = 1 };
	assert_int_equal(rig_try_session(&rig, NUM_QUEUES, &error), EIO);
	assert_non_null(strstr(error.text,
		"queue 1: the back-end refused SET_VRING_KICK (it replied 1)"));
	assert_int_equal(mock.received[VUBLK_VU_GET_VRING_BASE], NUM_QUEUES);
	assert_int_equal(vublk_device_state(rig.device), VUBLK_DEVICE_LOST);
	rig_end(&rig, &mock);
}

static void test_wrong_values(void **state)
{
	const struct { uint32_t request; uint64_t value; int code; const char *words; } cases[] = {
		{ VUBLK_VU_GET_FEATURES, 1ull << 32, ENOTSUP, "feature bit 30" },
		{ VUBLK_VU_GET_FEATURES, 1ull << 30, ENOTSUP, "VIRTIO_F_VERSION_1" },
		{ VUBLK_VU_GET_PROTOCOL_FEATURES, 1, ENOTSUP, "protocol feature CONFIG" },
		{ VUBLK_VU_GET_QUEUE_NUM, 0, EPROTO, "reports 0 queues" },
		{ VUBLK_VU_GET_MAX_MEM_SLOTS, 0, EPROTO, "reports 0 memory slots" },
		{ VUBLK_VU_GET_STATUS, 1, EPROTO, "without FEATURES_OK" },
		{ VUBLK_VU_GET_VRING_BASE, 7, EPROTO, "names queue 7" },
		{ VUBLK_VU_GET_VRING_BASE, 1ull << 48, EPROTO, "and index 65536" },
		{ VUBLK_VU_GET_QUEUE_NUM, UINT64_MAX, 0, "" },
		{ VUBLK_VU_GET_MAX_MEM_SLOTS, UINT64_MAX, 0, "" },
	};
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, NULL);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		mock_forget(&mock);
		mock.fault = (struct mock_fault){ MOCK_VALUE, cases[i].request,
						  .value = cases[i].value };
		assert_int_equal(rig_try_session(&rig, NUM_QUEUES, &error), cases[i].code);
		if (cases[i].code && !strstr(error.text, cases[i].words))
			fail_msg("no '%s' in: %s", cases[i].words, error.text);
		vublk_device_unrealize(rig.device);
		rig_settle(&rig);
	}
	rig_end(&rig, &mock);
}

/* Random answers: the session works, or ends with one of the documented errors. */
static void test_random_answers(void **state)
{
	unsigned fds, failed = 0;
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, NULL);
	rig_set(&rig, "request-timeout-ms", "5");
	fds = vublk_test_count_fds() + 3; /* for the memory and the two eventfds of one ring */
	for (uint64_t seed = 1; seed <= 1000; seed++) {
		struct vublk_error error;
		int code;

		mock_forget(&mock);
		mock.fault = (struct mock_fault){ .kind = MOCK_RANDOM,
						  .value = seed * UINT64_C(0x9e3779b97f4a7c15) };
		code = rig_try_session(&rig, 1, &error);
		vublk_device_unrealize(rig.device);
		rig_settle(&rig);
		if (code && code != EPROTO && code != ETIMEDOUT && code != ENOTSUP && code != EIO &&
		    code != EINVAL && code != ENOSPC)
			fail_msg("seed %llu: %d: %s", (unsigned long long)seed, code, error.text);
		if (code && !error.text[0])
			fail_msg("seed %llu: %d without words", (unsigned long long)seed, code);
		failed += code != 0;
		assert_in_range(vublk_test_count_fds(), fds - 3, fds);
	}
	assert_in_range(failed, 300, 999);
	rig_end(&rig, &mock);
}

/* A back-end sends 100,000 messages that it must not send. Neither memory nor descriptors leak. */
static void test_100000_bad_messages(void **state)
{
	const struct { struct vublk_vu_header header; uint8_t payload[40]; } message = {
		{ VUBLK_VU_BACKEND_SHMEM_MAP, VUBLK_VU_VERSION, 40 }, { 0 },
	};
	unsigned fds, mappings;
	struct mallinfo2 before, after;
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, NULL);
	rig_start(&rig, 2);
	fds = vublk_test_count_fds();
	mappings = vublk_test_count_mappings();
	before = mallinfo2();
	for (unsigned i = 0; i < 100000; i += 50) {
		for (unsigned k = 0; k < 50; k++)
			mock_send_with_fds_on_back_channel(&mock, &message, sizeof(message),
							      i % 3);
		rig_settle(&rig);
	}
	after = mallinfo2();
	assert_int_equal(vublk_test_count_fds(), fds);
	assert_int_equal(vublk_test_count_mappings(), mappings);
	assert_in_range(after.uordblks, 0, before.uordblks + 65536);
	rig_stop(&rig);
	rig_end(&rig, &mock);
}

/*
 * The caller runs the loop only after the deadline. This does not count as a timeout of the
 * back-end.
 */
static void test_a_late_loop_is_no_timeout(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, NULL);
	rig_set(&rig, "request-timeout-ms", "1");
	assert_int_equal(vublk_device_realize(rig.device, NULL), 0);
	for (unsigned i = 0; i < 6; i++) {
		struct timespec longer = { 0, 3000000 };

		assert_int_equal(vublk_device_process(rig.device), 0);
		mock_pump(&mock);
		nanosleep(&longer, NULL); /* the deadline must pass here */
	}
	rig_wait(&rig, RIG_REALIZED, 1);
	assert_int_equal(rig.errors[RIG_REALIZED].code, 0);
	rig_end(&rig, &mock);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_the_list_is_complete),
		VUBLK_TEST(test_end_of_file_at_every_byte),
		VUBLK_TEST(test_wrong_answers),
		VUBLK_TEST(test_silence_from_each_answer_on),
		VUBLK_TEST(test_answers_that_nobody_asked_for),
		VUBLK_TEST(test_descriptors_with_answers_are_closed),
		VUBLK_TEST(test_refusals),
		VUBLK_TEST(test_refused_queue_is_named_and_undone),
		VUBLK_TEST(test_wrong_values),
		VUBLK_TEST(test_random_answers),
		VUBLK_TEST(test_100000_bad_messages),
		VUBLK_TEST(test_a_late_loop_is_no_timeout),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
