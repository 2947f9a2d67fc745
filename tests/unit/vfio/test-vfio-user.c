/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The vfio-user bus and clients that send valid and invalid commands: versions, information,
 * accesses, interrupts and resets. test-vfio-dma.c tests the memory.
 *
 * Key idea: after every refusal or disconnection, the test checks that the bus still serves this
 * client or the next one.
 */
#include "harness.h"

#include "vfio-rig.h"

#include "proto/vhost-user/channel.h"
#include "util/fd.h"

#include <errno.h>
#include <linux/virtio_pci.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define MSIX VFIO_PCI_MSIX_IRQ_INDEX
#define INTX VFIO_PCI_INTX_IRQ_INDEX
#define ASSIGN (VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER)
#define DISABLE (VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER)

static bool was_signalled(int fd)
{
	return vublk_eventfd_clear(fd) > 0;
}

/* Checks that the bus still serves a client: the connected one, or a new one if there is none. */
static void expect_service(struct vfio_rig *rig)
{
	if (rig->client < 0) {
		vfio_connect(rig);
		vfio_say_version(rig);
	}
	assert_int_equal(vfio_read(rig, 7, 0, 4), 0x10421af4);
}

/* --- version ---------------------------------------------------------------------------------- */

static int send_version(struct vfio_rig *rig, uint16_t major, uint16_t minor, const char *text,
	       uint32_t bytes)
{
	struct vublk_vfio_version version = { major, minor, "" };

	memcpy(version.text, text, bytes);
	return vfio_call(rig, VUBLK_VFIO_VERSION, &version, 4 + bytes, NULL, 0);
}

static void test_versions(void **state)
{
	const struct { const char *text, *answer; } cases[] = {
		{ "{\"capabilities\":{\"max_msg_fds\":8,\"twin_socket\":{\"supported\":true}}}",
		  "{\"capabilities\":{\"max_msg_fds\":16}}" },
		{ "{\"max_msg_fds\":1,\"max_data_xfer_size\":1048576}", "{}" },
		{ "{}", "{}" },
		{ "{\"capabilities\":7}", "{}" },
		/* the bus's full answer would be longer than the client's text */
		{ "{\"capabilities\":{\"max_data_xfer_size\":1,\"pgsizes\":1}}",
		  "{\"capabilities\":{\"max_data_xfer_size\":4096}}" },
	};
	struct vfio_rig rig;

	vfio_init(&rig, NULL, NULL, false);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		vfio_hang_up(&rig);
		vfio_connect(&rig);
		assert_int_equal(send_version(&rig, 0, 9, cases[i].text, (uint32_t)strlen(cases[i].text) + 1),
				 4 + strlen(cases[i].answer) + 1);
		assert_int_equal(rig.reply.version.major, 0);
		assert_int_equal(rig.reply.version.minor, 0);
		assert_string_equal(rig.reply.version.text, cases[i].answer);
	}
	vfio_hang_up(&rig);
	vfio_connect(&rig);
	assert_int_equal(send_version(&rig, 0, 0, "", 0), 4);
	assert_int_equal(send_version(&rig, 0, 0, "", 0), -EINVAL); /* a second VERSION */
	expect_service(&rig);
	vfio_deinit(&rig);
}

static void test_bad_versions(void **state)
{
	const struct { uint16_t major; const char *text; uint32_t bytes; const char *word; } cases[] = {
		{ 1, "{}", 3, "uses vfio-user 1.0" },
		{ 0, "{}", 2, "not a JSON object" },
		{ 0, "{\"capabilities\":", 17, "not a JSON object" },
		{ 0, "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", 41, "not a JSON object" },
		{ 0, "null", 5, "not a JSON object" },
	};
	struct vfio_rig rig;

	vfio_init(&rig, NULL, NULL, false);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		struct vublk_vfio_version version = { cases[i].major, 0, "" };

		vfio_hang_up(&rig);
		vfio_connect(&rig);
		memcpy(version.text, cases[i].text, cases[i].bytes);
		vfio_send(&rig, VUBLK_VFIO_VERSION, 0, &version, 4 + cases[i].bytes, NULL, 0);
		assert_true(vfio_is_closed(&rig));
		assert_non_null(strstr(rig.last_word, cases[i].word));
		expect_service(&rig);
	}
	vfio_hang_up(&rig);
	vfio_connect(&rig);
	vfio_send(&rig, VUBLK_VFIO_DEVICE_RESET, 0, NULL, 0, NULL, 0);
	assert_true(vfio_is_closed(&rig));
	assert_non_null(strstr(rig.last_word, "its first message is DEVICE_RESET"));
	expect_service(&rig);
	vfio_deinit(&rig);
}

