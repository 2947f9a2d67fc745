/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vublk detach: removes block devices that `vublk attach` has made, whether or not the process that
 * serves them is alive.
 *
 * Key idea: a program that uses the device exclusively, such as a mounted file system, keeps other
 * programs from opening it exclusively. So if this command can open the device exclusively, no such
 * program uses it. While the device is open, this command writes back cached data and stops the
 * device. The serving process then ends, and the device is removed.
 */
#include "cli/attach/list.h"
#include "cli/attach/ublk.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#define COMMAND "detach"

struct arguments {
	bool force;
	bool orphans;
	char **devices;
	int num_devices;
};

enum {
	KEY_FORCE = 0x100,
	KEY_ORPHANS,
};

static const struct argp_option options[] = {
	{ "force", KEY_FORCE, NULL, 0,
	  "Remove the device even if it is in use or has no back-end; its requests fail" },
	{ "orphans", KEY_ORPHANS, NULL, 0,
	  "Remove all orphaned devices, those whose process has died, that are not in use" },
	{ NULL },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *arguments = state->input;

	switch (key) {
	case KEY_FORCE:
		arguments->force = true;
		return 0;
	case KEY_ORPHANS:
		arguments->orphans = true;
		return 0;
	case ARGP_KEY_ARGS:
		arguments->devices = state->argv + state->next;
		arguments->num_devices = state->argc - state->next;
		return 0;
	case ARGP_KEY_END:
		if (arguments->orphans ? arguments->num_devices || arguments->force :
					 !arguments->num_devices)
			argp_failure(state, VUBLK_EXIT_MISUSED, 0, "give either at least one DEVICE, or "
				     "--orphans without --force; see --help");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* --- one device ------------------------------------------------------------------ */

/*
 * Opens the block device exclusively. Stores the descriptor in `fd`, or -1 if the block device does
 * not exist.
 */
static int claim(const char *node, int *fd, struct vublk_error *error)
{
	*fd = open(node, O_RDONLY | O_EXCL | O_CLOEXEC);
	if (*fd >= 0 || errno == ENOENT || errno == ENXIO)
		return 0;
	if (errno == EBUSY)
		return vublk_cli_error(error, EBUSY, "%s is in use, for example by a mounted file "
				       "system; end that use first, or add --force", node);
	return vublk_cli_error_errno(error, errno, "cannot open %s", node);
}

static int write_back(int fd, const char *node, struct vublk_error *error)
{
	if (fd < 0 || !fsync(fd))
		return 0;
	return vublk_cli_error_errno(error, errno, "cannot write cached data back to %s, so it stays; "
				     "--force removes it and loses this data", node);
}

/*
 * Kills the process that serves the device. Checks again, with the pidfd open, that the process
 * serves the device, because it may have ended and its number may be in use again.
 */
static void kill_process(const struct ublksrv_ctrl_dev_info *info)
{
	struct pollfd end = { .fd = pidfd_open(info->ublksrv_pid, 0), .events = POLLIN };

	if (end.fd < 0)
		return;
	if (vublk_ublk_is_served(info) && !pidfd_send_signal(end.fd, SIGKILL, NULL, 0))
		while (poll(&end, 1, -1) < 0 && errno == EINTR)
			;
	close(end.fd);
}

static int stop(struct vublk_ublk *ublk, uint32_t id, const char *node, struct vublk_error *error)
{
	int ret = vublk_ublk_command(ublk, UBLK_CMD_STOP_DEV, id, NULL, 0, 0);

	if (ret < 0)
		return vublk_cli_error_errno(error, -ret, "the ublk driver cannot stop %s", node);
	return 0;
}

/*
 * Removes the device. With --force, does not wait until all programs have closed the device; the
 * kernel removes it after that.
 */
static int delete(struct vublk_ublk *ublk, uint32_t id, bool force, const char *node,
		  struct vublk_error *error)
{
	int ret = -EOPNOTSUPP;

	if (force)
		ret = vublk_ublk_command(ublk, UBLK_CMD_DEL_DEV_ASYNC, id, NULL, 0, 0);
	if (ret == -EOPNOTSUPP || ret == -EINVAL)
		ret = vublk_ublk_command(ublk, UBLK_CMD_DEL_DEV, id, NULL, 0, 0);
	vublk_ublk_forget(id);
	/* The serving process may have removed the device already. */
	if (ret < 0 && ret != -ENODEV && ret != -EINVAL)
		return vublk_cli_error_errno(error, -ret, "the ublk driver cannot remove %s", node);
	return 0;
}

static int detach(struct vublk_ublk *ublk, const struct ublksrv_ctrl_dev_info *info, bool force,
		  struct vublk_error *error)
{
	bool is_served = vublk_ublk_is_served(info);
	char node[VUBLK_UBLK_NODE_BYTES];
	int fd = -1, ret = 0;

	vublk_ublk_node(node, 'b', info->dev_id);
	if (force && is_served)
		kill_process(info);
	if (!force)
		ret = claim(node, &fd, error);
	if (!ret && is_served)
		ret = write_back(fd, node, error);
	if (!ret)
		ret = stop(ublk, info->dev_id, node, error);
	if (fd >= 0)
		close(fd);
	return ret ? ret : delete(ublk, info->dev_id, force, node, error);
}

/* --- the command ----------------------------------------------------------------- */

static int find(struct vublk_ublk *ublk, const char *text, struct ublksrv_ctrl_dev_info *info,
		struct vublk_error *error)
{
	int64_t id = vublk_ublk_parse(text);

	if (id < 0)
		return vublk_cli_error(error, EINVAL, "'%s' is not a block device of vublk; give "
				       "/dev/ublkbN or N", text);
	if (vublk_ublk_command(ublk, UBLK_CMD_GET_DEV_INFO, (uint32_t)id, info, sizeof(*info), 0) < 0)
		return vublk_cli_error(error, ENODEV, "there is no block device /dev/ublkb%u; 'vublk "
				       "attach --list' lists all that vublk attach has made", (unsigned)id);
	if (!vublk_ublk_is_ours(info))
		return vublk_cli_error(error, EPERM, "/dev/ublkb%u was not made by vublk attach; "
				       "remove it with the program that made it", (unsigned)id);
	return 0;
}

static int detach_named(struct vublk_ublk *ublk, const struct arguments *arguments)
{
	int status = VUBLK_EXIT_DONE;

	for (int i = 0; i < arguments->num_devices; i++) {
		struct ublksrv_ctrl_dev_info info = { 0 };
		struct vublk_error error = { 0 };

		if (find(ublk, arguments->devices[i], &info, &error) ||
		    detach(ublk, &info, arguments->force, &error))
			status = vublk_cli_fail_open(COMMAND, &error);
	}
	return status;
}

/*
 * Removes the device unless a process serves it. Also leaves a device whose socket another process
 * has claimed, because that process will serve the device.
 */
static int detach_orphan(struct vublk_ublk *ublk, const struct ublksrv_ctrl_dev_info *info,
			 struct vublk_error *error)
{
	char node[VUBLK_UBLK_NODE_BYTES];
	int fd, ret;

	vublk_ublk_node(node, 'b', info->dev_id);
	ret = vublk_ublk_claim(node, info->ublksrv_flags, &fd, error);
	if (ret)
		return ret == -EBUSY ? 0 : ret;
	if (!vublk_ublk_is_served(info))
		ret = detach(ublk, info, false, error);
	close(fd);
	return ret;
}

static int detach_orphans(struct vublk_ublk *ublk)
{
	struct ublksrv_ctrl_dev_info *list;
	struct vublk_error error = { 0 };
	int status = VUBLK_EXIT_DONE;
	unsigned count;

	if (vublk_ublk_list(ublk, &list, &count, &error))
		return vublk_cli_fail(COMMAND, "%s", error.text);
	for (unsigned i = 0; i < count; i++)
		if (detach_orphan(ublk, &list[i], &error))
			status = vublk_cli_fail(COMMAND, "%s", error.text);
	free(list);
	return status;
}

int vublk_cmd_detach(int argc, char **argv)
{
	static const struct argp argp = {
		options, parse, "DEVICE...\n--orphans",
		"Remove block devices that vublk attach has made, after writing back cached data. "
		"A device that is in use is refused.\v"
		"DEVICE is /dev/ublkbN or N. An orphaned device, whose process has died, can have "
		"requests that were not executed. Removing the device makes them fail; to execute "
		"them, run vublk attach again.",
	};
	struct arguments arguments = { 0 };
	struct vublk_error error = { 0 };
	struct vublk_ublk ublk;
	int status;

	vublk_cli_parse(&argp, argc, argv, &arguments);
	if (vublk_ublk_open(&ublk, &error))
		return vublk_cli_fail(COMMAND, "%s", error.text);
	status = arguments.orphans ? detach_orphans(&ublk) : detach_named(&ublk, &arguments);
	vublk_ublk_close(&ublk);
	return status;
}
