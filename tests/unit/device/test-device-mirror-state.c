/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The property mirror-state: which back-ends a device refuses as out of date or as unknown. */
#include "harness.h"

#include "mock/device-rig.h"

#include "device/device.h"
#include "plane/mirror-state.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

static const char *file_path(void)
{
	static char path[100];

	snprintf(path, sizeof(path), "%s/state", vublk_test_folder());
	return path;
}

/* Makes the state file of a mirror between disks of `bytes` bytes; see make_file(). */
static void make_file_of(uint64_t bytes, const char *source, const char *target, bool has_switched)
{
	struct vublk_mirror_state_disk from, to;
	struct vublk_mirror_state *state;
	bool resumed;

	assert_int_equal(vublk_mirror_state_disk_init(&from, source, NULL, bytes, NULL), 0);
	assert_int_equal(vublk_mirror_state_disk_init(&to, target, NULL, bytes, NULL), 0);
	assert_int_equal(vublk_mirror_state_open(file_path(), &state, NULL), 0);
	assert_int_equal(vublk_mirror_state_begin(state, &from, &to, MIB, &resumed, NULL), 0);
	if (has_switched)
		assert_int_equal(vublk_mirror_state_commit_switch(state, NULL), 0);
	vublk_mirror_state_close(state);
}

/*
 * Makes the state file of a mirror from `source` to `target`. With `has_switched`, the mirror has
 * ended with a switch; otherwise, it has not ended.
 */
static void make_file(const char *source, const char *target, bool has_switched)
{
	make_file_of(MIB, source, target, has_switched);
}

static enum vublk_mirror_state_phase phase_of_file(void)
{
	struct vublk_mirror_state_info info;
	struct vublk_mirror_state *state;

	assert_int_equal(vublk_mirror_state_open(file_path(), &state, NULL), 0);
	vublk_mirror_state_get_info(state, &info);
	vublk_mirror_state_close(state);
	return info.phase;
}

static void prepare(struct device_rig *rig, struct mock *mock)
{
	rig_prepare(rig, mock, "5");
	rig_set(rig, "mirror-state", file_path());
}

static void check_failure(struct device_rig *rig, enum rig_callback callback, const char *words)
{
	if (!strstr(rig->errors[callback].text, words))
		fail_msg("'%s' lacks '%s'", rig->errors[callback].text, words);
}

/* A new file admits every disk, and is locked while the device is realized. */
static void test_new_file(void **state_of_test)
{
	struct vublk_mirror_state *state;
	struct device_rig rig;
	struct mock mock;

	prepare(&rig, &mock);
	rig_realize(&rig);
	assert_int_equal(vublk_mirror_state_open(file_path(), &state, NULL), -EBUSY);
	rig_end(&rig, &mock);
	assert_int_equal(phase_of_file(), VUBLK_MIRROR_STATE_NEW);
}

/* After a switch from A to B, B is used and A is refused. */
static void test_stale(void **state_of_test)
{
	struct device_rig rig;
	struct mock mock;

	prepare(&rig, &mock);
	make_file(mock.path, "/b", true);
	rig_realize_fails(&rig, ESTALE);
	check_failure(&rig, RIG_REALIZED, "is out of date: the mirror's state file");
	check_failure(&rig, RIG_REALIZED, "the disk at '/b' is up to date");
	/* the refused device has closed the file */
	assert_int_equal(phase_of_file(), VUBLK_MIRROR_STATE_SINGLE);
	rig_end(&rig, &mock);
	assert_int_equal(unlink(file_path()), 0);

	prepare(&rig, &mock);
	make_file("/b", mock.path, true);
	rig_realize(&rig);
	rig_end(&rig, &mock);
}

/* While the disk is mirrored, the copy is refused, and so is a disk that the file does not know. */
static void test_copy(void **state_of_test)
{
	struct device_rig rig;
	struct mock mock;

	prepare(&rig, &mock);
	make_file("/a", mock.path, false);
	rig_realize_fails(&rig, ESTALE);
	check_failure(&rig, RIG_REALIZED, "is out of date");
	assert_int_equal(phase_of_file(), VUBLK_MIRROR_STATE_MIRRORING);
	rig_end(&rig, &mock);
	assert_int_equal(unlink(file_path()), 0);

	prepare(&rig, &mock);
	make_file("/a", "/b", false);
	rig_realize_fails(&rig, ESTALE);
	check_failure(&rig, RIG_REALIZED, "is unknown");
	rig_end(&rig, &mock);
}

/*
 * All paths of a device lead to the same storage. So a path that the file does not know is admitted
 * if the device has another path whose disk is up to date.
 */
