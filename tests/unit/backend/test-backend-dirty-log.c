/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The dirty log: which pages the back-end marks, whether a copy that follows the log while requests
 * run is complete, and how the back-end refuses invalid logs.
 */
#include "backend-rig.h"

#include "util/fd.h"
#include "util/memfd.h"
#include "virtio/dirty-log.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE VUBLK_DIRTY_PAGE_BYTES
#define LOG_BYTES ((RIG_GUEST + RIG_MEMORY) / PAGE / 8)
#define USED_ADDR UINT64_C(0x8000) /* the log address of queue 0's used ring */
#define TEST_RINGS_OFFSET 0x20000  /* the offset in queue 0's memory at which its status bytes
				      begin, after the ring */

struct log {
	int fd;
	uint64_t bytes;
	uint8_t *bits;
};

static void make_log(struct log *log, uint64_t bytes)
{
	log->bytes = bytes;
	log->fd = vublk_memfd_new("log", bytes, NULL);
	assert_true(log->fd >= 0);
	log->bits = vublk_map_shared(log->fd, 0, bytes, NULL);
	assert_non_null(log->bits);
}

static void drop_log(struct log *log)
{
	vublk_unmap(log->bits, log->bytes);
	vublk_fd_close(&log->fd);
}

/* --- messages ------------------------------------------------------------------ */

static void fill_log_base(struct vublk_vu_message *message, int fd, uint64_t size, uint64_t offset)
{
	vublk_vu_message_init(message, VUBLK_VU_SET_LOG_BASE);
	message->payload.log.size_bytes = size;
	message->payload.log.offset = offset;
	message->header.size = sizeof(message->payload.log);
	message->fds[0] = fd;
	message->num_fds = fd >= 0;
}

static uint64_t set_log_base(struct backend_rig *rig, int fd, uint64_t size, uint64_t offset)
{
	struct vublk_vu_message message;

	fill_log_base(&message, fd, size, offset);
	return rig_send_acked(rig, &message);
}

static uint64_t log_ring(struct backend_rig *rig, unsigned index, unsigned flags, uint64_t log_addr)
{
	const struct vublk_split_ring *ring = &rig->queues[index].ring;
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, VUBLK_VU_SET_VRING_ADDR);
	message.payload.addr = (struct vhost_vring_addr){
		.index = index,
		.flags = flags,
		.desc_user_addr = RIG_USER + (uint64_t)((char *)ring->desc - rig->memory),
		.avail_user_addr = RIG_USER + (uint64_t)((char *)ring->avail - rig->memory),
		.used_user_addr = RIG_USER + (uint64_t)((char *)ring->used - rig->memory),
		.log_guest_addr = log_addr,
	};
	message.header.size = sizeof(message.payload.addr);
	return rig_send_acked(rig, &message);
}

static void log_all(struct backend_rig *rig, bool on)
{
	uint64_t bit = VUBLK_BIT(VHOST_F_LOG_ALL);

	assert_int_equal(rig_set_u64(rig, VUBLK_VU_SET_FEATURES,
				     on ? rig->features | bit : rig->features & ~bit), 0);
}

/* Starts a back-end and its queue 0, without logging. */
static void open_rig(struct backend_rig *rig)
{
	rig_open_memory(rig);
	rig_negotiate(rig);
	log_all(rig, false);
	assert_int_equal(rig_set_mem_table(rig), 0);
	rig_start_queue(rig, 0, RIG_SIZE, 0);
}

/* Switches logging on as front-ends do while a VM runs. */
static void begin_logging(struct backend_rig *rig, struct log *log)
{
	make_log(log, LOG_BYTES);
	assert_int_equal(set_log_base(rig, log->fd, log->bytes, 0), 0);
	log_all(rig, true);
	assert_int_equal(log_ring(rig, 0, 1, USED_ADDR), 0);
}

/* --- which pages ---------------------------------------------------------------- */

/* Clears the bit of the page at `addr`. Returns whether the bit was set. */
static bool take_page(struct log *log, uint64_t addr)
{
	uint8_t bit = (uint8_t)(1u << addr / PAGE % 8);

	return __atomic_fetch_and(&log->bits[addr / PAGE / 8], (uint8_t)~bit, __ATOMIC_SEQ_CST) &
	       bit;
}

