/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Initializes the front-end, and opens it on a socket. connection.c has the connection itself, and
 * negotiate.c has the handshake.
 *
 * Key idea: the files with the steps (memory.c, inflight.c and others) call connection.c, so
 * connection.c must not call them. When a connection is lost, connection.c calls explain_loss()
 * below through a pointer, so that a step can add what it knows to the error.
 */
#include "frontend/frontend.h"

#include "util/error.h"

#include <errno.h>

/*
 * Called when receiving fails while the answer to `request` is outstanding. The step that sends
 * this request may know the reason.
 */
static void explain_loss(const struct vublk_frontend *frontend, uint32_t request,
			 struct vublk_error *error)
{
	switch (request) {
	case VUBLK_VU_SET_INFLIGHT_FD:
		vublk_frontend_explain_inflight(frontend, error);
		break;
	case VUBLK_VU_ADD_MEM_REG:
	case VUBLK_VU_SET_MEM_TABLE:
		vublk_frontend_explain_memory(frontend, error);
		break;
	default:
		break;
	}
}

void vublk_frontend_init(struct vublk_frontend *frontend, struct vublk_loop *loop,
			 const struct vublk_log *log, struct vublk_log_limit *limit,
			 const struct vublk_frontend_ops *ops, void *opaque)
{
	*frontend = (struct vublk_frontend){
		.ops = ops,
		.opaque = opaque,
		.loop = loop,
		.log = log,
		.limit = limit,
		.explain_loss = explain_loss,
	};
	vublk_frontend_init_connection(frontend);
}

int vublk_frontend_open(struct vublk_frontend *frontend, const char *path, unsigned timeout_ms,
			struct vublk_error *error)
{
	int fd;

	if (frontend->state != VUBLK_FRONTEND_CLOSED)
		return vublk_error_set(error, EBUSY, "the front-end is already connected");
	fd = vublk_socket_connect(path, error);
	return fd < 0 ? fd : vublk_frontend_open_fd(frontend, fd, path, timeout_ms, error);
}

int vublk_frontend_open_fd(struct vublk_frontend *frontend, int fd, const char *path,
			   unsigned timeout_ms, struct vublk_error *error)
{
	int r = vublk_frontend_attach(frontend, fd, path, timeout_ms, error);

	if (!r)
		vublk_frontend_negotiate(frontend);
	return r;
}
