/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A back-end that a test controls; see the header.
 *
 * Key idea: mock_pump_once() handles one request and returns, so a test can place an event between
 * any two messages.
 */
#include "harness.h"

#include "mock-backend.h"

#include "util/checked.h"
#include "util/fd.h"
#include "util/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define PROTOCOL_FEATURES \
	(VUBLK_BIT(VUBLK_VU_F_END) - 1)
#define FEATURES                                                                          \
	(VUBLK_BIT(VIRTIO_F_VERSION_1) | VUBLK_BIT(30) | VUBLK_BIT(VIRTIO_BLK_F_BLK_SIZE) | \
	 VUBLK_BIT(VIRTIO_BLK_F_SEG_MAX) | VUBLK_BIT(VIRTIO_BLK_F_FLUSH) |                \
	 VUBLK_BIT(VIRTIO_BLK_F_CONFIG_WCE) | VUBLK_BIT(VIRTIO_BLK_F_MQ) |                \
	 VUBLK_BIT(VIRTIO_BLK_F_TOPOLOGY) | VUBLK_BIT(VIRTIO_BLK_F_DISCARD) |             \
	 VUBLK_BIT(VIRTIO_BLK_F_WRITE_ZEROES) | VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX) |      \
	 VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC) | VUBLK_BIT(VIRTIO_F_RING_PACKED))

void mock_init(struct mock *mock)
{
	mock_init_with_suffix(mock, "");
}

void mock_init_with_suffix(struct mock *mock, const char *suffix)
{
	struct virtio_blk_config config = {
		.capacity = 2048, .seg_max = 126, .blk_size = 512, .num_queues = 99,
		.wce = 1, .max_discard_sectors = 1024, .max_discard_seg = 1,
		.max_write_zeroes_sectors = 1024, .max_write_zeroes_seg = 1,
	};

	memset(mock, 0, sizeof(*mock));
	snprintf(mock->path, sizeof(mock->path), "%s/mock%s", vublk_test_folder(), suffix);
	mock->listen_fd = vublk_socket_listen(mock->path, NULL);
	assert_true(mock->listen_fd >= 0);
	mock->channel.fd = -1;
	mock->back_channel = -1;
	mock->inflight_fd = -1;
	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(mock->err_fds); i++)
		mock->kick_fds[i] = mock->call_fds[i] = mock->err_fds[i] = -1;
	mock->features = FEATURES;
	mock->protocol_features = PROTOCOL_FEATURES;
	mock->max_queues = 4;
	mock->memory_slots = 32;
	mock->max_config_bytes = 60;
	memcpy(mock->config, &config, sizeof(config));
}

void mock_hang_up(struct mock *mock)
{
	vublk_channel_deinit(&mock->channel);
	mock->channel.fd = -1;
	vublk_fd_close(&mock->back_channel);
	vublk_fd_close_all(mock->kick_fds, VUBLK_ARRAY_SIZE(mock->kick_fds));
	vublk_fd_close_all(mock->call_fds, VUBLK_ARRAY_SIZE(mock->call_fds));
	vublk_fd_close_all(mock->err_fds, VUBLK_ARRAY_SIZE(mock->err_fds));
	mock->accepted_features = 0;
	mock->accepted_protocol_features = 0;
	mock->num_regions = 0;
	mock->silent = false;
}

void mock_die(struct mock *mock)
{
	mock_hang_up(mock);
	vublk_fd_close(&mock->listen_fd);
	unlink(mock->path);
}

void mock_live_again(struct mock *mock)
{
	mock->listen_fd = vublk_socket_listen(mock->path, NULL);
	assert_true(mock->listen_fd >= 0);
}

void mock_deinit(struct mock *mock)
{
	mock_die(mock);
	vublk_fd_close(&mock->inflight_fd);
}

void mock_forget(struct mock *mock)
{
	memset(mock->answers, 0, sizeof(mock->answers));
	memset(mock->received, 0, sizeof(mock->received));
	mock->num_log = 0;
	mock->num_connections = 0;
}

/* --- answers, valid and invalid ----------------------------------------------------------- */

/*
 * Sends the bytes with `num_fds` new eventfds, which make the answer invalid. If `num_fds` is 0,
 * sends `given_fd` with the bytes, unless it is -1.
 */
