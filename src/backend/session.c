/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The course of a session; see session.h. What the messages mean is in
 * messages.c; accepting a front-end, and the next one after it, in backend.c.
 *
 * The idea to read it by: go_on() is called whenever something may have become
 * possible, and takes the session as far as it gets without waiting. It is never
 * called from inside itself.
 */
#include "backend/session.h"

#include "proto/vhost-user/server.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

/* Messages served before other descriptors of the loop have their turn. */
#define MESSAGES_AT_ONCE 16

/*
 * When a worker that does not answer may be blocked by the front-end, how soon that is
 * looked at again once it was, and how often at a time.
 */
#define WORKER_TIMEOUT_NS UINT64_C(100000000)
#define UNBLOCK_AGAIN_NS UINT64_C(1000000)
#define UNBLOCKS_AT_ONCE 16

static void go_on(struct vublk_session *session);

/* --- queues ---------------------------------------------------------------- */

static void on_queue_answered(struct vublk_queue *queue, void *opaque);

struct vublk_queue *vublk_session_use_queue(struct vublk_session *session, unsigned index)
{
	const struct vublk_session_owner *owner = session->owner;

	for (; session->num_used <= index; session->num_used++) {
		struct vublk_queue *queue = &session->queues[session->num_used];

		vublk_queue_init(queue, session->num_used,
				 owner->workers[session->num_used % owner->num_workers], owner->log,
				 owner->loop);
		queue->answered = on_queue_answered;
		queue->opaque = session;
		queue->setup.enabled = session->enables_all;
	}
	return &session->queues[index];
}

bool vublk_session_runs(const struct vublk_queue *queue)
{
	return queue->state != VUBLK_QUEUE_STOPPED;
}

/*
 * Whether a worker was blocked by a call descriptor that is full. An honest front-end has
 * none, so its session ends.
 */
static bool unblock_workers(struct vublk_session *session)
{
	bool was_blocked = false;

	for (unsigned i = 0; i < session->owner->num_queues; i++) {
		struct vublk_queue *queue = &session->queues[i];
		bool is_known = queue->is_muted;

		if (!vublk_session_runs(queue) || !vublk_queue_unblock(queue))
			continue;
		was_blocked = true;
		if (!is_known)
			vublk_log_limited(session->owner->log, session->owner->limit, VUBLK_LOG_ERROR,
					  "the connection is closed: the front-end keeps the call "
					  "descriptor of queue %u full, which blocks the thread "
					  "that serves the queue", i);
		session->wants_end = true;
	}
	return was_blocked;
}

/* A worker that does not answer has slow requests under way, or a peer blocks it. */
static void on_worker_timer(void *opaque)
{
	struct vublk_session *session = opaque;
	bool was_blocked = false;

	if (!session->waiting)
		return;
	for (unsigned i = 0; i < UNBLOCKS_AT_ONCE && unblock_workers(session); i++) {
		was_blocked = true;
		sched_yield();
	}
	vublk_loop_timer_arm(session->owner->loop, &session->worker_timer, vublk_now_ns() +
			     (was_blocked ? UNBLOCK_AGAIN_NS : WORKER_TIMEOUT_NS));
}

/* The timer is not disarmed when the answer is there: it costs a system call, too. */
static void wait_for_worker(struct vublk_session *session)
{
	if (!session->worker_timer.loop)
		vublk_loop_timer_arm(session->owner->loop, &session->worker_timer,
				     vublk_now_ns() + WORKER_TIMEOUT_NS);
	session->waiting++;
}

void vublk_session_stop_queue(struct vublk_session *session, struct vublk_queue *queue)
{
	if (queue->state != VUBLK_QUEUE_RUNNING)
		return;
	wait_for_worker(session);
	vublk_queue_stop(queue);
}

void vublk_session_suspend_queue(struct vublk_session *session, struct vublk_queue *queue)
{
	if (queue->state != VUBLK_QUEUE_RUNNING)
		return;
	wait_for_worker(session);
	vublk_queue_suspend(queue);
}

void vublk_session_stop_all(struct vublk_session *session)
{
	for (unsigned i = 0; i < session->num_used; i++)
		vublk_session_stop_queue(session, &session->queues[i]);
}

