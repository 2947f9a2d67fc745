/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Decides where rings resume, especially after the loss of a back-end that has not said where it
 * stopped.
 *
 * Key idea: the used index of a ring says how many requests are complete. Nothing in the ring says
 * which of the other requests the lost back-end had begun. An in-flight area says so, and the next
 * back-end reads it. Without an area, a ring resumes at its used index if no request was
 * outstanding at the loss, because no back-end has seen the requests that the driver added later.
 * If a request was outstanding, a guess could lose that request or execute it twice, so the driver
 * has to reset the device.
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
				       "the previous back-end left an in-flight area with up to %u "
				       "request%s, but the new back-end does not support in-flight "
				       "areas; the driver must reset the device" :
				       "the connection to the back-end was lost with up to %u "
				       "request%s outstanding, and the device cannot tell which of "
				       "them the back-end had begun; the driver must reset the "
				       "device",
				       outstanding, outstanding == 1 ? "" : "s");
	device->bases[index] = used;
	return 0;
}

/*
 * Returns whether each base is known, and all requests that were begun, if any, are in an area that
 * the current back-end or the plane reads.
 */
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
	/*
	 * The rings of a loaded device were not checked before, because the bus sets the memory
	 * after the load.
	 */
	r = vublk_device_queues_check(device, &device->memory, error);
	for (unsigned i = 0; i < device->num_queues && !r && !has_bases(device); i++) {
		if (!device->queues[i].size)
			continue;
		r = recover_base(device, i, error);
		if (r < 0)
			vublk_error_prepend(error, "queue %u", i);
	}
	if (r < 0) {
		vublk_error_prepend(error, "back-end '%s'", vublk_device_path(device));
		return r;
	}
	/*
	 * The bases are known, and no request before them is outstanding, so nothing has to be
	 * resumed.
	 */
	if (!vublk_device_is_tracked(device))
		device->resume = VUBLK_DEVICE_RESUME_NOTIFY;
	return 0;
}

/*
 * If the back-end refused part of a start, its answers say nothing about the rings that it did not
 * accept. So requests that were outstanding before the start are still outstanding, and
 * device->resume does not change.
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
