/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_DEVICE_STATS_H
#define VUBLK_CLI_CONTROL_DEVICE_STATS_H

/* Functions of the commands `stats` and `metrics`, for the table in device-commands.c. */
#include "cli/control/device-status.h"
#include "cli/control/stats.h"

/* The copy of the device's state that both commands use. */
struct vublk_device_stats_copy {
	enum vublk_stats_switching switching; /* must be the first member, because
						 vublk_stats_check() sets it */
	struct vublk_device_status status;
	bool sees_requests;
};

int vublk_device_copy_stats(void *owner, void *copy, struct vublk_error *error);
struct json_object *vublk_device_format_stats(void *owner, const void *copy);
struct json_object *vublk_device_format_metrics(void *owner, const void *copy);

#endif
