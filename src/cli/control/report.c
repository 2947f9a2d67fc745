/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reports the state of a served object to the supervisor of this process; see report.h. */
#include "cli/control/report.h"

#include "cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define NS_PER_MS UINT64_C(1000000)
/*
 * The pause before a new status is sent, because a client can change the status with each
 * connection. Also the pause before a message is repeated that the supervisor did not accept.
 */
#define PAUSE_NS (100 * NS_PER_MS)

/*
 * How long this process, at its end, tries to reach a supervisor that does not read, and the pause
 * between two attempts.
 */
#define END_LIMIT_MS 10000
#define END_STEP_MS 10

/* Set by the signal handler. */
static volatile sig_atomic_t has_hangup, has_signal;
/* The service, for the signal handler. It is set before the handler is installed. */
static const struct vublk_service *served;

void vublk_report_init(struct vublk_report *report, const struct vublk_service *service,
		       const struct vublk_notify *notify)
{
	*report = (struct vublk_report){ .service = service, .notify = notify, .is_stale = true };
	/* The first report is due immediately. */
	report->retry_ns = vublk_cli_now_ns();
	if (notify->watchdog_ns)
		report->watchdog_ns = report->retry_ns;
	served = service;
}

void vublk_report_on_signal(int number)
{
	/* The flags are set first, because on_signal() wakes the loop, which checks them. */
	if (number == SIGHUP)
		has_hangup = 1;
	has_signal = 1;
	served->on_signal(number);
}

void vublk_report_notice(void *opaque, const struct vublk_notice *notice, size_t notice_bytes)
{
	struct vublk_report *report = opaque;

	report->is_stale = true;
	if (report->notice_fn)
		report->notice_fn(report->notice_opaque, notice, notice_bytes);
}

/* --- the status ------------------------------------------------------------------------ */

/*
 * Keeps the status in one line. The status can contain text from a peer, and the supervisor would
 * take a second line as another assignment.
 */
static void make_one_line(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ')
			*text = ' ';
}

/* Sends the status, if it has changed. `now_ns` is the current time. */
static void update(struct vublk_report *report, uint64_t now_ns)
{
	char text[VUBLK_REPORT_BYTES] = "", lines[VUBLK_REPORT_BYTES + 64];
	enum vublk_service_phase phase;
	bool becomes_ready, begins_stop;

	phase = report->service->get_status(report->service->owner, text, sizeof(text));
	make_one_line(text);
	becomes_ready = phase == VUBLK_SERVICE_READY && !report->is_ready;
	begins_stop = phase == VUBLK_SERVICE_STOPPING && !report->is_stopping;
	/*
	 * While the object starts, each call gets the status again, because there may be no notice
	 * when the object becomes ready.
	 */
	report->is_stale = phase == VUBLK_SERVICE_STARTING;
	report->retry_ns = 0;
	if (!becomes_ready && !begins_stop && !strcmp(text, report->text))
		return;
	if (!becomes_ready && !begins_stop && now_ns < report->next_ns) {
		report->retry_ns = report->next_ns;
		return;
	}
	snprintf(lines, sizeof(lines), "%s%sSTATUS=%s", becomes_ready ? "READY=1\n" : "",
		 begins_stop ? "STOPPING=1\n" : "", text);
	report->next_ns = now_ns + PAUSE_NS;
	if (vublk_notify_send(report->notify, lines) == -EAGAIN) {
		report->retry_ns = report->next_ns;
		return;
	}
	report->is_ready |= becomes_ready;
	report->is_stopping |= begins_stop;
	memcpy(report->text, text, sizeof(text));
}

/* Reports that a reload begins, if SIGHUP has arrived. The next update() reports its end. */
static void note_signals(struct vublk_report *report)
{
	char lines[64];

	if (has_signal) {
		has_signal = 0;
		report->is_stale = true;
	}
	if (!has_hangup)
		return;
	has_hangup = 0;
	if (!report->is_ready)
		return;
	snprintf(lines, sizeof(lines), "RELOADING=1\nMONOTONIC_USEC=%" PRIu64,
		 vublk_cli_now_ns() / 1000);
	vublk_notify_send(report->notify, lines);
	report->is_ready = false;
}

/*
 * Reports that the loop runs, twice per period. A report that the supervisor did not accept is
 * repeated after a short pause, because half a period later would be too late.
 */
static void feed_watchdog(struct vublk_report *report, uint64_t now_ns)
{
	uint64_t pause_ns = report->notify->watchdog_ns / 2;

	if (vublk_notify_send(report->notify, "WATCHDOG=1") == -EAGAIN)
		pause_ns = VUBLK_CLI_MIN(pause_ns, PAUSE_NS);
	report->watchdog_ns = now_ns + pause_ns;
}

/* --- the loop -------------------------------------------------------------------------- */

int vublk_report_process(void *opaque, struct vublk_error *error)
{
	struct vublk_report *report = opaque;
	uint64_t now_ns = vublk_cli_now_ns();
	int r;

	if (report->watchdog_ns && now_ns >= report->watchdog_ns)
		feed_watchdog(report, now_ns);
	note_signals(report);
	r = report->service->process(report->service->owner, error);
	/*
	 * A signal that arrived during process() may already have taken effect there. Then nothing
	 * wakes the loop again, so the signal is noted here.
	 */
	note_signals(report);
	if (r == 1 && (report->is_stale || (report->retry_ns && now_ns >= report->retry_ns)))
		update(report, now_ns);
	return r;
}

int vublk_report_timeout_ms(void *opaque)
{
	const struct vublk_report *report = opaque;
	uint64_t now_ns, deadline_ns = report->watchdog_ns;

	if (report->retry_ns && (!deadline_ns || report->retry_ns < deadline_ns))
		deadline_ns = report->retry_ns;
	if (!deadline_ns)
		return -1;
	now_ns = vublk_cli_now_ns();
	if (now_ns >= deadline_ns)
		return 0;
	return (int)VUBLK_CLI_MIN((deadline_ns - now_ns) / NS_PER_MS + 1, (uint64_t)INT_MAX);
}

/*
 * Tells the supervisor which process is the new main process. Waits while the supervisor's queue is
 * full: without this message, systemd would take the end of this process for the end of the
 * service, and end the new process, too.
 */
static void name_new_process(const struct vublk_notify *notify, int64_t pid)
{
	char line[64];

	snprintf(line, sizeof(line), "MAINPID=%" PRId64, pid);
	for (int ms = 0; vublk_notify_send(notify, line) == -EAGAIN && ms < END_LIMIT_MS; ms += END_STEP_MS)
		poll(NULL, 0, END_STEP_MS);
}

void vublk_report_end(struct vublk_report *report, int64_t new_pid)
{
	if (new_pid)
		name_new_process(report->notify, new_pid);
	else if (!report->is_stopping)
		vublk_notify_send(report->notify, "STOPPING=1");
}
