/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PROTO_VFIO_USER_CODEC_H
#define VUBLK_PROTO_VFIO_USER_CODEC_H

/*
 * vfio-user on the wire: numbers, names and payloads, as in the specification (QEMU's
 * docs/interop/vfio-user.rst) and, where the specification refers to it, <linux/vfio.h>. All
 * numbers are in native byte order. The codec does no input or output and does not know what values
 * mean.
 */

#include <vublk/error.h>

#include <linux/vfio.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The commands ("Commands"). The client sends them to the server, except where noted. */
enum vublk_vfio_command {
	VUBLK_VFIO_VERSION = 1,
	VUBLK_VFIO_DMA_MAP = 2,
	VUBLK_VFIO_DMA_UNMAP = 3,
	VUBLK_VFIO_DEVICE_GET_INFO = 4,
	VUBLK_VFIO_DEVICE_GET_REGION_INFO = 5,
	VUBLK_VFIO_DEVICE_GET_REGION_IO_FDS = 6,
	VUBLK_VFIO_DEVICE_GET_IRQ_INFO = 7,
	VUBLK_VFIO_DEVICE_SET_IRQS = 8,
	VUBLK_VFIO_REGION_READ = 9,
	VUBLK_VFIO_REGION_WRITE = 10,
	VUBLK_VFIO_DMA_READ = 11,  /* the server sends it to the client */
	VUBLK_VFIO_DMA_WRITE = 12, /* the server sends it to the client */
	VUBLK_VFIO_DEVICE_RESET = 13,
	VUBLK_VFIO_DIRTY_PAGES = 14, /* only in older versions of the specification */
	VUBLK_VFIO_REGION_WRITE_MULTI = 15,
	VUBLK_VFIO_DEVICE_FEATURE = 16,
	VUBLK_VFIO_MIG_DATA_READ = 17,
	VUBLK_VFIO_MIG_DATA_WRITE = 18,
	VUBLK_VFIO_COMMAND_END,
};

/* The supported version. */
#define VUBLK_VFIO_MAJOR 0
#define VUBLK_VFIO_MINOR 0

/* Header flags. */
#define VUBLK_VFIO_TYPE_MASK 0xfu
#define VUBLK_VFIO_TYPE_COMMAND 0x0u
#define VUBLK_VFIO_TYPE_REPLY 0x1u
#define VUBLK_VFIO_FLAG_NO_REPLY 0x10u
#define VUBLK_VFIO_FLAG_ERROR 0x20u

/* DMA_MAP flags. */
#define VUBLK_VFIO_DMA_READABLE 0x1u
#define VUBLK_VFIO_DMA_WRITABLE 0x2u

#define VUBLK_VFIO_MAX_FDS 16            /* enough for clients, which send up to 16 with SET_IRQS */
#define VUBLK_VFIO_MAX_TRANSFER_BYTES 4096 /* the largest part of a region that one message
					      carries */
#define VUBLK_VFIO_MAX_PAYLOAD_BYTES 8192

struct vublk_vfio_header {
	uint16_t id;      /* chosen by the sender; the reply has the same ID */
	uint16_t command;
	uint32_t size;    /* of the whole message, including this header */
	uint32_t flags;
	uint32_t error;   /* an errno value, in a reply with the error flag */
};

#define VUBLK_VFIO_VERSION_BYTES 4 /* without its text */
struct vublk_vfio_version {
	uint16_t major;
	uint16_t minor;
	char text[VUBLK_VFIO_MAX_PAYLOAD_BYTES - VUBLK_VFIO_VERSION_BYTES]; /* JSON, with its NUL */
};

struct vublk_vfio_dma_map {
	uint32_t argsz;
	uint32_t flags;
	uint64_t offset; /* in the file whose descriptor comes with the message */
	uint64_t address;
	uint64_t size;
};

struct vublk_vfio_dma_unmap {
	uint32_t argsz;
	uint32_t flags; /* VFIO_DMA_UNMAP_FLAG_ALL, or 0 */
	uint64_t address;
	uint64_t size;
};

/* The first version of struct vfio_device_info, without the fields that newer kernels have. */
struct vublk_vfio_device_info {
	uint32_t argsz;
	uint32_t flags;
	uint32_t num_regions;
	uint32_t num_irqs;
};

/* struct vfio_irq_set with an array of fixed size. */
#define VUBLK_VFIO_IRQ_SET_BYTES 20 /* without the data */
struct vublk_vfio_irq_set {
	uint32_t argsz;
	uint32_t flags;
	uint32_t index;
	uint32_t start;
	uint32_t count;
	uint8_t data[VUBLK_VFIO_MAX_PAYLOAD_BYTES - VUBLK_VFIO_IRQ_SET_BYTES];
};

