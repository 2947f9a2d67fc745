/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Maps the guest memory that the front-end shares ("Memory regions description").
 * proto/vhost-user/request.c checks the front-end's description of that memory.
 */
#include "backend/memory.h"

#include "proto/vhost-user/request.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/memfd.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static struct vublk_vu_region on_the_wire(const struct vublk_memory_map_region *region)
{
	return (struct vublk_vu_region){
		.guest_addr = region->guest_addr,
		.user_addr = region->user_addr,
		.size_bytes = region->size_bytes,
	};
}

/* Allocates empty tables for `count` regions. */
static int make_room(struct vublk_backend_memory *memory, unsigned count,
		     struct vublk_fault *fault, struct vublk_error *error)
{
	*memory = (struct vublk_backend_memory){ .fault = fault };
	memory->map.regions = calloc(count ? count : 1, sizeof(*memory->map.regions));
	memory->parts = calloc(count ? count : 1, sizeof(*memory->parts));
	if (memory->map.regions && memory->parts)
		return 0;
	vublk_backend_memory_clear(memory);
	return vublk_error_set(error, ENOMEM, "cannot allocate a table of %u memory regions",
			       count);
}

/*
 * Frees only the tables. The parts are unmapped already, or another vublk_backend_memory owns them.
 */
static void drop_tables(struct vublk_backend_memory *memory)
{
	free(memory->map.regions);
	free(memory->parts);
	*memory = (struct vublk_backend_memory){ .fault = memory->fault };
}

static void drop_part(struct vublk_backend_part *part)
{
	vublk_unmap(part->part.mapping, part->part.mapping_bytes);
	vublk_fd_close(&part->fd);
}

static int check(const struct vublk_backend_memory *memory, const struct vublk_vu_region *wire,
		 int fd, struct vublk_memory_file *file, struct vublk_error *error)
{
	int r = vublk_vu_check_region(wire, fd, file, error);

	for (unsigned i = 0; !r && i < memory->map.num_regions; i++) {
		struct vublk_vu_region other = on_the_wire(&memory->map.regions[i]);

		r = vublk_vu_check_overlap(wire, &other, error);
	}
	return r;
}

/*
 * Moves the last region to its place in the sorted map, and inserts its mapping `part` at the same
 * index.
 */
static void place(struct vublk_backend_memory *memory, const struct vublk_backend_part *part)
{
	unsigned to = vublk_memory_map_place(&memory->map);
	unsigned after = memory->map.num_regions - 1 - to;

	memmove(&memory->parts[to + 1], &memory->parts[to], after * sizeof(*part));
	memory->parts[to] = *part;
}

/*
 * Checks and maps a region, and adds it to the tables. Takes ownership of `given`, even on failure.
 */
static int add_region(struct vublk_backend_memory *memory, const struct vublk_vu_region *wire,
		      int given, struct vublk_error *error)
{
	VUBLK_FD int fd = given;
	struct vublk_backend_part part = { .mmap_offset = wire->mmap_offset };
	struct vublk_memory_file file;
	int r = check(memory, wire, fd, &file, error);

	if (r)
		return r;
	r = vublk_memory_file_map(fd, &file, wire->mmap_offset, wire->size_bytes, memory->fault,
				  VUBLK_FAULT_MEMORY, &part.part, error);
	if (r) {
		vublk_error_prepend(error, "the memory region at 0x%" PRIx64, wire->guest_addr);
		return r;
	}
	memory->map.regions[memory->map.num_regions++] = (struct vublk_memory_map_region){
		.guest_addr = wire->guest_addr,
		.user_addr = wire->user_addr,
		.size_bytes = wire->size_bytes,
		.host = part.part.start,
	};
	part.fd = vublk_fd_steal(&fd);
	place(memory, &part);
	return 0;
}

int vublk_backend_memory_set(struct vublk_backend_memory *memory,
			     struct vublk_vu_message *message, struct vublk_error *error)
{
	const struct vublk_vu_mem_table *table = &message->payload.table;
	struct vublk_backend_memory new;
	unsigned count = table->num_regions;
	int r = vublk_vu_check_mem_table(message, error);

	if (r)
		return r;
	r = make_room(&new, count, memory->fault, error);
	for (unsigned i = 0; !r && i < count; i++)
		r = add_region(&new, &table->regions[i], vublk_vu_message_take_fd(message, i), error);
	if (r) {
		vublk_backend_memory_clear(&new);
		return r;
	}
	vublk_backend_memory_clear(memory);
	*memory = new;
	return 0;
}

int vublk_backend_memory_add(struct vublk_backend_memory *memory,
			     struct vublk_vu_message *message, struct vublk_error *error)
{
	unsigned count = memory->map.num_regions;
	struct vublk_backend_memory new;
	int r = vublk_vu_check_slots(count, VUBLK_BACKEND_MEMORY_SLOTS, error);

	if (!r)
		r = make_room(&new, count + 1, memory->fault, error);
	if (r)
		return r;
	if (count) {
		memcpy(new.map.regions, memory->map.regions, count * sizeof(*new.map.regions));
		memcpy(new.parts, memory->parts, count * sizeof(*new.parts));
	}
	new.map.num_regions = count;
	r = add_region(&new, &message->payload.mem_reg.region, vublk_vu_message_take_fd(message, 0),
		       error);
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
	struct vublk_memory_map *map = &memory->map;

	for (unsigned i = 0; i < map->num_regions; i++) {
		struct vublk_vu_region region = on_the_wire(&map->regions[i]);
		unsigned after = map->num_regions - i - 1;

		if (!vublk_vu_names_region(message, &region))
			continue;
		drop_part(&memory->parts[i]);
		memmove(&map->regions[i], &map->regions[i + 1], after * sizeof(*map->regions));
		memmove(&memory->parts[i], &memory->parts[i + 1],
			after * sizeof(*memory->parts));
		map->num_regions--;
		return 0;
	}
	return vublk_vu_refuse_removal(message, error);
}

void vublk_backend_memory_clear(struct vublk_backend_memory *memory)
{
	for (unsigned i = 0; i < memory->map.num_regions; i++)
		drop_part(&memory->parts[i]);
	drop_tables(memory);
}
