/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two or three operations on the device at the same time. The second one begins at each message of
 * the first one. All of them have to end, or be refused; the driver's requests complete exactly
 * once, with the right data; and afterwards the disk works.
 *
 * The environment variable VUBLK_COMBOS selects runs: "PATH FIRST SECOND TURN", each of which may be
 * "-" for all. VUBLK_COMBOS_SEED is the seed of the random runs, which the output shows.
 */
#include "harness.h"

#include "combos-rig.h"

#include "device/device.h"
#include "device/upgrade/upgrade.h"
#include "util/checked.h"
#include "util/fd.h"
#include "util/loop.h"

#include <vublk/limit.h>
#include <vublk/mirror.h>
#include <vublk/paths.h>
#include <vublk/shadow.h>

#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATIENCE 400 /* turns before the test revives, resumes and continues everything */

/* --- operations -------------------------------------------------------------------------------- */

static unsigned expected[RIG_NUM_CALLBACKS]; /* how often each callback has to be called */
static struct vublk_error refusal;

/* Expects `callback` if the operation has returned 1. */
static int awaits(int r, enum rig_callback callback)
{
	if (r == 1)
		expected[callback]++;
	return r;
}

static int begin_switch(void)
{
	bool at_a = !strcmp(vublk_device_path(combos_rig.device), combos_mocks[0].path);

	return vublk_device_switch(combos_rig.device, combos_mocks[at_a].path, &refusal);
}

static bool is_switched(void)
{
	struct vublk_device_switch_info info;

	vublk_device_get_switch(combos_rig.device, &info, sizeof(info));
	return !info.is_under_way;
}

static int begin_mirror(void)
{
	return vublk_device_mirror(combos_rig.device, combos_mocks[COMBOS_TARGET].path, 0, &refusal);
}

static bool is_mirrored(void)
{
	struct vublk_device_mirror_info info;

	vublk_device_get_mirror(combos_rig.device, &info, sizeof(info));
	return !info.is_active || (info.size_bytes && info.synced_bytes == info.size_bytes);
}

static int begin_move(void)
{
	return vublk_device_switch(combos_rig.device, NULL, &refusal);
}

static int stop_mirror(void)
{
	vublk_device_stop_mirror(combos_rig.device);
	return 0;
}

static int begin_pause(void)
{
	vublk_device_set_paused(combos_rig.device, true);
	return 1;
}

static bool is_paused(void)
{
	return !vublk_device_is_pausing(combos_rig.device) || vublk_device_is_paused(combos_rig.device);
}

static int end_pause(void)
{
	vublk_device_set_paused(combos_rig.device, false);
	return 0;
}

static int pause_vm(void)
{
	return vublk_device_set_vm_running(combos_rig.device, false);
}

static bool is_vm_paused(void)
{
	return combos_rig.device->vm_running || !vublk_device_has_rings_out(combos_rig.device);
}

static int resume_vm(void)
{
	return vublk_device_set_vm_running(combos_rig.device, true);
}

static bool is_vm_resumed(void)
{
	return !combos_rig.device->vm_running || !vublk_device_should_run(combos_rig.device) ||
	       combos_rig.device->state == VUBLK_DEVICE_RUNNING;
}

static int reset(void)
{
	assert_int_equal(vublk_device_set_status(combos_rig.device, 0, NULL), 0);
	combos_forget_requests();
	return 1;
}

static bool is_reset(void)
{
	return !combos_is_resetting;
}

static int set_memory(unsigned num_regions)
{
	const struct vublk_memory_region regions[2] = {
		{ RIG_GUEST_ADDR, RIG_MEMORY_BYTES, combos_rig.memfd, 0 },
		{ 0x1000, 4096, combos_rig.memfd, 0 },
	};

	return awaits(vublk_device_set_memory(combos_rig.device, regions, num_regions, &refusal),
		      RIG_MEMORY_CHANGED);
}

static int grow_memory(void)
{
	return set_memory(2);
}

static int shrink_memory(void)
{
	return set_memory(1);
}

static int remove_memory(void)
{
	return set_memory(0);
}

static bool is_memory_changed(void)
{
	return combos_rig.calls[RIG_MEMORY_CHANGED] == expected[RIG_MEMORY_CHANGED];
}

static int set_notifier(int *fd, int (*set)(struct vublk_device *device, unsigned index, int fd,
					    struct vublk_error *error))
{
	int made = vublk_eventfd_new(), r = set(combos_rig.device, 0, made, &refusal);

