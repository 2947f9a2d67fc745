/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A complete vfio-user bus and its device with a hostile VMM and a hostile driver. The
 * back-end is friendly-backend.c. The input is a list of records:
 *   0x00..0x7f  a command: number, flags, descriptors (low nibble: the number; bits 4 and 5:
 *               the kind), payload size (2 bytes), then the payload
 *   0x80..0xbf  raw bytes: size, then the bytes
 *   0xc0..0xdf  a posted write to a register: region, offset (2 bytes), size, then the value
 *   0xe0..0xff  the VMM disconnects, and another one connects
 *
 * Key idea: for any input each answer is a well-formed reply, and the next VMM is served. The
 * sanitizers detect invalid memory accesses of the bus.
 */
#include "friendly-backend.h"
#include "fuzz.h"
#include "peer.h"

#include "bus/bus.h"
#include "proto/vfio-user/codec.h"
#include "util/checked.h"
#include "util/fd.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_ROUNDS 100000 /* of the loops per input; reached only by an endless loop */

struct world {
	char bus_path[64];
	struct friendly_backend backend;
	struct vublk_bus *bus;
	int client;
	struct fuzz_objects objects;
	struct fuzz_input input;
	unsigned rounds;
};

/* --- the loop --------------------------------------------------------------------------------- */

/* Runs bus and back-end until both have nothing to do. */
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

/* --- the VMM -------------------------------------------------------------------------- */

static void send_command(struct world *world, uint16_t command, uint32_t flags,
			 const void *payload, size_t bytes, unsigned num_fds, int fd)
{
	struct vublk_vfio_header header = {
		7, command, (uint32_t)(sizeof(header) + bytes), flags, 0,
	};
	struct iovec parts[2] = { { &header, sizeof(header) }, { (void *)payload, bytes } };

	(void)!fuzz_send(world->client, parts, VUBLK_ARRAY_SIZE(parts), num_fds, fd);
}

static void do_command(struct world *world)
{
	static uint8_t payload[65536];
	uint8_t command = fuzz_take_byte(&world->input), flags = fuzz_take_byte(&world->input), fds = fuzz_take_byte(&world->input);
	size_t bytes = fuzz_take_bytes(&world->input, payload, fuzz_take_two(&world->input));

	send_command(world, command, flags, payload, bytes, fds & 0xf, fuzz_select_fd(&world->objects, fds));
}

static void do_raw(struct world *world)
{
	uint8_t bytes[256];
	size_t count = fuzz_take_bytes(&world->input, bytes, fuzz_take_byte(&world->input));

	(void)!send(world->client, bytes, count, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void do_write(struct world *world)
{
	struct { uint64_t offset; uint32_t region, count; uint8_t data[256]; } write = { 0 };

	write.region = fuzz_take_byte(&world->input);
	write.offset = fuzz_take_two(&world->input);
	write.count = (uint32_t)fuzz_take_bytes(&world->input, write.data, fuzz_take_byte(&world->input));
	send_command(world, VUBLK_VFIO_REGION_WRITE, VUBLK_VFIO_FLAG_NO_REPLY, &write,
		     16 + write.count, 0, -1);
}

static void reconnect(struct world *world)
{
	static const char version[] = "\0\0\0\0{\"capabilities\":{\"write_multiple\":true}}";

	vublk_fd_close(&world->client);
	world->client = vublk_socket_connect(world->bus_path, NULL);
	if (world->client >= 0)
		send_command(world, VUBLK_VFIO_VERSION, 0, version, sizeof(version), 0, -1);
}

/* --- the world -------------------------------------------------------------------------------- */

/* Waits until the device is realized. The timer that starts this is due now, but may fire later. */
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
	world->client = -1;
	snprintf(world->bus_path, sizeof(world->bus_path), "/tmp/vublk-fuzz-%d-v", getpid());
	friendly_backend_open(&world->backend);
	open_bus(world);
	fuzz_objects_open(&world->objects);
	reconnect(world);
}

/* Checks that the bus serves another VMM, whatever the previous one did. */
static void check_next_client(struct world *world)
{
	struct pollfd fd;

	reconnect(world);
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
	fuzz_objects_close(&world->objects);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world world = { .input = { data, size } };

	open_world(&world);
	while (world.input.left) {
		uint8_t kind = fuzz_take_byte(&world.input);

		if (kind < 0x80)
			do_command(&world);
		else if (kind < 0xc0)
			do_raw(&world);
		else if (kind < 0xe0)
			do_write(&world);
		else
			reconnect(&world);
		work(&world);
		check_replies(&world);
	}
	check_next_client(&world);
	close_world(&world);
	return 0;
}
