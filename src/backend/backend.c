/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opens and closes a back-end: the disk, the workers and the socket. Accepts one front-end at a
 * time. session.c handles a front-end's messages.
 *
 * Key idea: the listening socket is not watched while a front-end is served. The next front-end
 * waits in the backlog until the current one has disconnected and its requests are complete.
 */
#include "backend/backend.h"

#include "util/error.h"
#include "util/fd.h"
#include "util/kill-point.h"
#include "util/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* After this time, a stop logs what it is waiting for. */
#define STOP_WARNING_NS UINT64_C(1000000000)

/* --- the state ------------------------------------------------------------- */

static void set_state(struct vublk_backend *backend, enum vublk_backend_state state,
		      const char *why)
{
	vublk_log(&backend->log, VUBLK_LOG_DEBUG, "back-end: %s -> %s (%s)",
		  vublk_backend_state_name(backend->state), vublk_backend_state_name(state), why);
	backend->state = state;
}

int vublk_backend_listen_again(struct vublk_backend *backend, const char *why)
{
	int r;

	if (backend->listen_fd < 0) {
		set_state(backend, VUBLK_BACKEND_FINISHED, why);
		return 0;
	}
	r = vublk_loop_add(&backend->loop, &backend->listen_source, backend->listen_fd, EPOLLIN,
			   &backend->error);
	if (r)
		backend->result = r;
	set_state(backend, r ? VUBLK_BACKEND_FINISHED : VUBLK_BACKEND_LISTENING, why);
	return r;
}

/* --- notices --------------------------------------------------------------- */

void vublk_backend_set_notice_handler(struct vublk_backend *backend, vublk_notice_fn *fn,
				      void *opaque)
{
	backend->notifier = (struct vublk_notifier){ fn, opaque };
}

static void notify_client(struct vublk_backend *backend, enum vublk_notice_kind kind)
{
	if (kind == VUBLK_NOTICE_CLIENT_CONNECTED)
		VUBLK_PROBE1(backend_client_connected, backend->peer_pid);
	else
		VUBLK_PROBE1(backend_client_disconnected, backend->peer_pid);
	vublk_notify(&backend->notifier, &(struct vublk_notice){
		.kind = kind, .pid = backend->peer_pid,
	});
}

static void on_refused(void *opaque, const struct vublk_error *why)
{
	struct vublk_backend *backend = opaque;

	vublk_notify(&backend->notifier, &(struct vublk_notice){
		.kind = VUBLK_NOTICE_CLIENT_REFUSED, .pid = backend->peer_pid, .reason = why->text,
	});
}

static void on_resized(void *opaque, uint64_t before_bytes)
{
	struct vublk_backend *backend = opaque;

	vublk_notify(&backend->notifier, &(struct vublk_notice){
		.kind = VUBLK_NOTICE_RESIZED, .before_bytes = before_bytes,
		.size_bytes = backend->engine->geometry.size_bytes,
	});
}

/* --- front-ends ------------------------------------------------------------ */

static bool is_draining(const struct vublk_backend *backend)
{
	return backend->drain.state == VUBLK_BACKEND_DRAINING;
}

static void on_held(void *opaque)
{
	struct vublk_backend *backend = opaque;

	if (is_draining(backend))
		backend->drain.idle(backend);
}

/* Continues a drain after the front-end has disconnected. */
static void become_idle(struct vublk_backend *backend)
{
	set_state(backend, VUBLK_BACKEND_LISTENING, "the front-end disconnected");
	backend->drain.idle(backend);
}

static void on_session_ended(void *opaque)
{
	struct vublk_backend *backend = opaque;

	/*
	 * Keep the setting of the write cache, because a front-end that reconnects may rely on the
	 * config that it read in this session.
	 */
	backend->owner.write_cache = backend->session->write_cache;
	vublk_session_free(backend->session);
	backend->session = NULL;
	vublk_loop_timer_disarm(&backend->stop_timer);
	notify_client(backend, VUBLK_NOTICE_CLIENT_DISCONNECTED);
	if (backend->state == VUBLK_BACKEND_STOPPING)
		set_state(backend, VUBLK_BACKEND_FINISHED, "the front-end's requests are complete");
	else if (is_draining(backend))
		become_idle(backend);
	else
		vublk_backend_listen_again(backend, "the front-end disconnected");
}

