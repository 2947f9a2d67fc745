/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A back-end that accepts all messages; see friendly-backend.h. */
#include "friendly-backend.h"

#include "fuzz.h"

#include "proto/vhost-user/inflight.h"
#include "util/checked.h"
#include "util/fd.h"
#include "util/memfd.h"

#include <linux/virtio_config.h>
#include <string.h>
#include <unistd.h>

#define FEATURES \
	(VUBLK_BIT(VIRTIO_F_VERSION_1) | VUBLK_BIT(VUBLK_VU_VIRTIO_F_PROTOCOL_FEATURES) | \
	 VUBLK_BIT(VHOST_F_LOG_ALL) | VUBLK_BIT(VIRTIO_BLK_F_MQ) | \
	 VUBLK_BIT(VIRTIO_BLK_F_CONFIG_WCE))

static uint64_t value_of(const struct friendly_backend *backend, uint32_t request)
{
	switch (request) {
	case VUBLK_VU_GET_FEATURES:
		return FEATURES;
	case VUBLK_VU_GET_PROTOCOL_FEATURES:
		return backend->protocol_features;
	case VUBLK_VU_GET_QUEUE_NUM:
		return 2;
	case VUBLK_VU_GET_MAX_MEM_SLOTS:
		return 8;
	case VUBLK_VU_GET_STATUS:
		return VIRTIO_CONFIG_S_FEATURES_OK;
	default:
		return 0; /* success */
	}
}

static void fill(struct friendly_backend *backend, struct vublk_vu_message *message, int *fd)
{
	struct vublk_vu_config *config = &message->payload.config;
	uint64_t bytes;

	switch (message->header.request) {
	case VUBLK_VU_GET_CONFIG:
		memcpy(config->data, &backend->config,
		       VUBLK_MIN((size_t)config->size_bytes, sizeof(backend->config)));
		return;
	case VUBLK_VU_GET_VRING_BASE:
	case VUBLK_VU_GET_VRING_BASE_SKIP_DRAIN:
		return;
	case VUBLK_VU_GET_INFLIGHT_FD:
		bytes = vublk_inflight_split_area_bytes(message->payload.inflight.num_queues,
							message->payload.inflight.queue_size);
		*fd = vublk_memfd_new("fuzz-area", VUBLK_MAX(bytes, UINT64_C(1)), NULL);
		message->payload.inflight.mmap_size = bytes;
		message->fds[0] = *fd;
		message->num_fds = 1;
		return;
	default:
		message->payload.u64 = value_of(backend, message->header.request);
		message->header.size = sizeof(message->payload.u64);
	}
}

static void answer(struct friendly_backend *backend, struct vublk_vu_message *message)
{
	int fd = -1;

	vublk_vu_message_deinit(message);
	message->header.flags = VUBLK_VU_VERSION | VUBLK_VU_FLAG_REPLY;
	fill(backend, message, &fd);
	if (!backend->replace || backend->replace(backend->opaque, message))
		(void)!vublk_channel_send(&backend->channel, message, NULL);
	message->num_fds = 0; /* the message only borrowed `fd` */
	vublk_fd_close(&fd);
}

static void note_request(struct friendly_backend *backend, struct vublk_vu_message *message)
{
	const struct vublk_vu_config *config = &message->payload.config;

	if (message->header.request == VUBLK_VU_SET_CONFIG && config->offset == 32)
		backend->config.wce = config->data[0];
	if (message->header.request != VUBLK_VU_SET_BACKEND_REQ_FD)
		return;
	vublk_fd_close(&backend->request_fd);
	backend->request_fd = vublk_vu_message_take_fd(message, 0);
}

static bool accept_connection(struct friendly_backend *backend)
{
	int fd = vublk_socket_accept(backend->listen_fd, NULL);

	if (fd >= 0)
		vublk_channel_init(&backend->channel, fd);
	return fd >= 0;
}

bool friendly_backend_work(struct friendly_backend *backend)
{
	const struct vublk_vu_request_info *info;
	struct vublk_vu_message message;
	int r;

	if (backend->channel.fd < 0)
		return accept_connection(backend);
	(void)!vublk_channel_flush(&backend->channel, NULL);
	r = vublk_channel_receive(&backend->channel, &message, NULL);
	if (r < 0)
		friendly_backend_hang_up(backend);
	if (r != 1)
		return r < 0;
	note_request(backend, &message);
	info = vublk_vu_request_info(VUBLK_VU_TO_BACKEND, message.header.request);
	if (info->has_reply || message.header.flags & VUBLK_VU_FLAG_NEED_REPLY)
		answer(backend, &message);
	vublk_vu_message_deinit(&message);
	return true;
}

void friendly_backend_hang_up(struct friendly_backend *backend)
{
	vublk_channel_deinit(&backend->channel);
	backend->channel.fd = -1;
	vublk_fd_close(&backend->request_fd);
}

void friendly_backend_open(struct friendly_backend *backend)
{
	*backend = (struct friendly_backend){
		.config = { .capacity = 128, .num_queues = 2, .wce = 1 },
		.protocol_features = FRIENDLY_PROTOCOL_FEATURES,
		.channel.fd = -1,
		.request_fd = -1,
	};
	snprintf(backend->path, sizeof(backend->path), "/tmp/vublk-fuzz-%d-b", getpid());
	backend->listen_fd = vublk_socket_listen(backend->path, NULL);
	FUZZ_CHECK(backend->listen_fd >= 0);
}

void friendly_backend_close(struct friendly_backend *backend)
{
	friendly_backend_hang_up(backend);
	vublk_fd_close(&backend->listen_fd);
	FUZZ_CHECK(!unlink(backend->path));
}
