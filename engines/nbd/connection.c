/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Executes requests on a connection to an NBD server, on a thread of its own, because libnbd can
 * block while it connects: it resolves names, and TLS has to be negotiated.
 *
 * Key idea: a request stays in the connection's list until the server has executed all of it. When
 * the server is lost, the requests that were sent count as not sent, and the next connection sends
 * them again. Meanwhile they wait. The server may have lost what it executed without FUA, so the next
 * connection repeats such a write from its beginning. order.c makes sure that no repetition replaces a
 * newer write, if the server finishes or drops the requests of a lost connection before it serves
 * the client again. The protocol gives the client no means to ensure that.
 *
 * A request is executed piece by piece, through memory of this thread: the driver could take its
 * own memory away, which would end the connection, and a hostile request could be very large.
 */
#include "engines/nbd/nbd.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PIECE_BYTES (UINT64_C(1) << 20)        /* of data */
#define RANGE_BYTES (UINT64_C(128) << 20)      /* of a trim or zero */
#define MAX_SENT_BYTES (UINT64_C(32) << 20)    /* memory of all pieces of a connection */
#define MAX_BLOCK_BYTES (UINT32_C(2) << 20)
#define RETRY_MS 100
#define MAX_RETRY_MS 5000
#define CONNECT_MS 10000

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000) + now.tv_nsec / 1000000;
}

void vublk_nbd_connection_wake(struct nbd_connection *connection)
{
	eventfd_write(connection->wake_fd, 1);
}

/* --- connecting --------------------------------------------------------------- */

/* Waits for the server or a wake-up. Returns false at the time limit (-1: none), or at the end. */
static bool turn(struct nbd_connection *connection, struct nbd_handle *handle, int timeout_ms)
{
	unsigned direction = handle ? nbd_aio_get_direction(handle) : 0;
	struct pollfd fds[2] = {
		{ .fd = connection->wake_fd, .events = POLLIN },
		{ .fd = handle ? nbd_aio_get_fd(handle) : -1 },
	};
	eventfd_t count;

	if (direction & LIBNBD_AIO_DIRECTION_READ)
		fds[1].events |= POLLIN;
	if (direction & LIBNBD_AIO_DIRECTION_WRITE)
		fds[1].events |= POLLOUT;
	if (poll(fds, 2, timeout_ms) <= 0)
		return false;
	if (fds[0].revents)
		eventfd_read(connection->wake_fd, &count);
	if (direction & LIBNBD_AIO_DIRECTION_READ && fds[1].revents & (POLLIN | POLLHUP | POLLERR))
		nbd_aio_notify_read(handle);
	else if (fds[1].revents & (POLLOUT | POLLHUP | POLLERR))
		nbd_aio_notify_write(handle);
	return !atomic_load(&connection->quit);
}

static uint32_t block_size(struct nbd_handle *handle, int which, uint32_t otherwise)
{
	int64_t bytes = nbd_get_block_size(handle, which);

	return bytes >= 512 && bytes <= MAX_BLOCK_BYTES && !(bytes & (bytes - 1)) ? (uint32_t)bytes :
										    otherwise;
}

static int read_export(struct nbd_handle *handle, struct nbd_export *export)
{
	int64_t size = nbd_get_size(handle), max = nbd_get_block_size(handle, LIBNBD_SIZE_MAXIMUM);

	if (size < 0)
		return -EPROTO;
	*export = (struct nbd_export){
		.min_block = block_size(handle, LIBNBD_SIZE_MINIMUM, 512),
		.max_bytes = (uint32_t)PIECE_BYTES,
		.read_only = nbd_is_read_only(handle) == 1,
		.multi_conn = nbd_can_multi_conn(handle) == 1,
		.flush = nbd_can_flush(handle) == 1,
		.fua = nbd_can_fua(handle) == 1,
		.trim = nbd_can_trim(handle) == 1,
		.zero = nbd_can_zero(handle) == 1,
	};
	export->preferred_block = block_size(handle, LIBNBD_SIZE_PREFERRED, 4096);
	if (export->preferred_block < export->min_block)
		export->preferred_block = export->min_block;
	if (max >= export->min_block && max < export->max_bytes)
		export->max_bytes = (uint32_t)(max - max % export->min_block);
	export->size_bytes = (uint64_t)size - (uint64_t)size % export->min_block;
	return 0;
}

static struct nbd_handle *new_handle(void)
{
	struct nbd_handle *handle = nbd_create();

	if (handle)
		nbd_set_uri_allow_local_file(handle, true); /* tls-psk-file=FILE in the URI */
	return handle;
}

