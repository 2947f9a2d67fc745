/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One connection of the control socket; see client.h. control.c decides what a line means.
 *
 * Key idea: the memory of a client is bounded. The input has room for one line; a longer line is
 * refused and skipped up to its newline. control.c handles a line only when the answer to the
 * previous line has been sent, so the output contains at most one answer, however slowly the client
 * reads.
 */
#include "cli/control/client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define KEPT_OUTPUT_BYTES 4096 /* how much memory an empty output buffer may keep */

void vublk_control_client_open(struct vublk_control_client *client, int fd)
{
	struct ucred peer = { 0 };
	socklen_t bytes = sizeof(peer);

	client->fd = fd;
	client->input_bytes = client->line_bytes = 0;
	client->skips = client->is_eof = false;
	client->output_bytes = client->output_sent = 0;
	client->pid = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) ? 0 : peer.pid;
}

void vublk_control_client_close(struct vublk_control_client *client)
{
	if (client->fd >= 0)
		close(client->fd);
	client->fd = -1;
	free(client->output);
	client->output = NULL;
	client->output_room = client->output_bytes = client->output_sent = 0;
}

/* --- input ------------------------------------------------------------------------- */

int vublk_control_client_receive(struct vublk_control_client *client)
{
	size_t room = sizeof(client->input) - client->input_bytes;
	ssize_t n;

	if (!room || client->is_eof)
		return 0;
	n = recv(client->fd, client->input + client->input_bytes, room, MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	client->is_eof = !n;
	client->input_bytes += (size_t)n;
	return 0;
}

static void drop_front(struct vublk_control_client *client, size_t bytes)
{
	client->input_bytes -= bytes;
	memmove(client->input, client->input + bytes, client->input_bytes);
}

/* Discards those bytes of an overlong line that have arrived. */
static void skip(struct vublk_control_client *client)
{
	const char *end = memchr(client->input, '\n', client->input_bytes);

	client->skips = !end;
	drop_front(client, end ? (size_t)(end - client->input) + 1 : client->input_bytes);
}

int vublk_control_client_next_line(struct vublk_control_client *client, const char **line,
				   size_t *bytes)
{
	const char *end;

	drop_front(client, client->line_bytes);
	client->line_bytes = 0;
	if (client->skips)
		skip(client);
	end = memchr(client->input, '\n', client->input_bytes);
	if (end) {
		*line = client->input;
		*bytes = (size_t)(end - client->input);
		client->line_bytes = *bytes + 1;
		return 1;
	}
	if (client->input_bytes < sizeof(client->input))
		return 0;
	client->skips = true;
	skip(client);
	return -EMSGSIZE;
}

/* --- output ------------------------------------------------------------------------ */

bool vublk_control_client_is_flushed(const struct vublk_control_client *client)
{
	return client->output_sent == client->output_bytes;
}

static int make_room(struct vublk_control_client *client, size_t bytes)
{
	size_t wanted = client->output_bytes + bytes;
	char *grown;

	if (wanted <= client->output_room)
		return 0;
	grown = realloc(client->output, wanted);
	if (!grown)
		return -ENOMEM;
	client->output = grown;
	client->output_room = wanted;
	return 0;
}

int vublk_control_client_put(struct vublk_control_client *client, char *line)
{
	size_t bytes = line ? strlen(line) : 0;
	int r = line ? make_room(client, bytes) : -ENOMEM;

	if (!r) {
		memcpy(client->output + client->output_bytes, line, bytes);
		client->output_bytes += bytes;
	}
	free(line);
	return r;
}

int vublk_control_client_flush(struct vublk_control_client *client)
{
	while (!vublk_control_client_is_flushed(client)) {
		ssize_t n = send(client->fd, client->output + client->output_sent,
				 client->output_bytes - client->output_sent,
				 MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -errno;
		client->output_sent += (size_t)n;
	}
	client->output_bytes = client->output_sent = 0;
	if (client->output_room > KEPT_OUTPUT_BYTES) {
		free(client->output);
		client->output = NULL;
		client->output_room = 0;
	}
	return 0;
}