/*
 * Waits until the page at `addr` is marked. An idle worker marks a page of the used ring, because
 * after polling for a while it enables kicks by a write to the used ring.
 */
static void wait_for_page(const struct log *log, uint64_t addr)
{
	while (!(__atomic_load_n(&log->bits[addr / PAGE / 8], __ATOMIC_SEQ_CST) &
		 1u << addr / PAGE % 8))
		sched_yield();
}

static unsigned count_pages(const struct log *log)
{
	unsigned n = 0;

	for (uint64_t i = 0; i < log->bytes; i++)
		n += (unsigned)__builtin_popcount(log->bits[i]);
	return n;
}

static void clear_log(struct log *log)
{
	memset(log->bits, 0, log->bytes);
}

/*
 * Executes one request, and checks that the page of the status and `count` pages of data from
 * `offset` on are marked. No other page may be marked, except that of the used ring.
 */
static void check_request(struct backend_rig *rig, struct log *log, uint32_t type, uint64_t offset,
			  uint32_t bytes, unsigned count)
{
	clear_log(log);
	rig_add(rig, 0, 0, type, 3, offset, bytes);
	rig_kick(rig, 0);
	rig_take(rig, 0, NULL);
	assert_int_equal(rig_status(rig, 0, 0), VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < count; i++)
		if (!take_page(log, rig_data_addr(0) + offset + i * PAGE))
			fail_msg("type %u, %u bytes at %u: page %u is not marked", type, bytes,
				 (unsigned)offset, i);
	assert_true(take_page(log, RIG_GUEST + TEST_RINGS_OFFSET));
	take_page(log, USED_ADDR); /* the mark of the completion, or of enabled kicks */
	if (count_pages(log))
		fail_msg("type %u, %u bytes at %u: %u pages too many are marked", type, bytes,
			 (unsigned)offset, count_pages(log));
}

static void test_marks_what_is_written(void **state)
{
	struct log log;
	struct backend_rig rig;

	open_rig(&rig);
	begin_logging(&rig, &log);
	assert_true(take_page(&log, USED_ADDR)); /* the start of a ring marks the whole used ring */
	check_request(&rig, &log, VIRTIO_BLK_T_IN, 0, 4096, 1);
	check_request(&rig, &log, VIRTIO_BLK_T_IN, 4000, 512, 2);
	check_request(&rig, &log, VIRTIO_BLK_T_IN, 512, 100 * PAGE, 101);
	check_request(&rig, &log, VIRTIO_BLK_T_GET_ID, PAGE - 20, 20, 1);
	check_request(&rig, &log, VIRTIO_BLK_T_GET_ID, PAGE - 19, 20, 2);
	check_request(&rig, &log, VIRTIO_BLK_T_OUT, 0, 4096, 0);
	check_request(&rig, &log, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	/* Without LOG_ALL no page is marked. */
	log_all(&rig, false);
	assert_int_equal(log_ring(&rig, 0, 0, 0), 0);
	clear_log(&log);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_IN, 0, 0, 4096), VIRTIO_BLK_S_OK);
	rig_get_base(&rig, 0);
	assert_int_equal(count_pages(&log), 0);
	drop_log(&log);
	rig_close(&rig);
}

/*
 * The parts of a used ring of 1,024 entries are marked separately: the index, the elements (on two
 * pages), and the avail event.
 */
static void test_marks_the_used_ring(void **state)
{
	const uint64_t log_addr = USED_ADDR - 4;
	unsigned done = 0;
	struct log log;
	struct backend_rig rig;

	open_rig(&rig);
	begin_logging(&rig, &log);
	rig_get_base(&rig, 0);
	rig_make_ring(&rig, 0, 1024, 0);
	for (unsigned until = 8; until <= 1032; until += 512) {
		assert_int_equal(rig_tell_queue(&rig, 0, (uint16_t)done), 0);
		clear_log(&log);
		assert_int_equal(log_ring(&rig, 0, 1, log_addr), 0);
		for (unsigned i = 0; i < 4; i++)
			assert_true(take_page(&log, USED_ADDR - PAGE + i * PAGE));
		for (; done < until; done++)
			rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
		wait_for_page(&log, USED_ADDR + 2 * PAGE);
		assert_int_equal(rig_get_base(&rig, 0), done);
		assert_true(take_page(&log, USED_ADDR - PAGE));
		/*
		 * Elements 0 to 7 are in the first page of elements. Elements 8 to 519 are in both
		 * pages. So are elements 520 to 1031, because element 1024 is element 0 again.
		 */
		assert_true(take_page(&log, USED_ADDR));
		assert_int_equal(take_page(&log, USED_ADDR + PAGE), until > 8);
		assert_true(take_page(&log, USED_ADDR + 2 * PAGE));
		assert_true(take_page(&log, RIG_GUEST + TEST_RINGS_OFFSET));
		assert_int_equal(count_pages(&log), 0);
	}
	drop_log(&log);
	rig_close(&rig);
}

