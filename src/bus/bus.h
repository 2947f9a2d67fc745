/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BUS_BUS_H
#define VUBLK_BUS_BUS_H

/*
 * The object behind the public <vublk/bus.h>: the device, its loop, the socket, and one
 * client (a VMM) at a time. What a client may say is the matter of the bus's type.
 */
#include "proto/message-timeout.h"
#include "proto/socket-access.h"
#include "util/log.h"
#include "util/loop.h"

#include <vublk/bus.h>
#include <vublk/device.h>

#include <sys/types.h>

/* docs/architecture.md tells of it; the table is in bus.c. */
enum vublk_bus_state {
	VUBLK_BUS_REALIZING, /* there has been no back-end yet, and no socket */
	VUBLK_BUS_LISTENING,
	VUBLK_BUS_SERVING,
	VUBLK_BUS_STOPPING,  /* the client has to go */
	VUBLK_BUS_FINISHED,
	VUBLK_BUS_NUM_STATES,
};

enum vublk_bus_event {
	VUBLK_BUS_EVENT_REALIZED,
	VUBLK_BUS_EVENT_CLIENT,
	VUBLK_BUS_EVENT_CLIENT_GONE,
	VUBLK_BUS_EVENT_STOP, /* asked for, or nothing can be served any more */
	VUBLK_BUS_NUM_EVENTS,
};

struct vublk_bus;

/* Every type has them, for bus.c. */
#define VUBLK_BUS_OPTIONS                                                                     \
	{ VUBLK_MESSAGE_TIMEOUT_NAME, "number", VUBLK_MESSAGE_TIMEOUT_DEFAULT,                \
	  VUBLK_MESSAGE_TIMEOUT_TEXT },                                                       \
	{ VUBLK_SOCKET_MODE_NAME, "octal", NULL, VUBLK_SOCKET_MODE_TEXT },                    \
	{ VUBLK_SOCKET_GROUP_NAME, "string", NULL, VUBLK_SOCKET_GROUP_TEXT }

struct vublk_bus_type {
	const char *name;
	/* Its own, beside the device's properties, ended by a NULL name; NULL: none. */
	const struct vublk_device_property *options;
	int (*set_option)(struct vublk_bus *bus, const struct vublk_option *option,
			  struct vublk_error *error);
	/* What makes sense here and not for every device: properties, ended by a NULL name. */
	const struct vublk_option *defaults;
	/*
	 * What it keeps from one client to the next, in bus->own: open() before options are
	 * set, ready() when the device is realized, free() when it is not any more. NULL:
	 * nothing.
	 */
	int (*open)(struct vublk_bus *bus, struct vublk_error *error);
	int (*ready)(struct vublk_bus *bus, struct vublk_error *error);
	void (*free)(struct vublk_bus *bus);
	/*
	 * The device calls them with the bus as `bus`. Among them are realized,
	 * disconnected, reconnected and gave_up, which are vublk_bus_on_...() below.
	 */
	const struct vublk_device_bus_ops *device_ops;
	/* A client on `fd`, which is taken over, also on failure. Sets bus->client. */
	int (*serve)(struct vublk_bus *bus, int fd, struct vublk_error *error);
	/* The client has to go; vublk_bus_client_gone() follows, from the loop. */
	void (*end)(struct vublk_bus *bus);
	/* At once. */
	void (*free_client)(struct vublk_bus *bus);
};

struct vublk_bus {
	const struct vublk_bus_type *type;
	struct vublk_log log;
	struct vublk_log_limit limit;
	int stop_fd, refresh_fd; /* any thread signals them */

	/* the thread's */
	enum vublk_bus_state state;
	int result; /* why it is over, when it was not asked for */
	struct vublk_error error;
	struct vublk_loop loop;
	bool has_loop;
	struct vublk_loop_source stop_source, refresh_source;
	struct vublk_device *device;
	struct vublk_loop_source device_source;
	struct vublk_device_info backend; /* the last one that there was */
	uint64_t retry_ms;                /* before the first one; 0: it is tried once */
	struct vublk_loop_timer retry_timer;
	struct vublk_error refusal;       /* of the last back-end that refused; said once */
	bool let_go;                      /* the last one was not lost, and nobody is told */
	bool runs;                        /* it has the rings, and has taken them */
	bool is_refused;                  /* since the rings ran, one did not take them */

	char *path;
	struct vublk_socket_access access; /* of its file */
	int listen_fd;
	uint64_t message_timeout_ms;
	ino_t socket_file;
	struct vublk_loop_source listen_source;
	struct vublk_loop_timer listen_timer;
	struct vublk_loop_timer stop_timer; /* while the rings are awaited */
	void *client; /* the type's; NULL: nobody is connected */
	void *own;    /* the same, of no client; NULL: nothing */
};

extern const struct vublk_bus_type vublk_bus_vhost_user, vublk_bus_vfio_user;

/* What the table says; -1: the event does not occur in this state. */
int vublk_bus_next_state(enum vublk_bus_state state, enum vublk_bus_event event);
const char *vublk_bus_state_name(enum vublk_bus_state state);

/* The client is freed: the next one is let in, or the bus is finished. From the loop. */
void vublk_bus_client_gone(struct vublk_bus *bus);

void vublk_bus_on_realized(void *bus, const struct vublk_error *error);
/* From the type's own started() and stopped(): whether a back-end took the rings. */
void vublk_bus_note_started(struct vublk_bus *bus);
void vublk_bus_note_stopped(struct vublk_bus *bus, const struct vublk_error *error);
void vublk_bus_on_disconnected(void *bus, const struct vublk_error *error);
void vublk_bus_on_reconnected(void *bus);
void vublk_bus_on_gave_up(void *bus, const struct vublk_error *error);

#endif
