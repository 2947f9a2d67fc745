/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The engine nbd: a disk that an NBD server stores. The engine has several connections if the
 * server permits them (multi-conn), and each queue uses one of them. Otherwise all queues share one
 * connection, because without multi-conn a flush covers only the writes of its own connection.
 */
#include "engines/nbd/nbd.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define FIRST_CONNECT_MS 10000
#define NEXT_CONNECT_MS 2000

/* --- the engine --------------------------------------------------------------- */

static int nbd_refresh(struct vublk_engine *base, struct vublk_error *error)
{
	struct nbd_engine *engine = (struct nbd_engine *)base;

	base->geometry.size_bytes = atomic_load(&engine->size_now);
	return 0;
}

/*
 * Makes a pending SIGTERM or SIGINT interrupt the opening, for programs that block these signals
 * until they have opened their disk. The signal stays pending, because the engine does not read it.
 * If signalfd() fails, such a signal does not interrupt the opening.
 */
static void watch_signals(struct nbd_engine *engine)
{
	sigset_t ends;

	sigemptyset(&ends);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGINT);
	engine->connector.stop_fd = signalfd(-1, &ends, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void stop_watching_signals(struct nbd_engine *engine)
{
	if (engine->connector.stop_fd >= 0)
		close(engine->connector.stop_fd);
	engine->connector.stop_fd = -1;
}

static void nbd_engine_close(struct vublk_engine *base)
{
	struct nbd_engine *engine = (struct nbd_engine *)base;

	vublk_nbd_connector_stop(engine);
	vublk_nbd_attempt_abandon(engine);
	for (unsigned i = 0; i < NBD_MAX_CONNECTIONS; i++) {
		vublk_nbd_disconnect(&engine->connections[i]);
		vublk_nbd_wire_close(&engine->connections[i].wire);
	}
	if (engine->connector.wake_fd >= 0)
		close(engine->connector.wake_fd);
	stop_watching_signals(engine);
	pthread_mutex_destroy(&engine->lock);
	free(engine->uri);
	free(engine);
}

/*
 * Returns a number from which the disk's serial is made: a hash (FNV-1a) of the URI, because NBD
 * gives an export no identifier.
 */
static uint64_t identity_of(const char *uri)
{
	uint64_t identity = UINT64_C(0xcbf29ce484222325);

	for (; *uri; uri++)
		identity = (identity ^ (uint8_t)*uri) * UINT64_C(0x100000001b3);
	return identity;
}

static struct nbd_engine *new_engine(const struct vublk_engine_params *params, const char *uri)
{
	struct nbd_engine *engine = calloc(1, sizeof(*engine));

	if (!engine)
		return NULL;
	engine->host = params->host;
	engine->uri = strdup(uri);
	engine->engine.identity = identity_of(uri);
	engine->connector.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	watch_signals(engine);
	pthread_mutex_init(&engine->lock, NULL);
	for (unsigned i = 0; i < NBD_MAX_CONNECTIONS; i++)
		engine->connections[i].engine = engine;
	snprintf(engine->engine.description, sizeof(engine->engine.description), "the NBD export %s",
		 uri);
	if (engine->uri && engine->connector.wake_fd >= 0)
		return engine;
	nbd_engine_close(&engine->engine);
	return NULL;
}

static int open_next(struct nbd_engine *engine, struct vublk_error *error)
{
	struct nbd_connection *connection = &engine->connections[engine->num_connections];
	const char *misfit;
	int r = vublk_nbd_connect(connection, NEXT_CONNECT_MS, error);

	if (r)
		return r;
	misfit = vublk_nbd_find_misfit(engine, &connection->export, engine->num_connections + 1);
	if (!misfit)
		return 0;
	vublk_nbd_disconnect(connection);
	return vublk_engine_fail(error, EPROTO,
				 "cannot use another connection to the NBD server at %s, because %s",
				 engine->uri, misfit);
}

/*
 * Opens further connections. Fails only if it is interrupted, because the disk also works with fewer
 * connections.
 */
static int open_further(struct nbd_engine *engine, unsigned wanted, struct vublk_error *error)
{
	struct vublk_error why = { 0 };

	while (engine->num_connections < wanted) {
		if (!open_next(engine, &why)) {
			engine->num_connections++;
			continue;
		}
		if (vublk_nbd_connector_check(engine))
			return vublk_engine_fail(error, why.code, "%s", why.text);
		vublk_engine_log(engine->host, VUBLK_LOG_WARNING, "%s; the disk continues with %u "
				 "connection%s", why.text, engine->num_connections,
				 engine->num_connections == 1 ? "" : "s");
		break;
	}
	return 0;
}

static void fill_geometry(struct nbd_engine *engine, bool read_only)
{
	const struct nbd_export *export = &engine->export;

	engine->engine.geometry = (struct vublk_engine_geometry){
		.size_bytes = export->size_bytes,
		.block_bytes = export->min_block,
		.min_block_bytes = export->min_block,
		.physical_block_bytes = export->preferred_block,
		.discard_bytes = export->trim ? export->preferred_block : 0,
		.zeroes_may_unmap = export->zero,
		.read_only = read_only || export->read_only,
	};
}

static void check_durability(const struct nbd_engine *engine)
{
	if (engine->export.flush || engine->export.fua || engine->engine.geometry.read_only)
		return;
	vublk_engine_log(engine->host, VUBLK_LOG_WARNING,
			 "the server of %s supports neither flushes nor FUA, so completed writes may be "
			 "lost when the server fails, even after a flush",
			 engine->engine.description);
}

static int set_up(struct nbd_engine *engine, const struct vublk_engine_params *params,
		  struct vublk_error *error)
{
	uint64_t wanted = 0;
	int r = vublk_engine_option_number(params, "connections", 1, NBD_MAX_CONNECTIONS, &wanted,
					   error);

	engine->trusts_unflushed = !strcmp(vublk_engine_option(params, "unflushed"), "trust");
	if (!r)
		r = vublk_nbd_connect(&engine->connections[0], FIRST_CONNECT_MS, error);
	if (r)
		return r;
	engine->export = engine->connections[0].export;
	engine->num_connections = 1;
	atomic_store(&engine->size_now, engine->export.size_bytes);
	fill_geometry(engine, params->read_only);
	check_durability(engine);
	if (params->num_queues && wanted > params->num_queues)
		wanted = params->num_queues;
	if (engine->export.multi_conn)
		r = open_further(engine, (unsigned)wanted, error);
	stop_watching_signals(engine);
	return r ? r : vublk_nbd_connector_start(engine, error);
}

static int nbd_open(const struct vublk_engine_params *params, struct vublk_engine **result,
		    struct vublk_error *error)
{
	const char *uri = vublk_engine_option(params, "uri");
	struct nbd_engine *engine;
	int r;

	if (!uri)
		return vublk_engine_fail(error, EINVAL, "the engine nbd needs a server; set "
					 "uri=nbd://HOST/EXPORT or uri=nbd+unix:///EXPORT?socket=PATH");
	engine = new_engine(params, uri);
	if (!engine)
		return vublk_engine_fail(error, ENOMEM, "cannot allocate memory or an eventfd for the engine nbd");
	r = set_up(engine, params, error);
	if (r) {
		nbd_engine_close(&engine->engine);
		return r;
	}
	*result = &engine->engine;
	return 0;
}

static const char *const unflushed_words[] = { "fail", "trust", NULL };

static const struct vublk_property options[] = {
	{ "uri", "string", NULL, "NBD URI of the export, such as nbd://HOST/EXPORT, "
				 "nbds://HOST/EXPORT (TLS) or nbd+unix:///EXPORT?socket=PATH" },
	{ "connections", "number", "4", "maximum number of connections, 1 to 16, if the server permits "
					"several (multi-conn)" },
	{ "unflushed", "choice", "fail", "what happens when a connection is lost before completed writes "
					 "were flushed: fail (the next flush fails) or trust (the server "
					 "still has the writes)", unflushed_words },
	{ NULL },
};

static const struct vublk_engine_ops nbd_ops = {
	.name = "nbd",
	.options = options,
	.open = nbd_open,
	.close = nbd_engine_close,
	.refresh = nbd_refresh,
	.queue_new = vublk_nbd_queue_new,
};

VUBLK_ENGINE_MODULE(nbd_ops);
