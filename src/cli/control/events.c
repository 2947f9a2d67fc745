/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The ring of events; see events.h. control.c sends the lines.
 *
 * Key idea: an event is kept as a struct of fixed size, so adding an event allocates no memory. A
 * thread holds the lock only while it copies one event, and makes JSON from the copy afterwards.
 */
#include "cli/control/events.h"

#include "cli/cli.h"
#include "cli/control/json.h"
#include "cli/control/limit-names.h"
#include "cli/control/request.h"

#include <vublk/error.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NS_PER_MS 1000000

struct event {
	struct vublk_notice notice; /* its pointers are not valid; their targets are copied below */
	struct timespec time;       /* CLOCK_REALTIME */
	uint64_t monotonic_ms;
	char reason[VUBLK_ERROR_TEXT_BYTES];
	char back_end[256];
	struct vublk_limits limits;
	struct vublk_control_cause cause;
};

struct vublk_control_events {
	pthread_mutex_t lock;
	uint64_t next; /* the sequence number of the next event; the first is 1 */
	struct event ring[VUBLK_CONTROL_KEPT_EVENTS];

	struct vublk_control_cause cause; /* used by the object's thread */
};

struct vublk_control_events *vublk_control_events_new(void)
{
	struct vublk_control_events *events = calloc(1, sizeof(*events));

	if (!events)
		return NULL;
	events->next = 1;
	pthread_mutex_init(&events->lock, NULL);
	return events;
}

void vublk_control_events_free(struct vublk_control_events *events)
{
	if (!events)
		return;
	pthread_mutex_destroy(&events->lock);
	free(events);
}

/* --- the object's thread --------------------------------------------------------------- */

void vublk_control_events_set_cause(struct vublk_control_events *events,
				    const struct vublk_control_cause *cause)
{
	events->cause = *cause;
}

/* Copies what the pointers of a notice refer to. */
static void copy_targets(struct event *event)
{
	const struct vublk_notice *notice = &event->notice;

	snprintf(event->reason, sizeof(event->reason), "%s", notice->reason ? notice->reason : "");
	snprintf(event->back_end, sizeof(event->back_end), "%s",
		 notice->back_end ? notice->back_end : "");
	memset(&event->limits, 0, sizeof(event->limits));
	if (notice->limits)
		memcpy(&event->limits, notice->limits,
		       VUBLK_CLI_MIN(notice->limits_bytes, sizeof(event->limits)));
}

void vublk_control_events_add(void *opaque, const struct vublk_notice *notice, size_t notice_bytes)
{
	struct vublk_control_events *events = opaque;
	struct event *event;

	pthread_mutex_lock(&events->lock);
	event = &events->ring[events->next % VUBLK_CONTROL_KEPT_EVENTS];
	memset(&event->notice, 0, sizeof(event->notice));
	memcpy(&event->notice, notice, VUBLK_CLI_MIN(notice_bytes, sizeof(event->notice)));
	clock_gettime(CLOCK_REALTIME, &event->time);
	event->monotonic_ms = vublk_cli_now_ns() / NS_PER_MS;
	copy_targets(event);
	event->cause = events->cause;
	events->next++;
	pthread_mutex_unlock(&events->lock);
}

/* --- lines ------------------------------------------------------------------------------- */

/* Adds the time as RFC 3339 specifies, in UTC and with milliseconds. */
static void add_time(struct json_object *object, const struct timespec *time)
{
	char text[40], seconds[24] = "";
	struct tm parts;

	if (gmtime_r(&time->tv_sec, &parts))
		strftime(seconds, sizeof(seconds), "%Y-%m-%dT%H:%M:%S", &parts);
	snprintf(text, sizeof(text), "%s.%03ldZ", seconds, time->tv_nsec / NS_PER_MS);
	vublk_json_add_text(object, "time", text);
}

static void add_request(struct json_object *object, const struct vublk_notice *notice)
{
	const char *name = vublk_request_kind_name(notice->request);

	vublk_json_add_u64(object, "queue", notice->queue);
	vublk_json_add_text(object, "request", name ? name : "other");
	vublk_json_add_u64(object, "offset_bytes", notice->offset_bytes);
	vublk_json_add_u64(object, "bytes", notice->bytes);
	vublk_json_add_u64(object, "waited_ms", notice->waited_ms);
	vublk_json_add_u64(object, "requests", notice->requests);
}

/*
 * Adds the members of a notice about a mirror or a switch: the target and, if there is one, the
 * reason.
 */
static void add_target(struct json_object *object, const struct event *event)
{
	vublk_json_add_text(object, "target", event->back_end);
	if (event->reason[0])
		vublk_json_add_text(object, "reason", event->reason);
}

