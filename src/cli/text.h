/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_TEXT_H
#define VUBLK_CLI_TEXT_H

/*
 * Prints text that another process has chosen: the serial of a disk, a path, or a peer's message.
 *
 * Key idea: such text must not control the terminal. So each byte of a control character, and each
 * byte that is not part of valid UTF-8, is printed as \xNN. Control characters are those of ASCII
 * (C0 and DEL) and U+0080 to U+009F (C1), which many terminals also obey.
 */
#include <stddef.h>
#include <stdio.h>

/*
 * Returns the number of bytes of the UTF-8 character at `text`, a string that ends with NUL.
 * Returns 0 at the end of the string or if the character is malformed.
 */
size_t vublk_cli_utf8_bytes(const char *text);

/* Writes `text` with escapes to `to`, which has `room` bytes. Text that does not fit is left out. */
void vublk_cli_escape(char *to, size_t room, const char *text);

/* Prints text of any length with escapes. Newlines and tabs are printed unchanged. */
void vublk_cli_put_lines(FILE *file, const char *text);

/*
 * Prints JSON and a newline. Control characters that JSON permits in a string (DEL and C1) are
 * printed as \u00NN, so the value stays the same.
 */
void vublk_cli_put_json(FILE *file, const char *json);

#endif
