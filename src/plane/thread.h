/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_THREAD_H
#define VUBLK_PLANE_THREAD_H

/*
 * A plane and the thread that runs it. The owner (the device) calls the functions below on the
 * owner's thread, which runs the owner's loop.
 *
 * Key idea: the plane's thread executes each call between two rounds, and the caller waits until
 * the call is done. The wait is short, because a round is short. If a peer blocks the plane's
 * thread by keeping an eventfd full, the waiting caller clears the eventfd. Only draining depends
 * on how fast the back-end is, so a callback reports its end.
 */
#include "plane/memory.h"
#include "plane/plane.h"
#include "util/loop.h"

struct vublk_plane_thread;

/*
 * Callbacks, which the owner's loop calls on the owner's thread. If a function below makes a
 * pending callback meaningless, it cancels the callback.
 */
struct vublk_plane_thread_ops {
	/*
	 * Called once after vublk_plane_thread_stop() or vublk_plane_thread_catch_up(), when the
	 * plane is settled (vublk_plane_is_settled()).
	 */
	void (*drained)(void *opaque);
	/* See side_broke() in struct vublk_plane_ops. The owner has to disconnect the back-end. */
	void (*side_broke)(void *opaque, const struct vublk_error *error);
	/* The driver broke a ring, so the plane takes no more chains from that queue. */
	void (*queue_broke)(void *opaque, unsigned index, const struct vublk_error *error);
	/* See flush_failed() in struct vublk_plane_ops. */
	void (*flush_failed)(void *opaque);
	/* The owner must keep the plane until flush_failed(), because the next flush must fail. */
	void (*flush_must_fail)(void *opaque);
	/*
	 * The mirror has ended because of `error`. The owner must call
	 * vublk_plane_thread_end_mirror() before it frees the target.
	 */
	void (*mirror_failed)(void *opaque, const struct vublk_error *error);
	/* See mirror_synced() in struct vublk_plane_ops. */
	void (*mirror_synced)(void *opaque);
	/*
	 * See replay_ended() in struct vublk_plane_ops, and vublk_plane_thread_get_replay(). One
	 * call may stand for several of these events.
	 */
	void (*replay_ended)(void *opaque);
};

/*
 * Makes a plane and starts its thread. If `is_parked`, the thread is parked at first (see below).
 * `loop` is the owner's. `loop`, `ops`, `opaque` and `log` are borrowed until
 * vublk_plane_thread_free(). Errors: ENOMEM and others.
 */
int vublk_plane_thread_new(unsigned num_queues, unsigned max_segments, bool is_parked,
			   struct vublk_loop *loop, const struct vublk_plane_thread_ops *ops,
			   void *opaque, const struct vublk_log *log,
			   struct vublk_plane_thread **thread, struct vublk_error *error);
/*
 * Makes the plane keep copies of completed writes, up to `bytes` in total, until a flush has made
 * the writes stable; see replay.h. Must be called at most once, before the first attach.
 */
int vublk_plane_thread_keep_writes(struct vublk_plane_thread *thread, uint64_t bytes,
				   struct vublk_error *error);
/* See vublk_plane_keep_end(). */
uint64_t vublk_plane_thread_end_of_kept(struct vublk_plane_thread *thread);
/* See vublk_plane_replay_get_info(). */
void vublk_plane_thread_get_replay(struct vublk_plane_thread *thread,
				   struct vublk_plane_replay_info *info);
/*
 * Detaches the driver's rings, ends the thread and frees the plane. Does not free the side, but
 * stops using it. There must be no mirror. NULL is a no-op.
 */
void vublk_plane_thread_free(struct vublk_plane_thread *thread);

/* See vublk_plane_attach(). `memory` is borrowed until detach() or set_memory(). */
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
/*
 * Replaces the driver's kick descriptor of a queue; -1: no descriptor. If the new one cannot be
 * watched, the old one stays.
 */
int vublk_plane_thread_set_kick(struct vublk_plane_thread *thread, unsigned index, int fd,
				struct vublk_error *error);
/*
 * Replaces the driver's call descriptor of a queue; -1: no descriptor. The new descriptor is
 * signalled once, because a signal may have gone to the old one. The function cannot fail, so the
 * caller may close the old descriptor.
 */
void vublk_plane_thread_set_call(struct vublk_plane_thread *thread, unsigned index, int fd);

/* See vublk_plane_set_side(). The side is borrowed until vublk_plane_thread_lose_side(). */
int vublk_plane_thread_set_side(struct vublk_plane_thread *thread, struct vublk_plane_side *side,
				struct vublk_error *error);
/*
 * See vublk_plane_lose_side(). Does nothing without a side. side_broke() is not called afterwards.
 */
void vublk_plane_thread_lose_side(struct vublk_plane_thread *thread);

bool vublk_plane_thread_has_side(const struct vublk_plane_thread *thread);

/*
 * Stops taking chains. drained() is called when the plane is settled (vublk_plane_is_settled()). If
 * the back-end is lost before the plane is settled, the next back-end has to execute the remaining
 * requests.
 */
void vublk_plane_thread_stop(struct vublk_plane_thread *thread);
/* Undoes vublk_plane_thread_stop(): takes chains again. drained() is no longer called. */
void vublk_plane_thread_resume(struct vublk_plane_thread *thread);

/* Returns the number of requests that were taken from the driver and are not complete. */
unsigned vublk_plane_thread_outstanding(struct vublk_plane_thread *thread);
/* See vublk_plane_set_limits(). */
void vublk_plane_thread_set_limits(struct vublk_plane_thread *thread,
				   const struct vublk_limits *limits);
