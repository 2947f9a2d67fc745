/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Prints text that another process has chosen; see text.h. */
#include "cli/text.h"

#include <stdbool.h>
#include <string.h>

#define ESCAPE_BYTES 4 /* \xNN */

size_t vublk_cli_utf8_bytes(const char *text)
{
	static const unsigned least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	const unsigned char *at = (const unsigned char *)text;
	size_t bytes = at[0] < 0x80 ? 1 : at[0] >> 5 == 6 ? 2 : at[0] >> 4 == 14 ? 3 :
		       at[0] >> 3 == 30 ? 4 : 0;
	unsigned value = bytes > 1 ? at[0] & (0xff >> (bytes + 1)) : at[0];

	for (size_t i = 1; i < bytes; i++) {
		if (at[i] >> 6 != 2)
			return 0;
		value = value << 6 | (at[i] & 0x3f);
	}
	if (bytes < 2)
		return at[0] ? bytes : 0;
	return value < least[bytes] || value > 0x10ffff || value >> 11 == 27 ? 0 : bytes;
}

/* Returns whether the well-formed character of `bytes` bytes is a control character. */
static bool is_control(const char *text, size_t bytes)
{
	const unsigned char *at = (const unsigned char *)text;

	return (bytes == 1 && (at[0] < 0x20 || at[0] == 0x7f)) ||
	       (bytes == 2 && at[0] == 0xc2 && at[1] < 0xa0);
}

/*
 * Writes the next character of `text`, escaped if necessary, to `to`, which must have room for two
 * escapes and a NUL. Returns how many bytes of `text` were used, and stores how many bytes were
 * written.
 */
static size_t step(char *to, const char *text, size_t *written)
{
	size_t bytes = vublk_cli_utf8_bytes(text);

	if (bytes && !is_control(text, bytes)) {
		memcpy(to, text, bytes);
		*written = bytes;
		return bytes;
	}
	bytes = bytes ? bytes : 1;
	for (size_t i = 0; i < bytes; i++)
		sprintf(to + i * ESCAPE_BYTES, "\\x%02x", (unsigned char)text[i]);
	*written = bytes * ESCAPE_BYTES;
	return bytes;
}

void vublk_cli_escape(char *to, size_t room, const char *text)
{
	char one[2 * ESCAPE_BYTES + 1];
	size_t at = 0, written;

	while (*text) {
		text += step(one, text, &written);
		if (at + written >= room)
			break;
		memcpy(to + at, one, written);
		at += written;
	}
	if (room)
		to[at] = '\0';
}

void vublk_cli_put_lines(FILE *file, const char *text)
{
	char one[2 * ESCAPE_BYTES + 1];
	size_t written;

	while (*text) {
		if (*text == '\n' || *text == '\t') {
			fputc(*text++, file);
			continue;
		}
		text += step(one, text, &written);
		fwrite(one, 1, written, file);
	}
}

void vublk_cli_put_json(FILE *file, const char *json)
{
	for (size_t bytes; *json; json += bytes ? bytes : 1) {
		bytes = vublk_cli_utf8_bytes(json);
		if (*json == '\n' || (bytes && !is_control(json, bytes)))
			fwrite(json, 1, bytes, file);
		else
			fprintf(file, "\\u00%02x", (unsigned char)json[bytes == 2 ? 1 : 0]);
	}
	fputc('\n', file);
}
