/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* virtio-blk requests of each kind and framing, valid and invalid, and a disk that grows. */
#include "backend-rig.h"

#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SECTORS ((8 << 20) / 512)

static void fill(char *p, size_t bytes, unsigned seed)
{
	for (size_t i = 0; i < bytes; i++)
		p[i] = (char)(((i + seed) * 2654435761u) >> 24);
}

static bool is_zero(const char *p, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		if (p[i])
			return false;
	return true;
}

static void test_write_and_read_back(void **state)
{
	struct backend_rig rig;
	char *data;

	rig_open_memory(&rig);
	rig_start(&rig);
	data = rig_data(&rig, 0);
	fill(data, 8192, 1);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 7, 0, 8192), VIRTIO_BLK_S_OK);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_IN, 7, 8192, 8192), VIRTIO_BLK_S_OK);
	assert_memory_equal(data, data + 8192, 8192);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	rig_close(&rig);
}

static void test_lengths_and_id(void **state)
{
	struct backend_rig rig;
	uint32_t bytes;

	rig_open_memory(&rig);
	rig_start(&rig);
	rig_add(&rig, 0, 5, VIRTIO_BLK_T_IN, 0, 0, 1024);
	rig_kick(&rig, 0);
	assert_int_equal(rig_take(&rig, 0, &bytes), 5);
	assert_int_equal(bytes, 1025);
	rig_add(&rig, 0, 6, VIRTIO_BLK_T_OUT, 0, 0, 1024);
	rig_kick(&rig, 0);
	assert_int_equal(rig_take(&rig, 0, &bytes), 6);
	assert_int_equal(bytes, 1);
	rig_add(&rig, 0, 7, VIRTIO_BLK_T_GET_ID, 0, 0, 20);
	rig_kick(&rig, 0);
	assert_int_equal(rig_take(&rig, 0, &bytes), 7);
	assert_int_equal(bytes, 21);
	assert_string_equal(rig_data(&rig, 0), "vublk");
	rig_data(&rig, 0)[3] = 'x';
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_GET_ID, 0, 0, 3), VIRTIO_BLK_S_OK);
	assert_memory_equal(rig_data(&rig, 0), "vubx", 4);
	rig_close(&rig);
}

static void test_refused(void **state)
{
	static const struct {
		uint32_t type;
		uint64_t sector;
		uint32_t bytes;
		uint8_t status;
	} cases[] = {
		{ VIRTIO_BLK_T_IN, 0, 511, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_OUT, 0, 513, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_IN, SECTORS, 512, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_IN, SECTORS - 1, 1024, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_IN, SECTORS - 1, 512, VIRTIO_BLK_S_OK },
		{ VIRTIO_BLK_T_OUT, UINT64_MAX, 512, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_OUT, UINT64_MAX >> 9, 1024, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_OUT, (UINT64_MAX >> 9) + 1, 512, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_OUT, 0, 0, VIRTIO_BLK_S_OK },
		{ 2, 0, 512, VIRTIO_BLK_S_UNSUPP },
		{ VIRTIO_BLK_T_SECURE_ERASE, 0, 16, VIRTIO_BLK_S_UNSUPP },
		{ 0x80000000, 0, 512, VIRTIO_BLK_S_UNSUPP },
		{ UINT32_MAX, 0, 0, VIRTIO_BLK_S_UNSUPP },
		{ VIRTIO_BLK_T_DISCARD, 0, 15, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_DISCARD, 0, 33 * 16, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_WRITE_ZEROES, 0, 0, VIRTIO_BLK_S_IOERR },
	};
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_start(&rig);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		uint8_t status;

		memset(rig_data(&rig, 0), 0, 1024);
		status = rig_io(&rig, 0, cases[i].type, cases[i].sector, 0, cases[i].bytes);
		if (status != cases[i].status)
			fail_msg("case %zu: status %u, not %u", i, status, cases[i].status);
	}
	rig_close(&rig);
}

static uint8_t do_range(struct backend_rig *rig, uint32_t type, uint64_t sector, uint32_t sectors,
			uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes range = { sector, sectors, flags };

	memcpy(rig_data(rig, 0), &range, sizeof(range));
	return rig_io(rig, 0, type, 0, 0, sizeof(range));
}

