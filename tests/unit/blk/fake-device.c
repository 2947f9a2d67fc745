/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The stand-in device; see fake-device.h.
 *
 * Key idea: events are queued in `pending`, and an eventfd wakes the bus's thread, which handles
 * them in process(). The caller of serve() serves the rings: the test, or a thread of
 * fake_start_threads().
 */
#include "fake-private.h"

#include "harness.h"

#include "util/atomic.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/memfd.h"
#include "virtio/split.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_PENDING 64

enum pending {
	REALIZED, STARTED, STOPPED, LOST, MEMORY, CONFIG, WRITTEN, NEEDS_RESET, FOUND,
	FOUND_AND_LOST, GAVE_UP,
};

struct vublk_device {
	const struct vublk_device_bus_ops *ops;
	void *bus;
	int event_fd;
	enum vublk_device_state state;
	uint8_t status;
	uint64_t acked;
	unsigned generation;
	char reconnect_ms[16];
	char serial[VUBLK_BLK_ID_BYTES + 1];
};

struct fake_plan fake_plan;
struct fake_request fake_last;
unsigned fake_num_discards, fake_num_zeroes, fake_num_flushes, fake_num_stops;
unsigned fake_num_changes;

static struct vublk_device device = { .event_fd = -1 };
struct fake_queue fake_queues[FAKE_MAX_QUEUES];
static char *disk;
static char *stable; /* the content of the disk at the last flush; used with has_cache */
static uint64_t disk_bytes;
static int stop_fd = -1;

/* protected by fake_lock */
pthread_mutex_t fake_lock = PTHREAD_MUTEX_INITIALIZER;
static enum pending pending[MAX_PENDING];
static unsigned num_pending;
static bool has_backend;
static bool memory_is_held;
static pthread_cond_t memory_held = PTHREAD_COND_INITIALIZER;
static char lost_text[128];
struct vublk_memory_map_region fake_regions[VUBLK_MEMORY_MAX_REGIONS];
struct vublk_memory_map fake_map = { 0, fake_regions };
int fake_rings_fd = -1;

void fake_init(uint64_t bytes)
{
	disk = calloc(1, bytes);
	stable = calloc(1, bytes);
	disk_bytes = bytes;
	fake_plan = (struct fake_plan){
		.num_queues = 1, .queue_size = 16, .memory_slots = 8, .replay_mib = 1,
		.features = FAKE_FEATURES,
		.config = { .capacity = bytes / 512, .seg_max = 4, .blk_size = 512, .wce = 1,
			    .max_discard_sectors = 64, .max_discard_seg = 1,
			    .max_write_zeroes_sectors = 32, .max_write_zeroes_seg = 1,
			    .write_zeroes_may_unmap = 1 },
	};
}

void fake_deinit(void)
{
	free(disk);
	free(stable);
	disk = stable = NULL;
}

void fake_cache_drop(uint64_t offset, uint64_t bytes)
{
	pthread_mutex_lock(&fake_lock);
	memset(stable + offset, 0, bytes);
	pthread_mutex_unlock(&fake_lock);
}

char *fake_disk(void)
{
	return disk;
}

static void post(enum pending what)
{
	pthread_mutex_lock(&fake_lock);
	assert(num_pending < MAX_PENDING);
	pending[num_pending++] = what;
	pthread_mutex_unlock(&fake_lock);
	vublk_eventfd_signal(device.event_fd);
}

void fake_disconnect(const char *why)
{
	snprintf(lost_text, sizeof(lost_text), "%s", why);
	post(LOST);
}

void fake_reconnect(void)
{
	post(FOUND);
}

void fake_reconnect_and_lose(const char *why)
{
	snprintf(lost_text, sizeof(lost_text), "%s", why);
	post(FOUND_AND_LOST);
}

void fake_give_up(void)
{
	post(GAVE_UP);
}

void fake_needs_reset(const char *why)
{
	snprintf(lost_text, sizeof(lost_text), "%s", why);
	post(NEEDS_RESET);
}

void fake_resize(uint64_t bytes)
{
	pthread_mutex_lock(&fake_lock);
	fake_plan.config.capacity = bytes / 512;
	pthread_mutex_unlock(&fake_lock);
	post(CONFIG);
}

/* --- the functions of include/vublk/device.h -------------------------------------------- */

