/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The properties of the device: their names, types, defaults and descriptions, and the checks of
 * their values. What a property does is in the file that reads the setting.
 *
 * Key idea: there is one table. Listing, setting, getting and defaults all read this table; there
 * is no second list.
 */
#include "device/device.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/option.h"
#include "virtio/blk-format.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MAX_TIMEOUT_MS 3600000
#define MAX_RETRIES 1000

enum kind { KIND_STRING, KIND_NUMBER, KIND_AUTO, KIND_BOOL, KIND_FEATURES };

#define TYPE_STRING "string"
#define TYPE_NUMBER "number"
#define TYPE_AUTO "auto"
#define TYPE_BOOL "bool"
#define TYPE_FEATURES "string" /* a mask or names */

/* A property as the bus sees it, and where its value is stored. */
struct row {
	struct vublk_property property;
	enum kind kind;
	size_t offset; /* in struct vublk_device_settings */
	size_t bytes;
};

/* X(name, kind, default, field, description) */
#define PROPERTIES(X)                                                                       \
	X("chardev", STRING, NULL, chardev, "path of the back-end's Unix socket")           \
	X("server", BOOL, "off", server,                                                    \
	  "listen at chardev's path: the back-ends connect to the device")                  \
	X("num-queues", AUTO, "auto", num_queues,                                           \
	  "queues of the device; auto: as many as the back-end offers")                     \
	X("num-queues-limit", NUMBER, "16", num_queues_limit,                               \
	  "the most queues that auto takes")                                                \
	X("queue-size", NUMBER, "128", queue_size,                                          \
	  "entries of each queue: a power of two from 2 (4 for the block API) to 1024")                           \
	X("read-only", BOOL, "off", read_only,                                              \
	  "present the disk as read-only although the back-end can write; a guest that "    \
	  "writes all the same reaches the back-end")                                       \
	X("config-wce", BOOL, "on", config_wce,                                             \
	  "offer VIRTIO_BLK_F_CONFIG_WCE: the driver may switch the write cache")           \
	X("discard", BOOL, "on", discard, "offer VIRTIO_BLK_F_DISCARD")                     \
	X("write-zeroes", BOOL, "on", write_zeroes, "offer VIRTIO_BLK_F_WRITE_ZEROES")      \
	X("features-off", FEATURES, NULL, features_off,                                     \
	  "further features that are not offered: a mask (0x2000), or names joined by + "   \
	  "(discard+topology)")                                                             \
	X("serial", STRING, NULL, serial,                                                   \
	  "serial of the disk, up to 20 characters, instead of the back-end's; only for "   \
	  "the block API")                                                                  \
	X("event_idx", BOOL, "on", event_idx,                                               \
	  "offer VIRTIO_RING_F_EVENT_IDX: fewer notifications")                             \
	X("indirect_desc", BOOL, "on", indirect_desc,                                       \
	  "offer VIRTIO_RING_F_INDIRECT_DESC: one ring entry per request")                  \
	X("seg-max-adjust", BOOL, "off", seg_max_adjust,                                    \
	  "lower seg_max to what the queue size has room for")                              \
	X("request-timeout-ms", NUMBER, "5000", request_timeout_ms,                         \
	  "how long the back-end may take to answer a message")                             \
	X("config-poll-ms", NUMBER, "1000", config_poll_ms,                                 \
	  "how often the config is read again while the back-end cannot report changes; 0: never")    \
	X("keepalive-ms", AUTO, "auto", keepalive_ms,                                       \
	  "how often to check that the back-end still answers while the rings run; 0: never; "        \
	  "auto: 5000 with reconnect-ms or server, otherwise 0")                              \
	X("reconnect-ms", NUMBER, "0", reconnect_ms,                                        \
	  "longest pause between tries to reach a lost back-end, which is also tried when "  \
	  "its socket appears; 0: the device does not reconnect")                           \
	X("reconnect-deadline-ms", NUMBER, "0", reconnect_deadline_ms,                      \
	  "how long the device tries to reach a lost back-end; 0: without limit")            \
	X("inflight", BOOL, "on", inflight,                                                 \
	  "with reconnect-ms or server: let the back-end record the requests that it has "   \
	  "begun in an area that outlives it")                                              \
	X("warn-unflushed", BOOL, "on", warn_unflushed,                                     \
	  "warn when the lost back-end may have kept completed writes in its own memory: "   \
	  "it offers FLUSH and has no in-flight area")                                      \
	X("inflight-migration", BOOL, "off", inflight_migration,                            \
	  "with inflight, if the back-end can: a stop does not wait for requests that it "   \
	  "has begun but leaves them in the area, to be saved or resumed")                  \
	X("shadow", BOOL, "off", shadow,                                                    \
	  "keep a record of each request, and give the back-end rings of the device's own: "  \
	  "no request is lost with any back-end")                                           \
	X("skip-get-vring-base-on-force-shutdown", BOOL, "off", skip_get_vring_base,        \
	  "a forced shutdown does not wait for requests that the back-end has begun")       \
	X("realize-retries", NUMBER, "3", realize_retries,                                  \
	  "how often a failed connection is tried again at realize")

