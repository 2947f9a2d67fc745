/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_VFIO_PROBE_H
#define VUBLK_CLI_VFIO_PROBE_H

#include <stdbool.h>

/*
 * Returns whether a vfio-user server listens at the socket `path`. Requests the server's version,
 * and waits up to VUBLK_VFIO_PROBE_MS for the answer. Callers use this function to explain why a
 * vhost-user connection to the socket has failed. Must not be called if that connection timed out,
 * because a server that is busy with another client would read the request later.
 */
#define VUBLK_VFIO_PROBE_MS 500

bool vublk_vfio_probe(const char *path);

#endif