static void test_ranges(void **state)
{
	struct virtio_blk_discard_write_zeroes ranges[3] = { { 0, 8, 0 }, { 100, 0, 0 },
							     { 16, 8, 1 } };
	struct backend_rig rig;
	char *data;

	rig_open_memory(&rig);
	rig_start(&rig);
	data = rig_data(&rig, 0);
	memset(data, 0xaa, 32 * 512);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, 0, 32 * 512), VIRTIO_BLK_S_OK);
	memcpy(data, ranges, sizeof(ranges));
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_WRITE_ZEROES, 0, 0, sizeof(ranges)),
			 VIRTIO_BLK_S_OK);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_IN, 0, 0, 32 * 512), VIRTIO_BLK_S_OK);
	assert_true(is_zero(data, 8 * 512));
	assert_int_equal((uint8_t)data[8 * 512], 0xaa);
	assert_int_equal((uint8_t)data[16 * 512 - 1], 0xaa);
	assert_true(is_zero(data + 16 * 512, 8 * 512));
	assert_int_equal((uint8_t)data[24 * 512], 0xaa);
	assert_int_equal(do_range(&rig, VIRTIO_BLK_T_DISCARD, 24, 8, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(do_range(&rig, VIRTIO_BLK_T_DISCARD, 0, 8, 1), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(do_range(&rig, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 2), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(do_range(&rig, VIRTIO_BLK_T_DISCARD, SECTORS - 1, 2, 0),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(do_range(&rig, VIRTIO_BLK_T_WRITE_ZEROES, UINT64_MAX, 2, 0),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(do_range(&rig, VIRTIO_BLK_T_WRITE_ZEROES, 0, UINT32_MAX, 0),
			 VIRTIO_BLK_S_IOERR);
	rig_close(&rig);
}

static void test_ranges_not_negotiated(void **state)
{
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_negotiate(&rig);
	rig.features &= ~(VUBLK_BIT(VIRTIO_BLK_F_DISCARD) | VUBLK_BIT(VIRTIO_BLK_F_WRITE_ZEROES));
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_FEATURES, rig.features), 0);
	assert_int_equal(rig_set_mem_table(&rig), 0);
	rig_start_queue(&rig, 0, RIG_SIZE, 0);
	assert_int_equal(do_range(&rig, VIRTIO_BLK_T_DISCARD, 0, 8, 0), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(do_range(&rig, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0), VIRTIO_BLK_S_UNSUPP);
	rig_close(&rig);
}

static void test_read_only(void **state)
{
	const struct vublk_option options[] = {
		{ "engine", "memory" }, { "size", "8M" }, { "num-queues", "4" },
		{ "read-only", "on" }, { 0 },
	};
	struct virtio_blk_config config;
	struct backend_rig rig;

	rig_open(&rig, options);
	rig_start(&rig);
	assert_true(rig.features & VUBLK_BIT(VIRTIO_BLK_F_RO));
	assert_false(rig.features & VUBLK_BIT(VIRTIO_BLK_F_DISCARD));
	rig_get_config(&rig, &config);
	assert_int_equal(config.max_write_zeroes_sectors, 0);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, 0, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_IN, 0, 0, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	rig_close(&rig);
}

/* --- framing ----------------------------------------------------------------- */

/*
 * Buffers of odd sizes divide the header and the data. In a read, the last data buffer ends with
 * the status byte.
 */
static void test_any_framing(void **state)
{
	struct virtio_blk_outhdr header = { .type = VIRTIO_BLK_T_OUT, .sector = 3 };
	uint64_t addr = rig_data_addr(0);
	struct vublk_ring_buffer out[] = {
		{ addr, 5 }, { addr + 5, 111 }, { addr + 116, 412 }, { addr + 4096, 1 },
	};
	struct vublk_ring_buffer in[] = {
		{ addr + 8192, 16 }, { addr + 12288, 100 }, { addr + 12388, 413 },
	};
	struct backend_rig rig;
	char *data;

	rig_open_memory(&rig);
	rig_start(&rig);
	data = rig_data(&rig, 0);
	fill(data, 4096, 9);
	memcpy(data, &header, sizeof(header));
	data[4096] = (char)0xee;
	assert_int_equal(vublk_driver_ring_add(&rig.queues[0].driver, out, 3, 1, NULL, 0), 0);
	rig_kick(&rig, 0);
	rig_take(&rig, 0, NULL);
	assert_int_equal(data[4096], VIRTIO_BLK_S_OK);
	header.type = VIRTIO_BLK_T_IN;
	memcpy(data + 8192, &header, sizeof(header));
	data[12288 + 512] = (char)0xee;
	assert_int_equal(vublk_driver_ring_add(&rig.queues[0].driver, in, 1, 2, NULL, 0), 0);
	rig_kick(&rig, 0);
	rig_take(&rig, 0, NULL);
	assert_int_equal(data[12288 + 512], VIRTIO_BLK_S_OK);
	assert_memory_equal(data + 12288, data + 16, 512);
	rig_close(&rig);
}

static uint32_t raw_chain(struct backend_rig *rig, const struct vublk_ring_buffer *buffers,
			  unsigned num_out, unsigned num_in)
{
	uint32_t bytes;

	assert_int_equal(vublk_driver_ring_add(&rig->queues[0].driver, buffers, num_out, num_in,
					       NULL, 0), 0);
	rig_kick(rig, 0);
	rig_take(rig, 0, &bytes);
	return bytes;
}

static void test_malformed_chains(void **state)
{
	uint64_t addr = rig_data_addr(0);
	struct vublk_ring_buffer short_header[] = { { addr, 15 }, { addr + 4096, 1 } };
	struct vublk_ring_buffer no_status[] = { { addr, 16 } };
	struct vublk_ring_buffer outside[] = { { addr, 16 }, { 0x10, 512 }, { addr + 4096, 1 } };
	struct vublk_ring_buffer across[] = { { addr, 16 }, { RIG_GUEST + RIG_MEMORY - 256, 512 },
					      { addr + 4096, 1 } };
	struct vublk_ring_buffer wraps[] = { { addr, 16 }, { UINT64_MAX - 255, 512 },
					     { addr + 4096, 1 } };
	struct vublk_ring_buffer no_header[] = { { addr + 4096, 1 } };
	struct backend_rig rig;
	char *data;

	rig_open_memory(&rig);
	rig_start(&rig);
	data = rig_data(&rig, 0);
	data[4096] = (char)0xee;
	assert_int_equal(raw_chain(&rig, short_header, 1, 1), 1);
	assert_int_equal(data[4096], VIRTIO_BLK_S_IOERR);
	data[4096] = (char)0xee;
	assert_int_equal(raw_chain(&rig, no_header, 0, 1), 1);
	assert_int_equal(data[4096], VIRTIO_BLK_S_IOERR);
	assert_int_equal(raw_chain(&rig, no_status, 1, 0), 0);
	assert_true(rig_log_has(&rig, "has no room for a status"));
	assert_int_equal(raw_chain(&rig, outside, 2, 1), 0);
	assert_true(rig_log_has(&rig, "rejected a malformed request"));
	assert_int_equal(raw_chain(&rig, across, 1, 2), 0);
	assert_int_equal(raw_chain(&rig, wraps, 1, 2), 0);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	rig_close(&rig);
}

static void test_broken_ring_stops_alone(void **state)
{
	struct pollfd wait;
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_start(&rig);
	rig_start_queue(&rig, 1, RIG_SIZE, 0);
	rig.queues[1].ring.avail->idx = 1000;
	vublk_eventfd_signal(rig.queues[1].kick_fd);
	wait = (struct pollfd){ .fd = rig.queues[1].err_fd, .events = POLLIN };
	assert_int_equal(poll(&wait, 1, -1), 1);
	assert_true(rig_log_has(&rig, "queue 1 is stopped because its driver broke the ring"));
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	/* The broken queue can be started again. */
	rig_get_base(&rig, 1);
	memset(rig.queues[1].ring.avail, 0, 4);
	rig_start_queue(&rig, 1, RIG_SIZE, 0);
	assert_int_equal(rig_io(&rig, 1, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	rig_close(&rig);
}

/* --- many -------------------------------------------------------------------- */

static void test_full_rings(void **state)
{
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_start(&rig);
	for (unsigned i = 1; i < RIG_QUEUES; i++)
		rig_start_queue(&rig, i, RIG_SIZE, 0);
	for (unsigned round = 0; round < 200; round++) {
		for (unsigned q = 0; q < RIG_QUEUES; q++)
			for (uint16_t token = 0; token < RIG_SIZE / 3; token++)
				rig_add(&rig, q, token, token % 2, q * 1000 + token,
					token * 512u, 512);
		for (unsigned q = 0; q < RIG_QUEUES; q++)
			rig_kick(&rig, q);
		for (unsigned q = 0; q < RIG_QUEUES; q++)
			for (unsigned i = 0; i < RIG_SIZE / 3; i++)
				assert_int_equal(rig_status(&rig, q, rig_take(&rig, q, NULL)), 0);
	}
	assert_int_equal(rig_get_base(&rig, 0), (uint16_t)(200 * (RIG_SIZE / 3)));
	rig_close(&rig);
}

/* --- a file ------------------------------------------------------------------ */

static char *make_image(char path[128], uint64_t bytes)
{
	int fd;

	snprintf(path, 128, "%s/image", vublk_test_folder());
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	vublk_fd_close(&fd);
	return path;
}

/* When the back-end answers GET_VRING_BASE, all requests that it has taken are complete. */
static void test_base_waits_for_requests(void **state)
{
	char path[128];
	const struct vublk_option options[] = {
		{ "blk-file", make_image(path, 8 << 20) }, { "num-queues", "4" }, { 0 },
	};
	struct backend_rig rig;

	rig_open(&rig, options);
	rig_start(&rig);
	for (unsigned round = 0; round < 20; round++) {
		uint16_t before = rig.queues[0].ring.used->idx;
		unsigned base;

		for (uint16_t token = 0; token < 40; token++)
			rig_add(&rig, 0, token, VIRTIO_BLK_T_OUT, token * 8u, token * 4096u,
				4096);
		rig_kick(&rig, 0);
		base = rig_get_base(&rig, 0);
		assert_int_equal(rig.queues[0].ring.used->idx, base);
		assert_true((uint16_t)(base - before) <= 40);
		assert_int_equal(rig_set_vring_fd(&rig, VUBLK_VU_SET_VRING_KICK, 0,
						  rig.queues[0].kick_fd), 0);
		for (unsigned i = 0; i < 40; i++)
			assert_int_equal(rig_status(&rig, 0, rig_take(&rig, 0, NULL)), 0);
	}
	rig_close(&rig);
}

static void test_no_room(void **state)
{
	char path[128];
	const struct vublk_option options[] = {
		{ "blk-file", make_image(path, 8 << 20) }, { "num-queues", "4" }, { 0 },
	};
	struct backend_rig rig;

	rig_open(&rig, options);
	rig_start(&rig);
	/* The file shrinks while the disk is served, so reads past its end fail. */
	assert_int_equal(truncate(path, 4096), 0);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_IN, 8000, 0, 4096), VIRTIO_BLK_S_IOERR);
	assert_true(rig_log_has(&rig, "read of 4096 bytes at offset 4096000"));
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_IN, 0, 0, 4096), VIRTIO_BLK_S_OK);
	rig_close(&rig);
}

static void test_resize(void **state)
{
	char path[128];
	const struct vublk_option options[] = {
		{ "blk-file", make_image(path, 1 << 20) }, { "num-queues", "4" }, { 0 },
	};
	struct virtio_blk_config config;
	struct vublk_vu_message message;
	struct vublk_channel back;
	struct pollfd wait;
	int sockets[2];
	struct backend_rig rig;

	rig_open(&rig, options);
	rig_start(&rig);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	vublk_channel_init(&back, sockets[0]);
	vublk_vu_message_init(&message, VUBLK_VU_SET_BACKEND_REQ_FD);
	message.fds[0] = sockets[1];
	message.num_fds = 1;
	assert_int_equal(rig_send_acked(&rig, &message), 0);
	vublk_fd_close(&sockets[1]);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_IN, 2048, 0, 512), VIRTIO_BLK_S_IOERR);
	for (unsigned mib = 2; mib < 5; mib++) {
		assert_int_equal(truncate(path, (off_t)mib << 20), 0);
		vublk_backend_rescan(rig.backend);
		wait = (struct pollfd){ .fd = sockets[0], .events = POLLIN };
		assert_int_equal(poll(&wait, 1, -1), 1);
		assert_int_equal(vublk_channel_receive(&back, &message, NULL), 1);
		assert_int_equal(message.header.request, VUBLK_VU_BACKEND_CONFIG_CHANGE_MSG);
		assert_int_equal(message.header.size, 0);
		assert_true(message.header.flags & VUBLK_VU_FLAG_NEED_REPLY);
		rig_get_config(&rig, &config);
		assert_int_equal(config.capacity, mib << 11);
		assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_IN, (mib << 11) - 1, 0, 512),
				 VIRTIO_BLK_S_OK);
		message.header.flags = VUBLK_VU_VERSION | VUBLK_VU_FLAG_REPLY;
		message.header.size = 8;
		message.payload.u64 = 0;
		assert_int_equal(vublk_channel_send(&back, &message, NULL), 0);
	}
	/* The disk keeps its size if the image's new size is invalid. */
	assert_int_equal(truncate(path, 1000), 0);
	vublk_backend_rescan(rig.backend);
	while (!rig_log_has(&rig, "cannot resize the disk"))
		assert_int_equal(rig_get_u64(&rig, VUBLK_VU_GET_STATUS), 0);
	vublk_channel_deinit(&back);
	rig_close(&rig);
}

