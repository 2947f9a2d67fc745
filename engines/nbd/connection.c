/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Executes requests on a connection to an NBD server.
 *
 * Key idea: a request stays with its connection until the server has executed all of it. When the
 * server is lost, the requests wait until the next connection sends them again. The server may have
 * lost the parts of a write that it executed without FUA, so the next connection sends such a write
 * again from its beginning. order.c makes sure that no repeated write overwrites a newer write.
 * This protection requires that the server finishes or drops the requests of a lost connection
 * before it serves the client again. The protocol does not guarantee that.
 *
 * A large request is executed piece by piece, because servers limit the size of a command.
 */
#include "engines/nbd/nbd.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#define RANGE_BYTES (UINT64_C(128) << 20) /* the longest range of one trim or zero command */

/* --- requests ----------------------------------------------------------------- */

static bool is_write(const struct vublk_engine_io *io)
{
	return io->op == VUBLK_OP_WRITE || io->op == VUBLK_OP_WRITE_ZEROES;
}

static bool has_data(const struct nbd_connection *connection, const struct vublk_engine_io *io)
{
	return io->op == VUBLK_OP_READ || io->op == VUBLK_OP_WRITE ||
	       (io->op == VUBLK_OP_WRITE_ZEROES && !connection->export.zero);
}

/*
 * Returns whether the request is a write or write-zeroes that must have the flag FUA. If the server
 * supports FUA but not flushes, all of them need the flag.
 */
static bool needs_fua(const struct nbd_connection *connection, const struct vublk_engine_io *io)
{
	return is_write(io) && connection->export.fua &&
	       (io->flags & VUBLK_IO_DURABLE || !connection->export.flush);
}

/*
 * Returns whether the request ends without a command, because the server does not support the
 * command.
 */
static bool is_no_op(const struct nbd_connection *connection, const struct nbd_request *request)
{
	enum vublk_engine_op op = request->io->op;

	return ((op == VUBLK_OP_FLUSH || request->needs_flush) && !connection->export.flush) ||
	       (op == VUBLK_OP_DISCARD && !connection->export.trim);
}

/* Records that the piece is executed. Returns whether the request is complete. */
static bool end_piece(struct nbd_connection *connection, struct nbd_request *request)
{
	struct vublk_engine_io *io = request->io;

	if (request->needs_flush)
		return true;
	if (io->op == VUBLK_OP_FLUSH) {
		vublk_nbd_loss_flushed(connection->engine, request->num_written);
		return true;
	}
	request->done_bytes += request->piece_bytes;
	if (request->done_bytes < io->bytes)
		return false;
	if (!is_write(io) || needs_fua(connection, io))
		return true;
	if (io->flags & VUBLK_IO_DURABLE)
		request->needs_flush = true;
	else /* need not be one atomic operation, because only this thread changes the count */
		atomic_store(&connection->num_written, atomic_load(&connection->num_written) + 1);
	return !request->needs_flush;
}

void vublk_nbd_connection_answered(struct nbd_connection *connection, struct nbd_request *request,
				   int error)
{
	request->error = -error;
	if (!error)
		connection->has_succeeded = true;
	if (error || end_piece(connection, request))
		vublk_nbd_list_append(&connection->ended, request);
	else
		vublk_nbd_list_append(&connection->waiting, request);
}

/* --- sending ------------------------------------------------------------------ */

static void add_command(struct nbd_connection *connection, struct nbd_request *request)
{
	const struct vublk_engine_io *io = request->io;
	bool data = has_data(connection, io);
	uint64_t max = data ? connection->export.max_bytes : RANGE_BYTES;
	unsigned flags = needs_fua(connection, io) ? LIBNBD_CMD_FLAG_FUA : 0;
	enum nbd_command command;

	request->piece_bytes = io->bytes - request->done_bytes;
	if (request->piece_bytes > max)
		request->piece_bytes = max;
	if (request->needs_flush || io->op == VUBLK_OP_FLUSH) {
		command = NBD_FLUSH;
		flags = 0;
	} else if (io->op == VUBLK_OP_READ) {
		command = NBD_READ;
	} else if (io->op == VUBLK_OP_DISCARD) {
		command = NBD_TRIM;
	} else if (data) {
		command = NBD_WRITE;
	} else {
		command = NBD_ZERO;
		flags |= io->flags & VUBLK_IO_MAY_UNMAP ? 0 : LIBNBD_CMD_FLAG_NO_HOLE;
	}
	vublk_nbd_wire_add(&connection->wire, request, command, flags);
}

