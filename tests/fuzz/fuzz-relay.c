/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A relay between a hostile VMM and a hostile back-end. One thread runs all three. The back-end is
 * friendly-backend.c, but the input can replace its answers. The input is a list of records:
 *   0x00..0x5f  a message of the VMM: request, flags, payload size, descriptors (low nibble:
 *               the number; bits 4 and 5: the kind), then the payload
 *   0x60..0x67  the VMM disconnects, and another one connects
 *   0x68..0x7f  the VMM sets up two queues correctly and starts them
 *   0x80..0x9f  a write to the shared memory: offset (2 bytes), size, then the bytes
 *   0xa0..0xaf  a kick
 *   0xb0..0xcf  the back-end gives a false answer after a number of good answers (low 3 bits):
 *               kind, size, then the bytes
 *   0xd0..0xdf  an unexpected message of the back-end, on the main channel or on the back-end
 *               channel (bit 0), with the same fields as a message of the VMM
 *   0xe0..0xef  the back-end disconnects
 *   0xf0..0xff  a short wait
 *
 * Key idea: for any input each answer to the VMM is a well-formed reply, no descriptor leaks,
 * and the next VMM is served.
 */
#include "friendly-backend.h"
#include "fuzz.h"
#include "peer.h"

#include "bus/bus.h"
#include "util/checked.h"
#include "util/fd.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define GUEST_ADDR UINT64_C(0x100000)
#define USER_ADDR UINT64_C(0x7f0000000000)
#define QUEUE_BYTES 0x4000
#define QUEUE_SIZE 16
#define AREA_BYTES (2 * (16 + 16 * QUEUE_SIZE + 48))
#define MAX_ROUNDS 100000 /* of the loops per input; reached only by an endless loop */
#define MAX_WAITS 4
#define WAIT_MS 2
#define MAX_SERVICE_WAITS 5000 /* a guard against a deadlock */

enum false_answer {
	FALSE_NONE,    /* no answer */
	FALSE_PAYLOAD, /* another payload of another size */
	FALSE_MESSAGE, /* the input's bytes, instead of the answer */
	FALSE_HANG_UP,
	NUM_FALSE_ANSWERS,
};

struct world {
	struct friendly_backend backend;
	struct {
		bool is_set;
		unsigned after; /* after this number of good answers */
		enum false_answer kind;
		uint8_t bytes[256];
		size_t num_bytes;
	} false_answer;
	char path[64];
	struct vublk_bus *bus;
	int client;
	struct fuzz_objects objects;
	struct fuzz_input input;
	unsigned rounds, waits;
};

/* --- the VMM ----------------------------------------------------------------- */

static void send_request(struct world *world, uint32_t request, const void *payload, size_t bytes, int fd)
{
	struct vublk_vu_header header = { request, VUBLK_VU_VERSION, (uint32_t)bytes };
	struct iovec parts[2] = { { &header, sizeof(header) }, { (void *)payload, bytes } };

	(void)!fuzz_send(world->client, parts, VUBLK_ARRAY_SIZE(parts), fd >= 0, fd);
}

static void send_u64(struct world *world, uint32_t request, uint64_t value, int fd)
{
	send_request(world, request, &value, sizeof(value), fd);
}

static void send_state(struct world *world, uint32_t request, unsigned index, unsigned num)
{
	struct vhost_vring_state state = { index, num };

	send_request(world, request, &state, sizeof(state), -1);
}

static void describe_queue(struct world *world, unsigned index)
{
	uint64_t at = USER_ADDR + index * (uint64_t)QUEUE_BYTES;
	struct vhost_vring_addr addr = {
		.index = index, .desc_user_addr = at, .avail_user_addr = at + 0x1000,
		.used_user_addr = at + 0x2000,
	};

	send_state(world, VUBLK_VU_SET_VRING_NUM, index, QUEUE_SIZE);
	send_state(world, VUBLK_VU_SET_VRING_BASE, index, 0);
	send_request(world, VUBLK_VU_SET_VRING_ADDR, &addr, sizeof(addr), -1);
	send_u64(world, VUBLK_VU_SET_VRING_CALL, index, world->objects.fds[FUZZ_FD_EVENT]);
	send_u64(world, VUBLK_VU_SET_VRING_KICK, index, world->objects.fds[FUZZ_FD_EVENT]);
	send_state(world, VUBLK_VU_SET_VRING_ENABLE, index, 1);
}

