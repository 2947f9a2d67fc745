/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Interrupts of the virtio-pci model: one vector per queue or a shared one, pending interrupts, and
 * INTx.
 *
 * Key idea: the test signals the call descriptors that the mock back-end has received, and checks
 * duplicates of the model's eventfds.
 */
#include "harness.h"

#include "pci-rig.h"

#include "util/fd.h"

#include <linux/pci_regs.h>
#include <linux/virtio_blk.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SHARED 2

struct irq_rig {
	struct pci_rig rig;
	int vectors[5]; /* duplicates of the model's eventfds; -1: none */
	int intx;
};

static void map_queue(struct pci_rig *rig, unsigned queue, uint32_t vector)
{
	common_write(rig, VIRTIO_PCI_COMMON_Q_SELECT, queue);
	common_write(rig, VIRTIO_PCI_COMMON_Q_MSIX, vector);
}

static uint32_t vector_of(struct pci_rig *rig, unsigned queue)
{
	common_write(rig, VIRTIO_PCI_COMMON_Q_SELECT, queue);
	return common_read(rig, VIRTIO_PCI_COMMON_Q_MSIX);
}

static void assign(struct irq_rig *irq, unsigned vector)
{
	vublk_fd_close(&irq->vectors[vector]);
	vublk_virtio_pci_set_vector_fd(irq->rig.pci, vector, new_eventfd(&irq->vectors[vector]));
}

static void deassign(struct irq_rig *irq, unsigned vector)
{
	vublk_virtio_pci_set_vector_fd(irq->rig.pci, vector, -1);
	vublk_fd_close(&irq->vectors[vector]);
}

static void begin(struct irq_rig *irq, bool msix)
{
	pci_rig_init(&irq->rig, false, NULL);
	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(irq->vectors); i++)
		irq->vectors[i] = -1;
	vublk_virtio_pci_set_intx_fd(irq->rig.pci, new_eventfd(&irq->intx));
	if (!msix)
		return;
	enable_msix(&irq->rig, true);
	for (unsigned i = 0; i < 3; i++)
		assign(irq, i);
	common_write(&irq->rig, VIRTIO_PCI_COMMON_MSIX, 0);
	for (unsigned i = 0; i < 2; i++)
		map_queue(&irq->rig, i, i + 1);
}

static void end(struct irq_rig *irq)
{
	pci_rig_deinit(&irq->rig);
	vublk_fd_close_all(irq->vectors, VUBLK_ARRAY_SIZE(irq->vectors));
	vublk_fd_close(&irq->intx);
}

static void drive_both(struct irq_rig *irq)
{
	drive(&irq->rig, 2);
	for (unsigned i = 0; i < 3; i++)
		if (irq->vectors[i] >= 0)
			was_signalled(irq->vectors[i]);
}

static void call(struct irq_rig *irq, unsigned queue)
{
	vublk_eventfd_signal(irq->rig.mock.call_fds[queue]);
	pci_settle(&irq->rig);
}

static bool is_pending(struct irq_rig *irq, unsigned vector)
{
	return pci_read(&irq->rig, MSIX_BAR, PBA, 8) & VUBLK_BIT(vector);
}

static void prepare_many(struct pci_rig *rig)
{
	rig->mock.max_queues = VUBLK_MAX_QUEUES;
	rig_set(&rig->rig, "num-queues-limit", "256");
}

/* With the largest number of queues, each queue and the config still have their own vectors. */
static void test_a_vector_for_every_queue(void **state)
{
	unsigned last = VUBLK_MAX_QUEUES;
	struct pci_rig rig;
	int fd;

	pci_rig_init(&rig, false, prepare_many);
	assert_int_equal(vublk_virtio_pci_num_vectors(rig.pci), last + 1);
	enable_msix(&rig, true);
	pci_write(&rig, MSIX_BAR, last * PCI_MSIX_ENTRY_SIZE, 4, 0xfee01000);
	assert_int_equal(pci_read(&rig, MSIX_BAR, last * PCI_MSIX_ENTRY_SIZE, 4),
			 0xfee01000);
	vublk_virtio_pci_raise_vector(rig.pci, last);
	assert_int_equal(pci_read(&rig, MSIX_BAR, PBA + last / 64 * 8, 8), 1);
	vublk_virtio_pci_set_vector_fd(rig.pci, last, new_eventfd(&fd));
	assert_true(was_signalled(fd));
	vublk_fd_close(&fd);
	pci_rig_deinit(&rig);
}