	if (r < 0) {
		vublk_fd_close(&made);
		return r;
	}
	if (vublk_eventfd_clear(*fd) == 1) /* like a VMM, passes on a signal that was not read */
		vublk_eventfd_signal(made);
	vublk_fd_close(fd);
	*fd = made;
	combos_awaits_notifiers |= r == 1;
	return r;
}

static int set_kick(void)
{
	return set_notifier(&combos_rig.kicks[0], vublk_device_set_queue_kick);
}

static int set_call(void)
{
	return set_notifier(&combos_rig.callfds[0], vublk_device_set_queue_call);
}

static bool are_notifiers_set(void)
{
	return !combos_awaits_notifiers;
}

static int start_log(void)
{
	return awaits(vublk_device_dirty_log_start(combos_rig.device, NULL, 0, &refusal),
		      RIG_DIRTY_LOG_CHANGED);
}

static int stop_log(void)
{
	return awaits(vublk_device_dirty_log_stop(combos_rig.device, &refusal), RIG_DIRTY_LOG_CHANGED);
}

static bool is_log_changed(void)
{
	return combos_rig.calls[RIG_DIRTY_LOG_CHANGED] == expected[RIG_DIRTY_LOG_CHANGED];
}

static int set_shadow_on(void)
{
	return vublk_device_set_shadow(combos_rig.device, VUBLK_SHADOW_ON, &refusal);
}

static int set_shadow_off(void)
{
	return vublk_device_set_shadow(combos_rig.device, VUBLK_SHADOW_OFF, &refusal);
}

static int set_shadow_auto(void)
{
	return vublk_device_set_shadow(combos_rig.device, VUBLK_SHADOW_AUTO, &refusal);
}

static bool is_path_changed(void)
{
	struct vublk_shadow_info info;

	vublk_device_get_shadow(combos_rig.device, &info, sizeof(info));
	return !info.is_changing;
}

static int set_rate(uint64_t iops)
{
	const struct vublk_limits limits = { .iops = iops };

	vublk_device_set_limits(combos_rig.device, &limits, sizeof(limits), &refusal);
	return 1;
}

static int set_limits(void)
{
	return set_rate(1000000);
}

static int end_limits(void)
{
	return set_rate(0);
}

static int write_wce(void)
{
	uint8_t wce = !combos_rig.device->config[VUBLK_BLK_WCE_OFFSET];

	return awaits(vublk_device_config_write(combos_rig.device, VUBLK_BLK_WCE_OFFSET, &wce, 1, &refusal),
		      RIG_CONFIG_WRITTEN);
}

static bool is_wce_written(void)
{
	return combos_rig.calls[RIG_CONFIG_WRITTEN] == expected[RIG_CONFIG_WRITTEN];
}

static int resize(void)
{
	for (unsigned i = 0; i < COMBOS_BACKENDS; i++) {
		((struct virtio_blk_config *)combos_mocks[i].config)->capacity++;
		if (combos_mocks[i].back_channel >= 0)
			mock_send_config_change(&combos_mocks[i], false);
	}
	vublk_device_refresh_config(combos_rig.device);
	return 1;
}

static bool is_resized(void)
{
	return combos_rig.device->config_read == VUBLK_DEVICE_READ_NONE;
}

static int hang_up(void)
{
	executor_stop(combos_active());
	mock_hang_up(combos_active()->mock);
	return 1;
}

static bool is_running(void)
{
	return !vublk_device_should_run(combos_rig.device) || combos_rig.device->state == VUBLK_DEVICE_RUNNING;
}

static int die(void)
{
	struct executor *executor = combos_active();

	executor_stop(executor);
	mock_die(executor->mock);
	return 0;
}

static int lose_target(void)
{
	executor_stop(&combos_executors[COMBOS_TARGET]);
	mock_hang_up(&combos_mocks[COMBOS_TARGET]);
	return 0;
}

static int make_area(void)
{
	struct vublk_device_inflight area = { .num_queues = 1, .queue_size = RIG_QUEUE_SIZE };
	int r = vublk_device_make_inflight(combos_rig.device, &area, sizeof(area), &refusal);

	if (!r)
		vublk_fd_close(&area.fd);
	return awaits(r, RIG_INFLIGHT_MADE);
}

