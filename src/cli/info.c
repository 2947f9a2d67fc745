/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vublk info: shows the properties of a disk, the features that its back-end offers, the features
 * that are in use, and the features and fields that the device presents differently from the
 * back-end. The output is text or, with --json, JSON.
 *
 * Key idea: one table describes the fields of the configuration space for both output formats.
 */
#include "cli/cli.h"
#include "cli/disk.h"
#include "cli/disk-watch.h"
#include "cli/text.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <linux/virtio_blk.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define BIT(n) (UINT64_C(1) << (n))
#define NO_FEATURE 64
#define ANSWER_MS 2000 /* the time limit for reading the serial */

struct arguments {
	const char *socket;
	bool json;
	struct vublk_disk_options disk;
};

/* Everything that the command shows. */
struct disk {
	const char *socket;
	struct vublk_blk_info info;
	struct vublk_device_info device;
	char serial[VUBLK_BLK_ID_SIZE]; /* empty: the disk has no serial */
	bool is_answering;
};

/* --- the configuration space -------------------------------------------------- */

struct config_field {
	const char *name;  /* a member of struct virtio_blk_config; the part before a dot, if any,
			      is its group */
	unsigned offset;
	unsigned bytes;
	unsigned feature;  /* the feature that defines the field; NO_FEATURE: every disk has the
			      field */
};

#define FIELD(name, member, feature) \
	{ name, offsetof(struct virtio_blk_config, member), \
	  sizeof(((struct virtio_blk_config *)0)->member), feature }

/* The kernel headers in use may be older than VIRTIO_BLK_F_ZONED and its config fields. */
#define ZONED_FEATURE 17
#define ZONED_OFFSET 72

static const struct config_field config_fields[] = {
	FIELD("capacity", capacity, NO_FEATURE),
	FIELD("size_max", size_max, VIRTIO_BLK_F_SIZE_MAX),
	FIELD("seg_max", seg_max, VIRTIO_BLK_F_SEG_MAX),
	FIELD("geometry.cylinders", geometry.cylinders, VIRTIO_BLK_F_GEOMETRY),
	FIELD("geometry.heads", geometry.heads, VIRTIO_BLK_F_GEOMETRY),
	FIELD("geometry.sectors", geometry.sectors, VIRTIO_BLK_F_GEOMETRY),
	FIELD("blk_size", blk_size, VIRTIO_BLK_F_BLK_SIZE),
	FIELD("physical_block_exp", physical_block_exp, VIRTIO_BLK_F_TOPOLOGY),
	FIELD("alignment_offset", alignment_offset, VIRTIO_BLK_F_TOPOLOGY),
	FIELD("min_io_size", min_io_size, VIRTIO_BLK_F_TOPOLOGY),
	FIELD("opt_io_size", opt_io_size, VIRTIO_BLK_F_TOPOLOGY),
	FIELD("wce", wce, VIRTIO_BLK_F_CONFIG_WCE),
	FIELD("num_queues", num_queues, VIRTIO_BLK_F_MQ),
	FIELD("max_discard_sectors", max_discard_sectors, VIRTIO_BLK_F_DISCARD),
	FIELD("max_discard_seg", max_discard_seg, VIRTIO_BLK_F_DISCARD),
	FIELD("discard_sector_alignment", discard_sector_alignment, VIRTIO_BLK_F_DISCARD),
	FIELD("max_write_zeroes_sectors", max_write_zeroes_sectors, VIRTIO_BLK_F_WRITE_ZEROES),
	FIELD("max_write_zeroes_seg", max_write_zeroes_seg, VIRTIO_BLK_F_WRITE_ZEROES),
	FIELD("write_zeroes_may_unmap", write_zeroes_may_unmap, VIRTIO_BLK_F_WRITE_ZEROES),
	FIELD("max_secure_erase_sectors", max_secure_erase_sectors, VIRTIO_BLK_F_SECURE_ERASE),
	FIELD("max_secure_erase_seg", max_secure_erase_seg, VIRTIO_BLK_F_SECURE_ERASE),
	FIELD("secure_erase_sector_alignment", secure_erase_sector_alignment,
	      VIRTIO_BLK_F_SECURE_ERASE),
	{ "zoned.zone_sectors", ZONED_OFFSET, 4, ZONED_FEATURE },
	{ "zoned.max_open_zones", ZONED_OFFSET + 4, 4, ZONED_FEATURE },
	{ "zoned.max_active_zones", ZONED_OFFSET + 8, 4, ZONED_FEATURE },
	{ "zoned.max_append_sectors", ZONED_OFFSET + 12, 4, ZONED_FEATURE },
	{ "zoned.write_granularity", ZONED_OFFSET + 16, 4, ZONED_FEATURE },
	{ "zoned.model", ZONED_OFFSET + 20, 1, ZONED_FEATURE },
};

