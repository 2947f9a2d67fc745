/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A ring with a hostile peer at one end. The tested code is at the other end ("our end"), which may
 * be the driver's or the device's. The first byte of the input selects the features, the size, and
 * our end. Operations follow: the low two bits of a byte select the operation, and the other bits
 * are a number.
 *
 *   0 the peer writes to the memory: an offset (2 bytes), a length (1), and the bytes
 *   1 the peer adds the number to its index
 *   2 our end takes chains or completions, at most one more than the number
 *   3 another operation of our end, selected by the number
 *
 * Key idea: the ring and the buffers are in one memory, and a guest address is an offset in this
 * memory. For any content, all segments lie in this memory, no head or token is returned twice,
 * each failure has a text, and a broken ring stays broken.
 */
#include "fuzz.h"

#include "util/checked.h"
#include "virtio/device-ring.h"
#include "virtio/driver-ring.h"

#include <errno.h>
#include <string.h>

#define AVAIL_OFFSET 0x200
#define USED_OFFSET 0x300
#define DATA_OFFSET 0x1000
#define MEMORY_BYTES 0x3000
#define MAX_SIZE 16
#define MAX_IOV 20

struct fuzz {
	const uint8_t *input, *end;
	uint64_t features;
	unsigned size;
	bool is_driver;
	struct vublk_split_ring ring;
	struct vublk_driver_ring driver;
	struct vublk_device_ring device;
	bool held[MAX_SIZE]; /* indexed by the head that was taken or the token that was added */
	unsigned num_held;
	int broken;
};

static _Alignas(64) uint8_t memory[MEMORY_BYTES];
static struct vublk_memory_map_region regions[] = {
	{ 0x0000, 0x0000, 0x1000, (char *)memory },
	{ 0x1000, 0x1000, 0x0800, (char *)memory + 0x1000 },
	{ 0x1800, 0x1800, 0x1800, (char *)memory + 0x1800 },
};
static const struct vublk_memory_map map = { VUBLK_ARRAY_SIZE(regions), regions };

static unsigned next_byte(struct fuzz *fuzz)
{
	return fuzz->input < fuzz->end ? *fuzz->input++ : 0;
}

static void write_memory(struct fuzz *fuzz)
{
	unsigned offset = next_byte(fuzz);
	unsigned length;

	offset |= next_byte(fuzz) << 8;
	length = next_byte(fuzz);
	for (unsigned i = 0; i < length && fuzz->input < fuzz->end; i++)
		memory[(offset + i) % MEMORY_BYTES] = (uint8_t)next_byte(fuzz);
}

static void move_index(struct fuzz *fuzz, unsigned number)
{
	uint16_t *index = fuzz->is_driver ? &fuzz->ring.used->idx : &fuzz->ring.avail->idx;

	*index = (uint16_t)(*index + number);
}

static void check_failure(struct fuzz *fuzz, int ret, const struct vublk_error *error)
{
	FUZZ_CHECK(error->code == -ret);
	FUZZ_CHECK(error->text[0]);
	if (ret == -EPROTO)
		fuzz->broken = ret;
}

/* --- our end is the device ------------------------------------------------- */

static void check_chain(const struct vublk_chain *chain)
{
	uint64_t bytes[2] = { 0 };

	FUZZ_CHECK(chain->num_out + chain->num_in >= 1);
	FUZZ_CHECK(chain->num_out + chain->num_in <= MAX_IOV);
	for (unsigned i = 0; i < chain->num_out + chain->num_in; i++) {
		const uint8_t *at = chain->iov[i].iov_base;

		FUZZ_CHECK(chain->iov[i].iov_len > 0);
		FUZZ_CHECK(vublk_range_within((uint64_t)(at - memory), chain->iov[i].iov_len,
					      MEMORY_BYTES));
		bytes[i >= chain->num_out] += chain->iov[i].iov_len;
	}
	FUZZ_CHECK(bytes[0] == chain->out_bytes && bytes[1] == chain->in_bytes);
}

static void hold(struct fuzz *fuzz, uint16_t head)
{
	FUZZ_CHECK(head < fuzz->size && !fuzz->held[head]);
	fuzz->held[head] = true;
}

static int device_takes(struct fuzz *fuzz)
{
	struct iovec iov[MAX_IOV];
	struct vublk_chain chain = { .max_iov = MAX_IOV, .iov = iov };
	struct vublk_error error = { 0 };
	int ret = vublk_device_ring_take(&fuzz->device, &map, &chain, &error);

	FUZZ_CHECK(ret == 0 || ret == 1 || ret == -EBADMSG || ret == -EPROTO);
	FUZZ_CHECK(!fuzz->broken || ret == fuzz->broken);
	if (ret == 1)
		check_chain(&chain);
	if (ret == 1 || ret == -EBADMSG)
		hold(fuzz, chain.head);
	if (ret < 0)
		check_failure(fuzz, ret, &error);
	return ret == 1 || ret == -EBADMSG;
}

static void device_takes_again(struct fuzz *fuzz, uint16_t head)
{
	struct iovec iov[MAX_IOV];
	struct vublk_chain chain = { .max_iov = MAX_IOV, .iov = iov };
	struct vublk_error error = { 0 };
	int ret = vublk_device_ring_take_again(&fuzz->device, &map, head, &chain, &error);

	FUZZ_CHECK(ret == 1 || ret == -EBADMSG || ret == -EPROTO);
	FUZZ_CHECK((ret == -EPROTO) == (head >= fuzz->size || fuzz->held[head]));
	if (ret == 1)
		check_chain(&chain);
	if (ret != -EPROTO)
		hold(fuzz, head);
}

