/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The in-process bus: the thread that owns the device, the calls that other threads
 * make on it, and what the device says. Not the data path: that is in the driver
 * (src/blk), on memory and eventfds that the bus made. What the calls do is in
 * inproc-driver.c.
 *
 * The idea to read it by: a caller puts a call into bus->call and waits; the
 * bus's thread runs it. A call that the device ends later names the callback that
 * it waits for; that callback, or the end of the connection, finishes it. One
 * call at a time, so there is never a question whose end an end is.
 */
#include "bus/inproc-private.h"

#include "util/error.h"
#include "util/fd.h"
#include "util/log.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

/* --- calls from other threads --------------------------------------------------- */

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

/* The bus's thread. `error` NULL: the call has its own already, or none. */
static void finish_call(struct vublk_inproc *bus, int result, const struct vublk_error *error)
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

static int result_of(const struct vublk_error *error)
{
	return error ? -error->code : 0;
}

static void finish_awaited(struct vublk_inproc *bus, enum vublk_inproc_await await,
			   const struct vublk_error *error)
{
	if (bus->await == await)
		finish_call(bus, result_of(error), error);
}

static void on_call(void *opaque)
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
		finish_call(bus, r, &error);
}

/* --- what the device says --------------------------------------------------------- */

static void on_realized(void *opaque, const struct vublk_error *error)
{
	struct vublk_inproc *bus = opaque;

	if (!error) {
		bus->num_queues = vublk_device_num_queues(bus->device);
		bus->queue_size = vublk_device_queue_size(bus->device);
		bus->features = vublk_device_features(bus->device);
		vublk_device_get_info(bus->device, &bus->info, sizeof(bus->info));
	}
	finish_awaited(bus, VUBLK_INPROC_AWAIT_REALIZED, error);
}

/* What the driver made available before the back-end had the rings is announced now. */
static void on_started(void *opaque)
{
	struct vublk_inproc *bus = opaque;

	for (unsigned i = 0; i < bus->num_queues; i++)
		vublk_eventfd_signal(bus->queues[i].kick_fd);
	finish_awaited(bus, VUBLK_INPROC_AWAIT_STARTED, NULL);
}

static void tell_disconnected(struct vublk_inproc *bus, const struct vublk_error *error)
{
	if (bus->handlers.disconnected)
		bus->handlers.disconnected(bus->handlers.opaque, error);
}

/* With an error the device is disconnected, and says so next. */
static void on_stopped(void *opaque, const struct vublk_error *error)
{
	struct vublk_inproc *bus = opaque;

	if (!error && bus->failure.code)
		tell_disconnected(bus, &bus->failure);
	finish_awaited(bus, VUBLK_INPROC_AWAIT_STARTED, error ? error : &bus->failure);
	finish_awaited(bus, VUBLK_INPROC_AWAIT_STOPPED, error);
}

/*
 * A region that was not taken is dropped again. One that was to go has gone, as far
 * as requests are concerned: if the back-end could not be told, it is gone itself.
 */
static void on_memory_changed(void *opaque, const struct vublk_error *error)
{
	struct vublk_inproc *bus = opaque;

	if (bus->await != VUBLK_INPROC_AWAIT_MEMORY)
		return;
	if (!bus->memory.adding)
		error = NULL;
	vublk_inproc_memory_changed(&bus->memory, !error);
	finish_call(bus, result_of(error), error);
}

static void on_config_changed(void *opaque)
{
	struct vublk_inproc *bus = opaque;

	if (bus->handlers.config_changed)
		bus->handlers.config_changed(bus->handlers.opaque);
}

static void on_config_written(void *opaque, const struct vublk_error *error)
{
	if (!error)
		on_config_changed(opaque);
	finish_awaited(opaque, VUBLK_INPROC_AWAIT_CONFIG, error);
}

