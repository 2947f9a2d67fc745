/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes and reads the sections of a back-end's state, which the old process sends to the new one.
 *
 * Key idea: the queues are stopped, and no request is outstanding. So one index describes the
 * position of a ring, and the new process starts the queues as it does after a message of the
 * front-end. The new process takes over the memory regions, the in-flight area and the dirty log
 * with the functions that execute the front-end's messages, because these functions make all
 * checks.
 */
#include "backend/upgrade/upgrade.h"

#include "handover/server.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>

/* --- giving ------------------------------------------------------------------------------- */

static void give_backend(const struct vublk_backend *backend, struct vublk_sections_writer *to)
{
	const struct vublk_engine *engine = backend->engine;

	vublk_section_begin(to, "back-end", 1, false);
	vublk_section_put_fd(to, backend->listen_fd);
	vublk_section_put(to, backend->socket_file);
	vublk_section_put(to, (uint64_t)backend->peer_pid);
	vublk_section_put(to, backend->owner.write_cache);
	vublk_section_put(to, engine->ops->has_lost_writes && engine->ops->has_lost_writes(engine));
	vublk_section_put(to, engine->geometry.size_bytes);
	vublk_section_put(to, engine->host->rescans);
	vublk_section_put(to, vublk_load_relaxed(&backend->statistics->is_on));
}

static void give_counters(const struct vublk_statistics *statistics,
			  struct vublk_sections_writer *to)
{
	for (unsigned i = 0; i < statistics->num_queues; i++)
		for (unsigned kind = 0; kind < VUBLK_REQUEST_NUM_KINDS; kind++) {
			const struct vublk_request_stats *stats = &statistics->queues[i].kinds[kind];

			if (!stats->count)
				continue;
			vublk_section_begin(to, "counters", 1, true);
			vublk_section_put(to, i);
			vublk_section_put(to, kind);
			vublk_section_put_bytes(to, stats, sizeof(*stats));
		}
}

static void give_session(const struct vublk_session *session, struct vublk_sections_writer *to)
{
	vublk_section_begin(to, "front-end", 1, false);
	vublk_upgrade_put_server(to, &session->server);
	vublk_section_begin(to, "session", 1, false);
	vublk_section_put(to, session->features);
	vublk_section_put(to, session->status);
	vublk_section_put(to, session->write_cache);
	vublk_section_put(to, session->resumes);
	vublk_section_put(to, session->knows_write_cache);
	vublk_section_put(to, session->enables_all);
	vublk_section_put(to, session->said_no_memory);
	vublk_section_put(to, session->warned_of_seg_max);
}

static void give_memory(const struct vublk_session *session, struct vublk_sections_writer *to)
{
	const struct vublk_backend_memory *memory = &session->memory;

	for (unsigned i = 0; i < memory->map.num_regions; i++) {
		const struct vublk_memory_map_region *region = &memory->map.regions[i];

		vublk_section_begin(to, "memory", 1, false);
		vublk_section_put_fd(to, memory->parts[i].fd);
		vublk_section_put(to, region->guest_addr);
		vublk_section_put(to, region->size_bytes);
		vublk_section_put(to, region->user_addr);
		vublk_section_put(to, memory->parts[i].mmap_offset);
	}
}

static void give_areas(const struct vublk_session *session, struct vublk_sections_writer *to)
{
	const struct vublk_inflight_area *area = &session->inflight;
	const struct vublk_backend_dirty_log *log = &session->dirty_log;

	if (area->part.mapping) {
		vublk_section_begin(to, "in-flight-area", 1, false);
		vublk_section_put_fd(to, area->fd);
		vublk_section_put(to, area->mmap_offset);
		vublk_section_put(to, area->num_queues);
		vublk_section_put(to, area->queue_size);
	}
	if (log->part.mapping) {
		vublk_section_begin(to, "dirty-log", 1, false);
		vublk_section_put_fd(to, log->fd);
		vublk_section_put(to, log->mmap_offset);
		vublk_section_put(to, log->dirty.bytes);
	}
}

