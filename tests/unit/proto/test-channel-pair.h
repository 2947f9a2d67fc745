/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TEST_CHANNEL_PAIR_H
#define VUBLK_TEST_CHANNEL_PAIR_H

/*
 * A channel with a raw socket at its other end, and socket calls that replace the kernel's (the
 * linker's option --wrap).
 *
 * Key idea: the kernel accepts a small message as a whole or not at all. The replaced calls
 * accept any part of it, and fail as a test demands.
 */
#include "harness.h"

#include "proto/vhost-user/channel.h"

#include <stdbool.h>
#include <sys/resource.h>

#define HEADER_BYTES sizeof(struct vublk_vu_header)
#define PAYLOAD_BYTES 72
#define MESSAGE_BYTES (HEADER_BYTES + PAYLOAD_BYTES)
#define SCM_MAX 253 /* the kernel's maximum per sendmsg() */

struct kernel {
	size_t send_limit;  /* bytes that one sendmsg() accepts; SIZE_MAX: all */
	unsigned num_sends; /* calls that succeed before EAGAIN; UINT32_MAX: all */
	int send_error;     /* of the next sendmsg(); 0: none */
	int recv_error;     /* of the next recvmsg(); 0: none */
	unsigned sent_fds;
	bool no_memory; /* for the next calloc() */
};

extern struct kernel kernel;

void kernel_takes(size_t bytes, unsigned calls);

struct pair {
	struct vublk_channel channel;
	int peer; /* the raw socket */
	struct vublk_error error;
};

void pair_init(struct pair *pair);
void pair_deinit(struct pair *pair);

/* A SET_MEM_TABLE whose adjacent bytes all differ, with a different file per descriptor. */
void make_message(struct vublk_vu_message *message, unsigned num_fds);

bool same_file(int a, int b);
void assert_same_message(const struct vublk_vu_message *a, const struct vublk_vu_message *b);

/* Writes the bytes of a message on the wire. Returns their number. */
size_t flatten(const struct vublk_vu_message *message, uint8_t *bytes);

/* Sends from the raw socket, without the replaced calls. */
void raw_send(int fd, const void *bytes, size_t count, const int *fds, unsigned num_fds);

/* Lowers the limit so that exactly `count` more descriptors fit. Returns the old limit. */
struct rlimit leave_room(unsigned count);

#endif
