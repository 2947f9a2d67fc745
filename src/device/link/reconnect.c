/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The way back to a back-end that was lost: when it is looked for, and what has to
 * hold before the device takes it.
 *
 * The idea to read it by: every way to lose a back-end, before or after the
 * handshake, leads to DISCONNECTED, and from there one timer leads to the next try.
 * A change in the socket's directory makes it run at once, and soon again, for a
 * back-end makes its socket a moment before it listens; each try that fails doubles
 * the pause, up to reconnect-ms. A device that listens itself waits for a connection
 * in place of the timer. Nothing blocks: unrealize ends it at any moment.
 *
 * An outage ends when the rings run, or when the handshake is done and no ring is to
 * run; a connection alone is no success. A back-end that is reached and refuses,
 * in the handshake or at the start, is likely to refuse again: each refusal doubles the
 * limit of the pause, up to REFUSED_FACTOR times reconnect-ms, until a socket appears.
 * A back-end that starts and is lost again within reconnect-ms is no refusal, but each such
 * loss in a row doubles the first pause, up to reconnect-ms.
 */
#include "device/device.h"

#include "util/checked.h"
#include "util/crc32c.h"
#include "util/error.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <string.h>

#define NS_A_MS UINT64_C(1000000)
#define SHORTEST_PAUSE_MS 1
#define MAX_REFUSED_SHIFT 4
#define REFUSED_FACTOR (1u << MAX_REFUSED_SHIFT)
#define MAX_SHORT_RUN_SHIFT 16

void vublk_device_reconnect_init(struct vublk_device *device)
{
	device->inflight.fd = device->made_inflight.fd = -1;
	vublk_watch_init(&device->reconnect.watch, vublk_device_on_watch, device);
}

bool vublk_device_reconnects(const struct vublk_device *device)
{
	return device->settings.reconnect_ms || device->settings.server;
}

void vublk_device_reconnect_end(struct vublk_device *device)
{
	vublk_device_unwatch_socket(device);
	vublk_device_unlisten(device);
	vublk_loop_timer_disarm(&device->connect_timer);
	device->reconnect.lost_ns = 0;
	device->reconnect.refusals = 0;
	device->reconnect.refusal.code = 0;
	device->reconnect.num_said = 0;
	device->reconnect.config_changed = false;
}

/* --- when ------------------------------------------------------------------------------------ */

static uint64_t deadline_ns(const struct vublk_device *device)
{
	uint64_t ms = device->settings.reconnect_deadline_ms;

	return ms ? device->reconnect.lost_ns + ms * NS_A_MS : UINT64_MAX;
}

static void give_up(struct vublk_device *device, const struct vublk_error *cause)
{
	struct vublk_error error = *cause;

	vublk_error_prepend(&error, "the device gave up reconnecting after %u ms",
			    (unsigned)device->settings.reconnect_deadline_ms);
	vublk_device_reconnect_end(device);
	vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING, "%s", error.text);
	if (device->ops->gave_up)
		device->ops->gave_up(device->bus, &error);
}

/* The timer is for the deadline. */
static void await_connection(struct vublk_device *device)
{
	if (deadline_ns(device) != UINT64_MAX)
		vublk_loop_timer_arm(&device->loop, &device->connect_timer, deadline_ns(device));
	vublk_device_listen(device);
}

static uint64_t longest_pause_ms(const struct vublk_device *device)
{
	unsigned shift = VUBLK_MIN(device->reconnect.refusals, (unsigned)MAX_REFUSED_SHIFT);

	return device->settings.reconnect_ms << shift;
}

static void lengthen_pause(struct vublk_device *device)
{
	struct vublk_device_reconnect *reconnect = &device->reconnect;

	reconnect->pause_ms = VUBLK_MIN(2 * reconnect->pause_ms, longest_pause_ms(device));
}

/* May call the bus: nothing is done after it. */
static void plan_next_try(struct vublk_device *device, const struct vublk_error *error)
{
	struct vublk_device_reconnect *reconnect = &device->reconnect;
	uint64_t now = vublk_now_ns(), until = deadline_ns(device);

	if (now >= until) {
		give_up(device, error);
		return;
	}
	if (device->settings.server) {
		await_connection(device);
		return;
	}
	vublk_device_watch_socket(device);
	vublk_loop_timer_arm(&device->loop, &device->connect_timer,
			     VUBLK_MIN(now + reconnect->pause_ms * NS_A_MS, until));
	lengthen_pause(device);
}

