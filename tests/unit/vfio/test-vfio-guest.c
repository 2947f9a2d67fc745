/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A virtio-pci driver over the vfio-user socket, on a disk of `vublk serve`. It writes and reads
 * blocks with MSI-X, with INTx and as a legacy driver, while the VMM remaps the memory or
 * disconnects, and while the back-end is killed.
 *
 * Key idea: the driver kicks only if the ring asks for a kick, and handles completions only after
 * an interrupt. So if a kick or an interrupt is lost, a request never completes, and the test
 * fails.
 */
#include "harness.h"

#include "vfio-rig.h"

#include "proto/vhost-user/channel.h"
#include "util/fd.h"
#include "util/loop.h"
#include "virtio/blk-format.h"
#include "virtio/driver-ring.h"

#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_pci.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define DISK_BYTES (1 << 20)
#define MAX_QUEUES 4
#define SLOTS_OFFSET (256 * 1024) /* of the slots in the guest's memory, after the rings */
#define SLOT_BYTES 8192           /* header at 0, status at 64, data at 4096 */
#define SLOTS 4                   /* concurrent requests per queue */
#define BLOCK 4096
#define DEADLINE_NS (UINT64_C(30) * 1000000000)
#define ASSIGN (VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER)
#define UNMASK (VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK)
#define NO_VECTOR 0xffff

struct guest {
	struct vfio_rig rig;
	pid_t serve;
	char disk[200], socket[200];
	struct vublk_driver_ring rings[MAX_QUEUES];
	unsigned num_queues;
	int vectors[MAX_QUEUES + 1]; /* [0]: of the config; -1: no eventfd */
	int intx;                    /* -1: the driver uses MSI-X */
	bool legacy;
	uint64_t completed;
	bool is_read[MAX_QUEUES][SLOTS];
	uint8_t pattern[MAX_QUEUES][SLOTS]; /* the expected content of the blocks */
	unsigned writes; /* the number of writes; its low byte is the last pattern */
};

/* --- the back-end ----------------------------------------------------------------------------- */

static void start_serve(struct guest *guest)
{
	char fd_option[40], file_option[300];
	int fd = vublk_socket_listen(guest->socket, NULL);

	assert_true(fd >= 0);
	snprintf(fd_option, sizeof(fd_option), "--fd=%d", fd);
	snprintf(file_option, sizeof(file_option), "--blk-file=%s", guest->disk);
	guest->serve = fork();
	if (!guest->serve) {
		fcntl(fd, F_SETFD, 0);
		execl(VUBLK_PROGRAM, "vublk", "serve", "-q", fd_option, file_option,
		      "--num-queues=4", (char *)NULL);
		_exit(127);
	}
	close(fd);
}

static void end_serve(struct guest *guest, int signal)
{
	kill(guest->serve, signal);
	assert_int_equal(waitpid(guest->serve, NULL, 0), guest->serve);
}

