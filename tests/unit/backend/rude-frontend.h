/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_RUDE_FRONTEND_H
#define VUBLK_TESTS_RUDE_FRONTEND_H

/*
 * A front-end that breaks the rules, for a server that listens at `path`. The server must survive
 * each step, and serve a well-behaved front-end afterwards.
 */
#include <stddef.h>
#include <stdint.h>

/* The first function connects; the second waits until the other side closes the connection. */
int rude_dial(const char *path);
void rude_wait_for_end(int fd);
/* Sends all bytes, unless the other side has hung up. */
void rude_send(int fd, const void *bytes, size_t count);
/* Returns a random number; the same seed gives the same numbers. */
uint64_t rude_random(uint64_t *seed);
/* Checks that a well-behaved front-end is served. */
void rude_check_served(const char *path);

/* Sends invalid headers, each of which ends the connection. */
void rude_bad_headers(const char *path);
/* Disconnects after each byte of a message. */
void rude_gone_at_each_byte(const char *path);
/* Sends nothing, half a message, or one and a half, and stays connected. */
void rude_silent(const char *path);
/* Sends `count` messages of random bytes with random descriptors. */
void rude_flood(const char *path, unsigned count, uint64_t *seed);

#endif
