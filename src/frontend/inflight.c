/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The in-flight area, in which a back-end records the requests that it has begun. The first
 * back-end makes the area, and the front-end sends it to that back-end and to every later one. This
 * file never reads the contents of the area.
 *
 * Key idea: the messages have an order that every known back-end accepts. The area is sent after
 * the features, because they determine its layout, and after the size of each queue, because for
 * some back-ends a queue without a size does not exist. The numbers of queues and entries are taken
 * from the front-end's own GET_INFLIGHT_FD, because some back-ends leave them out of the answer.
 *
 * Specification: "Inflight I/O tracking".
 */
#include "frontend/frontend.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/memory-file.h"

#include <errno.h>
#include <inttypes.h>

static void fill_payload(struct vublk_vu_message *message, uint32_t request,
			 const struct vublk_device_inflight *area)
{
	vublk_vu_message_init(message, request);
	message->header.size = sizeof(message->payload.inflight);
	message->payload.inflight.mmap_size = area->size_bytes;
	message->payload.inflight.mmap_offset = area->offset;
	message->payload.inflight.num_queues = area->num_queues;
	message->payload.inflight.queue_size = area->queue_size;
}

/* --- giving the area to the back-end --------------------------------------------- */

static void send_area(struct vublk_frontend_inflight *inflight)
{
	struct vublk_vu_message message;

	fill_payload(&message, VUBLK_VU_SET_INFLIGHT_FD, inflight->area);
	message.fds[0] = inflight->area->fd;
	message.num_fds = 1;
	vublk_frontend_batch_send_confirmed(&inflight->batch, &message);
}

/* Sends a piece of the batch: first each queue's size, then the area. */
static void send_set_piece(void *owner, unsigned index)
{
	struct vublk_frontend_inflight *inflight = owner;

	if (index < inflight->num_queues)
		vublk_frontend_send_state(&inflight->batch, VUBLK_VU_SET_VRING_NUM,
					  inflight->queues[index].index,
					  inflight->queues[index].size);
	else
		send_area(inflight);
}

void vublk_frontend_explain_inflight(const struct vublk_frontend *frontend,
				     struct vublk_error *error)
{
	const struct vublk_device_inflight *area = frontend->inflight.area;
	struct vublk_error cause = *error;

	vublk_error_set(error, cause.code, "the back-end refused an in-flight area of %" PRIu64
			" bytes for %u queues of %u entries, possibly because its own layout "
			"differs (%s); start the back-end that created the area, or one of the "
			"same kind, or reset the device",
			area->size_bytes, area->num_queues, area->queue_size, cause.text);
}

static void on_area_refused(void *owner, unsigned index, bool first)
{
	struct vublk_frontend_inflight *inflight = owner;

	if (first && index == inflight->num_queues)
		vublk_frontend_explain_inflight(inflight->batch.frontend,
						&inflight->batch.refusal);
}

static void hand_over(struct vublk_frontend *frontend)
{
	struct vublk_frontend_inflight *inflight = &frontend->inflight;

	inflight->batch.send_piece = send_set_piece;
	inflight->batch.refused = on_area_refused;
	vublk_frontend_batch_begin(frontend, &inflight->batch, inflight->num_queues + 1,
				   inflight->done, inflight->opaque);
}

/* --- having the back-end make the area ------------------------------------------------------ */

/*
 * Returns whether the answer has an area that lies within its file. A back-end that used an area
 * beyond the end of its file would get SIGBUS.
 */
static bool is_usable(int fd, const struct vublk_vu_inflight *answer)
{
	struct vublk_memory_file file;

	return fd >= 0 && answer->mmap_size &&
	       !vublk_memory_file_check(fd, answer->mmap_offset, answer->mmap_size, &file, NULL);
}

static void on_area(void *opaque, unsigned tag, struct vublk_vu_message *reply)
{
	struct vublk_frontend_batch *batch = opaque;
	struct vublk_frontend_inflight *inflight = batch->owner;
	const struct vublk_vu_inflight *answer = &reply->payload.inflight;
	VUBLK_FD int fd = vublk_vu_message_take_fd(reply, 0);

	if (is_usable(fd, answer)) {
		inflight->area->fd = vublk_fd_steal(&fd);
		inflight->area->size_bytes = answer->mmap_size;
		inflight->area->offset = answer->mmap_offset;
	} else {
		vublk_frontend_batch_refuse(batch, EPROTO,
					    "the answer to GET_INFLIGHT_FD announces an in-flight "
					    "area of %" PRIu64 " bytes at offset %" PRIu64 " and "
					    "comes with %s; set inflight=off to use no in-flight "
					    "area", answer->mmap_size,
					    answer->mmap_offset, fd < 0 ? "no descriptor" :
					    !answer->mmap_size ? "a file descriptor" :
					    "a file that does not contain this area");
	}
	vublk_frontend_batch_answered(batch);
}

static void send_get(void *owner, unsigned index)
{
	struct vublk_frontend_inflight *inflight = owner;
	struct vublk_vu_message message;

	fill_payload(&message, VUBLK_VU_GET_INFLIGHT_FD, inflight->area);
	vublk_frontend_batch_ask(&inflight->batch, &message,
				 offsetof(struct vublk_vu_inflight, padding), on_area);
}

static void on_got(void *opaque, const struct vublk_error *error)
{
	struct vublk_frontend *frontend = opaque;

	if (error)
		frontend->inflight.done(frontend->inflight.opaque, error);
	else
		hand_over(frontend);
}

void vublk_frontend_get_inflight(struct vublk_frontend *frontend,
				 struct vublk_device_inflight *area,
				 void (*done)(void *opaque, const struct vublk_error *error),
				 void *opaque)
{
	struct vublk_frontend_inflight *inflight = &frontend->inflight;

	inflight->area = area;
	inflight->batch.owner = inflight;
	inflight->batch.refused = NULL;
	inflight->batch.send_piece = send_get;
	vublk_frontend_batch_begin(frontend, &inflight->batch, 1, done, opaque);
}

void vublk_frontend_set_inflight(struct vublk_frontend *frontend,
				 struct vublk_device_inflight *area,
				 const struct vublk_frontend_queue *queues, unsigned num_queues,
				 void (*done)(void *opaque, const struct vublk_error *error),
				 void *opaque)
{
	struct vublk_frontend_inflight *inflight = &frontend->inflight;

	inflight->area = area;
	inflight->queues = queues;
	inflight->num_queues = num_queues;
	inflight->done = done;
	inflight->opaque = opaque;
	inflight->batch.owner = inflight;
	if (area->fd >= 0)
		hand_over(frontend);
	else
		vublk_frontend_get_inflight(frontend, area, on_got, frontend);
}
