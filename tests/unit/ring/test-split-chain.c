/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Chains with an indirect table of three descriptors, which split-chain.c reads with special code.
 * For random tables, most of which are nearly valid, that code must give the same results as the
 * model here.
 */
#include "harness.h"

#include "util/checked.h"
#include "virtio/device-ring.h"
#include "virtio/split.h"

#include <errno.h>
#include <string.h>

#define SIZE 8
#define GUEST UINT64_C(0x100000)
#define REGION_BYTES (UINT64_C(8) << 32) /* more than exists; the buffers are not accessed */
#define CHAIN_MAX_BYTES (UINT64_C(1) << 32)

/* The part of the region that really exists. */
static struct {
	struct vring_desc desc[SIZE], table[3];
	uint16_t avail[3 + SIZE];
	char used[sizeof(struct vring_used) + SIZE * sizeof(struct vring_used_elem)]
		__attribute__((aligned(8)));
} memory __attribute__((aligned(4096)));

static struct vublk_memory_map_region region = {
	.guest_addr = GUEST, .size_bytes = REGION_BYTES, .host = (char *)&memory,
};
static const struct vublk_memory_map map = { 1, &region };
static uint64_t state = 1;

static unsigned below(unsigned bound)
{
	state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (unsigned)(state >> 33) % bound;
}

static bool rarely(void)
{
	return !below(12);
}

static struct vring_desc random_desc(unsigned i, bool is_read)
{
	static const uint32_t lengths[] = { 0, 1, 512, 0x7fffffff, UINT32_MAX };
	uint16_t flags = i == 2 ? VRING_DESC_F_WRITE : VRING_DESC_F_NEXT;

	if (i == 1 && is_read)
		flags |= VRING_DESC_F_WRITE;
	return (struct vring_desc){
		.addr = rarely() ? GUEST - 1 + below(3) : rarely() ? GUEST + REGION_BYTES - below(514) :
			GUEST + 0x1000 * (1 + below(50)),
		.len = rarely() ? lengths[below(VUBLK_ARRAY_SIZE(lengths))] : 1 + below(4096),
		.flags = (uint16_t)(rarely() ? below(8) : flags),
		.next = (uint16_t)(rarely() ? below(5) : i == 2 ? below(65536) : i + 1),
	};
}

/* Reads the table as the virtio specification says. Returns 1 or -EBADMSG. */
static int read_by_model(unsigned max_iov, bool has_indirect, struct vublk_chain *chain)
{
	unsigned at = 0, n = 0;

	chain->num_out = chain->num_in = 0;
	chain->out_bytes = chain->in_bytes = 0;
	for (unsigned left = has_indirect ? 3 : 0; left; left--) {
		const struct vring_desc *desc = &memory.table[at];
		bool is_writable = desc->flags & VRING_DESC_F_WRITE;

		if (desc->flags & VRING_DESC_F_INDIRECT || !desc->len || n == max_iov ||
		    (!is_writable && chain->num_in) || desc->addr < GUEST ||
		    !vublk_range_within(desc->addr - GUEST, desc->len, REGION_BYTES))
			return -EBADMSG;
		chain->iov[n] = (struct iovec){ region.host + (desc->addr - GUEST), desc->len };
		chain->guest_addrs[n++] = desc->addr;
		*(is_writable ? &chain->num_in : &chain->num_out) += 1;
		*(is_writable ? &chain->in_bytes : &chain->out_bytes) += desc->len;
		if (chain->out_bytes + chain->in_bytes > CHAIN_MAX_BYTES)
			return -EBADMSG;
		if (!(desc->flags & VRING_DESC_F_NEXT))
			return 1;
		at = desc->next;
		if (at >= 3)
			return -EBADMSG;
	}
	return -EBADMSG;
}

static void check_one(struct vublk_device_ring *ring, uint16_t index, bool has_indirect,
		      bool wants_guest)
{
	unsigned max_iov = rarely() ? below(4) : 8;
	struct iovec iov[8], expected_iov[8];
	uint64_t guest[8], expected_guest[8];
	struct vublk_chain chain = { .max_iov = max_iov, .iov = iov,
				     .guest_addrs = wants_guest ? guest : NULL };
	struct vublk_chain expected = { .iov = expected_iov, .guest_addrs = expected_guest };
	bool is_read = below(2);
	int r;

	for (unsigned i = 0; i < 3; i++)
		memory.table[i] = random_desc(i, is_read);
	memory.avail[2 + index % SIZE] = 0;
	memory.avail[1] = (uint16_t)(index + 1);
	r = read_by_model(max_iov, has_indirect, &expected);
	assert_int_equal(vublk_device_ring_take(ring, &map, &chain, NULL), r);
	vublk_device_ring_push(ring, 0, 0);
	if (r < 0)
		return;
	assert_int_equal(chain.num_out, expected.num_out);
	assert_int_equal(chain.num_in, expected.num_in);
	assert_int_equal(chain.out_bytes, expected.out_bytes);
	assert_int_equal(chain.in_bytes, expected.in_bytes);
	assert_memory_equal(iov, expected_iov, (chain.num_out + chain.num_in) * sizeof(*iov));
	if (wants_guest)
		assert_memory_equal(guest, expected_guest,
				    (chain.num_out + chain.num_in) * sizeof(*guest));
}

static void run(bool has_indirect, bool wants_guest)
{
	const struct vublk_split_ring parts = {
		.desc = memory.desc, .avail = (struct vring_avail *)memory.avail,
		.used = (struct vring_used *)memory.used,
	};
	uint64_t features = has_indirect ? UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC : 0;
	struct vublk_device_ring ring;

	memset(&memory, 0, sizeof(memory));
	memory.desc[0] = (struct vring_desc){
		.addr = GUEST + (uint64_t)((char *)memory.table - (char *)&memory),
		.len = sizeof(memory.table), .flags = VRING_DESC_F_INDIRECT,
	};
	assert_int_equal(vublk_device_ring_init(&ring, &parts, SIZE, 0, features, NULL), 0);
	for (unsigned i = 0; i < 60000; i++)
		check_one(&ring, (uint16_t)i, has_indirect, wants_guest);
	vublk_device_ring_deinit(&ring);
}

static void test_with_guest_addresses(void **test_state)
{
	run(true, true);
}

static void test_without_guest_addresses(void **test_state)
{
	run(true, false);
}

static void test_not_negotiated(void **test_state)
{
	run(false, true);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_with_guest_addresses),
		VUBLK_TEST(test_without_guest_addresses),
		VUBLK_TEST(test_not_negotiated),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
