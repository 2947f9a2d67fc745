/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The registers of the virtio-pci model: their contents, the effects of writes, and the resulting
 * states of the device. test-virtio-pci-irq.c tests interrupts.
 *
 * Key idea: the test acts as the driver. The device behind the model is a real device with a mock
 * back-end.
 */
#include "harness.h"

#include "pci-rig.h"

#include "util/fd.h"

#include <linux/pci_regs.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- configuration space ---------------------------------------------------------------------- */

static void test_identity(void **state)
{
	const struct { bool transitional; uint32_t id, subsystem, class_rev; } cases[] = {
		{ false, 0x10421af4, 0x11001af4, 0x01000001 },
		{ true, 0x10011af4, 0x00021af4, 0x01000000 },
	};

	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		struct pci_rig rig;

		pci_rig_init(&rig, cases[i].transitional, NULL);
		assert_int_equal(config_read(&rig, PCI_VENDOR_ID, 4), cases[i].id);
		assert_int_equal(config_read(&rig, PCI_SUBSYSTEM_VENDOR_ID, 4),
				 cases[i].subsystem);
		assert_int_equal(config_read(&rig, PCI_CLASS_REVISION, 4), cases[i].class_rev);
		assert_int_equal(config_read(&rig, PCI_HEADER_TYPE, 1), 0);
		assert_int_equal(config_read(&rig, PCI_STATUS, 2), PCI_STATUS_CAP_LIST);
		assert_int_equal(config_read(&rig, PCI_INTERRUPT_PIN, 1), 1);
		config_write(&rig, PCI_VENDOR_ID, 4, 0);
		config_write(&rig, PCI_CLASS_REVISION, 4, 0);
		assert_int_equal(config_read(&rig, PCI_VENDOR_ID, 4), cases[i].id);
		assert_int_equal(config_read(&rig, PCI_CLASS_REVISION, 4), cases[i].class_rev);
		pci_rig_deinit(&rig);
	}
}

static void expect_bar(struct pci_rig *rig, unsigned bar, uint32_t expected)
{
	unsigned offset = PCI_BASE_ADDRESS_0 + 4 * bar;

	config_write(rig, offset, 4, UINT32_MAX);
	assert_int_equal(config_read(rig, offset, 4), expected);
	config_write(rig, offset, 4, 0xfe000000);
	assert_int_equal(config_read(rig, offset, 4),
			 (0xfe000000 & expected) | (expected == UINT32_MAX ? 0 : expected & 0xf));
}

static void test_bar_sizes(void **state)
{
	const uint32_t modern[] = { 0, 0xffffc000, 0, 0, 0xffffc00c, 0xffffffff };
	struct pci_rig rig;

	for (unsigned transitional = 0; transitional < 2; transitional++) {
		pci_rig_init(&rig, transitional, NULL);
		for (unsigned bar = 0; bar < VUBLK_VIRTIO_PCI_NUM_BARS; bar++) {
			if (bar || !transitional)
				expect_bar(&rig, bar, modern[bar]);
			else
				expect_bar(&rig, bar, 0xffffff81);
		}
		assert_int_equal(vublk_virtio_pci_bar_bytes(rig.pci, 0), transitional ? 128 : 0);
		assert_int_equal(vublk_virtio_pci_bar_bytes(rig.pci, 4), 16384);
		assert_int_equal(vublk_virtio_pci_bar_bytes(rig.pci, 99), 0);
		pci_rig_deinit(&rig);
	}
}

static void expect_place(struct pci_rig *rig, uint8_t type, unsigned bytes, uint32_t offset)
{
	unsigned at = find_capability(rig, PCI_CAP_ID_VNDR, type);

	assert_int_not_equal(at, 0);
	assert_int_equal(config_read(rig, at + VIRTIO_PCI_CAP_LEN, 1), bytes);
	assert_int_equal(config_read(rig, at + VIRTIO_PCI_CAP_BAR, 1), MODERN_BAR);
	assert_int_equal(config_read(rig, at + VIRTIO_PCI_CAP_OFFSET, 4), offset);
	assert_int_equal(config_read(rig, at + VIRTIO_PCI_CAP_LENGTH, 4), 0x1000);
}

