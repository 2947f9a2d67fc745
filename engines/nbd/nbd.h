/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_ENGINES_NBD_NBD_H
#define VUBLK_ENGINES_NBD_NBD_H

/*
 * The interfaces between the files of the engine nbd:
 *
 *   nbd.c         the engine, its options and its opening
 *   queue.c       a worker's access to the engine
 *   order.c       when a change of the disk may begin
 *   connection.c  executes requests on a connection
 *   wire.c        requests and replies as bytes
 *   attempt.c     connects with libnbd
 *   connect.c     the connection that libnbd has made
 *   connector.c   the thread that connects again
 *   bridge.c      a connection with TLS
 *   loss.c        whether a lost server may have lost completed writes
 *
 * The first queue that uses a connection becomes its owner. Only the owner's thread sends and
 * receives on the connection, which therefore needs no lock. Other queues that share the connection
 * pass their requests to the owner.
 */
#include <vublk/engine.h>

#include <libnbd.h>
#include <pthread.h>
#include <stdatomic.h>

#define NBD_MAX_CONNECTIONS 16
#define NBD_MAX_CLAIMS 2
#define NBD_NUM_BUCKETS 1024
#define NBD_NUM_SLOTS 512

struct nbd_engine;
struct nbd_connection;
struct nbd_queue;
struct nbd_request;
struct nbd_bridge;
struct nbd_attempt;

/* The entry of a change in one of the lists of order.c. */
struct nbd_claim {
	struct nbd_request *request;
	struct nbd_claim *next, **link; /* `link` points to the pointer to this claim */
};

/* Requests, oldest first. */
struct nbd_list {
	struct nbd_request *first, *last;
};

/* A request, from submit() until poll() returns it. */
struct nbd_request {
	struct vublk_engine_io *io;
	struct nbd_queue *queue;
	struct nbd_request *next; /* in the list that has the request */

	/* used by order.c, under the engine's lock */
	uint64_t number; /* an older change has a smaller number */
	unsigned num_claims;
	struct nbd_claim claims[NBD_MAX_CLAIMS];
	struct nbd_list waiters; /* newer changes that wait for this one */

	/* used by the owner of the connection */
	int error;           /* 0 or a negative errno */
	bool needs_flush;    /* all data is written, and a flush must follow */
	uint64_t done_bytes; /* the total size of the pieces that the server has executed */
	uint64_t piece_bytes; /* the size of the piece that the server is executing */
	unsigned num_losses;  /* the engine's num_losses when the request was submitted */
	uint64_t num_written; /* of a flush: how many writes had completed when it was sent */
};

static inline void vublk_nbd_list_append(struct nbd_list *list, struct nbd_request *request)
{
	request->next = NULL;
	if (list->first)
		list->last->next = request;
	else
		list->first = request;
	list->last = request;
}

/* Returns the oldest request and removes it. The list must not be empty. */
static inline struct nbd_request *vublk_nbd_list_take(struct nbd_list *list)
{
	struct nbd_request *request = list->first;

	list->first = request->next;
	return request;
}

/* Moves all requests of `from` to the end of `list`. */
static inline void vublk_nbd_list_move(struct nbd_list *list, struct nbd_list *from)
{
	if (!from->first)
		return;
	if (list->first)
		list->last->next = from->first;
	else
		list->first = from->first;
	list->last = from->last;
	from->first = NULL;
}

/* The outstanding changes of the disk; see order.c. Protected by the engine's lock. */
struct nbd_order {
	uint64_t last_number;
	struct nbd_claim *buckets[NBD_NUM_BUCKETS];
	struct nbd_claim *wide; /* changes that touch more than NBD_MAX_CLAIMS chunks */
};

struct nbd_queue {
	struct vublk_engine_queue queue; /* the first member; its fd is an epoll descriptor */
	int wake_fd;            /* an eventfd, in the epoll descriptor */
	unsigned index;         /* constant */
	struct nbd_queue *next; /* in the list of all queues, under the engine's lock */

	/* used by the queue's thread */
	struct nbd_connection *connection; /* see vublk_nbd_queue_connection() */
	bool is_woken;             /* woken() was called, so the next poll() receives */
	struct nbd_list submitted; /* the requests since the last commit() */
	struct nbd_list done;
	struct nbd_list unused;          /* structs that new requests reuse */
	struct vublk_engine_io *failed;  /* requests for which there was no memory */
	bool has_changes;                /* `submitted` contains a change */

