/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BENCH_DISK_RATE_H
#define BENCH_DISK_RATE_H

/*
 * What the drivers that are compared with each other do alike: keep as many requests in
 * flight as were asked for, each with a buffer of its own, until the run is over. A driver
 * is a few functions; nothing else differs.
 */
#include "rate.h"

#include <stddef.h>
#include <stdint.h>

/* Of so many requests that were completed together. */
struct disk_rate_done {
	void *request;
	int result; /* 0, or a negative errno */
};

/* What fails ends the process by rate_fail(). */
struct disk_rate_driver {
	/* Connects to rate->path; returns what the other functions get, and the disk's bytes. */
	void *(*open)(const struct rate *rate, uint64_t *capacity_bytes);
	/* Memory that the back-end may be given. */
	void *(*alloc)(void *disk, size_t bytes);
	void (*read)(void *disk, uint64_t offset, void *buffer, size_t bytes, void *request);
	void (*write)(void *disk, uint64_t offset, void *buffer, size_t bytes, void *request);
	/* Submits what was begun and waits for one completion at least. */
	unsigned (*wait)(void *disk, struct disk_rate_done *done, unsigned max);
	void (*close)(void *disk);
};

/* A program's main(). */
int disk_rate_main(const struct disk_rate_driver *driver, const char *doc, int argc, char **argv);

#endif
