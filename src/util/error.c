/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * These functions write the message of an error into the caller's buffer; see
 * error.h.
 *
 * Key idea: the functions allocate nothing, so they can also report that memory ran out. A message
 * that is too long is truncated.
 */
#include "util/error.h"

#include <stdio.h>
#include <string.h>

int vublk_error_set_va(struct vublk_error *error, int code, const char *format, va_list args)
{
	if (error) {
		error->code = code;
		vsnprintf(error->text, sizeof(error->text), format, args);
	}
	return -code;
}

int vublk_error_set(struct vublk_error *error, int code, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vublk_error_set_va(error, code, format, args);
	va_end(args);
	return -code;
}

int vublk_error_set_errno(struct vublk_error *error, int code, const char *format, ...)
{
	const char *reason = strerrordesc_np(code);
	va_list args;
	size_t used;

	if (!error)
		return -code;
	va_start(args, format);
	vublk_error_set_va(error, code, format, args);
	va_end(args);
	used = strlen(error->text);
	snprintf(error->text + used, sizeof(error->text) - used, ": %s",
		 reason ? reason : "unknown error");
	return -code;
}

void vublk_error_prepend(struct vublk_error *error, const char *format, ...)
{
	char tail[VUBLK_ERROR_TEXT_BYTES];
	va_list args;
	size_t used;

	if (!error)
		return;
	memcpy(tail, error->text, sizeof(tail));
	va_start(args, format);
	vsnprintf(error->text, sizeof(error->text), format, args);
	va_end(args);
	used = strlen(error->text);
	snprintf(error->text + used, sizeof(error->text) - used, ": %s", tail);
}
