/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tells the back-end which memory to map. With the protocol feature CONFIGURE_MEM_SLOTS only
 * changes are sent, with one message per region. Without it, each change sends the whole table,
 * which has at most eight regions.
 *
 * Key idea: `shadow` is a copy of the back-end's table. Regions are compared by their addresses and
 * files, not by their descriptors. The user address in a message is the guest address, because the
 * back-end only translates it and never uses it as a pointer.
 *
 * Specification: "VHOST_USER_SET_MEM_TABLE", "VHOST_USER_ADD_MEM_REG", "VHOST_USER_REM_MEM_REG",
 * "VHOST_USER_GET_MAX_MEM_SLOTS".
 */
#include "frontend/frontend.h"

#include "util/checked.h"
#include "util/error.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

unsigned vublk_frontend_memory_slots(const struct vublk_frontend *frontend)
{
	return VUBLK_MIN(frontend->info.memory_slots, (uint32_t)VUBLK_MEMORY_MAX_REGIONS);
}

static struct vublk_vu_region on_the_wire(const struct vublk_memory_region *region)
{
	return (struct vublk_vu_region){
		.guest_addr = region->guest_addr,
		.size_bytes = region->size_bytes,
		.user_addr = region->guest_addr,
		.mmap_offset = region->fd_offset,
	};
}

/* --- the difference --------------------------------------------------------------- */

static bool is_same(const struct vublk_frontend_region *a, const struct vublk_frontend_region *b)
{
	return a->region.guest_addr == b->region.guest_addr &&
	       a->region.size_bytes == b->region.size_bytes &&
	       a->region.fd_offset == b->region.fd_offset &&
	       a->file_device == b->file_device && a->file_inode == b->file_inode;
}

static bool contains(const struct vublk_frontend_region *regions, unsigned num_regions,
		     const struct vublk_frontend_region *region)
{
	for (unsigned i = 0; i < num_regions; i++)
		if (is_same(&regions[i], region))
			return true;
	return false;
}

/* Copies the regions of `from` that are not in `in` to `missing`. Returns their number. */
static unsigned collect_missing(struct vublk_frontend_region *missing,
				const struct vublk_frontend_region *from, unsigned num_from,
				const struct vublk_frontend_region *in, unsigned num_in)
{
	unsigned count = 0;

	for (unsigned i = 0; i < num_from; i++)
		if (!contains(in, num_in, &from[i]))
			missing[count++] = from[i];
	return count;
}

static void remove_from_shadow(struct vublk_frontend_memory_change *change,
			       const struct vublk_frontend_region *region)
{
	for (unsigned i = 0; i < change->num_shadow; i++)
		if (is_same(&change->shadow[i], region)) {
			change->shadow[i] = change->shadow[--change->num_shadow];
			return;
		}
}

/* --- refusals ----------------------------------------------------------------------- */

/*
 * Returns whether the region consists of whole pages. The protocol does not require that, but some
 * back-ends do.
 */
static bool is_whole_pages(const struct vublk_memory_region *region)
{
	uint64_t page_mask = (uint64_t)sysconf(_SC_PAGESIZE) - 1;

	return !((region->guest_addr | region->size_bytes | region->fd_offset) & page_mask);
}

/*
 * Prepends to `error` a description of `region`, which was refused or may be the reason for a
 * refusal.
 */
static void explain(const struct vublk_frontend_region *region, struct vublk_error *error)
{
	vublk_error_prepend(error, "the memory region of %" PRIu64 " bytes at guest address "
			    "0x%" PRIx64 " and file offset %" PRIu64 "%s",
			    region->region.size_bytes,
			    region->region.guest_addr, region->region.fd_offset,
			    is_whole_pages(&region->region) ? "" :
			    " (it does not consist of whole pages, which some back-ends require)");
}

void vublk_frontend_explain_memory(const struct vublk_frontend *frontend,
				   struct vublk_error *error)
{
	const struct vublk_frontend_memory_change *change = &frontend->memory;

	for (unsigned i = 0; i < change->num_additions; i++)
		if (!is_whole_pages(&change->additions[i].region)) {
			explain(&change->additions[i], error);
			return;
		}
}

/* --- region by region -------------------------------------------------------------- */

/*
 * Sends `request` for one region. `fd` is the file of a region to be added; -1: the region is to be
 * removed.
 */
