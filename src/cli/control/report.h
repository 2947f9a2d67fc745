/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_REPORT_H
#define VUBLK_CLI_CONTROL_REPORT_H

/*
 * Reports to the program that supervises this process, usually systemd, whether the served object
 * can be used, describes its state in a sentence (`systemctl status`), and signals that its main
 * loop runs (the watchdog).
 *
 * Key idea: the object's thread sends the reports, between two calls of process(). So a report
 * proves that the main loop runs. It need not prove that the storage answers, because a restart of
 * this process would not make slow storage faster.
 */
#include "cli/control/service.h"
#include "cli/notify.h"

#define VUBLK_REPORT_BYTES 512

struct vublk_report {
	/* constant after vublk_report_init() */
	const struct vublk_notify *notify;
	const struct vublk_service *service;
	vublk_notice_fn *notice_fn; /* the next handler of notices; NULL: none */
	void *notice_opaque;

	bool is_stale;    /* the status may have changed, or was not sent */
	bool is_ready;    /* READY=1 was sent, and no reload has begun since */
	bool is_stopping; /* STOPPING=1 was sent */
	uint64_t watchdog_ns; /* when the next WATCHDOG=1 is due; 0: never */
	uint64_t retry_ns;    /* when to send the status next; 0: the supervisor has it */
	uint64_t next_ns;     /* the earliest time at which another text may be sent */
	char text[VUBLK_REPORT_BYTES]; /* the status that the supervisor has */
};

/*
 * Initializes `report`. `service` and `notify` are borrowed. From then on vublk_report_on_signal()
 * calls the handler of `service`.
 */
void vublk_report_init(struct vublk_report *report, const struct vublk_service *service,
		       const struct vublk_notify *notify);

/*
 * The functions of a struct vublk_control_loop whose `opaque` is the struct vublk_report. They call
 * the process() function of the service.
 */
int vublk_report_process(void *report, struct vublk_error *error);
int vublk_report_timeout_ms(void *report);

/* A vublk_notice_fn: notes that the status may have changed, and calls the next handler. */
void vublk_report_notice(void *report, const struct vublk_notice *notice, size_t notice_bytes);

/*
 * A signal handler. Calls the handler of the service, and makes the loop report the effect of the
 * signal.
 */
void vublk_report_on_signal(int number);

/*
 * Reports the end of the service. `new_pid` is the process that has taken the object over, which
 * the supervisor must watch from now on; 0: no process.
 */
void vublk_report_end(struct vublk_report *report, int64_t new_pid);

#endif