/* --- MSI-X ------------------------------------------------------------------------------------ */

static void test_vector_numbers(void **state)
{
	struct irq_rig irq;

	begin(&irq, true);
	assert_int_equal(vublk_virtio_pci_num_vectors(irq.rig.pci), 5);
	map_queue(&irq.rig, 0, 4);
	assert_int_equal(vector_of(&irq.rig, 0), 4);
	map_queue(&irq.rig, 0, 5);
	assert_int_equal(vector_of(&irq.rig, 0), VIRTIO_MSI_NO_VECTOR);
	common_write(&irq.rig, VIRTIO_PCI_COMMON_MSIX, 300);
	assert_int_equal(common_read(&irq.rig, VIRTIO_PCI_COMMON_MSIX), VIRTIO_MSI_NO_VECTOR);
	common_write(&irq.rig, VIRTIO_PCI_COMMON_STATUS, 0);
	assert_int_equal(vector_of(&irq.rig, 1), VIRTIO_MSI_NO_VECTOR);
	/* The device has no vector 1000, so the model closes the eventfd. */
	vublk_virtio_pci_set_vector_fd(irq.rig.pci, 1000, vublk_eventfd_new());
	vublk_virtio_pci_mask_vector(irq.rig.pci, 1000, true);
	vublk_virtio_pci_raise_vector(irq.rig.pci, 1000);
	end(&irq);
}

/*
 * The call descriptor of the back-end is the eventfd of the vector, so a call does not need the
 * loop.
 */
static void test_calls_go_directly(void **state)
{
	struct irq_rig irq;

	begin(&irq, true);
	drive_both(&irq);
	for (unsigned queue = 0; queue < 2; queue++) {
		vublk_eventfd_signal(irq.rig.mock.call_fds[queue]);
		assert_true(was_signalled(irq.vectors[queue + 1]));
		assert_false(was_signalled(irq.vectors[2 - queue]));
	}
	assert_false(was_signalled(irq.intx));
	end(&irq);
}

static void test_a_shared_vector(void **state)
{
	struct irq_rig irq;

	begin(&irq, true);
	map_queue(&irq.rig, 0, SHARED);
	map_queue(&irq.rig, 1, SHARED);
	common_write(&irq.rig, VIRTIO_PCI_COMMON_MSIX, SHARED);
	drive_both(&irq);
	call(&irq, 0);
	assert_true(was_signalled(irq.vectors[SHARED]));
	call(&irq, 1);
	assert_true(was_signalled(irq.vectors[SHARED]));
	vublk_virtio_pci_on_config_changed(irq.rig.pci);
	assert_true(was_signalled(irq.vectors[SHARED]));
	end(&irq);
}

/* The eventfds of vectors are removed and assigned while the rings run. No interrupt is lost. */
static void test_pending_while_not_assigned(void **state)
{
	struct irq_rig irq;

	begin(&irq, true);
	drive_both(&irq);
	for (unsigned round = 0; round < 3; round++) {
		deassign(&irq, 1);
		pci_settle(&irq.rig);
		call(&irq, 0);
		assert_true(is_pending(&irq, 1));
		assert_false(is_pending(&irq, 2));
		assign(&irq, 1);
		assert_true(was_signalled(irq.vectors[1]));
		assert_false(is_pending(&irq, 1));
		pci_settle(&irq.rig);
		was_signalled(irq.vectors[1]); /* the model signals in case a call was lost */
		vublk_eventfd_signal(irq.rig.mock.call_fds[0]);
		assert_true(was_signalled(irq.vectors[1]));
	}
	deassign(&irq, 0);
	vublk_virtio_pci_on_config_changed(irq.rig.pci);
	assert_true(is_pending(&irq, 0));
	assign(&irq, 0);
	assert_true(was_signalled(irq.vectors[0]));
	end(&irq);
}