/* Returns whether the back-end's configuration is long enough for this field. */
static bool has_field(const struct vublk_blk_info *info, const struct config_field *field)
{
	return field->offset + field->bytes <= info->config_bytes &&
	       field->offset + field->bytes <= sizeof(info->config);
}

static uint64_t field_value(const uint8_t *config, const struct config_field *field)
{
	uint64_t value = 0;

	memcpy(&value, config + field->offset, field->bytes);
	return le64toh(value);
}

static bool field_has_meaning(const struct disk *disk, const struct config_field *field)
{
	return field->feature == NO_FEATURE || disk->device.features & BIT(field->feature);
}

/* --- what the device changed -------------------------------------------------- */

/*
 * Returns whether the device has changed this field of the back-end's configuration. The number of
 * queues does not count, because the device always sets its own number, which is shown elsewhere.
 * Fields of features that the back-end does not offer have no meaning and do not count, either.
 */
static bool is_field_changed(const struct disk *disk, const struct config_field *field)
{
	return has_field(&disk->info, field) &&
	       field->offset != offsetof(struct virtio_blk_config, num_queues) &&
	       (field->feature == NO_FEATURE ||
		disk->device.backend_features & BIT(field->feature)) &&
	       field_value(disk->info.config, field) !=
		       field_value(disk->device.backend_config, field);
}

static bool is_added(const struct disk *disk, unsigned bit)
{
	return disk->device.features & ~disk->device.backend_features & BIT(bit);
}

static bool is_hidden(const struct disk *disk, unsigned bit)
{
	return disk->device.hidden_features & BIT(bit);
}

/* --- text --------------------------------------------------------------------- */

/*
 * Returns the name of a bit. If the bit has no name, writes its number to `text` and returns
 * `text`.
 */
static const char *bit_name(const char *(*name)(unsigned bit), unsigned bit, char text[16])
{
	const char *found = name(bit);

	if (found)
		return found;
	snprintf(text, 16, "bit %u", bit);
	return text;
}

static void print_features(const char *title, const char *in_use_word,
			   const char *(*name)(unsigned bit), uint64_t offered, uint64_t in_use)
{
	char text[16];

	printf("%s\n", title);
	for (unsigned bit = 0; bit < 64; bit++)
		if ((offered | in_use) & BIT(bit))
			printf("  %-32s%s%s\n", bit_name(name, bit, text),
			       in_use & BIT(bit) ? in_use_word : "offered",
			       offered & BIT(bit) ? "" : ", not offered");
}

static void print_change(unsigned number, const char *name)
{
	if (!number)
		printf("changed by the device\n");
	printf("  %-32s", name);
}

static void print_changes(const struct disk *disk)
{
	unsigned number = 0;
	char text[16];

	for (unsigned bit = 0; bit < 64; bit++)
		if (is_added(disk, bit) || is_hidden(disk, bit)) {
			print_change(number++, bit_name(vublk_feature_name, bit, text));
			printf("%s\n", is_added(disk, bit) ? "added" : "hidden");
		}
	for (size_t i = 0; i < VUBLK_CLI_ARRAY_SIZE(config_fields); i++) {
		const struct config_field *field = &config_fields[i];

		if (!is_field_changed(disk, field))
			continue;
		print_change(number++, field->name);
		printf("%" PRIu64 ", the back-end says %" PRIu64 "\n",
		       field_value(disk->info.config, field),
		       field_value(disk->device.backend_config, field));
	}
}

