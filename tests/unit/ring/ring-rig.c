/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ring-rig.h"

#include "harness.h"
#include "util/checked.h"
#include "util/fd.h"
#include "util/memfd.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *part_new(size_t alignment, uint64_t bytes)
{
	void *part = NULL;

	assert_int_equal(posix_memalign(&part, VUBLK_MAX(alignment, sizeof(void *)), bytes), 0);
	memset(part, 0, bytes);
	return part;
}

static char *map_region(struct ring_rig *rig, uint64_t at, uint64_t bytes)
{
	char *host = rig->config.one_mapping ? rig->data + at
					     : vublk_map_shared(rig->fd, at, bytes, NULL);

	assert_non_null(host);
	return host;
}

/*
 * Splits the memory into regions of whole pages. Each has its own mapping, unless `one_mapping` is
 * set.
 */
static void map_regions(struct ring_rig *rig)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), pages = rig->data_bytes / page;
	unsigned n = rig->config.num_regions;
	uint64_t at = 0;

	assert_true(n && n <= RIG_MAX_REGIONS && n <= pages);
	for (unsigned i = 0; i < n; i++) {
		uint64_t bytes = i + 1 < n ? (pages / n) * page : rig->data_bytes - at;

		rig->regions[i] = (struct vublk_memory_map_region){
			.guest_addr = RIG_GUEST_BASE + at,
			.user_addr = UINT64_C(0x100000000) * (n - i),
			.size_bytes = bytes,
			.host = map_region(rig, at, bytes),
		};
		at += bytes;
	}
	rig->map = (struct vublk_memory_map){ n, rig->regions };
}

void rig_init(struct ring_rig *rig, const struct rig_config *config)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	*rig = (struct ring_rig){ .config = *config };
	rig->memory.desc = part_new(VRING_DESC_ALIGN_SIZE, vublk_split_desc_bytes(config->size));
	rig->memory.avail = part_new(VRING_AVAIL_ALIGN_SIZE,
				     vublk_split_avail_bytes(config->size));
	rig->memory.used = part_new(VRING_USED_ALIGN_SIZE, vublk_split_used_bytes(config->size));
	rig->data_bytes = vublk_round_up(VUBLK_MAX(config->data_bytes, page), page);
	rig->fd = vublk_memfd_new("rig", rig->data_bytes, NULL);
	assert_true(rig->fd >= 0);
	rig->data = vublk_map_shared(rig->fd, 0, rig->data_bytes, NULL);
	assert_non_null(rig->data);
	map_regions(rig);
	assert_int_equal(vublk_driver_ring_init(&rig->driver, &rig->memory, config->size,
						config->base, config->features, NULL), 0);
	assert_int_equal(vublk_device_ring_init(&rig->device, &rig->memory, config->size,
						config->base, config->features, NULL), 0);
}

void rig_deinit(struct ring_rig *rig)
{
	vublk_driver_ring_deinit(&rig->driver);
	vublk_device_ring_deinit(&rig->device);
	for (unsigned i = 0; i < rig->map.num_regions && !rig->config.one_mapping; i++)
		vublk_unmap(rig->regions[i].host, rig->regions[i].size_bytes);
	vublk_unmap(rig->data, rig->data_bytes);
	vublk_fd_close(&rig->fd);
	free(rig->memory.desc);
	free(rig->memory.avail);
	free(rig->memory.used);
	*rig = (struct ring_rig){ .fd = -1 };
}

uint64_t rig_random(struct rig_random *random)
{
	uint64_t x = random->state ? random->state : 1;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	random->state = x;
	return x;
}

unsigned rig_random_below(struct rig_random *random, unsigned bound)
{
	return (unsigned)((rig_random(random) >> 20) % bound);
}
