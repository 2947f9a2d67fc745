/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PROTO_VHOST_USER_REQUEST_H
#define VUBLK_PROTO_VHOST_USER_REQUEST_H

/*
 * The checks of a front-end's requests that every back-end needs and the codec does not make, and
 * the answers to requests. "Request" means a message of the protocol here; requests that the driver
 * puts on a ring are called disk requests.
 *
 * A check returns 0 or -EPROTO. If it can also fail with another error, its comment names that
 * error. vublk_vu_check_request() must have accepted the request.
 */
#include "proto/vhost-user/codec.h"
#include "util/memory-file.h"

/* Parts of the warning that a VM's memory is not shared, and how to share it. */
#define VUBLK_VU_NO_MEMORY "the front-end shares no memory with this process, so the disk waits"
#define VUBLK_VU_PRIVATE_MEMORY                                                               \
	"the VM's memory is probably not shared with this process, because the VM runs a driver, " \
	"but the memory contains only zeros"
#define VUBLK_VU_SHARE_IT                                                                     \
	"; start the VM with shared memory (QEMU: -object memory-backend-memfd,share=on,...)"

/*
 * Returns whether the front-end is a library such as libblkio, SPDK or vublk itself, and not a VMM.
 * Such a library sends the same address as guest address and as user address, and its memory
 * contains only zeros until the first disk request.
 */
static inline bool vublk_vu_is_no_vm(uint64_t guest_addr, uint64_t user_addr)
{
	return guest_addr == user_addr;
}

_Static_assert(offsetof(struct vhost_vring_addr, index) == 0, "position of the queue index");
_Static_assert(offsetof(struct vhost_vring_state, index) == 0, "position of the queue index");

/*
 * Checks that a request is about a queue below `num_queues`, or about no queue. Stores the queue in
 * *index; -1: no queue.
 */
int vublk_vu_check_queue(const struct vublk_vu_message *request, unsigned num_queues, int *index,
			 struct vublk_error *error);

/* --- features and status --------------------------------------------------- */

/* Refuses bits that were not offered. `name` is the name of the message with these bits. */
int vublk_vu_refuse_unknown_bits(const char *name, uint64_t bits, uint64_t offered,
				 struct vublk_error *error);
/*
 * Checks that the accepted protocol features include those that GET_VRING_BASE_SKIP_DRAIN and
 * GET_VRING_BASE_INFLIGHT need.
 */
int vublk_vu_check_skip_drain(uint64_t features, struct vublk_error *error);
/*
 * GET_VRING_BASE_SKIP_DRAIN: checks that the front-end has accepted the protocol feature of that
 * name, because this feature also changes what GET_VRING_BASE does. A front-end may send any other
 * request as soon as the feature that the request needs has been offered.
 */
int vublk_vu_check_accepted(const struct vublk_vu_message *request, uint64_t features,
			    struct vublk_error *error);
/* SET_STATUS: checks that the status fits into a byte. */
int vublk_vu_check_status(const struct vublk_vu_message *request, struct vublk_error *error);

/* --- rings ----------------------------------------------------------------- */

/* For a request that needs a stopped ring: fails with EBUSY if `is_running`. */
int vublk_vu_refuse_running(const struct vublk_vu_message *request, bool is_running,
			    struct vublk_error *error);
/* SET_VRING_NUM: checks that the size is a power of two within the limits. */
int vublk_vu_check_vring_num(const struct vublk_vu_message *request, unsigned min, unsigned max,
			     struct vublk_error *error);
int vublk_vu_check_vring_addr(const struct vublk_vu_message *request, struct vublk_error *error);
int vublk_vu_check_vring_base(const struct vublk_vu_message *request, struct vublk_error *error);
int vublk_vu_check_vring_enable(const struct vublk_vu_message *request, struct vublk_error *error);

/*
 * Returns whether `request`, one of the two messages that ask for a queue's base, may leave disk
 * requests in the in-flight area. If GET_VRING_BASE_SKIP_DRAIN was accepted, only the message of
 * that name may leave them. If only GET_VRING_BASE_INFLIGHT was accepted, GET_VRING_BASE may leave
 * them, because the specification permitted this before there were two messages, and QEMU 11.1
 * relies on it.
 */
bool vublk_vu_skips_drain(uint32_t request, uint64_t features);

/*
 * Closes *fd and replaces it with the descriptor of SET_VRING_KICK, _CALL or _ERR, or with -1 if
 * the message says that it has none. Makes the descriptor non-blocking, as vublk_eventfd_check()
 * and vublk_callfd_check() do. For a pipe, may also fail with the errors of open(2).
 */
