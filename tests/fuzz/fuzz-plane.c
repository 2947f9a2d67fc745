/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The request plane between a hostile driver and a hostile back-end. The first byte of the input
 * selects the features and the number of queues, and the second byte selects the sizes of the
 * rings. Operations follow: the low three bits of a byte select the operation, and the other bits
 * are a number.
 *
 *   0 the driver writes to its memory: an offset (2 bytes), a length (1), and the bytes
 *   1 the driver adds the number to an avail index
 *   2 the driver makes a good request: type (1 byte), sector (1), number of sectors (1)
 *   3 the back-end writes to the memory of the shadow rings: the same fields as in 0
 *   4 the back-end executes a request, or adds to a used index
 *   5 the plane does the work that is due
 *   6 the back-end is lost, or the next one connects
 *   7 another operation of the plane's owner, selected by the number
 *
 * Key idea: whatever the two peers write, the plane's records agree with each other, and the
 * back-end's rings never contain two overlapping writes. In the end, a good back-end completes all
 * requests.
 */
#include "fuzz.h"

#include "plane/plane.h"
#include "util/checked.h"

#include <string.h>

#define NUM_QUEUES 2
#define RING_BYTES 0x1000 /* for each queue */
#define AVAIL_OFFSET 0x400
#define USED_OFFSET 0x600
#define SLOTS_OFFSET (NUM_QUEUES * RING_BYTES)
#define SLOT_BYTES 0x400 /* for a good request: its table, header, status and data */
#define NUM_SLOTS 8
#define MEMORY_BYTES (SLOTS_OFFSET + NUM_SLOTS * SLOT_BYTES + 0x1000)
#define MAX_SEGMENTS 8
#define MAX_CONNECTIONS 6
#define MAX_IOV 64

struct fuzz {
	const uint8_t *input, *end;
	uint64_t features;
	unsigned num_queues;
	uint16_t size, side_size;
	struct vublk_plane plane;
	struct vublk_log_limit limit;
	struct vublk_fault fault;
	struct vublk_plane_side *side;
	struct vublk_device_ring devices[NUM_QUEUES]; /* the back-end's end of the shadow rings */
	unsigned num_connections;
};

static _Alignas(64) uint8_t memory[MEMORY_BYTES];
static uint8_t dirty_bits[MEMORY_BYTES / VUBLK_DIRTY_PAGE_BYTES / 8 + 1];
static struct vublk_memory_map_region regions[] = {
	{ 0, 0, SLOTS_OFFSET, (char *)memory },
	{ SLOTS_OFFSET, SLOTS_OFFSET, 0x1000, (char *)memory + SLOTS_OFFSET },
	{ SLOTS_OFFSET + 0x1000, SLOTS_OFFSET + 0x1000, MEMORY_BYTES - SLOTS_OFFSET - 0x1000,
	  (char *)memory + SLOTS_OFFSET + 0x1000 },
};
static const struct vublk_memory_map map = { VUBLK_ARRAY_SIZE(regions), regions };
static const struct vublk_memory_map smaller_map = { VUBLK_ARRAY_SIZE(regions) - 1, regions };

static unsigned next_byte(struct fuzz *fuzz)
{
	return fuzz->input < fuzz->end ? *fuzz->input++ : 0;
}

static void write_bytes(struct fuzz *fuzz, uint8_t *to, uint64_t room)
{
	uint64_t offset = next_byte(fuzz);
	unsigned length;

	offset |= (uint64_t)next_byte(fuzz) << 8;
	length = next_byte(fuzz);
	for (unsigned i = 0; i < length && fuzz->input < fuzz->end; i++)
		to[(offset + i) % room] = (uint8_t)next_byte(fuzz);
}

/* --- the driver -------------------------------------------------------------------- */

static struct vring_desc *desc_of(unsigned queue)
{
	return (struct vring_desc *)(memory + queue * RING_BYTES);
}

static struct vring_avail *avail_of(unsigned queue)
{
	return (struct vring_avail *)(memory + queue * RING_BYTES + AVAIL_OFFSET);
}

static struct vring_used *used_of(unsigned queue)
{
	return (struct vring_used *)(memory + queue * RING_BYTES + USED_OFFSET);
}

static void make_available(struct fuzz *fuzz, unsigned queue, uint16_t head)
{
	struct vring_avail *avail = avail_of(queue);

	avail->ring[avail->idx % fuzz->size] = head;
	avail->idx++;
}

