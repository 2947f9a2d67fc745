/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sets up and ends a mirror of the disk. The plane copies the disk (plane/mirror.h).
 *
 * Key idea: the target gets neither the guest's memory nor the driver's queues. Its rings and all
 * of its data are in the memory of a side (device/shadow.h) of its own. So a reset, a pause or a
 * change of the guest's memory does not affect the target, whose rings run from the set-up to the
 * end of the mirror.
 */
#include "device/device.h"

#include "plane/last-flush.h"
#include "proto/vhost-user/channel.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/struct.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>

/*
 * The features for the target, if it offers them. They do not depend on the driver's features,
 * because the next driver may accept others.
 */
#define TARGET_FEATURES \
	(VUBLK_BIT(VIRTIO_F_VERSION_1) | VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC) | \
	 VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX) | VUBLK_BIT(VIRTIO_BLK_F_FLUSH) | \
	 VUBLK_BIT(VIRTIO_BLK_F_SIZE_MAX) | VUBLK_BIT(VIRTIO_BLK_F_SEG_MAX) | \
	 VUBLK_BIT(VIRTIO_BLK_F_BLK_SIZE) | VUBLK_BIT(VIRTIO_BLK_F_MQ))

/* --- the end -------------------------------------------------------------------------- */

/*
 * Ends the mirror in the plane. If there is a state file, the plane then holds writes until they
 * are released (end_in_file()).
 */
static void end_in_plane(struct vublk_device *device)
{
	if (device->shadow.thread)
		vublk_plane_thread_end_mirror(device->shadow.thread);
	device->mirror.is_interrupted = device->mirror.is_recording = false;
}

static void free_target(struct vublk_device *device)
{
	struct vublk_device_mirror *mirror = &device->mirror;

	vublk_loop_cancel(&device->loop, &mirror->failed_task);
	vublk_loop_remove(&mirror->flushed);
	vublk_frontend_close(&mirror->frontend);
	vublk_plane_side_free(mirror->side);
	mirror->side = NULL;
	free(mirror->rings);
	mirror->rings = NULL;
	vublk_fd_close(&mirror->fd);
	mirror->phase = mirror->is_interrupted ? VUBLK_DEVICE_MIRROR_INTERRUPTED :
						 VUBLK_DEVICE_MIRROR_NONE;
}

/*
 * Ends the mirror in the plane and at the target, and then calls `leave_file` to update the state
 * file. If there is a state file, the plane holds writes until `leave_file` has released them.
 */
static void end_mirror(struct vublk_device *device, void (*leave_file)(struct vublk_device *device))
{
	if (device->mirror.phase == VUBLK_DEVICE_MIRROR_NONE)
		return;
	end_in_plane(device);
	free_target(device);
	leave_file(device);
	vublk_device_want_shadow(device, VUBLK_DEVICE_SHADOW_FOR_MIRROR, false, NULL, NULL);
}

static void end_in_file(struct vublk_device *device)
{
	struct vublk_error error;

	if (device->mirror_state && vublk_mirror_state_end(device->mirror_state, &error) < 0) {
		vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING, "%s", error.text);
		vublk_device_mirror_state_make_safe(device);
	}
	if (device->shadow.thread)
		vublk_plane_thread_release_writes(device->shadow.thread);
}

void vublk_device_mirror_drop(struct vublk_device *device)
{
	end_mirror(device, end_in_file);
}

/* Keeps the marks in the file, so that a later mirror can resume this one. */
static void suspend_in_file(struct vublk_device *device)
{
	if (device->mirror_state)
		vublk_mirror_state_suspend(device->mirror_state);
}

/* Does not release the writes that wait in the plane, which is freed next. */
void vublk_device_mirror_suspend(struct vublk_device *device)
{
	end_mirror(device, suspend_in_file);
}

/* Calls left(), if a switch to the target waits for it; see vublk_device_mirror_leave(). */
static void tell_left(struct vublk_device *device, const struct vublk_error *error)
{
	void (*left)(struct vublk_device *, const struct vublk_error *) = device->mirror.left;

	device->mirror.left = NULL;
	if (left)
		left(device, error);
}

