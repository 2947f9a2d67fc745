/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_OPTIONS_H
#define VUBLK_BACKEND_OPTIONS_H

/* The parsed options of vublk_backend_open(). */
#include "backend/config.h"
#include "backend/engine/engine.h"
#include "backend/worker.h"
#include "proto/socket-access.h"

#include <vublk/backend.h>

#define VUBLK_BACKEND_MAX_QUEUES 256 /* the messages about kicks and calls have 8 bits for the
					index of a queue */

/* The settings. Strings are borrowed from the caller during vublk_backend_open(). */
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
	unsigned poll_budget_percent;
	bool write_cache;
	bool statistics;
	bool inflight;
	bool has_serial; /* false: the serial is derived from the image's identity */
	char serial[VUBLK_BLK_ID_BYTES];
};

/*
 * Parses the options. settings->fd is set even if an option is refused, so that the caller can
 * close the descriptor.
 */
int vublk_backend_settings_parse(const struct vublk_option *options,
				 struct vublk_backend_settings *settings,
				 struct vublk_error *error);
/*
 * Like vublk_backend_settings_parse(), but for a back-end whose socket comes from another process,
 * so neither socket-path nor fd is needed.
 */
int vublk_backend_settings_parse_taken(const struct vublk_option *options,
				       struct vublk_backend_settings *settings,
				       struct vublk_error *error);
/*
 * Returns whether there is an option `name`: one that every back-end has, or one of the engine's
 * own options. `engine` is the name of the engine; "": no engine.
 */
bool vublk_backend_knows_option(const char *engine, const char *name);
/*
 * Copies the options, except `fd`, for the process that takes the back-end over. Returns NULL if
 * there is no memory. Free the copy with vublk_backend_options_free(), for which NULL is a no-op.
 */
struct vublk_option *vublk_backend_options_copy(const struct vublk_option *options);
void vublk_backend_options_free(struct vublk_option *options);

#endif
