/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * `vublk chaos` as a whole. The disk is a fake disk in memory, whose faults the case chooses. The
 * back-end is a shell, which creates a file at the path of its socket and sleeps.
 */
#include "harness.h"

#include "mock/inotify-limit.h"

#include "fake-blk.h"

#include "cli/chaos/chaos.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define LISTEN "rm -f \"$0\"; : > \"$0\"; "

struct chaos_rig {
	struct fake_disk *disk;
	struct vublk_chaos_config config;
	struct vublk_chaos_result result;
	struct vublk_error error;
	char *command[5];
	bool interrupt; /* a signal arrives when the disk is opened */
};

static struct chaos_rig *chaos_rig_new(const char *script)
{
	struct chaos_rig *rig = calloc(1, sizeof(*rig));

	assert_non_null(rig);
	rig->disk = fake_disk_new("socket", 4 * MIB, 2);
	rig->command[0] = "sh";
	rig->command[1] = "-c";
	rig->command[2] = (char *)script;
	rig->command[3] = rig->disk->path;
	rig->config = (struct vublk_chaos_config){
		.socket = rig->disk->path, .command = rig->command,
		.actions = 1u << VUBLK_CHAOS_KILL, .num_actions = 5, .max_interval_ms = 20,
		.num_queues = 2, .depth = 16, .stuck_ms = 20000, .seed = 1,
	};
	return rig;
}

static void chaos_rig_free(struct chaos_rig *rig)
{
	fake_disk_free(rig->disk);
	free(rig);
}

static int open_disk(void *opaque, struct vublk_blk **blk, struct vublk_error *error)
{
	struct chaos_rig *rig = opaque;

	if (rig->interrupt)
		kill(getpid(), SIGTERM);
	return vublk_blk_open(rig->disk->path, NULL, NULL, 0, blk, error);
}

static int run(struct chaos_rig *rig)
{
	unlink(rig->config.socket); /* an earlier run may have left it */
	return vublk_chaos_run(&rig->config, open_disk, rig, &rig->result, &rig->error);
}

static void check_fails(struct chaos_rig *rig, int code, const char *words)
{
	assert_int_equal(run(rig), -code);
	assert_int_equal(rig->error.code, code);
	if (!strstr(rig->error.text, words))
		fail_msg("'%s' does not contain '%s'", rig->error.text, words);
}

/* --- a good disk ---------------------------------------------------------------- */

static void check_good_run(struct chaos_rig *rig)
{
	const struct vublk_chaos_counts *counts = &rig->result.counts;

	rig->result = (struct vublk_chaos_result){ 0 };
	if (run(rig))
		fail_msg("%s", rig->error.text);
	if (vublk_chaos_count_faults(&rig->result))
		fail_msg("%s", counts->sentences[0]);
	assert_int_equal(rig->result.actions[VUBLK_CHAOS_KILL], 5);
	assert_int_equal(rig->result.starts, 7); /* the first start, five more, the last start */
	/* At least two complete passes, in each of which all blocks are read back. */
	assert_true(counts->verified_blocks >= 2 * 4 * MIB / VUBLK_CHAOS_BLOCK_BYTES);
}

/*
 * There are only milliseconds between the kills of a run. On a busy machine there may be few
 * requests in that time, so the test repeats the run until one run has executed each operation.
 */
static void test_a_good_disk(void **state)
{
	struct chaos_rig *rig = chaos_rig_new(LISTEN "exec sleep 1000");
	const struct vublk_chaos_counts *counts = &rig->result.counts;
	bool is_complete;

	do {
		check_good_run(rig);
		is_complete = counts->overlapping > 0;
		for (unsigned op = 0; op < VUBLK_CHAOS_NUM_OPS; op++)
			is_complete &= counts->requests[op] > 0;
		rig->config.seed++;
		rig->config.max_interval_ms *= 2; /* give a slow machine more time */
	} while (!is_complete);
	chaos_rig_free(rig);
}