static void test_other_path(void **state_of_test)
{
	struct device_rig rig;
	struct mock mock;

	prepare(&rig, &mock);
	rig_set(&rig, "chardev-2", "/a");
	make_file("/a", "/b", true);
	rig_realize_fails(&rig, ESTALE);
	check_failure(&rig, RIG_REALIZED, "is unknown");
	assert_int_equal(unlink(file_path()), 0);
	make_file("/a", "/b", false);
	vublk_device_unrealize(rig.device);
	rig_realize(&rig);
	rig_end(&rig, &mock);
	assert_int_equal(unlink(file_path()), 0);

	prepare(&rig, &mock);
	rig_set(&rig, "chardev-2", "/a");
	make_file("/a", mock.path, false);
	rig_realize_fails(&rig, ESTALE);
	check_failure(&rig, RIG_REALIZED, "is out of date");
	rig_end(&rig, &mock);
}

/* Whichever path is in use, a mirror begins and resumes under the path that the file knows. */
static void test_mirror_on_other_path(void **state_of_test)
{
	struct vublk_error error;
	struct device_rig rig;
	struct mock mock;
	bool resumed;

	prepare(&rig, &mock);
	rig_set(&rig, "chardev-2", "/a");
	make_file("/a", "/b", false);
	rig_realize(&rig);
	assert_int_equal(vublk_device_mirror_state_begin(rig.device, "/b", &resumed, &error), 0);
	assert_true(resumed);
	assert_int_equal(vublk_mirror_state_end(rig.device->mirror_state, &error), 0);
	assert_int_equal(vublk_device_mirror_state_begin(rig.device, "/c", &resumed, &error), 0);
	assert_false(resumed);
	assert_int_equal(vublk_mirror_state_end(rig.device->mirror_state, &error), 0);
	rig_end(&rig, &mock);
}

/*
 * A device does not change the file before its rings run. When they run, it marks its writes in the
 * file. So the mirror can be resumed.
 */
static void test_interrupted(void **state_of_test)
{
	struct device_rig rig;
	struct mock mock;

	prepare(&rig, &mock);
	make_file(mock.path, "/b", false);
	rig_realize(&rig);
	assert_int_equal(rig.num_warnings, 1);
	assert_false(vublk_device_is_mirrored(rig.device));
	rig_end(&rig, &mock);
	assert_int_equal(phase_of_file(), VUBLK_MIRROR_STATE_MIRRORING);

	prepare(&rig, &mock);
	rig_realize(&rig);
	rig_start(&rig, 1);
	assert_int_equal(rig.num_warnings, 1);
	rig_end(&rig, &mock);
	assert_int_equal(phase_of_file(), VUBLK_MIRROR_STATE_MIRRORING);
}

/*
 * The file has marks for a disk of another size, so the device cannot mark its writes. When its
 * rings start, the file therefore records that the copy is out of date.
 */
static void test_other_size(void **state_of_test)
{
	struct device_rig rig;
	struct mock mock;

	prepare(&rig, &mock);
	make_file_of(2 * MIB, mock.path, "/b", false);
	rig_realize(&rig);
	rig_start(&rig, 1);
	assert_int_equal(rig.num_warnings, 2);
	rig_end(&rig, &mock);
	assert_int_equal(phase_of_file(), VUBLK_MIRROR_STATE_SINGLE);
}

/*
 * The file is removed, so the end of a mirror cannot be recorded. The device nevertheless continues
 * with the next back-end at its path.
 */
static void test_file_that_failed(void **state_of_test)
{
	struct vublk_error error = { 0 };
	struct device_rig rig;
	struct mock mock;
	bool resumed;

	prepare(&rig, &mock);
	rig_realize(&rig);
	rig_start(&rig, 1);
	assert_int_equal(vublk_device_mirror_state_begin(rig.device, "/b", &resumed, &error), 0);
	assert_int_equal(unlink(file_path()), 0);
	assert_int_equal(vublk_mirror_state_end(rig.device->mirror_state, &error), -EIO);
	mock_die(&mock);
	rig_wait(&rig, RIG_LOST, 1);
	mock_live_again(&mock);
	rig_wait(&rig, RIG_RECONNECTED, 1);
	rig_end(&rig, &mock);
}

/* A file that cannot be used is refused before the device looks for its back-end. */
static void test_bad_file(void **state_of_test)
{
	struct vublk_error error = { 0 };
	struct device_rig rig;
	struct mock mock;

	prepare(&rig, &mock);
	assert_int_equal(symlink("/dev/null", file_path()), 0);
	assert_int_equal(vublk_device_realize(rig.device, &error), -EINVAL);
	assert_non_null(strstr(error.text, "is a symbolic link"));
	rig_end(&rig, &mock);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_new_file),
		VUBLK_TEST(test_stale),
		VUBLK_TEST(test_copy),
		VUBLK_TEST(test_other_path),
		VUBLK_TEST(test_mirror_on_other_path),
		VUBLK_TEST(test_interrupted),
		VUBLK_TEST(test_other_size),
		VUBLK_TEST(test_file_that_failed),
		VUBLK_TEST(test_bad_file),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
