/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_DISK_H
#define VUBLK_CLI_DISK_H

#include <vublk/blk.h>

#include <argp.h>
#include <stdbool.h>

/*
 * Opening a disk as the options of a command say. The options are those of
 * vublk_disk_argp, which a command takes as a child parser whose input is a
 * zeroed struct vublk_disk_options.
 */
#define VUBLK_DISK_MAX_OPTIONS 24 /* with one that a command adds */

struct vublk_disk_options {
	struct vublk_option list[VUBLK_DISK_MAX_OPTIONS + 1]; /* ended by a NULL name */
	unsigned count;
	bool num_queues;  /* --num-queues was given */
	bool verbose;
	bool reconnects;  /* the command keeps the library's default of reconnect-ms */
	char timeout_ms[24];
	char queues_limit[24];
};

extern const struct argp vublk_disk_argp;

/*
 * Opens the disk. What it says on the way goes to standard error with --verbose
 * only: a failure is one sentence, which the caller prints. Unless reconnect-ms is among
 * the options the loss of the back-end ends it; with it, warnings are printed, too: why a
 * new back-end is refused, for example. Where `handlers` hears of no events, that
 * a back-end is waited for is said here.
 */
int vublk_disk_open(const char *command, const char *path,
		    const struct vublk_disk_options *options,
		    const struct vublk_blk_handlers *handlers, struct vublk_blk **blk,
		    struct vublk_error *error);

/* Says on standard error that a back-end is waited for, and that there is one again. */
void vublk_disk_tell_event(void *command, enum vublk_blk_event event,
			   const struct vublk_error *error);

/* Whether the disk outlives its back-end, as the options say. */
bool vublk_disk_reconnects(const struct vublk_disk_options *options);

/* Where --num-queues says nothing: no more queues than these. */
void vublk_disk_limit_queues(struct vublk_disk_options *options, unsigned num_queues);

/*
 * One per line, with type, default and meaning; not the chardev, which has its own option.
 * `other` knows defaults that are not the table's: NULL for all others.
 */
void vublk_disk_print_properties(const struct vublk_device_property *properties,
				 const char *(*other)(const char *context, const char *name),
				 const char *context);

/* Whether there is a socket at the path. */
bool vublk_disk_is_socket(const char *path);

#endif
