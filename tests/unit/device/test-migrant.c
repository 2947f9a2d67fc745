/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest of test-device-migrate.c, with a disk that this program implements. With a correct
 * disk, the guest finds no fault, whatever the speeds of its queues. With a faulty disk, it finds
 * each fault.
 */
#include "harness.h"

#include "mock/migrant.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "util/fd.h"

#include <endian.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>

/* A back-end that runs on the test's own thread. */
struct disk {
	struct migrant guest;
	char *content;
	uint16_t next[MIGRANT_QUEUES]; /* the next index to execute; also the used index */
};

static void *at(const struct disk *disk, uint64_t addr)
{
	return disk->guest.memory + (addr - MIGRANT_GUEST_ADDR);
}

static void begin(struct disk *disk)
{
	*disk = (struct disk){
		.guest.memory = malloc(MIGRANT_BYTES),
		.content = calloc(1, MIGRANT_DISK_BYTES),
	};
	assert_true(disk->guest.memory && disk->content);
	for (unsigned i = 0; i < MIGRANT_QUEUES; i++) {
		disk->guest.kicks[i] = vublk_eventfd_new();
		assert_true(disk->guest.kicks[i] >= 0);
	}
	migrant_boot(&disk->guest);
	migrant_submit(&disk->guest);
}

static void end(struct disk *disk)
{
	vublk_fd_close_all(disk->guest.kicks, MIGRANT_QUEUES);
	free(disk->guest.memory);
	free(disk->content);
}

/* Executes the available requests of a queue, without completing them. */
static void execute(struct disk *disk, unsigned queue)
{
	const struct vring_desc *table = at(disk, migrant_desc_addr(queue));
	const struct vring_avail *avail = at(disk, migrant_avail_addr(queue));
	struct vring_used *used = at(disk, migrant_used_addr(queue));
	uint16_t until = le16toh(avail->idx);

	for (; disk->next[queue] != until; disk->next[queue]++) {
		unsigned entry = disk->next[queue] % MIGRANT_RING_SIZE;
		uint16_t head = le16toh(avail->ring[entry]);
		const struct virtio_blk_outhdr *header = at(disk, le64toh(table[head].addr));
		char *content = disk->content + le64toh(header->sector) * 512;
		char *data = at(disk, le64toh(table[head + 1].addr));
		bool reads = le32toh(header->type) == VIRTIO_BLK_T_IN;

		memcpy(reads ? data : content, reads ? content : data, MIGRANT_PAGE);
		*(char *)at(disk, le64toh(table[head + 2].addr)) = VIRTIO_BLK_S_OK;
		used->ring[entry].id = htole32(head);
	}
}

/* Completes the executed requests of a queue. */
static void complete(struct disk *disk, unsigned queue)
{
	struct vring_used *used = at(disk, migrant_used_addr(queue));

	vublk_store_release(&used->idx, htole16(disk->next[queue]));
}

static void serve(struct disk *disk, unsigned queue)
{
	execute(disk, queue);
	complete(disk, queue);
}

/*
 * Runs the guest, with the disk serving only this queue, until the guest has completed `count` more
 * requests.
 */
static void run(struct disk *disk, unsigned queue, unsigned count)
{
	uint64_t until = migrant_num_done(&disk->guest) + count;

	while (migrant_num_done(&disk->guest) < until) {
		serve(disk, queue);
		assert_true(migrant_collect(&disk->guest) > 0);
		migrant_submit(&disk->guest);
	}
}

static void finish(struct disk *disk)
{
	while (!migrant_is_idle(&disk->guest)) {
		for (unsigned i = 0; i < MIGRANT_QUEUES; i++)
			serve(disk, i);
		migrant_collect(&disk->guest);
	}
	migrant_verify(&disk->guest);
}

/*
 * The disk executes the reads of one queue but does not complete them. Meanwhile, the other queue
 * reads into each of the other buffers several times.
 */
static void test_a_queue_that_waits(void **state)
{
	for (unsigned waits = 0; waits < MIGRANT_QUEUES; waits++) {
		struct disk disk;

		begin(&disk);
		run(&disk, waits, MIGRANT_SLOTS); /* the writes of that queue */
		execute(&disk, waits);            /* the reads of that queue */
		run(&disk, 1 - waits, 6 * MIGRANT_BUFFERS);
		complete(&disk, waits);
		finish(&disk);
		assert_int_equal(migrant_num_wrong(&disk.guest), 0);
		end(&disk);
	}
}

/*
 * The disk returns the data of an older write. The guest notices that when the read completes, and
 * once more when it checks the buffer.
 */
static void test_a_stale_read(void **state)
{
	char old[MIGRANT_PAGE];
	struct disk disk;

	begin(&disk);
	run(&disk, 0, 2 * MIGRANT_SLOTS);
	memcpy(old, disk.content, sizeof(old));
	run(&disk, 0, MIGRANT_SLOTS); /* writes */
	memcpy(disk.content, old, sizeof(old));
	run(&disk, 0, MIGRANT_SLOTS);
	assert_int_equal(migrant_num_wrong(&disk.guest), 1);
	finish(&disk);
	assert_int_equal(migrant_num_wrong(&disk.guest), 2);
	end(&disk);
}

/* The guest notices if the data of a read changes after the completion. */
static void test_a_late_write_to_memory(void **state)
{
	unsigned page = 0;
	struct disk disk;

	begin(&disk);
	run(&disk, 0, 2 * MIGRANT_SLOTS);
	while (!migrant_remembers(&disk.guest, page))
		page++;
	disk.guest.memory[(page + 1) * MIGRANT_PAGE - 1]++;
	finish(&disk);
	assert_int_equal(migrant_num_wrong(&disk.guest), 1);
	end(&disk);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_a_queue_that_waits),
		VUBLK_TEST(test_a_stale_read),
		VUBLK_TEST(test_a_late_write_to_memory),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
