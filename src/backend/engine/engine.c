/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opens, rescans and closes an engine, and checks the geometry that it reports, because an engine
 * may be a third-party module. The list of engines is in list.c.
 */
#include "backend/engine/engine.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

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
				       "logical-block-size is %u bytes, but requests to %s need at "
				       "least %u bytes; use that size%s", block, engine->description,
				       geometry->min_block_bytes, engine->ops->flags &
				       VUBLK_ENGINE_USES_PATH ? " or cache=buffered" : "");
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

static bool is_block_size(uint32_t bytes)
{
	return bytes >= 512 && bytes <= VUBLK_ENGINE_MAX_BLOCK_BYTES && vublk_is_power_of_two(bytes);
}

/* Sets the defaults of the geometry, and refuses a geometry that no disk can have. */
static int check_geometry(struct vublk_engine *engine, struct vublk_error *error)
{
	struct vublk_engine_geometry *geometry = &engine->geometry;

	if (!geometry->block_bytes)
		geometry->block_bytes = 512;
	if (!geometry->physical_block_bytes)
		geometry->physical_block_bytes = geometry->block_bytes;
	if (!is_block_size(geometry->block_bytes) || !is_block_size(geometry->physical_block_bytes) ||
	    geometry->physical_block_bytes < geometry->block_bytes)
		return vublk_error_set(error, ENOTSUP, "the engine %s reports a logical block "
				       "size of %u bytes and a physical block size of %u bytes "
				       "for %s, which is a fault of the engine; both must be "
				       "powers of two from 512 to %u, and the physical size must "
				       "not be below the logical one", engine->ops->name,
				       geometry->block_bytes, geometry->physical_block_bytes,
				       engine->description, VUBLK_ENGINE_MAX_BLOCK_BYTES);
	if (!geometry->size_bytes || geometry->size_bytes % 512 || geometry->size_bytes > INT64_MAX)
		return vublk_error_set(error, EMEDIUMTYPE, "%s has %" PRIu64 " bytes; resize it to "
				       "a multiple of 512 bytes, at least 512", engine->description,
				       geometry->size_bytes);
	return 0;
}

/*
 * Refuses an engine that ignores the option read-only. The back-end refuses the driver's writes
 * only if the geometry of the engine says that the disk is read-only.
 */
static int check_read_only(const struct vublk_engine *engine,
			   const struct vublk_engine_options *options, struct vublk_error *error)
{
	if (!options->read_only || engine->geometry.read_only)
		return 0;
	return vublk_error_set(error, ENOTSUP, "the engine %s ignores the option read-only for %s, which "
			       "is a fault of the engine; install another version of the engine",
			       engine->ops->name, engine->description);
}

static int check_options(const struct vublk_engine_ops *ops,
			 const struct vublk_engine_options *options, struct vublk_error *error)
{
	if (options->path && !(ops->flags & VUBLK_ENGINE_USES_PATH))
		return vublk_error_set(error, EINVAL,
				       "the engine %s does not use a file; remove blk-file '%s'",
				       ops->name, options->path);
	if (options->size_bytes && !(ops->flags & VUBLK_ENGINE_USES_SIZE))
		return vublk_error_set(error, EINVAL, "the storage of the engine %s has a size of its "
				       "own; remove the option size", ops->name);
	return 0;
}

static struct vublk_engine_host *new_host(const struct vublk_engine_ops *ops,
					  const struct vublk_engine_options *options)
{
	struct vublk_engine_host *host = calloc(1, sizeof(*host));

	if (!host)
		return NULL;
	host->ops = ops;
	host->log = options->log;
	host->rescan = options->rescan;
	host->rescan_opaque = options->rescan_opaque;
	pthread_mutex_init(&host->lock, NULL);
	return host;
}

static void free_host(struct vublk_engine_host *host)
{
	pthread_mutex_destroy(&host->lock);
	free(host);
}

static int open_with(struct vublk_engine_host *host, const struct vublk_engine_options *options,
		     struct vublk_engine **engine, struct vublk_error *error)
{
	const struct vublk_engine_params params = {
		.host = host,
		.path = options->path,
		.size_bytes = options->size_bytes,
		.read_only = options->read_only,
		.num_queues = options->num_queues,
	};
	int r;

	host->options = options;
	r = host->ops->open(&params, engine, error);
	host->options = NULL;
	if (r)
		return r;
	(*engine)->ops = host->ops;
	(*engine)->host = host;
	r = check_read_only(*engine, options, error);
	if (!r)
		r = check_geometry(*engine, error);
	if (!r)
		r = set_block_sizes(*engine, options, error);
	if (r)
		host->ops->close(*engine);
	return r;
}

int vublk_engine_open(const struct vublk_engine_ops *ops,
		      const struct vublk_engine_options *options, struct vublk_engine **result,
		      struct vublk_error *error)
{
	struct vublk_engine_host *host;
	struct vublk_engine *engine;
	int r = check_options(ops, options, error);

	if (r)
		return r;
	host = new_host(ops, options);
	if (!host)
		return vublk_error_set(error, ENOMEM, "cannot allocate memory for the engine %s",
				       ops->name);
	r = open_with(host, options, &engine, error);
	if (r) {
		free_host(host);
		return r;
	}
	*result = engine;
	return 0;
}

void vublk_engine_close(struct vublk_engine *engine)
{
	struct vublk_engine_host *host;

	if (!engine)
		return;
	host = engine->host;
	engine->ops->close(engine);
	free_host(host);
}

/* Reads the size again. Keeps the old size if the new one does not fit the block size. */
static int refresh(struct vublk_engine *engine, struct vublk_error *error)
{
	struct vublk_engine_geometry *geometry = &engine->geometry;
	uint64_t before = geometry->size_bytes, now;
	int r;

	if (!engine->ops->refresh)
		return 0;
	r = engine->ops->refresh(engine, error);
	now = geometry->size_bytes;
	if (!r && now && !(now % geometry->block_bytes) && now <= INT64_MAX)
		return 0;
	geometry->size_bytes = before;
	return r ? r : vublk_error_set(error, EINVAL, "%s now has %" PRIu64 " bytes, which is not a "
				       "multiple of its block size of %u bytes; resize it again",
				       engine->description, now, geometry->block_bytes);
}

bool vublk_engine_rescan(struct vublk_engine *engine, struct vublk_log_limit *limit)
{
	uint64_t before = engine->geometry.size_bytes;
	struct vublk_error error = { 0 };

	engine->host->rescans++;
	if (refresh(engine, &error)) {
		vublk_log_limited(engine->host->log, limit, VUBLK_LOG_WARNING,
				  "cannot resize the disk: %s", error.text);
		return false;
	}
	if (engine->geometry.size_bytes == before)
		vublk_log_limited(engine->host->log, limit, VUBLK_LOG_INFO,
				  "the size of the disk is unchanged: %" PRIu64 " bytes", before);
	else
		vublk_log_limited(engine->host->log, limit, VUBLK_LOG_INFO,
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

int vublk_engine_check_size(const char *name, const struct vublk_engine_params *params,
			    struct vublk_error *error)
{
	if (!params->size_bytes)
		return vublk_error_set(error, EINVAL,
				       "the engine %s needs a size; set size=BYTES", name);
	if (params->size_bytes % 512)
		return vublk_error_set(error, EINVAL,
				       "size must be a multiple of 512 bytes, not %" PRIu64,
				       params->size_bytes);
	return 0;
}
