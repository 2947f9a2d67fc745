/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The state file of a mirror after the death of its process, and after a loss of power.
 *
 * Key idea: the test acts as a small mirror that follows the rules of mirror-state.h. Its two disks
 * are arrays with one number per region. The test interrupts the mirror at many points. Then, the
 * disk that the file names as up to date must have the data, and each region in which the disks
 * differ must be marked. The mirror resumes with this file and these disks, and is interrupted
 * again.
 *
 * A loss of power is simulated: each piece of the file and each region of the disks gets one of the
 * contents that it has had since the last completed sync of the file or flush of the disk.
 */
#include "harness.h"

#include "plane/mirror-file.h"
#include "plane/mirror-state.h"
#include "util/checked.h"
#include "util/fd.h"
#include "util/kill-point.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define REGIONS 24u
#define FILE_BYTES (VUBLK_MIRROR_FILE_HEADERS_BYTES + 4096)
#define PIECE 16u /* smaller than a sector, so that more headers are torn */
#define MAX_IMAGES 512u
#define MAX_VERSIONS 64u

/* --- random numbers ------------------------------------------------------------------------ */

static uint64_t seed = 1;

static unsigned below(unsigned n)
{
	seed = seed * 6364136223846793005 + 1442695040888963407;
	return (unsigned)((seed >> 33) % n);
}

/* --- the storage of the file ------------------------------------------------------------------ */

struct image {
	char bytes[FILE_BYTES];
	size_t size;
};

/* The contents of the file since the last sync. They are recorded only in test_power(). */
static struct {
	pthread_mutex_t lock;
	bool is_on;
	int fd; /* of the file, to read it */
	struct image *images;
	unsigned count;
} history = { .lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1 };

static void add_image(void)
{
	struct image *image = &history.images[history.count];
	struct stat st;

	assert_true(history.count < MAX_IMAGES);
	memset(image, 0, sizeof(*image));
	if (fstat(history.fd, &st) || pread(history.fd, image->bytes, FILE_BYTES, 0) < 0)
		abort();
	image->size = (size_t)st.st_size;
	history.count++;
}

static pthread_t owner;
static bool is_open; /* the open has ended, so step() may longjmp() out of fdatasync() */
static void step(void);

/* Records what the file contains, at a place where the power can fail. */
static void record(void)
{
	if (!history.is_on)
		return;
	pthread_mutex_lock(&history.lock);
	add_image();
	pthread_mutex_unlock(&history.lock);
}

int __wrap_fdatasync(int fd);

/* Makes the image at the start of the call stable: drops all older images. */
int __wrap_fdatasync(int fd)
{
	unsigned first;

	if (!history.is_on)
		return 0;
	if (is_open && pthread_equal(pthread_self(), owner))
		step();
	pthread_mutex_lock(&history.lock);
	add_image();
	first = history.count - 1;
	pthread_mutex_unlock(&history.lock);
	sched_yield();
	pthread_mutex_lock(&history.lock);
	if (first < history.count) {
		history.count -= first;
		memmove(history.images, history.images + first,
			history.count * sizeof(*history.images));
	}
	pthread_mutex_unlock(&history.lock);
	return 0;
}

/* --- the disks ----------------------------------------------------------------------------- */

/*
 * The contents that a region has had since the last flush. The last element is the present content.
 */
struct region {
	unsigned count;
	uint32_t versions[MAX_VERSIONS];
};

/* What survives the process; shared with the child that is killed. */
struct world {
	struct region disks[2][REGIONS];
	uint32_t next_version;
	unsigned source;     /* the disk that has the data */
	bool is_switching;   /* a switch is under way, so either disk may have the data */
	unsigned num_writes, num_switches, num_resumed;
};

static struct world *world;
static const char *const paths[] = { "/a", "/b" };

static uint32_t present(unsigned disk, unsigned region)
{
	const struct region *at = &world->disks[disk][region];

	return at->versions[at->count - 1];
}

static void flush_disk(unsigned disk)
{
	for (unsigned i = 0; i < REGIONS; i++) {
		world->disks[disk][i].versions[0] = present(disk, i);
		world->disks[disk][i].count = 1;
	}
}

