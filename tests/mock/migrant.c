/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest that migrates; see the header.
 *
 * Key idea: almost every page is written either by the processor or by the disk, but not by both.
 * So the guest detects a migration that misses either kind of write. The memory, in pages:
 *
 *   0        the guest itself                      written by its processor
 *   1, 3     descriptors and available rings       written by its processor
 *   2, 4     used rings                            written by the disk
 *   5        request headers                       written by its processor
 *   6        status bytes                          written by both
 *   16...    data that is written to the disk      written by its processor
 *   64...    data that is read from the disk       written by the disk
 */
#include "harness.h"

#include "migrant.h"

#include "util/atomic.h"
#include "util/fd.h"

#include <endian.h>
#include <inttypes.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <string.h>

#define HEADERS 5
#define STATUSES 6
#define WRITE_PAGES 16
#define READ_PAGES 64
#define UNTOUCHED 0x55

enum work { IDLE, WRITING, READING };

struct slot {
	uint32_t work;
	uint32_t generation; /* of the last data that the guest has written */
	uint32_t buffer;     /* the buffer of the last read */
};

struct queue {
	uint16_t avail, used;
	struct slot slots[MIGRANT_SLOTS];
};

struct guest {
	struct queue queues[MIGRANT_QUEUES];
	uint32_t next_buffer;
	struct { uint32_t owner, generation; } buffers[MIGRANT_BUFFERS]; /* generation 0: no data */
	uint64_t num_done;
	uint32_t num_wrong;
};

_Static_assert(sizeof(struct guest) <= MIGRANT_PAGE, "page 0");
_Static_assert(MIGRANT_BUFFERS > MIGRANT_QUEUES * MIGRANT_SLOTS, "there is a free buffer");

static struct guest *guest_of(const struct migrant *migrant)
{
	return (struct guest *)migrant->memory;
}

static void *page_at(const struct migrant *migrant, unsigned page)
{
	return migrant->memory + (size_t)page * MIGRANT_PAGE;
}

static uint64_t addr_of(const struct migrant *migrant, const void *at)
{
	return MIGRANT_GUEST_ADDR + (uint64_t)((const char *)at - migrant->memory);
}

static void wrote(struct migrant *migrant, const void *at)
{
	uint64_t page = (uint64_t)((const char *)at - migrant->memory) / MIGRANT_PAGE;

	migrant->written[page / 64] |= UINT64_C(1) << page % 64;
}

/* --- the layout ------------------------------------------------------------------------- */

static unsigned desc_page(unsigned queue)
{
	return 1 + 2 * queue;
}

uint64_t migrant_desc_addr(unsigned queue)
{
	return MIGRANT_GUEST_ADDR + desc_page(queue) * MIGRANT_PAGE;
}

uint64_t migrant_avail_addr(unsigned queue)
{
	return migrant_desc_addr(queue) + MIGRANT_RING_SIZE * sizeof(struct vring_desc);
}

uint64_t migrant_used_addr(unsigned queue)
{
	return migrant_desc_addr(queue) + MIGRANT_PAGE;
}

static unsigned owner_of(unsigned queue, unsigned slot)
{
	return queue * MIGRANT_SLOTS + slot;
}

#define SPREAD UINT64_C(0x9e3779b97f4a7c15)
#define GATHER UINT64_C(0xf1de83e19937733d) /* SPREAD * GATHER is 1, modulo 2^64 */

/*
 * Returns word `index` of a page of data. The words of all owners, generations and indices differ.
 */
static uint64_t word_of(unsigned owner, uint32_t generation, unsigned index)
{
	return ((uint64_t)(owner + 1) << 32 | generation) * SPREAD + index;
}

/*
 * Prints the owner and the generation of the data at the start of the page, or the page's first
 * word if the guest did not write the data.
 */
static void describe(const uint64_t *page)
{
	uint64_t name = page[0] * GATHER;
	unsigned owner = (unsigned)(name >> 32) - 1;

	if (owner < MIGRANT_QUEUES * MIGRANT_SLOTS)
		printf("the page begins with generation %u of slot %u of queue %u\n", (unsigned)name,
		       owner % MIGRANT_SLOTS, owner / MIGRANT_SLOTS);
	else
		printf("the page begins with 0x%016" PRIx64 "\n", page[0]);
}

static void fill(uint64_t *page, unsigned owner, uint32_t generation)
{
	for (unsigned i = 0; i < MIGRANT_PAGE / 8; i++)
		page[i] = word_of(owner, generation, i);
}

