/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs a bus: changes its state, keeps track of the device's back-end, and accepts one client (a
 * VMM) at a time. open.c chooses the type and sets the options. The type's folder has the code that
 * handles a client's messages.
 *
 * Key idea: while the bus serves a client, it does not watch the listening socket, so the next
 * client waits in the backlog. The bus accepts the next client after the current one has
 * disconnected and the device has reclaimed the rings.
 */
#include "bus/bus.h"

#include "device/upgrade/upgrade.h"
#include "proto/vhost-user/channel.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#define NS_PER_MS UINT64_C(1000000)
#define LISTEN_AGAIN_MS 100
#define STOP_WARNING_MS 1000 /* after this time, the log says what delays the stop */

/* --- the state ------------------------------------------------------------- */

static const char *const state_names[VUBLK_BUS_NUM_STATES] = {
	[VUBLK_BUS_REALIZING] = "realizing",
	[VUBLK_BUS_LISTENING] = "listening",
	[VUBLK_BUS_SERVING] = "serving",
	[VUBLK_BUS_STOPPING] = "stopping",
	[VUBLK_BUS_FINISHED] = "finished",
};

#define ON(event, state) [VUBLK_BUS_EVENT_##event] = VUBLK_BUS_##state + 1

/* An entry is the next state plus 1; 0: the event has no effect in this state. */
static const unsigned char transitions[VUBLK_BUS_NUM_STATES][VUBLK_BUS_NUM_EVENTS] = {
	[VUBLK_BUS_REALIZING] = {
		ON(REALIZED, LISTENING),
		ON(STOP, FINISHED),
	},
	[VUBLK_BUS_LISTENING] = {
		ON(CLIENT, SERVING),
		ON(STOP, FINISHED),
		ON(HANDED_OVER, FINISHED),
	},
	[VUBLK_BUS_SERVING] = {
		ON(CLIENT_GONE, LISTENING),
		ON(STOP, STOPPING),
		ON(HANDED_OVER, FINISHED),
	},
	[VUBLK_BUS_STOPPING] = {
		ON(CLIENT_GONE, FINISHED),
	},
};

int vublk_bus_next_state(enum vublk_bus_state state, enum vublk_bus_event event)
{
	return transitions[state][event] - 1;
}

const char *vublk_bus_state_name(enum vublk_bus_state state)
{
	return state_names[state];
}

static bool change_state(struct vublk_bus *bus, enum vublk_bus_event event, const char *why)
{
	int next = vublk_bus_next_state(bus->state, event);

	if (next < 0)
		return false;
	vublk_log(&bus->log, VUBLK_LOG_DEBUG, "bus: %s -> %s (%s)", state_names[bus->state],
		  state_names[next], why);
	bus->state = (enum vublk_bus_state)next;
	return true;
}

/* --- stopping -------------------------------------------------------------- */

static void on_stop_timer(void *opaque)
{
	struct vublk_bus *bus = opaque;

	vublk_log_limited(&bus->log, &bus->limit, VUBLK_LOG_WARNING,
		  "the stop waits for the back-end '%s' to return the rings; a second SIGTERM ends "
		  "vublk device without waiting",
		  bus->backend.chardev);
}

static void stop(struct vublk_bus *bus, const char *why)
{
	bool is_served = bus->state == VUBLK_BUS_SERVING;

	if (!change_state(bus, VUBLK_BUS_EVENT_STOP, why))
		return;
	vublk_loop_remove(&bus->listen_source);
	vublk_loop_timer_disarm(&bus->listen_timer);
	vublk_loop_timer_disarm(&bus->retry_timer);
	if (!is_served)
		return;
	vublk_loop_timer_arm(&bus->loop, &bus->stop_timer,
			     vublk_now_ns() + STOP_WARNING_MS * NS_PER_MS);
	bus->type->end(bus);
}

static void fail(struct vublk_bus *bus, const struct vublk_error *error)
{
	if (!bus->result) {
		bus->result = -error->code;
		bus->error = *error;
	}
	stop(bus, error->text);
}