/*
 * Makes a request with header, data and status: in an indirect table if that feature is on,
 * otherwise in the ring's descriptors. Does nothing if the ring has too few descriptors.
 */
static void make_request(struct fuzz *fuzz, unsigned number)
{
	static const uint32_t types[] = {
		VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH,
		VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES, 99,
	};
	unsigned queue = number % fuzz->num_queues, slot = number / 2 % NUM_SLOTS;
	uint64_t at = SLOTS_OFFSET + slot * SLOT_BYTES;
	uint32_t type = types[next_byte(fuzz) % VUBLK_ARRAY_SIZE(types)];
	uint32_t sector = next_byte(fuzz), sectors = next_byte(fuzz) % 2;
	bool is_read = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
	uint32_t bytes = type == VIRTIO_BLK_T_DISCARD || type == VIRTIO_BLK_T_WRITE_ZEROES ? 16 :
			 sectors * VUBLK_SECTOR_BYTES;
	bool in_table = fuzz->features & VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC);
	uint16_t head = (uint16_t)(in_table ? slot % fuzz->size : slot * 3 % fuzz->size);
	struct vring_desc *table = in_table ? (struct vring_desc *)(memory + at) : desc_of(queue);
	uint16_t first = in_table ? 0 : head, n = first;

	if (!in_table && head + 3 > fuzz->size)
		return;
	*(struct virtio_blk_outhdr *)(memory + at + 64) = (struct virtio_blk_outhdr){
		.type = type, .sector = sector,
	};
	*(struct virtio_blk_discard_write_zeroes *)(memory + at + 128) =
		(struct virtio_blk_discard_write_zeroes){ .sector = sector, .num_sectors = 1 + sectors };
	table[n] = (struct vring_desc){ at + 64, 16, VRING_DESC_F_NEXT, (uint16_t)(n + 1) };
	n++;
	if (bytes) {
		table[n] = (struct vring_desc){
			at + 128, bytes, (uint16_t)(VRING_DESC_F_NEXT |
						    (is_read ? VRING_DESC_F_WRITE : 0)),
			(uint16_t)(n + 1),
		};
		n++;
	}
	table[n] = (struct vring_desc){ at + 96, 1, VRING_DESC_F_WRITE, 0 };
	if (in_table)
		desc_of(queue)[head] = (struct vring_desc){
			at, (uint32_t)(n + 1) * 16, VRING_DESC_F_INDIRECT, 0,
		};
	make_available(fuzz, queue, head);
}

/* --- the back-end -------------------------------------------------------------------- */

static void disconnect(struct fuzz *fuzz)
{
	vublk_plane_lose_side(&fuzz->plane);
	for (unsigned i = 0; fuzz->side && i < fuzz->num_queues; i++)
		vublk_device_ring_deinit(&fuzz->devices[i]);
	vublk_plane_side_free(fuzz->side);
	fuzz->side = NULL;
}

static void connect_next(struct fuzz *fuzz, uint16_t size)
{
	uint16_t sizes[NUM_QUEUES] = { size, size };

	FUZZ_CHECK(!vublk_plane_side_new(fuzz->num_queues, size, MAX_SEGMENTS, false,
					  &fuzz->side, NULL));
	FUZZ_CHECK(!vublk_plane_side_reset(fuzz->side, sizes, fuzz->features, NULL));
	for (unsigned i = 0; i < fuzz->num_queues; i++)
		FUZZ_CHECK(!vublk_device_ring_init(&fuzz->devices[i],
						   &fuzz->side->region.queues[i].ring, size, 0,
						   fuzz->features, NULL));
	fuzz->num_connections++;
	vublk_plane_set_side(&fuzz->plane, fuzz->side);
}

/*
 * Takes and completes a request as a good back-end does. Returns false if there was no request, or
 * if the request was invalid.
 */
static bool execute(struct fuzz *fuzz, unsigned queue, uint8_t status)
{
	struct iovec iov[MAX_IOV];
	struct vublk_chain chain = { .max_iov = MAX_IOV, .iov = iov };
	struct vublk_memory_map_region all[VUBLK_ARRAY_SIZE(regions) + 1];
	const struct vublk_memory_map side_map = { VUBLK_ARRAY_SIZE(all), all };
	struct vublk_error error;

	memcpy(all, regions, sizeof(regions));
	all[VUBLK_ARRAY_SIZE(regions)] = (struct vublk_memory_map_region){
		VUBLK_PLANE_REGION_ADDR, VUBLK_PLANE_REGION_ADDR, fuzz->side->region.bytes,
		fuzz->side->region.host,
	};
	if (vublk_device_ring_take(&fuzz->devices[queue], &side_map, &chain, &error) != 1)
		return false; /* no request, or the input has overwritten it */
	if (chain.num_in)
		*(uint8_t *)iov[chain.num_out + chain.num_in - 1].iov_base = status;
	vublk_device_ring_push(&fuzz->devices[queue], chain.head, 1);
	vublk_device_ring_publish(&fuzz->devices[queue]);
	return true;
}

