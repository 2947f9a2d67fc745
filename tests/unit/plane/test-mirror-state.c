/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The state file of a mirror: its phases, its marks, the syncs, and the files that are refused.
 */
#include "harness.h"

#include "plane/mirror-file.h"
#include "plane/mirror-state.h"
#include "util/checked.h"
#include "util/crc32c.h"
#include "util/fd.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/socket.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define REGIONS 100u
#define BITMAP VUBLK_MIRROR_FILE_HEADERS_BYTES

/* --- fdatasync() ------------------------------------------------------------------------- */

static struct {
	bool waits; /* each fdatasync() posts `called`, then waits for `proceed` */
	sem_t called, proceed;
	int failure; /* the errno of the next fdatasync() calls; 0: they succeed */
	bool refuses_size; /* ftruncate() fails with EIO */
} sync_of_storage;

int __real_ftruncate64(int fd, off_t bytes);
int __wrap_ftruncate64(int fd, off_t bytes);

int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);

int __wrap_fdatasync(int fd)
{
	if (__atomic_load_n(&sync_of_storage.waits, __ATOMIC_ACQUIRE)) {
		sem_post(&sync_of_storage.called);
		sem_wait(&sync_of_storage.proceed);
	}
	errno = __atomic_load_n(&sync_of_storage.failure, __ATOMIC_ACQUIRE);
	return errno ? -1 : __real_fdatasync(fd);
}

/* The build defines _FILE_OFFSET_BITS=64, so the C library gives ftruncate() this name. */
int __wrap_ftruncate64(int fd, off_t bytes)
{
	if (!sync_of_storage.refuses_size)
		return __real_ftruncate64(fd, bytes);
	errno = EIO;
	return -1;
}

static void hold_syncs(bool hold)
{
	if (hold) {
		sem_init(&sync_of_storage.called, 0, 0);
		sem_init(&sync_of_storage.proceed, 0, 0);
	}
	__atomic_store_n(&sync_of_storage.waits, hold, __ATOMIC_RELEASE);
}

static void fail_syncs(int code)
{
	__atomic_store_n(&sync_of_storage.failure, code, __ATOMIC_RELEASE);
}

/* --- helpers ------------------------------------------------------------------------------ */

static const char *file_path(void)
{
	static char path[100];

	snprintf(path, sizeof(path), "%s/state", vublk_test_folder());
	return path;
}

static struct vublk_mirror_state_disk disk(const char *path, const char *serial)
{
	struct vublk_mirror_state_disk disk;

	assert_int_equal(vublk_mirror_state_disk_init(&disk, path, serial, REGIONS * MIB, NULL), 0);
	return disk;
}

static struct vublk_mirror_state *open_state(void)
{
	struct vublk_mirror_state *state = NULL;
	struct vublk_error error = { 0 };

	if (vublk_mirror_state_open(file_path(), &state, &error))
		fail_msg("%s", error.text);
	return state;
}

/* Opens the file, and begins to mirror /a to /b. */
static struct vublk_mirror_state *begin_state(bool *resumed)
{
	struct vublk_mirror_state_disk a = disk("/a", NULL), b = disk("/b", NULL);
	struct vublk_mirror_state *state = open_state();
	struct vublk_error error = { 0 };
	bool ignored;

	if (vublk_mirror_state_begin(state, &a, &b, MIB, resumed ? resumed : &ignored, &error))
		fail_msg("%s", error.text);
	return state;
}

static void clear_all(struct vublk_mirror_state *state)
{
	for (unsigned i = 0; i < REGIONS; i++)
		vublk_mirror_state_clear(state, i);
	vublk_mirror_state_age(state);
	vublk_mirror_state_age(state);
	assert_int_equal(vublk_mirror_state_num_marked(state), 0);
}

static void check_marked(const struct vublk_mirror_state *state, uint64_t first, uint64_t count)
{
	for (uint64_t i = 0; i < REGIONS; i++)
		assert_int_equal(vublk_mirror_state_is_marked(state, i),
				 i >= first && i - first < count);
	assert_int_equal(vublk_mirror_state_num_marked(state), count);
}

