/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The control thread's part of a virtqueue: the settings that the front-end sent, the hand-over of
 * the queue to its worker, and its return ("Ring states" of the vhost-user specification). The
 * worker's part is in queue-take.c and queue-complete.c.
 *
 * Key idea: a queue runs as soon as it is set up and enabled. It does not wait for the first kick,
 * because that kick may have gone to the previous back-end. A queue that is set up but not enabled
 * does not run: the specification permits only processing without side effects, and requests to a
 * disk have side effects.
 */
#include "backend/queue.h"

#include "backend/worker.h"
#include "util/atomic.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/log.h"
#include "virtio/split.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

/* --- the state ------------------------------------------------------------- */

enum queue_event {
	EVENT_START,
	EVENT_STOP,
	EVENT_ANSWERED, /* the worker has started or stopped the queue */
	EVENT_REFUSED,  /* the worker could not start the queue */
	EVENT_CONTINUED, /* the worker has undone the stop */
};

static const char *const state_names[] = {
	[VUBLK_QUEUE_STOPPED] = "stopped",
	[VUBLK_QUEUE_STARTING] = "starting",
	[VUBLK_QUEUE_RUNNING] = "running",
	[VUBLK_QUEUE_STOPPING] = "stopping",
};

static const char *const event_names[] = {
	[EVENT_START] = "it is set up",
	[EVENT_STOP] = "it has to stop",
	[EVENT_ANSWERED] = "the worker answered",
	[EVENT_REFUSED] = "the worker failed",
	[EVENT_CONTINUED] = "the stop was undone",
};

/*
 * The next state, by state and event. The session ensures that a pair without an entry never
 * occurs.
 */
static const enum vublk_queue_state next_states[][5] = {
	[VUBLK_QUEUE_STOPPED][EVENT_START] = VUBLK_QUEUE_STARTING,
	[VUBLK_QUEUE_STARTING][EVENT_ANSWERED] = VUBLK_QUEUE_RUNNING,
	[VUBLK_QUEUE_STARTING][EVENT_REFUSED] = VUBLK_QUEUE_STOPPED,
	[VUBLK_QUEUE_RUNNING][EVENT_STOP] = VUBLK_QUEUE_STOPPING,
	[VUBLK_QUEUE_STOPPING][EVENT_ANSWERED] = VUBLK_QUEUE_STOPPED,
	[VUBLK_QUEUE_STOPPING][EVENT_CONTINUED] = VUBLK_QUEUE_RUNNING,
};

static void change_state(struct vublk_queue *queue, enum queue_event event)
{
	enum vublk_queue_state state = next_states[queue->state][event];

	vublk_log(queue->log, VUBLK_LOG_DEBUG, "queue %u: %s -> %s (%s)", queue->index,
		  state_names[queue->state], state_names[state], event_names[event]);
	queue->state = state;
}

/* --- messages between the threads ------------------------------------------ */

static void on_start(void *opaque)
{
	struct vublk_queue *queue = opaque;

	queue->result = vublk_backend_worker_add_queue(queue->worker, queue, &queue->error);
	vublk_loop_post(queue->control, &queue->answer_task);
}

static void on_stop(void *opaque)
{
	struct vublk_queue *queue = opaque;

	/* The worker answers when the queue has drained. */
	vublk_backend_worker_drain_queue(queue->worker, queue);
}

/*
 * Without an in-flight area, no request can be left for the next start, so the queue only drains.
 */
static void on_suspend(void *opaque)
{
	struct vublk_queue *queue = opaque;

	queue->suspends = queue->inflight.region;
	vublk_backend_worker_drain_queue(queue->worker, queue);
}

static void on_continue(void *opaque)
{
	struct vublk_queue *queue = opaque;

	queue->is_continued = vublk_backend_worker_continue_queue(queue->worker, queue);
	vublk_loop_post(queue->control, &queue->continue_answer_task);
}

static void drop_ring(struct vublk_queue *queue)
{
	vublk_device_ring_deinit(&queue->ring);
	queue->inflight.region = NULL;
	queue->map = NULL;
	queue->dirty_log = NULL;
}

