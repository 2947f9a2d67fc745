/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The helpers that all sub-commands share: values, lists of options, messages, numbers. */
#include "harness.h"

#include "cli/cli.h"
#include "cli/options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void test_numbers(void **state)
{
	struct vublk_error e = { 0 };
	uint64_t v = 7;

	assert_int_equal(vublk_cli_parse_number("iodepth", "32", 1, 1024, &v, &e), 0);
	assert_int_equal(v, 32);
	assert_int_equal(vublk_cli_parse_number("iodepth", "0x10", 1, 1024, &v, &e), 0);
	assert_int_equal(v, 16);
	static const char *const bad[] = { "", " 1", "-1", "+1", "1 ", "1k", "0", "1025", "x",
					   "99999999999999999999" };
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(bad); i++)
		assert_int_equal(vublk_cli_parse_number("iodepth", bad[i], 1, 1024, &v, &e),
				 -EINVAL);
	assert_int_equal(v, 16);
	assert_string_equal(e.text, "--iodepth must be a whole number from 1 to 1024, "
			    "not '99999999999999999999'");
}

static void test_bytes(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{ "512", 512 }, { "4k", 4096 }, { "4K", 4096 }, { "1MiB", 1 << 20 },
		{ "2g", UINT64_C(2) << 30 }, { "1T", UINT64_C(1) << 40 },
		{ "16777215T", UINT64_C(16777215) << 40 },
	};
	static const char *const bad[] = { "", "k", "4x", "4kk", "-4k", "16777216T", "511" };
	struct vublk_error e = { 0 };
	uint64_t v;

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(good); i++) {
		assert_int_equal(vublk_cli_parse_bytes("bs", good[i].text, 512, UINT64_MAX, &v, &e),
				 0);
		assert_int_equal(v, good[i].bytes);
	}
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(bad); i++)
		assert_int_equal(vublk_cli_parse_bytes("bs", bad[i], 512, UINT64_MAX, &v, &e),
				 -EINVAL);
}

static void test_times(void **state)
{
	static const struct {
		const char *text;
		uint64_t ms;
	} good[] = {
		{ "5", 5000 }, { "5s", 5000 }, { "250ms", 250 }, { "2m", 120000 },
		{ "1h", 3600000 }, { "0", 0 },
		{ "0.5s", 500 }, { "1.5", 1500 }, { "0.25m", 15000 }, { "2.0ms", 2 },
	};
	static const char *const bad[] = { "", "s", "-1", "5x", "1.", ".5", "1.s", "1.5.5",
				     "0.5ms", "0.0001s", "1.0000000001s", "99999999h" };
	struct vublk_error e = { 0 };
	uint64_t v;

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(good); i++) {
		assert_int_equal(vublk_cli_parse_milliseconds("runtime", good[i].text, &v, &e), 0);
		assert_int_equal(v, good[i].ms);
	}
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(bad); i++)
		assert_int_equal(vublk_cli_parse_milliseconds("runtime", bad[i], &v, &e), -EINVAL);
}

static void test_printed_numbers(void **state)
{
	char text[VUBLK_CLI_TEXT_BYTES];

	assert_string_equal(vublk_cli_format_bytes(text, 0), "0 B");
	assert_string_equal(vublk_cli_format_bytes(text, 1023), "1023 B");
	assert_string_equal(vublk_cli_format_bytes(text, 64 << 20), "64 MiB");
	assert_string_equal(vublk_cli_format_bytes(text, 1536 << 10), "1.50 MiB");
	assert_string_equal(vublk_cli_format_bytes(text, UINT64_MAX), "16.0 EiB");
	assert_string_equal(vublk_cli_format_count(text, 0), "0");
	assert_string_equal(vublk_cli_format_count(text, 12.34), "12.3");
	assert_string_equal(vublk_cli_format_count(text, 123456), "123k");
	assert_string_equal(vublk_cli_format_count(text, 1250000), "1.25M");
	assert_string_equal(vublk_cli_format_ns(text, 830), "830 ns");
	assert_string_equal(vublk_cli_format_ns(text, 12400), "12.4 us");
	assert_string_equal(vublk_cli_format_ns(text, 2e9), "2.00 s");
}

static void test_error_sentences(void **state)
{
	struct vublk_error e = { 0 };

	assert_int_equal(vublk_cli_error_errno(&e, ENOENT, "cannot open '%s'", "x"), -ENOENT);
	assert_string_equal(e.text, "cannot open 'x': No such file or directory");
	assert_int_equal(e.code, ENOENT);
	assert_int_equal(vublk_cli_error(NULL, EINVAL, "not read"), -EINVAL);
}

static void check_renamed(const struct vublk_cli_options *options, const char *sentence,
			  const char *expected)
{
	static const struct vublk_cli_alias aliases[] = {
		{ "request-timeout-ms", "--timeout", false }, { "size", "--size", true },
		{ "fd", "--fd", false }, { NULL },
	};
	struct vublk_error e = { .code = EINVAL };

	snprintf(e.text, sizeof(e.text), "%s", sentence);
	vublk_cli_options_rename(options, aliases, &e);
	assert_string_equal(e.text, expected);
	vublk_cli_options_rename(options, aliases, NULL);
}

/*
 * An error names the option (--timeout) that set a property, unless the user wrote the property
 * itself (request-timeout-ms=N).
 */
static void test_names_in_sentences(void **state)
{
	struct vublk_cli_options none = { 0 }, pair = { .count = 1 };
	char longest[VUBLK_ERROR_TEXT_BYTES], expected[VUBLK_ERROR_TEXT_BYTES];

	pair.list[0] = (struct vublk_option){ "request-timeout-ms", "5" };
	pair.is_pair[0] = true;
	check_renamed(&none, "wait, or raise request-timeout-ms", "wait, or raise --timeout");
	check_renamed(&pair, "wait, or raise request-timeout-ms", "wait, or raise request-timeout-ms");
	check_renamed(&none, "size must be a size; give size=BYTES", "--size must be a size; give --size=BYTES");
	check_renamed(&none, "--fd and fd, '/tmp/fd', fd2, fd", "--fd and --fd, '/tmp/fd', fd2, --fd");
	memset(longest, ' ', sizeof(longest));
	memcpy(longest + sizeof(longest) - 4, " fd", 4);
	snprintf(expected, sizeof(expected), "%.*s --", VUBLK_ERROR_TEXT_BYTES - 4, longest);
	check_renamed(&none, longest, expected);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_numbers),
		VUBLK_TEST(test_bytes),
		VUBLK_TEST(test_times),
		VUBLK_TEST(test_printed_numbers),
		VUBLK_TEST(test_error_sentences),
		VUBLK_TEST(test_names_in_sentences),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
