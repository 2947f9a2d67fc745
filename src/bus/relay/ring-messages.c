/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The messages about one ring: SET_VRING_..., GET_VRING_BASE. They change what the VMM wants of
 * the ring (rings.c); the device is told later.
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

static int refuse_running(const struct vublk_relay *relay, const char *name,
			  struct vublk_error *error)
{
	if (!vublk_relay_is_handed(relay->concerned) || relay->changes & VUBLK_RELAY_RESET)
		return 0;
	return vublk_error_set(error, EBUSY, "%s for queue %u, which runs; GET_VRING_BASE stops "
			       "it", name, relay->concerned->index);
}

int vublk_relay_set_vring_num(struct vublk_relay *relay, struct vublk_error *error)
{
	struct vublk_relay_queue *queue = relay->concerned;
	unsigned max = vublk_device_queue_size(relay->device);
	uint32_t size = relay->request.payload.state.num;
	int r = refuse_running(relay, "SET_VRING_NUM", error);

	if (r < 0)
		return r;
	if (!vublk_is_power_of_two(size) || size < VUBLK_MIN_QUEUE_SIZE || size > max)
		return vublk_error_set(error, EPROTO, "SET_VRING_NUM gives queue %u %u entries; "
				       "expected a power of two from %u to %u", queue->index, size,
				       VUBLK_MIN_QUEUE_SIZE, max);
	queue->size = size;
	return 0;
}

static bool is_same_place(const struct vhost_vring_addr *a, const struct vhost_vring_addr *b)
{
	return a->desc_user_addr == b->desc_user_addr &&
	       a->avail_user_addr == b->avail_user_addr && a->used_user_addr == b->used_user_addr;
}

int vublk_relay_set_vring_addr(struct vublk_relay *relay, struct vublk_error *error)
{
	const struct vhost_vring_addr *addr = &relay->request.payload.addr;
	struct vublk_relay_queue *queue = relay->concerned;

	/* With the log on, the device has the used rings logged in any case. */
	if (addr->flags & ~(1u << VHOST_VRING_F_LOG))
		return vublk_error_set(error, EPROTO, "SET_VRING_ADDR of queue %u has the unknown "
				       "flags 0x%x", queue->index, addr->flags);
	if (!is_same_place(addr, &queue->addr))
		vublk_relay_begin_anew(relay, queue);
	queue->addr = *addr;
	queue->has_addr = true;
	return 0;
}

int vublk_relay_set_vring_base(struct vublk_relay *relay, struct vublk_error *error)
{
	struct vublk_relay_queue *queue = relay->concerned;
	uint32_t base = relay->request.payload.state.num;
	int r = refuse_running(relay, "SET_VRING_BASE", error);

	if (r < 0)
		return r;
	if (base > UINT16_MAX)
		return vublk_error_set(error, EPROTO, "SET_VRING_BASE of queue %u is %u; a split "
				       "ring's index has 16 bits", queue->index, base);
	if (base != queue->base)
		vublk_relay_begin_anew(relay, queue);
	queue->base = (uint16_t)base;
	return 0;
}

int vublk_relay_set_vring_call(struct vublk_relay *relay, struct vublk_error *error)
{
	struct vublk_relay_queue *queue = relay->concerned;
	int r = vublk_vu_take_vring_fd(&relay->request, &queue->call_fd, error);

	if (!r)
		queue->call_changed = vublk_relay_is_handed(queue);
	return r;
}

int vublk_relay_set_vring_err(struct vublk_relay *relay, struct vublk_error *error)
{
	return vublk_vu_take_vring_fd(&relay->request, &relay->concerned->err_fd, error);
}

/* --- start ----------------------------------------------------------------- */

/* With STATUS rings are started together, when the driver is ready. */
static void note_start(struct vublk_relay *relay)
{
	bool waits = relay->protocol_features & VUBLK_BIT(VUBLK_VU_F_STATUS) &&
		     !(relay->status & VIRTIO_CONFIG_S_DRIVER_OK);

	if (waits)
		vublk_relay_hold(relay);
	else
		vublk_relay_release(relay);
}

