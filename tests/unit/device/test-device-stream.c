/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The stream of a saved device: other versions of the format, and every kind of damage.
 * test-device-save.c tests saving and loading.
 *
 * Key idea: a refused stream must not change the device, so the test saves the device again and
 * compares the two streams. After an accepted stream, the device must work.
 */
#include "harness.h"

#include "mock/device-rig.h"

#include "device/device.h"
#include "device/save/save.h"
#include "util/checked.h"
#include "util/crc32c.h"
#include "util/error.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <string.h>

#define MAJOR_OFFSET 8
#define MINOR_OFFSET 10
#define TOTAL_OFFSET 16
#define FIRST_SECTION 24
#define SECTION_HEADER 16
#define DEVICE_SECTION (FIRST_SECTION + SECTION_HEADER)
#define QUEUES_SECTION (DEVICE_SECTION + 16 + SECTION_HEADER)
#define AREA_SECTION (QUEUES_SECTION + 4 * 32 + SECTION_HEADER + 4 + VUBLK_BLK_CONFIG_BYTES + \
		      SECTION_HEADER)
#define MAX_BYTES 20000

/*
 * Makes a realized device of a paused VM, with four queues of sixteen entries. No driver has used
 * it.
 */
static void begin(struct device_rig *rig, struct mock *mock)
{
	rig_prepare(rig, mock, "1");
	rig_set(rig, "inflight-migration", "on");
	vublk_device_set_vm_running(rig->device, false);
	rig_realize(rig);
}

struct stream {
	uint8_t bytes[MAX_BYTES];
	size_t num_bytes;
};

static void put16(struct stream *stream, size_t at, uint16_t value)
{
	value = htole16(value);
	memcpy(stream->bytes + at, &value, sizeof(value));
}

static void put64(struct stream *stream, size_t at, uint64_t value)
{
	value = htole64(value);
	memcpy(stream->bytes + at, &value, sizeof(value));
}

/* Corrects the total size and the checksum after a change of the stream. */
static void finish(struct stream *stream)
{
	uint32_t sum;

	put64(stream, TOTAL_OFFSET, stream->num_bytes);
	sum = htole32(vublk_crc32c(stream->bytes, stream->num_bytes - sizeof(sum)));
	memcpy(stream->bytes + stream->num_bytes - sizeof(sum), &sum, sizeof(sum));
}

/* Inserts a section with this number, flags and data before the checksum. */
static void append_section(struct stream *stream, unsigned number, unsigned flags,
			   const void *data, size_t bytes)
{
	size_t at = stream->num_bytes - 4;

	assert_true(at + SECTION_HEADER + bytes + 4 <= MAX_BYTES);
	put16(stream, at, (uint16_t)number);
	put16(stream, at + 2, (uint16_t)flags);
	memset(stream->bytes + at + 4, 0, 4);
	put64(stream, at + 8, bytes);
	memcpy(stream->bytes + at + SECTION_HEADER, data, bytes);
	stream->num_bytes += SECTION_HEADER + bytes;
	finish(stream);
}

static void save(struct device_rig *rig, struct stream *stream)
{
	struct vublk_error error;
	void *bytes;

	if (vublk_device_save(rig->device, &bytes, &stream->num_bytes, &error) < 0)
		fail_msg("%s", error.text);
	assert_true(stream->num_bytes <= MAX_BYTES);
	memcpy(stream->bytes, bytes, stream->num_bytes);
	free(bytes);
}

/* Saves a device like that of begin() after it has run, with or without an in-flight area. */
static void make_stream(struct stream *stream, bool area)
{
	struct mock mock;
	struct device_rig rig;

	begin(&rig, &mock);
	if (!area) {
		vublk_device_unrealize(rig.device);
		rig_set(&rig, "inflight", "off");
		rig_realize(&rig);
	}
	vublk_device_set_vm_running(rig.device, true);
	rig_start(&rig, 2);
	mock.base = 3;
	vublk_device_set_vm_running(rig.device, false);
	rig_wait(&rig, RIG_STOPPED, 1);
	save(&rig, stream);
	rig_end(&rig, &mock);
}

