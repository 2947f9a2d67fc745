/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VMM's memory table, and the translation of its user addresses to guest addresses.
 *
 * The device checks guest addresses and files when it gets a table. This file makes the checks that
 * the device cannot make because it does not know user addresses.
 *
 * Key idea: a message whose change the back-end refuses must leave everything as it was. So a
 * change is a new table, and the old one stays until the message is done.
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
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>

/* --- tables ---------------------------------------------------------------- */

static void clear(struct vublk_relay_memory *memory)
{
	for (unsigned i = 0; i < memory->num_regions; i++)
		vublk_fd_close(&memory->regions[i].region.fd);
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
							   "cannot keep a memory table");
}

/* Makes `memory` the current table. Keeps the previous one, unless an older one is already kept. */
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

static bool wraps(uint64_t addr, uint64_t bytes)
{
	return bytes - 1 > UINT64_MAX - addr;
}

static int check_region(const struct vublk_relay_memory *memory, const struct vublk_vu_region *wire,
			struct vublk_error *error)
{
	if (!wire->size_bytes || wraps(wire->guest_addr, wire->size_bytes) ||
	    wraps(wire->user_addr, wire->size_bytes))
		return vublk_error_set(error, EPROTO,
				       "the memory region of 0x%" PRIx64 " bytes at guest address 0x%"
				       PRIx64 " and user address 0x%" PRIx64 " is empty, or runs past "
				       "the end of the address space", wire->size_bytes,
				       wire->guest_addr, wire->user_addr);
	for (unsigned i = 0; i < memory->num_regions; i++) {
		const struct vublk_relay_region *other = &memory->regions[i];

		if (!vublk_ranges_overlap(wire->guest_addr, wire->size_bytes,
					  other->region.guest_addr, other->region.size_bytes) &&
		    !vublk_ranges_overlap(wire->user_addr, wire->size_bytes, other->user_addr,
					  other->region.size_bytes))
			continue;
		return vublk_error_set(error, EPROTO,
				       "the memory regions of 0x%" PRIx64 " bytes at 0x%" PRIx64
				       " and of 0x%" PRIx64 " bytes at 0x%" PRIx64
				       " overlap, in guest or in user addresses", wire->size_bytes,
				       wire->guest_addr, other->region.size_bytes,
				       other->region.guest_addr);
	}
	return 0;
}

/* Takes the descriptor, even if this fails. */
static int add_region(struct vublk_relay_memory *memory, const struct vublk_vu_region *wire,
		      int given, struct vublk_error *error)
{
	VUBLK_FD int fd = given;
	int r = check_region(memory, wire, error);

	if (r < 0)
		return r;
	memory->regions[memory->num_regions++] = (struct vublk_relay_region){
		.region = {
			.guest_addr = wire->guest_addr,
			.size_bytes = wire->size_bytes,
			.fd = vublk_fd_steal(&fd),
			.fd_offset = wire->mmap_offset,
		},
		.user_addr = wire->user_addr,
	};
	return 0;
}

static int copy_region(struct vublk_relay_memory *memory, const struct vublk_relay_region *region,
		       struct vublk_error *error)
{
	int fd = fcntl(region->region.fd, F_DUPFD_CLOEXEC, 0);

	if (fd < 0)
		return vublk_error_set_errno(error, errno, "cannot keep a memory region's descriptor");
	memory->regions[memory->num_regions] = *region;
	memory->regions[memory->num_regions++].region.fd = fd;
	return 0;
}

/*
 * Makes a copy of the table without the region `except` (UINT_MAX: with all regions), and with room
 * for one more.
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
	int r;

	if (relay->memory.num_regions >= vublk_relay_memory_slots(relay))
		return vublk_error_set(error, ENOSPC, "ADD_MEM_REG: all %u memory slots are used",
				       relay->memory.num_regions);
	r = copy(relay, UINT_MAX, &memory, error);
	if (!r)
		r = add_region(&memory, &relay->server.request.payload.mem_reg.region,
			       vublk_vu_message_take_fd(&relay->server.request, 0), error);
	return finish_change(relay, &memory, r);
}

int vublk_relay_memory_remove(struct vublk_relay *relay, struct vublk_error *error)
{
	const struct vublk_vu_region *wire = &relay->server.request.payload.mem_reg.region;
	struct vublk_relay_memory memory = { 0 };

	for (unsigned i = 0; i < relay->memory.num_regions; i++) {
		const struct vublk_relay_region *region = &relay->memory.regions[i];

		if (region->region.guest_addr == wire->guest_addr &&
		    region->user_addr == wire->user_addr &&
		    region->region.size_bytes == wire->size_bytes)
			return finish_change(relay, &memory, copy(relay, i, &memory, error));
	}
	return vublk_error_set(error, EPROTO, "REM_MEM_REG names 0x%" PRIx64 " bytes at 0x%" PRIx64
			       ", but no such region was added", wire->size_bytes,
			       wire->guest_addr);
}

/* --- for the device -------------------------------------------------------- */

int vublk_relay_memory_give(struct vublk_relay *relay, struct vublk_error *error)
{
	unsigned count = relay->memory.num_regions;
	struct vublk_memory_region *regions = calloc(count ? count : 1, sizeof(*regions));
	int r;

	if (!regions)
		return vublk_error_set_errno(error, ENOMEM, "cannot keep a memory table");
	for (unsigned i = 0; i < count; i++)
		regions[i] = relay->memory.regions[i].region;
	r = vublk_device_set_memory(relay->device, regions, count, error);
	free(regions);
	return r;
}

static bool translate(const struct vublk_relay_memory *memory, uint64_t user_addr, uint64_t bytes,
		      uint64_t *guest_addr)
{
	for (unsigned i = 0; i < memory->num_regions; i++) {
		const struct vublk_relay_region *region = &memory->regions[i];

		if (user_addr < region->user_addr ||
		    !vublk_range_within(user_addr - region->user_addr, bytes,
					region->region.size_bytes))
			continue;
		*guest_addr = region->region.guest_addr + (user_addr - region->user_addr);
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

/* --- memory that is not shared ------------------------------------------------- */

void vublk_relay_memory_check_shared(struct vublk_relay *relay)
{
	const struct vublk_relay_region *lowest = relay->memory.regions;
	bool is_set_up = false;

	for (unsigned i = 1; i < relay->memory.num_regions; i++)
		if (relay->memory.regions[i].region.guest_addr < lowest->region.guest_addr)
			lowest = &relay->memory.regions[i];
	for (unsigned i = 0; i < relay->num_queues; i++) {
		const struct vublk_relay_queue *queue = &relay->queues[i];

		is_set_up |= vublk_relay_is_started(queue) && queue->enabled && queue->has_addr;
	}
	if (!is_set_up || relay->said_unshared ||
	    (relay->memory.num_regions &&
	     (vublk_vu_is_no_vm(lowest->region.guest_addr, lowest->user_addr) ||
	      !vublk_file_is_blank(lowest->region.fd, lowest->region.fd_offset,
				   lowest->region.size_bytes))))
		return;
	relay->said_unshared = true;
	vublk_log_limited(&relay->bus->log, &relay->bus->limit, VUBLK_LOG_WARNING, "%s%s",
			  relay->memory.num_regions ? VUBLK_VU_PRIVATE_MEMORY :
			  VUBLK_VU_NO_MEMORY, VUBLK_VU_SHARE_IT);
}
