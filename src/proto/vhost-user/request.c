/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checks a front-end's requests and makes the answers. The functions need only the messages and
 * their descriptors. They do not access queues or memory.
 *
 * Key idea: every check that needs only a message is here or in the codec, so that the callers need
 * not repeat it. The callers pass the limits of their disk.
 *
 * Specification: "Communication" (which requests are answered), "Front-end message types".
 */
#include "proto/vhost-user/request.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/vhost_types.h>

/* --- queues ---------------------------------------------------------------- */

/*
 * Returns the unchecked index of the queue that a request is about, or -1 if the request is about
 * no queue.
 */
static int64_t queue_of(const struct vublk_vu_message *request)
{
	switch (request->header.request) {
	case VUBLK_VU_SET_VRING_NUM:
	case VUBLK_VU_SET_VRING_ADDR:
	case VUBLK_VU_SET_VRING_BASE:
	case VUBLK_VU_GET_VRING_BASE:
	case VUBLK_VU_GET_VRING_BASE_SKIP_DRAIN:
	case VUBLK_VU_SET_VRING_ENABLE:
		return request->payload.state.index; /* the payload of SET_VRING_ADDR also begins
							with the index */
	case VUBLK_VU_SET_VRING_KICK:
	case VUBLK_VU_SET_VRING_CALL:
	case VUBLK_VU_SET_VRING_ERR:
		return request->payload.u64 & VUBLK_VU_VRING_INDEX_MASK;
	default:
		return -1;
	}
}

int vublk_vu_check_queue(const struct vublk_vu_message *request, unsigned num_queues, int *index,
			 struct vublk_error *error)
{
	int64_t queue = queue_of(request);

	if (queue >= (int64_t)num_queues)
		return vublk_error_set(error, EPROTO, "%s names queue %" PRId64 ", but this disk "
				       "has only %u queue%s",
				       vublk_vu_request_name(VUBLK_VU_TO_BACKEND,
									   request->header.request),
				       queue, num_queues, num_queues == 1 ? "" : "s");
	*index = (int)queue;
	return 0;
}

/* --- features and status --------------------------------------------------- */

int vublk_vu_refuse_unknown_bits(const char *name, uint64_t bits, uint64_t offered,
				 struct vublk_error *error)
{
	if (!(bits & ~offered))
		return 0;
	return vublk_error_set(error, EPROTO, "%s sets the bits 0x%" PRIx64 ", which were not "
			       "offered", name, bits & ~offered);
}

int vublk_vu_check_skip_drain(uint64_t features, struct vublk_error *error)
{
	uint64_t inflight = VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD);
	uint64_t undrained = inflight | VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_INFLIGHT);
	const char *name = NULL, *needs = "INFLIGHT_SHMFD";

	if (features & VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_SKIP_DRAIN) &&
	    (features & undrained) != undrained) {
		name = "GET_VRING_BASE_SKIP_DRAIN";
		needs = "GET_VRING_BASE_INFLIGHT and INFLIGHT_SHMFD";
	} else if ((features & undrained) == (undrained & ~inflight)) {
		name = "GET_VRING_BASE_INFLIGHT";
	}
	return name ? vublk_error_set(error, EPROTO, "SET_PROTOCOL_FEATURES accepts %s, which "
				      "requires %s", name, needs) : 0;
}

int vublk_vu_check_accepted(const struct vublk_vu_message *request, uint64_t features,
			    struct vublk_error *error)
{
	if (request->header.request != VUBLK_VU_GET_VRING_BASE_SKIP_DRAIN ||
	    features & VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_SKIP_DRAIN))
		return 0;
	return vublk_error_set(error, EPROTO, "GET_VRING_BASE_SKIP_DRAIN needs the protocol "
			       "feature of that name (bit %u), which the front-end did not accept",
			       VUBLK_VU_F_GET_VRING_BASE_SKIP_DRAIN);
}

bool vublk_vu_skips_drain(uint32_t request, uint64_t features)
{
	if (features & VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_SKIP_DRAIN))
		return request == VUBLK_VU_GET_VRING_BASE_SKIP_DRAIN;
	return features & VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_INFLIGHT);
}