static void on_stop(void *opaque, uint32_t events)
{
	struct vublk_bus *bus = opaque;

	vublk_eventfd_clear(bus->stop_fd);
	stop(bus, "requested");
}

void vublk_bus_stop(struct vublk_bus *bus)
{
	vublk_eventfd_write(bus->stop_fd);
}

static bool has_backend(const struct vublk_bus *bus)
{
	enum vublk_device_state state = vublk_device_state(bus->device);

	return bus->state != VUBLK_BUS_REALIZING && state != VUBLK_DEVICE_LOST &&
	       state != VUBLK_DEVICE_RECONNECTING;
}

static void on_refresh(void *opaque, uint32_t events)
{
	struct vublk_bus *bus = opaque;

	vublk_eventfd_clear(bus->refresh_fd);
	vublk_log_limited(&bus->log, &bus->limit, VUBLK_LOG_INFO, "%s",
			  has_backend(bus) ? "reading the disk's configuration again" :
			  "the disk's configuration will be read when a back-end connects");
	vublk_device_refresh_config(bus->device);
}

void vublk_bus_refresh(struct vublk_bus *bus)
{
	vublk_eventfd_write(bus->refresh_fd);
}

/* --- clients --------------------------------------------------------------- */

static void accept_again(struct vublk_bus *bus)
{
	struct vublk_error error;

	if (vublk_loop_add(&bus->loop, &bus->listen_source, bus->listen_fd, EPOLLIN, &error) < 0)
		fail(bus, &error);
}

void vublk_bus_set_notice_handler(struct vublk_bus *bus, vublk_notice_fn *fn, void *opaque)
{
	bus->notifier = (struct vublk_notifier){ fn, opaque };
	vublk_device_set_notice_handler(bus->device, fn, opaque);
}

int vublk_bus_set_statistics(struct vublk_bus *bus, bool on, struct vublk_error *error)
{
	return vublk_device_set_statistics(bus->device, on, error);
}

static void notify_client(struct vublk_bus *bus, enum vublk_notice_kind kind)
{
	vublk_notify(&bus->notifier, &(struct vublk_notice){ .kind = kind, .pid = bus->client_pid });
}

void vublk_bus_notify_refused(struct vublk_bus *bus, const struct vublk_error *error)
{
	vublk_notify(&bus->notifier, &(struct vublk_notice){
		.kind = VUBLK_NOTICE_CLIENT_REFUSED, .pid = bus->client_pid, .reason = error->text,
	});
}

static void on_listen(void *opaque, uint32_t events)
{
	struct vublk_bus *bus = opaque;
	struct vublk_error error = { 0 };
	int fd = vublk_socket_accept(bus->listen_fd, &error);

	if (fd == -EAGAIN)
		return;
	vublk_loop_remove(&bus->listen_source);
	bus->client_pid = vublk_socket_peer_pid(fd);
	if (fd >= 0 && !bus->type->serve(bus, fd, &error)) {
		change_state(bus, VUBLK_BUS_EVENT_CLIENT, "a VMM connected");
		notify_client(bus, VUBLK_NOTICE_CLIENT_CONNECTED);
		return;
	}
	vublk_log_limited(&bus->log, &bus->limit, VUBLK_LOG_ERROR, "refused a VMM: %s",
			  error.text);
	vublk_bus_notify_refused(bus, &error);
	/*
	 * The reason may be a lack of descriptors or memory, so further clients wait in the backlog
	 * for a moment.
	 */
	vublk_loop_timer_arm(&bus->loop, &bus->listen_timer,
			     vublk_now_ns() + LISTEN_AGAIN_MS * NS_PER_MS);
}

static void on_listen_timer(void *opaque)
{
	accept_again(opaque);
}

void vublk_bus_client_gone(struct vublk_bus *bus)
{
	vublk_loop_timer_disarm(&bus->stop_timer);
	change_state(bus, VUBLK_BUS_EVENT_CLIENT_GONE, "the VMM disconnected");
	notify_client(bus, VUBLK_NOTICE_CLIENT_DISCONNECTED);
	bus->is_refused = false; /* a back-end may accept the next client's rings */
	if (bus->state == VUBLK_BUS_LISTENING)
		accept_again(bus);
}

