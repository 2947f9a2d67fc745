/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A worker's access to the engine. A queue that owns its connection executes its requests on the
 * worker's thread. A queue that shares the connection of another queue passes its requests to the
 * owner, which passes them back when they are complete.
 *
 * The descriptor of a queue is an epoll descriptor, because the socket changes with each
 * connection. It contains the socket, if the queue owns the connection, and an eventfd for messages
 * of other threads.
 */
#include "engines/nbd/nbd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

void vublk_nbd_queue_signal(struct nbd_queue *queue)
{
	if (!queue || atomic_load(&queue->is_signalled))
		return;
	atomic_store(&queue->is_signalled, true);
	eventfd_write(queue->wake_fd, 1);
}

void vublk_nbd_queue_signal_all(struct nbd_engine *engine)
{
	for (struct nbd_queue *queue = engine->queues; queue; queue = queue->next)
		vublk_nbd_queue_signal(queue);
}

struct nbd_connection *vublk_nbd_queue_connection(const struct nbd_queue *queue)
{
	struct nbd_engine *engine = (struct nbd_engine *)queue->queue.engine;

	return &engine->connections[queue->index % engine->num_used];
}

static bool is_owner(const struct nbd_queue *queue)
{
	/*
	 * The load may be relaxed, because only this thread makes this queue the owner, or ends its
	 * ownership.
	 */
	return atomic_load_explicit(&queue->connection->owner, memory_order_relaxed) == queue;
}

/* --- requests ----------------------------------------------------------------- */

static struct nbd_request *new_request(struct nbd_queue *queue)
{
	return queue->unused.first ? vublk_nbd_list_take(&queue->unused) :
				     malloc(sizeof(struct nbd_request));
}

static void nbd_submit(struct vublk_engine_queue *base, struct vublk_engine_io *io)
{
	struct nbd_queue *queue = (struct nbd_queue *)base;
	struct nbd_engine *engine = (struct nbd_engine *)base->engine;
	struct nbd_request *request = new_request(queue);

	if (!request) {
		io->result = -ENOMEM;
		io->next = queue->failed;
		queue->failed = io;
		return;
	}
	request->io = io;
	request->queue = queue;
	request->error = 0;
	request->needs_flush = false;
	request->done_bytes = 0;
	request->num_claims = 0;
	request->num_losses = atomic_load(&engine->num_losses);
	if ((io->offset | io->bytes) & (engine->export.min_block - 1)) {
		request->error = -EINVAL;
		vublk_nbd_list_append(&queue->done, request);
		return;
	}
	queue->has_changes |= vublk_nbd_is_change(io);
	vublk_nbd_list_append(&queue->submitted, request);
}

/* Removes from `submitted` the requests that must wait for older changes. Called under the lock. */
static void put_in_order(struct nbd_queue *queue, struct nbd_engine *engine)
{
	struct nbd_list all = queue->submitted;

	queue->submitted.first = NULL;
	while (all.first) {
		struct nbd_request *request = vublk_nbd_list_take(&all);

		if (!vublk_nbd_is_change(request->io) || vublk_nbd_order_add(&engine->order, request))
			vublk_nbd_list_append(&queue->submitted, request);
	}
}

/* Makes the queue the owner of its connection, which must have no owner. Called under the lock. */
static void adopt(struct nbd_queue *queue, struct nbd_engine *engine)
{
	struct nbd_connection *connection = queue->connection;

	connection->owner = queue;
	connection->is_in_use = engine->is_connected;
	if (connection->is_in_use)
		vublk_nbd_connection_attach(connection);
	vublk_nbd_queue_signal(queue); /* requests may be waiting, or the connection may be outdated */
}

/*
 * If the queue has to use another connection, makes it switch, and passes on the requests that wait
 * for the previous connection. These requests are not in flight, because the number of connections
 * changes only after all connections were lost. Called under the lock.
 */
static void change_connection(struct nbd_queue *queue, struct nbd_engine *engine)
{
	struct nbd_connection *connection = vublk_nbd_queue_connection(queue);
	struct nbd_connection *previous = queue->connection;

	if (connection != previous && is_owner(queue)) {
		vublk_nbd_list_move(&connection->passed, &previous->waiting);
		vublk_nbd_list_move(&connection->passed, &previous->passed);
		vublk_nbd_connection_detach(previous);
		previous->owner = NULL;
		vublk_nbd_queue_signal_all(engine); /* one of these queues becomes the owner */
	}
	queue->connection = connection;
	if (!connection->owner)
		adopt(queue, engine);
}

static void nbd_commit(struct vublk_engine_queue *base)
{
	struct nbd_queue *queue = (struct nbd_queue *)base;
	struct nbd_engine *engine = (struct nbd_engine *)base->engine;
	struct nbd_connection *connection;

	if (!queue->submitted.first)
		return;
	if (queue->has_changes || !is_owner(queue)) {
		pthread_mutex_lock(&engine->lock);
		put_in_order(queue, engine);
		change_connection(queue, engine);
		connection = queue->connection;
		if (!is_owner(queue) && queue->submitted.first) {
			vublk_nbd_list_move(&connection->passed, &queue->submitted);
			vublk_nbd_queue_signal(connection->owner);
		}
		pthread_mutex_unlock(&engine->lock);
		queue->has_changes = false;
	}
	if (!queue->submitted.first)
		return;
	vublk_nbd_list_move(&queue->connection->waiting, &queue->submitted);
	vublk_nbd_connection_turn(queue->connection, false);
}