/* --- information ------------------------------------------------------------------------------ */

static void test_information(void **state)
{
	const uint32_t sizes[VFIO_PCI_NUM_REGIONS] = { 0, 16384, 0, 0, 16384, 0, 0, 4096, 0 };
	const uint32_t counts[VFIO_PCI_NUM_IRQS] = { 1, 0, 5, 1, 1 };
	struct vfio_rig rig;

	vfio_init(&rig, NULL, NULL, false);
	assert_int_equal(vfio_call(&rig, VUBLK_VFIO_DEVICE_GET_INFO, (uint32_t[5]){ 20 }, 20, NULL, 0),
			 16);
	assert_int_equal(rig.reply.device_info.flags, 3);
	assert_int_equal(rig.reply.device_info.num_regions, 9);
	assert_int_equal(rig.reply.device_info.num_irqs, 5);
	for (uint32_t i = 0; i < 12; i++) {
		uint32_t asked[8] = { 32, 0, i };
		int r = vfio_call(&rig, VUBLK_VFIO_DEVICE_GET_REGION_INFO, asked, 32, NULL, 0);

		assert_int_equal(r, i < 9 ? 32 : -EINVAL);
		if (r < 0)
			continue;
		assert_int_equal(rig.reply.region_info.argsz, 32);
		assert_int_equal(rig.reply.region_info.index, i);
		assert_int_equal(rig.reply.region_info.size, sizes[i]);
		assert_int_equal(rig.reply.region_info.flags, sizes[i] ? 3 : 0);
	}
	for (uint32_t i = 0; i < 7; i++) {
		int r = vfio_call(&rig, VUBLK_VFIO_DEVICE_GET_IRQ_INFO, (uint32_t[4]){ 16, 0, i }, 16,
				  NULL, 0);

		assert_int_equal(r, i < 5 ? 16 : -EINVAL);
		if (r >= 0)
			assert_int_equal(rig.reply.irq_info.count, counts[i]);
	}
	assert_int_equal(vfio_call(&rig, VUBLK_VFIO_DEVICE_GET_INFO, (uint32_t[5]){ 15 }, 20, NULL, 0),
			 -EINVAL);
	vfio_deinit(&rig);
}

/* --- invalid commands ------------------------------------------------------------------------- */

static void test_commands_that_are_refused(void **state)
{
	struct vfio_rig rig;
	int fd;

	vfio_init(&rig, NULL, NULL, false);
	fd = vublk_eventfd_new();
	for (uint16_t command = 0; command < 30; command++) {
		const struct vublk_vfio_command_info *info = vublk_vfio_command_info(command);
		static uint8_t payload[8192];
		uint32_t bytes = !info || !info->served ? 8 :
			info->min_payload_bytes ? info->min_payload_bytes - 1 : 1;
		int code = !info || !info->served ? -ENOTSUP : -EINVAL;

		assert_int_equal(vfio_call(&rig, command, payload, bytes, NULL, 0), code);
		if (info && info->served && !info->max_fds)
			assert_int_equal(vfio_call(&rig, command, payload, info->min_payload_bytes,
						   &fd, 1), code);
		vfio_send(&rig, command, VUBLK_VFIO_FLAG_NO_REPLY, payload, bytes, NULL, 0);
		expect_service(&rig);
	}
	vublk_fd_close(&fd);
	vfio_deinit(&rig);
}