/* The driver hears of it first, then whoever waits for an answer that will not come. */
static void on_disconnected(void *opaque, const struct vublk_error *error)
{
	struct vublk_inproc *bus = opaque;

	tell_disconnected(bus, bus->failure.code ? &bus->failure : error);
	on_memory_changed(bus, error);
	if (bus->await != VUBLK_INPROC_AWAIT_NOTHING && bus->await != VUBLK_INPROC_AWAIT_REALIZED)
		finish_call(bus, result_of(error), error);
}

/*
 * The rings cannot be gone on with. They are taken back before the driver is told:
 * what it then gives up for lost, the back-end does not touch any more.
 */
static void on_needs_reset(void *opaque, const struct vublk_error *error)
{
	struct vublk_inproc *bus = opaque;

	enum vublk_device_state state = vublk_device_state(bus->device);

	if (bus->failure.code)
		return;
	bus->failure = *error;
	if (state == VUBLK_DEVICE_STARTING || state == VUBLK_DEVICE_RUNNING)
		vublk_device_set_status(bus->device, 0, NULL);
}

static void on_fail_task(void *opaque)
{
	struct vublk_inproc *bus = opaque;
	struct vublk_error error;

	pthread_mutex_lock(&bus->lock);
	error = bus->asked_failure;
	pthread_mutex_unlock(&bus->lock);
	on_needs_reset(bus, &error);
}

void vublk_inproc_fail(struct vublk_inproc *bus, const struct vublk_error *error)
{
	pthread_mutex_lock(&bus->lock);
	if (!bus->asked_failure.code)
		bus->asked_failure = *error;
	pthread_mutex_unlock(&bus->lock);
	vublk_loop_post(&bus->loop, &bus->fail_task);
}

static const struct vublk_device_bus_ops device_ops = {
	.realized = on_realized,
	.started = on_started,
	.stopped = on_stopped,
	.disconnected = on_disconnected,
	.config_changed = on_config_changed,
	.memory_changed = on_memory_changed,
	.config_written = on_config_written,
	.needs_reset = on_needs_reset,
};

/* --- the thread --------------------------------------------------------------------- */

static void on_device(void *opaque, uint32_t events)
{
	struct vublk_inproc *bus = opaque;
	int r = vublk_device_process(bus->device);

	if (r < 0)
		vublk_log(&bus->handlers.log, VUBLK_LOG_ERROR,
			  "the device's event loop failed: %s", strerrordesc_np(-r));
}

static void *run(void *opaque)
{
	struct vublk_inproc *bus = opaque;

	while (!bus->quit)
		vublk_loop_process(&bus->loop, -1);
	return NULL;
}

/* The application's signals are its own threads' business. */
static int start_thread(struct vublk_inproc *bus, struct vublk_error *error)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&bus->thread, NULL, run, bus);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r)
		return vublk_error_set_errno(error, r, "cannot create the disk's thread");
	bus->has_thread = true;
	pthread_setname_np(bus->thread, "vublk-disk");
	return 0;
}

static int do_quit(struct vublk_inproc *bus, void *args, struct vublk_error *error)
{
	vublk_loop_remove(&bus->device_source);
	vublk_device_unrealize(bus->device);
	bus->quit = true;
	return 0;
}

/* --- opening and freeing -------------------------------------------------------------- */

static int do_realize(struct vublk_inproc *bus, void *args, struct vublk_error *error)
{
	int r;

	bus->await = VUBLK_INPROC_AWAIT_REALIZED;
	r = vublk_device_realize(bus->device, error);
	return r ? r : 1;
}

static int set_properties(struct vublk_inproc *bus, const char *path,
			  const struct vublk_option *options, struct vublk_error *error)
{
	int r = vublk_device_set_property(bus->device, "chardev", path, error);

	for (; !r && options && options->name; options++) {
		if (!strcmp(options->name, "chardev"))
			return vublk_error_set(error, EINVAL,
					       "chardev is no option here: the path names the socket");
		/* A request that failed with the connection must not be executed after that. */
		if (!strcmp(options->name, "reconnect-ms"))
			return vublk_error_set(error, EINVAL,
					       "reconnect-ms is not for the block API, which fails "
					       "what was in flight: open the disk anew");
		r = vublk_device_set_property(bus->device, options->name, options->value, error);
	}
	return r;
}

