/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The rules that the other end of a ring can break. Our device end must refuse a driver's invalid
 * descriptors, and our driver end must refuse a device's invalid completions.
 */
#include "harness.h"
#include "ring-rig.h"

#include "util/checked.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#define EVENT_IDX VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX)
#define INDIRECT VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC)

#define SIZE 8
#define MAX_IOV 6

/*
 * The driver's memory: four adjacent pages, each of which is a region. Cases place their buffers at
 * these addresses, and tables at TABLE or SPLIT_TABLE.
 */
#define PAGE(n) (RIG_GUEST_BASE + (n) * UINT64_C(4096))
#define END PAGE(4)
#define TABLE PAGE(1)
#define SPLIT_TABLE (PAGE(1) - 24) /* spans the first two regions */

#define N VRING_DESC_F_NEXT
#define W VRING_DESC_F_WRITE
#define I VRING_DESC_F_INDIRECT

struct chain_case {
	const char *name;
	uint64_t features;
	struct vring_desc ring[4];  /* the chain begins at descriptor 0 */
	struct vring_desc table[5]; /* written to table_addr, unless that is 0 */
	uint64_t table_addr;
	const char *words; /* words of the refusal; NULL: the chain is valid */
	unsigned num_out, num_in;
};

static const struct chain_case chain_cases[] = {
	/* The first chains are valid. Each of the others breaks one rule, and is refused for it. */
	{ .name = "read, then write",
	  .ring = { { PAGE(0), 16, N, 1 }, { PAGE(2), 512, W | N, 2 }, { PAGE(0) + 16, 1, W, 0 } },
	  .num_out = 1, .num_in = 2 },
	{ .name = "backwards through the table",
	  .ring = { { PAGE(0), 16, N, 3 }, { PAGE(0), 1, W, 0 }, { PAGE(0), 1, W | N, 1 },
		    { PAGE(0), 1, N, 2 } },
	  .num_out = 2, .num_in = 2 },
	{ .name = "a buffer over all regions",
	  .ring = { { PAGE(0), 4 * 4096, W, 0 } }, .num_in = 4 },
	{ .name = "last byte of memory", .ring = { { END - 1, 1, W, 0 } }, .num_in = 1 },
	{ .name = "indirect", .features = INDIRECT, .table_addr = TABLE,
	  .ring = { { TABLE, 32, I, 0 } },
	  .table = { { PAGE(0), 16, N, 1 }, { PAGE(0), 1, W, 0 } }, .num_out = 1, .num_in = 1 },
	{ .name = "indirect table over two regions", .features = INDIRECT,
	  .table_addr = SPLIT_TABLE, .ring = { { SPLIT_TABLE, 48, I, 0 } },
	  .table = { { PAGE(0), 16, N, 1 }, { PAGE(2), 1, N, 2 }, { PAGE(0), 1, W, 0 } },
	  .num_out = 2, .num_in = 1 },
	{ .name = "indirect table at an odd address", .features = INDIRECT,
	  .table_addr = TABLE + 1, .ring = { { TABLE + 1, 32, I, 0 } },
	  .table = { { PAGE(0), 16, N, 1 }, { PAGE(0), 1, W, 0 } }, .num_out = 1, .num_in = 1 },
	{ .name = "indirect after direct", .features = INDIRECT, .table_addr = TABLE,
	  .ring = { { PAGE(0), 16, N, 1 }, { TABLE, 32, I, 0 } },
	  .table = { { PAGE(0), 16, N, 1 }, { PAGE(0), 1, W, 0 } }, .num_out = 2, .num_in = 1 },
	{ .name = "WRITE on the indirect descriptor is ignored", .features = INDIRECT,
	  .table_addr = TABLE, .ring = { { TABLE, 16, I | W, 77 } },
	  .table = { { PAGE(0), 16, 0, 0 } }, .num_out = 1 },

	{ .name = "address outside memory", .ring = { { END, 1, 0, 0 } }, .words = "outside" },
	{ .name = "address below memory", .ring = { { PAGE(0) - 1, 2, 0, 0 } },
	  .words = "outside" },
	{ .name = "address 0", .ring = { { 0, 16, W, 0 } }, .words = "outside" },
	{ .name = "length past memory", .ring = { { END - 1, 2, 0, 0 } }, .words = "outside" },
	{ .name = "length of 4 GiB less 1", .ring = { { PAGE(0), UINT32_MAX, 0, 0 } },
	  .words = "outside" },
	{ .name = "address and length wrap", .ring = { { UINT64_MAX - 10, 100, 0, 0 } },
	  .words = "outside" },
	{ .name = "address and length wrap into memory",
	  .ring = { { UINT64_MAX - 10, UINT32_MAX, 0, 0 } }, .words = "outside" },
	{ .name = "second buffer outside memory",
	  .ring = { { PAGE(0), 16, N, 1 }, { END, 1, W, 0 } }, .words = "outside" },
	{ .name = "buffer of 0 bytes", .ring = { { PAGE(0), 0, 0, 0 } }, .words = "an empty buffer" },
	{ .name = "last buffer of 0 bytes", .ring = { { PAGE(0), 16, N, 1 }, { PAGE(0), 0, W, 0 } },
	  .words = "an empty buffer" },
	{ .name = "write before read",
	  .ring = { { PAGE(0), 16, W | N, 1 }, { PAGE(0), 16, 0, 0 } }, .words = "after a writable one" },
	{ .name = "loop of one", .ring = { { PAGE(0), 1, N, 0 } }, .words = "segments" },
	{ .name = "loop of three",
	  .ring = { { PAGE(0), 1, N, 1 }, { PAGE(0), 1, N, 2 }, { PAGE(0), 1, N, 0 } },
	  .words = "segments" },
	{ .name = "too many segments",
	  .ring = { { PAGE(0), 4 * 4096, N, 1 }, { PAGE(0), 3 * 4096, 0, 0 } }, .words = "segments" },
	{ .name = "next just out of range", .ring = { { PAGE(0), 1, N, SIZE } },
	  .words = "has 8 as its next descriptor, but the table's last descriptor is 7" },
	{ .name = "next far out of range", .ring = { { PAGE(0), 1, N, 65535 } },
	  .words = "has 65535 as its next descriptor, but the table's last descriptor is 7" },

	{ .name = "indirect, not negotiated", .table_addr = TABLE,
	  .ring = { { TABLE, 16, I, 0 } }, .table = { { PAGE(0), 16, 0, 0 } },
	  .words = "not negotiated" },
	{ .name = "indirect inside indirect", .features = INDIRECT, .table_addr = TABLE,
	  .ring = { { TABLE, 32, I, 0 } },
	  .table = { { PAGE(0), 16, N, 1 }, { TABLE, 32, I, 0 } }, .words = "inside" },
	{ .name = "indirect of itself", .features = INDIRECT, .table_addr = TABLE,
	  .ring = { { TABLE, 16, I, 0 } }, .table = { { TABLE, 16, I, 0 } }, .words = "inside" },
	{ .name = "indirect with NEXT", .features = INDIRECT, .table_addr = TABLE,
	  .ring = { { TABLE, 16, I | N, 1 }, { PAGE(0), 1, W, 0 } },
	  .table = { { PAGE(0), 16, 0, 0 } }, .words = "NEXT" },
	{ .name = "indirect of length 0", .features = INDIRECT, .table_addr = TABLE,
	  .ring = { { TABLE, 0, I, 0 } }, .table = { { PAGE(0), 16, 0, 0 } }, .words = "multiple" },
	{ .name = "indirect of length 15", .features = INDIRECT, .table_addr = TABLE,
	  .ring = { { TABLE, 15, I, 0 } }, .table = { { PAGE(0), 16, 0, 0 } }, .words = "multiple" },
	{ .name = "indirect of length 17", .features = INDIRECT, .table_addr = TABLE,
	  .ring = { { TABLE, 17, I, 0 } }, .table = { { PAGE(0), 16, 0, 0 } }, .words = "multiple" },
	{ .name = "indirect too long by one", .features = INDIRECT, .table_addr = TABLE,
	  .ring = { { TABLE, 16 * (VUBLK_RING_MAX_INDIRECT + 1), I, 0 } }, .words = "longer" },
	{ .name = "indirect of 4 GiB", .features = INDIRECT, .table_addr = TABLE,
	  .ring = { { TABLE, UINT32_MAX - 15, I, 0 } }, .words = "longer" },
	{ .name = "indirect outside memory", .features = INDIRECT,
	  .ring = { { END, 16, I, 0 } }, .words = "table that is outside the" },
	{ .name = "indirect past memory", .features = INDIRECT,
	  .ring = { { END - 16, 32, I, 0 } }, .words = "table that is outside the" },
	{ .name = "indirect wraps", .features = INDIRECT,
	  .ring = { { UINT64_MAX - 15, 32, I, 0 } }, .words = "table that is outside the" },
	{ .name = "next out of the table", .features = INDIRECT, .table_addr = TABLE,
	  .ring = { { TABLE, 32, I, 0 } },
	  .table = { { PAGE(0), 16, N, 2 }, { PAGE(0), 1, W, 0 } },
	  .words = "has 2 as its next descriptor, but the table's last descriptor is 1" },
	{ .name = "loop in the table", .features = INDIRECT, .table_addr = TABLE,
	  .ring = { { TABLE, 32, I, 0 } },
	  .table = { { PAGE(0), 16, N, 1 }, { PAGE(0), 1, N, 0 } }, .words = "loop" },
	{ .name = "buffer of the table outside memory", .features = INDIRECT, .table_addr = TABLE,
	  .ring = { { TABLE, 16, I, 0 } }, .table = { { END, 1, W, 0 } }, .words = "outside" },
	{ .name = "write before read, over the table's edge", .features = INDIRECT,
	  .table_addr = TABLE, .ring = { { PAGE(0), 1, W | N, 1 }, { TABLE, 16, I, 0 } },
	  .table = { { PAGE(0), 1, 0, 0 } }, .words = "after a writable one" },
};

