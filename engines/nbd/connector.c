/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The thread that connects to the server again after a loss. Unlike the threads of the queues, it
 * may wait for the server.
 *
 * Key idea: if one connection is lost, its owner increments the engine's generation, and all owners
 * stop using their connections. When the last owner has stopped, this thread closes all
 * connections, opens them again, and returns them to their owners together (loss.c says why).
 */
#include "engines/nbd/nbd.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define RETRY_MS 100
#define MAX_RETRY_MS 5000
#define CONNECT_MS 10000

int64_t vublk_nbd_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000) + now.tv_nsec / 1000000;
}

void vublk_nbd_connector_wake(struct nbd_engine *engine)
{
	eventfd_write(engine->connector.wake_fd, 1);
}

short vublk_nbd_connector_wait(struct nbd_engine *engine, int fd, short events, int timeout_ms)
{
	struct pollfd fds[] = {
		{ .fd = engine->connector.wake_fd, .events = POLLIN },
		{ .fd = fd, .events = events },
		{ .fd = engine->connector.stop_fd, .events = POLLIN },
	};
	eventfd_t count;

	if (poll(fds, 3, timeout_ms) <= 0)
		return 0;
	if (fds[0].revents)
		eventfd_read(engine->connector.wake_fd, &count);
	return fds[1].revents;
}

int vublk_nbd_connector_check(const struct nbd_engine *engine)
{
	struct pollfd stop = { .fd = engine->connector.stop_fd, .events = POLLIN };

	if (atomic_load(&engine->connector.quit))
		return -ECANCELED;
	return poll(&stop, 1, 0) > 0 ? -EINTR : 0;
}

/* Waits for `ms` milliseconds. Returns false if the engine is being closed. */
static bool pause_ms(struct nbd_engine *engine, int64_t ms)
{
	int64_t end = vublk_nbd_now_ms() + ms, left = ms;

	for (; left > 0 && !atomic_load(&engine->connector.quit); left = end - vublk_nbd_now_ms())
		vublk_nbd_connector_wait(engine, -1, 0, (int)left);
	return !atomic_load(&engine->connector.quit);
}

static void disconnect_all(struct nbd_engine *engine)
{
	for (unsigned i = 0; i < engine->num_connections; i++)
		vublk_nbd_disconnect(&engine->connections[i]);
}

/* Logs why the engine cannot connect. A repeated reason is only a debug message. */
static void report(struct nbd_engine *engine, const struct vublk_error *error)
{
	struct nbd_connector *connector = &engine->connector;
	bool is_known = !strcmp(connector->failure.text, error->text);

	if (atomic_load(&connector->quit))
		return;
	vublk_engine_log(engine->host, is_known ? VUBLK_LOG_DEBUG : VUBLK_LOG_WARNING,
			 "%s; requests wait, and the engine tries again", error->text);
	connector->failure = *error;
}

static int connect_one(struct nbd_engine *engine, struct nbd_connection *connection,
		       unsigned num_connections)
{
	struct vublk_error error = { 0 };
	const char *misfit;

	if (vublk_nbd_connect(connection, CONNECT_MS, &error)) {
		report(engine, &error);
		return -ENOTCONN;
	}
	misfit = vublk_nbd_find_misfit(engine, &connection->export, num_connections);
	if (!misfit)
		return 0;
	vublk_engine_fail(&error, EPROTO, "cannot use the NBD server at %s, because %s", engine->uri,
			  misfit);
	report(engine, &error);
	return -EPROTO;
}

/*
 * Opens all connections, or one if the server now permits only one. Returns the number of
 * connections, 0 on failure.
 */
static unsigned connect_all(struct nbd_engine *engine)
{
	unsigned num = 1;

	for (unsigned i = 0; i < num; i++) {
		if (connect_one(engine, &engine->connections[i], i + 1)) {
			disconnect_all(engine);
			return 0;
		}
		if (!i && engine->connections[0].export.multi_conn)
			num = engine->num_connections;
	}
	if (num < engine->num_connections)
		vublk_engine_log(engine->host, VUBLK_LOG_WARNING, "the server of %s permits only one "
				 "connection now, so the disk may be slower",
				 engine->engine.description);
	return num;
}

