/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Handles back-ends that return a ring while requests are outstanding. In that case the base in
 * their answer exceeds the used index by the number of those requests.
 *
 * GET_VRING_BASE means that the ring is drained, unless GET_VRING_BASE_INFLIGHT was negotiated;
 * qemu-storage-daemon 7.2 answers it while requests are under way, and panics when they end. While
 * such a back-end is connected, the ring can be started again at that base, because the back-end
 * still has the requests. When the back-end is lost, these requests are like those of a ring that
 * was lost while it ran: the in-flight area has them, or it is unknown which of them were executed.
 *
 * Key idea: no record is needed. The base and the used index can be compared at any time, and
 * a back-end that completes the requests later moves the used index up to the base.
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

/* Returns 0 also if the ring cannot be read, because in that case the number is unknown. */
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
				  "back-end '%s': queue %u was returned at index %u with %u requests "
				  "outstanding, which a stop has to wait for; if the back-end is lost "
				  "before it completes them, %s", device->settings.chardev, i,
				  device->bases[i], count,
				  is_tracked ? "the next one finds them in the in-flight area" :
					       "the driver has to reset the device");
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
		device->lost_avail[i] = device->bases[i]; /* the back-end has not seen later
		                                             requests */
}
