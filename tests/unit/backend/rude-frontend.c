/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "rude-frontend.h"

#include "harness.h"

#include "proto/vhost-user/channel.h"
#include "util/checked.h"
#include "util/fd.h"

#include <linux/virtio_config.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int rude_dial(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

void rude_wait_for_end(int fd)
{
	char bytes[256];

	while (recv(fd, bytes, sizeof(bytes), 0) > 0)
		;
	close(fd);
}

void rude_check_served(const char *path)
{
	struct vublk_vu_header ask = { VUBLK_VU_GET_FEATURES, VUBLK_VU_VERSION, 0 };
	struct {
		struct vublk_vu_header header;
		uint64_t features;
	} __attribute__((packed)) reply;
	int fd = rude_dial(path);

	assert_int_equal(send(fd, &ask, sizeof(ask), MSG_NOSIGNAL), sizeof(ask));
	assert_int_equal(recv(fd, &reply, sizeof(reply), MSG_WAITALL), sizeof(reply));
	assert_true(reply.features & VUBLK_BIT(VIRTIO_F_VERSION_1));
	close(fd);
}

void rude_send(int fd, const void *bytes, size_t count)
{
	const char *at = bytes;

	while (count) {
		ssize_t n = send(fd, at, count, MSG_NOSIGNAL);

		if (n < 0)
			return; /* the server may have closed the connection */
		at += n;
		count -= (size_t)n;
	}
}

void rude_bad_headers(const char *path)
{
	static const struct vublk_vu_header headers[] = {
		{ VUBLK_VU_GET_FEATURES, 0, 0 },
		{ VUBLK_VU_GET_FEATURES, 2, 0 },
		{ VUBLK_VU_GET_FEATURES, VUBLK_VU_VERSION | VUBLK_VU_FLAG_REPLY, 0 },
		{ VUBLK_VU_GET_FEATURES, VUBLK_VU_VERSION, UINT32_MAX },
		{ VUBLK_VU_GET_FEATURES, VUBLK_VU_VERSION, VUBLK_VU_MAX_PAYLOAD_BYTES + 1 },
		{ 0, VUBLK_VU_VERSION, 0 },
		{ UINT32_MAX, VUBLK_VU_VERSION, 8 },
		{ VUBLK_VU_SET_FEATURES, VUBLK_VU_VERSION, 4 },
		{ VUBLK_VU_GET_VRING_BASE, VUBLK_VU_VERSION, 0 },
	};

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(headers); i++) {
		char payload[VUBLK_VU_MAX_PAYLOAD_BYTES + 1] = { 0 };
		int fd = rude_dial(path);

		rude_send(fd, &headers[i], sizeof(headers[i]));
		rude_send(fd, payload, VUBLK_MIN((size_t)headers[i].size, sizeof(payload)));
		rude_wait_for_end(fd);
		rude_check_served(path);
	}
}

void rude_gone_at_each_byte(const char *path)
{
	struct {
		struct vublk_vu_header header;
		uint64_t value;
	} __attribute__((packed)) message = {
		{ VUBLK_VU_SET_FEATURES, VUBLK_VU_VERSION, 8 }, 0,
	};

	for (size_t n = 0; n <= sizeof(message); n++) {
		int fd = rude_dial(path);

		rude_send(fd, &message, n);
		close(fd);
	}
	rude_check_served(path);
}

/* --- random messages ---------------------------------------------------------------- */

uint64_t rude_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static void random_message(struct vublk_vu_message *message, uint64_t *seed, int fd)
{
	vublk_vu_message_init(message, (uint32_t)(rude_random(seed) % 48));
	for (unsigned i = 0; i < VUBLK_VU_MAX_PAYLOAD_BYTES / 8; i++) {
		uint64_t word = rude_random(seed);

		/* Small numbers pass more checks than large ones. */
		memcpy(message->payload.bytes + i * 8,
		       &(uint64_t){ rude_random(seed) % 2 ? word : word % 5 }, 8);
	}
	message->header.size = (uint32_t)((uint32_t[]){ 0, 8, 8, 16, 24, 40,
							40 }[rude_random(seed) % 7]);
	if (rude_random(seed) % 4)
		message->header.flags |= VUBLK_VU_FLAG_NEED_REPLY;
	message->num_fds = (unsigned)(rude_random(seed) % 3);
	if (rude_random(seed) % 50 == 0)
		message->num_fds = VUBLK_VU_MAX_FDS;
	for (unsigned i = 0; i < message->num_fds; i++)
		message->fds[i] = fd;
}

/* Reads the replies that have arrived. Returns false if the connection has ended. */
static bool drain(struct vublk_channel *channel)
{
	struct vublk_vu_message reply;
	int r;

	while ((r = vublk_channel_receive(channel, &reply, NULL)) == 1)
		vublk_vu_message_deinit(&reply);
	return !r;
}

static void set_up_protocol(struct vublk_channel *channel)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, VUBLK_VU_SET_PROTOCOL_FEATURES);
	message.payload.u64 = VUBLK_BIT(VUBLK_VU_F_REPLY_ACK) | VUBLK_BIT(VUBLK_VU_F_MQ) |
			      VUBLK_BIT(VUBLK_VU_F_CONFIG) |
			      VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD) |
			      VUBLK_BIT(VUBLK_VU_F_CONFIGURE_MEM_SLOTS);
	message.header.size = 8;
	assert_int_equal(vublk_channel_send(channel, &message, NULL), 0);
}

/* Closes the connection, and waits until the server serves another front-end. */
static void settle(struct vublk_channel *channel, const char *path)
{
	vublk_channel_deinit(channel);
	rude_check_served(path);
}

void rude_flood(const char *path, unsigned count, uint64_t *seed)
{
	struct vublk_channel channel;
	int memfd = memfd_create("flood", MFD_CLOEXEC);

	assert_int_equal(ftruncate(memfd, 1 << 16), 0);
	vublk_channel_init(&channel, rude_dial(path));
	set_up_protocol(&channel);
	for (unsigned i = 0; i < count; i++) {
		struct vublk_vu_message message;

		random_message(&message, seed, memfd);
		if (vublk_channel_send(&channel, &message, NULL) < 0 || !drain(&channel)) {
			settle(&channel, path);
			vublk_channel_init(&channel, rude_dial(path));
			set_up_protocol(&channel);
		}
	}
	settle(&channel, path);
	vublk_fd_close(&memfd);
}

void rude_silent(const char *path)
{
	struct vublk_vu_message message;
	const char *bytes = (const char *)&message.header;
	const size_t whole = sizeof(message.header);

	vublk_vu_message_init(&message, VUBLK_VU_SET_OWNER);
	for (size_t sent = 0; sent < 2 * whole; sent += 5) {
		int fd = rude_dial(path);

		if (sent == whole) /* exactly one complete message, after which the server would not
				      disconnect */
			continue;
		rude_send(fd, bytes, sent < whole ? sent : whole);
		if (sent > whole)
			rude_send(fd, bytes, sent - whole);
		rude_check_served(path);
		rude_wait_for_end(fd);
	}
}
