/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs a command that serves a disk, with its control and metrics sockets; see service.h.
 *
 * Key idea: the metrics server executes the command `metrics` as a client of the control socket
 * does. So it needs a struct vublk_control, even if the user wants no control socket.
 */
#include "cli/control/service.h"

#include "cli/cli.h"
#include "cli/control/metrics.h"
#include "cli/control/report.h"
#include "cli/control/socket.h"

#include <poll.h>
#include <string.h>

void vublk_service_options_init(struct vublk_service_options *options)
{
	*options = (struct vublk_service_options){ .control_mode = VUBLK_CONTROL_DEFAULT_MODE };
	vublk_notify_open(&options->notify);
}

error_t vublk_service_take_option(struct argp_state *state, int key, char *value,
				  struct vublk_service_options *options)
{
	switch (key) {
	case VUBLK_SERVICE_KEY_CONTROL:
		options->control = value;
		return 0;
	case VUBLK_SERVICE_KEY_CONTROL_MODE:
		vublk_control_take_mode(state, value, &options->control_mode);
		return 0;
	case VUBLK_SERVICE_KEY_METRICS:
		options->metrics = value;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

const char *vublk_service_metrics_path(const struct vublk_service_options *options)
{
	return options->metrics && strchr(options->metrics, '/') ? options->metrics : NULL;
}

static int process_until_end(const struct vublk_control_loop *loop, struct vublk_error *error)
{
	struct pollfd fd = { .fd = loop->fd, .events = POLLIN };
	int r;

	do {
		/* poll() fails only if a signal arrives or memory is short. */
		poll(&fd, 1, loop->timeout_ms ? loop->timeout_ms(loop->opaque) : -1);
		r = loop->process(loop->opaque, error);
	} while (r == 1);
	return r;
}

static int run_loop(const struct vublk_control_loop *loop, struct vublk_control *control,
		    struct vublk_error *error)
{
	return control ? vublk_control_run(control, loop, error) : process_until_end(loop, error);
}

static int run_reported(const struct vublk_service *service, struct vublk_report *report,
			struct vublk_control *control, struct vublk_error *error)
{
	const struct vublk_control_loop loop = {
		.fd = service->fd, .opaque = report, .process = vublk_report_process,
		.timeout_ms = vublk_report_timeout_ms,
	};

	if (control) {
		report->notice_fn = vublk_control_notice;
		report->notice_opaque = control;
	}
	service->set_notice_handler(service->owner, vublk_report_notice, report);
	return run_loop(&loop, control, error);
}

static int run_unreported(const struct vublk_service *service, struct vublk_control *control,
			  struct vublk_error *error)
{
	const struct vublk_control_loop loop = {
		.fd = service->fd, .opaque = service->owner, .process = service->process,
	};

	if (control)
		service->set_notice_handler(service->owner, vublk_control_notice, control);
	return run_loop(&loop, control, error);
}

static int run(const struct vublk_service *service, const struct vublk_notify *notify,
	       struct vublk_control *control, struct vublk_cli_signals *signals,
	       struct vublk_error *error)
{
	struct vublk_report report;
	int64_t new_pid = 0;
	int r;

	vublk_report_init(&report, service, notify);
	vublk_cli_signals_handle(signals, vublk_report_on_signal);
	if (notify->fd >= 0)
		r = run_reported(service, &report, control, error);
	else
		r = run_unreported(service, control, error);
	service->set_notice_handler(service->owner, NULL, NULL);
	vublk_cli_signals_hold(signals);
	service->is_handed_over(service->owner, &new_pid);
	vublk_report_end(&report, new_pid);
	return r;
}

/*
 * Takes over the control socket of an object that was taken over. If that fails, the object is
 * served without a control socket, because a VMM is already using the disk.
 */
static void adopt_control(const struct vublk_service *service,
			  const struct vublk_service_options *options,
			  struct vublk_control **control)
{
	struct vublk_error error;

	if (vublk_control_adopt(options->taken, service->command, service->commands, service->owner,
				control, &error) < 0)
		vublk_cli_fail(service->command, "serving the disk without a control socket: %s",
			       error.text);
}

int vublk_service_run(const struct vublk_service *service,
		      const struct vublk_service_options *options,
		      struct vublk_cli_signals *signals, struct vublk_error *error)
{
	struct vublk_control *control = NULL;
	struct vublk_metrics *metrics = NULL;
	int64_t new_pid;
	int r = 0;

	if (options->taken)
		adopt_control(service, options, &control);
	else if (options->control || options->metrics)
		r = vublk_control_open(options->control, options->control_mode, service->command,
				       service->commands, service->owner, &control, error);
	if (!r && options->metrics)
		r = vublk_metrics_open(options->metrics, options->control_mode, control, &metrics,
				       error);
	if (!r)
		r = run(service, &options->notify, control, signals, error);
	if (service->is_handed_over(service->owner, &new_pid))
		vublk_control_disown(control);
	vublk_metrics_close(metrics);
	vublk_control_close(control);
	return r;
}
