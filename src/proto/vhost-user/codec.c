/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The vhost-user codec defines the format of each message, and checks received messages. It does no
 * input or output and does not know what values mean. Only the receiver can check, for example,
 * that a queue index is in range and that each region has a descriptor.
 *
 * Key idea: there is one table per direction, with one row per request. A row has the sizes on the
 * wire. Some of these sizes differ from the specification's text, because all implementations send
 * C structures including the padding.
 *
 * Specification: "Front-end message types", "Back-end message types".
 */
#include "proto/vhost-user/codec.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <vublk/device.h>

#include <errno.h>
#include <string.h>

#define HEADER_FLAGS \
	(VUBLK_VU_VERSION_MASK | VUBLK_VU_FLAG_REPLY | VUBLK_VU_FLAG_NEED_REPLY)

/* Sizes in bytes on the wire. */
#define U64 sizeof(uint64_t)
#define STATE sizeof(struct vhost_vring_state)
#define ADDR sizeof(struct vhost_vring_addr)
#define LOG sizeof(struct vublk_vu_log)
#define TABLE_HEADER offsetof(struct vublk_vu_mem_table, regions)
#define TABLE sizeof(struct vublk_vu_mem_table)
#define MEM_REG sizeof(struct vublk_vu_mem_reg)
#define CONFIG_HEADER VUBLK_VU_CONFIG_HEADER_BYTES
#define CONFIG sizeof(struct vublk_vu_config)
#define AREA sizeof(struct vublk_vu_vring_area)
#define UUID 16
#define STATE_TRANSFER 8 /* u32 direction, u32 phase */
#define SHMEM_HEADER 8   /* u32 number of regions, u32 padding; then one u64 per region */
#define SHMEM_MAP_BYTES 40

/*
 * The sizes of two structs without and with the padding at their end, which the specification's
 * text does not mention.
 */
#define INFLIGHT_FIELDS offsetof(struct vublk_vu_inflight, padding)
#define INFLIGHT sizeof(struct vublk_vu_inflight)
#define IOTLB_FIELDS 26
#define IOTLB sizeof(struct vhost_iotlb_msg)

_Static_assert(sizeof(struct vublk_vu_header) == 12, "wire size");
_Static_assert(sizeof(struct vublk_vu_region) == 32, "wire size");
_Static_assert(TABLE_HEADER == 8, "wire size");
_Static_assert(TABLE == 8 + 8 * 32, "wire size");
_Static_assert(MEM_REG == 40, "wire size");
_Static_assert(LOG == 16, "wire size");
_Static_assert(CONFIG_HEADER == offsetof(struct vublk_vu_config, data), "wire size");
_Static_assert(CONFIG == 12 + VUBLK_VU_MAX_CONFIG_BYTES, "wire size");
_Static_assert(AREA == 24, "wire size");
_Static_assert(INFLIGHT_FIELDS == 20, "wire size");
_Static_assert(INFLIGHT == 24, "wire size");
_Static_assert(STATE == 8, "wire size");
_Static_assert(ADDR == 40, "wire size");
_Static_assert(IOTLB == 32, "wire size");
_Static_assert(offsetof(struct vhost_iotlb_msg, type) == IOTLB_FIELDS - 1, "wire size");
_Static_assert(sizeof(union vublk_vu_payload) == VUBLK_VU_MAX_PAYLOAD_BYTES, "wire size");

/*
 * Short names for the table. REPLY and NO_REPLY say whether a request has a reply of its own.
 * ALWAYS says that a request needs no protocol feature.
 */
#define REPLY true
#define NO_REPLY false
#define ALWAYS (-1)
#define F(name) VUBLK_VU_F_##name