static void test_capabilities(void **state)
{
	struct pci_rig rig;
	unsigned msix, notify;

	pci_rig_init(&rig, false, NULL);
	expect_place(&rig, VIRTIO_PCI_CAP_COMMON_CFG, 16, COMMON);
	expect_place(&rig, VIRTIO_PCI_CAP_NOTIFY_CFG, 20, NOTIFY);
	expect_place(&rig, VIRTIO_PCI_CAP_ISR_CFG, 16, ISR);
	expect_place(&rig, VIRTIO_PCI_CAP_DEVICE_CFG, 16, DEVICE_CONFIG);
	assert_int_not_equal(find_capability(&rig, PCI_CAP_ID_VNDR, VIRTIO_PCI_CAP_PCI_CFG), 0);
	notify = find_capability(&rig, PCI_CAP_ID_VNDR, VIRTIO_PCI_CAP_NOTIFY_CFG);
	assert_int_equal(config_read(&rig, notify + VIRTIO_PCI_NOTIFY_CAP_MULT, 4), 4);
	msix = find_capability(&rig, PCI_CAP_ID_MSIX, 0);
	assert_int_equal(config_read(&rig, msix + PCI_MSIX_FLAGS, 2), 5 - 1); /* four queues, config */
	assert_int_equal(config_read(&rig, msix + PCI_MSIX_TABLE, 4), MSIX_BAR);
	assert_int_equal(config_read(&rig, msix + PCI_MSIX_PBA, 4), PBA | MSIX_BAR);
	config_write(&rig, msix + PCI_MSIX_FLAGS, 2, 0xffff);
	assert_int_equal(config_read(&rig, msix + PCI_MSIX_FLAGS, 2), 0xc000 | (5 - 1));
	pci_rig_deinit(&rig);
}

static void test_command_register(void **state)
{
	struct pci_rig rig;
	uint8_t all[4096];

	pci_rig_init(&rig, false, NULL);
	config_write(&rig, PCI_COMMAND, 2, 0xffff);
	assert_int_equal(config_read(&rig, PCI_COMMAND, 2), 0x547);
	config_write(&rig, PCI_STATUS, 2, 0xffff);
	assert_int_equal(config_read(&rig, PCI_STATUS, 2), PCI_STATUS_CAP_LIST);
	config_write(&rig, PCI_INTERRUPT_LINE, 1, 11);
	assert_int_equal(config_read(&rig, PCI_INTERRUPT_LINE, 1), 11);
	memset(all, 0xaa, sizeof(all));
	vublk_virtio_pci_config_read(rig.pci, 0, all, sizeof(all));
	assert_int_equal(all[0], 0xf4);
	for (unsigned i = VUBLK_VIRTIO_PCI_CONFIG_BYTES; i < sizeof(all); i++)
		assert_int_equal(all[i], 0);
	vublk_virtio_pci_reset(rig.pci);
	assert_int_equal(config_read(&rig, PCI_COMMAND, 2), 0);
	pci_rig_deinit(&rig);
}