bool vublk_session_doubts_write_cache(const struct vublk_session *session)
{
	return session->resumes && !session->knows_write_cache && session->write_cache;
}

/* A ring that does not begin at 0 was begun in an earlier session, or before a pause in this. */
static void note_resumption(struct vublk_session *session)
{
	bool had_doubts = vublk_session_doubts_write_cache(session);

	for (unsigned i = 0; i < session->num_used; i++)
		if (vublk_queue_wants_to_run(&session->queues[i]) &&
		    session->queues[i].setup.base)
			session->resumes = true;
	if (vublk_session_doubts_write_cache(session) && !had_doubts)
		vublk_log_limited(session->owner->log, session->owner->limit, VUBLK_LOG_INFO,
				  "the front-end resumes a disk without having read its config, so "
				  "every write is durable until it reads the config or sets wce");
}

static void fill_disk(const struct vublk_session *session, struct vublk_disk *disk)
{
	const struct vublk_engine_geometry *geometry = &session->owner->engine->geometry;

	*disk = (struct vublk_disk){
		.capacity_sectors = geometry->size_bytes / VUBLK_SECTOR_BYTES,
		.features = session->features,
		.read_only = geometry->read_only,
		/* 5.2.5: a driver without FLUSH relies on writes that are stable. */
		.write_through = !session->write_cache ||
				 vublk_session_doubts_write_cache(session) ||
				 !(session->features & VUBLK_BIT(VIRTIO_BLK_F_FLUSH)),
	};
	memcpy(disk->serial, session->owner->serial, sizeof(disk->serial));
}

/* The operation fails with the first queue's reason; that one waits for another kick. */
static void start_failed(struct vublk_session *session, struct vublk_queue *queue, int result,
			 const struct vublk_error *error)
{
	vublk_fd_close(&queue->setup.kick_fd);
	queue->setup.has_kick = false;
	if (session->result)
		return;
	session->result = result;
	session->error = *error;
}

/*
 * A VMM whose memory map changes sends a message for each region that goes or comes,
 * and in between a ring may be in none: its queue waits for the region that has it.
 * Only a message about the queue itself is refused then.
 */
static bool waits_for_memory(const struct vublk_session *session, struct vublk_queue *queue,
			     int result, const struct vublk_error *error)
{
	if (result != -EFAULT || queue == session->concerned)
		return false;
	vublk_log_limited(session->owner->log, session->owner->limit, VUBLK_LOG_INFO,
			  "%s; it waits for that memory", error->text);
	return true;
}

/*
 * Without indirect descriptors a request has no more segments than its ring has entries.
 * Linux does not check that: it waits without end to send a request that is too long. The size
 * of the rings was not known when the driver read seg_max, so all that is left is to say it.
 */
static void check_seg_max(struct vublk_session *session, const struct vublk_queue *queue)
{
	unsigned size = queue->setup.size, overhead = VUBLK_BACKEND_CHAIN_OVERHEAD;

	if (session->warned_of_seg_max || session->owner->seg_max + overhead <= size ||
	    session->features & VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC))
		return;
	session->warned_of_seg_max = true;
	vublk_log_limited(session->owner->log, session->owner->limit, VUBLK_LOG_WARNING,
			  "queue %u has %u entries, and its driver does not use indirect "
			  "descriptors; a request of the %u segments that this disk allows does "
			  "not fit, and a Linux guest hangs with it; use larger queues, or serve "
			  "with -o seg-max=%u", queue->index, size, session->owner->seg_max,
			  size > overhead ? size - overhead : 1);
}

/*
 * Between two memory maps a VMM may share nothing. But when it has just set up a queue,
 * its memory has been told.
 */
static bool has_no_memory(struct vublk_session *session, const struct vublk_queue *queue)
{
	if (session->memory.map.num_regions)
		return false;
	if (queue == session->concerned && !session->said_no_memory)
		vublk_log_limited(session->owner->log, session->owner->limit, VUBLK_LOG_WARNING,
				  "queue %u does not start: " VUBLK_VU_NO_MEMORY "%s",
				  queue->index, VUBLK_VU_SHARE_IT);
	session->said_no_memory |= queue == session->concerned;
	return true;
}

