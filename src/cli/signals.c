/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Signals of serve, device, bench and copy; see signals.h. The demo, chaos and `ctl trace` handle
 * signals themselves.
 *
 * Key idea: the handler restores the default action of SIGTERM and SIGINT when the first of them
 * arrives. So the second one ends the process, even if the storage or the back-end hangs.
 */
#include "cli/signals.h"

#include <stddef.h>

/*
 * Signals to ignore, because the default action of each would end the program, and with it a
 * guest's disk. SIGXFSZ reports a write past the file size limit. While the signal is ignored, such
 * a write fails with EFBIG, and only its request fails.
 */
static const int ignored[] = { SIGPIPE, SIGUSR1, SIGUSR2, SIGXFSZ };

static void (*handler_of_command)(int number);
static volatile sig_atomic_t caught;

static void on_signal(int number)
{
	if (number == SIGTERM || number == SIGINT) {
		signal(SIGTERM, SIG_DFL);
		signal(SIGINT, SIG_DFL);
	}
	handler_of_command(number);
}

static void install(const sigset_t *numbers, void (*handler)(int number))
{
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };

	handler_of_command = handler;
	sigfillset(&action.sa_mask);
	for (int number = 1; number < NSIG; number++)
		if (sigismember(numbers, number) == 1)
			sigaction(number, &action, NULL);
}

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
	install(&signals->ours, handler);
	sigprocmask(SIG_SETMASK, &signals->before, NULL);
}

void vublk_cli_signals_hold(struct vublk_cli_signals *signals)
{
	sigprocmask(SIG_BLOCK, &signals->ours, NULL);
}

void vublk_cli_signals_release(void)
{
	struct sigaction action;
	sigset_t ends;

	/*
	 * Unblocks the signals only if the first one has restored the default action. Otherwise the
	 * handler could run later, when the object has been freed.
	 */
	if (sigaction(SIGTERM, NULL, &action) < 0 || action.sa_handler != SIG_DFL)
		return;
	sigemptyset(&ends);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGINT);
	sigprocmask(SIG_UNBLOCK, &ends, NULL);
}

static void set_caught(int number)
{
	caught = number;
}

void vublk_cli_signals_catch(void)
{
	sigset_t ends;

	sigemptyset(&ends);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGINT);
	install(&ends, set_caught);
}

int vublk_cli_signals_caught(void)
{
	return caught;
}
