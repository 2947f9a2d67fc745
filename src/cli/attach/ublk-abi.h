/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_ATTACH_UBLK_ABI_H
#define VUBLK_CLI_ATTACH_UBLK_ABI_H

/*
 * The interface of the kernel's driver ublk_drv. <linux/ublk_cmd.h> of Linux 6.1, the version of
 * Debian 12, lacks constants that later kernels have added. This header defines them.
 */

#include <linux/ioctl.h>
#include <linux/ublk_cmd.h>

/* Linux 6.4: commands are encoded as ioctl numbers. Later kernels may refuse the plain numbers. */
#ifndef UBLK_F_CMD_IOCTL_ENCODE
#define UBLK_F_CMD_IOCTL_ENCODE (1UL << 6)
#endif
#define VUBLK_UBLK_READ(number) _IOR('u', number, struct ublksrv_ctrl_cmd)
#define VUBLK_UBLK_WRITE(number) _IOWR('u', number, struct ublksrv_ctrl_cmd)
#define VUBLK_UBLK_IO(number) _IOWR('u', number, struct ublksrv_io_cmd)

/* Linux 6.9: like DEL_DEV, but does not wait until all programs have closed the device. */
#ifndef UBLK_CMD_DEL_DEV_ASYNC
#define UBLK_CMD_DEL_DEV_ASYNC 0x14
#endif

/* Linux 6.16: sets the size of a running device, in sectors. */
#ifndef UBLK_CMD_UPDATE_SIZE
#define UBLK_CMD_UPDATE_SIZE 0x15
#endif

#endif