/*
 * Ends the mirror because of `cause`. An interrupted mirror that could not be resumed stays
 * interrupted, so that the operator can try again.
 */
static void fail(struct vublk_device *device, const struct vublk_error *cause)
{
	struct vublk_device_mirror *mirror = &device->mirror;
	struct vublk_error error = *cause;

	mirror->failure = *cause;
	vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING,
			  "the mirror at '%s' has ended: %s", mirror->target, cause->text);
	if (mirror->is_interrupted && mirror->phase != VUBLK_DEVICE_MIRROR_INTERRUPTED)
		free_target(device);
	else
		vublk_device_mirror_drop(device);
	vublk_device_notify_target(device, VUBLK_NOTICE_MIRROR_ENDED, mirror->target,
				   &mirror->failure);
	tell_left(device, &error);
}

void vublk_device_mirror_abandon(struct vublk_device *device, const struct vublk_error *error)
{
	device->mirror.left = NULL;
	if (device->mirror.phase != VUBLK_DEVICE_MIRROR_NONE)
		fail(device, error);
}

void vublk_device_mirror_end_for_migration(struct vublk_device *device)
{
	struct vublk_error error;

	if (device->mirror.phase == VUBLK_DEVICE_MIRROR_NONE)
		return;
	device->mirror.is_interrupted = false;
	vublk_error_set(&error, EBUSY, "the VMM has begun to migrate the VM, and the disk cannot "
			"be mirrored during a migration; mirror it again afterwards");
	fail(device, &error);
}

/*
 * Called when the plane has ended the mirror. The reason may be a failure of the state file, so the
 * mirror must not stay interrupted.
 */
static void on_failed(void *opaque)
{
	struct vublk_device *device = opaque;
	struct vublk_error error = device->mirror.failure;

	device->mirror.is_interrupted = false;
	fail(device, &error);
}

static void on_lost(void *opaque, const struct vublk_error *error)
{
	fail(opaque, error);
}

/* --- rings ------------------------------------------------------------------------------ */

static uint64_t target_features(const struct vublk_device *device)
{
	return TARGET_FEATURES & device->mirror.frontend.info.features;
}

static uint32_t segment_bytes(const struct vublk_device *device)
{
	const struct virtio_blk_config *config = (const void *)device->mirror.frontend.config;

	return target_features(device) & VUBLK_BIT(VIRTIO_BLK_F_SIZE_MAX) ?
		       le32toh(config->size_max) : 0;
}

static uint64_t disk_bytes(const struct vublk_device *device)
{
	const struct virtio_blk_config *config = (const void *)device->config;

	return le64toh(config->capacity) << VUBLK_SECTOR_SHIFT;
}

/*
 * Begins or resumes the mirror in the state file and in the plane. If the plane marks writes for an
 * interrupted mirror, new writes wait while the file changes.
 */
static int begin(struct vublk_device *device, struct vublk_error *error)
{
	struct vublk_device_mirror *mirror = &device->mirror;
	const struct vublk_plane_mirror_setup setup = {
		.target = mirror->side,
		.state = device->mirror_state,
		.bytes = disk_bytes(device),
		.rate = mirror->rate,
		.timeout_ms = device->settings.request_timeout_ms,
	};
	struct vublk_plane_mirror_info info;
	bool resumed;
	int r;

	end_in_plane(device);
	suspend_in_file(device);
	r = vublk_device_mirror_state_begin(device, mirror->target, &resumed, error);
	if (!r)
		r = vublk_plane_thread_begin_mirror(device->shadow.thread, &setup, error);
	if (r < 0 || !resumed)
		return r;
	vublk_plane_thread_get_mirror(device->shadow.thread, &info);
	vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_INFO, "the mirror to '%s' is resumed: %"
			  PRIu64 " of %" PRIu64 " bytes are copied again", mirror->target,
			  info.bytes - info.synced_bytes, info.bytes);
	return 0;
}

static void on_started(void *opaque, const struct vublk_error *error)
{
	struct vublk_device *device = opaque;
	struct vublk_device_mirror *mirror = &device->mirror;
	struct vublk_error own;

	if (error) {
		fail(device, error);
		return;
	}
	if (begin(device, &own) < 0) {
		fail(device, &own);
		return;
	}
	mirror->phase = VUBLK_DEVICE_MIRROR_COPYING;
	vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_INFO,
			  "the disk is being mirrored to '%s'", mirror->target);
}

