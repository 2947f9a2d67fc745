/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tests which messages the back-end gets about the dirty log, and whether the log stays on through
 * starts, stops and losses. test-device-migrate.c tests whether pages are marked.
 *
 * Key idea: each case compares what the device has sent to the mock (the feature, the bitmap, the
 * flags of the used rings) with what the device reports.
 */
#include "harness.h"

#include "mock/device-rig.h"

#include "device/device.h"
#include "util/atomic.h"
#include "util/checked.h"
#include "util/fd.h"
#include "util/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define QUEUES 2
#define LOG_ALL VUBLK_BIT(VHOST_F_LOG_ALL)
/*
 * The number of words of a bitmap that covers the rig's memory. One word has the bits of 64 pages.
 */
#define WORDS ((RIG_GUEST_ADDR + RIG_MEMORY_BYTES) / VUBLK_DIRTY_PAGE_BYTES / 64)
#define FIRST_PAGE (RIG_GUEST_ADDR / VUBLK_DIRTY_PAGE_BYTES)

static void begin(struct device_rig *rig, struct mock *mock)
{
	mock_init(mock);
	mock->features |= LOG_ALL;
	rig_init_with_mock(rig, mock);
	rig_set(rig, "reconnect-ms", "1");
	rig_realize(rig);
}

static void begin_running(struct device_rig *rig, struct mock *mock)
{
	begin(rig, mock);
	rig_start(rig, QUEUES);
	for (unsigned i = 0; i < QUEUES; i++)
		rig_set_indices(rig, i, 7, 7);
	mock->base = 7;
	mock_forget(mock);
}

static uint64_t log_inode(const struct device_rig *rig)
{
	struct vublk_device_dirty_log log;
	struct stat st;

	if (vublk_device_dirty_log_get(rig->device, &log, sizeof(log)) < 0)
		return 0;
	assert_int_equal(fstat(log.fd, &st), 0);
	return st.st_ino;
}

/*
 * Checks that the back-end logs to the device's bitmap if `on` is set, and otherwise does not log.
 */
static void expect_logging(const struct device_rig *rig, const struct mock *mock, bool on)
{
	assert_int_equal(!!(mock->accepted_features & LOG_ALL), on);
	for (unsigned i = 0; i < QUEUES; i++) {
		const struct vhost_vring_addr *addr = &mock->given_addrs[i];

		assert_int_equal(addr->flags, on ? 1u << VHOST_VRING_F_LOG : 0);
		assert_int_equal(addr->log_guest_addr, on ? addr->used_user_addr : 0);
		assert_int_equal(addr->desc_user_addr, RIG_GUEST_ADDR + i * RIG_QUEUE_BYTES);
	}
	assert_int_equal(mock->accepted_features & ~LOG_ALL,
			 rig->device->acked_features | VUBLK_BIT(30));
	if (on)
		assert_int_equal(mock->dirty_log_inode, log_inode(rig));
}

static int start_log(struct device_rig *rig)
{
	struct vublk_error error;
	int r = vublk_device_dirty_log_start(rig->device, NULL, 0, &error);

	if (r < 0)
		fail_msg("%s", error.text);
	return r;
}

static void expect_sentence(int r, int code, const struct vublk_error *error,
			    const char *sentence)
{
	assert_int_equal(r, -code);
	if (!strstr(error->text, sentence))
		fail_msg("'%s' is not in '%s'", sentence, error->text);
}

/* --- while the rings run ---------------------------------------------------------------------- */

static void test_on_and_off(void **state)
{
	struct mock mock;
	struct device_rig rig;

	begin_running(&rig, &mock);
	for (unsigned i = 0; i < 3; i++) {
		mock_forget(&mock);
		assert_int_equal(start_log(&rig), 1);
		rig_wait(&rig, RIG_DIRTY_LOG_CHANGED, 2 * i + 1);
		assert_int_equal(rig.errors[RIG_DIRTY_LOG_CHANGED].code, 0);
		expect_logging(&rig, &mock, true);
		assert_true(mock.dirty_log.size_bytes >= WORDS * 8);
		assert_int_equal(mock.dirty_log.offset, 0);
		/* The messages are in order: the bitmap, the feature, the used rings. */
		assert_int_equal(mock.num_log, 2 + QUEUES);
		assert_int_equal(mock.log[0], VUBLK_VU_SET_LOG_BASE);
		assert_int_equal(mock.log[1], VUBLK_VU_SET_FEATURES);
		assert_int_equal(mock.log[2], VUBLK_VU_SET_VRING_ADDR);
		mock_forget(&mock);
		assert_int_equal(vublk_device_dirty_log_stop(rig.device, NULL), 1);
		rig_wait(&rig, RIG_DIRTY_LOG_CHANGED, 2 * i + 2);
		expect_logging(&rig, &mock, false);
		assert_int_equal(mock.received[VUBLK_VU_SET_LOG_BASE], 0);
		assert_int_equal(log_inode(&rig), 0);
	}
	assert_int_equal(vublk_device_dirty_log_stop(rig.device, NULL), 0);
	assert_int_equal(vublk_device_state(rig.device), VUBLK_DEVICE_RUNNING);
	rig_end(&rig, &mock);
}

