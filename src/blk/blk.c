/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Handles an open disk: the events of the bus, the properties of the disk, and the close. open.c
 * opens a disk, and queue.c implements the data path.
 *
 * Key idea: "the disk's own thread" of vublk/blk.h is the thread of the in-process bus. This thread
 * keeps blk->info up to date, under the lock. Queues take no lock: of this information they need
 * only the capacity, and they load its atomic copy, blk->capacity_bytes. When a back-end is lost,
 * the disk's thread takes over the queues for a moment (recover.c).
 */
#include "blk/change.h"
#include "blk/config.h"
#include "blk/disk.h"
#include "blk/replay.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/probe.h"
#include "util/struct.h"
#include "util/log.h"
#include "util/loop.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- events, on the disk's thread --------------------------------------------------- */

static void report(struct vublk_blk *blk, enum vublk_blk_event event,
		 const struct vublk_error *error)
{
	vublk_blk_events_add(&blk->events, event, error);
	if (blk->handlers.event)
		blk->handlers.event(blk->handlers.opaque, event, error);
}

int vublk_blk_refresh_info(struct vublk_blk *blk, bool *resized, struct vublk_error *error)
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

static void on_config_changed(void *opaque)
{
	struct vublk_blk *blk = opaque;
	struct vublk_error error = { 0 };
	bool resized = false;

	if (!vublk_blk_is_running(blk)) {
		blk->config_stale = true;
		return;
	}
	if (vublk_blk_refresh_info(blk, &resized, &error))
		vublk_log_limited(&blk->handlers.log, &blk->limit, VUBLK_LOG_WARNING,
				  "ignored a change of the back-end's configuration: %s",
				  error.text);
	else
		report(blk, resized ? VUBLK_BLK_RESIZED : VUBLK_BLK_CONFIG_CHANGED, NULL);
}

static void report_if_running(struct vublk_blk *blk, enum vublk_blk_event event,
			    const struct vublk_error *error)
{
	if (vublk_blk_is_running(blk))
		report(blk, event, error);
}

/*
 * Returns whether there are completed writes that may be lost with the back-end. Without FLUSH,
 * writes are stable when they complete. With FLUSH, the back-end may have a write cache, even if
 * its config says "write-through".
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
			"the connection to the back-end was lost before completed writes were "
			"flushed; these writes are lost if the back-end cached them in its own "
			"memory, so the next flush fails (set unflushed=trust if the back-end "
			"keeps completed writes)");
	vublk_log_limited(&blk->handlers.log, &blk->limit, VUBLK_LOG_WARNING, "%s",
			  error.text);
	report(blk, VUBLK_BLK_WRITES_LOST, &error);
}

/*
 * Called when the back-end is lost. Closes the gates of all queues before it looks for unflushed
 * writes, so that it misses no completion.
 */
static void on_lost(void *opaque, const struct vublk_error *error)
{
	struct vublk_blk *blk = opaque;
	bool writes_lost;

	if (!vublk_blk_is_running(blk))
		return;
	for (unsigned i = 0; i < blk->num_queues; i++)
		vublk_blk_queue_lost(&blk->queues[i]);
	writes_lost = !vublk_inproc_trusts_unflushed(blk->inproc) && has_unflushed_writes(blk);
	for (unsigned i = 0; i < blk->num_queues; i++)
		vublk_blk_queue_after_loss(&blk->queues[i], writes_lost);
	blk->is_lost = true;
	VUBLK_PROBE2(blk_lost, error->code, error->text);
	report(blk, VUBLK_BLK_LOST, error);
	if (writes_lost)
		report_lost_writes(blk);
}

static void on_rings_suspend(void *opaque)
{
	struct vublk_blk *blk = opaque;

	vublk_blk_replay_suspend(blk);
	for (unsigned i = 0; i < blk->num_queues; i++)
		vublk_blk_queue_suspend(&blk->queues[i]);
}

static void on_rings_replaced(void *opaque, const struct vublk_error *error)
{
	struct vublk_blk *blk = opaque;
	bool holds = !error && vublk_blk_replay_is_due(blk);

	for (unsigned i = 0; i < blk->num_queues; i++) {
		if (holds)
			vublk_blk_queue_hold(&blk->queues[i]);
		else
			vublk_blk_queue_resume(&blk->queues[i], error);
	}
}

/*
 * Called when the rings run again: either after a loss, or after requests exceeded
 * request-deadline-ms without a loss.
 */
static void on_reconnected(void *opaque)
{
	struct vublk_blk *blk = opaque;

	vublk_blk_replay_begin(blk);
	for (unsigned i = 0; i < blk->num_queues; i++)
		vublk_blk_queue_revive(&blk->queues[i]);
	if (blk->is_lost) {
		VUBLK_PROBE1(blk_recovered, blk->num_queues);
		report_if_running(blk, VUBLK_BLK_RECONNECTED, NULL);
	}
	blk->is_lost = false;
}

/*
 * Returns whether a request is overdue. Checks all queues, even after it has found an overdue
 * request, because each check also records the progress of its queue.
 */
static bool is_overdue(void *opaque)
{
	struct vublk_blk *blk = opaque;
	bool overdue = false;

	for (unsigned i = 0; vublk_blk_is_running(blk) && i < blk->num_queues; i++)
		overdue |= vublk_blk_queue_is_overdue(&blk->queues[i]);
	return overdue;
}

static void on_timer(void *opaque)
{
	vublk_blk_replay_tick(opaque);
}

