/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes and reads the stream of a saved device. Its numbers are little-endian on every machine:
 *
 *   header   "VUBLKDEV", u16 major, u16 minor, u32 zero, u64 bytes of the whole stream
 *   section  u16 number, u16 flags, u32 zero, u64 bytes; then that many bytes
 *   ...
 *   u32      CRC-32C of everything before it
 *
 *   1 device     u16 queues, u16 queue size, u8 status, u8 rings, u8 flags (bit 0: the driver
 *                has accepted features), u8 early kick, u64 features
 *   2 queues     for each: u16 size, u16 base, u32 zero, u64 desc, u64 avail, u64 used
 *   3 config     u32 generation; the configuration space
 *   4 in-flight  u16 queues, u16 queue size, u32 layout (0: split); the area's bytes
 *
 * Key idea: bit 0 of a section's flags says that a reader that does not know the section may skip
 * it. So an older program refuses only streams that it would misunderstand.
 */
#include "device/save/save.h"

#include "proto/vhost-user/inflight.h"
#include "util/checked.h"
#include "util/crc32c.h"
#include "util/error.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC "VUBLKDEV"
#define MAGIC_BYTES 8
#define HEADER_BYTES 24
#define SECTION_HEADER_BYTES 16
#define CHECKSUM_BYTES 4

#define FLAG_MAY_BE_SKIPPED 1u

#define DEVICE_BYTES 16
#define FLAG_HAS_FEATURES 1u
#define QUEUE_BYTES 32
#define CONFIG_HEADER_BYTES 4
#define AREA_HEADER_BYTES 8
#define LAYOUT_SPLIT 0

enum { SECTION_DEVICE = 1, SECTION_QUEUES = 2, SECTION_CONFIG = 3, SECTION_AREA = 4 };

/* --- writing ------------------------------------------------------------------------------ */

struct writer {
	uint8_t *at;
};

static void put(struct writer *to, uint64_t value, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		*to->at++ = (uint8_t)(value >> 8 * i);
}

static void put_bytes(struct writer *to, const void *data, size_t bytes)
{
	memcpy(to->at, data, bytes);
	to->at += bytes;
}

static void put_section(struct writer *to, unsigned number, unsigned flags, uint64_t bytes)
{
	put(to, number, 2);
	put(to, flags, 2);
	put(to, 0, 4);
	put(to, bytes, 8);
}

static void put_device(struct writer *to, const struct vublk_save_state *state)
{
	put_section(to, SECTION_DEVICE, 0, DEVICE_BYTES);
	put(to, state->num_queues, 2);
	put(to, state->queue_size, 2);
	put(to, state->status, 1);
	put(to, state->rings, 1);
	put(to, state->has_features ? FLAG_HAS_FEATURES : 0, 1);
	put(to, state->early_kick, 1);
	put(to, state->features, 8);
}

static void put_queues(struct writer *to, const struct vublk_save_state *state)
{
	put_section(to, SECTION_QUEUES, 0, state->num_queues * (uint64_t)QUEUE_BYTES);
	for (unsigned i = 0; i < state->num_queues; i++) {
		const struct vublk_device_queue *queue = &state->queues[i];

		put(to, queue->size, 2);
		put(to, queue->base, 2);
		put(to, 0, 4);
		put(to, queue->desc_addr, 8);
		put(to, queue->avail_addr, 8);
		put(to, queue->used_addr, 8);
	}
}

static void put_config(struct writer *to, const struct vublk_save_state *state)
{
	put_section(to, SECTION_CONFIG, FLAG_MAY_BE_SKIPPED,
		    CONFIG_HEADER_BYTES + sizeof(state->config));
	put(to, state->config_generation, 4);
	put_bytes(to, state->config, sizeof(state->config));
}

static void put_area(struct writer *to, const struct vublk_save_state *state)
{
	put_section(to, SECTION_AREA, 0, AREA_HEADER_BYTES + state->area_bytes);
	put(to, state->area_num_queues, 2);
	put(to, state->area_queue_size, 2);
	put(to, LAYOUT_SPLIT, 4);
	put_bytes(to, state->area, state->area_bytes);
}

