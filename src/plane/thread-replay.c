/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The calls about the writes that a plane keeps for unflushed=replay; see thread.h and replay.h. */
#include "plane/thread-private.h"

/* --- the plane's thread ---------------------------------------------------------- */

static int do_keep_writes(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	return vublk_plane_keep_writes(&thread->plane, call->bytes, call->error);
}

static int do_find_end_of_kept(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	call->bytes = vublk_plane_keep_end(&thread->plane);
	return 0;
}

static int do_check_settled(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	return vublk_plane_is_settled(&thread->plane);
}

static int do_get_replay(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	vublk_plane_replay_get_info(&thread->plane, call->replay_info);
	return 0;
}

/* --- the owner's calls ----------------------------------------------------------- */

bool vublk_plane_thread_is_settled(struct vublk_plane_thread *thread)
{
	struct vublk_plane_thread_call call = { 0 };

	return vublk_plane_thread_execute(thread, &call, do_check_settled);
}

int vublk_plane_thread_keep_writes(struct vublk_plane_thread *thread, uint64_t bytes,
				   struct vublk_error *error)
{
	struct vublk_plane_thread_call call = { .bytes = bytes, .error = error };

	return vublk_plane_thread_execute(thread, &call, do_keep_writes);
}

uint64_t vublk_plane_thread_end_of_kept(struct vublk_plane_thread *thread)
{
	struct vublk_plane_thread_call call = { 0 };

	vublk_plane_thread_execute(thread, &call, do_find_end_of_kept);
	return call.bytes;
}

void vublk_plane_thread_get_replay(struct vublk_plane_thread *thread,
				   struct vublk_plane_replay_info *info)
{
	struct vublk_plane_thread_call call = { .replay_info = info };

	vublk_plane_thread_execute(thread, &call, do_get_replay);
}
