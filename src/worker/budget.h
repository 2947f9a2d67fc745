/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_WORKER_BUDGET_H
#define VUBLK_WORKER_BUDGET_H

/*
 * The polling budget: limits the processor time that a worker wastes by adaptive polling, in
 * percent of a core.
 *
 * Key idea: the budget is a token bucket, whose tokens are nanoseconds of wasted polling. The
 * bucket gains `percent` of the time that passes, and holds at most VUBLK_POLL_BUDGET_BURST_NS.
 * Each polling window takes out as many tokens as it has wasted nanoseconds (poller.h says how many
 * these are). When the bucket is empty, the worker does not poll until the bucket is full again. So
 * the worker either polls or sleeps for many requests in a row. A mixture would cost more, because
 * requests would pay for a short window and for a sleep.
 *
 * The budget is consulted before a window and charged after it, so the bucket can fall below zero
 * by one window. The budget does not read the clock, but gets the time that the poller has read.
 */
#include <stdbool.h>
#include <stdint.h>

/* the budget of a worker whose owner has no option for it, and the default of such an option */
#define VUBLK_POLL_BUDGET_DEFAULT 10
#define VUBLK_POLL_BUDGET_MAX 100 /* no limit, because one thread cannot waste more */

#define VUBLK_POLL_BUDGET_BURST_NS 10000000

struct vublk_poll_budget {
	unsigned percent;   /* constant */
	bool is_spent;      /* there is no polling until the bucket is full */
	int64_t left;       /* the tokens, in hundredths of a nanosecond, so that a percentage of a
			       nanosecond is exact */
	uint64_t filled_ns; /* when the bucket last gained tokens */
};

/* Sets up a full bucket. With 0 percent the budget never permits polling. */
void vublk_poll_budget_init(struct vublk_poll_budget *budget, unsigned percent);
/* Returns whether a window may begin at `now_ns`. */
bool vublk_poll_budget_permits(struct vublk_poll_budget *budget, uint64_t now_ns);
/* Charges a window that has wasted `ns` nanoseconds up to `now_ns`. */
void vublk_poll_budget_charge(struct vublk_poll_budget *budget, uint64_t ns, uint64_t now_ns);

#endif
