/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The names of types and statuses in a trace; see trace-names.h. */
#include "cli/control/trace-names.h"

#include "cli/cli.h"

#include <linux/virtio_blk.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

struct name {
	uint32_t number;
	const char *name;
};

static const struct name types[] = {
	{ VIRTIO_BLK_T_IN, "read" },
	{ VIRTIO_BLK_T_OUT, "write" },
	{ VIRTIO_BLK_T_FLUSH, "flush" },
	{ VIRTIO_BLK_T_GET_ID, "get_id" },
	{ VIRTIO_BLK_T_DISCARD, "discard" },
	{ VIRTIO_BLK_T_WRITE_ZEROES, "write_zeroes" },
	{ VIRTIO_BLK_T_SECURE_ERASE, "secure_erase" },
};

static const struct name statuses[] = {
	{ VIRTIO_BLK_S_OK, "ok" },
	{ VIRTIO_BLK_S_IOERR, "ioerr" },
	{ VIRTIO_BLK_S_UNSUPP, "unsupp" },
};

static const char *name_of(const struct name *names, size_t count, uint32_t number)
{
	for (size_t i = 0; i < count; i++)
		if (names[i].number == number)
			return names[i].name;
	return NULL;
}

static uint32_t number_of(const struct name *names, size_t count, const char *name)
{
	for (size_t i = 0; name && i < count; i++)
		if (!strcmp(names[i].name, name))
			return names[i].number;
	return name ? (uint32_t)strtoul(name, NULL, 10) : 0;
}

const char *vublk_trace_type_name(uint32_t type)
{
	return name_of(types, VUBLK_CLI_ARRAY_SIZE(types), type);
}

const char *vublk_trace_status_name(uint8_t status)
{
	return name_of(statuses, VUBLK_CLI_ARRAY_SIZE(statuses), status);
}

uint32_t vublk_trace_type_number(const char *name)
{
	return number_of(types, VUBLK_CLI_ARRAY_SIZE(types), name);
}

uint8_t vublk_trace_status_number(const char *name)
{
	return (uint8_t)number_of(statuses, VUBLK_CLI_ARRAY_SIZE(statuses), name);
}