static void check_phase(const struct vublk_mirror_state *state, enum vublk_mirror_state_phase phase,
			const char *up_to_date)
{
	struct vublk_mirror_state_info info;

	vublk_mirror_state_get_info(state, &info);
	assert_int_equal(info.phase, phase);
	assert_string_equal(info.disks[info.authoritative].path, up_to_date);
}

/* Checks that the file cannot be opened, and that the error text has `words` and the path. */
static void check_refused(int code, const char *words)
{
	struct vublk_mirror_state *state = NULL;
	struct vublk_error error = { 0 };

	assert_int_equal(vublk_mirror_state_open(file_path(), &state, &error), -code);
	assert_null(state);
	if (!strstr(error.text, words) || !strstr(error.text, file_path()))
		fail_msg("'%s' lacks '%s'", error.text, words);
}

static void check_admission(const struct vublk_mirror_state *state, const char *path,
			    const char *serial, const char *words)
{
	struct vublk_mirror_state_disk other = disk(path, serial);
	struct vublk_error error = { 0 };
	int r = vublk_mirror_state_admit(state, &other, &error);

	assert_int_equal(r, words ? -ESTALE : 0);
	if (words && !strstr(error.text, words))
		fail_msg("'%s' lacks '%s'", error.text, words);
}

static void patch(off_t offset, const void *data, size_t bytes)
{
	VUBLK_FD int fd = open(file_path(), O_WRONLY);

	assert_int_equal(pwrite(fd, data, bytes, offset), bytes);
}

