/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The transmission phase of the NBD protocol, with simple replies: requests and replies as bytes.
 *
 * Key idea: libnbd makes five system calls per read, however many reads are in flight, because it
 * sends and receives each header and each piece of data separately. This file collects the requests
 * of a batch in memory and sends them with one system call. Another system call receives all
 * replies that have arrived. At depth 32 this takes 0.09 system calls per read, and a quarter of the
 * processor time that libnbd takes (docs/engines.md has the figures). The data passes through this
 * memory, too. If the socket used the driver's memory directly, a driver whose memory is truncated
 * could end the connection. A request that is larger than the memory is sent and received in parts.
 *
 * Specification: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
 */
#include "engines/nbd/nbd.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define BUFFER_BYTES (UINT64_C(128) << 10)
#define REQUEST_MAGIC 0x25609513u
#define COOKIE_SLOT_MASK UINT64_C(0xffff)
#define MAX_RECEIVES 8 /* per turn, so that the queues of the thread take turns */

/* --- life --------------------------------------------------------------------- */

int vublk_nbd_wire_open(struct nbd_wire *wire, int fd)
{
	char *out = wire->out.bytes ? wire->out.bytes : malloc(BUFFER_BYTES);
	char *in = wire->in.bytes ? wire->in.bytes : malloc(BUFFER_BYTES);

	*wire = (struct nbd_wire){ .fd = fd, .out.bytes = out, .in.bytes = in };
	for (; wire->num_free < NBD_NUM_SLOTS; wire->num_free++)
		wire->free_slots[wire->num_free] = (uint16_t)(NBD_NUM_SLOTS - 1 - wire->num_free);
	return out && in ? 0 : -ENOMEM;
}

void vublk_nbd_wire_close(struct nbd_wire *wire)
{
	free(wire->out.bytes);
	free(wire->in.bytes);
	wire->out.bytes = wire->in.bytes = NULL;
}

unsigned vublk_nbd_wire_num_sent(const struct nbd_wire *wire)
{
	return NBD_NUM_SLOTS - wire->num_free;
}

bool vublk_nbd_wire_is_idle(const struct nbd_wire *wire)
{
	return !wire->failure && !vublk_nbd_wire_num_sent(wire) && !wire->filler_bytes &&
	       wire->out.begin == wire->out.end;
}

static int fail(struct nbd_wire *wire, int error, const char *why)
{
	wire->failure = why;
	return error;
}

/* --- the driver's data -------------------------------------------------------- */

/*
 * Copies between `bytes` and the driver's buffers for the current piece. `skip` is the number of
 * bytes of the piece that were copied before.
 */
static void copy(const struct nbd_request *request, uint64_t skip, char *bytes, size_t num_bytes,
		 bool to_driver)
{
	const struct iovec *iov = request->io->iov;

	skip += request->done_bytes;
	for (; skip >= iov->iov_len && num_bytes; iov++)
		skip -= iov->iov_len;
	for (size_t at = 0; at < num_bytes; iov++) {
		size_t n = iov->iov_len - skip;

		if (n > num_bytes - at)
			n = num_bytes - at;
		if (to_driver)
			memcpy((char *)iov->iov_base + skip, bytes + at, n);
		else
			memcpy(bytes + at, (const char *)iov->iov_base + skip, n);
		at += n;
		skip = 0;
	}
}

/* --- sending ------------------------------------------------------------------ */

bool vublk_nbd_wire_has_room(const struct nbd_wire *wire)
{
	return wire->num_free && !wire->sending && !wire->filler_bytes &&
	       BUFFER_BYTES - wire->out.end >= sizeof(struct nbd_request_header);
}

/* Copies as much data of the current write as fits to the buffer. */
static void move_data(struct nbd_wire *wire)
{
	struct nbd_request *request = wire->sending;
	uint64_t left = request->piece_bytes - wire->moved_bytes;
	size_t n = BUFFER_BYTES - wire->out.end;
	char *to = wire->out.bytes + wire->out.end;

	if (n > left)
		n = left;
	if (request->io->op == VUBLK_OP_WRITE)
		copy(request, wire->moved_bytes, to, n, false);
	else
		memset(to, 0, n);
	wire->out.end += n;
	wire->moved_bytes += n;
	if (n == left)
		wire->sending = NULL;
}

void vublk_nbd_wire_add(struct nbd_wire *wire, struct nbd_request *request,
			enum nbd_command command, unsigned flags)
{
	uint16_t index = wire->free_slots[--wire->num_free];
	bool is_flush = command == NBD_FLUSH;
	struct nbd_request_header header = {
		.magic = htobe32(REQUEST_MAGIC),
		.flags = htobe16((uint16_t)flags),
		.command = htobe16((uint16_t)command),
		.offset = is_flush ? 0 : htobe64(request->io->offset + request->done_bytes),
		.bytes = is_flush ? 0 : htobe32((uint32_t)request->piece_bytes),
	};

	wire->last_cookie += COOKIE_SLOT_MASK + 1;
	header.cookie = wire->last_cookie | index; /* the byte order does not matter */
	wire->slots[index] = (struct nbd_slot){ .request = request, .cookie = header.cookie };
	memcpy(wire->out.bytes + wire->out.end, &header, sizeof(header));
	wire->out.end += sizeof(header);
	if (command != NBD_WRITE)
		return;
	wire->sending = request;
	wire->moved_bytes = 0;
	move_data(wire);
}

/* Adds zeroes in place of the remaining data of a write that the server has refused. */
static void move_filler(struct nbd_wire *wire)
{
	size_t n = BUFFER_BYTES - wire->out.end;

	if (n > wire->filler_bytes)
		n = wire->filler_bytes;
	memset(wire->out.bytes + wire->out.end, 0, n);
	wire->out.end += n;
	wire->filler_bytes -= n;
}