static void give_queue(const struct vublk_queue *queue, struct vublk_sections_writer *to)
{
	const struct vublk_queue_setup *setup = &queue->setup;

	vublk_section_begin(to, "queue", 1, false);
	vublk_section_put(to, queue->index);
	vublk_section_put(to, setup->size);
	vublk_section_put(to, setup->base);
	vublk_section_put(to, setup->has_addr);
	vublk_section_put(to, setup->has_kick);
	vublk_section_put(to, setup->enabled);
	vublk_section_put(to, setup->addr.flags);
	vublk_section_put(to, setup->addr.desc_user_addr);
	vublk_section_put(to, setup->addr.used_user_addr);
	vublk_section_put(to, setup->addr.avail_user_addr);
	vublk_section_put(to, setup->addr.log_guest_addr);
	vublk_section_put_fd(to, setup->kick_fd);
	vublk_section_put_fd(to, setup->call_fd);
	vublk_section_put_fd(to, setup->err_fd);
}

void vublk_backend_give(const void *object, struct vublk_sections_writer *to)
{
	const struct vublk_backend *backend = object;
	const struct vublk_session *session = backend->session;

	give_backend(backend, to);
	give_counters(backend->statistics, to);
	if (!session)
		return;
	give_session(session, to);
	give_memory(session, to);
	give_areas(session, to);
	for (unsigned i = 0; i < session->num_used; i++)
		give_queue(&session->queues[i], to);
}

/* --- taking ------------------------------------------------------------------------------- */

static int read_backend(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_backend *backend = owner;
	const struct vublk_engine_ops *ops = backend->engine->ops;

	if (backend->listen_fd >= 0)
		return vublk_error_set(error, EINVAL, "the state has two sections for the back-end");
	backend->listen_fd = vublk_section_get_fd(from);
	backend->socket_file = (ino_t)vublk_section_get(from);
	backend->peer_pid = (int64_t)vublk_section_get(from);
	backend->owner.write_cache = vublk_section_get(from);
	if (vublk_section_get(from) && ops->lose_writes)
		ops->lose_writes(backend->engine);
	backend->told_size_bytes = vublk_section_get(from);
	backend->engine->host->rescans = vublk_section_get(from);
	vublk_store_relaxed(&backend->statistics->is_on, vublk_section_get(from));
	return 0;
}

static int read_counters(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_statistics *statistics = ((struct vublk_backend *)owner)->statistics;
	uint64_t queue = vublk_section_get(from), kind = vublk_section_get(from);

	if (queue >= statistics->num_queues || kind >= VUBLK_REQUEST_NUM_KINDS)
		return 0; /* ignores counters of a queue or a kind that this version does not
			     have */
	vublk_section_get_bytes(from, &statistics->queues[queue].kinds[kind],
				sizeof(struct vublk_request_stats));
	return 0;
}

static int read_frontend(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_backend *backend = owner;
	int fd = vublk_section_get_fd(from);
	int r;

	if (fd < 0 || backend->session) {
		vublk_fd_close(&fd);
		return vublk_error_set(error, EINVAL, "the state has %s", backend->session ?
				       "two connections of a front-end" :
				       "no descriptor for the front-end's connection");
	}
	backend->owner.listen_fd = backend->listen_fd;
	r = vublk_session_new(&backend->owner, fd, &backend->session, error);
	return r < 0 ? r : vublk_upgrade_get_server(from, &backend->session->server, error);
}

static int find_session(struct vublk_backend *backend, struct vublk_session **session,
			struct vublk_error *error)
{
	*session = backend->session;
	return *session ? 0 : vublk_error_set(error, EINVAL, "the front-end's connection is missing");
}

static int read_session(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_session *session;
	int r = find_session(owner, &session, error);

	if (r < 0)
		return r;
	session->features = vublk_section_get(from);
	session->status = (uint8_t)vublk_section_get(from);
	session->write_cache = vublk_section_get(from);
	session->resumes = vublk_section_get(from);
	session->knows_write_cache = vublk_section_get(from);
	session->enables_all = vublk_section_get(from);
	session->said_no_memory = vublk_section_get(from);
	session->warned_of_seg_max = vublk_section_get(from);
	return 0;
}

/* Makes a message like the front-end's, with the next descriptor of the section. */
static void make_message(struct vublk_section *from, uint32_t request,
			 struct vublk_vu_message *message)
{
	vublk_vu_message_init(message, request);
	message->fds[0] = vublk_section_get_fd(from);
	message->num_fds = 1;
}

