/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VMM's memory table, and the translation of the VMM's user addresses to guest addresses.
 *
 * Key idea: if the back-end refuses a change, everything must stay as it was before the message. So
 * a change makes a new table, and the relay keeps the old table until the device matches the
 * set-up.
 *
 * Specification: "Memory region description", "VHOST_USER_ADD_MEM_REG".
 */
#include "bus/relay/messages.h"

#include "proto/vhost-user/server.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/memfd.h"
#include "virtio/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>

/* --- tables ---------------------------------------------------------------- */

static void clear(struct vublk_relay_memory *memory)
{
	for (unsigned i = 0; i < memory->num_regions; i++)
		vublk_fd_close(&memory->regions[i].fd);
	free(memory->regions);
	*memory = (struct vublk_relay_memory){ 0 };
}

static int make_room(struct vublk_relay_memory *memory, unsigned count,
		     struct vublk_error *error)
{
	*memory = (struct vublk_relay_memory){
		.regions = calloc(count ? count : 1, sizeof(*memory->regions)),
	};
	return memory->regions ? 0 : vublk_error_set_errno(error, ENOMEM,
							   "cannot allocate a memory table");
}

/*
 * Makes `memory` the current table. The table from before the first pending change is kept, so that
 * vublk_relay_memory_roll_back() can restore it.
 */
static void change(struct vublk_relay *relay, const struct vublk_relay_memory *memory)
{
	if (relay->has_memory_before)
		clear(&relay->memory);
	else
		relay->memory_before = relay->memory;
	relay->has_memory_before = true;
	relay->memory = *memory;
	relay->changes |= VUBLK_RELAY_MEMORY;
}

void vublk_relay_memory_commit(struct vublk_relay *relay)
{
	clear(&relay->memory_before);
	relay->has_memory_before = false;
}

bool vublk_relay_memory_roll_back(struct vublk_relay *relay)
{
	if (!relay->has_memory_before)
		return false;
	clear(&relay->memory);
	relay->memory = relay->memory_before;
	relay->memory_before = (struct vublk_relay_memory){ 0 };
	relay->has_memory_before = false;
	return true;
}

void vublk_relay_memory_clear(struct vublk_relay *relay)
{
	clear(&relay->memory);
	vublk_relay_memory_commit(relay);
}

/* --- regions --------------------------------------------------------------- */

static int check(const struct vublk_relay_memory *memory, const struct vublk_vu_region *wire,
		 int fd, struct vublk_error *error)
{
	struct vublk_memory_file file;
	int r = vublk_vu_check_region(wire, fd, &file, error);

	for (unsigned i = 0; !r && i < memory->num_regions; i++)
		r = vublk_vu_check_overlap(wire, &memory->regions[i].wire, error);
	return r;
}

/* Adds a region. Takes ownership of the descriptor `given`, even on failure. */
static int add_region(struct vublk_relay_memory *memory, const struct vublk_vu_region *wire,
		      int given, struct vublk_error *error)
{
	VUBLK_FD int fd = given;
	int r = check(memory, wire, fd, error);

	if (r < 0)
		return r;
	memory->regions[memory->num_regions++] = (struct vublk_relay_region){
		.wire = *wire,
		.fd = vublk_fd_steal(&fd),
	};
	return 0;
}

static int copy_region(struct vublk_relay_memory *memory, const struct vublk_relay_region *region,
		       struct vublk_error *error)
{
	int fd = fcntl(region->fd, F_DUPFD_CLOEXEC, 0);

	if (fd < 0)
		return vublk_error_set_errno(error, errno, "cannot duplicate the descriptor of a "
					     "memory region");
	memory->regions[memory->num_regions] = *region;
	memory->regions[memory->num_regions++].fd = fd;
	return 0;
}

/*
 * Makes `memory` a copy of the current table, with room for one more region. Leaves out the region
 * at index `except` (UINT_MAX: none).
 */
static int copy(const struct vublk_relay *relay, unsigned except,
		struct vublk_relay_memory *memory, struct vublk_error *error)
{
	int r = make_room(memory, relay->memory.num_regions + 1, error);

	for (unsigned i = 0; i < relay->memory.num_regions && !r; i++)
		if (i != except)
			r = copy_region(memory, &relay->memory.regions[i], error);
	return r;
}

/* --- messages -------------------------------------------------------------- */

unsigned vublk_relay_memory_slots(const struct vublk_relay *relay)
{
	return VUBLK_MIN(relay->bus->backend.backend_memory_slots,
			 (uint32_t)VUBLK_MEMORY_MAX_REGIONS);
}

static int finish_change(struct vublk_relay *relay, struct vublk_relay_memory *memory, int r)
{
	if (r < 0)
		clear(memory);
	else
		change(relay, memory);
	return r;
}

int vublk_relay_memory_set(struct vublk_relay *relay, struct vublk_error *error)
{
	const struct vublk_vu_mem_table *table = &relay->server.request.payload.table;
	struct vublk_relay_memory memory = { 0 };
	int r = vublk_vu_check_mem_table(&relay->server.request, error);

	if (!r)
		r = make_room(&memory, table->num_regions, error);
	for (unsigned i = 0; !r && i < table->num_regions; i++)
		r = add_region(&memory, &table->regions[i],
			       vublk_vu_message_take_fd(&relay->server.request, i), error);
	return finish_change(relay, &memory, r);
}

