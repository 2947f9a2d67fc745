/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tests of a device's guest memory: tables that the device refuses, and the messages for a change.
 *
 * Key idea: the mock counts its regions and messages, so a case can check that the device has sent
 * only the difference.
 */
#include "harness.h"

#include "mock/device-rig.h"

#include "util/checked.h"
#include "util/fd.h"
#include "util/memfd.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PAGE 4096

static struct vublk_memory_region ring_region(const struct device_rig *rig)
{
	return (struct vublk_memory_region){ RIG_GUEST_ADDR, RIG_MEMORY_BYTES, rig->memfd, 0 };
}

static struct vublk_memory_region page(const struct device_rig *rig, uint64_t addr)
{
	return (struct vublk_memory_region){ addr, PAGE, rig->memfd, 0 };
}

static int set_memory(struct device_rig *rig, const struct vublk_memory_region *regions, unsigned count,
		      struct vublk_error *error)
{
	return vublk_device_set_memory(rig->device, regions, count, error);
}

static void set_and_wait(struct device_rig *rig, const struct vublk_memory_region *regions,
			 unsigned count)
{
	assert_int_equal(set_memory(rig, regions, count, NULL), 1);
	rig_wait(rig, RIG_MEMORY_CHANGED, rig->calls[RIG_MEMORY_CHANGED] + 1);
}

static void test_what_is_refused(void **state)
{
	const struct { struct vublk_memory_region region; int code; const char *words; } cases[] = {
		{ { 0x1000, 0, 0, 0 }, EINVAL, "memory region 1 is empty" },
		{ { UINT64_MAX - PAGE + 1, PAGE + 1, 0, 0 }, EINVAL, "exceeds the address space" },
		{ { 0x1000, 1ull << 63, 0, 1ull << 63 }, EINVAL, "exceeds the address space" },
		{ { RIG_GUEST_ADDR + PAGE, PAGE, 0, 0 }, EINVAL, "memory regions 0 and 1 overlap" },
		{ { RIG_GUEST_ADDR - PAGE, 2 * PAGE, 0, 0 }, EINVAL, "regions 0 and 1 overlap" },
		{ { 0x1000, PAGE, 0, RIG_MEMORY_BYTES }, EINVAL, "which has only 1048576" },
		{ { 0x1000, PAGE, 12345, 0 }, EBADF, "descriptor 12345 of memory region 1" },
	};
	struct vublk_memory_region regions[40];
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;
	int eventfd = vublk_eventfd_new();
	unsigned fds;

	rig_begin(&rig, &mock, NULL);
	rig_set_up(&rig, 1);
	fds = vublk_test_count_fds();
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		regions[0] = ring_region(&rig);
		regions[1] = cases[i].region;
		if (!regions[1].fd)
			regions[1].fd = rig.memfd;
		assert_int_equal(set_memory(&rig, regions, 2, &error), -cases[i].code);
		if (!strstr(error.text, cases[i].words))
			fail_msg("no '%s' in: %s", cases[i].words, error.text);
		assert_int_equal(vublk_test_count_fds(), fds);
	}
	regions[0] = (struct vublk_memory_region){ 0x1000, PAGE, eventfd, 0 };
	assert_int_equal(set_memory(&rig, regions, 1, &error), -EINVAL);
	assert_non_null(strstr(error.text, "is not a memory file"));
	regions[0] = page(&rig, UINT64_MAX - PAGE + 1); /* ends at 2^64, which is not an overflow */
	assert_int_equal(set_memory(&rig, regions, 1, &error), 0);
	for (unsigned i = 0; i < 40; i++)
		regions[i] = page(&rig, PAGE * (i + 1));
	assert_int_equal(set_memory(&rig, regions, 33, &error), -ENOSPC);
	assert_non_null(strstr(error.text, "has 33 regions, but the back-end accepts only 32"));
	assert_int_equal(set_memory(&rig, regions, 32, &error), 0);
	rig_end(&rig, &mock);
	close(eventfd);
}

