/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A hostile VMM and its hostile driver, before a whole vfio-user bus and its device. The
 * back-end behind it is one that says yes to everything, without a thread, so that each
 * run is the same. The input is a list of records:
 *   0x00..0x7f  a command: number, flags, descriptors (low nibble: how many; bits 4
 *               and 5: of which kind), payload size (2 bytes), then the payload
 *   0x80..0xbf  bytes as they are: size, then the bytes
 *   0xc0..0xdf  a posted write to a register: region, offset (2 bytes), size, then the
 *               value
 *   0xe0..0xff  the VMM goes, and another one comes
 * Whatever comes, each answer is a well-formed reply, at the end there is a next client
 * that is served, and (the sanitizers' part) it keeps within its memory.
 */
#include "friendly-backend.h"
#include "fuzz.h"

#include "bus/bus.h"
#include "proto/vfio-user/codec.h"
#include "util/checked.h"
#include "util/fd.h"

#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define MEMORY_BYTES 65536
#define MAX_ROUNDS 100000 /* of the loops, for one input: more is a loop without end */

enum kind {
	KIND_MEMORY,
	KIND_EVENT,
	KIND_SOCKET,
	KIND_OTHER_END,
	NUM_KINDS,
};

struct world {
	char bus_path[64];
	struct friendly_backend backend;
	struct vublk_bus *bus;
	int client;
	int fds[NUM_KINDS];
	const uint8_t *data;
	size_t left;
	unsigned rounds;
};

/* --- the input -------------------------------------------------------------------------------- */

static uint8_t take_byte(struct world *world)
{
	if (!world->left)
		return 0;
	world->left--;
	return *world->data++;
}

static unsigned take_two(struct world *world)
{
	unsigned low = take_byte(world);

	return low | (unsigned)take_byte(world) << 8;
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

/* --- the loop --------------------------------------------------------------------------------------- */

/* Lets bus and back-end do what there is to do. */
static void work(struct world *world)
{
	struct pollfd fd = { vublk_bus_fd(world->bus), POLLIN, 0 };

	while (friendly_backend_work(&world->backend) || poll(&fd, 1, 0) == 1) {
		FUZZ_CHECK(world->rounds++ < MAX_ROUNDS);
		FUZZ_CHECK(vublk_bus_process(world->bus, NULL) == 1);
	}
}

static void check_replies(struct world *world)
{
	struct vublk_vfio_header header;
	static union vublk_vfio_payload payload;

	while (recv(world->client, &header, sizeof(header), MSG_DONTWAIT) == sizeof(header)) {
		FUZZ_CHECK((header.flags & ~VUBLK_VFIO_FLAG_ERROR) == VUBLK_VFIO_TYPE_REPLY);
		FUZZ_CHECK(header.size >= sizeof(header));
		FUZZ_CHECK(header.size <= sizeof(header) + sizeof(payload));
		FUZZ_CHECK(!(header.flags & VUBLK_VFIO_FLAG_ERROR) ||
			   (header.size == sizeof(header) && header.error));
		if (header.size > sizeof(header))
			FUZZ_CHECK(recv(world->client, &payload, header.size - sizeof(header),
					MSG_DONTWAIT) == (ssize_t)(header.size - sizeof(header)));
	}
}

/* --- what the VMM does -------------------------------------------------------------------------- */

/* The bus may have hung up, which is its right. */
static void send_command(struct world *world, uint16_t command, uint32_t flags,
			 const void *payload, size_t bytes, unsigned num_fds, int fd)
{
	struct vublk_vfio_header header = {
		7, command, (uint32_t)(sizeof(header) + bytes), flags, 0,
	};
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(16 * sizeof(int))];
	} control = { 0 };
	struct iovec iov[2] = { { &header, sizeof(header) }, { (void *)payload, bytes } };
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
	(void)!sendmsg(world->client, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void do_command(struct world *world)
{
	static uint8_t payload[65536];
	uint8_t command = take_byte(world), flags = take_byte(world), fds = take_byte(world);
	size_t bytes = take_bytes(world, payload, take_two(world));

	send_command(world, command, flags, payload, bytes, fds & 0xf, world->fds[fds >> 4 & 3]);
}

static void do_raw(struct world *world)
{
	uint8_t bytes[256];
	size_t count = take_bytes(world, bytes, take_byte(world));

	(void)!send(world->client, bytes, count, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void do_write(struct world *world)
{
	struct { uint64_t offset; uint32_t region, count; uint8_t data[256]; } write = { 0 };

	write.region = take_byte(world);
	write.offset = take_two(world);
	write.count = (uint32_t)take_bytes(world, write.data, take_byte(world));
	send_command(world, VUBLK_VFIO_REGION_WRITE, VUBLK_VFIO_FLAG_NO_REPLY, &write,
		     16 + write.count, 0, -1);
}

static void come(struct world *world)
{
	static const char version[] = "\0\0\0\0{\"capabilities\":{\"write_multiple\":true}}";

	vublk_fd_close(&world->client);
	world->client = vublk_socket_connect(world->bus_path, NULL);
	if (world->client >= 0)
		send_command(world, VUBLK_VFIO_VERSION, 0, version, sizeof(version), 0, -1);
}

/* --- the world ------------------------------------------------------------------------------------ */

/* A timer that is due immediately fires a moment later, like every timer. */
static void wait_for_bus(struct world *world)
{
	struct pollfd fd = { vublk_bus_fd(world->bus), POLLIN, 0 };

	do {
		FUZZ_CHECK(poll(&fd, 1, -1) == 1);
		work(world);
	} while (world->bus->state == VUBLK_BUS_REALIZING);
}

static void open_bus(struct world *world)
{
	const struct vublk_option options[] = {
		{ "chardev", world->backend.path }, { "transitional", "on" }, { NULL },
	};
	char spec[80];

	snprintf(spec, sizeof(spec), "vfio-user:%s", world->bus_path);
	FUZZ_CHECK(!vublk_bus_open(spec, options, NULL, &world->bus, NULL));
	wait_for_bus(world);
	FUZZ_CHECK(world->bus->state == VUBLK_BUS_LISTENING);
}

static void open_world(struct world *world)
{
	int sockets[2];

	world->client = -1;
	snprintf(world->bus_path, sizeof(world->bus_path), "/tmp/vublk-fuzz-%d-v", getpid());
	friendly_backend_open(&world->backend);
	open_bus(world);
	world->fds[KIND_MEMORY] = memfd_create("fuzz", MFD_CLOEXEC);
	FUZZ_CHECK(!ftruncate(world->fds[KIND_MEMORY], MEMORY_BYTES));
	world->fds[KIND_EVENT] = vublk_eventfd_new();
	FUZZ_CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets));
	world->fds[KIND_SOCKET] = sockets[0];
	world->fds[KIND_OTHER_END] = sockets[1];
	come(world);
}

/* A client never hangs because of what the one before it did. */
static void check_next_client(struct world *world)
{
	struct pollfd fd;

	come(world);
	fd = (struct pollfd){ world->client, POLLIN, 0 };
	FUZZ_CHECK(world->client >= 0);
	work(world);
	FUZZ_CHECK(poll(&fd, 1, 0) == 1);
	check_replies(world);
}

static void close_world(struct world *world)
{
	vublk_fd_close(&world->client);
	vublk_bus_free(world->bus);
	friendly_backend_close(&world->backend);
	vublk_fd_close_all(world->fds, NUM_KINDS);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world world = { .data = data, .left = size };

	open_world(&world);
	while (world.left) {
		uint8_t kind = take_byte(&world);

		if (kind < 0x80)
			do_command(&world);
		else if (kind < 0xc0)
			do_raw(&world);
		else if (kind < 0xe0)
			do_write(&world);
		else
			come(&world);
		work(&world);
		check_replies(&world);
	}
	check_next_client(&world);
	close_world(&world);
	return 0;
}
