/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The write log against a model: random reservations, appends, marks and trims on several streams.
 * The log must contain exactly the entries that no successful flush covers, in the order in which
 * they were appended, with their data. One case uses several threads, so that a sanitizer can find
 * races.
 */
#include "harness.h"

#include "virtio/write-log.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define STREAMS 3
#define STREAM_BYTES (UINT64_C(64) << 10)
#define MAX_ENTRIES 65536
#define MAX_MARKS 8
#define MIB (UINT64_C(1) << 20)

/*
 * An entry that was appended. The log must contain it until a trim covers it. Its data is a
 * function of `id`.
 */
struct expected {
	struct vublk_write_log_entry entry;
	unsigned stream;
	uint64_t id;
};

static struct vublk_write_log the_log;
static struct expected expected[MAX_ENTRIES];
static unsigned num_expected;
static uint64_t stable;
static uint64_t state;

static unsigned below(unsigned bound)
{
	state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (unsigned)(state >> 33) % bound;
}

static void fill(uint8_t *data, uint64_t bytes, uint64_t id)
{
	for (uint64_t i = 0; i < bytes; i++)
		data[i] = (uint8_t)((id + i) * 131 >> 3);
}

static void check_data(const uint8_t *data, uint64_t bytes, uint64_t id)
{
	for (uint64_t i = 0; i < bytes; i++)
		if (data[i] != (uint8_t)((id + i) * 131 >> 3))
			fail_msg("byte %u of entry %u is wrong", (unsigned)i, (unsigned)id);
}

/* --- the model ------------------------------------------------------------------------ */

static void check_log(void)
{
	struct vublk_write_log_entry entry;
	const void *data;
	uint64_t end = 0, trimmed_end;

	trimmed_end = vublk_write_log_end_of_disk(&the_log);
	vublk_write_log_rewind(&the_log);
	for (unsigned i = 0; i < num_expected; i++) {
		const struct vublk_write_log_entry *other = &expected[i].entry;

		if (other->sequence < stable)
			continue;
		assert_true(vublk_write_log_next(&the_log, &entry, &data));
		assert_int_equal(entry.sequence, other->sequence);
		assert_int_equal(entry.offset, other->offset);
		assert_int_equal(entry.bytes, other->bytes);
		assert_int_equal(entry.type, other->type);
		assert_int_equal(entry.flags, other->flags);
		if (entry.type == VIRTIO_BLK_T_OUT)
			check_data(data, entry.bytes, expected[i].id);
		end = VUBLK_MAX(end, entry.offset + entry.bytes);
	}
	assert_false(vublk_write_log_next(&the_log, &entry, &data));
	assert_int_equal(trimmed_end, end);
	assert_int_equal(vublk_write_log_is_empty(&the_log), !end);
}

/* Returns the room that the stream's entries use in the model. */
static uint64_t count_used(unsigned stream)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < num_expected; i++)
		if (expected[i].stream == stream && expected[i].entry.sequence >= stable)
			sum += vublk_write_log_room(expected[i].entry.type,
						    expected[i].entry.bytes);
	return sum;
}

/* --- steps ---------------------------------------------------------------------------- */

/*
 * A write that has reserved room and was not appended yet. If `room` is 0, there is no such write.
 */
struct pending {
	uint32_t type;
	uint64_t bytes, room;
};

static struct pending pending[STREAMS];

static void reserve(unsigned i)
{
	static const uint32_t types[] = {
		VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_DISCARD,
		VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_T_SECURE_ERASE,
	};
	struct vublk_write_log_stream *stream = &the_log.streams[i];
	struct pending write = {
		.type = types[below(VUBLK_ARRAY_SIZE(types))],
		.bytes = UINT64_C(512) * (1 + below(40)),
	};
	bool fits;

	write.room = vublk_write_log_room(write.type, write.bytes);
	vublk_write_log_collect(&the_log, stream);
	fits = count_used(i) + write.room <= STREAM_BYTES;
	assert_int_equal(vublk_write_log_reserve(stream, write.room), fits);
	if (fits && !below(10))
		vublk_write_log_release(stream, write.room); /* the write has failed */
	else if (fits)
		pending[i] = write;
}

static void append(unsigned i)
{
	uint64_t offset = UINT64_C(512) * below(1000), id = num_expected;
	struct pending *write = &pending[i];
	uint32_t flags = write->type == VIRTIO_BLK_T_WRITE_ZEROES ? below(2) : 0;
	uint8_t *data = vublk_write_log_append(&the_log, &the_log.streams[i], write->type, flags,
					       offset, write->bytes);

	if (write->type == VIRTIO_BLK_T_OUT)
		fill(data, write->bytes, id);
	expected[num_expected++] = (struct expected){
		.entry = { id, offset, write->bytes, write->type, flags },
		.stream = i,
		.id = id,
	};
	write->room = 0;
}