/* Opens a back-end channel. Initialises `back` as the front-end's end of the channel. */
static void open_back_channel(struct backend_rig *rig, struct vublk_channel *back)
{
	struct vublk_vu_message message;
	int sockets[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	vublk_channel_init(back, sockets[0]);
	vublk_vu_message_init(&message, VUBLK_VU_SET_BACKEND_REQ_FD);
	message.fds[0] = sockets[1];
	message.num_fds = 1;
	assert_int_equal(rig_send_acked(rig, &message), 0);
	vublk_fd_close(&sockets[1]);
}

static void answer_config_change(struct vublk_channel *back)
{
	struct pollfd wait = { .fd = back->fd, .events = POLLIN };
	struct vublk_vu_message message;

	assert_int_equal(poll(&wait, 1, -1), 1);
	assert_int_equal(vublk_channel_receive(back, &message, NULL), 1);
	assert_int_equal(message.header.request, VUBLK_VU_BACKEND_CONFIG_CHANGE_MSG);
	message.header.flags = VUBLK_VU_VERSION | VUBLK_VU_FLAG_REPLY;
	message.header.size = 8;
	message.payload.u64 = 0;
	assert_int_equal(vublk_channel_send(back, &message, NULL), 0);
}

static void rescan(struct backend_rig *rig, const char *path, uint64_t bytes)
{
	unsigned lines = rig_log_lines(rig);

	assert_int_equal(truncate(path, (off_t)bytes), 0);
	vublk_backend_rescan(rig->backend);
	while (rig_log_lines(rig) == lines) /* waits until the back-end has logged the new size */
		assert_int_equal(rig_get_u64(rig, VUBLK_VU_GET_STATUS), 0);
}

/*
 * While no ring is started, the back-end only answers messages: it sends no request on the back-end
 * channel, makes no call, and does not write to the memory or the in-flight area (vhost-user,
 * "Suspended device state").
 */
static void test_silence_while_suspended(void **state)
{
	char path[128];
	const struct vublk_option options[] = {
		{ "blk-file", make_image(path, 1 << 20) }, { "num-queues", "4" }, { 0 },
	};
	char *memory = malloc(RIG_MEMORY), *inflight;
	struct virtio_blk_config config;
	struct vublk_vu_message message;
	struct vublk_channel back;
	struct rig_area area;
	struct backend_rig rig;

	rig_open(&rig, options);
	rig_negotiate(&rig);
	assert_int_equal(rig_set_mem_table(&rig), 0);
	rig_get_area(&rig, &area);
	assert_int_equal(rig_set_area(&rig, &area), 0);
	open_back_channel(&rig, &back);
	rig_start_queue(&rig, 0, RIG_SIZE, 0);
	rig_get_config(&rig, &config);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_IN, 0, 0, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(rig_get_base(&rig, 0), 1);
	vublk_eventfd_clear(rig.queues[0].call_fd);
	assert_non_null(memory);
	memcpy(memory, rig.memory, RIG_MEMORY);
	inflight = malloc(area.bytes);
	assert_non_null(inflight);
	memcpy(inflight, area.region, area.bytes);

	rescan(&rig, path, 2 << 20);
	rig_get_config(&rig, &config);
	rescan(&rig, path, 3 << 20);
	rig_kick(&rig, 0);
	assert_int_equal(rig_set_area(&rig, &area), 0);
	assert_int_equal(rig_get_u64(&rig, VUBLK_VU_GET_STATUS), 0);
	assert_int_equal(vublk_channel_receive(&back, &message, NULL), 0);
	assert_int_equal(vublk_eventfd_clear(rig.queues[0].call_fd), 0);
	assert_memory_equal(memory, rig.memory, RIG_MEMORY);
	assert_memory_equal(inflight, area.region, area.bytes);

	assert_int_equal(rig_tell_queue(&rig, 0, 1), 0);
	answer_config_change(&back);
	/* The front-end has read the size, so it is not notified again. */
	rig_get_config(&rig, &config);
	assert_int_equal(config.capacity, 3 << 11);
	rig_start_queue(&rig, 1, RIG_SIZE, 0);
	assert_int_equal(vublk_channel_receive(&back, &message, NULL), 0);
	free(memory);
	free(inflight);
	rig_drop_area(&area);
	vublk_channel_deinit(&back);
	rig_close(&rig);
}

/* The front-end sends garbage on the back-end channel. */
static void test_garbage_on_back_channel(void **state)
{
	struct vublk_vu_message message;
	int sockets[2];
	struct backend_rig rig;
	char byte;

	rig_open_memory(&rig);
	rig_start(&rig);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	vublk_vu_message_init(&message, VUBLK_VU_SET_BACKEND_REQ_FD);
	message.fds[0] = sockets[1];
	message.num_fds = 1;
	assert_int_equal(rig_send_acked(&rig, &message), 0);
	vublk_fd_close(&sockets[1]);
	assert_int_equal(write(sockets[0], "xxxxxxxxxxxxxxxxxxxxxxxx", 24), 24);
	while (recv(sockets[0], &byte, 1, 0) < 0 && errno == EINTR)
		;
	assert_true(rig_log_has(&rig, "closed the channel for notifications to the front-end"));
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	vublk_fd_close(&sockets[0]);
	/* Refused: a descriptor that is not a socket. */
	vublk_vu_message_init(&message, VUBLK_VU_SET_BACKEND_REQ_FD);
	message.fds[0] = rig.memory_fd;
	message.num_fds = 1;
	assert_int_equal(rig_send_acked(&rig, &message), 1);
	rig_close(&rig);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_write_and_read_back),
		VUBLK_TEST(test_lengths_and_id),
		VUBLK_TEST(test_refused),
		VUBLK_TEST(test_ranges),
		VUBLK_TEST(test_ranges_not_negotiated),
		VUBLK_TEST(test_read_only),
		VUBLK_TEST(test_any_framing),
		VUBLK_TEST(test_malformed_chains),
		VUBLK_TEST(test_broken_ring_stops_alone),
		VUBLK_TEST(test_full_rings),
		VUBLK_TEST(test_base_waits_for_requests),
		VUBLK_TEST(test_no_room),
		VUBLK_TEST(test_resize),
		VUBLK_TEST(test_silence_while_suspended),
		VUBLK_TEST(test_garbage_on_back_channel),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
