/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The core of the in-process bus: its thread, its options, and the callbacks of the device.
 * Requests do not pass through here, because the driver (src/blk) uses the bus's memory and
 * eventfds directly.
 *
 * Key idea: one thread owns the device. calls.c runs the driver's calls on that thread, driver.c
 * implements them, and outage.c handles the loss of a back-end.
 */
#include "inproc/private.h"

#include "device/defaults.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/log.h"
#include "util/option.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

/* --- callbacks of the device ------------------------------------------------------ */

static int result_of(const struct vublk_error *error)
{
	return error ? -error->code : 0;
}

static void on_realized(void *opaque, const struct vublk_error *error)
{
	struct vublk_inproc *inproc = opaque;

	if (!error) {
		inproc->num_queues = vublk_device_num_queues(inproc->device);
		inproc->queue_size = vublk_device_queue_size(inproc->device);
		inproc->features = vublk_device_features(inproc->device);
		vublk_device_get_info(inproc->device, &inproc->info, sizeof(inproc->info));
	}
	inproc->handlers.realized(inproc->handlers.opaque, error);
}

/*
 * Called when a start has ended. Reports the start that the driver requested, but no start that the
 * bus itself requested, for example in an outage.
 */
static void end_start(struct vublk_inproc *inproc, const struct vublk_error *error)
{
	if (inproc->await != VUBLK_INPROC_AWAIT_STARTED)
		return;
	inproc->await = VUBLK_INPROC_AWAIT_NOTHING;
	inproc->handlers.started(inproc->handlers.opaque, error);
}

static void on_started(void *opaque)
{
	struct vublk_inproc *inproc = opaque;

	vublk_inproc_on_started(inproc);
	vublk_inproc_watch_kicks(inproc);
	vublk_inproc_watch_deadline(inproc);
	end_start(inproc, NULL);
	vublk_inproc_settled(inproc);
}

/* Called when the rings have stopped. If there is an error, the device calls lost() next. */
static void on_stopped(void *opaque, const struct vublk_error *error)
{
	struct vublk_inproc *inproc = opaque;

	if (!error && inproc->failure.code)
		vublk_inproc_end(inproc, &inproc->failure);
	else if (!error && inproc->await != VUBLK_INPROC_AWAIT_STOPPED &&
		 vublk_inproc_restart_expired(inproc))
		return; /* a call that waited for the stop now waits for the new start */
	end_start(inproc, error ? error : &inproc->failure);
	vublk_inproc_finish_awaited(inproc, VUBLK_INPROC_AWAIT_STOPPED, error);
	if (!error)
		vublk_inproc_settled(inproc);
}

/*
 * Called when the device has changed the memory or failed to, and when the back-end is lost. If the
 * back-end refused an added region, the region is dropped again. A removal always succeeds, because
 * a back-end that could not be told is lost. If requests wait for the next back-end, adding a
 * region always succeeds, because that back-end gets all regions.
 */
static void on_memory_changed(void *opaque, const struct vublk_error *error)
{
	struct vublk_inproc *inproc = opaque;

	if (inproc->await != VUBLK_INPROC_AWAIT_MEMORY)
		return;
	if (!inproc->memory.adding || (vublk_device_state(inproc->device) != VUBLK_DEVICE_RUNNING &&
				    vublk_inproc_keeps_requests(inproc)))
		error = NULL;
	vublk_inproc_memory_changed(&inproc->memory, !error);
	vublk_inproc_finish_call(inproc, result_of(error), error);
}

static void on_config_changed(void *opaque)
{
	struct vublk_inproc *inproc = opaque;

	if (inproc->handlers.config_changed)
		inproc->handlers.config_changed(inproc->handlers.opaque);
}

static void on_config_written(void *opaque, const struct vublk_error *error)
{
	if (!error)
		on_config_changed(opaque);
	vublk_inproc_finish_awaited(opaque, VUBLK_INPROC_AWAIT_CONFIG, error);
}

/*
 * Called when the back-end is lost. First tells the driver. Then, if the current call waits for an
 * event, ends it, or runs it again if it waited for the end of a start or stop.
 */
static void on_lost(void *opaque, const struct vublk_error *error)
{
	struct vublk_inproc *inproc = opaque;

	vublk_inproc_on_lost(inproc, error);
	on_memory_changed(inproc, error);
	if (inproc->await == VUBLK_INPROC_AWAIT_SETTLED)
		vublk_inproc_settled(inproc);
	else if (inproc->await == VUBLK_INPROC_AWAIT_STARTED)
		end_start(inproc, error);
	else if (inproc->await != VUBLK_INPROC_AWAIT_NOTHING)
		vublk_inproc_finish_call(inproc, result_of(error), error);
}

