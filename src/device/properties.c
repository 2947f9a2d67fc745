/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The properties of the device: their names, types, defaults and descriptions, and the checks of
 * their values. What a property does is in the files that read device->settings.
 *
 * Key idea: there is one table, PROPERTIES. Listing, setting, getting and the defaults all use it.
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
#define MAX_REPLAY_MIB 4096
#define MAX_RETRIES 1000

enum kind { KIND_STRING, KIND_NUMBER, KIND_RATE, KIND_AUTO, KIND_BOOL, KIND_FEATURES,
	    KIND_SHADOW };

#define TYPE_STRING "string"
#define TYPE_NUMBER "number"
#define TYPE_RATE "number" /* up to VUBLK_DEVICE_MAX_RATE */
#define TYPE_AUTO "auto"
#define TYPE_BOOL "bool"
#define TYPE_FEATURES "string" /* a mask, or names of features */
#define TYPE_SHADOW "choice"
#define TYPE_FENCE "choice"
#define TYPE_UNFLUSHED "choice"

/* The words of a kind. Only KIND_SHADOW has a value other than the word itself. */
#define KIND_FENCE KIND_STRING
#define KIND_UNFLUSHED KIND_STRING
#define WORDS_STRING NULL
#define WORDS_NUMBER NULL
#define WORDS_RATE NULL
#define WORDS_AUTO NULL
#define WORDS_BOOL NULL
#define WORDS_FEATURES NULL
#define WORDS_SHADOW shadow_words
#define WORDS_FENCE fence_words
#define WORDS_UNFLUSHED unflushed_words

static const char *const shadow_words[] = {
	[VUBLK_SHADOW_OFF] = "off", [VUBLK_SHADOW_ON] = "on", [VUBLK_SHADOW_AUTO] = "auto", NULL,
};
static const char *const fence_words[] = { "none", "exit", NULL };
static const char *const unflushed_words[] = { "auto", "replay", NULL };

/* A property, and where struct vublk_device_settings has its value. */
struct row {
	struct vublk_property property;
	enum kind kind;
	size_t offset; /* of the value in the settings */
	size_t bytes;
};