static void test_a_bitmap_of_the_bus(void **state)
{
	uint64_t bits[4] = { 0 }, expected = 0x8000000000000001;
	struct vublk_device_dirty_log log = { -1, 8192, WORDS * 8 };
	struct mock mock;
	struct device_rig rig;
	struct stat st;

	begin_running(&rig, &mock);
	log.fd = vublk_memfd_new("bitmap", log.offset + log.size_bytes, NULL);
	assert_int_equal(vublk_device_dirty_log_start(rig.device, &log, sizeof(log), NULL), 1);
	rig_wait(&rig, RIG_DIRTY_LOG_CHANGED, 1);
	expect_logging(&rig, &mock, true);
	assert_int_equal(fstat(log.fd, &st), 0);
	assert_int_equal(mock.dirty_log_inode, st.st_ino);
	assert_int_equal(mock.dirty_log.offset, log.offset);
	assert_int_equal(mock.dirty_log.size_bytes, log.size_bytes);
	assert_int_equal(pwrite(log.fd, &expected, 8, (off_t)(log.offset + FIRST_PAGE / 8)), 8);
	assert_int_equal(vublk_device_dirty_log_take(rig.device, FIRST_PAGE, 256, bits, NULL), 0);
	assert_int_equal(bits[0], expected);
	assert_int_equal(bits[1] | bits[2] | bits[3], 0);
	assert_int_equal(vublk_device_dirty_log_take(rig.device, FIRST_PAGE, 64, bits, NULL), 0);
	assert_int_equal(bits[0], 0);
	vublk_fd_close(&log.fd);
	rig_end(&rig, &mock);
}

/* The VMM truncates the file of its bitmap. The device survives and reports the truncation. */
static void test_a_bitmap_that_is_truncated(void **state)
{
	struct vublk_device_dirty_log log = { -1, 0, WORDS * 8 };
	struct vublk_error error;
	struct mock mock;
	uint64_t bits[4];
	struct device_rig rig;

	for (unsigned i = 0; i < 2; i++) {
		begin_running(&rig, &mock);
		log.fd = memfd_create("bitmap", MFD_CLOEXEC);
		assert_int_equal(ftruncate(log.fd, WORDS * 8), 0);
		assert_int_equal(vublk_device_dirty_log_start(rig.device, &log, sizeof(log), NULL), 1);
		rig_wait(&rig, RIG_DIRTY_LOG_CHANGED, 1);
		assert_int_equal(ftruncate(log.fd, 0), 0);
#ifndef VUBLK_TSAN /* TSan's lock for the read-modify-write would block the fault handler */
		if (i)
			vublk_device_dirty_log_mark_rings(rig.device);
#endif
		expect_sentence(vublk_device_dirty_log_take(rig.device, FIRST_PAGE, 256, bits, &error),
				EIO, &error, "because the log's file was truncated");
		assert_int_equal(vublk_device_dirty_log_stop(rig.device, NULL), 1);
		rig_wait(&rig, RIG_DIRTY_LOG_CHANGED, 2);
		/* The next log is not affected. */
		assert_int_equal(start_log(&rig), 1);
		rig_wait(&rig, RIG_DIRTY_LOG_CHANGED, 3);
		assert_int_equal(vublk_device_dirty_log_take(rig.device, FIRST_PAGE, 256, bits, NULL),
				 0);
		vublk_fd_close(&log.fd);
		rig_end(&rig, &mock);
	}
}

