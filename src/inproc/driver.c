/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The functions with which a driver controls its device: set-up, start, stop, config and memory.
 *
 * Key idea: a call that any thread may make is a pair of functions. calls.c runs do_...() on the
 * bus's thread, which owns the device. The public function after it runs on the caller's thread,
 * and waits for the end of the call unless its name begins with vublk_inproc_begin_. All other
 * functions here must be called on the bus's thread.
 *
 * The initialization follows virtio 1.3, section 3.1.1.
 */
#include "inproc/private.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "virtio/blk-format.h"

#include <errno.h>
#include <stdlib.h>

/* --- queues, start and stop ------------------------------------------------------------ */

/* The alignment of struct vublk_inproc_queue's `extra`. The system's pages may be larger. */
#define PAGE_BYTES 4096

/*
 * The offsets of a queue's parts within the queue's share of the shared memory, and the size of
 * this share.
 */
struct layout {
	uint64_t avail, used, extra, bytes;
};

static struct layout lay_out(unsigned queue_size, uint64_t extra_bytes)
{
	struct layout layout;

	layout.avail = vublk_round_up(vublk_split_desc_bytes(queue_size), VUBLK_CACHE_LINE);
	layout.used = vublk_round_up(layout.avail + vublk_split_avail_bytes(queue_size),
				     VUBLK_CACHE_LINE);
	layout.extra = vublk_round_up(layout.used + vublk_split_used_bytes(queue_size),
				      PAGE_BYTES);
	layout.bytes = vublk_round_up(layout.extra + extra_bytes, PAGE_BYTES);
	return layout;
}

static int make_eventfds(struct vublk_inproc_queue *queue, unsigned index,
			 struct vublk_error *error)
{
	queue->kick_fd = vublk_eventfd_new();
	queue->call_fd = vublk_eventfd_new();
	if (queue->kick_fd >= 0 && queue->call_fd >= 0)
		return 0;
	return vublk_error_set_errno(error, queue->kick_fd < 0 ? -queue->kick_fd : -queue->call_fd,
				     "cannot create the eventfds of queue %u", index);
}

static int set_up_queue(struct vublk_inproc *inproc, unsigned index, const struct layout *layout,
			struct vublk_error *error)
{
	struct vublk_inproc_queue *queue = &inproc->queues[index];
	char *host = inproc->memory.rings + index * layout->bytes;
	uint64_t addr = inproc->memory.rings_addr + index * layout->bytes;
	struct vublk_device_queue for_device = {
		.size = (uint16_t)inproc->queue_size,
		.desc_addr = addr,
		.avail_addr = addr + layout->avail,
		.used_addr = addr + layout->used,
		.kick_fd = queue->kick_fd,
		.call_fd = queue->call_fd,
	};

	queue->ring.desc = (struct vring_desc *)host;
	queue->ring.avail = (struct vring_avail *)(host + layout->avail);
	queue->ring.used = (struct vring_used *)(host + layout->used);
	queue->extra = host + layout->extra;
	queue->extra_addr = addr + layout->extra;
	return vublk_device_set_queue(inproc->device, index, &for_device, sizeof(for_device),
				      error);
}

int vublk_inproc_set_up_device(struct vublk_inproc *inproc, struct vublk_error *error)
{
	struct layout layout = lay_out(inproc->queue_size, inproc->set_up.extra_bytes);
	uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	int r;

	r = vublk_device_set_status(inproc->device, status, error);
	if (!r)
		r = vublk_device_ack_features(inproc->device, inproc->set_up.features, error);
	if (!r)
		r = vublk_device_set_status(inproc->device, status | VIRTIO_CONFIG_S_FEATURES_OK,
					    error);
	if (!r)
		r = vublk_device_set_memory(inproc->device, inproc->memory.regions,
					    inproc->memory.num_regions, error);
	for (unsigned i = 0; !r && i < inproc->num_queues; i++)
		r = set_up_queue(inproc, i, &layout, error);
	return r;
}

int vublk_inproc_set_up(struct vublk_inproc *inproc, uint64_t features, uint64_t extra_bytes,
			struct vublk_error *error)
{
	struct layout layout = lay_out(inproc->queue_size, extra_bytes);
	int r;

	inproc->set_up = (struct vublk_inproc_set_up){ features, extra_bytes };
	inproc->queues = calloc(inproc->num_queues, sizeof(*inproc->queues));
	if (!inproc->queues)
		return vublk_error_set(error, ENOMEM, "cannot allocate memory for %u queues",
				       inproc->num_queues);
	for (unsigned i = 0; i < inproc->num_queues; i++)
		inproc->queues[i].kick_fd = inproc->queues[i].call_fd = -1;
	r = vublk_inproc_memory_make_rings(&inproc->memory, inproc->num_queues * layout.bytes, error);
	for (unsigned i = 0; !r && i < inproc->num_queues; i++)
		r = make_eventfds(&inproc->queues[i], i, error);
	return r ? r : vublk_inproc_set_up_device(inproc, error);
}