/*
 * Starts two queues as a good VMM does. Bit 0 of `record` adds the protocol feature
 * GET_VRING_BASE_SKIP_DRAIN. Bit 1 adds an in-flight area.
 */
static void start(struct world *world, uint8_t record)
{
	uint64_t protocol = VUBLK_BIT(VUBLK_VU_F_MQ) | VUBLK_BIT(VUBLK_VU_F_REPLY_ACK) |
			    VUBLK_BIT(VUBLK_VU_F_BACKEND_REQ) | VUBLK_BIT(VUBLK_VU_F_CONFIG) |
			    VUBLK_BIT(VUBLK_VU_F_STATUS) |
			    VUBLK_BIT(VUBLK_VU_F_CONFIGURE_MEM_SLOTS);
	struct vublk_vu_mem_table table = { 1, 0, { { GUEST_ADDR, FUZZ_MEMORY_BYTES, USER_ADDR, 0 } } };
	struct vublk_vu_inflight area = { AREA_BYTES, FUZZ_MEMORY_BYTES - 4096, 2, QUEUE_SIZE, 0 };

	protocol |= VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD) |
		    VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_INFLIGHT);
	if (record & 1)
		protocol |= VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_SKIP_DRAIN);
	send_u64(world, VUBLK_VU_SET_PROTOCOL_FEATURES, protocol, -1);
	send_request(world, VUBLK_VU_SET_BACKEND_REQ_FD, NULL, 0, world->objects.fds[FUZZ_FD_OTHER_END]);
	send_u64(world, VUBLK_VU_SET_FEATURES, VUBLK_BIT(VIRTIO_F_VERSION_1) |
		VUBLK_BIT(VUBLK_VU_VIRTIO_F_PROTOCOL_FEATURES), -1);
	send_request(world, VUBLK_VU_SET_MEM_TABLE, &table, offsetof(struct vublk_vu_mem_table, regions[1]),
	    world->objects.fds[FUZZ_FD_MEMORY]);
	if (record & 2)
		send_request(world, VUBLK_VU_SET_INFLIGHT_FD, &area, sizeof(area), world->objects.fds[FUZZ_FD_MEMORY]);
	for (unsigned i = 0; i < 2; i++)
		describe_queue(world, i);
	send_u64(world, VUBLK_VU_SET_STATUS, 0xf, -1);
	send_request(world, VUBLK_VU_GET_STATUS, NULL, 0, -1);
}

static void reconnect(struct world *world)
{
	vublk_fd_close(&world->client);
	world->client = vublk_socket_connect(world->path, NULL);
}

/* --- the back-end ------------------------------------------------------------ */

static bool replace(void *opaque, struct vublk_vu_message *answer)
{
	struct world *world = opaque;
	size_t bytes = world->false_answer.num_bytes;

	if (!world->false_answer.is_set || world->false_answer.after-- > 0)
		return true;
	world->false_answer.is_set = false;
	switch (world->false_answer.kind) {
	case FALSE_PAYLOAD:
		memcpy(answer->payload.bytes, world->false_answer.bytes, bytes);
		answer->header.size = (uint32_t)bytes;
		return true;
	case FALSE_MESSAGE:
		(void)!send(world->backend.channel.fd, world->false_answer.bytes, bytes,
			    MSG_NOSIGNAL | MSG_DONTWAIT);
		return false;
	case FALSE_HANG_UP:
		shutdown(world->backend.channel.fd, SHUT_RDWR);
		return false;
	default:
		return false;
	}
}

static void plan_false_answer(struct world *world, unsigned after)
{
	world->false_answer.is_set = true;
	world->false_answer.after = after;
	world->false_answer.kind = fuzz_take_byte(&world->input) % NUM_FALSE_ANSWERS;
	world->false_answer.num_bytes = fuzz_take_bytes(&world->input, world->false_answer.bytes, fuzz_take_byte(&world->input));
}

/* --- the loop ------------------------------------------------------------------ */

static void work(struct world *world)
{
	struct pollfd fd = { vublk_bus_fd(world->bus), POLLIN, 0 };

	while (friendly_backend_work(&world->backend) || poll(&fd, 1, 0) == 1) {
		FUZZ_CHECK(world->rounds++ < MAX_ROUNDS);
		FUZZ_CHECK(vublk_bus_process(world->bus, NULL) == 1);
	}
}