static void send_raw(int fd, const void *bytes, size_t num_bytes, unsigned num_fds, int given_fd)
{
	struct iovec iov = { (void *)bytes, num_bytes };
	union { struct cmsghdr align; char bytes[CMSG_SPACE(16 * sizeof(int))]; } control;
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	int fds[16];

	memset(&control, 0, sizeof(control));
	for (unsigned i = 0; i < num_fds; i++)
		fds[i] = eventfd(0, EFD_CLOEXEC);
	if (!num_fds && given_fd >= 0)
		fds[num_fds++] = fcntl(given_fd, F_DUPFD_CLOEXEC, 0);
	if (num_fds) {
		struct cmsghdr *cmsg;

		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(num_fds * sizeof(int));
		cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(num_fds * sizeof(int));
		memcpy(CMSG_DATA(cmsg), fds, num_fds * sizeof(int));
	}
	if (num_bytes)
		sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	vublk_fd_close_all(fds, num_fds);
}

static void send_bytes(struct mock *mock, const struct vublk_vu_message *reply, unsigned max,
		       unsigned num_fds)
{
	char bytes[sizeof(reply->header) + sizeof(reply->payload)];
	size_t total = sizeof(reply->header) + VUBLK_MIN((size_t)reply->header.size,
							 sizeof(reply->payload));

	memcpy(bytes, &reply->header, sizeof(reply->header));
	memcpy(bytes + sizeof(reply->header), &reply->payload, sizeof(reply->payload));
	send_raw(mock->channel.fd, bytes, VUBLK_MIN(total, (size_t)max), num_fds,
		 reply->num_fds ? reply->fds[0] : -1);
}

/* The mock's own generator (xorshift64) makes the same numbers on every machine. */
static uint64_t next_random(struct mock *mock)
{
	uint64_t x = mock->fault.value;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	mock->fault.value = x;
	return x;
}

/*
 * Changes up to three bytes of about one answer in eight, in the header or at the start of the
 * payload.
 */
static void scramble(struct mock *mock, struct vublk_vu_message *reply)
{
	if (next_random(mock) % 8)
		return;
	for (unsigned i = next_random(mock) % 3 + 1; i; i--) {
		size_t where = next_random(mock) % 24;
		uint8_t byte = (uint8_t)next_random(mock);

		if (where < sizeof(reply->header))
			((uint8_t *)&reply->header)[where] = byte;
		else
			reply->payload.bytes[where - sizeof(reply->header)] = byte;
	}
}

static void send_with_fault(struct mock *mock, struct vublk_vu_message *reply)
{
	unsigned fds = 0, times = 1;

	switch (mock->fault.kind) {
	case MOCK_CUT:
		send_bytes(mock, reply, mock->fault.bytes, 0);
		mock_hang_up(mock);
		return;
	case MOCK_SILENCE:
		mock->silent = true;
		return;
	case MOCK_WRONG_REQUEST:
		reply->header.request++;
		break;
	case MOCK_NO_REPLY_FLAG:
		reply->header.flags &= ~VUBLK_VU_FLAG_REPLY;
		break;
	case MOCK_WRONG_VERSION:
		reply->header.flags ^= 3;
		break;
	case MOCK_SHORT:
		reply->header.size--;
		break;
	case MOCK_HUGE:
		reply->header.size = 0x7fffffff;
		break;
	case MOCK_EMPTY:
		reply->header.size = 0;
		break;
	case MOCK_TWICE:
		times = 2;
		break;
	case MOCK_WITH_FDS:
		fds = 3;
		break;
	case MOCK_WITH_MANY_FDS:
		fds = 16;
		break;
	case MOCK_REFUSE:
		reply->payload.u64 = 1;
		break;
	case MOCK_VALUE:
		reply->payload.u64 = mock->fault.value;
		break;
	case MOCK_RANDOM:
		scramble(mock, reply);
		break;
	case MOCK_NO_FAULT:
	case MOCK_RESET:
		break;
	}
	while (times--)
		send_bytes(mock, reply, UINT32_MAX, fds);
}

