/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PROTO_HANDOVER_H
#define VUBLK_PROTO_HANDOVER_H

/*
 * The connection between a process that serves a disk and the process that takes over from it. A
 * message has a kind, bytes and descriptors. docs/upgrade.md describes the exchange.
 */
#include "proto/stream.h"

#include <stdint.h>

#define VUBLK_HANDOVER_MAX_BYTES (64u << 20) /* a message's payload must be shorter */

/* The kinds of messages. Each comment names the sender and the contents. */
enum vublk_handover_kind {
	VUBLK_HANDOVER_HELLO = 1,   /* new process: its version, and the sections that it knows */
	VUBLK_HANDOVER_OPTIONS,     /* old process: the properties of its device, or the options of
				       its back-end */
	VUBLK_HANDOVER_PREPARED,    /* new process: it has made the device or the back-end */
	VUBLK_HANDOVER_DESCRIPTORS, /* old process: some of the descriptors of the state */
	VUBLK_HANDOVER_STATE,       /* old process: the state, after its descriptors */
	VUBLK_HANDOVER_TAKEN,       /* new process: it owns the disk now */
	VUBLK_HANDOVER_REFUSED,     /* either process: why there is no upgrade */
	VUBLK_HANDOVER_STOP,        /* old process, after TAKEN: it was asked to stop */
	VUBLK_HANDOVER_REFRESH,     /* old process, after TAKEN: it was asked to read the disk's size
				       or configuration again */
	VUBLK_HANDOVER_NUM_KINDS,
};

struct vublk_handover_header {
	uint32_t kind;
	uint32_t zero;
	uint64_t bytes; /* of the payload */
};

struct vublk_handover_channel {
	int fd; /* owned; -1: closed */
	struct vublk_stream_reader reader;

	/* the last message that was received; valid until the next call that receives */
	struct vublk_handover_header header;
	uint8_t *payload;
	int fds[VUBLK_STREAM_MAX_FDS]; /* owned; -1: the caller has taken the descriptor */
	unsigned num_fds;
};

/* Opens a channel on the connected socket `fd`. Takes ownership of `fd`, even on failure. */
int vublk_handover_open(struct vublk_handover_channel *channel, int fd,
			struct vublk_error *error);
/* Closes the channel. Idempotent. */
void vublk_handover_close(struct vublk_handover_channel *channel);

/*
 * Checks that the process at the other end belongs to the same user. Stores the ID of that process
 * in `pid`; 0: it is in another PID namespace. Errors: EPERM if the process belongs to another
 * user, and others.
 */
int vublk_handover_check_peer(const struct vublk_handover_channel *channel, int64_t *pid,
			      struct vublk_error *error);

/*
 * Sends a message with at most VUBLK_STREAM_MAX_FDS descriptors, which are borrowed. If the socket
 * is full, or too many descriptors are in transit, waits until `deadline_ns`, which is on the clock
 * of vublk_now_ns(); 0: does not wait. Errors: ETIMEDOUT, EMSGSIZE if the message is too large, and
 * those of sendmsg(2).
 */
int vublk_handover_send(struct vublk_handover_channel *channel, enum vublk_handover_kind kind,
			const void *payload, size_t bytes, const int *fds, unsigned num_fds,
			uint64_t deadline_ns, struct vublk_error *error);

/* Sends any number of descriptors, in as many messages as necessary. */
int vublk_handover_send_fds(struct vublk_handover_channel *channel, const int *fds,
			    unsigned num_fds, uint64_t deadline_ns, struct vublk_error *error);

/*
 * Sends a REFUSED message with the text of `why`, if the socket has room for it. Never waits, and
 * does not report whether the message was sent.
 */
void vublk_handover_refuse(struct vublk_handover_channel *channel, const struct vublk_error *why);

/*
 * Receives a message into `channel`. Returns 1 if the message is complete, and 0 if not all of it
 * has arrived. Errors: ECANCELED if the message is REFUSED (`error` then has the other process's
 * text), and those of vublk_stream_read().
 */
int vublk_handover_receive(struct vublk_handover_channel *channel, struct vublk_error *error);
/*
 * Like vublk_handover_receive(), but waits for the message until `deadline_ns`, or until `stop_fd`
 * (-1: no descriptor) is readable. Returns 0 if the message is complete. Additional errors:
 * ETIMEDOUT, and EINTR if `stop_fd` is readable and the message is incomplete.
 */
int vublk_handover_wait(struct vublk_handover_channel *channel, int stop_fd, uint64_t deadline_ns,
			struct vublk_error *error);
/* Returns whether `fd` is readable now. */
bool vublk_handover_is_readable(int fd);

#endif
