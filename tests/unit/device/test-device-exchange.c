/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The path of requests, direct or through shadow rings: how the device chooses it, and how it
 * exchanges one path for the other, step by step. The back-end executes nothing. The drawing of the
 * phases is in docs/exchange-phases.md.
 *
 * test-device-exchange --write-drawing regenerates the drawing.
 */
#include "drawing.h"
#include "harness.h"

#include "mock/device-rig.h"

#include "device/device.h"
#include "util/atomic.h"
#include "util/checked.h"
#include "util/fd.h"
#include "util/loop.h"

#include <vublk/shadow.h>

#include <errno.h>
#include <linux/vhost_types.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <string.h>

#define DRAWING VUBLK_SOURCE_ROOT "/docs/exchange-phases.md"
#define STEPS 40 /* an exchange has fewer messages */
#define TIME_LIMIT_NS (UINT64_C(20) * 1000000000)

static void prepare(struct device_rig *rig, struct mock *mock, const char *shadow)
{
	rig_prepare(rig, mock, "1");
	mock->keeps_base = true;
	mock->features |= VUBLK_BIT(VHOST_F_LOG_ALL);
	rig_set(rig, "shadow", shadow);
	rig_set(rig, "request-timeout-ms", "20000");
	rig_set(rig, "keepalive-ms", "0");
}

static void begin(struct device_rig *rig, struct mock *mock, const char *shadow)
{
	prepare(rig, mock, shadow);
	rig_realize(rig);
	rig_start(rig, 1);
}

static struct vublk_shadow_info info_of(const struct device_rig *rig)
{
	struct vublk_shadow_info info;

	vublk_device_get_shadow(rig->device, &info, sizeof(info));
	return info;
}

static void set(struct device_rig *rig, enum vublk_shadow shadow)
{
	struct vublk_error error;

	if (vublk_device_set_shadow(rig->device, shadow, &error) < 0)
		fail_msg("%s", error.text);
}

/* Runs the device and the back-end until the exchange is over. */
static void settle(struct device_rig *rig)
{
	uint64_t until = vublk_now_ns() + TIME_LIMIT_NS;

	while (info_of(rig).is_changing) {
		rig_turn(rig, 1);
		assert_true(vublk_now_ns() < until);
	}
}

static void expect_path(struct device_rig *rig, bool is_shadowed)
{
	settle(rig);
	assert_int_equal(vublk_device_state(rig->device), VUBLK_DEVICE_RUNNING);
	assert_int_equal(info_of(rig).is_shadowed, is_shadowed);
	assert_string_equal(info_of(rig).refusal, "");
}

/* --- the setting ------------------------------------------------------------------ */

static void test_values(void **state)
{
	const struct { const char *text, *value; } cases[] = {
		{ "on", "on" }, { "off", "off" }, { "auto", "auto" }, { "yes", "on" },
		{ "no", "off" }, { "true", "on" }, { "false", "off" },
	};
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;
	char value[8];

	rig_prepare(&rig, &mock, NULL);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		rig_set(&rig, "shadow", cases[i].text);
		assert_int_equal(vublk_device_get_property(rig.device, "shadow", value,
							   sizeof(value), NULL), 0);
		assert_string_equal(value, cases[i].value);
	}
	assert_int_equal(vublk_device_set_property(rig.device, "shadow", "maybe", &error), -EINVAL);
	assert_string_equal(error.text, "shadow must be off, on or auto, not 'maybe'");
	assert_int_equal(vublk_device_set_shadow(rig.device, 3, &error), -EINVAL);
	assert_string_equal(vublk_shadow_name(3), "unknown");
	rig_end(&rig, &mock);
}

static void test_auto(void **state)
{
	for (unsigned number = 0; number < 4; number++) {
		bool has_area = number & 1, reconnects = number & 2;
		struct mock mock;
		struct device_rig rig;

		prepare(&rig, &mock, "auto");
		rig_set(&rig, "reconnect-ms", reconnects ? "1" : "0");
		if (!has_area)
			mock.protocol_features &= ~VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD);
		rig_realize(&rig);
		rig_start(&rig, 1);
		expect_path(&rig, reconnects && !has_area);
		assert_string_equal(info_of(&rig).reasons,
				    reconnects && !has_area ? "no in-flight area" : "");
		rig_end(&rig, &mock);
	}
}