/* The log's offset in the file may be unaligned. */
static void test_offset(void **state)
{
	struct log log;
	struct backend_rig rig;

	open_rig(&rig);
	make_log(&log, LOG_BYTES + 5000);
	assert_int_equal(set_log_base(&rig, log.fd, LOG_BYTES, 5000), 0);
	log_all(&rig, true);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_IN, 0, 0, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(log.bits[5000 + rig_data_addr(0) / PAGE / 8], 1);
	assert_int_equal(count_pages(&log), 2);
	/* A new log replaces the old one, which is not written any more. */
	clear_log(&log);
	assert_int_equal(set_log_base(&rig, log.fd, LOG_BYTES, 0), 0);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_IN, 0, 0, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(log.bits[rig_data_addr(0) / PAGE / 8], 1);
	assert_int_equal(count_pages(&log), 2);
	drop_log(&log);
	rig_close(&rig);
}

/* --- while requests run ----------------------------------------------------------- */

#define COPY_ROUNDS 3000
#define COPY_REQUESTS 16
#define COPY_BYTES (64 * PAGE) /* memory to which only the back-end writes */

/* Copies each page of [addr, addr + bytes) whose bit was set. */
static void copy_dirty(struct log *log, uint64_t addr, const char *from, char *to, uint64_t bytes)
{
	for (uint64_t at = 0; at < bytes; at += PAGE)
		if (take_page(log, addr + at))
			memcpy(to + at, from + at, PAGE);
}

struct copy {
	char data[COPY_BYTES];
	char used[PAGE];
};

static void copy_all(struct backend_rig *rig, struct log *log, struct copy *copy)
{
	copy_dirty(log, rig_data_addr(0), rig_data(rig, 0), copy->data, sizeof(copy->data));
	copy_dirty(log, USED_ADDR, (char *)rig->queues[0].ring.used, copy->used, PAGE);
}

/* Reads different blocks into overlapping buffers, and copies dirty pages in the meantime. */
static void run_round(struct backend_rig *rig, struct log *log, struct copy *copy)
{
	for (uint16_t i = 0; i < COPY_REQUESTS; i++) {
		uint32_t bytes = (uint32_t)(1 + rand() % 200) * 512;
		uint64_t offset = (uint64_t)rand() % (COPY_BYTES - bytes);

		rig_add(rig, 0, i, VIRTIO_BLK_T_IN, (uint64_t)rand() % 800, offset, bytes);
	}
	rig_kick(rig, 0);
	for (unsigned i = 0; i < COPY_REQUESTS; i++) {
		do
			copy_all(rig, log, copy);
		while (!vublk_driver_ring_has_completion(&rig->queues[0].driver));
		rig_take(rig, 0, NULL);
	}
}

/* Fills the start of the disk. Each sector differs from all others. */
static void fill_disk(struct backend_rig *rig)
{
	uint32_t bytes = 1024 * 512;
	uint32_t *data = (uint32_t *)(rig_data(rig, 0) + 2 * COPY_BYTES);

	for (uint32_t i = 0; i < bytes / sizeof(*data); i++)
		data[i] = i * 2654435761u;
	assert_int_equal(rig_io(rig, 0, VIRTIO_BLK_T_OUT, 0, 2 * COPY_BYTES, bytes), 0);
}