void vublk_device_reconnect_wake(struct vublk_device *device)
{
	device->reconnect.pause_ms = SHORTEST_PAUSE_MS;
	device->reconnect.refusals = 0;
	if (device->state == VUBLK_DEVICE_DISCONNECTED)
		vublk_loop_timer_arm(&device->loop, &device->connect_timer, vublk_now_ns());
}

/* --- the tries --------------------------------------------------------------------------------- */

/* When there is no room for another reason, the outage has had enough of them. */
static bool was_said(struct vublk_device_reconnect *reconnect, const struct vublk_error *error)
{
	uint32_t sum = vublk_crc32c(error->text, strlen(error->text));
	unsigned room = VUBLK_ARRAY_SIZE(reconnect->said);

	for (unsigned i = 0; i < reconnect->num_said; i++)
		if (reconnect->said[i] == sum)
			return true;
	if (reconnect->num_said == room)
		return true;
	reconnect->said[reconnect->num_said++] = sum;
	return false;
}

/* Each reason is logged once per outage, however often it is found. */
static void say(struct vublk_device *device, const struct vublk_error *error)
{
	struct vublk_device_reconnect *reconnect = &device->reconnect;

	if (was_said(reconnect, error))
		vublk_log(&device->log, VUBLK_LOG_DEBUG, "cannot reconnect yet: %s", error->text);
	else
		vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING,
				  "cannot reconnect yet: %s", error->text);
	reconnect->refusal = *error;
}

void vublk_device_reconnect_failed(struct vublk_device *device, const struct vublk_error *error)
{
	vublk_frontend_close(&device->frontend);
	if (device->state == VUBLK_DEVICE_RECONNECTING) {
		device->reconnect.refusals++;
		vublk_device_change_state(device, VUBLK_DEVICE_EVENT_LOST, error->text);
	}
	say(device, error);
	plan_next_try(device, error);
}

void vublk_device_reconnect_try(struct vublk_device *device, int fd)
{
	struct vublk_error error;

	device->reconnect.tried_ns = vublk_now_ns();
	if (vublk_device_open_frontend(device, fd, &error) < 0)
		vublk_device_reconnect_failed(device, &error);
	else
		vublk_device_change_state(device, VUBLK_DEVICE_EVENT_RECONNECT, NULL);
}

void vublk_device_reconnect_on_timer(struct vublk_device *device)
{
	struct vublk_error error = device->reconnect.refusal;

	if (!device->settings.server) {
		vublk_device_reconnect_try(device, -1);
		return;
	}
	if (!error.code)
		vublk_error_set(&error, ENOTCONN, "no back-end has connected to '%s'",
				device->settings.chardev);
	plan_next_try(device, &error);
}

/*
 * The device is not in the data path and does not know whether the driver had flushed. The
 * config does not tell either: some back-ends say "write-through" and have a cache.
 */
static void warn_of_unflushed_writes(struct vublk_device *device)
{
	if (device->resume != VUBLK_DEVICE_RESUME_RINGS || !device->settings.warn_unflushed ||
	    device->reconnect.warned_unflushed || vublk_device_uses_inflight(device) ||
	    !(device->acked_features & VUBLK_BIT(VIRTIO_BLK_F_FLUSH)))
		return;
	device->reconnect.warned_unflushed = true;
	vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING,
			  "the back-end at '%s' was lost and has no in-flight area: if it kept "
			  "completed writes in its own memory, those that the driver had not "
			  "flushed are lost, and the driver is not told; let such a back-end write "
			  "through", device->settings.chardev);
}

static uint64_t first_pause_ms(struct vublk_device *device, uint64_t now)
{
	struct vublk_device_reconnect *reconnect = &device->reconnect;
	uint64_t pause_ms = device->settings.reconnect_ms;
	unsigned shift = VUBLK_MIN(reconnect->short_runs, (unsigned)MAX_SHORT_RUN_SHIFT);

	if (now - reconnect->tried_ns >= pause_ms * NS_A_MS) {
		reconnect->short_runs = 0;
		return SHORTEST_PAUSE_MS;
	}
	reconnect->short_runs++;
	return VUBLK_MIN((uint64_t)SHORTEST_PAUSE_MS << shift, pause_ms);
}

