/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Executes requests on a connection to an NBD server, on a thread of its own, because libnbd can
 * block while it connects: it resolves names, and TLS has to be negotiated.
 *
 * Key idea: a request stays in the connection's list until the server has executed all of it. When
 * the server is lost, the requests that were sent count as not sent, and the next connection sends
 * them again. Meanwhile they wait. order.c makes sure that this repeats no overwritten write.
 *
 * A request is executed piece by piece, through memory of this thread: the driver could take its
 * own memory away, which would end the connection, and a hostile request could be very large.
 */
#include "engines/nbd/nbd.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define PIECE_BYTES (UINT64_C(1) << 20)        /* of data */
#define RANGE_BYTES (UINT64_C(128) << 20)      /* of a trim or zero */
#define MAX_SENT_BYTES (UINT64_C(32) << 20)    /* memory of all pieces of a connection */
#define MAX_BLOCK_BYTES (UINT32_C(2) << 20)
#define RETRY_MS 100
#define CONNECT_MS 10000

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000) + now.tv_nsec / 1000000;
}

static void wake(struct nbd_connection *connection)
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
	connection->handle = handle;
	connection->export = export;
	connection->is_lost = false;
	return 0;
}

/* Returns why the disk cannot continue with this server, or NULL. */
static const char *find_misfit(const struct nbd_engine *engine, const struct nbd_export *export)
{
	if (export->read_only && !engine->engine.geometry.read_only)
		return "the export is read-only now";
	if (export->min_block > engine->export.min_block)
		return "its blocks are larger now";
	if (export->max_bytes < engine->export.max_bytes)
		return "its requests are smaller now";
	if (!export->multi_conn && engine->num_connections > 1)
		return "it does not permit several connections now";
	if (engine->export.flush && !export->flush)
		return "it does not support flushes now";
	return NULL;
}

static void reconnect(struct nbd_connection *connection)
{
	struct nbd_engine *engine = connection->engine;
	struct vublk_error error = { 0 };
	const char *misfit;

	if (vublk_nbd_connection_open(connection, CONNECT_MS, &error)) {
		vublk_engine_log(engine->host, VUBLK_LOG_DEBUG, "%s", error.text);
		turn(connection, NULL, RETRY_MS);
		return;
	}
	misfit = find_misfit(engine, &connection->export);
	if (misfit) {
		vublk_engine_log(engine->host, VUBLK_LOG_WARNING, "requests to %s wait, because %s",
				 engine->engine.description, misfit);
		nbd_close(connection->handle);
		connection->handle = NULL;
		turn(connection, NULL, RETRY_MS);
		return;
	}
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

/*
 * Makes the next piece, unless there is one that a lost connection has left. Returns false if it has
 * to wait for memory.
 */
static bool prepare(struct nbd_connection *connection, struct nbd_request *request)
{
	const struct vublk_engine_io *io = request->io;
	bool data = has_data(connection, io);
	uint64_t max = data ? connection->export.max_bytes : RANGE_BYTES;

	if (request->piece)
		return true;
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
	if (*error) {
		request->error = -*error;
	} else if (request->needs_flush) {
		request->needs_flush = false;
	} else {
		if (io->op == VUBLK_OP_READ)
			copy(request, true);
		request->done_bytes += request->piece_bytes;
		if (io->flags & VUBLK_IO_DURABLE && !connection->export.fua)
			request->needs_flush = request->done_bytes == io->bytes;
	}
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
	uint32_t flags = io->flags & VUBLK_IO_DURABLE && connection->export.fua ?
			 LIBNBD_CMD_FLAG_FUA : 0;

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

static void send_waiting(struct nbd_connection *connection)
{
	for (struct nbd_request *r = connection->first; r && !connection->is_lost; r = r->next) {
		if (r->is_sent || r->is_done)
			continue;
		if (is_no_op(connection, r)) {
			r->is_done = true;
			continue;
		}
		if (!prepare(connection, r))
			return;
		if (r->is_done)
			continue;
		r->is_sent = true;
		if (send_command(connection, r) >= 0)
			continue;
		r->is_sent = false;
		if (!nbd_aio_is_ready(connection->handle) && !nbd_aio_is_processing(connection->handle)) {
			connection->is_lost = true;
			return;
		}
		r->error = nbd_get_errno() ? -nbd_get_errno() : -EIO;
		r->is_done = true;
		free_piece(connection, r);
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

/* Closes a lost connection. Its requests keep their pieces, and are sent again. */
static void lose(struct nbd_connection *connection)
{
	vublk_engine_log(connection->engine->host, VUBLK_LOG_WARNING,
			 "the connection to %s is lost; requests wait until it is back",
			 connection->engine->engine.description);
	nbd_close(connection->handle);
	connection->handle = NULL;
	for (struct nbd_request *r = connection->first; r; r = r->next)
		r->is_sent = false;
}

static void *run(void *opaque)
{
	struct nbd_connection *connection = opaque;

	while (!atomic_load(&connection->quit)) {
		take_new(connection);
		if (!connection->handle) {
			reconnect(connection);
			continue;
		}
		send_waiting(connection);
		complete_done(connection);
		if (!connection->is_lost)
			turn(connection, connection->handle, -1);
		if (nbd_aio_is_dead(connection->handle) || nbd_aio_is_closed(connection->handle))
			connection->is_lost = true;
		complete_done(connection);
		if (connection->is_lost)
			lose(connection);
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
		wake(connection);
		pthread_join(connection->thread, NULL);
	}
	if (connection->handle)
		nbd_close(connection->handle);
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
		wake(connection);
}
