/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The load that runs in a guest to compare its disks: small requests at random places, without the
 * page cache. In each round it uses each disk for a moment, one after the other. Therefore a
 * disturbance of the machine affects all disks alike, and the guest is in the same state for all
 * disks.
 *
 * It runs until it is killed. For each round, load and disk it prints one line, with a single
 * write(). ROUND counts from zero. NAME is the serial that the host gave to a virtio disk, or the
 * name of another disk:
 *
 *     run=ROUND:NAME:LOAD:REQUESTS:NANOSECONDS
 *
 *     guest-rate ANYTHING        compares all virtio disks
 *     guest-rate DISK DISK...    compares these, also at depth 128
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define RUN_NS 250000000u
#define BLOCK_BYTES 4096u
#define MAX_DEPTH 128
#define MAX_DISKS 8

static const struct load {
	const char *name;
	uint16_t opcode;
	unsigned depth;
} loads[] = {
	{ "read, 4 KiB, depth 1", IOCB_CMD_PREAD, 1 },
	{ "read, 4 KiB, depth 32", IOCB_CMD_PREAD, 32 },
	{ "write, 4 KiB, depth 1", IOCB_CMD_PWRITE, 1 },
	{ "write, 4 KiB, depth 32", IOCB_CMD_PWRITE, 32 },
	{ "read, 4 KiB, depth 128", IOCB_CMD_PREAD, 128 },
	{ "write, 4 KiB, depth 128", IOCB_CMD_PWRITE, 128 },
};
#define NUM_LOADS (sizeof(loads) / sizeof(*loads))
#define NUM_DEEP_LOADS 2 /* at the end of the array */

struct disk {
	int fd;
	char name[24];
	uint64_t num_blocks;
};

static struct disk disks[MAX_DISKS];
static unsigned num_disks;
static aio_context_t context;
static unsigned char *buffer; /* one block per request in flight */
static uint64_t random_state = 0x2545f4914f6cdd1du;

static void say(const char *format, ...)
{
	char line[256] = "<1>vublk: ";
	size_t length = strlen(line);
	va_list arguments;

	va_start(arguments, format);
	length += (size_t)vsnprintf(line + length, sizeof(line) - length - 1, format, arguments);
	va_end(arguments);
	line[length++] = '\n';
	if (write(STDOUT_FILENO, line, length) < 0)
		_exit(3);
}

#define fail(...) (say("failed: rate: " __VA_ARGS__), _exit(1))

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static void submit(const struct disk *disk, const struct load *load, struct iocb *request)
{
	uint64_t slot = request->aio_data;

	*request = (struct iocb){
		.aio_data = slot,
		.aio_lio_opcode = load->opcode,
		.aio_fildes = (uint32_t)disk->fd,
		.aio_buf = (uintptr_t)(buffer + slot * BLOCK_BYTES),
		.aio_nbytes = BLOCK_BYTES,
		.aio_offset = (int64_t)(next_random() % disk->num_blocks * BLOCK_BYTES),
	};
	if (syscall(SYS_io_submit, context, 1L, &request) != 1)
		fail("%s: a request was not accepted: %s", disk->name, strerror(errno));
}

/* Waits for at least one completion, and returns how many there were. */
static unsigned reap(const struct disk *disk, struct io_event *events)
{
	long n = syscall(SYS_io_getevents, context, 1L, (long)MAX_DEPTH, events, NULL);

	if (n < 1)
		fail("%s: no completion: %s", disk->name, strerror(errno));
	for (long i = 0; i < n; i++)
		if (events[i].res != BLOCK_BYTES)
			fail("%s: a request ended with %ld", disk->name, (long)events[i].res);
	return (unsigned)n;
}

/* Puts the load on the disk for RUN_NS, waits for all requests, and prints their number. */
static void run(unsigned round, const struct disk *disk, const struct load *load)
{
	struct iocb requests[MAX_DEPTH];
	struct io_event events[MAX_DEPTH];
	uint64_t start = now_ns(), num_done = 0;
	unsigned in_flight = load->depth;
	bool is_over = false;

	for (unsigned slot = 0; slot < load->depth; slot++) {
		requests[slot].aio_data = slot;
		submit(disk, load, &requests[slot]);
	}
	while (in_flight > 0) {
		unsigned n = reap(disk, events);

		num_done += n;
		in_flight -= n;
		is_over = is_over || now_ns() - start >= RUN_NS;
		for (unsigned i = 0; i < n && !is_over; i++, in_flight++)
			submit(disk, load, &requests[events[i].data]);
	}
	say("run=%u:%s:%s:%lu:%lu", round, disk->name, load->name, (unsigned long)num_done,
	    (unsigned long)(now_ns() - start));
}

static void read_serial(struct disk *disk, char letter)
{
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "/sys/block/vd%c/serial", letter);
	file = fopen(path, "re");
	if (!file || fscanf(file, "%23s", disk->name) != 1)
		fail("no serial in %s", path);
	fclose(file);
}

/* Opens a disk. Returns false if it cannot be opened. */
static bool open_disk(struct disk *disk, const char *path)
{
	uint64_t bytes;

	disk->fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (disk->fd < 0)
		return false;
	if (ioctl(disk->fd, BLKGETSIZE64, &bytes) < 0 || bytes < BLOCK_BYTES)
		fail("%s has no size", path);
	disk->num_blocks = bytes / BLOCK_BYTES;
	return true;
}

static void open_virtio_disks(void)
{
	char path[] = "/dev/vda";

	while (num_disks < MAX_DISKS && open_disk(&disks[num_disks], path)) {
		read_serial(&disks[num_disks++], path[sizeof(path) - 2]);
		path[sizeof(path) - 2]++;
	}
	if (num_disks == 0)
		fail("no disk");
}

static void open_named_disks(char **paths)
{
	for (; *paths && num_disks < MAX_DISKS; paths++) {
		struct disk *disk = &disks[num_disks++];

		snprintf(disk->name, sizeof(disk->name), "%s", strrchr(*paths, '/') + 1);
		if (!open_disk(disk, *paths))
			fail("cannot open %s: %s", *paths, strerror(errno));
	}
}

int main(int argc, char **argv)
{
	size_t num_loads = argc > 2 ? NUM_LOADS : NUM_LOADS - NUM_DEEP_LOADS;

	if (argc > 2)
		open_named_disks(argv + 1);
	else
		open_virtio_disks();
	if (posix_memalign((void **)&buffer, BLOCK_BYTES, MAX_DEPTH * BLOCK_BYTES))
		fail("no memory");
	memset(buffer, 0x5a, MAX_DEPTH * BLOCK_BYTES);
	if (syscall(SYS_io_setup, MAX_DEPTH, &context) < 0)
		fail("no asynchronous requests: %s", strerror(errno));
	for (unsigned round = 0;; round++)
		for (size_t load = 0; load < num_loads; load++)
			for (unsigned disk = 0; disk < num_disks; disk++)
				run(round, &disks[disk], &loads[load]);
}
