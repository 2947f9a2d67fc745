/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Decides which path the driver's requests should take: directly to the back-end, or through the
 * plane. exchange.c changes the path of rings that run.
 *
 * Key idea: the plane is wanted for a set of reasons. Each reason is one bit, so a trace that ends,
 * for example, cannot switch off the plane while a mirror needs it. Reasons that follow from the
 * state of the device are computed each time; only the others are stored.
 */
#include "device/device.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/struct.h"

#include <errno.h>
#include <linux/vhost_types.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <string.h>

static const char *const reason_names[VUBLK_DEVICE_SHADOW_NUM_REASONS] = {
	[VUBLK_DEVICE_SHADOW_FOR_PROPERTY] = "property",
	[VUBLK_DEVICE_SHADOW_FOR_RECORDS] = "no in-flight area",
	[VUBLK_DEVICE_SHADOW_FOR_AREA] = "in-flight area of the VMM",
	[VUBLK_DEVICE_SHADOW_FOR_LOG] = "dirty log",
	[VUBLK_DEVICE_SHADOW_FOR_LIMIT] = "limit",
	[VUBLK_DEVICE_SHADOW_FOR_TRACE] = "trace",
	[VUBLK_DEVICE_SHADOW_FOR_REPLAY] = "replay",
	[VUBLK_DEVICE_SHADOW_FOR_MIRROR] = "mirror",
	[VUBLK_DEVICE_SHADOW_FOR_SWITCH] = "switch",
	[VUBLK_DEVICE_SHADOW_FOR_FLUSH] = "failed flush",
};

/* --- the reasons ------------------------------------------------------------------------- */

/* Returns whether, on the direct path, a loss with outstanding requests would require a reset. */
static bool lacks_records(const struct vublk_device *device)
{
	return vublk_device_will_reconnect(&device->settings) &&
	       !vublk_device_backend_records(device);
}

/*
 * Returns whether a move to the direct path would end the recording of requests in the session's
 * in-flight area, on which the VMM may rely.
 */
static bool would_mislead(const struct vublk_device *device)
{
	return vublk_device_is_shadowed(device) && device->inflight.fd >= 0 &&
	       !vublk_device_backend_records(device);
}

static bool backend_logs(const struct vublk_device *device)
{
	return vublk_frontend_has(&device->frontend, VUBLK_VU_F_LOG_SHMFD) &&
	       device->frontend.info.features & VUBLK_BIT(VHOST_F_LOG_ALL);
}

/*
 * Returns whether the dirty log needs the plane. While the plane's memory is in the back-end's
 * memory table, the back-end cannot log, because the bitmap does not cover that memory.
 */
static bool cannot_log(const struct vublk_device *device)
{
	bool is_on = device->dirty.phase == VUBLK_DEVICE_DIRTY_ON ||
		     device->dirty.phase == VUBLK_DEVICE_DIRTY_TO_START;

	return is_on && (device->shadow.side ||
			 (vublk_device_is_shadowed(device) && !backend_logs(device)));
}

static bool has_limits(const struct vublk_limits *limits)
{
	return limits->iops || limits->iops_read || limits->iops_write || limits->bps ||
	       limits->bps_read || limits->bps_write;
}

static uint32_t bit_if(bool is_set, enum vublk_device_shadow_reason reason)
{
	return is_set ? (uint32_t)1 << reason : 0;
}

uint32_t vublk_device_shadow_reasons(const struct vublk_device *device)
{
	enum vublk_shadow shadow = device->settings.shadow;

	return device->exchange.reasons |
	       bit_if(shadow == VUBLK_SHADOW_ON, VUBLK_DEVICE_SHADOW_FOR_PROPERTY) |
	       bit_if(shadow == VUBLK_SHADOW_AUTO && lacks_records(device),
		      VUBLK_DEVICE_SHADOW_FOR_RECORDS) |
	       bit_if(has_limits(&device->settings.limits), VUBLK_DEVICE_SHADOW_FOR_LIMIT) |
	       bit_if(!strcmp(device->settings.unflushed, "replay"),
		      VUBLK_DEVICE_SHADOW_FOR_REPLAY) |
	       bit_if(would_mislead(device), VUBLK_DEVICE_SHADOW_FOR_AREA) |
	       bit_if(cannot_log(device), VUBLK_DEVICE_SHADOW_FOR_LOG);
}