int vublk_device_new(const struct vublk_device_bus_ops *ops, size_t ops_bytes, void *bus,
		     const struct vublk_log *log, struct vublk_device **out,
		     struct vublk_error *error)
{
	device = (struct vublk_device){ ops, bus, vublk_eventfd_new(), .reconnect_ms = "0" };
	*out = &device;
	return 0;
}

void vublk_device_unrealize(struct vublk_device *d)
{
	d->state = VUBLK_DEVICE_CREATED;
}

static void unmap_all(void)
{
	for (unsigned i = 0; i < fake_map.num_regions; i++)
		vublk_unmap(fake_regions[i].host, fake_regions[i].size_bytes);
	fake_map.num_regions = 0;
}

void vublk_device_free(struct vublk_device *d)
{
	if (!d)
		return;
	pthread_mutex_lock(&fake_lock); /* a thread of the test may still be serving a ring */
	vublk_fd_close(&d->event_fd);
	for (unsigned i = 0; i < FAKE_MAX_QUEUES; i++) {
		vublk_device_ring_deinit(&fake_queues[i].ring);
		fake_queues[i].queue.size = 0;
	}
	unmap_all();
	vublk_fd_close(&fake_rings_fd);
	pthread_mutex_unlock(&fake_lock);
}

int vublk_device_fd(const struct vublk_device *d)
{
	return d->event_fd;
}

static struct vublk_error *error_or_null(struct vublk_error *error, int code, const char *text)
{
	if (!code)
		return NULL;
	vublk_error_set(error, code, "%s", text);
	return error;
}

static void set_backend(bool there)
{
	pthread_mutex_lock(&fake_lock);
	if (has_backend && !there && fake_plan.has_cache)
		memcpy(disk, stable, disk_bytes);
	has_backend = there;
	pthread_mutex_unlock(&fake_lock);
}

static void process_start(struct vublk_device *d)
{
	struct vublk_error error;

	if (fake_plan.start_error) {
		d->state = VUBLK_DEVICE_LOST;
		d->ops->stopped(d->bus, error_or_null(&error, fake_plan.start_error, "no start"));
		return;
	}
	d->state = VUBLK_DEVICE_RUNNING;
	set_backend(true);
	d->ops->started(d->bus);
}

static void process_stop(struct vublk_device *d)
{
	struct vublk_error error;

	if (!fake_plan.never_stops) {
		d->state = VUBLK_DEVICE_STOPPED;
		d->ops->stopped(d->bus, NULL);
		return;
	}
	vublk_error_set(&error, ETIMEDOUT, "no stop");
	d->state = VUBLK_DEVICE_LOST;
	d->ops->stopped(d->bus, &error);
	d->ops->lost(d->bus, &error);
}

static void process_lost(struct vublk_device *d)
{
	bool ran = vublk_device_has_rings_out(d);
	struct vublk_error error;

	vublk_error_set(&error, ENOTCONN, "%s", lost_text);
	d->state = VUBLK_DEVICE_LOST;
	set_backend(false);
	if (ran)
		d->ops->stopped(d->bus, &error);
	d->ops->lost(d->bus, &error);
}

static void process_found(struct vublk_device *d)
{
	struct vublk_error error;

	d->state = VUBLK_DEVICE_STOPPED;
	if (!(d->status & VIRTIO_CONFIG_S_DRIVER_OK))
		return;
	if (fake_plan.next_is_blind) {
		vublk_error_set(&error, EIO, "the rings do not tell");
		d->ops->needs_reset(d->bus, &error);
		return;
	}
	d->state = VUBLK_DEVICE_STARTING;
	post(STARTED);
}

static void process_give_up(struct vublk_device *d)
{
	struct vublk_error error;

	vublk_error_set(&error, ETIMEDOUT, "too long");
	d->ops->gave_up(d->bus, &error);
}