static size_t count_bytes(const struct vublk_save_state *state)
{
	size_t bytes = HEADER_BYTES + CHECKSUM_BYTES;

	bytes += SECTION_HEADER_BYTES + DEVICE_BYTES;
	bytes += SECTION_HEADER_BYTES + state->num_queues * (size_t)QUEUE_BYTES;
	if (state->has_config)
		bytes += SECTION_HEADER_BYTES + CONFIG_HEADER_BYTES + sizeof(state->config);
	if (state->area)
		bytes += SECTION_HEADER_BYTES + AREA_HEADER_BYTES + state->area_bytes;
	return bytes;
}

int vublk_save_encode(const struct vublk_save_state *state, void **stream, size_t *stream_bytes,
		      struct vublk_error *error)
{
	size_t bytes = count_bytes(state);
	uint8_t *made = malloc(bytes);
	struct writer to = { made };

	if (!made)
		return vublk_error_set_errno(error, ENOMEM,
					     "cannot save the device: cannot allocate %zu bytes",
					     bytes);
	put_bytes(&to, MAGIC, MAGIC_BYTES);
	put(&to, VUBLK_SAVE_MAJOR, 2);
	put(&to, VUBLK_SAVE_MINOR, 2);
	put(&to, 0, 4);
	put(&to, bytes, 8);
	put_device(&to, state);
	put_queues(&to, state);
	if (state->has_config)
		put_config(&to, state);
	if (state->area)
		put_area(&to, state);
	put(&to, vublk_crc32c(made, bytes - CHECKSUM_BYTES), CHECKSUM_BYTES);
	*stream = made;
	*stream_bytes = bytes;
	return 0;
}

/* --- reading ------------------------------------------------------------------------------- */

struct reader {
	const uint8_t *at;
	uint64_t left;
};

/*
 * Reads a number of `bytes` bytes. If fewer are left, reads nothing and returns 0, which the caller
 * must rule out beforehand.
 */
static uint64_t get(struct reader *from, unsigned bytes)
{
	uint64_t value = 0;

	if (from->left < bytes)
		return 0;
	for (unsigned i = 0; i < bytes; i++)
		value |= (uint64_t)from->at[i] << 8 * i;
	from->at += bytes;
	from->left -= bytes;
	return value;
}

static int read_device(struct reader *from, struct vublk_save_state *state,
		       struct vublk_error *error)
{
	unsigned rings;

	state->num_queues = (uint16_t)get(from, 2);
	state->queue_size = (uint16_t)get(from, 2);
	state->status = (uint8_t)get(from, 1);
	rings = (unsigned)get(from, 1);
	state->has_features = get(from, 1) & FLAG_HAS_FEATURES;
	state->early_kick = (uint8_t)get(from, 1);
	state->features = get(from, 8);
	if (!state->num_queues || state->num_queues > VUBLK_MAX_QUEUES)
		return vublk_error_set(error, EINVAL,
				       "it has %u queues; expected 1 to %u",
				       state->num_queues, VUBLK_MAX_QUEUES);
	if (rings >= VUBLK_SAVE_NUM_RINGS)
		return vublk_error_set(error, EINVAL,
				       "its state of the rings is %u; expected 0 to %u", rings,
				       VUBLK_SAVE_NUM_RINGS - 1);
	if (state->early_kick >= VUBLK_DEVICE_NUM_EARLY_KICKS)
		return vublk_error_set(error, EINVAL,
				       "its state of an early kick is %u; expected 0 to %u",
				       state->early_kick, VUBLK_DEVICE_NUM_EARLY_KICKS - 1);
	state->rings = rings;
	return 0;
}

/* Reads the queues. The section "device", which has their number, must have been read before. */
static int read_queues(struct reader *from, struct vublk_save_state *state,
		       struct vublk_error *error)
{
	if (from->left != state->num_queues * (uint64_t)QUEUE_BYTES)
		return vublk_error_set(error, EINVAL,
				       "its section of queues has %" PRIu64 " bytes; expected %u "
				       "bytes for %u queue%s", from->left,
				       state->num_queues * QUEUE_BYTES, state->num_queues,
				       state->num_queues == 1 ? "" : "s");
	for (unsigned i = 0; i < state->num_queues; i++) {
		struct vublk_device_queue *queue = &state->queues[i];

		queue->size = (uint16_t)get(from, 2);
		queue->base = (uint16_t)get(from, 2);
		get(from, 4);
		queue->desc_addr = get(from, 8);
		queue->avail_addr = get(from, 8);
		queue->used_addr = get(from, 8);
		queue->kick_fd = queue->call_fd = -1;
	}
	return 0;
}

