/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The messages about one ring: SET_VRING_..., GET_VRING_BASE. The functions here only record what
 * the VMM wants (rings.c); reconcile.c passes it on to the device later.
 *
 * Specification: "Starting and stopping rings", "Front-end message types".
 */
#include "bus/relay/messages.h"

#include "proto/vhost-user/server.h"
#include "util/checked.h"
#include "util/error.h"
#include "virtio/ring.h"

#include <errno.h>
#include <linux/virtio_config.h>

/* --- set-up ---------------------------------------------------------------- */

static int refuse_running(struct vublk_relay *relay, struct vublk_error *error)
{
	bool runs = vublk_relay_is_handed(vublk_relay_concerned(relay)) &&
		    !(relay->changes & VUBLK_RELAY_RESET);

	return vublk_vu_refuse_running(&relay->server.request, runs, error);
}

int vublk_relay_set_vring_num(struct vublk_relay *relay, struct vublk_error *error)
{
	int r = refuse_running(relay, error);

	if (!r)
		r = vublk_vu_check_vring_num(&relay->server.request, VUBLK_MIN_QUEUE_SIZE,
					     vublk_device_queue_size(relay->device), error);
	if (!r)
		vublk_relay_concerned(relay)->size = relay->server.request.payload.state.num;
	return r;
}

static bool is_same_place(const struct vhost_vring_addr *a, const struct vhost_vring_addr *b)
{
	return a->desc_user_addr == b->desc_user_addr &&
	       a->avail_user_addr == b->avail_user_addr && a->used_user_addr == b->used_user_addr;
}

/*
 * Ignores the flag VHOST_VRING_F_LOG, because the device logs all used rings while the log is on.
 */
int vublk_relay_set_vring_addr(struct vublk_relay *relay, struct vublk_error *error)
{
	const struct vhost_vring_addr *addr = &relay->server.request.payload.addr;
	struct vublk_relay_queue *queue = vublk_relay_concerned(relay);
	int r = vublk_vu_check_vring_addr(&relay->server.request, error);

	if (r < 0)
		return r;
	if (!is_same_place(addr, &queue->addr))
		vublk_relay_begin_anew(relay, queue);
	queue->addr = *addr;
	queue->has_addr = true;
	return 0;
}

int vublk_relay_set_vring_base(struct vublk_relay *relay, struct vublk_error *error)
{
	struct vublk_relay_queue *queue = vublk_relay_concerned(relay);
	uint32_t base = relay->server.request.payload.state.num;
	int r = refuse_running(relay, error);

	if (!r)
		r = vublk_vu_check_vring_base(&relay->server.request, error);
	if (r < 0)
		return r;
	if (base != queue->base)
		vublk_relay_begin_anew(relay, queue);
	queue->base = (uint16_t)base;
	return 0;
}

int vublk_relay_set_vring_call(struct vublk_relay *relay, struct vublk_error *error)
{
	struct vublk_relay_queue *queue = vublk_relay_concerned(relay);
	int r = vublk_vu_take_vring_fd(&relay->server.request, &queue->call_fd, error);

	if (!r)
		queue->call_changed = vublk_relay_is_handed(queue);
	return r;
}

int vublk_relay_set_vring_err(struct vublk_relay *relay, struct vublk_error *error)
{
	return vublk_vu_take_vring_fd(&relay->server.request,
				      &vublk_relay_concerned(relay)->err_fd, error);
}

/* --- start ----------------------------------------------------------------- */

/*
 * Called when the VMM has started or enabled a ring. Ends the delay of starts. If STATUS was
 * negotiated and the driver is not ready, prolongs the delay instead, so that all rings start
 * together at DRIVER_OK.
 */
static void note_start(struct vublk_relay *relay)
{
	bool waits = relay->server.protocol_features & VUBLK_BIT(VUBLK_VU_F_STATUS) &&
		     !(relay->status & VIRTIO_CONFIG_S_DRIVER_OK);

	if (waits)
		vublk_relay_hold(relay);
	else
		vublk_relay_release(relay);
}

