/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_SERVICE_H
#define VUBLK_CLI_CONTROL_SERVICE_H

/*
 * The code that `vublk serve` and `vublk device` share: it serves an object until the object ends
 * or a signal stops it. While it does so, it answers requests at a control socket and at an address
 * for metrics.
 */
#include "cli/control/control.h"
#include "cli/notify.h"
#include "cli/signals.h"

enum vublk_service_phase {
	VUBLK_SERVICE_STARTING,
	VUBLK_SERVICE_READY, /* the object listens, and serves a client that connects */
	VUBLK_SERVICE_STOPPING,
};

/* The object that is served, and the functions of its type. */
struct vublk_service {
	const char *command; /* the name of the sub-command */
	const struct vublk_control_command *commands;
	void *owner;
	int fd; /* polls readable when process() has work to do */
	int (*process)(void *owner, struct vublk_error *error);
	void (*set_notice_handler)(void *owner, vublk_notice_fn *fn, void *opaque);
	void (*on_signal)(int number);
	/*
	 * Returns whether the object can be used, and describes its state in `text`, in one sentence
	 * for a person.
	 */
	enum vublk_service_phase (*get_status)(void *owner, char *text, size_t bytes);
	/*
	 * Returns whether another process has taken over the object and the control socket, and
	 * stores that process in `new_pid`.
	 */
	bool (*is_handed_over)(void *owner, int64_t *new_pid);
};

/* The options that both commands have. */
struct vublk_service_options {
	const char *control; /* the path of the control socket; NULL: none */
	mode_t control_mode; /* of the files of the control socket and the metrics socket */
	const char *metrics; /* the address for metrics; NULL: none */
	/*
	 * The data and descriptors that the object's previous process has handed over, including
	 * the control socket; NULL: the object was not taken over.
	 */
	struct vublk_upgrade_extra *taken;
	struct vublk_notify notify; /* the program that supervises this process */
};

enum vublk_service_key {
	VUBLK_SERVICE_KEY_CONTROL = 1024,
	VUBLK_SERVICE_KEY_CONTROL_MODE,
	VUBLK_SERVICE_KEY_METRICS,
};

/* The rows of these options in a table of argp options. */
#define VUBLK_SERVICE_OPTIONS                                                                 \
	{ "control", VUBLK_SERVICE_KEY_CONTROL, "PATH", 0,                                    \
	  "Listen for the commands of vublk ctl on this Unix socket" },                       \
	{ "control-mode", VUBLK_SERVICE_KEY_CONTROL_MODE, "MODE", 0,                          \
	  "Permissions of the control socket's file, in octal (default: 0600)" },             \
	{ "metrics-listen", VUBLK_SERVICE_KEY_METRICS, "PORT|HOST:PORT|PATH", 0,              \
	  "Answer GET /metrics over HTTP at this address (default host: 127.0.0.1)" }

/*
 * Sets the defaults. Must be called before the process has a second thread, because it changes the
 * environment.
 */
void vublk_service_options_init(struct vublk_service_options *options);
/*
 * Stores the value of one option. Must be called in an argp parser. Returns 0, or ARGP_ERR_UNKNOWN
 * if `key` is not one of these options.
 */
error_t vublk_service_take_option(struct argp_state *state, int key, char *value,
				  struct vublk_service_options *options);

/* Returns the path of the Unix socket for metrics; NULL: the metrics have no such socket. */
const char *vublk_service_metrics_path(const struct vublk_service_options *options);

/*
 * Serves the object until its process() returns something other than 1, and returns that value.
 * Meanwhile reports the state of the object to the program that supervises this process (report.h).
 * Returns a negative errno if a socket cannot be opened. `signals` must have been initialized with
 * vublk_cli_signals_init().
 */
int vublk_service_run(const struct vublk_service *service,
		      const struct vublk_service_options *options,
		      struct vublk_cli_signals *signals, struct vublk_error *error);

#endif
