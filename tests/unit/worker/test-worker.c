/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A worker without rings: when it works, polls and sleeps, and how it starts and stops. The
 * worker's thread calls the owner's functions. No result depends on timing.
 */
#include "harness.h"

#include "util/checked.h"
#include "util/error.h"
#include "worker/worker.h"

#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>

/*
 * While the worker runs, only its thread uses the members after `worker`. Exceptions are the
 * semaphores, and `task` and `tell`, which rig_tell() sets.
 */
struct rig {
	struct vublk_worker worker;
	enum vublk_worker_wait wait;
	unsigned pieces;   /* how many more rounds have work */
	unsigned refusals; /* how often enable_notifications() will still return false */
	unsigned rounds, asked, enabled, disabled, torn_down;
	int set_up_result;
	bool blocks_signals, was_asleep;
	unsigned rounds_until; /* `reached` is posted in this round; 0: never */
	unsigned enabled_until; /* `reached` is posted when `enabled` has this value; 0: never */
	sem_t reached, told;
	struct vublk_loop_task task;
	void (*tell)(struct rig *rig);
};

static int set_up(struct vublk_worker *worker, struct vublk_error *error)
{
	struct rig *rig = (struct rig *)worker;
	sigset_t blocked;

	pthread_sigmask(SIG_SETMASK, NULL, &blocked);
	rig->blocks_signals = sigismember(&blocked, SIGTERM) && !sigismember(&blocked, SIGBUS);
	return rig->set_up_result ? vublk_error_set(error, EIO, "no disk") : 0;
}

static void tear_down(struct vublk_worker *worker)
{
	((struct rig *)worker)->torn_down++;
}

static bool work(struct vublk_worker *worker)
{
	struct rig *rig = (struct rig *)worker;

	if (++rig->rounds == rig->rounds_until)
		sem_post(&rig->reached);
	if (!rig->pieces)
		return false;
	rig->pieces--;
	return true;
}

static enum vublk_worker_wait waits_for(const struct vublk_worker *worker)
{
	struct rig *rig = (struct rig *)worker;

	rig->asked++;
	return rig->wait;
}

static bool enable_notifications(struct vublk_worker *worker)
{
	struct rig *rig = (struct rig *)worker;

	if (++rig->enabled == rig->enabled_until)
		sem_post(&rig->reached);
	if (!rig->refusals)
		return true;
	rig->refusals--;
	return false;
}

static void disable_notifications(struct vublk_worker *worker)
{
	((struct rig *)worker)->disabled++;
}

static const struct vublk_worker_ops ops = {
	.set_up = set_up,
	.tear_down = tear_down,
	.work = work,
	.waits_for = waits_for,
	.enable_notifications = enable_notifications,
	.disable_notifications = disable_notifications,
};

static struct rig *rig_new(void)
{
	struct rig *rig = aligned_alloc(VUBLK_CACHE_LINE, sizeof(*rig));

	assert_non_null(rig);
	*rig = (struct rig){ 0 };
	sem_init(&rig->reached, 0, 0);
	sem_init(&rig->told, 0, 0);
	return rig;
}

static void rig_start_with_budget(struct rig *rig, enum vublk_poll_mode poll, unsigned percent)
{
	struct vublk_error error = { 0 };

	assert_int_equal(vublk_worker_start(&rig->worker, &ops, poll, percent, &error), 0);
}

static void rig_start(struct rig *rig, enum vublk_poll_mode poll)
{
	rig_start_with_budget(rig, poll, VUBLK_POLL_BUDGET_MAX);
}

static void rig_free(struct rig *rig)
{
	sem_destroy(&rig->reached);
	sem_destroy(&rig->told);
	free(rig);
}

static void on_task(void *opaque)
{
	struct rig *rig = opaque;

	rig->tell(rig);
	sem_post(&rig->told);
}

/* Runs `tell` on the worker's thread, and waits until it has returned. */
static void rig_tell(struct rig *rig, void (*tell)(struct rig *rig))
{
	rig->tell = tell;
	rig->task = (struct vublk_loop_task){ .fn = on_task, .opaque = rig };
	vublk_loop_post(&rig->worker.loop, &rig->task);
	sem_wait(&rig->told);
}

static void tell_nothing(struct rig *rig)
{
}

static void tell_three_pieces(struct rig *rig)
{
	rig->was_asleep = rig->worker.is_asleep;
	rig->pieces = 3;
	rig->rounds_until = rig->rounds + 4;
}

/* Opens the longest polling window. The worker polls after this task, and then sleeps once. */
static void tell_window(struct rig *rig)
{
	rig->worker.for_driver.window_ns = VUBLK_POLLER_DRIVER_NS;
	rig->asked = 0;
	rig->enabled_until = rig->enabled + 1;
}

/* --- cases ----------------------------------------------------------------- */

static void test_starts_and_stops(void **state)
{
	struct rig *rig = rig_new();

	rig_start(rig, VUBLK_POLL_ADAPTIVE);
	rig_tell(rig, tell_nothing);
	vublk_worker_stop(&rig->worker);
	assert_true(rig->blocks_signals);
	assert_int_equal(rig->torn_down, 1);
	rig_free(rig);
}

static void test_cannot_be_set_up(void **state)
{
	struct rig *rig = rig_new();
	struct vublk_error error = { 0 };

	rig->set_up_result = -EIO;
	assert_int_equal(vublk_worker_start(&rig->worker, &ops, VUBLK_POLL_OFF, 0, &error), -EIO);
	assert_string_equal(error.text, "no disk");
	assert_int_equal(rig->rounds, 0);
	assert_int_equal(rig->torn_down, 0);
	rig_free(rig);
}

