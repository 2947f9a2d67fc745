/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Generated documents; see drawing.h. */
#include "drawing.h"

#include "harness.h"

#include <stdlib.h>
#include <string.h>

void vublk_test_compare_drawing(const char *path, void (*draw)(FILE *out))
{
	static char file[32768];
	char *drawn = NULL;
	size_t drawn_bytes, file_bytes;
	FILE *out = open_memstream(&drawn, &drawn_bytes), *in = fopen(path, "re");

	draw(out);
	fclose(out);
	assert_non_null(in);
	file_bytes = fread(file, 1, sizeof(file), in);
	fclose(in);
	if (file_bytes != drawn_bytes || memcmp(file, drawn, drawn_bytes))
		fail_msg("%s does not match the table; run this program with --write-drawing", path);
	free(drawn);
}

int vublk_test_write_drawing(const char *path, void (*draw)(FILE *out))
{
	FILE *out = fopen(path, "we");

	if (!out) {
		perror(path);
		return 1;
	}
	draw(out);
	return fclose(out) ? 1 : 0;
}