static int read_memory(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_vu_message message;
	struct vublk_vu_region *region = &message.payload.mem_reg.region;
	struct vublk_session *session;
	int r = find_session(owner, &session, error);

	make_message(from, VUBLK_VU_ADD_MEM_REG, &message);
	region->guest_addr = vublk_section_get(from);
	region->size_bytes = vublk_section_get(from);
	region->user_addr = vublk_section_get(from);
	region->mmap_offset = vublk_section_get(from);
	if (!r)
		r = vublk_backend_memory_add(&session->memory, &message, error);
	vublk_vu_message_deinit(&message);
	return r;
}

static int read_area(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_vu_message message;
	struct vublk_vu_inflight *wire = &message.payload.inflight;
	struct vublk_session *session;
	int r = find_session(owner, &session, error);

	make_message(from, VUBLK_VU_SET_INFLIGHT_FD, &message);
	wire->mmap_offset = vublk_section_get(from);
	wire->num_queues = (uint16_t)vublk_section_get(from);
	wire->queue_size = (uint16_t)vublk_section_get(from);
	wire->mmap_size = vublk_inflight_split_area_bytes(wire->num_queues, wire->queue_size);
	if (!r)
		r = vublk_vu_check_inflight(&message, session->owner->num_queues, VUBLK_RING_MAX_SIZE,
					    error);
	if (!r)
		r = vublk_inflight_area_map(&session->inflight, &message, error);
	vublk_vu_message_deinit(&message);
	return r;
}

static int read_log(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_vu_message message;
	struct vublk_vu_log *wire = &message.payload.log;
	struct vublk_session *session;
	int r = find_session(owner, &session, error);

	make_message(from, VUBLK_VU_SET_LOG_BASE, &message);
	message.header.size = sizeof(*wire);
	wire->offset = vublk_section_get(from);
	wire->size_bytes = vublk_section_get(from);
	if (!r)
		r = vublk_backend_dirty_log_set(&session->dirty_log, &message,
						session->server.protocol_features, error);
	vublk_vu_message_deinit(&message);
	return r;
}

static int read_queue(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	uint64_t index = vublk_section_get(from);
	struct vublk_queue_setup *setup;
	struct vublk_session *session;
	int r = find_session(owner, &session, error);

	if (r < 0)
		return r;
	if (index >= session->owner->num_queues)
		return vublk_error_set(error, EINVAL, "the state names queue %u of a back-end with %u queues",
				       (unsigned)index, session->owner->num_queues);
	setup = &vublk_session_use_queue(session, (unsigned)index)->setup;
	setup->size = (unsigned)vublk_section_get(from);
	setup->base = (uint16_t)vublk_section_get(from);
	setup->has_addr = vublk_section_get(from);
	setup->has_kick = vublk_section_get(from);
	setup->enabled = vublk_section_get(from);
	setup->addr.index = (unsigned)index;
	setup->addr.flags = (unsigned)vublk_section_get(from);
	setup->addr.desc_user_addr = vublk_section_get(from);
	setup->addr.used_user_addr = vublk_section_get(from);
	setup->addr.avail_user_addr = vublk_section_get(from);
	setup->addr.log_guest_addr = vublk_section_get(from);
	setup->kick_fd = vublk_section_get_fd(from);
	setup->call_fd = vublk_section_get_fd(from);
	setup->err_fd = vublk_section_get_fd(from);
	if (!setup->size || (setup->size <= VUBLK_RING_MAX_SIZE && !(setup->size & (setup->size - 1))))
		return 0;
	return vublk_error_set(error, EINVAL, "queue %u has an invalid size: %u entries",
			       (unsigned)index, setup->size);
}

const struct vublk_section_type vublk_backend_sections[] = {
	{ "back-end", false, read_backend },
	{ "counters", true, read_counters },
	{ "front-end", false, read_frontend },
	{ "session", false, read_session },
	{ "memory", false, read_memory },
	{ "in-flight-area", false, read_area },
	{ "dirty-log", false, read_log },
	{ "queue", false, read_queue },
	{ NULL },
};