static void process(struct vublk_device *d, enum pending what)
{
	struct vublk_error error;

	switch (what) {
	case REALIZED:
		d->state = fake_plan.realize_error ? VUBLK_DEVICE_CREATED : VUBLK_DEVICE_STOPPED;
		d->ops->realized(d->bus, error_or_null(&error, fake_plan.realize_error,
						       "no realize"));
		break;
	case STARTED:
		if (d->state == VUBLK_DEVICE_STARTING)
			process_start(d);
		break;
	case STOPPED:
		if (d->state == VUBLK_DEVICE_STOPPING)
			process_stop(d);
		break;
	case LOST:
		process_lost(d);
		break;
	case MEMORY:
		if (d->state == VUBLK_DEVICE_RUNNING)
			d->ops->memory_changed(d->bus, error_or_null(&error, fake_plan.memory_error,
								     "no memory"));
		break;
	case CONFIG:
		d->generation++;
		d->ops->config_changed(d->bus);
		break;
	case WRITTEN:
		d->ops->config_written(d->bus, error_or_null(&error, fake_plan.wce_error,
							     "no wce"));
		break;
	case NEEDS_RESET:
		vublk_error_set(&error, EPROTO, "%s", lost_text);
		d->ops->needs_reset(d->bus, &error);
		break;
	case FOUND:
		process_found(d);
		break;
	case FOUND_AND_LOST:
		d->state = VUBLK_DEVICE_STARTING;
		process_lost(d);
		break;
	case GAVE_UP:
		process_give_up(d);
		break;
	}
}

int vublk_device_process(struct vublk_device *d)
{
	enum pending now[MAX_PENDING];
	unsigned count;

	vublk_eventfd_clear(d->event_fd);
	pthread_mutex_lock(&fake_lock);
	count = num_pending;
	memcpy(now, pending, count * sizeof(now[0]));
	num_pending = 0;
	pthread_mutex_unlock(&fake_lock);
	for (unsigned i = 0; i < count; i++)
		process(d, now[i]);
	return 0;
}

enum vublk_device_state vublk_device_state(const struct vublk_device *d)
{
	return d->state;
}

bool vublk_device_has_rings_out(const struct vublk_device *d)
{
	return d->state == VUBLK_DEVICE_STARTING || d->state == VUBLK_DEVICE_RUNNING ||
	       d->state == VUBLK_DEVICE_STOPPING;
}

const char *vublk_device_state_name(enum vublk_device_state state)
{
	return state == VUBLK_DEVICE_LOST ? "lost" : "another";
}

int vublk_device_set_property(struct vublk_device *d, const char *name, const char *value,
			      struct vublk_error *error)
{
	if (!strcmp(name, "reconnect-ms"))
		snprintf(d->reconnect_ms, sizeof(d->reconnect_ms), "%s", value);
	else if (!strcmp(name, "serial"))
		snprintf(d->serial, sizeof(d->serial), "%s", value);
	else if (strcmp(name, "chardev") && strcmp(name, "queue-size") &&
		 strcmp(name, "warn-unflushed") && strcmp(name, "inflight"))
		return vublk_error_set(error, EINVAL, "no property %s", name);
	return 0;
}

int vublk_device_get_property(const struct vublk_device *d, const char *name, char *value,
			      size_t value_bytes, struct vublk_error *error)
{
	if (!strcmp(name, "replay-mib")) {
		snprintf(value, value_bytes, "%u", fake_plan.replay_mib);
		return 0;
	}
	assert_string_equal(name, "serial");
	snprintf(value, value_bytes, "%s", d->serial);
	return 0;
}

bool vublk_device_reconnects(const struct vublk_device *d)
{
	return strcmp(d->reconnect_ms, "0");
}

bool vublk_device_is_tracked(const struct vublk_device *d)
{
	return fake_plan.tracked;
}

int vublk_device_lend_connection(struct vublk_device *d, int fd, struct vublk_error *error)
{
	return 0;
}

int vublk_device_realize(struct vublk_device *d, struct vublk_error *error)
{
	d->state = VUBLK_DEVICE_REALIZING;
	if (!fake_plan.holds_realize)
		post(REALIZED);
	return 0;
}

void fake_realize(void)
{
	post(REALIZED);
}

void fake_await_memory(void)
{
	pthread_mutex_lock(&fake_lock);
	while (!memory_is_held)
		pthread_cond_wait(&memory_held, &fake_lock);
	pthread_mutex_unlock(&fake_lock);
}

void fake_answer_memory(void)
{
	pthread_mutex_lock(&fake_lock);
	fake_plan.holds_memory = false;
	memory_is_held = false;
	pthread_mutex_unlock(&fake_lock);
	post(MEMORY);
}

unsigned vublk_device_num_queues(const struct vublk_device *d)
{
	return fake_plan.num_queues;
}

unsigned vublk_device_queue_size(const struct vublk_device *d)
{
	return fake_plan.queue_size;
}