/*
 * With `auto`, the path depends on whether the back-end records requests in an in-flight area, so
 * the path can change with each back-end.
 */
static void test_auto_after_a_loss(void **state)
{
	struct mock mock;
	struct device_rig rig;

	begin(&rig, &mock, "auto");
	for (unsigned i = 1; i < 5; i++) {
		mock.protocol_features ^= VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD);
		mock_hang_up(&mock);
		rig_wait(&rig, RIG_STARTED, i + 1);
		expect_path(&rig, i % 2);
	}
	assert_int_equal(rig.calls[RIG_NEEDS_RESET], 0);
	rig_end(&rig, &mock);
}

/* --- no room ------------------------------------------------------------------------ */

static void test_no_slot(void **state)
{
	struct vublk_device_info info;
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;

	prepare(&rig, &mock, "auto");
	mock.protocol_features &= ~VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD);
	mock.memory_slots = 1;
	rig_realize(&rig);
	vublk_device_get_info(rig.device, &info, sizeof(info));
	assert_int_equal(info.backend_memory_slots, 0); /* the number that a bus should offer */
	rig_start(&rig, 1);
	settle(&rig);
	assert_false(info_of(&rig).is_shadowed);
	assert_non_null(strstr(info_of(&rig).refusal, "but the back-end accepts only 1"));
	assert_non_null(strstr(rig.last_line, "requests stay on the direct path: "));
	assert_int_equal(rig.num_warnings, 1);
	assert_int_equal(vublk_device_set_shadow(rig.device, VUBLK_SHADOW_ON, &error), -ENOSPC);
	assert_non_null(strstr(error.text, "cannot use shadow rings: "));
	assert_int_equal(info_of(&rig).wanted, VUBLK_SHADOW_AUTO);
	rig_end(&rig, &mock);
}

/*
 * Without CONFIGURE_MEM_SLOTS, a back-end accepts eight regions. Shadow rings need one of them, so
 * there is room for at most seven regions of the guest.
 */
static void test_eight_regions(void **state)
{
	for (unsigned num_regions = 7; num_regions <= 8; num_regions++) {
		struct vublk_memory_region regions[8];
		struct vublk_device_info info;
		struct mock mock;
		struct device_rig rig;

		prepare(&rig, &mock, "auto");
		mock.protocol_features &= ~(VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD) |
					    VUBLK_BIT(VUBLK_VU_F_CONFIGURE_MEM_SLOTS));
		rig_realize(&rig);
		vublk_device_get_info(rig.device, &info, sizeof(info));
		assert_int_equal(info.backend_memory_slots, 7);
		rig_set_up(&rig, 1);
		for (unsigned i = 0; i < num_regions; i++)
			regions[i] = (struct vublk_memory_region){ i * 4096, 4096, rig.memfd, 0 };
		regions[0] = (struct vublk_memory_region){ RIG_GUEST_ADDR, RIG_MEMORY_BYTES,
							   rig.memfd, 0 };
		assert_int_equal(vublk_device_set_memory(rig.device, regions, num_regions, NULL), 0);
		assert_int_equal(vublk_device_set_status(rig.device, VIRTIO_CONFIG_S_DRIVER_OK, NULL), 0);
		rig_wait(&rig, RIG_STARTED, 1);
		settle(&rig);
		assert_int_equal(info_of(&rig).is_shadowed, num_regions == 7);
		assert_int_equal(mock.num_regions, 8);
		if (num_regions == 8)
			assert_non_null(strstr(info_of(&rig).refusal,
					       "but the back-end accepts only 8"));
		rig_end(&rig, &mock);
	}
}

/* --- exchanges ------------------------------------------------------------------------ */