static int load(struct device_rig *rig, const struct stream *stream, struct vublk_error *error)
{
	/*
	 * Loads from a copy of exactly this size, so that a sanitizer detects a read past the end.
	 */
	uint8_t *exact = malloc(stream->num_bytes ? stream->num_bytes : 1);
	int r;

	memcpy(exact, stream->bytes, stream->num_bytes);
	r = vublk_device_load(rig->device, exact, stream->num_bytes, error);
	free(exact);
	return r;
}

static void expect_refusal(struct device_rig *rig, const struct stream *stream, int code,
			   const char *sentence)
{
	struct stream before, after;
	struct vublk_error error = { 0 };

	save(rig, &before);
	assert_int_equal(load(rig, stream, &error), -code);
	assert_int_equal(error.code, code);
	if (!strstr(error.text, sentence))
		fail_msg("'%s' is not in '%s'", sentence, error.text);
	save(rig, &after);
	assert_int_equal(before.num_bytes, after.num_bytes);
	assert_memory_equal(before.bytes, after.bytes, before.num_bytes);
}

/* Loads the stream, which must succeed. Resets the device, so that it can load the next stream. */
static void load_and_reset(struct device_rig *rig, const struct stream *stream)
{
	struct vublk_error error;

	if (load(rig, stream, &error) < 0)
		fail_msg("%s", error.text);
	assert_int_equal(vublk_device_set_status(rig->device, 0, NULL), 0);
}

/* --- other versions ---------------------------------------------------------------------------- */

/*
 * The stream of the smallest device as version 1.0 wrote it, without config and in-flight area.
 * Every later version must be able to load it, so these bytes must never change.
 */
static const uint8_t version_1_0[] = {
	'V', 'U', 'B', 'L', 'K', 'D', 'E', 'V', 1, 0, 0, 0, 0, 0, 0, 0,
	204, 0, 0, 0, 0, 0, 0, 0,
	/* device: 4 queues of up to 16 entries, DRIVER_OK, VERSION_1 and FLUSH */
	1, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0,
	4, 0, 16, 0, 4, 0, 1, 0, 0, 2, 0, 0, 1, 0, 0, 0,
	/* queues: the first, with 8 entries at 0x1_0000_1000, resumes at 0x1234 */
	2, 0, 0, 0, 0, 0, 0, 0, 128, 0, 0, 0, 0, 0, 0, 0,
	8, 0, 0x34, 0x12, 0, 0, 0, 0, 0, 0x10, 0, 0, 1, 0, 0, 0,
	0, 0x11, 0, 0, 1, 0, 0, 0, 0, 0x12, 0, 0, 1, 0, 0, 0,
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	0x60, 0xab, 0xcf, 0x3c,
};

static void test_version_1_0(void **state)
{
	struct vublk_device_queue queue;
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;
	int r;

	begin(&rig, &mock);
	r = vublk_device_load(rig.device, version_1_0, sizeof(version_1_0), &error);
	if (r < 0)
		fail_msg("%s", error.text);
	assert_int_equal(r, 0);
	assert_int_equal(vublk_device_status(rig.device), VIRTIO_CONFIG_S_DRIVER_OK);
	assert_int_equal(rig.device->acked_features, VUBLK_BIT(32) | VUBLK_BIT(9));
	assert_int_equal(vublk_device_get_queue(rig.device, 0, &queue, sizeof(queue)), 0);
	assert_int_equal(queue.size, 8);
	assert_int_equal(queue.base, 0x1234);
	assert_int_equal(queue.desc_addr, 0x100001000);
	assert_int_equal(queue.avail_addr, 0x100001100);
	assert_int_equal(queue.used_addr, 0x100001200);
	assert_int_equal(vublk_device_config_generation(rig.device), 1); /* the device's own */
	rig_end(&rig, &mock);
}

static void test_newer_versions(void **state)
{
	struct stream stream;
	struct mock mock;
	struct device_rig rig;

	make_stream(&stream, true);
	begin(&rig, &mock);
	put16(&stream, MINOR_OFFSET, 7);
	append_section(&stream, 77, 1, "what may be skipped", 19);
	append_section(&stream, 78, 1, "", 0);
	load_and_reset(&rig, &stream);
	append_section(&stream, 79, 0, "what must be understood", 23);
	expect_refusal(&rig, &stream, ENOTSUP, "requires section 79");
	put16(&stream, MAJOR_OFFSET, 2);
	finish(&stream);
	expect_refusal(&rig, &stream, ENOTSUP,
		       "format version 2.7, but this version of libvublk supports only up to 1.x");
	put16(&stream, MAJOR_OFFSET, 0);
	finish(&stream);
	expect_refusal(&rig, &stream, ENOTSUP, "format version 0.7");
	rig_end(&rig, &mock);
}

