/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A disk from open to close: the driver's initialisation over the in-process bus
 * (virtio 1.3, sections 3.1.1 and 5.2.5), the properties, and the events of the back-end. Not
 * the data path: that is in queue.c.
 *
 * Key idea: the bus's thread is the one that the application knows as the disk's thread. It
 * keeps blk->info and blk->lost up to date, under the lock. Queues do not take the lock: they
 * read only the capacity, atomically. When a back-end is lost, the disk's thread takes over the
 * queues for a moment (recover.c).
 */
#include "blk/config.h"
#include "blk/disk.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/struct.h"
#include "util/option.h"
#include "util/log.h"
#include "util/loop.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Header, data and status take a descriptor each; 4 is the next power of two. */
#define MIN_QUEUE_SIZE 4
/* How often a config that changes during the open is read again, at most. */
#define MAX_CONFIG_READS 8

/* --- events, on the disk's thread --------------------------------------------------- */

static void report(struct vublk_blk *blk, enum vublk_blk_event event,
		 const struct vublk_error *error)
{
	vublk_blk_events_add(&blk->events, event, error);
	if (blk->handlers.event)
		blk->handlers.event(blk->handlers.opaque, event, error);
}

/*
 * Reads the config and publishes it. The limits of requests stay those of the open, because the
 * queues read them without a lock.
 */
static int refresh_info(struct vublk_blk *blk, bool *resized, struct vublk_error *error)
{
	uint8_t config[VUBLK_BLK_CONFIG_BYTES];
	struct vublk_blk_info info;
	uint32_t generation;
	int r;

	vublk_inproc_read_config(blk->inproc, config, sizeof(config), &generation);
	pthread_mutex_lock(&blk->lock);
	info = blk->info;
	r = vublk_blk_config_describe(config, blk->features, blk->queue_size, &info, error);
	if (!r) {
		*resized = info.capacity_bytes != blk->info.capacity_bytes;
		info.config_generation = generation;
		blk->info = info;
		vublk_store_relaxed(&blk->capacity_bytes, info.capacity_bytes);
	}
	pthread_mutex_unlock(&blk->lock);
	return r;
}

/* During the open a change is only noted, and begin_running() reads the config again. */
static bool note_if_opening(struct vublk_blk *blk)
{
	bool opening;

	pthread_mutex_lock(&blk->lock);
	opening = !blk->running;
	blk->config_stale = opening;
	pthread_mutex_unlock(&blk->lock);
	return opening;
}

static void on_config_changed(void *opaque)
{
	struct vublk_blk *blk = opaque;
	struct vublk_error error = { 0 };
	bool resized = false;

	if (note_if_opening(blk))
		return;
	if (refresh_info(blk, &resized, &error))
		vublk_log_limited(&blk->handlers.log, &blk->limit, VUBLK_LOG_WARNING,
				  "a change of the config is ignored: %s", error.text);
	else
		report(blk, resized ? VUBLK_BLK_RESIZED : VUBLK_BLK_CONFIG_CHANGED, NULL);
}

static bool is_running(struct vublk_blk *blk)
{
	bool running;

	pthread_mutex_lock(&blk->lock);
	running = blk->running;
	pthread_mutex_unlock(&blk->lock);
	return running;
}

static void report_if_running(struct vublk_blk *blk, enum vublk_blk_event event,
			    const struct vublk_error *error)
{
	if (is_running(blk))
		report(blk, event, error);
}

/*
 * A back-end without FLUSH has no write cache. One with FLUSH may have one whatever its config
 * says, because some back-ends say "write-through" and have a cache.
 */
static bool has_unflushed_writes(const struct vublk_blk *blk)
{
	uint64_t stable = vublk_load_acquire(&blk->flushes.stable); /* I */

	if (!(blk->features & VUBLK_BIT(VIRTIO_BLK_F_FLUSH)))
		return false;
	for (unsigned i = 0; i < blk->num_queues; i++)
		if (blk->queues[i].covering_flush > stable)
			return true;
	return false;
}

static void report_lost_writes(struct vublk_blk *blk)
{
	struct vublk_error error;

	vublk_error_set(&error, EOWNERDEAD,
			"the back-end was lost with completed writes that no flush had made "
			"stable, and if it kept them in its own memory they are lost; the next flush "
			"fails (unflushed=trust if the back-end keeps them)");
	vublk_log_limited(&blk->handlers.log, &blk->limit, VUBLK_LOG_WARNING, "%s",
			  error.text);
	report(blk, VUBLK_BLK_WRITES_LOST, &error);
}

