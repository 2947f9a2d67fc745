/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The list of engines, and what more than one of them needs. */
#include "backend/engine.h"

#include "util/checked.h"
#include "util/error.h"

#include <errno.h>
#include <inttypes.h>
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

int vublk_engine_open(const struct vublk_engine_ops *ops,
		      const struct vublk_engine_options *options, struct vublk_engine **engine,
		      struct vublk_error *error)
{
	int r = ops->open(options, engine, error);

	if (r)
		return r;
	(*engine)->ops = ops;
	(*engine)->log = options->log;
	return 0;
}

void vublk_engine_close(struct vublk_engine *engine)
{
	if (engine)
		engine->ops->close(engine);
}

unsigned vublk_engine_list_take_many(struct vublk_engine_list *list,
				     struct vublk_engine_io **ios, unsigned max)
{
	unsigned n = 0;

	while (n < max && list->head)
		ios[n++] = vublk_engine_list_take(list);
	return n;
}

int vublk_engine_check_size(const char *name, const struct vublk_engine_options *options,
			    struct vublk_error *error)
{
	if (options->path)
		return vublk_error_set(error, EINVAL,
				       "the engine %s has no file; leave out blk-file '%s'", name,
				       options->path);
	if (!options->size_bytes)
		return vublk_error_set(error, EINVAL,
				       "the engine %s needs a size; give size=BYTES", name);
	if (options->size_bytes % 512)
		return vublk_error_set(error, EINVAL,
				       "size must be a multiple of 512 bytes, not %" PRIu64,
				       options->size_bytes);
	return 0;
}
