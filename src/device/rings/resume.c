/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Decides where rings resume if their back-end was lost before it said where it stopped.
 *
 * Key idea: a used index says how many requests are completed, and nothing in the ring says
 * which of the other requests the lost back-end had begun. If there is an in-flight area, the area
 * says so, and the next back-end reads it. Without an area a ring resumes at its used index if no
 * request was outstanding at the loss; requests that the driver adds later have not been seen by
 * any back-end. If a request was outstanding, guessing would lose it or execute it twice, so the
 * driver has to reset.
 *
 * virtio 1.3, sections 2.7.6 and 2.7.8 (the indices of a split ring).
 */
#include "device/device.h"

#include "util/error.h"

#include <errno.h>

void vublk_device_note_loss(struct vublk_device *device)
{
	uint16_t used, avail;

	device->resume = VUBLK_DEVICE_RESUME_RINGS;
	for (unsigned i = 0; i < device->num_queues; i++) {
		device->lost_avail[i] = -1;
		if (device->queues[i].size &&
		    !vublk_device_read_indices(device, i, &used, &avail, NULL))
			device->lost_avail[i] = avail;
	}
}

static int recover_base(struct vublk_device *device, unsigned index, struct vublk_error *error)
{
	uint16_t avail, used, outstanding;
	int r = vublk_device_read_indices(device, index, &used, &avail, error);

	if (r < 0)
		return r;
	outstanding = vublk_device_count_outstanding(device, index, used, avail);
	if (outstanding && !vublk_device_is_tracked(device))
		return vublk_error_set(error, EIO,
				       device->resume == VUBLK_DEVICE_RESUME_INFLIGHT ?
				       "the back-end has no in-flight area, and up to %u requests "
				       "are in the area that the previous back-end left; the device "
				       "needs a reset" :
				       "the back-end was lost while up to %u requests were outstanding, "
				       "and which of them it had begun is unknown; the device "
				       "needs a reset", outstanding);
	device->bases[index] = used;
	return 0;
}

/* Each base is known, and open requests are in an area that the back-end reads. */
static bool has_bases(const struct vublk_device *device)
{
	return device->resume == VUBLK_DEVICE_RESUME_NOTIFY ||
	       (device->resume == VUBLK_DEVICE_RESUME_INFLIGHT &&
		vublk_device_is_tracked(device));
}

int vublk_device_recover(struct vublk_device *device, struct vublk_error *error)
{
	int r;

	if (device->resume == VUBLK_DEVICE_RESUME_NOTHING)
		return 0;
	/* Rings may have been loaded before their memory was set. */
	r = vublk_device_queues_check(device, &device->memory, error);
	for (unsigned i = 0; i < device->num_queues && !r && !has_bases(device); i++) {
		if (!device->queues[i].size)
			continue;
		r = recover_base(device, i, error);
		if (r < 0)
			vublk_error_prepend(error, "queue %u", i);
	}
	if (r < 0) {
		vublk_error_prepend(error, "back-end '%s'", device->settings.chardev);
		return r;
	}
	/* No request is outstanding, and the bases are known: later requests are new. */
	if (!vublk_device_is_tracked(device))
		device->resume = VUBLK_DEVICE_RESUME_NOTIFY;
	return 0;
}

/*
 * A start that was refused in part does not say anything about the rings that the back-end did
 * not accept: the requests that were outstanding before the start still are.
 */
void vublk_device_rings_are_back(struct vublk_device *device)
{
	bool were_out = device->num_rings;
	bool refused = device->failure.code;

	if (vublk_device_is_shadowed(device)) {
		device->num_rings = 0;
		if (!refused && vublk_device_shadow_is_attached(device) && device->status)
			vublk_device_shadow_return(device);
		return;
	}
	vublk_device_queues_store_bases(device);
	if (!were_out)
		return;
	if (!device->leaves_requests && !refused)
		vublk_device_warn_undrained(device);
	if (device->leaves_requests && !(refused && device->resume == VUBLK_DEVICE_RESUME_RINGS))
		device->resume = VUBLK_DEVICE_RESUME_INFLIGHT;
	else if (!refused && device->resume != VUBLK_DEVICE_RESUME_NOTHING)
		device->resume = VUBLK_DEVICE_RESUME_NOTIFY;
}
