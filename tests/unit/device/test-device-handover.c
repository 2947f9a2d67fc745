/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The state that a bus carries over from one session of its driver to the next: the in-flight area
 * and the index of each ring. test-device-reconnect.c tests what resumes after a loss.
 *
 * Key idea: the area is a file that the case fills. Its inode shows whether the device sent that
 * file to the back-end.
 */
#include "harness.h"

#include "mock/device-rig.h"

#include "device/device.h"
#include "proto/vhost-user/inflight.h"
#include "util/checked.h"
#include "util/fd.h"
#include "util/memfd.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define QUEUES 2

/*
 * Makes an in-flight area in which `begun` requests of the first queue have begun. The caller
 * closes the area's descriptor.
 */
static struct vublk_device_inflight make_area(unsigned begun)
{
	uint64_t bytes = vublk_inflight_split_area_bytes(QUEUES, RIG_QUEUE_SIZE);
	struct vublk_device_inflight area = {
		.fd = vublk_memfd_new("area", bytes + 8192, NULL),
		.offset = 4096,
		.size_bytes = bytes,
		.num_queues = QUEUES,
		.queue_size = RIG_QUEUE_SIZE,
	};
	struct vublk_inflight_split_desc desc = { .inflight = 1 };

	assert_true(area.fd >= 0);
	for (unsigned i = 0; i < begun; i++)
		assert_int_equal(pwrite(area.fd, &desc, sizeof(desc),
					(off_t)(4096 + sizeof(struct vublk_inflight_split) +
						i * sizeof(desc))), sizeof(desc));
	return area;
}

static uint64_t inode_of(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return st.st_ino;
}

static void expect_refused(struct device_rig *rig, const struct vublk_device_inflight *area, int code,
			   const char *words)
{
	struct vublk_error error;

	assert_int_equal(vublk_device_set_inflight(rig->device, area, sizeof(*area), &error), -code);
	if (!strstr(error.text, words))
		fail_msg("'%s' is not '%s'", error.text, words);
}

/*
 * The device passes the bus's in-flight area to the back-end unchanged, and does not request one.
 */
static void test_a_given_area_is_handed_over(void **state)
{
	struct vublk_device_inflight area = make_area(0), got;
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, "1");
	assert_int_equal(vublk_device_get_inflight(rig.device, &got, sizeof(got)), -ENOENT);
	assert_int_equal(vublk_device_set_inflight(rig.device, &area, sizeof(area), NULL), 0);
	mock_forget(&mock);
	rig_start(&rig, QUEUES);
	assert_int_equal(mock.received[VUBLK_VU_GET_INFLIGHT_FD], 0);
	assert_int_equal(mock.inflight_inode, inode_of(area.fd));
	assert_int_equal(mock.inflight.mmap_offset, 4096);
	assert_int_equal(mock.inflight.mmap_size, area.size_bytes);
	assert_int_equal(mock.inflight.num_queues, QUEUES);
	assert_int_equal(mock.inflight.queue_size, RIG_QUEUE_SIZE);
	assert_int_equal(vublk_device_get_inflight(rig.device, &got, sizeof(got)), 0);
	assert_int_equal(inode_of(got.fd), inode_of(area.fd));
	expect_refused(&rig, &area, EBUSY, "setting the in-flight area");
	rig_stop(&rig);
	assert_int_equal(vublk_device_get_inflight(rig.device, &got, sizeof(got)), -ENOENT);
	rig_end(&rig, &mock);
	close(area.fd);
}

/* The bus gives the next session the area that the back-end made for the first one. */
static void test_the_device_s_own_goes_on(void **state)
{
	struct vublk_device_inflight area;
	struct mock mock;
	struct device_rig rig;
	uint64_t inode;

	rig_begin(&rig, &mock, "1");
	rig_start(&rig, QUEUES);
	inode = mock.inflight_inode;
	assert_int_equal(vublk_device_get_inflight(rig.device, &area, sizeof(area)), 0);
	area.fd = dup(area.fd);
	rig_stop(&rig);
	area.num_queues = QUEUES;
	area.queue_size = RIG_QUEUE_SIZE;
	assert_int_equal(vublk_device_set_inflight(rig.device, &area, sizeof(area), NULL), 0);
	rig_start(&rig, QUEUES);
	assert_int_equal(mock.inflight_inode, inode);
	rig_end(&rig, &mock);
	close(area.fd);
}

static void write_at(const struct vublk_device_inflight *area, uint64_t offset, uint64_t value)
{
	assert_int_equal(pwrite(area->fd, &value, sizeof(value), (off_t)(area->offset + offset)),
			 sizeof(value));
}

/*
 * The device finds a request in the first and in the last entry of the last queue, whether the
 * queues' regions are packed or aligned, or are aligned in an area of a whole page.
 */
