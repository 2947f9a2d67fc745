/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* When requests are due; see pacer.h. */
#include "cli/bench/pacer.h"

#define NS_PER_S UINT64_C(1000000000)

void vublk_pacer_start(struct vublk_pacer *pacer, uint64_t rate, uint64_t now_ns)
{
	*pacer = (struct vublk_pacer){ .rate = rate, .start_ns = now_ns };
}

uint64_t vublk_pacer_due_ns(const struct vublk_pacer *pacer)
{
	/* Computes whole seconds separately, so that rest * NS_PER_S stays below 2^60. */
	uint64_t seconds = pacer->number / pacer->rate, rest = pacer->number % pacer->rate;

	return pacer->start_ns + seconds * NS_PER_S + (rest * NS_PER_S + pacer->rate - 1) / pacer->rate;
}

uint64_t vublk_pacer_take(struct vublk_pacer *pacer)
{
	uint64_t due_ns;

	if (!pacer->rate)
		return 0;
	due_ns = vublk_pacer_due_ns(pacer);
	pacer->number++;
	return due_ns;
}
