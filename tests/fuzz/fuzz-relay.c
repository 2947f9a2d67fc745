/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A relay between a hostile VMM and a hostile back-end, all in this thread. The back-end is
 * the friendly one, except where the input has it lie. The input is a list of records:
 *   0x00..0x5f  a message of the VMM: request, flags, payload size, descriptors (low
 *               nibble: how many; bits 4 and 5: of which kind), then the payload
 *   0x60..0x67  the VMM goes, and another one comes
 *   0x68..0x7f  the VMM sets up two queues as it should, and starts them
 *   0x80..0x9f  a write to the shared memory: offset (2 bytes), size, then the bytes
 *   0xa0..0xaf  a kick
 *   0xb0..0xcf  a lie: the back-end gives so many good answers (low 3 bits), and in place
 *               of the next one: kind, size, then the bytes
 *   0xd0..0xdf  a message of the back-end that it was not asked for, on the main channel
 *               or its own (bit 0), with the fields of the VMM's
 *   0xe0..0xef  the back-end hangs up
 *   0xf0..0xff  a moment passes
 * Whatever comes, each answer to the VMM is a well-formed reply, no descriptor is left, and
 * the next VMM is served.
 */
#include "friendly-backend.h"
#include "fuzz.h"

#include "bus/bus.h"
#include "util/checked.h"
#include "util/fd.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define MEMORY_BYTES 65536
#define GUEST_ADDR UINT64_C(0x100000)
#define USER_ADDR UINT64_C(0x7f0000000000)
#define QUEUE_BYTES 0x4000
#define QUEUE_SIZE 16
#define AREA_BYTES (2 * (16 + 16 * QUEUE_SIZE + 48))
#define MAX_ROUNDS 100000 /* of the loops, for one input: more is a loop without end */
#define MAX_MOMENTS 4
#define MOMENT_MS 2
#define PATIENCE_MS 5000

enum kind {
	KIND_MEMORY,
	KIND_EVENT,
	KIND_SOCKET,
	KIND_OTHER_END,
	NUM_KINDS,
};

enum lie_kind {
	LIE_NOTHING,  /* no answer */
	LIE_PAYLOAD,  /* another payload of another size */
	LIE_MESSAGE,  /* the bytes are the message */
	LIE_HANGS_UP,
	NUM_LIES,
};

