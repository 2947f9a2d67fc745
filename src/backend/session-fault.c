/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Ends a session if memory of the front-end can no longer be accessed, because the front-end has
 * truncated the file or the host has no free huge page left.
 *
 * Key idea: the signal handler records the fault (util/fault.h) and signals an eventfd, which wakes
 * the loop. The record is also checked at the end of each operation, because data from lost memory
 * must not be used in an answer.
 */
#include "backend/session.h"

#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/epoll.h>

static void say_what_was_lost(struct vublk_session *session)
{
	uintptr_t address = vublk_load_relaxed(&session->fault.address);
	const struct vublk_memory_map *map = &session->memory.map;
	struct vublk_error error;
	char where[40] = "";

	for (unsigned i = 0; i < map->num_regions; i++)
		if (address - (uintptr_t)map->regions[i].host < map->regions[i].size_bytes)
			snprintf(where, sizeof(where), " at 0x%" PRIx64, map->regions[i].guest_addr +
				 (address - (uintptr_t)map->regions[i].host));
	vublk_error_set(&error, EFAULT, "a page of %s%s cannot be accessed, probably because the "
			"front-end truncated the file of that memory or the host has no free huge "
			"page",
			vublk_fault_name(&session->fault), where);
	vublk_log_limited(session->owner->log, session->owner->limit, VUBLK_LOG_ERROR,
			  "closed the connection: %s", error.text);
	session->owner->refused(session->owner->opaque, &error);
}

void vublk_session_notice_fault(struct vublk_session *session)
{
	if (!session->fault_source.loop || !vublk_fault_happened(&session->fault))
		return;
	vublk_loop_remove(&session->fault_source);
	say_what_was_lost(session);
	session->wants_end = true;
}

static void on_fault(void *opaque, uint32_t events)
{
	struct vublk_session *session = opaque;

	vublk_session_notice_fault(session);
	vublk_vu_server_run(&session->server);
}

int vublk_session_watch_fault(struct vublk_session *session, struct vublk_error *error)
{
	session->memory.fault = &session->fault;
	session->inflight.fault = &session->fault;
	session->dirty_log.fault = &session->fault;
	session->fault.fd = vublk_eventfd_new();
	if (session->fault.fd < 0)
		return vublk_error_set_errno(error, -session->fault.fd, "cannot create an eventfd");
	session->fault_source = (struct vublk_loop_source){ .fn = on_fault, .opaque = session };
	return vublk_loop_add(session->owner->loop, &session->fault_source, session->fault.fd,
			      EPOLLIN, error);
}