static int serve(struct vublk_backend *backend, int fd, struct vublk_error *error)
{
	int r;

	backend->owner.listen_fd = backend->listen_fd;
	backend->peer_pid = vublk_socket_peer_pid(fd);
	r = vublk_session_new(&backend->owner, fd, &backend->session, error);
	if (r)
		return r;
	set_state(backend, VUBLK_BACKEND_SERVING, "a front-end connected");
	notify_client(backend, VUBLK_NOTICE_CLIENT_CONNECTED);
	return 0;
}

static void on_listen(void *opaque, uint32_t events)
{
	struct vublk_backend *backend = opaque;
	struct vublk_error error = { 0 };
	int fd = vublk_socket_accept(backend->listen_fd, &error);

	if (fd == -EAGAIN)
		return;
	vublk_loop_remove(&backend->listen_source);
	if (fd >= 0 && !serve(backend, fd, &error))
		return;
	vublk_log_limited(&backend->log, &backend->limit, VUBLK_LOG_ERROR,
			  "refused a front-end: %s", error.text);
	on_refused(backend, &error);
	/* Descriptors or memory have probably run out, so try again after a moment. */
	vublk_loop_timer_arm(&backend->loop, &backend->listen_timer,
			     vublk_now_ns() + UINT64_C(100000000));
}

static void on_listen_timer(void *opaque)
{
	vublk_backend_listen_again(opaque, "retry");
}

/* --- calls from other threads ----------------------------------------------- */

/*
 * Warns that a stop is taking long. The stop has to wait, because a request that the storage is
 * executing cannot be cancelled.
 */
static void on_stop_timer(void *opaque)
{
	struct vublk_backend *backend = opaque;

	vublk_log_limited(&backend->log, &backend->limit, VUBLK_LOG_WARNING,
		  "the stop waits for the storage to complete the requests of %u queue%s; a second "
		  "SIGTERM ends vublk serve without waiting",
		  backend->session->waiting, backend->session->waiting == 1 ? "" : "s");
}

static void on_stop(void *opaque, uint32_t events)
{
	struct vublk_backend *backend = opaque;

	vublk_eventfd_clear(backend->stop_fd);
	if (backend->state == VUBLK_BACKEND_STOPPING || backend->state == VUBLK_BACKEND_FINISHED)
		return;
	if (is_draining(backend))
		backend->drain.state = VUBLK_BACKEND_DRAIN_NONE;
	vublk_loop_timer_disarm(&backend->drain.timer);
	vublk_loop_remove(&backend->listen_source);
	vublk_loop_timer_disarm(&backend->listen_timer);
	if (!backend->session) {
		set_state(backend, VUBLK_BACKEND_FINISHED, "stopped");
		return;
	}
	set_state(backend, VUBLK_BACKEND_STOPPING, "stopped");
	vublk_loop_timer_arm(&backend->loop, &backend->stop_timer, vublk_now_ns() + STOP_WARNING_NS);
	vublk_session_end(backend->session);
}

static void on_rescan(void *opaque, uint32_t events)
{
	struct vublk_backend *backend = opaque;
	uint64_t before = backend->engine->geometry.size_bytes;

	vublk_eventfd_clear(backend->rescan_fd);
	if (backend->session)
		vublk_session_rescan(backend->session);
	else if (vublk_engine_rescan(backend->engine, &backend->limit))
		on_resized(backend, before);
}

void vublk_backend_stop(struct vublk_backend *backend)
{
	vublk_eventfd_write(backend->stop_fd);
}

void vublk_backend_rescan(struct vublk_backend *backend)
{
	vublk_eventfd_write(backend->rescan_fd);
}

/* --- opening --------------------------------------------------------------- */

static int watch_eventfd(struct vublk_backend *backend, int *fd,
			 struct vublk_loop_source *source,
			 void (*fn)(void *opaque, uint32_t events), struct vublk_error *error)
{
	*fd = vublk_eventfd_new();
	if (*fd < 0)
		return vublk_error_set_errno(error, -*fd, "cannot create an eventfd");
	*source = (struct vublk_loop_source){ .fn = fn, .opaque = backend };
	return vublk_loop_add(&backend->loop, source, *fd, EPOLLIN, error);
}