int vublk_vu_check_status(const struct vublk_vu_message *request, struct vublk_error *error)
{
	if (request->payload.u64 <= UINT8_MAX)
		return 0;
	return vublk_error_set(error, EPROTO, "SET_STATUS has the value 0x%" PRIx64 "; expected at "
			       "most 0xff", request->payload.u64);
}

/* --- rings ----------------------------------------------------------------- */

int vublk_vu_refuse_running(const struct vublk_vu_message *request, bool is_running,
			    struct vublk_error *error)
{
	if (!is_running)
		return 0;
	return vublk_error_set(error, EBUSY, "%s is not allowed for queue %u while its ring runs; "
			       "stop the ring with GET_VRING_BASE first",
			       vublk_vu_request_name(VUBLK_VU_TO_BACKEND, request->header.request),
			       request->payload.state.index);
}

int vublk_vu_check_vring_num(const struct vublk_vu_message *request, unsigned min, unsigned max,
			     struct vublk_error *error)
{
	const struct vhost_vring_state *state = &request->payload.state;

	if (vublk_is_power_of_two(state->num) && state->num >= min && state->num <= max)
		return 0;
	return vublk_error_set(error, EPROTO, "SET_VRING_NUM sets the size of queue %u to %u; "
			       "expected a power of two from %u to %u",
			       state->index, state->num, min, max);
}

int vublk_vu_check_vring_addr(const struct vublk_vu_message *request, struct vublk_error *error)
{
	const struct vhost_vring_addr *addr = &request->payload.addr;

	if (!(addr->flags & ~(1u << VHOST_VRING_F_LOG)))
		return 0;
	return vublk_error_set(error, EPROTO, "SET_VRING_ADDR of queue %u has unknown flags: 0x%x",
			       addr->index, addr->flags & ~(1u << VHOST_VRING_F_LOG));
}

int vublk_vu_check_vring_base(const struct vublk_vu_message *request, struct vublk_error *error)
{
	const struct vhost_vring_state *state = &request->payload.state;

	if (state->num <= UINT16_MAX)
		return 0;
	return vublk_error_set(error, EPROTO, "SET_VRING_BASE of queue %u has the index %u; "
			       "expected at most 65535, because a split ring's index has 16 bits",
			       state->index, state->num);
}

int vublk_vu_check_vring_enable(const struct vublk_vu_message *request, struct vublk_error *error)
{
	const struct vhost_vring_state *state = &request->payload.state;

	if (state->num <= 1)
		return 0;
	return vublk_error_set(error, EPROTO, "SET_VRING_ENABLE of queue %u has the value %u; "
			       "expected 0 or 1",
			       state->index, state->num);
}

/*
 * Checks the descriptor of the request. A kick or error descriptor must be an eventfd; a call
 * descriptor may also be a pipe.
 */
static int check_vring_fd(struct vublk_vu_message *request, struct vublk_error *error)
{
	if (request->header.request == VUBLK_VU_SET_VRING_CALL)
		return vublk_callfd_check(&request->fds[0], error);
	return vublk_eventfd_check(request->fds[0], error);
}

int vublk_vu_take_vring_fd(struct vublk_vu_message *request, int *fd, struct vublk_error *error)
{
	const char *name = vublk_vu_request_name(VUBLK_VU_TO_BACKEND, request->header.request);
	uint64_t known = VUBLK_VU_VRING_INDEX_MASK | VUBLK_VU_VRING_NO_FD;
	bool has_fd = !(request->payload.u64 & VUBLK_VU_VRING_NO_FD);
	int r = 0;

	if (request->payload.u64 & ~known)
		return vublk_error_set(error, EPROTO, "%s has unknown flags: 0x%" PRIx64, name,
				       request->payload.u64 & ~known);
	if (request->num_fds != has_fd)
		return vublk_error_set(error, EPROTO, "%s of queue %u has %u file descriptor%s; "
				       "expected %u according to its flags", name,
				       (unsigned)(request->payload.u64 & VUBLK_VU_VRING_INDEX_MASK),
				       request->num_fds, request->num_fds == 1 ? "" : "s", has_fd);
	if (has_fd)
		r = check_vring_fd(request, error);
	if (r) {
		vublk_error_prepend(error, "%s of queue %u", name,
				    (unsigned)(request->payload.u64 & VUBLK_VU_VRING_INDEX_MASK));
		return r;
	}
	vublk_fd_close(fd);
	*fd = vublk_vu_message_take_fd(request, 0);
	return 0;
}

