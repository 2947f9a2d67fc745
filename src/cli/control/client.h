/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_CLIENT_H
#define VUBLK_CLI_CONTROL_CLIENT_H

/*
 * One connection of the control socket: lines in, lines out. All of it belongs to the control
 * thread, and no call blocks.
 */
#include "cli/control/request.h"

struct vublk_control_client {
	int fd; /* -1: not connected */
	/* A line, and its newline. */
	char input[VUBLK_CONTROL_LINE_BYTES + 1];
	size_t input_bytes, line_bytes; /* received; of the line that is being handled */
	bool skips;  /* the rest of a line that is too long */
	bool is_eof; /* the peer sends nothing more */
	char *output;
	size_t output_bytes, output_sent, output_room;
};

/* Takes `fd`, a non-blocking socket. */
void vublk_control_client_open(struct vublk_control_client *client, int fd);
/* Idempotent. */
void vublk_control_client_close(struct vublk_control_client *client);

/* Reads what has arrived and fits. A negative errno: the connection is over. */
int vublk_control_client_receive(struct vublk_control_client *client);
/*
 * Removes the line that the previous call returned, and looks for the next line in the input. 1:
 * `line` has `bytes` bytes, and is valid until the next call; 0: there is no complete line yet;
 * -EMSGSIZE: a line is too long, and will be skipped.
 */
int vublk_control_client_next_line(struct vublk_control_client *client, const char **line,
				   size_t *bytes);

/* Whether all output has been sent. */
bool vublk_control_client_is_flushed(const struct vublk_control_client *client);
/* Appends `line` to the output and frees it; NULL: -ENOMEM. A negative errno: close the client. */
int vublk_control_client_put(struct vublk_control_client *client, char *line);
/* Sends what the socket has room for. A negative errno: the connection is over. */
int vublk_control_client_flush(struct vublk_control_client *client);

#endif