#define ROW(prefix, name, min, max, reply, min_fds, max_fds, has_reply, feature) \
	[prefix##name] = { #name, min, max, reply, min_fds, max_fds, has_reply, feature }
#define TO_BACKEND(...) ROW(VUBLK_VU_, __VA_ARGS__)
#define TO_FRONTEND(...) ROW(VUBLK_VU_BACKEND_, __VA_ARGS__)

/*
 * Some rows accept more than the specification's text:
 * SET_LOG_BASE: without LOG_SHMFD the payload is a u64. With LOG_SHMFD the payload is the log
 *   description, and there is a reply, whose payload is a u64 or empty.
 * GET_CONFIG: a back-end that refuses it sends an empty payload.
 * REM_MEM_REG: older front-ends send a descriptor, which is closed.
 * CREATE_CRYPTO_SESSION is larger than any message that a channel accepts; the row only
 *   names it.
 */
static const struct vublk_vu_request_info to_backend[] = {
	TO_BACKEND(GET_FEATURES, 0, 0, U64, 0, 0, REPLY, ALWAYS),
	TO_BACKEND(SET_FEATURES, U64, U64, 0, 0, 0, NO_REPLY, ALWAYS),
	TO_BACKEND(SET_OWNER, 0, 0, 0, 0, 0, NO_REPLY, ALWAYS),
	TO_BACKEND(RESET_OWNER, 0, 0, 0, 0, 0, NO_REPLY, ALWAYS),
	TO_BACKEND(SET_MEM_TABLE, TABLE_HEADER, TABLE, 0, 0, 8, NO_REPLY, ALWAYS),
	TO_BACKEND(SET_LOG_BASE, U64, LOG, 0, 0, 1, REPLY, ALWAYS),
	TO_BACKEND(SET_LOG_FD, 0, 0, 0, 1, 1, NO_REPLY, ALWAYS),
	TO_BACKEND(SET_VRING_NUM, STATE, STATE, 0, 0, 0, NO_REPLY, ALWAYS),
	TO_BACKEND(SET_VRING_ADDR, ADDR, ADDR, 0, 0, 0, NO_REPLY, ALWAYS),
	TO_BACKEND(SET_VRING_BASE, STATE, STATE, 0, 0, 0, NO_REPLY, ALWAYS),
	TO_BACKEND(GET_VRING_BASE, STATE, STATE, STATE, 0, 0, REPLY, ALWAYS),
	TO_BACKEND(SET_VRING_KICK, U64, U64, 0, 0, 1, NO_REPLY, ALWAYS),
	TO_BACKEND(SET_VRING_CALL, U64, U64, 0, 0, 1, NO_REPLY, ALWAYS),
	TO_BACKEND(SET_VRING_ERR, U64, U64, 0, 0, 1, NO_REPLY, ALWAYS),
	TO_BACKEND(GET_PROTOCOL_FEATURES, 0, 0, U64, 0, 0, REPLY, ALWAYS),
	TO_BACKEND(SET_PROTOCOL_FEATURES, U64, U64, 0, 0, 0, NO_REPLY, ALWAYS),
	TO_BACKEND(GET_QUEUE_NUM, 0, 0, U64, 0, 0, REPLY, F(MQ)),
	TO_BACKEND(SET_VRING_ENABLE, STATE, STATE, 0, 0, 0, NO_REPLY, ALWAYS),
	TO_BACKEND(SEND_RARP, U64, U64, 0, 0, 0, NO_REPLY, F(RARP)),
	TO_BACKEND(NET_SET_MTU, U64, U64, 0, 0, 0, NO_REPLY, F(MTU)),
	TO_BACKEND(SET_BACKEND_REQ_FD, 0, 0, 0, 1, 1, NO_REPLY, F(BACKEND_REQ)),
	TO_BACKEND(IOTLB_MSG, IOTLB_FIELDS, IOTLB, U64, 0, 0, REPLY, ALWAYS),
	TO_BACKEND(SET_VRING_ENDIAN, STATE, STATE, 0, 0, 0, NO_REPLY, F(CROSS_ENDIAN)),
	TO_BACKEND(GET_CONFIG, CONFIG_HEADER, CONFIG, 0, 0, 0, REPLY, F(CONFIG)),
	TO_BACKEND(SET_CONFIG, CONFIG_HEADER, CONFIG, 0, 0, 0, NO_REPLY, F(CONFIG)),
	TO_BACKEND(CREATE_CRYPTO_SESSION, 0, VUBLK_VU_MAX_PAYLOAD_BYTES, 0, 0, 0, REPLY,
		   F(CRYPTO_SESSION)),
	TO_BACKEND(CLOSE_CRYPTO_SESSION, U64, U64, 0, 0, 0, NO_REPLY, F(CRYPTO_SESSION)),
	TO_BACKEND(POSTCOPY_ADVISE, 0, 0, 0, 0, 0, REPLY, F(PAGEFAULT)),
	TO_BACKEND(POSTCOPY_LISTEN, 0, 0, 0, 0, 0, NO_REPLY, F(PAGEFAULT)),
	TO_BACKEND(POSTCOPY_END, 0, 0, U64, 0, 0, REPLY, F(PAGEFAULT)),
	TO_BACKEND(GET_INFLIGHT_FD, INFLIGHT_FIELDS, INFLIGHT, INFLIGHT_FIELDS, 0, 0, REPLY,
		   F(INFLIGHT_SHMFD)),
	TO_BACKEND(SET_INFLIGHT_FD, INFLIGHT_FIELDS, INFLIGHT, 0, 1, 1, NO_REPLY,
		   F(INFLIGHT_SHMFD)),
	TO_BACKEND(GPU_SET_SOCKET, 0, 0, 0, 1, 1, NO_REPLY, ALWAYS),
	TO_BACKEND(RESET_DEVICE, 0, 0, 0, 0, 0, NO_REPLY, F(RESET_DEVICE)),
	TO_BACKEND(VRING_KICK, STATE, STATE, 0, 0, 0, NO_REPLY, F(INBAND_NOTIFICATIONS)),
	TO_BACKEND(GET_MAX_MEM_SLOTS, 0, 0, U64, 0, 0, REPLY, F(CONFIGURE_MEM_SLOTS)),
	TO_BACKEND(ADD_MEM_REG, MEM_REG, MEM_REG, 0, 1, 1, NO_REPLY, F(CONFIGURE_MEM_SLOTS)),
	TO_BACKEND(REM_MEM_REG, MEM_REG, MEM_REG, 0, 0, 1, NO_REPLY, F(CONFIGURE_MEM_SLOTS)),
	TO_BACKEND(SET_STATUS, U64, U64, 0, 0, 0, NO_REPLY, F(STATUS)),
	TO_BACKEND(GET_STATUS, 0, 0, U64, 0, 0, REPLY, F(STATUS)),
	TO_BACKEND(GET_SHARED_OBJECT, UUID, UUID, 0, 0, 0, REPLY, F(SHARED_OBJECT)),
	TO_BACKEND(SET_DEVICE_STATE_FD, STATE_TRANSFER, STATE_TRANSFER, U64, 1, 1, REPLY,
		   F(DEVICE_STATE)),
	TO_BACKEND(CHECK_DEVICE_STATE, 0, 0, U64, 0, 0, REPLY, F(DEVICE_STATE)),
	TO_BACKEND(GET_SHMEM_CONFIG, 0, 0, SHMEM_HEADER, 0, 0, REPLY, F(SHMEM)),
	TO_BACKEND(GET_VRING_BASE_SKIP_DRAIN, STATE, STATE, STATE, 0, 0, REPLY,
		   F(GET_VRING_BASE_SKIP_DRAIN)),
};

static const struct vublk_vu_request_info to_frontend[] = {
	TO_FRONTEND(IOTLB_MSG, IOTLB_FIELDS, IOTLB, 0, 0, 0, NO_REPLY, F(BACKEND_REQ)),
	TO_FRONTEND(CONFIG_CHANGE_MSG, 0, 0, 0, 0, 0, NO_REPLY, F(CONFIG)),
	TO_FRONTEND(VRING_HOST_NOTIFIER_MSG, AREA, AREA, 0, 0, 1, NO_REPLY, F(HOST_NOTIFIER)),
	TO_FRONTEND(VRING_CALL, STATE, STATE, 0, 0, 0, NO_REPLY, F(INBAND_NOTIFICATIONS)),
	TO_FRONTEND(VRING_ERR, STATE, STATE, 0, 0, 0, NO_REPLY, F(INBAND_NOTIFICATIONS)),
	TO_FRONTEND(SHARED_OBJECT_ADD, UUID, UUID, 0, 0, 0, NO_REPLY, F(SHARED_OBJECT)),
	TO_FRONTEND(SHARED_OBJECT_REMOVE, UUID, UUID, 0, 0, 0, NO_REPLY, F(SHARED_OBJECT)),
	TO_FRONTEND(SHARED_OBJECT_LOOKUP, UUID, UUID, U64, 0, 0, REPLY, F(SHARED_OBJECT)),
	TO_FRONTEND(SHMEM_MAP, SHMEM_MAP_BYTES, SHMEM_MAP_BYTES, 0, 1, 1, NO_REPLY, F(SHMEM)),
	TO_FRONTEND(SHMEM_UNMAP, SHMEM_MAP_BYTES, SHMEM_MAP_BYTES, 0, 0, 0, NO_REPLY, F(SHMEM)),
};

_Static_assert(VUBLK_ARRAY_SIZE(to_backend) == VUBLK_VU_REQUEST_END, "one row per request");
_Static_assert(VUBLK_ARRAY_SIZE(to_frontend) == VUBLK_VU_BACKEND_REQUEST_END, "one row per request");

#define FEATURE(name) [VUBLK_VU_F_##name] = #name

static const char *const protocol_features[VUBLK_VU_F_END] = {
	FEATURE(MQ),
	FEATURE(LOG_SHMFD),
	FEATURE(RARP),
	FEATURE(REPLY_ACK),
	FEATURE(MTU),
	FEATURE(BACKEND_REQ),
	FEATURE(CROSS_ENDIAN),
	FEATURE(CRYPTO_SESSION),
	FEATURE(PAGEFAULT),
	FEATURE(CONFIG),
	FEATURE(BACKEND_SEND_FD),
	FEATURE(HOST_NOTIFIER),
	FEATURE(INFLIGHT_SHMFD),
	FEATURE(RESET_DEVICE),
	FEATURE(INBAND_NOTIFICATIONS),
	FEATURE(CONFIGURE_MEM_SLOTS),
	FEATURE(STATUS),
	FEATURE(XEN_MMAP),
	FEATURE(SHARED_OBJECT),
	FEATURE(DEVICE_STATE),
	FEATURE(GET_VRING_BASE_INFLIGHT),
	FEATURE(GPA_ADDRESSES),
	FEATURE(SHMEM),
	FEATURE(GET_VRING_BASE_SKIP_DRAIN),
};

const struct vublk_vu_request_info *vublk_vu_request_info(enum vublk_vu_direction direction,
							  uint32_t request)
{
	const struct vublk_vu_request_info *table = to_backend;
	size_t rows = VUBLK_ARRAY_SIZE(to_backend);

	if (direction == VUBLK_VU_TO_FRONTEND) {
		table = to_frontend;
		rows = VUBLK_ARRAY_SIZE(to_frontend);
	}
	if (request >= rows || !table[request].name)
		return NULL;
	return &table[request];
}

const char *vublk_vu_request_name(enum vublk_vu_direction direction, uint32_t request)
{
	const struct vublk_vu_request_info *info = vublk_vu_request_info(direction, request);

	return info ? info->name : "unknown request";
}

const char *vublk_protocol_feature_name(unsigned bit)
{
	return bit < VUBLK_ARRAY_SIZE(protocol_features) ? protocol_features[bit] : NULL;
}

void vublk_vu_message_init(struct vublk_vu_message *message, uint32_t request)
{
	memset(message, 0, sizeof(*message));
	message->header.request = request;
	message->header.flags = VUBLK_VU_VERSION;
	for (unsigned i = 0; i < VUBLK_VU_MAX_FDS; i++)
		message->fds[i] = -1;
}

void vublk_vu_message_deinit(struct vublk_vu_message *message)
{
	if (!message)
		return;
	vublk_fd_close_all(message->fds, message->num_fds);
	message->num_fds = 0;
}

int vublk_vu_message_take_fd(struct vublk_vu_message *message, unsigned index)
{
	return index < message->num_fds ? vublk_fd_steal(&message->fds[index]) : -1;
}

static int check_request_flags(const char *name, uint32_t flags, struct vublk_error *error)
{
	if ((flags & VUBLK_VU_VERSION_MASK) != VUBLK_VU_VERSION)
		return vublk_error_set(error, EPROTO,
				       "%s has protocol version %u; expected %u",
				       name, flags & VUBLK_VU_VERSION_MASK, VUBLK_VU_VERSION);
	if (flags & VUBLK_VU_FLAG_REPLY)
		return vublk_error_set(error, EPROTO,
				       "%s is marked as a reply; expected a request",
				       name);
	if (flags & ~HEADER_FLAGS)
		return vublk_error_set(error, EPROTO,
				       "%s has reserved header flags set (0x%x); expected 0", name,
				       flags & ~HEADER_FLAGS);
	return 0;
}

/* Some front-ends still use number 44, which a draft gave to GET_VRING_BASE_SKIP_DRAIN. */
static bool is_draft_skip_drain(const struct vublk_vu_message *message)
{
	return message->header.request == VUBLK_VU_GET_SHMEM_CONFIG &&
	       message->header.size == STATE;
}

static int check_request_size(const struct vublk_vu_request_info *info, uint32_t bytes,
			      struct vublk_error *error)
{
	if (bytes >= info->min_payload_bytes && bytes <= info->max_payload_bytes)
		return 0;
	if (info->min_payload_bytes == info->max_payload_bytes)
		return vublk_error_set(error, EPROTO,
				       "%s has a payload of %u bytes; expected %u",
				       info->name, bytes, info->min_payload_bytes);
	return vublk_error_set(error, EPROTO,
			       "%s has a payload of %u bytes; expected %u to %u",
			       info->name, bytes, info->min_payload_bytes,
			       info->max_payload_bytes);
}

static int check_request_fds(const struct vublk_vu_request_info *info, unsigned num_fds,
			     struct vublk_error *error)
{
	if (num_fds >= info->min_fds && num_fds <= info->max_fds)
		return 0;
	if (info->min_fds == info->max_fds)
		return vublk_error_set(error, EPROTO,
				       "%s has %u file descriptor%s; expected %s",
				       info->name, num_fds, num_fds == 1 ? "" : "s",
				       info->min_fds ? "one" : "none");
	return vublk_error_set(error, EPROTO,
			       "%s has %u file descriptor%s; expected at most %u",
			       info->name, num_fds, num_fds == 1 ? "" : "s", info->max_fds);
}

int vublk_vu_check_request(enum vublk_vu_direction direction,
			   const struct vublk_vu_message *message, struct vublk_error *error)
{
	const struct vublk_vu_header *header = &message->header;
	const struct vublk_vu_request_info *info;
	int r;

	info = vublk_vu_request_info(direction, header->request);
	if (!info)
		return vublk_error_set(error, ENOTSUP,
				       "request number %u is not in the protocol",
				       header->request);
	if (direction == VUBLK_VU_TO_BACKEND && is_draft_skip_drain(message))
		return vublk_error_set(error, EPROTO, "GET_SHMEM_CONFIG has a payload of 8 bytes; "
				       "expected 0 (the sender probably means "
				       "GET_VRING_BASE_SKIP_DRAIN, which had the number 44 in a "
				       "draft of the protocol and now has 45); update the VMM, or "
				       "turn off its inflight-migration");
	r = check_request_flags(info->name, header->flags, error);
	if (!r)
		r = check_request_size(info, header->size, error);
	if (!r)
		r = check_request_fds(info, message->num_fds, error);
	return r;
}

/*
 * Ignores header flags other than the reply flag, and surplus bytes, because some back-ends leave
 * NEED_REPLY set in a reply, and some replies are longer than the row of the request says.
 */
int vublk_vu_check_reply(uint32_t request, uint32_t min_payload_bytes,
			 const struct vublk_vu_message *reply, struct vublk_error *error)
{
	const char *name = vublk_vu_request_name(VUBLK_VU_TO_BACKEND, request);
	const struct vublk_vu_header *header = &reply->header;

	if ((header->flags & VUBLK_VU_VERSION_MASK) != VUBLK_VU_VERSION)
		return vublk_error_set(error, EPROTO,
				       "the reply to %s has protocol version %u; expected %u", name,
				       header->flags & VUBLK_VU_VERSION_MASK, VUBLK_VU_VERSION);
	if (!(header->flags & VUBLK_VU_FLAG_REPLY))
		return vublk_error_set(error, EPROTO,
				       "the answer to %s is not marked as a reply (header flags "
				       "0x%x)", name, header->flags);
	if (header->request != request)
		return vublk_error_set(error, EPROTO,
				       "received a reply to %s (number %u); expected one to %s",
				       vublk_vu_request_name(VUBLK_VU_TO_BACKEND, header->request),
				       header->request, name);
	if (header->size < min_payload_bytes)
		return vublk_error_set(error, EPROTO,
				       "the reply to %s has a payload of %u bytes; expected at "
				       "least %u", name, header->size,
				       min_payload_bytes);
	return 0;
}