int vublk_nbd_wire_send(struct nbd_wire *wire)
{
	struct nbd_buffer *out = &wire->out;

	wire->is_full = false;
	while (out->begin < out->end) {
		ssize_t n = send(wire->fd, out->bytes + out->begin, out->end - out->begin,
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN)
			return fail(wire, -ENOTCONN, strerrordesc_np(errno));
		wire->is_full = n < 0;
		if (n < 0)
			return 0;
		out->begin += (size_t)n;
		if (out->begin < out->end)
			continue;
		out->begin = out->end = 0;
		if (wire->sending)
			move_data(wire);
		else if (wire->filler_bytes)
			move_filler(wire);
	}
	return 0;
}

/* --- receiving ---------------------------------------------------------------- */

/*
 * Converts an error of the protocol, whose numbers are those of Linux, to an errno that the engine
 * may return.
 */
static int error_of(uint32_t error)
{
	switch (error) {
	case EPERM:
	case EIO:
	case ENOMEM:
	case EINVAL:
	case ENOSPC:
	case EOVERFLOW:
	case EOPNOTSUPP:
	case ESHUTDOWN:
		return (int)error;
	}
	return EINVAL;
}

static void end_slot(struct nbd_connection *connection, struct nbd_slot *slot, int error)
{
	struct nbd_wire *wire = &connection->wire;
	struct nbd_request *request = slot->request;

	slot->request = NULL;
	wire->free_slots[wire->num_free++] = (uint16_t)(slot - wire->slots);
	vublk_nbd_connection_answered(connection, request, error);
}

/* Copies received data to the driver's buffers. */
static void take_data(struct nbd_connection *connection)
{
	struct nbd_wire *wire = &connection->wire;
	struct nbd_slot *slot = wire->receiving;
	uint64_t left = slot->request->piece_bytes - wire->received_bytes;
	size_t n = wire->in.end - wire->in.begin;

	if (n > left)
		n = left;
	copy(slot->request, wire->received_bytes, wire->in.bytes + wire->in.begin, n, true);
	wire->in.begin += n;
	wire->received_bytes += n;
	if (n < left)
		return;
	wire->receiving = NULL;
	end_slot(connection, slot, 0);
}

/*
 * A server may refuse a write before it has all of the data, and still expects the rest. The engine
 * sends zeroes instead, because the request ends here and its memory must not be read afterwards.
 */
static int refuse_sending(struct nbd_wire *wire, int error)
{
	if (!error)
		return fail(wire, -EPROTO, "the server has confirmed a write before it had all of the data");
	wire->filler_bytes = wire->sending->piece_bytes - wire->moved_bytes;
	wire->sending = NULL;
	return 0;
}

static int take_reply(struct nbd_connection *connection)
{
	struct nbd_wire *wire = &connection->wire;
	struct nbd_slot *slot;
	struct nbd_reply reply;
	uint64_t index;
	int error;

	memcpy(&reply, wire->in.bytes + wire->in.begin, sizeof(reply));
	wire->in.begin += sizeof(reply);
	index = reply.cookie & COOKIE_SLOT_MASK;
	if (reply.magic != htobe32(NBD_REPLY_MAGIC))
		return fail(wire, -EPROTO, "the server has broken the protocol (no simple reply)");
	slot = index < NBD_NUM_SLOTS ? &wire->slots[index] : NULL;
	if (!slot || !slot->request || slot->cookie != reply.cookie)
		return fail(wire, -EPROTO, "the server has broken the protocol (a reply without a request)");
	error = reply.error ? error_of(be32toh(reply.error)) : 0;
	if (error == ESHUTDOWN)
		return fail(wire, -ENOTCONN, "the server is shutting down");
	if (slot->request == wire->sending && refuse_sending(wire, error))
		return -EPROTO;
	if (error || slot->request->io->op != VUBLK_OP_READ) {
		end_slot(connection, slot, error);
		return 0;
	}
	wire->receiving = slot;
	wire->received_bytes = 0;
	return 0;
}

/*
 * Takes all replies that have arrived completely. The bytes of an incomplete reply stay in the
 * buffer.
 */
static int take_all(struct nbd_connection *connection)
{
	struct nbd_wire *wire = &connection->wire;
	struct nbd_buffer *in = &wire->in;
	int r;

	while (in->begin < in->end) {
		if (wire->receiving) {
			take_data(connection);
			continue;
		}
		if (in->end - in->begin < sizeof(struct nbd_reply))
			break;
		r = take_reply(connection);
		if (r)
			return r;
	}
	memmove(in->bytes, in->bytes + in->begin, in->end - in->begin);
	in->end -= in->begin;
	in->begin = 0;
	return 0;
}

int vublk_nbd_wire_receive(struct nbd_connection *connection)
{
	struct nbd_wire *wire = &connection->wire;
	struct nbd_buffer *in = &wire->in;
	bool was_filled = true;
	int r = 0;

	/* The descriptor stays readable if more bytes have arrived. */
	for (unsigned i = 0; i < MAX_RECEIVES && was_filled && !r; i++) {
		ssize_t n = recv(wire->fd, in->bytes + in->end, BUFFER_BYTES - in->end, MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return 0;
		if (n <= 0)
			return fail(wire, -ENOTCONN, n ? strerrordesc_np(errno) :
							 "the server has closed the connection");
		in->end += (size_t)n;
		was_filled = in->end == BUFFER_BYTES;
		r = take_all(connection);
	}
	return r;
}