/* Closes all gates before it looks for unflushed writes, so that no completion is missed. */
static void on_lost(void *opaque, const struct vublk_error *error)
{
	struct vublk_blk *blk = opaque;
	bool writes_lost;

	if (!is_running(blk))
		return;
	for (unsigned i = 0; i < blk->num_queues; i++)
		vublk_blk_queue_lost(&blk->queues[i]);
	writes_lost = !vublk_inproc_trusts_unflushed(blk->inproc) && has_unflushed_writes(blk);
	for (unsigned i = 0; i < blk->num_queues; i++)
		vublk_blk_queue_after_loss(&blk->queues[i], writes_lost);
	report(blk, VUBLK_BLK_LOST, error);
	if (writes_lost)
		report_lost_writes(blk);
}

static void on_rings_suspend(void *opaque)
{
	struct vublk_blk *blk = opaque;

	for (unsigned i = 0; i < blk->num_queues; i++)
		vublk_blk_queue_suspend(&blk->queues[i]);
}

static void on_rings_replaced(void *opaque, const struct vublk_error *error)
{
	struct vublk_blk *blk = opaque;

	for (unsigned i = 0; i < blk->num_queues; i++)
		vublk_blk_queue_resume(&blk->queues[i], error);
}

static void on_reconnected(void *opaque)
{
	struct vublk_blk *blk = opaque;

	for (unsigned i = 0; i < blk->num_queues; i++)
		vublk_blk_queue_revive(&blk->queues[i]);
	report_if_running(blk, VUBLK_BLK_RECONNECTED, NULL);
}

/* Checks every queue, also after an overdue one, because each records its progress. */
static bool is_overdue(void *opaque)
{
	struct vublk_blk *blk = opaque;
	bool overdue = false;

	for (unsigned i = 0; is_running(blk) && i < blk->num_queues; i++)
		overdue |= vublk_blk_queue_is_overdue(&blk->queues[i]);
	return overdue;
}

static void on_gave_up(void *opaque, const struct vublk_error *cause)
{
	struct vublk_blk *blk = opaque;
	struct vublk_error error = *cause;
	bool running;

	if (error.code != ETIME)
		error.code = ENOTCONN; /* for every other cause */
	pthread_mutex_lock(&blk->lock);
	running = blk->running;
	blk->lost = error;
	pthread_mutex_unlock(&blk->lock);
	if (!running)
		return;
	for (unsigned i = 0; i < blk->num_queues; i++)
		vublk_blk_queue_give_up(&blk->queues[i], &error);
	report(blk, VUBLK_BLK_GAVE_UP, cause);
}

static void on_broken_ring(void *opaque, const struct vublk_error *error)
{
	struct vublk_blk *blk = opaque;

	vublk_inproc_fail(blk->inproc, error);
}

/* --- open -------------------------------------------------------------------------------- */

static int init_queues(struct vublk_blk *blk, const struct vublk_blk_limits *limits,
		       struct vublk_error *error)
{
	struct vublk_blk_queue_setup setup = {
		.on_broken_ring = on_broken_ring,
		.opaque = blk,
		.size = blk->queue_size,
		.features = blk->features,
		.may_unmap = blk->info.write_zeroes_may_unmap,
		.limits = *limits,
		.regions = vublk_inproc_regions(blk->inproc),
		.capacity_bytes = &blk->capacity_bytes,
		.flushes = &blk->flushes,
		.statistics = vublk_inproc_wants_statistics(blk->inproc),
		.log = &blk->handlers.log,
	};
	size_t bytes = blk->num_queues * sizeof(*blk->queues);
	int r = 0;

	blk->queues = aligned_alloc(VUBLK_CACHE_LINE, bytes);
	if (!blk->queues)
		return vublk_error_set(error, ENOMEM, "no memory for %u queues", blk->num_queues);
	memset(blk->queues, 0, bytes);
	for (unsigned i = 0; !r && i < blk->num_queues; i++) {
		setup.index = i;
		setup.inproc = vublk_inproc_queue(blk->inproc, i);
		r = vublk_blk_queue_init(&blk->queues[i], &setup, error);
	}
	return r;
}