static void test_to_and_fro(void **state)
{
	struct mock mock;
	struct device_rig rig;

	begin(&rig, &mock, "off");
	for (unsigned i = 1; i <= 10; i++) {
		vublk_eventfd_clear(rig.callfds[0]);
		set(&rig, i % 2 ? VUBLK_SHADOW_ON : VUBLK_SHADOW_OFF);
		assert_true(info_of(&rig).is_changing);
		expect_path(&rig, i % 2);
		assert_int_equal(rig.calls[RIG_STARTED], 1 + i);
		assert_int_equal(rig.calls[RIG_STOPPED], 0);
		assert_int_equal(mock.num_regions, 2); /* the plane's region stays */
		assert_int_equal(vublk_eventfd_clear(rig.callfds[0]), 1);
	}
	rig_end(&rig, &mock);
}

static struct {
	unsigned calls, refusals;
	enum vublk_device_path path;
} notice;

static void on_settled(void *opaque, enum vublk_device_path path,
		       const struct vublk_error *refusal)
{
	notice.calls++;
	notice.refusals += refusal != NULL;
	notice.path = path;
}

/* Shadow rings stay while at least one feature needs them. */
static void test_reasons(void **state)
{
	struct mock mock;
	struct device_rig rig;

	begin(&rig, &mock, "off");
	vublk_device_want_shadow(rig.device, VUBLK_DEVICE_SHADOW_FOR_MIRROR, true, on_settled, NULL);
	assert_int_equal(notice.calls, 0);
	settle(&rig);
	rig_settle(&rig);
	assert_int_equal(notice.calls, 1);
	assert_int_equal(notice.path, VUBLK_DEVICE_PATH_SHADOW);
	vublk_device_want_shadow(rig.device, VUBLK_DEVICE_SHADOW_FOR_TRACE, true, on_settled, NULL);
	rig_settle(&rig);
	assert_int_equal(notice.calls, 2);
	assert_string_equal(info_of(&rig).reasons, "trace, mirror");
	vublk_device_want_shadow(rig.device, VUBLK_DEVICE_SHADOW_FOR_MIRROR, false, NULL, NULL);
	rig_settle(&rig);
	expect_path(&rig, true);
	vublk_device_want_shadow(rig.device, VUBLK_DEVICE_SHADOW_FOR_TRACE, false, on_settled,
				 NULL);
	expect_path(&rig, false);
	rig_settle(&rig);
	assert_int_equal(notice.calls, 3);
	assert_int_equal(notice.refusals, 0);
	rig_end(&rig, &mock);
}

/* --- exchanges that fail ------------------------------------------------------------- */

/*
 * The mock completes no request, so neither path drains. The exchange ends after
 * request-timeout-ms, and the old path stays.
 */
static void test_overdue(void **state)
{
	const char data[512] = "data";

	for (unsigned shadowed = 0; shadowed < 2; shadowed++) {
		struct mock mock;
		struct device_rig rig;
		unsigned warnings;

		prepare(&rig, &mock, shadowed ? "on" : "off");
		rig_set(&rig, "request-timeout-ms", "100");
		rig_realize(&rig);
		rig_start(&rig, 1);
		rig_submit(&rig, 0, VIRTIO_BLK_T_OUT, 0, data, sizeof(data));
		while (shadowed && !vublk_plane_thread_outstanding(rig.device->shadow.thread))
			rig_turn(&rig, 1);
		warnings = rig.num_warnings;
		set(&rig, shadowed ? VUBLK_SHADOW_OFF : VUBLK_SHADOW_ON);
		settle(&rig);
		assert_int_equal(info_of(&rig).is_shadowed, shadowed);
		assert_non_null(strstr(info_of(&rig).refusal, "not completed within 100 ms"));
		assert_int_equal(rig.num_warnings, warnings + 1);
		assert_int_equal(rig.calls[RIG_STARTED], 1);
		assert_int_equal(rig.calls[RIG_LOST], 0);
		assert_int_equal(mock.received[VUBLK_VU_GET_VRING_BASE], 0);
		rig_end(&rig, &mock);
	}
}

/*
 * The index in the answer to GET_VRING_BASE shows that the back-end still has incomplete requests.
 */
