/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Creates, maps and unmaps the in-flight area of a session. */
#include "backend/inflight-area.h"

#include "proto/vhost-user/request.h"
#include "util/atomic.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/memfd.h"
#include "virtio/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>

int vublk_inflight_area_new(struct vublk_inflight_area *area, uint16_t num_queues,
			    uint16_t queue_size, int *fd, struct vublk_error *error)
{
	uint64_t bytes = vublk_inflight_split_area_bytes(num_queues, queue_size);
	VUBLK_FD int memfd = vublk_memfd_new("vublk-inflight", bytes, error);
	VUBLK_FD int own = memfd < 0 ? -1 : fcntl(memfd, F_DUPFD_CLOEXEC, 0);
	void *mapping;

	if (memfd < 0)
		return memfd;
	if (own < 0)
		return vublk_error_set_errno(error, errno, "cannot duplicate the descriptor of the in-flight "
					     "area");
	mapping = vublk_map_guarded(memfd, 0, bytes, area->fault, VUBLK_FAULT_INFLIGHT, error);
	if (!mapping)
		return -ENOMEM;
	vublk_inflight_area_unmap(area);
	*area = (struct vublk_inflight_area){
		.part = { mapping, bytes, mapping },
		.num_queues = num_queues,
		.queue_size = queue_size,
		.fd = vublk_fd_steal(&own),
		.fault = area->fault,
	};
	*fd = vublk_fd_steal(&memfd);
	return 0;
}

int vublk_inflight_area_map(struct vublk_inflight_area *area,
			    struct vublk_vu_message *message, struct vublk_error *error)
{
	const struct vublk_vu_inflight *wire = &message->payload.inflight;
	uint64_t bytes = vublk_inflight_split_area_bytes(wire->num_queues, wire->queue_size);
	struct vublk_memory_file file;
	struct vublk_memory_part part;
	int r = vublk_vu_check_inflight_file(message, bytes, VUBLK_INFLIGHT_ALIGN, &file, error);

	if (!r)
		r = vublk_memory_file_map(message->fds[0], &file, wire->mmap_offset, bytes,
					  area->fault, VUBLK_FAULT_INFLIGHT, &part, error);
	if (r)
		return r;
	vublk_inflight_area_unmap(area);
	*area = (struct vublk_inflight_area){
		.part = part,
		.num_queues = wire->num_queues,
		.queue_size = wire->queue_size,
		.fd = vublk_vu_message_take_fd(message, 0),
		.mmap_offset = wire->mmap_offset,
		.fault = area->fault,
	};
	return 0;
}

void vublk_inflight_area_unmap(struct vublk_inflight_area *area)
{
	if (!area->part.mapping)
		return;
	vublk_unmap(area->part.mapping, area->part.mapping_bytes);
	vublk_fd_close(&area->fd);
	*area = (struct vublk_inflight_area){ .fault = area->fault };
}

static struct vublk_inflight_split *region_at(const struct vublk_inflight_area *area,
					      unsigned index)
{
	return (struct vublk_inflight_split *)
		(area->part.start + index * vublk_inflight_split_region_bytes(area->queue_size));
}

bool vublk_inflight_area_is_used(const struct vublk_inflight_area *area)
{
	for (unsigned i = 0; i < area->num_queues; i++)
		if (vublk_load_relaxed(&region_at(area, i)->version))
			return true;
	return false;
}

int vublk_inflight_area_region(const struct vublk_inflight_area *area, unsigned index,
			       unsigned size, struct vublk_inflight_split **region,
			       struct vublk_error *error)
{
	*region = NULL;
	if (!area->part.mapping)
		return 0;
	if (index < area->num_queues && size <= area->queue_size) {
		*region = region_at(area, index);
		return 0;
	}
	return vublk_error_set(error, EPROTO,
			       "queue %u of %u entries does not fit the in-flight area, which is "
			       "for %u queue%s, numbered from 0, of at most %u entries", index,
			       size, area->num_queues, area->num_queues == 1 ? "" : "s",
			       area->queue_size);
}