static void device_pushes_all(struct fuzz *fuzz)
{
	for (uint16_t head = 0; head < fuzz->size; head++)
		if (fuzz->held[head])
			vublk_device_ring_push(&fuzz->device, head, head);
	memset(fuzz->held, 0, sizeof(fuzz->held));
}

static void init_device(struct fuzz *fuzz, uint16_t base)
{
	FUZZ_CHECK(vublk_device_ring_init(&fuzz->device, &fuzz->ring, fuzz->size, base,
					  fuzz->features, NULL) == 0);
	memset(fuzz->held, 0, sizeof(fuzz->held));
	fuzz->broken = 0;
}

static void device_does(struct fuzz *fuzz, unsigned number)
{
	switch (number & 7) {
	case 0:
		vublk_device_ring_publish(&fuzz->device);
		break;
	case 1:
		vublk_device_ring_enable_kicks(&fuzz->device);
		break;
	case 2:
		vublk_device_ring_disable_kicks(&fuzz->device);
		break;
	case 3:
		vublk_device_ring_deinit(&fuzz->device);
		init_device(fuzz, fuzz->ring.avail->idx);
		break;
	case 4:
		device_takes_again(fuzz, (uint16_t)(number >> 3));
		break;
	default:
		device_pushes_all(fuzz);
		break;
	}
}

/* --- our end is the driver ------------------------------------------------- */

static int driver_takes(struct fuzz *fuzz)
{
	struct vublk_error error = { 0 };
	uint16_t token = 0;
	uint32_t bytes = 0;
	int ret = vublk_driver_ring_take(&fuzz->driver, &token, &bytes, &error);

	FUZZ_CHECK(ret == 0 || ret == 1 || ret == -EPROTO);
	FUZZ_CHECK(!fuzz->broken || ret == fuzz->broken);
	if (ret < 0)
		check_failure(fuzz, ret, &error);
	if (ret == 1) {
		FUZZ_CHECK(token < fuzz->size && fuzz->held[token]);
		fuzz->held[token] = false;
		fuzz->num_held--;
	}
	FUZZ_CHECK(vublk_driver_ring_outstanding(&fuzz->driver) == fuzz->num_held);
	return ret > 0;
}

static void driver_adds(struct fuzz *fuzz, unsigned number)
{
	struct vublk_ring_buffer buffers[8] = { { DATA_OFFSET, 16 } };
	struct vublk_ring_indirect indirect = {
		number & 1 ? (struct vring_desc *)(void *)&memory[DATA_OFFSET] : NULL,
		DATA_OFFSET,
	};
	unsigned num_out = number >> 1 & 3, num_in = number >> 3 & 3;
	uint16_t token = 0;
	int ret;

	while (token < fuzz->size && fuzz->held[token])
		token++;
	ret = vublk_driver_ring_add(&fuzz->driver, buffers, num_out, num_in, &indirect, token);
	FUZZ_CHECK(ret == 0 || ret == -EINVAL || ret == -ENOSPC || ret == -ENOTSUP);
	if (ret == 0) {
		fuzz->held[token] = true;
		fuzz->num_held++;
	}
}

static void driver_does(struct fuzz *fuzz, unsigned number)
{
	switch (number & 3) {
	case 0:
		vublk_driver_ring_publish(&fuzz->driver);
		break;
	case 1:
		vublk_driver_ring_enable_calls(&fuzz->driver);
		break;
	case 2:
		vublk_driver_ring_disable_calls(&fuzz->driver);
		break;
	default:
		driver_adds(fuzz, number >> 2 | next_byte(fuzz) << 1);
		break;
	}
}

/* --- running --------------------------------------------------------------- */

static void init(struct fuzz *fuzz)
{
	unsigned first = next_byte(fuzz);

	memset(memory, 0, sizeof(memory));
	fuzz->features = (first & 1 ? VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC) : 0) |
			 (first & 2 ? VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX) : 0) |
			 (first & 4 ? VUBLK_BIT(VIRTIO_F_NOTIFY_ON_EMPTY) : 0);
	fuzz->size = 2u << (first >> 3 & 3);
	fuzz->is_driver = first & 32;
	fuzz->ring = (struct vublk_split_ring){
		(void *)memory, (void *)&memory[AVAIL_OFFSET], (void *)&memory[USED_OFFSET],
	};
	if (fuzz->is_driver)
		FUZZ_CHECK(vublk_driver_ring_init(&fuzz->driver, &fuzz->ring, fuzz->size, 65530,
						  fuzz->features, NULL) == 0);
	else
		init_device(fuzz, 0);
}

static void step(struct fuzz *fuzz)
{
	unsigned operation = next_byte(fuzz), number = operation >> 2;

	switch (operation & 3) {
	case 0:
		write_memory(fuzz);
		break;
	case 1:
		move_index(fuzz, number);
		break;
	case 2:
		do {
			if (!(fuzz->is_driver ? driver_takes(fuzz) : device_takes(fuzz)))
				break;
		} while (number--);
		break;
	default:
		if (fuzz->is_driver)
			driver_does(fuzz, number);
		else
			device_does(fuzz, number);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz fuzz = { .input = data, .end = data + size };

	init(&fuzz);
	while (fuzz.input < fuzz.end)
		step(&fuzz);
	vublk_driver_ring_deinit(&fuzz.driver);
	vublk_device_ring_deinit(&fuzz.device);
	return 0;
}