uint64_t vublk_device_features(const struct vublk_device *d)
{
	return fake_plan.features;
}

int vublk_device_ack_features(struct vublk_device *d, uint64_t features, struct vublk_error *error)
{
	d->acked = features;
	return 0;
}

void vublk_device_config_read(const struct vublk_device *d, unsigned offset, void *data,
			      unsigned bytes)
{
	char all[VUBLK_BLK_CONFIG_BYTES] = { 0 };

	pthread_mutex_lock(&fake_lock);
	memcpy(all, &fake_plan.config, sizeof(fake_plan.config));
	pthread_mutex_unlock(&fake_lock);
	memcpy(data, all + offset, bytes);
}

uint32_t vublk_device_config_generation(const struct vublk_device *d)
{
	return d->generation;
}

int vublk_device_config_write(struct vublk_device *d, unsigned offset, const void *data,
			      unsigned bytes, struct vublk_error *error)
{
	if (fake_plan.config.wce == *(const uint8_t *)data)
		return 0;
	pthread_mutex_lock(&fake_lock);
	if (!fake_plan.wce_error)
		fake_plan.config.wce = *(const uint8_t *)data;
	pthread_mutex_unlock(&fake_lock);
	post(WRITTEN);
	return 1;
}

uint8_t vublk_device_status(const struct vublk_device *d)
{
	return d->status;
}

int vublk_device_set_status(struct vublk_device *d, uint8_t status, struct vublk_error *error)
{
	d->status = status;
	if (status & VIRTIO_CONFIG_S_DRIVER_OK && d->state == VUBLK_DEVICE_STOPPED) {
		d->state = VUBLK_DEVICE_STARTING;
		if (fake_plan.breaks_at_start)
			fake_needs_reset("broken at the start");
		post(STARTED);
	} else if (!status && (d->state == VUBLK_DEVICE_RUNNING ||
			       d->state == VUBLK_DEVICE_STARTING)) {
		fake_num_stops++;
		d->state = VUBLK_DEVICE_STOPPING;
		post(STOPPED);
	}
	return 0;
}

int vublk_device_set_memory(struct vublk_device *d, const struct vublk_memory_region *regions,
			    unsigned num_regions, struct vublk_error *error)
{
	bool asks = d->state == VUBLK_DEVICE_RUNNING && fake_plan.memory_asks_backend;
	bool answers;

	if (d->state == VUBLK_DEVICE_RUNNING && fake_plan.memory_error == EINVAL)
		return vublk_error_set(error, EINVAL, "the device does not like the memory");
	pthread_mutex_lock(&fake_lock);
	unmap_all();
	for (unsigned i = 0; i < num_regions; i++) {
		fake_regions[fake_map.num_regions++] = (struct vublk_memory_map_region){
			regions[i].guest_addr, regions[i].guest_addr, regions[i].size_bytes,
			vublk_map_shared(regions[i].fd, regions[i].fd_offset,
					 regions[i].size_bytes, NULL),
		};
		vublk_memory_map_place(&fake_map);
	}
	vublk_fd_close(&fake_rings_fd);
	fake_rings_fd = dup(regions[0].fd);
	for (unsigned i = 0; i < fake_plan.num_queues; i++) {
		const struct vublk_device_queue *q = &fake_queues[i].queue;
		struct vublk_split_ring *memory = &fake_queues[i].ring.memory;

		if (!q->size)
			continue;
		memory->desc = vublk_memory_map_guest(&fake_map, q->desc_addr, 16);
		memory->avail = vublk_memory_map_guest(&fake_map, q->avail_addr, 16);
		memory->used = vublk_memory_map_guest(&fake_map, q->used_addr, 16);
	}
	fake_num_changes += asks;
	memory_is_held = asks && fake_plan.holds_memory;
	answers = asks && !memory_is_held;
	pthread_cond_signal(&memory_held);
	pthread_mutex_unlock(&fake_lock);
	if (answers)
		post(MEMORY);
	return asks;
}

int vublk_device_set_queue(struct vublk_device *d, unsigned index,
			   const struct vublk_device_queue *queue, size_t queue_bytes,
			   struct vublk_error *error)
{
	struct fake_queue *q = &fake_queues[index];
	struct vublk_split_ring memory;
	int r;

