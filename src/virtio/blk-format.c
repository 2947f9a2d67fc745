/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Names the feature bits of a virtio-blk device (virtio 1.3, sections 5.2.3 and 6), and lists and
 * parses sets of features.
 */
#include "virtio/blk-format.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/option.h"

#include <vublk/device.h>

#include <ctype.h>
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* Bits of GET_FEATURES that belong to vhost-user and not to virtio. Drivers never see them. */
#define VHOST_F_LOG_ALL_BIT 26
#define VHOST_USER_F_PROTOCOL_FEATURES_BIT 30

static const char *const names[] = {
	[VIRTIO_BLK_F_BARRIER] = "VIRTIO_BLK_F_BARRIER",
	[VIRTIO_BLK_F_SIZE_MAX] = "VIRTIO_BLK_F_SIZE_MAX",
	[VIRTIO_BLK_F_SEG_MAX] = "VIRTIO_BLK_F_SEG_MAX",
	[VIRTIO_BLK_F_GEOMETRY] = "VIRTIO_BLK_F_GEOMETRY",
	[VIRTIO_BLK_F_RO] = "VIRTIO_BLK_F_RO",
	[VIRTIO_BLK_F_BLK_SIZE] = "VIRTIO_BLK_F_BLK_SIZE",
	[VIRTIO_BLK_F_SCSI] = "VIRTIO_BLK_F_SCSI",
	[VIRTIO_BLK_F_FLUSH] = "VIRTIO_BLK_F_FLUSH",
	[VIRTIO_BLK_F_TOPOLOGY] = "VIRTIO_BLK_F_TOPOLOGY",
	[VIRTIO_BLK_F_CONFIG_WCE] = "VIRTIO_BLK_F_CONFIG_WCE",
	[VIRTIO_BLK_F_MQ] = "VIRTIO_BLK_F_MQ",
	[VIRTIO_BLK_F_DISCARD] = "VIRTIO_BLK_F_DISCARD",
	[VIRTIO_BLK_F_WRITE_ZEROES] = "VIRTIO_BLK_F_WRITE_ZEROES",
	[VUBLK_BLK_F_LIFETIME] = "VIRTIO_BLK_F_LIFETIME",
	[VUBLK_BLK_F_SECURE_ERASE] = "VIRTIO_BLK_F_SECURE_ERASE",
	[VUBLK_BLK_F_ZONED] = "VIRTIO_BLK_F_ZONED",
	[VIRTIO_F_NOTIFY_ON_EMPTY] = "VIRTIO_F_NOTIFY_ON_EMPTY",
	[VHOST_F_LOG_ALL_BIT] = "VHOST_F_LOG_ALL",
	[VIRTIO_F_ANY_LAYOUT] = "VIRTIO_F_ANY_LAYOUT",
	[VIRTIO_RING_F_INDIRECT_DESC] = "VIRTIO_RING_F_INDIRECT_DESC",
	[VIRTIO_RING_F_EVENT_IDX] = "VIRTIO_RING_F_EVENT_IDX",
	[VHOST_USER_F_PROTOCOL_FEATURES_BIT] = "VHOST_USER_F_PROTOCOL_FEATURES",
	[VIRTIO_F_VERSION_1] = "VIRTIO_F_VERSION_1",
	[VIRTIO_F_ACCESS_PLATFORM] = "VIRTIO_F_ACCESS_PLATFORM",
	[VIRTIO_F_RING_PACKED] = "VIRTIO_F_RING_PACKED",
	[VUBLK_VIRTIO_F_IN_ORDER] = "VIRTIO_F_IN_ORDER",
	[VIRTIO_F_ORDER_PLATFORM] = "VIRTIO_F_ORDER_PLATFORM",
	[VIRTIO_F_SR_IOV] = "VIRTIO_F_SR_IOV",
	[VUBLK_VIRTIO_F_NOTIFICATION_DATA] = "VIRTIO_F_NOTIFICATION_DATA",
	[VUBLK_VIRTIO_F_RING_RESET] = "VIRTIO_F_RING_RESET",
};

const char *vublk_feature_name(unsigned bit)
{
	return bit < VUBLK_ARRAY_SIZE(names) ? names[bit] : NULL;
}

void vublk_features_list(uint64_t features, char text[VUBLK_FEATURE_LIST_BYTES])
{
	size_t at = 0;

	text[0] = '\0';
	for (unsigned bit = 0; bit < 64 && at < VUBLK_FEATURE_LIST_BYTES; bit++)
		if (features & VUBLK_BIT(bit))
			at += (size_t)snprintf(text + at, VUBLK_FEATURE_LIST_BYTES - at,
					       "%s%s (bit %u)", at ? ", " : "",
					       vublk_feature_name(bit) ? vublk_feature_name(bit) :
									 "no name", bit);
}

/* --- parsing ---------------------------------------------------------------------------- */

static const char *without_prefix(const char *name)
{
	static const char *const prefixes[] = { "VIRTIO_BLK_F_", "VIRTIO_RING_F_", "VIRTIO_F_" };

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(prefixes); i++)
		if (!strncasecmp(name, prefixes[i], strlen(prefixes[i])))
			return name + strlen(prefixes[i]);
	return name;
}

static bool is_called(unsigned bit, const char *text, size_t length)
{
	const char *name = vublk_feature_name(bit);

	if (!name)
		return false;
	if (strlen(name) == length && !strncasecmp(name, text, length))
		return true;
	name = without_prefix(name);
	return strlen(name) == length && !strncasecmp(name, text, length);
}

static int parse_name(const char *name, const char *text, size_t length, uint64_t *features,
		      struct vublk_error *error)
{
	for (unsigned bit = 0; bit < 64; bit++)
		if (is_called(bit, text, length)) {
			*features |= VUBLK_BIT(bit);
			return 0;
		}
	return vublk_error_set(error, EINVAL,
			       "%s must be a mask such as 0x2000 or names of features such as "
			       "discard+topology; there is no feature '%.*s'; 'vublk info SOCKET' shows the "
			       "names", name,
			       (int)VUBLK_MIN(length, (size_t)40), text);
}

int vublk_features_parse(const char *name, const char *text, uint64_t *features,
			 struct vublk_error *error)
{
	const char *at = text ? text : "";
	uint64_t found = 0;
	int r = 0;

	if (isdigit((unsigned char)*at))
		return vublk_parse_u64(name, at, 0, UINT64_MAX, features, error);
	while (*at && !r) {
		size_t length = strcspn(at, "+");

		r = parse_name(name, at, length, &found, error);
		at += length;
		at += *at == '+' && at[1]; /* a final '+' is not skipped: the next name is empty and
					      is refused */
	}
	if (!r)
		*features = found;
	return r;
}
