/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The mirror of a disk to a second back-end: which targets are refused, what is refused while there
 * is a mirror, and what happens when the state file cannot be written. The mocks complete no request,
 * so no region is ever copied.
 */
#include "harness.h"

#include "mock/device-rig.h"

#include "device/device.h"
#include "plane/mirror-state.h"
#include "util/atomic.h"
#include "util/checked.h"
#include "util/loop.h"

#include <vublk/mirror.h>
#include <vublk/notice.h>
#include <vublk/paths.h>

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LIMIT_NS (UINT64_C(20) * 1000000000)

/* --- the storage of the state file ----------------------------------------------------------- */

/* The errno with which each call of this kind fails; 0: it succeeds. */
static int sync_failure, fallocate_failure, truncate_failure;
static unsigned num_failing_syncs; /* how many syncs fail; UINT_MAX: all */

int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);
int __wrap_posix_fallocate64(int fd, off_t offset, off_t bytes);
int __real_posix_fallocate64(int fd, off_t offset, off_t bytes);
int __real_ftruncate64(int fd, off_t bytes);
int __wrap_ftruncate64(int fd, off_t bytes);

int __wrap_fdatasync(int fd)
{
	unsigned left = vublk_load_acquire(&num_failing_syncs);

	if (!left)
		return __real_fdatasync(fd);
	if (left != UINT_MAX)
		vublk_store_release(&num_failing_syncs, left - 1);
	errno = sync_failure;
	return -1;
}

int __wrap_posix_fallocate64(int fd, off_t offset, off_t bytes)
{
	return fallocate_failure ? fallocate_failure : __real_posix_fallocate64(fd, offset, bytes);
}

int __wrap_ftruncate64(int fd, off_t bytes)
{
	errno = truncate_failure;
	return errno ? -1 : __real_ftruncate64(fd, bytes);
}

static void fail_syncs(int code, unsigned count)
{
	sync_failure = code;
	vublk_store_release(&num_failing_syncs, count);
}

static const char *file_path(void)
{
	static char path[200];

	snprintf(path, sizeof(path), "%s/state", vublk_test_folder());
	return path;
}

/* --- the rig -------------------------------------------------------------------------------- */

struct pair {
	struct device_rig rig;
	struct mock source, target;
};

static bool pump(void *opaque)
{
	struct pair *pair = opaque;
	bool worked = mock_pump(&pair->source);

	return mock_pump(&pair->target) || worked;
}

static unsigned num_ended; /* the number of VUBLK_NOTICE_MIRROR_ENDED notices */
static char reason[VUBLK_ERROR_TEXT_BYTES]; /* the reason in the last such notice */

static void on_notice(void *opaque, const struct vublk_notice *notice, size_t notice_bytes)
{
	if (notice->kind != VUBLK_NOTICE_MIRROR_ENDED)
		return;
	num_ended++;
	snprintf(reason, sizeof(reason), "%s", notice->reason);
}

/* Starts a device with the state file `file`; NULL: without a state file. */
static void begin_with(struct pair *pair, const char *file)
{
	mock_init_with_suffix(&pair->target, "-b");
	mock_init(&pair->source);
	rig_init_with_mock(&pair->rig, &pair->source);
	pair->rig.pump = pump;
	pair->rig.pump_opaque = pair;
	rig_set(&pair->rig, "reconnect-ms", "5");
	rig_set(&pair->rig, "shadow", "on");
	if (file)
		rig_set(&pair->rig, "mirror-state", file);
	vublk_device_set_notice_handler(pair->rig.device, on_notice, NULL);
	num_ended = 0;
	rig_realize(&pair->rig);
	rig_start(&pair->rig, 1);
}

static void begin(struct pair *pair)
{
	begin_with(pair, NULL);
}

/* Unrealizes first, because a stop of the rings would not end: the source completes no read. */
static void end(struct pair *pair)
{
	vublk_device_unrealize(pair->rig.device);
	mock_deinit(&pair->target);
	rig_end(&pair->rig, &pair->source);
}

