/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lists of sections that one version of a program passes to another: older and newer writers,
 * unknown sections, and bytes that are not a list.
 */
#include "harness.h"

#include "util/checked.h"
#include "util/fd.h"
#include "util/sections.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct owner {
	uint64_t first, second;
	char text[16];
	struct vublk_error error;
	int fd, again_fd;
	unsigned times;
};

static int read_numbers(void *opaque, struct vublk_section *from, struct vublk_error *error)
{
	struct owner *owner = opaque;

	owner->first = vublk_section_get(from);
	owner->second = vublk_section_get(from);
	owner->times++;
	return 0;
}

static int read_others(void *opaque, struct vublk_section *from, struct vublk_error *error)
{
	struct owner *owner = opaque;

	vublk_section_get_text(from, owner->text, sizeof(owner->text));
	vublk_section_get_error(from, &owner->error);
	owner->fd = vublk_section_get_fd(from);
	owner->again_fd = vublk_section_get_fd(from);
	return 0;
}

static const struct vublk_section_type types[] = {
	{ "numbers", false, read_numbers },
	{ "others", false, read_others },
	{ NULL },
};

static int read_bytes(struct owner *owner, const uint8_t *bytes, size_t num_bytes, int *fds,
		      unsigned num_fds, struct vublk_error *error)
{
	struct vublk_sections_reader from = { bytes, num_bytes, fds, num_fds };
	const struct vublk_section_table table = { types, owner };

	*owner = (struct owner){ .fd = -1, .again_fd = -1 };
	return vublk_sections_read(&from, &table, 1, error);
}

static int read_back(struct owner *owner, struct vublk_sections_writer *to,
		     struct vublk_error *error)
{
	int r;

	assert_false(to->failed);
	r = read_bytes(owner, to->bytes, to->num_bytes, to->fds, (unsigned)to->num_fds, error);
	vublk_sections_writer_deinit(to);
	return r;
}

static void put_numbers(struct vublk_sections_writer *to, unsigned count)
{
	vublk_section_begin(to, "numbers", 1, false);
	for (unsigned i = 0; i < count; i++)
		vublk_section_put(to, UINT64_MAX - i);
}

static void test_what_was_written(void **state)
{
	struct vublk_error error, given;
	struct vublk_sections_writer to = { 0 };
	struct owner owner;
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	vublk_section_begin(&to, "others", 1, false);
	vublk_section_put_text(&to, "fifteen letters");
	given = (struct vublk_error){ .code = EPROTO, .text = "a reason" };
	vublk_section_put_error(&to, &given);
	vublk_section_put_fd(&to, fd);
	vublk_section_put_fd(&to, -1);
	put_numbers(&to, 2);
	assert_int_equal(read_back(&owner, &to, &error), 0);
	assert_int_equal(owner.first, UINT64_MAX);
	assert_int_equal(owner.second, UINT64_MAX - 1);
	assert_string_equal(owner.text, "fifteen letters");
	assert_int_equal(owner.error.code, EPROTO);
	assert_string_equal(owner.error.text, "a reason");
	assert_int_equal(owner.fd, fd);
	assert_int_equal(owner.again_fd, -1);
	close(owner.fd);
}

static void test_older_and_newer_writers(void **state)
{
	struct vublk_sections_writer to = { 0 };
	struct vublk_error error;
	struct owner owner;

	put_numbers(&to, 1); /* an older writer omits the second number */
	assert_int_equal(read_back(&owner, &to, &error), 0);
	assert_int_equal(owner.first, UINT64_MAX);
	assert_int_equal(owner.second, 0);
	put_numbers(&to, 9);
	put_numbers(&to, 2);
	assert_int_equal(read_back(&owner, &to, &error), 0);
	assert_int_equal(owner.times, 2);
	assert_int_equal(owner.second, UINT64_MAX - 1);
}

static void test_unknown_sections(void **state)
{
	struct vublk_sections_writer to = { 0 };
	struct vublk_error error;
	struct owner owner;

	vublk_section_begin(&to, "colour", 1, true);
	vublk_section_put(&to, 7);
	put_numbers(&to, 2);
	assert_int_equal(read_back(&owner, &to, &error), 0);
	assert_int_equal(owner.times, 1);
	vublk_section_begin(&to, "colour", 1, false);
	assert_int_equal(read_back(&owner, &to, &error), -ENOTSUP);
	assert_non_null(strstr(error.text, "'colour'"));
}

/*
 * Returns the result of reading a section `others` with this text and these two descriptor numbers.
 */
static int read_others_with(const char *text, uint64_t first, uint64_t second)
{
	int fds[1] = { open("/dev/null", O_RDONLY | O_CLOEXEC) };
	struct vublk_sections_writer to = { 0 };
	struct vublk_error error;
	struct owner owner;
	int r;

	vublk_section_begin(&to, "others", 1, false);
	vublk_section_put_text(&to, text);
	vublk_section_put_error(&to, &(struct vublk_error){ 0 });
	vublk_section_put(&to, first);
	vublk_section_put(&to, second);
	r = read_bytes(&owner, to.bytes, to.num_bytes, fds, 1, &error);
	vublk_sections_writer_deinit(&to);
	vublk_fd_close(&owner.fd);
	vublk_fd_close(&owner.again_fd);
	vublk_fd_close(&fds[0]);
	return r;
}

static void test_contradictions(void **state)
{
	assert_int_equal(read_others_with("short", 1, 0), 0);
	assert_int_equal(read_others_with("sixteen letters!", 0, 0), -EINVAL);
	assert_int_equal(read_others_with("short", 2, 0), -EINVAL); /* there is no such descriptor */
	assert_int_equal(read_others_with("short", UINT64_MAX, 0), -EINVAL);
	assert_int_equal(read_others_with("short", 1, 1), -EINVAL); /* another field has it */
}

/*
 * Cuts a list of two sections at each byte. A list that ends inside a section is refused, and
 * nothing beyond its end is read.
 */
static void test_cut_lists(void **state)
{
	struct vublk_sections_writer to = { 0 };
	struct vublk_error error;
	struct owner owner;

	put_numbers(&to, 2);
	put_numbers(&to, 2);
	for (size_t bytes = 0; bytes <= to.num_bytes; bytes++) {
		uint8_t *copy = malloc(bytes + 1); /* so that a sanitizer knows its end */
		int r;

		memcpy(copy, to.bytes, bytes);
		r = read_bytes(&owner, copy, bytes, NULL, 0, &error);
		free(copy);
		assert_int_equal(r, bytes % (to.num_bytes / 2) ? -EINVAL : 0);
	}
	vublk_sections_writer_deinit(&to);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_what_was_written),
		VUBLK_TEST(test_older_and_newer_writers),
		VUBLK_TEST(test_unknown_sections),
		VUBLK_TEST(test_contradictions),
		VUBLK_TEST(test_cut_lists),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