static void on_gave_up(void *opaque, const struct vublk_error *error)
{
	vublk_inproc_end(opaque, error);
}

static void on_needs_reset(void *opaque, const struct vublk_error *error)
{
	struct vublk_inproc *inproc = opaque;

	vublk_inproc_on_needs_reset(inproc, error);
	if (inproc->link == VUBLK_INPROC_DEAD)
		end_start(inproc, error);
}

static void on_fail_task(void *opaque)
{
	struct vublk_inproc *inproc = opaque;
	struct vublk_error error;

	pthread_mutex_lock(&inproc->lock);
	error = inproc->asked_failure;
	pthread_mutex_unlock(&inproc->lock);
	vublk_inproc_on_broken_ring(inproc, &error);
}

void vublk_inproc_fail(struct vublk_inproc *inproc, const struct vublk_error *error)
{
	pthread_mutex_lock(&inproc->lock);
	if (!inproc->asked_failure.code)
		inproc->asked_failure = *error;
	pthread_mutex_unlock(&inproc->lock);
	vublk_loop_post(&inproc->loop, &inproc->fail_task);
}

static const struct vublk_device_bus_ops device_ops = {
	.realized = on_realized,
	.started = on_started,
	.stopped = on_stopped,
	.lost = on_lost,
	.gave_up = on_gave_up,
	.config_changed = on_config_changed,
	.memory_changed = on_memory_changed,
	.config_written = on_config_written,
	.needs_reset = on_needs_reset,
};

/* --- the thread --------------------------------------------------------------------- */

static void on_device(void *opaque, uint32_t events)
{
	struct vublk_inproc *inproc = opaque;
	int r = vublk_device_process(inproc->device);

	if (r < 0)
		vublk_log_limited(&inproc->handlers.log, &inproc->limit, VUBLK_LOG_ERROR,
				  "the device's event loop failed: %s", strerrordesc_np(-r));
}

static void *run(void *opaque)
{
	struct vublk_inproc *inproc = opaque;

	while (!inproc->quit)
		vublk_loop_process(&inproc->loop, -1);
	return NULL;
}

/*
 * Starts the bus's thread with signals blocked, so that the application's own threads handle them.
 */
static int start_thread(struct vublk_inproc *inproc, struct vublk_error *error)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	sigdelset(&all, SIGBUS); /* a fault while SIGBUS is blocked ends the process */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&inproc->thread, NULL, run, inproc);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r)
		return vublk_error_set_errno(error, r, "cannot create the disk's thread");
	inproc->has_thread = true;
	pthread_setname_np(inproc->thread, "vublk-disk");
	return 0;
}

static int do_quit(struct vublk_inproc *inproc, void *args, struct vublk_error *error)
{
	vublk_loop_remove(&inproc->device_source);
	vublk_loop_timer_disarm(&inproc->fail_timer);
	vublk_loop_timer_disarm(&inproc->kick_timer);
	vublk_loop_timer_disarm(&inproc->deadline_timer);
	vublk_loop_timer_disarm(&inproc->driver_timer);
	vublk_device_unrealize(inproc->device);
	inproc->quit = true;
	return 0;
}

/* --- opening and freeing -------------------------------------------------------------- */

static const char *const unflushed_words[] = {
	[VUBLK_INPROC_UNFLUSHED_AUTO] = "auto", [VUBLK_INPROC_UNFLUSHED_TRUST] = "trust",
	[VUBLK_INPROC_UNFLUSHED_FAIL] = "fail", [VUBLK_INPROC_UNFLUSHED_REPLAY] = "replay", NULL,
};

static const struct vublk_property own_options[] = {
	{ "fail-after-ms", "number", "0",
	  "after the loss of a back-end, how long requests wait for another one before they fail "
	  "with ETIMEDOUT; 0: no limit" },
	{ "request-deadline-ms", "number", "0",
	  "how long a request may take, over all back-ends, before requests fail with ETIME; a "
	  "back-end that had the request for all that time counts as hung and is disconnected; 0: "
	  "no limit" },
	{ "statistics", "bool", "off", "count requests, bytes, errors and latencies of each queue" },
	{ "fd", "number", NULL,
	  "descriptor of a Unix stream socket that is connected to the back-end, instead of a "
	  "path; the disk then cannot reconnect" },
	{ "unflushed", "choice", "auto",
	  "writes that a lost back-end completed but did not flush: replay (write copies to the next "
	  "back-end), trust (the back-end kept them), fail (the next flush fails), or auto (trust "
	  "with an in-flight area, otherwise fail)", unflushed_words },
	{ NULL },
};

const char *vublk_inproc_default(const char *name)
{
	return !strcmp(name, "reconnect-ms") ? VUBLK_DEVICE_RECONNECT_MS : NULL;
}

