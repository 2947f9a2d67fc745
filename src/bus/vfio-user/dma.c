/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest's memory: executes DMA_MAP and DMA_UNMAP, and passes the resulting table of regions on
 * to the device.
 *
 * Key idea: a command changes the client's table of maps immediately. The device has a table of its
 * own, which this file makes from the client's table when the driver is ready. So all commands
 * before the start together cause a single change of the device's table. While rings may be
 * running, the device's table must change before the client gets its answer. So the answers are
 * deferred as long as further maps and unmaps arrive, and then all changes are applied as one.
 *
 * While the rings run, memory can be added. For every other change the model holds the rings, so
 * that no request is in flight. A VMM may unmap the memory that contains the rings and map it again
 * in pieces, so the rings resume only when all memory that contains them is mapped.
 *
 * Specification: "VFIO_USER_DMA_MAP", "VFIO_USER_DMA_UNMAP".
 */
#include "bus/vfio-user/private.h"

#include "proto/vhost-user/server.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/memfd.h"
#include "util/memory-file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#define PAGE_BYTES UINT64_C(4096)
#define READ_AND_WRITE (VUBLK_VFIO_DMA_READABLE | VUBLK_VFIO_DMA_WRITABLE)

bool vublk_vfio_user_dma_is_command(const struct vublk_vfio_message *message)
{
	return message->header.command == VUBLK_VFIO_DMA_MAP ||
	       message->header.command == VUBLK_VFIO_DMA_UNMAP;
}

/* --- the table -------------------------------------------------------------------------------- */

/*
 * Returns the index of the map at `address`, or the index at which a map with this address belongs.
 */