static void on_gave_up(void *opaque, const struct vublk_error *cause)
{
	struct vublk_blk *blk = opaque;
	struct vublk_error error = *cause;

	if (error.code != ETIME)
		error.code = ENOTCONN; /* requests fail with ENOTCONN for every cause except the
					  deadline */
	if (!vublk_blk_is_running(blk))
		return; /* if the disk is being opened, the open fails and reports the error */
	vublk_blk_replay_suspend(blk);
	for (unsigned i = 0; i < blk->num_queues; i++)
		vublk_blk_queue_give_up(&blk->queues[i], &error);
	report(blk, VUBLK_BLK_GAVE_UP, cause);
}

void vublk_blk_fill_handlers(struct vublk_blk *blk, struct vublk_inproc_handlers *handlers)
{
	handlers->config_changed = on_config_changed;
	handlers->lost = on_lost;
	handlers->rings_suspend = on_rings_suspend;
	handlers->rings_replaced = on_rings_replaced;
	handlers->reconnected = on_reconnected;
	handlers->gave_up = on_gave_up;
	handlers->is_overdue = is_overdue;
	handlers->timer = on_timer;
	handlers->opaque = blk;
	handlers->log = blk->handlers.log;
}

/* --- close --------------------------------------------------------------------------------- */

#define DRAIN_BATCH 32

static int abandon(const struct vublk_blk_queue *queue, struct vublk_error *error)
{
	unsigned count = vublk_blk_in_flight(queue);

	return vublk_error_set(error, ETIMEDOUT, "the disk was closed, but %u request%s of queue "
			       "%u had not completed in time and %s abandoned",
			       count, count == 1 ? "" : "s",
			       queue->index, count == 1 ? "was" : "were");
}

/*
 * Takes completions until no request is in flight or the deadline has passed. On failure, `error`
 * says why requests failed or were abandoned.
 */
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
			return abandon(queue, error);
		for (int i = 0; i < n; i++)
			if (vublk_blk_queue_gave_up(queue, completions[i].result))
				r = vublk_error_set(error, ENOTCONN, "requests of queue %u failed "
						    "while the disk was being closed, because no "
						    "back-end was left to complete them",
						    queue->index);
	}
	return r;
}

void vublk_blk_free(struct vublk_blk *blk)
{
	vublk_inproc_free(blk->inproc);
	vublk_blk_free_changes(blk);
	for (unsigned i = 0; blk->queues && i < blk->num_queues; i++)
		vublk_blk_queue_deinit(&blk->queues[i]);
	free(blk->queues);
	vublk_blk_replay_deinit(blk);
	vublk_blk_free_allocations(blk);
	pthread_mutex_destroy(&blk->blocking.lock);
	pthread_cond_destroy(&blk->change_ended);
	pthread_mutex_destroy(&blk->lock);
	vublk_blk_events_deinit(&blk->events);
	vublk_fd_close(&blk->opening_fd);
	free(blk);
}

int vublk_blk_close(struct vublk_blk *blk, int wait_ms, struct vublk_error *error)
{
	uint64_t deadline_ns = UINT64_MAX;
	int r = 0;

	if (!blk)
		return 0;
	if (vublk_inproc_is_own_thread(blk->inproc))
		return vublk_error_set(error, EBUSY, "a disk cannot be closed from one of its "
				       "handlers; close it from another thread");
	if (wait_ms >= 0)
		deadline_ns = vublk_now_ns() + (uint64_t)wait_ms * 1000000;
	if (!vublk_blk_is_running(blk)) {
		vublk_blk_free(blk);
		return 0;
	}
	for (unsigned i = 0; i < blk->num_queues; i++) {
		int drained = drain(&blk->queues[i], deadline_ns, r ? NULL : error);

		r = r ? r : drained;
	}
	if (!r)
		r = vublk_blk_replay_close(blk, deadline_ns, error);
	pthread_mutex_lock(&blk->lock);
	vublk_blk_set_phase(blk, VUBLK_BLK_PHASE_CLOSING);
	pthread_mutex_unlock(&blk->lock);
	vublk_blk_cancel_changes(blk);
	vublk_inproc_stop(blk->inproc, NULL);
	vublk_blk_free(blk);
	return r;
}

/* --- properties and queues ------------------------------------------------------------------- */

void vublk_blk_get_info(struct vublk_blk *blk, struct vublk_blk_info *info, size_t info_bytes)
{
	struct vublk_blk_info own = { 0 };

	pthread_mutex_lock(&blk->lock);
	if (blk->phase == VUBLK_BLK_PHASE_RUNNING)
		own = blk->info;
	pthread_mutex_unlock(&blk->lock);
	vublk_struct_out(info, info_bytes, &own, sizeof(own));
}

void vublk_blk_get_device_info(struct vublk_blk *blk, struct vublk_device_info *info,
			       size_t info_bytes)
{
	struct vublk_device_info own = { 0 };

	if (vublk_blk_is_running(blk))
		own = *vublk_inproc_info(blk->inproc);
	vublk_struct_out(info, info_bytes, &own, sizeof(own));
}

int vublk_blk_set_write_cache(struct vublk_blk *blk, bool on, struct vublk_error *error)
{
	int r = vublk_blk_require_running(blk, error);

	if (r)
		return r;
	if (!(blk->features & VUBLK_BIT(VIRTIO_BLK_F_CONFIG_WCE)))
		return vublk_error_set(error, ENOTSUP,
				       "cannot turn the write cache %s, because the back-end does "
				       "not offer CONFIG_WCE", on ? "on" : "off");
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

	if (!vublk_blk_is_running(blk) || index >= blk->num_queues)
		return NULL;
	queue = &blk->queues[index];
	return vublk_blk_queue_claim(queue, VUBLK_BLK_QUEUE_OF_APPLICATION) ? queue : NULL;
}
