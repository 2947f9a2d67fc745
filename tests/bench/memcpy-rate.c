/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Measures the upper limit for a disk in memory. Copies random blocks of a memory area of the
 * disk's size from or to buffers. There is one buffer for each request that would be in flight.
 *
 *     memcpy-rate [options of `vublk bench`]
 */
#include "rate.h"

#include <string.h>
#include <sys/mman.h>

/*
 * Allocates memory and fills it, because pages that were never written would share one zero page.
 */
static char *allocate(size_t bytes)
{
	char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		rate_fail("cannot allocate %zu bytes", bytes);
	memset(memory, 0x5a, bytes);
	return memory;
}

static void copy(struct rate *rate, char *disk, char *buffer)
{
	char *block = disk + rate_next_block(rate) * rate->block_bytes;

	if (rate->is_write)
		memcpy(block, buffer, rate->block_bytes);
	else
		memcpy(buffer, block, rate->block_bytes);
	__asm__ volatile("" ::: "memory"); /* keeps the compiler from removing unread copies */
}

static void run(struct rate *rate, char *disk, char *buffers)
{
	uint64_t start, now;

	rate_begin(rate);
	for (now = rate->start_ns; rate_wants_more(rate, now);) {
		start = now;
		for (unsigned i = 0; i < rate->depth; i++)
			copy(rate, disk, buffers + (size_t)i * rate->block_bytes);
		rate->begun += rate->depth;
		now = vublk_cli_now_ns();
		for (unsigned i = 0; i < rate->depth; i++)
			vublk_histogram_add(&rate->latency_ns, now - start);
	}
	rate_end(rate);
}

int main(int argc, char **argv)
{
	struct rate rate;

	rate_parse(&rate, "", "Copy blocks of memory.", argc, argv);
	rate.num_blocks = rate.size_bytes / rate.block_bytes;
	if (!rate.num_blocks)
		rate_fail("--size is less than a block");
	run(&rate, allocate(rate.size_bytes), allocate((size_t)rate.depth * rate.block_bytes));
	rate_print(&rate);
	return 0;
}
