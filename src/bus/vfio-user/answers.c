/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sends answers to the client, and wakes the task that serves the client. The other code of the
 * connection is in client.c. These functions have a file of their own, because client.c calls the
 * files that use them.
 *
 * Key idea: a failure to send does not end the connection here, because the caller may be in the
 * middle of its work. The failure is recorded, and the task ends the connection.
 */
#include "bus/vfio-user/private.h"

#include "util/error.h"

void vublk_vfio_user_answer(struct vublk_vfio_user *bus, const struct vublk_vfio_header *command,
			    int result, const void *payload)
{
	struct vublk_vfio_header header = result < 0 ?
		vublk_vfio_error_header(command, -result) :
		vublk_vfio_reply_header(command, (uint32_t)result);

	if (!vublk_vfio_user_has_client(bus) || bus->send_failure.code ||
	    !vublk_vfio_wants_reply(command))
		return;
	if (vublk_vfio_channel_send(&bus->channel, &header, payload, &bus->send_failure) < 0)
		vublk_loop_post(bus->loop, &bus->serve_task);
}

void vublk_vfio_user_wake(struct vublk_vfio_user *bus)
{
	if (!vublk_virtio_pci_is_busy(bus->pci))
		bus->has_timed_out = false;
	if (vublk_vfio_user_has_client(bus))
		vublk_loop_post(bus->loop, &bus->serve_task);
}
