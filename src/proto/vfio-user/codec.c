/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The vfio-user codec defines the format of each command, and checks received commands. It does no
 * input or output and does not know what values mean. For example, only the receiver can check
 * whether a region or an interrupt exists.
 *
 * Key idea: a table has one row per command, with the accepted sizes. Some of these sizes exceed
 * those in the specification's text, because clients send larger structures.
 *
 * Specification: "Commands", "Header", and each command's section.
 */
#include "proto/vfio-user/codec.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>

#define HEADER_BYTES sizeof(struct vublk_vfio_header)
#define HEADER_FLAGS \
	(VUBLK_VFIO_TYPE_MASK | VUBLK_VFIO_FLAG_NO_REPLY | VUBLK_VFIO_FLAG_ERROR)

/* Sizes in bytes on the wire. */
#define VERSION VUBLK_VFIO_VERSION_BYTES
#define MAP sizeof(struct vublk_vfio_dma_map)
#define UNMAP sizeof(struct vublk_vfio_dma_unmap)
#define DEVICE_INFO sizeof(struct vublk_vfio_device_info)
#define REGION_INFO sizeof(struct vfio_region_info)
#define IRQ_INFO sizeof(struct vfio_irq_info)
#define IRQ_SET VUBLK_VFIO_IRQ_SET_BYTES
#define ACCESS VUBLK_VFIO_REGION_ACCESS_BYTES
#define WRITES VUBLK_VFIO_WRITES_BYTES
#define ANY VUBLK_VFIO_MAX_PAYLOAD_BYTES
#define FDS VUBLK_VFIO_MAX_FDS

_Static_assert(HEADER_BYTES == 16, "wire size");
_Static_assert(offsetof(struct vublk_vfio_version, text) == VERSION, "wire size");
_Static_assert(MAP == 32, "wire size");
_Static_assert(UNMAP == 24, "wire size");
_Static_assert(DEVICE_INFO == 16, "wire size");
_Static_assert(REGION_INFO == 32, "wire size");
_Static_assert(IRQ_INFO == 16, "wire size");
_Static_assert(IRQ_SET == sizeof(struct vfio_irq_set), "wire size");
_Static_assert(offsetof(struct vublk_vfio_irq_set, data) == IRQ_SET, "wire size");
_Static_assert(offsetof(struct vublk_vfio_region_access, data) == ACCESS, "wire size");
_Static_assert(offsetof(struct vublk_vfio_writes, writes) == WRITES, "wire size");
_Static_assert(sizeof(struct vublk_vfio_write) == 24, "wire size");
_Static_assert(sizeof(union vublk_vfio_payload) == VUBLK_VFIO_MAX_PAYLOAD_BYTES, "wire size");

