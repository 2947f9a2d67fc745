/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_TAKE_OVER_H
#define VUBLK_CLI_CONTROL_TAKE_OVER_H

/*
 * The first step of an upgrade (docs/upgrade.md): the new process asks the old one at its control
 * socket.
 */

#include <vublk/error.h>

/*
 * Asks the process at the control socket `path`, which must have the role `role`, to hand over its
 * disk. Returns the connection, on which the hand-over follows (<vublk/upgrade.h>). The errors are
 * those of vublk_control_socket_connect(), EPROTO if the process at `path` cannot hand over its
 * disk, and EIO if that process refuses; the sentence then has its reason.
 */
int vublk_control_ask_for_upgrade(const char *path, const char *role, struct vublk_error *error);

#endif
