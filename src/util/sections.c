/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes and reads lists of sections; see sections.h. A section consists of its name (24 bytes),
 * version and flags (2 bytes each), the size of its contents (4 bytes), and the contents, in which
 * each number has 8 bytes. The byte order is the machine's, because both processes run on the same
 * machine.
 *
 * Key idea: the reader checks the header of each section before it calls a read function, and no
 * read function can read beyond its section.
 */
#include "util/sections.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FLAG_MAY_BE_SKIPPED 1u
#define MAX_TEXT_BYTES 4096

struct header {
	char name[VUBLK_SECTION_NAME_BYTES];
	uint16_t version, flags;
	uint32_t bytes;
};

_Static_assert(sizeof(struct header) == 32, "the header has no padding");

/* --- writing ------------------------------------------------------------------------------ */

void vublk_sections_writer_deinit(struct vublk_sections_writer *to)
{
	free(to->bytes);
	free(to->fds);
	*to = (struct vublk_sections_writer){ .failed = to->failed };
}

/*
 * Makes room for `count` more elements. Returns the array, which may have moved. Returns NULL, and
 * leaves `array` unchanged, if there is no memory.
 */
static void *grow(void *array, size_t *room, size_t used, size_t count, size_t element_bytes)
{
	size_t wanted = VUBLK_MAX(2 * *room, used + count);
	void *made;

	if (used + count <= *room)
		return array;
	made = realloc(array, wanted * element_bytes);
	if (made)
		*room = wanted;
	return made;
}

static void append(struct vublk_sections_writer *to, const void *data, size_t bytes)
{
	uint8_t *grown = NULL;

	if (!to->failed && bytes)
		grown = grow(to->bytes, &to->room, to->num_bytes, bytes, 1);
	if (!grown) {
		to->failed |= bytes > 0;
		return;
	}
	to->bytes = grown;
	memcpy(to->bytes + to->num_bytes, data, bytes);
	to->num_bytes += bytes;
}

/* Adds bytes to the current section, and counts them in its header. */
static void put(struct vublk_sections_writer *to, const void *data, size_t bytes)
{
	struct header header;

	append(to, data, bytes);
	if (to->failed)
		return;
	memcpy(&header, to->bytes + to->begin, sizeof(header));
	header.bytes += (uint32_t)bytes;
	memcpy(to->bytes + to->begin, &header, sizeof(header));
}

void vublk_section_begin(struct vublk_sections_writer *to, const char *name, unsigned version,
			 bool may_be_skipped)
{
	struct header header = {
		.version = (uint16_t)version,
		.flags = may_be_skipped ? FLAG_MAY_BE_SKIPPED : 0,
	};

	strncpy(header.name, name, sizeof(header.name) - 1);
	to->begin = to->num_bytes;
	append(to, &header, sizeof(header));
}

void vublk_section_put(struct vublk_sections_writer *to, uint64_t value)
{
	put(to, &value, sizeof(value));
}

void vublk_section_put_bytes(struct vublk_sections_writer *to, const void *data, size_t bytes)
{
	put(to, data, bytes);
}

void vublk_section_put_text(struct vublk_sections_writer *to, const char *text)
{
	size_t bytes = strlen(text);

	vublk_section_put(to, bytes);
	put(to, text, bytes);
}

void vublk_section_put_error(struct vublk_sections_writer *to, const struct vublk_error *error)
{
	vublk_section_put(to, (uint64_t)error->code);
	vublk_section_put_text(to, error->code ? error->text : "");
}

/* Writes the descriptor's index plus one; 0 stands for no descriptor. */
void vublk_section_put_fd(struct vublk_sections_writer *to, int fd)
{
	int *grown = NULL;

	if (fd < 0) {
		vublk_section_put(to, 0);
		return;
	}
	if (!to->failed)
		grown = grow(to->fds, &to->fds_room, to->num_fds, 1, sizeof(*grown));
	if (!grown) {
		to->failed = true;
		return;
	}
	to->fds = grown;
	to->fds[to->num_fds++] = fd;
	vublk_section_put(to, to->num_fds);
}

/* --- reading ------------------------------------------------------------------------------- */

static const struct vublk_section_type *find(const struct vublk_section_table *tables,
					     size_t num_tables, const char *name, void **owner)
{
	for (size_t i = 0; i < num_tables; i++)
		for (const struct vublk_section_type *type = tables[i].types; type->name; type++)
			if (!strcmp(type->name, name)) {
				*owner = tables[i].owner;
				return type;
			}
	return NULL;
}