/* A newer minor version may add fields at the end of a section. */
static void test_a_longer_section(void **state)
{
	struct stream stream;
	struct mock mock;
	struct device_rig rig;

	make_stream(&stream, true);
	begin(&rig, &mock);
	memmove(stream.bytes + DEVICE_SECTION + 16 + 5, stream.bytes + DEVICE_SECTION + 16,
		stream.num_bytes - DEVICE_SECTION - 16);
	memset(stream.bytes + DEVICE_SECTION + 16, 0x5a, 5);
	put64(&stream, FIRST_SECTION + 8, 16 + 5);
	stream.num_bytes += 5;
	finish(&stream);
	load_and_reset(&rig, &stream);
	rig_end(&rig, &mock);
}

/* --- damage ---------------------------------------------------------------------------------------- */

/*
 * Checks that the device refuses the stream, which is damaged at byte `at`. `unchanged` is what the
 * device saved before.
 */
static void expect_damage(struct device_rig *rig, const struct stream *stream,
			  const struct stream *unchanged, size_t at)
{
	struct vublk_error error = { 0 };
	struct stream now;
	int r = load(rig, stream, &error);

	if (r >= 0)
		fail_msg("a stream that is damaged at byte %zu of %zu is loaded", at,
			 stream->num_bytes);
	assert_int_equal(r, -error.code);
	assert_true(error.code == EINVAL || error.code == ENOTSUP);
	assert_true(error.text[0]);
	if (at % 64) /* compares only at every 64th byte, to save time */
		return;
	save(rig, &now);
	assert_int_equal(now.num_bytes, unchanged->num_bytes);
	assert_memory_equal(now.bytes, unchanged->bytes, now.num_bytes);
}

static void test_every_bit_flipped(void **state)
{
	struct stream stream, unchanged;
	struct mock mock;
	struct device_rig rig;

	for (unsigned area = 0; area < 2; area++) {
		make_stream(&stream, area);
		begin(&rig, &mock);
		save(&rig, &unchanged);
		for (size_t i = 0; i < stream.num_bytes; i++)
			for (unsigned bit = 0; bit < (area ? 1 : 8); bit++) {
				uint8_t mask = area ? 0xff : (uint8_t)(1 << bit);

				stream.bytes[i] ^= mask;
				expect_damage(&rig, &stream, &unchanged, i);
				stream.bytes[i] ^= mask;
			}
		load_and_reset(&rig, &stream);
		rig_end(&rig, &mock);
	}
}

static void test_every_length(void **state)
{
	struct stream stream, unchanged;
	struct mock mock;
	struct device_rig rig;
	size_t whole;

	make_stream(&stream, true);
	begin(&rig, &mock);
	save(&rig, &unchanged);
	whole = stream.num_bytes;
	stream.bytes[whole] = 0;
	for (stream.num_bytes = 0; stream.num_bytes <= whole + 1; stream.num_bytes++)
		if (stream.num_bytes != whole)
			expect_damage(&rig, &stream, &unchanged, stream.num_bytes);
	stream.num_bytes = whole;
	load_and_reset(&rig, &stream);
	rig_end(&rig, &mock);
}

/*
 * --- invalid content with a valid checksum ------------------------------------------------------
 */

/*
 * Changes each byte before the area's content to several values, and cuts the stream at each
 * length, with a matching header. Each stream must be loaded or refused without harm.
 */