/* X(name, kind, default, field, description) */
#define PROPERTIES(X)                                                                       \
	X("chardev", STRING, NULL, chardevs[0], "path of the back-end's Unix socket")       \
	X("chardev-2", STRING, NULL, chardevs[1],                                           \
	  "path of another back-end of the same storage; the device uses it if the "        \
	  "back-end at chardev is lost and does not return")                                \
	X("chardev-3", STRING, NULL, chardevs[2],                                           \
	  "like chardev-2, third in order of preference")                                   \
	X("chardev-4", STRING, NULL, chardevs[3],                                           \
	  "like chardev-2, fourth in order of preference")                                  \
	X("fence", FENCE, "none", fence,                                                    \
	  "exit: the process of a back-end that did not answer in time or broke the "       \
	  "protocol must end before the device accepts any back-end; none: only before "    \
	  "the device changes to another path")                                             \
	X("failover-ms", NUMBER, "2000", failover_ms,                                       \
	  "with chardev-2: how long the device looks for a back-end at one path before "    \
	  "it tries the next path")                                                         \
	X("mirror-state", STRING, NULL, mirror_state,                                       \
	  "state file, which records which disk of a mirror is up to date; the device "     \
	  "refuses the other disk. A missing file is created")                              \
	X("server", BOOL, "off", server,                                                    \
	  "listen on chardev's path: the back-ends connect to the device")                  \
	X("num-queues", AUTO, "auto", num_queues,                                           \
	  "number of queues; auto: as many as the back-end offers")                         \
	X("num-queues-limit", NUMBER, "16", num_queues_limit,                               \
	  "maximum number of queues with num-queues=auto")                                  \
	X("queue-size", NUMBER, "128", queue_size,                                          \
	  "entries of each queue: a power of two from 2 (4 for the block API) to 1024")     \
	X("read-only", BOOL, "off", read_only,                                              \
	  "present the disk as read-only even if the back-end permits writes; without "     \
	  "shadow rings, a guest that ignores this can still write to the back-end")        \
	X("config-wce", BOOL, "on", config_wce,                                             \
	  "offer VIRTIO_BLK_F_CONFIG_WCE: the driver may turn the write cache on and off")  \
	X("discard", BOOL, "on", discard, "offer VIRTIO_BLK_F_DISCARD")                     \
	X("write-zeroes", BOOL, "on", write_zeroes, "offer VIRTIO_BLK_F_WRITE_ZEROES")      \
	X("features-off", FEATURES, NULL, features_off,                                     \
	  "further features to hide from the driver: a mask (0x2000), or names joined "     \
	  "by + (discard+topology)")                                                        \
	X("serial", STRING, NULL, serial,                                                   \
	  "serial of the disk, up to 20 characters, instead of the back-end's; only for "   \
	  "the block API, or with shadow=on for a guest")                                   \
	X("event_idx", BOOL, "on", event_idx,                                               \
	  "offer VIRTIO_RING_F_EVENT_IDX, which saves notifications")                       \
	X("indirect_desc", BOOL, "on", indirect_desc,                                       \
	  "offer VIRTIO_RING_F_INDIRECT_DESC, with which a request takes only one ring "    \
	  "entry")                                                                          \
	X("seg-max-adjust", BOOL, "off", seg_max_adjust,                                    \
	  "lower seg_max so that each request fits in the queue")                           \
	X("request-timeout-ms", NUMBER, "5000", request_timeout_ms,                         \
	  "how long the back-end may take to answer a message")                             \
	X("config-poll-ms", NUMBER, "1000", config_poll_ms,                                 \
	  "how often to read the configuration again while the back-end cannot report "     \
	  "changes; 0: never")                                                              \
	X("keepalive-ms", AUTO, "auto", keepalive_ms,                                       \
	  "how often to check that the back-end still answers while the rings run; 0: "     \
	  "never; auto: 5000 with reconnect-ms or server, otherwise 0")                     \
	X("reconnect-ms", NUMBER, "0", reconnect_ms,                                        \
	  "longest pause between attempts to reach a lost back-end; the device also "       \
	  "tries when the back-end's socket appears; 0: the device does not reconnect")     \
	X("reconnect-deadline-ms", NUMBER, "0", reconnect_deadline_ms,                      \
	  "how long the device tries to reach a lost back-end; 0: no limit")                \
	X("inflight", BOOL, "on", inflight,                                                 \
	  "with reconnect-ms or server: let the back-end record the requests that it "      \
	  "has begun in an area that outlives the back-end")                                \
	X("unflushed", UNFLUSHED, "auto", unflushed,                                        \
	  "writes that a lost back-end completed but did not flush: replay (write copies "  \
	  "to the next back-end; needs shadow) or auto (keep no copies)")                   \
	X("replay-mib", NUMBER, "64", replay_mib,                                           \
	  "with unflushed=replay: maximum size of the copies, in MiB, from 1 to 4096")      \
	X("warn-unflushed", BOOL, "on", warn_unflushed,                                     \
	  "warn if a lost back-end may have kept completed writes in its own memory, "      \
	  "because it offers FLUSH and has no in-flight area")                              \
	X("inflight-migration", BOOL, "off", inflight_migration,                            \
	  "with inflight, if the back-end supports it: a stop does not wait for "           \
	  "requests that the back-end has begun; they stay in the in-flight area, to be "   \
	  "saved or resumed")                                                               \
	X("shadow", SHADOW, "off", shadow,                                                  \
	  "keep a record of each request, and give the back-end rings of the device's "     \
	  "own, so that no request is lost with any back-end; auto: only if the device "    \
	  "reconnects and the back-end has no in-flight area")                              \
	X("shadow-queue-size", AUTO, "auto", shadow_queue_size,                             \
	  "with shadow: entries of each shadow ring, a power of two from 2 to 1024; "       \
	  "auto: as many as the driver's ring has")                                         \
	X("iops", RATE, "0", limits.iops,                                                   \
	  "maximum number of requests per second; 0: no limit. Each limit uses shadow "     \
	  "rings")                                                                          \
	X("iops-read", RATE, "0", limits.iops_read,                                         \
	  "maximum number of reads per second; 0: no limit")                                \
	X("iops-write", RATE, "0", limits.iops_write,                                       \
	  "maximum number of requests other than reads per second; 0: no limit")            \
	X("bps", RATE, "0", limits.bps, "maximum number of bytes per second; 0: no limit")  \
	X("bps-read", RATE, "0", limits.bps_read,                                           \
	  "maximum number of bytes read per second; 0: no limit")                           \
	X("bps-write", RATE, "0", limits.bps_write,                                         \
	  "maximum number of bytes written per second; 0: no limit")                        \
	X("burst-ms", NUMBER, VUBLK_DEVICE_BURST_MS, limits.burst_ms,                       \
	  "how much unused allowance of the limits may be saved up, in milliseconds")       \
	X("statistics", BOOL, "off", statistics, "count requests (needs shadow rings)")     \
	X("slow-request-ms", NUMBER, "0", slow_request_ms,                                  \
	  "report requests that are incomplete for longer than this, including those "      \
	  "that a limit delays (needs shadow rings); 0: no report")                         \
	X("skip-get-vring-base-on-force-shutdown", BOOL, "off", skip_get_vring_base,        \
	  "a forced shutdown does not wait for requests that the back-end has begun")       \
	X("realize-retries", NUMBER, "3", realize_retries,                                  \
	  "how many times realize tries to connect again after a failure")