static bool holds(const uint64_t *page, unsigned owner, uint32_t generation)
{
	for (unsigned i = 0; i < MIGRANT_PAGE / 8; i++)
		if (page[i] != word_of(owner, generation, i))
			return false;
	return true;
}

static void complain(struct migrant *migrant, const char *what, unsigned queue, unsigned where)
{
	guest_of(migrant)->num_wrong++;
	printf("the guest: queue %u: %s (%u)\n", queue, what, where);
}

/* --- requests ------------------------------------------------------------------------------- */

static void make_chain(struct migrant *migrant, unsigned queue, unsigned slot, bool reads,
		       const void *data)
{
	struct vring_desc *desc = (struct vring_desc *)page_at(migrant, desc_page(queue)) + 3 * slot;
	unsigned owner = owner_of(queue, slot);
	struct virtio_blk_outhdr *header = (struct virtio_blk_outhdr *)page_at(migrant, HEADERS) + owner;
	uint8_t *status = (uint8_t *)page_at(migrant, STATUSES) + owner;

	*header = (struct virtio_blk_outhdr){
		.type = htole32(reads ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT),
		.sector = htole64(owner * MIGRANT_PAGE / 512),
	};
	*status = UNTOUCHED;
	desc[0] = (struct vring_desc){ htole64(addr_of(migrant, header)), htole32(sizeof(*header)),
				       htole16(VRING_DESC_F_NEXT), htole16((uint16_t)(3 * slot + 1)) };
	desc[1] = (struct vring_desc){ htole64(addr_of(migrant, data)), htole32(MIGRANT_PAGE),
				       htole16(VRING_DESC_F_NEXT |
					       (reads ? VRING_DESC_F_WRITE : 0)),
				       htole16((uint16_t)(3 * slot + 2)) };
	desc[2] = (struct vring_desc){ htole64(addr_of(migrant, status)), htole32(1),
				       htole16(VRING_DESC_F_WRITE), 0 };
	wrote(migrant, header);
	wrote(migrant, status);
	wrote(migrant, desc);
}

static void publish(struct migrant *migrant, unsigned queue, unsigned slot)
{
	struct vring_avail *avail = (struct vring_avail *)(migrant->memory +
				    (migrant_avail_addr(queue) - MIGRANT_GUEST_ADDR));
	struct queue *state = &guest_of(migrant)->queues[queue];

	avail->ring[state->avail++ % MIGRANT_RING_SIZE] = htole16((uint16_t)(3 * slot));
	/* Pairs with the back-end's load of the available index. */
	vublk_store_release(&avail->idx, htole16(state->avail));
	wrote(migrant, avail);
	vublk_eventfd_signal(migrant->kicks[queue]);
}

static void begin_write(struct migrant *migrant, unsigned queue, unsigned slot)
{
	struct slot *state = &guest_of(migrant)->queues[queue].slots[slot];
	uint64_t *data = page_at(migrant, WRITE_PAGES + owner_of(queue, slot));

	state->work = WRITING;
	fill(data, owner_of(queue, slot), ++state->generation);
	wrote(migrant, data);
	make_chain(migrant, queue, slot, false, data);
	publish(migrant, queue, slot);
}

/*
 * Checks that a buffer has the data of `owner` and `generation`. Otherwise counts and prints
 * `fault`.
 */
static void check_data(struct migrant *migrant, unsigned buffer, unsigned owner,
		       uint32_t generation, const char *fault)
{
	const uint64_t *page = page_at(migrant, READ_PAGES + buffer);

	if (holds(page, owner, generation))
		return;
	complain(migrant, fault, owner / MIGRANT_SLOTS, owner % MIGRANT_SLOTS);
	printf("buffer %u, generation %u: ", buffer, generation);
	describe(page);
}

/* Checks that a buffer still has the data that the guest has read into it, if there is any. */
static void check_buffer(struct migrant *migrant, unsigned buffer)
{
	struct guest *guest = guest_of(migrant);

	if (guest->buffers[buffer].generation)
		check_data(migrant, buffer, guest->buffers[buffer].owner,
			   guest->buffers[buffer].generation,
			   "a page has changed since it was read");
}

static bool is_being_read(const struct guest *guest, unsigned buffer)
{
	for (unsigned queue = 0; queue < MIGRANT_QUEUES; queue++)
		for (unsigned slot = 0; slot < MIGRANT_SLOTS; slot++) {
			const struct slot *state = &guest->queues[queue].slots[slot];

			if (state->work == READING && state->buffer == buffer)
				return true;
		}
	return false;
}

/*
 * Returns the next buffer that no outstanding read uses. The next buffer in turn may be in use,
 * because the other queue may go through all buffers while one read is outstanding.
 */
