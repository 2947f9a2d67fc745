/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Building blocks of a hostile peer; see peer.h. */
#include "peer.h"

#include "fuzz.h"

#include "proto/vhost-user/codec.h"
#include "util/checked.h"
#include "util/fd.h"
#include "util/memfd.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

/* --- the input ------------------------------------------------------------------------------ */

uint8_t fuzz_take_byte(struct fuzz_input *input)
{
	if (!input->left)
		return 0;
	input->left--;
	return *input->data++;
}

unsigned fuzz_take_two(struct fuzz_input *input)
{
	unsigned low = fuzz_take_byte(input);

	return low | (unsigned)fuzz_take_byte(input) << 8;
}

size_t fuzz_take_bytes(struct fuzz_input *input, void *to, size_t bytes)
{
	bytes = VUBLK_MIN(bytes, input->left);
	memcpy(to, input->data, bytes);
	input->data += bytes;
	input->left -= bytes;
	return bytes;
}

/* --- descriptors ------------------------------------------------------------------------------ */

void fuzz_objects_open(struct fuzz_objects *objects)
{
	int sockets[2];

	objects->fds[FUZZ_FD_MEMORY] = vublk_memfd_new("fuzz", FUZZ_MEMORY_BYTES, NULL);
	objects->memory = vublk_map_shared(objects->fds[FUZZ_FD_MEMORY], 0, FUZZ_MEMORY_BYTES, NULL);
	FUZZ_CHECK(objects->memory);
	objects->fds[FUZZ_FD_EVENT] = vublk_eventfd_new();
	FUZZ_CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets));
	objects->fds[FUZZ_FD_SOCKET] = sockets[0];
	objects->fds[FUZZ_FD_OTHER_END] = sockets[1];
}

void fuzz_objects_close(struct fuzz_objects *objects)
{
	munmap(objects->memory, FUZZ_MEMORY_BYTES);
	vublk_fd_close_all(objects->fds, FUZZ_NUM_FDS);
}

void fuzz_write_memory(struct fuzz_input *input, struct fuzz_objects *objects)
{
	size_t offset = fuzz_take_two(input);
	uint8_t bytes[256];
	size_t size = fuzz_take_bytes(input, bytes, fuzz_take_byte(input));

	memcpy(objects->memory + offset, bytes, VUBLK_MIN(size, FUZZ_MEMORY_BYTES - offset));
}

int fuzz_select_fd(const struct fuzz_objects *objects, uint8_t selector)
{
	return objects->fds[selector >> 4 & 3];
}

/* --- messages --------------------------------------------------------------------------------- */

ssize_t fuzz_send(int socket, struct iovec *parts, size_t num_parts, unsigned num_fds, int fd)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(FUZZ_MAX_SENT_FDS * sizeof(int))];
	} control = { 0 };
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = num_parts };

	FUZZ_CHECK(num_fds <= FUZZ_MAX_SENT_FDS);
	if (num_fds) {
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(num_fds * sizeof(int));
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(num_fds * sizeof(int));
		for (unsigned i = 0; i < num_fds; i++)
			memcpy(CMSG_DATA(&control.header) + i * sizeof(int), &fd, sizeof(int));
	}
	return sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void fuzz_send_vhost_user(struct fuzz_input *input, const struct fuzz_objects *objects, int socket)
{
	struct vublk_vu_header header = { 0 };
	uint8_t payload[256] = { 0 };
	struct iovec parts[2] = { { &header, sizeof(header) }, { payload, 0 } };
	uint8_t fds;

	header.request = fuzz_take_byte(input);
	header.flags = fuzz_take_byte(input);
	header.size = fuzz_take_byte(input);
	parts[1].iov_len = header.size;
	fds = fuzz_take_byte(input);
	fuzz_take_bytes(input, payload, header.size);
	(void)!fuzz_send(socket, parts, VUBLK_ARRAY_SIZE(parts), fds & 0xf,
			 fuzz_select_fd(objects, fds));
}

void fuzz_check_vhost_user_replies(int socket)
{
	struct vublk_vu_header header;
	uint8_t payload[VUBLK_VU_MAX_PAYLOAD_BYTES];

	while (recv(socket, &header, sizeof(header), MSG_DONTWAIT) == sizeof(header)) {
		FUZZ_CHECK(header.flags == (VUBLK_VU_VERSION | VUBLK_VU_FLAG_REPLY));
		FUZZ_CHECK(header.size <= sizeof(payload));
		if (header.size)
			FUZZ_CHECK(recv(socket, payload, header.size, MSG_DONTWAIT) ==
				   (ssize_t)header.size);
	}
}