/* Makes the kernel end a TCP connection after about 25 s without an answer or without progress. */
static void watch_peer(struct nbd_handle *handle)
{
	int fd = nbd_aio_get_fd(handle), on = 1, idle_s = 10, interval_s = 5, probes = 3;
	unsigned timeout_ms = 25000;
	int family = 0;
	socklen_t bytes = sizeof(family);

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &bytes) ||
	    (family != AF_INET && family != AF_INET6))
		return;
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof(timeout_ms));
}

static int handshake(struct nbd_connection *connection, struct nbd_handle *handle, int timeout_ms)
{
	int64_t end = now_ms() + timeout_ms;

	if (nbd_aio_connect_uri(handle, connection->engine->uri) < 0)
		return nbd_get_errno() ? -nbd_get_errno() : -EIO;
	while (nbd_aio_is_connecting(handle)) {
		int64_t left = end - now_ms();

		if (left <= 0)
			return -ETIMEDOUT;
		if (!turn(connection, handle, (int)left) && atomic_load(&connection->quit))
			return -ECANCELED;
	}
	return nbd_aio_is_ready(handle) ? 0 : -ECONNREFUSED;
}

int vublk_nbd_connection_open(struct nbd_connection *connection, int timeout_ms,
			struct vublk_error *error)
{
	const char *uri = connection->engine->uri, *why;
	struct nbd_handle *handle = new_handle();
	struct nbd_export export;
	int r;

	if (!handle)
		return vublk_engine_fail(error, ENOMEM, "cannot create a handle of libnbd");
	r = handshake(connection, handle, timeout_ms);
	if (!r)
		r = read_export(handle, &export);
	if (r) {
		why = r != -ETIMEDOUT && nbd_get_error() ? nbd_get_error() : strerrordesc_np(-r);
		vublk_engine_fail(error, -r, "cannot connect to the NBD server at %s: %s", uri, why);
		nbd_close(handle);
		return r;
	}
	watch_peer(handle);
	connection->handle = handle;
	connection->export = export;
	connection->is_lost = connection->has_succeeded = false;
	connection->connected_ms = now_ms();
	return 0;
}

void vublk_nbd_connection_disconnect(struct nbd_connection *connection)
{
	nbd_close(connection->handle); /* NULL: no-op */
	connection->handle = NULL;
}

const char *vublk_nbd_find_misfit(const struct nbd_engine *engine, const struct nbd_export *export,
				  unsigned num_connections)
{
	if (export->read_only && !engine->engine.geometry.read_only)
		return "the export is read-only now";
	if (export->min_block > engine->export.min_block)
		return "its blocks are larger now";
	if (export->max_bytes < engine->export.max_bytes)
		return "its requests are smaller now";
	if (!export->multi_conn && num_connections > 1)
		return "it does not permit several connections now";
	if (engine->export.flush && !export->flush)
		return "it does not support flushes now";
	if (engine->export.fua && !export->flush && !export->fua)
		return "it cannot make data durable now";
	return NULL;
}

static void reconnect(struct nbd_connection *connection)
{
	struct nbd_engine *engine = connection->engine;
	struct vublk_error error = { 0 };
	unsigned generation = atomic_load(&engine->generation);
	const char *misfit;

	if (vublk_nbd_connection_open(connection, CONNECT_MS, &error)) {
		vublk_engine_log(engine->host, VUBLK_LOG_DEBUG, "%s", error.text);
		connection->retry_at_ms = now_ms() + RETRY_MS;
		return;
	}
	misfit = vublk_nbd_find_misfit(engine, &connection->export, engine->num_connections);
	if (misfit) {
		vublk_engine_log(engine->host, VUBLK_LOG_WARNING, "requests to %s wait, because %s",
				 engine->engine.description, misfit);
		vublk_nbd_connection_disconnect(connection);
		connection->retry_at_ms = now_ms() + RETRY_MS;
		return;
	}
	vublk_nbd_loss_connected(connection, generation);
	vublk_engine_log(engine->host, VUBLK_LOG_INFO, "connected to %s again",
			 engine->engine.description);
	if (atomic_exchange(&engine->size_now, connection->export.size_bytes) !=
	    connection->export.size_bytes)
		vublk_engine_request_refresh(engine->host);
}

/* --- requests ----------------------------------------------------------------- */