/* Firmware accesses a BAR through the window in the configuration space. */
static void test_window(void **state)
{
	struct pci_rig rig;
	unsigned cap;

	pci_rig_init(&rig, false, NULL);
	cap = find_capability(&rig, PCI_CAP_ID_VNDR, VIRTIO_PCI_CAP_PCI_CFG);
	config_write(&rig, cap + VIRTIO_PCI_CAP_BAR, 1, MODERN_BAR);
	config_write(&rig, cap + VIRTIO_PCI_CAP_OFFSET, 4, COMMON + VIRTIO_PCI_COMMON_NUMQ);
	config_write(&rig, cap + VIRTIO_PCI_CAP_LENGTH, 4, 2);
	assert_int_equal(config_read(&rig, cap + 16, 2), 4);
	config_write(&rig, cap + VIRTIO_PCI_CAP_OFFSET, 4, COMMON + VIRTIO_PCI_COMMON_Q_SELECT);
	config_write(&rig, cap + 16, 2, 3);
	assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_Q_SELECT), 3);
	config_write(&rig, cap + VIRTIO_PCI_CAP_OFFSET, 4, COMMON + VIRTIO_PCI_COMMON_Q_SELECT + 1);
	config_write(&rig, cap + 16, 2, 1); /* not aligned */
	assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_Q_SELECT), 3);
	config_write(&rig, cap + VIRTIO_PCI_CAP_OFFSET, 4, 0xfffffffe);
	config_read(&rig, cap + 16, 2);
	config_write(&rig, cap + VIRTIO_PCI_CAP_BAR, 1, 200);
	config_write(&rig, cap + VIRTIO_PCI_CAP_OFFSET, 4, 0);
	config_write(&rig, cap + 16, 2, 1);
	assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_Q_SELECT), 3);
	pci_rig_deinit(&rig);
}

/* --- features and status ---------------------------------------------------------------------- */

static void test_feature_windows(void **state)
{
	struct pci_rig rig;
	uint64_t offered;

	pci_rig_init(&rig, false, NULL);
	offered = vublk_device_features(rig.rig.device) | VUBLK_BIT(RING_RESET);
	for (unsigned i = 0; i < 3; i++) {
		common_write(&rig, VIRTIO_PCI_COMMON_DFSELECT, i);
		common_write(&rig, VIRTIO_PCI_COMMON_GFSELECT, i);
		assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_DF),
				 i < 2 ? (uint32_t)(offered >> (32 * i)) : 0);
		common_write(&rig, VIRTIO_PCI_COMMON_GF, UINT32_MAX);
		assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_GF),
				 common_read(&rig, VIRTIO_PCI_COMMON_DF));
	}
	common_write(&rig, VIRTIO_PCI_COMMON_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
	assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_STATUS),
			 ACKNOWLEDGE | DRIVER | FEATURES_OK);
	common_write(&rig, VIRTIO_PCI_COMMON_GFSELECT, 0);
	common_write(&rig, VIRTIO_PCI_COMMON_GF, 0); /* no effect after FEATURES_OK */
	assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_GF), (uint32_t)offered);
	pci_rig_deinit(&rig);
}

static void test_refused_features(void **state)
{
	struct pci_rig rig;

	pci_rig_init(&rig, false, NULL);
	accept_features(&rig, VUBLK_BIT(VIRTIO_F_VERSION_1));
	assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_STATUS), ACKNOWLEDGE | DRIVER);
	assert_non_null(strstr(rig.last_word, "VIRTIO_F_VERSION_1"));
	set_up_queue(&rig, 0);
	common_write(&rig, VIRTIO_PCI_COMMON_STATUS, ACKNOWLEDGE | DRIVER | DRIVER_OK);
	assert_true(common_read(&rig, VIRTIO_PCI_COMMON_STATUS) & NEEDS_RESET);
	assert_non_null(strstr(rig.last_word, "without FEATURES_OK"));
	expect_state(&rig, VUBLK_DEVICE_STOPPED);
	pci_rig_deinit(&rig);
}