/* A bitmap must cover the last byte of the memory, and end within its file. */
static void test_bitmaps_that_do_not_fit(void **state)
{
	static const struct {
		uint64_t offset, size_bytes;
		const char *sentence;
	} bad[] = {
		{ 0, WORDS * 8 - 8, "the memory needs" },
		{ 0, 0, "the memory needs" },
		{ 100, WORDS * 8, "expected multiples of the page size" },
		{ 0, WORDS * 8 + 1, "expected multiples of the page size" },
		{ 4096, WORDS * 8, "of its file, which has" },
		{ UINT64_MAX - 4095, WORDS * 8, "of its file, which has" },
		{ 0, UINT64_MAX - 7, "of its file, which has" },
	};
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;
	int fd;

	begin_running(&rig, &mock);
	fd = vublk_memfd_new("bitmap", WORDS * 8, NULL);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(bad); i++) {
		struct vublk_device_dirty_log log = { fd, bad[i].offset, bad[i].size_bytes };

		expect_sentence(vublk_device_dirty_log_start(rig.device, &log, sizeof(log), &error), EINVAL,
				&error, bad[i].sentence);
	}
	expect_sentence(vublk_device_dirty_log_start(rig.device, &(struct vublk_device_dirty_log){ fd },
						     0, &error), EINVAL, &error,
			"the size passed for struct vublk_device_dirty_log, 0 bytes, does not "
			"include its member fd; pass the sizeof of the struct");
	assert_int_equal(mock.num_log, 0);
	assert_int_equal(vublk_device_dirty_log_start(rig.device,
						      &(struct vublk_device_dirty_log)
						      { fd, 0, WORDS * 8 },
						      sizeof(struct vublk_device_dirty_log), NULL), 1);
	rig_wait(&rig, RIG_DIRTY_LOG_CHANGED, 1);
	vublk_fd_close(&fd);
	rig_end(&rig, &mock);
}

static void test_memory_beyond_the_log(void **state)
{
	struct vublk_memory_region regions[2];
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;

	begin_running(&rig, &mock);
	regions[0] = (struct vublk_memory_region){ RIG_GUEST_ADDR, RIG_MEMORY_BYTES, rig.memfd, 0 };
	regions[1] = (struct vublk_memory_region){ RIG_GUEST_ADDR << 4, 4096, rig.memfd, 0 };
	start_log(&rig);
	rig_wait(&rig, RIG_DIRTY_LOG_CHANGED, 1);
	expect_sentence(vublk_device_set_memory(rig.device, regions, 2, &error), EINVAL, &error,
			"stop the dirty log and start it again");
	vublk_device_dirty_log_stop(rig.device, NULL);
	rig_wait(&rig, RIG_DIRTY_LOG_CHANGED, 2);
	assert_int_equal(vublk_device_set_memory(rig.device, regions, 2, NULL), 1);
	rig_wait(&rig, RIG_MEMORY_CHANGED, 1);
	start_log(&rig);
	rig_wait(&rig, RIG_DIRTY_LOG_CHANGED, 3);
	assert_true(mock.dirty_log.size_bytes > WORDS * 8 * 15);
	rig_end(&rig, &mock);
}

/* --- other events during a change --------------------------------------------------- */

static void test_before_the_rings_run(void **state)
{
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;

	mock_init(&mock);
	mock.features |= LOG_ALL;
	rig_init_with_mock(&rig, &mock);
	expect_sentence(vublk_device_dirty_log_start(rig.device, NULL, 0, &error), EBUSY, &error,
			"it is created");
	rig_realize(&rig);
	expect_sentence(vublk_device_dirty_log_start(rig.device, NULL, 0, &error), EINVAL, &error,
			"which has not been set");
	rig_set_up(&rig, QUEUES);
	assert_int_equal(start_log(&rig), 0);
	expect_sentence(vublk_device_dirty_log_start(rig.device, NULL, 0, &error), EBUSY, &error,
			"the dirty log is already on");
	rig_start(&rig, QUEUES);
	expect_logging(&rig, &mock, true);
	rig_stop(&rig); /* a reset by the driver does not affect the VM's log */
	assert_true(log_inode(&rig));
	rig_start(&rig, QUEUES);
	expect_logging(&rig, &mock, true);
	rig_stop(&rig);
	assert_int_equal(vublk_device_dirty_log_stop(rig.device, NULL), 0);
	rig_start(&rig, QUEUES);
	expect_logging(&rig, &mock, false);
	assert_int_equal(rig.calls[RIG_DIRTY_LOG_CHANGED], 0);
	rig_end(&rig, &mock);
}