/* Adds the command that caused the event, if a client of the control socket sent it. */
static void add_cause(struct json_object *object, const struct vublk_control_cause *cause)
{
	struct json_object *caused_by;

	if (!cause->command)
		return;
	caused_by = json_object_new_object();
	vublk_json_add_text(caused_by, "command", cause->command);
	vublk_json_add_u64(caused_by, "pid", (uint64_t)cause->pid);
	json_object_object_add(object, "caused_by", caused_by);
}

/* Adds the members that only events of this kind have. */
static void add_members(struct json_object *object, const struct event *event)
{
	const struct vublk_notice *notice = &event->notice;

	switch (notice->kind) {
	case VUBLK_NOTICE_CONNECTED:
		vublk_json_add_text(object, "back_end", event->back_end);
		vublk_json_add_u64(object, "size_bytes", notice->size_bytes);
		break;
	case VUBLK_NOTICE_RECOVERED:
		vublk_json_add_u64(object, "outage_ms", notice->outage_ms);
		vublk_json_add_u64(object, "requests", notice->requests);
		break;
	case VUBLK_NOTICE_RESIZED:
		vublk_json_add_u64(object, "before_bytes", notice->before_bytes);
		vublk_json_add_u64(object, "size_bytes", notice->size_bytes);
		break;
	case VUBLK_NOTICE_CLIENT_CONNECTED:
	case VUBLK_NOTICE_CLIENT_DISCONNECTED:
		vublk_json_add_u64(object, "pid", (uint64_t)notice->pid);
		break;
	case VUBLK_NOTICE_CLIENT_REFUSED:
		vublk_json_add_u64(object, "pid", (uint64_t)notice->pid);
		vublk_json_add_text(object, "reason", event->reason);
		break;
	case VUBLK_NOTICE_SLOW_REQUEST:
		add_request(object, notice);
		break;
	case VUBLK_NOTICE_MIRROR_SYNCED:
	case VUBLK_NOTICE_MIRROR_ENDED:
	case VUBLK_NOTICE_MIRROR_STARTED:
	case VUBLK_NOTICE_MIRROR_STOPPED:
	case VUBLK_NOTICE_SWITCH_STARTED:
	case VUBLK_NOTICE_SWITCHED:
	case VUBLK_NOTICE_SWITCH_FAILED:
		add_target(object, event);
		break;
	case VUBLK_NOTICE_PAUSING:
		vublk_json_add_u64(object, "requests", notice->requests);
		break;
	case VUBLK_NOTICE_LIMITS_CHANGED:
		vublk_limits_json(object, &event->limits);
		break;
	case VUBLK_NOTICE_SHADOW_ON:
		vublk_json_add_text(object, "reasons", event->reason);
		break;
	case VUBLK_NOTICE_REPLAYED:
		vublk_json_add_u64(object, "writes", notice->requests);
		vublk_json_add_u64(object, "bytes", notice->bytes);
		break;
	default: /* kinds with only a reason, and kinds without members */
		if (event->reason[0])
			vublk_json_add_text(object, "reason", event->reason);
		break;
	}
}

static char *event_line(const struct event *event, uint64_t sequence)
{
	const char *name = vublk_notice_name(event->notice.kind);
	struct json_object *object = json_object_new_object();

	if (!object)
		return NULL;
	vublk_json_add_text(object, "event", name ? name : "unknown");
	vublk_json_add_u64(object, "sequence", sequence);
	add_time(object, &event->time);
	vublk_json_add_u64(object, "monotonic_ms", event->monotonic_ms);
	add_members(object, event);
	add_cause(object, &event->cause);
	return vublk_control_line(object);
}

static char *missed_line(uint64_t count)
{
	struct json_object *object = json_object_new_object();

	if (!object)
		return NULL;
	vublk_json_add_text(object, "event", "missed");
	vublk_json_add_u64(object, "missed", count);
	return vublk_control_line(object);
}

/* --- the control thread ------------------------------------------------------------------ */

uint64_t vublk_control_events_next(struct vublk_control_events *events)
{
	uint64_t next;

	pthread_mutex_lock(&events->lock);
	next = events->next;
	pthread_mutex_unlock(&events->lock);
	return next;
}

char *vublk_control_events_take(struct vublk_control_events *events, uint64_t *next)
{
	uint64_t first, end, wanted = *next;
	struct event event;
	char *line;

	pthread_mutex_lock(&events->lock);
	end = events->next;
	first = end > VUBLK_CONTROL_KEPT_EVENTS ? end - VUBLK_CONTROL_KEPT_EVENTS : 1;
	if (wanted >= first && wanted < end)
		event = events->ring[wanted % VUBLK_CONTROL_KEPT_EVENTS];
	pthread_mutex_unlock(&events->lock);
	if (wanted >= end)
		return NULL;
	line = wanted < first ? missed_line(first - wanted) : event_line(&event, wanted);
	if (line)
		*next = wanted < first ? first : wanted + 1;
	return line;
}
