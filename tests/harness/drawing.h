/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_DRAWING_H
#define VUBLK_TESTS_DRAWING_H

/*
 * A document that a test program generates from a table of the source code, and compares with the
 * copy in docs/.
 *
 * Key idea: the test fails if the table or the document changes alone.
 */
#include <stdio.h>

/* Fails the case if the file at `path` differs from the output of `draw`. */
void vublk_test_compare_drawing(const char *path, void (*draw)(FILE *out));

/* Writes the output of `draw` to the file at `path`. Returns the exit status of the program. */
int vublk_test_write_drawing(const char *path, void (*draw)(FILE *out));

#endif