static int open_device(struct vublk_inproc *bus, const char *path,
		       const struct vublk_option *options, struct vublk_error *error)
{
	int r;

	r = vublk_device_new(&device_ops, bus, &bus->handlers.log, &bus->device, error);
	if (!r)
		r = set_properties(bus, path, options, error);
	if (!r)
		r = vublk_loop_add(&bus->loop, &bus->device_source,
				   vublk_device_fd(bus->device), EPOLLIN, error);
	if (!r)
		r = start_thread(bus, error);
	return r ? r : vublk_inproc_make_call(bus, do_realize, NULL, error);
}

int vublk_inproc_open(const char *path, const struct vublk_option *options,
		      const struct vublk_inproc_handlers *handlers, struct vublk_inproc **out,
		      struct vublk_error *error)
{
	struct vublk_inproc *bus = calloc(1, sizeof(*bus));
	int r;

	if (!bus)
		return vublk_error_set(error, ENOMEM, "no memory for a disk");
	r = vublk_loop_init(&bus->loop, error);
	if (r) {
		free(bus);
		return r;
	}
	bus->handlers = *handlers;
	bus->device_source.fn = on_device;
	bus->device_source.opaque = bus;
	bus->call_task.fn = on_call;
	bus->call_task.opaque = bus;
	bus->fail_task.fn = on_fail_task;
	bus->fail_task.opaque = bus;
	vublk_inproc_memory_init(&bus->memory);
	pthread_mutex_init(&bus->call_lock, NULL);
	pthread_mutex_init(&bus->lock, NULL);
	pthread_cond_init(&bus->call_finished, NULL);
	r = open_device(bus, path, options, error);
	if (r) {
		vublk_inproc_free(bus);
		return r;
	}
	*out = bus;
	return 0;
}

void vublk_inproc_free(struct vublk_inproc *bus)
{
	if (!bus)
		return;
	if (bus->has_thread) {
		vublk_inproc_make_call(bus, do_quit, NULL, NULL);
		pthread_join(bus->thread, NULL);
	}
	vublk_loop_remove(&bus->device_source);
	vublk_loop_cancel(&bus->loop, &bus->fail_task);
	vublk_device_free(bus->device);
	for (unsigned i = 0; bus->queues && i < bus->num_queues; i++) {
		vublk_fd_close(&bus->queues[i].kick_fd);
		vublk_fd_close(&bus->queues[i].call_fd);
	}
	free(bus->queues);
	vublk_inproc_memory_deinit(&bus->memory);
	vublk_loop_deinit(&bus->loop);
	pthread_cond_destroy(&bus->call_finished);
	pthread_mutex_destroy(&bus->lock);
	pthread_mutex_destroy(&bus->call_lock);
	free(bus);
}

unsigned vublk_inproc_num_queues(const struct vublk_inproc *bus)
{
	return bus->num_queues;
}

unsigned vublk_inproc_queue_size(const struct vublk_inproc *bus)
{
	return bus->queue_size;
}

uint64_t vublk_inproc_features(const struct vublk_inproc *bus)
{
	return bus->features;
}

const struct vublk_device_info *vublk_inproc_info(const struct vublk_inproc *bus)
{
	return &bus->info;
}

const struct vublk_inproc_queue *vublk_inproc_queue(const struct vublk_inproc *bus, unsigned index)
{
	return &bus->queues[index];
}

const struct vublk_inproc_regions *vublk_inproc_regions(const struct vublk_inproc *bus)
{
	return &bus->memory.table;
}
