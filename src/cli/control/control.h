/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_CONTROL_H
#define VUBLK_CLI_CONTROL_CONTROL_H

/*
 * The control socket of a command that serves a disk (docs/control.md). Clients send commands, one
 * JSON object per line, and get one line in answer to each command.
 *
 * Key idea: one thread, the control thread, serves all clients. Another thread, the owner's thread,
 * runs the served object, and only that thread may call most of the object's functions. So a
 * command has one function for each thread: run() copies what the answer needs, on the owner's
 * thread, and format() turns the copy into JSON, on the control thread. Therefore a client delays
 * the object only while the copy is made.
 */
#include <vublk/error.h>
#include <vublk/notice.h>
#include <vublk/upgrade.h>

#include <argp.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct vublk_control;

/*
 * A command with `takes_connection` gets this struct: the connection of the client that takes over
 * the served object, and the control socket of this process.
 */
struct vublk_control_connection {
	int fd; /* a duplicate of the client's descriptor */
	struct vublk_upgrade_extra extra; /* contains the control socket, whose descriptor is
					     borrowed */
};

/* The work of the owner's thread, apart from commands. */
struct vublk_control_loop {
	int fd; /* polls readable when process() has work to do */
	void *opaque;
	int (*process)(void *opaque, struct vublk_error *error);
	/*
	 * Returns how long to wait for `fd`, in milliseconds; -1: no limit. A NULL function means
	 * that there is never a limit.
	 */
	int (*timeout_ms)(void *opaque);
};

/* A command. A table of commands ends with a NULL name. NULL functions are not called. */
struct vublk_control_command {
	const char *name;
	const char *const *arguments; /* the names of the arguments, ends with NULL; NULL: the
					 command has no arguments */
	size_t copy_bytes;            /* the size of `copy`, the memory that the functions share;
					 zeroed before the first call */
	/*
	 * Called on the control thread if the request has arguments: checks them and stores them in
	 * `copy`. Returns 0 or a negative errno.
	 */
	int (*check)(struct json_object *arguments, void *copy, struct vublk_error *error);
	/*
	 * Called on the owner's thread: executes the command and stores in `copy` what the answer
	 * needs. Must not block. Returns 0 or a negative errno. Returns 1 if the command is not
	 * done yet; the function is then called again when the object has done some work, at the
	 * latest a second later.
	 */
	int (*run)(void *owner, void *copy, struct vublk_error *error);
	/*
	 * Called on the control thread: returns the result of the command, made from `copy`, or
	 * NULL if there is no memory. May call only those functions of the owner that any thread
	 * may call.
	 */
	struct json_object *(*format)(void *owner, const void *copy);
	/*
	 * True: `copy` begins with a struct vublk_control_connection, whose member `fd` belongs to
	 * run(). If the command succeeds, the client is disconnected after the answer.
	 */
	bool takes_connection;
	/*
	 * True: the command waits for the end of the object, so run() is called once more after
	 * that end. If the command is still not done, it fails, as does every other unfinished
	 * command.
	 */
	bool is_about_the_end;
};

/*
 * Creates a control socket that listens at `path`, a file with permissions `mode`. If `path` is
 * NULL, there is no socket, and only vublk_control_ask() executes commands. `role` is the name of
 * this process in the greeting, for example "serve". `owner` is the served object, which is passed
 * to the functions of `commands`. `path`, `role` and `commands` are borrowed until
 * vublk_control_close(). Only vublk_control_run() calls the run() functions of commands. The errors
 * include those of vublk_control_socket_listen().
 */
int vublk_control_open(const char *path, mode_t mode, const char *role,
		       const struct vublk_control_command *commands, void *owner,
		       struct vublk_control **control, struct vublk_error *error);

/*
 * Executes the command with the name `command` as if a client had sent it, and returns the result.
 * The command must exist, take no arguments, and have run() and format(). Waits for the owner's
 * thread for at most `timeout_ms`. On failure returns NULL, and `error` says why. Any thread except
 * the owner's may call this function, until vublk_control_close().
 */
struct json_object *vublk_control_ask(struct vublk_control *control, const char *command,
				      unsigned timeout_ms, struct vublk_error *error);

/*
 * The handler of the served object's notices: a vublk_notice_fn whose `opaque` is the struct
 * vublk_control. Turns each notice into an event for the clients that have asked for events. Never
 * waits for a client.
 */
void vublk_control_notice(void *control, const struct vublk_notice *notice, size_t notice_bytes);

/*
 * Like vublk_control_open(), but uses the listening socket of the process from which this process
 * has taken the object over. Takes the descriptor of that socket out of `extra`, which is borrowed
 * until vublk_control_close(). EINVAL: there is no socket in `extra`.
 */
int vublk_control_adopt(struct vublk_upgrade_extra *extra, const char *role,
			const struct vublk_control_command *commands, void *owner,
			struct vublk_control **control, struct vublk_error *error);
/*
 * Must be called when another process has taken the socket over, so that vublk_control_close() does
 * not remove the file. NULL is a no-op.
 */
void vublk_control_disown(struct vublk_control *control);

/*
 * Runs the served object, and executes commands between the calls of process(). The calling thread
 * becomes the owner's thread. Calls process() whenever `fd` is readable, a command waits, or the
 * time limit has passed, until process() returns something other than 1. Returns that value.
 */
int vublk_control_run(struct vublk_control *control, const struct vublk_control_loop *loop,
		      struct vublk_error *error);

/*
 * Disconnects all clients, removes the socket's file unless vublk_control_disown() was called, and
 * frees `control`. Must not be called during vublk_control_run(). NULL is a no-op.
 */
void vublk_control_close(struct vublk_control *control);

/*
 * Parses `text`, the value of --control-mode, in an argp parser. An invalid value ends the process
 * with VUBLK_EXIT_MISUSED.
 */
void vublk_control_take_mode(struct argp_state *state, const char *text, mode_t *mode);

#endif
