/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The in-process bus: the thread that owns the device, and the calls that other
 * threads make on it. Not the data path: that is in the driver (src/blk), on
 * memory and eventfds that the bus made.
 *
 * The idea to read it by: a caller puts a call into bus->call and waits; the
 * bus's thread runs it. A call that the device ends later names the callback that
 * it waits for; that callback, or the end of the connection, finishes it. One
 * call at a time, so there is never a question whose end an end is.
 *
 * The driver's part of the start-up is virtio 1.3, section 3.1.1.
 */
#include "bus/inproc.h"

#include "bus/inproc-memory.h"
#include "util/atomic.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/log.h"
#include "util/loop.h"
#include "virtio/blk-format.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

/* The end that a call waits for. */
enum await {
	AWAIT_NOTHING,
	AWAIT_REALIZED,
	AWAIT_STARTED,
	AWAIT_STOPPED,
	AWAIT_MEMORY,
	AWAIT_CONFIG,
};

struct call {
	/* 0: done; 1: the device ends it, see bus->await; else a negative errno. */
	int (*fn)(struct vublk_inproc *bus, void *args, struct vublk_error *error);
	void *args;
	bool finished; /* under bus->lock, like the rest */
	int result;
	struct vublk_error error;
};

struct vublk_inproc {
	/* constant after open, the queues after set_up */
	struct vublk_inproc_handlers handlers;
	pthread_t thread;
	bool has_thread;
	unsigned num_queues;
	unsigned queue_size;
	uint64_t features;
	struct vublk_device_info info;
	struct vublk_inproc_queue *queues;

	/* the bus's thread */
	struct vublk_loop loop;
	struct vublk_loop_source device_source;
	struct vublk_device *device;
	enum await await;
	bool quit;
	struct vublk_error failure; /* why the rings are being taken back; code 0: they are not */
	struct vublk_inproc_memory memory; /* its table of regions: read by any thread */

	/* held by a caller for the whole of its call */
	pthread_mutex_t call_lock;
	struct vublk_loop_task call_task;

	/* under lock */
	pthread_mutex_t lock;
	pthread_cond_t call_finished;
	struct call *call;
	struct vublk_error asked_failure; /* what vublk_inproc_fail() says */
	struct vublk_loop_task fail_task; /* posted with it */
};

/* --- calls from other threads --------------------------------------------------- */

bool vublk_inproc_is_own_thread(const struct vublk_inproc *bus)
{
	return bus->has_thread && pthread_equal(pthread_self(), bus->thread);
}

