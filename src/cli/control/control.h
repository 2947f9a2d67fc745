/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_CONTROL_H
#define VUBLK_CLI_CONTROL_CONTROL_H

/*
 * The control socket of a command that serves a disk (docs/control.md): clients send commands, one
 * JSON object per line, and get one line in answer to each command.
 *
 * Key idea: clients have a thread of their own, the control thread. The served object belongs to
 * the thread that runs it, the owner's thread. A command has one function for each thread: run(),
 * on the owner's thread, copies what the answer needs, and format(), on the control thread, makes
 * JSON of the copy. So a client delays the object by no more than the time of a copy.
 */
#include <vublk/error.h>

#include <argp.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct vublk_control;

/* A command; a table of them ends with a NULL name. Functions that are NULL are skipped. */
struct vublk_control_command {
	const char *name;
	const char *const *arguments; /* the permitted names, up to NULL; NULL: no arguments */
	size_t copy_bytes;            /* of the zeroed memory that the functions share */
	/* Control thread: reads the arguments, if the request has any. 0, or a negative errno. */
	int (*check)(struct json_object *arguments, void *copy, struct vublk_error *error);
	/*
	 * Owner's thread: 0; a negative errno; or 1: not yet, and the function is called again
	 * after the object has done some work, or a second later. It must not block.
	 */
	int (*run)(void *owner, void *copy, struct vublk_error *error);
	/*
	 * Control thread. May call those functions of the owner that any thread may call. Returns
	 * the result, or NULL if there is no memory.
	 */
	struct json_object *(*format)(void *owner, const void *copy);
};

/*
 * Listens at `path` with permissions `mode`. `role` is the name in the greeting: "serve". `path`,
 * `role` and `commands` are borrowed until vublk_control_close(). A command's run() is called when
 * the owner's thread calls vublk_control_run(). The errors are those of
 * vublk_control_socket_listen().
 */
int vublk_control_open(const char *path, mode_t mode, const char *role,
		       const struct vublk_control_command *commands, void *owner,
		       struct vublk_control **control, struct vublk_error *error);

/*
 * Runs the object on the calling thread, which is the owner's thread, and the commands of clients
 * between its steps: calls process() when `fd` is readable, until it does not return 1, and returns
 * that result.
 */
int vublk_control_run(struct vublk_control *control, int fd,
		      int (*process)(void *owner, struct vublk_error *error),
		      struct vublk_error *error);

/*
 * Disconnects all clients and removes the socket. Not during vublk_control_run(). NULL is a no-op.
 */
void vublk_control_close(struct vublk_control *control);

/* Reads the value of --control-mode. A wrong one ends the process, as in cli.h. */
void vublk_control_take_mode(struct argp_state *state, const char *text, mode_t *mode);

#endif
