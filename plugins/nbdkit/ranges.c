/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Orders changes that overlap; see ranges.h.
 *
 * Key idea: the list has the ranges that are being changed and those that wait, in the order in
 * which they were added. A range waits only for ranges before it, so two ranges never wait for each
 * other.
 */
#include "plugins/nbdkit/ranges.h"

#include "plugins/nbdkit/wait.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

void vublk_nbdkit_ranges_init(struct vublk_nbdkit_ranges *ranges)
{
	pthread_mutex_init(&ranges->lock, NULL);
	pthread_cond_init(&ranges->left, NULL);
	ranges->first = NULL;
}

void vublk_nbdkit_ranges_deinit(struct vublk_nbdkit_ranges *ranges)
{
	while (ranges->first) {
		struct vublk_nbdkit_range *range = ranges->first;

		ranges->first = range->next;
		free(range);
	}
	pthread_cond_destroy(&ranges->left);
	pthread_mutex_destroy(&ranges->lock);
}

static bool must_wait(const struct vublk_nbdkit_ranges *ranges, const struct vublk_nbdkit_range *range)
{
	for (const struct vublk_nbdkit_range *r = ranges->first; r != range; r = r->next)
		if (r->offset < range->end && range->offset < r->end)
			return true;
	return false;
}

static void drop_user(struct vublk_nbdkit_ranges *ranges, struct vublk_nbdkit_range *range)
{
	struct vublk_nbdkit_range **place = &ranges->first;

	if (--range->users)
		return;
	while (*place != range)
		place = &(*place)->next;
	*place = range->next;
	free(range);
	pthread_cond_broadcast(&ranges->left);
}

int vublk_nbdkit_ranges_enter(struct vublk_nbdkit_ranges *ranges, uint64_t offset, uint64_t end,
			   struct vublk_nbdkit_range **range)
{
	struct vublk_nbdkit_range *new = malloc(sizeof(*new)), **place = &ranges->first;
	int r = 0;

	if (!new)
		return -ENOMEM;
	*new = (struct vublk_nbdkit_range){ .offset = offset, .end = end, .users = 1 };
	pthread_mutex_lock(&ranges->lock);
	while (*place)
		place = &(*place)->next;
	*place = new;
	while (must_wait(ranges, new) && !r)
		r = vublk_nbdkit_wait(&ranges->left, &ranges->lock);
	/* The last range in the way may have been removed while the wait failed. */
	if (r && !must_wait(ranges, new))
		r = 0;
	if (r)
		drop_user(ranges, new);
	pthread_mutex_unlock(&ranges->lock);
	if (!r)
		*range = new;
	return r;
}

void vublk_nbdkit_ranges_hold(struct vublk_nbdkit_ranges *ranges, struct vublk_nbdkit_range *range)
{
	pthread_mutex_lock(&ranges->lock);
	range->users++;
	pthread_mutex_unlock(&ranges->lock);
}

void vublk_nbdkit_ranges_leave(struct vublk_nbdkit_ranges *ranges, struct vublk_nbdkit_range *range)
{
	if (!range)
		return;
	pthread_mutex_lock(&ranges->lock);
	drop_user(ranges, range);
	pthread_mutex_unlock(&ranges->lock);
}
