/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file gets calls from other threads onto the bus's thread, and their results back. What the
 * calls do is in driver.c.
 *
 * Key idea: a caller stores a call in inproc->call and waits; the bus's thread runs it. A call
 * that cannot end immediately sets inproc->await to the event of the device that ends it. That
 * event, or the loss of the back-end, finishes the call. There is one call at a time, so an
 * event always belongs to the present call.
 */
#include "inproc/private.h"

#include "util/error.h"

#include <errno.h>

bool vublk_inproc_is_own_thread(const struct vublk_inproc *inproc)
{
	return inproc->has_thread && pthread_equal(pthread_self(), inproc->thread);
}

int vublk_inproc_make_call(struct vublk_inproc *inproc, vublk_inproc_call_fn *fn, void *args,
			   struct vublk_error *error)
{
	struct vublk_inproc_call call = { .fn = fn, .args = args };

	if (vublk_inproc_is_own_thread(inproc))
		return vublk_error_set(error, EBUSY,
				       "this call waits for the disk's own thread and cannot be "
				       "made on it: make it from another thread, not from a handler");
	pthread_mutex_lock(&inproc->call_lock);
	pthread_mutex_lock(&inproc->lock);
	inproc->call = &call;
	vublk_loop_post(&inproc->loop, &inproc->call_task);
	while (!call.finished)
		pthread_cond_wait(&inproc->call_finished, &inproc->lock);
	inproc->call = NULL;
	pthread_mutex_unlock(&inproc->lock);
	pthread_mutex_unlock(&inproc->call_lock);
	if (call.result < 0 && error)
		*error = call.error;
	return call.result;
}

void vublk_inproc_finish_call(struct vublk_inproc *inproc, int result,
			      const struct vublk_error *error)
{
	inproc->await = VUBLK_INPROC_AWAIT_NOTHING;
	pthread_mutex_lock(&inproc->lock);
	if (inproc->call && !inproc->call->finished) {
		if (error)
			inproc->call->error = *error;
		inproc->call->result = result;
		inproc->call->finished = true;
		pthread_cond_signal(&inproc->call_finished);
	}
	pthread_mutex_unlock(&inproc->lock);
}

void vublk_inproc_finish_awaited(struct vublk_inproc *inproc, enum vublk_inproc_await await,
				 const struct vublk_error *error)
{
	if (inproc->await == await)
		vublk_inproc_finish_call(inproc, error ? -error->code : 0, error);
}

void vublk_inproc_on_call(void *opaque)
{
	struct vublk_inproc *inproc = opaque;
	struct vublk_error error = { 0 };
	struct vublk_inproc_call *call;
	int r;

	pthread_mutex_lock(&inproc->lock);
	call = inproc->call;
	pthread_mutex_unlock(&inproc->lock);
	r = call->fn(inproc, call->args, &error);
	if (r <= 0)
		vublk_inproc_finish_call(inproc, r, &error);
}

void vublk_inproc_settled(struct vublk_inproc *inproc)
{
	if (inproc->await != VUBLK_INPROC_AWAIT_SETTLED)
		return;
	inproc->await = VUBLK_INPROC_AWAIT_NOTHING;
	vublk_inproc_on_call(inproc);
}