const struct vublk_property *vublk_inproc_options(void)
{
	return own_options;
}

static int set_unflushed(struct vublk_inproc *inproc, const char *value, struct vublk_error *error)
{
	unsigned choice;
	int r = vublk_parse_word("unflushed", value, unflushed_words, &choice, error);

	if (!r)
		inproc->unflushed = choice;
	return r;
}

static int set_connection(struct vublk_inproc *inproc, const char *value, struct vublk_error *error)
{
	uint64_t fd;
	int r = vublk_parse_u64("fd", value, 0, INT_MAX, &fd, error);

	if (!r)
		r = vublk_device_lend_connection(inproc->device, (int)fd, error);
	return r;
}

static int set_option(struct vublk_inproc *inproc, const struct vublk_option *option,
		      struct vublk_error *error)
{
	if (!strcmp(option->name, "chardev"))
		return vublk_error_set(error, EINVAL,
				       "chardev is not an option here, because the path argument "
				       "names the socket");
	if (!strcmp(option->name, own_options[0].name))
		return vublk_parse_u64(option->name, option->value, 0, UINT32_MAX,
				       &inproc->fail_after_ms, error);
	if (!strcmp(option->name, "unflushed"))
		return set_unflushed(inproc, option->value, error);
	if (!strcmp(option->name, own_options[1].name))
		return vublk_parse_u64(option->name, option->value, 0, UINT32_MAX,
				       &inproc->request_deadline_ms, error);
	if (!strcmp(option->name, own_options[2].name))
		return vublk_parse_bool(option->name, option->value, &inproc->statistics, error);
	if (!strcmp(option->name, own_options[3].name))
		return set_connection(inproc, option->value, error);
	return vublk_device_set_property(inproc->device, option->name, option->value, error);
}

static const char *find_option(const struct vublk_option *options, const char *name)
{
	for (; options && options->name; options++)
		if (!strcmp(options->name, name))
			return options->value;
	return NULL;
}

/*
 * Returns whether the bus may set its own default of reconnect-ms. With the option server the
 * device waits for back-ends to connect, and with the option fd it cannot reconnect.
 */
static bool may_connect_again(const struct vublk_option *options)
{
	return !find_option(options, "server") && !find_option(options, "fd");
}

static int set_chardev(struct vublk_inproc *inproc, const char *path, const char *fd,
		       struct vublk_error *error)
{
	char name[32];

	if (!path || !*path) {
		if (!fd)
			return vublk_error_set(error, EINVAL, "cannot open a disk without a "
					       "socket; pass the path of a socket, or a connected "
					       "descriptor (option fd)");
		snprintf(name, sizeof(name), "descriptor %s", fd);
		path = name;
	}
	return vublk_device_set_property(inproc->device, "chardev", path, error);
}

/*
 * Prepares for unflushed=replay. There must be no in-flight area, because the next back-end would
 * execute the area's requests before it gets the kept writes.
 */
static int set_replay(struct vublk_inproc *inproc, struct vublk_error *error)
{
	uint64_t mib;
	char value[24];
	int r = vublk_device_set_property(inproc->device, "inflight", "off", error);

	if (!r)
		r = vublk_device_get_property(inproc->device, "replay-mib", value, sizeof(value),
					      error);
	if (!r)
		r = vublk_parse_u64("replay-mib", value, 1, UINT32_MAX, &mib, error);
	if (!r)
		inproc->replay_bytes = mib << 20;
	return r;
}

static int set_properties(struct vublk_inproc *inproc, const char *path,
			  const struct vublk_option *options, struct vublk_error *error)
{
	int r = set_chardev(inproc, path, find_option(options, "fd"), error);

	if (!r) /* the driver warns of lost writes itself, because it knows which were flushed */
		r = vublk_device_set_property(inproc->device, "warn-unflushed", "off", error);
	if (!r && may_connect_again(options))
		r = vublk_device_set_property(inproc->device, "reconnect-ms", VUBLK_DEVICE_RECONNECT_MS,
					      error);
	for (; !r && options && options->name; options++)
		r = set_option(inproc, options, error);
	if (!r && inproc->unflushed == VUBLK_INPROC_UNFLUSHED_REPLAY)
		r = set_replay(inproc, error);
	return r;
}

static int open_device(struct vublk_inproc *inproc, const char *path,
		       const struct vublk_option *options, struct vublk_error *error)
{
	int r;

	r = vublk_device_new(&device_ops, sizeof(device_ops), inproc, &inproc->handlers.log,
			     &inproc->device, error);
	if (!r)
		r = set_properties(inproc, path, options, error);
	if (!r)
		r = vublk_device_get_property(inproc->device, "serial", inproc->serial,
					      sizeof(inproc->serial), error);
	if (!r)
		r = vublk_loop_add(&inproc->loop, &inproc->device_source,
				   vublk_device_fd(inproc->device), EPOLLIN, error);
	if (!r)
		r = vublk_device_realize(inproc->device, error);
	return r ? r : start_thread(inproc, error);
}

