/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_DISK_H
#define VUBLK_CLI_DISK_H

/*
 * The options that are common to the commands that use a disk, and the functions that open the disk
 * with them. Such a command has vublk_disk_argp as a child parser, whose input must be a struct
 * vublk_disk_options that is zeroed except for `reconnects`.
 */

#include "cli/options.h"

#include <vublk/blk.h>

#include <argp.h>
#include <stdbool.h>

struct vublk_disk_options {
	struct vublk_cli_options list;
	bool num_queues;  /* --num-queues was given */
	bool verbose;
	bool reconnects;  /* the command keeps the library's default of reconnect-ms */
	char timeout_ms[24];
	char queues_limit[24];
};

extern const struct argp vublk_disk_argp;

/*
 * Opens the disk at the socket `path`. On failure `error` has one sentence for the caller to print,
 * and the code EINVAL if an option is wrong. With --verbose the library's log goes to standard
 * error. Without --verbose only errors are printed; if the disk outlives its back-end, warnings are
 * printed, too, because they say why a new back-end is refused.
 *
 * Without `reconnects`, and without reconnect-ms or server among the options, the loss of the
 * back-end is permanent. The log of `handlers` is ignored.
 */
int vublk_disk_open(const char *command, const char *path,
		    const struct vublk_disk_options *options,
		    const struct vublk_blk_handlers *handlers, struct vublk_blk **blk,
		    struct vublk_error *error);

/* Returns whether the disk with these options outlives its back-end. */
bool vublk_disk_reconnects(const struct vublk_disk_options *options);

/* Limits the number of queues to `num_queues`, unless --num-queues was given. */
void vublk_disk_limit_queues(struct vublk_disk_options *options, unsigned num_queues);

/*
 * Prints the table `properties`, one property per line, with type, default and meaning. Omits
 * chardev, which has an option of its own. `other` (may be NULL) is called with `context` and the
 * name of a property, and returns the default to print, or NULL for the default in the table.
 */
void vublk_disk_print_properties(const struct vublk_property *properties,
				 const char *(*other)(const char *context, const char *name),
				 const char *context);

/*
 * Returns whether the table `properties` has the property `name`. Returns false for chardev, which
 * has an option of its own.
 */
bool vublk_disk_has_property(const struct vublk_property *properties, const char *name);

/* Returns whether there is a socket at the path. */
bool vublk_disk_is_socket(const char *path);

/*
 * Makes a serial printable. Removes the spaces with which some back-ends pad it, and replaces
 * unprintable characters, which could control the terminal, with '?'.
 */
void vublk_disk_clean_serial(char serial[VUBLK_BLK_ID_SIZE]);

#endif