/* Each piece of work takes a round. After a round without work, the worker sleeps again. */
static void test_works_until_there_is_none(void **state)
{
	struct rig *rig = rig_new();

	rig->wait = VUBLK_WAIT_DRIVER;
	rig_start(rig, VUBLK_POLL_OFF);
	rig_tell(rig, tell_three_pieces);
	sem_wait(&rig->reached);
	vublk_worker_stop(&rig->worker);
	assert_true(rig->was_asleep);
	assert_int_equal(rig->pieces, 0);
	assert_int_equal(rig->rounds, rig->asked + 3);
	assert_int_equal(rig->enabled, rig->asked);
	assert_int_equal(rig->disabled, rig->enabled);
	rig_free(rig);
}

/* Work arrives without a wake-up. If the worker slept, the case would exceed its time limit. */
static void test_stays_awake_for_work_that_arrives(void **state)
{
	struct rig *rig = rig_new();

	rig->wait = VUBLK_WAIT_DISK;
	rig->refusals = 5;
	rig->rounds_until = 6;
	rig_start(rig, VUBLK_POLL_OFF);
	sem_wait(&rig->reached);
	vublk_worker_stop(&rig->worker);
	assert_int_equal(rig->refusals, 0);
	assert_int_equal(rig->disabled, rig->enabled);
	rig_free(rig);
}

/* Like enable_notifications(), but the following sleep ends after 1 ms without an event. */
static bool enable_for_a_moment(struct vublk_worker *worker)
{
	worker->retry_ms = 1;
	return enable_notifications(worker);
}

static void test_sleeps_up_to_the_limit(void **state)
{
	static const struct vublk_worker_ops with_limit = {
		.set_up = set_up,
		.tear_down = tear_down,
		.work = work,
		.waits_for = waits_for,
		.enable_notifications = enable_for_a_moment,
		.disable_notifications = disable_notifications,
	};
	struct rig *rig = rig_new();
	struct vublk_error error = { 0 };

	rig->wait = VUBLK_WAIT_DISK;
	rig->rounds_until = 4;
	assert_int_equal(vublk_worker_start(&rig->worker, &with_limit, VUBLK_POLL_OFF, 0, &error),
			 0);
	sem_wait(&rig->reached);
	vublk_worker_stop(&rig->worker);
	rig_free(rig);
}

/*
 * Checks that the worker polls and never sleeps. It must also poll its loop. Otherwise, stopping
 * the worker would never end.
 */
static void check_never_sleeps(enum vublk_poll_mode poll, enum vublk_worker_wait wait)
{
	struct rig *rig = rig_new();

	rig->wait = wait;
	rig->rounds_until = 100;
	rig_start(rig, poll);
	sem_wait(&rig->reached);
	vublk_worker_stop(&rig->worker);
	assert_int_equal(rig->enabled, 0);
	rig_free(rig);
}

static void test_never_sleeps(void **state)
{
	check_never_sleeps(VUBLK_POLL_BUSY, VUBLK_WAIT_DRIVER);
	check_never_sleeps(VUBLK_POLL_BUSY, VUBLK_WAIT_DISK);
	check_never_sleeps(VUBLK_POLL_OFF, VUBLK_WAIT_UNSIGNALLED);
	check_never_sleeps(VUBLK_POLL_ADAPTIVE, VUBLK_WAIT_UNSIGNALLED);
}

static void test_sleeps_without_rings(void **state)
{
	struct rig *rig = rig_new();

	rig->wait = VUBLK_WAIT_NOTHING;
	rig_start(rig, VUBLK_POLL_BUSY);
	rig_tell(rig, tell_three_pieces);
	sem_wait(&rig->reached);
	vublk_worker_stop(&rig->worker);
	assert_int_equal(rig->enabled, rig->asked);
	rig_free(rig);
}

/*
 * Opens a polling window in which no work comes. Returns how often the worker looked for work
 * before it slept, and stores the tokens that the budget then has in `left`.
 */
static unsigned looks_in_a_window(unsigned percent, int64_t *left)
{
	struct rig *rig = rig_new();
	unsigned asked;

	rig->wait = VUBLK_WAIT_DRIVER;
	rig_start_with_budget(rig, VUBLK_POLL_ADAPTIVE, percent);
	rig_tell(rig, tell_window);
	sem_wait(&rig->reached);
	vublk_worker_stop(&rig->worker);
	asked = rig->asked;
	*left = rig->worker.budget.left;
	rig_free(rig);
	return asked;
}

/* Even if the sleep was long, half of the window remains. */
static void test_budget(void **state)
{
	const int64_t full = (int64_t)VUBLK_POLL_BUDGET_BURST_NS * 100;
	int64_t left;

	assert_int_equal(looks_in_a_window(0, &left), 1);
	assert_int_equal(left, 0);
	assert_true(looks_in_a_window(1, &left) > 1);
	assert_true(left <= full - (int64_t)VUBLK_POLLER_DRIVER_NS / 2 * 100);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_starts_and_stops),
		VUBLK_TEST(test_cannot_be_set_up),
		VUBLK_TEST(test_works_until_there_is_none),
		VUBLK_TEST(test_stays_awake_for_work_that_arrives),
		VUBLK_TEST(test_sleeps_up_to_the_limit),
		VUBLK_TEST(test_never_sleeps),
		VUBLK_TEST(test_sleeps_without_rings),
		VUBLK_TEST(test_budget),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
