/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The list of all engines, and the search for an engine by its name. */
#include "backend/engine/engine.h"

#include "util/checked.h"

#include <string.h>

static const struct vublk_engine_ops *const engines[] = {
	&vublk_engine_file,
	&vublk_engine_memory,
	&vublk_engine_null,
};

const struct vublk_engine_ops *vublk_engine_find(const char *name)
{
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(engines); i++)
		if (!strcmp(engines[i]->name, name))
			return engines[i];
	return NULL;
}

const char *vublk_engine_names(void)
{
	return "file, memory, null";
}
