/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * unflushed=replay in the device: which settings and back-ends the device refuses, and what a stop
 * waits for. The mock answers the messages. The test plays the back-end at the plane's ring.
 */
#include "harness.h"

#include "mock/device-rig.h"
#include "mock/plane-end.h"

#include "device/device.h"
#include "util/checked.h"
#include "util/fd.h"
#include "util/loop.h"
#include "virtio/device-ring.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_config.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define TIME_LIMIT_NS (UINT64_C(20) * 1000000000)

static struct mock mock;
static struct device_rig rig;

static struct rig_plane_end backend;

/* --- the back-end ------------------------------------------------------------------- */

static void on_callback(struct device_rig *at, enum rig_callback callback)
{
	if (callback == RIG_STARTED)
		rig_plane_end_start(&backend, &rig);
	else if (callback == RIG_STOPPED || callback == RIG_LOST)
		rig_plane_end_stop(&backend);
}

/*
 * Waits for the next request, checks its type, and completes it with `status`. Returns the first
 * word of its data; 0: it has none.
 */
static uint64_t execute_with(uint32_t type, uint8_t status)
{
	struct iovec iov[16];
	struct vublk_chain chain = { .max_iov = 16, .iov = iov };
	uint64_t until = vublk_now_ns() + TIME_LIMIT_NS, data = 0;
	struct virtio_blk_outhdr header;
	int r;

	while (!(r = vublk_device_ring_take(&backend.ring, &backend.map, &chain, NULL))) {
		rig_turn(&rig, 1);
		assert_true(vublk_now_ns() < until);
	}
	assert_int_equal(r, 1);
	memcpy(&header, iov[0].iov_base, sizeof(header));
	assert_int_equal(header.type, type);
	if (chain.num_out > 1)
		memcpy(&data, iov[1].iov_base, sizeof(data));
	*(uint8_t *)iov[chain.num_out + chain.num_in - 1].iov_base = status;
	vublk_device_ring_push(&backend.ring, chain.head, 1);
	vublk_device_ring_publish(&backend.ring);
	vublk_eventfd_signal(rig.device->shadow.side->queues[0].call_fd);
	return data;
}

static uint64_t execute(uint32_t type)
{
	return execute_with(type, VIRTIO_BLK_S_OK);
}

/* --- the driver ------------------------------------------------------------------------ */

static void prepare_path(const char *shadow, const char *timeout_ms)
{
	rig_prepare(&rig, &mock, "1");
	rig_set(&rig, "shadow", shadow);
	rig_set(&rig, "unflushed", "replay");
	rig_set(&rig, "request-timeout-ms", timeout_ms);
	rig_set(&rig, "keepalive-ms", "0");
	rig.hook = on_callback;
}

static void begin(const char *timeout_ms)
{
	prepare_path("on", timeout_ms);
	rig_realize(&rig);
	rig_start(&rig, 1);
}

static void end(void)
{
	rig_plane_end_stop(&backend);
	rig_end(&rig, &mock);
}

static void write_sector(uint64_t sector, uint64_t content)
{
	uint64_t data[64] = { content };

	rig_submit(&rig, 0, VIRTIO_BLK_T_OUT, sector, data, sizeof(data));
	assert_int_equal(execute(VIRTIO_BLK_T_OUT), content);
	assert_int_equal(rig_finish(&rig, 0), VIRTIO_BLK_S_OK);
}

/* --- settings ---------------------------------------------------------------------------- */

static void test_settings_that_are_refused(void **state)
{
	struct vublk_error error;

	rig_prepare(&rig, &mock, "1");
	assert_int_equal(vublk_device_set_property(rig.device, "unflushed", "trust", &error), -EINVAL);
	assert_string_equal(error.text, "unflushed must be auto or replay, not 'trust'");
	rig_set(&rig, "unflushed", "replay");
	assert_int_equal(vublk_device_realize(rig.device, &error), -EINVAL);
	assert_string_equal(error.text, "unflushed=replay works only if the device sees all writes; "
			    "also set shadow to on or auto");
	rig_end(&rig, &mock);
}