/* However long the initial zeroing takes, a kill waits until the load has also made changes. */
static void test_kills_wait_for_the_load(void **state)
{
	struct chaos_rig *rig = chaos_rig_new(LISTEN "exec sleep 1000");
	uint64_t changes = 0, bytes = 64 * MIB;

	fake_disk_free(rig->disk);
	rig->disk = fake_disk_new("slow", bytes, 2);
	rig->config.socket = rig->command[3] = rig->disk->path;
	rig->config.depth = 1;
	rig->config.num_actions = 1;
	rig->config.max_interval_ms = 0;
	if (run(rig))
		fail_msg("%s", rig->error.text);
	assert_int_equal(rig->result.actions[VUBLK_CHAOS_KILL], 1);
	for (unsigned op = 0; op < VUBLK_CHAOS_NUM_OPS; op++)
		if (op != VUBLK_CHAOS_READ && op != VUBLK_CHAOS_FLUSH)
			changes += rig->result.counts.requests[op];
	assert_true(changes >= bytes / VUBLK_CHAOS_BLOCK_BYTES / VUBLK_CHAOS_MAX_BLOCKS + 2);
	chaos_rig_free(rig);
}

static void test_a_full_queue_is_no_error(void **state)
{
	struct chaos_rig *rig = chaos_rig_new(LISTEN "exec sleep 1000");

	rig->disk->full_every = 7;
	if (run(rig))
		fail_msg("%s", rig->error.text);
	assert_true(rig->disk->refused > 0);
	assert_int_equal(vublk_chaos_count_faults(&rig->result), 0);
	chaos_rig_free(rig);
}

/*
 * chaos stops the back-end, or kills it with or without removing the socket's file. The load must
 * continue in each case.
 */
static void test_all_that_is_done_to_it(void **state)
{
	struct chaos_rig *rig = chaos_rig_new(LISTEN "exec sleep 1000");
	unsigned sum = 0;

	rig->config.actions = (1u << VUBLK_CHAOS_OWN) - 1;
	rig->config.num_actions = 40;
	rig->config.max_interval_ms = 5;
	if (run(rig))
		fail_msg("%s", rig->error.text);
	for (unsigned d = 0; d < VUBLK_CHAOS_OWN; d++) {
		assert_true(rig->result.actions[d] > 0);
		sum += rig->result.actions[d];
	}
	assert_int_equal(sum, 40);
	assert_true(rig->result.starts <= 42);
	assert_true(rig->result.starts >= 42 - rig->result.actions[VUBLK_CHAOS_STOP]);
	chaos_rig_free(rig);
}

/* chaos sets the environment variable for the first three starts, but not for the last two. */
static void test_a_back_end_that_ends_by_itself(void **state)
{
	struct chaos_rig *rig = chaos_rig_new(LISTEN "[ -z \"$DIE\" ] || kill -USR1 $$; exec sleep 1000");

	setenv("DIE", "", 1);
	rig->config.actions = 0;
	rig->config.num_actions = 3;
	rig->config.env[rig->config.num_env++] = "DIE=yes";
	if (run(rig))
		fail_msg("%s", rig->error.text);
	assert_int_equal(rig->result.actions[VUBLK_CHAOS_OWN], 3);
	assert_int_equal(rig->result.starts, 5);
	assert_string_equal(rig->result.own_end, "signal 10");
	chaos_rig_free(rig);
}

static void test_one_that_never_stays_is_given_up(void **state)
{
	struct chaos_rig *rig = chaos_rig_new(LISTEN "exit 7");

	rig->disk->stall_after = 200; /* so that not all requests complete without a back-end */
	check_fails(rig, ECHILD, "exit status 7");
	chaos_rig_free(rig);
}

/* --- a bad disk ------------------------------------------------------------------ */

