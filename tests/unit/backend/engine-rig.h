/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_ENGINE_RIG_H
#define VUBLK_TESTS_ENGINE_RIG_H

/* Functions that send requests to an engine's queue, without a back-end. */

#include "backend/engine/engine.h"

#include "util/log.h"

/* Commits the queue's requests, and waits for `count` completions. */
void engine_complete(struct vublk_engine_queue *queue, unsigned count);

/* Executes one request with a copy of `iov` (at most 64 elements), and returns its result. */
int engine_io(struct vublk_engine_queue *queue, enum vublk_engine_op op, unsigned flags,
	      uint64_t offset, uint64_t bytes, struct iovec *iov, unsigned num_iov);

/* Fills a buffer with bytes that depend on their position and on the seed. */
void engine_fill(char *p, size_t bytes, unsigned seed);

/* A log that keeps the last warning or error. */
struct engine_log {
	char text[1024];
};
/* The function of a struct vublk_log. `opaque` is a struct engine_log. */
void engine_log_keep(void *opaque, enum vublk_log_level level, const char *text);

#endif