static void test_invalid_messages(void **state)
{
	const struct vublk_vfio_header headers[] = {
		{ 1, VUBLK_VFIO_DEVICE_RESET, 16, VUBLK_VFIO_TYPE_REPLY, 0 },
		{ 1, VUBLK_VFIO_DEVICE_RESET, 16, 0x80, 0 },
		{ 1, VUBLK_VFIO_DEVICE_RESET, 15, 0, 0 },
		{ 1, VUBLK_VFIO_REGION_WRITE, UINT32_MAX, 0, 0 },
		{ 1, VUBLK_VFIO_REGION_WRITE, 1 << 20, 0, 0 },
	};
	struct vfio_rig rig;

	vfio_init(&rig, NULL, NULL, false);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(headers); i++) {
		assert_int_equal(send(rig.client, &headers[i], 16, 0), 16);
		assert_true(vfio_is_closed(&rig));
		expect_service(&rig);
	}
	vfio_deinit(&rig);
}

static void test_accesses_out_of_range(void **state)
{
	const struct { uint64_t offset; uint32_t region, count; } cases[] = {
		{ 0, 0, 4 }, { 0, 2, 1 }, { 0, 5, 4 }, { 0, 6, 1 }, { 0, 8, 1 }, { 0, 9, 1 },
		{ 0, UINT32_MAX, 1 }, { 4096, 7, 1 }, { 4093, 7, 4 }, { 16384, 4, 1 },
		{ 16383, 4, 2 }, { UINT64_MAX, 4, 1 }, { UINT64_MAX - 3, 7, 8 }, { 0, 4, 0 },
		{ 0, 4, 4097 }, { 0, 4, UINT32_MAX },
	};
	struct vfio_rig rig;

	vfio_init(&rig, NULL, NULL, false);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		struct { uint64_t offset; uint32_t region, count; uint8_t data[8]; } access = {
			cases[i].offset, cases[i].region, cases[i].count, { 0 },
		};
		struct { uint64_t count; typeof(access) write; } many = { 1, access };

		assert_int_equal(vfio_call(&rig, VUBLK_VFIO_REGION_READ, &access, 16, NULL, 0),
				 -EINVAL);
		assert_int_equal(vfio_call(&rig, VUBLK_VFIO_REGION_WRITE, &access,
					   16 + VUBLK_MIN(access.count, 8u), NULL, 0), -EINVAL);
		assert_int_equal(vfio_call(&rig, VUBLK_VFIO_REGION_WRITE_MULTI, &many, sizeof(many),
					   NULL, 0), -EINVAL);
		expect_service(&rig);
	}
	assert_int_equal(vfio_read(&rig, 7, 0, 4096) & 0xffff, 0x1af4);
	vfio_read(&rig, 4, 0, 4096);
	vfio_deinit(&rig);
}

static void test_many_writes(void **state)
{
	struct vublk_vfio_writes writes = { 3, {
		{ VIRTIO_PCI_COMMON_Q_SELECT, 4, 2, { 2 } },
		{ VIRTIO_PCI_COMMON_Q_SIZE, 4, 2, { 8 } },
		{ VIRTIO_PCI_COMMON_Q_DESCLO, 4, 8, { 1, 2, 3, 4, 5, 6, 7, 8 } },
	} };
	struct vfio_rig rig;

	vfio_init(&rig, NULL, NULL, false);
	assert_int_equal(vfio_call(&rig, VUBLK_VFIO_REGION_WRITE_MULTI, &writes, 8 + 3 * 24, NULL, 0),
			 8);
	assert_int_equal(rig.reply.writes.count, 3);
	assert_int_equal(vfio_read(&rig, 4, VIRTIO_PCI_COMMON_Q_SIZE, 2), 8);
	assert_int_equal(vfio_read(&rig, 4, VIRTIO_PCI_COMMON_Q_DESCLO, 8), 0x0807060504030201);
	writes.count = UINT64_MAX;
	assert_int_equal(vfio_call(&rig, VUBLK_VFIO_REGION_WRITE_MULTI, &writes, 8 + 3 * 24, NULL, 0),
			 -EINVAL);
	writes.count = 3;
	writes.writes[1].count = 9;
	assert_int_equal(vfio_call(&rig, VUBLK_VFIO_REGION_WRITE_MULTI, &writes, 8 + 3 * 24, NULL, 0),
			 -EINVAL);
	vfio_deinit(&rig);
}

/* --- interrupts ------------------------------------------------------------------------------- */

