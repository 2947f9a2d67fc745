/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Counts the back-end's requests; the counters are in worker/statistics.h. */
#include "backend/statistics.h"

#include "backend/backend.h"
#include "util/checked.h"

/* --- the worker ------------------------------------------------------------------------ */

void vublk_statistics_begin(struct vublk_request *request, uint32_t type, uint64_t bytes)
{
	request->stats = &request->queue->statistics->kinds[vublk_statistics_kind(type)];
	request->begun_bytes = bytes;
	request->begun_ns = vublk_now_ns();
	vublk_statistics_add_begun(request->stats);
}

/*
 * Returns how many bytes to count for the request. For a discard or write zeroes, these are the
 * bytes of its ranges.
 */
static uint64_t bytes_of(const struct vublk_request *request)
{
	uint64_t bytes = request->begun_bytes;

	for (unsigned i = 0; i < request->num_ranges; i++)
		bytes += (uint64_t)request->ranges[i].num_sectors * VUBLK_SECTOR_BYTES;
	return bytes;
}

void vublk_statistics_end(struct vublk_request *request, uint8_t status)
{
	vublk_statistics_add_ended(request->stats, vublk_now_ns() - request->begun_ns,
				   bytes_of(request), status == VIRTIO_BLK_S_OK);
	request->stats = NULL;
}

void vublk_statistics_leave(struct vublk_request *request)
{
	vublk_statistics_add_left(request->stats);
	request->stats = NULL;
}

/* --- any thread -------------------------------------------------------------------------- */

void vublk_backend_set_statistics(struct vublk_backend *backend, bool on)
{
	vublk_store_relaxed(&backend->statistics->is_on, on);
}

bool vublk_backend_has_statistics(const struct vublk_backend *backend)
{
	return vublk_load_relaxed(&backend->statistics->is_on);
}

int vublk_backend_get_stats(const struct vublk_backend *backend, unsigned queue,
			    enum vublk_request_kind kind, struct vublk_request_stats *stats,
			    size_t stats_bytes)
{
	return vublk_statistics_get(backend->statistics, queue, kind, stats, stats_bytes);
}
