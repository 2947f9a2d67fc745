/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_OPTION_H
#define VUBLK_UTIL_OPTION_H

#include <vublk/error.h>

#include <stdbool.h>
#include <stdint.h>

/*
 * Parsers for the values of options and properties. Each fails with EINVAL and one sentence
 * that names the option, the values that are permitted, and the value that was given.
 */

/* Parses a whole number from min to max, decimal or with 0x. */
int vublk_parse_u64(const char *name, const char *text, uint64_t min, uint64_t max,
		    uint64_t *value, struct vublk_error *error);

/*
 * Parses a size in bytes from min to max. A suffix k, M, G or T, also as KiB or KB, is permitted
 * (powers of 1,024).
 */
int vublk_parse_bytes(const char *name, const char *text, uint64_t min, uint64_t max,
		      uint64_t *value, struct vublk_error *error);

/*
 * Finds the text in a list of words that ends with NULL, and stores its index.
 */
int vublk_parse_word(const char *name, const char *text, const char *const *words, unsigned *index,
		     struct vublk_error *error);

/* Parses on/off, true/false, yes/no or 1/0. */
int vublk_parse_bool(const char *name, const char *text, bool *value, struct vublk_error *error);

#endif
