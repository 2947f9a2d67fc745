/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The relay with the dirty log of a VMM that migrates its VM. */
#include "relay-rig.h"

#include "util/atomic.h"
#include "util/fd.h"
#include "util/memfd.h"
#include "virtio/dirty-log.h"

#include <vublk/mirror.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE VUBLK_DIRTY_PAGE_BYTES
#define LOG_BYTES ((RIG_GUEST + RIG_MEMORY) / PAGE / 8)
#define BLOCK 4096

struct log {
	int fd;
	uint8_t *bits;
};

static void make_log(struct log *log)
{
	log->fd = vublk_memfd_new("log", LOG_BYTES, NULL);
	log->bits = vublk_map_shared(log->fd, 0, LOG_BYTES, NULL);
	assert_non_null(log->bits);
}

static void drop_log(struct log *log)
{
	vublk_unmap(log->bits, LOG_BYTES);
	vublk_fd_close(&log->fd);
}

static uint64_t set_log_base(struct backend_rig *rig, int fd, uint64_t size, uint64_t offset)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, VUBLK_VU_SET_LOG_BASE);
	message.payload.log.size_bytes = size;
	message.payload.log.offset = offset;
	message.header.size = sizeof(message.payload.log);
	message.fds[0] = fd;
	message.num_fds = fd >= 0;
	return rig_send_acked(rig, &message);
}

static uint64_t log_all(struct backend_rig *rig, bool on)
{
	uint64_t bit = VUBLK_BIT(VHOST_F_LOG_ALL);

	return rig_set_u64(rig, VUBLK_VU_SET_FEATURES,
			   on ? rig->features | bit : rig->features & ~bit);
}

static bool take_page(struct log *log, uint64_t addr)
{
	uint8_t bit = (uint8_t)(1u << addr / PAGE % 8);

	return __atomic_fetch_and(&log->bits[addr / PAGE / 8], (uint8_t)~bit, __ATOMIC_SEQ_CST) &
	       bit;
}

static uint64_t used_addr(const struct backend_rig *rig)
{
	return RIG_GUEST + (uint64_t)((const char *)rig->queues[0].ring.used - rig->memory);
}

/* Reads a block, which makes the back-end write to the guest's memory. */
static void read_block(struct backend_rig *rig)
{
	assert_int_equal(rig_io(rig, 0, VIRTIO_BLK_T_IN, 0, 0, BLOCK), VIRTIO_BLK_S_OK);
}

static void open_both(struct relay *relay, struct backend_rig *rig)
{
	relay_begin(relay, rig, 1);
	assert_true(rig->features & VUBLK_BIT(VHOST_F_LOG_ALL));
	assert_true(rig->protocol_features & VUBLK_BIT(VUBLK_VU_F_LOG_SHMFD));
	assert_int_equal(log_all(rig, false), 0);
}

static void test_on_and_off(void **state)
{
	struct relay relay;
	struct log log;
	struct backend_rig rig;

	make_log(&log);
	open_both(&relay, &rig);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(set_log_base(&rig, log.fd, LOG_BYTES, 0), 0);
		assert_int_equal(log_all(&rig, true), 0);
		read_block(&rig);
		assert_true(take_page(&log, rig_data_addr(0)));
		assert_true(take_page(&log, used_addr(&rig)));
		/* QEMU sends the addresses again when it turns on the log */
		assert_int_equal(rig_set_addr(&rig, 0, RIG_USER,
					      RIG_USER + (uint64_t)((char *)rig.queues[0].ring.avail -
								    rig.memory),
					      used_addr(&rig) - RIG_GUEST + RIG_USER), 0);
		assert_int_equal(log_all(&rig, false), 0);
		read_block(&rig);
		assert_false(take_page(&log, rig_data_addr(0)));
	}
	relay_end(&relay, &rig);
	drop_log(&log);
}

/* The VMM replaces its bitmap. Later writes are marked in the new one. */
static void test_another_bitmap(void **state)
{
	struct log first, second;
	struct relay relay;
	struct backend_rig rig;

	make_log(&first);
	make_log(&second);
	open_both(&relay, &rig);
	assert_int_equal(set_log_base(&rig, first.fd, LOG_BYTES, 0), 0);
	assert_int_equal(log_all(&rig, true), 0);
	read_block(&rig);
	assert_true(take_page(&first, rig_data_addr(0)));
	assert_int_equal(set_log_base(&rig, second.fd, LOG_BYTES, 0), 0);
	read_block(&rig);
	assert_false(take_page(&first, rig_data_addr(0)));
	assert_true(take_page(&second, rig_data_addr(0)));
	assert_true(take_page(&second, used_addr(&rig)));
	relay_end(&relay, &rig);
	drop_log(&first);
	drop_log(&second);
}

/* The VMM sets its log during an outage. The next back-end uses the log. */
static void test_over_an_outage(void **state)
{
	struct relay relay;
	struct log log;
	struct backend_rig rig;

	make_log(&log);
	open_both(&relay, &rig);
	relay_kill_backend(&relay);
	relay_wait(&relay, "the disk waits for a back-end");
	assert_int_equal(set_log_base(&rig, log.fd, LOG_BYTES, 0), 0);
	assert_int_equal(log_all(&rig, true), 0);
	relay_start_backend(&relay, NULL);
	read_block(&rig);
	assert_true(take_page(&log, rig_data_addr(0)));
	assert_int_equal(rig_get_base(&rig, 0), 1);
	relay_end(&relay, &rig);
	drop_log(&log);
}

