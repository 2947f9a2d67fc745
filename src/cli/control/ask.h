/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_ASK_H
#define VUBLK_CLI_CONTROL_ASK_H

#include "cli/control/tasks.h"

/*
 * Executes `command`, without arguments, on the thread of the served object (the owner's thread),
 * and returns the result. Waits for at most `timeout_ms`. On failure returns NULL, and `error` says
 * why. Must not be called on the owner's thread.
 */
struct json_object *vublk_control_ask_tasks(struct vublk_control_tasks *tasks,
					    const struct vublk_control_command *command,
					    unsigned timeout_ms, struct vublk_error *error);

#endif
