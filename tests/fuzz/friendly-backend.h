/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_FUZZ_FRIENDLY_BACKEND_H
#define VUBLK_TESTS_FUZZ_FRIENDLY_BACKEND_H

/*
 * A back-end that says yes to everything. It has no thread, so that each run is the same.
 * `replace`, if there is one, may change an answer before it is sent, or withhold it.
 */
#include "proto/vhost-user/channel.h"

#include <linux/virtio_blk.h>
#include <stdbool.h>

struct friendly_backend {
	char path[64];
	int listen_fd;
	struct vublk_channel channel; /* fd -1: no device is connected */
	struct virtio_blk_config config;
	uint64_t protocol_features;
	int request_fd; /* the back-end channel; -1: none */

	/* False: no answer is sent. */
	bool (*replace)(void *opaque, struct vublk_vu_message *answer);
	void *opaque;
};

/* What it offers unless the caller sets something else. */
#define FRIENDLY_PROTOCOL_FEATURES \
	(VUBLK_BIT(VUBLK_VU_F_MQ) | VUBLK_BIT(VUBLK_VU_F_CONFIG) | \
	 VUBLK_BIT(VUBLK_VU_F_REPLY_ACK) | VUBLK_BIT(VUBLK_VU_F_CONFIGURE_MEM_SLOTS))

/* Listens at a path of this process's. */
void friendly_backend_open(struct friendly_backend *backend);
void friendly_backend_close(struct friendly_backend *backend);
/* Does one thing. False: there is nothing to do. */
bool friendly_backend_work(struct friendly_backend *backend);
/* Ends the connection; it listens still. */
void friendly_backend_hang_up(struct friendly_backend *backend);

#endif