static int listen_at_path(struct vublk_bus *bus, struct vublk_error *error)
{
	if (bus->listen_fd >= 0) /* set by the option fd; the socket's file belongs to the caller */
		return 0;
	bus->listen_fd = vublk_socket_listen_with(bus->path, &bus->access, error);
	if (bus->listen_fd < 0)
		return bus->listen_fd;
	bus->socket_file = vublk_socket_file(bus->path);
	return 0;
}

/* --- the back-end ---------------------------------------------------------- */

bool vublk_bus_is_server(const struct vublk_bus *bus)
{
	char value[32] = "";

	vublk_device_get_property(bus->device, "server", value, sizeof(value), NULL);
	return !strcmp(value, "on");
}

static void note_backend(struct vublk_bus *bus)
{
	vublk_device_get_info(bus->device, &bus->backend, sizeof(bus->backend));
}

/*
 * Logs why an attempt to connect has failed, and arms the timer for the next attempt. The log line
 * is a warning only if the reason differs from the previous one.
 */
static void retry(struct vublk_bus *bus, const struct vublk_error *error)
{
	bool is_known = bus->refusal.code == error->code && !strcmp(bus->refusal.text, error->text);

	vublk_log_limited(&bus->log, &bus->limit, is_known ? VUBLK_LOG_DEBUG : VUBLK_LOG_WARNING,
			  "no back-end is connected yet: %s", error->text);
	bus->refusal = *error;
	vublk_loop_timer_arm(&bus->loop, &bus->retry_timer,
			     vublk_now_ns() + bus->retry_ms * NS_PER_MS);
}

static void on_retry_timer(void *opaque)
{
	struct vublk_bus *bus = opaque;
	struct vublk_error error;

	if (vublk_device_realize(bus->device, &error) < 0)
		fail(bus, &error);
}

/*
 * Returns whether another attempt may succeed. An error is permanent if its cause is a wrong
 * property, or a path at which no socket can appear. A device that listens waits for a usable
 * back-end without reporting errors, so it fails only if it cannot listen, which is permanent. A
 * disk that is out of date (ESTALE) remains so. If retry_ms is 0, every error is permanent.
 */
static bool is_temporary(const struct vublk_bus *bus, const struct vublk_error *error)
{
	return bus->retry_ms && !vublk_bus_is_server(bus) && error->code != ESTALE &&
	       vublk_socket_may_appear(error->code);
}

void vublk_bus_on_realized(void *opaque, const struct vublk_error *refusal)
{
	struct vublk_bus *bus = opaque;
	struct vublk_error error;
	unsigned num_queues;

	if (refusal) {
		error = *refusal;
		if (is_temporary(bus, &error))
			retry(bus, &error);
		else
			fail(bus, &error);
		return;
	}
	note_backend(bus);
	if ((bus->type->ready && bus->type->ready(bus, &error) < 0) ||
	    listen_at_path(bus, &error) < 0) {
		fail(bus, &error);
		return;
	}
	change_state(bus, VUBLK_BUS_EVENT_REALIZED, "a back-end is connected");
	num_queues = vublk_device_num_queues(bus->device);
	vublk_log(&bus->log, VUBLK_LOG_INFO, "listening on %s: back-end %s, %u queue%s", bus->path,
		  bus->backend.chardev, num_queues, num_queues == 1 ? "" : "s");
	accept_again(bus);
}

/*
 * Called when the rings have stopped. An error before the rings ran means that the back-end refused
 * them or was lost. The device then reconnects, and the back-end may refuse the rings again.
 * Successive refusals for the same reason cause one warning, and the back-end counts as available
 * again only when it has accepted the rings.
 */
void vublk_bus_note_stopped(struct vublk_bus *bus, const struct vublk_error *error)
{
	bus->is_refused |= error && !bus->runs;
	bus->runs = false;
}