/* Copies between the piece and the part of the driver's buffers that belongs to it. */
static void copy(const struct nbd_request *request, bool to_driver)
{
	const struct iovec *iov = request->io->iov;
	uint64_t skip = request->done_bytes;

	for (uint64_t at = 0; at < request->piece_bytes; iov++) {
		uint64_t n = iov->iov_len > skip ? iov->iov_len - skip : 0;

		if (n > request->piece_bytes - at)
			n = request->piece_bytes - at;
		if (n && to_driver)
			memcpy((char *)iov->iov_base + skip, request->piece + at, n);
		else if (n)
			memcpy(request->piece + at, (const char *)iov->iov_base + skip, n);
		at += n;
		skip -= skip < iov->iov_len ? skip : iov->iov_len;
	}
}

static bool has_data(const struct nbd_connection *connection, const struct vublk_engine_io *io)
{
	return io->op == VUBLK_OP_READ || io->op == VUBLK_OP_WRITE ||
	       (io->op == VUBLK_OP_WRITE_ZEROES && !connection->export.zero);
}

/* Returns whether a write or zeroes must have the flag FUA. Without flushes, all of them must. */
static bool needs_fua(const struct nbd_connection *connection, const struct vublk_engine_io *io)
{
	return (io->op == VUBLK_OP_WRITE || io->op == VUBLK_OP_WRITE_ZEROES) &&
	       connection->export.fua &&
	       (io->flags & VUBLK_IO_DURABLE || !connection->export.flush);
}

/* Makes the next piece. Returns false if it has to wait for memory. */
static bool prepare(struct nbd_connection *connection, struct nbd_request *request)
{
	const struct vublk_engine_io *io = request->io;
	bool data = has_data(connection, io);
	uint64_t max = data ? connection->export.max_bytes : RANGE_BYTES;

	request->piece_bytes = io->bytes - request->done_bytes;
	if (request->piece_bytes > max)
		request->piece_bytes = max;
	if (!data || request->needs_flush)
		return true;
	if (connection->sent_bytes && connection->sent_bytes + request->piece_bytes > MAX_SENT_BYTES)
		return false;
	request->piece = calloc(1, request->piece_bytes);
	if (!request->piece) {
		request->error = -ENOMEM;
		request->is_done = true;
		return true;
	}
	connection->sent_bytes += request->piece_bytes;
	if (io->op == VUBLK_OP_WRITE)
		copy(request, false);
	return true;
}

static void free_piece(struct nbd_connection *connection, struct nbd_request *request)
{
	if (request->piece)
		connection->sent_bytes -= request->piece_bytes;
	free(request->piece);
	request->piece = NULL;
}

static void succeed(struct nbd_connection *connection, struct nbd_request *request)
{
	struct nbd_engine *engine = connection->engine;
	struct vublk_engine_io *io = request->io;
	bool is_write = io->op == VUBLK_OP_WRITE || io->op == VUBLK_OP_WRITE_ZEROES;

	connection->has_succeeded = true;
	if (request->needs_flush) {
		request->needs_flush = false;
		return;
	}
	if (io->op == VUBLK_OP_FLUSH)
		vublk_nbd_loss_flushed(engine, request->num_written);
	if (io->op == VUBLK_OP_READ)
		copy(request, true);
	request->done_bytes += request->piece_bytes;
	if (!is_write || needs_fua(connection, io) || request->done_bytes < io->bytes)
		return;
	if (io->flags & VUBLK_IO_DURABLE)
		request->needs_flush = true;
	else
		atomic_fetch_add(&engine->num_written, 1);
}

/* Called by libnbd when a command has ended. Returns 1: libnbd forgets the command. */
static int on_command(void *opaque, int *error)
{
	struct nbd_request *request = opaque;
	struct nbd_connection *connection = request->queue->connection;
	struct vublk_engine_io *io = request->io;

	request->is_sent = false;
	if (*error == ENOTCONN || *error == ESHUTDOWN) {
		connection->is_lost = true;
		return 1;
	}
	if (*error)
		request->error = -*error;
	else
		succeed(connection, request);
	free_piece(connection, request);
	request->is_done = request->error ||
			   (request->done_bytes == io->bytes && !request->needs_flush);
	return 1;
}

