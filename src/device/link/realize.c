/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Implements realize and unrealize: realize connects the device to its back-end as the properties
 * say, and unrealize discards everything except the properties. The tries begin in connect.c.
 *
 * Key idea: a try that fails is repeated a few times, with a pause, because the back-end may still
 * be starting. A failure that is likely to recur (a wrong path, a back-end that lacks a feature or
 * does not answer) ends realize immediately. A device that listens waits for the next back-end
 * instead, whatever the failure was.
 */
#include "device/device.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "virtio/blk-format.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>

#define RETRY_PAUSE_NS (UINT64_C(100) * 1000000)

/* --- failure ------------------------------------------------------------------------ */

static void undo(struct vublk_device *device)
{
	vublk_loop_timer_disarm(&device->connect_timer);
	vublk_loop_timer_disarm(&device->config_timer);
	vublk_loop_timer_disarm(&device->keepalive_timer);
	vublk_loop_cancel(&device->loop, &device->update_task);
	vublk_device_mirror_suspend(device);
	vublk_device_exchange_deinit(device);
	vublk_device_shadow_deinit(device);
	vublk_device_outage_end(device);
	vublk_device_close_watch(device);
	device->resume = VUBLK_DEVICE_RESUME_NOTHING;
	vublk_device_drop_inflight(device);
	vublk_frontend_close(&device->frontend);
	vublk_fd_close(&device->lent_fd);
	vublk_device_dirty_log_drop(device);
	vublk_device_ring_errors_unwatch(device);
	vublk_device_queues_deinit(device);
	vublk_device_memory_deinit(&device->memory);
	device->features = 0;
	device->acked_features = 0;
	device->has_acked_features = false;
	device->is_shutting_down = false;
	device->status = 0;
	device->early_kick = VUBLK_DEVICE_KICK_NONE;
	device->memory_change_under_way = false;
	device->inflight_under_way = false;
	vublk_fd_close(&device->made_inflight.fd);
	device->config_read = VUBLK_DEVICE_READ_NONE;
	device->config_read_again = false;
	device->config_write = VUBLK_DEVICE_WRITE_NONE;
	device->failure.code = 0;
	vublk_device_switch_drop(device);
	vublk_device_fence_drop(device);
}

static bool is_transient(int code)
{
	return code == ECONNREFUSED || code == EAGAIN || code == ENOTCONN || code == EPROTO;
}

/*
 * With the property server: waits for the next back-end. The log line is limited, because peers
 * that connect to the device must not be able to fill the log.
 */
static void await_next(struct vublk_device *device, const struct vublk_error *error)
{
	vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING,
			  "waiting for another back-end, because the one that connected was "
			  "refused: %s",
			  error->text);
	undo(device);
	vublk_device_listen(device);
}

static void try_again(struct vublk_device *device, uint64_t pause_ns)
{
	undo(device);
	vublk_loop_timer_arm(&device->loop, &device->connect_timer, vublk_now_ns() + pause_ns);
}

/* `cause` must not be part of the device, because undo() clears the device's errors. */
void vublk_device_realize_failed(struct vublk_device *device, const struct vublk_error *cause)
{
	unsigned tries = (unsigned)device->settings.realize_retries + 1;
	struct vublk_error all;
	bool again;

	vublk_device_notify_refused(device, cause);
	if (device->listener.fd >= 0) {
		await_next(device, cause);
		return;
	}
	if (vublk_device_paths_try_next(device, cause, &all)) {
		try_again(device, 0);
		return;
	}
	again = is_transient(all.code) && device->tries < tries && !device->is_lent;
	/* realized() reports the failure of the last try, so it is logged at debug level only. */
	vublk_log_limited(&device->log, &device->limit, again ? VUBLK_LOG_INFO : VUBLK_LOG_DEBUG,
			  "attempt %u of %u to set up the device failed%s: %s", device->tries,
			  tries, again ? "" : " (the last attempt)", all.text);
	vublk_device_paths_rewind(device);
	if (again) {
		try_again(device, RETRY_PAUSE_NS);
		return;
	}
	undo(device);
	vublk_device_mirror_state_close(device);
	vublk_device_change_state(device, VUBLK_DEVICE_EVENT_REALIZE_FAILED, all.text);
	if (device->ops->realized)
		device->ops->realized(device->bus, &all);
}

/* --- after the handshake ---------------------------------------------------------------- */

static int choose_num_queues(struct vublk_device *device, struct vublk_error *error)
{
	const struct vublk_device_settings *settings = &device->settings;
	uint64_t offered = device->frontend.info.max_queues;
	bool multi = device->frontend.info.features & ~settings->features_off &
		     VUBLK_BIT(VIRTIO_BLK_F_MQ);
	uint64_t wanted = settings->num_queues;

	if (wanted == VUBLK_DEVICE_AUTO)
		wanted = multi ? VUBLK_MIN(offered, settings->num_queues_limit) : 1;
	if (wanted > offered)
		return vublk_error_set(error, EINVAL,
				       "num-queues is %u, but the back-end has only %u queue%s; "
				       "lower num-queues, or give the back-end more queues",
				       (unsigned)wanted,
				       (unsigned)offered, offered == 1 ? "" : "s");
	device->num_queues = (unsigned)wanted;
	return 0;
}

