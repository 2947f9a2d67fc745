/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_WORKER_POLLER_H
#define VUBLK_WORKER_POLLER_H

/*
 * Adaptive polling: how long a worker looks for work before it sleeps.
 *
 * Key idea: polling pays if a request arrives sooner than a sleep and a wake-up would take. Short
 * sleeps suggest that this is so, and open and widen the polling window. But polling helps only if
 * work arrives within the window. No work arrives if the driver shares this core, because the
 * driver cannot run while the worker polls, or if the driver waits for longer than the window. So
 * several windows in a row without work turn polling off, for so many sleeps that trying again
 * costs almost nothing. Long sleeps close the window as well, so an idle disk costs one window.
 *
 * A worker has one poller for the next request of a driver and another for the answer of a disk,
 * because the two waits are independent: a request comes soon or not at all, but a disk always
 * takes about as long. The window for a disk is no longer than a sleep and a wake-up take, because
 * each request pays for it.
 */
#include <stdbool.h>
#include <stdint.h>

/* The window doubles from FIRST up to DRIVER or DISK, depending on what the poller is for. */
#define VUBLK_POLLER_FIRST_NS 8000u
#define VUBLK_POLLER_DRIVER_NS 64000u
#define VUBLK_POLLER_DISK_NS 8000u
/* After this many windows without work, polling is off for FIRST to LAST sleeps. */
#define VUBLK_POLLER_MISSES 4u
#define VUBLK_POLLER_FIRST_SLEEPS 64u
#define VUBLK_POLLER_LAST_SLEEPS 4096u

struct vublk_poller {
	uint64_t last_ns;   /* constant: the longest window */
	uint64_t window_ns; /* 0: it sleeps immediately */
	uint64_t began_ns;  /* while it polls: since when */
	bool is_looking;    /* it polls, and no work has come yet */
	unsigned misses;    /* windows without work, in a row */
	unsigned sleeps_left; /* sleeps before the window is opened again */
	unsigned next_sleeps; /* 0: VUBLK_POLLER_FIRST_SLEEPS */
};

/* Whether polling has been useless lately; the driver probably runs on the same core. */
static inline bool vublk_poller_is_useless(const struct vublk_poller *poller)
{
	return poller->sleeps_left;
}

/* No work: begins or continues the window; false: it is over. */
static inline bool vublk_poller_looks(struct vublk_poller *poller, uint64_t now_ns)
{
	if (!poller->is_looking)
		poller->began_ns = now_ns;
	poller->is_looking = true;
	return now_ns - poller->began_ns < poller->window_ns;
}

/* There is work. */
static inline void vublk_poller_found(struct vublk_poller *poller)
{
	if (!poller->is_looking)
		return;
	poller->is_looking = false;
	poller->misses = 0;
	poller->next_sleeps = 0;
}

/* No work came: the worker is about to sleep. */
void vublk_poller_missed(struct vublk_poller *poller);
/* The worker has slept for this long. */
void vublk_poller_slept(struct vublk_poller *poller, uint64_t slept_ns);

#endif