static void test_a_backend_without_flush(void **state)
{
	prepare_path("on", "5000");
	mock.features &= ~VUBLK_BIT(VIRTIO_BLK_F_FLUSH);
	rig_realize(&rig);
	assert_int_equal(rig.num_warnings, 1);
	assert_non_null(strstr(rig.last_line, "does not offer FLUSH"));
	rig_start(&rig, 1);
	write_sector(0, 1);
	rig_pause(&rig);
	end();
}

/* Makes the plane with at most `n` more descriptors. Returns whether they were enough. */
static bool make_with(unsigned n)
{
	struct vublk_error error;
	struct rlimit limit;
	int fd = dup(0), r;

	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = (rlim_t)fd + n;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	r = vublk_device_shadow_make(rig.device, &error);
	limit.rlim_cur = limit.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_true(!r || r == -EMFILE);
	return !r;
}

/*
 * Descriptors run out at each point while the plane is made. The plane is made later nevertheless,
 * and keeps the completed writes.
 */
static void test_without_descriptors(void **state)
{
	bool done = false;

	for (unsigned n = 0; !done; n++) {
		prepare_path("auto", "5000");
		rig_realize(&rig);
		vublk_device_shadow_deinit(rig.device);
		assert_int_equal(vublk_device_shadow_init(rig.device, NULL), 0);
		done = make_with(n);
		rig_start(&rig, 1);
		write_sector(0, 7);
		mock_hang_up(&mock);
		rig_wait(&rig, RIG_STARTED, 2);
		assert_int_equal(execute(VIRTIO_BLK_T_OUT), 7);
		execute(VIRTIO_BLK_T_FLUSH);
		end();
	}
}

/* --- stops --------------------------------------------------------------------------------- */

static void test_a_stop_waits_for_a_flush(void **state)
{
	begin("20000");
	write_sector(0, 1);
	vublk_device_set_vm_running(rig.device, false);
	execute(VIRTIO_BLK_T_FLUSH);
	rig_wait(&rig, RIG_STOPPED, 1);
	assert_int_equal(rig.errors[RIG_STOPPED].code, 0);
	end();
}

/*
 * An operator's pause begins and ends while a change of the memory waits for a flush. The change
 * continues, and the plane takes no request before the change has ended.
 */
static void test_pause_and_resume_during_a_memory_change(void **state)
{
	struct vublk_memory_region regions[2] = {
		{ .guest_addr = RIG_GUEST_ADDR, .size_bytes = RIG_MEMORY_BYTES },
		{ .guest_addr = 0x1000, .size_bytes = 4096 },
	};
	const uint64_t data[64] = { 2 };

	begin("20000");
	write_sector(0, 1);
	regions[0].fd = regions[1].fd = rig.memfd;
	assert_int_equal(vublk_device_set_memory(rig.device, regions, 2, NULL), 1);
	vublk_device_set_paused(rig.device, true);
	vublk_device_set_paused(rig.device, false);
	rig_submit(&rig, 0, VIRTIO_BLK_T_OUT, 0, data, sizeof(data));
	execute(VIRTIO_BLK_T_FLUSH);
	rig_wait(&rig, RIG_MEMORY_CHANGED, 1);
	assert_int_equal(mock.num_regions, 3);
	assert_int_equal(execute(VIRTIO_BLK_T_OUT), 2);
	assert_int_equal(rig_finish(&rig, 0), VIRTIO_BLK_S_OK);
	end();
}

/* A pause in an outage waits for the next back-end, to which the plane replays the write. */
static void test_a_pause_in_an_outage(void **state)
{
	begin("20000");
	write_sector(0, 7);
	mock_die(&mock);
	rig_wait(&rig, RIG_LOST, 1);
	vublk_device_set_vm_running(rig.device, false);
	mock_live_again(&mock);
	rig_wait(&rig, RIG_STARTED, 2);
	assert_int_equal(execute(VIRTIO_BLK_T_OUT), 7);
	execute(VIRTIO_BLK_T_FLUSH);
	rig_wait(&rig, RIG_STOPPED, 1);
	assert_int_equal(rig.errors[RIG_STOPPED].code, 0);
	end();
}

/*
 * A pause of the VM waits for a back-end only until the deadline, and then reports ETIMEDOUT. The
 * plane keeps the write, and replays it when the VM runs again.
 */
