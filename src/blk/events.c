/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The list of a disk's events. An application can poll this list instead of setting a handler,
 * which the disk's thread would call.
 *
 * Key idea: the list has at most one event of each kind, in the order of their latest occurrence.
 * An event that occurs again before it was taken moves to the end, with the new error. So the list
 * is bounded, no kind of event is lost, and the latest of LOST, RECONNECTED and GAVE_UP shows the
 * current state of the connection.
 */
#include "blk/disk.h"
#include "blk/events.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/struct.h"

#include <string.h>

void vublk_blk_events_init(struct vublk_blk_events *events)
{
	pthread_mutex_init(&events->lock, NULL);
	events->fd = -1;
}

void vublk_blk_events_deinit(struct vublk_blk_events *events)
{
	vublk_fd_close(&events->fd);
	pthread_mutex_destroy(&events->lock);
}

static void remove_at(struct vublk_blk_events *events, unsigned i)
{
	events->count--;
	memmove(&events->kinds[i], &events->kinds[i + 1],
		(events->count - i) * sizeof(events->kinds[0]));
}

/* Removes the event of this kind, if there is one. There is at most one of each kind. */
static void remove_kind(struct vublk_blk_events *events, enum vublk_blk_event event)
{
	for (unsigned i = 0; i < events->count; i++)
		if (events->kinds[i] == event)
			remove_at(events, i);
}

void vublk_blk_events_add(struct vublk_blk_events *events, enum vublk_blk_event event,
			  const struct vublk_error *error)
{
	pthread_mutex_lock(&events->lock);
	remove_kind(events, event);
	events->kinds[events->count++] = event;
	events->errors[event] = error ? *error : (struct vublk_error){ 0 };
	if (events->fd >= 0)
		vublk_eventfd_signal(events->fd);
	pthread_mutex_unlock(&events->lock);
}

int vublk_blk_events_fd(struct vublk_blk *blk, struct vublk_error *error)
{
	struct vublk_blk_events *events = &blk->events;
	int fd;

	pthread_mutex_lock(&events->lock);
	if (events->fd < 0) {
		events->fd = vublk_eventfd_new();
		if (events->fd >= 0 && events->count)
			vublk_eventfd_signal(events->fd);
	}
	fd = events->fd;
	pthread_mutex_unlock(&events->lock);
	if (fd < 0)
		vublk_error_set_errno(error, -fd, "cannot create the descriptor for the disk's "
				      "events");
	return fd;
}

static void take_first(struct vublk_blk_events *events, struct vublk_blk_event_info *info)
{
	info->event = events->kinds[0];
	info->error = events->errors[info->event];
	remove_at(events, 0);
	if (!events->count && events->fd >= 0)
		vublk_eventfd_clear(events->fd);
}

int vublk_blk_next_event(struct vublk_blk *blk, struct vublk_blk_event_info *info, size_t info_bytes)
{
	struct vublk_blk_events *events = &blk->events;
	struct vublk_blk_event_info own = { 0 };
	bool found;

	pthread_mutex_lock(&events->lock);
	found = events->count;
	if (found)
		take_first(events, &own);
	pthread_mutex_unlock(&events->lock);
	if (found)
		vublk_struct_out(info, info_bytes, &own, sizeof(own));
	return found;
}
