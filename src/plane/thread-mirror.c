/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The calls with which the owner of a plane controls the plane's mirror; see thread.h and mirror.h.
 */
#include "plane/thread-private.h"

/* --- the plane's thread ---------------------------------------------------------- */

static void on_target(void *opaque, uint32_t events)
{
	struct vublk_plane_thread_queue *queue = opaque;

	vublk_plane_thread_notified(&queue->target_source, events);
}

static void on_synced(void *opaque, uint32_t events)
{
	struct vublk_plane_thread *thread = opaque;

	vublk_plane_thread_notified(&thread->marks_source, events);
}

/* The end of a sync wakes the thread, and the next round takes the result. */
static int watch_marks(struct vublk_plane_thread *thread, struct vublk_mirror_state *state,
		       struct vublk_error *error)
{
	thread->marks_source.fn = on_synced;
	thread->marks_source.opaque = thread;
	return vublk_plane_thread_watch(thread, &thread->marks_source,
					state ? vublk_mirror_state_fd(state) : -1, error);
}

static int do_end(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	for (unsigned i = 0; i < thread->num_queues; i++)
		vublk_loop_remove(&thread->queues[i].target_source);
	vublk_loop_remove(&thread->marks_source);
	vublk_plane_mirror_end(&thread->plane);
	vublk_plane_mirror_close(&thread->plane);
	vublk_plane_publish(&thread->plane);
	return 0;
}

static int do_begin(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	int r = vublk_plane_mirror_begin(&thread->plane, call->mirror, call->error);

	for (unsigned i = 0; i < thread->num_queues && !r; i++) {
		struct vublk_plane_thread_queue *queue = &thread->queues[i];

		queue->target_source.fn = on_target;
		queue->target_source.opaque = queue;
		r = vublk_plane_thread_watch(thread, &queue->target_source,
					     call->mirror->target->queues[i].call_fd, call->error);
		if (r < 0)
			do_end(thread, call);
	}
	if (r < 0)
		return r;
	r = watch_marks(thread, call->mirror->state, call->error);
	if (r < 0)
		do_end(thread, call);
	return r;
}

static int do_record(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	int r = vublk_plane_mirror_record(&thread->plane, call->mirror_state, call->error);

	if (r < 0)
		return r;
	r = watch_marks(thread, call->mirror_state, call->error);
	if (r < 0)
		do_end(thread, call);
	return r;
}

static int do_release(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	vublk_plane_mirror_release(&thread->plane);
	return 0;
}

static int do_set_rate(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	vublk_plane_mirror_set_rate(&thread->plane, call->bytes);
	return 0;
}

static int do_get(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	vublk_plane_mirror_get_info(&thread->plane, call->mirror_info);
	return 0;
}

static int do_catch_up(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	vublk_plane_mirror_catch_up(&thread->plane, true);
	vublk_plane_stop(&thread->plane);
	thread->drains = true;
	return 0;
}

static int do_note_loss(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	vublk_plane_mirror_note_loss(&thread->plane);
	return 0;
}

/* --- the owner's calls ------------------------------------------------------------- */

int vublk_plane_thread_begin_mirror(struct vublk_plane_thread *thread,
				    const struct vublk_plane_mirror_setup *setup,
				    struct vublk_error *error)
{
	struct vublk_plane_thread_call call = { .mirror = setup, .error = error };
	int r;

	thread->target = setup->target; /* set first, because unblock() needs it if a kick blocks */
	thread->has_marks |= setup->state != NULL;
	r = vublk_plane_thread_execute(thread, &call, do_begin);
	if (r < 0)
		thread->target = NULL;
	return r;
}

void vublk_plane_thread_end_mirror(struct vublk_plane_thread *thread)
{
	struct vublk_plane_thread_call call = { 0 };

	if (!thread->target && !thread->has_marks)
		return;
	vublk_plane_thread_execute(thread, &call, do_end);
	vublk_loop_cancel(thread->owner, &thread->mirror_failed_task);
	vublk_loop_cancel(thread->owner, &thread->mirror_synced_task);
	thread->target = NULL;
}

int vublk_plane_thread_record_for_mirror(struct vublk_plane_thread *thread,
					 struct vublk_mirror_state *state, struct vublk_error *error)
{
	struct vublk_plane_thread_call call = { .mirror_state = state, .error = error };

	thread->has_marks = true;
	return vublk_plane_thread_execute(thread, &call, do_record);
}

void vublk_plane_thread_release_writes(struct vublk_plane_thread *thread)
{
	struct vublk_plane_thread_call call = { 0 };

	if (!thread->has_marks)
		return;
	vublk_plane_thread_execute(thread, &call, do_release);
	thread->has_marks = false;
}

void vublk_plane_thread_set_mirror_rate(struct vublk_plane_thread *thread, uint64_t rate)
{
	struct vublk_plane_thread_call call = { .bytes = rate };

	vublk_plane_thread_execute(thread, &call, do_set_rate);
}

void vublk_plane_thread_get_mirror(struct vublk_plane_thread *thread,
				   struct vublk_plane_mirror_info *info)
{
	struct vublk_plane_thread_call call = { .mirror_info = info };

	vublk_plane_thread_execute(thread, &call, do_get);
}

void vublk_plane_thread_catch_up(struct vublk_plane_thread *thread)
{
	struct vublk_plane_thread_call call = { 0 };

	vublk_plane_thread_execute(thread, &call, do_catch_up);
}

void vublk_plane_thread_note_loss(struct vublk_plane_thread *thread)
{
	struct vublk_plane_thread_call call = { 0 };

	vublk_plane_thread_execute(thread, &call, do_note_loss);
}
