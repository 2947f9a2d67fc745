/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The back-end as a front-end sees it: each message, and sequences of messages. */
#include "backend-rig.h"

#include "util/fd.h"
#include "util/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void test_features(void **state)
{
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_negotiate(&rig);
	assert_int_equal(rig.features,
			 VUBLK_BIT(VIRTIO_BLK_F_SEG_MAX) | VUBLK_BIT(VIRTIO_BLK_F_BLK_SIZE) |
			 VUBLK_BIT(VIRTIO_BLK_F_TOPOLOGY) | VUBLK_BIT(VIRTIO_BLK_F_FLUSH) |
			 VUBLK_BIT(VIRTIO_BLK_F_CONFIG_WCE) | VUBLK_BIT(VIRTIO_BLK_F_MQ) |
			 VUBLK_BIT(VIRTIO_BLK_F_DISCARD) | VUBLK_BIT(VIRTIO_BLK_F_WRITE_ZEROES) |
			 VUBLK_BIT(VIRTIO_F_NOTIFY_ON_EMPTY) | VUBLK_BIT(VHOST_F_LOG_ALL) |
			 VUBLK_BIT(VIRTIO_F_VERSION_1) |
			 VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC) |
			 VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX) | VUBLK_BIT(30));
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_FEATURES,
				     rig.features | VUBLK_BIT(VIRTIO_F_RING_PACKED)), 1);
	assert_true(rig_log_has(&rig, "SET_FEATURES sets the bits 0x400000000"));
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_PROTOCOL_FEATURES,
				     rig.protocol_features | VUBLK_BIT(VUBLK_VU_F_PAGEFAULT)), 1);
	assert_int_equal(rig_get_u64(&rig, VUBLK_VU_GET_QUEUE_NUM), RIG_QUEUES);
	assert_int_equal(rig_get_u64(&rig, VUBLK_VU_GET_MAX_MEM_SLOTS), 509);
	rig_close(&rig);
}

static void test_status(void **state)
{
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_start(&rig);
	assert_int_equal(rig_get_u64(&rig, VUBLK_VU_GET_STATUS), 0);
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_STATUS, 0xf), 0);
	assert_int_equal(rig_get_u64(&rig, VUBLK_VU_GET_STATUS), 0xf);
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_STATUS, 0x100), 1);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	/*
	 * After SET_STATUS 0, the front-end still gets the base, so that the ring can continue
	 * there.
	 */
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_STATUS, 0), 0);
	assert_int_equal(rig_get_base(&rig, 0), 1);
	assert_int_equal(rig_tell_queue(&rig, 0, 1), 0);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(rig_get_base(&rig, 0), 2);
	rig_close(&rig);
}

static void test_config(void **state)
{
	struct virtio_blk_config config;
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_negotiate(&rig);
	rig_get_config(&rig, &config);
	assert_int_equal(config.capacity, (8 << 20) / 512);
	assert_int_equal(config.size_max, 0);
	assert_int_equal(config.seg_max, 126);
	assert_int_equal(config.blk_size, 512);
	assert_int_equal(config.physical_block_exp, 0);
	assert_int_equal(config.min_io_size, 0);
	assert_int_equal(config.opt_io_size, 0);
	assert_int_equal(config.wce, 1);
	assert_int_equal(config.num_queues, RIG_QUEUES);
	assert_int_equal(config.max_discard_seg, 32);
	assert_int_equal(config.max_discard_sectors, 1 << 22);
	assert_int_equal(config.discard_sector_alignment, sysconf(_SC_PAGESIZE) / 512);
	assert_int_equal(config.write_zeroes_may_unmap, 1);
	rig_close(&rig);
}

static unsigned ask_config(struct backend_rig *rig, unsigned offset, unsigned bytes,
			   struct vublk_vu_message *reply)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, VUBLK_VU_GET_CONFIG);
	message.payload.config.offset = offset;
	message.payload.config.size_bytes = bytes;
	message.header.size = VUBLK_VU_CONFIG_HEADER_BYTES;
	rig_ask(rig, &message, reply);
	return reply->header.size;
}

static void test_config_offset(void **state)
{
	struct vublk_vu_message reply;
	uint16_t num_queues;
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_negotiate(&rig);
	assert_int_equal(ask_config(&rig, 0, 256, &reply), 12 + 256);
	assert_int_equal(reply.payload.config.data[255], 0);
	assert_int_equal(ask_config(&rig, 34, 2, &reply), 12 + 2);
	memcpy(&num_queues, reply.payload.config.data, 2);
	assert_int_equal(num_queues, RIG_QUEUES);
	assert_int_equal(ask_config(&rig, 250, 7, &reply), 0);
	assert_int_equal(ask_config(&rig, UINT32_MAX, 2, &reply), 0);
	assert_int_equal(ask_config(&rig, 0, 257, &reply), 0);
	rig_close(&rig);
}