int vublk_inproc_open(const char *path, const struct vublk_option *options,
		      const struct vublk_inproc_handlers *handlers, struct vublk_inproc **out,
		      struct vublk_error *error)
{
	struct vublk_inproc *inproc = calloc(1, sizeof(*inproc));
	int r;

	if (!inproc)
		return vublk_error_set(error, ENOMEM, "cannot allocate memory for a disk");
	r = vublk_loop_init(&inproc->loop, error);
	if (r) {
		free(inproc);
		return r;
	}
	inproc->handlers = *handlers;
	inproc->device_source.fn = on_device;
	inproc->device_source.opaque = inproc;
	inproc->fail_task.fn = on_fail_task;
	inproc->fail_task.opaque = inproc;
	inproc->fail_timer.fn = vublk_inproc_on_fail_timer;
	inproc->fail_timer.opaque = inproc;
	inproc->kick_timer.fn = vublk_inproc_on_kick_timer;
	inproc->kick_timer.opaque = inproc;
	inproc->deadline_timer.fn = vublk_inproc_on_deadline_timer;
	inproc->deadline_timer.opaque = inproc;
	inproc->driver_timer.fn = handlers->timer;
	inproc->driver_timer.opaque = handlers->opaque;
	vublk_inproc_memory_init(&inproc->memory);
	vublk_inproc_calls_init(inproc);
	*out = inproc; /* set before the thread starts, because its handlers use it */
	r = open_device(inproc, path, options, error);
	if (r) {
		vublk_inproc_free(inproc);
		*out = NULL;
	}
	return r;
}

void vublk_inproc_free(struct vublk_inproc *inproc)
{
	if (!inproc)
		return;
	if (inproc->has_thread) {
		vublk_inproc_make_call(inproc, do_quit, NULL, NULL);
		pthread_join(inproc->thread, NULL);
	}
	vublk_loop_remove(&inproc->device_source);
	vublk_loop_cancel(&inproc->loop, &inproc->fail_task);
	vublk_loop_cancel(&inproc->loop, &inproc->call_task);
	vublk_device_free(inproc->device);
	for (unsigned i = 0; inproc->queues && i < inproc->num_queues; i++) {
		vublk_fd_close(&inproc->queues[i].kick_fd);
		vublk_fd_close(&inproc->queues[i].call_fd);
	}
	free(inproc->queues);
	vublk_inproc_memory_deinit(&inproc->memory);
	vublk_loop_deinit(&inproc->loop);
	pthread_cond_destroy(&inproc->call_ended);
	pthread_mutex_destroy(&inproc->lock);
	free(inproc);
}

bool vublk_inproc_wants_statistics(const struct vublk_inproc *inproc)
{
	return inproc->statistics;
}

unsigned vublk_inproc_num_queues(const struct vublk_inproc *inproc)
{
	return inproc->num_queues;
}

unsigned vublk_inproc_queue_size(const struct vublk_inproc *inproc)
{
	return inproc->queue_size;
}

uint64_t vublk_inproc_features(const struct vublk_inproc *inproc)
{
	return inproc->features;
}

const struct vublk_device_info *vublk_inproc_info(const struct vublk_inproc *inproc)
{
	return &inproc->info;
}

const char *vublk_inproc_serial(const struct vublk_inproc *inproc)
{
	return inproc->serial;
}

bool vublk_inproc_trusts_unflushed(const struct vublk_inproc *inproc)
{
	return inproc->unflushed == VUBLK_INPROC_UNFLUSHED_TRUST || inproc->replay_bytes ||
	       (inproc->unflushed == VUBLK_INPROC_UNFLUSHED_AUTO &&
		vublk_device_is_tracked(inproc->device));
}

uint64_t vublk_inproc_replay_bytes(const struct vublk_inproc *inproc)
{
	return inproc->replay_bytes;
}

void vublk_inproc_set_timer(struct vublk_inproc *inproc, uint64_t delay_ns)
{
	vublk_loop_timer_arm(&inproc->loop, &inproc->driver_timer, vublk_now_ns() + delay_ns);
}

const struct vublk_inproc_queue *vublk_inproc_queue(const struct vublk_inproc *inproc, unsigned index)
{
	return &inproc->queues[index];
}

const struct vublk_inproc_regions *vublk_inproc_regions(const struct vublk_inproc *inproc)
{
	return &inproc->memory.table;
}
