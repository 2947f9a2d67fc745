/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_RUDE_FRONTEND_H
#define VUBLK_TESTS_RUDE_FRONTEND_H

/*
 * A front-end that breaks the rules of vhost-user, for a server that listens at `path`. The server
 * must survive each of these functions, and serve a well-behaved front-end afterwards.
 */
#include <stddef.h>
#include <stdint.h>

/* Connects to the server, and returns the connection's descriptor. */
int rude_dial(const char *path);
/* Waits until the server closes the connection, and then closes `fd`. */
void rude_wait_for_end(int fd);
/* Sends `count` bytes, or fewer if the server closes the connection. */
void rude_send(int fd, const void *bytes, size_t count);
/* Returns the next random number. The same initial `seed` gives the same numbers. */
uint64_t rude_random(uint64_t *seed);
/* Checks that a well-behaved front-end is served. */
void rude_check_served(const char *path);

/* Sends invalid headers, each of which ends the connection. */
void rude_bad_headers(const char *path);
/* Sends the first N bytes of a message and disconnects, for each N. */
void rude_gone_at_each_byte(const char *path);
/*
 * Sends nothing, a part of a message, or more than one message, and waits until the server
 * disconnects.
 */
void rude_silent(const char *path);
/* Sends `count` messages with random contents and random numbers of descriptors. */
void rude_flood(const char *path, unsigned count, uint64_t *seed);

#endif
