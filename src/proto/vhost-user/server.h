/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PROTO_VHOST_USER_SERVER_H
#define VUBLK_PROTO_VHOST_USER_SERVER_H

/*
 * What everybody who serves a front-end checks and answers in the same way: the parts of
 * a request that the codec's table has no column for, and what an answer looks like.
 */
#include "proto/vhost-user/codec.h"

/* Of a VM whose memory is not shared: what is wrong, and what to do about it. */
#define VUBLK_VU_NO_MEMORY "the front-end shares no memory with this process, so the disk waits for it"
#define VUBLK_VU_PRIVATE_MEMORY                                                               \
	"the VM's memory is probably not shared with this process, because a driver runs in it " \
	"and it contains only zeros"
#define VUBLK_VU_SHARE_IT                                                                     \
	"; start the VM with shared memory (QEMU: -object memory-backend-memfd,share=on,...)"

/*
 * Programs that use a disk by a library, such as libblkio, SPDK and vublk itself, give their
 * own addresses as those of the guest. Their memory is empty until the first request.
 */
static inline bool vublk_vu_is_no_vm(uint64_t guest_addr, uint64_t user_addr)
{
	return guest_addr == user_addr;
}

_Static_assert(offsetof(struct vhost_vring_addr, index) == 0, "where a queue's index is");
_Static_assert(offsetof(struct vhost_vring_state, index) == 0, "where a queue's index is");

/*
 * The queue that a request of known size is about, -1 in *index if it is about none;
 * EPROTO when there are not so many.
 */
int vublk_vu_check_queue(const struct vublk_vu_message *request, unsigned num_queues, int *index,
			 struct vublk_error *error);

/* Bits that were not offered: EPROTO and a sentence; `name` is the message's. */
int vublk_vu_refuse_unknown_bits(const char *name, uint64_t bits, uint64_t offered,
				 struct vublk_error *error);

/* Whether the protocol features have what GET_VRING_BASE_SKIP_DRAIN needs: EPROTO if not. */
int vublk_vu_check_skip_drain(uint64_t features, struct vublk_error *error);

/*
 * Whether the protocol feature of a request was accepted, where it changes what the request
 * does: EPROTO if not. The others front-ends may send as soon as the feature is offered.
 */
int vublk_vu_check_accepted(const struct vublk_vu_message *request, uint64_t features,
			    struct vublk_error *error);

/*
 * Whether a request for a queue's base may leave requests in the in-flight area. With
 * GET_VRING_BASE_SKIP_DRAIN each stop says so by its message. With GET_VRING_BASE_INFLIGHT
 * alone the plain message does: the specification had it so before there were two messages,
 * and QEMU 11.1 relies on it.
 */
bool vublk_vu_skips_drain(uint32_t request, uint64_t features);

/*
 * The descriptor of SET_VRING_KICK, _CALL or _ERR takes the place of *fd, which is closed;
 * -1 when the message says that there is none. It is made non-blocking: whoever holds the
 * other end could otherwise make us wait. EPROTO: flags and descriptors do not fit.
 */
int vublk_vu_take_vring_fd(struct vublk_vu_message *request, int *fd, struct vublk_error *error);

/* Whether SET_MEM_TABLE has what it says: EPROTO if not. */
int vublk_vu_check_mem_table(const struct vublk_vu_message *request, struct vublk_error *error);

/* Whether SET_CONFIG writes the one byte that may be written, with 0 or 1: EPROTO if not. */
int vublk_vu_check_set_config(const struct vublk_vu_message *request, unsigned writable_offset,
			      struct vublk_error *error);

/* Whether GET_CONFIG asks within the configuration space: EPROTO if not. */
int vublk_vu_check_get_config(const struct vublk_vu_message *request, struct vublk_error *error);

/* An empty reply to it, and one with a number. */
void vublk_vu_reply_init(struct vublk_vu_message *reply, const struct vublk_vu_message *request);
void vublk_vu_reply_u64(struct vublk_vu_message *reply, uint64_t value);

/*
 * Whether the request is answered at all, with what was negotiated; `result` is 0 or a
 * negative errno. A reply of the message's own is in `reply` already; an acknowledgement
 * is put there. What was refused and is not answered ends the connection: the front-end
 * would go on as if all were well.
 */
bool vublk_vu_make_answer(struct vublk_vu_message *reply, const struct vublk_vu_message *request,
			  uint64_t protocol_features, int result);
/* Whether an answer follows when it succeeds. */
bool vublk_vu_is_answered(const struct vublk_vu_message *request, uint64_t protocol_features);

#endif
