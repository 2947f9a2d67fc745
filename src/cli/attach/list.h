/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_ATTACH_LIST_H
#define VUBLK_CLI_ATTACH_LIST_H

#include "cli/attach/ublk.h"

#include <stdbool.h>

/* Prints the devices that `vublk attach` has made. Returns an enum vublk_cli_exit. */
int vublk_attach_list(bool json);

/*
 * Returns the state of the device: "attached": a process serves it; "starting": a process has
 * claimed its socket, but does not serve it; "orphaned": its process has died.
 */
const char *vublk_attach_state(const struct ublksrv_ctrl_dev_info *info);

#endif