static void answer(struct mock *mock, struct vublk_vu_message *reply)
{
	uint32_t request = reply->header.request;
	bool faulty = mock->fault.kind == MOCK_RANDOM ||
		      (mock->fault.kind && mock->fault.request == request &&
		       mock->fault.nth == mock->answers[request]);

	mock->answers[request]++;
	if (mock->silent)
		return;
	reply->header.flags = VUBLK_VU_VERSION | VUBLK_VU_FLAG_REPLY;
	if (faulty)
		send_with_fault(mock, reply);
	else
		send_bytes(mock, reply, UINT32_MAX, 0);
}

/* --- requests --------------------------------------------------------------------------- */

static void answer_u64(struct mock *mock, uint32_t request, uint64_t value)
{
	struct vublk_vu_message reply;

	vublk_vu_message_init(&reply, request);
	reply.header.size = sizeof(uint64_t);
	reply.payload.u64 = value;
	answer(mock, &reply);
}

static void on_get_config(struct mock *mock, const struct vublk_vu_message *request)
{
	struct vublk_vu_message reply = *request;
	uint32_t bytes = request->payload.config.size_bytes;

	if (bytes > mock->max_config_bytes)
		reply.header.size = 0;
	else
		memcpy(reply.payload.config.data, mock->config, bytes);
	reply.num_fds = 0;
	answer(mock, &reply);
}

static void on_get_vring_base(struct mock *mock, const struct vublk_vu_message *request)
{
	struct vublk_vu_message reply = *request;

	mock->base_asked_with = request->payload.state.num;
	reply.payload.state.num = mock->base;
	answer(mock, &reply);
}

#define INFLIGHT_BYTES 8192 /* like some back-ends, rounded up to whole pages */

static uint64_t area_bytes(const struct mock *mock, const struct vublk_vu_inflight *asked)
{
	uint64_t region = 16 + UINT64_C(16) * asked->queue_size;
	uint64_t bytes = asked->num_queues * (mock->has_tight_areas ? region :
								       vublk_round_up(region, 64));

	return mock->insists_on_area ? bytes : VUBLK_MAX(bytes, (uint64_t)INFLIGHT_BYTES);
}

/*
 * Like some back-ends, the mock does not repeat the request's num_queues and queue_size in its
 * answer.
 */
static void on_get_inflight(struct mock *mock, const struct vublk_vu_message *request)
{
	uint64_t bytes = area_bytes(mock, &request->payload.inflight);
	struct vublk_vu_message reply;

	if (mock->insists_on_area)
		vublk_fd_close(&mock->inflight_fd);
	if (mock->inflight_fd < 0)
		mock->inflight_fd = vublk_memfd_new("mock-inflight", bytes, NULL);
	vublk_vu_message_init(&reply, VUBLK_VU_GET_INFLIGHT_FD);
	reply.header.size = sizeof(reply.payload.inflight);
	memset(&reply.payload.inflight, 0, sizeof(reply.payload.inflight));
	reply.payload.inflight.mmap_size = bytes;
	reply.fds[0] = mock->inflight_fd;
	reply.num_fds = 1;
	answer(mock, &reply);
}

static void take_dirty_log(struct mock *mock, const struct vublk_vu_message *request)
{
	struct stat st;

	assert_int_equal(request->num_fds, 1);
	assert_int_equal(request->header.size, sizeof(request->payload.log));
	assert_int_equal(fstat(request->fds[0], &st), 0);
	mock->dirty_log_inode = st.st_ino;
	mock->dirty_log = request->payload.log;
}

static void take_inflight(struct mock *mock, const struct vublk_vu_message *request)
{
	struct stat st;

	assert_int_equal(fstat(request->fds[0], &st), 0);
	mock->inflight_inode = st.st_ino;
	mock->inflight = request->payload.inflight;
	if (mock->insists_on_area && mock->inflight.mmap_size != area_bytes(mock, &mock->inflight))
		mock_hang_up(mock);
}

