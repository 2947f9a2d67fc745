/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BUS_BUS_H
#define VUBLK_BUS_BUS_H

/*
 * The object behind the public <vublk/bus.h>. A bus owns a device, an event loop and a listening
 * socket, and serves one client (a VMM) at a time. The type of the bus implements the protocol that
 * the client speaks.
 */
#include "proto/message-timeout.h"
#include "proto/socket-access.h"
#include "handover/upgrade.h"
#include "util/log.h"
#include "util/loop.h"
#include "util/notice.h"
#include "util/sections.h"

#include <vublk/bus.h>
#include <vublk/device.h>
#include <vublk/mirror.h>
#include <vublk/paths.h>

#include <sys/types.h>

/* docs/architecture.md describes the states, and bus.c has the table of transitions. */
enum vublk_bus_state {
	VUBLK_BUS_REALIZING, /* waits for the first back-end, and does not listen yet */
	VUBLK_BUS_LISTENING,
	VUBLK_BUS_SERVING,
	VUBLK_BUS_STOPPING,  /* is disconnecting the client and reclaiming the rings */
	VUBLK_BUS_FINISHED,
	VUBLK_BUS_NUM_STATES,
};

enum vublk_bus_event {
	VUBLK_BUS_EVENT_REALIZED,
	VUBLK_BUS_EVENT_CLIENT,
	VUBLK_BUS_EVENT_CLIENT_GONE,
	VUBLK_BUS_EVENT_STOP, /* vublk_bus_stop() was called, or the bus has failed permanently */
	VUBLK_BUS_EVENT_HANDED_OVER, /* another process has taken over */
	VUBLK_BUS_NUM_EVENTS,
};

struct vublk_bus;

#define VUBLK_BUS_FD_NAME "fd"

/* The options that all types have in common. open.c parses them. */
#define VUBLK_BUS_OPTIONS                                                                     \
	{ VUBLK_MESSAGE_TIMEOUT_NAME, "number", VUBLK_MESSAGE_TIMEOUT_DEFAULT,                \
	  VUBLK_MESSAGE_TIMEOUT_TEXT },                                                       \
	{ VUBLK_SOCKET_MODE_NAME, "octal", NULL, VUBLK_SOCKET_MODE_TEXT },                    \
	{ VUBLK_SOCKET_GROUP_NAME, "string", NULL, VUBLK_SOCKET_GROUP_TEXT },                 \
	{ VUBLK_BUS_FD_NAME, "number", NULL,                                                  \
	  "descriptor of a Unix stream socket that already listens, to be used instead of a new one" }

/* The functions that hand a bus of this type to another process (upgrade/). */
struct vublk_bus_handover_ops {
	/*
	 * Returns why the client cannot be handed over at this moment, as a static string, or NULL
	 * if it can.
	 */
	const char *(*obstacle)(const struct vublk_bus *bus);
	/* Writes the client's sections, if a client is connected. */
	void (*give)(const struct vublk_bus *bus, struct vublk_sections_writer *to);
	/*
	 * The types of the sections that give() writes. The process that takes over reads these
	 * sections after those of the device, and passes the bus to their read() functions.
	 */
	const struct vublk_section_type *sections;
	/* Called in the new process after all sections have been read. */
	void (*end)(struct vublk_bus *bus);
	/* Called in the new process when it has taken over and has told the old process so. */
	void (*begin)(struct vublk_bus *bus);
};

struct vublk_bus_type {
	const char *name;
	/*
	 * The options that this type has in addition to the device's properties. The list ends with
	 * a NULL name. May be NULL.
	 */
	const struct vublk_property *options;
	int (*set_option)(struct vublk_bus *bus, const struct vublk_option *option,
			  struct vublk_error *error);
	/*
	 * The properties for which this type has defaults of its own, with these defaults. The list
	 * ends with a NULL name. May be NULL.
	 */
	const struct vublk_option *defaults;
	/*
	 * These functions manage bus->own, the state that the type keeps from one client to the
	 * next. open() is called before options are set, ready() once the device is realized,
	 * free() after the device is unrealized. Each may be NULL.
	 */
	int (*open)(struct vublk_bus *bus, struct vublk_error *error);
	int (*ready)(struct vublk_bus *bus, struct vublk_error *error);
	void (*free)(struct vublk_bus *bus);
	/*
	 * The device's callbacks; their argument `bus` is the struct vublk_bus. The callbacks
	 * realized, lost, reconnected and gave_up must be the vublk_bus_on_...() functions below,
	 * or call them.
	 */
	const struct vublk_device_bus_ops *device_ops;
	/*
	 * Begins to serve a client on `fd`, and sets bus->client. Takes ownership of `fd`, even on
	 * failure.
	 */
	int (*serve)(struct vublk_bus *bus, int fd, struct vublk_error *error);
	/*
	 * Begins to disconnect the client. vublk_bus_client_gone() is called during this call, or
	 * later from the loop.
	 */
	void (*end)(struct vublk_bus *bus);
	/* Frees the client immediately. */
	void (*free_client)(struct vublk_bus *bus);
	const struct vublk_bus_handover_ops *handover; /* NULL: the bus cannot be handed over */
};