/* --- memory, log and config ------------------------------------------------ */

int vublk_vu_check_mem_table(const struct vublk_vu_message *request, struct vublk_error *error)
{
	const struct vublk_vu_mem_table *table = &request->payload.table;
	uint32_t count = table->num_regions;

	if (count <= VUBLK_VU_MAX_TABLE_REGIONS && count == request->num_fds &&
	    request->header.size >= offsetof(struct vublk_vu_mem_table, regions) +
				    count * sizeof(table->regions[0]))
		return 0;
	return vublk_error_set(error, EPROTO, "SET_MEM_TABLE lists %u region%s with %u file "
			       "descriptor%s in a payload of %u bytes; expected at most %d "
			       "regions, one file descriptor per region, and at least %zu bytes "
			       "plus %zu per region",
			       count, count == 1 ? "" : "s", request->num_fds,
			       request->num_fds == 1 ? "" : "s", request->header.size,
			       VUBLK_VU_MAX_TABLE_REGIONS,
			       offsetof(struct vublk_vu_mem_table, regions),
			       sizeof(table->regions[0]));
}

static bool wraps(uint64_t addr, uint64_t bytes)
{
	return bytes - 1 > UINT64_MAX - addr;
}

int vublk_vu_check_region(const struct vublk_vu_region *region, int fd,
			  struct vublk_memory_file *file, struct vublk_error *error)
{
	int r;

	if (!region->size_bytes || wraps(region->guest_addr, region->size_bytes) ||
	    wraps(region->user_addr, region->size_bytes))
		return vublk_error_set(error, EPROTO,
				       "the memory region of 0x%" PRIx64 " bytes at guest address "
				       "0x%" PRIx64 " and user address 0x%" PRIx64 " is empty or "
				       "exceeds the address space", region->size_bytes,
				       region->guest_addr, region->user_addr);
	r = vublk_memory_file_check(fd, region->mmap_offset, region->size_bytes, file, error);
	if (r < 0)
		vublk_error_prepend(error, "the memory region at guest address 0x%" PRIx64,
				    region->guest_addr);
	return r;
}

int vublk_vu_check_overlap(const struct vublk_vu_region *region,
			   const struct vublk_vu_region *other, struct vublk_error *error)
{
	if (!vublk_ranges_overlap(region->guest_addr, region->size_bytes, other->guest_addr,
				  other->size_bytes) &&
	    !vublk_ranges_overlap(region->user_addr, region->size_bytes, other->user_addr,
				  other->size_bytes))
		return 0;
	return vublk_error_set(error, EPROTO,
			       "the memory region of 0x%" PRIx64 " bytes at guest address "
			       "0x%" PRIx64 " and user address 0x%" PRIx64 " overlaps the region "
			       "of 0x%" PRIx64 " bytes at guest address 0x%" PRIx64 " and user "
			       "address 0x%" PRIx64,
			       region->size_bytes,
			       region->guest_addr, region->user_addr, other->size_bytes,
			       other->guest_addr, other->user_addr);
}

int vublk_vu_check_slots(unsigned num_used, unsigned num_slots, struct vublk_error *error)
{
	if (num_used < num_slots)
		return 0;
	return vublk_error_set(error, ENOSPC, "ADD_MEM_REG cannot add a memory region, because all "
			       "%u memory slots are in use", num_used);
}

