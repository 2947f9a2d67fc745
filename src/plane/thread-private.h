/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_THREAD_PRIVATE_H
#define VUBLK_PLANE_THREAD_PRIVATE_H

/* The struct of a plane's thread and of a call from its owner, for thread*.c and park.c. */
#include "plane/thread.h"
#include "util/atomic.h"
#include "worker/worker.h"

#include <semaphore.h>

struct vublk_plane_thread_call;

/* Executes a call on the plane's thread, or on the owner's while the plane's thread is parked. */
typedef int vublk_plane_thread_fn(struct vublk_plane_thread *thread,
				  struct vublk_plane_thread_call *call);

struct vublk_plane_thread_queue {
	struct vublk_plane_thread *thread;
	unsigned index;

	/* used on the plane's thread */
	struct vublk_loop_source kick_source, call_source; /* for the driver's kicks, and for the
							      back-end's calls */
	struct vublk_loop_source target_source; /* for the calls of the mirror's target */

	/*
	 * Filled by the plane's thread, which then posts the task to the owner. There is no lock,
	 * because the plane reports a broken queue only once until the queue is attached again.
	 */
	struct vublk_loop_task broke_task;
	struct vublk_error broke;

	/* used on the owner's thread */
	int call_fd; /* the driver's; -1: none */
};

struct vublk_plane_thread {
	struct vublk_worker worker; /* must be the first member */

	/* constant */
	struct vublk_loop *owner;
	const struct vublk_plane_thread_ops *ops;
	void *opaque;

	/* used on the plane's thread */
	struct vublk_plane plane __attribute__((aligned(VUBLK_CACHE_LINE)));
	bool drains; /* drained_task has to be posted when the plane is settled */
	unsigned num_polled; /* how many queues in use have no kick descriptor */
	bool begins_parked; /* the thread has not run yet and starts parked; the owner does not wait
			       for `parked` */
	bool parks; /* the next round waits for `unpark` before it begins (park.c) */
	struct vublk_loop_source marks_source; /* syncs of the mirror's state file */
	struct vublk_loop_timer pass_timer; /* ends a sleep when a limit lets a request pass, or the
					       mirror has work */

	/*
	 * Filled by the plane's thread, which then posts the task to the owner. There is no lock,
	 * because the plane reports only one error per side, and one per mirror.
	 */
	struct vublk_loop_task drained_task, side_broke_task, flush_failed_task, flush_must_fail_task;
	struct vublk_error side_broke;
	struct vublk_loop_task mirror_failed_task, mirror_synced_task;
	struct vublk_error mirror_failed;
	struct vublk_loop_task replay_task;

	/* for parking: the owner posts the task to the plane's thread (park.c) */
	struct vublk_loop_task park_task;
	sem_t parked, unpark; /* posted by the thread when it is parked, and by the owner to let it
				 continue */
	bool has_parked;      /* atomic; shows the ordering to TSan, which does not know
				 sem_clockwait() */

	/* used on the owner's thread */
	bool is_parked; /* the plane's thread waits, and the owner may use the plane */
	bool is_attached;
	struct vublk_plane_side *side; /* NULL: none */
	struct vublk_plane_side *target; /* the mirror's target; NULL: none */
	bool has_marks; /* the plane marks writes in a state file, or writes wait because the file
			   was closed */
	unsigned num_queues;
	struct vublk_plane_thread_queue *queues;
};

struct vublk_plane_thread_call {
	struct vublk_loop_task task;
	struct vublk_plane_thread *thread;
	vublk_plane_thread_fn *fn;
	sem_t done;
	bool is_done; /* atomic; shows the ordering to TSan, which does not know sem_clockwait() */
	int result;
	struct vublk_error *error;

	/* the arguments; each function uses only some of them */
	const struct vublk_plane_setup *setups;
	const struct vublk_plane_memory *memory;
	const struct vublk_fault *fault;
	const struct vublk_dirty_log *log;
	struct vublk_plane_side *side;
	const struct vublk_limits *limits;
	const struct vublk_plane_policy *policy;
	struct vublk_plane_trace *trace;
	uint64_t bytes;
	struct vublk_statistics *statistics;
	struct vublk_plane_slow *slow;
	uint64_t features, slow_ns;
	const struct vublk_plane_mirror_setup *mirror;
	struct vublk_plane_mirror_info *mirror_info;
	struct vublk_mirror_state *mirror_state;
	struct vublk_plane_replay_info *replay_info;
	unsigned index;
	int fd;
};

/* --- thread.c ------------------------------------------------------------------------------ */

/*
 * Waits until the plane's thread posts `done`. If a peer blocks that thread by keeping an eventfd
 * full, clears the eventfd during the wait.
 */
void vublk_plane_thread_wait_for(struct vublk_plane_thread *thread, sem_t *done);
/*
 * Watches `fd` with `source`, in place of the descriptor that `source` has watched so far; -1: no
 * descriptor. Called on the plane's thread, or while the thread is parked.
 */
int vublk_plane_thread_watch(struct vublk_plane_thread *thread, struct vublk_loop_source *source,
			     int fd, struct vublk_error *error);
/*
 * Executes `fn` on the plane's thread, waits, and returns the result. If the thread is parked,
 * executes `fn` on the caller's thread.
 */
int vublk_plane_thread_execute(struct vublk_plane_thread *thread,
			       struct vublk_plane_thread_call *call, vublk_plane_thread_fn *fn);
/* Called when a notification has arrived at the source. The next round looks at the rings. */
void vublk_plane_thread_notified(struct vublk_loop_source *source, uint32_t events);
/* Counts the queues in use that have no kick descriptor, in `num_polled`. */
void vublk_plane_thread_count_polled(struct vublk_plane_thread *thread);

#endif
