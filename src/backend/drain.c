/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Drains a back-end for planned maintenance: the back-end takes no more requests, completes those
 * that it has begun, flushes the storage, and finishes.
 *
 * Key idea: until the flush has succeeded, the back-end can return to normal service. So a request
 * that hangs, or a flush that hangs or fails, only ends the drain. Only this process knows that
 * writes were lost, and can make the driver's flushes fail, so it must survive a failed flush.
 */
#include "backend/backend.h"

#include "util/error.h"
#include "util/struct.h"

#include <errno.h>

#define NS_PER_MS UINT64_C(1000000)

static bool is_draining(const struct vublk_backend *backend)
{
	return backend->drain.state == VUBLK_BACKEND_DRAINING;
}

static void notify(const struct vublk_backend *backend, enum vublk_notice_kind kind,
		   const char *reason)
{
	vublk_notify(&backend->notifier, &(struct vublk_notice){ .kind = kind, .reason = reason });
}

/* Ends a drain without success. The back-end serves as before. */
static void fail(struct vublk_backend *backend, const struct vublk_error *why)
{
	vublk_loop_timer_disarm(&backend->drain.timer);
	backend->drain.state = VUBLK_BACKEND_DRAIN_FAILED;
	backend->drain.failure = *why;
	notify(backend, VUBLK_NOTICE_DRAIN_FAILED, why->text);
	vublk_log_limited(&backend->log, &backend->limit, VUBLK_LOG_WARNING,
			  "the drain has failed: %s; the disk is served as before", why->text);
	if (backend->session)
		vublk_session_release(backend->session);
	else
		vublk_backend_listen_again(backend, "the drain has failed");
}

static void on_timer(void *opaque)
{
	struct vublk_backend *backend = opaque;
	struct vublk_error why;
	unsigned waiting = backend->session ? backend->session->waiting : 0;

	if (!is_draining(backend))
		return;
	if (backend->drain.flush.is_busy)
		vublk_error_set(&why, ETIMEDOUT, "the storage has not completed the flush within %llu ms",
				(unsigned long long)backend->drain.timeout_ms);
	else
		vublk_error_set(&why, ETIMEDOUT, "the storage has not completed the requests of %u "
				"queue%s within %llu ms", waiting, waiting == 1 ? "" : "s",
				(unsigned long long)backend->drain.timeout_ms);
	fail(backend, &why);
}

static void on_flushed(void *opaque, int result)
{
	struct vublk_backend *backend = opaque;
	struct vublk_error why;

	if (!is_draining(backend))
		return; /* the drain has failed in the meantime, or the back-end was told to stop */
	if (result) {
		vublk_error_set_errno(&why, -result, "cannot flush %s",
				      backend->engine->description);
		fail(backend, &why);
		return;
	}
	vublk_loop_timer_disarm(&backend->drain.timer);
	backend->drain.state = VUBLK_BACKEND_DRAINED;
	notify(backend, VUBLK_NOTICE_DRAINED, NULL);
	vublk_log_limited(&backend->log, &backend->limit, VUBLK_LOG_INFO,
			  "the disk is drained: all requests that were begun are complete, and %s is "
			  "flushed", backend->engine->description);
	vublk_backend_stop(backend);
}

/* Called when no request is outstanding and none can begin. */
static void flush(struct vublk_backend *backend)
{
	if (is_draining(backend) && !backend->drain.flush.is_busy)
		vublk_backend_worker_flush(backend->workers[0], &backend->drain.flush);
}

static int check(const struct vublk_backend *backend, struct vublk_error *error)
{
	if (backend->state != VUBLK_BACKEND_LISTENING && backend->state != VUBLK_BACKEND_SERVING)
		return vublk_error_set(error, EBUSY, "this process is about to end");
	if (is_draining(backend))
		return vublk_error_set(error, EBUSY, "the disk is being drained already");
	if (backend->upgrade.upgrade)
		return vublk_error_set(error, EBUSY, "an upgrade is under way; drain the disk when "
				       "it has ended");
	if (backend->drain.flush.is_busy)
		return vublk_error_set(error, EBUSY, "the storage has not completed the flush of the "
				       "previous drain; try again later");
	return 0;
}

int vublk_backend_drain(struct vublk_backend *backend, uint64_t timeout_ms,
			struct vublk_error *error)
{
	int r = check(backend, error);

	if (r < 0)
		return r;
	backend->drain.state = VUBLK_BACKEND_DRAINING;
	notify(backend, VUBLK_NOTICE_DRAIN_STARTED, NULL);
	backend->drain.timeout_ms = timeout_ms;
	backend->drain.idle = flush;
	backend->drain.flush.control = &backend->loop;
	backend->drain.flush.done = on_flushed;
	backend->drain.flush.opaque = backend;
	backend->drain.timer = (struct vublk_loop_timer){ .fn = on_timer, .opaque = backend };
	vublk_loop_timer_arm(&backend->loop, &backend->drain.timer,
			     vublk_now_ns() + timeout_ms * NS_PER_MS);
	vublk_loop_remove(&backend->listen_source);
	vublk_loop_timer_disarm(&backend->listen_timer);
	if (backend->session)
		vublk_session_hold(backend->session, false);
	else
		flush(backend);
	return 0;
}
