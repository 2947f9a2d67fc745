/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file maps the guest memory that the front-end shares ("Memory regions description").
 *
 * Key idea: a region must lie within its file, because an access past the end would be a bus
 * error later, on a worker. A mapping begins at a multiple of the file's block size, which is
 * the page size for huge pages.
 */
#include "backend/memory.h"

#include "proto/vhost-user/server.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/memfd.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_ALIGN (UINT64_C(1) << 30) /* the largest huge page */

struct vublk_memory_mapping {
	void *address;
	uint64_t bytes;
};

static uint64_t alignment_of(const struct stat *st)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t block = (uint64_t)st->st_blksize;

	return block > page && block <= MAX_ALIGN && vublk_is_power_of_two(block) ? block : page;
}

static int check_region(const struct vublk_vu_region *region, const struct stat *st,
			struct vublk_error *error)
{
	if (!region->size_bytes)
		return vublk_error_set(error, EPROTO, "the memory region at 0x%" PRIx64
				       " is empty", region->guest_addr);
	if (!S_ISREG(st->st_mode))
		return vublk_error_set(error, EPROTO, "the memory region at 0x%" PRIx64
				       " comes with a descriptor that is not a memory file",
				       region->guest_addr);
	if (!vublk_range_within(region->mmap_offset, region->size_bytes, (uint64_t)st->st_size))
		return vublk_error_set(error, EPROTO, "the memory region at 0x%" PRIx64 " has 0x%"
				       PRIx64 " bytes at offset 0x%" PRIx64
				       ", past the 0x%" PRIx64 " bytes of its file",
				       region->guest_addr, region->size_bytes,
				       region->mmap_offset, (uint64_t)st->st_size);
	return 0;
}

static int map_region(const struct vublk_vu_region *wire, int fd, struct vublk_fault *fault,
		      struct vublk_memory_map_region *region,
		      struct vublk_memory_mapping *mapping, struct vublk_error *error)
{
	uint64_t align, start;
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return vublk_error_set_errno(error, errno, "cannot examine the file of the memory "
					     "region at 0x%" PRIx64, wire->guest_addr);
	r = check_region(wire, &st, error);
	if (r)
		return r;
	align = alignment_of(&st);
	start = wire->mmap_offset & ~(align - 1);
	mapping->bytes = vublk_round_up(wire->mmap_offset - start + wire->size_bytes, align);
	mapping->address = vublk_map_guarded(fd, start, mapping->bytes, fault,
					     VUBLK_FAULT_MEMORY, error);
	if (!mapping->address) {
		r = -errno;
		vublk_error_prepend(error, "the memory region at 0x%" PRIx64, wire->guest_addr);
		return r;
	}
	*region = (struct vublk_memory_map_region){
		.guest_addr = wire->guest_addr,
		.user_addr = wire->user_addr,
		.size_bytes = wire->size_bytes,
		.host = (char *)mapping->address + (wire->mmap_offset - start),
	};
	return 0;
}

/* Allocates tables for `count` regions, all empty. */
static int make_room(struct vublk_backend_memory *memory, unsigned count,
		     struct vublk_fault *fault, struct vublk_error *error)
{
	*memory = (struct vublk_backend_memory){ .fault = fault };
	memory->map.regions = calloc(count ? count : 1, sizeof(*memory->map.regions));
	memory->mappings = calloc(count ? count : 1, sizeof(*memory->mappings));
	if (memory->map.regions && memory->mappings)
		return 0;
	vublk_backend_memory_clear(memory);
	return vublk_error_set(error, ENOMEM, "no memory for a table of %u memory regions", count);
}

/* Frees the tables, but not the mappings, because another vublk_backend_memory owns them now. */
static void drop_tables(struct vublk_backend_memory *memory)
{
	free(memory->map.regions);
	free(memory->mappings);
	*memory = (struct vublk_backend_memory){ .fault = memory->fault };
}

/*
 * The check sorts the regions. This function then sorts the mappings in the same order: the host
 * address of each region lies in exactly one mapping.
 */
static int check_and_sort(struct vublk_backend_memory *memory, struct vublk_error *error)
{
	int r = vublk_memory_map_check(&memory->map, error);

	if (r)
		return r;
	for (unsigned i = 0; i < memory->map.num_regions; i++)
		for (unsigned k = i; k < memory->map.num_regions; k++) {
			struct vublk_memory_mapping mapping = memory->mappings[k];
			uintptr_t start = (uintptr_t)mapping.address;

			if ((uintptr_t)memory->map.regions[i].host - start >= mapping.bytes)
				continue;
			memory->mappings[k] = memory->mappings[i];
			memory->mappings[i] = mapping;
			break;
		}
	return 0;
}

