/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PROTO_VHOST_USER_CODEC_H
#define VUBLK_PROTO_VHOST_USER_CODEC_H

/*
 * vhost-user on the wire: numbers, names and payloads, as in the specification (QEMU's
 * docs/interop/vhost-user.rst). All numbers are in native byte order. The codec does no input
 * or output and does not know what values mean.
 */

#include <vublk/error.h>

#include <linux/vhost_types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Requests of the front-end to the back-end ("Front-end message types"). */
enum vublk_vu_request {
	VUBLK_VU_GET_FEATURES = 1,
	VUBLK_VU_SET_FEATURES = 2,
	VUBLK_VU_SET_OWNER = 3,
	VUBLK_VU_RESET_OWNER = 4,
	VUBLK_VU_SET_MEM_TABLE = 5,
	VUBLK_VU_SET_LOG_BASE = 6,
	VUBLK_VU_SET_LOG_FD = 7,
	VUBLK_VU_SET_VRING_NUM = 8,
	VUBLK_VU_SET_VRING_ADDR = 9,
	VUBLK_VU_SET_VRING_BASE = 10,
	VUBLK_VU_GET_VRING_BASE = 11,
	VUBLK_VU_SET_VRING_KICK = 12,
	VUBLK_VU_SET_VRING_CALL = 13,
	VUBLK_VU_SET_VRING_ERR = 14,
	VUBLK_VU_GET_PROTOCOL_FEATURES = 15,
	VUBLK_VU_SET_PROTOCOL_FEATURES = 16,
	VUBLK_VU_GET_QUEUE_NUM = 17,
	VUBLK_VU_SET_VRING_ENABLE = 18,
	VUBLK_VU_SEND_RARP = 19,
	VUBLK_VU_NET_SET_MTU = 20,
	VUBLK_VU_SET_BACKEND_REQ_FD = 21,
	VUBLK_VU_IOTLB_MSG = 22,
	VUBLK_VU_SET_VRING_ENDIAN = 23,
	VUBLK_VU_GET_CONFIG = 24,
	VUBLK_VU_SET_CONFIG = 25,
	VUBLK_VU_CREATE_CRYPTO_SESSION = 26,
	VUBLK_VU_CLOSE_CRYPTO_SESSION = 27,
	VUBLK_VU_POSTCOPY_ADVISE = 28,
	VUBLK_VU_POSTCOPY_LISTEN = 29,
	VUBLK_VU_POSTCOPY_END = 30,
	VUBLK_VU_GET_INFLIGHT_FD = 31,
	VUBLK_VU_SET_INFLIGHT_FD = 32,
	VUBLK_VU_GPU_SET_SOCKET = 33,
	VUBLK_VU_RESET_DEVICE = 34,
	VUBLK_VU_VRING_KICK = 35,
	VUBLK_VU_GET_MAX_MEM_SLOTS = 36,
	VUBLK_VU_ADD_MEM_REG = 37,
	VUBLK_VU_REM_MEM_REG = 38,
	VUBLK_VU_SET_STATUS = 39,
	VUBLK_VU_GET_STATUS = 40,
	VUBLK_VU_GET_SHARED_OBJECT = 41,
	VUBLK_VU_SET_DEVICE_STATE_FD = 42,
	VUBLK_VU_CHECK_DEVICE_STATE = 43,
	VUBLK_VU_GET_SHMEM_CONFIG = 44,
	VUBLK_VU_GET_VRING_BASE_SKIP_DRAIN = 45,
	VUBLK_VU_REQUEST_END,
};

/* Requests of the back-end to the front-end ("Back-end message types"), on the back-end channel. */
enum vublk_vu_backend_request {
	VUBLK_VU_BACKEND_IOTLB_MSG = 1,
	VUBLK_VU_BACKEND_CONFIG_CHANGE_MSG = 2,
	VUBLK_VU_BACKEND_VRING_HOST_NOTIFIER_MSG = 3,
	VUBLK_VU_BACKEND_VRING_CALL = 4,
	VUBLK_VU_BACKEND_VRING_ERR = 5,
	VUBLK_VU_BACKEND_SHARED_OBJECT_ADD = 6,
	VUBLK_VU_BACKEND_SHARED_OBJECT_REMOVE = 7,
	VUBLK_VU_BACKEND_SHARED_OBJECT_LOOKUP = 8,
	VUBLK_VU_BACKEND_SHMEM_MAP = 9,
	VUBLK_VU_BACKEND_SHMEM_UNMAP = 10,
	VUBLK_VU_BACKEND_REQUEST_END,
};

