/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* This file answers requests in place of the back-end; see policy.h. */
#include "plane/plane.h"

#include "util/checked.h"
#include "util/log.h"

#include <string.h>

/* Each of these features permits a driver to send requests of one type. */
#define FEATURES_OF_REQUESTS \
	(VUBLK_BIT(VIRTIO_BLK_F_DISCARD) | VUBLK_BIT(VIRTIO_BLK_F_WRITE_ZEROES) | \
	 VUBLK_BIT(VUBLK_BLK_F_SECURE_ERASE))

void vublk_plane_set_policy(struct vublk_plane *plane, const struct vublk_plane_policy *policy)
{
	plane->policy = *policy;
	plane->policy.hidden_features &= FEATURES_OF_REQUESTS;
	if (policy->is_read_only || plane->policy.hidden_features || policy->serial[0])
		plane->hooks |= VUBLK_PLANE_HOOK_POLICY;
	else
		plane->hooks &= ~VUBLK_PLANE_HOOK_POLICY;
}

/* Returns the feature that a request of this type needs, or 0 if it needs none. */
static uint64_t feature_of(uint32_t type)
{
	switch (type) {
	case VIRTIO_BLK_T_DISCARD:
		return VUBLK_BIT(VIRTIO_BLK_F_DISCARD);
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return VUBLK_BIT(VIRTIO_BLK_F_WRITE_ZEROES);
	case VIRTIO_BLK_T_SECURE_ERASE:
		return VUBLK_BIT(VUBLK_BLK_F_SECURE_ERASE);
	default:
		return 0;
	}
}

uint8_t vublk_plane_apply_policy(struct vublk_plane *plane, struct vublk_plane_slot *slot,
				 uint8_t status)
{
	const struct vublk_plane_policy *policy = &plane->policy;
	char id[VUBLK_BLK_ID_BYTES] = { 0 };

	if (policy->hidden_features & feature_of(slot->type))
		return VIRTIO_BLK_S_UNSUPP;
	if (policy->is_read_only && slot->is_write)
		return VIRTIO_BLK_S_IOERR;
	if (slot->type != VIRTIO_BLK_T_GET_ID || !policy->serial[0] ||
	    status != VUBLK_PLANE_NO_STATUS)
		return status;
	memcpy(id, policy->serial, strnlen(policy->serial, sizeof(id)));
	vublk_plane_write_id(plane, slot, id);
	for (unsigned i = 0; plane->dirty_log && i < slot->num_segments; i++)
		vublk_dirty_log_mark(plane->dirty_log, slot->segments[i].addr,
				     slot->segments[i].bytes);
	return VIRTIO_BLK_S_OK;
}

/* --- the device's own flushes that failed ----------------------------------------------------- */

void vublk_plane_fail_next_flush(struct vublk_plane *plane)
{
	plane->hooks |= VUBLK_PLANE_HOOK_FAIL_FLUSH;
}

uint8_t vublk_plane_fail_flush(struct vublk_plane *plane)
{
	plane->hooks &= ~VUBLK_PLANE_HOOK_FAIL_FLUSH;
	vublk_log_limited(plane->log, plane->limit, VUBLK_LOG_WARNING,
			  "a flush of the driver fails, because the back-end failed an earlier flush that "
			  "the device sent, and may have dropped completed writes");
	if (plane->ops->flush_failed)
		plane->ops->flush_failed(plane->opaque);
	return VIRTIO_BLK_S_IOERR;
}

unsigned vublk_plane_fail_held_flushes(struct vublk_plane *plane)
{
	struct vublk_plane_slot *next;
	unsigned n = 0;

	for (struct vublk_plane_slot *slot = plane->first; slot; slot = next) {
		next = slot->next;
		if (slot->type != VIRTIO_BLK_T_FLUSH || slot->state == VUBLK_PLANE_SLOT_SUBMITTED)
			continue;
		if (plane->hooks & VUBLK_PLANE_HOOK_FAIL_FLUSH)
			vublk_plane_fail_flush(plane);
		vublk_plane_end(plane, slot, VIRTIO_BLK_S_IOERR);
		n++;
	}
	return n;
}

/* --- GET_ID ------------------------------------------------------------------------------ */

void vublk_plane_write_id(struct vublk_plane *plane, const struct vublk_plane_slot *slot,
			  const char id[VUBLK_BLK_ID_BYTES])
{
	size_t at = 0;

	for (unsigned i = 0; i < slot->num_segments && at < VUBLK_BLK_ID_BYTES; i++) {
		size_t n = VUBLK_MIN((size_t)slot->segments[i].bytes, VUBLK_BLK_ID_BYTES - at);
		void *to = vublk_memory_map_guest(plane->map, slot->segments[i].addr, n);

		if (to)
			memcpy(to, id + at, n);
		at += n;
	}
}