static void log_there_again(struct vublk_bus *bus, bool is_news)
{
	vublk_log_limited(&bus->log, &bus->limit, is_news ? VUBLK_LOG_INFO : VUBLK_LOG_DEBUG,
			  "back-end %s is available again", bus->backend.chardev);
}

void vublk_bus_note_started(struct vublk_bus *bus)
{
	if (bus->is_refused)
		log_there_again(bus, true);
	bus->runs = true;
	bus->is_refused = false;
	bus->refusal.code = 0;
}

static bool is_known_refusal(const struct vublk_bus *bus, const struct vublk_error *error)
{
	return bus->is_refused && bus->refusal.code == error->code &&
	       !strcmp(bus->refusal.text, error->text);
}

/* Called when a back-end is lost, but not if the device itself has closed the connection. */
static void note_outage(struct vublk_bus *bus)
{
	if (!bus->lost_ns)
		bus->lost_ns = vublk_now_ns();
	bus->outages++;
}

void vublk_bus_on_lost(void *opaque, const struct vublk_error *error)
{
	struct vublk_bus *bus = opaque;

	bus->is_expected_loss = error->code == ECANCELED;
	if (!bus->is_expected_loss)
		note_outage(bus);
	if (!bus->retry_ms) {
		fail(bus, error);
		return;
	}
	if (bus->is_expected_loss) {
		vublk_log(&bus->log, VUBLK_LOG_DEBUG, "%s", error->text);
		return;
	}
	if (is_known_refusal(bus, error))
		vublk_log(&bus->log, VUBLK_LOG_DEBUG,
			  "the disk is still waiting for a back-end: %s", error->text);
	else
		vublk_log_limited(&bus->log, &bus->limit, VUBLK_LOG_WARNING,
				  "the disk waits for a back-end: %s", error->text);
	bus->refusal = *error;
}

void vublk_bus_on_reconnected(void *opaque)
{
	struct vublk_bus *bus = opaque;
	char before[sizeof(bus->backend.chardev)];

	if (bus->lost_ns) {
		bus->ended_outages_ns += vublk_now_ns() - bus->lost_ns;
		bus->reconnects++;
	}
	bus->lost_ns = 0;
	memcpy(before, bus->backend.chardev, sizeof(before));
	note_backend(bus);
	if (strcmp(before, bus->backend.chardev))
		vublk_log_limited(&bus->log, &bus->limit,
				  bus->is_expected_loss ? VUBLK_LOG_INFO : VUBLK_LOG_WARNING,
				  "the disk continues on back-end %s; it was on %s",
				  bus->backend.chardev, before);
	else
		log_there_again(bus, !bus->is_expected_loss && !bus->is_refused);
}

void vublk_bus_on_gave_up(void *opaque, const struct vublk_error *error)
{
	fail(opaque, error);
}

static void on_device(void *opaque, uint32_t events)
{
	struct vublk_bus *bus = opaque;
	struct vublk_error error;
	int r = vublk_device_process(bus->device);

	if (r < 0) {
		vublk_error_set_errno(&error, -r, "the device's event loop failed");
		fail(bus, &error);
	}
}

/* --- an upgrade -------------------------------------------------------------- */

void vublk_bus_finish_handed_over(struct vublk_bus *bus, const char *why)
{
	change_state(bus, VUBLK_BUS_EVENT_HANDED_OVER, why);
}

int vublk_bus_adopt(struct vublk_bus *bus, enum vublk_bus_state state, struct vublk_error *error)
{
	vublk_log(&bus->log, VUBLK_LOG_DEBUG, "bus: %s -> %s (taken over)", state_names[bus->state],
		  state_names[state]);
	bus->state = state;
	if (state != VUBLK_BUS_LISTENING)
		return 0;
	return vublk_loop_add(&bus->loop, &bus->listen_source, bus->listen_fd, EPOLLIN, error);
}

/* --- opening and running ---------------------------------------------------- */