static void test_undrained(void **state)
{
	struct mock mock;
	struct device_rig rig;

	begin(&rig, &mock, "off");
	mock.base = 3;
	set(&rig, VUBLK_SHADOW_ON);
	settle(&rig);
	assert_false(info_of(&rig).is_shadowed);
	assert_non_null(strstr(info_of(&rig).refusal, "queue 0 at index 3 with 3 requests outst"));
	assert_int_equal(vublk_device_state(rig.device), VUBLK_DEVICE_RUNNING);
	/* the ring resumes after the requests that the back-end has */
	assert_int_equal(mock.given_bases[0], 3);
	assert_int_equal(rig.calls[RIG_STARTED], 2);
	set(&rig, VUBLK_SHADOW_ON); /* a second attempt, which succeeds */
	mock.base = 0;
	expect_path(&rig, true);
	rig_end(&rig, &mock);
}

/*
 * An operator pauses the disk after an exchange was refused. The pause does not wait for that
 * exchange.
 */
static void test_pause_after_a_refusal(void **state)
{
	for (unsigned shadowed = 0; shadowed < 2; shadowed++) {
		uint64_t until = vublk_now_ns() + TIME_LIMIT_NS;
		struct mock mock;
		struct device_rig rig;

		begin(&rig, &mock, shadowed ? "on" : "off");
		mock.fault = (struct mock_fault){
			.kind = MOCK_REFUSE, .request = VUBLK_VU_SET_VRING_CALL,
		};
		mock.answers[VUBLK_VU_SET_VRING_CALL] = 0;
		set(&rig, shadowed ? VUBLK_SHADOW_OFF : VUBLK_SHADOW_ON);
		settle(&rig);
		assert_string_not_equal(info_of(&rig).refusal, "");
		mock.fault.kind = MOCK_NO_FAULT;
		vublk_device_set_paused(rig.device, true);
		while (!vublk_device_is_paused(rig.device)) {
			rig_turn(&rig, 1);
			assert_true(vublk_now_ns() < until);
		}
		vublk_device_set_paused(rig.device, false);
		rig_wait(&rig, RIG_STARTED, 3);
		assert_int_equal(info_of(&rig).is_shadowed, shadowed);
		rig_end(&rig, &mock);
	}
}

/*
 * The back-end refuses one message of the exchange. Requests stay on the old path, whichever
 * message it is.
 */
static void test_refused(void **state)
{
	const uint32_t requests[] = {
		VUBLK_VU_ADD_MEM_REG, VUBLK_VU_SET_INFLIGHT_FD, VUBLK_VU_SET_VRING_CALL,
		VUBLK_VU_SET_VRING_KICK,
	};

	for (unsigned i = 0; i < 2 * VUBLK_ARRAY_SIZE(requests); i++) {
		bool shadowed = i & 1;
		struct mock mock;
		struct device_rig rig;

		/* this exchange sends no region, because the back-end has all memory */
		if (shadowed && !(i / 2))
			continue;
		begin(&rig, &mock, shadowed ? "on" : "off");
		mock.fault = (struct mock_fault){ .kind = MOCK_REFUSE, .request = requests[i / 2] };
		mock.fault.nth = mock.answers[requests[i / 2]];
		if (requests[i / 2] == VUBLK_VU_SET_VRING_KICK && !shadowed)
			mock.fault.nth++; /* the first such message stops the direct path */
		set(&rig, shadowed ? VUBLK_SHADOW_OFF : VUBLK_SHADOW_ON);
		settle(&rig);
		assert_int_equal(info_of(&rig).is_shadowed, shadowed);
		assert_non_null(strstr(info_of(&rig).refusal,
				       i / 2 == 1 ? "refused an in-flight area" : "refused"));
		assert_int_equal(rig.calls[RIG_LOST], 0);
		assert_int_equal(rig.calls[RIG_STARTED], 2);
		assert_int_equal(rig.calls[RIG_STOPPED], 0);
		assert_int_equal(vublk_device_state(rig.device), VUBLK_DEVICE_RUNNING);
		set(&rig, shadowed ? VUBLK_SHADOW_OFF : VUBLK_SHADOW_ON);
		mock.fault.kind = MOCK_NO_FAULT;
		expect_path(&rig, !shadowed);
		rig_end(&rig, &mock);
	}
}

/* --- events during an exchange ------------------------------------------------------------- */

enum middle {
	MIDDLE_LOSS, MIDDLE_RESET, MIDDLE_PAUSE, MIDDLE_QUEUE, MIDDLE_KICK, MIDDLE_CALL,
	MIDDLE_MEMORY, MIDDLE_LESS_MEMORY, MIDDLE_LOG, MIDDLE_BACK, MIDDLE_UNREALIZE, MIDDLE_NUM,
};