static void test_layouts(void **state)
{
	uint64_t least = vublk_inflight_split_least_bytes(RIG_QUEUE_SIZE);
	uint64_t aligned = vublk_inflight_split_region_bytes(RIG_QUEUE_SIZE);
	const struct { uint64_t bytes, stride; } layouts[] = {
		{ QUEUES * least, least }, { QUEUES * aligned, aligned }, { 4096, aligned },
	};

	assert_int_not_equal(least, aligned);
	for (size_t i = 0; i < 3 * VUBLK_ARRAY_SIZE(layouts); i++) {
		uint64_t entry = layouts[i / 3].stride + (i % 3 == 1 ? 16 : least - 16);
		struct vublk_device_inflight area = make_area(0);
		bool is_begun = i % 3;
		struct mock mock;
		struct device_rig rig;

		rig_begin(&rig, &mock, "1");
		area.size_bytes = layouts[i / 3].bytes;
		write_at(&area, entry, is_begun);
		assert_int_equal(vublk_device_set_inflight(rig.device, &area, sizeof(area), NULL), 0);
		mock.protocol_features &= ~VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD);
		mock_hang_up(&mock);
		rig_wait(&rig, RIG_RECONNECTED, 1);
		rig_set_up(&rig, QUEUES);
		rig_set_indices(&rig, 0, 3, 5);
		assert_int_equal(vublk_device_set_status(rig.device, 0xf, NULL), 0);
		rig_wait(&rig, is_begun ? RIG_NEEDS_RESET : RIG_STARTED, 1);
		rig_end(&rig, &mock);
		close(area.fd);
	}
}

static void test_areas_that_are_refused(void **state)
{
	struct vublk_device_inflight area = make_area(0), bad;
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, "1");
	bad = area;
	bad.num_queues = 5;
	expect_refused(&rig, &bad, EINVAL, "is for 5 queues");
	bad = area;
	bad.num_queues = 0;
	expect_refused(&rig, &bad, EINVAL, "is for 0 queues");
	bad = area;
	bad.queue_size = 2000;
	expect_refused(&rig, &bad, EINVAL, "of 2000 entries");
	bad = area;
	bad.size_bytes = QUEUES * vublk_inflight_split_least_bytes(RIG_QUEUE_SIZE) - 1;
	expect_refused(&rig, &bad, EINVAL, "need at least 544");
	bad = area;
	bad.offset = UINT64_MAX;
	expect_refused(&rig, &bad, EINVAL, "of its file");
	bad = area;
	bad.size_bytes = UINT64_MAX;
	expect_refused(&rig, &bad, EINVAL, "of its file");
	bad = area;
	bad.fd = -1;
	expect_refused(&rig, &bad, EBADF, "descriptor -1");
	write_at(&area, vublk_inflight_split_region_bytes(RIG_QUEUE_SIZE), 2);
	expect_refused(&rig, &area, ENOTSUP, "the features 0x2 for queue 1");
	rig_end(&rig, &mock);
	close(area.fd);
}

/*
 * The back-end does not support in-flight areas. If a request in the area has begun, the driver has
 * to reset the device.
 */
static void test_a_back_end_that_takes_no_area(void **state)
{
	for (unsigned begun = 0; begun < 2; begun++) {
		struct vublk_device_inflight area = make_area(begun);
		struct mock mock;
		struct device_rig rig;

		mock_init(&mock);
		mock.protocol_features &= ~VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD);
		rig_init_with_mock(&rig, &mock);
		rig_set(&rig, "reconnect-ms", "1");
		rig_realize(&rig);
		assert_int_equal(vublk_device_set_inflight(rig.device, &area, sizeof(area), NULL), 0);
		rig_set_up(&rig, QUEUES);
		rig_set_indices(&rig, 0, 3, 5);
		assert_int_equal(vublk_device_set_status(rig.device, 0xf, NULL), 0);
		rig_wait(&rig, begun ? RIG_NEEDS_RESET : RIG_STARTED, 1);
		rig_end(&rig, &mock);
		close(area.fd);
	}
}

static void check_place(struct device_rig *rig, bool is_known, unsigned base, unsigned outstanding)
{
	struct vublk_device_place place;

	assert_int_equal(vublk_device_queue_place(rig->device, 0, &place, sizeof(place), NULL), 0);
	assert_int_equal(place.is_known, is_known);
	assert_int_equal(place.base, base);
	assert_int_equal(place.outstanding, outstanding);
}

static void test_places(void **state)
{
	struct vublk_device_place place;
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, "1");
	assert_int_equal(vublk_device_queue_place(rig.device, 0, &place, sizeof(place), &error), -EINVAL);
	rig_start(&rig, QUEUES);
	assert_int_equal(vublk_device_queue_place(rig.device, QUEUES, &place, sizeof(place),
						  &error), -EINVAL);
	rig_set_indices(&rig, 0, 3, 5);
	mock.base = 4;
	vublk_device_set_vm_running(rig.device, false);
	rig_wait(&rig, RIG_STOPPED, 1);
	check_place(&rig, true, 4, 2); /* the back-end has returned this index */
	vublk_device_set_vm_running(rig.device, true);
	rig_wait(&rig, RIG_STARTED, 2);
	rig_set_indices(&rig, 0, 65535, 1);
	mock_die(&mock);
	rig_wait(&rig, RIG_LOST, 1);
	check_place(&rig, false, 65535, 2); /* the back-end has not returned an index */
	rig_end(&rig, &mock);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_a_given_area_is_handed_over),
		VUBLK_TEST(test_the_device_s_own_goes_on),
		VUBLK_TEST(test_layouts),
		VUBLK_TEST(test_areas_that_are_refused),
		VUBLK_TEST(test_a_back_end_that_takes_no_area),
		VUBLK_TEST(test_places),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
