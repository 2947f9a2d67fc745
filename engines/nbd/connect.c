/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A connection to an NBD server after the negotiation. wire.c then uses libnbd's socket directly,
 * because libnbd needs many system calls per request. With TLS only libnbd can encrypt, so bridge.c
 * passes the requests to libnbd.
 */
#include "engines/nbd/nbd.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#define PIECE_BYTES (UINT64_C(1) << 20)
#define MAX_BLOCK_BYTES (UINT32_C(2) << 20)

static uint32_t block_size(struct nbd_handle *handle, int which, uint32_t otherwise)
{
	int64_t bytes = nbd_get_block_size(handle, which);

	return bytes >= 512 && bytes <= MAX_BLOCK_BYTES && !(bytes & (bytes - 1)) ? (uint32_t)bytes :
										    otherwise;
}

/*
 * Reads the properties of the export. A disk cannot use a part of a block at its end, so a server that
 * is back with smaller blocks, or with a part of a block more, has the same size.
 */
static int read_export(struct nbd_handle *handle, const struct nbd_engine *engine,
		       struct nbd_export *export)
{
	int64_t size = nbd_get_size(handle), max = nbd_get_block_size(handle, LIBNBD_SIZE_MAXIMUM);
	uint32_t unit = atomic_load(&engine->block_bytes);

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
	if (unit < export->min_block)
		unit = export->min_block;
	export->size_bytes = (uint64_t)size - (uint64_t)size % unit;
	return 0;
}

/*
 * Makes the kernel end a TCP connection when the server's host has acknowledged nothing for about
 * 25 s.
 */
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

/* Gives the connected handle to the connection, which owns the handle even after a failure. */
static int begin(struct nbd_connection *connection, struct nbd_handle *handle,
		 struct vublk_error *error)
{
	bool needs_bridge = nbd_get_tls_negotiated(handle) == 1 ||
			    nbd_get_structured_replies_negotiated(handle) == 1;
	int fd = nbd_aio_get_fd(handle), r = 0;

	watch_peer(handle);
	connection->handle = handle;
	if (needs_bridge) {
		r = vublk_nbd_bridge_new(handle, &connection->bridge, &fd, error);
		if (r)
			return r;
		connection->handle = NULL;
	}
	if (vublk_nbd_wire_open(&connection->wire, fd))
		return vublk_engine_fail(error, ENOMEM,
					 "cannot allocate memory for an NBD connection");
	connection->generation = atomic_load(&connection->engine->generation);
	connection->has_succeeded = false;
	return 0;
}

int vublk_nbd_connect(struct nbd_connection *connection, int timeout_ms, struct vublk_error *error)
{
	struct nbd_handle *handle = NULL;
	int r = vublk_nbd_attempt(connection->engine, timeout_ms, &handle, error);

	if (r)
		return r;
	if (read_export(handle, connection->engine, &connection->export)) {
		vublk_engine_fail(error, EPROTO, "cannot use the NBD server at %s: %s",
				  connection->engine->uri, nbd_get_error());
		nbd_close(handle);
		return -EPROTO;
	}
	r = begin(connection, handle, error);
	if (r)
		vublk_nbd_disconnect(connection);
	return r;
}

void vublk_nbd_disconnect(struct nbd_connection *connection)
{
	if (connection->bridge)
		close(connection->wire.fd);
	vublk_nbd_bridge_free(connection->bridge);
	/* libnbd has no request in flight, so this call sends the message and does not wait. */
	if (connection->handle && vublk_nbd_wire_is_idle(&connection->wire))
		nbd_aio_disconnect(connection->handle, 0);
	nbd_close(connection->handle); /* NULL is a no-op */
	connection->bridge = NULL;
	connection->handle = NULL;
}

const char *vublk_nbd_find_misfit(const struct nbd_engine *engine, const struct nbd_export *export,
				  unsigned num_connections)
{
	if (export->read_only && !engine->engine.geometry.read_only)
		return "the export is read-only now";
	if (export->min_block > engine->export.min_block)
		return "its minimum block size is larger now";
	if (!export->size_bytes)
		return "the export is empty now";
	if (export->size_bytes < atomic_load(&engine->size_now))
		return "the export is smaller now";
	if (export->size_bytes != engine->connections[0].export.size_bytes)
		return "its size has just changed";
	if (!export->multi_conn && num_connections > 1)
		return "it does not permit several connections (multi-conn) now";
	if (engine->export.flush && !export->flush)
		return "it does not support flushes now";
	if (engine->export.fua && !export->flush && !export->fua)
		return "it supports neither flushes nor FUA now";
	return NULL;
}