static void on_memory(void *opaque, const struct vublk_error *error)
{
	struct vublk_device *device = opaque;
	struct vublk_device_mirror *mirror = &device->mirror;

	if (error) {
		fail(device, error);
		return;
	}
	for (unsigned i = 0; i < device->num_queues; i++) {
		const struct vublk_plane_side_queue *queue = &mirror->side->queues[i];

		mirror->rings[i] = (struct vublk_frontend_queue){
			.index = (uint16_t)i,
			.size = (uint16_t)device->settings.queue_size,
			.desc_addr = queue->memory->desc_addr,
			.avail_addr = queue->memory->avail_addr,
			.used_addr = queue->memory->used_addr,
			.kick_fd = queue->kick_fd,
			.call_fd = queue->call_fd,
			.err_fd = -1,
		};
	}
	vublk_frontend_start_rings(&mirror->frontend, mirror->rings, device->num_queues, on_started,
				   device);
}

/*
 * Called when the target has answered the features; the answer about the memory follows. A refusal
 * ends the mirror.
 */
static void on_session(void *opaque, const struct vublk_error *error)
{
	if (error)
		fail(opaque, error);
}

static int make_side(struct vublk_device *device, struct vublk_error *error)
{
	struct vublk_device_mirror *mirror = &device->mirror;
	uint16_t sizes[VUBLK_MAX_QUEUES];
	struct stat st;
	int r;

	for (unsigned i = 0; i < device->num_queues; i++)
		sizes[i] = (uint16_t)device->settings.queue_size;
	mirror->rings = calloc(device->num_queues, sizeof(*mirror->rings));
	if (!mirror->rings)
		return vublk_error_set_errno(error, ENOMEM, "cannot allocate the rings of the mirror's target");
	r = vublk_plane_side_new(device->num_queues, (unsigned)device->settings.queue_size,
				 device->shadow.max_segments, false, &mirror->side, error);
	if (!r)
		r = vublk_plane_side_reset(mirror->side, sizes, target_features(device), error);
	if (r < 0)
		return r;
	mirror->side->max_segment_bytes = segment_bytes(device);
	if (fstat(mirror->side->region.fd, &st) < 0)
		return vublk_error_set_errno(error, errno, "cannot examine the target's rings");
	mirror->region = (struct vublk_frontend_region){
		.region = {
			.guest_addr = VUBLK_PLANE_REGION_ADDR,
			.size_bytes = mirror->side->region.bytes,
			.fd = mirror->side->region.fd,
		},
		.file_device = st.st_dev,
		.file_inode = st.st_ino,
	};
	mirror->memory = (struct vublk_frontend_memory){ 1, &mirror->region };
	return 0;
}

static void on_negotiated(void *opaque)
{
	struct vublk_device *device = opaque;
	struct vublk_device_mirror *mirror = &device->mirror;
	struct vublk_error error;
	int r = vublk_device_mirror_check(device, &error);

	if (r < 0)
		vublk_error_prepend(&error, "the back-end at '%s' cannot be the target",
				    mirror->target);
	else
		r = make_side(device, &error);
	if (r < 0) {
		fail(device, &error);
		return;
	}
	mirror->phase = VUBLK_DEVICE_MIRROR_STARTING;
	vublk_frontend_begin_session(&mirror->frontend, target_features(device), NULL, on_session,
				     device);
	vublk_frontend_set_memory(&mirror->frontend, &mirror->memory, on_memory, device);
}

/* Changes of the target's config do not matter, because writes fail if its disk becomes smaller. */
static void ignore(void *opaque)
{
}

static const struct vublk_frontend_ops frontend_ops = {
	.negotiated = on_negotiated,
	.lost = on_lost,
	.config_changed = ignore,
	.back_channel_closed = ignore,
};

/* --- a switch to the target ---------------------------------------------------------------- */