/* Starts what is to run and does not. */
static void start_queues(struct vublk_session *session)
{
	const struct vublk_queue_loan loan = {
		&session->memory.map, &session->inflight, &session->dirty_log.dirty,
		&session->fault, session->channel.fd, session->owner->limit,
	};
	struct vublk_error error = { 0 };
	struct vublk_disk disk;
	int r;

	note_resumption(session);
	fill_disk(session, &disk);
	for (unsigned i = 0; i < session->num_used; i++) {
		struct vublk_queue *queue = &session->queues[i];

		if (vublk_session_runs(queue) || !vublk_queue_wants_to_run(queue) ||
		    has_no_memory(session, queue))
			continue;
		check_seg_max(session, queue);
		r = vublk_queue_start(queue, &disk, &loan, &error);
		if (!r)
			wait_for_worker(session);
		else if (!waits_for_memory(session, queue, r, &error))
			start_failed(session, queue, r, &error);
	}
}

static void on_queue_answered(struct vublk_queue *queue, void *opaque)
{
	struct vublk_session *session = opaque;

	session->waiting--;
	/* A config change is not told while no ring is started, so it is told now. */
	if (queue->state == VUBLK_QUEUE_RUNNING && session->operation == &vublk_session_message) {
		vublk_back_channel_set_suspended(&session->back_channel, false);
		vublk_back_channel_remind(&session->back_channel);
	}
	if (queue->result)
		start_failed(session, queue, queue->result, &queue->error);
	if (!session->waiting)
		go_on(session);
}

/* --- memory that the front-end removes -------------------------------------- */

static void say_what_was_lost(struct vublk_session *session)
{
	uintptr_t address = vublk_load_relaxed(&session->fault.address);
	const struct vublk_memory_map *map = &session->memory.map;
	char where[40] = "";

	for (unsigned i = 0; i < map->num_regions; i++)
		if (address - (uintptr_t)map->regions[i].host < map->regions[i].size_bytes)
			snprintf(where, sizeof(where), " at 0x%" PRIx64, map->regions[i].guest_addr +
				 (address - (uintptr_t)map->regions[i].host));
	vublk_log_limited(session->owner->log, session->owner->limit, VUBLK_LOG_ERROR,
			  "the connection is closed: a page of %s%s cannot be accessed, because the "
			  "front-end truncated its file, or it is a huge page and the host has none "
			  "left", vublk_fault_name(&session->fault), where);
}

/* The record is looked at where an operation ends, and its descriptor wakes the loop. */
static void notice_fault(struct vublk_session *session)
{
	if (!session->fault_source.loop || !vublk_fault_happened(&session->fault))
		return;
	vublk_loop_remove(&session->fault_source);
	say_what_was_lost(session);
	session->wants_end = true;
}

/* --- operations ------------------------------------------------------------ */

static void begin(struct vublk_session *session, const struct vublk_session_operation *operation)
{
	session->operation = operation;
	session->phase = VUBLK_SESSION_STOPPING_QUEUES;
}

static void run_operation(struct vublk_session *session)
{
	if (!session->result && session->operation->run)
		session->result = session->operation->run(session, &session->error);
	if (session->phase == VUBLK_SESSION_ENDED)
		return;
	session->phase = VUBLK_SESSION_STARTING_QUEUES;
	start_queues(session);
}

/* A ring is started from SET_VRING_KICK to GET_VRING_BASE, whether or not it is enabled. */
static bool is_suspended(const struct vublk_session *session)
{
	for (unsigned i = 0; i < session->num_used; i++)
		if (session->queues[i].setup.has_kick)
			return false;
	return true;
}

/* What an operation found in memory that is lost is no answer. */
static void finish_operation(struct vublk_session *session)
{
	session->phase = VUBLK_SESSION_READING;
	notice_fault(session);
	vublk_back_channel_set_suspended(&session->back_channel, is_suspended(session));
	if (session->operation->finish && !vublk_fault_happened(&session->fault))
		session->operation->finish(session, session->result, &session->error);
	session->operation = NULL;
	session->concerned = NULL;
	session->result = 0;
}

/* --- the end --------------------------------------------------------------- */

static void on_end(void *opaque)
{
	struct vublk_session *session = opaque;

	session->owner->ended(session->owner->opaque);
}