int vublk_inproc_start(struct vublk_inproc *inproc, struct vublk_error *error)
{
	inproc->await = VUBLK_INPROC_AWAIT_STARTED;
	return vublk_device_set_status(inproc->device, vublk_device_status(inproc->device) |
				       VIRTIO_CONFIG_S_DRIVER_OK, error);
}

static int do_stop(struct vublk_inproc *inproc, void *args, struct vublk_error *error)
{
	enum vublk_device_state state = vublk_device_state(inproc->device);
	int r;

	if (state != VUBLK_DEVICE_RUNNING && state != VUBLK_DEVICE_STOPPING)
		return 0;
	inproc->await = VUBLK_INPROC_AWAIT_STOPPED;
	if (state == VUBLK_DEVICE_STOPPING)
		return 1;
	r = vublk_device_set_status(inproc->device, 0, error);
	return r ? r : 1;
}

int vublk_inproc_stop(struct vublk_inproc *inproc, struct vublk_error *error)
{
	return vublk_inproc_make_call(inproc, do_stop, NULL, error);
}

/* --- config ------------------------------------------------------------------------------ */

void vublk_inproc_read_config(struct vublk_inproc *inproc, void *config, unsigned bytes,
			      uint32_t *generation)
{
	vublk_device_config_read(inproc->device, 0, config, bytes);
	*generation = vublk_device_config_generation(inproc->device);
}

static int do_write_wce(struct vublk_inproc *inproc, void *args, struct vublk_error *error)
{
	uint8_t wce = *(const bool *)args;

	inproc->await = VUBLK_INPROC_AWAIT_CONFIG;
	return vublk_device_config_write(inproc->device, VUBLK_BLK_WCE_OFFSET, &wce, 1, error);
}

int vublk_inproc_write_wce(struct vublk_inproc *inproc, bool on, struct vublk_error *error)
{
	return vublk_inproc_make_call(inproc, do_write_wce, &on, error);
}

/* --- memory ------------------------------------------------------------------------------- */

/*
 * Returns whether a start or stop is under way, during which the device accepts no memory. If so,
 * the current call runs again when the start or stop has ended.
 */
static bool has_to_settle(struct vublk_inproc *inproc)
{
	enum vublk_device_state state = vublk_device_state(inproc->device);

	if (state != VUBLK_DEVICE_STARTING && state != VUBLK_DEVICE_STOPPING)
		return false;
	inproc->await = VUBLK_INPROC_AWAIT_SETTLED;
	return true;
}

/*
 * Gives the device the current set of regions. Returns 0 if the change is complete, 1 if
 * memory_changed() will report the result, or a negative errno.
 */
static int hand_over_memory(struct vublk_inproc *inproc, struct vublk_error *error)
{
	int r;

	inproc->await = VUBLK_INPROC_AWAIT_MEMORY;
	r = vublk_device_set_memory(inproc->device, inproc->memory.regions, inproc->memory.num_regions,
				    error);
	if (r <= 0)
		vublk_inproc_memory_changed(&inproc->memory, !r);
	return r;
}

static int do_add_region(struct vublk_inproc *inproc, void *opaque, struct vublk_error *error)
{
	struct vublk_inproc_region_call *region = opaque;
	int r;

	if (has_to_settle(inproc))
		return 1;
	r = vublk_inproc_memory_add(&inproc->memory, inproc->info.backend_memory_slots,
				    region->address, region->bytes, region->fd, region->fd_offset,
				    error);
	if (r)
		return r;
	region->fd = -1; /* inproc->memory owns the descriptor now */
	return hand_over_memory(inproc, error);
}

int vublk_inproc_region_init(struct vublk_inproc_region_call *region, void *address,
			     uint64_t bytes, int fd, uint64_t fd_offset,
			     struct vublk_error *error)
{
	*region = (struct vublk_inproc_region_call){
		.address = address, .bytes = bytes, .fd = -1, .fd_offset = fd_offset,
	};
	return vublk_inproc_memory_prepare(address, bytes, fd, fd_offset, &region->fd, error);
}

void vublk_inproc_begin_add(struct vublk_inproc *inproc, struct vublk_inproc_region_call *region)
{
	vublk_inproc_begin_call(inproc, &region->call, false, do_add_region, region);
}

static int do_remove_region(struct vublk_inproc *inproc, void *opaque, struct vublk_error *error)
{
	const struct vublk_inproc_region_call *region = opaque;
	int r;

	if (has_to_settle(inproc))
		return 1;
	r = vublk_inproc_memory_remove(&inproc->memory, region->address, error);
	if (r)
		return r;
	r = hand_over_memory(inproc, NULL);
	return r < 0 ? 0 : r;
}

void vublk_inproc_begin_remove(struct vublk_inproc *inproc, struct vublk_inproc_region_call *region)
{
	vublk_inproc_begin_call(inproc, &region->call, false, do_remove_region, region);
}

void vublk_inproc_begin_undo(struct vublk_inproc *inproc, struct vublk_inproc_region_call *region)
{
	vublk_inproc_begin_call(inproc, &region->call, true, do_remove_region, region);
}
