/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Runs a back-end on a thread, and acts as its front-end; see backend-rig.h. */
#include "backend-rig.h"

#include "util/error.h"
#include "util/fd.h"
#include "util/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_OPTIONS 32

/*
 * Each token has a slot of SLOT_BYTES for the request's header and status. The slots precede the
 * data.
 */
#define SLOT_BYTES 32
#define SLOTS_OFFSET 0x20000
#define STATUS_OFFSET 16

/* --- the back-end ----------------------------------------------------------- */

static void collect(void *opaque, enum vublk_log_level level, const char *text)
{
	struct rig_log *log = opaque;

	if (getenv("RIG_VERBOSE"))
		fprintf(stderr, "[%d] %s\n", level, text);
	pthread_mutex_lock(&log->lock);
	log->lines++;
	if (level <= VUBLK_LOG_WARNING)
		snprintf(log->last, sizeof(log->last), "%s", text);
	pthread_cond_broadcast(&log->said);
	pthread_mutex_unlock(&log->lock);
}

bool rig_log_has(struct backend_rig *rig, const char *words)
{
	bool has;

	pthread_mutex_lock(&rig->log.lock);
	has = strstr(rig->log.last, words);
	if (!has)
		print_message("the log says '%s', not '%s'\n", rig->log.last, words);
	pthread_mutex_unlock(&rig->log.lock);
	return has;
}

void rig_wait_for_log(struct backend_rig *rig, const char *words)
{
	pthread_mutex_lock(&rig->log.lock);
	while (!strstr(rig->log.last, words))
		pthread_cond_wait(&rig->log.said, &rig->log.lock);
	pthread_mutex_unlock(&rig->log.lock);
}

unsigned rig_log_lines(struct backend_rig *rig)
{
	unsigned lines;

	pthread_mutex_lock(&rig->log.lock);
	lines = rig->log.lines;
	pthread_mutex_unlock(&rig->log.lock);
	return lines;
}

static void *run_rig(void *opaque)
{
	struct backend_rig *rig = opaque;

	rig->result = vublk_backend_run(rig->backend, NULL);
	return NULL;
}

static void init(struct backend_rig *rig)
{
	memset(rig, 0, sizeof(*rig));
	pthread_mutex_init(&rig->log.lock, NULL);
	pthread_cond_init(&rig->log.said, NULL);
	rig->memory_fd = -1;
	for (unsigned i = 0; i < RIG_QUEUES; i++)
		rig->queues[i].kick_fd = rig->queues[i].call_fd = rig->queues[i].err_fd = -1;
}

void rig_open(struct backend_rig *rig, const struct vublk_option *options)
{
	struct vublk_option all[MAX_OPTIONS + 1] = { 0 };
	struct vublk_error error = { 0 };
	struct vublk_log log = { collect, &rig->log, VUBLK_LOG_DEBUG };
	unsigned n = 0;
	char number[16];
	int sockets[2];

	init(rig);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	for (; options[n].name; n++)
		all[n] = options[n];
	snprintf(number, sizeof(number), "%d", sockets[1]);
	all[n] = (struct vublk_option){ "fd", number };
	if (vublk_backend_open(all, &log, &rig->backend, &error))
		fail_msg("%s", error.text);
	vublk_channel_init(&rig->channel, sockets[0]);
	assert_int_equal(pthread_create(&rig->thread, NULL, run_rig, rig), 0);
}

void rig_open_memory(struct backend_rig *rig)
{
	const struct vublk_option options[] = {
		{ "engine", "memory" }, { "size", "8M" }, { "num-queues", "4" }, { 0 },
	};

	rig_open(rig, options);
}

