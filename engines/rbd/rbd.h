/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_ENGINES_RBD_H
#define VUBLK_ENGINES_RBD_H

/* The engine rbd: an image in a Ceph cluster, which is accessed with librbd. */
#include <vublk/engine.h>

#include <rados/librados.h>
#include <rbd/librbd.h>

/*
 * The engine: its connection to the cluster, the image, and the size of the image. The queues use
 * only `image`.
 */
struct vublk_rbd {
	struct vublk_engine engine; /* must be the first member */

	/* constant after open_engine(); NULL: not open */
	rados_t cluster;
	rados_ioctx_t pool;
	rbd_image_t image;
	uint64_t watch; /* the handle of rbd_update_watch() */
	bool has_watch;
	struct vublk_engine_host *host;

	uint64_t told_bytes; /* the last size that librbd has reported; librbd's threads and the
				control thread access it with relaxed atomics */
};

int vublk_rbd_queue_new(struct vublk_engine *engine, struct vublk_engine_queue **queue,
		  struct vublk_error *error);

/* --- image.c ----------------------------------------------------------------------- */

/*
 * Opens the image, and the snapshot if the options name one. If this function or
 * vublk_rbd_cluster_open() fails, the caller must call vublk_rbd_image_close() and
 * vublk_rbd_cluster_close(), which close what has been opened.
 */
int vublk_rbd_image_open(struct vublk_rbd *rbd, const struct vublk_engine_params *params,
		   struct vublk_error *error);
void vublk_rbd_image_close(struct vublk_rbd *rbd);
/* Checks a size that librbd has reported. */
int vublk_rbd_image_check_size(const struct vublk_rbd *rbd, uint64_t bytes, struct vublk_error *error);

/* --- cluster.c --------------------------------------------------------------------- */

/* Connects to the cluster and opens the pool and the namespace. */
int vublk_rbd_cluster_open(struct vublk_rbd *rbd, const struct vublk_engine_params *params,
		     struct vublk_error *error);
void vublk_rbd_cluster_close(struct vublk_rbd *rbd);

#endif
