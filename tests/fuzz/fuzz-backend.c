/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A hostile front-end and its hostile guest, before a whole back-end. The input is
 * a list of records:
 *   0x00..0x7f  a message: request, flags, payload size, descriptors (low nibble:
 *               how many; bits 4 and 5: of which kind), then the payload
 *   0x80..0xbf  a write to the shared memory: offset (2 bytes), size, then the bytes
 *   0xc0..0xff  a kick
 * Whatever comes, each answer is a well-formed reply, the back-end ends when the
 * front-end goes, and (the sanitizers' part) keeps within its memory.
 */
#include "fuzz.h"

#include "proto/vhost-user/codec.h"
#include "util/fd.h"

#include <vublk/backend.h>

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define MEMORY_BYTES 65536

enum kind {
	KIND_MEMORY,
	KIND_EVENT,
	KIND_SOCKET,
	KIND_OTHER_END,
	NUM_KINDS,
};

struct world {
	struct vublk_backend *backend;
	int peer; /* our end of the front-end's socket */
	int fds[NUM_KINDS];
	uint8_t *memory;
	const uint8_t *data;
	size_t left;
};

/* --- the input ------------------------------------------------------------- */

static uint8_t take_byte(struct world *world)
{
	if (!world->left)
		return 0;
	world->left--;
	return *world->data++;
}

static size_t take_bytes(struct world *world, void *to, size_t bytes)
{
	if (bytes > world->left)
		bytes = world->left;
	memcpy(to, world->data, bytes);
	world->data += bytes;
	world->left -= bytes;
	return bytes;
}

/* --- what the front-end does ----------------------------------------------- */

static void send_message(struct world *world, const struct vublk_vu_header *header,
			 const uint8_t *payload, unsigned num_fds, int fd)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(16 * sizeof(int))];
	} control = { 0 };
	struct iovec iov[2] = { { (void *)header, sizeof(*header) },
				{ (void *)payload, header->size } };
	struct msghdr message = { .msg_iov = iov, .msg_iovlen = 2 };

	if (num_fds) {
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(num_fds * sizeof(int));
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(num_fds * sizeof(int));
		for (unsigned i = 0; i < num_fds; i++)
			memcpy(CMSG_DATA(&control.header) + i * sizeof(int), &fd, sizeof(int));
	}
	/* The back-end may have hung up, which is its right. */
	(void)!sendmsg(world->peer, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void do_message(struct world *world)
{
	struct vublk_vu_header header = { 0 };
	uint8_t payload[256] = { 0 };
	uint8_t fds;

	header.request = take_byte(world);
	header.flags = take_byte(world);
	header.size = take_byte(world);
	fds = take_byte(world);
	take_bytes(world, payload, header.size);
	send_message(world, &header, payload, fds & 0xf, world->fds[fds >> 4 & 3]);
}

static void do_poke(struct world *world)
{
	size_t offset = take_byte(world);
	uint8_t bytes[256];
	size_t size;

	offset |= (size_t)take_byte(world) << 8;
	size = take_bytes(world, bytes, take_byte(world));
	if (size > MEMORY_BYTES - offset)
		size = MEMORY_BYTES - offset;
	memcpy(world->memory + offset, bytes, size);
}

/* --- what the back-end does ------------------------------------------------ */

static void check_replies(struct world *world)
{
	struct vublk_vu_header header;
	uint8_t payload[VUBLK_VU_MAX_PAYLOAD_BYTES];

	while (recv(world->peer, &header, sizeof(header), MSG_DONTWAIT) == sizeof(header)) {
		FUZZ_CHECK(header.flags == (VUBLK_VU_VERSION | VUBLK_VU_FLAG_REPLY));
		FUZZ_CHECK(header.size <= sizeof(payload));
		if (header.size)
			FUZZ_CHECK(recv(world->peer, payload, header.size, MSG_DONTWAIT) ==
				   (ssize_t)header.size);
	}
}

static void let_it_work(struct world *world)
{
	struct pollfd ready = { .fd = vublk_backend_fd(world->backend), .events = POLLIN };

	while (poll(&ready, 1, 0) == 1)
		if (vublk_backend_process(world->backend, NULL) != 1)
			break;
	check_replies(world);
}

static void open_world(struct world *world)
{
	static const char *const names[] = { "engine", "size", "num-queues" };
	static const char *const values[] = { "memory", "64k", "2" };
	struct vublk_option options[5] = { 0 };
	char number[16];
	int sockets[2];

	for (int i = 0; i < 3; i++)
		options[i] = (struct vublk_option){ names[i], values[i] };
	FUZZ_CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets));
	snprintf(number, sizeof(number), "%d", sockets[1]);
	options[3] = (struct vublk_option){ "fd", number };
	FUZZ_CHECK(!vublk_backend_open(options, NULL, &world->backend, NULL));
	world->peer = sockets[0];
	world->fds[KIND_MEMORY] = memfd_create("fuzz", MFD_CLOEXEC);
	FUZZ_CHECK(!ftruncate(world->fds[KIND_MEMORY], MEMORY_BYTES));
	world->memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
			     world->fds[KIND_MEMORY], 0);
	FUZZ_CHECK(world->memory != MAP_FAILED);
	world->fds[KIND_EVENT] = vublk_eventfd_new();
	FUZZ_CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets));
	world->fds[KIND_SOCKET] = sockets[0];
	world->fds[KIND_OTHER_END] = sockets[1];
}

static void close_world(struct world *world)
{
	shutdown(world->peer, SHUT_RDWR);
	FUZZ_CHECK(!vublk_backend_run(world->backend, NULL));
	vublk_backend_free(world->backend);
	munmap(world->memory, MEMORY_BYTES);
	vublk_fd_close_all(world->fds, NUM_KINDS);
	vublk_fd_close(&world->peer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world world = { .data = data, .left = size };

	open_world(&world);
	while (world.left) {
		uint8_t kind = take_byte(&world);

		if (kind < 0x80)
			do_message(&world);
		else if (kind < 0xc0)
			do_poke(&world);
		else
			vublk_eventfd_signal(world.fds[KIND_EVENT]);
		let_it_work(&world);
	}
	close_world(&world);
	return 0;
}
