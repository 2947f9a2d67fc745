/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_VFIO_PROBE_H
#define VUBLK_CLI_VFIO_PROBE_H

#include <stdbool.h>

/*
 * Whether a vfio-user server listens at the socket. The probe asks for the server's version and
 * waits VUBLK_VFIO_PROBE_MS for the answer. It is used to explain why vhost-user has failed at the
 * socket, but not after a timeout: a server that is busy with another client would read the message
 * later.
 */
#define VUBLK_VFIO_PROBE_MS 500

bool vublk_vfio_probe(const char *path);

#endif
