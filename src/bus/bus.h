/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BUS_BUS_H
#define VUBLK_BUS_BUS_H

/*
 * The object behind the public <vublk/bus.h>: the device, its loop, the socket, and one
 * client (a VMM) at a time. The bus's type implements the client's protocol.
 */
#include "proto/message-timeout.h"
#include "proto/socket-access.h"
#include "util/log.h"
#include "util/loop.h"

#include <vublk/bus.h>
#include <vublk/device.h>

#include <sys/types.h>

/* docs/architecture.md describes the states; the table of transitions is in bus.c. */
enum vublk_bus_state {
	VUBLK_BUS_REALIZING, /* waits for its first back-end; has no socket yet */
	VUBLK_BUS_LISTENING,
	VUBLK_BUS_SERVING,
	VUBLK_BUS_STOPPING,  /* disconnects the client, then waits for the rings */
	VUBLK_BUS_FINISHED,
	VUBLK_BUS_NUM_STATES,
};

enum vublk_bus_event {
	VUBLK_BUS_EVENT_REALIZED,
	VUBLK_BUS_EVENT_CLIENT,
	VUBLK_BUS_EVENT_CLIENT_GONE,
	VUBLK_BUS_EVENT_STOP, /* requested, or the bus has failed permanently */
	VUBLK_BUS_NUM_EVENTS,
};

struct vublk_bus;

/* Options that every type has; open.c sets them. */
#define VUBLK_BUS_OPTIONS                                                                     \
	{ VUBLK_MESSAGE_TIMEOUT_NAME, "number", VUBLK_MESSAGE_TIMEOUT_DEFAULT,                \
	  VUBLK_MESSAGE_TIMEOUT_TEXT },                                                       \
	{ VUBLK_SOCKET_MODE_NAME, "octal", NULL, VUBLK_SOCKET_MODE_TEXT },                    \
	{ VUBLK_SOCKET_GROUP_NAME, "string", NULL, VUBLK_SOCKET_GROUP_TEXT }

struct vublk_bus_type {
	const char *name;
	/* Options in addition to the device's properties, up to a NULL name. May be NULL. */
	const struct vublk_property *options;
	int (*set_option)(struct vublk_bus *bus, const struct vublk_option *option,
			  struct vublk_error *error);
	/* Defaults of properties that differ on this bus, up to a NULL name. May be NULL. */
	const struct vublk_option *defaults;
	/*
	 * These functions manage bus->own, the state that outlives a client: open() runs before
	 * options are set, ready() when the device is realized, free() after it has been
	 * unrealized. Each may be NULL.
	 */
	int (*open)(struct vublk_bus *bus, struct vublk_error *error);
	int (*ready)(struct vublk_bus *bus, struct vublk_error *error);
	void (*free)(struct vublk_bus *bus);
	/*
	 * The device calls these functions with the bus as `bus`. The functions for realized, lost,
	 * reconnected and gave_up are the vublk_bus_on_...() below, or call these.
	 */
	const struct vublk_device_bus_ops *device_ops;
	/* Serves a client on `fd`, owns `fd` even on failure, and sets bus->client. */
	int (*serve)(struct vublk_bus *bus, int fd, struct vublk_error *error);
	/* Begins to disconnect the client; vublk_bus_client_gone() follows, from the loop. */
	void (*end)(struct vublk_bus *bus);
	/* Frees the client immediately. */
	void (*free_client)(struct vublk_bus *bus);
};

struct vublk_bus {
	const struct vublk_bus_type *type;
	struct vublk_log log;
	struct vublk_log_limit limit;
	int stop_fd, refresh_fd; /* signalled by any thread */

	/* owned by the thread that runs the loop */
	enum vublk_bus_state state;
	int result; /* negative errno of the failure that ended the bus, or 0 */
	struct vublk_error error;
	struct vublk_loop loop;
	bool has_loop;
	struct vublk_loop_source stop_source, refresh_source;
	struct vublk_device *device;
	struct vublk_loop_source device_source;
	struct vublk_device_info backend; /* the latest one that connected */
	uint64_t retry_ms;                /* pause between tries until a back-end connects; 0: one try */
	struct vublk_loop_timer retry_timer;
	uint64_t lost_ns;                 /* when the present outage began; 0: there is none */
	uint64_t outages;
	struct vublk_error refusal;       /* the latest reason for having no back-end; logged once */
	bool is_expected_loss;            /* we closed the connection, so the log has no warning */
	bool runs;                        /* the back-end has accepted the rings */
	bool is_refused;                  /* a back-end has refused the rings since they last ran */

	char *path;
	struct vublk_socket_access access; /* mode and group of the socket's file */
	int listen_fd;
	uint64_t message_timeout_ms;
	ino_t socket_file;
	struct vublk_loop_source listen_source;
	struct vublk_loop_timer listen_timer;
	struct vublk_loop_timer stop_timer; /* while a stop waits for the rings */
	int64_t client_pid; /* 0: unknown */
	void *client; /* owned by the type; NULL: no client is connected */
	void *own;    /* owned by the type, outlives clients; may be NULL */
};

extern const struct vublk_bus_type vublk_bus_vhost_user, vublk_bus_vfio_user;

/* --- bus.c, for open.c ------------------------------------------------------ */

int vublk_bus_open_loop(struct vublk_bus *bus, struct vublk_error *error);
/* Makes the loop process bus->device. */
int vublk_bus_watch_device(struct vublk_bus *bus, struct vublk_error *error);
/* Whether the device listens at the back-end's path instead of connecting to it. */
bool vublk_bus_is_server(const struct vublk_bus *bus);

/* --- bus.c, for the types and tests ----------------------------------------- */

/* The next state by the table; -1: the event cannot occur in this state. */
int vublk_bus_next_state(enum vublk_bus_state state, enum vublk_bus_event event);
const char *vublk_bus_state_name(enum vublk_bus_state state);

/* The client has been freed: accepts the next one or finishes the bus. Call it from the loop. */
void vublk_bus_client_gone(struct vublk_bus *bus);

void vublk_bus_on_realized(void *bus, const struct vublk_error *error);
/* The type's started() and stopped() call these: they note whether a back-end accepts the rings. */
void vublk_bus_note_started(struct vublk_bus *bus);
void vublk_bus_note_stopped(struct vublk_bus *bus, const struct vublk_error *error);
void vublk_bus_on_lost(void *bus, const struct vublk_error *error);
void vublk_bus_on_reconnected(void *bus);
void vublk_bus_on_gave_up(void *bus, const struct vublk_error *error);

#endif
