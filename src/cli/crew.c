/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Starts threads together, waits for them and joins them; see crew.h.
 *
 * Key idea: a counter of working threads and a condition variable are enough, because the waiting
 * thread only needs to know when all threads are done.
 */
#include "cli/crew.h"

#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

struct vublk_crew_member {
	struct vublk_crew *crew;
	pthread_t thread;
	void (*work)(void *member);
	void *member;
};

static void *run_member(void *opaque)
{
	struct vublk_crew_member *member = opaque;

	member->work(member->member);
	pthread_mutex_lock(&member->crew->lock);
	if (!--member->crew->working)
		pthread_cond_signal(&member->crew->done);
	pthread_mutex_unlock(&member->crew->lock);
	return NULL;
}

static void init_lock(struct vublk_crew *crew)
{
	pthread_condattr_t attributes;

	pthread_mutex_init(&crew->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&crew->done, &attributes);
	pthread_condattr_destroy(&attributes);
}

int vublk_crew_start(struct vublk_crew *crew, unsigned count, void (*work)(void *member),
		     void *members, size_t member_bytes, void (*stop)(void *opaque), void *opaque,
		     struct vublk_error *error)
{
	int ret = 0;

	*crew = (struct vublk_crew){ .members = calloc(count, sizeof(*crew->members)) };
	if (!crew->members)
		return vublk_cli_error_errno(error, ENOMEM, "cannot start %u threads", count);
	init_lock(crew);
	for (; crew->num_members < count; crew->num_members++) {
		struct vublk_crew_member *member = &crew->members[crew->num_members];

		member->crew = crew;
		member->work = work;
		member->member = (char *)members + crew->num_members * member_bytes;
		pthread_mutex_lock(&crew->lock);
		crew->working++;
		pthread_mutex_unlock(&crew->lock);
		ret = pthread_create(&member->thread, NULL, run_member, member);
		if (ret)
			break;
	}
	if (!ret)
		return 0;
	vublk_cli_error_errno(error, ret, "cannot start thread %u of %u", crew->num_members + 1,
			      count);
	stop(opaque);
	vublk_crew_finish(crew);
	return -ret;
}

bool vublk_crew_wait(struct vublk_crew *crew, unsigned ms)
{
	uint64_t end = vublk_cli_now_ns() + (uint64_t)ms * 1000000;
	struct timespec deadline = {
		.tv_sec = (time_t)(end / 1000000000), .tv_nsec = (long)(end % 1000000000),
	};
	bool all_done;
	int ret = 0;

	pthread_mutex_lock(&crew->lock);
	while (crew->working && !ret)
		ret = pthread_cond_timedwait(&crew->done, &crew->lock, &deadline);
	all_done = !crew->working;
	pthread_mutex_unlock(&crew->lock);
	return all_done;
}

void vublk_crew_finish(struct vublk_crew *crew)
{
	if (!crew->members)
		return;
	for (unsigned i = 0; i < crew->num_members; i++)
		pthread_join(crew->members[i].thread, NULL);
	pthread_cond_destroy(&crew->done);
	pthread_mutex_destroy(&crew->lock);
	free(crew->members);
	*crew = (struct vublk_crew){ 0 };
}