/*
 * The log is switched on during a start, off during a stop, and on during a start that a pause
 * interrupts.
 */
static void test_while_the_rings_are_on_their_way(void **state)
{
	struct mock mock;
	struct device_rig rig;

	begin(&rig, &mock);
	rig_set_up(&rig, QUEUES);
	vublk_device_set_status(rig.device, VIRTIO_CONFIG_S_DRIVER_OK, NULL);
	assert_int_equal(start_log(&rig), 1);
	assert_int_equal(vublk_device_dirty_log_stop(rig.device, NULL), -EBUSY);
	rig_wait(&rig, RIG_STARTED, 1);
	rig_wait(&rig, RIG_DIRTY_LOG_CHANGED, 1);
	expect_logging(&rig, &mock, true);
	vublk_device_set_vm_running(rig.device, false);
	assert_int_equal(vublk_device_dirty_log_stop(rig.device, NULL), 1);
	rig_wait(&rig, RIG_STOPPED, 1);
	assert_int_equal(rig.calls[RIG_DIRTY_LOG_CHANGED], 2);
	assert_int_equal(log_inode(&rig), 0);
	vublk_device_set_vm_running(rig.device, true);
	assert_int_equal(start_log(&rig), 1);
	vublk_device_set_vm_running(rig.device, false);
	rig_wait(&rig, RIG_STOPPED, 2);
	assert_int_equal(rig.calls[RIG_DIRTY_LOG_CHANGED], 3);
	vublk_device_set_vm_running(rig.device, true);
	rig_wait(&rig, RIG_STARTED, 2);
	expect_logging(&rig, &mock, true);
	rig_end(&rig, &mock);
}

/*
 * A stop waits until a change of the log has ended, because the messages of the change must not
 * follow the messages of the stop.
 */
static void test_a_stop_during_a_change(void **state)
{
	for (unsigned reset = 0; reset < 2; reset++) {
		struct mock mock;
		struct device_rig rig;

		begin_running(&rig, &mock);
		assert_int_equal(start_log(&rig), 1);
		if (reset)
			vublk_device_set_status(rig.device, 0, NULL);
		else
			vublk_device_set_vm_running(rig.device, false);
		assert_int_equal(vublk_device_state(rig.device), VUBLK_DEVICE_RUNNING);
		rig_wait(&rig, RIG_DIRTY_LOG_CHANGED, 1);
		rig_wait(&rig, RIG_STOPPED, 1);
		assert_int_equal(mock.log[3], VUBLK_VU_SET_VRING_ADDR);
		assert_int_equal(mock.log[4], VUBLK_VU_SET_VRING_ENABLE);
		if (reset) {
			rig_start(&rig, QUEUES);
		} else {
			vublk_device_set_vm_running(rig.device, true);
			rig_wait(&rig, RIG_STARTED, 2);
		}
		expect_logging(&rig, &mock, true);
		rig_end(&rig, &mock);
	}
}

static void test_it_outlives_back_ends(void **state)
{
	struct mock mock;
	struct device_rig rig;
	uint64_t inode;

	begin_running(&rig, &mock);
	start_log(&rig);
	rig_wait(&rig, RIG_DIRTY_LOG_CHANGED, 1);
	inode = log_inode(&rig);
	for (unsigned i = 1; i <= 3; i++) {
		uint64_t bits[4];

		mock.dirty_log_inode = 0;
		memset(mock.given_addrs, 0, sizeof(mock.given_addrs));
		mock_forget(&mock);
		mock_hang_up(&mock);
		rig_wait(&rig, RIG_STARTED, 1 + i);
		assert_int_equal(mock.dirty_log_inode, inode);
		expect_logging(&rig, &mock, true);
		/*
		 * The lost back-end might not have marked its last writes to the used rings, so the
		 * device marks their pages.
		 */
		assert_int_equal(vublk_device_dirty_log_take(rig.device, FIRST_PAGE, 256, bits, NULL),
				 0);
		assert_int_equal(bits[0], (1 << QUEUES) - 1);
		assert_int_equal(bits[1] | bits[2] | bits[3], 0);
	}
	assert_int_equal(rig.calls[RIG_DIRTY_LOG_CHANGED], 1);
	rig_end(&rig, &mock);
}

