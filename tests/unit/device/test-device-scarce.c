/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The device without memory or descriptors, at each place where it needs them. The error is one
 * sentence, nothing leaks, and the device works again afterwards.
 *
 * Key idea: the nth allocation or descriptor fails, for each n, until a whole life succeeds.
 */
#include "harness.h"

#include "mock/device-rig.h"
#include "mock/inotify-limit.h"

#include "device/device.h"
#include "util/checked.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <unistd.h>

/* --- scarcity, while the device works ------------------------------------------------------ */

static unsigned calloc_fails_at; /* countdown to the call that fails; 0: no call fails */

void *__real_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);

void *__wrap_calloc(size_t count, size_t bytes)
{
	if (calloc_fails_at && !--calloc_fails_at)
		return NULL;
	return __real_calloc(count, bytes);
}

/* What the device can still get before its calls fail. */
struct scarcity {
	unsigned callocs; /* countdown to the call that fails; 0: no limit */
	int descriptors;  /* descriptors that can still be opened; -1: no limit */
};

static unsigned base_fds;

static void begin(struct scarcity *scarcity)
{
	struct rlimit limit;

	calloc_fails_at = scarcity->callocs;
	if (scarcity->descriptors < 0)
		return;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = base_fds + (unsigned)scarcity->descriptors;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

static void end(struct scarcity *scarcity)
{
	struct rlimit limit;

	scarcity->callocs = calloc_fails_at;
	calloc_fails_at = 0;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = limit.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

static void work(struct device_rig *rig, struct mock *mock, struct scarcity *scarcity)
{
	do {
		begin(scarcity);
		assert_int_equal(vublk_device_process(rig->device), 0);
		end(scarcity);
	} while (mock_pump(mock));
}

static void work_while(struct device_rig *rig, struct mock *mock, struct scarcity *scarcity,
		       enum vublk_device_state state)
{
	while (vublk_device_state(rig->device) == state)
		work(rig, mock, scarcity);
}

/*
 * Realizes and starts the device, changes the memory, and stops the device, within the limits of
 * `scarcity`. Returns 0, or the code of the error that ended this life.
 */
static int live(struct device_rig *rig, struct mock *mock, struct scarcity *scarcity,
		struct vublk_error *error)
{
	struct vublk_memory_region regions[2];
	int r;

	assert_int_equal(vublk_device_realize(rig->device, error), 0);
	work_while(rig, mock, scarcity, VUBLK_DEVICE_REALIZING);
	*error = rig->errors[RIG_REALIZED];
	if (error->code)
		return error->code;
	rig_set_up(rig, 2);
	assert_int_equal(vublk_device_set_status(rig->device, VIRTIO_CONFIG_S_DRIVER_OK, error), 0);
	work_while(rig, mock, scarcity, VUBLK_DEVICE_STARTING);
	work_while(rig, mock, scarcity, VUBLK_DEVICE_STOPPING);
	*error = rig->errors[RIG_LOST];
	if (vublk_device_state(rig->device) != VUBLK_DEVICE_RUNNING)
		return error->code;
	regions[0] = (struct vublk_memory_region){ RIG_GUEST_ADDR, RIG_MEMORY_BYTES, rig->memfd, 0 };
	regions[1] = (struct vublk_memory_region){ 0x1000, 4096, rig->memfd, 0 };
	begin(scarcity);
	r = vublk_device_set_memory(rig->device, regions, 2, error);
	end(scarcity);
	if (r < 0)
		return -r;
	work(rig, mock, scarcity);
	*error = rig->errors[RIG_LOST];
	if (vublk_device_state(rig->device) != VUBLK_DEVICE_RUNNING)
		return error->code;
	assert_int_equal(vublk_device_set_status(rig->device, 0, NULL), 0);
	work_while(rig, mock, scarcity, VUBLK_DEVICE_RUNNING);
	work_while(rig, mock, scarcity, VUBLK_DEVICE_STOPPING);
	*error = rig->errors[RIG_STOPPED];
	return error->code;
}

static void end_life(struct device_rig *rig, struct mock *mock)
{
	vublk_device_unrealize(rig->device);
	memset(rig->errors, 0, sizeof(rig->errors));
	while (mock_pump(mock))
		;
}

/* --- cases --------------------------------------------------------------------------------- */

static void test_without_memory(void **state)
{
	struct scarcity none = { 0, -1 };
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;
	unsigned n = 1;

	rig_prepare(&rig, &mock, NULL);
	assert_int_equal(live(&rig, &mock, &none, &error), 0);
	end_life(&rig, &mock);
	base_fds = vublk_test_count_fds();
	for (;; n++) {
		struct scarcity scarcity = { n, -1 };
		int code = live(&rig, &mock, &scarcity, &error);

		end_life(&rig, &mock);
		assert_int_equal(vublk_test_count_fds(), base_fds);
		if (scarcity.callocs) {
			assert_int_equal(code, 0);
			break; /* no call has failed: fewer than n were needed */
		}
		if (code != ENOMEM || !strstr(error.text, "Cannot allocate memory"))
			fail_msg("allocation %u: %d: %s", n, code, error.text);
	}
	assert_true(n > 20);
	rig_end(&rig, &mock);
}

static void test_without_descriptors(void **state)
{
	struct scarcity none = { 0, -1 };
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;
	int n = 0, code;

	rig_prepare(&rig, &mock, NULL);
	assert_int_equal(live(&rig, &mock, &none, &error), 0);
	end_life(&rig, &mock);
	base_fds = vublk_test_count_fds();
	for (code = EMFILE; code; n++) {
		struct scarcity scarcity = { 0, n };

		code = live(&rig, &mock, &scarcity, &error);
		end_life(&rig, &mock);
		assert_int_equal(vublk_test_count_fds(), base_fds);
		if (code && (code != EMFILE || !strstr(error.text, "Too many open files")))
			fail_msg("%d descriptors: %d: %s", n, code, error.text);
		assert_true(n < 100);
	}
	assert_true(n > 5);
	assert_int_equal(live(&rig, &mock, &none, &error), 0);
	rig_end(&rig, &mock);
}

/*
 * Without inotify, the device logs one line and tries to reconnect periodically. There are two
 * outages with several attempts each.
 */
static void test_without_inotify(void **state)
{
	struct mock mock;
	struct device_rig rig;

	inotify_is_used_up = true;
	rig_begin(&rig, &mock, "1");
	rig_start(&rig, 1);
	assert_int_equal(rig.num_unwatched, 0);
	for (unsigned i = 1; i <= 2; i++) {
		mock_die(&mock);
		rig_wait(&rig, RIG_LOST, i);
		for (unsigned turns = 0; turns < 5; turns++)
			rig_turn(&rig, 1000);
		mock_live_again(&mock);
		rig_wait(&rig, RIG_STARTED, 1 + i);
		assert_null(rig.device->reconnect.watch.loop);
		assert_int_equal(rig.num_unwatched, 1);
	}
	rig_stop(&rig);
	rig_end(&rig, &mock);
}

static void test_new_without_memory(void **state)
{
	struct vublk_device *device = NULL;
	struct vublk_error error;

	calloc_fails_at = 1;
	assert_int_equal(vublk_device_new(NULL, 0, NULL, NULL, &device, &error), -ENOMEM);
	assert_string_equal(error.text, "cannot allocate a device: Cannot allocate memory");
	assert_null(device);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_without_memory),
		VUBLK_TEST(test_without_descriptors),
		VUBLK_TEST(test_without_inotify),
		VUBLK_TEST(test_new_without_memory),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