static void write_file(const void *data, size_t bytes)
{
	VUBLK_FD int fd = open(file_path(), O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_int_equal(write(fd, data, bytes), bytes);
}

/* --- phases and marks ----------------------------------------------------------------------- */

/* A new mirror marks all regions. Marks, and the absence of marks, survive a restart. */
static void test_marks(void **state_of_test)
{
	struct vublk_mirror_state *state;
	vublk_mirror_state_ticket ticket;
	bool resumed = true;

	state = begin_state(&resumed);
	assert_false(resumed);
	check_marked(state, 0, REGIONS);
	ticket = vublk_mirror_state_mark(state, 0, 5 * MIB);
	assert_true(vublk_mirror_state_is_stable(state, ticket));
	clear_all(state);
	ticket = vublk_mirror_state_mark(state, 10 * MIB - 1, 2);
	assert_false(vublk_mirror_state_is_stable(state, ticket));
	check_marked(state, 9, 2);
	assert_int_equal(vublk_mirror_state_sync(state, NULL), 0);
	assert_true(vublk_mirror_state_is_stable(state, ticket));
	vublk_mirror_state_close(state);

	state = begin_state(&resumed);
	assert_true(resumed);
	check_marked(state, 9, 2);
	vublk_mirror_state_close(state);
}

/* A cleared region keeps its mark until the second age(), or longer if it is marked in between. */
static void test_age(void **state_of_test)
{
	struct vublk_mirror_state *state = begin_state(NULL);

	clear_all(state);
	vublk_mirror_state_mark(state, 0, 3 * MIB);
	assert_int_equal(vublk_mirror_state_sync(state, NULL), 0);
	for (unsigned i = 0; i < 3; i++)
		vublk_mirror_state_clear(state, i);
	assert_true(vublk_mirror_state_is_stable(state, vublk_mirror_state_mark(state, 0, 1)));
	assert_int_equal(vublk_mirror_state_age(state), 0);
	check_marked(state, 0, 3);
	assert_true(vublk_mirror_state_is_stable(state, vublk_mirror_state_mark(state, MIB, 1)));
	assert_int_equal(vublk_mirror_state_age(state), 1);
	check_marked(state, 0, 2);
	assert_false(vublk_mirror_state_is_stable(state, vublk_mirror_state_mark(state, 2 * MIB, 1)));
	vublk_mirror_state_close(state);
}

/* A mirror is not resumed if it has ended, or with another disk, disk size or region size. */
static void test_resume(void **state_of_test)
{
	struct vublk_mirror_state_disk a = disk("/a", NULL), b = disk("/b", NULL), c = disk("/c", NULL);
	struct vublk_mirror_state *state;
	bool resumed;

	state = begin_state(&resumed);
	clear_all(state);
	assert_int_equal(vublk_mirror_state_end(state, NULL), 0);
	check_phase(state, VUBLK_MIRROR_STATE_SINGLE, "/a");
	assert_int_equal(vublk_mirror_state_begin(state, &a, &b, MIB, &resumed, NULL), 0);
	assert_false(resumed);
	check_marked(state, 0, REGIONS);
	clear_all(state);
	vublk_mirror_state_close(state);

	state = open_state();
	assert_int_equal(vublk_mirror_state_begin(state, &a, &c, MIB, &resumed, NULL), 0);
	assert_false(resumed);
	check_marked(state, 0, REGIONS);
	vublk_mirror_state_close(state);

	state = open_state();
	assert_int_equal(vublk_mirror_state_begin(state, &a, &c, 2 * MIB, &resumed, NULL), 0);
	assert_false(resumed);
	assert_int_equal(vublk_mirror_state_num_marked(state), REGIONS / 2);
	vublk_mirror_state_close(state);

	state = open_state();
	a.bytes = c.bytes = (UINT64_C(1) << 40) + 1;
	assert_int_equal(vublk_mirror_state_begin(state, &a, &c, MIB, &resumed, NULL), 0);
	assert_false(resumed);
	assert_int_equal(vublk_mirror_state_num_marked(state), (1 << 20) + 1);
	assert_true(vublk_mirror_state_is_marked(state, 1 << 20));
	vublk_mirror_state_close(state);
}

/* After a switch, only the new disk is admitted, and it can be mirrored back to the old one. */
static void test_switch(void **state_of_test)
{
	struct vublk_mirror_state_disk a = disk("/a", NULL), b = disk("/b", NULL);
	struct vublk_mirror_state_info before, after;
	struct vublk_mirror_state *state = begin_state(NULL);
	struct vublk_error error;
	bool resumed;

	check_admission(state, "/a", NULL, NULL);
	check_admission(state, "/b", NULL, "the disk at '/b' is out of date");
	clear_all(state);
	vublk_mirror_state_get_info(state, &before);
	assert_int_equal(vublk_mirror_state_commit_switch(state, NULL), 0);
	vublk_mirror_state_get_info(state, &after);
	assert_true(after.generation > before.generation);
	vublk_mirror_state_close(state);

	state = open_state();
	check_phase(state, VUBLK_MIRROR_STATE_SINGLE, "/b");
	check_admission(state, "/b", NULL, NULL);
	check_admission(state, "/a", NULL, "the disk at '/a' is out of date");
	check_admission(state, "/c", NULL, "the disk at '/c' is unknown");
	assert_int_equal(vublk_mirror_state_begin(state, &a, &b, MIB, &resumed, &error), -ESTALE);
	assert_int_equal(vublk_mirror_state_commit_switch(state, &error), -EINVAL);
	assert_int_equal(vublk_mirror_state_begin(state, &b, &a, MIB, &resumed, NULL), 0);
	check_phase(state, VUBLK_MIRROR_STATE_MIRRORING, "/b");
	check_admission(state, "/a", NULL, "out of date");
	assert_int_equal(vublk_mirror_state_begin(state, &b, &a, MIB, &resumed, &error), -EBUSY);
	vublk_mirror_state_close(state);
}

/* Serials identify disks if they differ. If they are equal, or one is missing, paths do. */
static void test_serials(void **state_of_test)
{
	struct vublk_mirror_state_disk a = disk("/a", "one"), b = disk("/b", "two");
	struct vublk_mirror_state *state = open_state();
	bool resumed;

	check_admission(state, "/x", "any", NULL);
	assert_int_equal(vublk_mirror_state_begin(state, &a, &b, MIB, &resumed, NULL), 0);
	check_admission(state, "/x", "one", NULL);
	check_admission(state, "/b", "one", NULL);
	check_admission(state, "/a", NULL, NULL);
	check_admission(state, "/a", "two", "out of date");
	check_admission(state, "/a", "three", "the disk at '/a' is unknown");
	check_admission(state, "/a", "three", "the disk at '/a' with the serial one is up to date");
	check_admission(state, "/b", NULL, "out of date");
	assert_int_equal(vublk_mirror_state_end(state, NULL), 0);
	a = disk("/a", "same");
	b = disk("/b", "same");
	assert_int_equal(vublk_mirror_state_admit(state, &a, NULL), -ESTALE);
	vublk_mirror_state_close(state);
	assert_int_equal(unlink(file_path()), 0);

	state = open_state();
	assert_int_equal(vublk_mirror_state_begin(state, &a, &b, MIB, &resumed, NULL), 0);
	check_admission(state, "/a", "same", NULL);
	check_admission(state, "/b", "same", "out of date");
	vublk_mirror_state_close(state);
}

/* --- syncs ------------------------------------------------------------------------------------ */

/* Marks that are made during a sync become stable with the next sync, which follows directly. */
static void test_batches(void **state_of_test)
{
	struct vublk_mirror_state *state = begin_state(NULL);
	vublk_mirror_state_ticket first, second, again;
	struct pollfd wait = { .fd = vublk_mirror_state_fd(state), .events = POLLIN };

	clear_all(state);
	hold_syncs(true);
	first = vublk_mirror_state_mark(state, 0, 1);
	vublk_mirror_state_start_sync(state);
	sem_wait(&sync_of_storage.called);
	second = vublk_mirror_state_mark(state, 5 * MIB, 1);
	again = vublk_mirror_state_mark(state, 0, 1);
	vublk_mirror_state_start_sync(state);
	vublk_mirror_state_start_sync(state);
	assert_false(vublk_mirror_state_is_stable(state, first));
	assert_int_equal(again, first);
	sem_post(&sync_of_storage.proceed);
	sem_wait(&sync_of_storage.called);
	assert_true(vublk_mirror_state_is_stable(state, first));
	assert_true(vublk_mirror_state_is_stable(state, vublk_mirror_state_mark(state, 0, MIB)));
	assert_false(vublk_mirror_state_is_stable(state, vublk_mirror_state_mark(state, 0, 6 * MIB)));
	assert_false(vublk_mirror_state_is_stable(state, second));
	hold_syncs(false);
	sem_post(&sync_of_storage.proceed);
	while (!vublk_mirror_state_is_stable(state, second)) {
		assert_int_equal(poll(&wait, 1, -1), 1);
		assert_int_equal(vublk_mirror_state_take_result(state, NULL), 0);
	}
	assert_int_equal(vublk_mirror_state_sync(state, NULL), 0);
	vublk_mirror_state_close(state);
}

/* After a failed sync no mark becomes stable, even if the storage seems to work again. */
static void test_failed_sync(void **state_of_test)
{
	struct vublk_mirror_state *state = begin_state(NULL);
	struct vublk_error error = { 0 };
	vublk_mirror_state_ticket ticket;

	clear_all(state);
	ticket = vublk_mirror_state_mark(state, 0, 1);
	assert_int_equal(vublk_mirror_state_sync(state, NULL), 0);
	fail_syncs(EIO);
	ticket = vublk_mirror_state_mark(state, 2 * MIB, 1);
	assert_int_equal(vublk_mirror_state_sync(state, &error), -EIO);
	assert_non_null(strstr(error.text, "cannot write the mirror's state file"));
	fail_syncs(0);
	assert_true(vublk_mirror_state_has_failed(state));
	assert_int_equal(vublk_mirror_state_sync(state, NULL), -EIO);
	assert_int_equal(vublk_mirror_state_take_result(state, NULL), -EIO);
	assert_false(vublk_mirror_state_is_stable(state, ticket));
	assert_false(vublk_mirror_state_is_stable(state, vublk_mirror_state_mark(state, 0, 1)));
	assert_int_equal(vublk_mirror_state_age(state), 0);
	assert_int_equal(vublk_mirror_state_end(state, NULL), 0);
	vublk_mirror_state_close(state);
	state = open_state();
	check_phase(state, VUBLK_MIRROR_STATE_SINGLE, "/a");
	vublk_mirror_state_close(state);
}

/*
 * If the header cannot be written, it is unknown whether the storage has the old or the new one. So
 * the file is emptied, and the next attempt to open it is refused.
 */
static void test_failed_header(void **state_of_test)
{
	struct vublk_mirror_state_disk a = disk("/a", NULL);
	struct vublk_mirror_state *state;
	struct vublk_error error = { 0 };

	for (unsigned i = 0; i < 2; i++) {
		state = begin_state(NULL);
		fail_syncs(EIO);
		assert_int_equal(i ? vublk_mirror_state_end(state, &error) :
				     vublk_mirror_state_commit_switch(state, &error), -EIO);
		fail_syncs(0);
		assert_int_equal(vublk_mirror_state_admit(state, &a, &error), -EIO);
		assert_int_equal(vublk_mirror_state_commit_switch(state, &error), -EIO);
		vublk_mirror_state_close(state);
		check_refused(EINVAL, "is too short");
		assert_int_equal(unlink(file_path()), 0);
	}
}

/* The storage even refuses to make the file empty. The close of the file tries again. */
static void test_refused_truncation(void **state_of_test)
{
	struct vublk_mirror_state *state = begin_state(NULL);
	struct vublk_error error = { 0 };
	struct stat st;

	fail_syncs(EIO);
	sync_of_storage.refuses_size = true;
	assert_int_equal(vublk_mirror_state_end(state, &error), -EIO);
	assert_int_equal(vublk_mirror_state_make_safe(state, &error), -EIO);
	assert_non_null(strstr(error.text, "can neither be written nor made empty"));
	assert_int_equal(stat(file_path(), &st), 0);
	assert_int_equal(st.st_size, BITMAP + 4096);
	sync_of_storage.refuses_size = false;
	fail_syncs(0);
	vublk_mirror_state_close(state);
	check_refused(EINVAL, "is too short");
}

/* --- files that change while they are in use ------------------------------------------------ */

/* The file is truncated. No access kills the process, and the next sync fails. */
static void test_truncated_in_use(void **state_of_test)
{
	static const off_t sizes[] = { 0, BITMAP, BITMAP + 1 };

	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(sizes); i++) {
		struct vublk_mirror_state *state = begin_state(NULL);
		struct vublk_error error = { 0 };

		clear_all(state);
		vublk_mirror_state_mark(state, 0, 1);
		assert_int_equal(vublk_mirror_state_sync(state, NULL), 0);
		assert_int_equal(truncate(file_path(), sizes[i]), 0);
		/* with the last size the page of the marks still exists, so only a sync notices */
		if (sizes[i] <= (off_t)BITMAP)
			assert_false(vublk_mirror_state_is_stable(
				state, vublk_mirror_state_mark(state, 0, 1)));
		vublk_mirror_state_mark(state, 50 * MIB, 1);
		vublk_mirror_state_clear(state, 50);
		vublk_mirror_state_age(state);
		vublk_mirror_state_age(state);
		vublk_mirror_state_mark(state, 50 * MIB, 1);
		assert_int_equal(vublk_mirror_state_sync(state, &error), -EIO);
		assert_non_null(strstr(error.text, "was truncated"));
		assert_true(vublk_mirror_state_is_marked(state, 99));
		assert_int_equal(vublk_mirror_state_end(state, NULL), 0);
		vublk_mirror_state_close(state);
	}
}