int vublk_relay_memory_add(struct vublk_relay *relay, struct vublk_error *error)
{
	struct vublk_relay_memory memory = { 0 };
	int r = vublk_vu_check_slots(relay->memory.num_regions, vublk_relay_memory_slots(relay),
				     error);

	if (!r)
		r = copy(relay, UINT_MAX, &memory, error);
	if (!r)
		r = add_region(&memory, &relay->server.request.payload.mem_reg.region,
			       vublk_vu_message_take_fd(&relay->server.request, 0), error);
	return finish_change(relay, &memory, r);
}

int vublk_relay_memory_remove(struct vublk_relay *relay, struct vublk_error *error)
{
	struct vublk_relay_memory memory = { 0 };

	for (unsigned i = 0; i < relay->memory.num_regions; i++)
		if (vublk_vu_names_region(&relay->server.request, &relay->memory.regions[i].wire))
			return finish_change(relay, &memory, copy(relay, i, &memory, error));
	return vublk_vu_refuse_removal(&relay->server.request, error);
}

/* --- in an upgrade ------------------------------------------------------------- */

int vublk_relay_memory_take(struct vublk_relay *relay, const struct vublk_vu_region *wire, int fd,
			    struct vublk_error *error)
{
	struct vublk_relay_memory *memory = &relay->memory;
	struct vublk_relay_region *regions =
		realloc(memory->regions, (memory->num_regions + 1) * sizeof(*regions));

	if (!regions) {
		vublk_fd_close(&fd);
		return vublk_error_set_errno(error, ENOMEM, "cannot allocate a memory table");
	}
	memory->regions = regions;
	return add_region(memory, wire, fd, error);
}

/* --- for the device -------------------------------------------------------- */

int vublk_relay_memory_give(struct vublk_relay *relay, struct vublk_error *error)
{
	unsigned count = relay->memory.num_regions;
	struct vublk_memory_region *regions = calloc(count ? count : 1, sizeof(*regions));
	int r;

	if (!regions)
		return vublk_error_set_errno(error, ENOMEM, "cannot allocate a memory table");
	for (unsigned i = 0; i < count; i++) {
		const struct vublk_relay_region *region = &relay->memory.regions[i];

		regions[i] = (struct vublk_memory_region){
			.guest_addr = region->wire.guest_addr,
			.size_bytes = region->wire.size_bytes,
			.fd = region->fd,
			.fd_offset = region->wire.mmap_offset,
		};
	}
	r = vublk_device_set_memory(relay->device, regions, count, error);
	free(regions);
	return r;
}

static bool translate(const struct vublk_relay_memory *memory, uint64_t user_addr, uint64_t bytes,
		      uint64_t *guest_addr)
{
	for (unsigned i = 0; i < memory->num_regions; i++) {
		const struct vublk_vu_region *wire = &memory->regions[i].wire;

		if (user_addr < wire->user_addr ||
		    !vublk_range_within(user_addr - wire->user_addr, bytes, wire->size_bytes))
			continue;
		*guest_addr = wire->guest_addr + (user_addr - wire->user_addr);
		return true;
	}
	return false;
}

bool vublk_relay_memory_find_ring(const struct vublk_relay *relay,
				  const struct vublk_relay_queue *queue,
				  struct vublk_device_queue *ring)
{
	const struct vublk_relay_memory *memory = &relay->memory;
	uint16_t size = (uint16_t)queue->size;

	ring->size = size;
	return translate(memory, queue->addr.desc_user_addr, vublk_split_desc_bytes(size),
			 &ring->desc_addr) &&
	       translate(memory, queue->addr.avail_user_addr, vublk_split_avail_bytes(size),
			 &ring->avail_addr) &&
	       translate(memory, queue->addr.used_user_addr, vublk_split_used_bytes(size),
			 &ring->used_addr);
}

/* --- the warning that memory is not shared ------------------------------------ */

void vublk_relay_memory_check_shared(struct vublk_relay *relay)
{
	const struct vublk_relay_region *lowest = relay->memory.regions;
	bool is_set_up = false;

	for (unsigned i = 1; i < relay->memory.num_regions; i++)
		if (relay->memory.regions[i].wire.guest_addr < lowest->wire.guest_addr)
			lowest = &relay->memory.regions[i];
	for (unsigned i = 0; i < relay->num_queues; i++) {
		const struct vublk_relay_queue *queue = &relay->queues[i];

		is_set_up |= vublk_relay_is_started(queue) && queue->enabled && queue->has_addr;
	}
	if (!is_set_up || relay->said_unshared ||
	    (relay->memory.num_regions &&
	     (vublk_vu_is_no_vm(lowest->wire.guest_addr, lowest->wire.user_addr) ||
	      !vublk_file_is_blank(lowest->fd, lowest->wire.mmap_offset,
				   lowest->wire.size_bytes))))
		return;
	relay->said_unshared = true;
	vublk_log_limited(&relay->bus->log, &relay->bus->limit, VUBLK_LOG_WARNING, "%s%s",
			  relay->memory.num_regions ? VUBLK_VU_PRIVATE_MEMORY :
			  VUBLK_VU_NO_MEMORY, VUBLK_VU_SHARE_IT);
}