static void backend(struct fuzz *fuzz, unsigned number)
{
	unsigned queue = number % fuzz->num_queues;

	if (!fuzz->side)
		return;
	if (number & 16)
		fuzz->side->region.queues[queue].ring.used->idx += (uint16_t)(number / 2 % 8);
	else
		execute(fuzz, queue, (uint8_t)(number / 2 % 4));
}

/* --- the owner of the plane ------------------------------------------------------------ */

static void on_side_broke(void *opaque, const struct vublk_error *error)
{
	FUZZ_CHECK(error->code && error->text[0]);
}

static void on_queue_broke(void *opaque, unsigned index, const struct vublk_error *error)
{
	FUZZ_CHECK(error->code && error->text[0]);
}

static const struct vublk_plane_ops ops = { on_side_broke, on_queue_broke };

static void attach(struct fuzz *fuzz)
{
	struct vublk_plane_setup setups[NUM_QUEUES];

	for (unsigned i = 0; i < fuzz->num_queues; i++)
		setups[i] = (struct vublk_plane_setup){
			.size = fuzz->size,
			.base = used_of(i)->idx,
			.desc_addr = i * RING_BYTES,
			.avail_addr = i * RING_BYTES + AVAIL_OFFSET,
			.used_addr = i * RING_BYTES + USED_OFFSET,
			.kick_fd = -1,
			.call_fd = -1,
		};
	FUZZ_CHECK(!vublk_plane_attach(&fuzz->plane, setups, fuzz->features, &map, &fuzz->fault,
				       NULL));
}

static void change(struct fuzz *fuzz, unsigned number)
{
	const struct vublk_dirty_log log = { dirty_bits, sizeof(dirty_bits) };
	const struct vublk_plane_policy policy = {
		.is_read_only = number & 8,
		.hidden_features = number & 16 ? VUBLK_BIT(VIRTIO_BLK_F_DISCARD) : 0,
		.serial = "serial",
	}, no_policy = { 0 };

	switch (number % 8) {
	case 0:
		vublk_plane_stop(&fuzz->plane);
		break;
	case 1:
		vublk_plane_resume(&fuzz->plane);
		break;
	case 2:
		vublk_plane_enable_notifications(&fuzz->plane);
		break;
	case 3:
		vublk_plane_disable_notifications(&fuzz->plane);
		break;
	case 4: /* only without a back-end, which might have requests */
		if (!fuzz->side)
			FUZZ_CHECK(!vublk_plane_set_map(&fuzz->plane, number & 8 ? &map :
							&smaller_map, &fuzz->fault, NULL));
		break;
	case 5: /* a reset */
		disconnect(fuzz);
		vublk_plane_detach(&fuzz->plane);
		attach(fuzz);
		break;
	case 6:
		vublk_plane_set_policy(&fuzz->plane, number & 24 ? &policy : &no_policy);
		break;
	case 7:
		vublk_plane_set_dirty_log(&fuzz->plane, number & 8 ? &log : NULL);
		break;
	}
}

/* --- invariants -------------------------------------------------------------------------- */

static bool is_in_conflict(const struct vublk_plane_slot *a, const struct vublk_plane_slot *b)
{
	return a->is_write && b->is_write &&
	       vublk_ranges_overlap(a->offset, a->bytes, b->offset, b->bytes);
}

/* Checks that a write has a blocker if and only if an earlier, overlapping write has not ended. */
static void check_slot(const struct vublk_plane *plane, const struct vublk_plane_slot *slot)
{
	bool must_wait = false;

	for (const struct vublk_plane_slot *other = plane->first; other != slot; other = other->next)
		must_wait |= is_in_conflict(other, slot);
	FUZZ_CHECK(must_wait == (slot->order.num_blockers > 0));
	FUZZ_CHECK(!must_wait || slot->state == VUBLK_PLANE_SLOT_HELD);
}