static void print_range_command(const char *name, uint64_t max_bytes, const char *more)
{
	char text[VUBLK_CLI_TEXT_BYTES];

	if (max_bytes)
		printf("  %-18s%s per segment%s\n", name, vublk_cli_format_bytes(text, max_bytes),
		       more);
	else
		printf("  %-18snot offered\n", name);
}

static void print_disk(const struct disk *disk)
{
	const struct vublk_blk_info *i = &disk->info;
	char text[VUBLK_CLI_TEXT_BYTES];

	printf("disk %s\n", disk->socket);
	if (!disk->is_answering)
		printf("  %-18s%s\n", "requests",
		       "not answered: the back-end hangs, or the connection to it was lost");
	printf("  %-18s%" PRIu64 " bytes (%s)\n", "capacity", i->capacity_bytes,
	       vublk_cli_format_bytes(text, i->capacity_bytes));
	printf("  %-18s%" PRIu32 " bytes (physical %" PRIu32 ")\n", "block size",
	       i->block_size_bytes, i->physical_block_bytes);
	if (i->capacity_bytes % i->block_size_bytes)
		printf("  %-18s%" PRIu64 " bytes, less than a block\n", "last block",
		       i->capacity_bytes % i->block_size_bytes);
	if (disk->serial[0])
		printf("  %-18s%s\n", "serial", disk->serial);
	printf("  %-18s%s\n", "access", i->read_only ? "read-only" : "read-write");
	printf("  %-18s%s%s%s\n", "write cache",
	       i->write_cache ? "on" : "off", i->can_set_write_cache ? ", can be set" : "",
	       i->flush ? "" : ", no flush");
	print_range_command("discard", i->max_discard_bytes, "");
	print_range_command("write zeroes", i->max_write_zeroes_bytes,
			    i->write_zeroes_may_unmap ? ", may unmap" : "");
	printf("  %-18s%" PRIu32 " of up to %" PRIu32 " bytes\n", "segments", i->max_segments,
	       i->max_segment_bytes);
}

static void print_backend(const struct disk *disk)
{
	const struct vublk_blk_info *info = &disk->info;

	printf("back-end\n");
	printf("  %-18s%u of %" PRIu32 ", %u entries each\n", "queues in use", info->num_queues,
	       disk->device.backend_max_queues, info->queue_size);
	printf("  %-18s%" PRIu32 "\n", "memory slots", disk->device.backend_memory_slots);
}

static void print_config(const struct disk *disk)
{
	const struct vublk_blk_info *info = &disk->info;

	printf("config (%" PRIu32 " bytes, generation %" PRIu32 ")\n", info->config_bytes,
	       info->config_generation);
	for (size_t i = 0; i < VUBLK_CLI_ARRAY_SIZE(config_fields); i++) {
		const struct config_field *field = &config_fields[i];

		if (has_field(info, field))
			printf("  %-32s%" PRIu64 "%s\n", field->name,
			       field_value(info->config, field),
			       field_has_meaning(disk, field) ? "" : " (feature not offered)");
	}
}

static void print_text(const struct disk *disk)
{
	const struct vublk_blk_info *i = &disk->info;

	print_disk(disk);
	print_backend(disk);
	print_features("protocol features", "accepted", vublk_protocol_feature_name,
		       disk->device.backend_protocol_features, disk->device.protocol_features);
	print_features("virtio features", "in use", vublk_feature_name,
		       disk->device.backend_features, i->features);
	print_config(disk);
	print_changes(disk);
}

/* --- JSON --------------------------------------------------------------------- */

static void add_u64(struct json_object *object, const char *name, uint64_t value)
{
	json_object_object_add(object, name, json_object_new_uint64(value));
}

static void add_bool(struct json_object *object, const char *name, bool value)
{
	json_object_object_add(object, name, json_object_new_boolean(value));
}

static void add_text(struct json_object *object, const char *name, const char *value)
{
	json_object_object_add(object, name, json_object_new_string(value));
}