#define SERVED true
#define NOT_SERVED false
#define ROW(name, min, max, max_fds, served) \
	[VUBLK_VFIO_##name] = { #name, min, max, max_fds, served }

/*
 * Some rows accept more than the specification's text. The INFO commands may have the larger
 * structures of newer kernels. A DMA_UNMAP should have no descriptor, but some clients send one,
 * which the server closes. A DMA_MAP has no descriptor if the memory cannot be mapped.
 */
static const struct vublk_vfio_command_info commands[] = {
	ROW(VERSION, VERSION, ANY, 0, SERVED),
	ROW(DMA_MAP, MAP, MAP, 1, SERVED),
	ROW(DMA_UNMAP, UNMAP, UNMAP, 1, SERVED),
	ROW(DEVICE_GET_INFO, DEVICE_INFO, ANY, 0, SERVED),
	ROW(DEVICE_GET_REGION_INFO, REGION_INFO, ANY, 0, SERVED),
	ROW(DEVICE_GET_REGION_IO_FDS, 0, ANY, 0, NOT_SERVED),
	ROW(DEVICE_GET_IRQ_INFO, IRQ_INFO, ANY, 0, SERVED),
	ROW(DEVICE_SET_IRQS, IRQ_SET, ANY, FDS, SERVED),
	ROW(REGION_READ, ACCESS, ACCESS, 0, SERVED),
	ROW(REGION_WRITE, ACCESS, ANY, 0, SERVED),
	ROW(DMA_READ, 0, ANY, 0, NOT_SERVED),
	ROW(DMA_WRITE, 0, ANY, 0, NOT_SERVED),
	ROW(DEVICE_RESET, 0, 0, 0, SERVED),
	ROW(DIRTY_PAGES, 0, ANY, 0, NOT_SERVED),
	ROW(REGION_WRITE_MULTI, WRITES, ANY, 0, SERVED),
	ROW(DEVICE_FEATURE, 0, ANY, 0, NOT_SERVED),
	ROW(MIG_DATA_READ, 0, ANY, 0, NOT_SERVED),
	ROW(MIG_DATA_WRITE, 0, ANY, 0, NOT_SERVED),
};

_Static_assert(VUBLK_ARRAY_SIZE(commands) == VUBLK_VFIO_COMMAND_END, "one row per command");

const struct vublk_vfio_command_info *vublk_vfio_command_info(uint32_t command)
{
	if (command >= VUBLK_ARRAY_SIZE(commands) || !commands[command].name)
		return NULL;
	return &commands[command];
}

const char *vublk_vfio_command_name(uint32_t command)
{
	const struct vublk_vfio_command_info *info = vublk_vfio_command_info(command);

	return info ? info->name : "unknown command";
}

uint32_t vublk_vfio_payload_bytes(const struct vublk_vfio_header *header)
{
	return header->size - (uint32_t)HEADER_BYTES;
}

/* --- checks ------------------------------------------------------------------------- */

int vublk_vfio_check_header(const struct vublk_vfio_header *header, struct vublk_error *error)
{
	if (header->size >= HEADER_BYTES &&
	    header->size <= HEADER_BYTES + VUBLK_VFIO_MAX_PAYLOAD_BYTES)
		return 0;
	return vublk_error_set(error, EPROTO,
			       "%s (command %u) announces %u bytes; expected %zu to %zu",
			       vublk_vfio_command_name(header->command), header->command,
			       header->size, HEADER_BYTES,
			       HEADER_BYTES + VUBLK_VFIO_MAX_PAYLOAD_BYTES);
}

static int check_flags(const struct vublk_vfio_header *header, struct vublk_error *error)
{
	const char *name = vublk_vfio_command_name(header->command);

	if ((header->flags & VUBLK_VFIO_TYPE_MASK) != VUBLK_VFIO_TYPE_COMMAND)
		return vublk_error_set(error, EPROTO,
				       "%s (command %u) is a message of type %u; expected a "
				       "command (type %u)", name, header->command,
				       header->flags & VUBLK_VFIO_TYPE_MASK, VUBLK_VFIO_TYPE_COMMAND);
	if (header->flags & ~HEADER_FLAGS)
		return vublk_error_set(error, EPROTO,
				       "%s (command %u) has reserved header flags set (0x%x); "
				       "expected 0", name,
				       header->command, header->flags & ~HEADER_FLAGS);
	return 0;
}

static int check_size(const struct vublk_vfio_command_info *info, uint32_t bytes,
		      struct vublk_error *error)
{
	if (bytes >= info->min_payload_bytes && bytes <= info->max_payload_bytes)
		return 0;
	if (info->min_payload_bytes == info->max_payload_bytes)
		return vublk_error_set(error, EINVAL,
				       "%s has a payload of %u bytes; expected %u",
				       info->name, bytes, info->min_payload_bytes);
	return vublk_error_set(error, EINVAL,
			       "%s has a payload of %u bytes; expected %u to %u",
			       info->name, bytes, info->min_payload_bytes,
			       info->max_payload_bytes);
}

int vublk_vfio_check_command(const struct vublk_vfio_message *message,
			     struct vublk_error *error)
{
	const struct vublk_vfio_header *header = &message->header;
	const struct vublk_vfio_command_info *info = vublk_vfio_command_info(header->command);
	int r = check_flags(header, error);

	if (r < 0)
		return r;
	if (!info)
		return vublk_error_set(error, ENOTSUP,
				       "command number %u is not in the protocol",
				       header->command);
	if (!info->served)
		return vublk_error_set(error, ENOTSUP, "%s is not supported", info->name);
	r = check_size(info, vublk_vfio_payload_bytes(header), error);
	if (r < 0)
		return r;
	if (message->num_fds > info->max_fds)
		return vublk_error_set(error, EINVAL,
				       "%s has %u file descriptors; expected at most %u",
				       info->name, message->num_fds, info->max_fds);
	return 0;
}

/* --- answers -------------------------------------------------------------------------- */

bool vublk_vfio_wants_reply(const struct vublk_vfio_header *command)
{
	return !(command->flags & VUBLK_VFIO_FLAG_NO_REPLY);
}

struct vublk_vfio_header vublk_vfio_reply_header(const struct vublk_vfio_header *command,
						 uint32_t payload_bytes)
{
	return (struct vublk_vfio_header){
		.id = command->id,
		.command = command->command,
		.size = (uint32_t)HEADER_BYTES + payload_bytes,
		.flags = VUBLK_VFIO_TYPE_REPLY,
	};
}

struct vublk_vfio_header vublk_vfio_error_header(const struct vublk_vfio_header *command,
						 int code)
{
	struct vublk_vfio_header header = vublk_vfio_reply_header(command, 0);

	header.flags |= VUBLK_VFIO_FLAG_ERROR;
	header.error = (uint32_t)code;
	return header;
}

/* --- descriptors ------------------------------------------------------------------------ */

void vublk_vfio_message_deinit(struct vublk_vfio_message *message)
{
	if (!message)
		return;
	vublk_fd_close_all(message->fds, message->num_fds);
	message->num_fds = 0;
}

int vublk_vfio_message_take_fd(struct vublk_vfio_message *message, unsigned index)
{
	return index < message->num_fds ? vublk_fd_steal(&message->fds[index]) : -1;
}