static int64_t send_command(struct nbd_connection *connection, struct nbd_request *request)
{
	nbd_completion_callback done = { .callback = on_command, .user_data = request };
	const struct vublk_engine_io *io = request->io;
	uint64_t offset = io->offset + request->done_bytes, bytes = request->piece_bytes;
	uint32_t flags = needs_fua(connection, io) ? LIBNBD_CMD_FLAG_FUA : 0;

	if (request->needs_flush || io->op == VUBLK_OP_FLUSH)
		return nbd_aio_flush(connection->handle, done, 0);
	if (io->op == VUBLK_OP_READ)
		return nbd_aio_pread(connection->handle, request->piece, bytes, offset, done, 0);
	if (io->op == VUBLK_OP_DISCARD)
		return nbd_aio_trim(connection->handle, bytes, offset, done, 0);
	if (request->piece) /* a write, or zeroes that the server cannot make */
		return nbd_aio_pwrite(connection->handle, request->piece, bytes, offset, done, flags);
	if (!(io->flags & VUBLK_IO_MAY_UNMAP))
		flags |= LIBNBD_CMD_FLAG_NO_HOLE;
	return nbd_aio_zero(connection->handle, bytes, offset, done, flags);
}

/* Returns whether the server has nothing to do for the request. */
static bool is_no_op(const struct nbd_connection *connection, const struct nbd_request *request)
{
	enum vublk_engine_op op = request->io->op;

	return ((op == VUBLK_OP_FLUSH || request->needs_flush) && !connection->export.flush) ||
	       (op == VUBLK_OP_DISCARD && !connection->export.trim);
}

/* Sends a request, unless it ends here. */
static void send_or_end(struct nbd_connection *connection, struct nbd_request *request)
{
	request->is_sent = true;
	if (send_command(connection, request) >= 0)
		return;
	request->is_sent = false;
	if (!nbd_aio_is_ready(connection->handle) && !nbd_aio_is_processing(connection->handle)) {
		connection->is_lost = true;
		return;
	}
	request->error = nbd_get_errno() ? -nbd_get_errno() : -EIO;
	request->is_done = true;
	free_piece(connection, request);
}

/* Returns false if a flush cannot be sent now, because it has to wait or has failed. */
static bool begin_flush(struct nbd_connection *connection, struct nbd_request *request)
{
	struct nbd_engine *engine = connection->engine;

	if (!vublk_nbd_loss_may_flush(engine))
		return false;
	if (vublk_nbd_loss_fails_flush(request)) {
		request->error = -EIO;
		request->is_done = true;
		return false;
	}
	request->num_written = atomic_load(&engine->num_written);
	return true;
}

/* Sends what can be sent. A request that waits for memory does not delay those that need none. */
static void send_waiting(struct nbd_connection *connection)
{
	bool no_memory = false;

	for (struct nbd_request *r = connection->first; r && !connection->is_lost; r = r->next) {
		if (r->is_sent || r->is_done)
			continue;
		if (r->io->op == VUBLK_OP_FLUSH && !begin_flush(connection, r))
			continue;
		if (is_no_op(connection, r)) {
			if (r->io->op == VUBLK_OP_FLUSH)
				vublk_nbd_loss_flushed(connection->engine, r->num_written);
			r->is_done = true;
			continue;
		}
		if (no_memory && has_data(connection, r->io) && !r->needs_flush)
			continue;
		if (!prepare(connection, r))
			no_memory = true;
		else if (!r->is_done)
			send_or_end(connection, r);
	}
}

static void complete_done(struct nbd_connection *connection)
{
	struct nbd_request **link = &connection->first, *last = NULL;

	while (*link) {
		struct nbd_request *r = *link;

		if (!r->is_done) {
			last = r;
			link = &r->next;
			continue;
		}
		*link = r->next;
		if (r->error)
			vublk_engine_log(connection->engine->host, VUBLK_LOG_ERROR,
					 "a request to %s failed: %s",
					 connection->engine->engine.description,
					 strerrordesc_np(-r->error));
		vublk_nbd_order_remove(&connection->engine->order, r);
		vublk_nbd_queue_complete(r);
	}
	connection->last = last;
}

/* --- the thread --------------------------------------------------------------- */

static void take_new(struct nbd_connection *connection)
{
	pthread_mutex_lock(&connection->lock);
	if (connection->first_new) {
		if (connection->last)
			connection->last->next = connection->first_new;
		else
			connection->first = connection->first_new;
		connection->last = connection->last_new;
		connection->first_new = connection->last_new = NULL;
	}
	pthread_mutex_unlock(&connection->lock);
}

/*
 * Makes a request ready for the next connection. Without FUA, the server may have lost the pieces
 * that it has executed, so all of the data is sent again.
 */
