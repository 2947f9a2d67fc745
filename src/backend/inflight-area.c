/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The in-flight area of a session: it is created or mapped, checked, and unmapped. */
#include "backend/inflight-area.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/memfd.h"
#include "virtio/ring.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

static int check_counts(unsigned num_queues, unsigned queue_size, struct vublk_error *error)
{
	if (num_queues && queue_size && queue_size <= VUBLK_RING_MAX_SIZE)
		return 0;
	return vublk_error_set(error, EPROTO,
			       "an in-flight area for %u queues of %u entries was requested; "
			       "expected at least 1 queue, of 1 to %u entries",
			       num_queues, queue_size, VUBLK_RING_MAX_SIZE);
}

int vublk_inflight_area_new(struct vublk_inflight_area *area, uint16_t num_queues,
			    uint16_t queue_size, int *fd, struct vublk_error *error)
{
	uint64_t bytes = vublk_inflight_split_area_bytes(num_queues, queue_size);
	VUBLK_FD int memfd = -1;
	void *mapping;
	int r = check_counts(num_queues, queue_size, error);

	if (r)
		return r;
	memfd = vublk_memfd_new("vublk-inflight", bytes, error);
	if (memfd < 0)
		return memfd;
	mapping = vublk_map_guarded(memfd, 0, bytes, area->fault, VUBLK_FAULT_INFLIGHT, error);
	if (!mapping)
		return -ENOMEM;
	vublk_inflight_area_unmap(area);
	*area = (struct vublk_inflight_area){
		.mapping = mapping,
		.mapping_bytes = bytes,
		.regions = mapping,
		.num_queues = num_queues,
		.queue_size = queue_size,
		.fault = area->fault,
	};
	*fd = vublk_fd_steal(&memfd);
	return 0;
}

static int check_area(const struct vublk_vu_inflight *wire, int fd, unsigned max_queues,
		      struct vublk_error *error)
{
	uint64_t bytes = vublk_inflight_split_area_bytes(wire->num_queues, wire->queue_size);
	struct stat st;
	int r = check_counts(wire->num_queues, wire->queue_size, error);

	if (r)
		return r;
	if (wire->num_queues > max_queues)
		return vublk_error_set(error, EPROTO,
				       "SET_INFLIGHT_FD has %u queues; this disk has %u",
				       wire->num_queues, max_queues);
	if (wire->mmap_size < bytes)
		return vublk_error_set(error, EPROTO,
				       "SET_INFLIGHT_FD has %" PRIu64 " bytes; %u queues of %u "
				       "entries need %" PRIu64, (uint64_t)wire->mmap_size,
				       wire->num_queues, wire->queue_size, bytes);
	if (wire->mmap_offset % VUBLK_INFLIGHT_ALIGN)
		return vublk_error_set(error, EPROTO,
				       "SET_INFLIGHT_FD has the offset %" PRIu64
				       ", which is not a multiple of %u", (uint64_t)wire->mmap_offset,
				       VUBLK_INFLIGHT_ALIGN);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
	    !vublk_range_within(wire->mmap_offset, bytes, (uint64_t)st.st_size))
		return vublk_error_set(error, EPROTO,
				       "SET_INFLIGHT_FD's descriptor is not a memory file of at "
				       "least %" PRIu64 " bytes after the offset %" PRIu64,
				       bytes, (uint64_t)wire->mmap_offset);
	return 0;
}

int vublk_inflight_area_map(struct vublk_inflight_area *area,
			    const struct vublk_vu_inflight *wire, int fd, unsigned max_queues,
			    struct vublk_error *error)
{
	uint64_t bytes = vublk_inflight_split_area_bytes(wire->num_queues, wire->queue_size);
	uint64_t inside = wire->mmap_offset % (uint64_t)sysconf(_SC_PAGESIZE);
	void *mapping;
	int r = check_area(wire, fd, max_queues, error);

	if (r)
		return r;
	mapping = vublk_map_guarded(fd, wire->mmap_offset - inside, inside + bytes, area->fault,
				    VUBLK_FAULT_INFLIGHT, error);
	if (!mapping)
		return -ENOMEM;
	vublk_inflight_area_unmap(area);
	*area = (struct vublk_inflight_area){
		.mapping = mapping,
		.mapping_bytes = inside + bytes,
		.regions = (char *)mapping + inside,
		.num_queues = wire->num_queues,
		.queue_size = wire->queue_size,
		.fault = area->fault,
	};
	return 0;
}

void vublk_inflight_area_unmap(struct vublk_inflight_area *area)
{
	vublk_unmap(area->mapping, area->mapping_bytes);
	*area = (struct vublk_inflight_area){ .fault = area->fault };
}

static struct vublk_inflight_split *region_at(const struct vublk_inflight_area *area,
					      unsigned index)
{
	return (struct vublk_inflight_split *)
		(area->regions + index * vublk_inflight_split_region_bytes(area->queue_size));
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
	if (!area->mapping)
		return 0;
	if (index < area->num_queues && size <= area->queue_size) {
		*region = region_at(area, index);
		return 0;
	}
	return vublk_error_set(error, EPROTO,
			       "queue %u has %u entries; the in-flight area is for %u queues of "
			       "%u entries", index, size, area->num_queues, area->queue_size);
}
