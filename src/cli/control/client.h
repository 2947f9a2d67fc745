/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_CLIENT_H
#define VUBLK_CLI_CONTROL_CLIENT_H

/*
 * One connection of the control socket, which receives and sends lines. Only the control thread may
 * call these functions, and none of them blocks.
 */
#include "cli/control/request.h"

struct vublk_control_client {
	int fd; /* -1: not connected */
	int64_t pid; /* the process that connected; 0: unknown */
	/* The bytes that were received, with room for one line and its newline. */
	char input[VUBLK_CONTROL_LINE_BYTES + 1];
	size_t input_bytes, line_bytes; /* the number of received bytes, and how many of them belong
					   to the line that is being handled, including its
					   newline */
	bool skips;  /* the line is too long, so its remaining bytes are discarded */
	bool is_eof; /* the peer has closed its sending end */
	char *output;
	size_t output_bytes, output_sent, output_room;
};

/* Begins a connection on `fd`, a non-blocking socket, and takes ownership of it. */
void vublk_control_client_open(struct vublk_control_client *client, int fd);
/* Closes the connection and frees its buffers. Idempotent. */
void vublk_control_client_close(struct vublk_control_client *client);

/*
 * Receives as many bytes as have arrived and fit into `input`. Returns 0, or a negative errno if
 * the connection has failed. Sets `is_eof` at the end of the input.
 */
int vublk_control_client_receive(struct vublk_control_client *client);
/*
 * Removes the line that the previous call of this function found, and looks for the next one in the
 * received bytes. Returns 1 if there is a complete line: `line` has `bytes` bytes, without the
 * newline, and is valid until the next call. Returns 0 if there is no complete line yet. Returns
 * -EMSGSIZE if the line is too long; its remaining bytes will be skipped.
 */
int vublk_control_client_next_line(struct vublk_control_client *client, const char **line,
				   size_t *bytes);

/* Returns whether all output has been sent. */
bool vublk_control_client_is_flushed(const struct vublk_control_client *client);
/*
 * Appends `line` to the output and frees it with free(). Returns 0, or -ENOMEM if there is no
 * memory or `line` is NULL; the caller must then close the client.
 */
int vublk_control_client_put(struct vublk_control_client *client, char *line);
/*
 * Sends as much output as the socket has room for. Returns 0, or a negative errno if the connection
 * has ended.
 */
int vublk_control_client_flush(struct vublk_control_client *client);

#endif
