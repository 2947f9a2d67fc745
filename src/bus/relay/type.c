/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The relay as a type of bus: its options, and the functions that bus.c and upgrade/ call.
 *
 * Key idea: the type's table has a file of its own, because it refers to session.c and upgrade.c,
 * and upgrade.c calls session.c to create a session.
 */
#include "bus/relay/relay.h"

static const struct vublk_property options[] = { VUBLK_BUS_OPTIONS, { NULL } };

/*
 * The defaults of this bus. The VMM chooses the size of each queue, so the limit is the largest
 * size that the device supports.
 */
static const struct vublk_option defaults[] = {
	{ "queue-size", "1024" },
	{ NULL },
};

const struct vublk_bus_type vublk_bus_vhost_user = {
	.name = "vhost-user",
	.options = options,
	.defaults = defaults,
	.device_ops = &vublk_relay_device_ops,
	.serve = vublk_relay_serve,
	.end = vublk_relay_end,
	.free_client = vublk_relay_free,
	.handover = &vublk_relay_handover,
};
