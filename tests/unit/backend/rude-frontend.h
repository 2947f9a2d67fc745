/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_RUDE_FRONTEND_H
#define VUBLK_TESTS_RUDE_FRONTEND_H

/*
 * A front-end that keeps no rule, for whoever listens at `path` and should outlive it:
 * after each thing that it does, one with manners has to be served.
 */
#include <stddef.h>
#include <stdint.h>

/* A connection; and waits for the other side to end it. */
int rude_dial(const char *path);
void rude_wait_for_end(int fd);
/* All of it, unless the other side has hung up. */
void rude_send(int fd, const void *bytes, size_t count);
/* The same numbers for the same seed. */
uint64_t rude_random(uint64_t *seed);
/* A front-end with manners is served. */
void rude_check_served(const char *path);

/* Headers that no message has, each of which ends the connection. */
void rude_bad_headers(const char *path);
/* Goes after each byte of a message. */
void rude_gone_at_each_byte(const char *path);
/* Sends nothing, or half a message, or a message and a half, and stays. */
void rude_silent(const char *path);
/* So many messages of any bytes, with any descriptors. */
void rude_flood(const char *path, unsigned count, uint64_t *seed);

#endif