static struct vublk_device_mirror_info info_of(const struct pair *pair)
{
	struct vublk_device_mirror_info info;

	vublk_device_get_mirror(pair->rig.device, &info, sizeof(info));
	return info;
}

/* Begins a mirror, and runs until it is copying or has failed. Returns the mirror's state. */
static struct vublk_device_mirror_info mirror(struct pair *pair)
{
	uint64_t end_ns = vublk_now_ns() + LIMIT_NS;
	struct vublk_device_mirror_info info;

	assert_int_equal(vublk_device_mirror(pair->rig.device, pair->target.path, 0, NULL), 1);
	while (info = info_of(pair), info.is_active && !info.is_copying) {
		assert_true(vublk_now_ns() < end_ns);
		rig_turn(&pair->rig, 1000);
	}
	return info;
}

static void expect_refused(struct pair *pair, int code, const char *words)
{
	struct vublk_device_mirror_info info = mirror(pair);

	assert_false(info.is_active);
	assert_int_equal(info.code, code);
	if (!strstr(info.reason, words))
		fail_msg("the reason is not '%s': %s", words, info.reason);
}

static void wait_for_end(struct pair *pair)
{
	uint64_t end_ns = vublk_now_ns() + LIMIT_NS;

	while (info_of(pair).is_active) {
		assert_true(vublk_now_ns() < end_ns);
		rig_turn(&pair->rig, 1000);
	}
}

/* --- targets and refusals --------------------------------------------------------------------- */

static void test_targets(void **state)
{
	struct virtio_blk_config *config;
	struct pair pair = { 0 };
	char other_name[220];
	uint64_t features;

	begin(&pair);
	assert_int_equal(vublk_device_mirror(pair.rig.device, pair.source.path, 0, NULL), -EINVAL);
	snprintf(other_name, sizeof(other_name), "/.%s", pair.source.path); /* the same socket */
	assert_int_equal(vublk_device_mirror(pair.rig.device, other_name, 0, NULL), -EINVAL);
	config = (void *)pair.target.config;
	features = pair.target.features;
	config->capacity = htole64(le64toh(config->capacity) - 1);
	expect_refused(&pair, ENOSPC, "at least as large");
	config->capacity = htole64(le64toh(config->capacity) + 1);
	pair.target.features = features | VUBLK_BIT(VIRTIO_BLK_F_RO);
	expect_refused(&pair, EROFS, "read-only");
	pair.target.features = features & ~VUBLK_BIT(VIRTIO_BLK_F_FLUSH);
	expect_refused(&pair, ENOTSUP, "FLUSH");
	pair.target.features = features;
	assert_true(mirror(&pair).is_copying);
	end(&pair);
}

static void test_refusals(void **state)
{
	struct vublk_error error;
	struct pair pair = { 0 };

	begin(&pair);
	assert_int_equal(vublk_device_switch(pair.rig.device, NULL, &error), -EBUSY);
	assert_non_null(strstr(error.text, "not mirrored"));
	assert_true(mirror(&pair).is_copying);
	assert_int_equal(vublk_device_mirror(pair.rig.device, pair.target.path, 1000, NULL), 0);
	assert_int_equal(info_of(&pair).rate, 1000);
	assert_int_equal(vublk_device_mirror(pair.rig.device, "other", 0, NULL), -EBUSY);
	assert_int_equal(vublk_device_switch(pair.rig.device, NULL, &error), -EBUSY);
	assert_non_null(strstr(error.text, "when it is synced"));
	assert_int_equal(vublk_device_dirty_log_start(pair.rig.device, NULL, 0, &error), -EBUSY);
	assert_non_null(strstr(error.text, "mirrored"));
	vublk_device_stop_mirror(pair.rig.device);
	assert_false(info_of(&pair).is_active);
	assert_int_equal(vublk_device_dirty_log_start(pair.rig.device, NULL, 0, NULL), 0);
	assert_int_equal(vublk_device_mirror(pair.rig.device, pair.target.path, 0, &error), -EBUSY);
	assert_non_null(strstr(error.text, "migrated"));
	end(&pair);
}