static struct ring_rig rig;
static struct iovec iov[64];

static void set_up(unsigned size, uint64_t features)
{
	rig_init(&rig, &(struct rig_config){ size, 65535, features, 4 * 4096, 4 });
}

/* Makes a head available without the checks of the driver end. */
static void make_available(uint16_t head)
{
	struct vring_avail *avail = rig.memory.avail;

	avail->ring[avail->idx & (rig.config.size - 1)] = head;
	avail->idx++;
}

static int take(unsigned max_iov, struct vublk_chain *chain, struct vublk_error *error)
{
	*chain = (struct vublk_chain){ .max_iov = max_iov, .iov = iov };
	*error = (struct vublk_error){ 0 };
	return vublk_device_ring_take(&rig.device, &rig.map, chain, error);
}

/* Checks that a refused chain can be completed, and that the next one is taken. */
static void check_goes_on(const char *name, const struct vublk_chain *refused)
{
	struct vublk_chain chain;
	struct vublk_error error;

	vublk_device_ring_push(&rig.device, refused->head, 0);
	vublk_device_ring_publish(&rig.device);
	if (rig.memory.used->ring[65535 & (rig.config.size - 1)].id != refused->head ||
	    rig.memory.used->idx != 0)
		fail_msg("%s: the refused chain was not completed", name);
	rig.memory.desc[7] = (struct vring_desc){ PAGE(3), 16, 0, 0 };
	make_available(7);
	if (take(MAX_IOV, &chain, &error) != 1 || chain.head != 7)
		fail_msg("%s: the next chain was not taken: %s", name, error.text);
}