	/* written under the engine's lock */
	atomic_bool is_signalled; /* the eventfd is readable; may be loaded without the lock */
	struct nbd_list passed_done; /* requests that the owner of the connection has completed */

	/* used by the owners of the connections that have requests of this queue */
	atomic_uint num_reported; /* losses that a flush has reported */
};

/* The properties of an export, as the server reports them. */
struct nbd_export {
	uint64_t size_bytes;
	uint32_t min_block, preferred_block, max_bytes;
	bool read_only, multi_conn, flush, fua, trim, zero;
};

/* Bytes that are to be sent to the server, or were received from it. */
struct nbd_buffer {
	char *bytes;
	size_t begin, end;
};

/* A request that the server has not answered. */
struct nbd_slot {
	struct nbd_request *request; /* NULL: unused */
	uint64_t cookie;
};

/* The header of a request, as it is sent. All numbers are big-endian. */
struct nbd_request_header {
	uint32_t magic;
	uint16_t flags, command;
	uint64_t cookie, offset;
	uint32_t bytes;
} __attribute__((packed));
_Static_assert(sizeof(struct nbd_request_header) == 28, "the header of a request");

/* A simple reply, as it is sent. The data of a read follows. */
struct nbd_reply {
	uint32_t magic, error;
	uint64_t cookie;
};
_Static_assert(sizeof(struct nbd_reply) == 16, "a simple reply");

#define NBD_REPLY_MAGIC 0x67446698u

/* The transmission phase of the NBD protocol; see wire.c. */
struct nbd_wire {
	int fd;
	struct nbd_buffer out, in;
	struct nbd_slot slots[NBD_NUM_SLOTS];
	uint16_t free_slots[NBD_NUM_SLOTS]; /* a stack */
	unsigned num_free;
	uint64_t last_cookie;
	struct nbd_request *sending; /* a write whose data is not completely in `out`; NULL: none */
	struct nbd_slot *receiving;  /* a read whose data is not completely received; NULL: none */
	uint64_t moved_bytes;        /* how much data of `sending` was copied to `out` */
	uint64_t received_bytes;     /* how much data of `receiving` has arrived */
	uint64_t filler_bytes;       /* zeroes to send instead of the data of a refused write */
	const char *failure;         /* why the connection is lost; NULL: not known */
	bool is_full;                /* the last send() found no room in the socket */
};

/* A connection. */
struct nbd_connection {
	struct nbd_engine *engine; /* constant */

	/* under the engine's lock */
	struct nbd_queue *_Atomic owner; /* NULL: none */
	bool is_in_use;          /* the owner may use the connection; otherwise the connector may */
	struct nbd_list passed;  /* requests of other queues for the owner */

	/* used by the owner while `is_in_use`, otherwise by the thread that connects */
	struct nbd_handle *handle; /* NULL: not connected, or `bridge` owns it */
	struct nbd_bridge *bridge; /* NULL: the wire uses the socket of `handle` */
	struct nbd_export export;
	struct nbd_wire wire;
	unsigned generation; /* the engine's generation when the connection was opened */
	bool has_succeeded;  /* a command has succeeded since the connection was opened */

	/* used by the owner */
	bool is_attached; /* the owner's thread watches the socket */
	bool watches_room; /* the owner's thread also waits until the socket has room */
	bool is_lost;
	struct nbd_list waiting; /* requests that have not been sent */
	struct nbd_list ended;   /* requests that have ended but are not reported to their queues */
	_Atomic uint64_t num_written; /* how many writes that need a flush have completed; see loss.c */
};

/* The thread of connector.c. */
struct nbd_connector {
	pthread_t thread;
	bool has_thread;
	int wake_fd;
	atomic_bool quit;
	int stop_fd; /* during open(), a signalfd: SIGTERM or SIGINT is pending; otherwise -1 */
	struct nbd_attempt *attempt; /* an attempt whose thread may still run; NULL: none */
	int64_t connected_ms; /* when the last connection was opened */
	int retry_ms;         /* how long the thread waited after the last loss */
	struct vublk_error failure; /* why the last attempt to connect failed; empty text: it succeeded */
};