/* Takes the requests that other threads have passed to this queue. */
static void take_messages(struct nbd_queue *queue)
{
	struct nbd_engine *engine = (struct nbd_engine *)queue->queue.engine;
	struct nbd_connection *connection;
	eventfd_t count;

	pthread_mutex_lock(&engine->lock);
	atomic_store(&queue->is_signalled, false);
	eventfd_read(queue->wake_fd, &count);
	vublk_nbd_list_move(&queue->done, &queue->passed_done);
	change_connection(queue, engine);
	connection = queue->connection;
	if (is_owner(queue)) {
		vublk_nbd_list_move(&connection->waiting, &connection->passed);
		if (connection->is_in_use && !connection->is_attached)
			vublk_nbd_connection_attach(connection);
	}
	pthread_mutex_unlock(&engine->lock);
}

static void nbd_woken(struct vublk_engine_queue *base)
{
	((struct nbd_queue *)base)->is_woken = true;
}

static void turn(struct nbd_queue *queue)
{
	bool is_woken = queue->is_woken;

	queue->is_woken = false;
	if (atomic_load(&queue->is_signalled))
		take_messages(queue);
	if (is_owner(queue))
		vublk_nbd_connection_turn(queue->connection, is_woken);
}

static unsigned nbd_poll_done(struct vublk_engine_queue *base, struct vublk_engine_io **ios,
			      unsigned max)
{
	struct nbd_queue *queue = (struct nbd_queue *)base;
	unsigned n = 0;

	if (queue->is_woken || atomic_load_explicit(&queue->is_signalled, memory_order_relaxed))
		turn(queue);
	for (; queue->failed && n < max; queue->failed = queue->failed->next)
		ios[n++] = queue->failed;
	while (queue->done.first && n < max) {
		struct nbd_request *request = vublk_nbd_list_take(&queue->done);

		request->io->result = request->error;
		ios[n++] = request->io;
		/* Reuse the most recently used memory first, because it is probably cached. */
		request->next = queue->unused.first;
		if (!queue->unused.first)
			queue->unused.last = request;
		queue->unused.first = request;
	}
	return n;
}

/* --- life --------------------------------------------------------------------- */

static void close_queue(struct nbd_queue *queue)
{
	while (queue->unused.first)
		free(vublk_nbd_list_take(&queue->unused));
	if (queue->wake_fd >= 0)
		close(queue->wake_fd);
	if (queue->queue.fd >= 0)
		close(queue->queue.fd);
	free(queue);
}

static void remove_queue(struct nbd_engine *engine, const struct nbd_queue *queue)
{
	struct nbd_queue **link = &engine->queues;

	while (*link != queue)
		link = &(*link)->next;
	*link = queue->next;
}

static void nbd_queue_free(struct vublk_engine_queue *base)
{
	struct nbd_queue *queue = (struct nbd_queue *)base;
	struct nbd_engine *engine = (struct nbd_engine *)base->engine;

	pthread_mutex_lock(&engine->lock);
	remove_queue(engine, queue);
	if (is_owner(queue)) {
		vublk_nbd_connection_detach(queue->connection);
		queue->connection->owner = NULL;
	}
	pthread_mutex_unlock(&engine->lock);
	vublk_nbd_connector_wake(engine); /* the connector may wait until this owner has stopped */
	close_queue(queue);
}

static const struct vublk_engine_queue_ops queue_ops = {
	.free = nbd_queue_free,
	.submit = nbd_submit,
	.commit = nbd_commit,
	.woken = nbd_woken,
	.poll = nbd_poll_done,
};

static int open_descriptors(struct nbd_queue *queue, struct vublk_error *error)
{
	struct epoll_event event = { .events = EPOLLIN };

	queue->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (queue->wake_fd < 0)
		return vublk_engine_fail(error, errno, "cannot create an eventfd for a queue: %s",
					 strerrordesc_np(errno));
	queue->queue.fd = epoll_create1(EPOLL_CLOEXEC);
	if (queue->queue.fd < 0 ||
	    epoll_ctl(queue->queue.fd, EPOLL_CTL_ADD, queue->wake_fd, &event))
		return vublk_engine_fail(error, errno,
					 "cannot create an epoll descriptor for a queue: %s",
					 strerrordesc_np(errno));
	return 0;
}

int vublk_nbd_queue_new(struct vublk_engine *base, struct vublk_engine_queue **result,
			struct vublk_error *error)
{
	struct nbd_engine *engine = (struct nbd_engine *)base;
	struct nbd_queue *queue = calloc(1, sizeof(*queue));
	int r;

	if (!queue)
		return vublk_engine_fail(error, ENOMEM, "cannot allocate memory for a queue");
	queue->wake_fd = queue->queue.fd = -1;
	r = open_descriptors(queue, error);
	if (r) {
		close_queue(queue);
		return r;
	}
	queue->queue.ops = &queue_ops;
	queue->queue.engine = base;
	/* open() has returned, and the user may have chosen larger blocks than it has proposed. */
	atomic_store(&engine->block_bytes, base->geometry.block_bytes);
	queue->num_reported = atomic_load(&engine->num_losses);
	queue->index = atomic_fetch_add(&engine->num_queues, 1);
	pthread_mutex_lock(&engine->lock);
	queue->next = engine->queues;
	engine->queues = queue;
	queue->connection = vublk_nbd_queue_connection(queue);
	if (!queue->connection->owner)
		adopt(queue, engine);
	pthread_mutex_unlock(&engine->lock);
	*result = &queue->queue;
	return 0;
}
