/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A bus from the outside: the device and the way to its back-end, the socket, and letting
 * in one client after the other. What a client says is in the file of the bus's type.
 *
 * While one is served the socket is not looked at: the next waits in its backlog, and is
 * served as soon as this one has gone and the rings are back from the back-end.
 */
#include "bus/bus.h"

#include "proto/vhost-user/channel.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/option.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#define NS_A_MS UINT64_C(1000000)
#define LISTEN_AGAIN_MS 100
#define STOP_SAYS_MS 1000 /* when to say what a stop waits for */
#define SERVER_RETRY_MS 1000 /* any: a device that listens waits for back-ends by itself */

/* --- the state ------------------------------------------------------------- */

static const char *const state_names[VUBLK_BUS_NUM_STATES] = {
	[VUBLK_BUS_REALIZING] = "realizing",
	[VUBLK_BUS_LISTENING] = "listening",
	[VUBLK_BUS_SERVING] = "serving",
	[VUBLK_BUS_STOPPING] = "stopping",
	[VUBLK_BUS_FINISHED] = "finished",
};

#define ON(event, state) [VUBLK_BUS_EVENT_##event] = VUBLK_BUS_##state + 1

/* The next state and one; 0: the event does not occur. */
static const unsigned char transitions[VUBLK_BUS_NUM_STATES][VUBLK_BUS_NUM_EVENTS] = {
	[VUBLK_BUS_REALIZING] = {
		ON(REALIZED, LISTENING),
		ON(STOP, FINISHED),
	},
	[VUBLK_BUS_LISTENING] = {
		ON(CLIENT, SERVING),
		ON(STOP, FINISHED),
	},
	[VUBLK_BUS_SERVING] = {
		ON(CLIENT_GONE, LISTENING),
		ON(STOP, STOPPING),
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

/* --- the end --------------------------------------------------------------- */

static void on_stop_timer(void *opaque)
{
	struct vublk_bus *bus = opaque;

	vublk_log_limited(&bus->log, &bus->limit, VUBLK_LOG_WARNING,
		  "the end waits for the back-end '%s', which has not "
		  "returned the rings; a second SIGTERM ends vublk device without them",
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
			     vublk_now_ns() + STOP_SAYS_MS * NS_A_MS);
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
	stop(bus, "asked for");
}

void vublk_bus_stop(struct vublk_bus *bus)
{
	vublk_eventfd_write(bus->stop_fd);
}

static bool has_backend(const struct vublk_bus *bus)
{
	return bus->state != VUBLK_BUS_REALIZING &&
	       vublk_device_state(bus->device) != VUBLK_DEVICE_DISCONNECTED;
}

static void on_refresh(void *opaque, uint32_t events)
{
	struct vublk_bus *bus = opaque;

	vublk_eventfd_clear(bus->refresh_fd);
	vublk_log_limited(&bus->log, &bus->limit, VUBLK_LOG_INFO, "%s",
			  has_backend(bus) ? "the disk's configuration is read again" :
			  "the disk's configuration is read when there is a back-end");
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

static void on_listen(void *opaque, uint32_t events)
{
	struct vublk_bus *bus = opaque;
	struct vublk_error error = { 0 };
	int fd = vublk_socket_accept(bus->listen_fd, &error);

	if (fd == -EAGAIN)
		return;
	vublk_loop_remove(&bus->listen_source);
	if (fd >= 0 && !bus->type->serve(bus, fd, &error)) {
		change_state(bus, VUBLK_BUS_EVENT_CLIENT, "a VMM connected");
		return;
	}
	vublk_log_limited(&bus->log, &bus->limit, VUBLK_LOG_ERROR, "a VMM is not served: %s",
			  error.text);
	/* Short of descriptors or memory: whoever waits is looked at again in a moment. */
	vublk_loop_timer_arm(&bus->loop, &bus->listen_timer,
			     vublk_now_ns() + LISTEN_AGAIN_MS * NS_A_MS);
}

static void on_listen_timer(void *opaque)
{
	accept_again(opaque);
}

void vublk_bus_client_gone(struct vublk_bus *bus)
{
	vublk_loop_timer_disarm(&bus->stop_timer);
	change_state(bus, VUBLK_BUS_EVENT_CLIENT_GONE, "the VMM is gone");
	bus->is_refused = false; /* the next one's rings may be taken */
	if (bus->state == VUBLK_BUS_LISTENING)
		accept_again(bus);
}

static int listen_at_path(struct vublk_bus *bus, struct vublk_error *error)
{
	bus->listen_fd = vublk_socket_listen_with(bus->path, &bus->access, error);
	if (bus->listen_fd < 0)
		return bus->listen_fd;
	bus->socket_file = vublk_socket_file(bus->path);
	return 0;
}

/* --- the back-end ---------------------------------------------------------- */

static bool is_server(const struct vublk_device *device)
{
	char value[32] = "";

	vublk_device_get_property(device, "server", value, sizeof(value), NULL);
	return !strcmp(value, "on");
}

static void note_backend(struct vublk_bus *bus)
{
	vublk_device_get_info(bus->device, &bus->backend, sizeof(bus->backend));
}

/* A reason is said once, however often it is found. */
static void retry(struct vublk_bus *bus, const struct vublk_error *error)
{
	bool known = bus->refusal.code == error->code && !strcmp(bus->refusal.text, error->text);

	vublk_log_limited(&bus->log, &bus->limit, known ? VUBLK_LOG_DEBUG : VUBLK_LOG_WARNING,
			  "there is no back-end yet: %s", error->text);
	bus->refusal = *error;
	vublk_loop_timer_arm(&bus->loop, &bus->retry_timer,
			     vublk_now_ns() + bus->retry_ms * NS_A_MS);
}

static void on_retry_timer(void *opaque)
{
	struct vublk_bus *bus = opaque;
	struct vublk_error error;

	if (vublk_device_realize(bus->device, &error) < 0)
		fail(bus, &error);
}

/*
 * A path that cannot become a socket and a bad property stay as they are, and the only
 * failure of a device that listens is that it cannot listen.
 */
static bool may_pass(const struct vublk_bus *bus, const struct vublk_error *error)
{
	return bus->retry_ms && !is_server(bus->device) && vublk_socket_may_appear(error->code);
}

void vublk_bus_on_realized(void *opaque, const struct vublk_error *refusal)
{
	struct vublk_bus *bus = opaque;
	struct vublk_error error;

	if (refusal) {
		error = *refusal;
		if (may_pass(bus, &error))
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
	change_state(bus, VUBLK_BUS_EVENT_REALIZED, "there is a back-end");
	vublk_log(&bus->log, VUBLK_LOG_INFO, "listening on %s: back-end %s, %u queues", bus->path,
		  bus->backend.chardev, vublk_device_num_queues(bus->device));
	accept_again(bus);
}

/*
 * A back-end that refuses the rings is lost like any other, and is found again. Its
 * refusal is said once, and that it is there again when it has taken them.
 */
void vublk_bus_note_stopped(struct vublk_bus *bus, const struct vublk_error *error)
{
	bus->is_refused |= error && !bus->runs;
	bus->runs = false;
}

static void say_there_again(struct vublk_bus *bus, bool is_news)
{
	vublk_log_limited(&bus->log, &bus->limit, is_news ? VUBLK_LOG_INFO : VUBLK_LOG_DEBUG,
			  "back-end %s is there again", bus->backend.chardev);
}

void vublk_bus_note_started(struct vublk_bus *bus)
{
	if (bus->is_refused)
		say_there_again(bus, true);
	bus->runs = true;
	bus->is_refused = false;
	bus->refusal.code = 0;
}

static bool is_known_refusal(const struct vublk_bus *bus, const struct vublk_error *error)
{
	return bus->is_refused && bus->refusal.code == error->code &&
	       !strcmp(bus->refusal.text, error->text);
}

void vublk_bus_on_disconnected(void *opaque, const struct vublk_error *error)
{
	struct vublk_bus *bus = opaque;

	bus->let_go = error->code == ECANCELED;
	if (!bus->retry_ms) {
		fail(bus, error);
		return;
	}
	if (bus->let_go) {
		vublk_log(&bus->log, VUBLK_LOG_DEBUG, "%s", error->text);
		return;
	}
	if (is_known_refusal(bus, error))
		vublk_log(&bus->log, VUBLK_LOG_DEBUG, "the disk waits still: %s", error->text);
	else
		vublk_log_limited(&bus->log, &bus->limit, VUBLK_LOG_WARNING,
				  "the disk waits for a back-end: %s", error->text);
	bus->refusal = *error;
}

void vublk_bus_on_reconnected(void *opaque)
{
	struct vublk_bus *bus = opaque;

	note_backend(bus);
	say_there_again(bus, !bus->let_go && !bus->is_refused);
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

/* --- opening --------------------------------------------------------------- */

static const struct vublk_bus_type *const types[] = { &vublk_bus_vhost_user, &vublk_bus_vfio_user };

static int find_type(const char *spec, const struct vublk_bus_type **type, const char **argument,
		     struct vublk_error *error)
{
	const char *colon = spec ? strchr(spec, ':') : NULL;
	size_t length = colon ? (size_t)(colon - spec) : 0;

	for (size_t i = 0; colon && colon[1] && i < VUBLK_ARRAY_SIZE(types); i++) {
		if (strlen(types[i]->name) != length || strncmp(spec, types[i]->name, length))
			continue;
		*type = types[i];
		*argument = colon + 1;
		return 0;
	}
	return vublk_error_set(error, EINVAL, "there is no bus '%s'; expected %s:PATH or %s:PATH",
			       spec ? spec : "", types[0]->name, types[1]->name);
}

/* Of every bus; overridden by what is given. */
/* Of the 256 queues that the protocol has, as many as 1,024 open files are enough for. */
static const struct vublk_option defaults[] = {
	{ "num-queues-limit", "128" },
	{ "realize-retries", "0" },
	{ VUBLK_MESSAGE_TIMEOUT_NAME, VUBLK_MESSAGE_TIMEOUT_DEFAULT },
	{ NULL },
};
#define DEFAULT_RECONNECT_MS "1000"

static const char *find_default(const struct vublk_option *list, const char *name)
{
	for (; list && list->name; list++)
		if (!strcmp(list->name, name))
			return list->value;
	return NULL;
}

const char *vublk_bus_default(const char *spec, const char *name)
{
	const struct vublk_bus_type *type = NULL;
	const char *argument, *value = NULL;

	if (!find_type(spec, &type, &argument, NULL))
		value = find_default(type->defaults, name);
	if (!value)
		value = find_default(defaults, name);
	if (!value && !strcmp(name, "reconnect-ms"))
		value = DEFAULT_RECONNECT_MS;
	return value;
}

static bool is_own(const struct vublk_bus_type *type, const char *name)
{
	for (const struct vublk_device_property *own = type->options; own && own->name; own++)
		if (!strcmp(own->name, name))
			return true;
	return false;
}

/* One of VUBLK_BUS_OPTIONS; 1: it is none of these. */
static int set_common_option(struct vublk_bus *bus, const struct vublk_option *option,
			     struct vublk_error *error)
{
	if (!strcmp(option->name, VUBLK_MESSAGE_TIMEOUT_NAME))
		return vublk_parse_u64(option->name, option->value, 0, VUBLK_MESSAGE_TIMEOUT_MAX_MS,
				       &bus->message_timeout_ms, error);
	if (!strcmp(option->name, VUBLK_SOCKET_MODE_NAME))
		return vublk_socket_access_parse_mode(option->value, &bus->access, error);
	if (!strcmp(option->name, VUBLK_SOCKET_GROUP_NAME))
		return vublk_socket_access_parse_group(option->value, &bus->access, error);
	return 1;
}

static int set_properties(struct vublk_bus *bus, const struct vublk_option *options,
			  bool *has_reconnect_ms, struct vublk_error *error)
{
	int r = 0;

	for (; options && options->name && !r; options++) {
		r = set_common_option(bus, options, error);
		if (r > 0 && is_own(bus->type, options->name))
			r = bus->type->set_option(bus, options, error);
		else if (r > 0)
			r = vublk_device_set_property(bus->device, options->name, options->value,
						      error);
		if (!strcmp(options->name, "reconnect-ms"))
			*has_reconnect_ms = true;
	}
	return r;
}

static uint64_t number_property(const struct vublk_device *device, const char *name)
{
	char value[32] = "";

	vublk_device_get_property(device, name, value, sizeof(value), NULL);
	return strtoull(value, NULL, 10);
}

/* Here and not when they are used, because that may be long after the start. */
static int check_paths(const struct vublk_bus *bus, struct vublk_error *error)
{
	char chardev[sizeof(bus->backend.chardev)] = "";
	int r;

	vublk_device_get_property(bus->device, "chardev", chardev, sizeof(chardev), NULL);
	if (!chardev[0])
		return 0; /* realize has the sentence */
	if (vublk_socket_is_same(chardev, bus->path))
		return vublk_error_set(error, EINVAL, "the bus and chardev are the same socket, "
				       "'%s'; give each its own path", bus->path);
	if (is_server(bus->device))
		r = vublk_socket_check_listen(chardev, error);
	else
		r = vublk_socket_check_connect(chardev, error);
	if (r < 0) {
		vublk_error_prepend(error, "chardev");
		return r;
	}
	r = vublk_socket_check_listen(bus->path, error);
	if (!r)
		r = vublk_socket_access_check(&bus->access, error);
	if (r < 0)
		vublk_error_prepend(error, "bus %s", bus->type->name);
	return r;
}

static int open_device(struct vublk_bus *bus, const struct vublk_option *properties,
		       struct vublk_error *error)
{
	bool has_reconnect_ms = false;
	int r = vublk_device_new(bus->type->device_ops, bus, &bus->log, &bus->device, error);

	if (!r && bus->type->open)
		r = bus->type->open(bus, error);
	if (!r)
		r = set_properties(bus, defaults, &has_reconnect_ms, error);
	if (!r)
		r = set_properties(bus, bus->type->defaults, &has_reconnect_ms, error);
	if (!r)
		r = set_properties(bus, properties, &has_reconnect_ms, error);
	if (!r && !has_reconnect_ms && !is_server(bus->device))
		r = vublk_device_set_property(bus->device, "reconnect-ms", DEFAULT_RECONNECT_MS,
					      error);
	if (r < 0)
		return r;
	bus->retry_ms = is_server(bus->device) ? SERVER_RETRY_MS :
						 number_property(bus->device, "reconnect-ms");
	bus->device_source = (struct vublk_loop_source){ .fn = on_device, .opaque = bus };
	r = vublk_loop_add(&bus->loop, &bus->device_source, vublk_device_fd(bus->device), EPOLLIN,
			   error);
	if (!r)
		r = vublk_device_realize(bus->device, error);
	return r < 0 ? r : check_paths(bus, error);
}

static int watch_eventfd(struct vublk_bus *bus, int *fd, struct vublk_loop_source *source,
			 void (*fn)(void *opaque, uint32_t events), struct vublk_error *error)
{
	*fd = vublk_eventfd_new();
	if (*fd < 0)
		return vublk_error_set_errno(error, -*fd, "cannot create an eventfd");
	*source = (struct vublk_loop_source){ .fn = fn, .opaque = bus };
	return vublk_loop_add(&bus->loop, source, *fd, EPOLLIN, error);
}

static int open_loop(struct vublk_bus *bus, struct vublk_error *error)
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

int vublk_bus_open(const char *spec, const struct vublk_option *device_properties,
		   const struct vublk_log *log, struct vublk_bus **result,
		   struct vublk_error *error)
{
	const struct vublk_bus_type *type;
	const char *argument = NULL;
	struct vublk_bus *bus;
	int r = find_type(spec, &type, &argument, error);

	if (r < 0)
		return r;
	bus = calloc(1, sizeof(*bus));
	if (!bus)
		return vublk_error_set_errno(error, ENOMEM, "cannot make a bus");
	bus->type = type;
	bus->listen_fd = bus->stop_fd = bus->refresh_fd = -1;
	if (log)
		bus->log = *log;
	bus->path = strdup(argument);
	r = bus->path ? open_loop(bus, error) :
			vublk_error_set_errno(error, ENOMEM, "cannot keep the socket's path");
	if (!r)
		r = open_device(bus, device_properties, error);
	if (r < 0) {
		vublk_bus_free(bus);
		return r;
	}
	*result = bus;
	return 0;
}

const struct vublk_device_property *vublk_bus_options(const char *spec)
{
	static const struct vublk_device_property none = { NULL };
	const struct vublk_bus_type *type;
	const char *argument;

	return find_type(spec, &type, &argument, NULL) || !type->options ? &none : type->options;
}

/* --- running --------------------------------------------------------------- */

int vublk_bus_fd(const struct vublk_bus *bus)
{
	return vublk_loop_fd(&bus->loop);
}

static int process(struct vublk_bus *bus, int timeout_ms, struct vublk_error *error)
{
	int r = 0;

	if (bus->state != VUBLK_BUS_FINISHED)
		r = vublk_loop_process(&bus->loop, timeout_ms);
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
	if (bus->device)
		vublk_device_unrealize(bus->device); /* it borrows what the client has */
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
	if (bus->has_loop)
		vublk_loop_deinit(&bus->loop);
	if (bus->listen_fd >= 0)
		vublk_socket_remove(bus->path, bus->socket_file);
	vublk_fd_close(&bus->listen_fd);
	vublk_fd_close(&bus->stop_fd);
	vublk_fd_close(&bus->refresh_fd);
	free(bus->path);
	free(bus);
}
