/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Hands a connection to another process, or takes one over: the socket, the back channel, and what
 * is known about the back-end. No message is sent to the back-end.
 *
 * Key idea: a connection can be handed over only while no answer is outstanding and no message is
 * partly sent or received. Messages that have not been read are not part of the state, because the
 * kernel keeps them in the sockets for the process that reads next.
 */
#include "frontend/frontend.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>

#define FRONTEND "back-end"
#define REGION "back-end-memory"

static bool has_parts(const struct vublk_channel *channel)
{
	return vublk_stream_reader_bytes(&channel->reader) || vublk_channel_wants_write(channel);
}

const char *vublk_frontend_handover_obstacle(const struct vublk_frontend *frontend)
{
	if (frontend->state == VUBLK_FRONTEND_CLOSED)
		return NULL;
	if (frontend->state != VUBLK_FRONTEND_READY)
		return "the handshake with the back-end is not complete";
	if (frontend->expected)
		return "the back-end has not yet answered a message";
	if (has_parts(&frontend->channel))
		return "a message to or from the back-end was only partly transferred";
	if (vublk_frontend_reports_config(frontend) &&
	    has_parts(&frontend->back_channel.channel))
		return "a message on the back channel was only partly transferred";
	return NULL;
}

/* --- giving ------------------------------------------------------------------------------ */

static void give_region(const struct vublk_frontend_region *region,
			struct vublk_sections_writer *to)
{
	vublk_section_begin(to, REGION, 1, false);
	vublk_section_put(to, region->region.guest_addr);
	vublk_section_put(to, region->region.size_bytes);
	vublk_section_put(to, region->region.fd_offset);
	vublk_section_put(to, region->file_device);
	vublk_section_put(to, region->file_inode);
}

void vublk_frontend_give(const struct vublk_frontend *frontend, struct vublk_sections_writer *to)
{
	const struct vublk_frontend_info *info = &frontend->info;
	bool is_open = frontend->state == VUBLK_FRONTEND_READY;

	vublk_section_begin(to, FRONTEND, 1, false);
	vublk_section_put_fd(to, is_open ? frontend->channel.fd : -1);
	vublk_section_put_fd(to, vublk_frontend_reports_config(frontend) ?
			     frontend->back_channel.channel.fd : -1);
	vublk_section_put(to, info->features);
	vublk_section_put(to, info->protocol_features);
	vublk_section_put(to, info->accepted_protocol_features);
	vublk_section_put(to, info->max_queues);
	vublk_section_put(to, info->memory_slots);
	vublk_section_put(to, info->config_bytes);
	vublk_section_put_bytes(to, frontend->config, sizeof(frontend->config));
	vublk_section_put(to, frontend->num_answers);
	vublk_section_put(to, frontend->start.any_kick);
	for (unsigned i = 0; is_open && i < frontend->memory.num_shadow; i++)
		give_region(&frontend->memory.shadow[i], to);
}

/* --- taking ------------------------------------------------------------------------------ */

static void read_info(struct vublk_frontend_info *info, struct vublk_section *from)
{
	info->features = vublk_section_get(from);
	info->protocol_features = vublk_section_get(from);
	info->accepted_protocol_features = vublk_section_get(from);
	info->max_queues = (uint32_t)vublk_section_get(from);
	info->memory_slots = (uint32_t)vublk_section_get(from);
	info->config_bytes = (uint32_t)vublk_section_get(from);
}

static int take_connection(struct vublk_frontend *frontend, struct vublk_section *from,
			   const char *path, unsigned timeout_ms, struct vublk_error *error)
{
	VUBLK_FD int fd = vublk_section_get_fd(from);
	VUBLK_FD int back_fd = vublk_section_get_fd(from);
	int r = 0;

	if (fd >= 0)
		r = vublk_frontend_adopt(frontend, vublk_fd_steal(&fd), path, timeout_ms, error);
	if (!r && back_fd >= 0)
		r = vublk_frontend_adopt_back_channel(frontend, vublk_fd_steal(&back_fd), error);
	return r;
}

int vublk_frontend_take(struct vublk_frontend *frontend, struct vublk_section *from,
			const char *path, unsigned timeout_ms, struct vublk_error *error)
{
	int r = take_connection(frontend, from, path, timeout_ms, error);

	if (r < 0)
		return r;
	read_info(&frontend->info, from);
	vublk_section_get_bytes(from, frontend->config, sizeof(frontend->config));
	frontend->num_answers = vublk_section_get(from);
	frontend->start.any_kick = vublk_section_get(from);
	return 0;
}

int vublk_frontend_take_region(struct vublk_frontend *frontend, struct vublk_section *from,
			       struct vublk_error *error)
{
	struct vublk_frontend_memory_change *memory = &frontend->memory;
	struct vublk_frontend_region *region;

	if (memory->num_shadow == VUBLK_ARRAY_SIZE(memory->shadow))
		return vublk_error_set(error, EINVAL, "the state has more than %u memory regions "
				       "of the back-end",
				       memory->num_shadow);
	region = &memory->shadow[memory->num_shadow++];
	region->region = (struct vublk_memory_region){ .fd = -1 };
	region->region.guest_addr = vublk_section_get(from);
	region->region.size_bytes = vublk_section_get(from);
	region->region.fd_offset = vublk_section_get(from);
	region->file_device = vublk_section_get(from);
	region->file_inode = vublk_section_get(from);
	return 0;
}
