/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_SIGNALS_H
#define VUBLK_CLI_SIGNALS_H

/*
 * The signals of a command that runs until it is told to stop. They are held
 * while there is nothing yet, or nothing any more, that a handler could stop.
 */

#include <signal.h>

struct vublk_cli_signals {
	sigset_t ours;
	sigset_t before; /* the process's mask before ours was held */
};

/* Holds them: SIGTERM, SIGINT, and `another` (0 = none). SIGPIPE,
 * SIGUSR1 and SIGUSR2 are ignored from now on. */
void vublk_cli_signals_init(struct vublk_cli_signals *signals, int another);

/* Lets them come to `handler`; one that was held comes at once. System calls are restarted. */
void vublk_cli_signals_handle(struct vublk_cli_signals *signals, void (*handler)(int number));

/* Holds them again. */
void vublk_cli_signals_hold(struct vublk_cli_signals *signals);

#endif