static int next(struct vublk_sections_reader *from, struct vublk_section *section, bool *may_skip,
		struct vublk_error *error)
{
	struct header header;

	if (from->left < sizeof(header))
		return vublk_error_set(error, EINVAL, "the last section has %zu bytes, but its "
				       "header alone needs %zu", from->left, sizeof(header));
	memcpy(&header, from->bytes, sizeof(header));
	header.name[sizeof(header.name) - 1] = '\0';
	from->bytes += sizeof(header);
	from->left -= sizeof(header);
	if (header.bytes > from->left)
		return vublk_error_set(error, EINVAL, "the section '%s' announces %u bytes, but "
				       "only %zu bytes follow",
				       header.name, header.bytes, from->left);
	*section = (struct vublk_section){
		.version = header.version,
		.bytes = from->bytes,
		.left = header.bytes,
		.from = from,
	};
	memcpy(section->name, header.name, sizeof(section->name));
	*may_skip = header.flags & FLAG_MAY_BE_SKIPPED;
	from->bytes += header.bytes;
	from->left -= header.bytes;
	return 0;
}

static int read_one(struct vublk_section *section, const struct vublk_section_type *type,
		    void *owner, struct vublk_error *error)
{
	int r = type->read(owner, section, error);

	if (!r && section->is_bad)
		r = vublk_error_set(error, EINVAL, "the section '%s' is invalid",
				    section->name);
	return r;
}

int vublk_sections_read(struct vublk_sections_reader *from,
			const struct vublk_section_table *tables, size_t num_tables,
			struct vublk_error *error)
{
	int r = 0;

	while (from->left && !r) {
		const struct vublk_section_type *type;
		struct vublk_section section;
		bool may_skip = false;
		void *owner = NULL;

		r = next(from, &section, &may_skip, error);
		if (r < 0)
			return r;
		type = find(tables, num_tables, section.name, &owner);
		if (type)
			r = read_one(&section, type, owner, error);
		else if (!may_skip)
			r = vublk_error_set(error, ENOTSUP, "the section '%s' is required, but "
					    "this version does not support it", section.name);
	}
	return r;
}

void vublk_section_get_bytes(struct vublk_section *section, void *data, size_t bytes)
{
	size_t count = VUBLK_MIN(bytes, section->left);

	memset(data, 0, bytes);
	memcpy(data, section->bytes, count);
	section->bytes += count;
	section->left -= count;
}

uint64_t vublk_section_get(struct vublk_section *section)
{
	uint64_t value;

	vublk_section_get_bytes(section, &value, sizeof(value));
	return value;
}

void vublk_section_get_text(struct vublk_section *section, char *text, size_t room)
{
	uint64_t bytes = vublk_section_get(section);

	if (bytes >= room || bytes > section->left || bytes > MAX_TEXT_BYTES) {
		section->is_bad = true;
		bytes = 0;
	}
	vublk_section_get_bytes(section, text, bytes);
	text[bytes] = '\0';
}

void vublk_section_get_error(struct vublk_section *section, struct vublk_error *error)
{
	struct vublk_error got = { .code = (int)vublk_section_get(section) };

	vublk_section_get_text(section, got.text, sizeof(got.text));
	*error = got;
}

int vublk_section_get_fd(struct vublk_section *section)
{
	uint64_t number = vublk_section_get(section);

	if (!number)
		return -1;
	if (number > section->from->num_fds || section->from->fds[number - 1] < 0) {
		section->is_bad = true;
		return -1;
	}
	return vublk_fd_steal(&section->from->fds[number - 1]);
}

/* --- both directions ------------------------------------------------------------------------ */

void vublk_field_number(struct vublk_fields *fields, uint64_t *value)
{
	if (fields->to)
		vublk_section_put(fields->to, *value);
	else
		*value = vublk_section_get(fields->from);
}

void vublk_field_fd(struct vublk_fields *fields, int *fd)
{
	if (fields->to)
		vublk_section_put_fd(fields->to, *fd);
	else
		*fd = vublk_section_get_fd(fields->from);
}

void vublk_field_error(struct vublk_fields *fields, struct vublk_error *error)
{
	if (fields->to)
		vublk_section_put_error(fields->to, error);
	else
		vublk_section_get_error(fields->from, error);
}

void vublk_fields_refuse(struct vublk_fields *fields)
{
	if (fields->from)
		fields->from->is_bad = true;
}
