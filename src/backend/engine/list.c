/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The list of the built-in engines, and the search for an engine by its name. */
#include "backend/engine/engine.h"

#include "util/checked.h"
#include "util/error.h"

#include <errno.h>
#include <string.h>

static const struct vublk_engine_ops *const engines[] = {
	&vublk_engine_file,
	&vublk_engine_memory,
	&vublk_engine_null,
};

int vublk_engine_find(const char *name, const struct vublk_engine_ops **ops,
		      struct vublk_error *error)
{
	int r;

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(engines); i++)
		if (!strcmp(engines[i]->name, name)) {
			*ops = engines[i];
			return 0;
		}
	r = vublk_engine_load(name, ops, error);
	if (r != -ENOENT)
		return r;
	return vublk_error_set(error, EINVAL, "the engine '%.40s' is not installed; install the module "
			       "libvublk-engine-%.40s.so in " VUBLK_ENGINE_FOLDER " or in a folder of "
			       "VUBLK_ENGINE_PATH, or use one of %s", name, name,
			       vublk_engine_names());
}

const char *vublk_engine_names(void)
{
	return "file, memory, null";
}
