/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The vhost-user codec: every request with its number, name, sizes and descriptors, and each way in
 * which a message can be invalid.
 *
 * Key idea: the test repeats the specification instead of using the codec's table, so that a wrong
 * row in the codec makes the test fail.
 */
#include "harness.h"

#include "proto/vhost-user/inflight.h"
#include "proto/vhost-user/codec.h"
#include "util/fd.h"

#include <vublk/device.h>

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

struct expected {
	uint32_t number;
	const char *name;
	uint32_t min_bytes, max_bytes, reply_bytes;
	unsigned min_fds, max_fds;
	bool has_reply;
	int feature;
};

static const struct expected to_backend[] = {
	{ 1, "GET_FEATURES", 0, 0, 8, 0, 0, true, -1 },
	{ 2, "SET_FEATURES", 8, 8, 0, 0, 0, false, -1 },
	{ 3, "SET_OWNER", 0, 0, 0, 0, 0, false, -1 },
	{ 4, "RESET_OWNER", 0, 0, 0, 0, 0, false, -1 },
	{ 5, "SET_MEM_TABLE", 8, 264, 0, 0, 8, false, -1 },
	{ 6, "SET_LOG_BASE", 8, 16, 0, 0, 1, true, -1 },
	{ 7, "SET_LOG_FD", 0, 0, 0, 1, 1, false, -1 },
	{ 8, "SET_VRING_NUM", 8, 8, 0, 0, 0, false, -1 },
	{ 9, "SET_VRING_ADDR", 40, 40, 0, 0, 0, false, -1 },
	{ 10, "SET_VRING_BASE", 8, 8, 0, 0, 0, false, -1 },
	{ 11, "GET_VRING_BASE", 8, 8, 8, 0, 0, true, -1 },
	{ 12, "SET_VRING_KICK", 8, 8, 0, 0, 1, false, -1 },
	{ 13, "SET_VRING_CALL", 8, 8, 0, 0, 1, false, -1 },
	{ 14, "SET_VRING_ERR", 8, 8, 0, 0, 1, false, -1 },
	{ 15, "GET_PROTOCOL_FEATURES", 0, 0, 8, 0, 0, true, -1 },
	{ 16, "SET_PROTOCOL_FEATURES", 8, 8, 0, 0, 0, false, -1 },
	{ 17, "GET_QUEUE_NUM", 0, 0, 8, 0, 0, true, 0 },
	{ 18, "SET_VRING_ENABLE", 8, 8, 0, 0, 0, false, -1 },
	{ 19, "SEND_RARP", 8, 8, 0, 0, 0, false, 2 },
	{ 20, "NET_SET_MTU", 8, 8, 0, 0, 0, false, 4 },
	{ 21, "SET_BACKEND_REQ_FD", 0, 0, 0, 1, 1, false, 5 },
	{ 22, "IOTLB_MSG", 26, 32, 8, 0, 0, true, -1 },
	{ 23, "SET_VRING_ENDIAN", 8, 8, 0, 0, 0, false, 6 },
	{ 24, "GET_CONFIG", 12, 268, 0, 0, 0, true, 9 },
	{ 25, "SET_CONFIG", 12, 268, 0, 0, 0, false, 9 },
	{ 26, "CREATE_CRYPTO_SESSION", 0, 512, 0, 0, 0, true, 7 },
	{ 27, "CLOSE_CRYPTO_SESSION", 8, 8, 0, 0, 0, false, 7 },
	{ 28, "POSTCOPY_ADVISE", 0, 0, 0, 0, 0, true, 8 },
	{ 29, "POSTCOPY_LISTEN", 0, 0, 0, 0, 0, false, 8 },
	{ 30, "POSTCOPY_END", 0, 0, 8, 0, 0, true, 8 },
	{ 31, "GET_INFLIGHT_FD", 20, 24, 20, 0, 0, true, 12 },
	{ 32, "SET_INFLIGHT_FD", 20, 24, 0, 1, 1, false, 12 },
	{ 33, "GPU_SET_SOCKET", 0, 0, 0, 1, 1, false, -1 },
	{ 34, "RESET_DEVICE", 0, 0, 0, 0, 0, false, 13 },
	{ 35, "VRING_KICK", 8, 8, 0, 0, 0, false, 14 },
	{ 36, "GET_MAX_MEM_SLOTS", 0, 0, 8, 0, 0, true, 15 },
	{ 37, "ADD_MEM_REG", 40, 40, 0, 1, 1, false, 15 },
	{ 38, "REM_MEM_REG", 40, 40, 0, 0, 1, false, 15 },
	{ 39, "SET_STATUS", 8, 8, 0, 0, 0, false, 16 },
	{ 40, "GET_STATUS", 0, 0, 8, 0, 0, true, 16 },
	{ 41, "GET_SHARED_OBJECT", 16, 16, 0, 0, 0, true, 18 },
	{ 42, "SET_DEVICE_STATE_FD", 8, 8, 8, 1, 1, true, 19 },
	{ 43, "CHECK_DEVICE_STATE", 0, 0, 8, 0, 0, true, 19 },
	{ 44, "GET_SHMEM_CONFIG", 0, 0, 8, 0, 0, true, 22 },
	{ 45, "GET_VRING_BASE_SKIP_DRAIN", 8, 8, 8, 0, 0, true, 23 },
};

