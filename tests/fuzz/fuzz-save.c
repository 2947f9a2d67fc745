/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A hostile saved state, which is given first to the codec and then to a device with
 * friendly-backend.c. The first byte of the input says whether the length and the checksum in the
 * stream are corrected (bit 0), and whether the VM runs after the load (bit 1). The rest is the
 * stream.
 *
 * Key idea: a stream that is refused has no effect. The state of an accepted stream does not change
 * if it is encoded and decoded again. After any stream, the driver can reset the device.
 */
#include "friendly-backend.h"
#include "fuzz.h"

#include "device/device.h"
#include "device/save/save.h"
#include "util/checked.h"
#include "util/crc32c.h"
#include "util/fd.h"
#include "util/memfd.h"

#include <endian.h>
#include <poll.h>
#include <string.h>

#define GUEST_ADDR UINT64_C(0x100000)
#define MEMORY_BYTES (UINT64_C(1) << 20)
#define TOTAL_OFFSET 16
#define HEADER_BYTES 24
#define MAX_ROUNDS 100000 /* of the loop per input; reached only by an endless loop */

enum { CORRECT = 1, RUN = 2 };

struct world {
	struct friendly_backend backend;
	struct vublk_device *device;
	int memory_fd;
	unsigned rounds;
};

static const struct vublk_device_bus_ops ops = { 0 };

/* --- the world -------------------------------------------------------------- */

static void work(struct world *world)
{
	struct pollfd fd = { vublk_device_fd(world->device), POLLIN, 0 };

	while (friendly_backend_work(&world->backend) || poll(&fd, 1, 0) == 1) {
		FUZZ_CHECK(world->rounds++ < MAX_ROUNDS);
		FUZZ_CHECK(!vublk_device_process(world->device));
	}
}

/* Realizes the device. The timer that starts this is due immediately, but may fire later. */
static void realize(struct world *world)
{
	struct pollfd fd = { vublk_device_fd(world->device), POLLIN, 0 };

	FUZZ_CHECK(!vublk_device_realize(world->device, NULL));
	do {
		FUZZ_CHECK(poll(&fd, 1, -1) == 1);
		work(world);
	} while (vublk_device_state(world->device) == VUBLK_DEVICE_REALIZING);
	FUZZ_CHECK(vublk_device_state(world->device) == VUBLK_DEVICE_STOPPED);
}

static void set(struct world *world, const char *name, const char *value)
{
	FUZZ_CHECK(!vublk_device_set_property(world->device, name, value, NULL));
}

static void open_world(struct world *world)
{
	struct vublk_memory_region region = { GUEST_ADDR, MEMORY_BYTES, -1, 0 };

	friendly_backend_open(&world->backend);
	world->backend.protocol_features |= VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD) |
					    VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_INFLIGHT);
	FUZZ_CHECK(!vublk_device_new(&ops, sizeof(ops), world, NULL, &world->device, NULL));
	set(world, "chardev", world->backend.path);
	set(world, "queue-size", "16");
	set(world, "inflight-migration", "on");
	vublk_device_set_vm_running(world->device, false);
	realize(world);
	world->memory_fd = region.fd = vublk_memfd_new("fuzz", MEMORY_BYTES, NULL);
	FUZZ_CHECK(world->memory_fd >= 0);
	FUZZ_CHECK(!vublk_device_set_memory(world->device, &region, 1, NULL));
}

static void close_world(struct world *world)
{
	vublk_device_free(world->device);
	vublk_fd_close(&world->memory_fd);
	friendly_backend_close(&world->backend);
}

/* --- the codec --------------------------------------------------------------- */

static void encode(const struct vublk_save_state *state, void **stream, size_t *bytes)
{
	FUZZ_CHECK(!vublk_save_encode(state, stream, bytes, NULL));
}

static void check_codec(const void *stream, size_t bytes)
{
	static struct vublk_save_state state, again;
	struct vublk_error error = { 0 };
	void *first, *second;
	size_t first_bytes, second_bytes;

	if (vublk_save_decode(stream, bytes, &state, &error) < 0) {
		FUZZ_CHECK(error.code && error.text[0]);
		return;
	}
	encode(&state, &first, &first_bytes);
	FUZZ_CHECK(!vublk_save_decode(first, first_bytes, &again, NULL));
	encode(&again, &second, &second_bytes);
	FUZZ_CHECK(first_bytes == second_bytes && !memcmp(first, second, first_bytes));
	free(first);
	free(second);
}

/* --- the device -------------------------------------------------------------- */

static void save(struct world *world, void **stream, size_t *bytes)
{
	FUZZ_CHECK(!vublk_device_save(world->device, stream, bytes, NULL));
}

static void load(struct world *world, const void *stream, size_t bytes)
{
	void *before, *after;
	size_t bytes_before, bytes_after;

	save(world, &before, &bytes_before);
	if (vublk_device_load(world->device, stream, bytes, NULL) < 0) {
		save(world, &after, &bytes_after);
		FUZZ_CHECK(bytes_before == bytes_after && !memcmp(before, after, bytes_before));
		free(after);
	}
	free(before);
}

/* Checks that a driver can reset the device, whatever state was loaded. */
static void check_reset(struct world *world)
{
	FUZZ_CHECK(!vublk_device_set_status(world->device, 0, NULL));
	work(world);
	FUZZ_CHECK(!vublk_device_has_rings_out(world->device));
	FUZZ_CHECK(!vublk_device_status(world->device));
}

/* --- the input --------------------------------------------------------------- */

static void correct(uint8_t *stream, size_t bytes)
{
	uint64_t total = htole64(bytes);
	uint32_t sum;

	if (bytes < HEADER_BYTES + sizeof(sum))
		return;
	memcpy(stream + TOTAL_OFFSET, &total, sizeof(total));
	sum = htole32(vublk_crc32c(stream, bytes - sizeof(sum)));
	memcpy(stream + bytes - sizeof(sum), &sum, sizeof(sum));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world world = { 0 };
	size_t bytes = size ? size - 1 : 0;
	uint8_t *stream = malloc(bytes ? bytes : 1);

	FUZZ_CHECK(stream);
	if (bytes)
		memcpy(stream, data + 1, bytes);
	if (size && data[0] & CORRECT)
		correct(stream, bytes);
	check_codec(stream, bytes);
	open_world(&world);
	load(&world, stream, bytes);
	free(stream);
	vublk_device_set_vm_running(world.device, size && data[0] & RUN);
	work(&world);
	check_reset(&world);
	close_world(&world);
	return 0;
}