/* Bits of GET_PROTOCOL_FEATURES ("Protocol features"). */
enum vublk_vu_protocol_feature {
	VUBLK_VU_F_MQ = 0,
	VUBLK_VU_F_LOG_SHMFD = 1,
	VUBLK_VU_F_RARP = 2,
	VUBLK_VU_F_REPLY_ACK = 3,
	VUBLK_VU_F_MTU = 4,
	VUBLK_VU_F_BACKEND_REQ = 5,
	VUBLK_VU_F_CROSS_ENDIAN = 6,
	VUBLK_VU_F_CRYPTO_SESSION = 7,
	VUBLK_VU_F_PAGEFAULT = 8,
	VUBLK_VU_F_CONFIG = 9,
	VUBLK_VU_F_BACKEND_SEND_FD = 10,
	VUBLK_VU_F_HOST_NOTIFIER = 11,
	VUBLK_VU_F_INFLIGHT_SHMFD = 12,
	VUBLK_VU_F_RESET_DEVICE = 13,
	VUBLK_VU_F_INBAND_NOTIFICATIONS = 14,
	VUBLK_VU_F_CONFIGURE_MEM_SLOTS = 15,
	VUBLK_VU_F_STATUS = 16,
	VUBLK_VU_F_XEN_MMAP = 17,
	VUBLK_VU_F_SHARED_OBJECT = 18,
	VUBLK_VU_F_DEVICE_STATE = 19,
	VUBLK_VU_F_GET_VRING_BASE_INFLIGHT = 20,
	VUBLK_VU_F_GPA_ADDRESSES = 21,
	VUBLK_VU_F_SHMEM = 22,
	VUBLK_VU_F_GET_VRING_BASE_SKIP_DRAIN = 23,
	VUBLK_VU_F_END,
};

/* The virtio feature bit that permits GET_PROTOCOL_FEATURES. */
#define VUBLK_VU_VIRTIO_F_PROTOCOL_FEATURES 30

/* Header flags. */
#define VUBLK_VU_VERSION 0x1u
#define VUBLK_VU_VERSION_MASK 0x3u
#define VUBLK_VU_FLAG_REPLY 0x4u
#define VUBLK_VU_FLAG_NEED_REPLY 0x8u

/*
 * The u64 of SET_VRING_KICK, _CALL and _ERR: the queue index, and a flag if there is no descriptor.
 */
#define VUBLK_VU_VRING_INDEX_MASK 0xffu
#define VUBLK_VU_VRING_NO_FD 0x100u

/* SET_CONFIG flags. */
#define VUBLK_VU_CONFIG_WRITABLE 0u
#define VUBLK_VU_CONFIG_MIGRATION 1u

#define VUBLK_VU_MAX_FDS 8          /* in one message; SET_MEM_TABLE has the most, one per region */
#define VUBLK_VU_MAX_TABLE_REGIONS 8
#define VUBLK_VU_MAX_CONFIG_BYTES 256
#define VUBLK_VU_MAX_PAYLOAD_BYTES 512

struct vublk_vu_header {
	uint32_t request;
	uint32_t flags;
	uint32_t size; /* of the payload, in bytes */
};

struct vublk_vu_region {
	uint64_t guest_addr;
	uint64_t size_bytes;
	uint64_t user_addr;
	uint64_t mmap_offset;
};

struct vublk_vu_mem_table {
	uint32_t num_regions;
	uint32_t padding;
	struct vublk_vu_region regions[VUBLK_VU_MAX_TABLE_REGIONS];
};

struct vublk_vu_mem_reg {
	uint64_t padding;
	struct vublk_vu_region region;
};

struct vublk_vu_log {
	uint64_t size_bytes;
	uint64_t offset;
};