struct nbd_engine {
	struct vublk_engine engine; /* the first member */
	struct vublk_engine_host *host;
	char *uri;
	struct nbd_export export;  /* the properties of the export when the engine was opened */
	atomic_uint block_bytes;   /* the disk's block size; 0 until the first queue is created */
	_Atomic uint64_t size_now; /* the size of the disk when it was last connected */
	unsigned num_connections;
	struct nbd_connection connections[NBD_MAX_CONNECTIONS]; /* the first num_connections */
	atomic_uint num_queues;
	struct nbd_connector connector;

	/* Protects the data that several threads use. Taken at most twice per batch of requests. */
	pthread_mutex_t lock;

	/* under the lock */
	bool is_connected; /* owners may use their connections */
	unsigned num_used; /* how many connections the queues use: num_connections, or 1 if the
			      server permitted only one at the last reconnection */
	struct nbd_queue *queues;
	struct nbd_order order;

	/* see loss.c */
	bool trusts_unflushed;
	atomic_uint generation;       /* how many times the connections were lost */
	atomic_uint num_losses;       /* how many losses make flushes fail */
	_Atomic uint64_t num_flushed; /* how many writes were flushed, or counted as lost */
};

static inline bool vublk_nbd_is_change(const struct vublk_engine_io *io)
{
	return io->op != VUBLK_OP_READ && io->op != VUBLK_OP_FLUSH;
}

/* --- order.c; all under the engine's lock --- */

/*
 * Adds a change. Returns whether the change may begin. If not, a later call of
 * vublk_nbd_order_remove() for an older change appends it to `started`.
 */
bool vublk_nbd_order_add(struct nbd_order *order, struct nbd_request *request);
/* Removes a complete change, and appends the changes that may begin now to `started`. */
void vublk_nbd_order_remove(struct nbd_order *order, struct nbd_request *request,
			    struct nbd_list *started);

/* --- loss.c --- */

/* Returns whether any connection has been lost since this connection was opened. */
bool vublk_nbd_loss_is_outdated(const struct nbd_connection *connection);
/*
 * Called after a loss, when all connections have ended. If completed writes may be lost, makes
 * flushes fail.
 */
void vublk_nbd_loss_record(struct nbd_engine *engine);
/* Returns how many writes have completed so far. */
uint64_t vublk_nbd_loss_num_written(const struct nbd_engine *engine);
/* Records that the first `written` writes are flushed. */
void vublk_nbd_loss_flushed(struct nbd_engine *engine, uint64_t written);
/* Returns whether a flush must fail, because completed writes may be lost. */
bool vublk_nbd_loss_fails_flush(const struct nbd_request *request);

/* --- attempt.c --- */

/*
 * Connects to the engine's server and stores libnbd's handle. Fails after `timeout_ms`, or when
 * vublk_nbd_connector_check() fails, even if libnbd still blocks.
 */
int vublk_nbd_attempt(struct nbd_engine *engine, int timeout_ms, struct nbd_handle **handle,
		      struct vublk_error *error);
/*
 * Called when the engine is closed. If the thread of an attempt still runs, the thread frees the
 * attempt later. Does not wait.
 */
void vublk_nbd_attempt_abandon(struct nbd_engine *engine);

/* --- connect.c --- */

/* Returns why the disk cannot use this server with that many connections, or NULL. */
const char *vublk_nbd_find_misfit(const struct nbd_engine *engine, const struct nbd_export *export,
				  unsigned num_connections);
/* Connects and reads the properties of the export. Fails if connecting takes `timeout_ms`. */
int vublk_nbd_connect(struct nbd_connection *connection, int timeout_ms, struct vublk_error *error);
/*
 * Closes the connection. If the server has answered all requests, sends it a disconnect message
 * first. A no-op without a connection.
 */
void vublk_nbd_disconnect(struct nbd_connection *connection);

/* --- connector.c --- */

int vublk_nbd_connector_start(struct nbd_engine *engine, struct vublk_error *error);
/* Ends the thread, if there is one. */
void vublk_nbd_connector_stop(struct nbd_engine *engine);
/* Makes the thread check the connections. Any thread may call this function. */
void vublk_nbd_connector_wake(struct nbd_engine *engine);
/*
 * Returns whether the engine must end: 0, -ECANCELED if the engine is being closed, or -EINTR if a
 * signal that ends the program is pending during open().
 */
