/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Commands of the ublk driver's control device; see ublk.h. devices.c finds the devices.
 *
 * Key idea: a command is a request on an io_uring with 128-byte entries. The result of the request
 * is the result of the command.
 */
#include "cli/attach/ublk.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONTROL "/dev/ublk-control"

static int fail_open(int code, struct vublk_error *error)
{
	if (code == ENOENT || code == ENXIO || code == ENODEV)
		return vublk_cli_error(error, code, "this host has no ublk driver, because " CONTROL
				       " does not exist; load the module ublk_drv (Linux 6.0 or "
				       "later)");
	return vublk_cli_error_errno(error, code, "cannot open " CONTROL);
}

int vublk_ublk_open(struct vublk_ublk *ublk, struct vublk_error *error)
{
	int ret;

	*ublk = (struct vublk_ublk){ 0 };
	ublk->fd = open(CONTROL, O_RDWR | O_CLOEXEC);
	if (ublk->fd < 0)
		return fail_open(errno, error);
	ret = io_uring_queue_init(4, &ublk->ring, IORING_SETUP_SQE128);
	if (!ret)
		return 0;
	close(ublk->fd);
	ublk->fd = -1;
	return vublk_cli_error_errno(error, -ret, "cannot set up io_uring for " CONTROL);
}

void vublk_ublk_close(struct vublk_ublk *ublk)
{
	if (ublk->fd < 0)
		return;
	io_uring_queue_exit(&ublk->ring);
	close(ublk->fd);
	ublk->fd = -1;
}

/* --- commands -------------------------------------------------------------------- */

static uint32_t encode(const struct vublk_ublk *ublk, unsigned command)
{
	if (ublk->is_plain)
		return command;
	switch (command) {
	case UBLK_CMD_GET_QUEUE_AFFINITY:
	case UBLK_CMD_GET_DEV_INFO:
	case UBLK_CMD_GET_PARAMS:
	case UBLK_CMD_DEL_DEV_ASYNC:
		return VUBLK_UBLK_READ(command);
	default:
		return VUBLK_UBLK_WRITE(command);
	}
}

static int wait_for_result(struct vublk_ublk *ublk)
{
	struct io_uring_cqe *cqe;
	int ret;

	do
		ret = io_uring_wait_cqe(&ublk->ring, &cqe);
	while (ret == -EINTR);
	if (ret)
		return ret;
	ret = cqe->res;
	io_uring_cqe_seen(&ublk->ring, cqe);
	return ret;
}

static int send_command(struct vublk_ublk *ublk, uint32_t code, const struct ublksrv_ctrl_cmd *command)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ublk->ring);
	int ret;

	if (!sqe)
		return -EBUSY;
	memset(sqe, 0, 2 * sizeof(*sqe));
	io_uring_prep_rw(IORING_OP_URING_CMD, sqe, ublk->fd, NULL, 0, 0);
	sqe->cmd_op = code;
	memcpy((char *)sqe + offsetof(struct io_uring_sqe, cmd), command, sizeof(*command));
	do
		ret = io_uring_submit(&ublk->ring);
	while (ret == -EINTR);
	return ret < 0 ? ret : wait_for_result(ublk);
}

int vublk_ublk_command(struct vublk_ublk *ublk, unsigned command, uint32_t id, void *buffer,
		       uint16_t bytes, uint64_t data)
{
	const struct ublksrv_ctrl_cmd argument = {
		.dev_id = id, .queue_id = (uint16_t)-1, .addr = (uintptr_t)buffer, .len = bytes,
		.data = { data },
	};
	int ret = send_command(ublk, encode(ublk, command), &argument);

	if (ublk->is_plain || (ret != -EINVAL && ret != -EOPNOTSUPP && ret != -ENOTSUP))
		return ret;
	/*
	 * A driver before Linux 6.4 does not support encoded numbers, so this call uses the plain
	 * number.
	 */
	ret = send_command(ublk, command, &argument);
	ublk->is_plain = ret >= 0;
	return ret;
}

/* --- names ----------------------------------------------------------------------- */

const char *vublk_ublk_node(char node[VUBLK_UBLK_NODE_BYTES], char kind, uint32_t id)
{
	snprintf(node, VUBLK_UBLK_NODE_BYTES, "/dev/ublk%c%u", kind, id);
	return node;
}

int64_t vublk_ublk_parse(const char *text)
{
	static const char *const prefixes[] = { "/dev/ublkb", "ublkb" };
	uint64_t id;

	for (size_t i = 0; i < VUBLK_CLI_ARRAY_SIZE(prefixes); i++)
		if (!strncmp(text, prefixes[i], strlen(prefixes[i]))) {
			text += strlen(prefixes[i]);
			break;
		}
	if (vublk_cli_parse_number("DEVICE", text, 0, INT32_MAX, &id, NULL))
		return -1;
	return (int64_t)id;
}
