/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_POLLER_H
#define VUBLK_BACKEND_POLLER_H

/*
 * How long a worker looks for work before it sleeps, learnt from what came of it.
 *
 * The idea to read it by: looking pays when a request comes sooner than a sleep and a
 * wake-up would take. Short sleeps say that it may; so the window is opened, and widened.
 * Whether it does is seen by what is found within the window: a driver on the same core
 * cannot run meanwhile, and one that waits for longer than the window is not met either. A
 * window in which nothing came several times in a row is closed, and tried again after so
 * many sleeps that trying costs next to nothing. Long sleeps close it, too: an idle disk
 * costs one window.
 *
 * A worker has one of these for each thing that it waits for, since they come in turns and
 * know nothing of each other: the next request of a driver, which is there in a moment or
 * not at all, and the answer of a disk, which takes as long as the disk does. Who waits for
 * a disk looks no longer than a sleep and a wake-up cost: more would be paid for each request.
 */
#include <stdbool.h>
#include <stdint.h>

/* The window doubles from the first to the last, which is one of these. */
#define VUBLK_POLLER_FIRST_NS 8000u
#define VUBLK_POLLER_DRIVER_NS 64000u
#define VUBLK_POLLER_DISK_NS 8000u
/* So many windows in vain close it, for so many sleeps at first and at last. */
#define VUBLK_POLLER_MISSES 4u
#define VUBLK_POLLER_FIRST_REST 64u
#define VUBLK_POLLER_LAST_REST 4096u

struct vublk_poller {
	uint64_t last_ns;   /* for ever: how long a window may be */
	uint64_t window_ns; /* 0: it sleeps at once */
	uint64_t began_ns;  /* while it looks: since when */
	bool is_looking;    /* nothing has come yet */
	unsigned misses;    /* windows in vain, in a row */
	unsigned rest;      /* sleeps before the window is opened again */
	unsigned next_rest; /* 0: VUBLK_POLLER_FIRST_REST */
};

/*
 * Whether what it waits for has been found not to come while it looks: a driver that runs on
 * the same core, as far as can be told.
 */
static inline bool vublk_poller_is_in_vain(const struct vublk_poller *poller)
{
	return poller->rest;
}

/* Nothing to do: the window begins, or goes on; false: it is over. */
static inline bool vublk_poller_looks(struct vublk_poller *poller, uint64_t now_ns)
{
	if (!poller->is_looking)
		poller->began_ns = now_ns;
	poller->is_looking = true;
	return now_ns - poller->began_ns < poller->window_ns;
}

/* There is something to do. */
static inline void vublk_poller_found(struct vublk_poller *poller)
{
	if (!poller->is_looking)
		return;
	poller->is_looking = false;
	poller->misses = 0;
	poller->next_rest = 0;
}

/* It is going to sleep, for nothing came. */
void vublk_poller_gives_up(struct vublk_poller *poller);
/* It has slept for so long. */
void vublk_poller_slept(struct vublk_poller *poller, uint64_t slept_ns);

#endif