/* Adds the request to the wire, or ends it if it needs no command or has to fail. */
static void begin(struct nbd_connection *connection, struct nbd_request *request)
{
	bool is_flush = request->io->op == VUBLK_OP_FLUSH;

	if (is_flush && vublk_nbd_loss_fails_flush(request)) {
		request->error = -EIO;
		vublk_nbd_list_append(&connection->ended, request);
		return;
	}
	if (is_flush)
		request->num_written = vublk_nbd_loss_num_written(connection->engine);
	if (!is_no_op(connection, request)) {
		add_command(connection, request);
		return;
	}
	if (is_flush)
		vublk_nbd_loss_flushed(connection->engine, request->num_written);
	vublk_nbd_list_append(&connection->ended, request);
}

/* Makes the owner's descriptor readable when the socket takes bytes again. */
static void watch_room(struct nbd_connection *connection)
{
	struct epoll_event event = { .events = EPOLLIN };

	if (connection->watches_room == connection->wire.is_full)
		return;
	connection->watches_room = connection->wire.is_full;
	if (connection->watches_room)
		event.events |= EPOLLOUT;
	epoll_ctl(connection->owner->queue.fd, EPOLL_CTL_MOD, connection->wire.fd, &event);
}

/* Returns whether a request is waiting and may begin. An outdated connection begins none (loss.c). */
static bool may_begin(const struct nbd_connection *connection)
{
	return connection->waiting.first && vublk_nbd_wire_has_room(&connection->wire) &&
	       !vublk_nbd_loss_is_outdated(connection);
}

/* Returns whether a request is waiting, may begin, and can be sent immediately. */
static bool may_send(const struct nbd_connection *connection)
{
	return !connection->is_lost && !connection->wire.is_full && may_begin(connection);
}

/* Begins requests and sends bytes until the socket or the wire is full. */
static void send_waiting(struct nbd_connection *connection)
{
	if (connection->is_lost)
		return;
	do {
		while (may_begin(connection))
			begin(connection, vublk_nbd_list_take(&connection->waiting));
		if (vublk_nbd_wire_send(&connection->wire))
			connection->is_lost = true;
	} while (may_send(connection));
}

/* --- completion --------------------------------------------------------------- */

static void log_error(const struct nbd_connection *connection, const struct nbd_request *request)
{
	if (request->error)
		vublk_engine_log(connection->engine->host, VUBLK_LOG_ERROR,
				 "a request to %s failed: %s",
				 connection->engine->engine.description,
				 strerrordesc_np(-request->error));
}

/*
 * Reports ended requests to their queues, removes changes from the order, and starts the changes
 * that waited for them.
 */
static void end_shared(struct nbd_connection *connection, struct nbd_list *ended)
{
	struct nbd_engine *engine = connection->engine;
	struct nbd_queue *owner = connection->owner;
	struct nbd_list started = { NULL, NULL };

	pthread_mutex_lock(&engine->lock);
	while (ended->first) {
		struct nbd_request *request = vublk_nbd_list_take(ended);
		struct nbd_queue *queue = request->queue;

		if (vublk_nbd_is_change(request->io))
			vublk_nbd_order_remove(&engine->order, request, &started);
		vublk_nbd_list_append(queue == owner ? &queue->done : &queue->passed_done, request);
		if (queue != owner)
			vublk_nbd_queue_signal(queue);
	}
	while (started.first) {
		struct nbd_request *request = vublk_nbd_list_take(&started);
		struct nbd_connection *other = vublk_nbd_queue_connection(request->queue);

		vublk_nbd_list_append(other == connection ? &connection->waiting : &other->passed,
				      request);
		if (other != connection)
			vublk_nbd_queue_signal(other->owner); /* NULL: the next owner takes them */
	}
	pthread_mutex_unlock(&engine->lock);
}

