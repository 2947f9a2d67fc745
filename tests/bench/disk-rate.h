/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BENCH_DISK_RATE_H
#define BENCH_DISK_RATE_H

/*
 * The part that all compared clients share: a loop that keeps a fixed number of requests in
 * flight, each with its own buffer, until the run ends. Each client provides a struct
 * disk_rate_driver with the functions that differ between clients.
 */
#include "rate.h"

#include <stddef.h>
#include <stdint.h>

/* A completed request. */
struct disk_rate_done {
	void *request;
	int result; /* 0, or a negative errno */
};

/* A function that fails ends the process with rate_fail(). */
struct disk_rate_driver {
	/*
	 * Connects to rate->path, stores the disk's size, and returns a pointer that the other
	 * functions get as `disk`.
	 */
	void *(*open)(const struct rate *rate, uint64_t *capacity_bytes);
	/* Allocates memory that can be shared with the back-end. */
	void *(*alloc)(void *disk, size_t bytes);
	void (*read)(void *disk, uint64_t offset, void *buffer, size_t bytes, void *request);
	void (*write)(void *disk, uint64_t offset, void *buffer, size_t bytes, void *request);
	/*
	 * Submits the requests of read() and write(), and waits for at least one completion. Stores
	 * up to `max` completions in `done`, and returns their number.
	 */
	unsigned (*wait)(void *disk, struct disk_rate_done *done, unsigned max);
	void (*close)(void *disk);
};

/* The main() of a client. Returns the exit status. */
int disk_rate_main(const struct disk_rate_driver *driver, const char *doc, int argc, char **argv);

#endif
