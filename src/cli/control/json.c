/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Members that the results of several commands have; see json.h. */
#include "cli/control/json.h"

#include <stdio.h>

void vublk_json_add_features(struct json_object *object, const char *name, uint64_t features,
			     const char *(*name_of)(unsigned bit))
{
	struct json_object *names = json_object_new_array();
	char number[16];

	for (unsigned bit = 0; names && bit < 64; bit++) {
		const char *known = name_of(bit);

		if (!(features >> bit & 1))
			continue;
		snprintf(number, sizeof(number), "bit %u", bit);
		json_object_array_add(names, json_object_new_string(known ? known : number));
	}
	json_object_object_add(object, name, names);
}
