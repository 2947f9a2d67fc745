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
#include "cli/control/socket.h"

#include <poll.h>
#include <string.h>

void vublk_service_options_init(struct vublk_service_options *options)
{
	*options = (struct vublk_service_options){ .control_mode = VUBLK_CONTROL_DEFAULT_MODE };
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

static int process_until_end(const struct vublk_service *service, struct vublk_error *error)
{
	struct pollfd fd = { .fd = service->fd, .events = POLLIN };
	int r;

	do {
		poll(&fd, 1, -1); /* fails only if a signal arrives or memory is short */
		r = service->process(service->owner, error);
	} while (r == 1);
	return r;
}

static int run(const struct vublk_service *service, struct vublk_control *control,
	       struct vublk_cli_signals *signals, struct vublk_error *error)
{
	int r;

	vublk_cli_signals_handle(signals, service->on_signal);
	if (control) {
		service->set_notice_handler(service->owner, vublk_control_notice, control);
		r = vublk_control_run(control, service->fd, service->process, error);
		service->set_notice_handler(service->owner, NULL, NULL);
	} else {
		r = process_until_end(service, error);
	}
	vublk_cli_signals_hold(signals);
	return r;
}

/*
 * Takes over the control socket of an object that was taken over. If this fails, the object is
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
		r = run(service, control, signals, error);
	if (service->is_handed_over && service->is_handed_over(service->owner))
		vublk_control_disown(control);
	vublk_metrics_close(metrics);
	vublk_control_close(control);
	return r;
}
