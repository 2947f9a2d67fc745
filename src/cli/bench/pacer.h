/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_BENCH_PACER_H
#define VUBLK_CLI_BENCH_PACER_H

/*
 * When a job with --rate_iops starts its requests.
 *
 * Key idea: request n is due n / rate seconds after the start of the run. A late request does not
 * change when the others are due, so a job that was held up by its disk starts the requests that it
 * missed as fast as it can. Latencies count from the time at which a request was due. So if a disk
 * stops for a while, the latencies of all requests that were due meanwhile show it, and not only
 * those of the requests in flight.
 */
#include <stdint.h>

#define VUBLK_PACER_MAX_RATE 1000000000 /* one request per nanosecond */

struct vublk_pacer {
	uint64_t rate;     /* requests per second; 0: no limit */
	uint64_t start_ns;
	uint64_t number;   /* of the next request, counted from 0 */
};

/* Starts with request 0, which is due at `now_ns`. */
void vublk_pacer_start(struct vublk_pacer *pacer, uint64_t rate, uint64_t now_ns);
/*
 * Returns when the next request is due. The pacer must have a rate. Times are rounded up, so fewer
 * than rate * t + 1 requests are due earlier than t seconds after the start.
 */
uint64_t vublk_pacer_due_ns(const struct vublk_pacer *pacer);
/* Called when the next request is started. Returns when it was due; 0: there is no rate. */
uint64_t vublk_pacer_take(struct vublk_pacer *pacer);

#endif
