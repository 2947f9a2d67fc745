/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PROTO_VHOST_USER_REQUEST_H
#define VUBLK_PROTO_VHOST_USER_REQUEST_H

/*
 * Checks of a front-end's requests that every back-end needs and for which the codec's table has no
 * column; and the answers to these requests. A request is a message of the protocol here; requests
 * that the driver puts on a ring are called disk requests.
 *
 * A check returns 0, or EPROTO and a sentence unless its comment names another error. It expects a
 * request that vublk_vu_check_request() has accepted.
 */
#include "proto/vhost-user/codec.h"
#include "util/memory-file.h"

/* Parts of the warning that a VM's memory is not shared, and how to share it. */
#define VUBLK_VU_NO_MEMORY "the front-end shares no memory with this process, so the disk waits for it"
#define VUBLK_VU_PRIVATE_MEMORY                                                               \
	"the VM's memory is probably not shared with this process, because the VM runs a driver, " \
	"but the memory contains only zeros"
#define VUBLK_VU_SHARE_IT                                                                     \
	"; start the VM with shared memory (QEMU: -object memory-backend-memfd,share=on,...)"

/*
 * Whether the front-end is a library such as libblkio, SPDK or vublk itself, and not a VMM. Such
 * a library sends its own addresses as guest addresses, and its memory is empty until the first
 * request.
 */
static inline bool vublk_vu_is_no_vm(uint64_t guest_addr, uint64_t user_addr)
{
	return guest_addr == user_addr;
}

_Static_assert(offsetof(struct vhost_vring_addr, index) == 0, "position of the queue index");
_Static_assert(offsetof(struct vhost_vring_state, index) == 0, "position of the queue index");

/* *index: the queue that the request is about, less than `num_queues`; -1: about no queue. */
int vublk_vu_check_queue(const struct vublk_vu_message *request, unsigned num_queues, int *index,
			 struct vublk_error *error);

/* --- features and status --------------------------------------------------- */

/* Refuses bits that were not offered; `name` is the name of the message that has the bits. */
int vublk_vu_refuse_unknown_bits(const char *name, uint64_t bits, uint64_t offered,
				 struct vublk_error *error);
/*
 * Checks that accepted protocol features include those that GET_VRING_BASE_SKIP_DRAIN and
 * GET_VRING_BASE_INFLIGHT need.
 */
int vublk_vu_check_skip_drain(uint64_t features, struct vublk_error *error);
/*
 * Checks that the protocol feature of GET_VRING_BASE_SKIP_DRAIN was accepted, because it also
 * changes what GET_VRING_BASE does. A front-end may send any other request as soon as the request's
 * feature is offered.
 */
int vublk_vu_check_accepted(const struct vublk_vu_message *request, uint64_t features,
			    struct vublk_error *error);
/* SET_STATUS: the status is a byte. */
int vublk_vu_check_status(const struct vublk_vu_message *request, struct vublk_error *error);

/* --- rings ----------------------------------------------------------------- */

/* EBUSY: the queue runs, and the request needs a stopped queue. */
int vublk_vu_refuse_running(const struct vublk_vu_message *request, bool is_running,
			    struct vublk_error *error);
/* SET_VRING_NUM: a power of two within the limits. */
int vublk_vu_check_vring_num(const struct vublk_vu_message *request, unsigned min, unsigned max,
			     struct vublk_error *error);
int vublk_vu_check_vring_addr(const struct vublk_vu_message *request, struct vublk_error *error);
int vublk_vu_check_vring_base(const struct vublk_vu_message *request, struct vublk_error *error);
int vublk_vu_check_vring_enable(const struct vublk_vu_message *request, struct vublk_error *error);

/*
 * Whether `request`, one of the two messages that ask for a queue's base, may leave disk requests
 * in the in-flight area. If GET_VRING_BASE_SKIP_DRAIN was accepted, only the message of that name
 * may leave them. If only GET_VRING_BASE_INFLIGHT was accepted, GET_VRING_BASE may leave them: the
 * specification permitted this before there were two messages, and QEMU 11.1 relies on it.
 */
bool vublk_vu_skips_drain(uint32_t request, uint64_t features);

