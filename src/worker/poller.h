/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_WORKER_POLLER_H
#define VUBLK_WORKER_POLLER_H

/*
 * Adaptive polling: decides how long a worker looks for work before it sleeps.
 *
 * Key idea: polling pays if a request arrives sooner than a sleep and a wake-up would take. After a
 * short sleep that is likely, so the sleep opens the polling window or doubles it. But polling
 * helps only if work arrives within the window. No work arrives if the driver shares the worker's
 * core, because then the driver cannot run while the worker polls, or if the driver pauses for
 * longer than the window. So several windows in a row without work turn polling off, for so many
 * sleeps that the cost of trying again is small. A long sleep halves the window or closes it. When
 * a disk becomes idle, the worker polls for one more window.
 *
 * A worker has one poller for the next request of a driver and another for the answer of a disk,
 * because the two waits differ: a request comes soon or not at all, but a disk always takes about
 * the same time. The window for a disk is at most as long as a sleep and a wake-up take, because
 * every request may have to pay for this window.
 *
 * If no work came, the whole window was wasted. If work came, the window has saved a sleep and a
 * wake-up, which cost SLEEP_NS, so only the time above SLEEP_NS was wasted. The worker charges the
 * wasted time to its budget (budget.h).
 */
#include <stdbool.h>
#include <stdint.h>

/*
 * The window doubles from FIRST_NS up to DRIVER_NS or DISK_NS, depending on what the worker waits
 * for.
 */
#define VUBLK_POLLER_FIRST_NS 8000u
#define VUBLK_POLLER_DRIVER_NS 64000u
#define VUBLK_POLLER_DISK_NS 8000u
#define VUBLK_POLLER_SLEEP_NS 8000u /* processor time of a sleep and a wake-up, estimated */
/*
 * After MISSES windows in a row without work, polling is off for FIRST_SLEEPS sleeps. The number
 * doubles each time, up to LAST_SLEEPS.
 */
#define VUBLK_POLLER_MISSES 4u
#define VUBLK_POLLER_FIRST_SLEEPS 64u
#define VUBLK_POLLER_LAST_SLEEPS 4096u

struct vublk_poller {
	uint64_t last_ns;   /* constant: the longest window */
	uint64_t window_ns; /* the current window; 0: the worker sleeps immediately */
	uint64_t began_ns;  /* when the window began; valid while is_looking */
	uint64_t looked_ns; /* when the worker last found no work; valid while is_looking */
	bool is_looking;    /* the worker polls, and no work has come yet */
	unsigned misses;    /* how many windows in a row had no work */
	unsigned sleeps_left; /* how many more sleeps polling stays off */
	unsigned next_sleeps; /* how many sleeps polling will stay off after the next misses; 0:
				 VUBLK_POLLER_FIRST_SLEEPS */
};

/*
 * Returns whether polling is off because several windows had no work. The usual reason is that the
 * driver runs on the worker's core.
 */
static inline bool vublk_poller_is_useless(const struct vublk_poller *poller)
{
	return poller->sleeps_left;
}

/*
 * Called after each round without work: begins or continues the window. Returns false if the window
 * is over.
 */
static inline bool vublk_poller_looks(struct vublk_poller *poller, uint64_t now_ns)
{
	if (!poller->is_looking)
		poller->began_ns = now_ns;
	poller->looked_ns = now_ns;
	poller->is_looking = true;
	return now_ns - poller->began_ns < poller->window_ns;
}

/*
 * Called when there is work: ends the window. Returns the time that the window wasted up to
 * looked_ns, in nanoseconds.
 */
static inline uint64_t vublk_poller_found(struct vublk_poller *poller)
{
	uint64_t waited_ns = poller->looked_ns - poller->began_ns;

	if (!poller->is_looking)
		return 0;
	poller->is_looking = false;
	poller->misses = 0;
	poller->next_sleeps = 0;
	return waited_ns > VUBLK_POLLER_SLEEP_NS ? waited_ns - VUBLK_POLLER_SLEEP_NS : 0;
}

/*
 * Called when the window is over without work, before the worker sleeps. Returns the time that the
 * window wasted up to looked_ns, in nanoseconds.
 */
uint64_t vublk_poller_missed(struct vublk_poller *poller);
/* Called after each sleep, with its duration. */
void vublk_poller_slept(struct vublk_poller *poller, uint64_t slept_ns);

#endif