static void make_disk(struct guest *guest)
{
	int fd;

	snprintf(guest->disk, sizeof(guest->disk), "%s/disk", vublk_test_folder());
	snprintf(guest->socket, sizeof(guest->socket), "%s/socket", vublk_test_folder());
	fd = open(guest->disk, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
	close(fd);
}

/* --- life cycle ------------------------------------------------------------------------------- */

static void begin(struct guest *guest, bool transitional)
{
	const struct vublk_option properties[] = {
		{ "reconnect-ms", "50" }, { "num-queues", "4" }, { NULL, NULL },
	};

	memset(guest, 0, sizeof(*guest));
	guest->intx = -1;
	for (unsigned i = 0; i <= MAX_QUEUES; i++)
		guest->vectors[i] = -1;
	if (access(VUBLK_PROGRAM, X_OK) < 0)
		vublk_test_skip("the tool is not built");
	make_disk(guest);
	start_serve(guest);
	vfio_init(&guest->rig, guest->socket, properties, transitional);
	vfio_map_guest(&guest->rig);
}

static void forget_rings(struct guest *guest)
{
	for (unsigned i = 0; i < guest->num_queues; i++)
		vublk_driver_ring_deinit(&guest->rings[i]);
	guest->num_queues = 0;
}

static void end(struct guest *guest)
{
	forget_rings(guest);
	vfio_deinit(&guest->rig);
	vublk_fd_close_all(guest->vectors, MAX_QUEUES + 1);
	vublk_fd_close(&guest->intx);
	end_serve(guest, SIGTERM);
}

static void make_ring(struct guest *guest, unsigned index, uint64_t features,
		      const uint64_t parts[3])
{
	struct vublk_split_ring memory = {
		(void *)(guest->rig.memory + parts[0]), (void *)(guest->rig.memory + parts[1]),
		(void *)(guest->rig.memory + parts[2]),
	};

	assert_int_equal(vublk_driver_ring_init(&guest->rings[index], &memory, QUEUE_ENTRIES, 0,
						features, NULL), 0);
	guest->num_queues = VUBLK_MAX(guest->num_queues, index + 1);
}

static void assign_vectors(struct guest *guest, unsigned num_queues)
{
	vfio_enable_msix(&guest->rig);
	for (unsigned i = 0; i <= num_queues; i++)
		if (guest->vectors[i] < 0)
			guest->vectors[i] = vublk_eventfd_new();
	assert_int_equal(vfio_set_irqs(&guest->rig, ASSIGN, VFIO_PCI_MSIX_IRQ_INDEX, 0,
				       num_queues + 1, guest->vectors, num_queues + 1), 0);
}

static void drive(struct guest *guest, unsigned num_queues, bool msix)
{
	uint64_t features = vublk_device_features(guest->rig.bus->device);

	for (unsigned i = 0; i < num_queues; i++)
		make_ring(guest, i, features, (uint64_t[]){ vfio_ring_part(i, 0),
			  vfio_ring_part(i, 1), vfio_ring_part(i, 2) });
	if (msix) {
		assign_vectors(guest, num_queues);
	} else {
		guest->intx = vublk_eventfd_new();
		assert_int_equal(vfio_set_irqs(&guest->rig, ASSIGN, VFIO_PCI_INTX_IRQ_INDEX, 0, 1,
					       &guest->intx, 1), 0);
	}
	for (unsigned i = 0; i < num_queues && msix; i++) {
		vfio_post(&guest->rig, 4, VIRTIO_PCI_COMMON_Q_SELECT, 2, i);
		vfio_post(&guest->rig, 4, VIRTIO_PCI_COMMON_Q_MSIX, 2, i + 1);
	}
	vfio_drive(&guest->rig, num_queues);
}

/* --- requests --------------------------------------------------------------------------------- */

static uint64_t slot_offset(unsigned queue, unsigned slot)
{
	return SLOTS_OFFSET + (uint64_t)(queue * SLOTS + slot) * SLOT_BYTES;
}

static void kick(struct guest *guest, unsigned queue)
{
	if (guest->legacy)
		vfio_write(&guest->rig, 0, VIRTIO_PCI_QUEUE_NOTIFY, 2, queue);
	else
		vfio_post(&guest->rig, 4, 0x3000 + 4 * queue, 2, queue);
}

/*
 * Adds a request of this slot, and kicks if the ring asks for a kick. Each slot has its own block
 * of the disk, so the expected content of the block is known.
 */
static void submit(struct guest *guest, unsigned queue, unsigned slot, bool read)
{
	uint64_t at = slot_offset(queue, slot), addr = GUEST_ADDR + at;
	struct virtio_blk_outhdr header = {
		.type = read ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT,
		.sector = (uint64_t)(queue * SLOTS + slot) * (BLOCK / 512),
	};
	struct vublk_ring_buffer buffers[] = {
		{ addr, sizeof(header) }, { addr + 4096, BLOCK }, { addr + 64, 1 },
	};

	if (!read)
		guest->pattern[queue][slot] = (uint8_t)++guest->writes;
	memcpy(guest->rig.memory + at, &header, sizeof(header));
	memset(guest->rig.memory + at + 4096, read ? 0xee : guest->pattern[queue][slot], BLOCK);
	guest->rig.memory[at + 64] = 0x55;
	guest->is_read[queue][slot] = read;
	assert_int_equal(vublk_driver_ring_add(&guest->rings[queue], buffers, read ? 1 : 2,
					       read ? 2 : 1, NULL, (uint16_t)slot), 0);
	if (vublk_driver_ring_publish(&guest->rings[queue]))
		kick(guest, queue);
}

static void check(struct guest *guest, unsigned queue, unsigned slot)
{
	const char *memory = guest->rig.memory + slot_offset(queue, slot);

	assert_int_equal(memory[64], VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < BLOCK && guest->is_read[queue][slot]; i++)
		if ((uint8_t)memory[4096 + i] != guest->pattern[queue][slot])
			fail_msg("byte %u of slot %u of queue %u is %u, not %u", i, slot, queue,
				 (uint8_t)memory[4096 + i], guest->pattern[queue][slot]);
	guest->completed++;
}

/*
 * Takes the next completion and checks the request. Returns its slot; -1: there is no completion.
 */
static int take(struct guest *guest, unsigned queue)
{
	struct vublk_error error;
	uint32_t written;
	uint16_t slot;
	int r = vublk_driver_ring_take(&guest->rings[queue], &slot, &written, &error);

	if (r < 0)
		fail_msg("%s", error.text);
	if (!r)
		return -1;
	check(guest, queue, slot);
	return slot;
}

/* Clears the queue's interrupt, and returns whether it was raised. All queues share INTx. */
static bool interrupt_came(struct guest *guest, unsigned queue)
{
	if (guest->intx < 0)
		return vublk_eventfd_clear(guest->vectors[queue + 1]) > 0;
	if (vublk_eventfd_clear(guest->intx) <= 0)
		return false;
	vfio_read(&guest->rig, 4, 0x1000, 1);
	assert_int_equal(vfio_set_irqs(&guest->rig, UNMASK, VFIO_PCI_INTX_IRQ_INDEX, 0, 1, NULL, 0),
			 0);
	return true;
}

static void wait_a_moment(struct guest *guest)
{
	struct pollfd fds[MAX_QUEUES + 2] = { { vublk_bus_fd(guest->rig.bus), POLLIN, 0 } };

	for (unsigned i = 0; i < guest->num_queues; i++)
		fds[1 + i] = (struct pollfd){ guest->vectors[i + 1], POLLIN, 0 };
	fds[1 + guest->num_queues] = (struct pollfd){ guest->intx, POLLIN, 0 };
	poll(fds, 2 + guest->num_queues, 100);
	vfio_settle(&guest->rig);
}

static void take_all(struct guest *guest, unsigned queue)
{
	do
		while (take(guest, queue) >= 0)
			;
	while (!vublk_driver_ring_enable_calls(&guest->rings[queue]));
}

/*
 * Handles interrupts until `count` requests are complete in total. A vector's handler looks only at
 * its own queue.
 */
static void wait_for(struct guest *guest, uint64_t count)
{
	uint64_t until = vublk_now_ns() + DEADLINE_NS;

	while (guest->completed < count) {
		if (vublk_now_ns() > until)
			fail_msg("%u of %u requests are complete", (unsigned)guest->completed,
				 (unsigned)count);
		wait_a_moment(guest);
		for (unsigned queue = 0; queue < guest->num_queues; queue++)
			if (interrupt_came(guest, queue))
				for (unsigned i = 0; i < guest->num_queues; i++)
					if (guest->intx >= 0 || i == queue)
						take_all(guest, i);
	}
}

static void submit_all(struct guest *guest, bool read)
{
	for (unsigned queue = 0; queue < guest->num_queues; queue++)
		for (unsigned slot = 0; slot < SLOTS; slot++)
			submit(guest, queue, slot, read);
}

/* Writes every block and reads it back. */
static void write_and_read(struct guest *guest)
{
	uint64_t each = (uint64_t)guest->num_queues * SLOTS;

	submit_all(guest, false);
	wait_for(guest, guest->completed + each);
	submit_all(guest, true);
	wait_for(guest, guest->completed + each);
}

/* --- the cases -------------------------------------------------------------------------------- */

static void test_with_msix(void **state)
{
	struct guest guest;
	uint8_t byte;
	int fd;

	begin(&guest, false);
	drive(&guest, MAX_QUEUES, true);
	assert_int_equal(vfio_read(&guest.rig, 4, 0x2000, 8), DISK_BYTES / 512);
	for (unsigned i = 0; i < 50; i++)
		write_and_read(&guest);
	fd = open(guest.disk, O_RDONLY | O_CLOEXEC);
	for (unsigned i = 0; i < MAX_QUEUES * SLOTS; i++) {
		assert_int_equal(pread(fd, &byte, 1, (off_t)i * BLOCK + 17), 1);
		assert_int_equal(byte, guest.pattern[i / SLOTS][i % SLOTS]);
	}
	close(fd);
	end(&guest);
}

static void test_with_intx(void **state)
{
	struct guest guest;

	begin(&guest, false);
	drive(&guest, 2, false);
	for (unsigned i = 0; i < 20; i++)
		write_and_read(&guest);
	end(&guest);
}

/* A legacy driver uses only the I/O BAR, and kicks before DRIVER_OK. */
static void test_a_legacy_driver(void **state)
{
	const uint64_t parts[] = { 0, QUEUE_ENTRIES * 16, 4096 };
	struct guest guest;
	uint32_t features;

	begin(&guest, true);
	guest.legacy = true;
	features = (uint32_t)vfio_read(&guest.rig, 0, VIRTIO_PCI_HOST_FEATURES, 4);
	vfio_write(&guest.rig, 0, VIRTIO_PCI_STATUS, 1, 3);
	vfio_write(&guest.rig, 0, VIRTIO_PCI_GUEST_FEATURES, 4, features);
	assign_vectors(&guest, 1);
	vfio_write(&guest.rig, 0, VIRTIO_PCI_QUEUE_SEL, 2, 0);
	vfio_write(&guest.rig, 0, VIRTIO_MSI_QUEUE_VECTOR, 2, 1);
	make_ring(&guest, 0, features, parts);
	vfio_write(&guest.rig, 0, VIRTIO_PCI_QUEUE_PFN, 4, GUEST_ADDR >> 12);
	submit(&guest, 0, 0, false);
	wait_for(&guest, 1);
	vfio_write(&guest.rig, 0, VIRTIO_PCI_STATUS, 1, 7);
	for (unsigned i = 0; i < 10; i++)
		write_and_read(&guest);
	vfio_write(&guest.rig, 0, VIRTIO_PCI_STATUS, 1, 0);
	assert_int_equal(vfio_read(&guest.rig, 0, VIRTIO_PCI_STATUS, 1), 0);
	end(&guest);
}

/* The VMM unmaps the guest's memory and maps it again, alternately as a whole and as two halves. */
static void remap(struct guest *guest, bool settle_between)
{
	const uint64_t half = GUEST_BYTES / 2;
	bool whole = vfio_unmap(&guest->rig, GUEST_ADDR, GUEST_BYTES) > 0;

	if (!whole) {
		assert_true(vfio_unmap(&guest->rig, GUEST_ADDR, half) > 0);
		assert_true(vfio_unmap(&guest->rig, GUEST_ADDR + half, half) > 0);
	}
	if (settle_between)
		vfio_settle(&guest->rig);
	if (!whole) {
		vfio_map_guest(&guest->rig);
		return;
	}
	assert_int_equal(vfio_map(&guest->rig, GUEST_ADDR + half, half, guest->rig.memfd, half), 0);
	assert_int_equal(vfio_map(&guest->rig, GUEST_ADDR, half, guest->rig.memfd, 0), 0);
}

static void test_remaps_under_load(void **state)
{
	struct guest guest;

	begin(&guest, false);
	drive(&guest, MAX_QUEUES, true);
	write_and_read(&guest);
	for (unsigned i = 0; i < 60; i++) {
		uint64_t wanted = guest.completed + MAX_QUEUES * SLOTS;

		submit_all(&guest, i % 2);
		remap(&guest, i % 3);
		wait_for(&guest, wanted);
	}
	end(&guest);
}

/* The VMM removes the vectors and assigns them again while requests are in flight. */
static void test_vectors_under_load(void **state)
{
	struct guest guest;

	begin(&guest, false);
	drive(&guest, 2, true);
	write_and_read(&guest);
	for (unsigned i = 0; i < 60; i++) {
		uint64_t wanted = guest.completed + 2 * SLOTS;

		submit_all(&guest, i % 2);
		assert_int_equal(vfio_set_irqs(&guest.rig, ASSIGN, VFIO_PCI_MSIX_IRQ_INDEX, 0, 3, NULL,
					       0), 0);
		if (i % 3)
			vfio_settle(&guest.rig);
		assign_vectors(&guest, 2);
		wait_for(&guest, wanted);
	}
	end(&guest);
}

/* The VMM disconnects with requests in flight. The disk works for the next VMM. */
static void test_a_vmm_that_dies(void **state)
{
	struct guest guest;

	begin(&guest, false);
	for (unsigned i = 0; i < 10; i++) {
		drive(&guest, MAX_QUEUES, true);
		write_and_read(&guest);
		submit_all(&guest, false);
		vfio_hang_up(&guest.rig);
		forget_rings(&guest);
		vfio_connect(&guest.rig);
		vfio_say_version(&guest.rig); /* the bus answers when it has reset the device */
		vfio_map_guest(&guest.rig);
	}
	end(&guest);
}

/* The back-end is killed with requests in flight. The next back-end completes them. */
static void test_a_back_end_that_dies(void **state)
{
	struct guest guest;

	begin(&guest, false);
	drive(&guest, MAX_QUEUES, true);
	for (unsigned i = 0; i < 10; i++) {
		uint64_t wanted;

		write_and_read(&guest);
		wanted = guest.completed + MAX_QUEUES * SLOTS;
		submit_all(&guest, i % 2);
		if (i % 3)
			vfio_settle(&guest.rig);
		end_serve(&guest, SIGKILL);
		start_serve(&guest);
		wait_for(&guest, wanted);
	}
	assert_int_equal(vfio_read(&guest.rig, 4, VIRTIO_PCI_COMMON_STATUS, 1), 15);
	end(&guest);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_with_msix),
		VUBLK_TEST(test_with_intx),
		VUBLK_TEST(test_a_legacy_driver),
		VUBLK_TEST(test_remaps_under_load),
		VUBLK_TEST(test_vectors_under_load),
		VUBLK_TEST(test_a_vmm_that_dies),
		VUBLK_TEST(test_a_back_end_that_dies),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
