/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A load for a disk that is being mirrored: writes, discards, write zeroes, flushes and reads, and
 * writes whose buffers change while they are in flight. It checks what it reads.
 *
 *   mirror-load SOCKET MODEL [writes]
 *
 * With "writes", it sends only requests that a mirror sends to both back-ends. It leaves out
 * discards, write zeroes and large writes, after which a mirror copies the regions again.
 *
 * The load runs until the end of its input. A line of input pauses it: it waits for its requests,
 * flushes, writes "paused" and waits for another line. At the end it reads the whole disk, and writes
 * to the file MODEL what each block must contain. A block with the stamp UNKNOWN may have any content.
 *
 * Key idea: each slot has its own part of the disk and one request in flight, so the order of
 * requests does not matter. A block contains its number and a stamp that no other write has.
 */
#include <vublk/blk.h>

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 4096
#define WORDS (BLOCK / sizeof(uint64_t))
#define SLOTS 6
#define MAX_BLOCKS 40 /* of one request */
#define FIRST_LARGE 1100 /* large writes, which a mirror does not send to both back-ends */
#define BUFFER_BLOCKS 1200
#define CHANGES 256 /* how often buffers are changed before the load sleeps */

/* Special stamps of blocks. All other stamps belong to writes. */
#define UNKNOWN 0
#define ZEROES 1
#define FIRST 2

enum kind { KIND_WRITE, KIND_CHANGE, KIND_DISCARD, KIND_ZEROES, KIND_READ, KIND_FLUSH };

struct slot {
	uint64_t *buffer;
	uint64_t first, count; /* the blocks of the request */
	uint64_t begin, end;   /* the slot's part of the disk */
	uint64_t stamp;
	enum kind kind;
};

static struct vublk_blk *disk;
static struct vublk_blk_queue *queue;
static struct slot slots[SLOTS];
static uint64_t *stamps; /* of all blocks */
static uint64_t num_blocks, last_stamp = FIRST, state = 1;
static bool only_writes;

static void die(const char *what, const char *why)
{
	fprintf(stderr, "mirror-load: %s: %s\n", what, why);
	exit(1);
}

static uint64_t below(uint64_t bound)
{
	state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (state >> 33) % bound;
}

/* --- content ------------------------------------------------------------------------------ */

static void fill(uint64_t *block, uint64_t number, uint64_t stamp)
{
	for (unsigned i = 0; i < WORDS; i++)
		block[i] = stamp == ZEROES ? 0 : stamp * UINT64_C(0x9e3779b97f4a7c15) + number + i;
}

static void check(const uint64_t *block, uint64_t number)
{
	uint64_t expected[WORDS];

	if (stamps[number] == UNKNOWN)
		return;
	fill(expected, number, stamps[number]);
	if (!memcmp(block, expected, BLOCK))
		return;
	fprintf(stderr, "mirror-load: block %" PRIu64 " has %" PRIx64 " instead of %" PRIx64
		" (stamp %" PRIu64 ")\n", number, block[0], expected[0], stamps[number]);
	exit(1);
}

/* --- requests ----------------------------------------------------------------------------- */

static void prepare(struct slot *slot)
{
	static const enum kind kinds[16] = {
		KIND_CHANGE, KIND_CHANGE, KIND_CHANGE, KIND_DISCARD, KIND_ZEROES, KIND_FLUSH,
		KIND_READ, KIND_READ, KIND_READ, /* the others are KIND_WRITE */
	};

	slot->kind = kinds[below(16)];
	if (only_writes && (slot->kind == KIND_DISCARD || slot->kind == KIND_ZEROES))
		slot->kind = KIND_CHANGE;
	slot->count = 1 + below(MAX_BLOCKS);
	if (slot->kind == KIND_WRITE && !only_writes && !below(400))
		slot->count = FIRST_LARGE + below(BUFFER_BLOCKS - FIRST_LARGE);
	slot->first = slot->begin + below(slot->end - slot->begin - slot->count);
	slot->stamp = slot->kind == KIND_WRITE ? ++last_stamp : slot->kind == KIND_ZEROES ? ZEROES :
		      UNKNOWN;
	for (uint64_t i = 0; i < slot->count && slot->kind == KIND_WRITE; i++)
		fill(slot->buffer + i * WORDS, slot->first + i, slot->stamp);
}

static int add(struct slot *slot, struct vublk_error *error)
{
	uint64_t offset = slot->first * BLOCK, bytes = slot->count * BLOCK;

	switch (slot->kind) {
	case KIND_WRITE:
	case KIND_CHANGE:
		return vublk_blk_write(queue, offset, slot->buffer, bytes, 0, slot, error);
	case KIND_DISCARD:
		return vublk_blk_discard(queue, offset, bytes, 0, slot, error);
	case KIND_ZEROES:
		return vublk_blk_write_zeroes(queue, offset, bytes, 0, slot, error);
	case KIND_READ:
		return vublk_blk_read(queue, offset, slot->buffer, bytes, 0, slot, error);
	default:
		return vublk_blk_flush(queue, 0, slot, error);
	}
}

static void begin(struct slot *slot)
{
	struct vublk_error error;

	if (add(slot, &error) < 0)
		die("cannot add a request", error.text);
}