bool vublk_vu_names_region(const struct vublk_vu_message *request,
			   const struct vublk_vu_region *region)
{
	const struct vublk_vu_region *named = &request->payload.mem_reg.region;

	return named->guest_addr == region->guest_addr && named->user_addr == region->user_addr &&
	       named->size_bytes == region->size_bytes;
}

int vublk_vu_refuse_removal(const struct vublk_vu_message *request, struct vublk_error *error)
{
	const struct vublk_vu_region *named = &request->payload.mem_reg.region;

	return vublk_error_set(error, EPROTO, "REM_MEM_REG names a memory region of 0x%" PRIx64
			       " bytes at guest address 0x%" PRIx64
			       ", but no such region was added",
			       named->size_bytes,
			       named->guest_addr);
}

int vublk_vu_check_log_base(const struct vublk_vu_message *request, uint64_t features,
			    struct vublk_memory_file *file, struct vublk_error *error)
{
	const struct vublk_vu_log *log = &request->payload.log;
	int r;

	if (!(features & VUBLK_BIT(VUBLK_VU_F_LOG_SHMFD)))
		return vublk_error_set(error, EPROTO, "SET_LOG_BASE needs the protocol feature "
				       "LOG_SHMFD, which the front-end did not accept");
	if (request->header.size != sizeof(*log) || request->num_fds != 1)
		return vublk_error_set(error, EPROTO, "SET_LOG_BASE has a payload of %u bytes and "
				       "%u file descriptors; expected %zu bytes and 1 file "
				       "descriptor (the dirty log)",
				       request->header.size, request->num_fds, sizeof(*log));
	if (!log->size_bytes)
		return vublk_error_set(error, EPROTO, "SET_LOG_BASE gives a dirty log of 0 bytes");
	r = vublk_memory_file_check(request->fds[0], log->offset, log->size_bytes, file, error);
	if (r < 0)
		vublk_error_prepend(error, "the dirty log of SET_LOG_BASE");
	return r;
}

int vublk_vu_check_inflight(const struct vublk_vu_message *request, unsigned num_queues,
			    unsigned queue_size, struct vublk_error *error)
{
	const struct vublk_vu_inflight *area = &request->payload.inflight;

	if (area->num_queues && area->num_queues <= num_queues && area->queue_size &&
	    area->queue_size <= queue_size)
		return 0;
	return vublk_error_set(error, EPROTO, "%s names an in-flight area for %u queue%s of %u "
			       "entries; expected 1 to %u queues of 1 to %u entries",
			       vublk_vu_request_name(VUBLK_VU_TO_BACKEND, request->header.request),
			       area->num_queues, area->num_queues == 1 ? "" : "s",
			       area->queue_size, num_queues, queue_size);
}

int vublk_vu_check_inflight_file(const struct vublk_vu_message *request, uint64_t least_bytes,
				 unsigned align, struct vublk_memory_file *file,
				 struct vublk_error *error)
{
	const struct vublk_vu_inflight *area = &request->payload.inflight;
	int r;

	if (area->mmap_size < least_bytes)
		return vublk_error_set(error, EPROTO,
				       "SET_INFLIGHT_FD gives an in-flight area of %" PRIu64
				       " bytes, but %u queues of %u entries need %" PRIu64 " bytes",
				       (uint64_t)area->mmap_size,
				       area->num_queues, area->queue_size, least_bytes);
	if (area->mmap_offset % align)
		return vublk_error_set(error, EPROTO, "SET_INFLIGHT_FD gives the offset "
				       "%" PRIu64 "; expected a multiple of %u",
				       (uint64_t)area->mmap_offset, align);
	r = vublk_memory_file_check(request->fds[0], area->mmap_offset, least_bytes, file, error);
	if (r < 0)
		vublk_error_prepend(error, "the in-flight area of SET_INFLIGHT_FD");
	return r;
}

int vublk_vu_check_set_config(const struct vublk_vu_message *request, unsigned writable_offset,
			      struct vublk_error *error)
{
	const struct vublk_vu_config *config = &request->payload.config;

