/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_IMAGE_H
#define VUBLK_IMAGE_H

/*
 * Opening a raw image or a block device that other programs may be using.
 *
 * The file engine of a back-end and `vublk copy` open their images with vublk_image_open(), which
 * locks single bytes of an image, as QEMU's programs do. So vublk and QEMU respect each other's
 * locks.
 */

#include <vublk/error.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

#define VUBLK_IMAGE_WRITE 0x1u    /* read and write; without it, only read */
#define VUBLK_IMAGE_REPLACE 0x2u  /* like WRITE; may also resize, and creates a missing file */
#define VUBLK_IMAGE_UNLOCKED 0x4u /* take no lock, ignore the locks of others */

/*
 * Opens `path`, a regular file or a block device, and locks it for as long as the returned
 * descriptor (close-on-exec) is open.
 *
 * Readers share an image with readers only. A writer shares it with no other program, except with
 * readers that have declared that they tolerate writes, as `qemu-img info -U` does. In addition, a
 * block device must not be mounted or otherwise claimed in the kernel (O_EXCL). A writer then
 * claims the device for itself. A reader only checks that there is no claim, so several readers can
 * share a device, but the device can also be mounted while a reader has it open. The kernel takes
 * no lock on a file that a loop device uses, so such a file is refused, except that readers may
 * share it with a read-only loop device.
 *
 * A killed process holds its locks until its last requests have ended, so if the image is in use,
 * this call waits up to 3 seconds (except for a mount or a loop device). `log` (may be NULL) gets a
 * warning if the file system has no locks, or if the image looks like a qcow2, VMDK, VHD, VHDX or
 * VDI image; the data is treated as raw in any case.
 * Returns: the descriptor, which the caller closes.
 * Errors:
 *   EINVAL   `flags` has an unknown bit
 *   EBUSY    the image is in use, and `error` says how
 *   ENOTBLK  `path` is neither a regular file nor a block device
 *   others   of open(2) or fstat(2), such as ENOENT and EACCES
 * Threads: any.
 */
int vublk_image_open(const char *path, unsigned flags, const struct vublk_log *log,
		     struct vublk_error *error);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