static void check(const struct fuzz *fuzz)
{
	const struct vublk_plane *plane = &fuzz->plane;
	unsigned held = 0, submitted[NUM_QUEUES] = { 0 }, of_queue[NUM_QUEUES] = { 0 };
	const struct vublk_plane_slot *previous = NULL;

	for (const struct vublk_plane_slot *slot = plane->first; slot; slot = slot->next) {
		FUZZ_CHECK(slot->previous == previous);
		FUZZ_CHECK(slot->state != VUBLK_PLANE_SLOT_FREE);
		previous = slot;
		of_queue[slot->queue]++;
		if (slot->state == VUBLK_PLANE_SLOT_SUBMITTED)
			submitted[slot->queue]++;
		else
			held++;
		check_slot(plane, slot);
	}
	FUZZ_CHECK(plane->last == previous && plane->num_held == held);
	FUZZ_CHECK(plane->num_submitted == submitted[0] + submitted[1]);
	for (unsigned i = 0; i < fuzz->num_queues; i++) {
		const struct vublk_device_ring *ring = &plane->queues[i].ring;

		FUZZ_CHECK((uint16_t)(ring->next - ring->used) == of_queue[i]);
		FUZZ_CHECK(of_queue[i] <= fuzz->size);
		if (fuzz->side && !fuzz->side->is_broken)
			FUZZ_CHECK(vublk_driver_ring_outstanding(&fuzz->side->queues[i].ring) ==
				   submitted[i]);
	}
}

/* Checks that a good back-end completes all requests that were taken, whatever happened before. */
static void check_end(struct fuzz *fuzz)
{
	bool worked = true;

	disconnect(fuzz);
	vublk_plane_stop(&fuzz->plane);
	connect_next(fuzz, 64);
	while (worked) {
		worked = vublk_plane_work(&fuzz->plane);
		for (unsigned i = 0; i < fuzz->num_queues; i++)
			while (execute(fuzz, i, VIRTIO_BLK_S_OK))
				worked = true;
		check(fuzz);
	}
	FUZZ_CHECK(!vublk_plane_outstanding(&fuzz->plane));
}

/* --- the input ------------------------------------------------------------------------------ */

static void step(struct fuzz *fuzz)
{
	unsigned byte = next_byte(fuzz), number = byte >> 3;

	switch (byte & 7) {
	case 0:
		write_bytes(fuzz, memory, sizeof(memory));
		break;
	case 1:
		avail_of(number % fuzz->num_queues)->idx += (uint16_t)(number / 2);
		break;
	case 2:
		make_request(fuzz, number);
		break;
	case 3:
		if (fuzz->side)
			write_bytes(fuzz, (uint8_t *)fuzz->side->region.host, 0x2000);
		break;
	case 4:
		backend(fuzz, number);
		break;
	case 5:
		vublk_plane_work(&fuzz->plane);
		break;
	case 6:
		if (fuzz->side)
			disconnect(fuzz);
		else if (fuzz->num_connections < MAX_CONNECTIONS)
			connect_next(fuzz, number & 1 ? fuzz->size : fuzz->side_size);
		break;
	case 7:
		change(fuzz, number);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct fuzz fuzz;
	unsigned config, sizes;

	fuzz = (struct fuzz){ .input = data, .end = data + size };
	memset(memory, 0, sizeof(memory));
	config = next_byte(&fuzz);
	sizes = next_byte(&fuzz);
	fuzz.fault.fd = -1;
	fuzz.features = (config & 1 ? VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC) : 0) |
			(config & 2 ? VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX) : 0);
	fuzz.num_queues = 1 + (config >> 2) % NUM_QUEUES;
	fuzz.size = (uint16_t)(2u << (sizes & 15) % 5);
	fuzz.side_size = (uint16_t)(2u << (sizes >> 4) % 6);
	FUZZ_CHECK(!vublk_plane_init(&fuzz.plane, fuzz.num_queues, MAX_SEGMENTS, &ops, &fuzz, NULL,
				     &fuzz.limit, NULL));
	attach(&fuzz);
	connect_next(&fuzz, fuzz.side_size);
	while (fuzz.input < fuzz.end) {
		step(&fuzz);
		check(&fuzz);
	}
	check_end(&fuzz);
	disconnect(&fuzz);
	vublk_plane_detach(&fuzz.plane);
	vublk_plane_deinit(&fuzz.plane);
	return 0;
}