static bool is_area_made(void)
{
	return combos_rig.calls[RIG_INFLIGHT_MADE] == expected[RIG_INFLIGHT_MADE];
}

static int prepare_upgrade(void)
{
	if (vublk_device_handover_check(combos_rig.device, &refusal) < 0)
		return -EBUSY;
	vublk_device_handover_prepare(combos_rig.device);
	return 1;
}

static bool is_upgrade_prepared(void)
{
	return !combos_rig.device->exchange.waits || !vublk_device_handover_obstacle(combos_rig.device);
}

static int cancel_upgrade(void)
{
	vublk_device_handover_cancel(combos_rig.device);
	return 0;
}

static int unrealize(void)
{
	vublk_device_unrealize(combos_rig.device);
	return 0;
}

static int shut_down(void)
{
	combos_forget_requests();
	vublk_device_force_shutdown(combos_rig.device);
	return 0;
}

static bool is_over(void)
{
	return true;
}

struct op {
	const char *name;
	int (*begin)(void); /* 1: the operation is under way; 0: it is over; < 0: it was refused */
	bool (*is_over)(void);
	int (*prepare)(void); /* an operation that has to be over first; NULL: none */
	bool (*is_prepared)(void);
	bool is_last; /* the device cannot be used afterwards */
};

static const struct op ops[] = {
	{ "switch", begin_switch, is_switched, NULL, NULL, false },
	{ "mirror", begin_mirror, is_mirrored, NULL, NULL, false },
	{ "move", begin_move, is_switched, begin_mirror, is_mirrored, false },
	{ "stop-mirror", stop_mirror, is_over, begin_mirror, is_mirrored, false },
	{ "lose-target", lose_target, is_over, begin_mirror, is_mirrored, false },
	{ "pause", begin_pause, is_paused, NULL, NULL, false },
	{ "end-pause", end_pause, is_over, begin_pause, is_paused, false },
	{ "pause-vm", pause_vm, is_vm_paused, NULL, NULL, false },
	{ "resume-vm", resume_vm, is_vm_resumed, pause_vm, is_vm_paused, false },
	{ "reset", reset, is_reset, NULL, NULL, false },
	{ "grow", grow_memory, is_memory_changed, NULL, NULL, false },
	{ "shrink", shrink_memory, is_memory_changed, grow_memory, is_memory_changed, false },
	{ "remove", remove_memory, is_memory_changed, NULL, NULL, false },
	{ "kick", set_kick, are_notifiers_set, NULL, NULL, false },
	{ "call", set_call, are_notifiers_set, NULL, NULL, false },
	{ "start-log", start_log, is_log_changed, NULL, NULL, false },
	{ "stop-log", stop_log, is_log_changed, start_log, is_log_changed, false },
	{ "shadow-on", set_shadow_on, is_path_changed, NULL, NULL, false },
	{ "shadow-off", set_shadow_off, is_path_changed, NULL, NULL, false },
	{ "shadow-auto", set_shadow_auto, is_path_changed, NULL, NULL, false },
	{ "limits", set_limits, is_path_changed, NULL, NULL, false },
	{ "end-limits", end_limits, is_path_changed, set_limits, is_path_changed, false },
	{ "wce", write_wce, is_wce_written, NULL, NULL, false },
	{ "resize", resize, is_resized, NULL, NULL, false },
	{ "hang-up", hang_up, is_running, NULL, NULL, false },
	{ "die", die, is_over, NULL, NULL, false },
	{ "area", make_area, is_area_made, NULL, NULL, false },
	{ "upgrade", prepare_upgrade, is_upgrade_prepared, NULL, NULL, false },
	{ "cancel-upgrade", cancel_upgrade, is_over, prepare_upgrade, is_upgrade_prepared, false },
	{ "shut-down", shut_down, is_over, NULL, NULL, true },
	{ "unrealize", unrealize, is_over, NULL, NULL, true },
};

/* --- runs ------------------------------------------------------------------------------------- */

/* Makes everything run that an operation may have stopped. */
static void let_run(void)
{
	combos_revive();
	vublk_device_handover_cancel(combos_rig.device);
	vublk_device_set_paused(combos_rig.device, false);
	vublk_device_set_vm_running(combos_rig.device, true);
}