/* Answers a request that always has a reply. Returns false for other requests. */
static bool answer_query(struct mock *mock, const struct vublk_vu_message *request)
{
	switch (request->header.request) {
	case VUBLK_VU_GET_FEATURES:
		answer_u64(mock, VUBLK_VU_GET_FEATURES, mock->features);
		return true;
	case VUBLK_VU_GET_PROTOCOL_FEATURES:
		answer_u64(mock, VUBLK_VU_GET_PROTOCOL_FEATURES, mock->protocol_features);
		return true;
	case VUBLK_VU_GET_QUEUE_NUM:
		answer_u64(mock, VUBLK_VU_GET_QUEUE_NUM, mock->max_queues);
		return true;
	case VUBLK_VU_GET_MAX_MEM_SLOTS:
		answer_u64(mock, VUBLK_VU_GET_MAX_MEM_SLOTS, mock->memory_slots);
		return true;
	case VUBLK_VU_GET_STATUS:
		answer_u64(mock, VUBLK_VU_GET_STATUS, mock->status);
		return true;
	case VUBLK_VU_GET_CONFIG:
		on_get_config(mock, request);
		return true;
	case VUBLK_VU_GET_INFLIGHT_FD:
		on_get_inflight(mock, request);
		return true;
	case VUBLK_VU_GET_VRING_BASE:
	case VUBLK_VU_GET_VRING_BASE_SKIP_DRAIN:
		on_get_vring_base(mock, request);
		return true;
	case VUBLK_VU_SET_LOG_BASE:
		answer_u64(mock, VUBLK_VU_SET_LOG_BASE,
			   mock->echoes_log_size ? request->payload.log.size_bytes : 0);
		return true;
	default:
		return false;
	}
}

static void keep_fd(int *fds, struct vublk_vu_message *request)
{
	uint64_t index = request->payload.u64 & VUBLK_VU_VRING_INDEX_MASK;

	if (index >= VUBLK_ARRAY_SIZE(((struct mock *)0)->err_fds))
		return;
	vublk_fd_close(&fds[index]);
	fds[index] = request->num_fds ? vublk_vu_message_take_fd(request, 0) : -1;
}

static void note_effect(struct mock *mock, struct vublk_vu_message *request)
{
	switch (request->header.request) {
	case VUBLK_VU_SET_FEATURES:
		mock->accepted_features = request->payload.u64;
		break;
	case VUBLK_VU_SET_PROTOCOL_FEATURES:
		mock->accepted_protocol_features = request->payload.u64;
		break;
	case VUBLK_VU_SET_STATUS:
		mock->status = request->payload.u64;
		break;
	case VUBLK_VU_SET_BACKEND_REQ_FD:
		mock->back_channel = vublk_vu_message_take_fd(request, 0);
		break;
	case VUBLK_VU_SET_LOG_BASE:
		take_dirty_log(mock, request);
		break;
	case VUBLK_VU_SET_VRING_ADDR:
		if (request->payload.addr.index < VUBLK_ARRAY_SIZE(mock->given_addrs))
			mock->given_addrs[request->payload.addr.index] = request->payload.addr;
		break;
	case VUBLK_VU_SET_INFLIGHT_FD:
		take_inflight(mock, request);
		break;
	case VUBLK_VU_SET_VRING_KICK:
		keep_fd(mock->kick_fds, request);
		break;
	case VUBLK_VU_SET_VRING_CALL:
		keep_fd(mock->call_fds, request);
		break;
	case VUBLK_VU_SET_VRING_ERR:
		keep_fd(mock->err_fds, request);
		break;
	case VUBLK_VU_SET_VRING_BASE:
		if (mock->keeps_base && !request->payload.state.index)
			mock->base = (uint16_t)request->payload.state.num;
		if (request->payload.state.index < VUBLK_ARRAY_SIZE(mock->given_bases))
			mock->given_bases[request->payload.state.index] =
				(uint16_t)request->payload.state.num;
		break;
	case VUBLK_VU_ADD_MEM_REG:
		mock->num_regions++;
		break;
	case VUBLK_VU_REM_MEM_REG:
		mock->num_regions--;
		break;
	case VUBLK_VU_SET_MEM_TABLE:
		mock->num_regions = request->payload.table.num_regions;
		break;
	case VUBLK_VU_SET_CONFIG:
		if (!mock->ignore_set_config)
			mock->config[request->payload.config.offset] =
				request->payload.config.data[0];
		break;
	}
}