static void run_chain_case(const struct chain_case *c)
{
	struct vublk_chain chain;
	struct vublk_error error;
	int ret;

	set_up(SIZE, c->features);
	memcpy(rig.memory.desc, c->ring, sizeof(c->ring));
	if (c->table_addr)
		memcpy(rig_data(&rig, c->table_addr), c->table, sizeof(c->table));
	make_available(0);
	ret = take(MAX_IOV, &chain, &error);
	if (ret != (c->words ? -EBADMSG : 1) || chain.head != 0)
		fail_msg("%s: %d '%s'", c->name, ret, error.text);
	if (c->words && (error.code != EBADMSG || !strstr(error.text, c->words)))
		fail_msg("%s: '%s' does not say '%s'", c->name, error.text, c->words);
	if (!c->words && (chain.num_out != c->num_out || chain.num_in != c->num_in))
		fail_msg("%s: %u and %u segments", c->name, chain.num_out, chain.num_in);
	check_goes_on(c->name, &chain);
	rig_deinit(&rig);
}

static void test_chains(void **state)
{
	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(chain_cases); i++)
		run_chain_case(&chain_cases[i]);
}

/*
 * The device end stops a loop after as many descriptors as the ring has, even if there are more
 * iovecs.
 */
static void test_loop_is_bounded_by_the_ring(void **state)
{
	struct vublk_chain chain;
	struct vublk_error error;

	set_up(SIZE, 0);
	rig.memory.desc[0] = (struct vring_desc){ PAGE(0), 1, N, 0 };
	make_available(0);
	assert_int_equal(take(VUBLK_ARRAY_SIZE(iov), &chain, &error), -EBADMSG);
	assert_non_null(strstr(error.text, "loop"));
	for (uint16_t i = 0; i < SIZE; i++)
		rig.memory.desc[i] = (struct vring_desc){ PAGE(0), 1, i < SIZE - 1 ? N : 0, i + 1 };
	vublk_device_ring_push(&rig.device, 0, 0);
	make_available(0);
	assert_int_equal(take(VUBLK_ARRAY_SIZE(iov), &chain, &error), 1);
	assert_int_equal(chain.num_out, SIZE);
	rig_deinit(&rig);
}