struct world {
	struct friendly_backend backend;
	struct {
		bool is_set;
		unsigned after; /* good answers */
		enum lie_kind kind;
		uint8_t bytes[256];
		size_t num_bytes;
	} lie;
	char path[64];
	struct vublk_bus *bus;
	int client;
	int fds[NUM_KINDS];
	uint8_t *memory;
	const uint8_t *data;
	size_t left;
	unsigned rounds, moments;
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

/* --- messages, of both --------------------------------------------------------- */

/* The relay may have hung up, which is its right. */
static void send_message(int socket, const struct vublk_vu_header *header, const void *payload,
			 unsigned num_fds, int fd)
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
	(void)!sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void do_message(struct world *world, int socket)
{
	struct vublk_vu_header header = { 0 };
	uint8_t payload[256] = { 0 };
	uint8_t fds;

	header.request = take_byte(world);
	header.flags = take_byte(world);
	header.size = take_byte(world);
	fds = take_byte(world);
	take_bytes(world, payload, header.size);
	send_message(socket, &header, payload, fds & 0xf, world->fds[fds >> 4 & 3]);
}

/* --- the VMM ----------------------------------------------------------------- */

static void say(struct world *world, uint32_t request, const void *payload, size_t bytes, int fd)
{
	struct vublk_vu_header header = { request, VUBLK_VU_VERSION, (uint32_t)bytes };

	send_message(world->client, &header, payload, fd >= 0, fd);
}

static void say_u64(struct world *world, uint32_t request, uint64_t value, int fd)
{
	say(world, request, &value, sizeof(value), fd);
}

static void say_state(struct world *world, uint32_t request, unsigned index, unsigned num)
{
	struct vhost_vring_state state = { index, num };

	say(world, request, &state, sizeof(state), -1);
}

static void describe_queue(struct world *world, unsigned index)
{
	uint64_t at = USER_ADDR + index * (uint64_t)QUEUE_BYTES;
	struct vhost_vring_addr addr = {
		.index = index, .desc_user_addr = at, .avail_user_addr = at + 0x1000,
		.used_user_addr = at + 0x2000,
	};

	say_state(world, VUBLK_VU_SET_VRING_NUM, index, QUEUE_SIZE);
	say_state(world, VUBLK_VU_SET_VRING_BASE, index, 0);
	say(world, VUBLK_VU_SET_VRING_ADDR, &addr, sizeof(addr), -1);
	say_u64(world, VUBLK_VU_SET_VRING_CALL, index, world->fds[KIND_EVENT]);
	say_u64(world, VUBLK_VU_SET_VRING_KICK, index, world->fds[KIND_EVENT]);
	say_state(world, VUBLK_VU_SET_VRING_ENABLE, index, 1);
}

/* With those protocol features that the relay always has, and those in `record`. */
static void start(struct world *world, uint8_t record)
{
	uint64_t protocol = VUBLK_BIT(VUBLK_VU_F_MQ) | VUBLK_BIT(VUBLK_VU_F_REPLY_ACK) |
			    VUBLK_BIT(VUBLK_VU_F_BACKEND_REQ) | VUBLK_BIT(VUBLK_VU_F_CONFIG) |
			    VUBLK_BIT(VUBLK_VU_F_STATUS) |
			    VUBLK_BIT(VUBLK_VU_F_CONFIGURE_MEM_SLOTS);
	struct vublk_vu_mem_table table = { 1, 0, { { GUEST_ADDR, MEMORY_BYTES, USER_ADDR, 0 } } };
	struct vublk_vu_inflight area = { AREA_BYTES, MEMORY_BYTES - 4096, 2, QUEUE_SIZE, 0 };

	protocol |= VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD) |
		    VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_INFLIGHT);
	if (record & 1)
		protocol |= VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_SKIP_DRAIN);
	say_u64(world, VUBLK_VU_SET_PROTOCOL_FEATURES, protocol, -1);
	say(world, VUBLK_VU_SET_BACKEND_REQ_FD, NULL, 0, world->fds[KIND_OTHER_END]);
	say_u64(world, VUBLK_VU_SET_FEATURES, VUBLK_BIT(VIRTIO_F_VERSION_1) |
		VUBLK_BIT(VUBLK_VU_VIRTIO_F_PROTOCOL_FEATURES), -1);
	say(world, VUBLK_VU_SET_MEM_TABLE, &table, offsetof(struct vublk_vu_mem_table, regions[1]),
	    world->fds[KIND_MEMORY]);
	if (record & 2)
		say(world, VUBLK_VU_SET_INFLIGHT_FD, &area, sizeof(area), world->fds[KIND_MEMORY]);
	for (unsigned i = 0; i < 2; i++)
		describe_queue(world, i);
	say_u64(world, VUBLK_VU_SET_STATUS, 0xf, -1);
	say(world, VUBLK_VU_GET_STATUS, NULL, 0, -1);
}

static void come(struct world *world)
{
	vublk_fd_close(&world->client);
	world->client = vublk_socket_connect(world->path, NULL);
}

static void check_replies(struct world *world)
{
	struct vublk_vu_header header;
	uint8_t payload[VUBLK_VU_MAX_PAYLOAD_BYTES];

	while (recv(world->client, &header, sizeof(header), MSG_DONTWAIT) == sizeof(header)) {
		FUZZ_CHECK(header.flags == (VUBLK_VU_VERSION | VUBLK_VU_FLAG_REPLY));
		FUZZ_CHECK(header.size <= sizeof(payload));
		if (header.size)
			FUZZ_CHECK(recv(world->client, payload, header.size, MSG_DONTWAIT) ==
				   (ssize_t)header.size);
	}
}

static void do_poke(struct world *world)
{
	size_t offset = take_byte(world);
	uint8_t bytes[256];
	size_t size;

	offset |= (size_t)take_byte(world) << 8;
	size = take_bytes(world, bytes, take_byte(world));
	memcpy(world->memory + offset, bytes, VUBLK_MIN(size, MEMORY_BYTES - offset));
}

/* --- the back-end ------------------------------------------------------------ */

