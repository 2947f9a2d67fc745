/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_NOTICE_H
#define VUBLK_UTIL_NOTICE_H

/* The handler of an object's notices; see <vublk/notice.h>. All zeroes: notices are dropped. */
#include <vublk/notice.h>

struct vublk_notifier {
	vublk_notice_fn *fn;
	void *opaque;
};

/* Passes the notice to the handler. `notifier` may be NULL. */
static inline void vublk_notify(const struct vublk_notifier *notifier,
				const struct vublk_notice *notice)
{
	if (notifier && notifier->fn)
		notifier->fn(notifier->opaque, notice, sizeof(*notice));
}

#endif