/* Each buffer is valid, but together they exceed 2^32 bytes. */
static void test_too_many_bytes(void **state)
{
	uint64_t bytes = UINT64_C(3) << 30;
	char *host = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct vublk_memory_map_region region = { 0, 0, bytes, host };
	struct vublk_memory_map big = { 1, &region };
	struct vublk_chain chain = { .max_iov = 8, .iov = iov };
	struct vublk_error error = { 0 };

	if (host == MAP_FAILED)
		vublk_test_skip("no room for a mapping of 3 GiB");
	set_up(SIZE, 0);
	rig.memory.desc[0] = (struct vring_desc){ 0, 3u << 30, N, 1 };
	rig.memory.desc[1] = (struct vring_desc){ 0, 1u << 30, W, 0 };
	make_available(0);
	assert_int_equal(vublk_device_ring_take(&rig.device, &big, &chain, &error), 1);
	assert_int_equal(chain.out_bytes + chain.in_bytes, UINT64_C(1) << 32);
	rig.memory.desc[2] = (struct vring_desc){ 0, 3u << 30, N, 3 };
	rig.memory.desc[3] = (struct vring_desc){ 0, (1u << 30) + 1, W, 0 };
	make_available(2);
	assert_int_equal(vublk_device_ring_take(&rig.device, &big, &chain, &error), -EBADMSG);
	assert_non_null(strstr(error.text, "2^32"));
	rig_deinit(&rig);
	munmap(host, bytes);
}

static void test_no_memory_at_all(void **state)
{
	struct vublk_memory_map none = { 0, NULL };
	struct vublk_chain chain = { .max_iov = 8, .iov = iov };

	set_up(SIZE, INDIRECT);
	rig.memory.desc[0] = (struct vring_desc){ PAGE(0), 16, 0, 0 };
	rig.memory.desc[1] = (struct vring_desc){ PAGE(0), 16, I, 0 };
	make_available(0);
	make_available(1);
	assert_int_equal(vublk_device_ring_take(&rig.device, &none, &chain, NULL), -EBADMSG);
	assert_int_equal(vublk_device_ring_take(&rig.device, &none, &chain, NULL), -EBADMSG);
	rig_deinit(&rig);
}

/* --- a driver that breaks the ring itself ---------------------------------- */

static void head_equals_size(void)
{
	make_available(SIZE);
}

static void head_is_huge(void)
{
	make_available(65535);
}

static void head_twice(void)
{
	struct vublk_chain chain;
	struct vublk_error error;

	make_available(1);
	assert_int_equal(take(MAX_IOV, &chain, &error), 1);
	make_available(1);
}

static void index_jumps_by_size_and_one(void)
{
	rig.memory.avail->idx = (uint16_t)(rig.memory.avail->idx + SIZE + 1);
}

static void index_goes_back(void)
{
	rig.memory.avail->idx--;
}

static void index_jumps_half_way(void)
{
	rig.memory.avail->idx = (uint16_t)(rig.memory.avail->idx + 32768);
}

static const struct {
	const char *name;
	void (*act)(void);
	const char *words;
} driver_cases[] = {
	{ "head equal to the size", head_equals_size,
	  "made descriptor 8 available, but the ring's last descriptor is 7" },
	{ "head of 65535", head_is_huge,
	  "made descriptor 65535 available, but the ring's last descriptor is 7" },
	{ "head available twice", head_twice, "before the device completed it" },
	{ "index jumps by size + 1", index_jumps_by_size_and_one, "avail index to 8," },
	{ "index goes back", index_goes_back, "avail index to 65534," },
	{ "index jumps half way round", index_jumps_half_way, "avail index" },
};