static int open_loop(struct vublk_backend *backend, struct vublk_error *error)
{
	int r = vublk_loop_init(&backend->loop, error);

	if (r)
		return r;
	backend->has_loop = true;
	r = watch_eventfd(backend, &backend->stop_fd, &backend->stop_source, on_stop, error);
	if (!r)
		r = watch_eventfd(backend, &backend->rescan_fd, &backend->rescan_source,
				  on_rescan, error);
	return r;
}

static int open_workers(struct vublk_backend *backend,
			const struct vublk_backend_settings *settings,
			struct vublk_error *error)
{
	int r = 0;

	backend->workers = calloc(settings->num_threads, sizeof(*backend->workers));
	if (!backend->workers)
		return vublk_error_set(error, ENOMEM, "cannot allocate memory for %u threads",
				       settings->num_threads);
	while (!r && backend->num_workers < settings->num_threads) {
		r = vublk_backend_worker_new(backend->engine, settings->poll,
					     settings->poll_budget_percent,
					     &backend->workers[backend->num_workers], error);
		if (!r)
			backend->num_workers++;
	}
	return r;
}

static int listen_at(struct vublk_backend *backend, const char *path,
		     const struct vublk_socket_access *access, struct vublk_error *error)
{
	backend->listen_fd = vublk_socket_listen_with(path, access, error);
	if (backend->listen_fd < 0)
		return backend->listen_fd;
	backend->socket_path = strdup(path);
	if (!backend->socket_path)
		return vublk_error_set(error, ENOMEM, "cannot allocate memory for the socket's "
				       "path");
	backend->socket_file = vublk_socket_file(path);
	return vublk_backend_listen_again(backend, "opened");
}

/*
 * Listens on the caller's socket `given` or, if that socket is connected, serves the front-end at
 * its other end. Takes ownership of `given`, even on failure.
 */
static int use_socket(struct vublk_backend *backend, int given, struct vublk_error *error)
{
	VUBLK_FD int fd = given;
	bool listening;
	int r;

	r = vublk_socket_check_given(fd, &listening, error);
	if (r)
		return r;
	if (!listening)
		return serve(backend, vublk_fd_steal(&fd), error);
	/*
	 * The caller may accept a connection on the same socket first, so accept() must not block
	 * here.
	 */
	vublk_fd_set_nonblocking(fd);
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	backend->listen_fd = vublk_fd_steal(&fd);
	return vublk_backend_listen_again(backend, "opened");
}

/* Sets the serial, by which a guest distinguishes its disks, as in /dev/disk/by-id. */
static void fill_serial(struct vublk_backend *backend,
			const struct vublk_backend_settings *settings)
{
	char text[VUBLK_BLK_ID_BYTES + 1] = "vublk";
	uint64_t identity = backend->engine->identity;

	if (settings->has_serial) {
		memcpy(backend->serial, settings->serial, sizeof(backend->serial));
		return;
	}
	if (identity)
		snprintf(text, sizeof(text), "vublk%015" PRIx64, identity >> 4);
	memcpy(backend->serial, text, sizeof(backend->serial));
}

static void fill_owner(struct vublk_backend *backend,
		       const struct vublk_backend_settings *settings)
{
	fill_serial(backend, settings);
	backend->owner = (struct vublk_session_owner){
		.loop = &backend->loop,
		.log = &backend->log,
		.limit = &backend->limit,
		.engine = backend->engine,
		.workers = backend->workers,
		.num_workers = backend->num_workers,
		.num_queues = settings->num_queues,
		.statistics = backend->statistics,
		.seg_max = settings->seg_max,
		.write_cache = settings->write_cache,
		.inflight = settings->inflight,
		.message_timeout_ms = settings->message_timeout_ms,
		.serial = backend->serial,
		.ended = on_session_ended,
		.refused = on_refused,
		.resized = on_resized,
		.held = on_held,
		.opaque = backend,
	};
}

static void init_socket(struct vublk_backend *backend)
{
	backend->listen_source = (struct vublk_loop_source){
		.fn = on_listen, .opaque = backend,
	};
	backend->listen_timer = (struct vublk_loop_timer){
		.fn = on_listen_timer, .opaque = backend,
	};
	backend->stop_timer = (struct vublk_loop_timer){ .fn = on_stop_timer, .opaque = backend };
}

