/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Parses the values of options and properties; see option.h. All of them are parsed here, so the
 * rules and error messages agree. (The vublk tool has a parser of its own for its command line:
 * src/cli/cli.h.)
 */
#include "util/option.h"

#include "util/checked.h"
#include "util/error.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/*
 * Parses the number at the start of `text`, decimal or with 0x. Sets `end` to the first character
 * after the number. The text must begin with a digit, because strtoull() alone would accept a sign
 * and leading blanks.
 */
static int parse_digits(const char *text, uint64_t *value, const char **end)
{
	char *stop;

	if (!text || !isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	*value = strtoull(text, &stop, strncasecmp(text, "0x", 2) ? 10 : 16);
	*end = stop;
	return errno ? -errno : 0;
}

int vublk_parse_u64(const char *name, const char *text, uint64_t min, uint64_t max,
		    uint64_t *value, struct vublk_error *error)
{
	const char *end;
	uint64_t number;

	if (parse_digits(text, &number, &end) || *end || number < min || number > max)
		return vublk_error_set(error, EINVAL,
				       "%s must be a whole number from %" PRIu64 " to %" PRIu64
				       ", not '%s'", name, min, max, text ? text : "");
	*value = number;
	return 0;
}

/*
 * Returns the exponent of the power of two for which the suffix stands, or -1 if there is no such
 * suffix.
 */
static int suffix_shift(const char *suffix)
{
	static const char units[] = "kmgt";
	const char *unit;

	if (!*suffix)
		return 0;
	unit = strchr(units, tolower((unsigned char)*suffix));
	if (!unit || (suffix[1] && strcasecmp(suffix + 1, "ib") && strcasecmp(suffix + 1, "b")))
		return -1;
	return 10 * (int)(unit - units + 1);
}

int vublk_parse_bytes(const char *name, const char *text, uint64_t min, uint64_t max,
		      uint64_t *value, struct vublk_error *error)
{
	const char *end = "";
	uint64_t number = 0;
	int shift = -1;

	if (!parse_digits(text, &number, &end))
		shift = suffix_shift(end);
	if (shift < 0 || number > UINT64_MAX >> shift || number << shift < min ||
	    number << shift > max)
		return vublk_error_set(error, EINVAL,
				       "%s must be a size from %" PRIu64 " to %" PRIu64 " bytes "
				       "(suffixes k, M, G, T are allowed), not '%s'",
				       name, min, max, text ? text : "");
	*value = number << shift;
	return 0;
}

/* Writes the words as in "on, off or auto". */
static void list_words(const char *const *words, char *text, size_t bytes)
{
	size_t length = 0;

	text[0] = '\0';
	for (size_t i = 0; words[i] && length < bytes; i++) {
		const char *between = !i ? "" : words[i + 1] ? ", " : " or ";

		length += (size_t)snprintf(text + length, bytes - length, "%s%s", between, words[i]);
	}
}

int vublk_parse_word(const char *name, const char *text, const char *const *words, unsigned *index,
		     struct vublk_error *error)
{
	char all[128];

	for (unsigned i = 0; text && words[i]; i++)
		if (!strcmp(text, words[i])) {
			*index = i;
			return 0;
		}
	list_words(words, all, sizeof(all));
	return vublk_error_set(error, EINVAL, "%s must be %s, not '%s'", name, all,
			       text ? text : "");
}

int vublk_parse_bool(const char *name, const char *text, bool *value, struct vublk_error *error)
{
	static const char *const words[][2] = {
		{ "off", "on" }, { "false", "true" }, { "no", "yes" }, { "0", "1" },
	};

	for (size_t i = 0; text && i < VUBLK_ARRAY_SIZE(words); i++)
		for (int v = 0; v < 2; v++)
			if (!strcmp(text, words[i][v])) {
				*value = v;
				return 0;
			}
	return vublk_error_set(error, EINVAL, "%s must be on or off, not '%s'", name,
			       text ? text : "");
}