/* The owner frees the session, so it is told when nothing of ours is on the stack. */
static int run_end(struct vublk_session *session, struct vublk_error *error)
{
	notice_fault(session);
	vublk_loop_remove(&session->source);
	session->phase = VUBLK_SESSION_ENDED;
	vublk_loop_post(session->owner->loop, &session->end_task);
	return 0;
}

static const struct vublk_session_operation operation_end = { "end", run_end, NULL };

void vublk_session_end(struct vublk_session *session)
{
	session->wants_end = true;
	if (session->phase == VUBLK_SESSION_READING)
		go_on(session);
}

/* --- the end, because of a fault -------------------------------------------- */

static void on_fault(void *opaque, uint32_t events)
{
	struct vublk_session *session = opaque;

	notice_fault(session);
	if (session->wants_end)
		vublk_session_end(session);
}

static int watch_fault(struct vublk_session *session, struct vublk_error *error)
{
	session->memory.fault = &session->fault;
	session->inflight.fault = &session->fault;
	session->dirty_log.fault = &session->fault;
	session->fault.fd = vublk_eventfd_new();
	if (session->fault.fd < 0)
		return vublk_error_set_errno(error, -session->fault.fd, "cannot create an eventfd");
	session->fault_source = (struct vublk_loop_source){ .fn = on_fault, .opaque = session };
	return vublk_loop_add(session->owner->loop, &session->fault_source, session->fault.fd,
			      EPOLLIN, error);
}

/* --- a new size ------------------------------------------------------------ */

static int run_rescan(struct vublk_session *session, struct vublk_error *error)
{
	if (vublk_engine_rescan(session->owner->engine))
		vublk_back_channel_tell_config(&session->back_channel);
	return 0;
}

static void finish_rescan(struct vublk_session *session, int result,
			  const struct vublk_error *error)
{
	if (result)
		vublk_log_limited(session->owner->log, session->owner->limit, VUBLK_LOG_ERROR, "%s",
				  error->text);
}

static const struct vublk_session_operation operation_rescan = {
	"rescan", run_rescan, finish_rescan,
};

void vublk_session_rescan(struct vublk_session *session)
{
	session->wants_rescan = true;
	if (session->phase == VUBLK_SESSION_READING)
		go_on(session);
}

/* --- messages -------------------------------------------------------------- */

/* 1: an operation has begun; 0: there is no message yet; the end was asked for. */
static int receive(struct vublk_session *session)
{
	const struct vublk_session_operation *operation = NULL;
	struct vublk_error error = { 0 };
	int r = vublk_channel_receive(&session->channel, &session->request, &error);

	vublk_message_timeout_note(&session->message_timeout, r > 0, session->channel.in_bytes);
	if (!r)
		return 0;
	if (r < 0) {
		vublk_log_limited(session->owner->log, session->owner->limit,
				  r == -ENOTCONN ? VUBLK_LOG_DEBUG : VUBLK_LOG_ERROR,
				  "the connection is closed: %s", error.text);
		session->wants_end = true;
		return 0;
	}
	session->result = vublk_session_begin_message(session, &operation, &session->error);
	begin(session, operation);
	return 1;
}

/* The next operation; false when there is nothing to do but wait. */
static bool begin_next(struct vublk_session *session, unsigned *budget)
{
	if (session->wants_end) {
		begin(session, &operation_end);
		vublk_session_stop_all(session);
		return true;
	}
	if (session->wants_rescan) {
		session->wants_rescan = false;
		begin(session, &operation_rescan);
		vublk_session_stop_all(session);
		return true;
	}
	if (!*budget)
		return false;
	--*budget;
	return receive(session) || session->wants_end;
}

/* While an operation waits for a worker the front-end is not listened to. */
static void watch(struct vublk_session *session)
{
	uint32_t events = EPOLLIN;
	struct vublk_error error = { 0 };

	if (session->phase != VUBLK_SESSION_READING) {
		vublk_loop_remove(&session->source);
		return;
	}
	if (vublk_channel_wants_write(&session->channel))
		events |= EPOLLOUT;
	if (session->source.loop) {
		vublk_loop_modify(&session->source, events);
		return;
	}
	if (vublk_loop_add(session->owner->loop, &session->source, session->channel.fd, events,
			   &error)) {
		vublk_log_limited(session->owner->log, session->owner->limit, VUBLK_LOG_ERROR,
				  "the connection is closed: %s", error.text);
		vublk_session_end(session);
	}
}