static void test_a_start_and_a_reset(void **state)
{
	struct vublk_device_queue queue;
	struct pci_rig rig;

	pci_rig_init(&rig, false, NULL);
	for (unsigned i = 0; i < 3; i++) {
		drive(&rig, 2);
		assert_int_equal(vublk_device_get_queue(rig.rig.device, 1, &queue, sizeof(queue)), 0);
		assert_int_equal(queue.size, RIG_QUEUE_SIZE);
		assert_int_equal(queue.desc_addr, ring_part(1, 0));
		assert_int_equal(queue.avail_addr, ring_part(1, 1));
		assert_int_equal(queue.used_addr, ring_part(1, 2));
		assert_int_equal(vublk_device_get_queue(rig.rig.device, 2, &queue, sizeof(queue)), 0);
		assert_int_equal(queue.size, 0);
		assert_int_equal(num_signals(rig.mock.kick_fds[0]), 1); /* a kick by the start */
		assert_int_equal(num_signals(rig.mock.kick_fds[1]), 1);
		pci_write(&rig, MODERN_BAR, NOTIFY + 4, 2, 1);
		assert_true(was_signalled(rig.mock.kick_fds[1]));
		pci_write(&rig, MODERN_BAR, NOTIFY + 8, 2, 2); /* this queue is not set up */

		common_write(&rig, VIRTIO_PCI_COMMON_STATUS, 0);
		assert_true(vublk_virtio_pci_is_busy(rig.pci));
		assert_int_not_equal(common_read(&rig, VIRTIO_PCI_COMMON_STATUS), 0);
		common_write(&rig, VIRTIO_PCI_COMMON_STATUS, ACKNOWLEDGE); /* ignored */
		expect_state(&rig, VUBLK_DEVICE_STOPPED);
		assert_false(vublk_virtio_pci_is_busy(rig.pci));
		assert_int_equal(rig.num_idle, i + 1);
		assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_STATUS), 0);
		common_write(&rig, VIRTIO_PCI_COMMON_Q_SELECT, 1);
		assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_Q_ENABLE), 0);
		assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_Q_DESCLO), 0);
	}
	pci_rig_deinit(&rig);
}

static void test_a_reset_while_it_starts(void **state)
{
	struct pci_rig rig;

	pci_rig_init(&rig, false, NULL);
	accept_features(&rig, 0);
	set_up_queue(&rig, 0);
	common_write(&rig, VIRTIO_PCI_COMMON_STATUS,
		     ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
	vublk_virtio_pci_reset(rig.pci);
	assert_true(vublk_virtio_pci_is_busy(rig.pci));
	expect_state(&rig, VUBLK_DEVICE_STOPPED);
	assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_STATUS), 0);
	drive(&rig, 1);
	pci_rig_deinit(&rig);
}

/* The back-end disconnects while a reset waits for its answer. The reset ends nevertheless. */
static void test_a_reset_without_a_back_end(void **state)
{
	struct pci_rig rig;

	pci_rig_init(&rig, false, NULL);
	drive(&rig, 1);
	common_write(&rig, VIRTIO_PCI_COMMON_STATUS, 0);
	assert_true(vublk_virtio_pci_is_busy(rig.pci));
	mock_hang_up(&rig.mock);
	expect_state(&rig, VUBLK_DEVICE_LOST);
	assert_false(vublk_virtio_pci_is_busy(rig.pci));
	assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_STATUS), 0);
	pci_rig_deinit(&rig);
}

static void test_invalid_starts(void **state)
{
	struct pci_rig rig;
	int mine, config;

	pci_rig_init(&rig, false, NULL);
	rig.no_memory = true;
	enable_msix(&rig, true);
	config = new_eventfd(&mine);
	vublk_virtio_pci_set_vector_fd(rig.pci, 0, config);
	common_write(&rig, VIRTIO_PCI_COMMON_MSIX, 0);
	accept_features(&rig, 0);
	set_up_queue(&rig, 0);
	common_write(&rig, VIRTIO_PCI_COMMON_STATUS,
		     ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
	assert_true(common_read(&rig, VIRTIO_PCI_COMMON_STATUS) & NEEDS_RESET);
	assert_non_null(strstr(rig.last_word, "memory has not been set"));
	assert_true(was_signalled(mine));
	common_write(&rig, VIRTIO_PCI_COMMON_STATUS, 0);
	assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_STATUS), 0);
	rig.no_memory = false;
	drive(&rig, 1);
	vublk_fd_close(&mine);
	pci_rig_deinit(&rig);
}

/* --- queues ----------------------------------------------------------------------------------- */