/* If a file was truncated and then extended to its old size, all regions are marked. */
static void test_truncated_and_extended(void **state_of_test)
{
	struct vublk_mirror_state *state = begin_state(NULL);
	const off_t bytes = BITMAP + 4096;
	bool resumed;

	clear_all(state);
	vublk_mirror_state_close(state);
	assert_int_equal(truncate(file_path(), BITMAP), 0);
	assert_int_equal(truncate(file_path(), bytes), 0);
	state = begin_state(&resumed);
	assert_true(resumed);
	check_marked(state, 0, REGIONS);
	vublk_mirror_state_close(state);
}

/*
 * If the file is removed, renamed or replaced while it is in use, syncs and switches fail, because
 * the next start would not find it.
 */
static void test_removed_in_use(void **state_of_test)
{
	char other[300];

	snprintf(other, sizeof(other), "%s.other", file_path());
	for (unsigned i = 0; i < 3; i++) {
		struct vublk_mirror_state *state = begin_state(NULL);
		struct vublk_error error = { 0 };

		clear_all(state);
		if (i == 1)
			assert_int_equal(rename(file_path(), other), 0);
		else
			assert_int_equal(unlink(file_path()), 0);
		if (i == 2)
			write_file("", 0);
		vublk_mirror_state_mark(state, 0, 1);
		assert_int_equal(vublk_mirror_state_sync(state, &error), -EIO);
		assert_non_null(strstr(error.text, "was removed or renamed"));
		assert_int_equal(vublk_mirror_state_commit_switch(state, &error), -EIO);
		assert_non_null(strstr(error.text, "was removed or renamed"));
		vublk_mirror_state_close(state);
		unlink(file_path());
		unlink(other);
	}
}