int vublk_relay_set_vring_kick(struct vublk_relay *relay, struct vublk_error *error)
{
	struct vublk_relay_queue *queue = relay->concerned;
	int r = vublk_vu_take_vring_fd(&relay->request, &queue->kick_fd, error);

	if (r < 0)
		return r;
	vublk_relay_change_ring(relay, queue, VUBLK_RELAY_RING_START);
	queue->kick_changed = vublk_relay_is_handed(queue);
	note_start(relay);
	return 0;
}

int vublk_relay_set_vring_enable(struct vublk_relay *relay, struct vublk_error *error)
{
	struct vublk_relay_queue *queue = relay->concerned;
	uint32_t enable = relay->request.payload.state.num;

	if (enable > 1)
		return vublk_error_set(error, EPROTO, "SET_VRING_ENABLE of queue %u is %u; "
				       "expected 0 or 1", queue->index, enable);
	queue->enabled = enable;
	if (enable)
		note_start(relay);
	else
		vublk_relay_hold(relay);
	return 0;
}

/* --- stop ------------------------------------------------------------------ */

static bool skips_drain(const struct vublk_relay *relay)
{
	return vublk_vu_skips_drain(relay->request.header.request, relay->protocol_features);
}

int vublk_relay_withdraw_vring(struct vublk_relay *relay, struct vublk_error *error)
{
	vublk_relay_hold(relay);
	if (skips_drain(relay))
		vublk_relay_withdraw_queue(relay, relay->concerned);
	else
		vublk_relay_withdraw_drained(relay, relay->concerned);
	return 0;
}

/*
 * After a migration the VM would resume from the used index, without the in-flight area, which
 * has the requests that were begun after it. It is better that the migration fails.
 */
static int check_move(const struct vublk_relay *relay, struct vublk_error *error)
{
	const struct vublk_relay_queue *queue = relay->concerned;
	unsigned count = queue->outstanding ? queue->outstanding : queue->undrained;

	if (!count || !relay->is_logging || skips_drain(relay))
		return 0;
	return vublk_error_set(error, EIO, "queue %u cannot be stopped for a migration: its "
			       "back-end %s %u requests outstanding, and the VMM does not take "
			       "the in-flight area along; wait until they are completed",
			       queue->index, queue->outstanding ? "was lost with" : "stopped with",
			       count);
}

/* Requests that a lost back-end left in the area, and that no other back-end can execute now. */
static int check_drained(const struct vublk_relay *relay, struct vublk_error *error)
{
	const struct vublk_relay_queue *queue = relay->concerned;

	if (!vublk_relay_has_left(relay, queue) || skips_drain(relay))
		return 0;
	return vublk_error_set(error, EIO, "queue %u cannot be stopped with its requests complete: "
			       "%u of them are in the in-flight area, and no back-end executed "
			       "them; wait until there is a back-end", queue->index, queue->undrained);
}

int vublk_relay_get_vring_base(struct vublk_relay *relay, struct vublk_error *error)
{
	struct vublk_relay_queue *queue = relay->concerned;
	int r = check_move(relay, error);

	if (!r)
		r = check_drained(relay, error);
	if (r < 0)
		return r;
	if (queue->outstanding)
		vublk_log_limited(&relay->bus->log, &relay->bus->limit, VUBLK_LOG_WARNING,
				  "queue %u is stopped without a back-end: %u requests are "
				  "outstanding, which %s", queue->index, queue->outstanding,
				  relay->area_is_vmms ? "the VMM's in-flight area has" :
				  "the driver has to give up by a reset");
	relay->reply.payload.state.index = queue->index;
	relay->reply.payload.state.num = queue->base;
	relay->reply.header.size = sizeof(relay->reply.payload.state);
	return 0;
}