static void fill_constant_info(struct vublk_blk *blk)
{
	const struct vublk_device_info *device = vublk_inproc_info(blk->inproc);

	blk->info.num_queues = blk->num_queues;
	blk->info.queue_size = blk->queue_size;
	blk->info.config_bytes = VUBLK_MIN(device->backend_config_bytes,
					   (uint32_t)VUBLK_BLK_CONFIG_BYTES);
}

/* After realize: reads the config, accepts features, makes the queues, and starts them. */
static int set_up(struct vublk_blk *blk, struct vublk_error *error)
{
	struct vublk_blk_limits limits;
	bool has_indirect, resized;
	int r;

	blk->num_queues = vublk_inproc_num_queues(blk->inproc);
	blk->queue_size = vublk_inproc_queue_size(blk->inproc);
	blk->features = vublk_inproc_features(blk->inproc) & VUBLK_BLK_DRIVER_FEATURES;
	fill_constant_info(blk);
	r = refresh_info(blk, &resized, error);
	if (!r)
		r = vublk_blk_config_limits(&blk->info, &limits, error);
	if (r)
		return r;
	has_indirect = blk->features & VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC);
	r = vublk_inproc_set_up(blk->inproc, blk->features,
				vublk_blk_queue_shared_bytes(blk->queue_size, has_indirect),
				error);
	if (!r)
		r = init_queues(blk, &limits, error);
	return r ? r : vublk_inproc_start(blk->inproc, error);
}

/*
 * From here on the application gets events. Earlier events were only noted: if the back-end was
 * lost, the open fails; if the config changed, it is read again. The number of reads is limited,
 * because a back-end could change its config endlessly.
 */
static int begin_running(struct vublk_blk *blk, struct vublk_error *error)
{
	unsigned tries = MAX_CONFIG_READS;
	bool resized, running;
	int r = 0;

	do {
		pthread_mutex_lock(&blk->lock);
		running = !blk->lost.code && (!blk->config_stale || !tries--);
		blk->running = running;
		blk->config_stale = false;
		if (blk->lost.code)
			r = vublk_error_set(error, blk->lost.code, "%s", blk->lost.text);
		pthread_mutex_unlock(&blk->lock);
		if (!running && !r)
			r = refresh_info(blk, &resized, error);
	} while (!running && !r);
	return r;
}

static void free_blk(struct vublk_blk *blk)
{
	vublk_inproc_free(blk->inproc);
	for (unsigned i = 0; blk->queues && i < blk->num_queues; i++)
		vublk_blk_queue_deinit(&blk->queues[i]);
	free(blk->queues);
	vublk_blk_free_allocations(blk);
	pthread_mutex_destroy(&blk->blocking.lock);
	pthread_mutex_destroy(&blk->lock);
	vublk_blk_events_deinit(&blk->events);
	free(blk);
}

/* Checked before the connection is made, because it does not depend on the back-end. */
static int check_queue_size(const struct vublk_option *options, struct vublk_error *error)
{
	uint64_t size;
	int r = 0;

	for (; !r && options && options->name; options++)
		if (!strcmp(options->name, "queue-size"))
			r = vublk_parse_u64("queue-size", options->value, MIN_QUEUE_SIZE,
					    VUBLK_MAX_QUEUE_SIZE, &size, error);
	return r;
}

int vublk_blk_open(const char *path, const struct vublk_option *options,
		   const struct vublk_blk_handlers *handlers, size_t handlers_bytes,
		   struct vublk_blk **out, struct vublk_error *error)
{
	struct vublk_inproc_handlers inproc_handlers = {
		.config_changed = on_config_changed,
		.lost = on_lost,
		.rings_suspend = on_rings_suspend,
		.rings_replaced = on_rings_replaced,
		.reconnected = on_reconnected,
		.gave_up = on_gave_up,
		.is_overdue = is_overdue,
	};
	struct vublk_blk *blk;
	int r;