int rig_unsealed_memfd(uint64_t bytes)
{
	int fd = memfd_create("unsealed", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	return fd;
}

void rig_use_unsealed_memory(struct backend_rig *rig)
{
	rig->memory_fd = rig_unsealed_memfd(RIG_MEMORY);
	rig->memory = vublk_map_shared(rig->memory_fd, 0, RIG_MEMORY, NULL);
	assert_non_null(rig->memory);
}

int rig_make_image(char path[RIG_PATH_BYTES], uint64_t bytes)
{
	int fd;

	snprintf(path, RIG_PATH_BYTES, "%s/image", vublk_test_folder());
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	return fd;
}

void rig_attach(struct backend_rig *rig, int fd)
{
	init(rig);
	vublk_channel_init(&rig->channel, fd);
}

void rig_attach_again(struct backend_rig *rig, int fd)
{
	vublk_channel_deinit(&rig->channel);
	vublk_channel_init(&rig->channel, fd);
}

static void free_all(struct backend_rig *rig)
{
	if (rig->backend)
		assert_int_equal(pthread_join(rig->thread, NULL), 0);
	assert_int_equal(rig->result, 0);
	vublk_channel_deinit(&rig->channel);
	vublk_backend_free(rig->backend);
	for (unsigned i = 0; i < RIG_QUEUES; i++) {
		struct rig_queue *queue = &rig->queues[i];

		vublk_driver_ring_deinit(&queue->driver);
		vublk_fd_close(&queue->kick_fd);
		vublk_fd_close(&queue->call_fd);
		vublk_fd_close(&queue->err_fd);
	}
	vublk_unmap(rig->memory, RIG_MEMORY);
	vublk_fd_close(&rig->memory_fd);
	pthread_mutex_destroy(&rig->log.lock);
	pthread_cond_destroy(&rig->log.said);
}

void rig_close(struct backend_rig *rig)
{
	shutdown(rig->channel.fd, SHUT_RDWR);
	free_all(rig);
}

void rig_wait_for_end(struct backend_rig *rig)
{
	struct pollfd wait = { .fd = rig->channel.fd, .events = POLLIN };
	struct vublk_vu_message message;
	int r;

	do {
		assert_int_equal(poll(&wait, 1, -1), 1);
		r = vublk_channel_receive(&rig->channel, &message, NULL);
		if (r == 1)
			vublk_vu_message_deinit(&message);
	} while (r >= 0);
	assert_int_equal(r, -ENOTCONN);
}

void rig_close_expecting_end(struct backend_rig *rig)
{
	rig_wait_for_end(rig);
	free_all(rig);
}

/* --- a back-end that listens --------------------------------------------------- */

static void *run_server(void *opaque)
{
	struct backend_server *server = opaque;

	vublk_backend_run(server->backend, NULL);
	return NULL;
}

void backend_server_run(struct backend_server *server)
{
	assert_int_equal(pthread_create(&server->thread, NULL, run_server, server), 0);
}

void backend_server_start(struct backend_server *server, const struct vublk_option *options)
{
	struct vublk_option all[MAX_OPTIONS + 1] = {
		{ "socket-path", server->path }, { "engine", "memory" }, { "size", "8M" },
		{ "num-queues", "4" },
	};
	struct vublk_error error = { 0 };

	for (unsigned n = 4; options && options->name; n++)
		all[n] = *options++;
	snprintf(server->path, sizeof(server->path), "%s/socket", vublk_test_folder());
	if (vublk_backend_open(all, NULL, &server->backend, &error))
		fail_msg("%s", error.text);
	backend_server_run(server);
}

void backend_server_stop(struct backend_server *server)
{
	vublk_backend_stop(server->backend);
	assert_int_equal(pthread_join(server->thread, NULL), 0);
	vublk_backend_free(server->backend);
	assert_int_equal(access(server->path, F_OK), -1);
}

/* --- messages ---------------------------------------------------------------- */

void rig_send(struct backend_rig *rig, const struct vublk_vu_message *message)
{
	struct vublk_error error = { 0 };

	if (vublk_channel_send(&rig->channel, message, &error))
		fail_msg("%s", error.text);
	while (vublk_channel_wants_write(&rig->channel)) {
		struct pollfd wait = { .fd = rig->channel.fd, .events = POLLOUT };

		assert_int_equal(poll(&wait, 1, -1), 1);
		assert_true(vublk_channel_flush(&rig->channel, NULL) >= 0);
	}
}

void rig_receive(struct backend_rig *rig, struct vublk_vu_message *reply)
{
	struct pollfd wait = { .fd = rig->channel.fd, .events = POLLIN };
	struct vublk_error error = { 0 };
	int r;

	while (!(r = vublk_channel_receive(&rig->channel, reply, &error)))
		assert_int_equal(poll(&wait, 1, -1), 1);
	if (r < 0)
		fail_msg("%s", error.text);
}

void rig_ask(struct backend_rig *rig, struct vublk_vu_message *message,
	     struct vublk_vu_message *reply)
{
	rig_send(rig, message);
	rig_receive(rig, reply);
	assert_int_equal(reply->header.request, message->header.request);
	assert_int_equal(reply->header.flags, VUBLK_VU_VERSION | VUBLK_VU_FLAG_REPLY);
}

uint64_t rig_send_acked(struct backend_rig *rig, struct vublk_vu_message *message)
{
	struct vublk_vu_message reply;

	message->header.flags |= VUBLK_VU_FLAG_NEED_REPLY;
	rig_ask(rig, message, &reply);
	assert_int_equal(reply.header.size, sizeof(uint64_t));
	assert_int_equal(reply.num_fds, 0);
	return reply.payload.u64;
}

uint64_t rig_get_u64(struct backend_rig *rig, uint32_t request)
{
	struct vublk_vu_message message, reply;

	vublk_vu_message_init(&message, request);
	rig_ask(rig, &message, &reply);
	assert_int_equal(reply.header.size, sizeof(uint64_t));
	return reply.payload.u64;
}

uint64_t rig_set_u64(struct backend_rig *rig, uint32_t request, uint64_t value)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, request);
	message.payload.u64 = value;
	message.header.size = sizeof(value);
	return rig_send_acked(rig, &message);
}