static void test_driver_breaks_ring(void **state)
{
	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(driver_cases); i++) {
		struct vublk_chain chain;
		struct vublk_error first, again;

		set_up(SIZE, 0);
		for (unsigned d = 0; d < SIZE; d++)
			rig.memory.desc[d] = (struct vring_desc){ PAGE(0), 16, 0, 0 };
		driver_cases[i].act();
		if (take(MAX_IOV, &chain, &first) != -EPROTO || first.code != EPROTO ||
		    !strstr(first.text, driver_cases[i].words))
			fail_msg("%s: '%s'", driver_cases[i].name, first.text);
		/* Valid behaviour afterwards does not repair the ring. */
		rig.memory.avail->idx = vublk_device_ring_base(&rig.device);
		make_available(5);
		assert_int_equal(take(MAX_IOV, &chain, &again), -EPROTO);
		assert_string_equal(first.text, again.text);
		assert_int_equal(vublk_device_ring_take(&rig.device, &rig.map, &chain, NULL), -EPROTO);
		rig_deinit(&rig);
	}
}

static void test_full_ring_is_no_jump(void **state)
{
	struct vublk_chain chain;
	struct vublk_error error;

	set_up(SIZE, 0);
	for (uint16_t i = 0; i < SIZE; i++) {
		rig.memory.desc[i] = (struct vring_desc){ PAGE(0), 16, 0, 0 };
		make_available(i);
	}
	for (unsigned i = 0; i < SIZE; i++)
		assert_int_equal(take(MAX_IOV, &chain, &error), 1);
	assert_int_equal(take(MAX_IOV, &chain, &error), 0);
	rig_deinit(&rig);
}

static void test_take_again_refuses(void **state)
{
	struct vublk_chain chain = { .max_iov = MAX_IOV, .iov = iov };
	struct vublk_error error = { 0 };

	set_up(SIZE, 0);
	rig.memory.desc[0] = (struct vring_desc){ END, 16, 0, 0 };
	rig.memory.desc[1] = (struct vring_desc){ PAGE(0), 16, 0, 0 };
	assert_int_equal(vublk_device_ring_take_again(&rig.device, &rig.map, SIZE, &chain, &error),
			 -EPROTO);
	assert_int_equal(vublk_device_ring_take_again(&rig.device, &rig.map, 0, &chain, &error),
			 -EBADMSG);
	assert_int_equal(vublk_device_ring_take_again(&rig.device, &rig.map, 1, &chain, &error), 1);
	assert_int_equal(vublk_device_ring_take_again(&rig.device, &rig.map, 1, &chain, &error),
			 -EPROTO);
	/* None of these errors broke the ring. */
	rig.memory.desc[2] = (struct vring_desc){ PAGE(0), 16, 0, 0 };
	make_available(2);
	assert_int_equal(take(MAX_IOV, &chain, &error), 1);
	/* But the ring breaks if an in-flight chain is made available again. */
	make_available(1);
	assert_int_equal(take(MAX_IOV, &chain, &error), -EPROTO);
	rig_deinit(&rig);
}

/* --- a device that breaks the ring ----------------------------------------- */

static void complete(uint32_t id)
{
	struct vring_used *used = rig.memory.used;

	used->ring[used->idx & (SIZE - 1)] = (struct vring_used_elem){ id, 1 };
	used->idx++;
}

static void id_equals_size(void)
{
	complete(SIZE);
}

static void id_is_huge(void)
{
	complete(UINT32_MAX);
}

static void id_wraps_to_a_good_one(void)
{
	complete(65536);
}

static void id_of_a_free_descriptor(void)
{
	complete(6);
}

static void id_inside_a_chain(void)
{
	complete(1);
}

static void id_not_published(void)
{
	complete(4);
}

static void id_twice(void)
{
	complete(0);
	complete(0);
}

static void used_jumps_by_one_too_many(void)
{
	rig.memory.used->idx = (uint16_t)(rig.memory.used->idx + 3);
}

static void used_jumps_half_way(void)
{
	rig.memory.used->idx = (uint16_t)(rig.memory.used->idx + 32768);
}

static void used_goes_back(void)
{
	rig.memory.used->idx--;
}

static const struct {
	const char *name;
	void (*act)(void);
	unsigned good; /* how many of the completions by `act` are valid; they come first */
	const char *words;
} device_cases[] = {
	{ "id equal to the size", id_equals_size, 0, "descriptor 8, but the ring's last descriptor is 7" },
	{ "id of 2^32 - 1", id_is_huge, 0, "descriptor 4294967295, but the ring's last descriptor is 7" },
	{ "id of 65536", id_wraps_to_a_good_one, 0, "descriptor 65536" },
	{ "id of a free descriptor", id_of_a_free_descriptor, 0, "descriptor 6, which is not" },
	{ "id in the middle of a chain", id_inside_a_chain, 0, "descriptor 1, which is not" },
	{ "id added but not published", id_not_published, 0, "descriptor 4, which is not" },
	{ "id twice", id_twice, 1, "descriptor 0, which is not" },
	{ "index jumps by one too many", used_jumps_by_one_too_many, 0,
	  "to 2, but the driver has processed the completions up to 65535, and only 2 "
	  "chains are" },
	{ "index jumps half way round", used_jumps_half_way, 0, "used index" },
	{ "index goes back", used_goes_back, 0, "used index" },
};