int vublk_device_mirror_check_synced(struct vublk_device *device, struct vublk_error *error)
{
	struct vublk_plane_mirror_info info = { 0 };

	if (!vublk_device_is_mirrored(device) && device->mirror.failure.code)
		return vublk_error_set(error, EBUSY, "the mirror at '%s' has ended: %s; mirror the disk "
				       "again", device->mirror.target, device->mirror.failure.text);
	if (!vublk_device_is_mirrored(device))
		return vublk_error_set(error, EBUSY, "the disk is not mirrored: begin with the command "
				       "'mirror'");
	if (device->mirror.phase == VUBLK_DEVICE_MIRROR_COPYING)
		vublk_plane_thread_get_mirror(device->shadow.thread, &info);
	if (info.is_active && info.synced_bytes == info.bytes)
		return 0;
	return vublk_error_set(error, EBUSY, "the mirror at '%s' has synced %" PRIu64 " of %" PRIu64
			       " bytes; switch when it is synced", device->mirror.target,
			       info.synced_bytes, info.bytes);
}

static void end_flush(struct vublk_device *device)
{
	vublk_loop_remove(&device->mirror.flushed);
	device->mirror.phase = VUBLK_DEVICE_MIRROR_LEFT;
	tell_left(device, NULL);
}

static void on_flushed(void *opaque, uint32_t events)
{
	struct vublk_device *device = opaque;
	struct vublk_error error;
	int r = vublk_plane_last_flush_end(device->mirror.side, &error);

	if (r > 0)
		end_flush(device);
	else if (r < 0)
		fail(device, &error);
}

int vublk_device_mirror_leave(struct vublk_device *device,
			      void (*left)(struct vublk_device *device,
					   const struct vublk_error *error),
			      struct vublk_error *error)
{
	struct vublk_device_mirror *mirror = &device->mirror;
	struct vublk_plane_mirror_info info;
	int r = vublk_device_mirror_check_synced(device, error), fd;

	if (r < 0)
		return r;
	vublk_plane_thread_get_mirror(device->shadow.thread, &info);
	if (!info.is_idle || info.behind_bytes)
		return vublk_error_set(error, EBUSY, "the mirror at '%s' has requests that are not "
				       "complete; try again", mirror->target);
	vublk_plane_thread_end_mirror(device->shadow.thread);
	mirror->phase = VUBLK_DEVICE_MIRROR_LEAVING;
	mirror->left = left;
	fd = vublk_plane_last_flush_begin(mirror->side);
	if (fd < 0)
		end_flush(device);
	else if (vublk_loop_add(&device->loop, &mirror->flushed, fd, EPOLLIN, error) < 0)
		fail(device, error);
	return 0;
}

int vublk_device_mirror_commit(struct vublk_device *device, struct vublk_error *error)
{
	struct vublk_device_settings *settings = &device->settings;
	struct vublk_error ended;
	int r;

	if (device->mirror.phase != VUBLK_DEVICE_MIRROR_LEFT)
		return vublk_error_set(error, ENOTCONN, "the connection to the mirror at '%s' was "
				       "lost; mirror the disk again", device->mirror.target);
	r = device->mirror_state ? vublk_mirror_state_commit_switch(device->mirror_state, error) : 0;
	if (r < 0)
		return r;
	vublk_device_mirror_drop(device);
	vublk_error_set(&ended, ECANCELED, "the disk is switched to the mirror");
	vublk_device_notify_target(device, VUBLK_NOTICE_MIRROR_STOPPED, device->mirror.target,
				   &ended);
	for (unsigned i = 1; i < VUBLK_MAX_PATHS; i++)
		settings->chardevs[i][0] = '\0';
	strcpy(settings->chardevs[0], device->mirror.target);
	device->paths.active = device->paths.last = 0;
	return 0;
}

/* --- the calls ---------------------------------------------------------------------------- */

void vublk_device_mirror_init(struct vublk_device *device)
{
	struct vublk_device_mirror *mirror = &device->mirror;

	*mirror = (struct vublk_device_mirror){
		.fd = -1, .failed_task = { .fn = on_failed, .opaque = device },
		.flushed = { .fn = on_flushed, .opaque = device },
		.safe_timer = { .fn = vublk_device_mirror_state_make_safe, .opaque = device },
	};
	vublk_frontend_init(&mirror->frontend, &device->loop, &device->log, &device->limit,
			    &frontend_ops, device);
}