static const struct expected to_frontend[] = {
	{ 1, "IOTLB_MSG", 26, 32, 0, 0, 0, false, 5 },
	{ 2, "CONFIG_CHANGE_MSG", 0, 0, 0, 0, 0, false, 9 },
	{ 3, "VRING_HOST_NOTIFIER_MSG", 24, 24, 0, 0, 1, false, 11 },
	{ 4, "VRING_CALL", 8, 8, 0, 0, 0, false, 14 },
	{ 5, "VRING_ERR", 8, 8, 0, 0, 0, false, 14 },
	{ 6, "SHARED_OBJECT_ADD", 16, 16, 0, 0, 0, false, 18 },
	{ 7, "SHARED_OBJECT_REMOVE", 16, 16, 0, 0, 0, false, 18 },
	{ 8, "SHARED_OBJECT_LOOKUP", 16, 16, 8, 0, 0, true, 18 },
	{ 9, "SHMEM_MAP", 40, 40, 0, 1, 1, false, 22 },
	{ 10, "SHMEM_UNMAP", 40, 40, 0, 0, 0, false, 22 },
};

static void assert_row(enum vublk_vu_direction direction, const struct expected *expected)
{
	const struct vublk_vu_request_info *info;

	info = vublk_vu_request_info(direction, expected->number);
	assert_non_null(info);
	print_message("%s\n", expected->name);
	assert_string_equal(info->name, expected->name);
	assert_string_equal(vublk_vu_request_name(direction, expected->number), expected->name);
	assert_int_equal(info->min_payload_bytes, expected->min_bytes);
	assert_int_equal(info->max_payload_bytes, expected->max_bytes);
	assert_int_equal(info->reply_bytes, expected->reply_bytes);
	assert_int_equal(info->min_fds, expected->min_fds);
	assert_int_equal(info->max_fds, expected->max_fds);
	assert_int_equal(info->has_reply, expected->has_reply);
	assert_int_equal(info->protocol_feature, expected->feature);
}

static void test_every_request(void **state)
{
	assert_int_equal(VUBLK_ARRAY_SIZE(to_backend), VUBLK_VU_REQUEST_END - 1);
	assert_int_equal(VUBLK_ARRAY_SIZE(to_frontend), VUBLK_VU_BACKEND_REQUEST_END - 1);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(to_backend); i++)
		assert_row(VUBLK_VU_TO_BACKEND, &to_backend[i]);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(to_frontend); i++)
		assert_row(VUBLK_VU_TO_FRONTEND, &to_frontend[i]);
}

