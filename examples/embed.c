/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A toy VMM around a vublk device: the smallest complete program on <vublk/device.h>.
 *
 *   cc embed.c $(pkg-config --cflags --libs vublk) -o embed
 *   ./embed /run/disk.sock        (the first block of that disk is overwritten)
 *
 * A VMM shows the device to its guest on a bus; here the bus's registers are function calls. The
 * guest is a driver with one queue (virtio 1.3: 2.7, 3.1.1, 5.2; on a little-endian machine). It
 * writes a block, flushes, and reads the block back: at the start, and for each line of input. The
 * end of input stops the guest; a resize of the disk or a restart of the back-end does not.
 */
#define _GNU_SOURCE 1
#include <vublk/device.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define QUEUE_SIZE 8        /* a driver may use fewer entries than vublk_device_queue_size() */
#define RAM_BYTES (1 << 20) /* a multiple of any page size */
#define RAM_ADDR 0x40000000 /* the guest address of the memory; descriptors have guest addresses */
#define ADDR(member) (RAM_ADDR + offsetof(struct ram, member))

struct ram {
	struct vring_desc desc[QUEUE_SIZE];
	struct { uint16_t flags, idx, ring[QUEUE_SIZE]; } avail;
	struct { uint16_t flags, idx; struct vring_used_elem ring[QUEUE_SIZE]; } used;
	struct virtio_blk_outhdr header; /* of the only request */
	uint8_t data[4096], status;      /* of this request */
};

struct vm {
	struct vublk_device *device;
	struct ram *ram;
	int ram_fd, kick_fd, call_fd; /* the data path: guest and back-end use these directly */
	enum { WRITE, FLUSH, READ, IDLE, LEAVING, OFF } step; /* from here on: guest state */
	uint16_t avail_idx, used_idx, round;
};

/* A toy may simply exit: the kernel closes the socket, and the back-end sees the hang-up. */
static void check(bool is_good, const char *what, const struct vublk_error *error)
{
	if (!is_good) {
		fprintf(stderr, "embed: %s%s%s\n", what, error ? ": " : "", error ? error->text : "");
		exit(1);
	}
}

/* Adds a request. The guest_...() functions see only memory, interrupts and the bus's registers. */
static void guest_request(struct vm *vm)
{
	static const uint32_t types[] = { VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_IN };
	uint16_t data_flags = VRING_DESC_F_NEXT | (vm->step == READ ? VRING_DESC_F_WRITE : 0);
	struct ram *ram = vm->ram;

	ram->header = (struct virtio_blk_outhdr){ .type = types[vm->step] }; /* of sector 0 */
	memset(ram->data, vm->step == WRITE ? 'a' + vm->round % 26 : 0, sizeof(ram->data));
	ram->status = 0xff;
	ram->desc[0] = (struct vring_desc){ ADDR(header), sizeof(ram->header), VRING_DESC_F_NEXT,
					    vm->step == FLUSH ? 2 : 1 };
	ram->desc[1] = (struct vring_desc){ ADDR(data), sizeof(ram->data), data_flags, 2 };
	ram->desc[2] = (struct vring_desc){ ADDR(status), 1, VRING_DESC_F_WRITE, 0 };
	ram->avail.ring[vm->avail_idx % QUEUE_SIZE] = 0; /* the chain begins at desc[0] */
	/* Release: a back-end that sees the index sees all of the above. The kick comes last. */
	__atomic_store_n(&ram->avail.idx, ++vm->avail_idx, __ATOMIC_RELEASE);
	eventfd_write(vm->kick_fd, 1);
}

/* Initializes the driver, with the calls that a bus makes when a driver writes to its registers. */
static void guest_boot(struct vm *vm)
{
	const uint64_t wanted = 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_BLK_F_FLUSH;
	uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	struct vublk_device_queue queue = { QUEUE_SIZE, ADDR(desc), ADDR(avail), ADDR(used),
					    vm->kick_fd, vm->call_fd, 0 };
	struct vublk_error error;

	check(!vublk_device_set_status(vm->device, status, &error) &&
	      !vublk_device_ack_features(vm->device, vublk_device_features(vm->device) & wanted,
					 &error) &&
	      !vublk_device_set_status(vm->device, status |= VIRTIO_CONFIG_S_FEATURES_OK, &error) &&
	      !vublk_device_set_queue(vm->device, 0, &queue, sizeof(queue), &error) &&
	      !vublk_device_set_status(vm->device, status |= VIRTIO_CONFIG_S_DRIVER_OK, &error),
	      "the guest's driver cannot initialize the disk", &error);
	guest_request(vm); /* requests that are added before the rings run are not lost */
}

/* Called at boot and on each config interrupt. The guest reads the device's copy of the config. */
static void guest_read_config(void *bus)
{
	struct vm *vm = bus;
	unsigned long long sectors; /* the first field, in units of 512 bytes with any block size */

	vublk_device_config_read(vm->device, 0, &sectors, sizeof(sectors));
	printf("config generation %u: capacity %llu bytes\n",
	       vublk_device_config_generation(vm->device), sectors * 512);
}

