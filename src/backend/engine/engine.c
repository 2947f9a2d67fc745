/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opens, rescans and closes an engine, and implements helpers for engines. The list of engines is
 * in list.c.
 */
#include "backend/engine/engine.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/log.h"

#include <errno.h>
#include <inttypes.h>

/* Sets the requested block sizes, or refuses them if they do not fit the image. */
static int set_block_sizes(struct vublk_engine *engine, const struct vublk_engine_options *options,
			   struct vublk_error *error)
{
	struct vublk_engine_geometry *geometry = &engine->geometry;
	uint32_t block = options->block_bytes ? options->block_bytes : geometry->block_bytes;
	uint32_t physical = options->physical_block_bytes ? options->physical_block_bytes :
			    VUBLK_MAX(geometry->physical_block_bytes, block);

	if (block < geometry->min_block_bytes)
		return vublk_error_set(error, EINVAL,
				       "logical-block-size is %u bytes, but O_DIRECT requests to "
				       "%s need at least %u bytes; use that size or cache=buffered",
				       block, engine->description, geometry->min_block_bytes);
	if (physical < block)
		return vublk_error_set(error, EINVAL,
				       "physical-block-size is %u bytes; expected at least the "
				       "logical block size, %u bytes", physical, block);
	if (geometry->size_bytes % block)
		return vublk_error_set(error, EINVAL,
				       "%s has %" PRIu64 " bytes, which is not a multiple of the "
				       "logical block size of %u bytes; use a smaller block size, "
				       "or resize it to %" PRIu64 " bytes", engine->description,
				       geometry->size_bytes, block,
				       vublk_round_up(geometry->size_bytes, block));
	geometry->block_bytes = block;
	geometry->physical_block_bytes = physical;
	return 0;
}

int vublk_engine_open(const struct vublk_engine_ops *ops,
		      const struct vublk_engine_options *options, struct vublk_engine **result,
		      struct vublk_error *error)
{
	struct vublk_engine *engine;
	int r = ops->open(options, &engine, error);

	if (r)
		return r;
	engine->ops = ops;
	engine->log = options->log;
	r = set_block_sizes(engine, options, error);
	if (r) {
		ops->close(engine);
		return r;
	}
	*result = engine;
	return 0;
}

void vublk_engine_close(struct vublk_engine *engine)
{
	if (engine)
		engine->ops->close(engine);
}

bool vublk_engine_rescan(struct vublk_engine *engine, struct vublk_log_limit *limit)
{
	uint64_t before = engine->geometry.size_bytes;
	struct vublk_error error = { 0 };

	engine->rescans++;
	if (engine->ops->refresh && engine->ops->refresh(engine, &error)) {
		vublk_log_limited(engine->log, limit, VUBLK_LOG_WARNING,
				  "cannot resize the disk: %s", error.text);
		return false;
	}
	if (engine->geometry.size_bytes == before)
		vublk_log_limited(engine->log, limit, VUBLK_LOG_INFO,
				  "the size of the disk is unchanged: %" PRIu64 " bytes", before);
	else
		vublk_log_limited(engine->log, limit, VUBLK_LOG_INFO,
				  "the size of the disk changed from %" PRIu64 " to %" PRIu64
				  " bytes", before, engine->geometry.size_bytes);
	return engine->geometry.size_bytes != before;
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
				       "the engine %s does not use a file; remove blk-file '%s'",
				       name,
				       options->path);
	if (!options->size_bytes)
		return vublk_error_set(error, EINVAL,
				       "the engine %s needs a size; set size=BYTES", name);
	if (options->size_bytes % 512)
		return vublk_error_set(error, EINVAL,
				       "size must be a multiple of 512 bytes, not %" PRIu64,
				       options->size_bytes);
	return 0;
}