static void test_numbers_that_are_none(void **state)
{
	const uint32_t none[] = { 0, VUBLK_VU_REQUEST_END, 1000, UINT32_MAX };
	struct vublk_vu_message message;
	struct vublk_error e;

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(none); i++) {
		assert_null(vublk_vu_request_info(VUBLK_VU_TO_BACKEND, none[i]));
		assert_null(vublk_vu_request_info(VUBLK_VU_TO_FRONTEND, none[i]));
		assert_string_equal(vublk_vu_request_name(VUBLK_VU_TO_BACKEND, none[i]),
				    "unknown request");
	}
	assert_null(vublk_vu_request_info(VUBLK_VU_TO_FRONTEND, VUBLK_VU_BACKEND_REQUEST_END));
	vublk_vu_message_init(&message, 1000);
	assert_int_equal(vublk_vu_check_request(VUBLK_VU_TO_BACKEND, &message, &e), -ENOTSUP);
	assert_string_equal(e.text, "request number 1000 is not in the protocol");
	assert_int_equal(vublk_vu_check_request(VUBLK_VU_TO_BACKEND, &message, NULL), -ENOTSUP);
}

static void test_protocol_features(void **state)
{
	static const char *const names[] = {
		"MQ", "LOG_SHMFD", "RARP", "REPLY_ACK", "MTU", "BACKEND_REQ", "CROSS_ENDIAN",
		"CRYPTO_SESSION", "PAGEFAULT", "CONFIG", "BACKEND_SEND_FD", "HOST_NOTIFIER",
		"INFLIGHT_SHMFD", "RESET_DEVICE", "INBAND_NOTIFICATIONS",
		"CONFIGURE_MEM_SLOTS", "STATUS", "XEN_MMAP", "SHARED_OBJECT", "DEVICE_STATE",
		"GET_VRING_BASE_INFLIGHT", "GPA_ADDRESSES", "SHMEM",
		"GET_VRING_BASE_SKIP_DRAIN",
	};

	assert_int_equal(VUBLK_ARRAY_SIZE(names), VUBLK_VU_F_END);
	for (unsigned bit = 0; bit < VUBLK_ARRAY_SIZE(names); bit++)
		assert_string_equal(vublk_protocol_feature_name(bit), names[bit]);
	assert_null(vublk_protocol_feature_name(VUBLK_VU_F_END));
	assert_null(vublk_protocol_feature_name(63));
	assert_null(vublk_protocol_feature_name(UINT32_MAX));
}

static int check(enum vublk_vu_direction direction, uint32_t request, uint32_t bytes,
		 unsigned num_fds, struct vublk_error *error)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, request);
	message.header.size = bytes;
	message.num_fds = num_fds; /* the check uses only the number */
	return vublk_vu_check_request(direction, &message, error);
}

/* Checks one request with all sizes up to the maximum, and with all numbers of descriptors. */
static void check_all(enum vublk_vu_direction direction, const struct expected *expected)
{
	struct vublk_error e;

	print_message("%s\n", expected->name);
	for (uint32_t bytes = 0; bytes <= VUBLK_VU_MAX_PAYLOAD_BYTES; bytes++) {
		bool good = bytes >= expected->min_bytes && bytes <= expected->max_bytes;
		int r = check(direction, expected->number, bytes, expected->min_fds, &e);

		assert_int_equal(r, good ? 0 : -EPROTO);
		if (!good)
			assert_memory_equal(e.text, expected->name, strlen(expected->name));
	}
	for (unsigned num_fds = 0; num_fds <= VUBLK_VU_MAX_FDS; num_fds++) {
		bool good = num_fds >= expected->min_fds && num_fds <= expected->max_fds;
		int r = check(direction, expected->number, expected->min_bytes, num_fds, &e);

		assert_int_equal(r, good ? 0 : -EPROTO);
	}
}