static int watch_eventfd(struct vublk_bus *bus, int *fd, struct vublk_loop_source *source,
			 void (*fn)(void *opaque, uint32_t events), struct vublk_error *error)
{
	*fd = vublk_eventfd_new();
	if (*fd < 0)
		return vublk_error_set_errno(error, -*fd, "cannot create an eventfd");
	*source = (struct vublk_loop_source){ .fn = fn, .opaque = bus };
	return vublk_loop_add(&bus->loop, source, *fd, EPOLLIN, error);
}

int vublk_bus_open_loop(struct vublk_bus *bus, struct vublk_error *error)
{
	int r = vublk_loop_init(&bus->loop, error);

	if (r < 0)
		return r;
	bus->has_loop = true;
	bus->listen_source = (struct vublk_loop_source){ .fn = on_listen, .opaque = bus };
	bus->listen_timer = (struct vublk_loop_timer){ .fn = on_listen_timer, .opaque = bus };
	bus->stop_timer = (struct vublk_loop_timer){ .fn = on_stop_timer, .opaque = bus };
	bus->retry_timer = (struct vublk_loop_timer){ .fn = on_retry_timer, .opaque = bus };
	r = watch_eventfd(bus, &bus->stop_fd, &bus->stop_source, on_stop, error);
	return r < 0 ? r : watch_eventfd(bus, &bus->refresh_fd, &bus->refresh_source, on_refresh, error);
}

int vublk_bus_watch_device(struct vublk_bus *bus, struct vublk_error *error)
{
	bus->device_source = (struct vublk_loop_source){ .fn = on_device, .opaque = bus };
	return vublk_loop_add(&bus->loop, &bus->device_source, vublk_device_fd(bus->device), EPOLLIN,
			      error);
}

int vublk_bus_fd(const struct vublk_bus *bus)
{
	return vublk_loop_fd(&bus->loop);
}

static int process(struct vublk_bus *bus, int timeout_ms, struct vublk_error *error)
{
	int r = 0;

	if (bus->state != VUBLK_BUS_FINISHED)
		r = vublk_loop_process(&bus->loop, timeout_ms);
	if (r >= 0)
		vublk_upgrade_step(&bus->upgrade);
	if (r < 0)
		return vublk_error_set_errno(error, -r, "the event loop failed");
	if (bus->state != VUBLK_BUS_FINISHED)
		return 1;
	if (bus->result && error)
		*error = bus->error;
	return bus->result;
}

int vublk_bus_process(struct vublk_bus *bus, struct vublk_error *error)
{
	return process(bus, 0, error);
}

int vublk_bus_run(struct vublk_bus *bus, struct vublk_error *error)
{
	int r;

	do
		r = process(bus, -1, error);
	while (r == 1);
	return r;
}

void vublk_bus_free(struct vublk_bus *bus)
{
	if (!bus)
		return;
	if (bus->upgrade.is_anothers && bus->device)
		vublk_device_disown(bus->device);
	if (bus->device)
		vublk_device_unrealize(bus->device); /* must precede free_client(), because the
							device borrows the client's descriptors */
	if (bus->client)
		bus->type->free_client(bus);
	if (bus->own)
		bus->type->free(bus);
	if (bus->has_loop) {
		vublk_loop_remove(&bus->device_source);
		vublk_loop_remove(&bus->stop_source);
		vublk_loop_remove(&bus->refresh_source);
		vublk_loop_remove(&bus->listen_source);
		vublk_loop_timer_disarm(&bus->listen_timer);
		vublk_loop_timer_disarm(&bus->stop_timer);
		vublk_loop_timer_disarm(&bus->retry_timer);
	}
	vublk_device_free(bus->device);
	vublk_upgrade_end(&bus->upgrade);
	if (bus->has_loop)
		vublk_loop_deinit(&bus->loop);
	if (bus->listen_fd >= 0 && !bus->upgrade.is_anothers)
		vublk_socket_remove(bus->path, bus->socket_file);
	vublk_fd_close(&bus->listen_fd);
	vublk_fd_close(&bus->stop_fd);
	vublk_fd_close(&bus->refresh_fd);
	free(bus->path);
	free(bus);
}