static void test_copy_is_complete(void **state)
{
	struct copy *copy = calloc(1, sizeof(*copy));
	struct log log;
	struct backend_rig rig;

	assert_non_null(copy);
	open_rig(&rig);
	fill_disk(&rig);
	begin_logging(&rig, &log);
	for (unsigned i = 0; i < COPY_ROUNDS; i++)
		run_round(&rig, &log, copy);
	rig_get_base(&rig, 0);
	copy_all(&rig, &log, copy);
	assert_memory_equal(copy->data, rig_data(&rig, 0), COPY_BYTES);
	assert_memory_equal(copy->used, rig.queues[0].ring.used, PAGE);
	free(copy);
	drop_log(&log);
	rig_close(&rig);
}

/* Logging is switched on and off while requests run. No request is lost. */
static void test_switched_under_load(void **state)
{
	struct log log;
	struct backend_rig rig;

	open_rig(&rig);
	begin_logging(&rig, &log);
	for (unsigned i = 0; i < 200; i++) {
		for (uint16_t k = 0; k < 32; k++)
			rig_add(&rig, 0, k, VIRTIO_BLK_T_IN, k, k * PAGE, 4096);
		rig_kick(&rig, 0);
		log_all(&rig, i % 2);
		if (i % 3 == 0)
			assert_int_equal(log_ring(&rig, 0, i % 2, USED_ADDR), 0);
		if (i % 5 == 0)
			assert_int_equal(set_log_base(&rig, log.fd, log.bytes, 0), 0);
		for (unsigned k = 0; k < 32; k++)
			rig_take(&rig, 0, NULL);
	}
	assert_int_equal(rig_get_base(&rig, 0), 200 * 32);
	drop_log(&log);
	rig_close(&rig);
}

/* --- invalid logs --------------------------------------------------------- */

static void test_bad_logs(void **state)
{
	struct vublk_vu_message message;
	struct log log;
	struct backend_rig rig;

	open_rig(&rig);
	make_log(&log, LOG_BYTES);
	assert_int_equal(log_ring(&rig, 0, 3, 0), 1);
	assert_true(rig_log_has(&rig, "unknown flags: 0x2"));
	assert_int_equal(set_log_base(&rig, log.fd, 0, 0), 1);
	assert_true(rig_log_has(&rig, "SET_LOG_BASE gives a dirty log of 0 bytes"));
	assert_int_equal(set_log_base(&rig, log.fd, log.bytes + 1, 0), 1);
	assert_true(rig_log_has(&rig, "of its file, which has"));
	assert_int_equal(set_log_base(&rig, log.fd, log.bytes, 1), 1);
	assert_int_equal(set_log_base(&rig, log.fd, UINT64_MAX, 0), 1);
	assert_int_equal(set_log_base(&rig, log.fd, UINT64_MAX, 1), 1);
	assert_int_equal(set_log_base(&rig, log.fd, 1, UINT64_MAX), 1);
	assert_int_equal(set_log_base(&rig, log.fd, log.bytes, UINT64_MAX - log.bytes + 1), 1);
	assert_int_equal(set_log_base(&rig, rig.queues[0].kick_fd, log.bytes, 0), 1);
	assert_int_equal(set_log_base(&rig, -1, log.bytes, 0), 1);
	assert_true(rig_log_has(&rig, "payload of 16 bytes and 0 file descriptors"));
	fill_log_base(&message, log.fd, log.bytes, 0);
	message.header.size = 8;
	assert_int_equal(rig_send_acked(&rig, &message), 1);
	/* The queue was not harmed. */
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	drop_log(&log);
	rig_close(&rig);
}

/* A log is refused if its file is smaller than the message says. The queue continues. */
static void test_shrunk_log(void **state)
{
	struct backend_rig rig;
	int fd = memfd_create("log", MFD_CLOEXEC);

	assert_int_equal(ftruncate(fd, LOG_BYTES), 0);
	assert_int_equal(ftruncate(fd, LOG_BYTES / 2), 0);
	open_rig(&rig);
	assert_int_equal(set_log_base(&rig, fd, LOG_BYTES, 0), 1);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	close(fd);
	rig_close(&rig);
}

