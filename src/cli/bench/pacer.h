/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_BENCH_PACER_H
#define VUBLK_CLI_BENCH_PACER_H

/*
 * When a job with --rate_iops starts its requests.
 *
 * Key idea: request n is due n / rate seconds after the start of the run. A late request does not
 * delay the due times of later requests, so a job that its disk has held up starts the missed
 * requests as fast as it can. Latencies count from the time at which a request was due. So a disk
 * that stops for a while shows in the latencies of all requests that were due during that time, not
 * only of those in flight.
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
 * Returns when the next request is due. The pacer must have a rate. Times are rounded up, so at
 * most rate * t requests, rounded up, are due in the first t seconds.
 */
uint64_t vublk_pacer_due_ns(const struct vublk_pacer *pacer);
/* Called when the next request is started. Returns when it was due; 0: there is no rate. */
uint64_t vublk_pacer_take(struct vublk_pacer *pacer);

#endif
