/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Handles back-ends that answer GET_VRING_BASE, and so return the ring, while requests are
 * outstanding. The base in the answer then exceeds the ring's used index by the number of these
 * requests.
 *
 * By the specification, a back-end answers GET_VRING_BASE only when the ring is drained, unless
 * GET_VRING_BASE_INFLIGHT was negotiated. But qemu-storage-daemon 7.2 answers while requests are
 * under way, and crashes when they end. While such a back-end is connected, the ring can be started
 * again at the base, because the back-end still has the requests. If the back-end is lost, these
 * requests are treated like those of a ring that was running: either the in-flight area has them,
 * or it is unknown which of them were executed.
 *
 * Key idea: the device needs no record of such requests, because it can compare the base with the
 * used index at any time. If the back-end completes the requests later, the used index reaches the
 * base.
 *
 * Specification: "VHOST_USER_GET_VRING_BASE", "Suspended ring state".
 */
#include "device/device.h"

uint16_t vublk_device_count_undrained(const struct vublk_device *device, unsigned index,
				      uint16_t used)
{
	uint16_t count = (uint16_t)(device->bases[index] - used);

	return count <= device->queues[index].size ? count : 0;
}

/*
 * Returns how many requests before the base of queue `index` are incomplete. Returns 0 also if the
 * ring cannot be read.
 */
static uint16_t read_undrained(const struct vublk_device *device, unsigned index)
{
	uint16_t used, avail;

	if (!device->queues[index].size ||
	    vublk_device_read_indices(device, index, &used, &avail, NULL) < 0)
		return 0;
	return vublk_device_count_undrained(device, index, used);
}

void vublk_device_warn_undrained(struct vublk_device *device)
{
	bool is_tracked = vublk_device_is_tracked(device);

	for (unsigned i = 0; i < device->num_queues; i++) {
		uint16_t count = read_undrained(device, i);

		if (!count)
			continue;
		vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING,
				  "back-end '%s': a stop must wait for all requests, but the "
				  "back-end returned queue %u at index %u with %u request%s "
				  "outstanding; if the connection is lost before they are "
				  "complete, %s",
				  vublk_device_path(device), i, device->bases[i], count,
				  count == 1 ? "" : "s",
				  is_tracked ?
				  "the next back-end repeats them from the in-flight area" :
				  "the driver must reset the device");
	}
}

void vublk_device_note_loss_at_rest(struct vublk_device *device)
{
	bool is_undrained = false;

	if (device->resume != VUBLK_DEVICE_RESUME_NOTHING &&
	    device->resume != VUBLK_DEVICE_RESUME_NOTIFY)
		return;
	for (unsigned i = 0; i < device->num_queues; i++)
		is_undrained |= read_undrained(device, i) > 0;
	if (!is_undrained)
		return;
	if (vublk_device_is_tracked(device)) {
		device->resume = VUBLK_DEVICE_RESUME_INFLIGHT;
		return;
	}
	device->resume = VUBLK_DEVICE_RESUME_RINGS;
	for (unsigned i = 0; i < device->num_queues; i++)
		device->lost_avail[i] = device->bases[i]; /* the back-end has seen no request from
							     the base on */
}
