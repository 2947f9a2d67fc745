/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The version of the library that is loaded, which need not be that of the headers. */
#include <vublk/version.h>

const char *vublk_version(void)
{
	return VUBLK_VERSION_STRING;
}
