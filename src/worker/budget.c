/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* This file implements the polling budget; see budget.h. */
#include "worker/budget.h"

#include "util/checked.h"

#define PERCENT 100
#define FULL ((int64_t)VUBLK_POLL_BUDGET_BURST_NS * PERCENT)

void vublk_poll_budget_init(struct vublk_poll_budget *budget, unsigned percent)
{
	*budget = (struct vublk_poll_budget){
		.percent = percent, .is_spent = !percent, .left = percent ? FULL : 0,
	};
}

/* Adds the tokens for the time since the last call. */
static void fill(struct vublk_poll_budget *budget, uint64_t now_ns)
{
	/* Even at 1 percent, this much time fills the bucket. The limit prevents an overflow. */
	uint64_t passed = VUBLK_MIN(now_ns - budget->filled_ns, 2 * (uint64_t)FULL);

	budget->filled_ns = now_ns;
	budget->left = VUBLK_MIN(budget->left + (int64_t)(passed * budget->percent), FULL);
	if (budget->left == FULL)
		budget->is_spent = false;
}

bool vublk_poll_budget_permits(struct vublk_poll_budget *budget, uint64_t now_ns)
{
	if (budget->is_spent)
		fill(budget, now_ns);
	return !budget->is_spent;
}

void vublk_poll_budget_charge(struct vublk_poll_budget *budget, uint64_t ns, uint64_t now_ns)
{
	fill(budget, now_ns);
	budget->left -= (int64_t)ns * PERCENT;
	if (budget->left <= 0)
		budget->is_spent = true;
}