static void test_write_cache(void **state)
{
	struct virtio_blk_config config;
	struct vublk_vu_message message;
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_start(&rig);
	assert_int_equal(rig_set_wce(&rig, 0), 0);
	rig_get_config(&rig, &config);
	assert_int_equal(config.wce, 0);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, 0, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(rig_set_wce(&rig, 2), 1);
	vublk_vu_message_init(&message, VUBLK_VU_SET_CONFIG);
	message.payload.config.size_bytes = 8;
	message.header.size = VUBLK_VU_CONFIG_HEADER_BYTES + 8;
	assert_int_equal(rig_send_acked(&rig, &message), 1);
	assert_true(rig_log_has(&rig, "only the byte at offset 32 (wce) may be written"));
	rig_close(&rig);
}

static void test_bad_vrings(void **state)
{
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_start(&rig);
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_NUM, RIG_QUEUES, 128), 1);
	assert_true(rig_log_has(&rig, "SET_VRING_NUM names queue 4, but this disk has only 4 queues"));
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_ENABLE, UINT32_MAX, 1), 1);
	assert_int_equal(rig_set_vring_fd(&rig, VUBLK_VU_SET_VRING_CALL, 255, -1), 1);
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_NUM, 1, 0), 1);
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_NUM, 1, 100), 1);
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_NUM, 1, 2048), 1);
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_BASE, 1, 65536), 1);
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_ENABLE, 1, 2), 1);
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_NUM, 0, 64), 1);
	assert_true(rig_log_has(&rig, "not allowed for queue 0 while its ring runs"));
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_BASE, 0, 5), 1);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	rig_close(&rig);
}

static void test_ring_outside_memory(void **state)
{
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_start(&rig);
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_NUM, 1, 128), 0);
	assert_int_equal(rig_set_addr(&rig, 1, RIG_USER, RIG_USER + 0x1000, UINT64_MAX - 8), 0);
	rig.queues[1].kick_fd = vublk_eventfd_new();
	assert_int_equal(rig_set_vring_fd(&rig, VUBLK_VU_SET_VRING_KICK, 1,
					  rig.queues[1].kick_fd), 0);
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_ENABLE, 1, 1), 1);
	assert_true(rig_log_has(&rig, "queue 1 cannot start: the used ring of "));
	/* A ring that is not aligned is refused as well. */
	assert_int_equal(rig_set_addr(&rig, 1, RIG_USER + 1, RIG_USER + 0x1000,
				      RIG_USER + 0x2000), 0);
	assert_int_equal(rig_set_vring_fd(&rig, VUBLK_VU_SET_VRING_KICK, 1,
					  rig.queues[1].kick_fd), 1);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	rig_close(&rig);
}

static void test_kick_that_is_no_kick(void **state)
{
	struct backend_rig rig;
	int fd;

	rig_open_memory(&rig);
	rig_start(&rig);
	rig_start_queue(&rig, 1, 64, 0);
	fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(rig_set_vring_fd(&rig, VUBLK_VU_SET_VRING_KICK, 1, fd), 1);
	assert_true(rig_log_has(&rig, "SET_VRING_KICK of queue 1: the descriptor is not an eventfd"));
	assert_int_equal(rig_io(&rig, 1, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	vublk_fd_close(&fd);
	rig_close(&rig);
}

/* A queue starts when the back-end has received all messages about it, in any order. */
static void test_enable_before_kick(void **state)
{
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_negotiate(&rig);
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_ENABLE, 0, 1), 0);
	assert_int_equal(rig_set_mem_table(&rig), 0);
	rig_start_queue(&rig, 0, RIG_SIZE, 0);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	rig_close(&rig);
}

static uint64_t set_kick(struct backend_rig *rig)
{
	return rig_set_vring_fd(rig, VUBLK_VU_SET_VRING_KICK, 0, rig->queues[0].kick_fd);
}

/*
 * SET_VRING_KICK starts a ring, without any kick. A ring may be enabled or disabled at any time,
 * and a stop does not change this setting.
 */