int vublk_vu_take_vring_fd(struct vublk_vu_message *request, int *fd, struct vublk_error *error);

/* --- memory, log and config ------------------------------------------------ */

/*
 * SET_MEM_TABLE: checks that the message has as many descriptors and bytes as its number of regions
 * requires.
 */
int vublk_vu_check_mem_table(const struct vublk_vu_message *request, struct vublk_error *error);
/*
 * ADD_MEM_REG, and each region of SET_MEM_TABLE: checks that the region is not empty, and lies
 * within the address spaces of the guest and of the front-end, and within the file of `fd`. *file
 * then describes the file. EINVAL: the file cannot be used.
 */
int vublk_vu_check_region(const struct vublk_vu_region *region, int fd,
			  struct vublk_memory_file *file, struct vublk_error *error);
/*
 * Checks that two regions share no guest address and no user address. Both must have passed
 * vublk_vu_check_region().
 */
int vublk_vu_check_overlap(const struct vublk_vu_region *region,
			   const struct vublk_vu_region *other, struct vublk_error *error);
/* ADD_MEM_REG: checks that a slot is free. ENOSPC: all slots are used. */
int vublk_vu_check_slots(unsigned num_used, unsigned num_slots, struct vublk_error *error);
/*
 * REM_MEM_REG: the first function returns whether the message names `region`. The second one
 * refuses a message that names no existing region.
 */
bool vublk_vu_names_region(const struct vublk_vu_message *request,
			   const struct vublk_vu_region *region);
int vublk_vu_refuse_removal(const struct vublk_vu_message *request, struct vublk_error *error);
/*
 * SET_LOG_BASE: checks that `features` include LOG_SHMFD, and that the log is not empty and lies
 * within its file. *file then describes the file. EINVAL: the file cannot be used.
 */
int vublk_vu_check_log_base(const struct vublk_vu_message *request, uint64_t features,
			    struct vublk_memory_file *file, struct vublk_error *error);
/*
 * GET_INFLIGHT_FD and SET_INFLIGHT_FD: checks that the area is for 1 to `num_queues` queues of 1 to
 * `queue_size` entries.
 */
int vublk_vu_check_inflight(const struct vublk_vu_message *request, unsigned num_queues,
			    unsigned queue_size, struct vublk_error *error);
/*
 * SET_INFLIGHT_FD: checks that the area has at least `least_bytes` bytes, that its first
 * `least_bytes` bytes lie within its file, and that it begins at a multiple of `align`. *file then
 * describes the file. EINVAL: the file cannot be used.
 */
int vublk_vu_check_inflight_file(const struct vublk_vu_message *request, uint64_t least_bytes,
				 unsigned align, struct vublk_memory_file *file,
				 struct vublk_error *error);
/* SET_CONFIG: checks that the message writes only the byte at `writable_offset`, with 0 or 1. */
int vublk_vu_check_set_config(const struct vublk_vu_message *request, unsigned writable_offset,
			      struct vublk_error *error);
/* GET_CONFIG: checks that the range lies within the first VUBLK_VU_MAX_CONFIG_BYTES bytes. */
int vublk_vu_check_get_config(const struct vublk_vu_message *request, struct vublk_error *error);
/* Returns whether the range of GET_CONFIG or SET_CONFIG includes the byte at `offset`. */
bool vublk_vu_config_includes(const struct vublk_vu_message *request, unsigned offset);

/* --- answers --------------------------------------------------------------- */

/*
 * The first function makes `reply` an empty reply to `request`. The second one sets the payload of
 * `reply` to `value`.
 */
void vublk_vu_reply_init(struct vublk_vu_message *reply, const struct vublk_vu_message *request);
void vublk_vu_reply_u64(struct vublk_vu_message *reply, uint64_t value);

/*
 * Returns whether the caller has to send `reply`. `result` is 0, or a negative errno if the request
 * is refused. If the request has a reply of its own, the caller must have stored the reply's
 * payload in `reply`. For SET_LOG_BASE, and for requests without a reply of their own, this
 * function stores the payload, which says whether the request succeeded. If this function returns
 * false for a refused request, the caller must close the connection, because the front-end would
 * continue as if the request had succeeded.
 */
bool vublk_vu_make_answer(struct vublk_vu_message *reply, const struct vublk_vu_message *request,
			  uint64_t protocol_features, int result);
/* Returns whether a request is answered if it succeeds. */
bool vublk_vu_is_answered(const struct vublk_vu_message *request, uint64_t protocol_features);

#endif