static void test_every_size_and_number_of_fds(void **state)
{
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(to_backend); i++)
		check_all(VUBLK_VU_TO_BACKEND, &to_backend[i]);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(to_frontend); i++)
		check_all(VUBLK_VU_TO_FRONTEND, &to_frontend[i]);
}

static void test_sentences_of_a_request(void **state)
{
	struct vublk_error e;

	check(VUBLK_VU_TO_BACKEND, VUBLK_VU_SET_VRING_NUM, 9, 0, &e);
	assert_string_equal(e.text,
		"SET_VRING_NUM has a payload of 9 bytes; expected 8");
	check(VUBLK_VU_TO_BACKEND, VUBLK_VU_GET_CONFIG, 11, 0, &e);
	assert_string_equal(e.text,
		"GET_CONFIG has a payload of 11 bytes; expected 12 to 268");
	check(VUBLK_VU_TO_BACKEND, VUBLK_VU_ADD_MEM_REG, 40, 0, &e);
	assert_string_equal(e.text,
		"ADD_MEM_REG has 0 file descriptors; expected one");
	check(VUBLK_VU_TO_BACKEND, VUBLK_VU_SET_OWNER, 0, 3, &e);
	assert_string_equal(e.text,
		"SET_OWNER has 3 file descriptors; expected none");
	check(VUBLK_VU_TO_BACKEND, VUBLK_VU_GET_SHMEM_CONFIG, 8, 0, &e);
	assert_non_null(strstr(e.text, "probably means GET_VRING_BASE_SKIP_DRAIN"));
	check(VUBLK_VU_TO_BACKEND, VUBLK_VU_SET_VRING_KICK, 8, 2, &e);
	assert_string_equal(e.text,
		"SET_VRING_KICK has 2 file descriptors; expected at most 1");
}

static void test_flags_of_a_request(void **state)
{
	struct vublk_vu_message message;
	struct vublk_error e;

	for (unsigned bit = 0; bit < 32; bit++) {
		uint32_t flags = VUBLK_VU_VERSION | UINT32_C(1) << bit;
		bool good = flags == VUBLK_VU_VERSION ||
			    flags == (VUBLK_VU_VERSION | VUBLK_VU_FLAG_NEED_REPLY);

		vublk_vu_message_init(&message, VUBLK_VU_SET_OWNER);
		message.header.flags = flags;
		assert_int_equal(vublk_vu_check_request(VUBLK_VU_TO_BACKEND, &message, &e),
				 good ? 0 : -EPROTO);
	}
	message.header.flags = 0;
	assert_int_equal(vublk_vu_check_request(VUBLK_VU_TO_BACKEND, &message, &e), -EPROTO);
	assert_string_equal(e.text,
		"SET_OWNER has protocol version 0; expected 1");
	message.header.flags = VUBLK_VU_VERSION | VUBLK_VU_FLAG_REPLY;
	assert_int_equal(vublk_vu_check_request(VUBLK_VU_TO_BACKEND, &message, &e), -EPROTO);
	assert_string_equal(e.text,
		"SET_OWNER is marked as a reply; expected a request");
	message.header.flags = VUBLK_VU_VERSION | 0x30;
	assert_int_equal(vublk_vu_check_request(VUBLK_VU_TO_BACKEND, &message, &e), -EPROTO);
	assert_string_equal(e.text, "SET_OWNER has reserved header flags set (0x30); expected 0");
}

static void init_reply(struct vublk_vu_message *reply)
{
	vublk_vu_message_init(reply, VUBLK_VU_GET_FEATURES);
	reply->header.flags |= VUBLK_VU_FLAG_REPLY;
	reply->header.size = 8;
}

static int check_reply(const struct vublk_vu_message *reply, struct vublk_error *error)
{
	return vublk_vu_check_reply(VUBLK_VU_GET_FEATURES, 8, reply, error);
}