static void finish(const struct vublk_blk_completion *done)
{
	struct slot *slot = done->user_data;

	if (done->result)
		die("a request failed", strerror(-done->result));
	for (uint64_t i = 0; i < slot->count; i++)
		if (slot->kind == KIND_READ)
			check(slot->buffer + i * WORDS, slot->first + i);
		else if (slot->kind != KIND_FLUSH)
			stamps[slot->first + i] = slot->stamp;
}

/* Changes words in the buffers of the writes in flight that are of KIND_CHANGE. */
static void change(void)
{
	static uint64_t value;

	for (unsigned i = 0; i < SLOTS; i++)
		for (uint64_t at = 0; slots[i].kind == KIND_CHANGE && at < slots[i].count; at++) {
			value++;
			slots[i].buffer[at * WORDS + value % WORDS] = value;
		}
}

/* Waits for a completion. Meanwhile, changes buffers. Returns NULL if no request is in flight. */
static struct slot *take(void)
{
	struct vublk_blk_completion done;
	static unsigned num_changes;
	struct vublk_error error;
	int n;

	if (!vublk_blk_in_flight(queue))
		return NULL;
	vublk_blk_submit(queue);
	while (!(n = vublk_blk_poll(queue, &done, 1)) && num_changes++ % CHANGES)
		change();
	if (!n)
		n = vublk_blk_wait(queue, &done, 1, 1, -1, &error);
	if (n < 0)
		die("cannot wait", error.text);
	finish(&done);
	return done.user_data;
}

static void execute(struct slot *slot)
{
	begin(slot);
	while (take())
		;
}

/* --- the run ------------------------------------------------------------------------------ */

/* Returns 1 for a line, 0 for the end of the input, and -1 if there is neither. */
static int hear(bool waits)
{
	struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };
	char c = 0;

	if (poll(&input, 1, waits ? -1 : 0) <= 0)
		return -1;
	while (c != '\n')
		if (read(STDIN_FILENO, &c, 1) <= 0)
			return 0;
	return 1;
}

static void start_all(void)
{
	for (unsigned i = 0; i < SLOTS; i++) {
		prepare(&slots[i]);
		begin(&slots[i]);
	}
}

static void run(void)
{
	unsigned pauses = 0;
	int heard = 1;

	while (heard) {
		start_all();
		while ((heard = hear(false)) < 0) {
			struct slot *slot = take();

			prepare(slot);
			begin(slot);
		}
		while (take())
			;
		slots[0].kind = KIND_FLUSH;
		execute(&slots[0]);
		if (!heard)
			break;
		printf("paused %u\n", ++pauses);
		fflush(stdout);
		heard = hear(true);
	}
}

static void read_all(void)
{
	for (unsigned i = 0; i < SLOTS; i++) {
		struct slot *slot = &slots[i];

		slot->kind = KIND_READ;
		for (slot->first = slot->begin; slot->first < slot->end; slot->first += slot->count) {
			slot->count = slot->end - slot->first;
			if (slot->count > MAX_BLOCKS)
				slot->count = MAX_BLOCKS;
			execute(slot);
		}
	}
}

static void save(const char *path)
{
	int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	uint64_t block[WORDS + 1];

	for (uint64_t i = 0; i < num_blocks; i++) {
		block[0] = stamps[i] != UNKNOWN;
		fill(block + 1, i, stamps[i]);
		if (write(fd, block, sizeof(block)) != sizeof(block))
			die(path, "cannot write");
	}
	close(fd);
}

static void start(const char *path)
{
	const struct vublk_option options[] = { { "reconnect-ms", "50" }, { NULL, NULL } };
	size_t bytes = (size_t)SLOTS * BUFFER_BLOCKS * BLOCK;
	struct vublk_blk_info info;
	struct vublk_error error;
	char *memory;

	if (vublk_blk_open(path, options, NULL, 0, &disk, &error) < 0)
		die("cannot open the disk", error.text);
	memory = vublk_blk_alloc(disk, bytes, &error);
	if (!memory)
		die("cannot allocate memory", error.text);
	vublk_blk_get_info(disk, &info, sizeof(info));
	queue = vublk_blk_queue(disk, 0);
	num_blocks = info.capacity_bytes / BLOCK;
	stamps = calloc(num_blocks, sizeof(*stamps));
	if (!stamps || num_blocks / SLOTS <= BUFFER_BLOCKS)
		die("cannot use the disk", "it is too large or too small");
	for (unsigned i = 0; i < SLOTS; i++) {
		slots[i].buffer = (uint64_t *)(void *)(memory + (size_t)i * BUFFER_BLOCKS * BLOCK);
		slots[i].begin = num_blocks / SLOTS * i;
		slots[i].end = num_blocks / SLOTS * (i + 1);
	}
}

int main(int argc, char **argv)
{
	only_writes = argc == 4 && !strcmp(argv[3], "writes");
	if (argc != 3 && !only_writes) {
		fprintf(stderr, "usage: mirror-load SOCKET MODEL [writes]\n");
		return 2;
	}
	start(argv[1]);
	run();
	read_all();
	save(argv[2]);
	vublk_blk_close(disk, 0, NULL);
	printf("all correct\n");
	return 0;
}