#define AS_PROPERTY(name, kind, default_value, field, description) \
	{ name, TYPE_##kind, default_value, description },
#define AS_ROW(name, kind, default_value, field, description) \
	{ { name, TYPE_##kind, default_value, description }, KIND_##kind, \
	  offsetof(struct vublk_device_settings, field), \
	  sizeof(((struct vublk_device_settings *)0)->field) },

/* The numbers whose range is narrower than 32 bits. */
static const struct {
	const char *name;
	uint64_t min, max;
} limits[] = {
	{ "num-queues", 1, VUBLK_MAX_QUEUES },
	{ "num-queues-limit", 1, VUBLK_MAX_QUEUES },
	{ "queue-size", VUBLK_MIN_QUEUE_SIZE, VUBLK_MAX_QUEUE_SIZE },
	{ "request-timeout-ms", 1, MAX_TIMEOUT_MS },
	{ "config-poll-ms", 0, MAX_TIMEOUT_MS },
	{ "keepalive-ms", 0, MAX_TIMEOUT_MS },
	{ "reconnect-ms", 0, MAX_TIMEOUT_MS },
	{ "realize-retries", 0, MAX_RETRIES },
};

static const struct vublk_property properties[] = { PROPERTIES(AS_PROPERTY) { NULL } };
static const struct row rows[] = { PROPERTIES(AS_ROW) };

static const struct row *find(const char *name)
{
	for (size_t i = 0; name && i < VUBLK_ARRAY_SIZE(rows); i++)
		if (!strcmp(rows[i].property.name, name))
			return &rows[i];
	return NULL;
}

static int unknown(const char *name, struct vublk_error *error)
{
	return vublk_error_set(error, EINVAL, "the device has no property '%s'", name ? name : "");
}

const struct vublk_property *vublk_device_properties(void)
{
	return properties;
}

/* --- values ------------------------------------------------------------------------------ */

static int set_string(const struct row *row, char *field, const char *text,
		      struct vublk_error *error)
{
	if (!text || strlen(text) >= row->bytes)
		return vublk_error_set(error, EINVAL, "%s has %zu characters, at most %zu are possible",
				       row->property.name, text ? strlen(text) : 0, row->bytes - 1);
	strcpy(field, text);
	return 0;
}

static int set_number(const struct row *row, uint64_t *field, const char *text,
		      struct vublk_error *error)
{
	const char *name = row->property.name;

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(limits); i++)
		if (!strcmp(limits[i].name, name))
			return vublk_parse_u64(name, text, limits[i].min, limits[i].max, field,
					       error);
	return vublk_parse_u64(name, text, 0, UINT32_MAX, field, error);
}

static int set_value(struct vublk_device_settings *settings, const struct row *row,
		     const char *text, struct vublk_error *error)
{
	void *field = (char *)settings + row->offset;

	switch (row->kind) {
	case KIND_STRING:
		return set_string(row, field, text, error);
	case KIND_AUTO:
		if (text && !strcmp(text, "auto")) {
			*(uint64_t *)field = VUBLK_DEVICE_AUTO;
			return 0;
		}
		return set_number(row, field, text, error);
	case KIND_NUMBER:
		return set_number(row, field, text, error);
	case KIND_BOOL:
		return vublk_parse_bool(row->property.name, text, field, error);
	case KIND_FEATURES:
		return vublk_features_parse(row->property.name, text, field, error);
	}
	return -EINVAL;
}

static const char *text_of(const struct vublk_device_settings *settings, const struct row *row,
			   char *number, size_t bytes)
{
	const void *field = (const char *)settings + row->offset;

	switch (row->kind) {
	case KIND_STRING:
		return field;
	case KIND_BOOL:
		return *(const bool *)field ? "on" : "off";
	case KIND_AUTO:
		if (*(const uint64_t *)field == VUBLK_DEVICE_AUTO)
			return "auto";
		break;
	case KIND_FEATURES:
		if (!*(const uint64_t *)field)
			return "";
		snprintf(number, bytes, "0x%" PRIx64, *(const uint64_t *)field);
		return number;
	case KIND_NUMBER:
		break;
	}
	snprintf(number, bytes, "%" PRIu64, *(const uint64_t *)field);
	return number;
}

void vublk_device_settings_init(struct vublk_device_settings *settings)
{
	*settings = (struct vublk_device_settings){ 0 };
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(rows); i++)
		if (rows[i].property.default_value)
			set_value(settings, &rows[i], rows[i].property.default_value, NULL);
}

