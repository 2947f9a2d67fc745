/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_FUZZ_PEER_H
#define VUBLK_TESTS_FUZZ_PEER_H

/*
 * Building blocks of a hostile peer at the other end of a socket: the fuzz input as a stream of
 * bytes, descriptors of several kinds, and messages with any descriptors. The fuzz targets define
 * what the bytes mean.
 *
 * Key idea: taking a byte never fails. Beyond the end of the input, each byte is zero.
 */
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define FUZZ_MEMORY_BYTES 65536
#define FUZZ_MAX_SENT_FDS 31 /* per message; more than any protocol permits */

struct fuzz_input {
	const uint8_t *data;
	size_t left;
};

uint8_t fuzz_take_byte(struct fuzz_input *input);
/* Takes a number of 16 bits, low byte first. */
unsigned fuzz_take_two(struct fuzz_input *input);
/* Takes up to `bytes` bytes and copies them to `to`. Returns their number. */
size_t fuzz_take_bytes(struct fuzz_input *input, void *to, size_t bytes);

enum fuzz_fd {
	FUZZ_FD_MEMORY, /* a memfd of FUZZ_MEMORY_BYTES */
	FUZZ_FD_EVENT,
	FUZZ_FD_SOCKET,
	FUZZ_FD_OTHER_END, /* the other end of FUZZ_FD_SOCKET */
	FUZZ_NUM_FDS,
};

/* The descriptors that a hostile peer sends, and the peer's mapping of FUZZ_FD_MEMORY. */
struct fuzz_objects {
	int fds[FUZZ_NUM_FDS];
	uint8_t *memory;
};

void fuzz_objects_open(struct fuzz_objects *objects);
void fuzz_objects_close(struct fuzz_objects *objects);
/*
 * Takes an offset (two bytes), a size (one byte) and that many bytes of data from the input. Writes
 * the data to the memory at the offset.
 */
void fuzz_write_memory(struct fuzz_input *input, struct fuzz_objects *objects);
/* Returns the descriptor whose kind is in bits 4 and 5 of `selector`. */
int fuzz_select_fd(const struct fuzz_objects *objects, uint8_t selector);

/*
 * Sends the parts as one message, which carries the descriptor `fd` `num_fds` times. Does not
 * block. Returns the number of bytes sent; or -1, for example if the other end has disconnected.
 */
ssize_t fuzz_send(int socket, struct iovec *parts, size_t num_parts, unsigned num_fds, int fd);

/*
 * Takes a vhost-user message from the input and sends it. The input has its request, flags, size
 * and descriptors (one byte each), and then its payload.
 */
void fuzz_send_vhost_user(struct fuzz_input *input, const struct fuzz_objects *objects, int socket);
/* Receives all messages that have arrived. They must be well-formed vhost-user replies. */
void fuzz_check_vhost_user_replies(int socket);

#endif
