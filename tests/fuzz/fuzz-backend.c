/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A complete back-end with a hostile front-end and a hostile guest. The input is a list of
 * records:
 *   0x00..0x7f  a message: request, flags, payload size, descriptors (low nibble: the number;
 *               bits 4 and 5: the kind), then the payload
 *   0x80..0xbf  a write to the shared memory: offset (2 bytes), size, then the bytes
 *   0xc0..0xff  a kick
 *
 * Key idea: for any input each answer is a well-formed reply, and the back-end ends when the
 * front-end disconnects. The sanitizers detect invalid memory accesses of the back-end.
 */
#include "fuzz.h"
#include "peer.h"

#include "util/fd.h"

#include <vublk/backend.h>

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>


struct world {
	struct vublk_backend *backend;
	int peer; /* the front-end's end of the socket */
	struct fuzz_objects objects;
	struct fuzz_input input;
};

static void process(struct world *world)
{
	struct pollfd ready = { .fd = vublk_backend_fd(world->backend), .events = POLLIN };

	while (poll(&ready, 1, 0) == 1)
		if (vublk_backend_process(world->backend, NULL) != 1)
			break;
	fuzz_check_vhost_user_replies(world->peer);
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
	fuzz_objects_open(&world->objects);
}

static void close_world(struct world *world)
{
	shutdown(world->peer, SHUT_RDWR);
	FUZZ_CHECK(!vublk_backend_run(world->backend, NULL));
	vublk_backend_free(world->backend);
	fuzz_objects_close(&world->objects);
	vublk_fd_close(&world->peer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world world = { .input = { data, size } };

	open_world(&world);
	while (world.input.left) {
		uint8_t kind = fuzz_take_byte(&world.input);

		if (kind < 0x80)
			fuzz_send_vhost_user(&world.input, &world.objects, world.peer);
		else if (kind < 0xc0)
			fuzz_write_memory(&world.input, &world.objects);
		else
			vublk_eventfd_signal(world.objects.fds[FUZZ_FD_EVENT]);
		process(&world);
	}
	close_world(&world);
	return 0;
}