static void send_region(struct vublk_frontend_batch *batch, uint32_t request,
			const struct vublk_memory_region *region, int fd)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, request);
	message.header.size = sizeof(message.payload.mem_reg);
	message.payload.mem_reg.region = on_the_wire(region);
	message.fds[0] = fd;
	message.num_fds = fd >= 0;
	vublk_frontend_batch_send_confirmed(batch, &message);
}

static void send_change(void *owner, unsigned index)
{
	struct vublk_frontend_memory_change *change = owner;

	if (index < change->num_removals) {
		send_region(&change->batch, VUBLK_VU_REM_MEM_REG, &change->removals[index].region,
			    -1);
	} else {
		const struct vublk_memory_region *added =
			&change->additions[index - change->num_removals].region;

		send_region(&change->batch, VUBLK_VU_ADD_MEM_REG, added, added->fd);
	}
}

/*
 * Called when the back-end has refused a removal or an addition. Corrects `shadow`, which
 * vublk_frontend_set_memory() has set as if no change would be refused. Removes a refused addition
 * from `shadow` and, since nothing more is sent after a refusal, all additions that were not sent.
 * A region whose removal was refused need not be in `shadow`, because the device no longer uses it.
 */
static void on_change_refused(void *owner, unsigned index, bool first)
{
	struct vublk_frontend_memory_change *change = owner;
	unsigned unsent = VUBLK_MAX(change->batch.next_piece, change->num_removals);

	if (first && index >= change->num_removals)
		explain(&change->additions[index - change->num_removals], &change->batch.refusal);
	if (index >= change->num_removals)
		remove_from_shadow(change, &change->additions[index - change->num_removals]);
	for (; first && unsent < change->batch.num_pieces; unsent++)
		remove_from_shadow(change, &change->additions[unsent - change->num_removals]);
}

static void begin_change(struct vublk_frontend *frontend,
			 const struct vublk_frontend_memory *memory)
{
	struct vublk_frontend_memory_change *change = &frontend->memory;

	change->num_removals = collect_missing(change->removals,
					       change->shadow, change->num_shadow,
					       memory->regions, memory->num_regions);
	change->num_additions = collect_missing(change->additions,
						memory->regions, memory->num_regions,
						change->shadow, change->num_shadow);
	change->batch.send_piece = send_change;
	change->batch.refused = on_change_refused;
}

/* --- the whole table ----------------------------------------------------------------- */

static void send_table(void *owner, unsigned index)
{
	struct vublk_frontend_memory_change *change = owner;
	struct vublk_vu_mem_table *table;
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, VUBLK_VU_SET_MEM_TABLE);
	table = &message.payload.table;
	table->num_regions = change->num_additions;
	for (unsigned i = 0; i < change->num_additions; i++) {
		table->regions[i] = on_the_wire(&change->additions[i].region);
		message.fds[i] = change->additions[i].region.fd;
	}
	message.num_fds = change->num_additions;
	message.header.size = (uint32_t)(offsetof(struct vublk_vu_mem_table, regions) +
					 change->num_additions * sizeof(table->regions[0]));
	vublk_frontend_batch_send_confirmed(&change->batch, &message);
}

static void on_table_refused(void *owner, unsigned index, bool first)
{
	struct vublk_frontend_memory_change *change = owner;

	if (first)
		vublk_frontend_explain_memory(change->batch.frontend, &change->batch.refusal);
}

static void begin_table(struct vublk_frontend *frontend,
			const struct vublk_frontend_memory *memory)
{
	struct vublk_frontend_memory_change *change = &frontend->memory;

	change->num_removals = 0;
	change->num_additions = memory->num_regions;
	memcpy(change->additions, memory->regions,
	       memory->num_regions * sizeof(change->additions[0]));
	change->batch.send_piece = send_table;
	change->batch.refused = on_table_refused;
}

void vublk_frontend_set_memory(struct vublk_frontend *frontend,
			       const struct vublk_frontend_memory *memory,
			       void (*done)(void *opaque, const struct vublk_error *error),
			       void *opaque)
{
	struct vublk_frontend_memory_change *change = &frontend->memory;
	bool slots = vublk_frontend_has(frontend, VUBLK_VU_F_CONFIGURE_MEM_SLOTS);

	if (slots)
		begin_change(frontend, memory);
	else
		begin_table(frontend, memory);
	memcpy(change->shadow, memory->regions,
	       memory->num_regions * sizeof(change->shadow[0]));
	change->num_shadow = memory->num_regions;
	change->batch.owner = change;
	vublk_frontend_batch_begin(frontend, &change->batch,
				   slots ? change->num_removals + change->num_additions : 1,
				   done, opaque);
}
