/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The commands of a client: one function and one row in the table per command. client.c receives
 * commands and sends answers, dma.c handles the memory, and irqs.c the interrupts.
 *
 * Key idea: the codec checks that a command has a valid size. The functions here check the values
 * in it, and then call the PCI model.
 *
 * Specification: the section named after each command.
 */
#include "bus/vfio-user/private.h"

#include "util/error.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* The regions have the numbers of <linux/vfio.h>. Most of them are empty here. */
#define NUM_REGIONS VFIO_PCI_NUM_REGIONS
#define CONFIG_REGION_BYTES 4096 /* a conventional PCI device uses 256 of them; the others read as
				    0 */

/* --- information ------------------------------------------------------------------------------ */

static uint32_t region_bytes(const struct vublk_vfio_user *bus, uint32_t index)
{
	if (index == VFIO_PCI_CONFIG_REGION_INDEX)
		return CONFIG_REGION_BYTES;
	return index <= VFIO_PCI_BAR5_REGION_INDEX ? vublk_virtio_pci_bar_bytes(bus->pci, index) : 0;
}

static int check_argsz(const char *name, uint32_t argsz, size_t needed, struct vublk_error *error)
{
	if (argsz >= needed)
		return 0;
	return vublk_error_set(error, EINVAL,
			       "%s has room for an answer of %u bytes; expected at least %zu",
			       name, argsz, needed);
}

static int get_info(struct vublk_vfio_user *bus, struct vublk_error *error)
{
	struct vublk_vfio_device_info *info = &bus->reply.device_info;
	int r = check_argsz("DEVICE_GET_INFO", bus->command->payload.device_info.argsz,
			    sizeof(*info), error);

	if (r < 0)
		return r;
	*info = (struct vublk_vfio_device_info){
		.argsz = sizeof(*info),
		.flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET,
		.num_regions = NUM_REGIONS,
		.num_irqs = VFIO_PCI_NUM_IRQS,
	};
	return sizeof(*info);
}

static int get_region_info(struct vublk_vfio_user *bus, struct vublk_error *error)
{
	const struct vfio_region_info *asked = &bus->command->payload.region_info;
	struct vfio_region_info *info = &bus->reply.region_info;
	int r = check_argsz("DEVICE_GET_REGION_INFO", asked->argsz, sizeof(*info), error);

	if (r < 0)
		return r;
	if (asked->index >= NUM_REGIONS)
		return vublk_error_set(error, EINVAL, "there is no region %u; the device has %u regions",
				       asked->index, NUM_REGIONS);
	*info = (struct vfio_region_info){
		.argsz = sizeof(*info),
		.index = asked->index,
		.size = region_bytes(bus, asked->index),
	};
	if (info->size)
		info->flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
	return sizeof(*info);
}

static int get_irq_info(struct vublk_vfio_user *bus, struct vublk_error *error)
{
	const struct vfio_irq_info *asked = &bus->command->payload.irq_info;
	struct vfio_irq_info *info = &bus->reply.irq_info;
	int r = check_argsz("DEVICE_GET_IRQ_INFO", asked->argsz, sizeof(*info), error);

	if (r < 0)
		return r;
	if (asked->index >= VFIO_PCI_NUM_IRQS)
		return vublk_error_set(error, EINVAL,
				       "there is no interrupt index %u; the last index is %u",
				       asked->index, VFIO_PCI_NUM_IRQS - 1);
	*info = (struct vfio_irq_info){
		.argsz = sizeof(*info),
		.flags = vublk_vfio_user_irq_flags(asked->index),
		.index = asked->index,
		.count = vublk_vfio_user_num_irqs(bus, asked->index),
	};
	return sizeof(*info);
}

/* --- regions ---------------------------------------------------------------------------------- */

static int check_access(const struct vublk_vfio_user *bus, const char *name, uint32_t region,
			uint64_t offset, uint32_t count, struct vublk_error *error)
{
	uint32_t bytes = region_bytes(bus, region);

	if (!count || count > VUBLK_VFIO_MAX_TRANSFER_BYTES)
		return vublk_error_set(error, EINVAL,
				       "%s of %u bytes at 0x%" PRIx64 " of region %u: expected 1 to %u "
				       "bytes", name, count, offset, region,
				       VUBLK_VFIO_MAX_TRANSFER_BYTES);
	if (vublk_range_within(offset, count, bytes))
		return 0;
	return vublk_error_set(error, EINVAL,
			       "%s of %u bytes at 0x%" PRIx64 " of region %u exceeds the region, which "
			       "has %u bytes", name, count, offset, region, bytes);
}

static void write_region(struct vublk_vfio_user *bus, uint32_t region, uint64_t offset,
			 const void *data, uint32_t count)
{
	if (region == VFIO_PCI_CONFIG_REGION_INDEX)
		vublk_virtio_pci_config_write(bus->pci, offset, data, count);
	else
		vublk_virtio_pci_bar_write(bus->pci, region, offset, data, count);
}

static int read_region(struct vublk_vfio_user *bus, struct vublk_error *error)
{
	const struct vublk_vfio_region_access *asked = &bus->command->payload.access;
	struct vublk_vfio_region_access *access = &bus->reply.access;
	int r = check_access(bus, "REGION_READ", asked->region, asked->offset, asked->count, error);

	if (r < 0)
		return r;
	memcpy(access, asked, VUBLK_VFIO_REGION_ACCESS_BYTES);
	if (access->region == VFIO_PCI_CONFIG_REGION_INDEX)
		vublk_virtio_pci_config_read(bus->pci, access->offset, access->data,
					     access->count);
	else
		vublk_virtio_pci_bar_read(bus->pci, access->region, access->offset, access->data,
					  access->count);
	return VUBLK_VFIO_REGION_ACCESS_BYTES + (int)access->count;
}