static void on_answer(void *opaque)
{
	struct vublk_queue *queue = opaque;

	if (queue->state == VUBLK_QUEUE_STOPPING) {
		queue->setup.base = vublk_device_ring_base(&queue->ring);
		queue->result = 0;
	}
	change_state(queue, queue->result ? EVENT_REFUSED : EVENT_ANSWERED);
	if (queue->state == VUBLK_QUEUE_STOPPED)
		drop_ring(queue);
	queue->answered(queue, queue->opaque);
}

/*
 * Called when the worker has answered vublk_queue_continue(). If the stop was undone, this answer
 * is also the answer to the stop, so answered() is called twice.
 */
static void on_continue_answer(void *opaque)
{
	struct vublk_queue *queue = opaque;

	queue->result = 0;
	if (queue->is_continued) {
		change_state(queue, EVENT_CONTINUED);
		queue->answered(queue, queue->opaque);
	}
	queue->answered(queue, queue->opaque);
}

/* --- life ------------------------------------------------------------------ */

void vublk_queue_init(struct vublk_queue *queue, unsigned index,
		      struct vublk_backend_worker *worker, const struct vublk_log *log,
		      struct vublk_loop *control)
{
	*queue = (struct vublk_queue){
		.index = index,
		.worker = worker,
		.log = log,
		.control = control,
		.setup = { .kick_fd = -1, .call_fd = -1, .err_fd = -1 },
		.start_task = { .fn = on_start, .opaque = queue },
		.stop_task = { .fn = on_stop, .opaque = queue },
		.suspend_task = { .fn = on_suspend, .opaque = queue },
		.answer_task = { .fn = on_answer, .opaque = queue },
		.continue_task = { .fn = on_continue, .opaque = queue },
		.continue_answer_task = { .fn = on_continue_answer, .opaque = queue },
		.limit = vublk_backend_worker_log_limit(worker),
	};
}

static void free_requests(struct vublk_queue *queue)
{
	free(queue->requests);
	free(queue->iovs);
	free(queue->dirty_iovs);
	queue->requests = NULL;
	queue->iovs = NULL;
	queue->dirty_iovs = NULL;
	queue->num_requests = 0;
}

void vublk_queue_deinit(struct vublk_queue *queue)
{
	vublk_queue_reset(queue);
	vublk_fd_close(&queue->setup.call_fd);
	vublk_fd_close(&queue->setup.err_fd);
	free_requests(queue);
}

void vublk_queue_reset(struct vublk_queue *queue)
{
	vublk_fd_close(&queue->setup.kick_fd);
	queue->setup = (struct vublk_queue_setup){
		.kick_fd = -1,
		.call_fd = queue->setup.call_fd,
		.err_fd = queue->setup.err_fd,
	};
}

/* --- start and stop -------------------------------------------------------- */

bool vublk_queue_wants_to_run(const struct vublk_queue *queue)
{
	const struct vublk_queue_setup *setup = &queue->setup;

	return setup->enabled && setup->has_kick && setup->has_addr && setup->size;
}

/* Makes one request per ring entry, so that every available chain can be taken. */
static int make_requests(struct vublk_queue *queue, struct vublk_error *error)
{
	unsigned size = queue->setup.size;

	if (queue->num_requests != size) {
		free_requests(queue);
		queue->requests = calloc(size, sizeof(*queue->requests));
		queue->iovs = calloc((size_t)size * VUBLK_REQUEST_MAX_IOV, sizeof(*queue->iovs));
		if (!queue->requests || !queue->iovs) {
			free_requests(queue);
			return vublk_error_set(error, ENOMEM, "cannot allocate memory for %u "
					       "requests", size);
		}
		queue->num_requests = size;
	}
	queue->free_requests = NULL;
	for (unsigned i = size; i-- > 0;) {
		struct vublk_request *request = &queue->requests[i];

		request->queue = queue;
		request->chain.max_iov = VUBLK_REQUEST_MAX_IOV;
		request->chain.iov = &queue->iovs[(size_t)i * VUBLK_REQUEST_MAX_IOV];
		request->next_free = queue->free_requests;
		queue->free_requests = request;
	}
	return 0;
}