bool vublk_device_is_mirrored(const struct vublk_device *device)
{
	return device->mirror.phase > VUBLK_DEVICE_MIRROR_INTERRUPTED;
}

void vublk_device_mirror_find_interrupted(struct vublk_device *device)
{
	struct vublk_device_mirror *mirror = &device->mirror;
	struct vublk_mirror_state_info info;
	const char *target;

	if (!device->mirror_state)
		return;
	vublk_mirror_state_get_info(device->mirror_state, &info);
	if (info.phase != VUBLK_MIRROR_STATE_MIRRORING)
		return;
	target = info.disks[!info.authoritative].path;
	vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING,
			  "the mirror of this disk to '%s' was interrupted: that copy is out of date "
			  "until the disk is mirrored to it again", target);
	snprintf(mirror->target, sizeof(mirror->target), "%s", target);
	vublk_error_set(&mirror->failure, ECANCELED, "the mirror was interrupted: the command 'mirror' "
			"with target=%s resumes it", target);
	mirror->is_interrupted = true;
	mirror->phase = VUBLK_DEVICE_MIRROR_INTERRUPTED;
	vublk_device_want_shadow(device, VUBLK_DEVICE_SHADOW_FOR_MIRROR, true, NULL, NULL);
}

void vublk_device_mirror_begin_start(struct vublk_device *device)
{
	struct vublk_device_mirror *mirror = &device->mirror;
	struct vublk_error error;
	int r;

	if (!mirror->is_interrupted || (mirror->is_recording && vublk_device_is_shadowed(device)))
		return;
	if (vublk_device_is_shadowed(device))
		r = vublk_device_mirror_state_record(device, &error);
	else
		r = vublk_error_set(&error, ENOTSUP, "the disk cannot use shadow rings");
	if (!r) {
		mirror->is_recording = true;
		return;
	}
	vublk_error_prepend(&error, "the next mirror copies the whole disk, because the "
			    "interrupted one cannot be resumed");
	mirror->is_interrupted = false;
	fail(device, &error);
}

/*
 * Called when no exchange of the request path (rings/exchange.c) is pending. The mirror continues
 * only if the requests pass through the plane, because only the plane can mirror.
 */
static void on_path_settled(void *opaque, enum vublk_device_path path,
			    const struct vublk_error *refusal)
{
	struct vublk_device *device = opaque;
	struct vublk_device_mirror *mirror = &device->mirror;
	struct vublk_error error;
	int r;

	if (mirror->phase != VUBLK_DEVICE_MIRROR_EXCHANGING)
		return;
	if (path != VUBLK_DEVICE_PATH_SHADOW || !device->shadow.thread) {
		vublk_error_set(&error, refusal ? refusal->code : EBUSY, "the disk cannot use shadow "
				"rings: %s", refusal ? refusal->text : "the rings do not run");
		fail(device, &error);
		return;
	}
	mirror->phase = VUBLK_DEVICE_MIRROR_CONNECTING;
	r = vublk_frontend_open_fd(&mirror->frontend, vublk_fd_steal(&mirror->fd), mirror->target,
				   (unsigned)device->settings.request_timeout_ms, &error);
	if (r < 0)
		fail(device, &error);
}