/* Gives the first `num` connections to their owners. */
static void hand_over(struct nbd_engine *engine, unsigned num)
{
	uint64_t size = engine->connections[0].export.size_bytes;

	vublk_engine_log(engine->host, VUBLK_LOG_INFO, "connected to %s again",
			 engine->engine.description);
	if (atomic_exchange(&engine->size_now, size) != size)
		vublk_engine_request_refresh(engine->host);
	engine->connector.connected_ms = vublk_nbd_now_ms();
	engine->connector.failure.text[0] = '\0';
	pthread_mutex_lock(&engine->lock);
	engine->is_connected = true;
	engine->num_used = num;
	for (unsigned i = 0; i < num; i++)
		engine->connections[i].is_in_use = engine->connections[i].owner;
	vublk_nbd_queue_signal_all(engine);
	pthread_mutex_unlock(&engine->lock);
}

/*
 * Returns how long to wait after a loss. Without a pause, a server that always ends the connection
 * would keep both sides busy. The pause grows while new connections end without having executed a
 * request.
 */
static int delay_ms(struct nbd_engine *engine)
{
	struct nbd_connector *connector = &engine->connector;
	int64_t age_ms = vublk_nbd_now_ms() - connector->connected_ms;
	bool has_succeeded = false;

	for (unsigned i = 0; i < engine->num_used; i++)
		has_succeeded |= engine->connections[i].has_succeeded;
	if (has_succeeded || age_ms >= MAX_RETRY_MS)
		connector->retry_ms = age_ms < RETRY_MS ? RETRY_MS : 0;
	else if (!connector->retry_ms)
		connector->retry_ms = RETRY_MS;
	else if (connector->retry_ms < MAX_RETRY_MS / 2)
		connector->retry_ms *= 2;
	else
		connector->retry_ms = MAX_RETRY_MS;
	if (connector->retry_ms)
		vublk_engine_log(engine->host, VUBLK_LOG_DEBUG,
				 "connecting to %s again in %d ms, because the last connection %s",
				 engine->engine.description, connector->retry_ms,
				 has_succeeded ? "was short" : "has not executed a request");
	return connector->retry_ms;
}

/* Returns whether a connection is lost and all owners have stopped using their connections. */
static bool may_connect(struct nbd_engine *engine)
{
	unsigned generation = atomic_load(&engine->generation);
	bool is_lost, is_in_use = false;

	pthread_mutex_lock(&engine->lock);
	is_lost = engine->connections[0].generation != generation;
	for (unsigned i = 0; i < engine->num_connections; i++)
		is_in_use |= engine->connections[i].is_in_use;
	if (is_lost && !is_in_use)
		engine->is_connected = false;
	pthread_mutex_unlock(&engine->lock);
	return is_lost && !is_in_use;
}

static void reconnect(struct nbd_engine *engine)
{
	int delay = delay_ms(engine);
	unsigned num;

	disconnect_all(engine);
	vublk_nbd_loss_record(engine);
	while (pause_ms(engine, delay)) {
		delay = RETRY_MS;
		num = connect_all(engine);
		if (!num)
			continue;
		hand_over(engine, num);
		return;
	}
}

static void *run(void *opaque)
{
	struct nbd_engine *engine = opaque;

	while (!atomic_load(&engine->connector.quit)) {
		if (may_connect(engine))
			reconnect(engine);
		else
			vublk_nbd_connector_wait(engine, -1, 0, -1);
	}
	return NULL;
}

int vublk_nbd_connector_start(struct nbd_engine *engine, struct vublk_error *error)
{
	sigset_t all, before;
	int r;

	engine->is_connected = true;
	engine->num_used = engine->num_connections;
	engine->connector.connected_ms = vublk_nbd_now_ms();
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&engine->connector.thread, NULL, run, engine);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r)
		return vublk_engine_fail(error, r, "cannot start a thread for the engine nbd: %s",
					 strerrordesc_np(r));
	engine->connector.has_thread = true;
	return 0;
}

void vublk_nbd_connector_stop(struct nbd_engine *engine)
{
	atomic_store(&engine->connector.quit, true);
	if (!engine->connector.has_thread)
		return;
	vublk_nbd_connector_wake(engine);
	pthread_join(engine->connector.thread, NULL);
}
