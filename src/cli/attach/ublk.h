/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_ATTACH_UBLK_H
#define VUBLK_CLI_ATTACH_UBLK_H

/*
 * The control device of the kernel's driver ublk_drv, and the block devices that vublk has made
 * with it. A device N has the nodes /dev/ublkbN, the block device, and /dev/ublkcN, which the
 * process that serves it has open.
 *
 * Key idea: the kernel keeps 64 bits for the process that makes a device. vublk stores a hash of
 * the socket's path there, so a new process finds the device of a dead one without a file that
 * could be stale.
 */

#include "cli/attach/ublk-abi.h"
#include "cli/cli.h"

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define VUBLK_UBLK_NODE_BYTES 32

struct vublk_ublk {
	struct io_uring ring;
	int fd;
	bool is_plain; /* the driver is older than Linux 6.4 and wants plain command numbers */
};

/* Opens the control device. On a host without the driver the error says so. */
int vublk_ublk_open(struct vublk_ublk *ublk, struct vublk_error *error);
void vublk_ublk_close(struct vublk_ublk *ublk);

/*
 * Sends the command UBLK_CMD_... for the device `id`, and waits for the result. `buffer` is the
 * command's argument or receives its result. Returns the driver's result.
 */
int vublk_ublk_command(struct vublk_ublk *ublk, unsigned command, uint32_t id, void *buffer,
		       uint16_t bytes, uint64_t data);

/* Writes the path of the block device (`kind` 'b') or of the character device ('c'). */
const char *vublk_ublk_node(char node[VUBLK_UBLK_NODE_BYTES], char kind, uint32_t id);

/* Returns the number of the device that `text` names: /dev/ublkbN, ublkbN or N; -1: none. */
int64_t vublk_ublk_parse(const char *text);

/* --- the devices of vublk ------------------------------------------------------------ */

/* Returns the 64 bits that mark the device of the back-end at `socket`. */
uint64_t vublk_ublk_mark(const char *socket);

/* Returns whether vublk has made the device. */
bool vublk_ublk_is_ours(const struct ublksrv_ctrl_dev_info *info);

/*
 * Returns whether the process that serves the device is alive, that is, whether the process that
 * the kernel names has the character device open. A process with a reused number has not.
 */
bool vublk_ublk_is_served(const struct ublksrv_ctrl_dev_info *info);

/*
 * Returns the information about all devices of vublk, in the order of their numbers, as an array
 * that the caller frees.
 */
int vublk_ublk_list(struct vublk_ublk *ublk, struct ublksrv_ctrl_dev_info **list, unsigned *count,
		    struct vublk_error *error);

/* --- the claim of a socket ------------------------------------------------------------ */

/*
 * Makes this process the only one that attaches the socket, or removes its orphaned device, until
 * `fd` is closed or the process ends, however it ends. Otherwise two processes could make two devices
 * for one socket, or remove each other's new device as that of a dead process. `mark` is that of the
 * socket; `socket` is used only in messages. Returns EBUSY if another process has the claim. A
 * process with a claim must not call this function again or vublk_ublk_is_claimed(): either would
 * end its claim.
 */
int vublk_ublk_claim(const char *socket, uint64_t mark, int *fd, struct vublk_error *error);
/*
 * Returns whether another process attaches the device's socket now. The process need not serve the
 * device yet.
 */
bool vublk_ublk_is_claimed(const struct ublksrv_ctrl_dev_info *info);

/* --- the record of a device's socket ------------------------------------------------- */

/*
 * The path of the socket is also in a file below /run/vublk, for `vublk attach --list`. The file
 * is ignored if it does not fit the mark of the device. A host without /run has no such file.
 */
void vublk_ublk_record(uint32_t id, const char *socket);
void vublk_ublk_forget(uint32_t id);
/* Returns the path, which the caller frees, or NULL. */
char *vublk_ublk_recorded(const struct ublksrv_ctrl_dev_info *info);

/* Returns the path of a socket without links and without "..", which the caller frees. */
char *vublk_ublk_canonical(const char *socket);

#endif