/* --- files that are refused ------------------------------------------------------------------ */

static void make_file(void)
{
	vublk_mirror_state_close(begin_state(NULL));
}

static void test_locked(void **state_of_test)
{
	struct vublk_mirror_state *state = open_state();

	check_refused(EBUSY, "is in use by another device");
	vublk_mirror_state_close(state);
	vublk_mirror_state_close(open_state());
}

static void test_special_files(void **state_of_test)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	VUBLK_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char target[300];

	snprintf(target, sizeof(target), "%s.target", file_path());
	assert_int_equal(symlink(target, file_path()), 0);
	check_refused(EINVAL, "is a symbolic link");
	assert_int_equal(access(target, F_OK), -1);
	assert_int_equal(unlink(file_path()), 0);
	assert_int_equal(mkfifo(file_path(), 0600), 0);
	check_refused(EINVAL, "is a special file");
	assert_int_equal(unlink(file_path()), 0);
	assert_int_equal(mkdir(file_path(), 0700), 0);
	check_refused(EINVAL, "must be a regular file");
	assert_int_equal(rmdir(file_path()), 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", file_path());
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	check_refused(EINVAL, "is a special file");
	assert_int_equal(unlink(file_path()), 0);
}

static void test_missing_folder(void **state_of_test)
{
	struct vublk_mirror_state *state;
	struct vublk_error error;
	char path[300];

	snprintf(path, sizeof(path), "%s/none/state", vublk_test_folder());
	assert_int_equal(vublk_mirror_state_open(path, &state, &error), -ENOENT);
	assert_non_null(strstr(error.text, path));
	snprintf(path, sizeof(path), "%0280d", 1);
	assert_int_equal(vublk_mirror_state_open(path, &state, &error), -ENAMETOOLONG);
}

