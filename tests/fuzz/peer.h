/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_FUZZ_PEER_H
#define VUBLK_TESTS_FUZZ_PEER_H

/*
 * Building blocks of a hostile peer of a socket: the input as a stream of bytes, descriptors of
 * several kinds, and messages with any descriptors. The targets define what the bytes mean.
 *
 * Key idea: taking bytes never fails. Beyond the end of the input they are zero.
 */
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define FUZZ_MEMORY_BYTES 65536
#define FUZZ_MAX_SENT_FDS 31 /* with one message: more than any protocol permits */

struct fuzz_input {
	const uint8_t *data;
	size_t left;
};

uint8_t fuzz_take_byte(struct fuzz_input *input);
/* A number of 16 bits, low byte first. */
unsigned fuzz_take_two(struct fuzz_input *input);
/* Copies up to `bytes` to `to`. Returns how many the input had. */
size_t fuzz_take_bytes(struct fuzz_input *input, void *to, size_t bytes);

enum fuzz_fd {
	FUZZ_FD_MEMORY, /* of FUZZ_MEMORY_BYTES */
	FUZZ_FD_EVENT,
	FUZZ_FD_SOCKET,
	FUZZ_FD_OTHER_END, /* of that socket */
	FUZZ_NUM_FDS,
};

/* The descriptors that a hostile peer sends, and its mapping of the memory. */
struct fuzz_objects {
	int fds[FUZZ_NUM_FDS];
	uint8_t *memory;
};

void fuzz_objects_open(struct fuzz_objects *objects);
void fuzz_objects_close(struct fuzz_objects *objects);
/* Takes an offset, a size and bytes from the input, and writes the bytes to the memory. */
void fuzz_write_memory(struct fuzz_input *input, struct fuzz_objects *objects);
/* The descriptor that a byte of the input selects: bits 4 and 5 are its kind. */
int fuzz_select_fd(const struct fuzz_objects *objects, uint8_t selector);

/*
 * Sends the parts as one message with `num_fds` times the descriptor `fd`. Returns the number of
 * bytes or -1, because the other end may have disconnected.
 */
ssize_t fuzz_send(int socket, struct iovec *parts, size_t num_parts, unsigned num_fds, int fd);

/* Takes a vhost-user message and sends it: request, flags, size, descriptors, payload. */
void fuzz_send_vhost_user(struct fuzz_input *input, const struct fuzz_objects *objects, int socket);
/* Receives what has arrived, and checks that it is well-formed vhost-user replies. */
void fuzz_check_vhost_user_replies(int socket);

#endif