static void finish(const struct op *const *run, unsigned count)
{
	let_run();
	combos_is_quiet = true;
	for (unsigned i = 0; i < count; i++)
		combos_wait_until(run[i]->is_over, run[i]->name);
	combos_wait_until(combos_is_idle, "requests are left");
	combos_check_disk();
	for (unsigned i = 0; i < RIG_NUM_CALLBACKS; i++)
		if (expected[i] && combos_rig.calls[i] != expected[i])
			fail_msg("%s: callback %u was called %u times, expected %u", combos_run, i,
				 combos_rig.calls[i], expected[i]);
	if (combos_rig.num_timeouts)
		fail_msg("%s: %s", combos_run, combos_rig.last_timeout);
}

static void begin_op(const struct op *op)
{
	int r;

	refusal = (struct vublk_error){ 0 };
	r = op->begin();
	if (combos_rig.quiet == false)
		printf("# --- %s: %d %s\n", op->name, r, r < 0 ? refusal.text : "");
	if (r < 0 && !refusal.text[0])
		fail_msg("%s: %s was refused without a sentence", combos_run, op->name);
}

static bool are_over(const struct op *const *run, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (!run[i]->is_over())
			return false;
	return true;
}

static unsigned order_of(const struct op *op)
{
	return op->prepare == begin_mirror ? 0 : op->prepare == prepare_upgrade ? 2 : 1;
}

/*
 * Prepares a mirror first, because a disk that is paused copies nothing, and an upgrade last, because
 * it delays changes of the path.
 */
static void prepare(const struct op *const *run, unsigned count)
{
	combos_is_quiet = true;
	for (unsigned order = 0; order < 3; order++)
		for (unsigned i = 0; i < count; i++)
			if (run[i]->prepare && order_of(run[i]) == order && run[i]->prepare() >= 0)
				combos_wait_until(run[i]->is_prepared, "the preparation");
	combos_is_quiet = false;
}

/* Operation i + 1 begins turns[i] turns after operation i. Returns how long operation 0 took. */
static unsigned run_ops(const char *shadow, const struct op *const *run, unsigned count,
			const unsigned *turns)
{
	unsigned took = 0;
	bool ends = false;

	memset(expected, 0, sizeof(expected));
	combos_begin(shadow);
	prepare(run, count);
	for (unsigned i = 0; i < count && !ends; i++) {
		begin_op(run[i]);
		ends = run[i]->is_last;
		for (unsigned k = 0; i + 1 < count && k < turns[i] && !ends; k++)
			combos_turn();
	}
	for (; !ends && took < PATIENCE && !are_over(run, count); took++)
		combos_turn();
	if (!ends)
		finish(run, count);
	combos_end();
	return took;
}

static const char *const paths[] = { "on", "off", "auto" };

static bool is_selected(unsigned field, const char *name)
{
	const char *text = getenv("VUBLK_COMBOS");
	char fields[4][40] = { "-", "-", "-", "-" };

	if (!text)
		return true;
	sscanf(text, "%39s %39s %39s %39s", fields[0], fields[1], fields[2], fields[3]);
	return !strcmp(fields[field], "-") || !strcmp(fields[field], name);
}

static void run_pair(const char *path, const struct op *first, const struct op *second, unsigned at)
{
	const struct op *const run[] = { first, second };
	char text[20];

	snprintf(text, sizeof(text), "%u", at);
	if (!is_selected(3, text))
		return;
	snprintf(combos_run, sizeof(combos_run), "VUBLK_COMBOS='%s %s %s %u'", path, first->name, second->name, at);
	run_ops(path, run, 2, &at);
}

/* Returns how many turns the operation takes. */
static unsigned measure(const char *path, const struct op *op)
{
	unsigned turns;

	snprintf(combos_run, sizeof(combos_run), "%s %s", path, op->name);
	turns = run_ops(path, &op, 1, NULL);
	if (getenv("VUBLK_COMBOS"))
		printf("# %s takes %u turns\n", combos_run, turns);
	return turns;
}

static void run_pair_at_each_turn(const char *path, const struct op *first, const struct op *second)
{
	unsigned turns = measure(path, first);

	for (unsigned at = 0; at <= turns; at++)
		run_pair(path, first, second, at);
}

/*
 * With VUBLK_COMBOS, the second operation begins at each turn of the first. Otherwise each run of
 * the test has half of the pairs, and the second operation begins at one turn.
 */
