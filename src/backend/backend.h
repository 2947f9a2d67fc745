/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_BACKEND_H
#define VUBLK_BACKEND_BACKEND_H

/* The back-end object of <vublk/backend.h>. */
#include "backend/options.h"
#include "backend/session.h"
#include "backend/worker.h"

#include <vublk/backend.h>

#include <sys/types.h>

struct vublk_backend {
	/* constant */
	struct vublk_log log;
	struct vublk_engine *engine;
	struct vublk_backend_worker **workers;
	unsigned num_workers;
	struct vublk_statistics *statistics;
	char serial[VUBLK_BLK_ID_BYTES];
	char *socket_path; /* the socket file that we created; NULL: none */
	ino_t socket_file;
	struct vublk_session_owner owner;

	/* any thread signals these */
	int stop_fd;
	int rescan_fd;

	/* the control thread's */
	struct vublk_loop loop;
	bool has_loop;
	enum vublk_backend_state state;
	int result;
	struct vublk_error error;
	int listen_fd; /* -1: none */
	struct vublk_loop_source listen_source;
	struct vublk_loop_timer listen_timer;
	struct vublk_loop_timer stop_timer; /* armed while a stop waits for the last requests */
	struct vublk_loop_source stop_source;
	struct vublk_loop_source rescan_source;
	struct vublk_session *session; /* NULL: no front-end is connected */
	struct vublk_log_limit limit;
};

#endif
