/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For builds without libmicrohttpd; see metrics.h. */
#include "cli/control/metrics.h"

#include "cli/cli.h"

#include <errno.h>

int vublk_metrics_open(const char *address, mode_t mode, struct vublk_control *control,
		       struct vublk_metrics **metrics, struct vublk_error *error)
{
	return vublk_cli_error(error, ENOTSUP, "--metrics-listen is not available, because this "
			       "vublk was built without libmicrohttpd; read the metrics from the "
			       "control socket, or install libmicrohttpd-dev and build vublk "
			       "again");
}

void vublk_metrics_close(struct vublk_metrics *metrics)
{
}