/*
 * Closes *fd and replaces it with the descriptor of SET_VRING_KICK, _CALL or _ERR, or with -1 if
 * the message says that it has none. The descriptor is made non-blocking, because otherwise the
 * process at its other end could block us.
 */
int vublk_vu_take_vring_fd(struct vublk_vu_message *request, int *fd, struct vublk_error *error);

/* --- memory, log and config ------------------------------------------------ */

/* SET_MEM_TABLE: has as many descriptors and bytes as the number of regions requires. */
int vublk_vu_check_mem_table(const struct vublk_vu_message *request, struct vublk_error *error);
/*
 * ADD_MEM_REG, and each region of SET_MEM_TABLE: not empty, within the address spaces of the guest
 * and of the front-end, and within the file of `fd`, which *file then describes. EINVAL: the file.
 */
int vublk_vu_check_region(const struct vublk_vu_region *region, int fd,
			  struct vublk_memory_file *file, struct vublk_error *error);
/* Two regions that passed that check share no guest address and no user address. */
int vublk_vu_check_overlap(const struct vublk_vu_region *region,
			   const struct vublk_vu_region *other, struct vublk_error *error);
/* ADD_MEM_REG: a slot is free. ENOSPC. */
int vublk_vu_check_slots(unsigned num_used, unsigned num_slots, struct vublk_error *error);
/* REM_MEM_REG: whether it names this region; the sentence if it names no region. */
bool vublk_vu_names_region(const struct vublk_vu_message *request,
			   const struct vublk_vu_region *region);
int vublk_vu_refuse_removal(const struct vublk_vu_message *request, struct vublk_error *error);
/*
 * SET_LOG_BASE: a log that is not empty, in a file, which *file then describes. This requires
 * LOG_SHMFD. EINVAL: the file.
 */
int vublk_vu_check_log_base(const struct vublk_vu_message *request, uint64_t features,
			    struct vublk_memory_file *file, struct vublk_error *error);
/*
 * GET_INFLIGHT_FD and SET_INFLIGHT_FD: an area for at least one queue, and for no more and no
 * larger queues than the disk has.
 */
int vublk_vu_check_inflight(const struct vublk_vu_message *request, unsigned num_queues,
			    unsigned queue_size, struct vublk_error *error);
/*
 * SET_INFLIGHT_FD: the area has `least_bytes` bytes, which lie within its file, and begins at a
 * multiple of `align`. *file then describes the file. EINVAL: the file.
 */
int vublk_vu_check_inflight_file(const struct vublk_vu_message *request, uint64_t least_bytes,
				 unsigned align, struct vublk_memory_file *file,
				 struct vublk_error *error);
/* SET_CONFIG: writes the one byte that may be written, with 0 or 1. */
int vublk_vu_check_set_config(const struct vublk_vu_message *request, unsigned writable_offset,
			      struct vublk_error *error);
/* GET_CONFIG: within the configuration space. */
int vublk_vu_check_get_config(const struct vublk_vu_message *request, struct vublk_error *error);
/* Whether the bytes of GET_CONFIG or SET_CONFIG include the byte at `offset`. */
bool vublk_vu_config_includes(const struct vublk_vu_message *request, unsigned offset);

/* --- answers --------------------------------------------------------------- */

/* The first function makes an empty reply to the request; the second gives it a number. */
void vublk_vu_reply_init(struct vublk_vu_message *reply, const struct vublk_vu_message *request);
void vublk_vu_reply_u64(struct vublk_vu_message *reply, uint64_t value);

/*
 * Returns true if the caller has to send `reply`. If the request has a reply of its own, the caller
 * has put it into `reply`; otherwise this function makes `reply` an acknowledgement. `result` is 0
 * or a negative errno. If a request is refused and has no answer, the caller closes the connection,
 * because the front-end would continue as if the request had succeeded.
 */
bool vublk_vu_make_answer(struct vublk_vu_message *reply, const struct vublk_vu_message *request,
			  uint64_t protocol_features, int result);
/* Whether a request is answered if it succeeds. */
bool vublk_vu_is_answered(const struct vublk_vu_message *request, uint64_t protocol_features);

#endif