static void test_nonsense(void **state)
{
	const uint8_t values[] = { 0, 1, 2, 3, 4, 5, 7, 0x20, 0x7f, 0x80, 0xff };
	struct stream stream, cut;
	struct mock mock;
	struct device_rig rig;

	make_stream(&stream, true);
	begin(&rig, &mock);
	for (size_t i = 0; i < AREA_SECTION + 8; i++)
		for (size_t v = 0; v < VUBLK_ARRAY_SIZE(values); v++) {
			uint8_t was = stream.bytes[i];

			stream.bytes[i] = values[v];
			if (i < TOTAL_OFFSET || i >= TOTAL_OFFSET + 8)
				finish(&stream);
			if (load(&rig, &stream, NULL) >= 0)
				assert_int_equal(vublk_device_set_status(rig.device, 0, NULL), 0);
			stream.bytes[i] = was;
			finish(&stream);
		}
	for (size_t bytes = FIRST_SECTION + 4; bytes < stream.num_bytes; bytes++) {
		memcpy(cut.bytes, stream.bytes, bytes);
		cut.num_bytes = bytes;
		finish(&cut);
		if (load(&rig, &cut, NULL) >= 0)
			assert_int_equal(vublk_device_set_status(rig.device, 0, NULL), 0);
	}
	rig_settle(&rig);
	load_and_reset(&rig, &stream);
	rig_end(&rig, &mock);
}

static const struct {
	size_t at; /* the offset of a 16-bit field */
	uint16_t value;
	int code;
	const char *sentence;
} nonsense[] = {
	{ FIRST_SECTION + 8, 2, EINVAL, "its section 'device' has 2 bytes; expected at least 16" },
	{ DEVICE_SECTION, 0, EINVAL, "it has 0 queues; expected 1" },
	{ DEVICE_SECTION, 300, EINVAL, "it has 300 queues; expected 1" },
	{ DEVICE_SECTION, 3, EINVAL,
	  "its section of queues has 128 bytes; expected 96 bytes for 3 queues" },
	{ DEVICE_SECTION + 2, 32, EINVAL, "for 4 queues of 16 entries, but the device" },
	{ DEVICE_SECTION + 4, 0x904, EINVAL, "its state of the rings is 9; expected 0 to" },
	{ DEVICE_SECTION + 6, 0x301, EINVAL, "its state of an early kick is 3; expected 0 to" },
	{ DEVICE_SECTION + 6, 0, EINVAL, "is ready but has not accepted features" },
	{ QUEUES_SECTION - 8, 9999, EINVAL, "its section 2 has 9999 bytes, but" },
	{ QUEUES_SECTION, 3, EINVAL, "queue 0: the size must be a power of two" },
	{ QUEUES_SECTION, 32, EINVAL, "a power of two from 2 to 16, not 32" },
	{ QUEUES_SECTION + 8, 1, EINVAL, "expected addresses aligned to" },
	{ AREA_SECTION, 5, EINVAL, "its in-flight area is for 5 queues" },
	{ AREA_SECTION, 99, EINVAL, "for 99 queues of 16 entries" },
	{ AREA_SECTION + 4, 1, ENOTSUP, "has the unknown layout 1" },
};

static void test_sentences(void **state)
{
	struct stream good, stream;
	struct mock mock;
	struct device_rig rig;

	make_stream(&good, true);
	begin(&rig, &mock);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(nonsense); i++) {
		stream = good;
		put16(&stream, nonsense[i].at, nonsense[i].value);
		finish(&stream);
		expect_refusal(&rig, &stream, nonsense[i].code, nonsense[i].sentence);
	}
	stream = good;
	append_section(&stream, 1, 0, good.bytes + DEVICE_SECTION, 16);
	expect_refusal(&rig, &stream, EINVAL, "it has the section 'device' twice");
	stream.num_bytes = FIRST_SECTION + 4;
	finish(&stream);
	expect_refusal(&rig, &stream, EINVAL, "it has no section 'device'");
	memset(stream.bytes, 'x', stream.num_bytes = 100);
	expect_refusal(&rig, &stream, EINVAL, "it has 100 bytes, but does not begin with the header");
	rig_end(&rig, &mock);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_version_1_0),
		VUBLK_TEST(test_newer_versions),
		VUBLK_TEST(test_a_longer_section),
		VUBLK_TEST_LONG(test_every_bit_flipped, 240),
		VUBLK_TEST_LONG(test_every_length, 240),
		VUBLK_TEST_LONG(test_nonsense, 240),
		VUBLK_TEST(test_sentences),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