/* Files with other contents or of a wrong size are refused. */
static void test_foreign_contents(void **state_of_test)
{
	char bytes[BITMAP * 2] = "QFI\xfb";
	off_t full;
	struct stat st;

	write_file("", 0);
	check_refused(EINVAL, "is too short");
	write_file(bytes, 100);
	check_refused(EINVAL, "is too short");
	write_file(bytes, sizeof(bytes));
	check_refused(EINVAL, "is not the state file of a mirror");
	memset(bytes, 0, sizeof(bytes));
	write_file(bytes, sizeof(bytes));
	check_refused(EINVAL, "is not the state file of a mirror");
	assert_int_equal(unlink(file_path()), 0);

	make_file();
	assert_int_equal(stat(file_path(), &st), 0);
	full = st.st_size;
	assert_int_equal(truncate(file_path(), full - 1), 0);
	check_refused(EINVAL, "bytes instead of");
	assert_int_equal(truncate(file_path(), full + 1), 0);
	check_refused(EINVAL, "bytes instead of");
	assert_int_equal(truncate(file_path(), BITMAP - 1), 0);
	check_refused(EINVAL, "is too short");
}

/* One damaged copy of the header is repaired. A file with two damaged copies is refused. */
static void test_damaged_header(void **state_of_test)
{
	static const off_t offsets[] = { 3, 17, 20, 24, 32, 40, 48, 52, 56, 400, 4000 };
	const off_t copy = BITMAP / 2;

	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(offsets); i++) {
		struct vublk_mirror_state_info info;
		struct vublk_mirror_state *state;

		make_file();
		for (unsigned j = 0; j < 2; j++) {
			patch(j * copy + offsets[i], "\xa5", 1);
			state = open_state();
			vublk_mirror_state_get_info(state, &info);
			assert_true(info.was_repaired);
			check_phase(state, VUBLK_MIRROR_STATE_MIRRORING, "/a");
			vublk_mirror_state_close(state);
			state = open_state();
			vublk_mirror_state_get_info(state, &info);
			assert_false(info.was_repaired);
			vublk_mirror_state_close(state);
		}
		patch(offsets[i], "\xa5", 1);
		patch(copy + offsets[i], "\xa5", 1);
		check_refused(EINVAL, i ? "have a wrong CRC" : "is not the state file of a mirror");
		assert_int_equal(unlink(file_path()), 0);
	}
}