static void finish_loss(struct device_rig *rig, struct mock *mock, bool wanted)
{
	unsigned starts = rig->calls[RIG_STARTED];

	mock_hang_up(mock);
	rig_wait(rig, RIG_LOST, 1);
	rig_wait(rig, RIG_STARTED, starts + 1);
	expect_path(rig, wanted);
}

static void finish_reset(struct device_rig *rig, bool wanted)
{
	assert_int_equal(vublk_device_set_status(rig->device, 0, NULL), 0);
	rig_wait(rig, RIG_STOPPED, 1);
	assert_int_equal(rig->errors[RIG_STOPPED].code, 0);
	rig_start(rig, 1);
	expect_path(rig, wanted);
}

static void finish_pause(struct device_rig *rig, bool wanted)
{
	struct vublk_device_place place;

	assert_int_equal(vublk_device_set_vm_running(rig->device, false), 1);
	rig_wait(rig, RIG_STOPPED, 1);
	assert_int_equal(rig->errors[RIG_STOPPED].code, 0);
	assert_int_equal(vublk_device_queue_place(rig->device, 0, &place, sizeof(place), NULL), 0);
	assert_true(place.is_known);
	assert_int_equal(place.undrained, 0);
	vublk_device_set_vm_running(rig->device, true);
	rig_settle(rig);
	expect_path(rig, wanted);
}

/*
 * Acts like the relay when the VMM disables a queue and later enables it again. Each time, pauses
 * the device, which stops all rings, and starts the enabled queues as a new session.
 */
static void finish_queue(struct device_rig *rig, struct mock *mock, bool wanted)
{
	for (unsigned num_queues = 1; num_queues <= 2; num_queues++) {
		struct vublk_device_place place;

		rig_pause(rig);
		for (unsigned i = 0; i < 3 - num_queues; i++) {
			assert_int_equal(vublk_device_queue_place(rig->device, i, &place,
								  sizeof(place), NULL), 0);
			assert_true(place.is_known);
			assert_int_equal(place.base, 0);
			assert_int_equal(place.outstanding, 0);
		}
		assert_int_equal(vublk_device_set_status(rig->device, 0, NULL), 0);
		vublk_device_set_vm_running(rig->device, true);
		mock_forget(mock);
		rig_start(rig, num_queues);
		expect_path(rig, wanted);
		assert_int_equal(mock->received[VUBLK_VU_SET_VRING_ADDR], num_queues);
	}
}

static void finish_notifier(struct device_rig *rig, bool kick, bool wanted)
{
	int *fd = kick ? &rig->kicks[0] : &rig->callfds[0], made = vublk_eventfd_new();
	int r = kick ? vublk_device_set_queue_kick(rig->device, 0, made, NULL) :
		       vublk_device_set_queue_call(rig->device, 0, made, NULL);

	assert_true(r >= 0);
	vublk_fd_close(fd);
	*fd = made;
	if (r > 0)
		rig_wait(rig, RIG_NOTIFIERS_CHANGED, 1);
	expect_path(rig, wanted);
	if (!kick)
		assert_int_equal(vublk_eventfd_clear(made), 1);
}

/*
 * Sets the guest's memory: the region with the rings, and a small one below it if `num_regions` is
 * 2. Returns what vublk_device_set_memory() returns.
 */
static int set_memory(struct device_rig *rig, unsigned num_regions)
{
	struct vublk_memory_region regions[2] = {
		{ RIG_GUEST_ADDR, RIG_MEMORY_BYTES, rig->memfd, 0 },
		{ 0x1000, 4096, rig->memfd, 0 },
	};

	return vublk_device_set_memory(rig->device, regions, num_regions, NULL);
}

static void change_memory(struct device_rig *rig, unsigned num_regions)
{
	unsigned calls = rig->calls[RIG_MEMORY_CHANGED];
	int r;

	/* During a start or a stop, the memory cannot change, so the test tries again. */
	while ((r = set_memory(rig, num_regions)) == -EBUSY)
		rig_turn(rig, 1);
	assert_int_equal(r, 1);
	rig_wait(rig, RIG_MEMORY_CHANGED, calls + 1);
	assert_int_equal(rig->errors[RIG_MEMORY_CHANGED].code, 0);
}

