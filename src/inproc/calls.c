/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs the calls of other threads on the bus's thread, and returns their results. The calls
 * themselves are in driver.c.
 *
 * Key idea: calls wait in a list, and the bus's thread runs them one after another. A call that
 * cannot end immediately sets inproc->await to the event of the device that it needs. This event,
 * or the loss of the back-end, ends the call or, with AWAIT_SETTLED, runs it again. Only one call
 * runs at a time, so an event always belongs to the current call. If the caller waits, the call's
 * function ended() wakes it.
 */
#include "inproc/private.h"

#include "util/error.h"

#include <errno.h>
#include <stddef.h>

bool vublk_inproc_is_own_thread(const struct vublk_inproc *inproc)
{
	return inproc->has_thread && pthread_equal(pthread_self(), inproc->thread);
}

int vublk_inproc_check_wait(const struct vublk_inproc *inproc, struct vublk_error *error)
{
	if (!vublk_inproc_is_own_thread(inproc))
		return 0;
	return vublk_error_set(error, EBUSY,
			       "this call waits for the disk's own thread and cannot be made from "
			       "it; make it from another thread, not from a handler");
}

void vublk_inproc_calls_init(struct vublk_inproc *inproc)
{
	pthread_mutex_init(&inproc->lock, NULL);
	pthread_cond_init(&inproc->call_ended, NULL);
	inproc->calls_end = &inproc->calls;
	inproc->call_task.fn = vublk_inproc_on_call;
	inproc->call_task.opaque = inproc;
}

void vublk_inproc_begin_call(struct vublk_inproc *inproc, struct vublk_inproc_call *call,
			     bool ahead, vublk_inproc_call_fn *fn, void *args)
{
	struct vublk_inproc_call **link;

	call->fn = fn;
	call->args = args;
	call->canceled = false;
	pthread_mutex_lock(&inproc->lock);
	link = ahead ? &inproc->calls : inproc->calls_end;
	call->next = *link;
	*link = call;
	if (!call->next)
		inproc->calls_end = &call->next;
	pthread_mutex_unlock(&inproc->lock);
	vublk_loop_post(&inproc->loop, &inproc->call_task);
}

void vublk_inproc_cancel(struct vublk_inproc *inproc, struct vublk_inproc_call *call)
{
	pthread_mutex_lock(&inproc->lock);
	call->canceled = true;
	pthread_mutex_unlock(&inproc->lock);
}

/* --- calls that wait --------------------------------------------------------------- */

struct waiting_call {
	struct vublk_inproc_call call;
	struct vublk_inproc *inproc;
	bool ended; /* protected by inproc->lock, as are result and error */
	int result;
	struct vublk_error error;
};

/*
 * Wakes a caller that waits. The caller may return as soon as the lock is free, and `call` then no
 * longer exists, because it is on the caller's stack.
 */
static void wake_caller(struct vublk_inproc_call *call, int result,
			const struct vublk_error *error)
{
	struct waiting_call *waiting = (struct waiting_call *)call;
	struct vublk_inproc *inproc = waiting->inproc;

	pthread_mutex_lock(&inproc->lock);
	if (result < 0)
		waiting->error = *error;
	waiting->result = result;
	waiting->ended = true;
	pthread_cond_broadcast(&inproc->call_ended);
	pthread_mutex_unlock(&inproc->lock);
}

int vublk_inproc_make_call(struct vublk_inproc *inproc, vublk_inproc_call_fn *fn, void *args,
			   struct vublk_error *error)
{
	struct waiting_call waiting = { .call = { .ended = wake_caller }, .inproc = inproc };
	int r = vublk_inproc_check_wait(inproc, error);

	if (r)
		return r;
	vublk_inproc_begin_call(inproc, &waiting.call, false, fn, args);
	pthread_mutex_lock(&inproc->lock);
	while (!waiting.ended)
		pthread_cond_wait(&inproc->call_ended, &inproc->lock);
	pthread_mutex_unlock(&inproc->lock);
	if (waiting.result < 0 && error)
		*error = waiting.error;
	return waiting.result;
}

/* --- on the bus's thread -------------------------------------------------------------- */

/*
 * Ends the current call. Posts a task for the next call instead of running it, because the device
 * may be in the middle of an event.
 */
void vublk_inproc_finish_call(struct vublk_inproc *inproc, int result,
			      const struct vublk_error *error)
{
	struct vublk_inproc_call *call = inproc->call;

	inproc->await = VUBLK_INPROC_AWAIT_NOTHING;
	if (!call)
		return;
	inproc->call = NULL;
	vublk_loop_post(&inproc->loop, &inproc->call_task);
	call->ended(call, result, error);
}

void vublk_inproc_finish_awaited(struct vublk_inproc *inproc, enum vublk_inproc_await await,
				 const struct vublk_error *error)
{
	if (inproc->await == await)
		vublk_inproc_finish_call(inproc, error ? -error->code : 0, error);
}

static void run(struct vublk_inproc *inproc)
{
	struct vublk_error error = { 0 };
	int r = inproc->call->fn(inproc, inproc->call->args, &error);

	if (r <= 0)
		vublk_inproc_finish_call(inproc, r, &error);
}

static struct vublk_inproc_call *take_first(struct vublk_inproc *inproc, bool *canceled)
{
	struct vublk_inproc_call *call;

	pthread_mutex_lock(&inproc->lock);
	call = inproc->calls;
	if (call) {
		*canceled = call->canceled;
		inproc->calls = call->next;
		if (!inproc->calls)
			inproc->calls_end = &inproc->calls;
	}
	pthread_mutex_unlock(&inproc->lock);
	return call;
}

void vublk_inproc_on_call(void *opaque)
{
	struct vublk_inproc *inproc = opaque;
	struct vublk_error error;
	bool canceled = false;

	if (inproc->call)
		return; /* the end of that call posts this task again */
	inproc->call = take_first(inproc, &canceled);
	if (!inproc->call)
		return;
	if (!canceled) {
		run(inproc);
		return;
	}
	vublk_error_set(&error, ECANCELED, "the call was canceled before it started");
	vublk_inproc_finish_call(inproc, -ECANCELED, &error);
}

void vublk_inproc_settled(struct vublk_inproc *inproc)
{
	if (inproc->await != VUBLK_INPROC_AWAIT_SETTLED)
		return;
	inproc->await = VUBLK_INPROC_AWAIT_NOTHING;
	run(inproc);
}