static void test_enable_is_remembered(void **state)
{
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_start(&rig);
	for (uint16_t i = 0; i < 2; i++) {
		assert_int_equal(rig_get_base(&rig, 0), i);
		if (i) /* the second time, disable the ring while it is stopped */
			assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_ENABLE, 0, 0), 0);
		rig_add(&rig, 0, i, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
		vublk_driver_ring_publish(&rig.queues[0].driver);
		vublk_eventfd_clear(rig.queues[0].kick_fd);
		assert_int_equal(set_kick(&rig), 0);
		if (i) {
			assert_int_equal(rig_get_u64(&rig, VUBLK_VU_GET_STATUS), 0);
			assert_false(vublk_driver_ring_has_completion(&rig.queues[0].driver));
			assert_int_equal(rig_get_base(&rig, 0), i);
			assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_ENABLE, 0, 1), 0);
			assert_int_equal(set_kick(&rig), 0);
		}
		assert_int_equal(rig_take(&rig, 0, NULL), i);
	}
	rig_close(&rig);
}

/*
 * A driver that never kicks, such as a polling driver of SPDK, is served slowly, and the log has a
 * warning.
 */
static void test_a_driver_without_kicks(void **state)
{
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_start(&rig);
	/* While the worker polls, it logs no warning, so the test repeats the request. */
	while (!rig_log_has(&rig, "queue 0: the driver does not send kicks")) {
		rig_add(&rig, 0, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
		vublk_driver_ring_publish(&rig.queues[0].driver);
		assert_int_equal(rig_take(&rig, 0, NULL), 0);
	}
	assert_true(rig_log_has(&rig, "--poll=busy"));
	rig_close(&rig);
}

static void test_disabled_queue_rests(void **state)
{
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_start(&rig);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_ENABLE, 0, 0), 0);
	rig_add(&rig, 0, 3, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	rig_kick(&rig, 0);
	/* An exchange of messages leaves enough time to serve a request. */
	assert_int_equal(rig_get_u64(&rig, VUBLK_VU_GET_STATUS), 0);
	assert_false(vublk_driver_ring_has_completion(&rig.queues[0].driver));
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_ENABLE, 0, 1), 0);
	assert_int_equal(rig_take(&rig, 0, NULL), 3);
	rig_close(&rig);
}

/* If a front-end does not accept bit 30 (PROTOCOL_FEATURES), its rings start enabled. */
static void test_without_protocol_features(void **state)
{
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_negotiate(&rig);
	rig.features &= ~VUBLK_BIT(VUBLK_VU_VIRTIO_F_PROTOCOL_FEATURES);
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_FEATURES, rig.features), 0);
	assert_int_equal(rig_set_mem_table(&rig), 0);
	rig_start_queue(&rig, 0, RIG_SIZE, 0);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	rig_close(&rig);
}

static void test_base_and_restart(void **state)
{
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_start(&rig);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(rig_get_base(&rig, 0), 5);
	assert_int_equal(rig_get_base(&rig, 0), 5);
	assert_int_equal(rig_get_base(&rig, 3), 0);
	rig_start_queue(&rig, 0, RIG_SIZE, 5);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(rig_get_base(&rig, 0), 6);
	rig_close(&rig);
}

/*
 * The base in SET_VRING_BASE is behind the used index, because the front-end has missed the last
 * completions.
 */
static void test_base_behind_used(void **state)
{
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_start(&rig);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, 0, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(rig_get_base(&rig, 0), 5);
	assert_int_equal(rig_tell_queue(&rig, 0, 3), 0);
	assert_true(rig_log_has(&rig, "queue 0 starts at its used index, 5"));
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, 0, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(rig_get_base(&rig, 0), 6);
	rig_close(&rig);
}