static void test_a_pause_that_waits_too_long(void **state)
{
	begin("100");
	write_sector(0, 7);
	mock_die(&mock);
	rig_wait(&rig, RIG_LOST, 1);
	vublk_device_set_vm_running(rig.device, false);
	rig_wait(&rig, RIG_STOPPED, 1);
	assert_int_equal(rig.errors[RIG_STOPPED].code, ETIMEDOUT);
	assert_non_null(strstr(rig.errors[RIG_STOPPED].text,
			       "keeps copies of these writes for the next back-end"));
	mock_live_again(&mock);
	vublk_device_set_vm_running(rig.device, true);
	rig_wait(&rig, RIG_STARTED, 2);
	assert_int_equal(rig.calls[RIG_NEEDS_RESET], 0);
	assert_int_equal(execute(VIRTIO_BLK_T_OUT), 7);
	execute(VIRTIO_BLK_T_FLUSH);
	write_sector(0, 8); /* writes work as before */
	end();
}

/* --- what the program is told -------------------------------------------------------------------- */

static struct vublk_notice notices[16]; /* their texts are no longer valid */
static unsigned num_notices, num_seen;

/* Ignores refusals, because their number depends on the times of the attempts. */
static void on_notice(void *opaque, const struct vublk_notice *notice, size_t notice_bytes)
{
	assert_int_equal(notice_bytes, sizeof(*notice));
	assert_true(num_notices < VUBLK_ARRAY_SIZE(notices));
	if (notice->kind != VUBLK_NOTICE_REFUSED)
		notices[num_notices++] = *notice;
}

/* Waits for the next notice, which must be of this kind. */
static const struct vublk_notice *expect_notice(enum vublk_notice_kind kind)
{
	uint64_t until = vublk_now_ns() + TIME_LIMIT_NS;

	while (num_notices == num_seen) {
		rig_turn(&rig, 1);
		assert_true(vublk_now_ns() < until);
	}
	assert_string_equal(vublk_notice_name(notices[num_seen].kind), vublk_notice_name(kind));
	return &notices[num_seen++];
}

static void begin_with_notices(void)
{
	prepare_path("on", "20000");
	vublk_device_set_notice_handler(rig.device, on_notice, NULL);
	rig_realize(&rig);
	rig_start(&rig, 1);
	expect_notice(VUBLK_NOTICE_CONNECTED);
	expect_notice(VUBLK_NOTICE_SHADOW_ON);
}

static void replace_backend(void)
{
	mock_die(&mock);
	expect_notice(VUBLK_NOTICE_LOST);
	mock_live_again(&mock);
	expect_notice(VUBLK_NOTICE_CONNECTED);
	expect_notice(VUBLK_NOTICE_RECOVERED);
}

static struct vublk_replay_info get_info(void)
{
	struct vublk_replay_info info;

	vublk_device_get_replay(rig.device, &info, sizeof(info));
	return info;
}

/* The device reports the size of the copies, and how many writes and bytes were repeated. */
static void test_report_of_a_replay(void **state)
{
	const struct vublk_notice *notice;
	struct vublk_replay_info info;

	begin_with_notices();
	write_sector(0, 7);
	write_sector(8, 8);
	info = get_info();
	assert_true(info.is_on && !info.is_replaying && info.max_bytes == 64 << 20);
	assert_int_equal(info.kept_bytes, 2 * vublk_write_log_room(VIRTIO_BLK_T_OUT, 512));
	replace_backend();
	execute(VIRTIO_BLK_T_OUT);
	info = get_info();
	assert_true(info.is_replaying && !info.replays);
	execute(VIRTIO_BLK_T_OUT);
	execute(VIRTIO_BLK_T_FLUSH);
	notice = expect_notice(VUBLK_NOTICE_REPLAYED);
	assert_int_equal(notice->requests, 2);
	assert_int_equal(notice->bytes, 1024);
	assert_non_null(strstr(rig.last_line, "repeated 2 writes (1024 bytes)"));
	info = get_info();
	assert_true(!info.is_replaying && !info.kept_bytes && info.replays == 1);
	assert_true(info.last_writes == 2 && info.last_bytes == 1024 && !info.failure[0]);
	replace_backend(); /* no copies are left */
	write_sector(0, 9);
	assert_int_equal(get_info().replays, 1);
	end();
}

