/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How the commands that run until they are told to stop take their signals.
 */
#include "cli/signals.h"

#include <stdbool.h>

/* Without a handler each of these would end the program, and a guest's disk with it. */
static const int ignored[] = { SIGPIPE, SIGUSR1, SIGUSR2 };

void vublk_cli_signals_init(struct vublk_cli_signals *signals, int another)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN };

	sigemptyset(&signals->ours);
	sigaddset(&signals->ours, SIGTERM);
	sigaddset(&signals->ours, SIGINT);
	if (another)
		sigaddset(&signals->ours, another);
	sigprocmask(SIG_BLOCK, &signals->ours, &signals->before);
	for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
		sigaction(ignored[i], &ignore, NULL);
}

void vublk_cli_signals_handle(struct vublk_cli_signals *signals, void (*handler)(int number))
{
	struct sigaction action = { .sa_handler = handler };

	sigfillset(&action.sa_mask);
	for (int number = 1; number < NSIG; number++) {
		bool ends = number == SIGTERM || number == SIGINT;

		/* The end may wait for storage that hangs: a second one kills, as without us. */
		action.sa_flags = SA_RESTART | (ends ? SA_RESETHAND : 0);
		if (sigismember(&signals->ours, number) == 1)
			sigaction(number, &action, NULL);
	}
	sigprocmask(SIG_SETMASK, &signals->before, NULL);
}

void vublk_cli_signals_hold(struct vublk_cli_signals *signals)
{
	sigprocmask(SIG_BLOCK, &signals->ours, NULL);
}