uint64_t rig_set_state(struct backend_rig *rig, uint32_t request, unsigned index, unsigned num)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, request);
	message.payload.state.index = index;
	message.payload.state.num = num;
	message.header.size = sizeof(message.payload.state);
	return rig_send_acked(rig, &message);
}

uint64_t rig_set_vring_fd(struct backend_rig *rig, uint32_t request, unsigned index, int fd)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, request);
	message.payload.u64 = index | (fd < 0 ? VUBLK_VU_VRING_NO_FD : 0);
	message.header.size = sizeof(uint64_t);
	message.fds[0] = fd;
	message.num_fds = fd >= 0;
	return rig_send_acked(rig, &message);
}

uint64_t rig_set_addr(struct backend_rig *rig, unsigned index, uint64_t desc, uint64_t avail,
		      uint64_t used)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, VUBLK_VU_SET_VRING_ADDR);
	message.payload.addr = (struct vhost_vring_addr){
		.index = index,
		.desc_user_addr = desc,
		.avail_user_addr = avail,
		.used_user_addr = used,
	};
	message.header.size = sizeof(message.payload.addr);
	return rig_send_acked(rig, &message);
}

unsigned rig_get_base(struct backend_rig *rig, unsigned index)
{
	struct vublk_vu_message message, reply;

	vublk_vu_message_init(&message, VUBLK_VU_GET_VRING_BASE);
	message.payload.state.index = index;
	message.header.size = sizeof(message.payload.state);
	rig_ask(rig, &message, &reply);
	assert_int_equal(reply.header.size, sizeof(reply.payload.state));
	assert_int_equal(reply.payload.state.index, index);
	return reply.payload.state.num;
}

void rig_get_config(struct backend_rig *rig, struct virtio_blk_config *config)
{
	struct vublk_vu_message message, reply;

	vublk_vu_message_init(&message, VUBLK_VU_GET_CONFIG);
	message.payload.config.size_bytes = sizeof(*config);
	message.header.size = VUBLK_VU_CONFIG_HEADER_BYTES + sizeof(*config);
	rig_ask(rig, &message, &reply);
	assert_int_equal(reply.header.size, message.header.size);
	memcpy(config, reply.payload.config.data, sizeof(*config));
}

uint64_t rig_set_wce(struct backend_rig *rig, uint8_t value)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, VUBLK_VU_SET_CONFIG);
	message.payload.config.offset = VUBLK_BLK_WCE_OFFSET;
	message.payload.config.size_bytes = 1;
	message.payload.config.data[0] = value;
	message.header.size = VUBLK_VU_CONFIG_HEADER_BYTES + 1;
	return rig_send_acked(rig, &message);
}

/* --- the whole sequence ------------------------------------------------------ */

void rig_negotiate(struct backend_rig *rig)
{
	struct vublk_vu_message message;

	rig->features = rig_get_u64(rig, VUBLK_VU_GET_FEATURES);
	rig->protocol_features = rig_get_u64(rig, VUBLK_VU_GET_PROTOCOL_FEATURES);
	vublk_vu_message_init(&message, VUBLK_VU_SET_PROTOCOL_FEATURES);
	message.payload.u64 = rig->protocol_features;
	message.header.size = sizeof(uint64_t);
	rig_send(rig, &message);
	vublk_vu_message_init(&message, VUBLK_VU_SET_OWNER);
	assert_int_equal(rig_send_acked(rig, &message), 0);
	assert_int_equal(rig_set_u64(rig, VUBLK_VU_SET_FEATURES, rig->features), 0);
}

