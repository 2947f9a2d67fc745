/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Keeps the record of an outage (when it began, the pause before the next try, which reasons have
 * been logged), and ends the outage. The tries are in connect.c and reconnect.c.
 *
 * Key idea: each try doubles the pause before the next one, up to a limit, which is reconnect-ms at
 * first. A back-end that accepts the connection but cannot be used is likely to fail again. So each
 * such refusal doubles the limit, up to REFUSED_FACTOR times reconnect-ms, until a socket appears.
 * The first pause of an outage is short. But if several back-ends in a row start and are lost
 * within reconnect-ms of the last try, each of these losses doubles the first pause of the next
 * outage, up to reconnect-ms.
 */
#include "device/device.h"

#include "util/checked.h"
#include "util/crc32c.h"

#include <string.h>

#define NS_PER_MS UINT64_C(1000000)
#define MAX_REFUSED_SHIFT 4
#define REFUSED_FACTOR (1u << MAX_REFUSED_SHIFT)
#define MAX_SHORT_RUN_SHIFT 16

uint64_t vublk_device_outage_deadline_ns(const struct vublk_device *device)
{
	uint64_t ms = device->settings.reconnect_deadline_ms;

	return ms ? device->reconnect.lost_ns + ms * NS_PER_MS : UINT64_MAX;
}

/* --- pauses ------------------------------------------------------------------------------ */

static uint64_t longest_pause_ms(const struct vublk_device *device)
{
	unsigned shift = VUBLK_MIN(device->reconnect.refusals, (unsigned)MAX_REFUSED_SHIFT);

	return device->settings.reconnect_ms << shift;
}

uint64_t vublk_device_outage_next_pause_ms(struct vublk_device *device)
{
	struct vublk_device_reconnect *reconnect = &device->reconnect;
	uint64_t pause_ms = reconnect->pause_ms;

	reconnect->pause_ms = VUBLK_MIN(2 * pause_ms, longest_pause_ms(device));
	return pause_ms;
}

static uint64_t first_pause_ms(struct vublk_device *device, uint64_t now)
{
	struct vublk_device_reconnect *reconnect = &device->reconnect;
	uint64_t pause_ms = device->settings.reconnect_ms;
	unsigned shift = VUBLK_MIN(reconnect->short_runs, (unsigned)MAX_SHORT_RUN_SHIFT);

	if (now - reconnect->tried_ns >= pause_ms * NS_PER_MS) {
		reconnect->short_runs = 0;
		return VUBLK_DEVICE_SHORTEST_PAUSE_MS;
	}
	reconnect->short_runs++;
	return VUBLK_MIN((uint64_t)VUBLK_DEVICE_SHORTEST_PAUSE_MS << shift, pause_ms);
}

void vublk_device_outage_begin(struct vublk_device *device, uint64_t now)
{
	device->reconnect.lost_ns = now;
	device->reconnect.pause_ms = first_pause_ms(device, now);
	vublk_device_paths_begin(device, now);
}

/* --- reasons ----------------------------------------------------------------------------- */

/*
 * Returns whether the reason was logged before in this outage; if not, records it as logged. When
 * the table is full, every reason counts as logged, which limits the number of lines per outage.
 */
static bool was_logged(struct vublk_device_reconnect *reconnect, const struct vublk_error *error)
{
	uint32_t sum = vublk_crc32c(error->text, strlen(error->text));
	unsigned room = VUBLK_ARRAY_SIZE(reconnect->logged_reasons);

	for (unsigned i = 0; i < reconnect->num_logged_reasons; i++)
		if (reconnect->logged_reasons[i] == sum)
			return true;
	if (reconnect->num_logged_reasons == room)
		return true;
	reconnect->logged_reasons[reconnect->num_logged_reasons++] = sum;
	return false;
}

void vublk_device_outage_report(struct vublk_device *device, const struct vublk_error *error)
{
	struct vublk_device_reconnect *reconnect = &device->reconnect;

	if (was_logged(reconnect, error)) {
		vublk_log(&device->log, VUBLK_LOG_DEBUG, "cannot reconnect yet: %s", error->text);
	} else {
		vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING,
				  "cannot reconnect yet: %s", error->text);
		vublk_device_notify_refused(device, error);
	}
	reconnect->refusal = *error;
}

/* --- the end ----------------------------------------------------------------------------- */

void vublk_device_outage_end(struct vublk_device *device)
{
	vublk_device_unwatch_socket(device);
	vublk_device_unlisten(device);
	vublk_loop_timer_disarm(&device->connect_timer);
	vublk_device_notify_outage_end(device);
	vublk_device_switch_arrived(device);
	vublk_device_paths_end(device);
	device->reconnect.lost_ns = 0;
	device->reconnect.refusals = 0;
	device->reconnect.refusal.code = 0;
	device->reconnect.num_logged_reasons = 0;
	device->reconnect.config_changed = false;
}