static void test_replies(void **state)
{
	struct vublk_vu_message reply;
	struct vublk_error e;

	init_reply(&reply);
	assert_int_equal(check_reply(&reply, &e), 0);
	reply.header.flags |= VUBLK_VU_FLAG_NEED_REPLY; /* libvhost-user does not clear this flag */
	assert_int_equal(check_reply(&reply, &e), 0);
	reply.header.size = 16;
	assert_int_equal(check_reply(&reply, &e), 0);
	reply.header.size = 7;
	assert_int_equal(check_reply(&reply, &e), -EPROTO);
	assert_string_equal(e.text, "the reply to GET_FEATURES has a payload of 7 bytes; expected "
			    "at least 8");
	init_reply(&reply);
	reply.header.request = VUBLK_VU_GET_STATUS;
	assert_int_equal(check_reply(&reply, &e), -EPROTO);
	assert_string_equal(e.text, "received a reply to GET_STATUS (number 40); expected one to "
			    "GET_FEATURES");
	init_reply(&reply);
	reply.header.flags = VUBLK_VU_VERSION;
	assert_int_equal(check_reply(&reply, &e), -EPROTO);
	assert_string_equal(e.text, "the answer to GET_FEATURES is not marked as a reply "
			    "(header flags 0x1)");
	reply.header.flags = VUBLK_VU_FLAG_REPLY | 2;
	assert_int_equal(check_reply(&reply, &e), -EPROTO);
	assert_string_equal(e.text, "the reply to GET_FEATURES has protocol version 2; expected 1");
}

static void test_descriptors_of_a_message(void **state)
{
	struct vublk_vu_message message;
	unsigned before = vublk_test_count_fds();
	int taken;

	vublk_vu_message_init(&message, VUBLK_VU_SET_MEM_TABLE);
	for (message.num_fds = 0; message.num_fds < 3; message.num_fds++)
		message.fds[message.num_fds] = vublk_eventfd_new();
	assert_int_equal(vublk_test_count_fds(), before + 3);
	taken = vublk_vu_message_take_fd(&message, 1);
	assert_true(taken >= 0);
	assert_int_equal(vublk_vu_message_take_fd(&message, 1), -1);
	assert_int_equal(vublk_vu_message_take_fd(&message, 3), -1);
	assert_int_equal(vublk_vu_message_take_fd(&message, UINT32_MAX), -1);
	vublk_vu_message_deinit(&message);
	assert_int_equal(vublk_test_count_fds(), before + 1);
	vublk_vu_message_deinit(&message);
	vublk_vu_message_deinit(NULL);
	vublk_eventfd_signal(taken);
	assert_int_equal(vublk_eventfd_clear(taken), 1);
	vublk_fd_close(&taken);
}

static void test_inflight_sizes(void **state)
{
	assert_int_equal(vublk_inflight_split_region_bytes(0), 64);
	assert_int_equal(vublk_inflight_split_region_bytes(1), 64);
	assert_int_equal(vublk_inflight_split_region_bytes(3), 64);
	assert_int_equal(vublk_inflight_split_region_bytes(4), 128);
	assert_int_equal(vublk_inflight_split_region_bytes(128), 2112);
	assert_int_equal(vublk_inflight_split_region_bytes(1024), 16448);
	assert_int_equal(vublk_inflight_split_area_bytes(0, 128), 0);
	assert_int_equal(vublk_inflight_split_area_bytes(4, 128), 8448);
	assert_int_equal(vublk_inflight_split_area_bytes(65535, 65535), UINT64_C(68718428160));
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_every_request),
		VUBLK_TEST(test_numbers_that_are_none),
		VUBLK_TEST(test_protocol_features),
		VUBLK_TEST(test_every_size_and_number_of_fds),
		VUBLK_TEST(test_sentences_of_a_request),
		VUBLK_TEST(test_flags_of_a_request),
		VUBLK_TEST(test_replies),
		VUBLK_TEST(test_descriptors_of_a_message),
		VUBLK_TEST(test_inflight_sizes),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