static void finish_memory(struct device_rig *rig, struct mock *mock, unsigned num_regions,
			  bool wanted)
{
	change_memory(rig, num_regions);
	expect_path(rig, wanted);
	assert_int_equal(mock->num_regions, num_regions + 1); /* one more is the plane's */
}

static void finish_log(struct device_rig *rig, struct mock *mock, bool wanted)
{
	struct vublk_error error;
	int r = vublk_device_dirty_log_start(rig->device, NULL, 0, &error);

	if (r < 0)
		fail_msg("%s", error.text);
	if (r > 0)
		rig_wait(rig, RIG_DIRTY_LOG_CHANGED, 1);
	assert_int_equal(rig->errors[RIG_DIRTY_LOG_CHANGED].code, 0);
	settle(rig);
	/* With shadow rings, the plane marks the pages itself, so the back-end does not log. */
	assert_true(info_of(rig).is_shadowed);
	assert_false(mock->accepted_features & VUBLK_BIT(VHOST_F_LOG_ALL));
	r = vublk_device_dirty_log_stop(rig->device, NULL);
	if (r > 0)
		rig_wait(rig, RIG_DIRTY_LOG_CHANGED, 2);
	vublk_device_want_shadow(rig->device, VUBLK_DEVICE_SHADOW_FOR_TRACE, false, NULL, NULL);
	expect_path(rig, wanted);
}

static void finish(struct device_rig *rig, struct mock *mock, enum middle what, bool wanted)
{
	switch (what) {
	case MIDDLE_LOSS:
		finish_loss(rig, mock, wanted);
		break;
	case MIDDLE_RESET:
		finish_reset(rig, wanted);
		break;
	case MIDDLE_PAUSE:
		finish_pause(rig, wanted);
		break;
	case MIDDLE_QUEUE:
		finish_queue(rig, mock, wanted);
		break;
	case MIDDLE_KICK:
	case MIDDLE_CALL:
		finish_notifier(rig, what == MIDDLE_KICK, wanted);
		break;
	case MIDDLE_MEMORY:
	case MIDDLE_LESS_MEMORY:
		finish_memory(rig, mock, what == MIDDLE_MEMORY ? 2 : 1, wanted);
		break;
	case MIDDLE_LOG:
		finish_log(rig, mock, wanted);
		break;
	case MIDDLE_BACK:
		set(rig, wanted ? VUBLK_SHADOW_OFF : VUBLK_SHADOW_ON);
		rig_settle(rig);
		expect_path(rig, !wanted);
		break;
	default:
		vublk_device_unrealize(rig->device);
		break;
	}
}

/*
 * Begins an exchange, to shadow rings if `wanted` is set and otherwise to the direct path. Runs the
 * mock and the device for `steps` steps. Returns whether the exchange is still under way.
 */
static bool run_to_step(struct device_rig *rig, struct mock *mock, enum middle what, bool wanted,
			unsigned steps)
{
	prepare(rig, mock, "on"); /* the plane's memory is in the table from the beginning */
	rig_realize(rig);
	rig_start(rig, what == MIDDLE_QUEUE ? 2 : 1);
	if (what == MIDDLE_LESS_MEMORY)
		change_memory(rig, 2);
	if (wanted) {
		set(rig, VUBLK_SHADOW_OFF);
		expect_path(rig, false);
	}
	mock_forget(mock);
	memset(rig->calls, 0, sizeof(rig->calls));
	set(rig, wanted ? VUBLK_SHADOW_ON : VUBLK_SHADOW_OFF);
	for (unsigned i = 0; i < steps; i++) {
		mock_pump_once(mock);
		vublk_device_process(rig->device);
	}
	return info_of(rig).is_changing;
}