static void test_polled_queue(void **state)
{
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_start(&rig);
	assert_int_equal(rig_set_vring_fd(&rig, VUBLK_VU_SET_VRING_KICK, 0, -1), 0);
	rig_add(&rig, 0, 1, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	vublk_driver_ring_publish(&rig.queues[0].driver);
	assert_int_equal(rig_take(&rig, 0, NULL), 1);
	assert_int_equal(rig_get_base(&rig, 0), 1);
	rig_close(&rig);
}

static void test_call_changes_while_running(void **state)
{
	struct backend_rig rig;
	int old;

	rig_open_memory(&rig);
	rig_start(&rig);
	old = rig.queues[0].call_fd;
	for (unsigned i = 0; i < 20; i++) {
		rig.queues[0].call_fd = vublk_eventfd_new();
		rig_add(&rig, 0, 1, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
		rig_kick(&rig, 0);
		assert_int_equal(rig_set_vring_fd(&rig, VUBLK_VU_SET_VRING_CALL, 0,
						  rig.queues[0].call_fd), 0);
		vublk_fd_close(&old);
		assert_int_equal(rig_take(&rig, 0, NULL), 1);
		old = rig.queues[0].call_fd;
	}
	rig_close(&rig);
}

static void test_unknown_requests(void **state)
{
	struct vublk_vu_message message;
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_start(&rig);
	vublk_vu_message_init(&message, 4711);
	assert_int_equal(rig_send_acked(&rig, &message), 1);
	assert_true(rig_log_has(&rig, "4711"));
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SEND_RARP, 1), 1);
	assert_true(rig_log_has(&rig, "SEND_RARP needs a feature that this disk does not offer"));
	vublk_vu_message_init(&message, VUBLK_VU_RESET_OWNER);
	assert_int_equal(rig_send_acked(&rig, &message), 0);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	vublk_vu_message_init(&message, 4711);
	rig_send(&rig, &message);
	rig_close_expecting_end(&rig);
}

/* --- memory ----------------------------------------------------------------- */

static uint64_t remove_region(struct backend_rig *rig, uint64_t guest, uint64_t user,
			      uint64_t bytes)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, VUBLK_VU_REM_MEM_REG);
	message.payload.mem_reg.region = (struct vublk_vu_region){
		.guest_addr = guest, .user_addr = user, .size_bytes = bytes,
	};
	message.header.size = sizeof(message.payload.mem_reg);
	/* A surplus descriptor is closed; the harness checks that. */
	message.fds[0] = rig->channel.fd;
	message.num_fds = 1;
	return rig_send_acked(rig, &message);
}

static void test_memory_slots(void **state)
{
	struct backend_rig rig;
	int fd = vublk_memfd_new("slots", 1 << 20, NULL);

	rig_open_memory(&rig);
	rig_start(&rig);
	assert_int_equal(rig_add_mem_reg(&rig, fd, 0x1000, 0x1000, 4096, 4096), 0);
	/* Refused: an overlap in guest addresses, then one in user addresses. */
	assert_int_equal(rig_add_mem_reg(&rig, fd, 0x1800, 0x8000, 4096, 0), 1);
	assert_int_equal(rig_add_mem_reg(&rig, fd, 0x8000, 0x1fff, 4096, 0), 1);
	rig_expect_regions_refused(&rig);
	assert_true(rig_log_has(&rig, "is not a memory file"));
	/* Accepted: an offset that is not a multiple of the page size. */
	assert_int_equal(rig_add_mem_reg(&rig, fd, 0x10000, 0x10000, 4096, 512), 0);
	assert_int_equal(remove_region(&rig, 0x1000, 0x1000, 8192), 1);
	assert_int_equal(remove_region(&rig, 0x1000, 0x1000, 4096), 0);
	assert_int_equal(remove_region(&rig, 0x1000, 0x1000, 4096), 1);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	vublk_fd_close(&fd);
	rig_close(&rig);
}

/*
 * When the memory map of a VM changes, the VMM removes a region and adds its pieces, with one
 * message each. It does not stop the rings in this region, so the rings must wait and then resume.
 */
static void test_ring_waits_for_its_memory(void **state)
{
	struct backend_rig rig;
	int fd = vublk_memfd_new("other", 4096, NULL);

	rig_open_memory(&rig);
	rig_start(&rig);
	assert_int_equal(rig_add_mem_reg(&rig, fd, 0x1000, 0x1000, 4096, 0), 0);
	assert_int_equal(remove_region(&rig, RIG_GUEST, RIG_USER, RIG_MEMORY), 0);
	rig_add(&rig, 0, 3, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	rig_kick(&rig, 0);
	assert_int_equal(rig_add_mem_reg(&rig, rig.memory_fd, RIG_GUEST + RIG_MEMORY / 2,
					 RIG_USER + RIG_MEMORY / 2, RIG_MEMORY / 2,
					 RIG_MEMORY / 2), 0);
	assert_false(vublk_driver_ring_has_completion(&rig.queues[0].driver));
	assert_int_equal(rig_add_mem_reg(&rig, rig.memory_fd, RIG_GUEST, RIG_USER,
					 RIG_MEMORY / 2, 0), 0);
	assert_int_equal(rig_take(&rig, 0, NULL), 3);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, 0, 4096), VIRTIO_BLK_S_OK);
	/* The ring also resumes if a new memory table contains its memory. */
	assert_int_equal(remove_region(&rig, RIG_GUEST, RIG_USER, RIG_MEMORY / 2), 0);
	assert_int_equal(rig_set_mem_table(&rig), 0);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, 0, 4096), VIRTIO_BLK_S_OK);
	/* A message about a queue whose memory is missing is refused. */
	assert_int_equal(remove_region(&rig, RIG_GUEST, RIG_USER, RIG_MEMORY), 0);
	assert_int_equal(rig_add_mem_reg(&rig, fd, 0x1000, 0x1000, 4096, 0), 0);
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_ENABLE, 0, 1), 1);
	vublk_fd_close(&fd);
	rig_close(&rig);
}