/* Headers with a correct CRC but impossible contents. */
static void test_impossible_header(void **state_of_test)
{
	static const struct {
		off_t offset;
		const char *bytes;
		size_t num_bytes;
		const char *words;
	} patches[] = {
		{ 16, "\x02", 1, "has version 2" },
		{ 48, "\x03", 1, "contains an invalid header" },
		{ 52, "\x02", 1, "contains an invalid header" },
		{ 52, "\xff\xff\xff\xff", 4, "contains an invalid header" },
		{ 40, "\0\0\0", 3, "contains an invalid size" },
		{ 40, "\x01\0\x10", 3, "contains an invalid size" },
		{ 40, "\x01\0\0", 3, "contains an invalid size" },
		{ 40, "\0\0\x20", 3, NULL },
		{ 40, "\0\x80\0", 3, NULL },
		{ 56, "", 1, "does not name the disk" },
		{ 56 + 256 + 24, "\xff\xff\xff\xff\xff\xff\xff\xff", 8, "contains an invalid size" },
		{ 56 + 256 + 24, "\0\0\0\0\x40", 5, "bytes instead of" },
	};

	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(patches); i++) {
		char header[BITMAP / 2];
		uint32_t crc = 0;

		make_file();
		{
			VUBLK_FD int fd = open(file_path(), O_RDONLY);

			assert_int_equal(pread(fd, header, sizeof(header), 0), sizeof(header));
		}
		memcpy(header + patches[i].offset, patches[i].bytes, patches[i].num_bytes);
		memcpy(header + 20, &crc, 4);
		crc = htole32(vublk_crc32c(header, sizeof(header)));
		memcpy(header + 20, &crc, 4);
		patch(0, header, sizeof(header));
		patch(sizeof(header), header, sizeof(header));
		/* NULL: valid, because the bitmap keeps its size */
		if (patches[i].words)
			check_refused(EINVAL, patches[i].words);
		else
			vublk_mirror_state_close(open_state());
		assert_int_equal(unlink(file_path()), 0);
	}
}

/* The temporary file of a killed creation is removed. A symbolic link in its place is refused. */
static void test_leftover_of_creation(void **state_of_test)
{
	char path[300];

	snprintf(path, sizeof(path), "%s.new", file_path());
	{
		VUBLK_FD int fd = open(path, O_WRONLY | O_CREAT, 0600);

		assert_int_equal(write(fd, "half", 4), 4);
	}
	make_file();
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(unlink(file_path()), 0);
	assert_int_equal(symlink("/dev/null", path), 0);
	check_refused(EINVAL, "is a symbolic link");
	assert_int_equal(unlink(path), 0);
}

