/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_HANDOVER_SERVER_H
#define VUBLK_HANDOVER_SERVER_H

/* The server's end of a vhost-user connection in an upgrade. */
#include "proto/vhost-user/server.h"
#include "util/sections.h"

/* Writes the fields of the server, of which the first one is the descriptor of its socket. */
void vublk_upgrade_put_server(struct vublk_sections_writer *to,
			      const struct vublk_vu_server *server);
/*
 * Reads the fields after the descriptor, with which the caller has made and started the server.
 */
int vublk_upgrade_get_server(struct vublk_section *from, struct vublk_vu_server *server,
			     struct vublk_error *error);
/*
 * Returns whether a message on the connection, or on the back-end channel, has been sent or received
 * in part.
 */
bool vublk_upgrade_has_parts(const struct vublk_vu_server *server);

#endif