	pthread_mutex_lock(&fake_lock);
	q->queue = *queue;
	memory.desc = vublk_memory_map_guest(&fake_map, queue->desc_addr,
					     vublk_split_desc_bytes(queue->size));
	memory.avail = vublk_memory_map_guest(&fake_map, queue->avail_addr,
					      vublk_split_avail_bytes(queue->size));
	memory.used = vublk_memory_map_guest(&fake_map, queue->used_addr,
					     vublk_split_used_bytes(queue->size));
	assert(memory.desc && memory.avail && memory.used);
	vublk_device_ring_deinit(&q->ring);
	r = vublk_device_ring_init(&q->ring, &memory, queue->size, 0, d->acked, error);
	pthread_mutex_unlock(&fake_lock);
	return r;
}

void vublk_device_get_info(const struct vublk_device *d, struct vublk_device_info *info,
			   size_t info_bytes)
{
	memset(info, 0, info_bytes);
	info->backend_memory_slots = fake_plan.memory_slots;
	info->backend_config_bytes = 60;
}

/* --- the rings ------------------------------------------------------------------------ */

/* Copies all bytes of `iov` to `with`. With `to_iov`, copies from `with` to `iov` instead. */
static void copy(struct iovec *iov, unsigned num, char *with, bool to_iov)
{
	for (unsigned i = 0; i < num; i++) {
		if (to_iov)
			memcpy(iov[i].iov_base, with, iov[i].iov_len);
		else
			memcpy(with, iov[i].iov_base, iov[i].iov_len);
		with += iov[i].iov_len;
	}
}

/*
 * Returns the request that the chain contains. The header and the status must each have a
 * descriptor of their own, because some back-ends understand no other layout.
 */
static struct fake_request parse(const struct vublk_chain *chain)
{
	struct fake_request request = { 0 };
	struct virtio_blk_outhdr header;

	assert(chain->num_out >= 1 && chain->iov[0].iov_len == sizeof(header));
	assert(chain->num_in >= 1);
	assert(chain->iov[chain->num_out + chain->num_in - 1].iov_len == 1);
	memcpy(&header, chain->iov[0].iov_base, sizeof(header));
	/*
	 * Types that change the disk are odd. The device reads the data of these requests, and
	 * writes the data of the others.
	 */
	assert((header.type & 1 ? chain->num_in : chain->num_out) == 1);
	request.type = header.type;
	request.sector = header.sector;
	request.num_segments = chain->num_out + chain->num_in - 2;
	request.data_bytes = chain->out_bytes + chain->in_bytes - sizeof(header) - 1;
	if (header.type == VIRTIO_BLK_T_DISCARD || header.type == VIRTIO_BLK_T_WRITE_ZEROES) {
		struct virtio_blk_discard_write_zeroes range;

		assert(request.num_segments == 1 && request.data_bytes == sizeof(range));
		memcpy(&range, chain->iov[1].iov_base, sizeof(range));
		request.range_sector = range.sector;
		request.range_sectors = range.num_sectors;
		request.range_flags = range.flags;
	}
	return request;
}

static void execute(const struct vublk_chain *chain, const struct fake_request *request)
{
	char id[VUBLK_BLK_ID_BYTES] = "fake disk of 20 byte";
	struct iovec *data = &chain->iov[1];

	switch (request->type) {
	case VIRTIO_BLK_T_IN:
	case VIRTIO_BLK_T_OUT:
		assert(vublk_range_within(request->sector * 512, request->data_bytes, disk_bytes));
		copy(data, request->num_segments, disk + request->sector * 512,
		     request->type == VIRTIO_BLK_T_IN);
		break;
	case VIRTIO_BLK_T_GET_ID:
		copy(data, request->num_segments, id, true);
		break;
	case VIRTIO_BLK_T_DISCARD:
		fake_num_discards++;
		assert(request->range_flags == 0);
		break;
	case VIRTIO_BLK_T_WRITE_ZEROES:
		fake_num_zeroes++;
		memset(disk + request->range_sector * 512, 0, request->range_sectors * 512);
		break;
	case VIRTIO_BLK_T_FLUSH:
		assert(request->sector == 0);
		fake_num_flushes++;
		if (fake_plan.has_cache)
			memcpy(stable, disk, disk_bytes);
		break;
	default:
		assert(!"a type that no driver sends");
	}
}

