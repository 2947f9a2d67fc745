/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A verified load for a guest. It writes blocks with O_DIRECT and reads them back. Each block
 * contains its number and its generation, which counts the writes to this block. Each thread has
 * its own slice of the disk and remembers the generation of each block in the slice. So a lost,
 * torn, misplaced or stale write is found when the block is read. A failed request is a fault, and
 * a slow one is not.
 *
 * It prints each line with a single write(), as init does: "buffers=MIB", the physical address of
 * the lowest buffer, and "writes=N" at intervals. After SIGTERM it reads every block once more, and
 * prints "verified=BLOCKS" as the last line.
 *
 *     load DISK
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NUM_THREADS 8
#define BLOCK_BYTES 4096
#define SLICE_BLOCKS 1024
#define MAX_RUN 16
#define WRITES_A_FLUSH 64
#define WRITES_A_LINE 50

struct worker {
	pthread_t thread;
	unsigned number;
	uint64_t random;
	uint32_t generations[SLICE_BLOCKS];
	uint64_t *buffer;
};

static int disk;
static atomic_bool is_over;
static atomic_ulong num_writes;

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

#define fail(...) (say("failed: load: " __VA_ARGS__), _exit(1))

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Fills the buffer `words` with the content of a block, which its number and generation define. */
static void fill(uint64_t *words, uint64_t block, uint32_t generation)
{
	uint64_t state = (block << 32 | generation) * 0x9e3779b97f4a7c15u + 1;

	words[0] = block;
	words[1] = generation;
	for (unsigned i = 2; i < BLOCK_BYTES / sizeof(*words); i++)
		words[i] = next_random(&state);
}

static uint64_t first_block_of(const struct worker *worker)
{
	return (uint64_t)worker->number * SLICE_BLOCKS;
}

static void write_run(struct worker *worker, unsigned at, unsigned count)
{
	uint64_t block = first_block_of(worker) + at;
	size_t bytes = (size_t)count * BLOCK_BYTES;
	ssize_t done;

	for (unsigned i = 0; i < count; i++)
		fill(worker->buffer + i * (BLOCK_BYTES / 8), block + i, ++worker->generations[at + i]);
	done = pwrite(disk, worker->buffer, bytes, (off_t)block * BLOCK_BYTES);
	if (done != (ssize_t)bytes)
		fail("write of %u blocks at %lu: %s", count, (unsigned long)block,
		     done < 0 ? strerror(errno) : "short");
}

static void verify_block(const struct worker *worker, const uint64_t *found, unsigned at)
{
	uint64_t expected[BLOCK_BYTES / 8];

	if (!worker->generations[at])
		return;
	fill(expected, first_block_of(worker) + at, worker->generations[at]);
	if (!memcmp(found, expected, BLOCK_BYTES))
		return;
	fail("block %lu, generation %lu, is on the disk as block %lu, generation %lu",
	     (unsigned long)expected[0], (unsigned long)expected[1],
	     (unsigned long)found[0], (unsigned long)found[1]);
}

static void read_run(struct worker *worker, unsigned at, unsigned count)
{
	uint64_t block = first_block_of(worker) + at;
	size_t bytes = (size_t)count * BLOCK_BYTES;
	ssize_t done = pread(disk, worker->buffer, bytes, (off_t)block * BLOCK_BYTES);

	if (done != (ssize_t)bytes)
		fail("read of %u blocks at %lu: %s", count, (unsigned long)block,
		     done < 0 ? strerror(errno) : "short");
	for (unsigned i = 0; i < count; i++)
		verify_block(worker, worker->buffer + i * (BLOCK_BYTES / 8), at + i);
}

static void count_write(void)
{
	unsigned long number = atomic_fetch_add(&num_writes, 1) + 1;

	if (number % WRITES_A_FLUSH == 0 && fdatasync(disk) < 0)
		fail("flush: %s", strerror(errno));
	if (number % WRITES_A_LINE == 0)
		say("writes=%lu", number);
}

static void *work(void *argument)
{
	struct worker *worker = argument;

	while (!atomic_load(&is_over)) {
		unsigned count = 1 + (unsigned)(next_random(&worker->random) % MAX_RUN);
		unsigned at = (unsigned)(next_random(&worker->random) % (SLICE_BLOCKS - count + 1));

		if (next_random(&worker->random) % 4) {
			write_run(worker, at, count);
			count_write();
		} else {
			read_run(worker, at, count);
		}
	}
	for (unsigned at = 0; at < SLICE_BLOCKS; at += MAX_RUN)
		read_run(worker, at, MAX_RUN);
	return NULL;
}

static struct worker *start(unsigned number)
{
	struct worker *worker = calloc(1, sizeof(*worker));

	if (!worker || posix_memalign((void **)&worker->buffer, BLOCK_BYTES, MAX_RUN * BLOCK_BYTES))
		fail("no memory");
	memset(worker->buffer, 0, MAX_RUN * BLOCK_BYTES);
	worker->number = number;
	worker->random = 0x2545f4914f6cdd1du * (number + 1);
	if (pthread_create(&worker->thread, NULL, work, worker))
		fail("no thread");
	return worker;
}

/* Returns the physical address of a page that is in memory, from /proc/self/pagemap (proc(5)). */
static uint64_t physical_address(const void *at)
{
	size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	int map = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;

	if (map < 0 || pread(map, &entry, sizeof(entry),
			     (off_t)((uintptr_t)at / page_bytes * sizeof(entry))) != sizeof(entry))
		fail("cannot read pagemap: %s", strerror(errno));
	close(map);
	return (entry & ((UINT64_C(1) << 55) - 1)) * page_bytes;
}

static void say_where(struct worker *const *workers)
{
	uint64_t lowest = UINT64_MAX;

	for (unsigned i = 0; i < NUM_THREADS; i++) {
		uint64_t address = physical_address(workers[i]->buffer);

		lowest = address < lowest ? address : lowest;
	}
	say("buffers=%lu", (unsigned long)(lowest >> 20));
}

int main(int argc, char **argv)
{
	struct worker *workers[NUM_THREADS];
	sigset_t set;
	int number;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	disk = argc == 2 ? open(argv[1], O_RDWR | O_DIRECT | O_CLOEXEC) : -1;
	if (disk < 0)
		fail("cannot open the disk: %s", strerror(errno));
	for (unsigned i = 0; i < NUM_THREADS; i++)
		workers[i] = start(i);
	say_where(workers);
	sigwait(&set, &number);
	atomic_store(&is_over, true);
	for (unsigned i = 0; i < NUM_THREADS; i++)
		pthread_join(workers[i]->thread, NULL);
	say("verified=%u", NUM_THREADS * SLICE_BLOCKS);
	return 0;
}
