/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_DISK_H
#define VUBLK_CLI_DISK_H

/*
 * Functions that open a disk as the options of a command say. A command takes vublk_disk_argp as a
 * child parser, whose input is a zeroed struct vublk_disk_options.
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
 * Opens the disk. A failure is one sentence in `error`, which the caller prints; its code
 * is EINVAL if an option is wrong. With --verbose the library's log goes to standard error.
 * Without it the log is silent, except that a command which outlives its back-end prints
 * warnings, because they say why a new back-end is refused.
 *
 * Without reconnect-ms among the options the disk ends with its back-end. The log of
 * `handlers` is ignored.
 */
int vublk_disk_open(const char *command, const char *path,
		    const struct vublk_disk_options *options,
		    const struct vublk_blk_handlers *handlers, struct vublk_blk **blk,
		    struct vublk_error *error);

/* Whether the disk outlives its back-end, as the options say. */
bool vublk_disk_reconnects(const struct vublk_disk_options *options);

/* Limits the number of queues to `num_queues`, unless --num-queues was given. */
void vublk_disk_limit_queues(struct vublk_disk_options *options, unsigned num_queues);

/*
 * Prints the properties, one per line, with type, default and meaning, except chardev,
 * which has an option of its own. `other` (may be NULL) returns a default that replaces the
 * table's, or NULL.
 */
void vublk_disk_print_properties(const struct vublk_property *properties,
				 const char *(*other)(const char *context, const char *name),
				 const char *context);

/* Whether the table has a property of this name. */
bool vublk_disk_has_property(const struct vublk_property *properties, const char *name);

/* Whether there is a socket at the path. */
bool vublk_disk_is_socket(const char *path);

/*
 * Turns a serial into printable text: some back-ends pad it with spaces, and characters that are
 * not printable could be a command to the terminal.
 */
void vublk_disk_clean_serial(char serial[VUBLK_BLK_ID_SIZE]);

#endif