struct vublk_bus {
	const struct vublk_bus_type *type;
	struct vublk_log log;
	struct vublk_log_limit limit;
	struct vublk_notifier notifier; /* for notices about the client; all other notices come from
					   the device */
	int stop_fd, refresh_fd; /* any thread may signal these */

	/* used only by the thread that runs the loop */
	enum vublk_bus_state state;
	int result; /* negative errno of the failure that ended the bus, or 0 */
	struct vublk_error error;
	struct vublk_loop loop;
	bool has_loop;
	struct vublk_loop_source stop_source, refresh_source;
	struct vublk_device *device;
	struct vublk_loop_source device_source;
	struct vublk_device_info backend; /* the result of the negotiation with the latest
					     back-end */
	uint64_t retry_ms;                /* the pause between attempts until the first back-end is
					     connected; 0: there is only one attempt, and the loss
					     of the back-end ends the bus */
	struct vublk_loop_timer retry_timer;
	uint64_t lost_ns;                 /* when the current outage began; 0: no outage */
	uint64_t outages;
	uint64_t ended_outages_ns, reconnects; /* total time and number of the outages that have
						  ended */
	struct vublk_error refusal;       /* the latest reason why there was no back-end */
	bool is_expected_loss;            /* the device itself closed the connection, so the loss is
					     not worth a warning */
	bool runs;                        /* the back-end has accepted the rings, and they run */
	bool is_refused;                  /* a back-end has refused the rings since they last ran */

	char *path;
	struct vublk_socket_access access; /* mode and group of the socket file */
	int listen_fd;
	uint64_t message_timeout_ms;
	ino_t socket_file;
	struct vublk_loop_source listen_source;
	struct vublk_loop_timer listen_timer;
	struct vublk_loop_timer stop_timer; /* armed while a stop waits until the rings are
					       reclaimed */
	int64_t client_pid; /* 0: unknown */
	void *client; /* the type's object for the client, owned by the type; NULL: no client is
			 connected */
	void *own;    /* the type's object that outlives clients, owned by the type; may be NULL */

	struct vublk_upgrade_host upgrade;
};

extern const struct vublk_bus_type vublk_bus_vhost_user, vublk_bus_vfio_user;

/* --- bus.c, for open.c ------------------------------------------------------ */

int vublk_bus_open_loop(struct vublk_bus *bus, struct vublk_error *error);
/* Adds bus->device to the loop. */
int vublk_bus_watch_device(struct vublk_bus *bus, struct vublk_error *error);
/* Returns whether the device listens at the back-end's path instead of connecting to it. */
bool vublk_bus_is_server(const struct vublk_bus *bus);

/* --- open.c, for upgrade/ ----------------------------------------------------- */

/* Like vublk_bus_open(), but neither realizes the device nor checks the paths. */
int vublk_bus_prepare(const char *spec, const struct vublk_option *options,
		      const struct vublk_log *log, struct vublk_bus **bus,
		      struct vublk_error *error);

/* --- bus.c, for upgrade/ -------------------------------------------------------- */

/*
 * Called when another process has taken over the disk. Finishes the bus without touching the disk.
 * `why` is for the log.
 */
void vublk_bus_finish_handed_over(struct vublk_bus *bus, const char *why);
/*
 * Puts a prepared bus into `state`, which it had in the old process. If `state` is LISTENING,
 * watches the listening socket.
 */
int vublk_bus_adopt(struct vublk_bus *bus, enum vublk_bus_state state, struct vublk_error *error);

/* --- bus.c, for the types and tests ----------------------------------------- */

/* Returns the next state according to the table, or -1 if the event has no effect in this state. */
int vublk_bus_next_state(enum vublk_bus_state state, enum vublk_bus_event event);
const char *vublk_bus_state_name(enum vublk_bus_state state);

/* Notifies the application that the client, or one of its messages, was refused. */
void vublk_bus_notify_refused(struct vublk_bus *bus, const struct vublk_error *error);
/* Called when the type has released its client. Accepts the next client, or finishes the bus. */
void vublk_bus_client_gone(struct vublk_bus *bus);

void vublk_bus_on_realized(void *bus, const struct vublk_error *error);
/*
 * Records that the back-end has accepted the rings. The type's callback started() must call this
 * function.
 */
void vublk_bus_note_started(struct vublk_bus *bus);
/*
 * Records that the rings do not run. If there is an error and the rings had not started, also
 * records that the back-end has refused them. The type's callback stopped() must call this
 * function.
 */
void vublk_bus_note_stopped(struct vublk_bus *bus, const struct vublk_error *error);

void vublk_bus_on_lost(void *bus, const struct vublk_error *error);
void vublk_bus_on_reconnected(void *bus);
void vublk_bus_on_gave_up(void *bus, const struct vublk_error *error);

#endif
