/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The version of the loaded library. It may differ from the version of the program's headers. */
#include <vublk/version.h>

const char *vublk_version(void)
{
	return VUBLK_VERSION_STRING;
}