static int open_socket(struct vublk_backend *backend, struct vublk_backend_settings *settings,
		       struct vublk_error *error)
{
	int r;

	if (settings->socket_path)
		r = listen_at(backend, settings->socket_path, &settings->access, error);
	else
		r = use_socket(backend, vublk_fd_steal(&settings->fd), error);
	if (r)
		return r;
	vublk_log(&backend->log, VUBLK_LOG_INFO, "listening on %s: %s, %" PRIu64
		  " bytes%s, %u queue%s, %u thread%s",
		  settings->socket_path ? settings->socket_path : "a given descriptor",
		  backend->engine->description, backend->engine->geometry.size_bytes,
		  backend->engine->geometry.read_only ? ", read-only" : "",
		  settings->num_queues, settings->num_queues == 1 ? "" : "s",
		  backend->num_workers, backend->num_workers == 1 ? "" : "s");
	return 0;
}

/* Called by the engine, on any thread. */
static void request_rescan(void *backend)
{
	vublk_backend_rescan(backend);
}

static int set_up(struct vublk_backend *backend, struct vublk_backend_settings *settings,
		  const struct vublk_backend_taken *taken, struct vublk_error *error)
{
	int r;

	settings->disk.log = &backend->log;
	settings->disk.num_queues = settings->num_threads;
	settings->disk.rescan = request_rescan;
	settings->disk.rescan_opaque = backend;
	settings->disk.has_image = taken && taken->image_fd >= 0;
	settings->disk.image_fd = taken ? taken->image_fd : -1;
	r = open_loop(backend, error);
	if (!r)
		r = vublk_engine_open(settings->engine, &settings->disk, &backend->engine, error);
	if (!r)
		r = open_workers(backend, settings, error);
	if (r)
		return r;
	backend->statistics = vublk_statistics_new(settings->num_queues, settings->statistics);
	if (!backend->statistics)
		return vublk_error_set(error, ENOMEM, "cannot allocate memory for statistics");
	fill_owner(backend, settings);
	init_socket(backend);
	if (!taken)
		return open_socket(backend, settings, error);
	if (settings->socket_path)
		backend->socket_path = strdup(settings->socket_path);
	return settings->socket_path && !backend->socket_path ?
	       vublk_error_set(error, ENOMEM, "cannot allocate memory for the socket's path") : 0;
}

#ifdef VUBLK_KILL_POINTS
static const char *const kill_points[] = {
	"after-fetch",          /* a chain was taken and recorded in the in-flight area */
	"after-io",             /* the engine has executed a request, but the driver sees nothing
				   yet */
	"after-status",         /* the status byte of a request was written */
	"after-used-element",   /* a used element was written, but the used index was not */
	"after-used-index",     /* a batch was published, but is still recorded as in flight */
	"after-inflight-clear", /* one request of a batch is no longer recorded as in flight */
	"before-call",          /* the in-flight area is up to date, but the driver was not
				   called */
	VUBLK_UPGRADE_KILL_POINTS,
	NULL,
};
#else
#define kill_points NULL
#endif

const char *const *const vublk_backend_kill_points = kill_points;

static struct vublk_backend *new_backend(const struct vublk_option *options,
					 const struct vublk_log *log)
{
	struct vublk_backend *backend = calloc(1, sizeof(*backend));

	if (!backend)
		return NULL;
	backend->listen_fd = backend->stop_fd = backend->rescan_fd = -1;
	if (log)
		backend->log = *log;
	backend->options = vublk_backend_options_copy(options);
	if (backend->options)
		return backend;
	free(backend);
	return NULL;
}

int vublk_backend_prepare(const struct vublk_option *options,
			  const struct vublk_backend_taken *taken, const struct vublk_log *log,
			  struct vublk_backend **result, struct vublk_error *error)
{
	struct vublk_backend_settings settings;
	struct vublk_backend *backend;
	int r = taken ? vublk_backend_settings_parse_taken(options, &settings, error) :
			vublk_backend_settings_parse(options, &settings, error);

	if (!r)
		r = vublk_kill_points_init(kill_points, error);
	if (r) {
		vublk_fd_close(&settings.fd);
		return r;
	}
	backend = new_backend(options, log);
	if (!backend) {
		vublk_fd_close(&settings.fd);
		return vublk_error_set(error, ENOMEM, "cannot allocate memory for a back-end");
	}
	r = set_up(backend, &settings, taken, error);
	vublk_fd_close(&settings.fd);
	if (r) {
		backend->upgrade.is_anothers = taken;
		vublk_backend_free(backend);
		return r;
	}
	*result = backend;
	return 0;
}