/*
 * The back-end is lost at one of the messages that switch the log on or off. The next back-end
 * starts with the new setting.
 */
static void test_a_loss_during_a_change(void **state)
{
	const uint32_t at[] = { VUBLK_VU_SET_LOG_BASE, VUBLK_VU_SET_FEATURES,
				VUBLK_VU_SET_VRING_ADDR };

	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(at); i++) {
		struct mock mock;
		struct device_rig rig;

		begin_running(&rig, &mock);
		mock.fault = (struct mock_fault){ .kind = MOCK_CUT, .request = at[i], .bytes = 3 };
		start_log(&rig);
		rig_wait(&rig, RIG_DIRTY_LOG_CHANGED, 1);
		assert_int_equal(rig.errors[RIG_DIRTY_LOG_CHANGED].code, 0);
		assert_int_equal(rig.calls[RIG_STARTED], 1);
		rig_wait(&rig, RIG_STARTED, 2);
		expect_logging(&rig, &mock, true);
		mock_forget(&mock);
		mock.fault.request = i ? at[i] : at[1];
		vublk_device_dirty_log_stop(rig.device, NULL);
		rig_wait(&rig, RIG_DIRTY_LOG_CHANGED, 2);
		assert_int_equal(log_inode(&rig), 0);
		rig_wait(&rig, RIG_STARTED, 3);
		expect_logging(&rig, &mock, false);
		rig_end(&rig, &mock);
	}
}

/*
 * --- back-ends that cannot log, or refuse to ---------------------------------------------------
 */

static void test_back_ends_that_cannot(void **state)
{
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, NULL);
	rig_start(&rig, QUEUES);
	expect_sentence(vublk_device_dirty_log_start(rig.device, NULL, 0, &error), ENOTSUP, &error,
			"it does not offer VHOST_F_LOG_ALL (feature bit 26)");
	rig_deinit(&rig);
	mock_hang_up(&mock);
	mock.protocol_features &= ~VUBLK_BIT(VUBLK_VU_F_LOG_SHMFD);
	rig_init_with_mock(&rig, &mock);
	rig_realize(&rig);
	rig_start(&rig, QUEUES);
	expect_sentence(vublk_device_dirty_log_start(rig.device, NULL, 0, &error), ENOTSUP, &error,
			"LOG_SHMFD (bit 1) or VHOST_F_LOG_ALL");
	assert_int_equal(log_inode(&rig), 0);
	rig_end(&rig, &mock);
}

/*
 * While the log is on, the device refuses a new back-end that cannot log. Once the log is off, the
 * device accepts that back-end.
 */
static void test_a_new_back_end_that_cannot(void **state)
{
	struct mock mock;
	struct device_rig rig;

	begin_running(&rig, &mock);
	start_log(&rig);
	rig_wait(&rig, RIG_DIRTY_LOG_CHANGED, 1);
	mock.features &= ~LOG_ALL;
	mock_forget(&mock);
	mock_hang_up(&mock);
	while (mock.num_connections < 3) {
		mock_pump(&mock);
		vublk_device_process(rig.device);
	}
	assert_non_null(strstr(rig.last_line, "the back-end cannot log which pages it writes"));
	assert_int_equal(vublk_device_dirty_log_stop(rig.device, NULL), 0);
	rig_wait(&rig, RIG_STARTED, 2);
	expect_logging(&rig, &mock, false);
	rig_end(&rig, &mock);
}

static void test_refusals(void **state)
{
	static const struct {
		uint32_t request;
		const char *sentence;
	} all[] = {
		{ VUBLK_VU_SET_LOG_BASE, "the back-end refused SET_LOG_BASE" },
		{ VUBLK_VU_SET_FEATURES, "the back-end refused SET_FEATURES" },
		{ VUBLK_VU_SET_VRING_ADDR, "the back-end refused SET_VRING_ADDR" },
	};

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(all); i++) {
		struct mock mock;
		struct device_rig rig;

		begin_running(&rig, &mock);
		mock.fault = (struct mock_fault){ .kind = MOCK_REFUSE, .request = all[i].request };
		start_log(&rig);
		rig_wait(&rig, RIG_DIRTY_LOG_CHANGED, 1);
		assert_int_equal(rig.errors[RIG_DIRTY_LOG_CHANGED].code, EIO);
		assert_non_null(strstr(rig.errors[RIG_DIRTY_LOG_CHANGED].text, all[i].sentence));
		assert_int_equal(log_inode(&rig), 0);
		/* The device has undone the part of the change that the back-end accepted. */
		expect_logging(&rig, &mock, false);
		assert_int_equal(vublk_device_state(rig.device), VUBLK_DEVICE_RUNNING);
		start_log(&rig); /* the back-end accepts the second attempt */
		rig_wait(&rig, RIG_DIRTY_LOG_CHANGED, 2);
		expect_logging(&rig, &mock, true);
		rig_end(&rig, &mock);
	}
}