static void test_a_lost_write_is_found(void **state)
{
	struct chaos_rig *rig = chaos_rig_new(LISTEN "exec sleep 1000");

	rig->config.size_bytes = MIB / 2;
	rig->disk->lose_offset = 0;
	rig->disk->lose_after = 1; /* so that the initial zeroes are not lost */
	/*
	 * A slow machine may not reach a second write at that offset, so each attempt runs longer
	 * than the previous one.
	 */
	do {
		rig->config.max_interval_ms *= 2;
		rig->disk->lost = 0;
		rig->result = (struct vublk_chaos_result){ 0 };
		assert_int_equal(run(rig), 0);
	} while (rig->disk->lost <= 1);
	assert_true(vublk_chaos_count_faults(&rig->result) > 0);
	assert_int_equal(rig->result.counts.faults[VUBLK_CHAOS_CORRUPT], 0);
	assert_true(rig->result.counts.num_sentences > 0);
	chaos_rig_free(rig);
}

static void test_a_flipped_bit_is_found(void **state)
{
	struct chaos_rig *rig = chaos_rig_new(LISTEN "exec sleep 1000");

	rig->disk->flip_offset = 3 * MIB + 12345;
	assert_int_equal(run(rig), 0);
	assert_true(rig->result.counts.faults[VUBLK_CHAOS_CORRUPT] > 0);
	assert_int_equal(vublk_chaos_count_faults(&rig->result),
			 rig->result.counts.faults[VUBLK_CHAOS_CORRUPT]);
	assert_non_null(strstr(rig->result.counts.sentences[0], "corrupt: block 771 "));
	chaos_rig_free(rig);
}

static void test_a_stuck_request_is_found(void **state)
{
	struct chaos_rig *rig = chaos_rig_new(LISTEN "exec sleep 1000");

	rig->config.actions = 0;
	rig->config.num_actions = 0;
	rig->config.runtime_ms = 10;
	rig->config.stuck_ms = 3000; /* enough time for the back-end to make its socket */
	rig->disk->stall_after = 200;
	check_fails(rig, ETIMEDOUT, "stuck: ");
	assert_true(rig->result.counts.stuck > 0);
	chaos_rig_free(rig);
}

static void test_a_failed_request_is_told(void **state)
{
	struct chaos_rig *rig = chaos_rig_new(LISTEN "exec sleep 1000");

	rig->disk->fail_offset = 8192;
	rig->disk->fail_code = EIO;
	check_fails(rig, EIO, "queue 0: ");
	chaos_rig_free(rig);
}

static void test_disks_that_do_not_suit(void **state)
{
	struct chaos_rig *rig = chaos_rig_new(LISTEN "exec sleep 1000");

	rig->config.num_queues = 3;
	check_fails(rig, EINVAL, "--queues=3");
	rig->config.num_queues = 2;
	rig->config.depth = 1000;
	check_fails(rig, EINVAL, "--iodepth=1000");
	rig->config.depth = 1;
	rig->config.size_bytes = 5 * MIB;
	check_fails(rig, EINVAL, "--size=5242880");
	rig->config.size_bytes = MIB / 4;
	check_fails(rig, EINVAL, "too few");
	rig->disk->info.read_only = true;
	check_fails(rig, EROFS, "read-only");
	chaos_rig_free(rig);
}

/* --- the back-end ----------------------------------------------------------------- */

static void test_back_ends_that_do_not_start(void **state)
{
	struct chaos_rig *rig = chaos_rig_new("echo some words; echo last words >&2; exit 3");

	check_fails(rig, ECHILD, "ended with exit status 3 before it listened");
	assert_non_null(strstr(rig->error.text, "its last output: last words"));
	assert_null(strstr(rig->error.text, "some words"));
	rig->config.stuck_ms = 50;
	rig->command[2] = "exec sleep 1000";
	check_fails(rig, ETIMEDOUT, "did not create the socket");
	rig->command[0] = "/no/such/program";
	check_fails(rig, ENOENT, "'/no/such/program'");
	rig->config.socket = "/no/such/folder/socket";
	check_fails(rig, ENOENT, "/no/such/folder");
	assert_int_equal(rig->result.starts, 0);
	chaos_rig_free(rig);
}

/*
 * Without inotify, chaos looks at intervals for the socket's file. A file that existed before the
 * start does not count.
 */
