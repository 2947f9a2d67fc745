/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opens a disk: initializes a device through the in-process bus, as a driver does (virtio 1.3,
 * sections 3.1.1 and 5.2.5). blk.c handles the disk once it is open.
 *
 * Key idea: the disk's thread opens the disk, in two callbacks: realized() sets up the queues, and
 * started() completes the open. At the end of the open, the disk's thread sets the phase and
 * signals an eventfd. vublk_blk_open() waits for that eventfd, so the blocking and the non-blocking
 * open are the same code.
 */
#include "blk/config.h"
#include "blk/disk.h"
#include "blk/replay.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/option.h"
#include "util/struct.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

/* A request needs three descriptors, for header, data and status; 4 is the next power of two. */
#define MIN_QUEUE_SIZE 4

/* --- the two steps, on the disk's thread ------------------------------------------------- */

static void on_broken_ring(void *opaque, const struct vublk_error *error)
{
	struct vublk_blk *blk = opaque;

	vublk_inproc_fail(blk->inproc, error);
}

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
		.serial = vublk_inproc_serial(blk->inproc),
		.write_log = blk->replay ? &blk->replay->log : NULL,
	};
	size_t bytes = blk->num_queues * sizeof(*blk->queues);
	int r = 0;

	blk->queues = aligned_alloc(VUBLK_CACHE_LINE, bytes);
	if (!blk->queues)
		return vublk_error_set(error, ENOMEM, "cannot allocate memory for %u queues",
				       blk->num_queues);
	memset(blk->queues, 0, bytes);
	blk->flushes.queues = blk->queues;
	blk->flushes.num_queues = blk->num_queues;
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

	pthread_mutex_lock(&blk->lock);
	blk->info.num_queues = blk->num_queues;
	blk->info.queue_size = blk->queue_size;
	blk->info.config_bytes = VUBLK_MIN(device->backend_config_bytes,
					   (uint32_t)VUBLK_BLK_CONFIG_BYTES);
	pthread_mutex_unlock(&blk->lock);
}

/*
 * Called when the device is realized: accepts features, reads the config, makes the queues, and
 * starts them.
 */
static int set_up(struct vublk_blk *blk, struct vublk_error *error)
{
	struct vublk_blk_limits limits;
	uint64_t shared_bytes, log_bytes = vublk_inproc_replay_bytes(blk->inproc);
	bool has_indirect, resized;
	int r;

	blk->num_queues = vublk_inproc_num_queues(blk->inproc);
	blk->queue_size = vublk_inproc_queue_size(blk->inproc);
	blk->features = vublk_inproc_features(blk->inproc) & VUBLK_BLK_DRIVER_FEATURES;
	fill_constant_info(blk);
	r = vublk_blk_refresh_info(blk, &resized, error);
	if (!r)
		r = vublk_blk_config_limits(&blk->info, &limits, error);
	if (r)
		return r;
	has_indirect = blk->features & VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC);
	shared_bytes = vublk_blk_queue_shared_bytes(blk->queue_size, has_indirect);
	if (log_bytes)
		r = vublk_blk_replay_init(blk, log_bytes, limits.block_bytes, error);
	if (blk->replay)
		shared_bytes += VUBLK_BLK_REPLAY_SHARED_BYTES;
	if (!r)
		r = vublk_inproc_set_up(blk->inproc, blk->features, shared_bytes, error);
	if (!r)
		r = init_queues(blk, &limits, error);
	return r ? r : vublk_inproc_start(blk->inproc, error);
}

/*
 * Ends the open. `error` NULL: the open has succeeded, and the application now gets the disk's
 * events.
 */
static void end_opening(struct vublk_blk *blk, const struct vublk_error *error)
{
	pthread_mutex_lock(&blk->lock);
	if (blk->phase == VUBLK_BLK_PHASE_OPENING) {
		if (error)
			blk->open_error = *error;
		vublk_blk_set_phase(blk, error ? VUBLK_BLK_PHASE_FAILED : VUBLK_BLK_PHASE_RUNNING);
	}
	pthread_mutex_unlock(&blk->lock);
	vublk_eventfd_signal(blk->opening_fd);
}

