/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_BACKEND_H
#define VUBLK_BACKEND_BACKEND_H

/* A back-end: the object that the functions of <vublk/backend.h> use. */
#include "backend/options.h"
#include "backend/session.h"
#include "backend/worker.h"
#include "handover/upgrade.h"
#include "util/notice.h"

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
	char *socket_path; /* the socket file that this back-end created or took over; NULL: none */
	ino_t socket_file;
	struct vublk_session_owner owner;
	struct vublk_option *options; /* a copy of the options passed at opening, except `fd` */

	/* eventfds that any thread may signal */
	int stop_fd;
	int rescan_fd;

	/* used by the control thread */
	struct vublk_loop loop;
	bool has_loop;
	enum vublk_backend_state state;
	int result;
	struct vublk_error error;
	int listen_fd; /* -1: there is no listening socket */
	struct vublk_loop_source listen_source;
	struct vublk_loop_timer listen_timer;
	struct vublk_loop_timer stop_timer; /* armed while a stop waits for the last requests */
	struct vublk_loop_source stop_source;
	struct vublk_loop_source rescan_source;
	struct vublk_session *session; /* NULL: no front-end is connected */
	struct vublk_log_limit limit;
	struct vublk_notifier notifier;
	struct {
		enum vublk_backend_drain_state state;
		uint64_t timeout_ms;
		struct vublk_error failure;
		struct vublk_loop_timer timer;
		struct vublk_backend_flush flush;
		/*
		 * Called during a drain when no request is outstanding and none can begin, because
		 * the session is held or has ended. NULL before the first drain.
		 */
		void (*idle)(struct vublk_backend *backend);
	} drain;
	struct vublk_upgrade_host upgrade;
	uint64_t told_size_bytes; /* the disk's size in the old process, after an upgrade */
	int64_t peer_pid; /* the process of the current or the last front-end; 0: unknown */
};

/* The descriptors of another process that set_up() in backend.c uses in an upgrade. */
struct vublk_backend_taken {
	int image_fd; /* borrowed; -1: the engine has no image */
};

/* The names of the places at which vublk-kill can kill itself; NULL in other programs. */
extern const char *const *const vublk_backend_kill_points;

/*
 * Makes a back-end as vublk_backend_open() does. If `taken` is not NULL, the back-end uses the image
 * of another process and has no socket yet.
 */
int vublk_backend_prepare(const struct vublk_option *options,
			  const struct vublk_backend_taken *taken, const struct vublk_log *log,
			  struct vublk_backend **backend, struct vublk_error *error);
/* Finishes the back-end without touching the disk, which the new process now serves. */
void vublk_backend_finish_handed_over(struct vublk_backend *backend);
/*
 * Makes a prepared back-end continue the work of the old process, which handed its state over. If
 * the back-end has no session, it listens on `listen_fd` (-1: none). Errors: EINVAL if there is
 * neither a session nor a listening socket, and those of epoll_ctl(2).
 */
int vublk_backend_adopt(struct vublk_backend *backend, int listen_fd, struct vublk_error *error);

/*
 * Watches the listening socket again. Finishes the back-end if there is no such socket, or on
 * failure.
 */
int vublk_backend_listen_again(struct vublk_backend *backend, const char *why);

#endif