/*
 * Reads the config. Fields that an older writer did not have become 0, and fields that a newer
 * writer has added are skipped.
 */
static int read_config(struct reader *from, struct vublk_save_state *state,
		       struct vublk_error *error)
{
	state->has_config = true;
	state->config_generation = (uint32_t)get(from, 4);
	memcpy(state->config, from->at, VUBLK_MIN(from->left, (uint64_t)sizeof(state->config)));
	return 0;
}

static int read_area(struct reader *from, struct vublk_save_state *state,
		     struct vublk_error *error)
{
	uint32_t layout;
	uint64_t least;

	state->area_num_queues = (uint16_t)get(from, 2);
	state->area_queue_size = (uint16_t)get(from, 2);
	layout = (uint32_t)get(from, 4);
	least = state->area_num_queues * vublk_inflight_split_least_bytes(state->area_queue_size);
	if (layout != LAYOUT_SPLIT)
		return vublk_error_set(error, ENOTSUP,
				       "its in-flight area has the unknown layout %u; expected %u "
				       "(split rings)", layout, LAYOUT_SPLIT);
	if (from->left < least || from->left > VUBLK_SAVE_MAX_AREA_BYTES)
		return vublk_error_set(error, EINVAL,
				       "its in-flight area has %" PRIu64 " bytes; expected "
				       "%" PRIu64 " to %" PRIu64 " for %u queues of %u entries",
				       from->left, least, VUBLK_SAVE_MAX_AREA_BYTES,
				       state->area_num_queues, state->area_queue_size);
	state->area = from->at;
	state->area_bytes = from->left;
	return 0;
}

static const struct section {
	unsigned number;
	const char *name;
	bool required;
	uint64_t min_bytes;
	int (*read)(struct reader *from, struct vublk_save_state *state,
		    struct vublk_error *error);
} sections[] = {
	{ SECTION_DEVICE, "device", true, DEVICE_BYTES, read_device },
	{ SECTION_QUEUES, "queues", true, 0, read_queues },
	{ SECTION_CONFIG, "config", false, CONFIG_HEADER_BYTES, read_config },
	{ SECTION_AREA, "in-flight", false, AREA_HEADER_BYTES, read_area },
};

#define NUM_SECTIONS VUBLK_ARRAY_SIZE(sections)

/* Where the stream has each section of the table above; `at` NULL: the section is missing. */
struct places {
	struct reader of[NUM_SECTIONS];
};

static int note_section(struct places *places, unsigned number, unsigned flags,
			const struct reader *part, struct vublk_error *error)
{
	for (size_t i = 0; i < NUM_SECTIONS; i++) {
		if (sections[i].number != number)
			continue;
		if (places->of[i].at)
			return vublk_error_set(error, EINVAL, "it has the section '%s' twice",
					       sections[i].name);
		if (part->left < sections[i].min_bytes)
			return vublk_error_set(error, EINVAL,
					       "its section '%s' has %" PRIu64 " bytes; expected at "
					       "least %" PRIu64,
					       sections[i].name, part->left, sections[i].min_bytes);
		places->of[i] = *part;
		return 0;
	}
	if (flags & FLAG_MAY_BE_SKIPPED)
		return 0;
	return vublk_error_set(error, ENOTSUP,
			       "it requires section %u, which this version of libvublk does not "
			       "support; use a newer version", number);
}

static int find_sections(struct reader from, struct places *places, struct vublk_error *error)
{
	int r = 0;

	while (from.left && !r) {
		unsigned number, flags;
		struct reader part;

		if (from.left < SECTION_HEADER_BYTES)
			return vublk_error_set(error, EINVAL,
					       "the header of its last section ends after "
					       "%" PRIu64 " of %u bytes",
					       from.left, SECTION_HEADER_BYTES);
		number = (unsigned)get(&from, 2);
		flags = (unsigned)get(&from, 2);
		get(&from, 4);
		part.left = get(&from, 8);
		part.at = from.at;
		if (part.left > from.left)
			return vublk_error_set(error, EINVAL,
					       "its section %u has %" PRIu64 " bytes, but only "
					       "%" PRIu64 " bytes follow",
					       number, part.left, from.left);
		r = note_section(places, number, flags, &part, error);
		from.at += part.left;
		from.left -= part.left;
	}
	return r;
}

