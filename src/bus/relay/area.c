/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The in-flight area: the messages GET_INFLIGHT_FD and SET_INFLIGHT_FD.
 *
 * Key idea: a back-end chooses the layout of an area, and may accept no other layout. So the
 * back-end makes the area if possible, and the relay passes it to the VMM unchanged. If there is no
 * back-end that can be asked, the device makes the area, so that the VMM does not have to wait.
 */
#include "bus/relay/messages.h"

#include "proto/vhost-user/inflight.h"
#include "proto/vhost-user/request.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

static int check_inflight(const struct vublk_relay *relay, struct vublk_error *error)
{
	return vublk_vu_check_inflight(&relay->server.request, relay->num_queues,
				       vublk_device_queue_size(relay->device), error);
}

/*
 * Fills the reply with `area`, and takes ownership of its descriptor. The reply has the size of the
 * request, because front-ends differ in whether they send the padding.
 */
static void answer_area(struct vublk_relay *relay, const struct vublk_device_inflight *area)
{
	vublk_fd_close(&relay->server.reply_fd);
	relay->server.reply_fd = area->fd;
	relay->server.reply.payload.inflight = (struct vublk_vu_inflight){
		.mmap_size = area->size_bytes,
		.mmap_offset = area->offset,
		.num_queues = area->num_queues,
		.queue_size = area->queue_size,
	};
	relay->server.reply.header.size = relay->server.request.header.size;
	relay->server.reply.fds[0] = relay->server.reply_fd;
	relay->server.reply.num_fds = 1;
}

int vublk_relay_get_inflight_fd(struct vublk_relay *relay, struct vublk_error *error)
{
	const struct vublk_vu_inflight *asked = &relay->server.request.payload.inflight;
	struct vublk_device_inflight area = {
		.num_queues = asked->num_queues,
		.queue_size = asked->queue_size,
	};
	int r = check_inflight(relay, error);

	if (!r)
		r = vublk_device_make_inflight(relay->device, &area, sizeof(area), error);
	if (!r)
		answer_area(relay, &area);
	if (r > 0)
		relay->asked = VUBLK_RELAY_ASKED_AREA;
	return r;
}

void vublk_relay_on_area_made(struct vublk_relay *relay, const struct vublk_device_inflight *made,
			      const struct vublk_error *refusal)
{
	struct vublk_device_inflight area;
	struct vublk_error error;
	int r;

	if (!made && vublk_device_state(relay->device) == VUBLK_DEVICE_LOST) {
		r = vublk_relay_get_inflight_fd(relay, &error);
	} else if (!made) {
		error = *refusal;
		r = -error.code;
	} else {
		area = *made;
		area.fd = r = fcntl(made->fd, F_DUPFD_CLOEXEC, 0);
		if (r < 0)
			vublk_error_set_errno(&error, errno, "cannot duplicate the descriptor of "
					      "the in-flight area");
		else
			answer_area(relay, &area);
	}
	if (r < 0)
		vublk_relay_fail(relay, &error);
}

static bool is_same_file(int a, int b)
{
	struct stat x, y;

	return a >= 0 && !fstat(a, &x) && !fstat(b, &y) && x.st_dev == y.st_dev &&
	       x.st_ino == y.st_ino;
}

int vublk_relay_set_inflight_fd(struct vublk_relay *relay, struct vublk_error *error)
{
	const struct vublk_vu_inflight *wire = &relay->server.request.payload.inflight;
	struct vublk_memory_file file;
	int r = check_inflight(relay, error);

	/*
	 * The back-end that made the area chose its layout, so only the minimum size is checked,
	 * and not the alignment.
	 */
	if (!r)
		r = vublk_vu_check_inflight_file(&relay->server.request, wire->num_queues *
						 vublk_inflight_split_least_bytes(wire->queue_size),
						 1, &file, error);
	if (r < 0)
		return r;
	/*
	 * A different area belongs to a different session of the driver, even if the rings look the
	 * same.
	 */
	if (!is_same_file(relay->area.fd, relay->server.request.fds[0]))
		relay->changes |= VUBLK_RELAY_RESET;
	vublk_relay_drop_area(relay);
	relay->area = (struct vublk_device_inflight){
		.fd = vublk_vu_message_take_fd(&relay->server.request, 0),
		.offset = wire->mmap_offset,
		.size_bytes = wire->mmap_size,
		.num_queues = wire->num_queues,
		.queue_size = wire->queue_size,
	};
	relay->area_is_vmms = true;
	relay->changes |= VUBLK_RELAY_AREA;
	return 0;
}