static void test_queue_registers(void **state)
{
	struct pci_rig rig;

	pci_rig_init(&rig, false, NULL);
	assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_NUMQ), 4);
	for (unsigned i = 0; i < 4; i++) {
		common_write(&rig, VIRTIO_PCI_COMMON_Q_SELECT, i);
		assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_Q_SIZE), 16);
		assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_Q_NOFF), i);
	}
	for (unsigned i = 0; i < 5; i++) { /* all of them invalid sizes */
		const uint32_t sizes[] = { 0, 1, 12, 32, 0x8000 };

		common_write(&rig, VIRTIO_PCI_COMMON_Q_SIZE, sizes[i]);
		assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_Q_SIZE), 16);
	}
	common_write(&rig, VIRTIO_PCI_COMMON_Q_SIZE, 8);
	assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_Q_SIZE), 8);
	pci_write(&rig, MODERN_BAR, COMMON + VIRTIO_PCI_COMMON_Q_DESCLO, 8, 0x123456789abcdef0);
	assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_Q_DESCLO), 0x9abcdef0);
	assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_Q_DESCHI), 0x12345678);
	common_write(&rig, VIRTIO_PCI_COMMON_Q_ENABLE, 1);
	assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_Q_ENABLE), 1);
	common_write(&rig, VIRTIO_PCI_COMMON_Q_DESCLO, 0);
	common_write(&rig, VIRTIO_PCI_COMMON_Q_SIZE, 4);
	common_write(&rig, VIRTIO_PCI_COMMON_Q_ENABLE, 0);
	assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_Q_DESCLO), 0x9abcdef0);
	assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_Q_SIZE), 8);
	assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_Q_ENABLE), 1);
	common_write(&rig, VIRTIO_PCI_COMMON_Q_SELECT, 4);
	for (unsigned offset = VIRTIO_PCI_COMMON_Q_DESCLO; offset < 64; offset += 4)
		assert_int_equal(common_read(&rig, offset), 0);
	assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_Q_SIZE), 0);
	assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_Q_MSIX), VIRTIO_MSI_NO_VECTOR);
	common_write(&rig, VIRTIO_PCI_COMMON_Q_SIZE, 8);
	common_write(&rig, VIRTIO_PCI_COMMON_Q_ENABLE, 1);
	pci_rig_deinit(&rig);
}

/* One queue is reset and set up again. The other queue resumes at its index. */
static void test_queue_reset(void **state)
{
	struct vublk_device_queue queue;
	struct pci_rig rig;

	pci_rig_init(&rig, false, NULL);
	drive(&rig, 2);
	rig.mock.base = 7;
	common_write(&rig, VIRTIO_PCI_COMMON_Q_SELECT, 1);
	common_write(&rig, QUEUE_RESET, 1);
	assert_true(vublk_virtio_pci_is_busy(rig.pci));
	assert_int_equal(common_read(&rig, QUEUE_RESET), 1);
	expect_state(&rig, VUBLK_DEVICE_RUNNING);
	assert_false(vublk_virtio_pci_is_busy(rig.pci));
	assert_int_equal(common_read(&rig, QUEUE_RESET), 0);
	assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_Q_ENABLE), 0);
	assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_Q_SIZE), 16);
	assert_int_equal(vublk_device_get_queue(rig.rig.device, 1, &queue, sizeof(queue)), 0);
	assert_int_equal(queue.size, 0);
	assert_int_equal(rig.mock.given_bases[0], 7);

	set_up_queue(&rig, 1);
	expect_state(&rig, VUBLK_DEVICE_RUNNING);
	assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_Q_ENABLE), 1);
	assert_int_equal(vublk_device_get_queue(rig.rig.device, 1, &queue, sizeof(queue)), 0);
	assert_int_equal(queue.size, RIG_QUEUE_SIZE);
	assert_int_equal(rig.mock.given_bases[0], 7);
	assert_int_equal(rig.mock.given_bases[1], 0);
	pci_rig_deinit(&rig);
}

static void test_queue_reset_that_was_not_negotiated(void **state)
{
	struct pci_rig rig;

	pci_rig_init(&rig, false, NULL);
	accept_features(&rig, VUBLK_BIT(RING_RESET));
	set_up_queue(&rig, 0);
	common_write(&rig, QUEUE_RESET, 1);
	assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_Q_ENABLE), 1);
	pci_rig_deinit(&rig);
}