/* Some back-ends answer SET_LOG_BASE without a payload, which counts as success. */
static void test_an_empty_answer(void **state)
{
	struct mock mock;
	struct device_rig rig;

	begin_running(&rig, &mock);
	mock.fault = (struct mock_fault){ .kind = MOCK_EMPTY, .request = VUBLK_VU_SET_LOG_BASE };
	start_log(&rig);
	rig_wait(&rig, RIG_DIRTY_LOG_CHANGED, 1);
	assert_int_equal(rig.errors[RIG_DIRTY_LOG_CHANGED].code, 0);
	expect_logging(&rig, &mock, true);
	rig_end(&rig, &mock);
}

/* libvhost-user answers SET_LOG_BASE with the size of the log, which counts as success. */
static void test_an_echo(void **state)
{
	struct mock mock;
	struct device_rig rig;

	begin_running(&rig, &mock);
	mock.echoes_log_size = true;
	start_log(&rig);
	rig_wait(&rig, RIG_DIRTY_LOG_CHANGED, 1);
	assert_int_equal(rig.errors[RIG_DIRTY_LOG_CHANGED].code, 0);
	expect_logging(&rig, &mock, true);
	rig_end(&rig, &mock);
}

/* --- reading ---------------------------------------------------------------------------------------- */

static void test_what_cannot_be_taken(void **state)
{
	struct vublk_error error;
	uint64_t bits[1];
	struct mock mock;
	struct device_rig rig;
	uint64_t pages;

	begin_running(&rig, &mock);
	expect_sentence(vublk_device_dirty_log_take(rig.device, 0, 64, bits, &error), EBUSY, &error,
			"cannot read the dirty log, because it is off");
	start_log(&rig);
	pages = rig.device->dirty.log.size_bytes * 8;
	assert_int_equal(vublk_device_dirty_log_take(rig.device, 0, 64, bits, NULL), 0);
	assert_int_equal(vublk_device_dirty_log_take(rig.device, pages - 64, 64, bits, NULL), 0);
	assert_int_equal(vublk_device_dirty_log_take(rig.device, pages, 0, bits, NULL), 0);
	expect_sentence(vublk_device_dirty_log_take(rig.device, pages, 64, bits, &error), EINVAL,
			&error, "the dirty log has bits for ");
	expect_sentence(vublk_device_dirty_log_take(rig.device, 1, 64, bits, &error), EINVAL,
			&error, "multiples of 64");
	assert_int_equal(vublk_device_dirty_log_take(rig.device, 0, 63, bits, NULL), -EINVAL);
	assert_int_equal(vublk_device_dirty_log_take(rig.device, 64, UINT64_MAX - 63, bits, NULL),
			 -EINVAL);
	rig_end(&rig, &mock); /* unrealizes during a change, while the bitmap is mapped */
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_on_and_off),
		VUBLK_TEST(test_a_bitmap_of_the_bus),
		VUBLK_TEST(test_a_bitmap_that_is_truncated),
		VUBLK_TEST(test_bitmaps_that_do_not_fit),
		VUBLK_TEST(test_memory_beyond_the_log),
		VUBLK_TEST(test_before_the_rings_run),
		VUBLK_TEST(test_while_the_rings_are_on_their_way),
		VUBLK_TEST(test_a_stop_during_a_change),
		VUBLK_TEST(test_it_outlives_back_ends),
		VUBLK_TEST(test_a_loss_during_a_change),
		VUBLK_TEST(test_back_ends_that_cannot),
		VUBLK_TEST(test_a_new_back_end_that_cannot),
		VUBLK_TEST(test_refusals),
		VUBLK_TEST(test_an_empty_answer),
		VUBLK_TEST(test_an_echo),
		VUBLK_TEST(test_what_cannot_be_taken),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