/* Of several failures in a row, only the first is reported. */
static void test_report_of_a_failed_replay(void **state)
{
	begin_with_notices();
	write_sector(0, 7);
	replace_backend();
	execute_with(VIRTIO_BLK_T_OUT, VIRTIO_BLK_S_IOERR);
	expect_notice(VUBLK_NOTICE_REPLAY_FAILED);
	assert_non_null(strstr(get_info().failure, "failed a completed write"));
	execute_with(VIRTIO_BLK_T_OUT, VIRTIO_BLK_S_IOERR);
	execute(VIRTIO_BLK_T_OUT);
	execute(VIRTIO_BLK_T_FLUSH);
	assert_int_equal(expect_notice(VUBLK_NOTICE_REPLAYED)->requests, 1);
	assert_true(!get_info().failure[0] && get_info().total_writes == 1);
	end();
}

/* --- the end of the device ------------------------------------------------------------------- */

static void test_the_device_ends_in_an_outage(void **state)
{
	for (unsigned lost = 0; lost < 2; lost++) {
		unsigned before;

		begin("20000");
		write_sector(0, 7);
		if (lost) {
			mock_die(&mock);
			rig_wait(&rig, RIG_LOST, 1);
		}
		before = rig.num_warnings;
		rig_plane_end_stop(&backend);
		vublk_device_unrealize(rig.device);
		assert_int_equal(rig.num_warnings - before, lost);
		if (lost)
			assert_non_null(strstr(rig.last_line, "the device is closed without a back-end"));
		rig_end(&rig, &mock);
	}
}

/* --- the next back-end ------------------------------------------------------------------------ */

static __virtio64 *capacity(void)
{
	return &((struct virtio_blk_config *)(void *)mock.config)->capacity;
}

static void test_a_backend_that_is_too_small(void **state)
{
	uint64_t whole;

	begin("5000");
	whole = le64toh(*capacity());
	write_sector(whole - 1, 9);
	*capacity() = htole64(whole - 1);
	mock_hang_up(&mock);
	rig_wait(&rig, RIG_LOST, 1);
	while (!strstr(rig.last_line, "must repeat a completed write"))
		rig_turn(&rig, 10);
	assert_int_equal(rig.calls[RIG_STARTED], 1);
	*capacity() = htole64(whole);
	rig_wait(&rig, RIG_STARTED, 2);
	assert_int_equal(execute(VIRTIO_BLK_T_OUT), 9);
	execute(VIRTIO_BLK_T_FLUSH);
	end();
}

/*
 * The driver has reset the disk in an outage. The next back-end has no memory slot for the shadow
 * rings, or refuses their memory. On the direct path, later writes would reach the disk, and a
 * replay would overwrite them. So the device refuses this back-end.
 */
static void test_a_backend_without_room_for_the_rings(void **state)
{
	for (unsigned refuses = 0; refuses < 2; refuses++) {
		prepare_path("auto", "5000");
		rig_realize(&rig);
		rig_start(&rig, 1);
		write_sector(0, 7);
		mock_die(&mock);
		rig_wait(&rig, RIG_LOST, 1);
		assert_int_equal(vublk_device_set_status(rig.device, 0, NULL), 0);
		if (refuses) {
			mock.fault = (struct mock_fault){
				.kind = MOCK_REFUSE, .request = VUBLK_VU_ADD_MEM_REG, .nth = 1,
			};
			mock.answers[VUBLK_VU_ADD_MEM_REG] = 0;
		} else {
			mock.memory_slots = 1;
		}
		mock_live_again(&mock);
		rig_wait(&rig, RIG_RECONNECTED, 1);
		rig_set_up(&rig, 1);
		vublk_device_set_status(rig.device, VIRTIO_CONFIG_S_DRIVER_OK, NULL);
		rig_wait(&rig, RIG_LOST, 2); /* the device does not use this back-end */
		assert_int_equal(rig.calls[RIG_STARTED], 1);
		mock.fault.kind = MOCK_NO_FAULT;
		mock.memory_slots = 8;
		rig_wait(&rig, RIG_STARTED, 2);
		assert_int_equal(execute(VIRTIO_BLK_T_OUT), 7);
		execute(VIRTIO_BLK_T_FLUSH);
		end();
	}
}

