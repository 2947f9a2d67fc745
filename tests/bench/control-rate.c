/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Measures how long devices take to start, and which resources they need. The program is a VMM
 * without a guest. In each round it starts one device per socket, one after the other, and then
 * closes all of them.
 *
 *     control-rate [--queues=N] [--regions=N] [--rounds=N] SOCKET...
 *
 * The guest's memory is one region, with one page for the ring of each queue. With --regions=N, it
 * is N regions of one page, and a hole follows each region.
 *
 * The program prints JSON: one line per start, with the times in microseconds since realize began,
 * and one line per round, with the additional resources that the process uses while all devices
 * run.
 */
#include <vublk/device.h>

#include <argp.h>
#include <inttypes.h>
#include <linux/virtio_config.h>
#include <malloc.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES 4096
#define QUEUE_SIZE 128
#define RAM_ADDR 0x40000000u
#define AVAIL_OFFSET 2048 /* after the descriptors, and before the used ring */
#define USED_OFFSET 2560
#define MAX_QUEUES 64

struct arguments {
	unsigned queues, regions, rounds;
	char **sockets;
	unsigned num_sockets;
};

/* The memory of the VM. All devices share it. */
struct ram {
	struct vublk_memory_region regions[VUBLK_MEMORY_MAX_REGIONS];
	unsigned num_regions;
};

struct unit {
	struct vublk_device *device;
	const struct arguments *arguments;
	const struct ram *ram;
	int kick_fds[MAX_QUEUES], call_fds[MAX_QUEUES];
	enum { ON_ITS_WAY, RUNNING, OFF } state;
	double realize_us, realized_us, started_us;
	unsigned handshake_trips, start_trips;
};

static void check(bool is_good, const char *what, const struct vublk_error *error)
{
	if (is_good)
		return;
	fprintf(stderr, "control-rate: %s: %s\n", what, error ? error->text : "failed");
	exit(1);
}

static double now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

/* --- the command line --------------------------------------------------------- */

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *arguments = state->input;

	switch (key) {
	case 'q':
		arguments->queues = (unsigned)atoi(arg);
		return 0;
	case 'r':
		arguments->regions = (unsigned)atoi(arg);
		return 0;
	case 'n':
		arguments->rounds = (unsigned)atoi(arg);
		return 0;
	case ARGP_KEY_ARGS:
		arguments->sockets = state->argv + state->next;
		arguments->num_sockets = (unsigned)(state->argc - state->next);
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "the SOCKET of a back-end is missing");
		return 0;
	case ARGP_KEY_SUCCESS:
		if (arguments->queues < 1 || arguments->queues > MAX_QUEUES ||
		    arguments->regions < 1 || arguments->regions > VUBLK_MEMORY_MAX_REGIONS ||
		    (arguments->regions > 1 && arguments->regions < arguments->queues))
			argp_error(state, "--queues must be 1 to %d, and --regions 1 to %d; "
				   "several regions must not be fewer than the queues",
				   MAX_QUEUES, VUBLK_MEMORY_MAX_REGIONS);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static void read_arguments(struct arguments *arguments, int argc, char **argv)
{
	static const struct argp_option options[] = {
		{ "queues", 'q', "N", 0, "Queues per device (1)" },
		{ "regions", 'r', "N", 0, "Regions of the guest's memory (1)" },
		{ "rounds", 'n', "N", 0, "Number of rounds (1)" },
		{ 0 },
	};
	static const struct argp argp = { options, parse, "SOCKET...",
					  "Measure how long devices take to start." };

	*arguments = (struct arguments){ .queues = 1, .regions = 1, .rounds = 1 };
	argp_parse(&argp, argc, argv, 0, NULL, arguments);
}

/* --- the machine --------------------------------------------------------------- */

/* Returns the guest address of a page. If the pages are separate regions, a hole follows each. */
static uint64_t page_addr(const struct ram *ram, unsigned page)
{
	return RAM_ADDR + (uint64_t)page * PAGE_BYTES * (ram->num_regions > 1 ? 2 : 1);
}

static void make_ram(struct ram *ram, const struct arguments *arguments)
{
	int fd = memfd_create("ram", MFD_CLOEXEC);
	unsigned pages_of_region = arguments->regions > 1 ? 1 : arguments->queues;
	uint64_t bytes = (uint64_t)pages_of_region * PAGE_BYTES;

	ram->num_regions = arguments->regions;
	check(fd >= 0 && !ftruncate(fd, (off_t)(bytes * ram->num_regions)), "the memory", NULL);
	for (unsigned i = 0; i < ram->num_regions; i++)
		ram->regions[i] = (struct vublk_memory_region){ page_addr(ram, i), bytes, fd,
								i * bytes };
}

