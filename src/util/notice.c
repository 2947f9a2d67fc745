/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* This file has the names of the kinds of notices; see <vublk/notice.h>. */
#include "util/notice.h"

#include "util/checked.h"

static const char *const names[VUBLK_NOTICE_NUM_KINDS] = {
	[VUBLK_NOTICE_CONNECTED] = "connected",
	[VUBLK_NOTICE_LOST] = "lost",
	[VUBLK_NOTICE_RECOVERED] = "recovered",
	[VUBLK_NOTICE_REFUSED] = "refused",
	[VUBLK_NOTICE_GAVE_UP] = "gave_up",
	[VUBLK_NOTICE_RESIZED] = "resized",
	[VUBLK_NOTICE_NEEDS_RESET] = "needs_reset",
	[VUBLK_NOTICE_CLIENT_CONNECTED] = "client_connected",
	[VUBLK_NOTICE_CLIENT_DISCONNECTED] = "client_disconnected",
	[VUBLK_NOTICE_CLIENT_REFUSED] = "client_refused",
	[VUBLK_NOTICE_SLOW_REQUEST] = "slow_request",
	[VUBLK_NOTICE_MIRROR_SYNCED] = "mirror_synced",
	[VUBLK_NOTICE_MIRROR_ENDED] = "mirror_ended",
};

const char *vublk_notice_name(enum vublk_notice_kind kind)
{
	return (unsigned)kind < VUBLK_ARRAY_SIZE(names) ? names[kind] : NULL;
}
