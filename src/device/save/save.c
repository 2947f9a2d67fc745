/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Saves and loads the state of a device: what its driver sees and has set up, and the in-flight
 * area. A device in another process, with another back-end, loads that state and continues the
 * driver's session. The format of the stream is in stream.c.
 *
 * Key idea: a load is like a reconnection for a driver that this device has never seen. Before
 * anything is changed, the saved state is compared with the offer of this device and its back-end.
 * After the load, the device is in the same state as if the driver had set it up here and the VM
 * had been paused, and start-stop.c does the rest. Memory and descriptors are not part of the
 * state, so the bus sets them again.
 *
 * vhost-user: "Inflight I/O tracking"; virtio 1.3, section 2.1 (the device status).
 */
#include "device/device.h"
#include "device/save/save.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/memfd.h"
#include "virtio/blk-format.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_blk.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- saving -------------------------------------------------------------------------------- */

static enum vublk_save_rings rings_of(const struct vublk_device *device)
{
	switch (device->resume) {
	case VUBLK_DEVICE_RESUME_INFLIGHT:
		return VUBLK_SAVE_RINGS_INFLIGHT;
	case VUBLK_DEVICE_RESUME_RINGS:
		return VUBLK_SAVE_RINGS_LOST;
	case VUBLK_DEVICE_RESUME_NEVER:
		return VUBLK_SAVE_RINGS_NEVER;
	default:
		return VUBLK_SAVE_RINGS_KNOWN;
	}
}

static void fill_state(const struct vublk_device *device, struct vublk_save_state *state)
{
	*state = (struct vublk_save_state){
		.num_queues = (uint16_t)device->num_queues,
		.queue_size = (uint16_t)device->settings.queue_size,
		.status = device->status,
		.rings = rings_of(device),
		.has_features = device->has_acked_features,
		.features = device->acked_features,
		.early_kick = (uint8_t)device->early_kick,
		.has_config = true,
		.config_generation = device->config_generation,
	};
	memcpy(state->config, device->config, sizeof(state->config));
	for (unsigned i = 0; i < device->num_queues; i++) {
		state->queues[i] = device->queues[i];
		state->queues[i].base = device->bases[i];
	}
}

/*
 * Reads the area from its file into `bytes`. Does not map the file, because the process that made
 * the file may truncate it. Error: EIO and others.
 */
static int read_area(const struct vublk_device_inflight *area, uint8_t *bytes,
		     struct vublk_error *error)
{
	uint64_t done = 0;

	while (done < area->size_bytes) {
		ssize_t r = pread(area->fd, bytes + done, area->size_bytes - done,
				  (off_t)(area->offset + done));

		if (r <= 0)
			return vublk_error_set_errno(error, r < 0 ? errno : EIO,
						     "cannot read the in-flight area after "
						     "%" PRIu64 " of its %" PRIu64 " bytes", done,
						     area->size_bytes);
		done += (uint64_t)r;
	}
	return 0;
}

/*
 * If there is an in-flight area, adds it to `state`. state->area then points to *bytes, which the
 * caller frees, even after a failure.
 */
static int take_area(const struct vublk_device *device, struct vublk_save_state *state,
		     uint8_t **bytes, struct vublk_error *error)
{
	const struct vublk_device_inflight *area = &device->inflight;
	int r;

	if (area->fd < 0)
		return 0;
	if (area->size_bytes > VUBLK_SAVE_MAX_AREA_BYTES)
		return vublk_error_set(error, EPROTO,
				       "the back-end created an in-flight area of %" PRIu64
				       " bytes; the maximum that can be saved is %" PRIu64,
				       area->size_bytes,
				       VUBLK_SAVE_MAX_AREA_BYTES);
	*bytes = malloc(area->size_bytes);
	if (!*bytes)
		return vublk_error_set_errno(error, ENOMEM, "cannot allocate memory for the "
					     "in-flight area");
	r = read_area(area, *bytes, error);
	if (r < 0)
		return r;
	state->area = *bytes;
	state->area_bytes = area->size_bytes;
	state->area_num_queues = area->num_queues;
	state->area_queue_size = area->queue_size;
	return 0;
}

static int check_save(const struct vublk_device *device, struct vublk_error *error)
{
	if (!device->num_queues)
		return vublk_device_require(device, VUBLK_DEVICE_STOPPED, "saving", error);
	if (vublk_device_has_rings_out(device))
		return vublk_error_set(error, EBUSY,
				       "cannot save the device while the back-end uses its rings "
				       "(the device is %s); pause the VM and wait for stopped()",
				       vublk_device_state_name(device->state));
	if (device->config_write != VUBLK_DEVICE_WRITE_NONE)
		return vublk_error_set(error, EBUSY,
				       "cannot save the device while a write to its configuration "
				       "is under way; wait for config_written()");
	return 0;
}