static void run(uint64_t seed)
{
	uint64_t marks[MAX_MARKS];
	unsigned num_marks = 0;

	state = seed;
	for (unsigned step = 0; step < 3000; step++) {
		unsigned i = below(STREAMS), what = below(100);

		if (what < 80 && pending[i].room) {
			append(i);
		} else if (what < 80) {
			reserve(i);
		} else if (what < 90 && num_marks < MAX_MARKS) {
			marks[num_marks++] = vublk_write_log_mark(&the_log);
			assert_int_equal(marks[num_marks - 1], num_expected);
		} else if (what < 95 && num_marks) { /* flushes end in any order, or fail */
			unsigned k = below(num_marks);

			if (below(4)) {
				vublk_write_log_trim(&the_log, marks[k]);
				stable = VUBLK_MAX(stable, marks[k]);
			}
			marks[k] = marks[--num_marks];
		} else if (!below(8)) {
			check_log();
		}
	}
	check_log();
	vublk_write_log_trim(&the_log, vublk_write_log_mark(&the_log));
	stable = num_expected;
	check_log();
}

static void test_random(void **unused)
{
	for (uint64_t seed = 1; seed <= 30; seed++) {
		assert_int_equal(vublk_write_log_init(&the_log, STREAMS, STREAMS * STREAM_BYTES,
						      NULL), 0);
		num_expected = 0;
		stable = 0;
		memset(pending, 0, sizeof(pending));
		run(seed);
		vublk_write_log_deinit(&the_log);
	}
}

/* --- memory ---------------------------------------------------------------------------- */

static uint64_t resident(void)
{
	struct stat st;

	assert_int_equal(fstat(the_log.fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void test_memory_is_returned(void **unused)
{
	struct vublk_write_log_stream *stream;
	uint64_t room = vublk_write_log_room(VIRTIO_BLK_T_OUT, MIB);

	assert_int_equal(vublk_write_log_init(&the_log, 1, 64 * MIB, NULL), 0);
	stream = &the_log.streams[0];
	assert_int_equal(resident(), 0);
	for (unsigned i = 0; i < 200; i++) { /* entries also wrap around the end of the stream */
		while (!vublk_write_log_reserve(stream, room)) {
			vublk_write_log_trim(&the_log, vublk_write_log_mark(&the_log) - 20);
			vublk_write_log_collect(&the_log, stream);
		}
		memset(vublk_write_log_append(&the_log, stream, VIRTIO_BLK_T_OUT, 0, 0, MIB), 1,
		       MIB);
	}
	assert_true(resident() > 20 * MIB);
	vublk_write_log_trim(&the_log, vublk_write_log_mark(&the_log));
	assert_true(vublk_write_log_is_empty(&the_log));
	assert_true(resident() <= 2 * MIB);
	/* returned memory can be used again */
	assert_true(vublk_write_log_reserve(stream, 60 * MIB));
	vublk_write_log_release(stream, 60 * MIB);
	vublk_write_log_deinit(&the_log);
	vublk_write_log_deinit(&the_log);
}

static void test_a_write_larger_than_the_log_has_no_room(void **unused)
{
	struct vublk_write_log_stream *stream;

	assert_int_equal(vublk_write_log_init(&the_log, 2, 2 * MIB, NULL), 0);
	stream = &the_log.streams[1];
	assert_false(vublk_write_log_reserve(stream, vublk_write_log_room(VIRTIO_BLK_T_OUT, MIB)));
	assert_false(vublk_write_log_reserve(stream, UINT64_MAX));
	assert_true(vublk_write_log_reserve(stream, MIB));
	assert_false(vublk_write_log_reserve(stream, 32));
	vublk_write_log_release(stream, MIB);
	vublk_write_log_deinit(&the_log);
}

/* --- threads ---------------------------------------------------------------------------- */

#define WRITES_PER_THREAD 20000

static void *write_some(void *opaque)
{
	struct vublk_write_log_stream *stream = opaque;
	unsigned index = (unsigned)(stream - the_log.streams);

	for (unsigned i = 0; i < WRITES_PER_THREAD; i++) {
		uint64_t room = vublk_write_log_room(VIRTIO_BLK_T_OUT, 512);

		while (!vublk_write_log_reserve(stream, room)) {
			/* acts as a successful flush */
			vublk_write_log_trim(&the_log, vublk_write_log_mark(&the_log));
			vublk_write_log_collect(&the_log, stream);
		}
		fill(vublk_write_log_append(&the_log, stream, VIRTIO_BLK_T_OUT, 0,
					    512 * (uint64_t)index, 512), 512, index);
		vublk_write_log_collect(&the_log, stream);
	}
	return NULL;
}

static void test_threads(void **unused)
{
	struct vublk_write_log_entry entry;
	pthread_t threads[STREAMS];
	uint64_t before = 0;
	const void *data;
	unsigned n = 0;

	assert_int_equal(vublk_write_log_init(&the_log, STREAMS, STREAMS * STREAM_BYTES, NULL), 0);
	for (unsigned i = 0; i < STREAMS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, write_some,
						&the_log.streams[i]), 0);
	for (unsigned i = 0; i < STREAMS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(vublk_write_log_mark(&the_log), STREAMS * WRITES_PER_THREAD);
	vublk_write_log_rewind(&the_log);
	while (vublk_write_log_next(&the_log, &entry, &data)) {
		assert_true(!n || entry.sequence > before);
		before = entry.sequence;
		check_data(data, 512, entry.offset / 512);
		n++;
	}
	/* no entry is missing */
	assert_int_equal(n, vublk_write_log_mark(&the_log) - the_log.stable);
	vublk_write_log_deinit(&the_log);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_random),
		VUBLK_TEST(test_memory_is_returned),
		VUBLK_TEST(test_a_write_larger_than_the_log_has_no_room),
		VUBLK_TEST(test_threads),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
