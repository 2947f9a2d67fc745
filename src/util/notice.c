/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The names of the kinds of notices; see <vublk/notice.h>. */
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
	[VUBLK_NOTICE_MIRROR_STARTED] = "mirror_started",
	[VUBLK_NOTICE_MIRROR_STOPPED] = "mirror_stopped",
	[VUBLK_NOTICE_PAUSING] = "pausing",
	[VUBLK_NOTICE_PAUSED] = "paused",
	[VUBLK_NOTICE_RESUMED] = "resumed",
	[VUBLK_NOTICE_LIMITS_CHANGED] = "limits_changed",
	[VUBLK_NOTICE_SHADOW_ON] = "shadow_on",
	[VUBLK_NOTICE_SHADOW_OFF] = "shadow_off",
	[VUBLK_NOTICE_SHADOW_REFUSED] = "shadow_refused",
	[VUBLK_NOTICE_SWITCH_STARTED] = "switch_started",
	[VUBLK_NOTICE_SWITCHED] = "switched",
	[VUBLK_NOTICE_SWITCH_FAILED] = "switch_failed",
	[VUBLK_NOTICE_TRACE_STARTED] = "trace_started",
	[VUBLK_NOTICE_TRACE_ENDED] = "trace_ended",
	[VUBLK_NOTICE_REPLAYED] = "replayed",
	[VUBLK_NOTICE_REPLAY_FAILED] = "replay_failed",
	[VUBLK_NOTICE_DRAIN_STARTED] = "drain_started",
	[VUBLK_NOTICE_DRAINED] = "drained",
	[VUBLK_NOTICE_DRAIN_FAILED] = "drain_failed",
};

const char *vublk_notice_name(enum vublk_notice_kind kind)
{
	return (unsigned)kind < VUBLK_ARRAY_SIZE(names) ? names[kind] : NULL;
}
