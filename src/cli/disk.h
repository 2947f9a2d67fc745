/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_DISK_H
#define VUBLK_CLI_DISK_H

/*
 * The options that all commands with a disk share, and the functions that open the disk. A command
 * uses vublk_disk_argp as a child parser. The parser's input must be a struct vublk_disk_options
 * that is zeroed except for `reconnects`.
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
 * error. Without --verbose only the library's errors are printed, and its warnings if the disk
 * reconnects, because a warning says why a new back-end is refused.
 *
 * If `reconnects` is false and the options contain neither reconnect-ms nor server, the disk does
 * not reconnect. The log of `handlers` is ignored.
 */
int vublk_disk_open(const char *command, const char *path,
		    const struct vublk_disk_options *options,
		    const struct vublk_blk_handlers *handlers, struct vublk_blk **blk,
		    struct vublk_error *error);

/* Returns whether a disk with these options reconnects when its back-end is lost. */
bool vublk_disk_reconnects(const struct vublk_disk_options *options);

/* Limits the number of queues to `num_queues`, unless --num-queues was given. */
void vublk_disk_limit_queues(struct vublk_disk_options *options, unsigned num_queues);

/*
 * Prints the table `properties`, one property per line. Omits chardev, which has an option of its
 * own, and the names in the table `instead` (may be NULL). `other` (may be NULL) is called with `context` and the
 * name of a property, and returns the default to print, or NULL for the default in the table.
 */
void vublk_disk_print_properties(const struct vublk_property *properties,
				 const struct vublk_property *instead,
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
