/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_HANDOVER_SERVER_H
#define VUBLK_HANDOVER_SERVER_H

/* Hands the server's end of a vhost-user connection over in an upgrade. */
#include "proto/vhost-user/server.h"
#include "util/sections.h"

/* Writes the server's fields. The first one is the descriptor of its socket. */
void vublk_upgrade_put_server(struct vublk_sections_writer *to,
			      const struct vublk_vu_server *server);
/*
 * Reads the fields that follow the descriptor. The caller must have read the descriptor, and have
 * initialized and started the server with it.
 */
int vublk_upgrade_get_server(struct vublk_section *from, struct vublk_vu_server *server,
			     struct vublk_error *error);
/*
 * Returns whether a message on the connection or on the back-end channel is partly sent or
 * received.
 */
bool vublk_upgrade_has_parts(const struct vublk_vu_server *server);

#endif