static void list_reasons(uint32_t reasons, char *text, size_t room)
{
	size_t length = 0;

	text[0] = '\0';
	for (unsigned i = 0; i < VUBLK_DEVICE_SHADOW_NUM_REASONS; i++)
		if (reasons & (uint32_t)1 << i && length < room)
			length += (size_t)snprintf(text + length, room - length, "%s%s",
						   length ? ", " : "", reason_names[i]);
}

/* --- the path of the next start ------------------------------------------------------------ */

/*
 * While a mirror copies, all writes have to pass through the plane.
 *
 * While the plane has copies of completed writes that are not stable, it has to stay in the path,
 * because later writes must not reach the back-end before these copies.
 */
bool vublk_device_may_be_direct(const struct vublk_device *device)
{
	return device->settings.shadow != VUBLK_SHADOW_ON &&
	       !vublk_device_replay_has_writes(device) &&
	       device->mirror.phase < VUBLK_DEVICE_MIRROR_COPYING;
}

int vublk_device_check_shadow(const struct vublk_device *device, struct vublk_error *error)
{
	int r = 0;

	if (vublk_device_is_connected(device))
		r = vublk_device_memory_check_shadow(device, error);
	return r < 0 ? r : vublk_device_shadow_check(device, error);
}

/* Warns and sends a notice only if the reason differs from that of the previous refusal. */
void vublk_device_refuse_shadow(struct vublk_device *device, const struct vublk_error *cause)
{
	struct vublk_device_exchange *exchange = &device->exchange;
	bool is_known = exchange->refusal.code == cause->code &&
			!strcmp(exchange->refusal.text, cause->text);

	exchange->refusal = *cause;
	if (!is_known)
		vublk_device_notify_reason(device, VUBLK_NOTICE_SHADOW_REFUSED, cause->text);
	vublk_log_limited(&device->log, &device->limit,
			  is_known ? VUBLK_LOG_DEBUG : VUBLK_LOG_WARNING,
			  "requests stay on %s: %s",
			  vublk_device_is_shadowed(device) ? "the shadow rings" : "the direct path",
			  cause->text);
}

void vublk_device_report_path(struct vublk_device *device)
{
	char reasons[sizeof(((struct vublk_shadow_info *)0)->reasons)];
	bool is_shadowed = vublk_device_is_shadowed(device);

	if (device->exchange.is_reported_shadowed == is_shadowed)
		return;
	device->exchange.is_reported_shadowed = is_shadowed;
	list_reasons(vublk_device_shadow_reasons(device), reasons, sizeof(reasons));
	vublk_device_notify_reason(device, is_shadowed ? VUBLK_NOTICE_SHADOW_ON :
				   VUBLK_NOTICE_SHADOW_OFF, is_shadowed ? reasons : NULL);
}

void vublk_device_choose_path(struct vublk_device *device)
{
	struct vublk_device_exchange *exchange = &device->exchange;
	bool is_wanted = vublk_device_shadow_reasons(device);
	struct vublk_error error;

	if (exchange->phase != VUBLK_DEVICE_EXCHANGE_NONE)
		return;
	if (vublk_device_shadow_is_attached(device)) {
		if (is_wanted || vublk_device_shadow_is_unsettled(device))
			return;
		vublk_device_shadow_return(device);
		device->resume = VUBLK_DEVICE_RESUME_NOTIFY;
	}
	exchange->path = VUBLK_DEVICE_PATH_DIRECT;
	if (is_wanted && vublk_device_may_be_direct(device) &&
	    (vublk_device_check_shadow(device, &error) < 0 ||
	     vublk_device_shadow_make(device, &error) < 0)) {
		vublk_device_refuse_shadow(device, &error);
		return;
	}
	exchange->refusal.code = 0;
	if (is_wanted)
		exchange->path = VUBLK_DEVICE_PATH_SHADOW;
}

/* --- changes --------------------------------------------------------------------------------- */

static bool is_as_wanted(const struct vublk_device *device)
{
	return vublk_device_is_shadowed(device) == !!vublk_device_shadow_reasons(device);
}