static int check(const struct vublk_device *device, const char *target, struct vublk_error *error)
{
	if (!target[0] || strlen(target) >= sizeof(device->mirror.target))
		return vublk_error_set(error, EINVAL, "the path of the target has %zu bytes; "
				       "expected 1 to %zu", strlen(target),
				       sizeof(device->mirror.target) - 1);
	for (unsigned i = 0; i < vublk_device_num_paths(device); i++)
		if (vublk_socket_is_same(device->settings.chardevs[i], target))
			return vublk_error_set(error, EINVAL, "'%s' is a path of the disk itself; "
					       "mirror the disk to a back-end with other storage",
					       target);
	if (vublk_device_is_mirrored(device))
		return vublk_error_set(error, EBUSY, "the disk is being mirrored to '%s': end that mirror "
				       "first", device->mirror.target);
	if (!device->settings.reconnect_ms || device->settings.server)
		return vublk_error_set(error, ENOTSUP, "a mirror needs a device that connects to its "
				       "back-end and reconnects: set server=off and a nonzero "
				       "reconnect-ms");
	if (device->state != VUBLK_DEVICE_STOPPED && device->state != VUBLK_DEVICE_RUNNING)
		return vublk_error_set(error, EBUSY, "the device is %s; a mirror can begin only "
				       "when it is stopped or running",
				       vublk_device_state_name(device->state));
	if (device->path_switch.phase != VUBLK_DEVICE_SWITCH_NONE)
		return vublk_error_set(error, EBUSY, "a switch is under way; mirror the disk when "
				       "it has ended");
	if (device->exchange.waits)
		return vublk_error_set(error, EBUSY, "the device is being handed to another process; "
				       "mirror the disk when the upgrade has ended");
	if (device->dirty.phase != VUBLK_DEVICE_DIRTY_OFF)
		return vublk_error_set(error, EBUSY, "the VM is being migrated; mirror the disk "
				       "after the migration");
	return 0;
}

int vublk_device_mirror(struct vublk_device *device, const char *target, uint64_t rate,
			struct vublk_error *error)
{
	struct vublk_device_mirror *mirror = &device->mirror;
	int r, fd;

	if (vublk_device_is_mirrored(device) && !strcmp(mirror->target, target)) {
		mirror->rate = rate;
		if (mirror->phase == VUBLK_DEVICE_MIRROR_COPYING)
			vublk_plane_thread_set_mirror_rate(device->shadow.thread, rate);
		return 0;
	}
	r = check(device, target, error);
	if (r < 0)
		return r;
	fd = vublk_socket_connect(target, error);
	if (fd < 0)
		return fd;
	strcpy(mirror->target, target);
	mirror->rate = rate;
	mirror->fd = fd;
	mirror->failure.code = 0;
	mirror->phase = VUBLK_DEVICE_MIRROR_EXCHANGING;
	vublk_device_notify_target(device, VUBLK_NOTICE_MIRROR_STARTED, target, NULL);
	vublk_device_want_shadow(device, VUBLK_DEVICE_SHADOW_FOR_MIRROR, true, on_path_settled,
				 device);
	return 1;
}

void vublk_device_stop_mirror(struct vublk_device *device)
{
	struct vublk_error error;

	if (device->mirror.phase == VUBLK_DEVICE_MIRROR_NONE)
		return;
	vublk_error_set(&error, ECANCELED, "the mirror was ended by request");
	vublk_device_mirror_drop(device);
	vublk_device_notify_target(device, VUBLK_NOTICE_MIRROR_STOPPED, device->mirror.target,
				   &error);
	tell_left(device, &error);
	vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_INFO,
			  "the mirror at '%s' was ended by request", device->mirror.target);
}

void vublk_device_get_mirror(struct vublk_device *device, struct vublk_device_mirror_info *info,
			     size_t info_bytes)
{
	const struct vublk_device_mirror *mirror = &device->mirror;
	struct vublk_device_mirror_info all = {
		.is_active = vublk_device_is_mirrored(device),
		.is_copying = mirror->phase >= VUBLK_DEVICE_MIRROR_COPYING,
		.rate = mirror->rate,
	};
	struct vublk_plane_mirror_info plane;

	_Static_assert(sizeof(all.target) == sizeof(mirror->target), "all of it");
	strcpy(all.target, mirror->target);
	if (mirror->phase == VUBLK_DEVICE_MIRROR_COPYING) {
		vublk_plane_thread_get_mirror(device->shadow.thread, &plane);
		all.size_bytes = plane.bytes;
		all.synced_bytes = plane.synced_bytes;
		all.behind_bytes = plane.behind_bytes;
	} else if (!all.is_active && mirror->failure.code) {
		all.code = mirror->failure.code;
		snprintf(all.reason, sizeof(all.reason), "%s", mirror->failure.text);
	}
	vublk_struct_out(info, info_bytes, &all, sizeof(all));
}