bool mock_is_answered(const struct mock *mock, uint32_t request)
{
	return mock->answers[request];
}

static void on_request(struct mock *mock, struct vublk_vu_message *request)
{
	struct vublk_error error;

	if (vublk_vu_check_request(VUBLK_VU_TO_BACKEND, request, &error) < 0)
		fail_msg("%s", error.text);
	mock->received[request->header.request]++;
	assert_true(mock->num_log < MOCK_LOG);
	mock->log[mock->num_log++] = request->header.request;
	note_effect(mock, request);
	if (mock->channel.fd < 0 || answer_query(mock, request))
		return;
	if (request->header.flags & VUBLK_VU_FLAG_NEED_REPLY) {
		assert_true(mock->accepted_protocol_features & VUBLK_BIT(VUBLK_VU_F_REPLY_ACK));
		answer_u64(mock, request->header.request,
			   request->header.request == mock->refused_request);
	}
}

/* --- connections ------------------------------------------------------------------------- */

static bool take_connection(struct mock *mock)
{
	int fd = mock->listen_fd < 0 ? -1 : vublk_socket_accept(mock->listen_fd, NULL);

	if (fd < 0)
		return false;
	mock_hang_up(mock);
	mock->num_connections++;
	if (mock->close_first) {
		mock->close_first--;
		close(fd);
	} else {
		vublk_channel_init(&mock->channel, fd);
	}
	return true;
}

void mock_connect(struct mock *mock, const char *path)
{
	struct vublk_error error;
	int fd = vublk_socket_connect(path, &error);

	if (fd < 0)
		fail_msg("%s", error.text);
	mock_hang_up(mock);
	mock->num_connections++;
	vublk_channel_init(&mock->channel, fd);
}

static bool reset_is_due(const struct mock *mock)
{
	struct vublk_vu_header header;

	return mock->fault.kind == MOCK_RESET &&
	       recv(mock->channel.fd, &header, sizeof(header), MSG_PEEK | MSG_DONTWAIT) ==
		       (ssize_t)sizeof(header) &&
	       header.request == mock->fault.request &&
	       mock->received[header.request] == mock->fault.nth;
}

bool mock_pump_once(struct mock *mock)
{
	struct vublk_vu_message request;
	int r;

	if (mock->channel.fd < 0)
		return false;
	if (reset_is_due(mock)) {
		mock->fault.kind = MOCK_NO_FAULT;
		mock_hang_up(mock);
		return false;
	}
	r = vublk_channel_receive(&mock->channel, &request, NULL);
	if (r < 0)
		mock_hang_up(mock);
	if (r <= 0)
		return false;
	on_request(mock, &request);
	vublk_vu_message_deinit(&request);
	return true;
}

bool mock_pump(void *opaque)
{
	struct mock *mock = opaque;
	bool busy = take_connection(mock);

	while (mock_pump_once(mock))
		busy = true;
	return busy;
}

/* --- the back channel ------------------------------------------------------------------ */

void mock_send_on_back_channel(struct mock *mock, const void *bytes, unsigned num_bytes)
{
	assert_true(mock->back_channel >= 0);
	send_raw(mock->back_channel, bytes, num_bytes, 0, -1);
}

void mock_send_with_fds_on_back_channel(struct mock *mock, const void *bytes,
					   unsigned num_bytes, unsigned num_fds)
{
	assert_true(mock->back_channel >= 0);
	send_raw(mock->back_channel, bytes, num_bytes, num_fds, -1);
}

void mock_send_config_change(struct mock *mock, bool need_reply)
{
	struct vublk_vu_header header = {
		VUBLK_VU_BACKEND_CONFIG_CHANGE_MSG,
		VUBLK_VU_VERSION | (need_reply ? VUBLK_VU_FLAG_NEED_REPLY : 0), 0,
	};

	mock_send_on_back_channel(mock, &header, sizeof(header));
}

unsigned mock_take_backend_answers(struct mock *mock)
{
	char bytes[20];
	unsigned count = 0;

	while (recv(mock->back_channel, bytes, sizeof(bytes), MSG_DONTWAIT) == sizeof(bytes))
		count++;
	return count;
}