static bool is_pending(const struct vublk_device *device)
{
	switch (device->exchange.phase) {
	case VUBLK_DEVICE_EXCHANGE_NONE:
		return device->state == VUBLK_DEVICE_RUNNING && !is_as_wanted(device) &&
		       vublk_device_shadow_is_sound(device);
	case VUBLK_DEVICE_EXCHANGE_REFUSED:
		return false;
	default:
		return true;
	}
}

static void on_notice(void *opaque)
{
	struct vublk_device *device = opaque;
	struct vublk_device_exchange *exchange = &device->exchange;
	struct vublk_error refusal = exchange->refusal;
	uint64_t life = device->life;

	for (unsigned i = 0; i < VUBLK_DEVICE_SHADOW_NUM_REASONS; i++) {
		vublk_device_settled_fn *fn = exchange->notices[i].fn;

		if (device->life != life || is_pending(device))
			return;
		exchange->notices[i].fn = NULL;
		if (fn)
			fn(exchange->notices[i].opaque, exchange->path,
			   refusal.code ? &refusal : NULL);
	}
}

void vublk_device_path_init(struct vublk_device *device)
{
	device->exchange.notice_task.fn = on_notice;
	device->exchange.notice_task.opaque = device;
}

/*
 * Ends a refusal, even while the refused exchange is still being undone. In STOPPED, chooses the
 * path immediately; in RUNNING, an update begins the exchange.
 */
void vublk_device_reconsider_path(struct vublk_device *device)
{
	if (device->exchange.phase == VUBLK_DEVICE_EXCHANGE_REFUSED ||
	    device->exchange.phase == VUBLK_DEVICE_EXCHANGE_UNDOING)
		vublk_device_exchange_change(device, VUBLK_DEVICE_EXCHANGE_EVENT_OVERTAKEN, NULL);
	if (!device->num_queues)
		return;
	device->exchange.refusal.code = 0;
	if (device->state == VUBLK_DEVICE_STOPPED)
		vublk_device_choose_path(device);
	vublk_device_post_update(device);
	vublk_loop_post(&device->loop, &device->exchange.notice_task);
}

void vublk_device_want_shadow(struct vublk_device *device, enum vublk_device_shadow_reason reason,
			      bool wanted, vublk_device_settled_fn *settled, void *opaque)
{
	struct vublk_device_exchange *exchange = &device->exchange;

	exchange->reasons &= ~((uint32_t)1 << reason);
	exchange->reasons |= bit_if(wanted, reason);
	exchange->notices[reason].fn = settled;
	exchange->notices[reason].opaque = opaque;
	vublk_device_reconsider_path(device);
}

/* --- the public calls ----------------------------------------------------------------------- */

int vublk_device_set_shadow(struct vublk_device *device, enum vublk_shadow shadow,
			    struct vublk_error *error)
{
	int r = 0;

	if ((unsigned)shadow > VUBLK_SHADOW_AUTO)
		return vublk_error_set(error, EINVAL, "invalid setting %u of shadow rings; "
				       "expected on, off or auto",
				       (unsigned)shadow);
	if (shadow == VUBLK_SHADOW_ON && device->num_queues)
		r = vublk_device_check_shadow(device, error);
	if (!r && shadow == VUBLK_SHADOW_ON && device->num_queues)
		r = vublk_device_shadow_make(device, error);
	if (r < 0) {
		vublk_error_prepend(error, "cannot use shadow rings");
		return r;
	}
	device->settings.shadow = shadow;
	vublk_device_reconsider_path(device);
	return is_pending(device);
}

void vublk_device_get_shadow(const struct vublk_device *device, struct vublk_shadow_info *info,
			     size_t info_bytes)
{
	struct vublk_shadow_info own = {
		.wanted = device->settings.shadow,
		.is_shadowed = vublk_device_is_shadowed(device),
		.is_changing = is_pending(device),
	};

	list_reasons(vublk_device_shadow_reasons(device), own.reasons, sizeof(own.reasons));
	if (!own.is_changing && device->exchange.refusal.code)
		snprintf(own.refusal, sizeof(own.refusal), "%s", device->exchange.refusal.text);
	vublk_struct_out(info, info_bytes, &own, sizeof(own));
}