static struct json_object *features_json(const char *in_use_word,
					 const char *(*name)(unsigned bit), uint64_t offered,
					 uint64_t in_use)
{
	struct json_object *array = json_object_new_array();
	char text[16];

	for (unsigned bit = 0; bit < 64; bit++) {
		struct json_object *feature;

		if (!((offered | in_use) & BIT(bit)))
			continue;
		feature = json_object_new_object();
		add_u64(feature, "bit", bit);
		add_text(feature, "name", bit_name(name, bit, text));
		add_bool(feature, "offered", offered & BIT(bit));
		add_bool(feature, in_use_word, in_use & BIT(bit));
		json_object_array_add(array, feature);
	}
	return array;
}

/*
 * Returns the object that the field *name belongs to: the object of its group, which is created for
 * the group's first field, or `config` if the field has no group. Removes the group from *name.
 */
static struct json_object *group_of(struct json_object *config, const char **name)
{
	const char *dot = strchr(*name, '.');
	struct json_object *group;
	char text[32];

	if (!dot)
		return config;
	snprintf(text, sizeof(text), "%.*s", (int)(dot - *name), *name);
	*name = dot + 1;
	if (json_object_object_get_ex(config, text, &group))
		return group;
	group = json_object_new_object();
	json_object_object_add(config, text, group);
	return group;
}

/*
 * Makes the JSON object of the configuration space `bytes`. A field past the end of the back-end's
 * configuration is null.
 */
static struct json_object *config_json(const struct vublk_blk_info *info, const uint8_t *bytes)
{
	struct json_object *config = json_object_new_object();

	for (size_t i = 0; i < VUBLK_CLI_ARRAY_SIZE(config_fields); i++) {
		const struct config_field *field = &config_fields[i];
		const char *name = field->name;
		struct json_object *group = group_of(config, &name);

		if (has_field(info, field))
			add_u64(group, name, field_value(bytes, field));
		else
			json_object_object_add(group, name, NULL);
	}
	return config;
}

static struct json_object *new_change(struct json_object *changes, const char *name)
{
	struct json_object *change = json_object_new_object();

	add_text(change, "name", name);
	json_object_array_add(changes, change);
	return change;
}

/*
 * Makes the JSON array of the device's changes. Each change has the back-end's value and the
 * device's value: true or false for a feature, a number for a field.
 */
static struct json_object *changes_json(const struct disk *disk)
{
	struct json_object *changes = json_object_new_array(), *change;
	char text[16];

	for (unsigned bit = 0; bit < 64; bit++) {
		if (!is_added(disk, bit) && !is_hidden(disk, bit))
			continue;
		change = new_change(changes, bit_name(vublk_feature_name, bit, text));
		add_bool(change, "backend", is_hidden(disk, bit));
		add_bool(change, "device", is_added(disk, bit));
	}
	for (size_t i = 0; i < VUBLK_CLI_ARRAY_SIZE(config_fields); i++) {
		const struct config_field *field = &config_fields[i];

		if (!is_field_changed(disk, field))
			continue;
		change = new_change(changes, field->name);
		add_u64(change, "backend", field_value(disk->device.backend_config, field));
		add_u64(change, "device", field_value(disk->info.config, field));
	}
	return changes;
}

static void add_disk(struct json_object *root, const struct disk *disk)
{
	const struct vublk_blk_info *i = &disk->info;

	add_text(root, "socket", disk->socket);
	add_u64(root, "capacity_bytes", i->capacity_bytes);
	add_u64(root, "block_size_bytes", i->block_size_bytes);
	add_u64(root, "physical_block_bytes", i->physical_block_bytes);
	add_u64(root, "optimal_io_bytes", i->optimal_io_bytes);
	add_text(root, "serial", disk->serial);
	add_bool(root, "is_answering", disk->is_answering);
	add_bool(root, "read_only", i->read_only);
	add_bool(root, "flush", i->flush);
	add_bool(root, "write_cache", i->write_cache);
	add_bool(root, "can_set_write_cache", i->can_set_write_cache);
	add_u64(root, "max_segments", i->max_segments);
	add_u64(root, "max_segment_bytes", i->max_segment_bytes);
	add_u64(root, "max_discard_bytes", i->max_discard_bytes);
	add_u64(root, "discard_alignment_bytes", i->discard_alignment_bytes);
	add_u64(root, "max_write_zeroes_bytes", i->max_write_zeroes_bytes);
	add_bool(root, "write_zeroes_may_unmap", i->write_zeroes_may_unmap);
}