static void make_memory(struct backend_rig *rig)
{
	if (rig->memory)
		return;
	rig->memory_fd = vublk_memfd_new("rig", RIG_MEMORY, NULL);
	assert_true(rig->memory_fd >= 0);
	rig->memory = vublk_map_shared(rig->memory_fd, 0, RIG_MEMORY, NULL);
	assert_non_null(rig->memory);
}

uint64_t rig_set_mem_table(struct backend_rig *rig)
{
	struct vublk_vu_message message;

	make_memory(rig);
	vublk_vu_message_init(&message, VUBLK_VU_SET_MEM_TABLE);
	message.payload.table.num_regions = 1;
	message.payload.table.regions[0] = (struct vublk_vu_region){
		.guest_addr = RIG_GUEST, .user_addr = RIG_USER, .size_bytes = RIG_MEMORY,
	};
	message.header.size = 8 + sizeof(struct vublk_vu_region);
	message.fds[0] = rig->memory_fd;
	message.num_fds = 1;
	return rig_send_acked(rig, &message);
}

uint64_t rig_add_mem_reg(struct backend_rig *rig, int fd, uint64_t guest, uint64_t user,
			 uint64_t bytes, uint64_t offset)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, VUBLK_VU_ADD_MEM_REG);
	message.payload.mem_reg.region = (struct vublk_vu_region){
		.guest_addr = guest, .user_addr = user, .size_bytes = bytes,
		.mmap_offset = offset,
	};
	message.header.size = sizeof(message.payload.mem_reg);
	message.fds[0] = fd;
	message.num_fds = 1;
	return rig_send_acked(rig, &message);
}

void rig_expect_regions_refused(struct backend_rig *rig)
{
	static const struct { uint64_t guest, user, bytes, offset; } places[] = {
		{ RIG_GUEST, 0x8000, 4096, 0 },              /* overlaps in guest addresses */
		{ RIG_GUEST + RIG_MEMORY - 1, 0x8000, 1, 0 },
		{ 0x8000, RIG_USER, 4096, 0 },               /* overlaps in user addresses */
		{ 0x8000, 0x8000, 0, 0 },
		{ 0x8000, 0x8000, 2 << 20, 0 },              /* exceeds the file */
		{ 0x8000, 0x8000, 4096, 1 << 20 },
		{ 0x8000, 0x8000, 4096, UINT64_MAX - 4095 },
		{ 0x8000, 0x8000, 4096, UINT64_MAX },
		{ UINT64_MAX - 4095, 0x8000, 8192, 0 },      /* wraps around */
		{ 0x8000, UINT64_MAX - 4095, 8192, 0 },
	};
	int fds[] = {
		open("/dev/zero", O_RDWR | O_CLOEXEC), open("/dev", O_RDONLY | O_CLOEXEC),
		vublk_eventfd_new(),
	};
	int file = vublk_memfd_new("refused", 1 << 20, NULL);

	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(places); i++)
		if (!rig_add_mem_reg(rig, file, places[i].guest, places[i].user, places[i].bytes,
				     places[i].offset))
			fail_msg("region %u was accepted", i);
	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(fds); i++) {
		if (!rig_add_mem_reg(rig, fds[i], 0x8000, 0x8000, 4096, 0))
			fail_msg("file %u was accepted", i);
		close(fds[i]);
	}
	close(file);
}

static int fresh_eventfd(int *fd)
{
	if (*fd < 0)
		*fd = vublk_eventfd_new();
	assert_true(*fd >= 0);
	return *fd;
}

void rig_make_ring(struct backend_rig *rig, unsigned index, unsigned size, uint16_t base)
{
	struct rig_queue *queue = &rig->queues[index];
	uint64_t offset = index * RIG_QUEUE_BYTES;
	uint64_t avail = vublk_round_up(vublk_split_desc_bytes(size), 64);
	uint64_t used = vublk_round_up(avail + vublk_split_avail_bytes(size), 4096);

	queue->size = size;
	queue->ring.desc = (void *)(rig->memory + offset);
	queue->ring.avail = (void *)(rig->memory + offset + avail);
	queue->ring.used = (void *)(rig->memory + offset + used);
	vublk_driver_ring_deinit(&queue->driver);
	assert_int_equal(vublk_driver_ring_init(&queue->driver, &queue->ring, size, base,
						rig->features, NULL), 0);
}

