/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two VMMs, one after the other: nothing of the first VMM's session reaches the second VMM or its
 * back-end. docs/sessions.md lists each part of a session and where it ends.
 */
#include "relay-rig.h"

#include "util/fd.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 4096

static void write_a_block(struct backend_rig *rig, uint64_t sector)
{
	memset(rig_data(rig, 0), 'w', BLOCK);
	assert_int_equal(rig_io(rig, 0, VIRTIO_BLK_T_OUT, sector, 0, BLOCK), VIRTIO_BLK_S_OK);
}

/*
 * Loses the back-end with requests outstanding, and records them in `area` as begun, as a back-end
 * would.
 */
static void lose_backend_with_requests(struct relay *relay, struct backend_rig *rig,
				       struct rig_area *area)
{
	relay_freeze_backend(relay);
	relay_send_requests(rig, 0);
	relay_lose_backend(relay);
	for (uint16_t head = 0; head < RELAY_REQUESTS; head++) {
		area->region->desc[head].counter = head;
		area->region->desc[head].inflight = 1;
	}
}

static bool disk_is_empty(const struct relay *relay)
{
	static const char zeroes[BLOCK];
	char block[BLOCK];
	bool is_empty = true;
	int fd = open(relay->disk, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	for (unsigned i = 0; i < RELAY_REQUESTS; i++) {
		assert_int_equal(pread(fd, block, BLOCK, i * BLOCK), BLOCK);
		is_empty &= !memcmp(block, zeroes, BLOCK);
	}
	close(fd);
	return is_empty;
}

/* --- the in-flight area ------------------------------------------------------ */

/*
 * The second VMM has written descriptors, but has not published any request. The first VMM's
 * in-flight records must not cause the execution of these descriptors.
 */
static void test_requests_that_the_next_vmm_never_made(void **state)
{
	struct rig_area area;
	struct relay relay;
	struct backend_rig first, second;

	relay_open(&relay, NULL);
	relay_start_vmm_with_area(&relay, &first, &area, 1);
	lose_backend_with_requests(&relay, &first, &area);
	relay_close_vmm(&relay, &first);

	relay_start_vmm(&relay, &second, 1);
	memset(rig_data(&second, 0), 'x', RELAY_REQUESTS * BLOCK);
	relay_add_requests(&second, 0);
	relay_start_backend(&relay, NULL);
	relay_wait(&relay, "starting, started -> running");
	assert_int_equal(rig_get_base(&second, 0), 0); /* a taken request would be complete */
	assert_int_equal(second.queues[0].ring.used->idx, 0);
	assert_true(disk_is_empty(&relay));
	relay_close_vmm(&relay, &second);
	rig_drop_area(&area);
	relay_close(&relay);
}

/*
 * The second VMM's ring starts at index 0, although the in-flight area of the first VMM has
 * recorded another index.
 */
static void test_the_next_vmm_begins_anew(void **state)
{
	struct rig_area area;
	struct relay relay;
	struct backend_rig first, second;

	relay_open(&relay, NULL);
	relay_start_vmm_with_area(&relay, &first, &area, 1);
	for (unsigned i = 0; i < 10; i++)
		write_a_block(&first, 1024);
	rig_close(&first);
	relay_wait(&relay, "the VMM disconnected");
	relay_start_vmm(&relay, &second, 1);
	write_a_block(&second, 2048);
	assert_false(relay_has_said(&relay, "in-flight area stands at"));
	assert_false(relay_has_said(&relay, "stopping, lost -> lost"));
	relay_close_vmm(&relay, &second);
	rig_drop_area(&area);
	relay_close(&relay);
}

/*
 * The first VMM's in-flight area has a request in flight, but no ring has used the area. The second
 * VMM's ring starts without that area.
 */
static void test_an_area_without_rings(void **state)
{
	struct rig_area area;
	struct relay relay;
	struct backend_rig first, second;

	relay_open(&relay, NULL);
	relay_connect(&relay, &first);
	rig_negotiate(&first);
	rig_get_area(&first, &area);
	area.region->version = VUBLK_INFLIGHT_VERSION;
	area.region->desc_num = RIG_SIZE;
	area.region->used_idx = 0;
	area.region->desc[0].inflight = 1;
	assert_int_equal(rig_set_area(&first, &area), 0);
	relay_close_vmm(&relay, &first);
	relay_start_vmm(&relay, &second, 1);
	memset(rig_data(&second, 0), 'x', RELAY_REQUESTS * BLOCK);
	relay_add_requests(&second, 0);
	assert_int_equal(rig_get_base(&second, 0), 0);
	assert_int_equal(second.queues[0].ring.used->idx, 0);
	assert_true(disk_is_empty(&relay));
	relay_close_vmm(&relay, &second);
	rig_drop_area(&area);
	relay_close(&relay);
}

/* --- features ---------------------------------------------------------------- */

/*
 * A new back-end has to offer the features on which the driver relies. This requirement ends when
 * the VMM disconnects.
 */
static void test_features_end_with_the_vmm(void **state)
{
	struct virtio_blk_config config;
	struct relay relay;
	struct backend_rig first, second;

	relay_begin(&relay, &first, 1);
	write_a_block(&first, 0);
	relay_kill_backend(&relay);
	relay_wait(&relay, "the disk waits for a back-end");
	relay_close_vmm(&relay, &first);
	relay_start_backend(&relay, "read-only=on");
	relay_wait(&relay, "is available again");
	relay_connect(&relay, &second);
	rig_negotiate(&second);
	assert_true(second.features & VUBLK_BIT(VIRTIO_BLK_F_RO));
	rig_get_config(&second, &config);
	assert_int_equal(config.capacity, RELAY_DISK_BYTES / 512);
	relay_end(&relay, &second);
}

/* --- a reset in the same connection ------------------------------------------- */

/* RESET_DEVICE makes the relay disable the rings and discard their addresses. */
static void test_a_reset_forgets_the_rings(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	relay_begin(&relay, &rig, 1);
	write_a_block(&rig, 0);
	relay_reset_device(&rig);
	relay_wait(&relay, "VMM: RESET_DEVICE");
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_FEATURES, rig.features), 0);
	rig_set_vring_fd(&rig, VUBLK_VU_SET_VRING_KICK, 0, rig.queues[0].kick_fd);
	relay_driver_ok(&rig);
	assert_int_equal(rig_get_base(&rig, 0), 0);
	memset(rig.memory, 0, RIG_QUEUE_BYTES);
	rig_start_queue(&rig, 0, RIG_SIZE, 0);
	relay_driver_ok(&rig);
	write_a_block(&rig, 0);
	relay_end(&relay, &rig);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_requests_that_the_next_vmm_never_made),
		VUBLK_TEST(test_the_next_vmm_begins_anew),
		VUBLK_TEST(test_an_area_without_rings),
		VUBLK_TEST(test_features_end_with_the_vmm),
		VUBLK_TEST(test_a_reset_forgets_the_rings),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
