/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest's memory over vfio-user: valid and invalid maps, and the number of changes that the
 * back-end sees. test-vfio-user.c has the other commands.
 *
 * Key idea: while the rings run, the bus answers a map or an unmap only after the back-end has
 * applied it. Until the rings start, the back-end gets no memory. The mock back-end counts its
 * messages, so a test can check both.
 */
#include "harness.h"

#include "vfio-rig.h"

#include "util/fd.h"
#include "util/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_pci.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096
#define RINGS_BYTES (16 * PAGE) /* at the beginning of the guest's memory */

static unsigned changes(const struct vfio_rig *rig)
{
	return rig->mock.received[VUBLK_VU_ADD_MEM_REG] + rig->mock.received[VUBLK_VU_REM_MEM_REG] +
	       rig->mock.received[VUBLK_VU_SET_MEM_TABLE];
}

static enum vublk_device_state state_of(const struct vfio_rig *rig)
{
	return vublk_device_state(rig->bus->device);
}

/*
 * Kicks as a driver does, with a write to the notify register. Returns whether the kick reaches the
 * back-end.
 */
static bool kick_arrives(struct vfio_rig *rig)
{
	vublk_eventfd_clear(rig->mock.kick_fds[0]);
	vfio_post(rig, 4, 0x3000, 2, 0);
	vfio_settle(rig);
	return vublk_eventfd_clear(rig->mock.kick_fds[0]) > 0;
}

/* --- refused commands ------------------------------------------------------------------------- */

static void test_maps_that_are_refused(void **state)
{
	const struct { uint64_t offset, address, size; uint32_t flags; int code; } cases[] = {
		{ 0, GUEST_ADDR, 0, 3, EINVAL },
		{ 0, GUEST_ADDR + 1, PAGE, 3, EINVAL },
		{ 0, GUEST_ADDR, PAGE + 1, 3, EINVAL },
		{ 1, GUEST_ADDR, PAGE, 3, EINVAL },
		{ 0, GUEST_ADDR, PAGE, 7, EINVAL },
		{ 0, UINT64_MAX - PAGE + 1, PAGE, 3, EINVAL },
		{ 0, UINT64_MAX - 2 * PAGE + 1, 4 * PAGE, 3, EINVAL },
		{ GUEST_BYTES, GUEST_ADDR, PAGE, 3, EINVAL },
		{ 0, GUEST_ADDR, GUEST_BYTES + PAGE, 3, EINVAL },
		{ UINT64_MAX - PAGE + 1, GUEST_ADDR, PAGE, 3, EINVAL },
		{ INT64_MAX - PAGE + 1, GUEST_ADDR, 2 * PAGE, 3, EINVAL },
		{ 0, 0x100000, PAGE, 3, EEXIST },
		{ 0, 0x100000 - PAGE, 2 * PAGE, 3, EEXIST },
		{ 0, 0x100000 + PAGE, 2 * PAGE, 3, EEXIST },
		{ 0, 0x100000 - PAGE, 8 * PAGE, 3, EEXIST },
	};
	struct vfio_rig rig;
	unsigned open;

	vfio_init(&rig, NULL, NULL, false);
	assert_int_equal(vfio_map(&rig, 0x100000, 2 * PAGE, rig.memfd, 0), 0);
	open = vublk_test_count_fds();
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		struct vublk_vfio_dma_map map = {
			sizeof(map), cases[i].flags, cases[i].offset, cases[i].address, cases[i].size,
		};

		assert_int_equal(vfio_call(&rig, VUBLK_VFIO_DMA_MAP, &map, sizeof(map), &rig.memfd, 1),
				 -cases[i].code);
		assert_int_equal(vublk_test_count_fds(), open);
	}
	vfio_deinit(&rig);
}

