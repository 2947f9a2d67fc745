/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_FUZZ_FRIENDLY_BACKEND_H
#define VUBLK_TESTS_FUZZ_FRIENDLY_BACKEND_H

/*
 * A back-end that accepts all messages and does no I/O.
 *
 * Key idea: the back-end has no thread, so that a run can be repeated exactly. A fuzz target that
 * needs false answers sets `replace`, which can change or suppress each answer.
 */
#include "proto/vhost-user/channel.h"

#include <linux/virtio_blk.h>
#include <stdbool.h>

struct friendly_backend {
	char path[64];
	int listen_fd;
	struct vublk_channel channel; /* fd -1: no front-end is connected */
	struct virtio_blk_config config;
	uint64_t protocol_features;
	int request_fd; /* the back-end channel; -1: not open */

	/* Called before `answer` is sent. Returns false to suppress the answer. May be NULL. */
	bool (*replace)(void *opaque, struct vublk_vu_message *answer);
	void *opaque;
};

/* The value of protocol_features after friendly_backend_open(). */
#define FRIENDLY_PROTOCOL_FEATURES \
	(VUBLK_BIT(VUBLK_VU_F_MQ) | VUBLK_BIT(VUBLK_VU_F_CONFIG) | \
	 VUBLK_BIT(VUBLK_VU_F_REPLY_ACK) | VUBLK_BIT(VUBLK_VU_F_CONFIGURE_MEM_SLOTS))

/* Listens at a path that contains the process's id. */
void friendly_backend_open(struct friendly_backend *backend);
void friendly_backend_close(struct friendly_backend *backend);
/*
 * Accepts a connection, or handles one message or the end of the connection. Returns false if there
 * is nothing to do.
 */
bool friendly_backend_work(struct friendly_backend *backend);
/* Closes the connection and the back-end channel, and continues to listen. */
void friendly_backend_hang_up(struct friendly_backend *backend);

#endif