int vublk_backend_open(const struct vublk_option *options, const struct vublk_log *log,
		       struct vublk_backend **backend, struct vublk_error *error)
{
	return vublk_backend_prepare(options, NULL, log, backend, error);
}

/* --- an upgrade ------------------------------------------------------------ */

void vublk_backend_finish_handed_over(struct vublk_backend *backend)
{
	vublk_loop_remove(&backend->listen_source);
	vublk_loop_timer_disarm(&backend->listen_timer);
	set_state(backend, VUBLK_BACKEND_FINISHED, "another process has taken over");
}

int vublk_backend_adopt(struct vublk_backend *backend, int listen_fd, struct vublk_error *error)
{
	backend->listen_fd = listen_fd;
	backend->owner.listen_fd = listen_fd;
	if (backend->session) {
		set_state(backend, VUBLK_BACKEND_SERVING, "taken over");
		return 0;
	}
	if (listen_fd < 0)
		return vublk_error_set(error, EINVAL, "the state has neither a listening socket "
				       "nor a connection of a front-end");
	return vublk_loop_add(&backend->loop, &backend->listen_source, listen_fd, EPOLLIN, error);
}

/* --- running --------------------------------------------------------------- */

int vublk_backend_fd(const struct vublk_backend *backend)
{
	return vublk_loop_fd(&backend->loop);
}

static int process(struct vublk_backend *backend, int timeout_ms, struct vublk_error *error)
{
	int r = 0;

	if (backend->state != VUBLK_BACKEND_FINISHED)
		r = vublk_loop_process(&backend->loop, timeout_ms);
	if (r >= 0)
		vublk_upgrade_step(&backend->upgrade);
	if (r < 0)
		return vublk_error_set_errno(error, -r, "the event loop failed");
	if (backend->state != VUBLK_BACKEND_FINISHED)
		return 1;
	if (backend->result && error)
		*error = backend->error;
	return backend->result;
}

int vublk_backend_process(struct vublk_backend *backend, struct vublk_error *error)
{
	return process(backend, 0, error);
}

int vublk_backend_run(struct vublk_backend *backend, struct vublk_error *error)
{
	int r;

	do
		r = process(backend, -1, error);
	while (r == 1);
	return r;
}

/* --- closing --------------------------------------------------------------- */

static void remove_socket(struct vublk_backend *backend)
{
	if (backend->socket_path && !backend->upgrade.is_anothers)
		vublk_socket_remove(backend->socket_path, backend->socket_file);
	free(backend->socket_path);
}

static void finish(struct vublk_backend *backend)
{
	vublk_backend_stop(backend);
	vublk_backend_run(backend, NULL);
}

void vublk_backend_free(struct vublk_backend *backend)
{
	if (!backend)
		return;
	if (backend->session && backend->upgrade.is_anothers)
		vublk_session_free(backend->session); /* no queue runs */
	else if (backend->session)
		finish(backend);
	while (backend->drain.flush.is_busy)
		vublk_loop_process(&backend->loop, -1);
	remove_socket(backend);
	for (unsigned i = 0; i < backend->num_workers; i++)
		vublk_backend_worker_free(backend->workers[i]);
	free(backend->workers);
	vublk_statistics_free(backend->statistics);
	vublk_engine_close(backend->engine);
	vublk_backend_options_free(backend->options);
	vublk_upgrade_end(&backend->upgrade);
	if (backend->has_loop) {
		vublk_loop_remove(&backend->listen_source);
		vublk_loop_timer_disarm(&backend->listen_timer);
		vublk_loop_timer_disarm(&backend->stop_timer);
		vublk_loop_timer_disarm(&backend->drain.timer);
		vublk_loop_remove(&backend->stop_source);
		vublk_loop_remove(&backend->rescan_source);
		vublk_loop_deinit(&backend->loop);
	}
	vublk_fd_close(&backend->listen_fd);
	vublk_fd_close(&backend->stop_fd);
	vublk_fd_close(&backend->rescan_fd);
	free(backend);
}
