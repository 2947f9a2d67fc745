/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reports the current state of a back-end, its disk and its front-end, and the positions of the
 * rings. All functions here run on the control thread.
 *
 * Key idea: a queue that runs belongs to its worker. So the positions of its ring are read from the
 * guest's memory, where both ends publish them, and not from the worker's fields.
 */
#include "backend/backend.h"

#include "util/checked.h"
#include "util/struct.h"
#include "virtio/split.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

_Static_assert(sizeof(((struct vublk_backend_info *)0)->serial) > VUBLK_BLK_ID_BYTES,
	       "room for a serial and its NUL");

const char *vublk_backend_state_name(enum vublk_backend_state state)
{
	static const char *const names[] = {
		[VUBLK_BACKEND_LISTENING] = "listening",
		[VUBLK_BACKEND_SERVING] = "serving",
		[VUBLK_BACKEND_STOPPING] = "stopping",
		[VUBLK_BACKEND_FINISHED] = "finished",
	};

	return state < VUBLK_ARRAY_SIZE(names) ? names[state] : NULL;
}

static void add_session(const struct vublk_session *session, struct vublk_backend_info *info)
{
	info->num_used_queues = session->num_used;
	info->write_cache = session->write_cache && !vublk_session_doubts_write_cache(session);
	info->peer_pid = vublk_socket_peer_pid(session->server.channel.fd);
	info->features = session->features;
	info->protocol_features = session->server.protocol_features;
}

void vublk_backend_get_info(const struct vublk_backend *backend, struct vublk_backend_info *info,
			    size_t info_bytes)
{
	const struct vublk_engine_geometry *geometry = &backend->engine->geometry;
	struct vublk_backend_info own = {
		.state = backend->state,
		.num_queues = backend->owner.num_queues,
		.num_threads = backend->num_workers,
		.size_bytes = geometry->size_bytes,
		.rescans = backend->engine->host->rescans,
		.block_bytes = geometry->block_bytes,
		.physical_block_bytes = geometry->physical_block_bytes,
		.read_only = geometry->read_only,
		.write_cache = backend->owner.write_cache,
		.drain = backend->drain.state,
	};

	memcpy(own.serial, backend->serial, VUBLK_BLK_ID_BYTES);
	snprintf(own.description, sizeof(own.description), "%s", backend->engine->description);
	if (backend->drain.state == VUBLK_BACKEND_DRAIN_FAILED)
		own.drain_failure = backend->drain.failure;
	if (backend->session)
		add_session(backend->session, &own);
	vublk_struct_out(info, info_bytes, &own, sizeof(own));
}

int vublk_backend_get_queue_info(const struct vublk_backend *backend, unsigned index,
				 struct vublk_backend_queue_info *info, size_t info_bytes)
{
	const struct vublk_session *session = backend->session;
	struct vublk_backend_queue_info own = { 0 };
	const struct vublk_queue *queue;

	if (!session || index >= session->num_used)
		return -EINVAL;
	queue = &session->queues[index];
	own.is_running = vublk_session_runs(queue);
	own.size = queue->setup.size;
	own.avail_index = own.used_index = queue->setup.base;
	if (own.is_running) {
		own.avail_index = vublk_load_relaxed(&queue->ring.memory.avail->idx);
		own.used_index = vublk_load_relaxed(&queue->ring.memory.used->idx);
	}
	vublk_struct_out(info, info_bytes, &own, sizeof(own));
	return 0;
}