static uint64_t user_address(const struct backend_rig *rig, const void *pointer)
{
	return RIG_USER + (uint64_t)((const char *)pointer - rig->memory);
}

uint64_t rig_describe_queue(struct backend_rig *rig, unsigned index, uint16_t base)
{
	struct rig_queue *queue = &rig->queues[index];

	assert_int_equal(rig_set_state(rig, VUBLK_VU_SET_VRING_NUM, index, queue->size), 0);
	assert_int_equal(rig_set_state(rig, VUBLK_VU_SET_VRING_BASE, index, base), 0);
	assert_int_equal(rig_set_addr(rig, index, user_address(rig, queue->ring.desc),
				      user_address(rig, queue->ring.avail),
				      user_address(rig, queue->ring.used)), 0);
	assert_int_equal(rig_set_vring_fd(rig, VUBLK_VU_SET_VRING_CALL, index,
					  fresh_eventfd(&queue->call_fd)), 0);
	assert_int_equal(rig_set_vring_fd(rig, VUBLK_VU_SET_VRING_ERR, index,
					  fresh_eventfd(&queue->err_fd)), 0);
	return rig_set_vring_fd(rig, VUBLK_VU_SET_VRING_KICK, index,
				fresh_eventfd(&queue->kick_fd));
}

uint64_t rig_tell_queue(struct backend_rig *rig, unsigned index, uint16_t base)
{
	return rig_describe_queue(rig, index, base) |
	       rig_set_state(rig, VUBLK_VU_SET_VRING_ENABLE, index, 1);
}

void rig_start_queue(struct backend_rig *rig, unsigned index, unsigned size, uint16_t base)
{
	rig_make_ring(rig, index, size, base);
	assert_int_equal(rig_tell_queue(rig, index, base), 0);
}

void rig_start(struct backend_rig *rig)
{
	rig_negotiate(rig);
	assert_int_equal(rig_set_mem_table(rig), 0);
	rig_start_queue(rig, 0, RIG_SIZE, 0);
}

/* --- the in-flight area ------------------------------------------------------ */

void rig_get_area(struct backend_rig *rig, struct rig_area *area)
{
	struct vublk_vu_message message, reply;

	vublk_vu_message_init(&message, VUBLK_VU_GET_INFLIGHT_FD);
	message.payload.inflight.num_queues = RIG_QUEUES;
	message.payload.inflight.queue_size = RIG_SIZE;
	message.header.size = sizeof(message.payload.inflight);
	rig_ask(rig, &message, &reply);
	assert_int_equal(reply.header.size, sizeof(reply.payload.inflight));
	assert_int_equal(reply.payload.inflight.num_queues, RIG_QUEUES);
	assert_int_equal(reply.payload.inflight.queue_size, RIG_SIZE);
	assert_int_equal(reply.payload.inflight.mmap_offset, 0);
	area->bytes = reply.payload.inflight.mmap_size;
	assert_true(area->bytes >= RIG_QUEUES * vublk_inflight_split_least_bytes(RIG_SIZE));
	area->fd = vublk_vu_message_take_fd(&reply, 0);
	assert_true(area->fd >= 0);
	area->region = vublk_map_shared(area->fd, 0, area->bytes, NULL);
	assert_non_null(area->region);
}

uint64_t rig_set_area_as(struct backend_rig *rig, const struct rig_area *area, uint64_t size,
			 uint64_t offset, unsigned num_queues, unsigned queue_size)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, VUBLK_VU_SET_INFLIGHT_FD);
	message.payload.inflight.mmap_size = size;
	message.payload.inflight.mmap_offset = offset;
	message.payload.inflight.num_queues = (uint16_t)num_queues;
	message.payload.inflight.queue_size = (uint16_t)queue_size;
	message.header.size = sizeof(message.payload.inflight);
	message.fds[0] = area->fd;
	message.num_fds = 1;
	return rig_send_acked(rig, &message);
}

uint64_t rig_set_area(struct backend_rig *rig, const struct rig_area *area)
{
	return rig_set_area_as(rig, area, area->bytes, 0, RIG_QUEUES, RIG_SIZE);
}