static void print_json(const struct disk *disk)
{
	const struct vublk_blk_info *i = &disk->info;
	struct json_object *root = json_object_new_object();

	add_disk(root, disk);
	add_u64(root, "num_queues", i->num_queues);
	add_u64(root, "max_queues", disk->device.backend_max_queues);
	add_u64(root, "queue_size", i->queue_size);
	add_u64(root, "memory_slots", disk->device.backend_memory_slots);
	json_object_object_add(root, "protocol_features",
			       features_json("accepted", vublk_protocol_feature_name,
					     disk->device.backend_protocol_features,
					     disk->device.protocol_features));
	json_object_object_add(root, "features",
			       features_json("in_use", vublk_feature_name,
					     disk->device.backend_features, i->features));
	add_u64(root, "config_bytes", i->config_bytes);
	add_u64(root, "config_generation", i->config_generation);
	json_object_object_add(root, "config", config_json(i, i->config));
	json_object_object_add(root, "backend_config", config_json(i, disk->device.backend_config));
	json_object_object_add(root, "changes", changes_json(disk));
	vublk_cli_put_json(stdout, json_object_to_json_string_ext(root, JSON_C_TO_STRING_PRETTY |
								  JSON_C_TO_STRING_SPACED |
								  JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(root);
}

/* --- the command -------------------------------------------------------------- */

/*
 * Reads the serial of the disk, and returns whether there is one. Many back-ends have no serial,
 * which is not a failure. Also sets disk->is_answering, because behind a relay a missing answer is
 * the only sign of an outage: a relay that has lost its back-end answers every message itself, but
 * keeps requests waiting. A late answer is written into `disk`, which must therefore exist until
 * `blk` is closed.
 */
static bool read_serial(struct vublk_blk *blk, struct disk *disk)
{
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	struct vublk_blk_completion completion = { .result = -EIO };

	disk->is_answering = true;
	if (vublk_blk_get_id(queue, disk->serial, 0, NULL, NULL))
		return false;
	disk->is_answering = vublk_blk_wait(queue, &completion, 1, 1, ANSWER_MS, NULL) == 1;
	return disk->is_answering && !completion.result;
}

static const struct argp_option options[] = {
	{ "json", 'j', NULL, 0, "Print one JSON object" },
	{ NULL },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *arguments = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &arguments->disk;
		return 0;
	case 'j':
		arguments->json = true;
		return 0;
	case ARGP_KEY_ARG:
		vublk_cli_take_argument(state, &arguments->socket, arg);
		return 0;
	case ARGP_KEY_NO_ARGS:
		vublk_cli_refuse_no_socket(state);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int vublk_cmd_info(int argc, char **argv)
{
	static const struct argp_child children[] = { { &vublk_disk_argp, 0, NULL, 0 }, { NULL } };
	static const struct argp argp = {
		options, parse, "SOCKET",
		"Show the properties of the disk behind a vhost-user-blk socket, the features that "
		"its back-end offers, and the features that are in use.",
		children,
	};
	struct arguments arguments = { 0 };
	struct vublk_disk_watch watch;
	struct vublk_error error = { 0 };
	struct vublk_blk *blk;
	struct disk disk;
	bool has_serial;

	vublk_cli_parse(&argp, argc, argv, &arguments);
	disk.socket = arguments.socket;
	if (vublk_disk_open_watched("info", arguments.socket, &arguments.disk, &watch, &blk,
				    &error))
		return vublk_cli_fail_open("info", &error);
	memset(&disk.info, 0, sizeof(disk.info));
	vublk_blk_get_info(blk, &disk.info, sizeof(disk.info));
	vublk_blk_get_device_info(blk, &disk.device, sizeof(disk.device));
	has_serial = read_serial(blk, &disk);
	vublk_blk_close(blk, 0, NULL);
	if (!has_serial)
		disk.serial[0] = '\0';
	vublk_disk_clean_serial(disk.serial);

	if (arguments.json)
		print_json(&disk);
	else
		print_text(&disk);
	return VUBLK_EXIT_DONE;
}
