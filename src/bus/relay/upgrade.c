/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Hands the session of a VMM to another process, and takes such a session over.
 *
 * Key idea: a session can be handed over between two messages, while the rings are not being
 * paused. Messages that the VMM sends during the hand-over wait in the socket. The VMM does not
 * notice the upgrade.
 */
#include "bus/relay/relay.h"

#include "handover/server.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>

/* --- obstacles -------------------------------------------------------------------------------- */

static const char *obstacle(const struct vublk_bus *bus)
{
	const struct vublk_relay *relay = bus->client;

	if (!relay)
		return NULL;
	if (relay->state != VUBLK_RELAY_READING || relay->asked || relay->has_memory_before)
		return "a message from the VMM is being handled";
	if (relay->set == VUBLK_RELAY_SET_PAUSING)
		return "the back-end has not returned the rings";
	if (vublk_upgrade_has_parts(&relay->server))
		return "a message to or from the VMM was only partly transferred";
	return NULL;
}

/* --- giving ----------------------------------------------------------------------------------- */

static void give_session(const struct vublk_relay *relay, struct vublk_sections_writer *to)
{
	vublk_section_begin(to, "relay", 1, false);
	vublk_section_put(to, relay->offered_features);
	vublk_section_put(to, relay->features);
	vublk_section_put(to, relay->has_features);
	vublk_section_put(to, relay->status);
	vublk_section_put(to, relay->device_status);
	vublk_section_put(to, relay->changes);
	vublk_section_put(to, relay->set);
	vublk_section_put(to, relay->is_logging);
	vublk_section_put(to, relay->knows_write_cache);
	vublk_section_put(to, relay->said_unshared);
	vublk_section_put(to, vublk_relay_holds(relay));
	vublk_section_put(to, relay->area_is_vmms);
	vublk_section_put_fd(to, relay->area.fd);
	vublk_section_put(to, relay->area.offset);
	vublk_section_put(to, relay->area.size_bytes);
	vublk_section_put(to, relay->area.num_queues);
	vublk_section_put(to, relay->area.queue_size);
	vublk_section_put_fd(to, relay->log.fd);
	vublk_section_put(to, relay->log.offset);
	vublk_section_put(to, relay->log.size_bytes);
}

static void give_region(const struct vublk_relay_region *region,
			struct vublk_sections_writer *to)
{
	vublk_section_begin(to, "relay-memory", 1, false);
	vublk_section_put_fd(to, region->fd);
	vublk_section_put(to, region->wire.guest_addr);
	vublk_section_put(to, region->wire.size_bytes);
	vublk_section_put(to, region->wire.user_addr);
	vublk_section_put(to, region->wire.mmap_offset);
}

static void give_queue(const struct vublk_relay_queue *queue, struct vublk_sections_writer *to)
{
	vublk_section_begin(to, "relay-queue", 1, false);
	vublk_section_put(to, queue->index);
	vublk_section_put(to, queue->state);
	vublk_section_put(to, queue->size);
	vublk_section_put(to, queue->has_addr);
	vublk_section_put(to, queue->addr.desc_user_addr);
	vublk_section_put(to, queue->addr.avail_user_addr);
	vublk_section_put(to, queue->addr.used_user_addr);
	vublk_section_put(to, queue->addr.flags);
	vublk_section_put(to, queue->addr.log_guest_addr);
	vublk_section_put(to, queue->base);
	vublk_section_put(to, queue->enabled);
	vublk_section_put_fd(to, queue->kick_fd);
	vublk_section_put_fd(to, queue->call_fd);
	vublk_section_put_fd(to, queue->err_fd);
	vublk_section_put_fd(to, queue->handed_kick_fd);
	vublk_section_put_fd(to, queue->handed_call_fd);
	vublk_section_put(to, queue->kick_changed);
	vublk_section_put(to, queue->call_changed);
	vublk_section_put(to, queue->outstanding);
	vublk_section_put(to, queue->undrained);
}

static void give(const struct vublk_bus *bus, struct vublk_sections_writer *to)
{
	const struct vublk_relay *relay = bus->client;

	if (!relay)
		return;
	vublk_section_begin(to, "vmm", 1, false);
	vublk_upgrade_put_server(to, &relay->server);
	give_session(relay, to);
	for (unsigned i = 0; i < relay->memory.num_regions; i++)
		give_region(&relay->memory.regions[i], to);
	for (unsigned i = 0; i < relay->num_queues; i++)
		give_queue(&relay->queues[i], to);
}

/* --- taking ----------------------------------------------------------------------------------- */

/*
 * Reads the server's section, and creates the session. The device's sections must come first,
 * because they have the number of queues.
 */
static int read_server(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_bus *bus = owner;
	int fd = vublk_section_get_fd(from);
	struct vublk_relay *relay;
	int r;

	if (fd < 0 || bus->client || !vublk_device_num_queues(bus->device)) {
		vublk_fd_close(&fd);
		return vublk_error_set(error, EINVAL, "the state of the VMM's connection has no "
				       "socket, comes twice, or precedes the state of the device");
	}
	r = vublk_relay_new(bus, fd, error);
	if (r < 0)
		return r;
	relay = bus->client;
	r = vublk_relay_read_messages(relay, error);
	return r < 0 ? r : vublk_upgrade_get_server(from, &relay->server, error);
}

static int find_relay(struct vublk_bus *bus, struct vublk_relay **relay, struct vublk_error *error)
{
	*relay = bus->client;
	return *relay ? 0 : vublk_error_set(error, EINVAL, "the state has no connection to the "
					    "VMM");
}