static void test_each_step(void **state)
{
	for (unsigned what = 0; what < MIDDLE_NUM; what++)
		for (unsigned wanted = 0; wanted < 2; wanted++) {
			unsigned steps = 0;
			bool is_inside = true;

			for (; is_inside; steps++) {
				struct mock mock;
				struct device_rig rig;

				is_inside = run_to_step(&rig, &mock, what, wanted, steps);
				rig.quiet = true;
				finish(&rig, &mock, what, wanted);
				assert_int_equal(rig.calls[RIG_NEEDS_RESET], 0);
				rig_end(&rig, &mock);
			}
			assert_in_range(steps, 6, STEPS);
		}
}

/*
 * At each step of an exchange, no two rings have the same kick descriptor. Some back-ends, such as
 * qemu-storage-daemon 11.1, signal the descriptors themselves. If two rings shared a descriptor, a
 * read for one ring would clear the signal for the other, whose read would then fail.
 */
static void test_own_kicks(void **state)
{
	for (unsigned wanted = 0; wanted < 2; wanted++) {
		struct mock mock;
		struct device_rig rig;

		prepare(&rig, &mock, wanted ? "off" : "on");
		rig_realize(&rig);
		rig_start(&rig, 2);
		set(&rig, wanted ? VUBLK_SHADOW_ON : VUBLK_SHADOW_OFF);
		while (info_of(&rig).is_changing) {
			rig_turn(&rig, 1);
			if (mock.kick_fds[0] < 0 || mock.kick_fds[1] < 0)
				continue;
			vublk_eventfd_clear(mock.kick_fds[1]);
			vublk_eventfd_signal(mock.kick_fds[0]);
			assert_int_equal(vublk_eventfd_clear(mock.kick_fds[1]), 0);
		}
		expect_path(&rig, wanted);
		rig_end(&rig, &mock);
	}
}

static void turn(struct device_rig *rig, unsigned count)
{
	while (count--)
		rig_turn(rig, 1);
}

/*
 * The device gives the back-end another kick descriptor, so that it takes no more requests. Like
 * qemu-storage-daemon 11.1, the back-end signals this descriptor itself. After it has confirmed the
 * descriptor, it reads the signal and takes a request. If asked for the ring, it does not wait for
 * this request. So the device must not ask for the ring before the request is complete.
 */
static void test_signalled_kick(void **state)
{
	const char data[512] = "data";
	struct mock mock;
	struct device_rig rig;

	begin(&rig, &mock, "off");
	mock_forget(&mock);
	set(&rig, VUBLK_SHADOW_ON);
	while (!mock.received[VUBLK_VU_SET_VRING_KICK]) {
		vublk_device_process(rig.device);
		mock_pump_once(&mock);
	}
	vublk_eventfd_signal(mock.kick_fds[0]);
	turn(&rig, STEPS);
	assert_int_equal(mock.received[VUBLK_VU_GET_VRING_BASE], 0);
	rig_submit(&rig, 0, VIRTIO_BLK_T_OUT, 0, data, sizeof(data));
	rig_set_avail_event(&rig, 0, 1);
	vublk_eventfd_clear(mock.kick_fds[0]);
	turn(&rig, STEPS);
	assert_int_equal(mock.received[VUBLK_VU_GET_VRING_BASE], 0);
	rig_set_indices(&rig, 0, 1, 1);
	mock.base = 1;
	expect_path(&rig, true);
	rig_end(&rig, &mock);
}

/* --- the table ------------------------------------------------------------------------- */

static const char *const phase_sentences[VUBLK_DEVICE_EXCHANGE_NUM_PHASES] = {
	[VUBLK_DEVICE_EXCHANGE_NONE] = "No exchange is under way.",
	[VUBLK_DEVICE_EXCHANGE_DRAINING] = "The present path completes its requests. The plane takes no "
		"more; on the direct path, the device waits until the used indices show that the "
		"back-end is not stuck.",
	[VUBLK_DEVICE_EXCHANGE_PARKING] = "A back-end that has the guest's rings has been given other "
		"kick descriptors, so it takes no more requests, and completes those that it has.",
	[VUBLK_DEVICE_EXCHANGE_STOPPING] = "The back-end has been asked for the rings.",
	[VUBLK_DEVICE_EXCHANGE_STARTING] = "The rings are being started on the other path.",
	[VUBLK_DEVICE_EXCHANGE_UNDOING] = "The rings are being started on the old path again.",
	[VUBLK_DEVICE_EXCHANGE_REFUSED] = "The old path continues until the request for another path, the "
		"driver's session or the back-end changes.",
};

