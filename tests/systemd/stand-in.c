/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A stand-in for a VM: writes to a disk, and reads back, until SIGTERM. Then it writes for a while longer, as a guest does
 * that shuts down, and ends.
 *
 *   stand-in SOCKET memfd|huge RECORD
 *
 * Key idea: write N, counted from 1, fills block N % BLOCKS with the number N, and is stable when it completes. Then the
 * program stores N in RECORD, so RECORD says what the image must contain. "end" follows the last number.
 *
 * The memory is a memfd, of pages of 2 MiB with "huge", as that of a VM is.
 */
#include <vublk/blk.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/memfd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BLOCKS 64
#define BLOCK_BYTES (64 << 10)
#define MEMORY_BYTES (2 << 20)
#define LAST_WRITES 200 /* after SIGTERM */
#define TIMEOUT_MS "100000" /* for busy machines */

static volatile sig_atomic_t stopped;

static void stop(int number)
{
	(void)number;
	stopped = 1;
}

__attribute__((noreturn))
static void fail(const char *what, const char *why)
{
	fprintf(stderr, "stand-in: %s: %s\n", what, why);
	exit(1);
}

static void *new_memory(const char *kind, int *fd)
{
	int huge = strcmp(kind, "huge") ? 0 : MFD_HUGETLB | MFD_HUGE_2MB;
	void *memory;

	*fd = memfd_create("stand-in", MFD_CLOEXEC | MFD_ALLOW_SEALING | huge);
	if (*fd < 0 || ftruncate(*fd, MEMORY_BYTES) || fcntl(*fd, F_ADD_SEALS, F_SEAL_SHRINK))
		fail("cannot create the memory", strerror(errno));
	memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	if (memory == MAP_FAILED)
		fail("cannot map the memory", strerror(errno));
	return memory;
}

/* Waits for the request that was just added. */
static void finish(struct vublk_blk_queue *queue, const char *what)
{
	struct vublk_blk_completion done;
	struct vublk_error error;

	vublk_blk_submit(queue);
	if (vublk_blk_wait(queue, &done, 1, 1, -1, &error) < 0)
		fail(what, error.text);
	if (done.result)
		fail(what, strerror(-done.result));
}

static void write_number(struct vublk_blk_queue *queue, uint64_t *memory, uint64_t number)
{
	uint64_t *copy = memory + BLOCK_BYTES / sizeof(*memory);
	uint64_t offset = number % BLOCKS * BLOCK_BYTES;
	struct vublk_error error;

	for (size_t i = 0; i < BLOCK_BYTES / sizeof(*memory); i++)
		memory[i] = number;
	if (vublk_blk_write(queue, offset, memory, BLOCK_BYTES, VUBLK_BLK_FUA, NULL, &error))
		fail("write", error.text);
	finish(queue, "write");
	if (vublk_blk_read(queue, offset, copy, BLOCK_BYTES, 0, NULL, &error))
		fail("read", error.text);
	finish(queue, "read");
	if (memcmp(memory, copy, BLOCK_BYTES))
		fail("read", "the data is not what was written");
}

static void record(int fd, uint64_t number, const char *text)
{
	char line[64];
	int bytes = snprintf(line, sizeof(line), "%020" PRIu64 "%s\n", number, text);

	if (pwrite(fd, line, (size_t)bytes, 0) != bytes)
		fail("cannot write the record", strerror(errno));
}

int main(int argc, char **argv)
{
	const struct vublk_option options[] = { { "request-timeout-ms", TIMEOUT_MS }, { NULL, NULL } };
	struct vublk_error error;
	struct vublk_blk *blk;
	uint64_t *memory, number = 0;
	int memory_fd, record_fd;

	if (argc != 4)
		fail("usage", "stand-in SOCKET memfd|huge RECORD");
	signal(SIGTERM, stop);
	memory = new_memory(argv[2], &memory_fd);
	record_fd = open(argv[3], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (record_fd < 0)
		fail(argv[3], strerror(errno));
	if (vublk_blk_open(argv[1], options, NULL, 0, &blk, &error) ||
	    vublk_blk_register(blk, memory, MEMORY_BYTES, memory_fd, 0, &error))
		fail(argv[1], error.text);
	for (int left = LAST_WRITES; left; left -= stopped) {
		write_number(vublk_blk_queue(blk, 0), memory, ++number);
		record(record_fd, number, "");
	}
	record(record_fd, number, " end");
	vublk_blk_close(blk, 0, NULL);
	return 0;
}
