/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The engine rbd: the options, the opening and the closing. cluster.c connects to the cluster,
 * image.c opens the image, and queue.c executes requests.
 */
#include "engines/rbd/rbd.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

static const struct vublk_property options[] = {
	{ "pool", "string", "rbd", "pool of the image" },
	{ "namespace", "string", NULL, "namespace of the image within its pool" },
	{ "image", "string", NULL, "name of the image" },
	{ "snapshot", "string", NULL, "serve this snapshot of the image, read-only" },
	{ "user", "string", "admin", "user of the cluster, without the prefix 'client.'" },
	{ "conf", "string", NULL,
	  "configuration file of the cluster (default: $CEPH_CONF, then /etc/ceph/ceph.conf and the "
	  "other places of Ceph's programs)" },
	{ "exclusive-lock", "bool", "on",
	  "refuse an image that another client has open for writing, and keep it locked; off: pass "
	  "the lock to each client that wants to write" },
	{ NULL },
};

static void close_all(struct vublk_engine *engine)
{
	struct vublk_rbd *rbd = (struct vublk_rbd *)engine;

	vublk_rbd_image_close(rbd);
	vublk_rbd_cluster_close(rbd);
	free(rbd);
}

static int open_all(struct vublk_rbd *rbd, const struct vublk_engine_params *params,
		    struct vublk_error *error)
{
	sigset_t all, before;
	int r;

	/*
	 * The threads of librados inherit this mask, so signals go to the program's own threads.
	 * SIGBUS stays unblocked, because a fault while it is blocked would end the process.
	 */
	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = vublk_rbd_cluster_open(rbd, params, error);
	if (!r)
		r = vublk_rbd_image_open(rbd, params, error);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return r;
}

static int open_engine(const struct vublk_engine_params *params, struct vublk_engine **engine,
		       struct vublk_error *error)
{
	struct vublk_rbd *rbd = calloc(1, sizeof(*rbd));
	int r;

	if (!rbd)
		return vublk_engine_fail(error, ENOMEM, "cannot allocate memory for the engine rbd");
	rbd->host = params->host;
	r = open_all(rbd, params, error);
	if (r) {
		close_all(&rbd->engine);
		return r;
	}
	*engine = &rbd->engine;
	return 0;
}

/*
 * Takes the size that librbd has reported last. Asking librbd could block the control thread while
 * the cluster is unreachable.
 */
static int refresh(struct vublk_engine *engine, struct vublk_error *error)
{
	struct vublk_rbd *rbd = (struct vublk_rbd *)engine;
	uint64_t bytes = __atomic_load_n(&rbd->told_bytes, __ATOMIC_RELAXED);
	int r = vublk_rbd_image_check_size(rbd, bytes, error);

	if (!r)
		engine->geometry.size_bytes = bytes;
	return r;
}

static const struct vublk_engine_ops ops = {
	.name = "rbd",
	.options = options,
	.open = open_engine,
	.close = close_all,
	.refresh = refresh,
	.queue_new = vublk_rbd_queue_new,
};

VUBLK_ENGINE_MODULE(ops);
