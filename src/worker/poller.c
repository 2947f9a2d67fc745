/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* This file implements adaptive polling; see poller.h. */
#include "worker/poller.h"

#include "util/checked.h"

static void close_window(struct vublk_poller *poller)
{
	poller->window_ns = 0;
	poller->misses = 0;
	poller->sleeps_left = poller->next_sleeps ? poller->next_sleeps : VUBLK_POLLER_FIRST_SLEEPS;
	poller->next_sleeps = VUBLK_MIN(2 * poller->sleeps_left, VUBLK_POLLER_LAST_SLEEPS);
}

uint64_t vublk_poller_missed(struct vublk_poller *poller)
{
	if (!poller->is_looking)
		return 0;
	poller->is_looking = false;
	if (++poller->misses >= VUBLK_POLLER_MISSES)
		close_window(poller);
	return poller->looked_ns - poller->began_ns;
}

void vublk_poller_slept(struct vublk_poller *poller, uint64_t slept_ns)
{
	if (poller->sleeps_left)
		poller->sleeps_left--;
	else if (slept_ns > poller->last_ns)
		poller->window_ns = poller->window_ns > VUBLK_POLLER_FIRST_NS ?
					    poller->window_ns / 2 : 0;
	else if (poller->window_ns)
		poller->window_ns = VUBLK_MIN(2 * poller->window_ns, poller->last_ns);
	else
		poller->window_ns = VUBLK_POLLER_FIRST_NS;
}