static void set_function_mask(struct irq_rig *irq, bool masked)
{
	unsigned cap = find_capability(&irq->rig, PCI_CAP_ID_MSIX, 0);

	config_write(&irq->rig, cap + PCI_MSIX_FLAGS, 2,
		     PCI_MSIX_FLAGS_ENABLE | (masked ? PCI_MSIX_FLAGS_MASKALL : 0));
	pci_settle(&irq->rig);
}

static void set_vector_mask(struct irq_rig *irq, bool masked)
{
	vublk_virtio_pci_mask_vector(irq->rig.pci, 1, masked);
	pci_settle(&irq->rig);
}

static void test_pending_while_masked(void **state)
{
	void (*const set_mask[])(struct irq_rig *, bool) = { set_function_mask, set_vector_mask };
	struct irq_rig irq;

	begin(&irq, true);
	drive_both(&irq);
	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(set_mask); i++) {
		set_mask[i](&irq, true);
		was_signalled(irq.vectors[1]);
		call(&irq, 0);
		assert_false(was_signalled(irq.vectors[1]));
		assert_true(is_pending(&irq, 1));
		set_mask[i](&irq, false);
		assert_true(was_signalled(irq.vectors[1]));
		assert_false(is_pending(&irq, 1));
	}
	end(&irq);
}

static void test_no_vector_no_interrupt(void **state)
{
	struct irq_rig irq;

	begin(&irq, true);
	map_queue(&irq.rig, 0, VIRTIO_MSI_NO_VECTOR);
	common_write(&irq.rig, VIRTIO_PCI_COMMON_MSIX, VIRTIO_MSI_NO_VECTOR);
	drive_both(&irq);
	call(&irq, 0);
	vublk_virtio_pci_on_config_changed(irq.rig.pci);
	for (unsigned i = 0; i < 3; i++)
		assert_false(was_signalled(irq.vectors[i]));
	assert_int_equal(pci_read(&irq.rig, MSIX_BAR, PBA, 8), 0);
	map_queue(&irq.rig, 0, 2);
	pci_settle(&irq.rig);
	was_signalled(irq.vectors[2]);
	vublk_eventfd_signal(irq.rig.mock.call_fds[0]);
	assert_true(was_signalled(irq.vectors[2]));
	end(&irq);
}

/* A vector's eventfd is replaced many times. No descriptor leaks, and the last one works. */
static void test_a_storm_of_eventfds(void **state)
{
	struct irq_rig irq;
	unsigned fds;

	begin(&irq, true);
	drive_both(&irq);
	fds = vublk_test_count_fds();
	for (unsigned i = 0; i < 2000; i++) {
		assign(&irq, 1);
		if (i % 7 == 0)
			pci_settle(&irq.rig);
	}
	pci_settle(&irq.rig);
	assert_int_equal(vublk_test_count_fds(), fds);
	was_signalled(irq.vectors[1]);
	vublk_eventfd_signal(irq.rig.mock.call_fds[0]);
	assert_true(was_signalled(irq.vectors[1]));
	end(&irq);
}

/* The model stores the MSI-X table for the client. The content of the table has no effect. */
static void test_the_table_is_kept(void **state)
{
	struct irq_rig irq;

	begin(&irq, true);
	assert_int_equal(pci_read(&irq.rig, MSIX_BAR, 12, 4), 1);
	pci_write(&irq.rig, MSIX_BAR, 0, 8, 0xfee00000);
	pci_write(&irq.rig, MSIX_BAR, 8, 4, 0x4021);
	assert_int_equal(pci_read(&irq.rig, MSIX_BAR, 0, 8), 0xfee00000);
	assert_int_equal(pci_read(&irq.rig, MSIX_BAR, 8, 4), 0x4021);
	pci_write(&irq.rig, MSIX_BAR, 5 * 16, 4, 1); /* the device has only five vectors */
	assert_int_equal(pci_read(&irq.rig, MSIX_BAR, 5 * 16, 4), 0);
	pci_write(&irq.rig, MSIX_BAR, PBA, 4, 0xff);
	assert_int_equal(pci_read(&irq.rig, MSIX_BAR, PBA, 4), 0);
	end(&irq);
}

/* --- INTx ------------------------------------------------------------------------------------- */

