/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes and reads the state of a bus in an upgrade: the sections of the bus itself, and the list
 * of all sections. The sections of the device are in device/upgrade/, and those of a VMM's session
 * in relay/upgrade.c.
 *
 * Key idea: the order of the sections is bus, device, client, because each part needs the ones
 * before it.
 */
#include "bus/upgrade/upgrade.h"

#include "bus/relay/relay.h"
#include "device/upgrade/upgrade.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>

/* --- the bus ------------------------------------------------------------------------------- */

static void give_backend(const struct vublk_device_info *info, struct vublk_sections_writer *to)
{
	vublk_section_begin(to, "bus-back-end", 1, false);
	vublk_section_put(to, info->backend_features);
	vublk_section_put(to, info->backend_protocol_features);
	vublk_section_put(to, info->protocol_features);
	vublk_section_put(to, info->backend_max_queues);
	vublk_section_put(to, info->backend_memory_slots);
	vublk_section_put(to, info->backend_config_bytes);
	vublk_section_put(to, info->bus_protocol_features);
	vublk_section_put(to, info->features);
	vublk_section_put(to, info->hidden_features);
	vublk_section_put_bytes(to, info->backend_config, sizeof(info->backend_config));
	vublk_section_put_text(to, info->chardev);
}

static void give_bus(const struct vublk_bus *bus, struct vublk_sections_writer *to)
{
	vublk_section_begin(to, "bus", 1, false);
	vublk_section_put(to, bus->state);
	vublk_section_put_fd(to, bus->listen_fd);
	vublk_section_put(to, bus->socket_file);
	vublk_section_put(to, (uint64_t)bus->client_pid);
	vublk_section_put(to, bus->lost_ns);
	vublk_section_put(to, bus->outages);
	vublk_section_put(to, bus->is_expected_loss);
	vublk_section_put(to, bus->runs);
	vublk_section_put(to, bus->is_refused);
	vublk_section_put_error(to, &bus->refusal);
	vublk_section_put(to, bus->ended_outages_ns);
	vublk_section_put(to, bus->reconnects);
	give_backend(&bus->backend, to);
}

void vublk_bus_give(const void *object, struct vublk_sections_writer *to)
{
	const struct vublk_bus *bus = object;

	give_bus(bus, to);
	vublk_device_give(bus->device, to);
	bus->type->handover->give(bus, to);
}

static int read_bus(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_bus *bus = owner;
	uint64_t state = vublk_section_get(from);
	int fd = vublk_section_get_fd(from);

	if (fd < 0)
		return vublk_error_set(error, EINVAL, "the old process sent no listening socket");
	if (bus->listen_fd >= 0) {
		vublk_fd_close(&fd);
		return vublk_error_set(error, EINVAL, "the old process sent two listening sockets");
	}
	if (state != VUBLK_BUS_LISTENING && state != VUBLK_BUS_SERVING) {
		vublk_fd_close(&fd);
		return vublk_error_set(error, EINVAL, "the old process sent the state %u of its bus; "
				       "expected %u (listening) or %u (serving)", (unsigned)state,
				       VUBLK_BUS_LISTENING, VUBLK_BUS_SERVING);
	}
	bus->listen_fd = fd;
	bus->socket_file = (ino_t)vublk_section_get(from);
	bus->client_pid = (int64_t)vublk_section_get(from);
	bus->lost_ns = vublk_section_get(from);
	bus->outages = vublk_section_get(from);
	bus->is_expected_loss = vublk_section_get(from);
	bus->runs = vublk_section_get(from);
	bus->is_refused = vublk_section_get(from);
	vublk_section_get_error(from, &bus->refusal);
	bus->ended_outages_ns = vublk_section_get(from);
	bus->reconnects = vublk_section_get(from);
	return vublk_bus_adopt(bus, (enum vublk_bus_state)state, error);
}

static int read_backend(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_device_info *info = &((struct vublk_bus *)owner)->backend;

	info->backend_features = vublk_section_get(from);
	info->backend_protocol_features = vublk_section_get(from);
	info->protocol_features = vublk_section_get(from);
	info->backend_max_queues = (uint32_t)vublk_section_get(from);
	info->backend_memory_slots = (uint32_t)vublk_section_get(from);
	info->backend_config_bytes = (uint32_t)vublk_section_get(from);
	info->bus_protocol_features = (uint32_t)vublk_section_get(from);
	info->features = vublk_section_get(from);
	info->hidden_features = vublk_section_get(from);
	vublk_section_get_bytes(from, info->backend_config, sizeof(info->backend_config));
	vublk_section_get_text(from, info->chardev, sizeof(info->chardev));
	return 0;
}

static const struct vublk_section_type bus_sections[] = {
	{ "bus", false, read_bus },
	{ "bus-back-end", false, read_backend },
	{ NULL },
};

size_t vublk_bus_upgrade_tables(void *object,
				struct vublk_section_table tables[VUBLK_UPGRADE_MAX_TABLES])
{
	struct vublk_bus *bus = object;

	tables[0] = (struct vublk_section_table){ bus_sections, bus };
	tables[1] = (struct vublk_section_table){ vublk_device_sections, bus->device };
	tables[2] = (struct vublk_section_table){ bus->type->handover->sections, bus };
	return 3;
}

/* Of the bus types, only the relay can be handed over. */
const struct vublk_section_type *const vublk_bus_known_sections[] = {
	bus_sections, vublk_device_sections, vublk_relay_sections, NULL,
};