/*
 * Adds three chains of two descriptors, which begin at descriptors 0, 2 and 4. The first two are
 * published, and the last one is not.
 */
static void fill_ring(void)
{
	const struct vublk_ring_buffer buffers[2] = { { PAGE(0), 16 }, { PAGE(1), 16 } };

	for (uint16_t token = 0; token < 3; token++) {
		if (token == 2)
			vublk_driver_ring_publish(&rig.driver);
		assert_int_equal(vublk_driver_ring_add(&rig.driver, buffers, 1, 1, NULL, token), 0);
	}
}

static void test_device_breaks_ring(void **state)
{
	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(device_cases); i++) {
		struct vublk_error first = { 0 }, again = { 0 };
		uint16_t token = 99;
		uint32_t bytes = 99;

		set_up(SIZE, 0);
		fill_ring();
		device_cases[i].act();
		for (unsigned k = 0; k < device_cases[i].good; k++)
			assert_int_equal(vublk_driver_ring_take(&rig.driver, &token, &bytes, NULL), 1);
		token = 99;
		if (vublk_driver_ring_take(&rig.driver, &token, &bytes, &first) != -EPROTO ||
		    first.code != EPROTO || !strstr(first.text, device_cases[i].words))
			fail_msg("%s: '%s'", device_cases[i].name, first.text);
		assert_int_equal(token, 99);
		/* Valid behaviour afterwards does not repair the ring. */
		rig.memory.used->idx = (uint16_t)(65535 + device_cases[i].good);
		complete(2);
		assert_int_equal(vublk_driver_ring_take(&rig.driver, &token, &bytes, &again), -EPROTO);
		assert_string_equal(first.text, again.text);
		assert_int_equal(vublk_driver_ring_outstanding(&rig.driver), 3 - device_cases[i].good);
		rig_deinit(&rig);
	}
}

/*
 * The device overwrites the descriptors and the available ring. Our driver end does not rely on
 * their content.
 */
static void test_device_overwrites_driver_memory(void **state)
{
	const struct vublk_ring_buffer buffers[2] = { { PAGE(0), 16 }, { PAGE(1), 16 } };

	set_up(SIZE, EVENT_IDX | INDIRECT);
	for (unsigned round = 0; round < 50; round++) {
		uint16_t seen[4] = { 0 }, token;
		uint32_t bytes;

		for (token = 0; token < 4; token++)
			assert_int_equal(vublk_driver_ring_add(&rig.driver, buffers, 1, 1, NULL,
							       token), 0);
		assert_int_equal(vublk_driver_ring_add(&rig.driver, buffers, 1, 1, NULL, 5), -ENOSPC);
		vublk_driver_ring_publish(&rig.driver);
		for (unsigned k = 0; k < 4; k++)
			complete(rig.memory.avail->ring[(65535 + 4 * round + k) & (SIZE - 1)]);
		memset(rig.memory.desc, 0xff, vublk_split_desc_bytes(SIZE));
		memset(rig.memory.avail, 0xff, vublk_split_avail_bytes(SIZE));
		vublk_driver_ring_forget(&rig.driver); /* prepares the ring for the next device */
		while (vublk_driver_ring_take(&rig.driver, &token, &bytes, NULL) == 1)
			seen[token]++;
		for (token = 0; token < 4; token++)
			assert_int_equal(seen[token], 1);
	}
	rig_deinit(&rig);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_chains),
		VUBLK_TEST(test_loop_is_bounded_by_the_ring),
		VUBLK_TEST(test_too_many_bytes),
		VUBLK_TEST(test_no_memory_at_all),
		VUBLK_TEST(test_driver_breaks_ring),
		VUBLK_TEST(test_full_ring_is_no_jump),
		VUBLK_TEST(test_take_again_refuses),
		VUBLK_TEST(test_device_breaks_ring),
		VUBLK_TEST(test_device_overwrites_driver_memory),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