static void write_disk(unsigned disk, unsigned region, uint32_t version)
{
	struct region *at = &world->disks[disk][region];

	at->versions[at->count++] = version;
}

static void new_world(void)
{
	world = mmap(NULL, sizeof(*world), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(world, MAP_FAILED);
	for (unsigned i = 0; i < REGIONS; i++)
		for (unsigned disk = 0; disk < 2; disk++)
			write_disk(disk, i, disk * 1000 + i);
	world->next_version = 10000;
}

static void free_world(void)
{
	munmap(world, sizeof(*world));
}

/* --- the end of the process or of the power --------------------------------------------------- */

static const char *const kill_points[] = {
	"mirror-created", "mirror-unnamed", "mirror-named", "mirror-half-header", "mirror-header",
	"mirror-shortened", "mirror-reserved", "mirror-marked", "mirror-synced", "mirror-aged",
	"test-step", NULL,
};

static struct vublk_mirror_state *state;
static jmp_buf power_fails;
static unsigned steps_left; /* until the power fails; 0: it does not fail */

/* A place at which the process can be killed, or the power can fail. */
static void step(void)
{
	vublk_kill_point("test-step");
	record();
	if (steps_left && !--steps_left)
		longjmp(power_fails, 1);
}

/* Gives each region of the disks, and each piece of the file, one of its possible contents. */
static void lose_power(const char *path)
{
	struct image after = { .size = history.images[below(history.count)].size };
	VUBLK_FD int fd = open(path, O_WRONLY | O_TRUNC);

	for (size_t at = 0; at < FILE_BYTES; at += PIECE)
		memcpy(after.bytes + at, history.images[below(history.count)].bytes + at, PIECE);
	assert_int_equal(write(fd, after.bytes, after.size), after.size);
	for (unsigned i = 0; i < 2 * REGIONS; i++) {
		struct region *region = &world->disks[i / REGIONS][i % REGIONS];

		region->versions[0] = region->versions[below(region->count)];
		region->count = 1;
	}
}

/* --- the mirror ------------------------------------------------------------------------------ */

static struct vublk_mirror_state_disk disk(unsigned index)
{
	struct vublk_mirror_state_disk disk;

	if (vublk_mirror_state_disk_init(&disk, paths[index], NULL, REGIONS * MIB, NULL))
		abort();
	return disk;
}

static void must(int r, const struct vublk_error *error)
{
	if (!r)
		return;
	fprintf(stderr, "%s\n", error->text);
	abort();
}

static void wait_until_stable(vublk_mirror_state_ticket ticket)
{
	struct pollfd wait = { .fd = vublk_mirror_state_fd(state), .events = POLLIN };
	struct vublk_error error;

	if (below(2)) {
		must(vublk_mirror_state_sync(state, &error), &error);
		return;
	}
	vublk_mirror_state_start_sync(state);
	while (!vublk_mirror_state_is_stable(state, ticket)) {
		step();
		poll(&wait, 1, -1);
		must(vublk_mirror_state_take_result(state, &error), &error);
	}
}

/* Flushes both disks. With `may_clear`, then clears the regions that are the same on both disks. */
static void flush(bool may_clear)
{
	flush_disk(0);
	step();
	flush_disk(1);
	for (unsigned i = 0; may_clear && i < REGIONS; i++)
		if (present(0, i) == present(1, i))
			vublk_mirror_state_clear(state, i);
	step();
}

static void copy_marked(void)
{
	for (unsigned i = 0; i < REGIONS; i++) {
		if (!vublk_mirror_state_is_marked(state, i))
			continue;
		write_disk(!world->source, i, present(world->source, i));
		step();
	}
	flush(true);
}

/* Marks up to three regions, waits until the marks are stable, and writes the regions. */
static void write_some(void)
{
	unsigned regions[3], count = 1 + below(VUBLK_ARRAY_SIZE(regions));
	vublk_mirror_state_ticket tickets[3];

	for (unsigned i = 0; i < count; i++) {
		regions[i] = below(REGIONS);
		tickets[i] = vublk_mirror_state_mark(state, regions[i] * MIB + below(MIB), 1);
		step();
		/* now and then, a sync has already begun when the last mark is made */
		if (!below(4))
			vublk_mirror_state_start_sync(state);
	}
	for (unsigned i = 0; i < count; i++)
		if (!vublk_mirror_state_is_stable(state, tickets[i]))
			wait_until_stable(tickets[i]);
	for (unsigned i = 0; i < count; i++) {
		unsigned first = below(2);
		uint32_t version = world->next_version++;

		write_disk(first, regions[i], version);
		step();
		write_disk(!first, regions[i], version);
		step();
	}
	world->num_writes += count;
}

static void mirror_for_a_while(void)
{
	copy_marked();
	for (unsigned i = 0; i < 10; i++) {
		write_some();
		if (below(2))
			flush(true);
		if (below(2))
			vublk_mirror_state_age(state);
		step();
	}
}

/* Writes to the source alone, without marks. */
static void write_alone(void)
{
	for (unsigned i = 0; i < 5; i++) {
		write_disk(world->source, below(REGIONS), world->next_version++);
		step();
	}
	flush_disk(world->source);
}

/*
 * The life of one process. It begins or resumes a mirror three times, and ends each with or without
 * a switch.
 */
static void live(const char *path)
{
	struct vublk_mirror_state_info info;
	struct vublk_error error;

	must(vublk_mirror_state_open(path, &state, &error), &error);
	is_open = true;
	step();
	vublk_mirror_state_get_info(state, &info);
	if (info.phase == VUBLK_MIRROR_STATE_SINGLE)
		write_alone();
	for (unsigned i = 0; i < 3; i++) {
		struct vublk_mirror_state_disk source = disk(world->source);
		struct vublk_mirror_state_disk target = disk(!world->source);
		bool resumed;

		/* with another size the mirror is not resumed */
		if (!below(4))
			target.bytes += MIB * below(100);
		must(vublk_mirror_state_begin(state, &source, &target, MIB, &resumed, &error), &error);
		world->num_resumed += resumed;
		step();
		mirror_for_a_while();
		if (below(2)) {
			flush(false);
			world->is_switching = true;
			must(vublk_mirror_state_commit_switch(state, &error), &error);
			world->source = !world->source;
			world->is_switching = false;
			world->num_switches++;
		} else {
			must(vublk_mirror_state_end(state, &error), &error);
		}
		write_alone();
	}
}

/* --- checks ---------------------------------------------------------------------------------- */

/*
 * Checks what the next process finds: which disk is up to date, and the marks. The disk that is up
 * to date becomes the source.
 */
static void check(const char *path)
{
	struct vublk_mirror_state_info info;
	struct vublk_mirror_state *left;
	struct vublk_error error = { 0 };
	bool resumed;

	if (vublk_mirror_state_open(path, &left, &error))
		fail_msg("%s", error.text);
	vublk_mirror_state_get_info(left, &info);
	if (info.phase != VUBLK_MIRROR_STATE_NEW) {
		unsigned up_to_date = !strcmp(info.disks[info.authoritative].path, paths[1]);

		if (!world->is_switching)
			assert_int_equal(up_to_date, world->source);
		world->source = up_to_date;
	}
	if (info.phase == VUBLK_MIRROR_STATE_MIRRORING) {
		assert_int_equal(vublk_mirror_state_begin(left, &info.disks[info.authoritative],
							  &info.disks[!info.authoritative], MIB,
							  &resumed, NULL), 0);
		assert_true(resumed);
		for (unsigned i = 0; i < REGIONS; i++)
			if (present(0, i) != present(1, i) && !vublk_mirror_state_is_marked(left, i))
				fail_msg("region %u differs and is not marked", i);
	}
	world->is_switching = false;
	vublk_mirror_state_close(left);
}

/* --- cases ----------------------------------------------------------------------------------- */

/* Runs the mirror in a child. Returns whether the child was killed at this pass of `point`. */
static bool is_killed(const char *path, const char *point, unsigned pass)
{
	pid_t child = fork();
	char value[64];
	int status;

	if (!child) {
		snprintf(value, sizeof(value), "%s:%u", point, pass);
		setenv("VUBLK_KILL_POINT", value, 1);
		if (vublk_kill_points_init(kill_points, NULL))
			abort();
		live(path);
		vublk_mirror_state_close(state);
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	if (WIFSIGNALED(status))
		assert_int_equal(WTERMSIG(status), SIGKILL);
	else
		assert_int_equal(WEXITSTATUS(status), 0);
	return WIFSIGNALED(status);
}

/*
 * For each point, kills processes at its first pass, its second pass and so on, until a process
 * ends before it makes that many passes. Each process finds what the previous one has left. But
 * every fifth process finds no file, and neither does a process that is to be killed while it
 * creates the file.
 */
static void test_kills(void **state_of_test)
{
	char path[100];

	snprintf(path, sizeof(path), "%s/state", vublk_test_folder());
	for (const char *const *point = kill_points; *point; point++) {
		unsigned num_kills = 0;

		new_world();
		for (unsigned pass = 1; pass < 300; pass++) {
			seed = pass;
			below(1);
			if (pass % 5 == 1 || !strcmp(*point, "mirror-created") || strstr(*point, "named"))
				unlink(path);
			seed = pass;
			if (!is_killed(path, *point, pass))
				break;
			num_kills++;
			check(path);
		}
		assert_true(num_kills > 0);
		unlink(path);
		free_world();
	}
}

/*
 * Kills a process in the middle of a mirror, and then another one while it begins a new mirror. In
 * some rounds the target's size differs, so the second process cannot resume the first one's mirror,
 * and dies while it replaces it.
 */
static void test_kills_at_begin(void **state_of_test)
{
	static const char *const points[] = { "mirror-shortened", "mirror-reserved" };
	char path[100];
	unsigned num_kills = 0;

	snprintf(path, sizeof(path), "%s/state", vublk_test_folder());
	new_world();
	for (unsigned round = 0; round < 200; round++) {
		seed = round;
		if (is_killed(path, "test-step", 20 + round % 50))
			check(path);
		seed = round + 1000;
		if (is_killed(path, points[round % 2], 1)) {
			check(path);
			num_kills++;
		}
	}
	assert_true(num_kills > 0);
	free_world();
}

static void live_until_power_fails(const char *path)
{
	if (!setjmp(power_fails))
		live(path);
}

/*
 * The power fails at a random step. Each round finds what the previous one has left. Every fiftieth
 * round begins with a new file.
 */
static void test_power(void **state_of_test)
{
	char path[100];
	unsigned num_resumed = 0, num_switches = 0;

	snprintf(path, sizeof(path), "%s/state", vublk_test_folder());
	history.images = calloc(MAX_IMAGES, sizeof(*history.images));
	owner = pthread_self();
	for (unsigned round = 0; round < 1000; round++) {
		if (round % 50 == 0) {
			new_world();
			unlink(path);
			must(vublk_mirror_state_open(path, &state, NULL), NULL);
			vublk_mirror_state_close(state);
		}
		seed = round;
		below(1);
		history.fd = open(path, O_RDONLY);
		history.count = 0;
		history.is_on = true;
		add_image();
		steps_left = 1 + below(below(4) ? 500 : 40);
		live_until_power_fails(path);
		steps_left = 0;
		/* from here on, a fdatasync() by the state's thread does nothing */
		history.is_on = is_open = false;
		vublk_mirror_state_close(state);
		state = NULL;
		lose_power(path);
		vublk_fd_close(&history.fd);
		check(path);
		if (round % 50 == 49) {
			num_resumed += world->num_resumed;
			num_switches += world->num_switches;
			free_world();
		}
	}
	assert_true(num_resumed > 0 && num_switches > 0);
	free(history.images);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST_LONG(test_kills, 600),
		VUBLK_TEST_LONG(test_kills_at_begin, 600),
		VUBLK_TEST_LONG(test_power, 600),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
