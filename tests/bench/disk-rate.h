/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BENCH_DISK_RATE_H
#define BENCH_DISK_RATE_H

/*
 * The part that is the same for all clients that are compared: a loop that keeps a fixed number
 * of requests in flight, each with its own buffer, until the run ends. A client provides the few
 * functions that differ.
 */
#include "rate.h"

#include <stddef.h>
#include <stdint.h>

/* A completed request. */
struct disk_rate_done {
	void *request;
	int result; /* 0, or a negative errno */
};

/* A failure ends the process with rate_fail(). */
struct disk_rate_driver {
	/* Connects to rate->path; returns the object for the other functions, and the disk's size. */
	void *(*open)(const struct rate *rate, uint64_t *capacity_bytes);
	/* Allocates memory that can be shared with the back-end. */
	void *(*alloc)(void *disk, size_t bytes);
	void (*read)(void *disk, uint64_t offset, void *buffer, size_t bytes, void *request);
	void (*write)(void *disk, uint64_t offset, void *buffer, size_t bytes, void *request);
	/* Submits the prepared requests and waits for at least one completion. */
	unsigned (*wait)(void *disk, struct disk_rate_done *done, unsigned max);
	void (*close)(void *disk);
};

/* A program's main(). */
int disk_rate_main(const struct disk_rate_driver *driver, const char *doc, int argc, char **argv);

#endif