/* While the rings run, the device sends only the difference, removals first. */
static void test_changes_while_running(void **state)
{
	struct vublk_memory_region regions[3];
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, NULL);
	rig_start(&rig, 1);
	mock_forget(&mock);
	regions[0] = ring_region(&rig);
	regions[1] = page(&rig, 0x1000);
	regions[2] = page(&rig, 0x2000);
	assert_int_equal(set_memory(&rig, regions, 3, NULL), 1);
	assert_int_equal(set_memory(&rig, regions, 2, &error), -EBUSY);
	assert_string_equal(error.text, "another change of the guest's memory is still under way");
	rig_wait(&rig, RIG_MEMORY_CHANGED, 1);
	assert_int_equal(mock.num_log, 2);
	assert_int_equal(mock.num_regions, 3);
	regions[2] = page(&rig, 0x5000);
	set_and_wait(&rig, regions, 3);
	assert_int_equal(mock.log[2], VUBLK_VU_REM_MEM_REG);
	assert_int_equal(mock.log[3], VUBLK_VU_ADD_MEM_REG);
	assert_int_equal(mock.num_log, 4);
	/* Nothing changes. The device sends one request, to check that the back-end answers. */
	set_and_wait(&rig, regions, 3);
	assert_int_equal(mock.received[VUBLK_VU_ADD_MEM_REG], 3);
	/* A change must not remove the memory of a ring that runs. */
	assert_int_equal(set_memory(&rig, regions + 1, 2, &error), -EINVAL);
	assert_non_null(strstr(error.text, "queue 0: the parts of the ring"));
	rig_stop(&rig);
	rig_start(&rig, 1); /* the start sends the one region again */
	assert_int_equal(mock.num_regions, 1);
	rig_end(&rig, &mock);
}

/*
 * Even while the rings do not run, a removal of all memory sends messages. A start waits for the
 * removal.
 */
static void test_all_is_given_up(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, NULL);
	assert_int_equal(set_memory(&rig, NULL, 0, NULL), 0); /* there is no memory */
	rig_start(&rig, 1);
	rig_stop(&rig);
	mock_forget(&mock);
	assert_int_equal(set_memory(&rig, NULL, 0, NULL), 1);
	assert_int_equal(set_memory(&rig, NULL, 0, NULL), 0); /* the removal is under way */
	rig_wait(&rig, RIG_MEMORY_CHANGED, 1);
	assert_int_equal(mock.received[VUBLK_VU_REM_MEM_REG], 1);
	assert_int_equal(mock.num_regions, 0);
	rig_start(&rig, 1);
	rig_stop(&rig);
	mock_forget(&mock);
	assert_int_equal(set_memory(&rig, NULL, 0, NULL), 1);
	rig_start(&rig, 1);
	assert_int_equal(rig.calls[RIG_MEMORY_CHANGED], 2);
	assert_int_equal(mock.log[0], VUBLK_VU_REM_MEM_REG);
	assert_int_equal(mock.num_regions, 1);
	rig_end(&rig, &mock);
}

/*
 * If the device can reconnect, it removes all memory by closing the connection. So the back-end
 * also forgets the rings.
 */
static void test_all_is_given_up_by_hanging_up(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, "1");
	assert_int_equal(set_memory(&rig, NULL, 0, NULL), 0); /* there is no memory */
	rig_settle(&rig);
	assert_int_equal(rig.calls[RIG_LOST], 0);
	rig_start(&rig, 1);
	rig_stop(&rig);
	mock_forget(&mock);
	assert_int_equal(set_memory(&rig, NULL, 0, NULL), 0);
	rig_wait(&rig, RIG_RECONNECTED, 1);
	assert_int_equal(rig.errors[RIG_LOST].code, ECANCELED);
	assert_int_equal(mock.received[VUBLK_VU_REM_MEM_REG], 0);
	assert_int_equal(rig.calls[RIG_MEMORY_CHANGED], 0);
	rig_start(&rig, 1);
	assert_int_equal(mock.num_regions, 1);
	rig_stop(&rig);
	rig_end(&rig, &mock);
}

/* The same range of another file is a different region. */
static void test_another_file(void **state)
{
	struct vublk_memory_region regions[2];
	struct mock mock;
	struct device_rig rig;
	int other = vublk_memfd_new("other", PAGE, NULL);

	rig_begin(&rig, &mock, NULL);
	rig_start(&rig, 1);
	regions[0] = ring_region(&rig);
	regions[1] = page(&rig, 0x1000);
	set_and_wait(&rig, regions, 2);
	mock_forget(&mock);
	regions[1].fd = other;
	set_and_wait(&rig, regions, 2);
	assert_int_equal(mock.received[VUBLK_VU_REM_MEM_REG], 1);
	assert_int_equal(mock.received[VUBLK_VU_ADD_MEM_REG], 1);
	mock_forget(&mock);
	regions[1].fd = dup(other); /* another descriptor of the same file */
	set_and_wait(&rig, regions, 2);
	assert_int_equal(mock.received[VUBLK_VU_ADD_MEM_REG], 0);
	close(regions[1].fd);
	vublk_fd_close(&other);
	rig_end(&rig, &mock);
}