static int settle(struct vublk_device *device, struct vublk_error *error)
{
	int r = choose_num_queues(device, error);

	if (!r)
		r = vublk_device_queues_init(device, error);
	if (r < 0)
		return r;
	vublk_device_queues_reset(device);
	device->features = vublk_device_offer_features(device);
	r = vublk_device_take_config(device, device->frontend.config, error);
	if (!r)
		r = vublk_device_mirror_state_check(device, error);
	if (!r)
		r = vublk_device_statistics_realize(device, error);
	if (!r)
		r = vublk_device_shadow_init(device, error);
	if (r < 0)
		return r;
	vublk_device_mirror_find_interrupted(device);
	vublk_device_choose_path(device);
	vublk_device_bump_config_generation(device);
	return 0;
}

/*
 * Logs how the properties change the back-end's offer. vublk_device_get_info() returns the details.
 */
static void log_policy(struct vublk_device *device)
{
	uint64_t theirs = device->frontend.info.features;
	uint64_t hidden = theirs & vublk_device_hidden_features(&device->settings);
	bool adds_ro = device->features & ~theirs & VUBLK_BIT(VIRTIO_BLK_F_RO);
	char names[VUBLK_FEATURE_LIST_BYTES];

	if (!hidden && !adds_ro)
		return;
	vublk_features_list(hidden, names);
	vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_INFO,
			  "the device's properties change what the driver sees: %s%s%s%s",
			  adds_ro ? "the disk is read-only, although the back-end permits writes" : "",
			  adds_ro && hidden ? ", and " : "",
			  hidden ? "these features are hidden: " : "", names);
}

void vublk_device_realize_negotiated(struct vublk_device *device)
{
	struct vublk_error error;

	if (settle(device, &error) < 0) {
		vublk_error_prepend(&error, "back-end '%s'", vublk_device_path(device));
		vublk_device_realize_failed(device, &error);
		return;
	}
	vublk_log(&device->log, VUBLK_LOG_DEBUG, "the handshake took %u round trips",
		  device->frontend.round_trips);
	log_policy(device);
	vublk_device_paths_realized(device);
	vublk_device_change_state(device, VUBLK_DEVICE_EVENT_REALIZED, NULL);
	if (device->config_read_again)
		vublk_device_refresh_config(device);
	vublk_device_watch_config(device);
	vublk_device_notify_connected(device);
	if (device->ops->realized)
		device->ops->realized(device->bus, NULL);
}

/* --- the calls ----------------------------------------------------------------------------- */

int vublk_device_lend_connection(struct vublk_device *device, int fd, struct vublk_error *error)
{
	int r = vublk_device_require(device, VUBLK_DEVICE_CREATED, "lending a connection", error);
	int own;

	if (!r)
		r = vublk_socket_check_connected(fd, error);
	if (r < 0)
		return r;
	own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (own < 0)
		return vublk_error_set_errno(error, errno, "cannot duplicate descriptor %d", fd);
	vublk_fd_close(&device->lent_fd);
	device->lent_fd = own;
	return 0;
}

static int check_lent(const struct vublk_device *device, struct vublk_error *error)
{
	if (device->lent_fd < 0 || !vublk_device_will_reconnect(&device->settings))
		return 0; /* several paths need no check here, because they require a device that
			     reconnects */
	return vublk_error_set(error, EINVAL, "a device on a connected descriptor cannot "
			       "reconnect; set reconnect-ms=0 and server=off");
}

int vublk_device_realize(struct vublk_device *device, struct vublk_error *error)
{
	int r = vublk_device_require(device, VUBLK_DEVICE_CREATED, "realizing", error);

	if (!r)
		r = vublk_device_settings_check(&device->settings, error);
	if (!r)
		r = check_lent(device, error);
	if (!r)
		r = vublk_device_mirror_state_open(device, error);
	if (r < 0)
		return r;
	device->life++;
	device->tries = 0;
	vublk_device_paths_rewind(device);
	device->is_lent = device->lent_fd >= 0;
	vublk_device_change_state(device, VUBLK_DEVICE_EVENT_REALIZE, NULL);
	vublk_loop_timer_arm(&device->loop, &device->connect_timer, vublk_now_ns());
	return 0;
}

void vublk_device_unrealize(struct vublk_device *device)
{
	if (device->state == VUBLK_DEVICE_CREATED)
		return;
	device->life++;
	undo(device);
	vublk_device_mirror_state_close(device);
	vublk_device_paths_rewind(device);
	vublk_device_listener_close(device);
	vublk_device_change_state(device, VUBLK_DEVICE_EVENT_UNREALIZE, NULL);
}
