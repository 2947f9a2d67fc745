/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Makes the errors that do not come from the library; see error.h. */
#include "plugins/nbdkit/error.h"

#include <stdarg.h>
#include <stdio.h>

int vublk_nbdkit_error(struct vublk_error *error, int code, const char *format, ...)
{
	va_list arguments;

	if (!error)
		return -code;
	error->code = code;
	va_start(arguments, format);
	vsnprintf(error->text, sizeof(error->text), format, arguments);
	va_end(arguments);
	return -code;
}