static void test_unmaps_that_are_refused(void **state)
{
	struct vublk_vfio_dma_unmap unmap = { sizeof(unmap), 1, 0x100000, PAGE };
	struct vfio_rig rig;

	vfio_init(&rig, NULL, NULL, false);
	assert_int_equal(vfio_map(&rig, 0x100000, 2 * PAGE, rig.memfd, 0), 0);
	assert_int_equal(vfio_unmap(&rig, 0x100000, PAGE), -ENOENT);
	assert_int_equal(vfio_unmap(&rig, 0x101000, PAGE), -ENOENT);
	assert_int_equal(vfio_unmap(&rig, 0x200000, 2 * PAGE), -ENOENT);
	assert_int_equal(vfio_call(&rig, VUBLK_VFIO_DMA_UNMAP, &unmap, sizeof(unmap), NULL, 0),
			 -EINVAL);
	unmap.flags = VFIO_DMA_UNMAP_FLAG_ALL;
	assert_int_equal(vfio_call(&rig, VUBLK_VFIO_DMA_UNMAP, &unmap, sizeof(unmap), NULL, 0),
			 -EINVAL);
	assert_int_equal(vfio_unmap(&rig, 0x100000, 2 * PAGE), sizeof(unmap));
	assert_int_equal(vfio_unmap(&rig, 0x100000, 2 * PAGE), -ENOENT);
	assert_int_equal(vfio_map(&rig, 0x100000, 2 * PAGE, rig.memfd, 0), 0);
	unmap.address = unmap.size = 0;
	assert_int_equal(vfio_call(&rig, VUBLK_VFIO_DMA_UNMAP, &unmap, sizeof(unmap), NULL, 0),
			 sizeof(unmap));
	assert_int_equal(vfio_unmap(&rig, 0x100000, 2 * PAGE), -ENOENT);
	/*
	 * The bus closes a descriptor that comes with DMA_UNMAP. Otherwise the harness would report
	 * a leak.
	 */
	assert_int_equal(vfio_call(&rig, VUBLK_VFIO_DMA_UNMAP, &unmap, sizeof(unmap), &rig.memfd, 1),
			 sizeof(unmap));
	vfio_deinit(&rig);
}

static void test_too_many_maps(void **state)
{
	struct vfio_rig rig;

	vfio_init(&rig, NULL, NULL, false);
	for (unsigned i = 0; i < VUBLK_MEMORY_MAX_REGIONS; i++) /* the maps are never adjacent */
		assert_int_equal(vfio_map(&rig, (uint64_t)i * 4 * PAGE, PAGE, rig.memfd, 0), 0);
	assert_int_equal(vfio_map(&rig, GUEST_ADDR, PAGE, rig.memfd, 0), -ENOSPC);
	for (unsigned i = 0; i < VUBLK_MEMORY_MAX_REGIONS; i++)
		assert_int_equal(vfio_unmap(&rig, (uint64_t)i * 4 * PAGE, PAGE),
				 sizeof(rig.reply.unmap));
	vfio_map_guest(&rig);
	vfio_drive(&rig, 1);
	vfio_deinit(&rig);
}

/*
 * If the device cannot use the memory of a map, the map only reserves its addresses. If there is no
 * other map, the start fails.
 */