static void read_area(struct vublk_relay *relay, struct vublk_section *from)
{
	relay->area_is_vmms = vublk_section_get(from);
	relay->area.fd = vublk_section_get_fd(from);
	relay->area.offset = vublk_section_get(from);
	relay->area.size_bytes = vublk_section_get(from);
	relay->area.num_queues = (uint16_t)vublk_section_get(from);
	relay->area.queue_size = (uint16_t)vublk_section_get(from);
}

static int read_session(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_relay *relay;
	int r = find_relay(owner, &relay, error);

	if (r < 0)
		return r;
	relay->offered_features = vublk_section_get(from);
	relay->features = vublk_section_get(from);
	relay->has_features = vublk_section_get(from);
	relay->status = (uint8_t)vublk_section_get(from);
	relay->device_status = (uint8_t)vublk_section_get(from);
	relay->changes = (unsigned)vublk_section_get(from);
	relay->set = (enum vublk_relay_set_state)vublk_section_get(from);
	relay->is_logging = vublk_section_get(from);
	relay->knows_write_cache = vublk_section_get(from);
	relay->said_unshared = vublk_section_get(from);
	relay->was_holding = vublk_section_get(from);
	read_area(relay, from);
	relay->log.fd = vublk_section_get_fd(from);
	relay->log.offset = vublk_section_get(from);
	relay->log.size_bytes = vublk_section_get(from);
	return relay->set < VUBLK_RELAY_SET_PAUSING ? 0 :
	       vublk_error_set(error, EINVAL, "the relay's state of the rings is %u; expected 0 to %u",
			       relay->set, VUBLK_RELAY_SET_PAUSING - 1);
}

static int read_region(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	VUBLK_FD int fd = vublk_section_get_fd(from);
	struct vublk_vu_region wire = { 0 };
	struct vublk_relay *relay;
	int r = find_relay(owner, &relay, error);

	wire.guest_addr = vublk_section_get(from);
	wire.size_bytes = vublk_section_get(from);
	wire.user_addr = vublk_section_get(from);
	wire.mmap_offset = vublk_section_get(from);
	return r < 0 ? r : vublk_relay_memory_take(relay, &wire, vublk_fd_steal(&fd), error);
}

static void read_addresses(struct vublk_relay_queue *queue, struct vublk_section *from)
{
	queue->has_addr = vublk_section_get(from);
	queue->addr.index = queue->index;
	queue->addr.desc_user_addr = vublk_section_get(from);
	queue->addr.avail_user_addr = vublk_section_get(from);
	queue->addr.used_user_addr = vublk_section_get(from);
	queue->addr.flags = (unsigned)vublk_section_get(from);
	queue->addr.log_guest_addr = vublk_section_get(from);
}

static void read_descriptors(struct vublk_relay_queue *queue, struct vublk_section *from)
{
	queue->kick_fd = vublk_section_get_fd(from);
	queue->call_fd = vublk_section_get_fd(from);
	queue->err_fd = vublk_section_get_fd(from);
	queue->handed_kick_fd = vublk_section_get_fd(from);
	queue->handed_call_fd = vublk_section_get_fd(from);
	queue->kick_changed = vublk_section_get(from);
	queue->call_changed = vublk_section_get(from);
}

static int read_queue(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	uint64_t index = vublk_section_get(from), state = vublk_section_get(from);
	struct vublk_relay_queue *queue;
	struct vublk_relay *relay;
	int r = find_relay(owner, &relay, error);

	if (r < 0)
		return r;
	if (index >= relay->num_queues)
		return vublk_error_set(error, EINVAL, "the state has a queue %u, but the relay's "
				       "last queue is %u", (unsigned)index, relay->num_queues - 1);
	if (state >= VUBLK_RELAY_NUM_RING_STATES)
		return vublk_error_set(error, EINVAL, "the relay's state of queue %u is %u; expected "
				       "0 to %u", (unsigned)index, (unsigned)state,
				       VUBLK_RELAY_NUM_RING_STATES - 1);
	queue = &relay->queues[index];
	queue->state = (enum vublk_relay_ring_state)state;
	queue->size = (uint32_t)vublk_section_get(from);
	read_addresses(queue, from);
	queue->base = (uint16_t)vublk_section_get(from);
	queue->enabled = vublk_section_get(from);
	read_descriptors(queue, from);
	queue->outstanding = (uint16_t)vublk_section_get(from);
	queue->undrained = (uint16_t)vublk_section_get(from);
	return 0;
}

const struct vublk_section_type vublk_relay_sections[] = {
	{ "vmm", false, read_server },
	{ "relay", false, read_session },
	{ "relay-memory", false, read_region },
	{ "relay-queue", false, read_queue },
	{ NULL },
};

/* For each ring that the device has, lends the device the ring's kick and call descriptors. */
static void end(struct vublk_bus *bus)
{
	struct vublk_relay *relay = bus->client;

	for (unsigned i = 0; relay && i < relay->num_queues; i++)
		if (vublk_relay_is_handed(&relay->queues[i]))
			vublk_device_take_notifiers(bus->device, i, relay->queues[i].handed_kick_fd,
						    relay->queues[i].handed_call_fd);
}

static void begin(struct vublk_bus *bus)
{
	struct vublk_relay *relay = bus->client;

	if (!relay)
		return;
	if (relay->was_holding)
		vublk_relay_hold(relay);
	vublk_relay_wake(relay);
}

const struct vublk_bus_handover_ops vublk_relay_handover = {
	.obstacle = obstacle,
	.give = give,
	.sections = vublk_relay_sections,
	.end = end,
	.begin = begin,
};