static bool level(struct irq_rig *irq)
{
	return config_read(&irq->rig, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT;
}

static void test_intx(void **state)
{
	struct irq_rig irq;

	begin(&irq, false);
	drive_both(&irq);
	assert_false(level(&irq));
	call(&irq, 1);
	assert_true(was_signalled(irq.intx));
	assert_true(level(&irq));
	call(&irq, 0);
	assert_false(was_signalled(irq.intx)); /* the first signal has masked INTx */
	vublk_virtio_pci_mask_intx(irq.rig.pci, false);
	assert_true(was_signalled(irq.intx)); /* the level is still high */
	assert_int_equal(pci_read(&irq.rig, MODERN_BAR, ISR, 1), 1);
	assert_int_equal(pci_read(&irq.rig, MODERN_BAR, ISR, 1), 0);
	assert_false(level(&irq));
	vublk_virtio_pci_mask_intx(irq.rig.pci, false);
	assert_false(was_signalled(irq.intx));
	vublk_virtio_pci_on_config_changed(irq.rig.pci);
	assert_true(was_signalled(irq.intx));
	assert_int_equal(pci_read(&irq.rig, MODERN_BAR, ISR, 1), 2);
	end(&irq);
}

static void test_intx_that_nothing_takes(void **state)
{
	struct irq_rig irq;

	begin(&irq, false);
	drive_both(&irq);
	config_write(&irq.rig, PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
	call(&irq, 0);
	assert_false(was_signalled(irq.intx));
	config_write(&irq.rig, PCI_COMMAND, 2, 0);
	assert_true(was_signalled(irq.intx));
	vublk_virtio_pci_set_intx_fd(irq.rig.pci, -1);
	vublk_fd_close(&irq.intx);
	vublk_virtio_pci_raise_intx(irq.rig.pci);
	vublk_virtio_pci_set_intx_fd(irq.rig.pci, new_eventfd(&irq.intx));
	assert_true(was_signalled(irq.intx));
	end(&irq);
}

/* The driver switches between MSI-X and INTx while the rings run. */
static void test_msix_is_switched_off(void **state)
{
	struct irq_rig irq;

	begin(&irq, true);
	drive_both(&irq);
	enable_msix(&irq.rig, false);
	pci_settle(&irq.rig);
	was_signalled(irq.intx);
	pci_read(&irq.rig, MODERN_BAR, ISR, 1);
	vublk_virtio_pci_mask_intx(irq.rig.pci, false);
	call(&irq, 0);
	assert_true(was_signalled(irq.intx));
	assert_int_equal(pci_read(&irq.rig, MODERN_BAR, ISR, 1), 1);
	enable_msix(&irq.rig, true);
	pci_settle(&irq.rig);
	was_signalled(irq.vectors[1]);
	vublk_eventfd_signal(irq.rig.mock.call_fds[0]);
	assert_true(was_signalled(irq.vectors[1]));
	assert_false(was_signalled(irq.intx));
	end(&irq);
}

/* A client fills its eventfds, which would block a plain write. The model does not block. */
static void test_full_eventfds(void **state)
{
	struct irq_rig irq;

	begin(&irq, true);
	drive_both(&irq);
	vublk_test_fill_eventfd(irq.vectors[0]);
	for (unsigned i = 0; i < 3; i++)
		vublk_virtio_pci_raise_vector(irq.rig.pci, 0);
	enable_msix(&irq.rig, false);
	vublk_test_fill_eventfd(irq.intx);
	vublk_virtio_pci_raise_intx(irq.rig.pci);
	call(&irq, 0);
	vublk_virtio_pci_mask_intx(irq.rig.pci, false);
	assert_true(was_signalled(irq.intx));
	end(&irq);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_vector_numbers),
		VUBLK_TEST(test_a_vector_for_every_queue),
		VUBLK_TEST(test_calls_go_directly),
		VUBLK_TEST(test_a_shared_vector),
		VUBLK_TEST(test_pending_while_not_assigned),
		VUBLK_TEST(test_pending_while_masked),
		VUBLK_TEST(test_no_vector_no_interrupt),
		VUBLK_TEST(test_a_storm_of_eventfds),
		VUBLK_TEST(test_the_table_is_kept),
		VUBLK_TEST(test_intx),
		VUBLK_TEST(test_intx_that_nothing_takes),
		VUBLK_TEST(test_msix_is_switched_off),
		VUBLK_TEST(test_full_eventfds),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