/* Sizes for which no bitmap is possible. */
static void test_impossible_setup(void **state_of_test)
{
	static const struct { uint64_t bytes, region_bytes; } setups[] = {
		{ 0, MIB }, { MIB, 0 }, { 100 * MIB, 3 * MIB }, { UINT64_MAX, MIB },
	};
	struct vublk_mirror_state *state = open_state();

	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(setups); i++) {
		struct vublk_mirror_state_disk a = disk("/a", NULL), b = disk("/b", NULL);
		bool resumed;

		a.bytes = setups[i].bytes;
		assert_int_equal(vublk_mirror_state_begin(state, &a, &b, setups[i].region_bytes,
							  &resumed, NULL), -EINVAL);
		check_phase(state, VUBLK_MIRROR_STATE_NEW, "");
	}
	vublk_mirror_state_close(state);
}

/* --- file systems ----------------------------------------------------------------------------- */

/* Mounts a small file system on the test's folder, in a mount namespace of its own. */
static void mount_small(const char *options)
{
	if (unshare(CLONE_NEWNS | (getuid() ? CLONE_NEWUSER : 0)) ||
	    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("none", vublk_test_folder(), "tmpfs", 0, options))
		vublk_test_skip("this process may not mount a file system");
}

/* The space for the marks is reserved when the mirror begins. */
static void test_full_file_system(void **state_of_test)
{
	struct vublk_mirror_state_disk a = disk("/a", NULL), b = disk("/b", NULL);
	struct vublk_mirror_state *state;
	struct vublk_error error = { 0 };
	bool resumed;

	mount_small("size=64k");
	state = open_state();
	a.bytes = UINT64_C(1) << 40;
	assert_int_equal(vublk_mirror_state_begin(state, &a, &b, MIB, &resumed, &error), -ENOSPC);
	assert_non_null(strstr(error.text, "cannot reserve 135168 bytes"));
	a.bytes = REGIONS * MIB;
	assert_int_equal(vublk_mirror_state_begin(state, &a, &b, MIB, &resumed, &error), 0);
	vublk_mirror_state_close(state);
	assert_int_equal(unlink(file_path()), 0);
	{
		char path[300], bytes[4096] = { 0 };

		snprintf(path, sizeof(path), "%s/full", vublk_test_folder());
		VUBLK_FD int fd = open(path, O_WRONLY | O_CREAT, 0600);

		while (write(fd, bytes, sizeof(bytes)) > 0)
			;
	}
	check_refused(ENOSPC, "No space left on device");
	assert_int_equal(access(file_path(), F_OK), -1);
	umount2(vublk_test_folder(), MNT_DETACH);
}

static void test_read_only_file_system(void **state_of_test)
{
	mount_small("size=64k");
	make_file();
	assert_int_equal(mount("none", vublk_test_folder(), NULL, MS_REMOUNT | MS_RDONLY, NULL), 0);
	check_refused(EROFS, "for writing: Read-only file system");
	umount2(vublk_test_folder(), MNT_DETACH);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_marks),
		VUBLK_TEST(test_age),
		VUBLK_TEST(test_resume),
		VUBLK_TEST(test_switch),
		VUBLK_TEST(test_serials),
		VUBLK_TEST(test_batches),
		VUBLK_TEST(test_failed_sync),
		VUBLK_TEST(test_failed_header),
		VUBLK_TEST(test_refused_truncation),
		VUBLK_TEST(test_truncated_in_use),
		VUBLK_TEST(test_truncated_and_extended),
		VUBLK_TEST(test_removed_in_use),
		VUBLK_TEST(test_locked),
		VUBLK_TEST(test_special_files),
		VUBLK_TEST(test_missing_folder),
		VUBLK_TEST(test_foreign_contents),
		VUBLK_TEST(test_damaged_header),
		VUBLK_TEST(test_impossible_header),
		VUBLK_TEST(test_leftover_of_creation),
		VUBLK_TEST(test_impossible_setup),
		VUBLK_TEST(test_full_file_system),
		VUBLK_TEST(test_read_only_file_system),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
