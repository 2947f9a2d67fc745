/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Calls that other threads make on the in-process bus. What they do is in
 * inproc-driver.c.
 *
 * The idea to read it by: a caller puts a call into bus->call and waits; the
 * bus's thread runs it. A call that the device ends later names the callback that
 * it waits for; that callback, or the end of the connection, finishes it. One
 * call at a time, so there is never a question whose end an end is.
 */
#include "inproc/private.h"

#include "util/error.h"

#include <errno.h>

bool vublk_inproc_is_own_thread(const struct vublk_inproc *bus)
{
	return bus->has_thread && pthread_equal(pthread_self(), bus->thread);
}

int vublk_inproc_make_call(struct vublk_inproc *bus, vublk_inproc_call_fn *fn, void *args,
			   struct vublk_error *error)
{
	struct vublk_inproc_call call = { .fn = fn, .args = args };

	if (vublk_inproc_is_own_thread(bus))
		return vublk_error_set(error, EBUSY,
				       "this call waits for the disk's own thread and cannot be "
				       "made on it: make it from another thread, not from a handler");
	pthread_mutex_lock(&bus->call_lock);
	pthread_mutex_lock(&bus->lock);
	bus->call = &call;
	vublk_loop_post(&bus->loop, &bus->call_task);
	while (!call.finished)
		pthread_cond_wait(&bus->call_finished, &bus->lock);
	bus->call = NULL;
	pthread_mutex_unlock(&bus->lock);
	pthread_mutex_unlock(&bus->call_lock);
	if (call.result < 0 && error)
		*error = call.error;
	return call.result;
}

void vublk_inproc_finish_call(struct vublk_inproc *bus, int result,
			      const struct vublk_error *error)
{
	bus->await = VUBLK_INPROC_AWAIT_NOTHING;
	pthread_mutex_lock(&bus->lock);
	if (bus->call && !bus->call->finished) {
		if (error)
			bus->call->error = *error;
		bus->call->result = result;
		bus->call->finished = true;
		pthread_cond_signal(&bus->call_finished);
	}
	pthread_mutex_unlock(&bus->lock);
}

void vublk_inproc_finish_awaited(struct vublk_inproc *bus, enum vublk_inproc_await await,
				 const struct vublk_error *error)
{
	if (bus->await == await)
		vublk_inproc_finish_call(bus, error ? -error->code : 0, error);
}

void vublk_inproc_on_call(void *opaque)
{
	struct vublk_inproc *bus = opaque;
	struct vublk_error error = { 0 };
	struct vublk_inproc_call *call;
	int r;

	pthread_mutex_lock(&bus->lock);
	call = bus->call;
	pthread_mutex_unlock(&bus->lock);
	r = call->fn(bus, call->args, &error);
	if (r <= 0)
		vublk_inproc_finish_call(bus, r, &error);
}

void vublk_inproc_settled(struct vublk_inproc *bus)
{
	if (bus->await != VUBLK_INPROC_AWAIT_SETTLED)
		return;
	bus->await = VUBLK_INPROC_AWAIT_NOTHING;
	vublk_inproc_on_call(bus);
}
