/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_SECTIONS_H
#define VUBLK_UTIL_SECTIONS_H

/*
 * The state of a process, as a list of sections, for another process that takes over its work. Both
 * run on the same machine as the same user. Each section has a name, a version, a size, and a flag
 * that says whether a reader that does not know the name may skip it.
 *
 * Key idea: a newer version of a section only appends fields. A reader gets 0 for a field that is
 * missing, and ignores fields that it does not know. So both an upgrade and a downgrade work,
 * unless the writer has a mandatory section that the reader does not know.
 *
 * The bytes contain no descriptors, only indices into an array of descriptors that is sent along.
 */
#include <vublk/error.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VUBLK_SECTION_NAME_BYTES 24 /* with the final NUL */

/* --- writing ----------------------------------------------------------------------------- */

/*
 * A zeroed writer is empty. A lack of memory only sets `failed`, so the caller must check that
 * member once, at the end.
 */
struct vublk_sections_writer {
	uint8_t *bytes;
	size_t num_bytes, room;
	size_t begin; /* the offset of the current section */
	int *fds; /* borrowed descriptors */
	size_t num_fds, fds_room;
	bool failed;
};

void vublk_sections_writer_deinit(struct vublk_sections_writer *to);

/* Begins a section, which ends where the next one begins. */
void vublk_section_begin(struct vublk_sections_writer *to, const char *name, unsigned version,
			 bool may_be_skipped);
void vublk_section_put(struct vublk_sections_writer *to, uint64_t value);
void vublk_section_put_bytes(struct vublk_sections_writer *to, const void *data, size_t bytes);
void vublk_section_put_text(struct vublk_sections_writer *to, const char *text);
/* Writes the code and the text of an error; code 0: no error. */
void vublk_section_put_error(struct vublk_sections_writer *to, const struct vublk_error *error);
/* Writes a descriptor, which is borrowed until the descriptors are sent; -1: no descriptor. */
void vublk_section_put_fd(struct vublk_sections_writer *to, int fd);

/* --- reading ----------------------------------------------------------------------------- */

struct vublk_sections_reader {
	const uint8_t *bytes;
	size_t left;
	int *fds; /* owned by the caller; a descriptor that is taken is replaced with -1 */
	unsigned num_fds;
};

struct vublk_section {
	char name[VUBLK_SECTION_NAME_BYTES];
	unsigned version; /* as the writer gave it; readers need not check it, because fields are
			     only appended */
	const uint8_t *bytes;
	size_t left;
	struct vublk_sections_reader *from;
	bool is_bad; /* a descriptor's index, a text's length or a number was invalid */
};

/* A type of section, and the function that reads it. A table of types ends with a NULL name. */
struct vublk_section_type {
	const char *name;
	bool may_be_skipped; /* a reader that does not know the section may skip it, as in
				vublk_section_begin() */
	int (*read)(void *owner, struct vublk_section *section, struct vublk_error *error);
};

/* A table of types, and the argument of its functions. */
struct vublk_section_table {
	const struct vublk_section_type *types;
	void *owner;
};

/*
 * Reads all sections in order: for each section, calls the read function that `tables` has for its
 * name. Errors: EINVAL if the bytes are not a list of sections or a section is bad, ENOTSUP if a
 * mandatory section is unknown, and those of the read functions.
 */
int vublk_sections_read(struct vublk_sections_reader *from,
			const struct vublk_section_table *tables, size_t num_tables,
			struct vublk_error *error);

/* Returns the next number; 0 if the writer did not write this field. */
uint64_t vublk_section_get(struct vublk_section *section);
/* Reads the next bytes. Missing bytes are read as 0. */
void vublk_section_get_bytes(struct vublk_section *section, void *data, size_t bytes);
/*
 * Reads the next text, and adds a final NUL. A text makes the section bad if it has `room` bytes or
 * more, or exceeds the section or 4,096 bytes.
 */
void vublk_section_get_text(struct vublk_section *section, char *text, size_t room);
void vublk_section_get_error(struct vublk_section *section, struct vublk_error *error);
/* Returns the next descriptor, or -1 if there is none. The caller owns the descriptor. */
int vublk_section_get_fd(struct vublk_section *section);

/* --- both directions --------------------------------------------------------------------- */

/*
 * The argument of a function that visits the fields of a section. It writes them to `to` or reads
 * them from `from`; the other member is NULL. So one list of the fields serves both directions.
 */
struct vublk_fields {
	struct vublk_sections_writer *to;
	struct vublk_section *from;
};

/* These functions write or read one field, like the functions above. */
void vublk_field_number(struct vublk_fields *fields, uint64_t *value);
void vublk_field_fd(struct vublk_fields *fields, int *fd);
void vublk_field_error(struct vublk_fields *fields, struct vublk_error *error);
/* Marks the section as bad if it is being read. A no-op if it is being written. */
void vublk_fields_refuse(struct vublk_fields *fields);

/*
 * Writes or reads `member`, which has an integer type or is a bool. A number that does not fit the
 * type makes the section bad.
 */
#define VUBLK_FIELD(fields, member)                                                           \
	do {                                                                                  \
		uint64_t value_ = (uint64_t)(member);                                         \
                                                                                              \
		vublk_field_number(fields, &value_);                                          \
		(member) = (__typeof__(member))value_;                                        \
		if ((uint64_t)(member) != value_)                                             \
			vublk_fields_refuse(fields);                                          \
	} while (0)

#endif
