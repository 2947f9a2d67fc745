/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BENCH_RATE_H
#define BENCH_RATE_H

/*
 * The parts that the compared clients share: options with the same names and meanings as those of
 * `vublk bench`, the clock, the latencies, and a report. The report has those keys of `vublk
 * bench`'s JSON that tests/bench/systems.py reads. As in `vublk bench`, the clock is read once for
 * each request that starts, and once for all requests that complete together.
 */
#include "cli/cli.h"
#include "cli/histogram.h"

#include <sys/resource.h>

struct rate {
	/* options */
	const char *path;       /* NULL: none was given */
	bool is_write;
	bool is_poll;
	uint32_t block_bytes;
	unsigned depth;
	uint64_t size_bytes;    /* of the memory that is copied; ignored for a disk */
	uint64_t ramp_ns;       /* the length of the ramp, which precedes the measurement */
	uint64_t runtime_ns;    /* rate_end() replaces it with the time that the run took */
	uint64_t number_ios;    /* the run ends after this many requests; 0: at runtime_ns */

	/* while it runs */
	uint64_t random;        /* the state of the random numbers */
	uint64_t begun;         /* the number of requests that were begun; the client counts them */
	uint64_t num_blocks;    /* the number of blocks of block_bytes; the client sets it */
	uint64_t start_ns;
	uint64_t turn_ns;       /* the end of the ramp, and later the end of the run */
	bool is_ramp;
	struct vublk_histogram latency_ns;
	struct rusage usage;    /* of the thread, at start_ns; rate_end() replaces it with the
				   usage of the run */
};

/* Reads the command line into `rate`. An error in the command line ends the process. */
void rate_parse(struct rate *rate, const char *usage, const char *doc, int argc, char **argv);

/* Prints the program's name, a colon and the message, and ends the process. */
void rate_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* Starts the ramp, or the run if there is no ramp. */
void rate_begin(struct rate *rate);
/* Ends the run. Only the thread that called rate_begin() may call this. */
void rate_end(struct rate *rate);
/* Prints the report. */
void rate_print(const struct rate *rate);

/*
 * Must be called when turn_ns is reached. In the ramp: discards the ramp's numbers, starts the run,
 * and returns true. In the run: returns false, because the run is over.
 */
bool rate_turn(struct rate *rate, uint64_t now_ns);

/* Returns whether the client must start another request. */
static inline bool rate_wants_more(struct rate *rate, uint64_t now_ns)
{
	if (now_ns >= rate->turn_ns && !rate_turn(rate, now_ns))
		return false;
	return !rate->number_ios || rate->is_ramp || rate->begun < rate->number_ios;
}

/* Returns a random number below num_blocks, made by xorshift64, which is fast. */
static inline uint64_t rate_next_block(struct rate *rate)
{
	rate->random ^= rate->random << 13;
	rate->random ^= rate->random >> 7;
	rate->random ^= rate->random << 17;
	return (uint64_t)((unsigned __int128)rate->random * rate->num_blocks >> 64);
}

#endif