static void test_all_slots(void **state)
{
	struct backend_rig rig;
	int fd = vublk_memfd_new("slots", 1 << 20, NULL);

	rig_open_memory(&rig);
	rig_negotiate(&rig);
	for (unsigned i = 509; i-- > 0;)
		assert_int_equal(rig_add_mem_reg(&rig, fd, i * 8192, i * 8192, 4096, 0), 0);
	assert_int_equal(rig_add_mem_reg(&rig, fd, 509 * 8192, 509 * 8192, 4096, 0), 1);
	assert_true(rig_log_has(&rig, "all 509 memory slots are in use"));
	for (unsigned i = 0; i < 509; i += 2)
		assert_int_equal(remove_region(&rig, i * 8192, i * 8192, 4096), 0);
	vublk_fd_close(&fd);
	rig_close(&rig);
}

static void test_bad_mem_tables(void **state)
{
	struct vublk_vu_message message;
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_start(&rig);
	vublk_vu_message_init(&message, VUBLK_VU_SET_MEM_TABLE);
	message.header.size = 8 + sizeof(struct vublk_vu_region);
	message.payload.table.num_regions = 9;
	assert_int_equal(rig_send_acked(&rig, &message), 1);
	message.header.flags = VUBLK_VU_VERSION;
	message.payload.table.num_regions = 1;
	assert_int_equal(rig_send_acked(&rig, &message), 1);
	assert_true(rig_log_has(&rig, "lists 1 region with 0 file descriptors"));
	message.header.flags = VUBLK_VU_VERSION;
	message.payload.table.num_regions = 2;
	message.fds[0] = message.fds[1] = rig.memory_fd;
	message.num_fds = 2;
	assert_int_equal(rig_send_acked(&rig, &message), 1);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	rig_close(&rig);
}

static void test_memory_grows_under_load(void **state)
{
	struct backend_rig rig;
	int fd = vublk_memfd_new("more", 1 << 20, NULL);

	rig_open_memory(&rig);
	rig_start(&rig);
	for (unsigned round = 0; round < 50; round++) {
		for (uint16_t token = 0; token < 32; token++)
			rig_add(&rig, 0, token, VIRTIO_BLK_T_OUT, token, 0, 512);
		rig_kick(&rig, 0);
		assert_int_equal(rig_add_mem_reg(&rig, fd, 0x1000, 0x1000, 1 << 20, 0), 0);
		assert_int_equal(remove_region(&rig, 0x1000, 0x1000, 1 << 20), 0);
		for (unsigned i = 0; i < 32; i++)
			assert_int_equal(rig_status(&rig, 0, rig_take(&rig, 0, NULL)), 0);
	}
	vublk_fd_close(&fd);
	rig_close(&rig);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_features),
		VUBLK_TEST(test_status),
		VUBLK_TEST(test_config),
		VUBLK_TEST(test_config_offset),
		VUBLK_TEST(test_write_cache),
		VUBLK_TEST(test_bad_vrings),
		VUBLK_TEST(test_ring_outside_memory),
		VUBLK_TEST(test_kick_that_is_no_kick),
		VUBLK_TEST(test_enable_before_kick),
		VUBLK_TEST(test_enable_is_remembered),
		VUBLK_TEST(test_a_driver_without_kicks),
		VUBLK_TEST(test_disabled_queue_rests),
		VUBLK_TEST(test_without_protocol_features),
		VUBLK_TEST(test_base_and_restart),
		VUBLK_TEST(test_base_behind_used),
		VUBLK_TEST(test_polled_queue),
		VUBLK_TEST(test_call_changes_while_running),
		VUBLK_TEST(test_unknown_requests),
		VUBLK_TEST(test_memory_slots),
		VUBLK_TEST(test_ring_waits_for_its_memory),
		VUBLK_TEST(test_all_slots),
		VUBLK_TEST(test_bad_mem_tables),
		VUBLK_TEST(test_memory_grows_under_load),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