/* --- the device's config ---------------------------------------------------------------------- */

static void test_config_and_its_generation(void **state)
{
	struct virtio_blk_config *config;
	struct pci_rig rig;
	uint32_t before;

	pci_rig_init(&rig, false, NULL);
	config = (struct virtio_blk_config *)rig.mock.config;
	drive(&rig, 1);
	assert_int_equal(pci_read(&rig, MODERN_BAR, DEVICE_CONFIG, 8), 2048);
	before = common_read(&rig, VIRTIO_PCI_COMMON_CFGGENERATION);
	config->capacity = 4096;
	mock_send_config_change(&rig.mock, false);
	pci_settle(&rig);
	/* The generation changes only when the driver reads the config again. */
	assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_CFGGENERATION), before);
	assert_int_equal(pci_read(&rig, MODERN_BAR, DEVICE_CONFIG, 8), 4096);
	assert_int_not_equal(common_read(&rig, VIRTIO_PCI_COMMON_CFGGENERATION), before);
	assert_true(pci_read(&rig, MODERN_BAR, ISR, 1) & VIRTIO_PCI_ISR_CONFIG);
	assert_int_equal(pci_read(&rig, MODERN_BAR, DEVICE_CONFIG + 4000, 8), 0);
	pci_rig_deinit(&rig);
}

static void test_write_cache(void **state)
{
	struct pci_rig rig;

	pci_rig_init(&rig, false, NULL);
	drive(&rig, 1);
	assert_int_equal(pci_read(&rig, MODERN_BAR, DEVICE_CONFIG + 32, 1), 1);
	pci_write(&rig, MODERN_BAR, DEVICE_CONFIG + 32, 1, 0);
	assert_true(vublk_virtio_pci_is_busy(rig.pci));
	pci_settle(&rig);
	assert_false(vublk_virtio_pci_is_busy(rig.pci));
	assert_int_equal(rig.num_idle, 1);
	assert_int_equal(pci_read(&rig, MODERN_BAR, DEVICE_CONFIG + 32, 1), 0);
	assert_int_equal(rig.mock.config[32], 0);
	pci_write(&rig, MODERN_BAR, DEVICE_CONFIG, 8, 1); /* a driver cannot write the capacity */
	assert_non_null(strstr(rig.last_word, "only the byte at offset 32"));
	assert_int_equal(pci_read(&rig, MODERN_BAR, DEVICE_CONFIG, 8), 2048);
	pci_rig_deinit(&rig);
}

/*
 * A reset waits for an earlier write to the write cache setting. After the reset, the driver reads
 * the result of that write.
 */
static void test_a_reset_waits_for_the_write_cache(void **state)
{
	struct pci_rig rig;

	pci_rig_init(&rig, false, NULL);
	accept_features(&rig, 0);
	pci_write(&rig, MODERN_BAR, DEVICE_CONFIG + 32, 1, 0);
	vublk_virtio_pci_reset(rig.pci);
	assert_true(vublk_virtio_pci_is_busy(rig.pci));
	pci_settle(&rig);
	assert_false(vublk_virtio_pci_is_busy(rig.pci));
	assert_int_equal(common_read(&rig, VIRTIO_PCI_COMMON_STATUS), 0);
	assert_int_equal(pci_read(&rig, MODERN_BAR, DEVICE_CONFIG + 32, 1), 0);
	assert_int_equal(rig.mock.config[32], 0);
	pci_rig_deinit(&rig);
}

/* --- legacy ----------------------------------------------------------------------------------- */

static void legacy_write(struct pci_rig *rig, unsigned offset, unsigned bytes, uint32_t value)
{
	pci_write(rig, LEGACY_BAR, offset, bytes, value);
}