static unsigned take_buffer(struct guest *guest)
{
	unsigned buffer;

	do
		buffer = guest->next_buffer++ % MIGRANT_BUFFERS;
	while (is_being_read(guest, buffer));
	return buffer;
}

static void begin_read(struct migrant *migrant, unsigned queue, unsigned slot)
{
	struct guest *guest = guest_of(migrant);
	struct slot *state = &guest->queues[queue].slots[slot];
	unsigned buffer = take_buffer(guest);

	check_buffer(migrant, buffer);
	guest->buffers[buffer].generation = 0;
	state->work = READING;
	state->buffer = buffer;
	make_chain(migrant, queue, slot, true, page_at(migrant, READ_PAGES + buffer));
	publish(migrant, queue, slot);
}

static void end_request(struct migrant *migrant, unsigned queue, unsigned slot)
{
	struct guest *guest = guest_of(migrant);
	struct slot *state = &guest->queues[queue].slots[slot];
	unsigned owner = owner_of(queue, slot);

	guest->num_done++;
	if (((uint8_t *)page_at(migrant, STATUSES))[owner] != VIRTIO_BLK_S_OK)
		complain(migrant, "a request failed, or has no status", queue, slot);
	if (state->work == READING) {
		check_data(migrant, state->buffer, owner, state->generation,
			   "the data read is not the data written");
		guest->buffers[state->buffer].owner = owner;
		guest->buffers[state->buffer].generation = state->generation;
		state->work = IDLE;
	} else {
		begin_read(migrant, queue, slot);
	}
}

/* --- the guest ----------------------------------------------------------------------------------- */

void migrant_boot(struct migrant *migrant)
{
	memset(migrant->memory, 0, MIGRANT_BYTES);
	memset(migrant->written, 0xff, sizeof(migrant->written));
}

void migrant_submit(struct migrant *migrant)
{
	for (unsigned queue = 0; queue < MIGRANT_QUEUES; queue++)
		for (unsigned slot = 0; slot < MIGRANT_SLOTS; slot++)
			if (guest_of(migrant)->queues[queue].slots[slot].work == IDLE)
				begin_write(migrant, queue, slot);
	wrote(migrant, migrant->memory);
}

static unsigned collect_queue(struct migrant *migrant, unsigned queue)
{
	struct queue *state = &guest_of(migrant)->queues[queue];
	struct vring_used *used = page_at(migrant, desc_page(queue) + 1);
	/* Pairs with the back-end's store of the used index. */
	uint16_t end = le16toh(vublk_load_acquire(&used->idx));
	unsigned count = 0;

	for (; state->used != end && count < MIGRANT_RING_SIZE; state->used++, count++) {
		unsigned head = le32toh(used->ring[state->used % MIGRANT_RING_SIZE].id);

		if (head % 3 || head / 3 >= MIGRANT_SLOTS || state->slots[head / 3].work == IDLE)
			complain(migrant, "a completion without a request", queue, head);
		else
			end_request(migrant, queue, head / 3);
	}
	return count;
}

unsigned migrant_collect(struct migrant *migrant)
{
	unsigned count = 0;

	for (unsigned queue = 0; queue < MIGRANT_QUEUES; queue++)
		count += collect_queue(migrant, queue);
	if (count)
		wrote(migrant, migrant->memory);
	return count;
}

bool migrant_is_idle(const struct migrant *migrant)
{
	for (unsigned queue = 0; queue < MIGRANT_QUEUES; queue++)
		for (unsigned slot = 0; slot < MIGRANT_SLOTS; slot++)
			if (guest_of(migrant)->queues[queue].slots[slot].work != IDLE)
				return false;
	return true;
}

uint64_t migrant_num_done(const struct migrant *migrant)
{
	return guest_of(migrant)->num_done;
}

unsigned migrant_num_wrong(const struct migrant *migrant)
{
	return guest_of(migrant)->num_wrong;
}

void migrant_verify(struct migrant *migrant)
{
	for (unsigned buffer = 0; buffer < MIGRANT_BUFFERS; buffer++)
		check_buffer(migrant, buffer);
}

bool migrant_remembers(const struct migrant *migrant, unsigned page)
{
	return page >= READ_PAGES && page < READ_PAGES + MIGRANT_BUFFERS &&
	       guest_of(migrant)->buffers[page - READ_PAGES].generation;
}

bool migrant_owns(const struct migrant *migrant, unsigned queue, unsigned slot,
		  const void *page)
{
	return holds(page, owner_of(queue, slot),
		     guest_of(migrant)->queues[queue].slots[slot].generation);
}
