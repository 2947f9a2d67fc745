/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_ENGINES_NBD_NBD_H
#define VUBLK_ENGINES_NBD_NBD_H

/*
 * The interfaces between the files of the engine nbd. nbd.c is the engine and its queues, order.c
 * decides when a request may begin, connection.c executes requests on a connection, and loss.c knows
 * whether a lost server may have lost completed writes.
 */
#include <vublk/engine.h>

#include <libnbd.h>
#include <pthread.h>
#include <stdatomic.h>

#define NBD_MAX_CONNECTIONS 16

struct nbd_engine;
struct nbd_connection;

/* A request, from submit() until it is in the list of complete requests of its queue. */
struct nbd_request {
	struct vublk_engine_io *io;
	struct nbd_queue *queue;

	/* the list of order.c, oldest first; under its lock */
	struct nbd_request *older, *newer;
	bool is_blocked; /* waits for an older request that overlaps it */

	/* the list of the connection */
	struct nbd_request *next;
	bool is_sent, is_done, needs_flush;
	int error;        /* 0 or a negative errno */
	uint64_t done_bytes;
	char *piece;      /* the data of the piece that is under way; NULL: none */
	uint64_t piece_bytes;
	unsigned num_losses;  /* of the engine, at submit() */
	uint64_t num_written; /* a flush: of the engine, when the flush was sent */
};

/* All requests of the disk that are not complete; see order.c. */
struct nbd_order {
	pthread_mutex_t lock;
	struct nbd_request *newest;
	unsigned num_blocked;
};

struct nbd_queue {
	struct vublk_engine_queue queue; /* the first member */
	struct nbd_connection *connection;
	pthread_mutex_t lock;
	struct vublk_engine_io *done, *last_done; /* under the lock */
	atomic_bool has_done; /* may be loaded without the lock */
	unsigned num_reported; /* losses that a flush has reported; used by the connection's thread */
};

/* What a server says about its export. */
struct nbd_export {
	uint64_t size_bytes;
	uint32_t min_block, preferred_block, max_bytes;
	bool read_only, multi_conn, flush, fua, trim, zero;
};

/* A connection, and the thread that executes requests on it. */
struct nbd_connection {
	/* constant */
	struct nbd_engine *engine;
	pthread_t thread;
	bool has_thread;
	int wake_fd;

	pthread_mutex_t lock;
	struct nbd_request *first_new, *last_new; /* under the lock: submitted since the thread looked */
	atomic_bool quit;
	atomic_uint generation; /* see loss.c */

	/* used by the thread */
	struct nbd_handle *handle; /* NULL: not connected */
	struct nbd_export export;
	bool is_lost;
	bool has_succeeded;   /* a command has, since the connection was made */
	int64_t connected_ms; /* the time of the last connection */
	int64_t retry_at_ms;  /* the earliest time of the next one */
	int retry_ms;         /* how long the last loss has delayed it */
	struct nbd_request *first, *last; /* oldest first */
	uint64_t sent_bytes; /* the memory of all pieces */
};

struct nbd_engine {
	struct vublk_engine engine; /* the first member */
	struct vublk_engine_host *host;
	char *uri;
	struct nbd_export export;  /* at the opening */
	_Atomic uint64_t size_now; /* the size that the last connection has found */
	struct nbd_order order;
	unsigned num_connections;
	struct nbd_connection connections[NBD_MAX_CONNECTIONS];
	atomic_uint num_queues;

	/* see loss.c */
	bool trusts_unflushed;
	atomic_uint generation;       /* losses of a server */
	atomic_uint num_losses;       /* those after which flushes fail */
	_Atomic uint64_t num_written; /* complete writes and zeroes that need a flush */
	_Atomic uint64_t num_flushed; /* those that are flushed, or whose loss is reported */
};

/* --- order.c --- */

/* Adds a request. Returns whether it may begin; otherwise vublk_nbd_order_remove() starts it later. */
bool vublk_nbd_order_add(struct nbd_order *order, struct nbd_request *request);
/* Removes a complete request, and gives the requests that waited for it to their connections. */
void vublk_nbd_order_remove(struct nbd_order *order, struct nbd_request *request);

/* --- loss.c --- */

/* Returns whether another connection has been lost since this one was made. */
bool vublk_nbd_loss_is_outdated(const struct nbd_connection *connection);
/* Must be called for each new connection, with the engine's generation before it was made. */
void vublk_nbd_loss_connected(struct nbd_connection *connection, unsigned generation);
/* Must be called for each lost connection. */
void vublk_nbd_loss_disconnected(struct nbd_connection *connection);
/* Returns whether a flush on any connection covers the writes of all of them. */
bool vublk_nbd_loss_may_flush(struct nbd_engine *engine);
/* Records that the first `written` writes are flushed. */
void vublk_nbd_loss_flushed(struct nbd_engine *engine, uint64_t written);
/* Returns whether a flush must fail, because completed writes may be lost. */
bool vublk_nbd_loss_fails_flush(const struct nbd_request *request);

/* --- connection.c --- */

/* Returns why the disk cannot use this server with that many connections, or NULL. */
const char *vublk_nbd_find_misfit(const struct nbd_engine *engine, const struct nbd_export *export,
				  unsigned num_connections);

/* Connects and reads what the server says. Gives up after `timeout_ms`. */
int vublk_nbd_connection_open(struct nbd_connection *connection, int timeout_ms,
			struct vublk_error *error);
/* Closes the connection to the server. No-op if there is none. */
void vublk_nbd_connection_disconnect(struct nbd_connection *connection);
/* Makes the thread look for work. Any thread may call this. */
void vublk_nbd_connection_wake(struct nbd_connection *connection);
/* Starts the thread. */
int vublk_nbd_connection_start(struct nbd_connection *connection, struct vublk_error *error);
/* Ends the thread, if there is one, and closes the connection. */
void vublk_nbd_connection_close(struct nbd_connection *connection);
/* Gives a request to the connection. Any thread may call this. */
void vublk_nbd_connection_submit(struct nbd_connection *connection, struct nbd_request *request);

/* --- nbd.c --- */

/* Reports a request as complete and frees it. */
void vublk_nbd_queue_complete(struct nbd_request *request);

#endif