static int make_call(struct vublk_inproc *bus,
		     int (*fn)(struct vublk_inproc *, void *, struct vublk_error *), void *args,
		     struct vublk_error *error)
{
	struct call call = { .fn = fn, .args = args };

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
	bus->await = AWAIT_NOTHING;
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

static void finish_awaited(struct vublk_inproc *bus, enum await await,
			   const struct vublk_error *error)
{
	if (bus->await == await)
		finish_call(bus, result_of(error), error);
}

static void on_call(void *opaque)
{
	struct vublk_inproc *bus = opaque;
	struct vublk_error error = { 0 };
	struct call *call;
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
	finish_awaited(bus, AWAIT_REALIZED, error);
}

/* What the driver made available before the back-end had the rings is announced now. */
static void on_started(void *opaque)
{
	struct vublk_inproc *bus = opaque;

	for (unsigned i = 0; i < bus->num_queues; i++)
		vublk_eventfd_signal(bus->queues[i].kick_fd);
	finish_awaited(bus, AWAIT_STARTED, NULL);
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

	if (error)
		finish_awaited(bus, AWAIT_STARTED, error);
	else if (bus->failure.code)
		tell_disconnected(bus, &bus->failure);
	finish_awaited(bus, AWAIT_STOPPED, error);
}

/*
 * A region that was not taken is dropped again. One that was to go has gone, as far
 * as requests are concerned: if the back-end could not be told, it is gone itself.
 */
static void on_memory_changed(void *opaque, const struct vublk_error *error)
{
	struct vublk_inproc *bus = opaque;

	if (bus->await != AWAIT_MEMORY)
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
	finish_awaited(opaque, AWAIT_CONFIG, error);
}

/* The driver hears of it first, then whoever waits for an answer that will not come. */
static void on_disconnected(void *opaque, const struct vublk_error *error)
{
	struct vublk_inproc *bus = opaque;

	tell_disconnected(bus, bus->failure.code ? &bus->failure : error);
	on_memory_changed(bus, error);
	if (bus->await != AWAIT_NOTHING && bus->await != AWAIT_REALIZED)
		finish_call(bus, result_of(error), error);
}

/*
 * The rings cannot be gone on with. They are taken back before the driver is told:
 * what it then gives up for lost, the back-end does not touch any more.
 */
static void on_needs_reset(void *opaque, const struct vublk_error *error)
{
	struct vublk_inproc *bus = opaque;

	if (bus->failure.code)
		return;
	bus->failure = *error;
	if (vublk_device_state(bus->device) == VUBLK_DEVICE_RUNNING)
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

	bus->await = AWAIT_REALIZED;
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
	return r ? r : make_call(bus, do_realize, NULL, error);
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
		make_call(bus, do_quit, NULL, NULL);
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

/* --- queues, start and stop ------------------------------------------------------------ */

/* The driver may lay out its own part by pages; the system's may be larger. */
#define PAGE_BYTES 4096

/* Where the parts of one queue lie in its piece of the shared memory. */
struct layout {
	uint64_t avail, used, extra, bytes;
};

static struct layout lay_out(unsigned queue_size, uint64_t extra_bytes)
{
	struct layout layout;

	layout.avail = vublk_round_up(vublk_split_desc_bytes(queue_size), VUBLK_CACHE_LINE);
	layout.used = vublk_round_up(layout.avail + vublk_split_avail_bytes(queue_size),
				     VUBLK_CACHE_LINE);
	layout.extra = vublk_round_up(layout.used + vublk_split_used_bytes(queue_size),
				      PAGE_BYTES);
	layout.bytes = vublk_round_up(layout.extra + extra_bytes, PAGE_BYTES);
	return layout;
}

static int make_queue(struct vublk_inproc *bus, unsigned index, const struct layout *layout,
		      struct vublk_error *error)
{
	struct vublk_inproc_queue *queue = &bus->queues[index];
	char *host = bus->memory.rings + index * layout->bytes;
	uint64_t addr = bus->memory.rings_addr + index * layout->bytes;
	struct vublk_device_queue for_device;

	queue->ring.desc = (struct vring_desc *)host;
	queue->ring.avail = (struct vring_avail *)(host + layout->avail);
	queue->ring.used = (struct vring_used *)(host + layout->used);
	queue->extra = host + layout->extra;
	queue->extra_addr = addr + layout->extra;
	queue->kick_fd = vublk_eventfd_new();
	queue->call_fd = vublk_eventfd_new();
	if (queue->kick_fd < 0 || queue->call_fd < 0)
		return vublk_error_set_errno(error, queue->kick_fd < 0 ? -queue->kick_fd :
					     -queue->call_fd,
					     "cannot create the eventfds of queue %u", index);
	for_device = (struct vublk_device_queue){
		.size = (uint16_t)bus->queue_size,
		.desc_addr = addr,
		.avail_addr = addr + layout->avail,
		.used_addr = addr + layout->used,
		.kick_fd = queue->kick_fd,
		.call_fd = queue->call_fd,
	};
	return vublk_device_set_queue(bus->device, index, &for_device, error);
}

struct set_up_args {
	uint64_t features;
	uint64_t extra_bytes;
};

static int do_set_up(struct vublk_inproc *bus, void *opaque, struct vublk_error *error)
{
	const struct set_up_args *args = opaque;
	struct layout layout = lay_out(bus->queue_size, args->extra_bytes);
	uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	int r;

	r = vublk_device_set_status(bus->device, status, error);
	if (!r)
		r = vublk_device_ack_features(bus->device, args->features, error);
	if (!r)
		r = vublk_device_set_status(bus->device, status | VIRTIO_CONFIG_S_FEATURES_OK,
					    error);
	if (!r)
		r = vublk_inproc_memory_make_rings(&bus->memory, bus->num_queues * layout.bytes,
						   error);
	if (!r)
		r = vublk_device_set_memory(bus->device, bus->memory.regions,
					    bus->memory.num_regions, error);
	for (unsigned i = 0; !r && i < bus->num_queues; i++)
		r = make_queue(bus, i, &layout, error);
	return r;
}

int vublk_inproc_set_up(struct vublk_inproc *bus, uint64_t features, uint64_t extra_bytes,
			struct vublk_error *error)
{
	struct set_up_args args = { features, extra_bytes };

	bus->queues = calloc(bus->num_queues, sizeof(*bus->queues));
	if (!bus->queues)
		return vublk_error_set(error, ENOMEM, "no memory for %u queues", bus->num_queues);
	for (unsigned i = 0; i < bus->num_queues; i++)
		bus->queues[i].kick_fd = bus->queues[i].call_fd = -1;
	return make_call(bus, do_set_up, &args, error);
}

static int do_start(struct vublk_inproc *bus, void *args, struct vublk_error *error)
{
	enum vublk_device_state state = vublk_device_state(bus->device);
	int r;

	if (state != VUBLK_DEVICE_STOPPED)
		return vublk_error_set(error, ENOTCONN,
				       "the back-end went before the queues were started: "
				       "the device is %s", vublk_device_state_name(state));
	bus->await = AWAIT_STARTED;
	r = vublk_device_set_status(bus->device, vublk_device_status(bus->device) |
				    VIRTIO_CONFIG_S_DRIVER_OK, error);
	return r ? r : 1;
}

int vublk_inproc_start(struct vublk_inproc *bus, struct vublk_error *error)
{
	return make_call(bus, do_start, NULL, error);
}

static int do_stop(struct vublk_inproc *bus, void *args, struct vublk_error *error)
{
	enum vublk_device_state state = vublk_device_state(bus->device);
	int r;

	if (state != VUBLK_DEVICE_RUNNING && state != VUBLK_DEVICE_STOPPING)
		return 0;
	bus->await = AWAIT_STOPPED;
	if (state == VUBLK_DEVICE_STOPPING)
		return 1;
	r = vublk_device_set_status(bus->device, 0, error);
	return r ? r : 1;
}

int vublk_inproc_stop(struct vublk_inproc *bus, struct vublk_error *error)
{
	return make_call(bus, do_stop, NULL, error);
}

/* --- config ------------------------------------------------------------------------------ */

struct config_args {
	void *config;
	unsigned bytes;
	uint32_t *generation;
};

static int do_read_config(struct vublk_inproc *bus, void *opaque, struct vublk_error *error)
{
	const struct config_args *args = opaque;

	vublk_device_config_read(bus->device, 0, args->config, args->bytes);
	*args->generation = vublk_device_config_generation(bus->device);
	return 0;
}

void vublk_inproc_read_config(struct vublk_inproc *bus, void *config, unsigned bytes,
			      uint32_t *generation)
{
	struct config_args args = { config, bytes, generation };

	if (vublk_inproc_is_own_thread(bus))
		do_read_config(bus, &args, NULL);
	else
		make_call(bus, do_read_config, &args, NULL);
}

static int do_write_wce(struct vublk_inproc *bus, void *args, struct vublk_error *error)
{
	uint8_t wce = *(const bool *)args;

	bus->await = AWAIT_CONFIG;
	return vublk_device_config_write(bus->device, VUBLK_BLK_WCE_OFFSET, &wce, 1, error);
}

int vublk_inproc_write_wce(struct vublk_inproc *bus, bool on, struct vublk_error *error)
{
	return make_call(bus, do_write_wce, &on, error);
}

/* --- memory ------------------------------------------------------------------------------- */

struct region_args {
	void *address;
	uint64_t bytes;
	int fd;
	uint64_t fd_offset;
};

/* The device has the new set, or is telling the back-end about it. */
static int hand_over_memory(struct vublk_inproc *bus, struct vublk_error *error)
{
	int r;

	bus->await = AWAIT_MEMORY;
	r = vublk_device_set_memory(bus->device, bus->memory.regions, bus->memory.num_regions,
				    error);
	if (r <= 0)
		vublk_inproc_memory_changed(&bus->memory, !r);
	return r;
}

static int do_add_region(struct vublk_inproc *bus, void *opaque, struct vublk_error *error)
{
	const struct region_args *args = opaque;
	int r = vublk_inproc_memory_add(&bus->memory, bus->info.backend_memory_slots,
					args->address, args->bytes, args->fd, args->fd_offset,
					error);

	return r ? r : hand_over_memory(bus, error);
}

int vublk_inproc_add_region(struct vublk_inproc *bus, void *address, uint64_t bytes, int fd,
			    uint64_t fd_offset, struct vublk_error *error)
{
	struct region_args args = { address, bytes, fd, fd_offset };

	return make_call(bus, do_add_region, &args, error);
}

static int do_remove_region(struct vublk_inproc *bus, void *address, struct vublk_error *error)
{
	int r = vublk_inproc_memory_remove(&bus->memory, address, error);

	if (r)
		return r;
	r = hand_over_memory(bus, NULL);
	return r < 0 ? 0 : r;
}

int vublk_inproc_remove_region(struct vublk_inproc *bus, void *address, struct vublk_error *error)
{
	return make_call(bus, do_remove_region, address, error);
}