/*
 * After the back-end has refused a region, the device sends no further regions, and must not record
 * the others as sent.
 */
static void test_refused_region_of_many(void **state)
{
	struct vublk_memory_region regions[61];
	struct mock mock;
	struct device_rig rig;

	mock_init(&mock);
	mock.memory_slots = VUBLK_ARRAY_SIZE(regions);
	rig_init_with_mock(&rig, &mock);
	rig_realize(&rig);
	rig_start(&rig, 1);
	regions[0] = ring_region(&rig);
	for (unsigned i = 1; i < VUBLK_ARRAY_SIZE(regions); i++)
		regions[i] = page(&rig, PAGE * i);
	mock.fault = (struct mock_fault){ MOCK_REFUSE, VUBLK_VU_ADD_MEM_REG, .nth = 1 };
	mock_forget(&mock);
	mock.answers[VUBLK_VU_ADD_MEM_REG] = 1;
	set_and_wait(&rig, regions, VUBLK_ARRAY_SIZE(regions));
	assert_int_equal(rig.errors[RIG_MEMORY_CHANGED].code, EIO);
	assert_true(mock.received[VUBLK_VU_ADD_MEM_REG] < VUBLK_ARRAY_SIZE(regions) - 1);
	mock.fault.kind = MOCK_NO_FAULT;
	set_and_wait(&rig, regions, VUBLK_ARRAY_SIZE(regions));
	assert_int_equal(rig.errors[RIG_MEMORY_CHANGED].code, 0);
	/* Each of the 60 regions was sent once, and the refused one a second time. */
	assert_int_equal(mock.received[VUBLK_VU_ADD_MEM_REG], VUBLK_ARRAY_SIZE(regions));
	assert_int_equal(mock.received[VUBLK_VU_REM_MEM_REG], 0);
	rig_end(&rig, &mock);
}

static void test_refused_region(void **state)
{
	struct vublk_memory_region regions[3];
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, NULL);
	rig_start(&rig, 1);
	regions[0] = ring_region(&rig);
	regions[1] = page(&rig, 0x1000);
	mock.fault = (struct mock_fault){ MOCK_REFUSE, VUBLK_VU_ADD_MEM_REG, .nth = 1 };
	set_and_wait(&rig, regions, 2);
	assert_int_equal(rig.errors[RIG_MEMORY_CHANGED].code, EIO);
	assert_non_null(strstr(rig.errors[RIG_MEMORY_CHANGED].text, "refused ADD_MEM_REG"));
	assert_int_equal(vublk_device_state(rig.device), VUBLK_DEVICE_RUNNING);
	mock_forget(&mock);
	mock.fault.kind = MOCK_NO_FAULT;
	set_and_wait(&rig, regions, 2); /* the region is sent again, as the back-end lacks it */
	assert_int_equal(rig.errors[RIG_MEMORY_CHANGED].code, 0);
	assert_int_equal(mock.received[VUBLK_VU_ADD_MEM_REG], 1);
	assert_int_equal(mock.received[VUBLK_VU_REM_MEM_REG], 0);
	rig_end(&rig, &mock);
}

/*
 * The device sends regions of any size and alignment unchanged. If the back-end refuses one, the
 * error names it.
 */
static void test_parts_of_pages(void **state)
{
	for (unsigned slots = 0; slots < 2; slots++) {
		const enum mock_fault_kind faults[] = { MOCK_NO_FAULT, MOCK_REFUSE, MOCK_CUT };
		uint32_t request = slots ? VUBLK_VU_ADD_MEM_REG : VUBLK_VU_SET_MEM_TABLE;

		for (size_t i = 0; i < VUBLK_ARRAY_SIZE(faults); i++) {
			struct vublk_memory_region regions[2];
			struct vublk_error *error;
			struct mock mock;
			struct device_rig rig;

			mock_init(&mock);
			if (!slots)
				mock.protocol_features &=
					~VUBLK_BIT(VUBLK_VU_F_CONFIGURE_MEM_SLOTS);
			rig_init_with_mock(&rig, &mock);
			rig_realize(&rig);
			rig_start(&rig, 1);
			error = &rig.errors[RIG_MEMORY_CHANGED];
			regions[0] = ring_region(&rig);
			regions[1] = (struct vublk_memory_region){ 0x1010, 15120, rig.memfd, 48 };
			mock_forget(&mock);
			mock.fault = (struct mock_fault){ .kind = faults[i], .request = request };
			set_and_wait(&rig, regions, 2);
			assert_int_equal(!error->code, !i);
			if (!i)
				assert_int_equal(mock.num_regions, 2);
			else if (!strstr(error->text, "the memory region of 15120 bytes at guest "
					 "address 0x1010 and file offset 48 (it does not consist "
					 "of whole pages"))
				fail_msg("%s", error->text);
			rig_end(&rig, &mock);
		}
	}
}

