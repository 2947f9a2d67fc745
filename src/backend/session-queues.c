/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The queues of a session: stopping and starting them, and the warnings that a start causes.
 *
 * Key idea: a queue belongs to its worker while it runs. A stop or a start is a message to the
 * worker. session->waiting counts the messages that are not answered yet, and the session continues
 * when this count is zero.
 */
#include "backend/session.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <sched.h>
#include <string.h>

/*
 * If a worker has not answered for WORKER_TIMEOUT_NS, the front-end may be blocking it. The timer
 * then unblocks the workers, up to UNBLOCKS_IN_A_ROW times without a pause. If any call descriptor
 * was full, the timer runs again after UNBLOCK_AGAIN_NS.
 */
#define WORKER_TIMEOUT_NS UINT64_C(100000000)
#define UNBLOCK_AGAIN_NS UINT64_C(1000000)
#define UNBLOCKS_IN_A_ROW 16

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
		queue->statistics = &owner->statistics->queues[session->num_used];
		queue->setup.enabled = session->enables_all;
	}
	return &session->queues[index];
}

bool vublk_session_runs(const struct vublk_queue *queue)
{
	return queue->state != VUBLK_QUEUE_STOPPED;
}

bool vublk_session_is_suspended(const struct vublk_session *session)
{
	for (unsigned i = 0; i < session->num_used; i++)
		if (session->queues[i].setup.has_kick)
			return false;
	return true;
}

/* --- stopping -------------------------------------------------------------- */

/*
 * Unblocks the workers that a full call descriptor may block. Returns whether a call descriptor was
 * full. An honest front-end never fills a call descriptor, so a full descriptor ends the session.
 */
static bool unblock_workers(struct vublk_session *session)
{
	bool was_blocked = false;
	struct vublk_error error;

	for (unsigned i = 0; i < session->num_used; i++) {
		struct vublk_queue *queue = &session->queues[i];
		bool is_known = queue->is_muted;

		if (!vublk_session_runs(queue) || !vublk_queue_unblock(queue))
			continue;
		was_blocked = true;
		session->wants_end = true;
		if (is_known)
			continue;
		vublk_error_set(&error, EPROTO, "the front-end keeps the call descriptor of queue %u "
				"full, which blocks the thread that serves the queue", i);
		vublk_log_limited(session->owner->log, session->owner->limit, VUBLK_LOG_ERROR,
				  "closed the connection: %s", error.text);
		session->owner->refused(session->owner->opaque, &error);
	}
	return was_blocked;
}

/*
 * Called when a worker has not answered in time. The worker may be waiting for slow requests, or
 * the front-end may be blocking it. In the second case this function unblocks the worker.
 */
static void on_worker_timer(void *opaque)
{
	struct vublk_session *session = opaque;
	bool was_blocked = false;

	if (!session->waiting)
		return;
	for (unsigned i = 0; i < UNBLOCKS_IN_A_ROW && unblock_workers(session); i++) {
		was_blocked = true;
		sched_yield();
	}
	vublk_loop_timer_arm(session->owner->loop, &session->worker_timer, vublk_now_ns() +
			     (was_blocked ? UNBLOCK_AGAIN_NS : WORKER_TIMEOUT_NS));
}

/*
 * Counts one more answer to wait for, and arms the timer, unless it is armed already. The answer
 * does not disarm the timer, because that would cost a system call.
 */
static void wait_for_worker(struct vublk_session *session)
{
	if (!session->worker_timer.loop)
		vublk_loop_timer_arm(session->owner->loop, &session->worker_timer,
				     vublk_now_ns() + WORKER_TIMEOUT_NS);
	session->waiting++;
}