static void test_refused(void **state)
{
	struct relay relay;
	struct log log;
	struct backend_rig rig;

	make_log(&log);
	open_both(&relay, &rig);
	assert_int_equal(set_log_base(&rig, -1, LOG_BYTES, 0), 1);
	assert_int_equal(set_log_base(&rig, log.fd, 8, 0), 0);
	assert_int_equal(log_all(&rig, true), 1);
	assert_int_equal(set_log_base(&rig, log.fd, LOG_BYTES, 1 << 20), 1);
	assert_int_equal(set_log_base(&rig, log.fd, UINT64_MAX - 7, 0), 1);
	read_block(&rig);
	assert_int_equal(set_log_base(&rig, log.fd, LOG_BYTES, 0), 0);
	assert_int_equal(log_all(&rig, true), 0);
	read_block(&rig);
	assert_true(take_page(&log, rig_data_addr(0)));
	relay_end(&relay, &rig);
	drop_log(&log);
}

/*
 * During an outage the relay refuses to stop a ring for a migration, because the destination would
 * not have the requests that the lost back-end had begun.
 */
static void test_a_move_that_is_refused(void **state)
{
	struct vublk_vu_message message;
	struct relay relay;
	struct log log;
	struct backend_rig rig;

	make_log(&log);
	open_both(&relay, &rig);
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_PROTOCOL_FEATURES,
				     rig.protocol_features &
				     ~VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_INFLIGHT)), 0);
	assert_int_equal(set_log_base(&rig, log.fd, LOG_BYTES, 0), 0);
	assert_int_equal(log_all(&rig, true), 0);
	relay_freeze_backend(&relay);
	rig_add(&rig, 0, 0, VIRTIO_BLK_T_IN, 0, 0, BLOCK);
	rig_kick(&rig, 0);
	relay_kill_backend(&relay);
	relay_wait(&relay, "the disk waits for a back-end");
	vublk_vu_message_init(&message, VUBLK_VU_GET_VRING_BASE);
	message.header.size = sizeof(message.payload.state);
	message.payload.state.index = 0;
	rig_send(&rig, &message);
	relay_wait(&relay, "cannot stop queue 0 for a migration");
	rig_wait_for_end(&rig);
	rig_close(&rig);
	relay_close(&relay);
	drop_log(&log);
}

/* --- a mirror -------------------------------------------------------------------- */

static struct relay target; /* only its back-end is used */

/* The relay's hook. Begins the mirror at its first call, on the bus's thread. */
static void begin_mirror(struct relay *relay)
{
	struct vublk_error error;

	if (vublk_bus_mirror(relay->bus, target.backend, 0, &error) < 0) {
		fprintf(stderr, "%s\n", error.text);
		abort();
	}
	vublk_store_release(&relay->hook, NULL);
}

static void start_target(void)
{
	int fd;

	snprintf(target.backend, sizeof(target.backend), "%s/target", vublk_test_folder());
	snprintf(target.disk, sizeof(target.disk), "%s/target-disk", vublk_test_folder());
	fd = open(target.disk, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(fd, RELAY_DISK_BYTES), 0);
	close(fd);
	relay_start_backend(&target, NULL);
}

/*
 * When the VMM turns on its log, the relay ends the mirror, because QEMU would exit if the relay
 * refused the log. From then on, the log contains each page that the back-end writes.
 */
static void test_ends_the_mirror(void **state)
{
	const struct vublk_option properties[] = { { "shadow", "auto" }, { NULL, NULL } };
	struct relay relay;
	struct log log;
	struct backend_rig rig;

	make_log(&log);
	relay_open(&relay, properties);
	start_target();
	relay_start_vmm(&relay, &rig, 1);
	assert_int_equal(log_all(&rig, false), 0);
	vublk_store_release(&relay.hook, begin_mirror);
	read_block(&rig);
	assert_int_equal(log_all(&rig, false), 0); /* wakes the thread, which calls the hook */
	relay_wait(&relay, "has the same data as the disk");
	assert_int_equal(set_log_base(&rig, log.fd, LOG_BYTES, 0), 0);
	assert_int_equal(log_all(&rig, true), 0);
	relay_wait(&relay, "has ended: the VMM has begun to migrate the VM");
	for (unsigned i = 0; i < 100; i++) { /* meanwhile, the shadow rings are removed */
		read_block(&rig);
		assert_true(take_page(&log, rig_data_addr(0)));
		assert_true(take_page(&log, used_addr(&rig)));
	}
	assert_int_equal(log_all(&rig, false), 0);
	relay_end(&relay, &rig);
	relay_kill_backend(&target);
	drop_log(&log);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_on_and_off),
		VUBLK_TEST(test_another_bitmap),
		VUBLK_TEST(test_over_an_outage),
		VUBLK_TEST(test_refused),
		VUBLK_TEST(test_a_move_that_is_refused),
		VUBLK_TEST(test_ends_the_mirror),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