static void on_realized(void *opaque, const struct vublk_error *cause)
{
	struct vublk_blk *blk = opaque;
	struct vublk_error error;

	if (cause)
		end_opening(blk, cause);
	else if (set_up(blk, &error) < 0)
		end_opening(blk, &error);
}

/*
 * If the config changed while the disk was being opened, only config_stale was set, so this
 * function reads the config again.
 */
static void on_started(void *opaque, const struct vublk_error *cause)
{
	struct vublk_blk *blk = opaque;
	struct vublk_error error;
	bool resized;

	if (!cause && blk->config_stale && vublk_blk_refresh_info(blk, &resized, &error) < 0)
		cause = &error;
	end_opening(blk, cause);
}

/* --- the calls --------------------------------------------------------------------------- */

/* Checks queue-size before the device connects, because the check needs no back-end. */
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

static int make_disk(const struct vublk_blk_handlers *handlers, size_t handlers_bytes,
		     struct vublk_blk **out, struct vublk_error *error)
{
	struct vublk_blk *blk = aligned_alloc(VUBLK_CACHE_LINE, sizeof(*blk));
	int r;

	if (!blk)
		return vublk_error_set(error, ENOMEM, "cannot allocate memory for a disk");
	memset(blk, 0, sizeof(*blk));
	pthread_mutex_init(&blk->lock, NULL);
	pthread_cond_init(&blk->change_ended, NULL);
	vublk_blk_events_init(&blk->events);
	pthread_mutex_init(&blk->blocking.lock, NULL);
	blk->opening_fd = vublk_eventfd_new();
	if (blk->opening_fd < 0)
		r = vublk_error_set_errno(error, -blk->opening_fd, "cannot create an eventfd");
	else
		r = vublk_struct_in(&blk->handlers, sizeof(blk->handlers), handlers, handlers_bytes,
				    "vublk_blk_handlers", error);
	if (r)
		vublk_blk_free(blk);
	else
		*out = blk;
	return r;
}

int vublk_blk_open_start(const char *path, const struct vublk_option *options,
			 const struct vublk_blk_handlers *handlers, size_t handlers_bytes,
			 struct vublk_blk **out, struct vublk_error *error)
{
	struct vublk_inproc_handlers inproc_handlers = {
		.realized = on_realized,
		.started = on_started,
	};
	struct vublk_blk *blk = NULL;
	int r = check_queue_size(options, error);

	if (!r)
		r = make_disk(handlers, handlers_bytes, &blk, error);
	if (r)
		return r;
	vublk_blk_fill_handlers(blk, &inproc_handlers);
	r = vublk_inproc_open(path, options, &inproc_handlers, &blk->inproc, error);
	if (r)
		vublk_blk_free(blk);
	else
		*out = blk;
	return r;
}

int vublk_blk_opening_fd(const struct vublk_blk *blk)
{
	return blk->opening_fd;
}

int vublk_blk_open_finish(struct vublk_blk *blk, struct vublk_error *error)
{
	int r = 0;

	pthread_mutex_lock(&blk->lock);
	if (blk->phase == VUBLK_BLK_PHASE_OPENING)
		r = vublk_error_set(error, EAGAIN, "the disk is still being opened; wait until the "
				    "descriptor of vublk_blk_opening_fd() is readable");
	else if (blk->phase == VUBLK_BLK_PHASE_FAILED)
		r = vublk_error_set(error, blk->open_error.code, "%s", blk->open_error.text);
	pthread_mutex_unlock(&blk->lock);
	return r;
}

int vublk_blk_open(const char *path, const struct vublk_option *options,
		   const struct vublk_blk_handlers *handlers, size_t handlers_bytes,
		   struct vublk_blk **out, struct vublk_error *error)
{
	struct vublk_blk *blk = NULL;
	struct pollfd pollfd = { .events = POLLIN };
	int r = vublk_blk_open_start(path, options, handlers, handlers_bytes, &blk, error);

	if (r)
		return r;
	pollfd.fd = blk->opening_fd;
	while (!pollfd.revents)
		poll(&pollfd, 1, -1);
	r = vublk_blk_open_finish(blk, error);
	if (r)
		vublk_blk_close(blk, 0, NULL);
	else
		*out = blk;
	return r;
}