static int take(struct fake_queue *q)
{
	struct vublk_error error = { 0 };
	int r;

	q->taken.iov = q->iov;
	q->taken.max_iov = FAKE_MAX_IOV;
	r = vublk_device_ring_take(&q->ring, &fake_map, &q->taken, &error);
	if (r < 0)
		fprintf(stderr, "fake device: %s\n", error.text);
	assert(r >= 0);
	return r;
}

static void give_back(struct fake_queue *q, int status)
{
	unsigned last = q->taken.num_out + q->taken.num_in - 1;

	if (status >= 0)
		vublk_store_relaxed((uint8_t *)q->iov[last].iov_base, (uint8_t)status);
	vublk_device_ring_push(&q->ring, q->taken.head, (uint32_t)q->taken.in_bytes);
	if (vublk_device_ring_publish(&q->ring))
		vublk_eventfd_signal(q->queue.call_fd);
}

static unsigned serve(unsigned index, unsigned max, int status)
{
	struct fake_queue *q = &fake_queues[index];
	struct fake_request request;
	unsigned n;

	pthread_mutex_lock(&fake_lock);
	for (n = 0; n < max && has_backend && q->queue.size && take(q); n++) {
		request = parse(&q->taken);
		if (status == VIRTIO_BLK_S_OK)
			execute(&q->taken, &request);
		fake_last = request;
		give_back(q, status);
	}
	pthread_mutex_unlock(&fake_lock);
	return n;
}

unsigned fake_serve(unsigned queue, unsigned max)
{
	return serve(queue, max, VIRTIO_BLK_S_OK);
}

unsigned fake_serve_with(unsigned queue, unsigned max, uint8_t status)
{
	return serve(queue, max, status);
}

unsigned fake_serve_without_status(unsigned queue)
{
	return serve(queue, 1, -1);
}

bool fake_take(unsigned queue, struct fake_request *request)
{
	bool there;

	pthread_mutex_lock(&fake_lock);
	there = take(&fake_queues[queue]);
	if (there && request)
		*request = parse(&fake_queues[queue].taken);
	pthread_mutex_unlock(&fake_lock);
	return there;
}

void fake_give_back(unsigned queue, uint8_t status)
{
	pthread_mutex_lock(&fake_lock);
	give_back(&fake_queues[queue], status);
	pthread_mutex_unlock(&fake_lock);
}

void fake_disable_kicks(unsigned queue)
{
	vublk_device_ring_disable_kicks(&fake_queues[queue].ring);
}

void fake_call(unsigned queue)
{
	vublk_eventfd_signal(fake_queues[queue].queue.call_fd);
}

void fake_block_kicks(unsigned queue)
{
	vublk_test_fill_eventfd(fake_queues[queue].queue.kick_fd);
}

unsigned fake_kicks(unsigned queue)
{
	fake_queues[queue].kicks += (unsigned)vublk_eventfd_clear(fake_queues[queue].queue.kick_fd);
	return fake_queues[queue].kicks;
}

static void *run(void *opaque)
{
	struct fake_queue *q = opaque;
	struct pollfd pollfds[2] = {
		{ .fd = q->own_kick_fd, .events = POLLIN },
		{ .fd = stop_fd, .events = POLLIN },
	};
	bool sleep;

	while (!pollfds[1].revents) {
		serve((unsigned)(q - fake_queues), 7, VIRTIO_BLK_S_OK);
		pthread_mutex_lock(&fake_lock);
		sleep = !q->queue.size || vublk_device_ring_enable_kicks(&q->ring);
		pthread_mutex_unlock(&fake_lock);
		poll(pollfds, 2, sleep ? -1 : 0);
		vublk_eventfd_clear(q->own_kick_fd);
	}
	return NULL;
}

void fake_start_threads(void)
{
	stop_fd = vublk_eventfd_new();
	for (unsigned i = 0; i < fake_plan.num_queues; i++) {
		fake_queues[i].own_kick_fd = dup(fake_queues[i].queue.kick_fd);
		assert(!pthread_create(&fake_queues[i].thread, NULL, run, &fake_queues[i]));
	}
}

void fake_stop_threads(void)
{
	vublk_eventfd_signal(stop_fd);
	for (unsigned i = 0; i < fake_plan.num_queues; i++) {
		pthread_join(fake_queues[i].thread, NULL);
		vublk_fd_close(&fake_queues[i].own_kick_fd);
	}
	vublk_fd_close(&stop_fd);
}