/*
 * Without CONFIGURE_MEM_SLOTS, the device accepts up to eight regions and sends the whole table
 * each time.
 */
static void test_table(void **state)
{
	struct vublk_memory_region regions[9];
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;

	mock_init(&mock);
	mock.protocol_features &= ~VUBLK_BIT(VUBLK_VU_F_CONFIGURE_MEM_SLOTS);
	rig_init_with_mock(&rig, &mock);
	rig_realize(&rig);
	rig_start(&rig, 1);
	mock_forget(&mock);
	regions[0] = ring_region(&rig);
	for (unsigned i = 1; i < 9; i++)
		regions[i] = page(&rig, PAGE * i);
	assert_int_equal(set_memory(&rig, regions, 9, &error), -ENOSPC);
	set_and_wait(&rig, regions, 8);
	assert_int_equal(mock.num_regions, 8);
	set_and_wait(&rig, regions, 2);
	assert_int_equal(mock.num_regions, 2);
	assert_int_equal(mock.received[VUBLK_VU_SET_MEM_TABLE], 2);
	assert_int_equal(mock.num_log, 2);
	rig_end(&rig, &mock);
}

/* A reset during a change of the memory waits until the change has ended. */
static void test_reset_during_a_change(void **state)
{
	struct vublk_memory_region regions[2];
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, NULL);
	rig_start(&rig, 1);
	mock_forget(&mock);
	regions[0] = ring_region(&rig);
	regions[1] = page(&rig, 0x1000);
	assert_int_equal(set_memory(&rig, regions, 2, NULL), 1);
	assert_int_equal(vublk_device_set_status(rig.device, 0, NULL), 0);
	rig_wait(&rig, RIG_STOPPED, 1);
	assert_int_equal(rig.calls[RIG_MEMORY_CHANGED], 1);
	assert_int_equal(mock.log[0], VUBLK_VU_ADD_MEM_REG);
	assert_int_equal(vublk_device_state(rig.device), VUBLK_DEVICE_STOPPED);
	rig_end(&rig, &mock);
}

/*
 * For the largest number of regions, the device sends the messages in batches. When the regions are
 * removed, all their descriptors are closed.
 */
static void test_many_regions(void **state)
{
	static struct vublk_memory_region regions[VUBLK_MEMORY_MAX_REGIONS];
	struct mock mock;
	struct device_rig rig;
	unsigned fds;

	mock_init(&mock);
	mock.memory_slots = 4096;
	rig_init_with_mock(&rig, &mock);
	rig_realize(&rig);
	rig_start(&rig, 1);
	fds = vublk_test_count_fds();
	regions[0] = ring_region(&rig);
	for (unsigned i = 1; i < VUBLK_MEMORY_MAX_REGIONS; i++)
		regions[i] = page(&rig, PAGE * i);
	set_and_wait(&rig, regions, VUBLK_MEMORY_MAX_REGIONS);
	assert_int_equal(rig.errors[RIG_MEMORY_CHANGED].code, 0);
	assert_int_equal(mock.num_regions, VUBLK_MEMORY_MAX_REGIONS);
	set_and_wait(&rig, regions, 1);
	assert_int_equal(mock.num_regions, 1);
	assert_int_equal(vublk_test_count_fds(), fds);
	rig_end(&rig, &mock);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_what_is_refused),
		VUBLK_TEST(test_changes_while_running),
		VUBLK_TEST(test_all_is_given_up),
		VUBLK_TEST(test_all_is_given_up_by_hanging_up),
		VUBLK_TEST(test_another_file),
		VUBLK_TEST(test_refused_region_of_many),
		VUBLK_TEST(test_refused_region),
		VUBLK_TEST(test_parts_of_pages),
		VUBLK_TEST(test_table),
		VUBLK_TEST(test_reset_during_a_change),
		VUBLK_TEST(test_many_regions),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