/*
 * With shadow=auto, memory may take the last slot only if the next start needs no shadow rings. The
 * start needs them while the device keeps a copy of a write.
 */
static void test_the_last_slot_stays_free(void **state)
{
	struct vublk_memory_region regions[2] = {
		{ .guest_addr = RIG_GUEST_ADDR, .size_bytes = RIG_MEMORY_BYTES },
		{ .guest_addr = 0x1000, .size_bytes = 4096 },
	};
	struct vublk_error error;

	prepare_path("auto", "5000");
	mock.memory_slots = 2;
	rig_realize(&rig);
	rig_start(&rig, 1);
	regions[0].fd = regions[1].fd = rig.memfd;
	write_sector(0, 7);
	mock_die(&mock);
	rig_wait(&rig, RIG_LOST, 1);
	assert_int_equal(vublk_device_set_status(rig.device, 0, NULL), 0);
	mock_live_again(&mock);
	rig_wait(&rig, RIG_RECONNECTED, 1);
	assert_int_equal(vublk_device_set_memory(rig.device, regions, 2, &error), -ENOSPC);
	assert_non_null(strstr(error.text, "only 1, because the shadow rings need one more"));
	assert_int_equal(vublk_device_set_memory(rig.device, regions, 1, NULL), 0);
	rig_set_up(&rig, 1);
	vublk_device_set_status(rig.device, VIRTIO_CONFIG_S_DRIVER_OK, NULL);
	rig_wait(&rig, RIG_STARTED, 2);
	assert_int_equal(execute(VIRTIO_BLK_T_OUT), 7);
	execute(VIRTIO_BLK_T_FLUSH);
	end();
}

/*
 * After a reset in an outage, the next driver does not accept FLUSH. Nevertheless, the back-end
 * gets the kept write and a flush, and this driver's writes are flushed before they complete.
 */
static void test_a_driver_without_flush(void **state)
{
	const uint64_t data[64] = { 8 };

	begin("5000");
	write_sector(0, 7);
	mock_die(&mock);
	rig_wait(&rig, RIG_LOST, 1);
	assert_int_equal(vublk_device_set_status(rig.device, 0, NULL), 0);
	rig_set_up(&rig, 1);
	assert_int_equal(vublk_device_ack_features(rig.device, vublk_device_features(rig.device) &
						   ~VUBLK_BIT(VIRTIO_BLK_F_FLUSH), NULL), 0);
	vublk_device_set_status(rig.device, VIRTIO_CONFIG_S_DRIVER_OK, NULL);
	mock_live_again(&mock);
	rig_wait(&rig, RIG_STARTED, 2);
	assert_int_equal(execute(VIRTIO_BLK_T_OUT), 7);
	execute(VIRTIO_BLK_T_FLUSH);
	rig_submit(&rig, 0, VIRTIO_BLK_T_OUT, 8, data, sizeof(data));
	assert_int_equal(execute(VIRTIO_BLK_T_OUT), 8);
	execute(VIRTIO_BLK_T_FLUSH);
	assert_int_equal(rig_finish(&rig, 0), VIRTIO_BLK_S_OK);
	end();
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_settings_that_are_refused),
		VUBLK_TEST(test_a_backend_without_flush),
		VUBLK_TEST(test_without_descriptors),
		VUBLK_TEST(test_a_stop_waits_for_a_flush),
		VUBLK_TEST(test_pause_and_resume_during_a_memory_change),
		VUBLK_TEST(test_a_pause_in_an_outage),
		VUBLK_TEST(test_a_pause_that_waits_too_long),
		VUBLK_TEST(test_report_of_a_replay),
		VUBLK_TEST(test_report_of_a_failed_replay),
		VUBLK_TEST(test_the_device_ends_in_an_outage),
		VUBLK_TEST(test_a_backend_that_is_too_small),
		VUBLK_TEST(test_a_backend_without_room_for_the_rings),
		VUBLK_TEST(test_the_last_slot_stays_free),
		VUBLK_TEST(test_a_driver_without_flush),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