void vublk_session_queues_init(struct vublk_session *session)
{
	session->worker_timer = (struct vublk_loop_timer){ .fn = on_worker_timer, .opaque = session };
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

void vublk_session_continue_all(struct vublk_session *session)
{
	for (unsigned i = 0; i < session->num_used; i++) {
		struct vublk_queue *queue = &session->queues[i];

		if (queue->state != VUBLK_QUEUE_STOPPING)
			continue;
		wait_for_worker(session);
		vublk_queue_continue(queue);
	}
}

/* --- starting -------------------------------------------------------------- */

bool vublk_session_doubts_write_cache(const struct vublk_session *session)
{
	return session->resumes && !session->knows_write_cache && session->write_cache;
}

/*
 * Records whether the session continues earlier rings. A ring that starts at a base other than 0
 * began in an earlier session, or before a pause in this session. Called only for messages, because
 * a rescan and a hold also restart rings at such bases.
 */
static void note_resumption(struct vublk_session *session)
{
	bool had_doubts = vublk_session_doubts_write_cache(session);

	for (unsigned i = 0; i < session->num_used; i++)
		if (vublk_queue_wants_to_run(&session->queues[i]) &&
		    session->queues[i].setup.base)
			session->resumes = true;
	if (vublk_session_doubts_write_cache(session) && !had_doubts)
		vublk_log_limited(session->owner->log, session->owner->limit, VUBLK_LOG_INFO,
				  "the front-end resumes the disk without having read its "
				  "configuration, so every write is made durable until the "
				  "front-end reads the configuration or sets the write cache "
				  "(wce)");
}

static void fill_disk(const struct vublk_session *session, struct vublk_disk *disk)
{
	const struct vublk_engine_geometry *geometry = &session->owner->engine->geometry;

	*disk = (struct vublk_disk){
		.capacity_sectors = geometry->size_bytes / VUBLK_SECTOR_BYTES,
		.features = session->features,
		.read_only = geometry->read_only,
		/*
		 * virtio 1.3, section 5.2.5: a driver without FLUSH relies on every write being
		 * stable.
		 */
		.write_through = !session->write_cache ||
				 vublk_session_doubts_write_cache(session) ||
				 !(session->features & VUBLK_BIT(VIRTIO_BLK_F_FLUSH)),
	};
	memcpy(disk->serial, session->owner->serial, sizeof(disk->serial));
}

/*
 * Records why a queue could not start. The first reason becomes the operation's result. The queue
 * does not start before the front-end sends another kick descriptor.
 */
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
 * Returns whether a queue whose start failed waits for the region that contains its ring. A VMM
 * whose memory map changes sends one message per region that it removes or adds, so a ring may be
 * in no region between two messages. Only a message about the queue itself fails if its ring is in
 * no region.
 */
static bool waits_for_memory(const struct vublk_session *session, struct vublk_queue *queue,
			     int result, const struct vublk_error *error)
{
	if (result != -EFAULT || queue == session->concerned)
		return false;
	vublk_log_limited(session->owner->log, session->owner->limit, VUBLK_LOG_INFO,
			  "%s; the queue waits for that memory", error->text);
	return true;
}

/*
 * Warns if seg_max is too high for the ring. Without indirect descriptors a request can have no
 * more segments than its ring has entries. Linux does not check this limit, and waits forever to
 * send a request that is too long. The driver read seg_max before the size of the ring was known,
 * so the back-end can only warn.
 */
static void check_seg_max(struct vublk_session *session, const struct vublk_queue *queue)
{
	unsigned size = queue->setup.size, overhead = VUBLK_BACKEND_CHAIN_OVERHEAD;

	if (session->warned_of_seg_max || session->owner->seg_max + overhead <= size ||
	    session->features & VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC))
		return;
	session->warned_of_seg_max = true;
	vublk_log_limited(session->owner->log, session->owner->limit, VUBLK_LOG_WARNING,
			  "queue %u has %u entries and no indirect descriptors, so the requests of "
			  "%u segments that this disk allows do not fit, and a Linux guest that "
			  "sends one hangs; use larger queues, or serve the disk with -o "
			  "seg-max=%u", queue->index, size, session->owner->seg_max,
			  size > overhead ? size - overhead : 1);
}

/*
 * Returns whether the front-end shares no memory. While a VMM replaces its memory map, that is
 * normal, and the queue waits for the new map. But a VMM sends a map before it sets up a queue. So
 * this function warns once if the current message is about this queue.
 */
static bool has_no_memory(struct vublk_session *session, const struct vublk_queue *queue)
{
	if (session->memory.map.num_regions)
		return false;
	if (queue == session->concerned && !session->said_no_memory)
		vublk_log_limited(session->owner->log, session->owner->limit, VUBLK_LOG_WARNING,
				  "queue %u cannot start: " VUBLK_VU_NO_MEMORY "%s",
				  queue->index, VUBLK_VU_SHARE_IT);
	session->said_no_memory |= queue == session->concerned;
	return true;
}

void vublk_session_start_queues(struct vublk_session *session)
{
	const struct vublk_queue_resources resources = {
		&session->memory.map, &session->inflight, &session->dirty_log.dirty,
		&session->fault, session->server.channel.fd, session->owner->limit,
	};
	struct vublk_error error = { 0 };
	struct vublk_disk disk;
	int r;

	if (session->operation->is_message)
		note_resumption(session);
	fill_disk(session, &disk);
	for (unsigned i = 0; i < session->num_used; i++) {
		struct vublk_queue *queue = &session->queues[i];

		if (vublk_session_runs(queue) || !vublk_queue_wants_to_run(queue) ||
		    has_no_memory(session, queue))
			continue;
		check_seg_max(session, queue);
		r = vublk_queue_start(queue, &disk, &resources, &error);
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
	/*
	 * Changes of the config are not reported while no ring is started. A ring has now been
	 * started, so pending changes are reported.
	 */
	if (queue->state == VUBLK_QUEUE_RUNNING && session->operation->is_message) {
		vublk_back_channel_set_suspended(&session->server.back_channel, false);
		vublk_back_channel_remind(&session->server.back_channel);
	}
	if (queue->result)
		start_failed(session, queue, queue->result, &queue->error);
	if (!session->waiting)
		vublk_vu_server_run(&session->server);
}
