/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Hands the server's end of a vhost-user connection over in an upgrade: the socket, the back-end
 * channel, and what was negotiated. The relay and the back-end use these functions.
 *
 * Key idea: a connection can be handed over only while no message is partly sent or received.
 * Messages that have not been read wait in the sockets, where the kernel keeps them for the process
 * that reads next.
 */
#include "handover/server.h"

void vublk_upgrade_put_server(struct vublk_sections_writer *to,
			      const struct vublk_vu_server *server)
{
	const struct vublk_back_channel *back = &server->back_channel;

	vublk_section_put_fd(to, server->channel.fd);
	vublk_section_put(to, server->offered_protocol_features);
	vublk_section_put(to, server->protocol_features);
	vublk_section_put(to, server->message_timeout.had_message);
	vublk_section_put_fd(to, back->channel.fd);
	vublk_section_put(to, back->has_ack);
	vublk_section_put(to, back->is_unanswered);
	vublk_section_put(to, back->once_more);
	vublk_section_put(to, back->is_stale);
	vublk_section_put(to, back->is_suspended);
}

static int get_back_channel(struct vublk_section *from, struct vublk_back_channel *back,
			    struct vublk_error *error)
{
	int fd = vublk_section_get_fd(from);
	int r = fd < 0 ? 0 : vublk_back_channel_open(back, fd, error);

	back->has_ack = vublk_section_get(from);
	back->is_unanswered = vublk_section_get(from);
	back->once_more = vublk_section_get(from);
	back->is_stale = vublk_section_get(from);
	back->is_suspended = vublk_section_get(from);
	return r;
}

int vublk_upgrade_get_server(struct vublk_section *from, struct vublk_vu_server *server,
			     struct vublk_error *error)
{
	server->offered_protocol_features = vublk_section_get(from);
	server->protocol_features = vublk_section_get(from);
	if (vublk_section_get(from))
		vublk_message_timeout_note(&server->message_timeout, true, 0);
	return get_back_channel(from, &server->back_channel, error);
}

static bool has_parts(const struct vublk_channel *channel)
{
	return vublk_stream_reader_bytes(&channel->reader) || vublk_channel_wants_write(channel);
}

bool vublk_upgrade_has_parts(const struct vublk_vu_server *server)
{
	const struct vublk_channel *back = &server->back_channel.channel;

	return has_parts(&server->channel) || (back->fd >= 0 && has_parts(back));
}