void vublk_device_reconnect_begin(struct vublk_device *device, const struct vublk_error *error)
{
	struct vublk_device_reconnect *reconnect = &device->reconnect;
	uint64_t now = vublk_now_ns();
	uint64_t pause_ms = device->settings.reconnect_ms;

	if (!vublk_device_reconnects(device) || device->is_shutting_down)
		return;
	vublk_loop_timer_disarm(&device->config_timer);
	if (!reconnect->lost_ns) {
		reconnect->lost_ns = now;
		reconnect->pause_ms = first_pause_ms(device, now);
		warn_of_unflushed_writes(device);
	} else {
		reconnect->refusals++;
	}
	if (device->settings.server) {
		await_connection(device);
		return;
	}
	vublk_device_watch_socket(device);
	/* One that comes and goes at once is not met again at once. */
	vublk_loop_timer_arm(&device->loop, &device->connect_timer,
			     !reconnect->refusals && now - reconnect->tried_ns >= pause_ms * NS_A_MS ?
			     now : now + reconnect->pause_ms * NS_A_MS);
	lengthen_pause(device);
}

/* --- after the handshake --------------------------------------------------------------------------- */

static void refuse(struct vublk_device *device, struct vublk_error *error)
{
	vublk_error_prepend(error, "the new back-end at '%s' cannot take the old one's place",
			    device->settings.chardev);
	vublk_device_reconnect_failed(device, error);
}

/* The memory may have been set while there was no back-end to ask for its limit. */
static int check_slots(const struct vublk_device *device, struct vublk_error *error)
{
	unsigned slots = vublk_frontend_memory_slots(&device->frontend);

	if (device->memory.num_regions <= slots)
		return 0;
	return vublk_error_set(error, ENOSPC, "it takes %u memory regions, and there are %u", slots,
			       device->memory.num_regions);
}

/* The rings go on last: the bus knows by then that there is a back-end, and which. */
static void tell(struct vublk_device *device, bool config_changed)
{
	uint64_t life = device->life;

	if (device->ops->reconnected)
		device->ops->reconnected(device->bus);
	if (device->life == life && config_changed && device->ops->config_changed)
		device->ops->config_changed(device->bus);
	if (device->life == life)
		vublk_device_update(device);
	if (device->life == life && device->state == VUBLK_DEVICE_STOPPED)
		vublk_device_reconnect_end(device);
}

static void finish(struct vublk_device *device)
{
	bool config_changed = device->reconnect.config_changed;
	struct vublk_error error;

	if (check_slots(device, &error) < 0) {
		refuse(device, &error);
		return;
	}
	vublk_device_change_state(device, VUBLK_DEVICE_EVENT_RECONNECTED, NULL);
	vublk_device_unwatch_socket(device);
	device->reconnect.config_changed = false;
	if (config_changed)
		device->config_generation++;
	if (device->config_read_again)
		vublk_device_refresh_config(device);
	vublk_device_watch_config(device);
	tell(device, config_changed);
}

static void on_wce_restored(void *opaque, const struct vublk_error *refusal)
{
	struct vublk_device *device = opaque;
	struct vublk_error error;

	if (!refusal) {
		finish(device);
		return;
	}
	error = *refusal;
	vublk_error_prepend(&error, "the write cache cannot be set as the driver has it");
	refuse(device, &error);
}

void vublk_device_reconnect_negotiated(struct vublk_device *device)
{
	uint8_t theirs = device->frontend.config[VUBLK_BLK_WCE_OFFSET];
	struct vublk_error error;

	if (vublk_device_take_offer(device, &error) < 0)
		refuse(device, &error);
	else if (device->config[VUBLK_BLK_WCE_OFFSET] != theirs)
		vublk_frontend_write_wce(&device->frontend, device->config[VUBLK_BLK_WCE_OFFSET],
					 on_wce_restored, device);
	else
		finish(device);
}
