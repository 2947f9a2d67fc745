/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_SIGNALS_H
#define VUBLK_CLI_SIGNALS_H

/*
 * The signals of commands that run until they are done or told to stop. In each of these commands
 * the first SIGTERM or SIGINT asks for an orderly end. The second one ends the process immediately.
 */

#include <signal.h>

/* --- serve, device: a handler that stops an object ------------------------------ */

struct vublk_cli_signals {
	sigset_t ours;
	sigset_t before; /* the signal mask before `ours` was blocked */
};

/*
 * Blocks SIGTERM, SIGINT and the signal `another` (0: none), so that they stay pending until there
 * is an object that a handler can stop. Ignores SIGPIPE, SIGUSR1, SIGUSR2 and SIGXFSZ.
 */
void vublk_cli_signals_init(struct vublk_cli_signals *signals, int another);

/*
 * Installs `handler` for the blocked signals and restores the signal mask. A pending signal is then
 * delivered immediately. Interrupted system calls are restarted (SA_RESTART).
 */
void vublk_cli_signals_handle(struct vublk_cli_signals *signals, void (*handler)(int number));

/* Blocks the signals again. Must be called before the object is freed. */
void vublk_cli_signals_hold(struct vublk_cli_signals *signals);

/*
 * Lets a further SIGTERM or SIGINT end the process immediately, if one of these signals has already
 * arrived. Must be called before the object is freed, because freeing it may wait for the storage.
 */
void vublk_cli_signals_release(void);

/* --- bench, copy: a flag that the command checks ----------------------------------- */

/*
 * After this call the first SIGTERM or SIGINT only sets the value that vublk_cli_signals_caught()
 * returns.
 */
void vublk_cli_signals_catch(void);

/* Returns the number of the signal that was caught, or 0 if no signal was caught. */
int vublk_cli_signals_caught(void);

#endif