int vublk_device_save(const struct vublk_device *device, void **stream, size_t *stream_bytes,
		      struct vublk_error *error)
{
	struct vublk_save_state state;
	uint8_t *area = NULL;
	int r = check_save(device, error);

	if (r < 0)
		return r;
	fill_state(device, &state);
	r = take_area(device, &state, &area, error);
	if (!r)
		r = vublk_save_encode(&state, stream, stream_bytes, error);
	else
		vublk_error_prepend(error, "cannot save the device");
	free(area);
	return r;
}

/* --- loading: checks -------------------------------------------------------------------------- */

static int check_device(const struct vublk_device *device, struct vublk_error *error)
{
	if (!device->num_queues || vublk_device_has_rings_out(device))
		return vublk_device_require(device, VUBLK_DEVICE_STOPPED, "loading", error);
	if (device->vm_running)
		return vublk_error_set(error, EBUSY,
				       "a device can be loaded only while its VM is paused; load "
				       "it before the VM runs");
	if (device->status || device->has_acked_features)
		return vublk_error_set(error, EBUSY,
				       "a device can be loaded only before a driver uses it or "
				       "after a reset; its status is 0x%x", device->status);
	return 0;
}

static int check_counts(const struct vublk_device *device, const struct vublk_save_state *state,
			struct vublk_error *error)
{
	if (state->num_queues != device->num_queues)
		return vublk_error_set(error, EINVAL,
				       "the saved device has %u queue%s, but this one has %u; set "
				       "num-queues to %u", state->num_queues,
				       state->num_queues == 1 ? "" : "s", device->num_queues,
				       state->num_queues);
	if (state->queue_size != device->settings.queue_size)
		return vublk_error_set(error, EINVAL,
				       "the saved device has queue-size=%u, but this device has "
				       "queue-size=%u; set queue-size to %u",
				       state->queue_size,
				       (unsigned)device->settings.queue_size, state->queue_size);
	return 0;
}

static int check_queues(const struct vublk_device *device, const struct vublk_save_state *state,
			struct vublk_error *error)
{
	int r = 0;

	for (unsigned i = 0; i < state->num_queues && !r; i++)
		if (state->queues[i].size)
			r = vublk_device_queue_check(device, i, &state->queues[i], error);
	return r;
}

/*
 * Checks that requests in flight, if any, can be resumed from the saved area. If no back-end is
 * connected, the next one is checked when the rings are started.
 */
static int check_inflight(const struct vublk_device *device, const struct vublk_save_state *state,
			  struct vublk_error *error)
{
	bool needed = state->rings == VUBLK_SAVE_RINGS_INFLIGHT ||
		      (state->rings == VUBLK_SAVE_RINGS_LOST && state->area);

	if (!needed || !vublk_device_is_connected(device) ||
	    vublk_device_records_requests(device))
		return 0;
	return vublk_error_set(error, ENOTSUP,
			       "requests of the saved device are in flight, but back-end '%s' does "
			       "not accept an in-flight area; use a back-end that offers "
			       "INFLIGHT_SHMFD, and set inflight=on and inflight-migration=on",
			       vublk_device_path(device));
}

/*
 * Checks that this device's properties, which are not part of the stream, agree with what the saved
 * driver relies on: the features that it has accepted, and a writable disk. Error: EROFS or
 * ENOTSUP.
 */
static int check_policy(const struct vublk_device *device, const struct vublk_save_state *state,
			struct vublk_error *error)
{
	uint64_t hidden = state->features & vublk_device_hidden_features(&device->settings);
	char names[VUBLK_FEATURE_LIST_BYTES];

	if (state->has_features && device->settings.read_only &&
	    !(state->features & VUBLK_BIT(VIRTIO_BLK_F_RO)))
		return vublk_error_set(error, EROFS,
				       "the driver of the saved device uses a writable disk, but "
				       "this device has read-only=on; set read-only=off, or load a "
				       "device that was saved with read-only=on");
	if (!hidden)
		return 0;
	vublk_features_list(hidden, names);
	return vublk_error_set(error, ENOTSUP,
			       "the driver of the saved device uses %s, which this device's "
			       "properties hide; use the properties of the saved device", names);
}

static int check_state(const struct vublk_device *device, const struct vublk_save_state *state,
		       struct vublk_error *error)
{
	struct vublk_device_reliance reliance = {
		.has_accepted = state->has_features,
		.accepted = state->features,
		.config = state->has_config ? state->config : NULL,
	};
	int r = check_counts(device, state, error);

	if (!r)
		r = check_queues(device, state, error);
	if (!r)
		r = check_policy(device, state, error);
	if (!r) {
		r = vublk_device_check_reliance(device, &reliance, error);
		if (r < 0)
			vublk_error_prepend(error, "back-end '%s'", vublk_device_path(device));
	}
	return r ? r : check_inflight(device, state, error);
}

/* --- loading: changing the device ------------------------------------------------------------- */

