/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_ATTACH_LIST_H
#define VUBLK_CLI_ATTACH_LIST_H

#include "cli/attach/ublk.h"

#include <stdbool.h>

/* Prints the devices that vublk has made. Returns an exit status. */
int vublk_attach_list(bool json);

/*
 * Returns what the device does: "attached"; "orphaned": its process has died; "starting": it is not
 * a block device yet or no more.
 */
const char *vublk_attach_state(const struct ublksrv_ctrl_dev_info *info);

#endif