#define VUBLK_VU_CONFIG_HEADER_BYTES 12
struct vublk_vu_config {
	uint32_t offset;
	uint32_t size_bytes;
	uint32_t flags;
	uint8_t data[VUBLK_VU_MAX_CONFIG_BYTES];
};

struct vublk_vu_vring_area {
	uint64_t index_and_flags;
	uint64_t size_bytes;
	uint64_t offset;
};

/* The struct has 24 bytes on the wire, because all implementations send the padding, too. */
struct vublk_vu_inflight {
	uint64_t mmap_size;
	uint64_t mmap_offset;
	uint16_t num_queues;
	uint16_t queue_size;
	uint32_t padding;
};

union vublk_vu_payload {
	uint64_t u64;
	struct vhost_vring_state state; /* { index, num } */
	struct vhost_vring_addr addr;
	struct vublk_vu_mem_table table;
	struct vublk_vu_mem_reg mem_reg;
	struct vublk_vu_log log;
	struct vublk_vu_config config;
	struct vublk_vu_vring_area area;
	struct vublk_vu_inflight inflight;
	struct vhost_iotlb_msg iotlb;
	uint8_t bytes[VUBLK_VU_MAX_PAYLOAD_BYTES];
};

/*
 * A message and its descriptors. A received message owns its descriptors:
 * vublk_vu_message_take_fd() takes one, and vublk_vu_message_deinit() closes the others.
 * A message to be sent borrows its descriptors.
 */
struct vublk_vu_message {
	struct vublk_vu_header header;
	union vublk_vu_payload payload;
	int fds[VUBLK_VU_MAX_FDS];
	unsigned num_fds;
};

/* The direction of a message. A request number has a different meaning in each direction. */
enum vublk_vu_direction {
	VUBLK_VU_TO_BACKEND,  /* a request on the main channel */
	VUBLK_VU_TO_FRONTEND, /* a request on the back-end channel */
};

/* The format of a request according to the specification; each table has one row per request. */
struct vublk_vu_request_info {
	const char *name;           /* for example "SET_VRING_NUM" */
	uint32_t min_payload_bytes; /* of the request */
	uint32_t max_payload_bytes;
	uint32_t reply_bytes;       /* the shortest payload of the reply; 0: empty, or the request
				       has no reply of its own */
	uint8_t min_fds, max_fds;   /* with the request */
	bool has_reply;             /* the request is answered even without NEED_REPLY */
	int protocol_feature;       /* the bit of the feature that the request needs; -1: no
				       feature */
};

/* Returns the row of a request, or NULL if the number is not in the specification. */
const struct vublk_vu_request_info *vublk_vu_request_info(enum vublk_vu_direction direction,
							  uint32_t request);

/* Returns the name of a request, or "unknown request", as a static string. */
const char *vublk_vu_request_name(enum vublk_vu_direction direction, uint32_t request);

/*
 * Makes `message` a request with this number and the protocol's version, but without payload and
 * descriptors.
 */
void vublk_vu_message_init(struct vublk_vu_message *message, uint32_t request);

/* Closes the descriptors that were not taken. Idempotent. */
void vublk_vu_message_deinit(struct vublk_vu_message *message);

/*
 * Returns the descriptor at `index`, which the caller owns afterwards, or -1 if there is no such
 * descriptor, or it was taken before.
 */
int vublk_vu_message_take_fd(struct vublk_vu_message *message, unsigned index);

/*
 * Checks the size, the number of descriptors and the flags of a received request. EPROTO: one of
 * these differs from the specification; ENOTSUP: the request number is not in the specification.
 */
int vublk_vu_check_request(enum vublk_vu_direction direction,
			   const struct vublk_vu_message *message, struct vublk_error *error);

/*
 * Checks that `reply` answers `request`: that it has the number of the request, the reply flag, the
 * right version, and at least `min_payload_bytes` bytes of payload. If not, fails with EPROTO.
 */
int vublk_vu_check_reply(uint32_t request, uint32_t min_payload_bytes,
			 const struct vublk_vu_message *reply, struct vublk_error *error);

#endif