static int write_once(struct vublk_vfio_user *bus, struct vublk_error *error)
{
	const struct vublk_vfio_region_access *access = &bus->command->payload.access;
	uint32_t data_bytes = vublk_vfio_payload_bytes(&bus->command->header) -
			      VUBLK_VFIO_REGION_ACCESS_BYTES;
	int r = check_access(bus, "REGION_WRITE", access->region, access->offset, access->count,
			     error);

	if (r < 0)
		return r;
	if (data_bytes != access->count)
		return vublk_error_set(error, EINVAL, "REGION_WRITE announces %u bytes but has %u "
				       "bytes of data",
				       access->count, data_bytes);
	write_region(bus, access->region, access->offset, access->data, access->count);
	memcpy(&bus->reply.access, access, VUBLK_VFIO_REGION_ACCESS_BYTES);
	return VUBLK_VFIO_REGION_ACCESS_BYTES;
}

static int check_writes(const struct vublk_vfio_user *bus, struct vublk_error *error)
{
	const struct vublk_vfio_writes *writes = &bus->command->payload.writes;
	uint32_t bytes = vublk_vfio_payload_bytes(&bus->command->header) - VUBLK_VFIO_WRITES_BYTES;
	int r = 0;

	if (writes->count > VUBLK_VFIO_MAX_WRITES ||
	    bytes != writes->count * sizeof(writes->writes[0]))
		return vublk_error_set(error, EINVAL,
				       "REGION_WRITE_MULTI announces %" PRIu64 " write%s in "
				       "%u bytes; expected at most %zu writes of %zu bytes each",
				       writes->count, writes->count == 1 ? "" : "s", bytes,
				       VUBLK_VFIO_MAX_WRITES, sizeof(writes->writes[0]));
	for (unsigned i = 0; i < writes->count && !r; i++) {
		const struct vublk_vfio_write *write = &writes->writes[i];

		r = check_access(bus, "REGION_WRITE_MULTI", write->region, write->offset,
				 write->count, error);
		if (!r && write->count > sizeof(write->data))
			r = vublk_error_set(error, EINVAL,
					    "REGION_WRITE_MULTI has a write of %u bytes; "
					    "expected at most %zu bytes", write->count,
					    sizeof(write->data));
	}
	return r;
}

/*
 * Executes the writes one by one. If a write makes the model busy, those after it wait until the
 * model is idle.
 */
static int write_many(struct vublk_vfio_user *bus, struct vublk_error *error)
{
	const struct vublk_vfio_writes *writes = &bus->command->payload.writes;
	int r = bus->next_write ? 0 : check_writes(bus, error);

	if (r < 0)
		return r;
	while (bus->next_write < writes->count) {
		const struct vublk_vfio_write *write = &writes->writes[bus->next_write++];

		write_region(bus, write->region, write->offset, write->data, write->count);
		if (vublk_virtio_pci_is_busy(bus->pci))
			break;
	}
	bus->reply.writes.count = writes->count;
	return VUBLK_VFIO_WRITES_BYTES;
}

bool vublk_vfio_user_has_more(const struct vublk_vfio_user *bus)
{
	return bus->command->header.command == VUBLK_VFIO_REGION_WRITE_MULTI && bus->next_write &&
	       bus->next_write < bus->command->payload.writes.count;
}

/* --- other commands --------------------------------------------------------------------------- */

static int reset(struct vublk_vfio_user *bus, struct vublk_error *error)
{
	vublk_virtio_pci_reset(bus->pci);
	return 0;
}

static int negotiate_version(struct vublk_vfio_user *bus, struct vublk_error *error)
{
	int r;

	if (bus->state != VUBLK_VFIO_USER_NEGOTIATING)
		return vublk_error_set(error, EINVAL, "the client sent VERSION a second time");
	r = vublk_vfio_user_negotiate(bus->command, &bus->reply.version, error);
	if (r >= 0)
		vublk_vfio_user_change_state(bus, VUBLK_VFIO_USER_EVENT_VERSION, NULL);
	return r;
}

static int map(struct vublk_vfio_user *bus, struct vublk_error *error)
{
	return vublk_vfio_user_dma_map(bus, bus->command, error);
}

static int unmap(struct vublk_vfio_user *bus, struct vublk_error *error)
{
	return vublk_vfio_user_dma_unmap(bus, bus->command, error);
}

static int set_irqs(struct vublk_vfio_user *bus, struct vublk_error *error)
{
	return vublk_vfio_user_set_irqs(bus, bus->command, error);
}

static int (*const commands[])(struct vublk_vfio_user *bus, struct vublk_error *error) = {
	[VUBLK_VFIO_VERSION] = negotiate_version,
	[VUBLK_VFIO_DMA_MAP] = map,
	[VUBLK_VFIO_DMA_UNMAP] = unmap,
	[VUBLK_VFIO_DEVICE_GET_INFO] = get_info,
	[VUBLK_VFIO_DEVICE_GET_REGION_INFO] = get_region_info,
	[VUBLK_VFIO_DEVICE_GET_IRQ_INFO] = get_irq_info,
	[VUBLK_VFIO_DEVICE_SET_IRQS] = set_irqs,
	[VUBLK_VFIO_REGION_READ] = read_region,
	[VUBLK_VFIO_REGION_WRITE] = write_once,
	[VUBLK_VFIO_DEVICE_RESET] = reset,
	[VUBLK_VFIO_REGION_WRITE_MULTI] = write_many,
};

/* A command without a row in the table does not pass the codec's check. */
int vublk_vfio_user_execute(struct vublk_vfio_user *bus, struct vublk_error *error)
{
	int r = vublk_vfio_check_command(bus->command, error);

	return r < 0 ? r : commands[bus->command->header.command](bus, error);
}
