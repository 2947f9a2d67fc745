/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_COMMANDS_H
#define VUBLK_CLI_CONTROL_COMMANDS_H

/* The commands of each control socket; docs/control.md describes them. */
#include "cli/control/control.h"

/* Of `vublk serve`; the owner is its struct vublk_backend. */
extern const struct vublk_control_command vublk_serve_commands[];

/* Of `vublk device`; the owner is its struct vublk_bus. */
extern const struct vublk_control_command vublk_device_commands[];

#endif