/*
 * Does the same as check_and_sort() for one new region, the last. This is much cheaper, and a
 * front-end with hundreds of regions adds them one by one. Unmaps the new region on failure.
 */
static int place_last(struct vublk_backend_memory *memory, struct vublk_error *error)
{
	unsigned last = memory->map.num_regions - 1;
	struct vublk_memory_mapping mapping = memory->mappings[last];
	int place = vublk_memory_map_place(&memory->map, error);

	if (place < 0) {
		vublk_unmap(mapping.address, mapping.bytes);
		return -EPROTO;
	}
	memmove(&memory->mappings[place + 1], &memory->mappings[place],
		(last - (unsigned)place) * sizeof(mapping));
	memory->mappings[place] = mapping;
	return 0;
}

static int add_region(struct vublk_backend_memory *memory, const struct vublk_vu_region *wire,
		      int fd, struct vublk_error *error)
{
	unsigned n = memory->map.num_regions;
	int r = map_region(wire, fd, memory->fault, &memory->map.regions[n],
			   &memory->mappings[n], error);

	if (!r)
		memory->map.num_regions++;
	return r;
}

int vublk_backend_memory_set(struct vublk_backend_memory *memory,
			     const struct vublk_vu_message *message, struct vublk_error *error)
{
	const struct vublk_vu_mem_table *table = &message->payload.table;
	struct vublk_backend_memory new;
	unsigned count = table->num_regions;
	int r = vublk_vu_check_mem_table(message, error);

	if (r)
		return r;
	r = make_room(&new, count, memory->fault, error);
	for (unsigned i = 0; !r && i < count; i++)
		r = add_region(&new, &table->regions[i], message->fds[i], error);
	if (!r)
		r = check_and_sort(&new, error);
	if (r) {
		vublk_backend_memory_clear(&new);
		return r;
	}
	vublk_backend_memory_clear(memory);
	*memory = new;
	return 0;
}

int vublk_backend_memory_add(struct vublk_backend_memory *memory,
			     const struct vublk_vu_message *message, struct vublk_error *error)
{
	unsigned count = memory->map.num_regions;
	struct vublk_backend_memory new;
	int r;

	if (count >= VUBLK_BACKEND_MEMORY_SLOTS)
		return vublk_error_set(error, ENOSPC, "ADD_MEM_REG: all %u memory slots are used",
				       count);
	r = make_room(&new, count + 1, memory->fault, error);
	if (r)
		return r;
	if (count) {
		memcpy(new.map.regions, memory->map.regions, count * sizeof(*new.map.regions));
		memcpy(new.mappings, memory->mappings, count * sizeof(*new.mappings));
	}
	new.map.num_regions = count;
	r = add_region(&new, &message->payload.mem_reg.region, message->fds[0], error);
	if (!r)
		r = place_last(&new, error);
	if (r) {
		drop_tables(&new);
		return r;
	}
	drop_tables(memory);
	*memory = new;
	return 0;
}

int vublk_backend_memory_remove(struct vublk_backend_memory *memory,
				const struct vublk_vu_message *message,
				struct vublk_error *error)
{
	const struct vublk_vu_region *wire = &message->payload.mem_reg.region;
	struct vublk_memory_map *map = &memory->map;

	for (unsigned i = 0; i < map->num_regions; i++) {
		const struct vublk_memory_map_region *region = &map->regions[i];
		unsigned after = map->num_regions - i - 1;

		if (region->guest_addr != wire->guest_addr ||
		    region->user_addr != wire->user_addr ||
		    region->size_bytes != wire->size_bytes)
			continue;
		vublk_unmap(memory->mappings[i].address, memory->mappings[i].bytes);
		memmove(&map->regions[i], &map->regions[i + 1], after * sizeof(*region));
		memmove(&memory->mappings[i], &memory->mappings[i + 1],
			after * sizeof(*memory->mappings));
		map->num_regions--;
		return 0;
	}
	return vublk_error_set(error, EPROTO, "REM_MEM_REG names 0x%" PRIx64 " bytes at 0x%" PRIx64
			       ", but no such region was added", wire->size_bytes,
			       wire->guest_addr);
}

void vublk_backend_memory_clear(struct vublk_backend_memory *memory)
{
	for (unsigned i = 0; i < memory->map.num_regions; i++)
		vublk_unmap(memory->mappings[i].address, memory->mappings[i].bytes);
	drop_tables(memory);
}
