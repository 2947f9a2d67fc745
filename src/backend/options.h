/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_OPTIONS_H
#define VUBLK_BACKEND_OPTIONS_H

/* The parsed options of vublk_backend_open(). */
#include "backend/config.h"
#include "backend/engine/engine.h"
#include "backend/worker.h"
#include "proto/socket-access.h"

#include <vublk/backend.h>

#define VUBLK_BACKEND_MAX_QUEUES 256 /* KICK and CALL have 8 bits for the index */

/* Strings are borrowed from the caller during vublk_backend_open(). */
struct vublk_backend_settings {
	const char *socket_path; /* NULL: not given */
	int fd;                  /* -1: not given */
	struct vublk_socket_access access;
	const struct vublk_engine_ops *engine;
	struct vublk_engine_options disk;
	unsigned num_queues;
	unsigned num_threads;
	unsigned seg_max;
	uint64_t message_timeout_ms;
	enum vublk_poll_mode poll;
	bool write_cache;
	bool statistics;
	bool inflight;
	bool has_serial; /* false: derived from the image's identity */
	char serial[VUBLK_BLK_ID_BYTES];
};

/* Sets `fd` even if another option is refused, so that the caller can close it. */
int vublk_backend_settings_parse(const struct vublk_option *options,
				 struct vublk_backend_settings *settings,
				 struct vublk_error *error);

#endif