#define AS_PROPERTY(name, kind, default_value, field, description) \
	{ name, TYPE_##kind, default_value, description, WORDS_##kind },
#define AS_ROW(name, kind, default_value, field, description) \
	{ { name, TYPE_##kind, default_value, description, WORDS_##kind }, KIND_##kind, \
	  offsetof(struct vublk_device_settings, field), \
	  sizeof(((struct vublk_device_settings *)0)->field) },

/*
 * Numbers with a range of their own. All other numbers range from 0 to UINT32_MAX, except rates,
 * which may be higher.
 */
static const struct {
	const char *name;
	uint64_t min, max;
} limits[] = {
	{ "num-queues", 1, VUBLK_MAX_QUEUES },
	{ "num-queues-limit", 1, VUBLK_MAX_QUEUES },
	{ "queue-size", VUBLK_MIN_QUEUE_SIZE, VUBLK_MAX_QUEUE_SIZE },
	{ "shadow-queue-size", VUBLK_MIN_QUEUE_SIZE, VUBLK_MAX_QUEUE_SIZE },
	{ "request-timeout-ms", 1, MAX_TIMEOUT_MS },
	{ "config-poll-ms", 0, MAX_TIMEOUT_MS },
	{ "keepalive-ms", 0, MAX_TIMEOUT_MS },
	{ "reconnect-ms", 0, MAX_TIMEOUT_MS },
	{ "replay-mib", 1, MAX_REPLAY_MIB },
	{ "failover-ms", 0, MAX_TIMEOUT_MS },
	{ "realize-retries", 0, MAX_RETRIES },
	{ "burst-ms", 1, VUBLK_DEVICE_MAX_BURST_MS },
	{ "slow-request-ms", 0, MAX_TIMEOUT_MS },
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
	return vublk_error_set(error, EINVAL, "the device has no property '%s'; 'vublk device "
			       "--list-properties' and vublk_device_properties() list all",
			       name ? name : "");
}

const struct vublk_property *vublk_device_properties(void)
{
	return properties;
}

/* --- shadow rings ------------------------------------------------------------------------ */

const char *vublk_shadow_name(enum vublk_shadow shadow)
{
	return (unsigned)shadow <= VUBLK_SHADOW_AUTO ? shadow_words[shadow] : "unknown";
}

int vublk_shadow_parse(const char *text, enum vublk_shadow *shadow, struct vublk_error *error)
{
	unsigned index;
	bool is_on;
	int r = 0;

	if (!vublk_parse_bool("shadow", text, &is_on, NULL))
		index = is_on ? VUBLK_SHADOW_ON : VUBLK_SHADOW_OFF;
	else
		r = vublk_parse_word("shadow", text, shadow_words, &index, error);
	if (!r)
		*shadow = index;
	return r;
}

/* --- values ------------------------------------------------------------------------------ */

static int set_string(const struct row *row, char *field, const char *text,
		      struct vublk_error *error)
{
	const char *const *words = row->property.words;
	unsigned index;

	if (words && vublk_parse_word(row->property.name, text, words, &index, error) < 0)
		return -EINVAL;
	if (!text || strlen(text) >= row->bytes)
		return vublk_error_set(error, EINVAL, "%s has %zu characters; the maximum is %zu",
				       row->property.name, text ? strlen(text) : 0, row->bytes - 1);
	strcpy(field, text);
	return 0;
}

static void get_range(const struct row *row, uint64_t *min, uint64_t *max)
{
	*min = 0;
	*max = row->kind == KIND_RATE ? VUBLK_DEVICE_MAX_RATE : UINT32_MAX;
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(limits); i++)
		if (!strcmp(limits[i].name, row->property.name)) {
			*min = limits[i].min;
			*max = limits[i].max;
		}
}

static int set_number(const struct row *row, uint64_t *field, const char *text,
		      struct vublk_error *error)
{
	uint64_t min, max;

	get_range(row, &min, &max);
	return vublk_parse_u64(row->property.name, text, min, max, field, error);
}

static int set_number_or_auto(const struct row *row, uint64_t *field, const char *text,
			      struct vublk_error *error)
{
	uint64_t min, max;

	if (text && !strcmp(text, "auto")) {
		*field = VUBLK_DEVICE_AUTO;
		return 0;
	}
	if (!set_number(row, field, text, NULL))
		return 0;
	get_range(row, &min, &max);
	return vublk_error_set(error, EINVAL, "%s must be auto or a whole number from %" PRIu64
			       " to %" PRIu64 ", not '%s'", row->property.name, min, max,
			       text ? text : "");
}

static int set_value(struct vublk_device_settings *settings, const struct row *row,
		     const char *text, struct vublk_error *error)
{
	void *field = (char *)settings + row->offset;

	switch (row->kind) {
	case KIND_STRING:
		return set_string(row, field, text, error);
	case KIND_AUTO:
		return set_number_or_auto(row, field, text, error);
	case KIND_NUMBER:
	case KIND_RATE:
		return set_number(row, field, text, error);
	case KIND_BOOL:
		return vublk_parse_bool(row->property.name, text, field, error);
	case KIND_FEATURES:
		return vublk_features_parse(row->property.name, text, field, error);
	case KIND_SHADOW:
		return vublk_shadow_parse(text, field, error);
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
	case KIND_SHADOW:
		return vublk_shadow_name(*(const enum vublk_shadow *)field);
	case KIND_NUMBER:
	case KIND_RATE:
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
		return vublk_error_set(error, EINVAL, "the value of %s needs a buffer of %zu bytes; the buffer "
				       "has %zu", name, strlen(text) + 1, value_bytes);
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
				       "queue-size must be a power of two from %d to %d, not "
				       "%" PRIu64, VUBLK_MIN_QUEUE_SIZE, VUBLK_MAX_QUEUE_SIZE, size);
	if (settings->seg_max_adjust && size < 4)
		return vublk_error_set(error, EINVAL,
				       "seg-max-adjust needs a queue-size of at least 4, not %" PRIu64,
				       size);
	size = settings->shadow_queue_size;
	if (size != VUBLK_DEVICE_AUTO && !vublk_is_power_of_two(size))
		return vublk_error_set(error, EINVAL,
				       "shadow-queue-size must be auto or a power of two from %d to "
				       "%d, not %" PRIu64, VUBLK_MIN_QUEUE_SIZE,
				       VUBLK_MAX_QUEUE_SIZE, size);
	return 0;
}

static int check_reconnection(const struct vublk_device_settings *settings,
			      struct vublk_error *error)
{
	if (settings->server && settings->reconnect_ms)
		return vublk_error_set(error, EINVAL,
				       "reconnect-ms cannot be set with server=on, because a "
				       "device that listens always waits for the next back-end; "
				       "remove reconnect-ms");
	if (settings->reconnect_deadline_ms && !settings->server && !settings->reconnect_ms)
		return vublk_error_set(error, EINVAL,
				       "reconnect-deadline-ms needs a device that reconnects; set "
				       "reconnect-ms or server, or remove reconnect-deadline-ms");
	return 0;
}

static int check_unflushed(const struct vublk_device_settings *settings, struct vublk_error *error)
{
	if (!strcmp(settings->unflushed, "replay") && settings->shadow == VUBLK_SHADOW_OFF)
		return vublk_error_set(error, EINVAL, "unflushed=replay works only if the device "
				       "sees all writes; also set shadow to on or auto");
	return 0;
}

/* Returns the name of the property that has path `index`, for messages. */
static const char *path_name(unsigned index)
{
	static const char *const names[] = { "chardev", "chardev-2", "chardev-3", "chardev-4" };

	_Static_assert(VUBLK_ARRAY_SIZE(names) == VUBLK_MAX_PATHS, "all of them");
	return names[index];
}

static int check_path(const struct vublk_device_settings *settings, unsigned index,
		      struct vublk_error *error)
{
	const char *path = settings->chardevs[index];

	if (!path[0])
		return 0;
	if (!settings->chardevs[index - 1][0])
		return vublk_error_set(error, EINVAL, "%s is set, but %s is not; set the paths in "
				       "order",
				       path_name(index), path_name(index - 1));
	for (unsigned i = 0; i < index; i++)
		if (!strcmp(path, settings->chardevs[i]))
			return vublk_error_set(error, EINVAL, "%s and %s are the same path, '%s'; "
					       "give each back-end its own path", path_name(i),
					       path_name(index), path);
	return 0;
}

static int check_paths(const struct vublk_device_settings *settings, struct vublk_error *error)
{
	int r = 0;

	for (unsigned i = 1; i < VUBLK_MAX_PATHS && !r; i++)
		r = check_path(settings, i, error);
	if (r || !settings->chardevs[1][0])
		return r;
	if (settings->server)
		return vublk_error_set(error, EINVAL,
				       "chardev-2 cannot be set with server=on, because the "
				       "back-ends connect to the one path on which the device "
				       "listens; remove chardev-2 or set server=off");
	if (!settings->reconnect_ms)
		return vublk_error_set(error, EINVAL,
				       "chardev-2 needs a device that reconnects; set reconnect-ms "
				       "or remove chardev-2");
	return 0;
}

int vublk_device_settings_check(const struct vublk_device_settings *settings,
				struct vublk_error *error)
{
	int r;

	if (!settings->chardevs[0][0])
		return vublk_error_set(error, EINVAL,
				       "chardev is not set; set it to the path of the back-end's "
				       "socket");
	r = check_queue_size(settings, error);
	if (!r)
		r = check_unflushed(settings, error);
	if (!r)
		r = vublk_device_check_features_off(settings, error);
	if (!r)
		r = check_reconnection(settings, error);
	if (!r)
		r = check_paths(settings, error);
	return r ? r : vublk_device_check_limits(&settings->limits, error);
}