int vublk_device_set_property(struct vublk_device *device, const char *name, const char *value,
			      struct vublk_error *error)
{
	const struct row *row = find(name);
	int r;

	if (!row)
		return unknown(name, error);
	r = vublk_device_require(device, VUBLK_DEVICE_CREATED, "setting a property", error);
	return r < 0 ? r : set_value(&device->settings, row, value, error);
}

int vublk_device_get_property(const struct vublk_device *device, const char *name, char *value,
			      size_t value_bytes, struct vublk_error *error)
{
	const struct row *row = find(name);
	const char *text;
	char number[24];

	if (!row)
		return unknown(name, error);
	text = text_of(&device->settings, row, number, sizeof(number));
	if (strlen(text) >= value_bytes)
		return vublk_error_set(error, EINVAL, "the value of %s needs %zu bytes, not %zu", name,
				       strlen(text) + 1, value_bytes);
	strcpy(value, text);
	return 0;
}

bool vublk_device_reconnects(const struct vublk_device *device)
{
	return vublk_device_will_reconnect(&device->settings);
}

/* --- checks of more than one value ----------------------------------------------------- */

static int check_queue_size(const struct vublk_device_settings *settings,
			    struct vublk_error *error)
{
	uint64_t size = settings->queue_size;

	if (!vublk_is_power_of_two(size))
		return vublk_error_set(error, EINVAL,
				       "queue-size must be a power of two, not %" PRIu64, size);
	if (settings->seg_max_adjust && size < 4)
		return vublk_error_set(error, EINVAL,
				       "seg-max-adjust needs a queue-size of at least 4, not %" PRIu64,
				       size);
	return 0;
}

static int check_reconnection(const struct vublk_device_settings *settings,
			      struct vublk_error *error)
{
	if (settings->server && settings->reconnect_ms)
		return vublk_error_set(error, EINVAL,
				       "reconnect-ms is for a device that connects to its back-end; with "
				       "server=on it waits for the next back-end in any case: leave it out");
	if (settings->reconnect_deadline_ms && !settings->server && !settings->reconnect_ms)
		return vublk_error_set(error, EINVAL,
				       "reconnect-deadline-ms needs a device that reconnects; set "
				       "reconnect-ms or server, or leave it out");
	return 0;
}

int vublk_device_settings_check(const struct vublk_device_settings *settings,
				struct vublk_error *error)
{
	int r;

	if (!settings->chardev[0])
		return vublk_error_set(error, EINVAL,
				       "chardev is missing: set it to the path of the back-end's "
				       "socket");
	r = check_queue_size(settings, error);
	if (!r)
		r = vublk_device_check_features_off(settings, error);
	return r ? r : check_reconnection(settings, error);
}