	r = check_queue_size(options, error);
	if (r)
		return r;
	blk = aligned_alloc(VUBLK_CACHE_LINE, sizeof(*blk));
	if (!blk)
		return vublk_error_set(error, ENOMEM, "no memory for a disk");
	memset(blk, 0, sizeof(*blk));
	pthread_mutex_init(&blk->lock, NULL);
	vublk_blk_events_init(&blk->events);
	pthread_mutex_init(&blk->blocking.lock, NULL);
	r = vublk_struct_in(&blk->handlers, sizeof(blk->handlers), handlers, handlers_bytes,
			    "vublk_blk_handlers", error);
	inproc_handlers.opaque = blk;
	inproc_handlers.log = blk->handlers.log;
	if (!r)
		r = vublk_inproc_open(path, options, &inproc_handlers, &blk->inproc, error);
	if (!r)
		r = set_up(blk, error);
	if (!r)
		r = begin_running(blk, error);
	if (r) {
		free_blk(blk);
		return r;
	}
	*out = blk;
	return 0;
}

/* --- close --------------------------------------------------------------------------------- */

#define DRAIN_BATCH 32

/* Takes completions until the deadline. A failure says why requests were abandoned. */
static int drain(struct vublk_blk_queue *queue, uint64_t deadline_ns, struct vublk_error *error)
{
	struct vublk_blk_completion completions[DRAIN_BATCH];
	int r = 0;

	while (vublk_blk_in_flight(queue)) {
		int n = vublk_blk_wait(queue, completions, 1, DRAIN_BATCH,
				       vublk_blk_left_ms(deadline_ns), error);

		if (n < 0)
			return n;
		if (!n)
			return vublk_error_set(error, ETIMEDOUT, "%u requests of queue %u were not "
					       "completed within the time to wait, and were "
					       "abandoned", vublk_blk_in_flight(queue), queue->index);
		for (int i = 0; i < n; i++)
			if (vublk_blk_queue_gave_up(queue, completions[i].result))
				r = vublk_error_set(error, ENOTCONN, "requests of queue %u failed "
						    "while the disk was being closed, because no "
						    "back-end will complete them", queue->index);
	}
	return r;
}

int vublk_blk_close(struct vublk_blk *blk, int wait_ms, struct vublk_error *error)
{
	uint64_t deadline_ns = UINT64_MAX;
	int r = 0;

	if (!blk)
		return 0;
	if (vublk_inproc_is_own_thread(blk->inproc))
		return vublk_error_set(error, EBUSY, "a disk cannot be closed from one of its "
				       "handlers: close it on another thread");
	if (wait_ms >= 0)
		deadline_ns = vublk_now_ns() + (uint64_t)wait_ms * 1000000;
	for (unsigned i = 0; i < blk->num_queues; i++) {
		int drained = drain(&blk->queues[i], deadline_ns, r ? NULL : error);

		r = r ? r : drained;
	}
	pthread_mutex_lock(&blk->lock);
	blk->running = false;
	pthread_mutex_unlock(&blk->lock);
	vublk_inproc_stop(blk->inproc, NULL);
	free_blk(blk);
	return r;
}

/* --- properties and queues ------------------------------------------------------------------- */

void vublk_blk_get_info(struct vublk_blk *blk, struct vublk_blk_info *info, size_t info_bytes)
{
	pthread_mutex_lock(&blk->lock);
	vublk_struct_out(info, info_bytes, &blk->info, sizeof(blk->info));
	pthread_mutex_unlock(&blk->lock);
}

void vublk_blk_get_device_info(struct vublk_blk *blk, struct vublk_device_info *info,
			       size_t info_bytes)
{
	const struct vublk_device_info *own = vublk_inproc_info(blk->inproc);

	vublk_struct_out(info, info_bytes, own, sizeof(*own));
}

int vublk_blk_set_write_cache(struct vublk_blk *blk, bool on, struct vublk_error *error)
{
	if (!(blk->features & VUBLK_BIT(VIRTIO_BLK_F_CONFIG_WCE)))
		return vublk_error_set(error, ENOTSUP,
				       "the write cache cannot be turned %s: the back-end does not "
				       "offer CONFIG_WCE", on ? "on" : "off");
	return vublk_inproc_write_wce(blk->inproc, on, error);
}

const struct vublk_property *vublk_blk_options(void)
{
	return vublk_inproc_options();
}

const char *vublk_blk_default(const char *name)
{
	return vublk_inproc_default(name);
}

struct vublk_blk_queue *vublk_blk_queue(struct vublk_blk *blk, unsigned index)
{
	struct vublk_blk_queue *queue;

	if (index >= blk->num_queues)
		return NULL;
	queue = &blk->queues[index];
	return vublk_blk_queue_claim(queue, VUBLK_BLK_QUEUE_OF_APPLICATION) ? queue : NULL;
}