static void go_on(struct vublk_session *session)
{
	unsigned budget = MESSAGES_AT_ONCE;
	bool more = true;

	while (more && !session->waiting) {
		switch (session->phase) {
		case VUBLK_SESSION_READING:
			more = begin_next(session, &budget);
			break;
		case VUBLK_SESSION_STOPPING_QUEUES:
			run_operation(session);
			break;
		case VUBLK_SESSION_STARTING_QUEUES:
			finish_operation(session);
			break;
		case VUBLK_SESSION_ENDED:
			return;
		}
	}
	watch(session);
}

static void on_channel(void *opaque, uint32_t events)
{
	struct vublk_session *session = opaque;
	struct vublk_error error = { 0 };

	if ((events & EPOLLOUT) && vublk_channel_flush(&session->channel, &error) < 0) {
		vublk_log(session->owner->log, VUBLK_LOG_DEBUG, "the connection is closed: %s",
			  error.text);
		session->wants_end = true;
	}
	go_on(session);
}

static void on_message_timeout(void *opaque, const struct vublk_error *error)
{
	struct vublk_session *session = opaque;

	vublk_log_limited(session->owner->log, session->owner->limit, VUBLK_LOG_WARNING,
			  "the connection to a front-end is closed: %s", error->text);
	vublk_session_end(session);
}

/* --- life ------------------------------------------------------------------ */

/* Many more are on offer than a front-end uses: each is initialised when it is. */
static int make_queues(struct vublk_session *session, struct vublk_error *error)
{
	const struct vublk_session_owner *owner = session->owner;

	session->queues = aligned_alloc(VUBLK_CACHE_LINE,
					owner->num_queues * sizeof(*session->queues));
	if (!session->queues)
		return vublk_error_set(error, ENOMEM, "no memory for %u queues",
				       owner->num_queues);
	return 0;
}

int vublk_session_new(const struct vublk_session_owner *owner, int fd,
		      struct vublk_session **result, struct vublk_error *error)
{
	struct vublk_session *session = calloc(1, sizeof(*session));
	int r;

	if (!session) {
		vublk_fd_close(&fd);
		return vublk_error_set(error, ENOMEM, "no memory for a session");
	}
	session->owner = owner;
	session->reply_fd = -1;
	session->fault.fd = -1;
	vublk_back_channel_init(&session->back_channel, owner->loop, owner->log, owner->limit);
	session->write_cache = owner->write_cache;
	session->source = (struct vublk_loop_source){ .fn = on_channel, .opaque = session };
	session->worker_timer.fn = on_worker_timer;
	session->worker_timer.opaque = session;
	session->end_task = (struct vublk_loop_task){ .fn = on_end, .opaque = session };
	vublk_channel_init(&session->channel, fd);
	r = make_queues(session, error);
	if (!r)
		r = watch_fault(session, error);
	if (!r)
		r = vublk_loop_add(owner->loop, &session->source, fd, EPOLLIN, error);
	if (r) {
		vublk_session_free(session);
		return r;
	}
	vublk_message_timeout_begin(&session->message_timeout, owner->loop, owner->listen_fd,
				    owner->message_timeout_ms, on_message_timeout, session);
	*result = session;
	return 0;
}

void vublk_session_free(struct vublk_session *session)
{
	if (!session)
		return;
	vublk_loop_remove(&session->source);
	vublk_loop_timer_disarm(&session->worker_timer);
	vublk_message_timeout_end(&session->message_timeout);
	vublk_back_channel_close(&session->back_channel);
	vublk_channel_deinit(&session->channel);
	vublk_vu_message_deinit(&session->request);
	vublk_fd_close(&session->reply_fd);
	for (unsigned i = 0; session->queues && i < session->num_used; i++)
		vublk_queue_deinit(&session->queues[i]);
	free(session->queues);
	vublk_inflight_area_unmap(&session->inflight);
	vublk_backend_dirty_log_unmap(&session->dirty_log);
	vublk_backend_memory_clear(&session->memory);
	vublk_loop_remove(&session->fault_source);
	vublk_fd_close(&session->fault.fd);
	free(session);
}