	if (request->header.size != VUBLK_VU_CONFIG_HEADER_BYTES + (uint64_t)config->size_bytes)
		return vublk_error_set(error, EPROTO, "SET_CONFIG announces %u byte%s of "
				       "configuration in a payload of %u bytes; expected %" PRIu64
				       " bytes, of which %d are a header", config->size_bytes,
				       config->size_bytes == 1 ? "" : "s", request->header.size,
				       VUBLK_VU_CONFIG_HEADER_BYTES + (uint64_t)config->size_bytes,
				       VUBLK_VU_CONFIG_HEADER_BYTES);
	if (config->flags > VUBLK_VU_CONFIG_MIGRATION)
		return vublk_error_set(error, EPROTO, "SET_CONFIG has unknown flags: 0x%x",
				       config->flags);
	if (config->offset != writable_offset || config->size_bytes != 1 || config->data[0] > 1)
		return vublk_error_set(error, EPROTO, "SET_CONFIG writes %u byte%s at offset %u of "
				       "the configuration; only the byte at offset %u (wce) may be "
				       "written, with 0 or 1", config->size_bytes,
				       config->size_bytes == 1 ? "" : "s", config->offset,
				       writable_offset);
	return 0;
}

int vublk_vu_check_get_config(const struct vublk_vu_message *request, struct vublk_error *error)
{
	const struct vublk_vu_config *config = &request->payload.config;

	if (vublk_range_within(config->offset, config->size_bytes, VUBLK_VU_MAX_CONFIG_BYTES))
		return 0;
	return vublk_error_set(error, EPROTO, "GET_CONFIG requests %u bytes at offset %u, but the "
			       "configuration has %u bytes", config->size_bytes, config->offset,
			       VUBLK_VU_MAX_CONFIG_BYTES);
}

bool vublk_vu_config_includes(const struct vublk_vu_message *request, unsigned offset)
{
	const struct vublk_vu_config *config = &request->payload.config;

	return config->offset <= offset && offset - config->offset < config->size_bytes;
}

/* --- answers --------------------------------------------------------------- */

void vublk_vu_reply_init(struct vublk_vu_message *reply, const struct vublk_vu_message *request)
{
	vublk_vu_message_init(reply, request->header.request);
	reply->header.flags |= VUBLK_VU_FLAG_REPLY;
}

void vublk_vu_reply_u64(struct vublk_vu_message *reply, uint64_t value)
{
	reply->payload.u64 = value;
	reply->header.size = sizeof(value);
}

static bool has_own_reply(const struct vublk_vu_message *request)
{
	const struct vublk_vu_request_info *info =
		vublk_vu_request_info(VUBLK_VU_TO_BACKEND, request->header.request);

	return info && info->has_reply;
}

static bool wants_ack(const struct vublk_vu_message *request, uint64_t protocol_features)
{
	return (request->header.flags & VUBLK_VU_FLAG_NEED_REPLY) &&
	       (protocol_features & VUBLK_BIT(VUBLK_VU_F_REPLY_ACK));
}

bool vublk_vu_is_answered(const struct vublk_vu_message *request, uint64_t protocol_features)
{
	return has_own_reply(request) || wants_ack(request, protocol_features);
}

bool vublk_vu_make_answer(struct vublk_vu_message *reply, const struct vublk_vu_message *request,
			  uint64_t protocol_features, int result)
{
	/*
	 * The specification does not say whether the reply to SET_LOG_BASE has a payload.
	 * Front-ends accept a reply with a payload.
	 */
	if (request->header.request == VUBLK_VU_SET_LOG_BASE) {
		vublk_vu_reply_u64(reply, result ? 1 : 0);
		return !result || wants_ack(request, protocol_features);
	}
	/* An empty reply to GET_CONFIG means a refusal. Other replies cannot express a refusal. */
	if (has_own_reply(request))
		return !result || request->header.request == VUBLK_VU_GET_CONFIG;
	if (!wants_ack(request, protocol_features))
		return false;
	vublk_vu_reply_u64(reply, result ? 1 : 0);
	return true;
}