static void begin_legacy(struct pci_rig *rig)
{
	uint32_t features = (uint32_t)pci_read(rig, LEGACY_BAR, VIRTIO_PCI_HOST_FEATURES, 4);

	assert_int_equal(features, (uint32_t)vublk_device_features(rig->rig.device));
	legacy_write(rig, VIRTIO_PCI_STATUS, 1, ACKNOWLEDGE | DRIVER);
	legacy_write(rig, VIRTIO_PCI_GUEST_FEATURES, 4, features);
	assert_int_equal(pci_read(rig, LEGACY_BAR, VIRTIO_PCI_GUEST_FEATURES, 4), features);
	legacy_write(rig, VIRTIO_PCI_QUEUE_SEL, 2, 1);
	assert_int_equal(pci_read(rig, LEGACY_BAR, VIRTIO_PCI_QUEUE_NUM, 2), 16);
	legacy_write(rig, VIRTIO_PCI_QUEUE_PFN, 4, (RIG_GUEST_ADDR + 0x4000) >> 12);
	assert_int_equal(pci_read(rig, LEGACY_BAR, VIRTIO_PCI_QUEUE_PFN, 4),
			 (RIG_GUEST_ADDR + 0x4000) >> 12);
}

static void expect_legacy_queue(struct pci_rig *rig)
{
	struct vublk_device_queue queue;

	expect_state(rig, VUBLK_DEVICE_RUNNING);
	assert_int_equal(vublk_device_get_queue(rig->rig.device, 1, &queue, sizeof(queue)), 0);
	assert_int_equal(queue.size, 16);
	assert_int_equal(queue.desc_addr, RIG_GUEST_ADDR + 0x4000);
	assert_int_equal(queue.avail_addr, RIG_GUEST_ADDR + 0x4100);
	assert_int_equal(queue.used_addr, RIG_GUEST_ADDR + 0x5000);
	assert_true(was_signalled(rig->mock.kick_fds[1]));
	legacy_write(rig, VIRTIO_PCI_QUEUE_NOTIFY, 2, 1);
	assert_true(was_signalled(rig->mock.kick_fds[1]));
	legacy_write(rig, VIRTIO_PCI_QUEUE_NOTIFY, 2, 999);
}

static void test_legacy_driver(void **state)
{
	struct pci_rig rig;

	pci_rig_init(&rig, true, NULL);
	begin_legacy(&rig);
	legacy_write(&rig, VIRTIO_PCI_STATUS, 1, ACKNOWLEDGE | DRIVER | DRIVER_OK);
	expect_legacy_queue(&rig);
	assert_int_equal(pci_read(&rig, LEGACY_BAR, 20, 8), 2048); /* the capacity */
	enable_msix(&rig, true);
	assert_int_equal(pci_read(&rig, LEGACY_BAR, 24, 8), 2048);
	legacy_write(&rig, VIRTIO_MSI_QUEUE_VECTOR, 2, 3);
	assert_int_equal(pci_read(&rig, LEGACY_BAR, VIRTIO_MSI_QUEUE_VECTOR, 2), 3);
	legacy_write(&rig, VIRTIO_MSI_CONFIG_VECTOR, 2, 77);
	assert_int_equal(pci_read(&rig, LEGACY_BAR, VIRTIO_MSI_CONFIG_VECTOR, 2),
			 VIRTIO_MSI_NO_VECTOR);
	legacy_write(&rig, VIRTIO_PCI_QUEUE_PFN, 4, 0);
	expect_state(&rig, VUBLK_DEVICE_STOPPED);
	assert_int_equal(pci_read(&rig, LEGACY_BAR, VIRTIO_PCI_STATUS, 1), 0);
	pci_rig_deinit(&rig);
}