static int check_whole(const struct vublk_save_state *state, struct vublk_error *error)
{
	if ((state->status & VIRTIO_CONFIG_S_DRIVER_OK || state->early_kick) &&
	    !state->has_features)
		return vublk_error_set(error, EINVAL,
				       "its driver is ready but has not accepted features");
	if (state->features && !state->has_features)
		return vublk_error_set(error, EINVAL,
				       "it lists accepted features but says that the driver has "
				       "not accepted any");
	if (state->rings == VUBLK_SAVE_RINGS_INFLIGHT && !state->area)
		return vublk_error_set(error, EINVAL,
				       "it says that requests are in flight but has no in-flight "
				       "area");
	if (state->area && (state->area_num_queues != state->num_queues ||
			    state->area_queue_size != state->queue_size))
		return vublk_error_set(error, EINVAL,
				       "its in-flight area is for %u queues of %u entries, but the "
				       "device has %u queues of %u entries", state->area_num_queues,
				       state->area_queue_size, state->num_queues, state->queue_size);
	return 0;
}

static int read_sections(const struct reader *from, struct vublk_save_state *state,
			 struct vublk_error *error)
{
	struct places places = { 0 };
	int r = find_sections(*from, &places, error);

	for (size_t i = 0; i < NUM_SECTIONS && !r; i++) {
		if (places.of[i].at)
			r = sections[i].read(&places.of[i], state, error);
		else if (sections[i].required)
			r = vublk_error_set(error, EINVAL, "it has no section '%s'", sections[i].name);
	}
	return r ? r : check_whole(state, error);
}

/* --- header and checksum ---------------------------------------------------------------------- */

static int check_version(struct reader *header, struct vublk_error *error)
{
	unsigned major = (unsigned)get(header, 2);
	unsigned minor = (unsigned)get(header, 2);

	if (major && major <= VUBLK_SAVE_MAJOR)
		return 0;
	return vublk_error_set(error, ENOTSUP,
			       "it has the format version %u.%u, but this version of libvublk "
			       "supports only up to %u.x; use a newer version",
			       major, minor, VUBLK_SAVE_MAJOR);
}

static int check_frame(const uint8_t *stream, uint64_t bytes, struct vublk_error *error)
{
	struct reader header = { stream + MAGIC_BYTES, HEADER_BYTES - MAGIC_BYTES };
	struct reader end;
	uint64_t said;
	uint32_t sum;
	int r;

	if (bytes < HEADER_BYTES + CHECKSUM_BYTES || memcmp(stream, MAGIC, MAGIC_BYTES))
		return vublk_error_set(error, EINVAL,
				       "it has %" PRIu64 " bytes, but does not begin with the "
				       "header of a saved device", bytes);
	r = check_version(&header, error);
	if (r < 0)
		return r;
	get(&header, 4);
	said = get(&header, 8);
	if (said != bytes)
		return vublk_error_set(error, EINVAL,
				       "it has %" PRIu64 " bytes, but its header says %" PRIu64,
				       bytes,
				       said);
	end = (struct reader){ stream + bytes - CHECKSUM_BYTES, CHECKSUM_BYTES };
	said = get(&end, CHECKSUM_BYTES);
	sum = vublk_crc32c(stream, bytes - CHECKSUM_BYTES);
	if (said != sum)
		return vublk_error_set(error, EINVAL,
				       "it is damaged: its checksum is 0x%08x, but the checksum of "
				       "its content is 0x%08x",
				       (uint32_t)said, sum);
	return 0;
}

int vublk_save_decode(const void *stream, size_t stream_bytes, struct vublk_save_state *state,
		      struct vublk_error *error)
{
	const uint8_t *bytes = stream;
	struct reader from;
	int r = check_frame(bytes, stream_bytes, error);

	if (!r) {
		*state = (struct vublk_save_state){ 0 };
		from = (struct reader){ bytes + HEADER_BYTES,
					stream_bytes - HEADER_BYTES - CHECKSUM_BYTES };
		r = read_sections(&from, state, error);
	}
	if (r < 0)
		vublk_error_prepend(error, "cannot load the saved state");
	return r;
}
