/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mock/inotify-limit.h"

#include <errno.h>

bool inotify_is_used_up;
unsigned inotify_num_calls;

int __real_inotify_init1(int flags);
int __wrap_inotify_init1(int flags);

int __wrap_inotify_init1(int flags)
{
	inotify_num_calls++;
	if (!inotify_is_used_up)
		return __real_inotify_init1(flags);
	errno = EMFILE;
	return -1;
}