int vublk_relay_set_vring_kick(struct vublk_relay *relay, struct vublk_error *error)
{
	struct vublk_relay_queue *queue = vublk_relay_concerned(relay);
	int r = vublk_vu_take_vring_fd(&relay->server.request, &queue->kick_fd, error);

	if (r < 0)
		return r;
	vublk_relay_change_ring(relay, queue, VUBLK_RELAY_RING_START);
	queue->kick_changed = vublk_relay_is_handed(queue);
	note_start(relay);
	return 0;
}

int vublk_relay_set_vring_enable(struct vublk_relay *relay, struct vublk_error *error)
{
	struct vublk_relay_queue *queue = vublk_relay_concerned(relay);
	int r = vublk_vu_check_vring_enable(&relay->server.request, error);

	if (r < 0)
		return r;
	queue->enabled = relay->server.request.payload.state.num;
	if (queue->enabled)
		note_start(relay);
	else
		vublk_relay_hold(relay);
	return 0;
}

/* --- stop ------------------------------------------------------------------ */

static bool skips_drain(const struct vublk_relay *relay)
{
	return vublk_vu_skips_drain(relay->server.request.header.request,
				    relay->server.protocol_features);
}

int vublk_relay_withdraw_vring(struct vublk_relay *relay, struct vublk_error *error)
{
	vublk_relay_hold(relay);
	if (skips_drain(relay))
		vublk_relay_withdraw_queue(relay, vublk_relay_concerned(relay));
	else
		vublk_relay_withdraw_drained(relay, vublk_relay_concerned(relay));
	return 0;
}

/*
 * Refuses to return the base during a migration if only the in-flight area says which requests were
 * begun, because at the destination the VM would resume without the area.
 */
static int check_move(struct vublk_relay *relay, struct vublk_error *error)
{
	const struct vublk_relay_queue *queue = vublk_relay_concerned(relay);
	unsigned count = queue->outstanding ? queue->outstanding : queue->undrained;

	if (!count || !relay->is_logging || skips_drain(relay))
		return 0;
	return vublk_error_set(error, EIO, "cannot stop queue %u for a migration: %s with %u "
			       "request%s outstanding, and the VMM does not migrate the in-flight "
			       "area; try again when no request is outstanding", queue->index,
			       queue->outstanding ? "the connection to the back-end was lost" :
						    "the back-end stopped",
			       count, count == 1 ? "" : "s");
}

/*
 * Refuses to return the base if the area has requests that a stop left and that no back-end has
 * completed since.
 */
static int check_drained(struct vublk_relay *relay, struct vublk_error *error)
{
	const struct vublk_relay_queue *queue = vublk_relay_concerned(relay);

	if (!vublk_relay_has_left(relay, queue) || skips_drain(relay))
		return 0;
	return vublk_error_set(error, EIO, "cannot stop queue %u: %u of its requests wait%s in "
			       "the in-flight area for a back-end; try again when a back-end is "
			       "connected", queue->index, queue->undrained,
			       queue->undrained == 1 ? "s" : "");
}

int vublk_relay_get_vring_base(struct vublk_relay *relay, struct vublk_error *error)
{
	struct vublk_relay_queue *queue = vublk_relay_concerned(relay);
	int r = check_move(relay, error);

	if (!r)
		r = check_drained(relay, error);
	if (r < 0)
		return r;
	if (queue->outstanding)
		vublk_log_limited(&relay->bus->log, &relay->bus->limit, VUBLK_LOG_WARNING,
				  "queue %u was stopped while no back-end was connected, with %u "
				  "request%s outstanding%s", queue->index, queue->outstanding,
				  queue->outstanding == 1 ? "" : "s", relay->area_is_vmms ?
				  " (recorded in the VMM's in-flight area)" :
				  "; the driver has to reset the device");
	relay->server.reply.payload.state.index = queue->index;
	relay->server.reply.payload.state.num = queue->base;
	relay->server.reply.header.size = sizeof(relay->server.reply.payload.state);
	return 0;
}
