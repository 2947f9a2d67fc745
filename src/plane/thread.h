/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_THREAD_H
#define VUBLK_PLANE_THREAD_H

/*
 * A plane and the thread that runs it. The calls here are for the owner's thread, the one that runs
 * the owner's loop.
 *
 * Key idea: each call is executed by the plane's thread between two rounds, and returns when it is
 * done; a round is short. A peer that keeps the thread in a write to a full eventfd is thwarted by
 * the waiting caller. Only draining takes as long as the back-end needs, so its end is a callback.
 */
#include "plane/memory.h"
#include "plane/plane.h"
#include "util/loop.h"

struct vublk_plane_thread;

/* Called on the owner's thread, from the owner's loop; not after the call that it belongs to. */
struct vublk_plane_thread_ops {
	/* After vublk_plane_thread_stop(): the driver has got back every request. */
	void (*drained)(void *opaque);
	/* The back-end broke a ring. The owner disconnects it. */
	void (*side_broke)(void *opaque, const struct vublk_error *error);
	/* The driver broke a ring; the queue takes no more chains. */
	void (*queue_broke)(void *opaque, unsigned index, const struct vublk_error *error);
};

/* All arguments except the result are borrowed. ENOMEM and others. */
int vublk_plane_thread_new(unsigned num_queues, unsigned max_segments, struct vublk_loop *loop,
			   const struct vublk_plane_thread_ops *ops, void *opaque,
			   const struct vublk_log *log, struct vublk_plane_thread **thread,
			   struct vublk_error *error);
/* Detaches and ends the thread. Does not free a side. NULL is a no-op. */
void vublk_plane_thread_free(struct vublk_plane_thread *thread);

/* See plane.h. The memory is borrowed until detach or set_memory. */
int vublk_plane_thread_attach(struct vublk_plane_thread *thread,
			      const struct vublk_plane_setup *setups, uint64_t features,
			      const struct vublk_plane_memory *memory,
			      const struct vublk_fault *fault, struct vublk_error *error);
void vublk_plane_thread_detach(struct vublk_plane_thread *thread);
int vublk_plane_thread_set_memory(struct vublk_plane_thread *thread,
				  const struct vublk_plane_memory *memory,
				  const struct vublk_fault *fault, struct vublk_error *error);
void vublk_plane_thread_set_dirty_log(struct vublk_plane_thread *thread,
				      const struct vublk_dirty_log *log);
/* Replaces the driver's descriptors of a queue, which are signalled once; -1: none. */
int vublk_plane_thread_set_notifiers(struct vublk_plane_thread *thread, unsigned index, int kick_fd,
				     int call_fd, struct vublk_error *error);

/* The side is borrowed until lose_side(). */
int vublk_plane_thread_set_side(struct vublk_plane_thread *thread, struct vublk_plane_side *side,
				struct vublk_error *error);
/* NULL side before: a no-op. side_broke() does not follow. */
void vublk_plane_thread_lose_side(struct vublk_plane_thread *thread);

bool vublk_plane_thread_has_side(const struct vublk_plane_thread *thread);

/*
 * Takes no more chains. drained() follows when the driver has got back every request, perhaps
 * after another back-end has executed some of them.
 */
void vublk_plane_thread_stop(struct vublk_plane_thread *thread);
/* Takes chains again. drained() does not follow any more. */
void vublk_plane_thread_resume(struct vublk_plane_thread *thread);

/* The requests that the driver has not got back. */
unsigned vublk_plane_thread_outstanding(struct vublk_plane_thread *thread);
/* The avail index of the next chain. The queue is attached. */
uint16_t vublk_plane_thread_base(struct vublk_plane_thread *thread, unsigned index);

#endif