static void test_loss_of_the_target(void **state)
{
	struct pair pair = { 0 };

	begin(&pair);
	assert_true(mirror(&pair).is_copying);
	mock_die(&pair.target);
	wait_for_end(&pair);
	assert_int_not_equal(info_of(&pair).code, 0);
	assert_int_equal(pair.rig.calls[RIG_LOST], 0);
	end(&pair);
}

/* --- failures of the state file ---------------------------------------------------------------- */

/*
 * Checks that the mirror has ended with this code and words, that the notice has the same words,
 * and that the disk continues.
 */
static void check_ended(struct pair *pair, int code, const char *words)
{
	const struct vublk_device_mirror_info info = info_of(pair);

	assert_false(info.is_active);
	assert_int_equal(info.code, code);
	if (!strstr(info.reason, words) || !strstr(info.reason, file_path()))
		fail_msg("the reason is not '%s': %s", words, info.reason);
	assert_int_equal(num_ended, 1);
	assert_string_equal(reason, info.reason);
	assert_int_equal(pair->rig.calls[RIG_LOST], 0);
	assert_int_equal(pair->rig.device->state, VUBLK_DEVICE_RUNNING);
}

/*
 * One sync of the marks fails, then the storage works again. The file names the source as up to
 * date.
 */
static void test_sync_fails_once(void **state)
{
	static const int codes[] = { EIO, ENOSPC };

	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(codes); i++) {
		struct vublk_mirror_state_info info;
		struct vublk_mirror_state *file;
		struct pair pair = { 0 };

		begin_with(&pair, file_path());
		assert_true(mirror(&pair).is_copying);
		fail_syncs(codes[i], 1);
		wait_for_end(&pair);
		check_ended(&pair, codes[i], "cannot write the mirror's state file");
		end(&pair);
		assert_int_equal(vublk_mirror_state_open(file_path(), &file, NULL), 0);
		vublk_mirror_state_get_info(file, &info);
		assert_int_equal(info.phase, VUBLK_MIRROR_STATE_SINGLE);
		assert_string_equal(info.disks[info.authoritative].path, pair.source.path);
		vublk_mirror_state_close(file);
		assert_int_equal(unlink(file_path()), 0);
	}
}

/* The storage refuses everything for a while. The device empties the file as soon as it can. */
static void test_file_cannot_be_emptied(void **state)
{
	struct vublk_mirror_state *file;
	struct vublk_loop_timer *timer;
	struct pair pair = { 0 };
	struct stat st;

	begin_with(&pair, file_path());
	timer = &pair.rig.device->mirror.safe_timer;
	assert_true(mirror(&pair).is_copying);
	truncate_failure = EIO;
	fail_syncs(EIO, UINT_MAX);
	wait_for_end(&pair);
	check_ended(&pair, EIO, "cannot write the mirror's state file");
	assert_non_null(timer->loop);
	fail_syncs(0, 0);
	truncate_failure = 0;
	vublk_loop_timer_arm(&pair.rig.device->loop, timer, vublk_now_ns()); /* the timer is due */
	while (timer->loop)
		rig_turn(&pair.rig, 1000);
	assert_int_equal(stat(file_path(), &st), 0);
	assert_int_equal(st.st_size, 0);
	end(&pair);
	assert_int_equal(vublk_mirror_state_open(file_path(), &file, NULL), -EINVAL);
}

/* There is no room for the marks, so no mirror begins. Later there is room. */
static void test_no_room_for_marks(void **state)
{
	struct pair pair = { 0 };

	begin_with(&pair, file_path());
	fallocate_failure = ENOSPC;
	assert_false(mirror(&pair).is_active);
	check_ended(&pair, ENOSPC, "cannot reserve");
	fallocate_failure = 0;
	assert_true(mirror(&pair).is_copying);
	end(&pair);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_targets),
		VUBLK_TEST(test_refusals),
		VUBLK_TEST(test_loss_of_the_target),
		VUBLK_TEST(test_sync_fails_once),
		VUBLK_TEST(test_file_cannot_be_emptied),
		VUBLK_TEST(test_no_room_for_marks),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
