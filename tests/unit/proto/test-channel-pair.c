/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Replaces system calls of the channel, and acts as its peer; see test-channel-pair.h. */
#include "test-channel-pair.h"

#include "util/fd.h"
#include "util/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* --- the socket calls between the channel and the kernel -------------------- */

struct kernel kernel;

ssize_t __real_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t __real_recvmsg(int fd, struct msghdr *msg, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags);

void *__real_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);

void kernel_takes(size_t bytes, unsigned calls)
{
	kernel.send_limit = bytes;
	kernel.num_sends = calls;
}

static int take_error(int *error)
{
	errno = *error;
	*error = 0;
	return errno;
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags)
{
	struct msghdr cut = *msg;
	struct iovec iov[4];
	size_t left = kernel.send_limit;
	ssize_t n;

	if (take_error(&kernel.send_error))
		return -1;
	if (!kernel.num_sends || !left) {
		errno = EAGAIN;
		return -1;
	}
	assert_true(msg->msg_iovlen <= VUBLK_ARRAY_SIZE(iov));
	for (size_t i = 0; i < msg->msg_iovlen; i++) {
		iov[i] = msg->msg_iov[i];
		iov[i].iov_len = VUBLK_MIN(iov[i].iov_len, left);
		left -= iov[i].iov_len;
	}
	cut.msg_iov = iov;
	n = __real_sendmsg(fd, &cut, flags);
	if (n > 0 && kernel.num_sends != UINT32_MAX)
		kernel.num_sends--;
	if (n > 0 && msg->msg_controllen)
		kernel.sent_fds += (CMSG_FIRSTHDR(msg)->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	return n;
}

ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags)
{
	return take_error(&kernel.recv_error) ? -1 : __real_recvmsg(fd, msg, flags);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
	if (kernel.no_memory) {
		kernel.no_memory = false;
		return NULL;
	}
	return __real_calloc(count, bytes);
}

/* --- one channel, and the raw other end of its socket ----------------------- */

void pair_init(struct pair *pair)
{
	int fds[2];

	memset(pair, 0, sizeof(*pair));
	kernel_takes(SIZE_MAX, UINT32_MAX);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	vublk_channel_init(&pair->channel, fds[0]);
	pair->peer = fds[1];
}

void pair_deinit(struct pair *pair)
{
	vublk_channel_deinit(&pair->channel);
	vublk_channel_deinit(&pair->channel);
	vublk_fd_close(&pair->peer);
}

void make_message(struct vublk_vu_message *message, unsigned num_fds)
{
	vublk_vu_message_init(message, VUBLK_VU_SET_MEM_TABLE);
	message->header.flags |= VUBLK_VU_FLAG_NEED_REPLY;
	message->header.size = PAYLOAD_BYTES;
	for (unsigned i = 0; i < PAYLOAD_BYTES; i++)
		message->payload.bytes[i] = (uint8_t)(i * 7 + 1);
	for (unsigned i = 0; i < num_fds; i++) {
		message->fds[i] = vublk_memfd_new("test", 4096, NULL);
		assert_true(message->fds[i] >= 0);
	}
	message->num_fds = num_fds;
}

bool same_file(int a, int b)
{
	struct stat st_a, st_b;

	assert_int_equal(fstat(a, &st_a), 0);
	assert_int_equal(fstat(b, &st_b), 0);
	return st_a.st_ino == st_b.st_ino && st_a.st_dev == st_b.st_dev;
}

void assert_same_message(const struct vublk_vu_message *a, const struct vublk_vu_message *b)
{
	assert_memory_equal(&a->header, &b->header, HEADER_BYTES);
	assert_memory_equal(&a->payload, &b->payload, sizeof(a->payload));
	assert_int_equal(a->num_fds, b->num_fds);
	for (unsigned i = 0; i < a->num_fds; i++) {
		assert_true(a->fds[i] != b->fds[i]);
		assert_true(same_file(a->fds[i], b->fds[i]));
		assert_true(fcntl(b->fds[i], F_GETFD) & FD_CLOEXEC);
	}
}

size_t flatten(const struct vublk_vu_message *message, uint8_t *bytes)
{
	memcpy(bytes, &message->header, HEADER_BYTES);
	memcpy(bytes + HEADER_BYTES, &message->payload, message->header.size);
	return HEADER_BYTES + message->header.size;
}

void raw_send(int fd, const void *bytes, size_t count, const int *fds, unsigned num_fds)
{
	struct iovec iov = { (void *)bytes, count };
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * SCM_MAX)];
	} control = { 0 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (num_fds) {
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * num_fds);
		CMSG_FIRSTHDR(&msg)->cmsg_level = SOL_SOCKET;
		CMSG_FIRSTHDR(&msg)->cmsg_type = SCM_RIGHTS;
		CMSG_FIRSTHDR(&msg)->cmsg_len = CMSG_LEN(sizeof(int) * num_fds);
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), fds, sizeof(int) * num_fds);
	}
	assert_int_equal(__real_sendmsg(fd, &msg, 0), count);
}

struct rlimit leave_room(unsigned count)
{
	struct rlimit before, now;
	int next = 0;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	for (unsigned unused = 0;; next++)
		if (fcntl(next, F_GETFD) < 0 && unused++ == count)
			break;
	now = before;
	now.rlim_cur = (rlim_t)next;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &now), 0);
	return before;
}

