/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_ATTACH_UBLK_H
#define VUBLK_CLI_ATTACH_UBLK_H

/*
 * The control device of the kernel's driver ublk_drv, and the block devices that `vublk attach` has
 * made with it. Device N has two nodes: /dev/ublkbN is the block device, and the process that
 * serves it has /dev/ublkcN open.
 *
 * Key idea: the kernel stores 64 bits per device for the process that made it. vublk stores a hash
 * of the socket's path there. So a new process can find the device of a dead one, and needs no file
 * that could be stale.
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
	bool is_plain; /* the driver is older than Linux 6.4, so commands are not encoded as ioctls */
};

/* Opens the control device. If the host does not have the driver, the error says so. */
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

/*
 * Returns the number of the device that `text` names as /dev/ublkbN, ublkbN or N; -1: the text has
 * another form.
 */
int64_t vublk_ublk_parse(const char *text);

/* --- the devices of vublk ------------------------------------------------------------ */

/* Returns the 64 bits that mark the device of the back-end at `socket`. */
uint64_t vublk_ublk_mark(const char *socket);

/* Returns whether `vublk attach` has made the device. */
bool vublk_ublk_is_ours(const struct ublksrv_ctrl_dev_info *info);

/*
 * Returns whether a process serves the device: whether the process that the kernel names has the
 * character device open. Another process with the same number would not have it open.
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
 * Gives this process the claim of the socket, until `fd` is closed or the process ends in any way.
 * Only a process with the claim may attach the socket or remove its orphaned device. Otherwise two
 * processes could make two devices for one socket, or one could remove the new device of the other
 * as an orphan. `mark` is the mark of the socket; `socket` is used only in messages. Returns -EBUSY
 * if another process has the claim. A process with a claim must not call this function or
 * vublk_ublk_is_claimed(), because either would end its claim.
 */
int vublk_ublk_claim(const char *socket, uint64_t mark, int *fd, struct vublk_error *error);
/*
 * Returns whether another process has the claim of the device's socket. That process need not serve
 * the device yet.
 */
bool vublk_ublk_is_claimed(const struct ublksrv_ctrl_dev_info *info);

/* --- the record of a device's socket ------------------------------------------------- */

/*
 * The path of the socket is also in a file in /run/vublk, for `vublk attach --list`. The file is
 * ignored if its path does not have the device's mark. A host without /run has no such file.
 */
void vublk_ublk_record(uint32_t id, const char *socket);
void vublk_ublk_forget(uint32_t id);
/*
 * Returns the path in the file, which the caller frees; NULL: there is no such file, or it is
 * ignored.
 */
char *vublk_ublk_recorded(const struct ublksrv_ctrl_dev_info *info);

/*
 * Returns the absolute path of a socket, with symbolic links in the path of its directory resolved.
 * The caller frees it. NULL: the directory cannot be found, or there is no memory.
 */
char *vublk_ublk_canonical(const char *socket);

#endif
