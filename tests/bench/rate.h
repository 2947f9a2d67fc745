/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BENCH_RATE_H
#define BENCH_RATE_H

/*
 * The parts that the compared clients share: options with the names and meanings that they have
 * in `vublk bench`, the clock, the latencies, and a report with those keys of bench's JSON that
 * tests/bench/systems.py reads. As in `vublk bench`, each request reads the clock once when it
 * starts, and all requests that complete together share one more reading.
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
	uint64_t ramp_ns;
	uint64_t runtime_ns;
	uint64_t number_ios;    /* 0: no limit but the time */

	/* while it runs */
	uint64_t random;
	uint64_t begun;
	uint64_t num_blocks;    /* of block_bytes each: among which rate_next_block() chooses */
	uint64_t start_ns;
	uint64_t turn_ns;       /* when the ramp is over; after the ramp: when the run is over */
	bool is_ramp;
	struct vublk_histogram latency_ns;
	struct rusage usage;    /* at the start; after the run: of the whole run */
};

/* Reads the command line; an error there ends the process. */
void rate_parse(struct rate *rate, const char *usage, const char *doc, int argc, char **argv);

/* Ends the process with a sentence, whose first word is the program's name. */
void rate_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

void rate_begin(struct rate *rate);
void rate_end(struct rate *rate);
void rate_print(const struct rate *rate);

/* Called at turn_ns: ends the ramp and discards its numbers. False: the run is over. */
bool rate_turn(struct rate *rate, uint64_t now_ns);

static inline bool rate_wants_more(struct rate *rate, uint64_t now_ns)
{
	if (now_ns >= rate->turn_ns && !rate_turn(rate, now_ns))
		return false;
	return !rate->number_ios || rate->is_ramp || rate->begun < rate->number_ios;
}

/* xorshift64: three shifts, and good enough to choose blocks. */
static inline uint64_t rate_next_block(struct rate *rate)
{
	rate->random ^= rate->random << 13;
	rate->random ^= rate->random >> 7;
	rate->random ^= rate->random << 17;
	return (uint64_t)((unsigned __int128)rate->random * rate->num_blocks >> 64);
}

#endif