static void test_memory_that_cannot_be_mapped(void **state)
{
	struct vublk_vfio_dma_map rom = { sizeof(rom), 1, 0, 0x200000, PAGE };
	struct vfio_rig rig;
	char path[64];
	int fd;

	vfio_init(&rig, NULL, NULL, false);
	assert_int_equal(vfio_map(&rig, 0x100000, PAGE, -1, 0), 0);
	assert_int_equal(vfio_map(&rig, 0x100000, PAGE, rig.memfd, 0), -EEXIST);
	assert_int_equal(vfio_call(&rig, VUBLK_VFIO_DMA_MAP, &rom, sizeof(rom), &rig.memfd, 1), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", rig.memfd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(vfio_map(&rig, 0x300000, PAGE, fd, 0), 0);
	vublk_fd_close(&fd);
	vfio_begin_driver(&rig);
	vfio_post(&rig, 4, VIRTIO_PCI_COMMON_STATUS, 1, 15);
	assert_int_equal(vfio_read(&rig, 4, VIRTIO_PCI_COMMON_STATUS, 1), 15 | 64);
	assert_non_null(strstr(rig.last_word, "share=on"));
	vfio_post(&rig, 4, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	vfio_map_guest(&rig);
	vfio_drive(&rig, 1);
	assert_int_equal(rig.mock.num_regions, 1);
	vfio_deinit(&rig);
}

/* --- before the rings run --------------------------------------------------------------------- */

static void test_a_storm_before_the_start(void **state)
{
	struct vfio_rig rig;
	unsigned open;

	vfio_init(&rig, NULL, NULL, false);
	open = vublk_test_count_fds();
	for (unsigned i = 0; i < 10000; i++) {
		assert_int_equal(vfio_map(&rig, GUEST_ADDR, GUEST_BYTES, rig.memfd, 0), 0);
		if (i % 2)
			assert_int_equal(vfio_unmap(&rig, GUEST_ADDR, GUEST_BYTES),
					 sizeof(rig.reply.unmap));
		else
			assert_int_equal(vfio_call(&rig, VUBLK_VFIO_DMA_UNMAP, (uint32_t[6]){ 24, 2 }, 24,
						   NULL, 0), 24);
	}
	assert_int_equal(vublk_test_count_fds(), open);
	assert_int_equal(changes(&rig), 0);
	vfio_map_guest(&rig);
	vfio_drive(&rig, 1);
	assert_int_equal(changes(&rig), 1);
	vfio_deinit(&rig);
}

/* Maps that are adjacent in the guest and in one file become one region. */
static void test_neighbours(void **state)
{
	struct vfio_rig rig;
	int other;

	vfio_init(&rig, NULL, NULL, false);
	other = vublk_memfd_new("other", GUEST_BYTES, NULL);
	for (unsigned i = 8; i--;)
		assert_int_equal(vfio_map(&rig, GUEST_ADDR + i * (GUEST_BYTES / 8), GUEST_BYTES / 8,
					  rig.memfd, i * (GUEST_BYTES / 8)), 0);
	assert_int_equal(vfio_map(&rig, GUEST_ADDR + GUEST_BYTES, PAGE, rig.memfd, 0), 0);
	assert_int_equal(vfio_map(&rig, GUEST_ADDR + GUEST_BYTES + PAGE, PAGE, other, PAGE), 0);
	vfio_drive(&rig, 1);
	assert_int_equal(rig.mock.num_regions, 3);
	vublk_fd_close(&other);
	vfio_deinit(&rig);
}

/* --- while they run --------------------------------------------------------------------------- */

/* The bus answers a map when the back-end has added the memory. The rings keep running. */
static void test_memory_is_added(void **state)
{
	struct vfio_rig rig;

	vfio_init(&rig, NULL, NULL, false);
	vfio_map_guest(&rig);
	vfio_drive(&rig, 1);
	mock_forget(&rig.mock);
	assert_int_equal(vfio_map(&rig, 0x100000, PAGE, rig.memfd, 0), 0);
	assert_int_equal(rig.mock.num_regions, 2);
	assert_int_equal(rig.mock.received[VUBLK_VU_GET_VRING_BASE], 0);
	assert_int_equal(vfio_map(&rig, 0x200000, PAGE, -1, 0), 0); /* this map has no file */
	assert_int_equal(changes(&rig), 1);
	assert_int_equal(state_of(&rig), VUBLK_DEVICE_RUNNING);
	vfio_deinit(&rig);
}

/*
 * To remove memory, the bus stops the rings. It answers the unmap when the back-end has removed the
 * memory.
 */
static void test_memory_is_removed(void **state)
{
	struct vfio_rig rig;

	vfio_init(&rig, NULL, NULL, false);
	vfio_map_guest(&rig);
	assert_int_equal(vfio_map(&rig, 0x100000, PAGE, rig.memfd, 0), 0);
	vfio_drive(&rig, 1);
	assert_int_equal(rig.mock.num_regions, 2);
	mock_forget(&rig.mock);
	rig.mock.base = 9;
	assert_int_equal(vfio_unmap(&rig, 0x100000, PAGE), sizeof(rig.reply.unmap));
	assert_int_equal(rig.mock.received[VUBLK_VU_GET_VRING_BASE], 1);
	vfio_expect_state(&rig, VUBLK_DEVICE_RUNNING);
	assert_int_equal(rig.mock.num_regions, 1);
	assert_int_equal(rig.mock.given_bases[0], 9);
	assert_true(kick_arrives(&rig));
	vfio_deinit(&rig);
}

/*
 * Unmaps all memory, as a whole or in pieces, and maps it again the other way, as QEMU does when
 * firmware copies itself to RAM. Waits for the last answer.
 */
static void remap(struct vfio_rig *rig, bool whole_before, bool settle_between)
{
	uint16_t id = 0;

	if (whole_before)
		id = vfio_send_unmap(rig, GUEST_ADDR, GUEST_BYTES);
	for (unsigned i = 0; i < 4 && !whole_before; i++)
		id = vfio_send_unmap(rig, GUEST_ADDR + i * (GUEST_BYTES / 4), GUEST_BYTES / 4);
	if (settle_between)
		vfio_settle(rig);
	if (!whole_before)
		id = vfio_send_map(rig, GUEST_ADDR, GUEST_BYTES, rig->memfd, 0);
	for (unsigned i = 0; i < 4 && whole_before; i++)
		id = vfio_send_map(rig, GUEST_ADDR + i * (GUEST_BYTES / 4), GUEST_BYTES / 4, rig->memfd,
				   i * (GUEST_BYTES / 4));
	do
		assert_true(vfio_poll(rig));
	while (rig->header.id != id);
	assert_int_equal(rig->header.flags, VUBLK_VFIO_TYPE_REPLY);
}

static void test_a_remap_without_a_change(void **state)
{
	struct vfio_rig rig;

	vfio_init(&rig, NULL, NULL, false);
	vfio_map_guest(&rig);
	vfio_drive(&rig, 1);
	mock_forget(&rig.mock);
	for (unsigned i = 0; i < 50; i++)
		remap(&rig, i % 2 == 0, false);
	assert_int_equal(changes(&rig), 0);
	assert_int_equal(rig.mock.received[VUBLK_VU_GET_VRING_BASE], 0);
	assert_int_equal(state_of(&rig), VUBLK_DEVICE_RUNNING);
	vfio_deinit(&rig);
}

/* While the memory of the rings is unmapped, the rings wait. */
static void test_a_remap_with_a_pause(void **state)
{
	struct vfio_rig rig;

	vfio_init(&rig, NULL, NULL, false);
	vfio_map_guest(&rig);
	vfio_drive(&rig, 1);
	for (unsigned i = 0; i < 10; i++) {
		rig.mock.base = (uint16_t)(100 + i);
		remap(&rig, i % 2 == 0, true);
		vfio_expect_state(&rig, VUBLK_DEVICE_RUNNING);
		assert_int_equal(rig.mock.given_bases[0], 100 + i);
		assert_true(kick_arrives(&rig));
	}
	assert_int_equal(vfio_unmap(&rig, GUEST_ADDR, GUEST_BYTES), sizeof(rig.reply.unmap));
	assert_int_equal(state_of(&rig), VUBLK_DEVICE_STOPPED);
	vfio_post(&rig, 4, 0x3000, 2, 0); /* a kick, which waits until the rings run */
	assert_int_equal(vfio_map(&rig, GUEST_ADDR + RINGS_BYTES, PAGE, rig.memfd, RINGS_BYTES), 0);
	assert_int_equal(state_of(&rig), VUBLK_DEVICE_STOPPED);
	assert_int_equal(vfio_map(&rig, GUEST_ADDR, RINGS_BYTES, rig.memfd, 0), 0);
	vfio_expect_state(&rig, VUBLK_DEVICE_RUNNING);
	vfio_settle(&rig);
	assert_true(vublk_eventfd_clear(rig.mock.kick_fds[0]) > 0);
	vfio_deinit(&rig);
}

/* Another file at the same address is a change, even if its descriptor has the same number. */
static void test_another_file_at_the_same_place(void **state)
{
	struct vfio_rig rig;
	uint16_t id;
	int other;

	vfio_init(&rig, NULL, NULL, false);
	other = vublk_memfd_new("other", GUEST_BYTES, NULL);
	vfio_map_guest(&rig);
	vfio_drive(&rig, 1);
	mock_forget(&rig.mock);
	vfio_send_unmap(&rig, GUEST_ADDR, GUEST_BYTES);
	id = vfio_send_map(&rig, GUEST_ADDR, GUEST_BYTES, other, 0);
	assert_true(vfio_poll(&rig));
	assert_int_equal(vfio_receive(&rig, id), 0);
	vfio_expect_state(&rig, VUBLK_DEVICE_RUNNING);
	assert_int_equal(changes(&rig), 2);
	assert_int_equal(rig.mock.num_regions, 1);
	vublk_fd_close(&other);
	vfio_deinit(&rig);
}

/* The client sends 10,000 commands in fast succession while the rings run. */
static void test_a_storm_while_they_run(void **state)
{
	struct vfio_rig rig;
	unsigned open;

	vfio_init(&rig, NULL, NULL, false);
	vfio_map_guest(&rig);
	vfio_drive(&rig, 2);
	remap(&rig, true, true);
	remap(&rig, false, true);
	vfio_expect_state(&rig, VUBLK_DEVICE_RUNNING);
	vfio_settle(&rig);
	open = vublk_test_count_fds();
	for (unsigned i = 0; i < 2000; i++) { /* five messages each */
		remap(&rig, i % 2 == 0, i % 7 == 0);
		if (i % 5 == 0)
			vfio_post(&rig, 4, 0x3000, 2, 0);
	}
	vfio_expect_state(&rig, VUBLK_DEVICE_RUNNING);
	vfio_settle(&rig);
	assert_int_equal(vublk_test_count_fds(), open);
	assert_true(kick_arrives(&rig));
	vfio_deinit(&rig);
}

/* The client sends more changes than the bus's table of deferred answers has room for. */
static void test_many_deferred_answers(void **state)
{
	struct vfio_rig rig;
	uint16_t id = 0;

	vfio_init(&rig, NULL, NULL, false);
	vfio_map_guest(&rig);
	vfio_drive(&rig, 1);
	for (unsigned i = 0; i < 200; i++)
		id = vfio_send_map(&rig, 0x100000 + (uint64_t)i * PAGE, PAGE, rig.memfd,
				   (uint64_t)i * PAGE);
	for (unsigned i = 0; i < 200; i++) {
		assert_int_equal(vfio_receive(&rig, (uint16_t)(id - 199 + i)), 0);
	}
	vfio_expect_state(&rig, VUBLK_DEVICE_RUNNING);
	assert_int_equal(rig.mock.num_regions, 2);
	vfio_deinit(&rig);
}

/*
 * The back-end has too few slots, or refuses the memory. The bus refuses the map, and everything
 * else still works.
 */
static void test_maps_that_the_back_end_refuses(void **state)
{
	struct vfio_rig rig;

	vfio_init(&rig, NULL, NULL, false);
	vfio_map_guest(&rig);
	vfio_drive(&rig, 1);
	for (unsigned i = 1; i < 32; i++)
		assert_int_equal(vfio_map(&rig, (uint64_t)i * 2 * PAGE, PAGE, rig.memfd, 0), 0);
	assert_int_equal(vfio_map(&rig, 32 * 2 * PAGE, PAGE, rig.memfd, 0), -ENOSPC);
	assert_int_equal(vfio_unmap(&rig, 2 * PAGE, PAGE), sizeof(rig.reply.unmap));
	vfio_expect_state(&rig, VUBLK_DEVICE_RUNNING);
	mock_forget(&rig.mock);
	rig.mock.fault = (struct mock_fault){ MOCK_REFUSE, VUBLK_VU_ADD_MEM_REG, 0, 0, 1 };
	assert_true(vfio_map(&rig, 32 * 2 * PAGE, PAGE, rig.memfd, 0) < 0);
	vfio_expect_state(&rig, VUBLK_DEVICE_RUNNING);
	rig.mock.fault.kind = MOCK_NO_FAULT;
	assert_int_equal(vfio_unmap(&rig, 32 * 2 * PAGE, PAGE), -ENOENT);
	assert_int_equal(vfio_map(&rig, 32 * 2 * PAGE, PAGE, rig.memfd, 0), 0);
	vfio_expect_state(&rig, VUBLK_DEVICE_RUNNING);
	assert_true(kick_arrives(&rig));
	vfio_deinit(&rig);
}

/* The back-end or the client disconnects during a change of the memory. */
static void test_disconnected_during_a_change(void **state)
{
	const struct vublk_option properties[] = { { "reconnect-ms", "10" }, { NULL, NULL } };
	struct vfio_rig rig;

	for (unsigned i = 0; i < 4; i++) {
		uint16_t id;

		vfio_init(&rig, NULL, properties, false);
		vfio_map_guest(&rig);
		vfio_drive(&rig, 1);
		id = i % 2 ? vfio_send_map(&rig, 0x100000, PAGE, rig.memfd, 0) :
			vfio_send_unmap(&rig, GUEST_ADDR, GUEST_BYTES);
		vublk_bus_process(rig.bus, NULL); /* the mock has not run yet */
		if (i < 2) {
			mock_hang_up(&rig.mock);
			assert_true(vfio_receive(&rig, id) >= 0);
			if (i == 0)
				vfio_map_guest(&rig);
			vfio_expect_state(&rig, VUBLK_DEVICE_RUNNING);
			assert_int_equal(rig.mock.num_regions, 1 + i);
		} else {
			vfio_hang_up(&rig);
			vfio_expect_state(&rig, VUBLK_DEVICE_STOPPED);
			vfio_connect(&rig);
			vfio_say_version(&rig);
			vfio_map_guest(&rig);
			vfio_drive(&rig, 1);
			assert_int_equal(rig.mock.num_regions, 1);
		}
		vfio_deinit(&rig);
	}
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_maps_that_are_refused),
		VUBLK_TEST(test_unmaps_that_are_refused),
		VUBLK_TEST(test_too_many_maps),
		VUBLK_TEST(test_memory_that_cannot_be_mapped),
		VUBLK_TEST(test_a_storm_before_the_start),
		VUBLK_TEST(test_neighbours),
		VUBLK_TEST(test_memory_is_added),
		VUBLK_TEST(test_memory_is_removed),
		VUBLK_TEST(test_a_remap_without_a_change),
		VUBLK_TEST(test_a_remap_with_a_pause),
		VUBLK_TEST(test_another_file_at_the_same_place),
		VUBLK_TEST(test_a_storm_while_they_run),
		VUBLK_TEST(test_many_deferred_answers),
		VUBLK_TEST(test_maps_that_the_back_end_refuses),
		VUBLK_TEST(test_disconnected_during_a_change),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