#define VUBLK_VFIO_REGION_ACCESS_BYTES 16 /* without the data */
struct vublk_vfio_region_access {
	uint64_t offset;
	uint32_t region;
	uint32_t count;
	uint8_t data[VUBLK_VFIO_MAX_PAYLOAD_BYTES - VUBLK_VFIO_REGION_ACCESS_BYTES];
};

/* One write of a REGION_WRITE_MULTI. */
struct vublk_vfio_write {
	uint64_t offset;
	uint32_t region;
	uint32_t count; /* how many bytes of `data` are valid */
	uint8_t data[8];
};

#define VUBLK_VFIO_WRITES_BYTES 8 /* without the writes */
#define VUBLK_VFIO_MAX_WRITES \
	((VUBLK_VFIO_MAX_PAYLOAD_BYTES - VUBLK_VFIO_WRITES_BYTES) / sizeof(struct vublk_vfio_write))
struct vublk_vfio_writes {
	uint64_t count;
	struct vublk_vfio_write writes[VUBLK_VFIO_MAX_WRITES];
};

union vublk_vfio_payload {
	struct vublk_vfio_version version;
	struct vublk_vfio_dma_map map;
	struct vublk_vfio_dma_unmap unmap;
	struct vublk_vfio_device_info device_info;
	struct vfio_region_info region_info;
	struct vfio_irq_info irq_info;
	struct vublk_vfio_irq_set irq_set;
	struct vublk_vfio_region_access access;
	struct vublk_vfio_writes writes;
	uint8_t bytes[VUBLK_VFIO_MAX_PAYLOAD_BYTES];
};

/*
 * A received message. It owns its descriptors: vublk_vfio_message_take_fd() takes one, and
 * vublk_vfio_message_deinit() closes the others. The payload is valid up to the size in the header.
 */
struct vublk_vfio_message {
	struct vublk_vfio_header header;
	union vublk_vfio_payload payload;
	int fds[VUBLK_VFIO_MAX_FDS];
	unsigned num_fds;
};

/* The format of a command according to the specification; the table has one row per command. */
struct vublk_vfio_command_info {
	const char *name;           /* for example "REGION_WRITE" */
	uint32_t min_payload_bytes; /* of the command */
	uint32_t max_payload_bytes;
	uint8_t max_fds;
	bool served; /* the command is implemented here; otherwise only the name is used */
};

/* Returns the row of a command, or NULL if the number is not in the specification. */
const struct vublk_vfio_command_info *vublk_vfio_command_info(uint32_t command);

/* Returns the name of a command, or "unknown command", as a static string. */
const char *vublk_vfio_command_name(uint32_t command);

/* Returns the number of bytes after the header. The header must have been checked. */
uint32_t vublk_vfio_payload_bytes(const struct vublk_vfio_header *header);

/*
 * Checks the size in a header. EPROTO: the size is invalid, so the position of the next message is
 * unknown.
 */
int vublk_vfio_check_header(const struct vublk_vfio_header *header, struct vublk_error *error);

/*
 * Checks a received message against the specification. EPROTO: it is not a command, or has unknown
 * flags; EINVAL: its size or its number of descriptors is wrong; ENOTSUP: the command is unknown or
 * not implemented.
 */
int vublk_vfio_check_command(const struct vublk_vfio_message *message,
			     struct vublk_error *error);

/* Returns whether the client expects an answer to `command`. */
bool vublk_vfio_wants_reply(const struct vublk_vfio_header *command);

/*
 * The first function returns the header of a reply to `command` with `payload_bytes` bytes of
 * payload. The second returns the header of a reply that refuses `command` with the positive errno
 * value `code`.
 */
struct vublk_vfio_header vublk_vfio_reply_header(const struct vublk_vfio_header *command,
						 uint32_t payload_bytes);
struct vublk_vfio_header vublk_vfio_error_header(const struct vublk_vfio_header *command,
						 int code);

/* Closes the descriptors that were not taken. Idempotent. */
void vublk_vfio_message_deinit(struct vublk_vfio_message *message);

/*
 * Returns the descriptor at `index`, which the caller owns afterwards, or -1 if there is no such
 * descriptor, or it was taken before.
 */
int vublk_vfio_message_take_fd(struct vublk_vfio_message *message, unsigned index);

#endif