/*
 * Decides whether the data that requests write to memory is marked in the dirty log. The front-end
 * turns marking on in two places: LOG_ALL is for the data of requests, and a flag with the ring's
 * address is for the used ring (make_ring()). The front-end may set either of them before it shares
 * a log (as QEMU does if a VM starts during a migration), or share no log at all. Without a log no
 * page is marked.
 */
static int make_log(struct vublk_queue *queue, const struct vublk_disk *disk,
		    const struct vublk_queue_resources *resources, struct vublk_error *error)
{
	const struct vublk_memory_map *map = resources->map;
	const struct vublk_memory_map_region *last = &map->regions[map->num_regions - 1];
	const struct vublk_dirty_log *log = resources->dirty_log;
	size_t num_iovs = (size_t)queue->num_requests * VUBLK_REQUEST_MAX_IOV;

	queue->dirty_log = NULL;
	if (!log->bits || !(disk->features & VUBLK_BIT(VHOST_F_LOG_ALL)))
		return 0;
	if (!vublk_dirty_log_covers(log, last->guest_addr, last->size_bytes))
		return vublk_error_set(error, EPROTO, "the dirty log has %" PRIu64 " bytes, which "
				       "is too small for memory up to 0x%" PRIx64, log->bytes,
				       last->guest_addr + (last->size_bytes - 1));
	if (!queue->dirty_iovs)
		queue->dirty_iovs = calloc(num_iovs, sizeof(*queue->dirty_iovs));
	if (!queue->dirty_iovs)
		return vublk_error_set(error, ENOMEM, "cannot allocate memory to log the writes of "
				       "%u requests", queue->num_requests);
	for (unsigned i = 0; i < queue->num_requests; i++)
		queue->requests[i].dirty = &queue->dirty_iovs[(size_t)i * VUBLK_REQUEST_MAX_IOV];
	queue->dirty_log = log;
	return 0;
}

static int make_ring(struct vublk_queue *queue, const struct vublk_split_ring *memory,
		     uint16_t base, const struct vublk_disk *disk,
		     const struct vublk_dirty_log *log, struct vublk_error *error)
{
	const struct vublk_queue_setup *setup = &queue->setup;
	bool is_logged = log->bits && setup->addr.flags & VUBLK_BIT(VHOST_VRING_F_LOG);
	int r;

	if (is_logged && !vublk_dirty_log_covers(log, setup->addr.log_guest_addr,
						 vublk_split_used_bytes(setup->size)))
		return vublk_error_set(error, EPROTO, "the dirty log has %" PRIu64 " bytes, which "
				       "is too small for a used ring that is logged at 0x%" PRIx64,
				       log->bytes,
				       (uint64_t)setup->addr.log_guest_addr);
	r = vublk_device_ring_init(&queue->ring, memory, setup->size, base, disk->features, error);
	if (!r && is_logged)
		vublk_device_ring_log(&queue->ring, log, setup->addr.log_guest_addr);
	return r;
}

static int find_ring(const struct vublk_queue_setup *setup, const struct vublk_memory_map *map,
		     struct vublk_split_ring *ring, struct vublk_error *error)
{
	const struct vublk_split_addrs addrs = {
		.desc = setup->addr.desc_user_addr,
		.avail = setup->addr.avail_user_addr,
		.used = setup->addr.used_user_addr,
	};

	return vublk_split_ring_find(map, vublk_memory_map_user, &addrs, setup->size, ring, error);
}

/*
 * Returns the base, or the used index if the base is lower, because completed chains must not be
 * executed again. The base is too low if the front-end read the used index before the previous
 * back-end had finished, as QEMU does after it loses a connection.
 */