static void test_irqs_that_are_refused(void **state)
{
	const struct { uint32_t flags, index, start, count; unsigned num_fds; int code; } cases[] = {
		{ 0, MSIX, 0, 1, 0, EINVAL },
		{ VFIO_IRQ_SET_DATA_NONE, MSIX, 0, 1, 0, EINVAL },
		{ ASSIGN | VFIO_IRQ_SET_DATA_NONE, MSIX, 0, 1, 1, EINVAL },
		{ ASSIGN | VFIO_IRQ_SET_ACTION_MASK, MSIX, 0, 1, 1, EINVAL },
		{ ASSIGN | 0x40, MSIX, 0, 1, 1, EINVAL },
		{ ASSIGN, 1, 0, 1, 1, EINVAL }, /* the device has no MSI */
		{ ASSIGN, 5, 0, 1, 1, EINVAL },
		{ ASSIGN, UINT32_MAX, 0, 1, 1, EINVAL },
		{ ASSIGN, MSIX, 5, 1, 1, EINVAL },
		{ ASSIGN, MSIX, 0, 6, 6, EINVAL },
		{ ASSIGN, MSIX, UINT32_MAX, 2, 2, EINVAL },
		{ ASSIGN, MSIX, 0, UINT32_MAX, 1, EINVAL },
		{ ASSIGN, MSIX, 0, 1, 2, EINVAL },
		{ ASSIGN, MSIX, 0, 3, 2, EINVAL },
		{ ASSIGN, MSIX, 0, 1, 16, EINVAL },
		{ DISABLE, MSIX, 0, 0, 1, EINVAL },
		{ VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_ACTION_TRIGGER, MSIX, 0, 2, 0, EINVAL },
		{ VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_MASK, INTX, 0, 1, 1, ENOTSUP },
		{ VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK, INTX, 0, 1, 1, ENOTSUP },
		{ VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK, MSIX, 0, 1, 1, ENOTSUP },
	};
	struct vfio_rig rig;
	int fds[40];
	unsigned open;

	vfio_init(&rig, NULL, NULL, false);
	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(fds); i++)
		fds[i] = vublk_eventfd_new();
	open = vublk_test_count_fds();
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		assert_int_equal(vfio_set_irqs(&rig, cases[i].flags, cases[i].index, cases[i].start,
					       cases[i].count, fds, cases[i].num_fds),
				 -cases[i].code);
		expect_service(&rig);
		assert_int_equal(vublk_test_count_fds(), open);
	}
	/* A message cannot have 40 descriptors, so the connection ends. */
	vfio_send(&rig, VUBLK_VFIO_DEVICE_SET_IRQS, 0, (uint32_t[5]){ 20, ASSIGN, MSIX, 0, 40 }, 20,
		  fds, 40);
	assert_true(vfio_is_closed(&rig));
	assert_non_null(strstr(rig.last_word, "too many file descriptors; the maximum is 16"));
	expect_service(&rig);
	vublk_fd_close_all(fds, VUBLK_ARRAY_SIZE(fds));
	vfio_deinit(&rig);
}

/*
 * The back-end writes to the files of the vectors. The bus accepts only eventfds, because a write
 * to another file could block.
 */
static void test_files_that_are_not_eventfds(void **state)
{
	struct vfio_rig rig;
	int pipes[2];

	vfio_init(&rig, NULL, NULL, false);
	assert_int_equal(pipe(pipes), 0);
	assert_int_equal(vfio_set_irqs(&rig, ASSIGN, MSIX, 0, 1, &pipes[1], 1), -EINVAL);
	assert_int_equal(vfio_set_irqs(&rig, ASSIGN, MSIX, 0, 1, &rig.memfd, 1), -EINVAL);
	assert_int_equal(vfio_set_irqs(&rig, ASSIGN, INTX, 0, 1, &rig.client, 1), -EINVAL);
	close(pipes[0]);
	close(pipes[1]);
	vfio_deinit(&rig);
}

