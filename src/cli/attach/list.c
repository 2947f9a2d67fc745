/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vublk attach --list: lists the devices that vublk attach has made, including those whose process
 * has died.
 */
#include "cli/attach/list.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>

#define SECTOR_BYTES 512

const char *vublk_attach_state(const struct ublksrv_ctrl_dev_info *info)
{
	if (vublk_ublk_is_served(info) && info->state != UBLK_S_DEV_DEAD)
		return "attached";
	return vublk_ublk_is_claimed(info) ? "starting" : "orphaned";
}

/* Returns the size of the block device in bytes; 0: the block device does not exist. */
static uint64_t size_of(uint32_t id)
{
	uint64_t sectors = 0;
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "/sys/block/ublkb%u/size", id);
	file = fopen(path, "re");
	if (!file)
		return 0;
	if (fscanf(file, "%" SCNu64, &sectors) != 1)
		sectors = 0;
	fclose(file);
	return sectors * SECTOR_BYTES;
}

static void print_text(const struct ublksrv_ctrl_dev_info *list, unsigned count)
{
	char size[VUBLK_CLI_TEXT_BYTES], node[VUBLK_UBLK_NODE_BYTES];

	if (count)
		printf("%-13s %-9s %7s %6s %10s  %s\n", "DEVICE", "STATE", "PID", "QUEUES", "SIZE",
		       "SOCKET");
	for (unsigned i = 0; i < count; i++) {
		char *socket = vublk_ublk_recorded(&list[i]);

		printf("%-13s %-9s %7d %6u %10s  %s\n", vublk_ublk_node(node, 'b', list[i].dev_id),
		       vublk_attach_state(&list[i]), list[i].ublksrv_pid, list[i].nr_hw_queues,
		       vublk_cli_format_bytes(size, size_of(list[i].dev_id)), socket ? socket : "-");
		free(socket);
	}
}

static struct json_object *object_of(const struct ublksrv_ctrl_dev_info *info)
{
	struct json_object *object = json_object_new_object();
	char node[VUBLK_UBLK_NODE_BYTES];
	char *socket = vublk_ublk_recorded(info);

	json_object_object_add(object, "device",
			       json_object_new_string(vublk_ublk_node(node, 'b', info->dev_id)));
	json_object_object_add(object, "state", json_object_new_string(vublk_attach_state(info)));
	json_object_object_add(object, "pid", json_object_new_int(info->ublksrv_pid));
	json_object_object_add(object, "num_queues", json_object_new_int(info->nr_hw_queues));
	json_object_object_add(object, "depth", json_object_new_int(info->queue_depth));
	json_object_object_add(object, "capacity_bytes",
			       json_object_new_uint64(size_of(info->dev_id)));
	json_object_object_add(object, "socket", socket ? json_object_new_string(socket) : NULL);
	free(socket);
	return object;
}

static void print_json(const struct ublksrv_ctrl_dev_info *list, unsigned count)
{
	struct json_object *array = json_object_new_array();

	for (unsigned i = 0; i < count; i++)
		json_object_array_add(array, object_of(&list[i]));
	puts(json_object_to_json_string_ext(array, JSON_C_TO_STRING_PRETTY |
					    JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(array);
}

int vublk_attach_list(bool json)
{
	struct ublksrv_ctrl_dev_info *list;
	struct vublk_error error = { 0 };
	struct vublk_ublk ublk;
	unsigned count;
	int ret = vublk_ublk_open(&ublk, &error);

	if (ret)
		return vublk_cli_fail("attach", "%s", error.text);
	ret = vublk_ublk_list(&ublk, &list, &count, &error);
	vublk_ublk_close(&ublk);
	if (ret)
		return vublk_cli_fail("attach", "%s", error.text);
	if (json)
		print_json(list, count);
	else
		print_text(list, count);
	free(list);
	return VUBLK_EXIT_DONE;
}
