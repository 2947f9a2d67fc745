/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Completed writes that a server may have lost.
 *
 * Key idea: a server may keep completed writes in its own memory until a flush, and lose them when
 * it dies. The client only sees that a connection ends. So if a connection is lost after writes have
 * completed that no flush has made stable, the next flush of each queue fails (unflushed=fail).
 *
 * When a server dies, some connections may notice it later than others. Meanwhile a flush could
 * reach the next server, and succeed for writes that only the dead server had. So if one connection
 * is lost, all connections end before the first is opened again, and none is used until all are
 * open. If a write then completes on one connection, its server was alive when all the others were
 * opened, so a flush on any of them reaches the same server. `generation` of the engine counts the
 * losses. `generation` of a connection is the count when the connection was opened.
 */
#include "engines/nbd/nbd.h"

bool vublk_nbd_loss_is_outdated(const struct nbd_connection *connection)
{
	return connection->generation != atomic_load(&connection->engine->generation);
}

uint64_t vublk_nbd_loss_num_written(const struct nbd_engine *engine)
{
	uint64_t written = 0;

	for (unsigned i = 0; i < engine->num_connections; i++)
		written += atomic_load(&engine->connections[i].num_written);
	return written;
}

void vublk_nbd_loss_record(struct nbd_engine *engine)
{
	uint64_t written = vublk_nbd_loss_num_written(engine);

	if (engine->trusts_unflushed || written <= atomic_load(&engine->num_flushed))
		return;
	vublk_nbd_loss_flushed(engine, written); /* the next loss must not report these writes again */
	atomic_fetch_add(&engine->num_losses, 1);
	vublk_engine_log(engine->host, VUBLK_LOG_WARNING,
			 "the connection to %s was lost before completed writes were flushed; these "
			 "writes are lost if the server cached them in its own memory, so the next "
			 "flush fails (set unflushed=trust if the server keeps completed writes)",
			 engine->engine.description);
}

void vublk_nbd_loss_flushed(struct nbd_engine *engine, uint64_t written)
{
	uint64_t now = atomic_load(&engine->num_flushed);

	while (now < written && !atomic_compare_exchange_weak(&engine->num_flushed, &now, written))
		;
}

/* Never reduces the number, because a queue's flushes may be on several connections for a while. */
static void report(struct nbd_queue *queue, unsigned num_losses)
{
	unsigned now = atomic_load(&queue->num_reported);

	while (now < num_losses &&
	       !atomic_compare_exchange_weak(&queue->num_reported, &now, num_losses))
		;
}

/*
 * A flush that was submitted before the loss fails, too, even if the loss has been reported
 * meanwhile. It does not count as the report of the loss, because a lost write may have completed
 * after the flush was submitted. So the next flush fails as well.
 */
bool vublk_nbd_loss_fails_flush(const struct nbd_request *request)
{
	struct nbd_queue *queue = request->queue;
	unsigned now = atomic_load(&((struct nbd_engine *)queue->queue.engine)->num_losses);

	if (request->num_losses == now && atomic_load(&queue->num_reported) == now)
		return false;
	report(queue, request->num_losses);
	return true;
}
