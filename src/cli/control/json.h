/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_JSON_H
#define VUBLK_CLI_CONTROL_JSON_H

/*
 * Functions that add members to the results of commands. If there is no memory for a member, the
 * member is null or missing. The client may then repeat the command.
 */
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

static inline void vublk_json_add_u64(struct json_object *object, const char *name, uint64_t value)
{
	json_object_object_add(object, name, json_object_new_uint64(value));
}

static inline void vublk_json_add_bool(struct json_object *object, const char *name, bool value)
{
	json_object_object_add(object, name, json_object_new_boolean(value));
}

static inline void vublk_json_add_text(struct json_object *object, const char *name,
				       const char *value)
{
	json_object_object_add(object, name, json_object_new_string(value));
}

/*
 * Adds an array with the names of the bits that are set in `features`. A bit N without a name is
 * added as "bit N".
 */
void vublk_json_add_features(struct json_object *object, const char *name, uint64_t features,
			     const char *(*name_of)(unsigned bit));

#endif
