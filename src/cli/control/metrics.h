/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_METRICS_H
#define VUBLK_CLI_CONTROL_METRICS_H

/*
 * An HTTP server with one page, /metrics. The page is the result of the command `metrics`. A build
 * without libmicrohttpd has metrics-fallback.c instead.
 */
#include "cli/control/control.h"

struct vublk_metrics;

/*
 * Listens at `address`: "PORT" (on 127.0.0.1), "HOST:PORT", "[IPV6]:PORT", or the path of a Unix
 * socket, which has a slash and gets the permissions `mode`. `address` and `control` are borrowed
 * until vublk_metrics_close(). EINVAL: the address is malformed; EADDRINUSE, EACCES and others: the
 * address cannot be used; ENOTSUP: this build has no HTTP server.
 */
int vublk_metrics_open(const char *address, mode_t mode, struct vublk_control *control,
		       struct vublk_metrics **metrics, struct vublk_error *error);
/*
 * Disconnects all clients and frees `metrics`. Must be called after vublk_control_run() has
 * returned, and before vublk_control_close(). NULL is a no-op.
 */
void vublk_metrics_close(struct vublk_metrics *metrics);

#endif