/* See vublk_plane_set_policy(). */
void vublk_plane_thread_set_policy(struct vublk_plane_thread *thread,
				   const struct vublk_plane_policy *policy);
/* See vublk_plane_fail_next_flush(). */
void vublk_plane_thread_fail_next_flush(struct vublk_plane_thread *thread);
/* See vublk_plane_set_trace(). `trace` is borrowed until the next call. */
void vublk_plane_thread_set_trace(struct vublk_plane_thread *thread,
				  struct vublk_plane_trace *trace);
/* Returns the number of requests that wait for the limits. */
unsigned vublk_plane_thread_waiting(struct vublk_plane_thread *thread);
/* See vublk_plane_is_settled(). */
bool vublk_plane_thread_is_settled(struct vublk_plane_thread *thread);
/* Returns the avail index of the chain to take next. The queue must be attached. */
uint16_t vublk_plane_thread_base(struct vublk_plane_thread *thread, unsigned index);

/* See vublk_plane_set_counts(). `statistics` is borrowed. */
void vublk_plane_thread_set_counts(struct vublk_plane_thread *thread,
				   struct vublk_statistics *statistics, uint64_t slow_ns);
bool vublk_plane_thread_find_slow(struct vublk_plane_thread *thread, struct vublk_plane_slow *slow);

/* --- park.c: another process ------------------------------------------------------------ */

/*
 * The first function returns when the thread is parked: it waits between two rounds and reads no
 * descriptor. While it is parked, the owner may use the plane, and the functions above execute on
 * the caller's thread. The second function lets the thread continue. Both are idempotent.
 */
void vublk_plane_thread_park(struct vublk_plane_thread *thread);
void vublk_plane_thread_unpark(struct vublk_plane_thread *thread);
bool vublk_plane_thread_is_parked(const struct vublk_plane_thread *thread);

/* The functions below must be called while the thread is parked. */

struct vublk_plane *vublk_plane_thread_plane(struct vublk_plane_thread *thread);
/*
 * Returns why the plane cannot be handed over now, as a static string, or NULL if it can.
 * `num_broken`: the number of queues for which queue_broke() was called.
 */
const char *vublk_plane_thread_obstacle(const struct vublk_plane_thread *thread,
					unsigned num_broken);
/*
 * Stops using the rings of the driver and of the back-end, without any effect on them, because they
 * belong to another process. Then lets the thread continue.
 */
void vublk_plane_thread_abandon(struct vublk_plane_thread *thread);
/*
 * These functions hand the plane the rings of a plane in another process. They have no effect on
 * the rings, and signal no descriptor. If one of them fails, the caller must free the thread. The
 * arguments are those of vublk_plane_thread_set_side(), ..._attach(), ..._set_kick() and
 * ..._set_call().
 */
int vublk_plane_thread_adopt_side(struct vublk_plane_thread *thread, struct vublk_plane_side *side,
				  struct vublk_error *error);
int vublk_plane_thread_adopt(struct vublk_plane_thread *thread,
			     const struct vublk_plane_setup *setups, uint64_t features,
			     const struct vublk_plane_memory *memory,
			     const struct vublk_fault *fault, struct vublk_error *error);
int vublk_plane_thread_adopt_notifiers(struct vublk_plane_thread *thread, unsigned index,
				       int kick_fd, int call_fd, struct vublk_error *error);

/* --- thread-mirror.c ---------------------------------------------------------------------- */

/*
 * See vublk_plane_mirror_begin(). The target is borrowed until vublk_plane_thread_end_mirror(). The
 * mirror survives losses of the back-end, and attach() and detach().
 */
int vublk_plane_thread_begin_mirror(struct vublk_plane_thread *thread,
				    const struct vublk_plane_mirror_setup *setup,
				    struct vublk_error *error);
/* See vublk_plane_mirror_record(). mirror_failed() is called if the state file fails. */
int vublk_plane_thread_record_for_mirror(struct vublk_plane_thread *thread,
					 struct vublk_mirror_state *state, struct vublk_error *error);
/*
 * Ends the mirror. mirror_failed() and mirror_synced() are no longer called. If writes were marked
 * in a state file, the plane no longer uses the file, and submits no write until the next mirror
 * begins or vublk_plane_thread_release_writes() is called. Idempotent.
 */
void vublk_plane_thread_end_mirror(struct vublk_plane_thread *thread);
/* See vublk_plane_mirror_release(). Idempotent. */
void vublk_plane_thread_release_writes(struct vublk_plane_thread *thread);
/*
 * Like vublk_plane_thread_stop(), but if there is a mirror, drained() is called only when the
 * target is behind in no region (vublk_plane_mirror_catch_up()), or the mirror has failed.
 */
void vublk_plane_thread_catch_up(struct vublk_plane_thread *thread);
/* Does nothing without a mirror. */
void vublk_plane_thread_set_mirror_rate(struct vublk_plane_thread *thread, uint64_t rate);
void vublk_plane_thread_get_mirror(struct vublk_plane_thread *thread,
				   struct vublk_plane_mirror_info *info);
/*
 * Must be called before vublk_plane_thread_lose_side() if the back-end may have lost completed
 * writes that were not flushed. See vublk_plane_mirror_note_loss().
 */
void vublk_plane_thread_note_loss(struct vublk_plane_thread *thread);

#endif
