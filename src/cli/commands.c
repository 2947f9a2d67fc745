/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of sub-commands; see commands.h. */
#include "cli/commands.h"

#include "cli/cli.h"

#include <stddef.h>
#include <string.h>

const struct vublk_cli_command vublk_cli_commands[] = {
	{ "serve", vublk_cmd_serve, "--socket-path=SOCKET --blk-file=FILE",
	  "Serve a file or a block device as a disk on a vhost-user socket" },
	{ "device", vublk_cmd_device, "--chardev=SOCKET --bus=vhost-user:SOCKET",
	  "Give a VM a disk that survives the loss of its back-end" },
	{ "attach", vublk_cmd_attach, "SOCKET", "Make a disk a block device of this host, /dev/ublkbN" },
	{ "detach", vublk_cmd_detach, "DEVICE...", "Remove block devices that vublk attach has made" },
	{ "info", vublk_cmd_info, "SOCKET", "Show the properties of a disk and its back-end" },
	{ "bench", vublk_cmd_bench, "SOCKET", "Measure a disk, or write and verify it" },
	{ "copy", vublk_cmd_copy, "SOURCE DESTINATION", "Copy between files and disks" },
	{ "chaos", vublk_cmd_chaos, "SOCKET -- COMMAND [ARGUMENT...]",
	  "Kill a back-end repeatedly under a verified load" },
	{ "ctl", vublk_cmd_ctl, "SOCKET COMMAND",
	  "Send a command to a running vublk serve or device, at its control socket" },
	{ "demo", vublk_cmd_demo, "",
	  "Serve, use and resize a temporary disk, in a few seconds" },
	{ NULL },
};

const struct vublk_cli_command *vublk_cli_find_command(const char *name)
{
	for (const struct vublk_cli_command *c = vublk_cli_commands; c->name; c++)
		if (!strcmp(c->name, name))
			return c;
	return NULL;
}
