/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Completed writes that a server may have lost.
 *
 * Key idea: a server may keep completed writes in its own memory until a flush, and lose them when
 * it dies. The client only sees that a connection ends. So if completed writes were not flushed by
 * then, the next flush of each queue fails (unflushed=fail).
 *
 * When a server dies, some connections may notice it later than others. Meanwhile a flush could
 * reach the next server, and succeed for writes that only the dead server had. So if one connection
 * is lost, all of them are closed and opened again, and flushes wait until all of them are open. The
 * engine counts these losses: the generation of a connection is the count when it began to connect.
 */
#include "engines/nbd/nbd.h"

static void wake_all(struct nbd_engine *engine)
{
	for (unsigned i = 0; i < engine->num_connections; i++)
		vublk_nbd_connection_wake(&engine->connections[i]);
}

bool vublk_nbd_loss_is_outdated(const struct nbd_connection *connection)
{
	return atomic_load(&connection->generation) != atomic_load(&connection->engine->generation);
}

void vublk_nbd_loss_connected(struct nbd_connection *connection, unsigned generation)
{
	atomic_store(&connection->generation, generation);
	wake_all(connection->engine); /* flushes may wait for this connection */
}

void vublk_nbd_loss_disconnected(struct nbd_connection *connection)
{
	struct nbd_engine *engine = connection->engine;
	unsigned generation = atomic_load(&connection->generation);
	uint64_t written = atomic_load(&engine->num_written);

	/* Another connection may have noticed the same loss already. */
	if (atomic_compare_exchange_strong(&engine->generation, &generation, generation + 1))
		wake_all(engine);
	if (engine->trusts_unflushed || written <= atomic_load(&engine->num_flushed))
		return;
	vublk_nbd_loss_flushed(engine, written); /* each loss is reported once */
	atomic_fetch_add(&engine->num_losses, 1);
	vublk_engine_log(engine->host, VUBLK_LOG_WARNING,
			 "the connection to %s was lost before completed writes were flushed; these "
			 "writes are lost if the server cached them in its own memory, so the next "
			 "flush fails (set unflushed=trust if the server keeps completed writes)",
			 engine->engine.description);
}

bool vublk_nbd_loss_may_flush(struct nbd_engine *engine)
{
	for (unsigned i = 0; i < engine->num_connections; i++)
		if (vublk_nbd_loss_is_outdated(&engine->connections[i]))
			return false;
	return true;
}

void vublk_nbd_loss_flushed(struct nbd_engine *engine, uint64_t written)
{
	uint64_t now = atomic_load(&engine->num_flushed);

	while (now < written && !atomic_compare_exchange_weak(&engine->num_flushed, &now, written))
		;
}

/*
 * A flush that was submitted before the loss fails, too, but does not count as the report of it: a
 * write that was lost may have completed after the flush was submitted.
 */
bool vublk_nbd_loss_fails_flush(const struct nbd_request *request)
{
	struct nbd_queue *queue = request->queue;

	if (queue->num_reported == atomic_load(&queue->connection->engine->num_losses))
		return false;
	queue->num_reported = request->num_losses;
	return true;
}