static void test_legacy_kick_before_driver_ok(void **state)
{
	struct pci_rig rig;

	pci_rig_init(&rig, true, NULL);
	begin_legacy(&rig);
	expect_state(&rig, VUBLK_DEVICE_STOPPED);
	legacy_write(&rig, VIRTIO_PCI_QUEUE_NOTIFY, 2, 1);
	expect_legacy_queue(&rig);
	assert_int_equal(pci_read(&rig, LEGACY_BAR, VIRTIO_PCI_STATUS, 1), ACKNOWLEDGE | DRIVER);
	legacy_write(&rig, VIRTIO_PCI_STATUS, 1, ACKNOWLEDGE | DRIVER | DRIVER_OK);
	expect_state(&rig, VUBLK_DEVICE_RUNNING);
	assert_int_equal(pci_read(&rig, LEGACY_BAR, VIRTIO_PCI_STATUS, 1),
			 ACKNOWLEDGE | DRIVER | DRIVER_OK);
	legacy_write(&rig, VIRTIO_PCI_QUEUE_NOTIFY, 2, 1);
	assert_true(was_signalled(rig.mock.kick_fds[1]));
	pci_rig_deinit(&rig);
}

/* --- random accesses -------------------------------------------------------------------------- */

static uint32_t next_random(uint32_t *seed)
{
	*seed = *seed * 1664525 + 1013904223;
	return *seed >> 8;
}

static void access_anything(struct pci_rig *rig, uint32_t *seed)
{
	const unsigned bars[] = { 0, 1, 4, 4, 4, 4, 5, 9 };
	unsigned bar = bars[next_random(seed) % 8], bytes = 1 + next_random(seed) % 16;
	uint64_t offset = next_random(seed) % 0x4100;
	uint8_t data[16];

	if (next_random(seed) % 4) /* moves most offsets to registers */
		offset = (offset & 0x3000) | (offset % 64);
	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = next_random(seed) % 3 ? next_random(seed) % 16 : next_random(seed);
	switch (next_random(seed) % 8) {
	case 0:
		vublk_virtio_pci_config_write(rig->pci, offset % 300, data, bytes);
		break;
	case 1:
		vublk_virtio_pci_config_read(rig->pci, offset % 300, data, bytes);
		break;
	case 2:
		vublk_virtio_pci_bar_read(rig->pci, bar, offset, data, bytes);
		break;
	default:
		vublk_virtio_pci_bar_write(rig->pci, bar, offset, data,
					   next_random(seed) % 2 ? 1u << (bytes % 4) : bytes);
	}
}

/* A driver accesses registers at random. A reset works nevertheless. */
static void test_any_access(void **state)
{
	struct pci_rig rig;
	uint32_t seed = 1;

	pci_rig_init(&rig, true, NULL);
	for (unsigned round = 0; round < 300; round++) {
		for (unsigned i = 0; i < 200; i++) {
			access_anything(&rig, &seed);
			if (next_random(&seed) % 16 == 0)
				pci_settle(&rig);
		}
		vublk_virtio_pci_reset(rig.pci);
		expect_state(&rig, VUBLK_DEVICE_STOPPED);
		assert_false(vublk_virtio_pci_is_busy(rig.pci));
		if (round % 50 == 0) {
			drive(&rig, 2);
			vublk_virtio_pci_reset(rig.pci);
			expect_state(&rig, VUBLK_DEVICE_STOPPED);
		}
	}
	pci_rig_deinit(&rig);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_identity),
		VUBLK_TEST(test_bar_sizes),
		VUBLK_TEST(test_capabilities),
		VUBLK_TEST(test_command_register),
		VUBLK_TEST(test_window),
		VUBLK_TEST(test_feature_windows),
		VUBLK_TEST(test_refused_features),
		VUBLK_TEST(test_a_start_and_a_reset),
		VUBLK_TEST(test_a_reset_while_it_starts),
		VUBLK_TEST(test_a_reset_without_a_back_end),
		VUBLK_TEST(test_invalid_starts),
		VUBLK_TEST(test_queue_registers),
		VUBLK_TEST(test_queue_reset),
		VUBLK_TEST(test_queue_reset_that_was_not_negotiated),
		VUBLK_TEST(test_config_and_its_generation),
		VUBLK_TEST(test_write_cache),
		VUBLK_TEST(test_a_reset_waits_for_the_write_cache),
		VUBLK_TEST(test_legacy_driver),
		VUBLK_TEST(test_legacy_kick_before_driver_ok),
		VUBLK_TEST(test_any_access),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