/* Takes a completion. Ignores a call without a completion, which may occur after an outage. */
static void guest_queue_interrupt(struct vm *vm)
{
	if (__atomic_load_n(&vm->ram->used.idx, __ATOMIC_ACQUIRE) == vm->used_idx)
		return;
	vm->used_idx++;
	check(vm->ram->status == VIRTIO_BLK_S_OK, "a request of the guest has failed", NULL);
	for (unsigned i = 0; vm->step == READ && i < sizeof(vm->ram->data); i++)
		check(vm->ram->data[i] == 'a' + vm->round % 26,
		      "the guest has read other data than it wrote", NULL);
	vm->step++;
	if (vm->step == IDLE)
		printf("round %d: written, flushed, read back\n", ++vm->round);
	else
		guest_request(vm);
}

/* The attempt to connect has ended. vublk_device_process() calls the on_...() functions. */
static void on_realized(void *bus, const struct vublk_error *failure)
{
	struct vm *vm = bus;
	struct vublk_memory_region ram = { RAM_ADDR, RAM_BYTES, vm->ram_fd, 0, { 0 } };
	struct vublk_error error;

	check(!failure, "cannot connect to a disk", failure);
	check(!vublk_device_set_memory(vm->device, &ram, 1, &error), "cannot share the memory", &error);
	guest_read_config(vm);
	guest_boot(vm);
}

static void on_started(void *bus)
{
	(void)bus;
	printf("the rings run\n");
}

/* The rings have stopped, because the guest reset the device or the back-end was lost. */
static void on_stopped(void *bus, const struct vublk_error *error)
{
	if (error)
		printf("waiting for another back-end: %s\n", error->text);
	if (((struct vm *)bus)->step == LEAVING)
		((struct vm *)bus)->step = OFF;
}

/* A bus would show DEVICE_NEEDS_RESET to the driver. The driver of this guest cannot handle it. */
static void on_needs_reset(void *bus, const struct vublk_error *error)
{
	check(((struct vm *)bus)->step >= LEAVING, "the guest has to reset the disk, but cannot", error);
}

/* One turn of the main loop: the device is one descriptor among the VMM's others. */
static void turn(struct vm *vm)
{
	struct pollfd fds[] = { { vublk_device_fd(vm->device), POLLIN, 0 }, { vm->call_fd, POLLIN, 0 },
				{ vm->step == IDLE ? STDIN_FILENO : -1, POLLIN, 0 } };
	char bytes[256];

	poll(fds, 3, -1);
	if (fds[0].revents)
		check(!vublk_device_process(vm->device), "the device's event loop has failed", NULL);
	if (fds[1].revents && read(vm->call_fd, bytes, sizeof(bytes)) > 0)
		guest_queue_interrupt(vm);
	if (fds[2].revents && read(STDIN_FILENO, bytes, sizeof(bytes)) > 0) {
		vm->step = WRITE;
		guest_request(vm);
	} else if (fds[2].revents) {
		/*
		 * Resets the disk and pauses the VM. If the rings do not stop immediately,
		 * the device calls on_stopped() later.
		 */
		vublk_device_set_status(vm->device, 0, NULL);
		vm->step = vublk_device_set_vm_running(vm->device, false) ? LEAVING : OFF;
	}
}

int main(int argc, char **argv)
{
	static const struct vublk_device_bus_ops ops = {
		.realized = on_realized, .started = on_started, .stopped = on_stopped,
		.config_changed = guest_read_config, .needs_reset = on_needs_reset };
	struct vm vm = { .ram_fd = memfd_create("ram", MFD_CLOEXEC), /* the back-end maps it */
			 .kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
			 .call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) };
	struct vublk_error error;

	setvbuf(stdout, NULL, _IOLBF, 0);
	check(argc == 2, "usage: embed SOCKET (of a back-end)", NULL);
	vm.ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, vm.ram_fd, 0);
	check(vm.ram != MAP_FAILED && !ftruncate(vm.ram_fd, RAM_BYTES) && vm.kick_fd >= 0 &&
	      vm.call_fd >= 0, "cannot allocate the guest's memory and its eventfds", NULL);
	check(!vublk_device_new(&ops, sizeof(ops), &vm, NULL, &vm.device, &error) &&
	      !vublk_device_set_property(vm.device, "chardev", argv[1], &error) &&
	      !vublk_device_set_property(vm.device, "reconnect-ms", "1000", &error) &&
	      !vublk_device_realize(vm.device, &error), "cannot create the device", &error);
	while (vm.step != OFF)
		turn(&vm);
	vublk_device_unrealize(vm.device); /* disconnects; the device could be realized again */
	vublk_device_free(vm.device);
	return 0;
}