static void wait_and_work(struct world *world, int ms)
{
	struct pollfd fds[2] = { { vublk_bus_fd(world->bus), POLLIN, 0 },
				 { world->backend.channel.fd, POLLIN, 0 } };

	poll(fds, 2, ms);
	work(world);
}

/* --- the world ------------------------------------------------------------------ */

/*
 * Closing an inotify instance takes ten times as long as the rest of a run. So this inotify_init1()
 * fails, and the relay uses a timer to look for its back-end.
 */
int __wrap_inotify_init1(int flags);
int __wrap_inotify_init1(int flags)
{
	errno = EMFILE;
	return -1;
}

static void open_bus(struct world *world)
{
	const struct vublk_option options[] = {
		{ "chardev", world->backend.path }, { "reconnect-ms", "1" },
		{ "inflight-migration", "on" }, { NULL },
	};
	char spec[80];

	snprintf(world->path, sizeof(world->path), "/tmp/vublk-fuzz-%d-r", getpid());
	snprintf(spec, sizeof(spec), "vhost-user:%s", world->path);
	FUZZ_CHECK(!vublk_bus_open(spec, options, NULL, &world->bus, NULL));
	while (world->bus->state != VUBLK_BUS_LISTENING) {
		FUZZ_CHECK(world->bus->state == VUBLK_BUS_REALIZING);
		wait_and_work(world, -1);
	}
}

static void open_world(struct world *world)
{
	friendly_backend_open(&world->backend);
	world->backend.protocol_features |=
		VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD) | VUBLK_BIT(VUBLK_VU_F_LOG_SHMFD) |
		VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_INFLIGHT) |
		VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_SKIP_DRAIN) |
		VUBLK_BIT(VUBLK_VU_F_BACKEND_REQ) | VUBLK_BIT(VUBLK_VU_F_STATUS);
	world->backend.replace = replace;
	world->backend.opaque = world;
	world->client = -1;
	open_bus(world);
	fuzz_objects_open(&world->objects);
	reconnect(world);
}

/* Checks that the relay serves another VMM, whatever the previous one and the back-end did. */
static void check_next_vmm(struct world *world)
{
	struct pollfd fd;

	world->false_answer.is_set = false;
	friendly_backend_hang_up(&world->backend);
	reconnect(world);
	FUZZ_CHECK(world->client >= 0);
	send_request(world, VUBLK_VU_GET_FEATURES, NULL, 0, -1);
	fd = (struct pollfd){ world->client, POLLIN, 0 };
	for (unsigned ms = 0; poll(&fd, 1, 0) == 0; ms++) {
		FUZZ_CHECK(ms < MAX_SERVICE_WAITS);
		wait_and_work(world, 1);
	}
	fuzz_check_vhost_user_replies(world->client);
}

static void close_world(struct world *world)
{
	vublk_fd_close(&world->client);
	vublk_bus_free(world->bus);
	friendly_backend_close(&world->backend);
	fuzz_objects_close(&world->objects);
}

static void do_record(struct world *world)
{
	uint8_t record = fuzz_take_byte(&world->input);

	if (record < 0x60)
		fuzz_send_vhost_user(&world->input, &world->objects, world->client);
	else if (record < 0x68)
		reconnect(world);
	else if (record < 0x80)
		start(world, record);
	else if (record < 0xa0)
		fuzz_write_memory(&world->input, &world->objects);
	else if (record < 0xb0)
		vublk_eventfd_signal(world->objects.fds[FUZZ_FD_EVENT]);
	else if (record < 0xd0)
		plan_false_answer(world, record & 7);
	else if (record < 0xe0)
		fuzz_send_vhost_user(&world->input, &world->objects,
				     record & 1 ? world->backend.request_fd :
						  world->backend.channel.fd);
	else if (record < 0xf0)
		friendly_backend_hang_up(&world->backend);
	else if (world->waits++ < MAX_WAITS)
		wait_and_work(world, WAIT_MS);
}

/* Returns the lowest free descriptor. A higher number than before shows a leak. */
static int next_fd(void)
{
	int fd = dup(STDERR_FILENO), number = fd;

	vublk_fd_close(&fd);
	return number;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world world = { .input = { data, size } };
	int first_fd = next_fd();

	open_world(&world);
	while (world.input.left) {
		do_record(&world);
		work(&world);
		fuzz_check_vhost_user_replies(world.client);
	}
	check_next_vmm(&world);
	close_world(&world);
	FUZZ_CHECK(next_fd() == first_fd);
	return 0;
}