static void restart(struct nbd_connection *connection, struct nbd_request *request)
{
	enum vublk_engine_op op = request->io->op;

	request->is_sent = false;
	if (request->is_done)
		return;
	free_piece(connection, request);
	if ((op == VUBLK_OP_WRITE || op == VUBLK_OP_WRITE_ZEROES) &&
	    !needs_fua(connection, request->io)) {
		request->done_bytes = 0;
		request->needs_flush = false;
	}
}

/*
 * Delays the next connection if the server has ended this one before it executed anything.
 * Otherwise a server that always does so would keep both sides busy.
 */
static void delay_next(struct nbd_connection *connection)
{
	int64_t now = now_ms();

	if (connection->has_succeeded || now - connection->connected_ms >= MAX_RETRY_MS)
		connection->retry_ms = 0;
	else if (!connection->retry_ms)
		connection->retry_ms = RETRY_MS;
	else if (connection->retry_ms < MAX_RETRY_MS / 2)
		connection->retry_ms *= 2;
	else
		connection->retry_ms = MAX_RETRY_MS;
	connection->retry_at_ms = now + connection->retry_ms;
	if (connection->retry_ms)
		vublk_engine_log(connection->engine->host, VUBLK_LOG_DEBUG,
				 "connects to %s again in %d ms, because the server has ended the "
				 "connection before it executed a request",
				 connection->engine->engine.description, connection->retry_ms);
}

/* Closes a lost connection. Its requests are sent again. */
static void lose(struct nbd_connection *connection)
{
	const char *description = connection->engine->engine.description;

	if (vublk_nbd_loss_is_outdated(connection)) {
		vublk_engine_log(connection->engine->host, VUBLK_LOG_DEBUG,
				 "a connection to %s is made anew, because another one was lost",
				 description);
	} else {
		vublk_engine_log(connection->engine->host, VUBLK_LOG_WARNING,
				 "the connection to %s is lost; requests wait until it is back",
				 description);
		delay_next(connection);
	}
	vublk_nbd_loss_disconnected(connection);
	vublk_nbd_connection_disconnect(connection);
	for (struct nbd_request *r = connection->first; r; r = r->next)
		restart(connection, r);
}

/* Connects again, or waits until it is time for that. */
static void turn_disconnected(struct nbd_connection *connection)
{
	int64_t left = connection->retry_at_ms - now_ms();

	if (left > 0)
		turn(connection, NULL, (int)left);
	else
		reconnect(connection);
}

static bool has_sent(const struct nbd_connection *connection)
{
	for (const struct nbd_request *r = connection->first; r; r = r->next)
		if (r->is_sent)
			return true;
	return false;
}

static void turn_connected(struct nbd_connection *connection)
{
	/* An outdated connection ends without a request that the server could execute later. */
	if (!vublk_nbd_loss_is_outdated(connection))
		send_waiting(connection);
	else if (!has_sent(connection))
		connection->is_lost = true;
	complete_done(connection);
	if (!connection->is_lost)
		turn(connection, connection->handle, -1);
	if (nbd_aio_is_dead(connection->handle) || nbd_aio_is_closed(connection->handle))
		connection->is_lost = true;
	complete_done(connection);
	if (connection->is_lost)
		lose(connection);
}

static void *run(void *opaque)
{
	struct nbd_connection *connection = opaque;

	while (!atomic_load(&connection->quit)) {
		take_new(connection);
		if (connection->handle)
			turn_connected(connection);
		else
			turn_disconnected(connection);
	}
	return NULL;
}

int vublk_nbd_connection_start(struct nbd_connection *connection, struct vublk_error *error)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	sigdelset(&all, SIGBUS); /* the library handles a page that the driver removed */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&connection->thread, NULL, run, connection);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r)
		return vublk_engine_fail(error, r, "cannot start a thread for an NBD connection");
	connection->has_thread = true;
	return 0;
}

void vublk_nbd_connection_close(struct nbd_connection *connection)
{
	atomic_store(&connection->quit, true);
	if (connection->has_thread) {
		vublk_nbd_connection_wake(connection);
		pthread_join(connection->thread, NULL);
	}
	vublk_nbd_connection_disconnect(connection);
	if (connection->wake_fd >= 0)
		close(connection->wake_fd);
}

void vublk_nbd_connection_submit(struct nbd_connection *connection, struct nbd_request *request)
{
	bool was_empty;

	request->next = NULL;
	pthread_mutex_lock(&connection->lock);
	was_empty = !connection->first_new;
	if (was_empty)
		connection->first_new = request;
	else
		connection->last_new->next = request;
	connection->last_new = request;
	pthread_mutex_unlock(&connection->lock);
	if (was_empty)
		vublk_nbd_connection_wake(connection);
}