static void test_without_inotify(void **state)
{
	inotify_is_used_up = true;
	test_a_good_disk(state);
	test_all_that_is_done_to_it(state);
	test_back_ends_that_do_not_start(state);
}

/* The back-end prints more than chaos keeps. It must not block, and memory must not grow. */
static void test_a_back_end_that_talks_much(void **state)
{
	struct chaos_rig *rig = chaos_rig_new("i=0; while [ $i -lt 3000 ]; do i=$((i+1)); "
				  "echo 'words and words and words and words' 2>&-; done 2>&-; "
				  LISTEN "exec sleep 1000");

	rig->config.num_actions = 1;
	if (run(rig))
		fail_msg("%s", rig->error.text);
	chaos_rig_free(rig);
}

/*
 * chaos also kills the children of the back-end. The test's process becomes the parent of these
 * children and counts them.
 */
static void test_nothing_is_left_over(void **state)
{
	struct chaos_rig *rig = chaos_rig_new("sleep 1000 & " LISTEN "exec sleep 1000");
	unsigned orphans = 0;

	assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
	if (run(rig))
		fail_msg("%s", rig->error.text);
	for (int status; wait(&status) > 0; orphans++)
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	assert_int_equal(orphans, rig->result.starts);
	chaos_rig_free(rig);
}

static void test_a_signal_ends_it(void **state)
{
	struct chaos_rig *rig = chaos_rig_new(LISTEN "exec sleep 1000");

	rig->interrupt = true;
	check_fails(rig, EINTR, "interrupted by signal 15");
	chaos_rig_free(rig);
}

/* --- the report -------------------------------------------------------------------- */

static void test_both_reports_have_all_counts(void **state)
{
	static const char *const words[] = {
		"lost", "repeated", "torn", "stale", "reordered", "misplaced", "corrupt", "stuck",
		"kill", "discard", "reconnect", "torn: block 3",
	};
	struct vublk_chaos_result *result = calloc(1, sizeof(*result));
	struct vublk_chaos_config config = { .socket = "s", .num_queues = 2, .depth = 3 };

	result->actions[VUBLK_CHAOS_KILL] = 1;
	result->counts.faults[VUBLK_CHAOS_TORN] = 1;
	result->counts.num_sentences = 1;
	strcpy(result->counts.sentences[0], "torn: block 3");
	vublk_histogram_add(&result->outage_ns, 1000);
	assert_int_equal(vublk_chaos_count_faults(result), 1);
	for (unsigned json = 0; json < 2; json++) {
		char *text = NULL;
		size_t bytes = 0;
		FILE *out = open_memstream(&text, &bytes);

		(json ? vublk_chaos_print_json : vublk_chaos_print_text)(out, &config, result);
		fclose(out);
		for (size_t i = 0; i < VUBLK_ARRAY_SIZE(words); i++)
			if (!strstr(text, words[i]))
				fail_msg("'%s' is not in: %s", words[i], text);
		free(text);
	}
	free(result);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_a_good_disk),
		VUBLK_TEST(test_kills_wait_for_the_load),
		VUBLK_TEST(test_a_full_queue_is_no_error),
		VUBLK_TEST(test_without_inotify),
		VUBLK_TEST(test_all_that_is_done_to_it),
		VUBLK_TEST(test_a_back_end_that_ends_by_itself),
		VUBLK_TEST(test_one_that_never_stays_is_given_up),
		VUBLK_TEST(test_a_lost_write_is_found),
		VUBLK_TEST(test_a_flipped_bit_is_found),
		VUBLK_TEST(test_a_stuck_request_is_found),
		VUBLK_TEST(test_a_failed_request_is_told),
		VUBLK_TEST(test_disks_that_do_not_suit),
		VUBLK_TEST(test_back_ends_that_do_not_start),
		VUBLK_TEST(test_a_back_end_that_talks_much),
		VUBLK_TEST(test_nothing_is_left_over),
		VUBLK_TEST(test_a_signal_ends_it),
		VUBLK_TEST(test_both_reports_have_all_counts),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