static int write_area(int fd, const uint8_t *bytes, uint64_t num_bytes, struct vublk_error *error)
{
	uint64_t done = 0;

	while (done < num_bytes) {
		ssize_t r = pwrite(fd, bytes + done, num_bytes - done, (off_t)done);

		if (r <= 0)
			return vublk_error_set_errno(error, r < 0 ? errno : EIO,
						     "cannot write to the in-flight area");
		done += (uint64_t)r;
	}
	return 0;
}

/*
 * Makes a file with the saved in-flight area, if there is one, and stores its descriptor in `made`.
 * A back-end accepts this area like one that it has made itself.
 */
static int make_area(const struct vublk_save_state *state, int *made, struct vublk_error *error)
{
	VUBLK_FD int fd = -1;
	int r;

	if (!state->area)
		return 0;
	fd = vublk_memfd_new("vublk-inflight", state->area_bytes, error);
	if (fd < 0)
		return fd;
	r = write_area(fd, state->area, state->area_bytes, error);
	if (!r)
		*made = vublk_fd_steal(&fd);
	return r;
}

/*
 * Called when the back-end has answered the write of `wce`. Closes the connection to a back-end
 * that refuses it, because the driver relies on the setting of the write cache.
 */
static void on_wce_restored(void *opaque, const struct vublk_error *refusal)
{
	struct vublk_device *device = opaque;
	struct vublk_error error;

	device->config_write = VUBLK_DEVICE_WRITE_NONE;
	if (!refusal)
		return;
	error = *refusal;
	vublk_error_prepend(&error, "cannot set the write cache to the driver's setting");
	vublk_frontend_fail(&device->frontend, &error);
}

/*
 * Gives the back-end the driver's setting of the write cache. If no back-end is connected,
 * reconnect.c does that after the next handshake.
 */
static void restore_wce(struct vublk_device *device, uint8_t wce)
{
	if (device->config[VUBLK_BLK_WCE_OFFSET] == wce)
		return;
	device->config[VUBLK_BLK_WCE_OFFSET] = wce;
	if (!vublk_device_is_connected(device))
		return;
	if (device->config_read != VUBLK_DEVICE_READ_NONE) /* the read under way may return the old
							      value */
		device->config_read_again = true;
	device->config_write = VUBLK_DEVICE_WRITE_RESTORING;
	vublk_frontend_write_wce(&device->frontend, wce, on_wce_restored, device);
}

/*
 * Takes the generation from the saved config and, if the driver can change `wce`, that byte, too.
 * Returns whether the device's config then differs from the saved one, which the driver has read.
 */
static bool take_config(struct vublk_device *device, const struct vublk_save_state *state)
{
	bool changed;

	if (!state->has_config)
		return false;
	if (state->features & VUBLK_BIT(VIRTIO_BLK_F_CONFIG_WCE))
		restore_wce(device, state->config[VUBLK_BLK_WCE_OFFSET]);
	changed = memcmp(device->config, state->config, sizeof(device->config));
	device->config_generation = state->config_generation + changed;
	return changed;
}

static enum vublk_device_resume resume_of(const struct vublk_save_state *state)
{
	switch (state->rings) {
	case VUBLK_SAVE_RINGS_INFLIGHT:
		return VUBLK_DEVICE_RESUME_INFLIGHT;
	case VUBLK_SAVE_RINGS_LOST:
		return VUBLK_DEVICE_RESUME_RINGS;
	case VUBLK_SAVE_RINGS_NEVER:
		return VUBLK_DEVICE_RESUME_NEVER;
	default:
		return VUBLK_DEVICE_RESUME_NOTIFY;
	}
}

static void take_rings(struct vublk_device *device, const struct vublk_save_state *state,
		       int area_fd)
{
	for (unsigned i = 0; i < device->num_queues; i++) {
		device->queues[i] = state->queues[i];
		device->bases[i] = state->queues[i].base;
	}
	device->resume = resume_of(state);
	vublk_device_drop_inflight(device);
	device->inflight = (struct vublk_device_inflight){
		.fd = area_fd,
		.size_bytes = state->area_bytes,
		.num_queues = state->area_num_queues,
		.queue_size = state->area_queue_size,
	};
}

int vublk_device_load(struct vublk_device *device, const void *stream, size_t stream_bytes,
		      struct vublk_error *error)
{
	struct vublk_save_state state;
	int area_fd = -1;
	int r = check_device(device, error);

	if (!r)
		r = vublk_save_decode(stream, stream_bytes, &state, error);
	if (!r)
		r = check_state(device, &state, error);
	if (!r)
		r = make_area(&state, &area_fd, error);
	if (r < 0)
		return r;
	device->status = state.status;
	device->has_acked_features = state.has_features;
	device->acked_features = state.features;
	device->early_kick = state.early_kick;
	take_rings(device, &state, area_fd);
	return take_config(device, &state);
}
