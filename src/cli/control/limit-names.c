/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The names of the limits in JSON; see limit-names.h. */
#include "cli/control/limit-names.h"

#include "cli/control/json.h"

#include <stddef.h>

const char *const vublk_limit_names[VUBLK_LIMIT_NUM_NAMES] = {
	VUBLK_LIMIT_NAMES,
};

static const size_t offsets[VUBLK_LIMIT_NUM_NAMES] = {
	offsetof(struct vublk_limits, iops), offsetof(struct vublk_limits, iops_read),
	offsetof(struct vublk_limits, iops_write), offsetof(struct vublk_limits, bps),
	offsetof(struct vublk_limits, bps_read), offsetof(struct vublk_limits, bps_write),
	offsetof(struct vublk_limits, burst_ms),
};

uint64_t *vublk_limit_member(struct vublk_limits *limits, size_t i)
{
	return (uint64_t *)((char *)limits + offsets[i]);
}

void vublk_limits_json(struct json_object *object, const struct vublk_limits *limits)
{
	struct vublk_limits own = *limits;

	for (size_t i = 0; i < VUBLK_LIMIT_NUM_NAMES; i++)
		vublk_json_add_u64(object, vublk_limit_names[i], *vublk_limit_member(&own, i));
}
