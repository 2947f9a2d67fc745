/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TEST_CHANNEL_PAIR_H
#define VUBLK_TEST_CHANNEL_PAIR_H

/*
 * A channel whose peer is a raw socket, and replacements for functions that the channel calls (by
 * the linker's option --wrap).
 *
 * Key idea: the kernel accepts a small message completely or not at all. The replacements can
 * accept a part of a message, or fail, if a test requests it.
 */
#include "harness.h"

#include "proto/vhost-user/channel.h"

#include <stdbool.h>
#include <sys/resource.h>

#define HEADER_BYTES sizeof(struct vublk_vu_header)
#define PAYLOAD_BYTES 72
#define MESSAGE_BYTES (HEADER_BYTES + PAYLOAD_BYTES)
#define SCM_MAX 253 /* the kernel's maximum of descriptors per sendmsg() */

struct kernel {
	size_t send_limit;  /* the number of bytes that one sendmsg() accepts; SIZE_MAX: all */
	unsigned num_sends; /* calls that succeed before EAGAIN; UINT32_MAX: all */
	int send_error;     /* errno of the next sendmsg(); 0: it succeeds */
	int recv_error;     /* errno of the next recvmsg(); 0: it succeeds */
	unsigned sent_fds;
	bool no_memory; /* the next calloc() fails */
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

/*
 * Makes a SET_MEM_TABLE message. Adjacent bytes of the payload differ, and each descriptor is a
 * different file. The caller closes them with vublk_vu_message_deinit().
 */
void make_message(struct vublk_vu_message *message, unsigned num_fds);

bool same_file(int a, int b);
void assert_same_message(const struct vublk_vu_message *a, const struct vublk_vu_message *b);

/* Stores the message in `bytes` as it is on the wire. Returns the number of bytes. */
size_t flatten(const struct vublk_vu_message *message, uint8_t *bytes);

/* Sends with the kernel's own sendmsg(), which must accept everything. */
void raw_send(int fd, const void *bytes, size_t count, const int *fds, unsigned num_fds);

/*
 * Lowers RLIMIT_NOFILE so that exactly `count` more descriptors can be opened. Returns the old
 * limit, which the caller restores.
 */
struct rlimit leave_room(unsigned count);

#endif