/* Completes the ended requests. */
static void complete_ended(struct nbd_connection *connection)
{
	struct nbd_list shared = { NULL, NULL };

	while (connection->ended.first) {
		struct nbd_request *request = vublk_nbd_list_take(&connection->ended);

		log_error(connection, request);
		if (request->queue != connection->owner || vublk_nbd_is_change(request->io))
			vublk_nbd_list_append(&shared, request);
		else
			vublk_nbd_list_append(&request->queue->done, request);
	}
	if (shared.first)
		end_shared(connection, &shared);
}

/* --- a lost connection -------------------------------------------------------- */

/*
 * Makes a request ready for the next connection. Without FUA, the server may have lost the pieces
 * that it has executed, so all of the data is sent again.
 */
static void restart(const struct nbd_connection *connection, struct nbd_request *request)
{
	if (is_write(request->io) && !needs_fua(connection, request->io)) {
		request->done_bytes = 0;
		request->needs_flush = false;
	}
}

/* Makes all requests wait for the next connection: first those that were sent, then the others. */
static void restart_all(struct nbd_connection *connection)
{
	struct nbd_list sent = { NULL, NULL };

	for (unsigned i = 0; i < NBD_NUM_SLOTS; i++) {
		struct nbd_slot *slot = &connection->wire.slots[i];

		if (slot->request)
			vublk_nbd_list_append(&sent, slot->request);
		slot->request = NULL;
	}
	vublk_nbd_list_move(&sent, &connection->waiting);
	connection->waiting = sent;
	for (struct nbd_request *r = sent.first; r; r = r->next)
		restart(connection, r);
}

/* Tells the other owners that the server is lost, so that they end their connections, too. */
static void report_loss(struct nbd_connection *connection)
{
	struct nbd_engine *engine = connection->engine;
	unsigned generation = connection->generation;
	const char *why = connection->wire.failure;

	if (!atomic_compare_exchange_strong(&engine->generation, &generation, generation + 1)) {
		vublk_engine_log(engine->host, VUBLK_LOG_DEBUG,
				 "closing a connection to %s, because another one was lost",
				 engine->engine.description);
		return;
	}
	vublk_engine_log(engine->host, VUBLK_LOG_WARNING,
			 "the connection to %s is lost: %s; requests wait until the engine "
			 "has connected again",
			 engine->engine.description, why ? why : "epoll_ctl() failed");
	pthread_mutex_lock(&engine->lock);
	for (unsigned i = 0; i < engine->num_connections; i++)
		vublk_nbd_queue_signal(engine->connections[i].owner);
	pthread_mutex_unlock(&engine->lock);
}

/* Gives a lost connection to the connector, and keeps its requests. */
static void lose(struct nbd_connection *connection)
{
	struct nbd_engine *engine = connection->engine;

	report_loss(connection);
	restart_all(connection);
	pthread_mutex_lock(&engine->lock);
	vublk_nbd_connection_detach(connection);
	pthread_mutex_unlock(&engine->lock);
	vublk_nbd_connector_wake(engine);
}

/* --- use ---------------------------------------------------------------------- */

void vublk_nbd_connection_attach(struct nbd_connection *connection)
{
	struct epoll_event event = { .events = EPOLLIN };

	connection->is_lost = connection->watches_room = false;
	connection->is_attached = true;
	if (epoll_ctl(connection->owner->queue.fd, EPOLL_CTL_ADD, connection->wire.fd, &event))
		connection->is_lost = true;
}

void vublk_nbd_connection_detach(struct nbd_connection *connection)
{
	if (connection->is_attached)
		epoll_ctl(connection->owner->queue.fd, EPOLL_CTL_DEL, connection->wire.fd, NULL);
	connection->is_attached = connection->is_in_use = false;
}

void vublk_nbd_connection_turn(struct nbd_connection *connection, bool is_woken)
{
	if (!connection->is_attached)
		return;
	if (is_woken && vublk_nbd_wire_receive(connection))
		connection->is_lost = true;
	do {
		send_waiting(connection);
		complete_ended(connection); /* may start requests that waited for the ended ones */
	} while (may_send(connection));
	/*
	 * An outdated connection ends only when the server has answered all its requests, so that
	 * the server executes none of them later.
	 */
	if (vublk_nbd_loss_is_outdated(connection) && !vublk_nbd_wire_num_sent(&connection->wire))
		connection->is_lost = true;
	if (connection->is_lost)
		lose(connection);
	else
		watch_room(connection);
}