static unsigned place_of(const struct vublk_vfio_user_dma *dma, uint64_t address)
{
	unsigned low = 0, high = dma->num_maps;

	while (low < high) {
		unsigned middle = (low + high) / 2;

		if (dma->maps[middle].address < address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool overlaps(const struct vublk_vfio_user_dma *dma, unsigned place, uint64_t address,
		     uint64_t bytes)
{
	const struct vublk_vfio_user_map *after = &dma->maps[place], *before = after - 1;

	if (place < dma->num_maps &&
	    vublk_ranges_overlap(address, bytes, after->address, after->size_bytes))
		return true;
	return place && vublk_ranges_overlap(address, bytes, before->address, before->size_bytes);
}

static void remove_map(struct vublk_vfio_user_dma *dma, unsigned place)
{
	vublk_fd_close(&dma->maps[place].fd);
	dma->num_maps--;
	memmove(&dma->maps[place], &dma->maps[place + 1],
		(dma->num_maps - place) * sizeof(dma->maps[0]));
}

static void remove_all(struct vublk_vfio_user_dma *dma)
{
	for (unsigned i = 0; i < dma->num_maps; i++)
		vublk_fd_close(&dma->maps[i].fd);
	dma->num_maps = 0;
}

/* --- mapping ---------------------------------------------------------------------------------- */

static int check_place(const struct vublk_vfio_dma_map *map, struct vublk_error *error)
{
	if (!map->size)
		return vublk_error_set(error, EINVAL, "DMA_MAP at 0x%" PRIx64 " is empty",
				       map->address);
	if ((map->address | map->size) % PAGE_BYTES)
		return vublk_error_set(error, EINVAL,
				       "DMA_MAP at 0x%" PRIx64 " of 0x%" PRIx64 " bytes is not aligned "
				       "to pages", map->address, map->size);
	if (!vublk_range_within(map->address, map->size, UINT64_MAX))
		return vublk_error_set(error, EINVAL,
				       "DMA_MAP at 0x%" PRIx64 " of 0x%" PRIx64 " bytes exceeds "
				       "the address space", map->address, map->size);
	if (map->flags & ~READ_AND_WRITE)
		return vublk_error_set(error, EINVAL,
				       "DMA_MAP at 0x%" PRIx64 " of 0x%" PRIx64 " bytes has "
				       "unknown flags (0x%x)", map->address, map->size,
				       map->flags & ~READ_AND_WRITE);
	return 0;
}

static int check_file(const struct vublk_vfio_dma_map *map, int fd,
		      struct vublk_memory_file *file, struct vublk_error *error)
{
	int r;

	if (map->offset % PAGE_BYTES)
		return vublk_error_set(error, EINVAL,
				       "DMA_MAP at 0x%" PRIx64 " has the file offset 0x%" PRIx64
				       "; expected a multiple of 0x%" PRIx64,
				       map->address, map->offset, PAGE_BYTES);
	r = vublk_memory_file_check(fd, map->offset, map->size, file, error);
	if (r < 0)
		vublk_error_prepend(error, "DMA_MAP at 0x%" PRIx64, map->address);
	return r;
}

/* Returns whether a back-end can map the memory. If not, the map only reserves its addresses. */
static bool is_usable(const struct vublk_vfio_dma_map *map, int fd)
{
	return fd >= 0 && map->flags == READ_AND_WRITE &&
	       (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR;
}

static int check_room(const struct vublk_vfio_user_dma *dma, const struct vublk_vfio_dma_map *map,
		      unsigned place, struct vublk_error *error)
{
	if (overlaps(dma, place, map->address, map->size))
		return vublk_error_set(error, EEXIST,
				       "DMA_MAP at 0x%" PRIx64 " of 0x%" PRIx64 " bytes overlaps "
				       "memory that is already mapped", map->address, map->size);
	if (dma->num_maps >= VUBLK_VFIO_USER_MAX_MAPS)
		return vublk_error_set(error, ENOSPC, "DMA_MAP: all %d possible maps are in use",
				       VUBLK_VFIO_USER_MAX_MAPS);
	return 0;
}

int vublk_vfio_user_dma_map(struct vublk_vfio_user *bus, struct vublk_vfio_message *message,
			    struct vublk_error *error)
{
	const struct vublk_vfio_dma_map *map = &message->payload.map;
	struct vublk_vfio_user_dma *dma = &bus->dma;
	unsigned place = place_of(dma, map->address);
	struct vublk_memory_file file = { 0 };
	int r = check_place(map, error);

	if (!r)
		r = check_room(dma, map, place, error);
	if (!r && message->num_fds)
		r = check_file(map, message->fds[0], &file, error);
	if (r < 0)
		return r;
	memmove(&dma->maps[place + 1], &dma->maps[place],
		(dma->num_maps - place) * sizeof(dma->maps[0]));
	dma->num_maps++;
	dma->maps[place] = (struct vublk_vfio_user_map){
		.address = map->address,
		.size_bytes = map->size,
		.offset = map->offset,
		.fd = message->num_fds && is_usable(map, message->fds[0]) ?
			vublk_vfio_message_take_fd(message, 0) : -1,
		.file_device = file.device,
		.file_inode = file.inode,
	};
	return 0;
}

/* --- unmapping -------------------------------------------------------------------------------- */

static int unmap_one(struct vublk_vfio_user_dma *dma, const struct vublk_vfio_dma_unmap *unmap,
		     struct vublk_error *error)
{
	unsigned place = place_of(dma, unmap->address);

	if (place >= dma->num_maps || dma->maps[place].address != unmap->address ||
	    dma->maps[place].size_bytes != unmap->size)
		return vublk_error_set(error, ENOENT,
				       "DMA_UNMAP names 0x%" PRIx64 " bytes at 0x%" PRIx64 ", but "
				       "no mapping has this size and address", unmap->size,
				       unmap->address);
	remove_map(dma, place);
	return 0;
}

int vublk_vfio_user_dma_unmap(struct vublk_vfio_user *bus,
			      const struct vublk_vfio_message *message,
			      struct vublk_error *error)
{
	const struct vublk_vfio_dma_unmap *unmap = &message->payload.unmap;
	int r = 0;

	if (unmap->flags == VFIO_DMA_UNMAP_FLAG_ALL && !unmap->address && !unmap->size)
		remove_all(&bus->dma);
	else if (unmap->flags)
		r = vublk_error_set(error, EINVAL,
				    "DMA_UNMAP has flags 0x%x; expected 0, or ALL with address and "
				    "size 0", unmap->flags);
	else
		r = unmap_one(&bus->dma, unmap, error);
	if (r < 0)
		return r;
	bus->reply.unmap = *unmap;
	return sizeof(bus->reply.unmap);
}

/* --- the device's table ----------------------------------------------------------------------- */

/*
 * A table for the device, made from the client's maps. The device gets `regions`. `places` has the
 * same regions in the form of dma->regions, for comparison.
 */
struct table {
	struct vublk_memory_region regions[VUBLK_VFIO_USER_MAX_MAPS];
	struct vublk_vfio_user_region places[VUBLK_VFIO_USER_MAX_MAPS];
	unsigned count;
};

static bool continues(const struct vublk_vfio_user_region *place,
		      const struct vublk_vfio_user_map *map)
{
	return place->address + place->size_bytes == map->address &&
	       place->offset + place->size_bytes == map->offset &&
	       place->file_device == map->file_device && place->file_inode == map->file_inode;
}

static void append(struct table *table, const struct vublk_vfio_user_map *map)
{
	table->regions[table->count] = (struct vublk_memory_region){
		map->address, map->size_bytes, map->fd, map->offset,
	};
	table->places[table->count++] = (struct vublk_vfio_user_region){
		map->address, map->size_bytes, map->offset, map->file_device, map->file_inode,
	};
}

/*
 * Makes the table. Adjacent maps of one file become one region, because back-ends have few slots
 * for regions, and because a buffer must not cross from one region into the next.
 */
static void make_table(const struct vublk_vfio_user_dma *dma, struct table *table)
{
	table->count = 0;
	for (unsigned i = 0; i < dma->num_maps; i++) {
		const struct vublk_vfio_user_map *map = &dma->maps[i];
		unsigned last = table->count - 1;

		if (map->fd < 0)
			continue;
		if (!table->count || !continues(&table->places[last], map)) {
			append(table, map);
			continue;
		}
		table->places[last].size_bytes += map->size_bytes;
		table->regions[last].size_bytes += map->size_bytes;
	}
}

static bool is_same(const struct vublk_vfio_user_region *a,
		    const struct vublk_vfio_user_region *b)
{
	return a->address == b->address && a->size_bytes == b->size_bytes &&
	       a->offset == b->offset && a->file_device == b->file_device &&
	       a->file_inode == b->file_inode;
}

/* Returns how many of the device's regions are also in `table`. Both are sorted by address. */
static unsigned count_kept(const struct vublk_vfio_user_dma *dma, const struct table *table)
{
	unsigned kept = 0;

	for (unsigned i = 0, j = 0; i < dma->num_regions && j < table->count;) {
		const struct vublk_vfio_user_region *region = &dma->regions[i];
		const struct vublk_vfio_user_region *place = &table->places[j];

		kept += is_same(region, place);
		i += region->address <= place->address;
		j += place->address <= region->address;
	}
	return kept;
}

static bool is_covered(void *opaque, uint64_t address, uint64_t bytes)
{
	const struct table *table = opaque;

	for (unsigned i = 0; i < table->count; i++) {
		const struct vublk_memory_region *region = &table->regions[i];

		if (address >= region->guest_addr &&
		    vublk_range_within(address - region->guest_addr, bytes, region->size_bytes))
			return true;
	}
	return false;
}

/*
 * Gives `table` to the device. Returns 1 if memory_changed() will report the result, 0 if no report
 * follows, or a negative errno.
 */
static int set_memory(struct vublk_vfio_user *bus, const struct table *table, struct vublk_error *error)
{
	int r = vublk_device_set_memory(bus->device, table->regions, table->count, error);

	if (r < 0)
		return r;
	memcpy(bus->dma.regions, table->places, table->count * sizeof(table->places[0]));
	bus->dma.num_regions = table->count;
	return r;
}

static void resume_rings(struct vublk_vfio_user *bus)
{
	if (bus->dma.held)
		vublk_virtio_pci_release(bus->pci);
	bus->dma.held = false;
}

static void check_shared(struct vublk_vfio_user *bus, const struct table *table)
{
	const struct vublk_memory_region *lowest = &table->regions[0];

	if (vublk_file_is_blank(lowest->fd, lowest->fd_offset, lowest->size_bytes))
		vublk_log_limited(bus->log, &bus->log_limit, VUBLK_LOG_WARNING, "%s%s",
				  VUBLK_VU_PRIVATE_MEMORY, VUBLK_VU_SHARE_IT);
}

int vublk_vfio_user_dma_before_start(struct vublk_vfio_user *bus, struct vublk_error *error)
{
	struct table table;
	int r;

	make_table(&bus->dma, &table);
	if (!table.count)
		return vublk_error_set(error, EINVAL,
				       "the device cannot map any of the guest's memory%s",
				       VUBLK_VU_SHARE_IT);
	check_shared(bus, &table);
	r = set_memory(bus, &table, error);
	if (!r)
		resume_rings(bus);
	return r;
}

/* --- answers ---------------------------------------------------------------------------------- */

bool vublk_vfio_user_dma_is_in_use(const struct vublk_vfio_user *bus)
{
	return vublk_device_has_rings_out(bus->device) || vublk_virtio_pci_is_driven(bus->pci);
}

void vublk_vfio_user_dma_defer_answer(struct vublk_vfio_user *bus,
			     const struct vublk_vfio_message *message)
{
	struct vublk_vfio_user_answer *answer = &bus->dma.answers[bus->dma.num_answers++];

	answer->command = message->header;
	answer->unmap = message->payload.unmap;
	if (message->header.command == VUBLK_VFIO_DMA_MAP)
		answer->unmap.address = message->payload.map.address;
}

/* Removes the map of a DMA_MAP whose answer is an error. */
static void undo_map(struct vublk_vfio_user_dma *dma, const struct vublk_vfio_user_answer *answer)
{
	unsigned place = place_of(dma, answer->unmap.address);

	if (place < dma->num_maps && dma->maps[place].address == answer->unmap.address)
		remove_map(dma, place);
}

/*
 * Sends the deferred answers. `error` says why the device's memory could not be changed; NULL:
 * there was no failure. With an error, each DMA_MAP fails and its map is removed, but each
 * DMA_UNMAP still succeeds.
 */
static void send_answers(struct vublk_vfio_user *bus, const struct vublk_error *error)
{
	struct vublk_vfio_user_dma *dma = &bus->dma;
	unsigned count = dma->num_answers;

	dma->phase = VUBLK_VFIO_USER_DMA_IDLE;
	dma->num_answers = 0;
	if (error)
		vublk_log_limited(bus->log, &bus->log_limit, VUBLK_LOG_WARNING,
				  "cannot update the map of the guest's memory: %s", error->text);
	for (unsigned i = 0; i < count; i++) {
		const struct vublk_vfio_user_answer *answer = &dma->answers[i];
		bool is_map = answer->command.command == VUBLK_VFIO_DMA_MAP;

		if (is_map && error)
			undo_map(dma, answer);
		vublk_vfio_user_answer(bus, &answer->command,
					      !is_map ? (int)sizeof(answer->unmap) :
					      error ? -error->code : 0, &answer->unmap);
	}
	vublk_vfio_user_wake(bus);
}

/* --- while rings may run ---------------------------------------------------------------------- */

/*
 * Changes the device's memory while the rings are held, and resumes the rings. If part of the
 * memory that contains the rings is not mapped, changes nothing, and the rings stay held.
 */
static int change_held(struct vublk_vfio_user *bus, struct vublk_error *error)
{
	struct table table;
	int r = 0;

	make_table(&bus->dma, &table);
	if (!vublk_virtio_pci_for_each_ring_part(bus->pci, is_covered, &table))
		return 0;
	r = set_memory(bus, &table, error);
	if (!r)
		resume_rings(bus);
	return r;
}

/*
 * Completes a change for which the rings are held. If memory cannot be added, tries again without
 * that memory.
 */
static void finish_held(struct vublk_vfio_user *bus)
{
	struct vublk_error error;
	int r = change_held(bus, &error);

	send_answers(bus, r < 0 ? &error : NULL);
	if (r < 0 && change_held(bus, &error) < 0)
		vublk_virtio_pci_on_failure(bus->pci, &error);
}

static void hold(struct vublk_vfio_user *bus)
{
	int out = 0;

	if (!bus->dma.held)
		out = vublk_virtio_pci_hold(bus->pci);
	bus->dma.held = true;
	if (out)
		bus->dma.phase = VUBLK_VFIO_USER_DMA_HOLDING;
	else
		finish_held(bus);
}

static void add(struct vublk_vfio_user *bus, const struct table *table)
{
	struct vublk_error error;
	int r = set_memory(bus, table, &error);

	if (r > 0)
		bus->dma.phase = VUBLK_VFIO_USER_DMA_CHANGING;
	else
		send_answers(bus, r < 0 ? &error : NULL);
}

void vublk_vfio_user_dma_apply(struct vublk_vfio_user *bus)
{
	struct vublk_vfio_user_dma *dma = &bus->dma;
	struct table table;
	unsigned kept;

	make_table(dma, &table);
	kept = count_kept(dma, &table);
	if (!vublk_vfio_user_dma_is_in_use(bus) ||
	    (!dma->held && kept == dma->num_regions && kept == table.count))
		send_answers(bus, NULL);
	else if (!dma->held && kept == dma->num_regions &&
		 vublk_device_state(bus->device) == VUBLK_DEVICE_RUNNING)
		add(bus, &table);
	else
		hold(bus);
}

void vublk_vfio_user_dma_on_stopped(struct vublk_vfio_user *bus)
{
	if (bus->dma.phase == VUBLK_VFIO_USER_DMA_HOLDING)
		finish_held(bus);
}

/*
 * The loss of the back-end is not a refusal, because the next back-end gets the whole table when it
 * connects.
 */
void vublk_vfio_user_dma_on_memory_changed(struct vublk_vfio_user *bus,
					   const struct vublk_error *error)
{
	bool has_answers = bus->dma.num_answers;
	bool refused = error && vublk_device_state(bus->device) == VUBLK_DEVICE_RUNNING;

	if (bus->dma.phase != VUBLK_VFIO_USER_DMA_CHANGING)
		return;
	send_answers(bus, refused ? error : NULL);
	if (refused && has_answers && bus->state == VUBLK_VFIO_USER_SERVING)
		vublk_vfio_user_dma_apply(bus); /* tries again without the memory that was
						   refused */
}

void vublk_vfio_user_dma_cancel(struct vublk_vfio_user *bus)
{
	bus->dma.num_answers = 0;
	bus->dma.phase = VUBLK_VFIO_USER_DMA_IDLE;
}

void vublk_vfio_user_dma_clear(struct vublk_vfio_user *bus)
{
	vublk_vfio_user_dma_cancel(bus);
	remove_all(&bus->dma);
	vublk_device_set_memory(bus->device, NULL, 0, NULL);
	bus->dma.num_regions = 0;
	resume_rings(bus);
}