static void run_pairs(const char *path)
{
	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(ops); i++) {
		unsigned turns;

		if (ops[i].is_last || !is_selected(0, path) || !is_selected(1, ops[i].name))
			continue;
		turns = measure(path, &ops[i]);
		for (unsigned k = 0; k < VUBLK_ARRAY_SIZE(ops); k++) {
			if (!is_selected(2, ops[k].name))
				continue;
			if (getenv("VUBLK_COMBOS"))
				run_pair_at_each_turn(path, &ops[i], &ops[k]);
			else if (combos_below(2))
				run_pair(path, &ops[i], &ops[k], combos_below(turns + 1));
		}
	}
}

static const struct op *find_op(const char *name)
{
	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(ops); i++)
		if (!strcmp(ops[i].name, name))
			return &ops[i];
	fail_msg("there is no operation '%s'", name);
	return NULL;
}

static void choose_seed(void)
{
	const char *text = getenv("VUBLK_COMBOS_SEED");

	combos_seed = text ? strtoull(text, NULL, 10) : vublk_now_ns();
	printf("# VUBLK_COMBOS_SEED=%llu\n", (unsigned long long)combos_seed);
}

static void test_pairs_with_shadow_rings(void **state)
{
	choose_seed();
	run_pairs(paths[0]);
}

static void test_pairs_on_the_direct_path(void **state)
{
	choose_seed();
	run_pairs(paths[1]);
}

static void test_pairs_on_either_path(void **state)
{
	choose_seed();
	run_pairs(paths[2]);
}

/*
 * A change of the memory cancels an exchange that has given the back-end idle descriptors, and the
 * next exchange begins before the back-end has the driver's descriptors again.
 */
static void test_an_exchange_after_one_that_had_parked(void **state)
{
	run_pair_at_each_turn("off", find_op("switch"), find_op("grow"));
}

/* While the log is on, it needs the shadow rings, which the property and the limits no longer need. */
static void test_the_end_of_the_log_changes_the_path(void **state)
{
	run_pair_at_each_turn("on", find_op("shadow-off"), find_op("stop-log"));
	run_pair_at_each_turn("off", find_op("end-limits"), find_op("stop-log"));
}

/* A mirror cannot be handed to the new process. */
static void test_no_mirror_begins_during_an_upgrade(void **state)
{
	combos_begin("off");
	assert_int_equal(prepare_upgrade(), 1);
	assert_int_equal(begin_mirror(), -EBUSY);
	cancel_upgrade();
	assert_int_equal(begin_mirror(), 1);
	combos_is_quiet = true;
	combos_wait_until(is_mirrored, "the mirror");
	combos_end();
}

/* The connection has memory of the shadow rings, so the log needs the shadow rings, too. */
static void test_the_log_starts_during_an_upgrade(void **state)
{
	combos_begin("on");
	set_shadow_off();
	combos_wait_until(is_path_changed, "the change of the path");
	assert_int_equal(prepare_upgrade(), 1);
	memset(expected, 0, sizeof(expected));
	assert_int_equal(start_log(), 1);
	combos_wait_until(is_log_changed, "the log");
	combos_wait_until(is_upgrade_prepared, "the upgrade");
	combos_end();
}

static void test_triples(void **state)
{
	const struct op *run[3];
	unsigned turns[2];

	choose_seed();
	for (unsigned i = 0; i < vublk_test_rounds(200) && !getenv("VUBLK_COMBOS"); i++) {
		const char *path = paths[combos_below(3)];
		uint64_t began = combos_seed;

		for (unsigned k = 0; k < 3; k++)
			run[k] = &ops[combos_below(VUBLK_ARRAY_SIZE(ops))];
		for (unsigned k = 0; k < 2; k++)
			turns[k] = combos_below(30);
		snprintf(combos_run, sizeof(combos_run), "VUBLK_COMBOS_SEED=%llu: %s %s %u %s %u %s", (unsigned long long)began,
			 path, run[0]->name, turns[0], run[1]->name, turns[1], run[2]->name);
		run_ops(path, run, 3, turns);
	}
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_pairs_with_shadow_rings),
		VUBLK_TEST(test_pairs_on_the_direct_path),
		VUBLK_TEST(test_pairs_on_either_path),
		VUBLK_TEST(test_triples),
		VUBLK_TEST(test_no_mirror_begins_during_an_upgrade),
		VUBLK_TEST(test_the_log_starts_during_an_upgrade),
		VUBLK_TEST(test_the_end_of_the_log_changes_the_path),
		VUBLK_TEST(test_an_exchange_after_one_that_had_parked),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