static bool replace(void *opaque, struct vublk_vu_message *answer)
{
	struct world *world = opaque;
	size_t bytes = world->lie.num_bytes;

	if (!world->lie.is_set || world->lie.after-- > 0)
		return true;
	world->lie.is_set = false;
	switch (world->lie.kind) {
	case LIE_PAYLOAD:
		memcpy(answer->payload.bytes, world->lie.bytes, bytes);
		answer->header.size = (uint32_t)bytes;
		return true;
	case LIE_MESSAGE:
		(void)!send(world->backend.channel.fd, world->lie.bytes, bytes,
			    MSG_NOSIGNAL | MSG_DONTWAIT);
		return false;
	case LIE_HANGS_UP:
		shutdown(world->backend.channel.fd, SHUT_RDWR);
		return false;
	default:
		return false;
	}
}

static void do_lie(struct world *world, unsigned after)
{
	world->lie.is_set = true;
	world->lie.after = after;
	world->lie.kind = take_byte(world) % NUM_LIES;
	world->lie.num_bytes = take_bytes(world, world->lie.bytes, take_byte(world));
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

static void wait_a_moment(struct world *world, int ms)
{
	struct pollfd fds[2] = { { vublk_bus_fd(world->bus), POLLIN, 0 },
				 { world->backend.channel.fd, POLLIN, 0 } };

	poll(fds, 2, ms);
	work(world);
}

/* --- the world ------------------------------------------------------------------ */

/*
 * The kernel takes ten times as long as an input to end an inotify instance, so the relay
 * looks for its back-end by its timer alone.
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
		wait_a_moment(world, -1);
	}
}

static void open_world(struct world *world)
{
	int sockets[2];

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
	world->fds[KIND_MEMORY] = memfd_create("fuzz", MFD_CLOEXEC);
	FUZZ_CHECK(!ftruncate(world->fds[KIND_MEMORY], MEMORY_BYTES));
	world->memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
			     world->fds[KIND_MEMORY], 0);
	FUZZ_CHECK(world->memory != MAP_FAILED);
	world->fds[KIND_EVENT] = vublk_eventfd_new();
	FUZZ_CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets));
	world->fds[KIND_SOCKET] = sockets[0];
	world->fds[KIND_OTHER_END] = sockets[1];
	come(world);
}

/* No VMM has to wait for what another one, or the back-end, did. */
static void check_next_vmm(struct world *world)
{
	struct pollfd fd;

	world->lie.is_set = false;
	friendly_backend_hang_up(&world->backend);
	come(world);
	FUZZ_CHECK(world->client >= 0);
	say(world, VUBLK_VU_GET_FEATURES, NULL, 0, -1);
	fd = (struct pollfd){ world->client, POLLIN, 0 };
	for (unsigned ms = 0; poll(&fd, 1, 0) == 0; ms++) {
		FUZZ_CHECK(ms < PATIENCE_MS);
		wait_a_moment(world, 1);
	}
	check_replies(world);
}

static void close_world(struct world *world)
{
	vublk_fd_close(&world->client);
	vublk_bus_free(world->bus);
	friendly_backend_close(&world->backend);
	munmap(world->memory, MEMORY_BYTES);
	vublk_fd_close_all(world->fds, NUM_KINDS);
}

static void do_record(struct world *world)
{
	uint8_t record = take_byte(world);

	if (record < 0x60)
		do_message(world, world->client);
	else if (record < 0x68)
		come(world);
	else if (record < 0x80)
		start(world, record);
	else if (record < 0xa0)
		do_poke(world);
	else if (record < 0xb0)
		vublk_eventfd_signal(world->fds[KIND_EVENT]);
	else if (record < 0xd0)
		do_lie(world, record & 7);
	else if (record < 0xe0)
		do_message(world, record & 1 ? world->backend.request_fd :
			   world->backend.channel.fd);
	else if (record < 0xf0)
		friendly_backend_hang_up(&world->backend);
	else if (world->moments++ < MAX_MOMENTS)
		wait_a_moment(world, MOMENT_MS);
}

/* The lowest number that is free. */
static int next_fd(void)
{
	int fd = dup(STDERR_FILENO), number = fd;

	vublk_fd_close(&fd);
	return number;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world world = { .data = data, .left = size };
	int first_fd = next_fd();

	open_world(&world);
	while (world.left) {
		do_record(&world);
		work(&world);
		check_replies(&world);
	}
	check_next_vmm(&world);
	close_world(&world);
	FUZZ_CHECK(next_fd() == first_fd);
	return 0;
}