static uint16_t check_base(const struct vublk_queue *queue,
			   const struct vublk_queue_resources *resources, uint16_t base,
			   uint16_t used)
{
	uint16_t behind = (uint16_t)(used - base);

	if (!behind || behind > queue->setup.size)
		return base;
	vublk_log_limited(queue->log, resources->limit, VUBLK_LOG_WARNING,
			  "queue %u starts at its used index, %u, because the requests since the "
			  "front-end's base, %u, are already complete",
			  queue->index, used, base);
	return used;
}

static int begin_tracking(struct vublk_queue *queue, const struct vublk_inflight_area *area,
			  const struct vublk_split_ring *memory, uint16_t used, uint16_t *base,
			  struct vublk_error *error)
{
	struct vublk_inflight_split *region;
	int r = vublk_inflight_area_region(area, queue->index, queue->setup.size, &region, error);

	if (r)
		return r;
	return vublk_inflight_queue_begin(&queue->inflight, region, area->queue_size, memory,
					  queue->setup.size, used, base, &queue->pending, error);
}

static int make_ready(struct vublk_queue *queue, const struct vublk_disk *disk,
		      const struct vublk_queue_resources *resources, struct vublk_error *error)
{
	uint16_t base = queue->setup.base;
	struct vublk_split_ring memory;
	uint16_t used = 0;
	int r = find_ring(&queue->setup, resources->map, &memory, error);

	if (!r)
		used = vublk_load_acquire(&memory.used->idx); /* B: a previous back-end may have
								 published completions */
	if (!r)
		r = make_requests(queue, error);
	if (!r)
		r = make_log(queue, disk, resources, error);
	if (!r)
		r = begin_tracking(queue, resources->inflight, &memory, used, &base, error);
	if (!r)
		base = check_base(queue, resources, base, used);
	if (!r)
		r = make_ring(queue, &memory, base, disk, resources->dirty_log, error);
	if (!r)
		vublk_log(queue->log, VUBLK_LOG_DEBUG, "queue %u starts at %u (front-end's base "
			  "%u), used index %u, avail index %u, %u requests to repeat", queue->index,
			  base, queue->setup.base, vublk_device_ring_used(&queue->ring),
			  vublk_load_relaxed(&memory.avail->idx), queue->pending.count);
	return r;
}

int vublk_queue_start(struct vublk_queue *queue, const struct vublk_disk *disk,
		      const struct vublk_queue_resources *resources, struct vublk_error *error)
{
	int r = make_ready(queue, disk, resources, error);

	if (r) {
		vublk_error_prepend(error, "queue %u cannot start", queue->index);
		return r;
	}
	queue->map = resources->map;
	queue->fault = resources->fault;
	queue->was_kicked = false;
	queue->first = vublk_device_ring_base(&queue->ring);
	queue->disk = *disk;
	queue->call_fd = queue->setup.call_fd;
	queue->err_fd = queue->setup.err_fd;
	queue->peer_fd = resources->peer_fd;
	queue->phase = VUBLK_QUEUE_TAKING;
	queue->suspends = false;
	queue->is_muted = false;
	queue->outstanding = 0;
	queue->pushed = 0;
	queue->unkicked = 0;
	change_state(queue, EVENT_START);
	vublk_loop_post(vublk_backend_worker_loop(queue->worker), &queue->start_task);
	return 0;
}

bool vublk_queue_unblock(struct vublk_queue *queue)
{
	if (!vublk_eventfd_unblock(queue->setup.call_fd))
		return false;
	vublk_store_relaxed(&queue->is_muted, true);
	return true;
}

void vublk_queue_stop(struct vublk_queue *queue)
{
	change_state(queue, EVENT_STOP);
	vublk_loop_post(vublk_backend_worker_loop(queue->worker), &queue->stop_task);
}

void vublk_queue_continue(struct vublk_queue *queue)
{
	vublk_loop_post(vublk_backend_worker_loop(queue->worker), &queue->continue_task);
}

void vublk_queue_suspend(struct vublk_queue *queue)
{
	change_state(queue, EVENT_STOP);
	vublk_loop_post(vublk_backend_worker_loop(queue->worker), &queue->suspend_task);
}
