/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_COMMANDS_H
#define VUBLK_CLI_CONTROL_COMMANDS_H

/*
 * The tables of commands, one per kind of control socket. docs/control.md describes the commands.
 */
#include "cli/control/control.h"

/* The commands of `vublk serve`. The owner is its struct vublk_backend. */
extern const struct vublk_control_command vublk_serve_commands[];

/* The commands of `vublk device`. The owner is its struct vublk_bus. */
extern const struct vublk_control_command vublk_device_commands[];

/* The command `events`, which every control socket has in addition to its table. */
extern const struct vublk_control_command vublk_events_command;

#endif