int vublk_nbd_connector_check(const struct nbd_engine *engine);
/*
 * Waits for vublk_nbd_connector_wake(), for a signal that ends the program during open(), or for
 * `events` of `fd`, which may be -1. Waits at most `timeout_ms` (-1: no limit). Returns the events
 * of `fd`, or 0.
 */
short vublk_nbd_connector_wait(struct nbd_engine *engine, int fd, short events, int timeout_ms);
int64_t vublk_nbd_now_ms(void);

/* --- bridge.c --- */

/*
 * Starts a thread that receives requests on a socket and executes them with `handle`. The thread
 * owns `handle`. Stores the other end of the socket in `fd`, which belongs to the caller.
 */
int vublk_nbd_bridge_new(struct nbd_handle *handle, struct nbd_bridge **bridge, int *fd,
			 struct vublk_error *error);
/*
 * Waits for the thread to end and closes the handle. If no request is outstanding, sends the server
 * a disconnect message first. The caller must have closed the other end of the socket. NULL is a
 * no-op.
 */
void vublk_nbd_bridge_free(struct nbd_bridge *bridge);

/* --- wire.c; -ENOTCONN and -EPROTO: the connection is lost, and `failure` says why --- */

/* Begins to use the connected socket `fd`. */
int vublk_nbd_wire_open(struct nbd_wire *wire, int fd);
/* Frees the memory. The socket belongs to the caller. */
void vublk_nbd_wire_close(struct nbd_wire *wire);

enum nbd_command {
	NBD_READ = 0,
	NBD_WRITE = 1,
	NBD_FLUSH = 3,
	NBD_TRIM = 4,
	NBD_ZERO = 6,
};

/* Returns whether a request can be added now. */
bool vublk_nbd_wire_has_room(const struct nbd_wire *wire);
/* Adds the next piece of a request. For a write-zeroes request, NBD_WRITE sends zeroes as data. */
void vublk_nbd_wire_add(struct nbd_wire *wire, struct nbd_request *request,
			enum nbd_command command, unsigned flags);
/* Sends as many of the added bytes as the socket has room for. */
int vublk_nbd_wire_send(struct nbd_wire *wire);
/*
 * Receives the bytes that have arrived, and calls vublk_nbd_connection_answered() for each answer.
 */
int vublk_nbd_wire_receive(struct nbd_connection *connection);
/* Returns how many requests the server has not answered. */
unsigned vublk_nbd_wire_num_sent(const struct nbd_wire *wire);
/* Returns whether the connection is not lost and the server has answered all requests. */
bool vublk_nbd_wire_is_idle(const struct nbd_wire *wire);

/* --- connection.c; used by the owner --- */

/* Makes the owner's thread watch the connection, whose `is_in_use` must be set. */
void vublk_nbd_connection_attach(struct nbd_connection *connection);
/* Makes the owner stop using the connection. */
void vublk_nbd_connection_detach(struct nbd_connection *connection);
/*
 * If `is_woken`, receives the answers that have arrived. Then sends as many requests as possible.
 */
void vublk_nbd_connection_turn(struct nbd_connection *connection, bool is_woken);
/* Called when the server has answered a request. `error` is 0 or an errno. */
void vublk_nbd_connection_answered(struct nbd_connection *connection, struct nbd_request *request,
				   int error);

/* --- queue.c --- */

int vublk_nbd_queue_new(struct vublk_engine *base, struct vublk_engine_queue **result,
			struct vublk_error *error);
/*
 * Returns the connection that the queue has to use, which depends on num_used. When num_used
 * changes, each queue switches to another connection on its own thread. Called under the engine's
 * lock.
 */
struct nbd_connection *vublk_nbd_queue_connection(const struct nbd_queue *queue);
/* Makes the threads of all queues check for messages. Called under the engine's lock. */
void vublk_nbd_queue_signal_all(struct nbd_engine *engine);
/*
 * Makes the queue's thread check for messages of other threads. Called under the engine's lock.
 * NULL is a no-op.
 */
void vublk_nbd_queue_signal(struct nbd_queue *queue);

#endif