static const char *const event_sentences[VUBLK_DEVICE_EXCHANGE_NUM_EVENTS] = {
	[VUBLK_DEVICE_EXCHANGE_EVENT_BEGIN] = "the rings run, and the other path is wanted",
	[VUBLK_DEVICE_EXCHANGE_EVENT_START] = "the rings are started with the plane, although the direct "
		"path would do",
	[VUBLK_DEVICE_EXCHANGE_EVENT_ALIVE] = "on the direct path: the back-end has completed as many "
		"requests as were outstanding",
	[VUBLK_DEVICE_EXCHANGE_EVENT_DRAINED] = "the present path has completed its requests, or the back-end polls the rings",
	[VUBLK_DEVICE_EXCHANGE_EVENT_STOPPED] = "the rings are back, with nothing outstanding",
	[VUBLK_DEVICE_EXCHANGE_EVENT_STARTED] = "the back-end has confirmed everything",
	[VUBLK_DEVICE_EXCHANGE_EVENT_OVERDUE] = "`request-timeout-ms` has passed",
	[VUBLK_DEVICE_EXCHANGE_EVENT_REFUSED] = "the rings came back with requests outstanding, or cannot "
		"be started on the other path",
	[VUBLK_DEVICE_EXCHANGE_EVENT_OVERTAKEN] = "a pause, a reset, a change of the memory or of the "
		"request",
	[VUBLK_DEVICE_EXCHANGE_EVENT_LOST] = "the back-end was lost",
};

static void draw_transitions(FILE *out)
{
	fprintf(out, "```mermaid\nstateDiagram-v2\n    [*] --> none\n");
	for (int p = 0; p < VUBLK_DEVICE_EXCHANGE_NUM_PHASES; p++)
		for (int e = 0; e < VUBLK_DEVICE_EXCHANGE_NUM_EVENTS; e++)
			if (vublk_device_exchange_next(p, e) >= 0)
				fprintf(out, "    %s --> %s: %s\n",
					vublk_device_exchange_phase_name(p),
					vublk_device_exchange_phase_name(
						vublk_device_exchange_next(p, e)),
					vublk_device_exchange_event_name(e));
	fprintf(out, "```\n");
}

static void draw(FILE *out)
{
	fprintf(out, "# The phases of an exchange of the path\n\n"
		"Made from the table in src/device/rings/exchange-phase.c by "
		"`test-device-exchange --write-drawing`; a test compares. "
		"[shadow-rings.md](shadow-rings.md) explains the two paths.\n\n");
	draw_transitions(out);
	fprintf(out, "\n| phase | what it means |\n|---|---|\n");
	for (int p = 0; p < VUBLK_DEVICE_EXCHANGE_NUM_PHASES; p++)
		fprintf(out, "| %s | %s |\n", vublk_device_exchange_phase_name(p),
			phase_sentences[p]);
	fprintf(out, "\n| event | when |\n|---|---|\n");
	for (int e = 0; e < VUBLK_DEVICE_EXCHANGE_NUM_EVENTS; e++)
		fprintf(out, "| %s | %s |\n", vublk_device_exchange_event_name(e),
			event_sentences[e]);
}

static void test_drawing(void **state)
{
	vublk_test_compare_drawing(DRAWING, draw);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_values),
		VUBLK_TEST(test_auto),
		VUBLK_TEST(test_auto_after_a_loss),
		VUBLK_TEST(test_no_slot),
		VUBLK_TEST(test_eight_regions),
		VUBLK_TEST(test_to_and_fro),
		VUBLK_TEST(test_reasons),
		VUBLK_TEST(test_overdue),
		VUBLK_TEST(test_undrained),
		VUBLK_TEST(test_refused),
		VUBLK_TEST(test_pause_after_a_refusal),
		VUBLK_TEST(test_each_step),
		VUBLK_TEST(test_own_kicks),
		VUBLK_TEST(test_signalled_kick),
		VUBLK_TEST(test_drawing),
	};

	if (argc == 2 && !strcmp(argv[1], "--write-drawing"))
		return vublk_test_write_drawing(DRAWING, draw);
	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