void rig_drop_area(struct rig_area *area)
{
	vublk_unmap(area->region, area->bytes);
	vublk_fd_close(&area->fd);
}

struct vublk_inflight_split *rig_area_region(const struct rig_area *area, unsigned index)
{
	uint64_t bytes = vublk_inflight_split_region_bytes(RIG_SIZE);

	return (struct vublk_inflight_split *)((char *)area->region + index * bytes);
}

unsigned rig_count_inflight(const struct rig_area *area, unsigned index)
{
	const struct vublk_inflight_split *region = rig_area_region(area, index);
	unsigned n = 0;

	for (unsigned i = 0; i < RIG_SIZE; i++)
		n += region->desc[i].inflight;
	return n;
}

/* --- requests ----------------------------------------------------------------- */

char *rig_data(struct backend_rig *rig, unsigned index)
{
	return rig->memory + index * RIG_QUEUE_BYTES + RIG_DATA_OFFSET;
}

uint64_t rig_data_addr(unsigned index)
{
	return RIG_GUEST + index * RIG_QUEUE_BYTES + RIG_DATA_OFFSET;
}

static uint64_t slot_offset(unsigned index, uint16_t token)
{
	return index * RIG_QUEUE_BYTES + SLOTS_OFFSET + token * (uint64_t)SLOT_BYTES;
}

static bool reads_data(uint32_t type)
{
	return type == VIRTIO_BLK_T_OUT || type == VIRTIO_BLK_T_DISCARD ||
	       type == VIRTIO_BLK_T_WRITE_ZEROES;
}

void rig_add(struct backend_rig *rig, unsigned index, uint16_t token, uint32_t type,
	     uint64_t sector, uint64_t data_offset, uint32_t bytes)
{
	uint64_t slot = slot_offset(index, token);
	struct virtio_blk_outhdr header = { .type = type, .sector = sector };
	struct vublk_ring_buffer buffers[3];
	unsigned n = 0;

	memcpy(rig->memory + slot, &header, sizeof(header));
	rig->memory[slot + STATUS_OFFSET] = (char)0xee;
	buffers[n++] = (struct vublk_ring_buffer){ RIG_GUEST + slot, sizeof(header) };
	if (bytes)
		buffers[n++] = (struct vublk_ring_buffer){ rig_data_addr(index) + data_offset,
							   bytes };
	buffers[n++] = (struct vublk_ring_buffer){ RIG_GUEST + slot + STATUS_OFFSET, 1 };
	if (bytes && reads_data(type))
		assert_int_equal(vublk_driver_ring_add(&rig->queues[index].driver, buffers, 2, 1,
						       NULL, token), 0);
	else
		assert_int_equal(vublk_driver_ring_add(&rig->queues[index].driver, buffers, 1,
						       n - 1, NULL, token), 0);
}

void rig_kick(struct backend_rig *rig, unsigned index)
{
	if (vublk_driver_ring_publish(&rig->queues[index].driver))
		vublk_eventfd_signal(rig->queues[index].kick_fd);
}

uint16_t rig_take(struct backend_rig *rig, unsigned index, uint32_t *bytes)
{
	struct rig_queue *queue = &rig->queues[index];
	struct pollfd wait = { .fd = queue->call_fd, .events = POLLIN };
	struct vublk_error error = { 0 };
	uint32_t written;
	uint16_t token;
	int r;

	while (!(r = vublk_driver_ring_take(&queue->driver, &token, &written, &error))) {
		if (!vublk_driver_ring_enable_calls(&queue->driver))
			continue;
		assert_int_equal(poll(&wait, 1, -1), 1);
		vublk_eventfd_clear(queue->call_fd);
	}
	if (r < 0)
		fail_msg("%s", error.text);
	if (bytes)
		*bytes = written;
	return token;
}

uint8_t rig_status(struct backend_rig *rig, unsigned index, uint16_t token)
{
	return (uint8_t)rig->memory[slot_offset(index, token) + STATUS_OFFSET];
}

uint8_t rig_io(struct backend_rig *rig, unsigned index, uint32_t type, uint64_t sector,
	       uint64_t data_offset, uint32_t bytes)
{
	rig_add(rig, index, 0, type, sector, data_offset, bytes);
	rig_kick(rig, index);
	assert_int_equal(rig_take(rig, index, NULL), 0);
	return rig_status(rig, index, 0);
}
