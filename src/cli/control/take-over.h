/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_TAKE_OVER_H
#define VUBLK_CLI_CONTROL_TAKE_OVER_H

/*
 * The first step of an upgrade (docs/upgrade.md): through the control socket of the old process,
 * the new process asks the old one to hand over its disk.
 */

#include <vublk/error.h>

/*
 * Asks the process at the control socket `path`, which must have the role `role`, to hand over its
 * disk. Returns the connection, on which the hand-over follows (<vublk/upgrade.h>). The errors
 * include those of vublk_control_socket_connect(), ETIMEDOUT if the process at `path` does not
 * answer, EPROTO if it has another role or cannot hand over its disk, and EIO if it refuses;
 * `error` then has the message of that process.
 */
int vublk_control_ask_for_upgrade(const char *path, const char *role, struct vublk_error *error);

#endif