/* The back-end refuses a log, a used ring or a region that would have pages without a bit. */
static void test_too_small(void **state)
{
	struct log log;
	struct backend_rig rig;

	open_rig(&rig);
	make_log(&log, LOG_BYTES);
	log_all(&rig, true);
	assert_int_equal(set_log_base(&rig, log.fd, log.bytes - 1, 0), 1);
	assert_true(rig_log_has(&rig, "too small for memory up to 0x100ffffff"));
	assert_int_equal(set_log_base(&rig, log.fd, log.bytes, 0), 0);
	assert_int_equal(rig_tell_queue(&rig, 0, 0), 0);
	assert_int_equal(log_ring(&rig, 0, 1, RIG_GUEST + RIG_MEMORY - 1024), 1);
	assert_true(rig_log_has(&rig, "too small for a used ring that is logged at"));
	assert_int_equal(rig_tell_queue(&rig, 0, 0), 0);
	assert_int_equal(log_ring(&rig, 0, 1, UINT64_MAX - 3), 1);
	assert_int_equal(rig_tell_queue(&rig, 0, 0), 0);
	assert_int_equal(log_ring(&rig, 0, 1, RIG_GUEST + RIG_MEMORY - 1030), 0);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_IN, 0, 0, 512), VIRTIO_BLK_S_OK);
	/* The log must also have bits for a region that is added later. */
	assert_int_equal(rig_add_mem_reg(&rig, rig.memory_fd, RIG_GUEST + RIG_MEMORY, 4096, PAGE,
					 0), 1);
	drop_log(&log);
	rig_close(&rig);
}

static void test_without_log_shmfd(void **state)
{
	struct log log;
	struct backend_rig rig;

	open_rig(&rig);
	make_log(&log, LOG_BYTES);
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_PROTOCOL_FEATURES, rig.protocol_features &
				     ~VUBLK_BIT(VUBLK_VU_F_LOG_SHMFD)), 0);
	assert_int_equal(set_log_base(&rig, log.fd, log.bytes, 0), 1);
	assert_true(rig_log_has(&rig, "LOG_SHMFD, which the front-end did not accept"));
	drop_log(&log);
	rig_close(&rig);
}

/*
 * Without NEED_REPLY, a successful SET_LOG_BASE is answered nevertheless, and a refused one ends
 * the session.
 */
static void test_answers(void **state)
{
	struct vublk_vu_message message, reply;
	struct log log;
	struct backend_rig rig;

	open_rig(&rig);
	make_log(&log, LOG_BYTES);
	fill_log_base(&message, log.fd, log.bytes, 0);
	rig_ask(&rig, &message, &reply);
	assert_int_equal(reply.num_fds, 0);
	vublk_vu_message_init(&message, VUBLK_VU_SET_LOG_FD);
	message.fds[0] = rig.queues[0].call_fd;
	message.num_fds = 1;
	assert_int_equal(rig_send_acked(&rig, &message), 0);
	fill_log_base(&message, log.fd, log.bytes + 1, 0);
	rig_send(&rig, &message);
	rig_close_expecting_end(&rig);
	drop_log(&log);
}

static void test_again_and_again(void **state)
{
	unsigned fds = 0, mappings = 0;
	struct backend_rig rig;

	open_rig(&rig);
	for (unsigned i = 0; i < 500; i++) {
		struct log log;

		make_log(&log, LOG_BYTES);
		assert_int_equal(set_log_base(&rig, log.fd, log.bytes, 0), 0);
		drop_log(&log);
		/*
		 * The descriptors of a message may stay open until the next message has been
		 * answered.
		 */
		rig_get_u64(&rig, VUBLK_VU_GET_STATUS);
		if (!i) {
			rig_get_u64(&rig, VUBLK_VU_GET_STATUS);
			fds = vublk_test_count_fds();
			mappings = vublk_test_count_mappings();
		}
	}
	rig_get_u64(&rig, VUBLK_VU_GET_STATUS);
	assert_int_equal(vublk_test_count_fds(), fds);
	assert_int_equal(vublk_test_count_mappings(), mappings);
	rig_close(&rig);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_marks_what_is_written),
		VUBLK_TEST(test_marks_the_used_ring),
		VUBLK_TEST(test_offset),
		VUBLK_TEST(test_copy_is_complete),
		VUBLK_TEST(test_switched_under_load),
		VUBLK_TEST(test_bad_logs),
		VUBLK_TEST(test_shrunk_log),
		VUBLK_TEST(test_too_small),
		VUBLK_TEST(test_without_log_shmfd),
		VUBLK_TEST(test_answers),
		VUBLK_TEST(test_again_and_again),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