/* Raises the limit of open files, because each device needs several. */
static void allow_descriptors(void)
{
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

static void set_queue(struct unit *unit, unsigned index)
{
	uint64_t page = page_addr(unit->ram, index);
	struct vublk_device_queue queue = { QUEUE_SIZE, page, page + AVAIL_OFFSET,
					    page + USED_OFFSET, unit->kick_fds[index],
					    unit->call_fds[index], 0 };
	struct vublk_error error;

	check(!vublk_device_set_queue(unit->device, index, &queue, sizeof(queue), &error), "a queue", &error);
}

/* Does what a driver does at boot. */
static void boot(struct unit *unit)
{
	const uint64_t wanted = UINT64_C(1) << VIRTIO_F_VERSION_1;
	uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	struct vublk_device *device = unit->device;
	struct vublk_error error;

	check(!vublk_device_set_memory(device, unit->ram->regions, unit->ram->num_regions, &error) &&
	      !vublk_device_set_status(device, status, &error) &&
	      !vublk_device_ack_features(device, vublk_device_features(device) & wanted, &error) &&
	      !vublk_device_set_status(device, status |= VIRTIO_CONFIG_S_FEATURES_OK, &error),
	      "the driver", &error);
	for (unsigned i = 0; i < unit->arguments->queues; i++)
		set_queue(unit, i);
	check(!vublk_device_set_status(device, status | VIRTIO_CONFIG_S_DRIVER_OK, &error),
	      "the driver", &error);
}

static void on_realized(void *bus, const struct vublk_error *failure)
{
	struct unit *unit = bus;

	check(!failure, "there is no disk", failure);
	unit->realized_us = now_us() - unit->realize_us;
	boot(unit);
}

static void on_started(void *bus)
{
	struct unit *unit = bus;

	unit->started_us = now_us() - unit->realize_us;
	unit->state = RUNNING;
}

static void on_stopped(void *bus, const struct vublk_error *failure)
{
	check(!failure, "the rings stopped", failure);
	((struct unit *)bus)->state = OFF;
}

/* Reads the numbers of round trips from the library's log. */
static void on_log(void *opaque, enum vublk_log_level level, const char *text)
{
	struct unit *unit = opaque;

	sscanf(text, "the handshake took %u round trips", &unit->handshake_trips);
	sscanf(text, "the start took %u round trips", &unit->start_trips);
}

/* --- the life of a device ------------------------------------------------------- */

static void wait_for(struct unit *unit, int state)
{
	struct pollfd fd = { vublk_device_fd(unit->device), POLLIN, 0 };

	while ((int)unit->state != state) {
		poll(&fd, 1, -1);
		check(!vublk_device_process(unit->device), "the device's loop", NULL);
	}
}

static void bring_up(struct unit *unit, const char *socket)
{
	static const struct vublk_device_bus_ops ops = {
		.realized = on_realized, .started = on_started, .stopped = on_stopped };
	struct vublk_log log = { .fn = on_log, .opaque = unit, .level = VUBLK_LOG_DEBUG };
	struct vublk_error error;
	char queues[16];

	snprintf(queues, sizeof(queues), "%u", unit->arguments->queues);
	for (unsigned i = 0; i < unit->arguments->queues; i++) {
		unit->kick_fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		unit->call_fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		check(unit->call_fds[i] >= 0, "a descriptor", NULL);
	}
	unit->state = ON_ITS_WAY;
	unit->realize_us = now_us();
	check(!vublk_device_new(&ops, sizeof(ops), unit, &log, &unit->device, &error) &&
	      !vublk_device_set_property(unit->device, "chardev", socket, &error) &&
	      !vublk_device_set_property(unit->device, "num-queues", queues, &error) &&
	      !vublk_device_realize(unit->device, &error), "the device", &error);
	wait_for(unit, RUNNING);
	printf("{\"realized_us\": %.1f, \"started_us\": %.1f, \"handshake_trips\": %u, "
	       "\"start_trips\": %u}\n", unit->realized_us, unit->started_us,
	       unit->handshake_trips, unit->start_trips);
}

static void take_down(struct unit *unit)
{
	vublk_device_set_status(unit->device, 0, NULL);
	wait_for(unit, OFF);
	vublk_device_free(unit->device);
	for (unsigned i = 0; i < unit->arguments->queues; i++) {
		close(unit->kick_fds[i]);
		close(unit->call_fds[i]);
	}
}

/* --- memory --------------------------------------------------------------------- */

struct memory {
	uint64_t heap_bytes, resident_kib;
};

static struct memory read_memory(void)
{
	struct memory memory = { .heap_bytes = mallinfo2().uordblks + mallinfo2().hblkhd };
	FILE *file = fopen("/proc/self/statm", "re");
	uint64_t pages = 0;

	if (!file || fscanf(file, "%*u %" SCNu64, &pages) != 1)
		check(false, "/proc/self/statm", NULL);
	fclose(file);
	memory.resident_kib = pages * (uint64_t)sysconf(_SC_PAGESIZE) / 1024;
	return memory;
}

static void run_round(struct unit *units, const struct arguments *arguments)
{
	struct memory before = read_memory(), with;

	for (unsigned i = 0; i < arguments->num_sockets; i++)
		bring_up(&units[i], arguments->sockets[i]);
	with = read_memory();
	printf("{\"devices\": %u, \"heap_bytes\": %" PRIu64 ", \"resident_kib\": %" PRIu64 "}\n",
	       arguments->num_sockets, with.heap_bytes - before.heap_bytes,
	       with.resident_kib - before.resident_kib);
	for (unsigned i = 0; i < arguments->num_sockets; i++)
		take_down(&units[i]);
}

int main(int argc, char **argv)
{
	static struct ram ram;
	struct arguments arguments;
	struct unit *units;

	read_arguments(&arguments, argc, argv);
	allow_descriptors();
	make_ram(&ram, &arguments);
	units = calloc(arguments.num_sockets, sizeof(*units));
	check(units, "memory", NULL);
	for (unsigned i = 0; i < arguments.num_sockets; i++)
		units[i] = (struct unit){ .arguments = &arguments, .ram = &ram };
	for (unsigned round = 0; round < arguments.rounds; round++)
		run_round(units, &arguments);
	free(units);
	return 0;
}