/* To add a vector, the client assigns all vectors again, as QEMU does for a Linux guest. */
static void test_vectors_added_one_by_one(void **state)
{
	struct vfio_rig rig;
	int fds[3];

	vfio_init(&rig, NULL, NULL, false);
	for (unsigned i = 0; i < 3; i++)
		fds[i] = vublk_eventfd_new();
	vfio_map_guest(&rig);
	assert_int_equal(vfio_set_irqs(&rig, ASSIGN, INTX, 0, 1, fds, 1), 0);
	assert_int_equal(vfio_set_irqs(&rig, DISABLE, INTX, 0, 0, NULL, 0), 0);
	vfio_enable_msix(&rig);
	assert_int_equal(vfio_set_irqs(&rig, ASSIGN, MSIX, 0, 1, NULL, 0), 0);
	for (unsigned count = 1; count <= 3; count++) {
		assert_int_equal(vfio_set_irqs(&rig, DISABLE, MSIX, 0, 0, NULL, 0), 0);
		assert_int_equal(vfio_set_irqs(&rig, ASSIGN, MSIX, 0, count, fds, count), 0);
	}
	vfio_post(&rig, 4, VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
	vfio_post(&rig, 4, VIRTIO_PCI_COMMON_Q_MSIX, 2, 2);
	assert_int_equal(vfio_read(&rig, 4, VIRTIO_PCI_COMMON_Q_MSIX, 2), 2);
	vfio_drive(&rig, 2);
	was_signalled(fds[2]);
	vublk_eventfd_signal(rig.mock.call_fds[1]);
	assert_true(was_signalled(fds[2]));
	/*
	 * The client removes the vectors and assigns them again while the rings run. An interrupt
	 * in between is not lost.
	 */
	assert_int_equal(vfio_set_irqs(&rig, DISABLE, MSIX, 0, 0, NULL, 0), 0);
	vfio_settle(&rig);
	vublk_eventfd_signal(rig.mock.call_fds[1]);
	vfio_settle(&rig);
	assert_false(was_signalled(fds[2]));
	assert_int_equal(vfio_set_irqs(&rig, ASSIGN, MSIX, 0, 3, fds, 3), 0);
	assert_true(was_signalled(fds[2]));
	/* With a count that is not 0, these flags raise vectors instead of disabling them. */
	assert_int_equal(vfio_set_irqs(&rig, DISABLE, MSIX, 1, 1, NULL, 0), 0);
	assert_true(was_signalled(fds[1]));
	vublk_fd_close_all(fds, 3);
	vfio_deinit(&rig);
}

static void test_intx_and_its_masks(void **state)
{
	const uint32_t unmask = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK;
	struct vfio_rig rig;
	int intx;

	vfio_init(&rig, NULL, NULL, false);
	intx = vublk_eventfd_new();
	vfio_map_guest(&rig);
	assert_int_equal(vfio_set_irqs(&rig, ASSIGN, INTX, 0, 1, &intx, 1), 0);
	vfio_drive(&rig, 1);
	vublk_eventfd_signal(rig.mock.call_fds[0]);
	vfio_settle(&rig);
	assert_true(was_signalled(intx));
	assert_int_equal(vfio_set_irqs(&rig, unmask, INTX, 0, 1, NULL, 0), 0);
	assert_true(was_signalled(intx)); /* the driver has not read the ISR */
	assert_int_equal(vfio_read(&rig, 4, 0x1000, 1), 1);
	assert_int_equal(vfio_set_irqs(&rig, unmask, INTX, 0, 1, NULL, 0), 0);
	assert_false(was_signalled(intx));
	vublk_fd_close(&intx);
	vfio_deinit(&rig);
}

/* --- resets ----------------------------------------------------------------------------------- */

/* The bus answers a reset only when the back-end has returned the rings. */
static void test_a_reset_is_answered_when_it_is_done(void **state)
{
	struct vfio_rig rig;
	uint16_t id;

	vfio_init(&rig, NULL, NULL, false);
	vfio_map_guest(&rig);
	vfio_drive(&rig, 2);
	mock_forget(&rig.mock);
	assert_int_equal(vfio_call(&rig, VUBLK_VFIO_DEVICE_RESET, NULL, 0, NULL, 0), 0);
	assert_int_equal(rig.mock.received[VUBLK_VU_GET_VRING_BASE], 2);
	assert_int_equal(vfio_read(&rig, 4, VIRTIO_PCI_COMMON_STATUS, 1), 0);
	/* The driver posts a reset, and sends its next command before the reset has ended. */
	vfio_drive(&rig, 2);
	vfio_post(&rig, 4, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	vfio_post(&rig, 4, VIRTIO_PCI_COMMON_STATUS, 1, 1);
	assert_int_equal(vfio_read(&rig, 4, VIRTIO_PCI_COMMON_STATUS, 1), 1);
	assert_int_equal(vublk_device_state(rig.bus->device), VUBLK_DEVICE_STOPPED);
	/* One message has several writes. The writes after the reset wait for the reset. */
	vfio_post(&rig, 4, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	vfio_drive(&rig, 1);
	id = vfio_send(&rig, VUBLK_VFIO_REGION_WRITE_MULTI, 0, &(struct vublk_vfio_writes){ 3, {
			{ VIRTIO_PCI_COMMON_STATUS, 4, 1, { 0 } },
			{ VIRTIO_PCI_COMMON_STATUS, 4, 1, { 1 } },
			{ VIRTIO_PCI_COMMON_STATUS, 4, 1, { 3 } },
		} }, 8 + 3 * 24, NULL, 0);
	assert_int_equal(vfio_receive(&rig, id), 8);
	assert_int_equal(vfio_read(&rig, 4, VIRTIO_PCI_COMMON_STATUS, 1), 3);
	vfio_deinit(&rig);
}

static void test_a_storm_of_resets(void **state)
{
	struct vfio_rig rig;

	vfio_init(&rig, NULL, NULL, false);
	vfio_map_guest(&rig);
	for (unsigned i = 0; i < 200; i++) {
		if (i % 10 == 0)
			vfio_drive(&rig, 2);
		for (unsigned j = 0; j < 20; j++)
			vfio_send(&rig, VUBLK_VFIO_DEVICE_RESET, VUBLK_VFIO_FLAG_NO_REPLY, NULL, 0, NULL,
				  0);
		vfio_post(&rig, 4, VIRTIO_PCI_COMMON_STATUS, 1, 0);
		assert_int_equal(vfio_read(&rig, 4, VIRTIO_PCI_COMMON_STATUS, 1), 0);
	}
	vfio_deinit(&rig);
}

/* The back-end does not answer, but the bus answers the client before the client stops waiting. */
static void test_a_reset_that_takes_long(void **state)
{
	const struct vublk_option properties[] = { { "reconnect-ms", "1000" }, { NULL } };
	struct vfio_rig rig;

	vfio_init(&rig, NULL, properties, false);
	vfio_map_guest(&rig);
	vfio_drive(&rig, 1);
	rig.mock.fault = (struct mock_fault){ MOCK_SILENCE, VUBLK_VU_GET_VRING_BASE, 0, 0, 0 };
	vfio_post(&rig, 4, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	assert_int_not_equal(vfio_read(&rig, 4, VIRTIO_PCI_COMMON_STATUS, 1), 0);
	assert_non_null(strstr(rig.last_word, "has not answered in time"));
	vfio_expect_state(&rig, VUBLK_DEVICE_LOST);
	assert_int_equal(vfio_read(&rig, 4, VIRTIO_PCI_COMMON_STATUS, 1) & 0xf, 0);
	vfio_deinit(&rig);
}

/* --- clients ---------------------------------------------------------------------------------- */

/* A client sees nothing of the previous client's state. */
static void test_clients_reconnect(void **state)
{
	struct vfio_rig rig;
	unsigned open = 0;
	int fds[2];

	vfio_init(&rig, NULL, NULL, false);
	fds[0] = vublk_eventfd_new();
	fds[1] = vublk_eventfd_new();
	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(vfio_read(&rig, 4, VIRTIO_PCI_COMMON_STATUS, 1), 0);
		vfio_map_guest(&rig);
		vfio_enable_msix(&rig);
		assert_int_equal(vfio_set_irqs(&rig, ASSIGN, MSIX, 0, 2, fds, 2), 0);
		vfio_drive(&rig, 2);
		vfio_hang_up(&rig);
		vfio_expect_state(&rig, VUBLK_DEVICE_STOPPED);
		if (i == 2)
			open = vublk_test_count_fds();
		if (i > 2)
			assert_int_equal(vublk_test_count_fds(), open);
		vfio_connect(&rig);
		vfio_say_version(&rig);
	}
	vublk_fd_close_all(fds, 2);
	vfio_deinit(&rig);
}

/* The second client waits until the first one has disconnected. */
static void test_one_client_at_a_time(void **state)
{
	struct vfio_rig rig;
	int first, second;

	vfio_init(&rig, NULL, NULL, false);
	first = rig.client;
	rig.client = -1;
	vfio_connect(&rig);
	second = rig.client;
	vfio_send(&rig, VUBLK_VFIO_VERSION, 0, "\0\0\0\0", 4, NULL, 0);
	assert_false(vfio_poll(&rig));
	rig.client = first;
	expect_service(&rig);
	vfio_hang_up(&rig);
	rig.client = second;
	assert_true(vfio_poll(&rig));
	expect_service(&rig);
	vfio_deinit(&rig);
}

/* A client that sends commands and reads no answers harms only its own connection. */
static void test_a_client_that_does_not_read(void **state)
{
	struct { uint64_t offset; uint32_t region, count; } read = { 0, 7, 4096 };
	struct vfio_rig rig;

	vfio_init(&rig, NULL, NULL, false);
	for (unsigned i = 0; i < 200; i++) {
		struct pollfd fd = { rig.client, POLLOUT, 0 };

		if (poll(&fd, 1, 0) == 1)
			vfio_send(&rig, VUBLK_VFIO_REGION_READ, 0, &read, sizeof(read), NULL, 0);
		vfio_settle(&rig);
	}
	while (vfio_poll(&rig)) /* all answers arrive when the client reads */
		assert_int_equal(rig.header.size, 16 + 16 + 4096);
	expect_service(&rig);
	for (unsigned i = 0; i < 200; i++)
		vfio_send(&rig, VUBLK_VFIO_REGION_READ, 0, &read, sizeof(read), NULL, 0);
	vfio_settle(&rig);
	vfio_hang_up(&rig);
	expect_service(&rig);
	vfio_deinit(&rig);
}

/* The back-end disconnects and reconnects while the rings run. The driver notices no difference. */
static void test_a_back_end_that_reconnects(void **state)
{
	const struct vublk_option properties[] = { { "reconnect-ms", "10" }, { NULL, NULL } };
	struct vfio_rig rig;

	vfio_init(&rig, NULL, properties, false);
	vfio_map_guest(&rig);
	vfio_drive(&rig, 1);
	mock_hang_up(&rig.mock);
	vfio_expect_state(&rig, VUBLK_DEVICE_LOST);
	assert_int_equal(vfio_read(&rig, 4, VIRTIO_PCI_COMMON_STATUS, 1), 15);
	vfio_expect_state(&rig, VUBLK_DEVICE_RUNNING);
	assert_int_equal(vfio_read(&rig, 4, VIRTIO_PCI_COMMON_STATUS, 1), 15);
	vfio_deinit(&rig);
}

static void test_a_back_end_that_stays_lost(void **state)
{
	struct vfio_rig rig;

	vfio_init(&rig, NULL, NULL, false);
	vfio_map_guest(&rig);
	vfio_drive(&rig, 1);
	mock_hang_up(&rig.mock);
	assert_true(vfio_is_closed(&rig));
	assert_int_equal(rig.result, -ENOTCONN);
	vfio_deinit(&rig);
}

/* --- starts ----------------------------------------------------------------------------------- */

/*
 * Opens the bus `spec` with the option `name`, runs it until it listens or fails, and frees it.
 * Returns 0 if the bus began to listen; otherwise a negative errno, with the reason in `error`.
 */
static int failure_of(const char *spec, struct mock *mock, const char *name, const char *value,
		      struct vublk_error *error)
{
	const struct vublk_option options[] = {
		{ "chardev", mock->path }, { "reconnect-ms", "0" }, { name, value }, { NULL },
	};
	struct vublk_bus *bus = NULL;
	int r = vublk_bus_open(spec, options, NULL, &bus, error);

	while (!r && bus->state != VUBLK_BUS_LISTENING) {
		struct pollfd fd = { vublk_bus_fd(bus), POLLIN, 0 };

		while (mock_pump(mock))
			;
		assert_int_equal(poll(&fd, 1, 20000), 1);
		if (vublk_bus_process(bus, error) < 0)
			r = -error->code;
	}
	vublk_bus_free(bus);
	while (mock_pump(mock))
		;
	return r;
}

/* If the bus cannot start, the error says why. */
static void test_starts_that_fail(void **state)
{
	struct vublk_error error;
	struct mock mock;
	char path[200], spec[220];

	mock_init(&mock);
	snprintf(path, sizeof(path), "%s/vfio", vublk_test_folder());
	snprintf(spec, sizeof(spec), "vfio-user:%s", path);
	assert_int_equal(failure_of(spec, &mock, "vectors", "1000", &error), -EINVAL);
	assert_non_null(strstr(error.text, "vectors"));
	assert_int_equal(failure_of(spec, &mock, "transitional", "perhaps", &error), -EINVAL);
	assert_int_equal(failure_of(spec, &mock, "chardev", "", &error), -EINVAL);
	assert_non_null(strstr(error.text, "chardev"));
	assert_int_equal(failure_of("vfio-user:", &mock, NULL, NULL, &error), -EINVAL);
	assert_string_equal(error.text, "the bus 'vfio-user:' is invalid; expected vhost-user:PATH "
			    "or vfio-user:PATH");
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(failure_of(spec, &mock, "vectors", "2", &error), -EEXIST);
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(failure_of(spec, &mock, "vectors", "auto", &error), 0);
	assert_int_equal(access(path, F_OK), -1); /* the socket's file was removed */
	mock_deinit(&mock);
}

/* Commands arrive, but the bus cannot send an answer, so it closes the connection. */
static void test_a_client_that_receives_nothing(void **state)
{
	const struct vublk_vfio_device_info info = { .argsz = sizeof(info) };
	struct vfio_rig rig;

	vfio_init(&rig, NULL, NULL, false);
	assert_int_equal(shutdown(rig.client, SHUT_RD), 0);
	for (unsigned i = 0; i < 2; i++)
		vfio_send(&rig, VUBLK_VFIO_DEVICE_GET_INFO, 0, &info, sizeof(info), NULL, 0);
	vfio_settle(&rig);
	assert_int_equal(send(rig.client, "", 1, MSG_NOSIGNAL), -1);
	assert_int_equal(errno, EPIPE);
	vfio_hang_up(&rig);
	expect_service(&rig);
	vfio_deinit(&rig);
}

/* A client that sends no command, or only half of one, is disconnected if another client waits. */
static void test_silent_clients(void **state)
{
	const struct vublk_option limit[] = { { "message-timeout-ms", "20" }, { 0 } };

	for (unsigned i = 0; i < 3; i++) {
		struct vfio_rig rig;
		int next;

		vfio_init(&rig, NULL, limit, false);
		if (i < 2) {
			vfio_hang_up(&rig);
			vfio_connect(&rig);
		}
		if (i)
			assert_int_equal(send(rig.client, "abcde", 5, 0), 5);
		vfio_settle(&rig);
		next = vublk_socket_connect(rig.path, NULL);
		assert_true(next >= 0);
		while (!vfio_is_closed(&rig))
			;
		assert_non_null(strstr(rig.last_word, i == 2 ? "the client sent 5 bytes of a message" :
				       "the client sent no message within 20 ms"));
		rig.client = next;
		vfio_say_version(&rig);
		vfio_deinit(&rig);
	}
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_versions),
		VUBLK_TEST(test_bad_versions),
		VUBLK_TEST(test_information),
		VUBLK_TEST(test_commands_that_are_refused),
		VUBLK_TEST(test_invalid_messages),
		VUBLK_TEST(test_accesses_out_of_range),
		VUBLK_TEST(test_many_writes),
		VUBLK_TEST(test_irqs_that_are_refused),
		VUBLK_TEST(test_files_that_are_not_eventfds),
		VUBLK_TEST(test_vectors_added_one_by_one),
		VUBLK_TEST(test_intx_and_its_masks),
		VUBLK_TEST(test_a_reset_is_answered_when_it_is_done),
		VUBLK_TEST(test_a_storm_of_resets),
		VUBLK_TEST(test_a_reset_that_takes_long),
		VUBLK_TEST(test_clients_reconnect),
		VUBLK_TEST(test_one_client_at_a_time),
		VUBLK_TEST(test_a_client_that_does_not_read),
		VUBLK_TEST(test_a_client_that_receives_nothing),
		VUBLK_TEST(test_a_back_end_that_reconnects),
		VUBLK_TEST(test_a_back_end_that_stays_lost),
		VUBLK_TEST(test_starts_that_fail),
		VUBLK_TEST(test_silent_clients),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
