/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The connection to a cluster, and the pool in it. */
#include "engines/rbd/rbd.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Returns the value of an option; NULL if the option is not set or its value is empty. */
static const char *option(const struct vublk_engine_params *params, const char *name)
{
	const char *value = vublk_engine_option(params, name);

	return value && value[0] ? value : NULL;
}

/*
 * These defaults save processor time: fewer threads handle each request, and fewer calls to recv()
 * fetch the replies. docs/rbd.md has the reasons.
 */
static const char own_defaults[] = "[global]\n"
				   "librados_thread_count = 1\n"
				   "ms_tcp_prefetch_max_size = 32768\n"
				   "rbd_non_blocking_aio = false\n";

/* Sets the settings that the configuration must not change. */
static int force_settings(struct vublk_rbd *rbd)
{
	static const char *const settings[][2] = {
		/*
		 * With librbd's cache, writes would complete while their data is only in this
		 * process. If the process died, they would be lost. No driver would repeat them,
		 * because to a driver the loss of a back-end is not a power failure.
		 */
		{ "rbd_cache", "false" },
		/*
		 * With these limits, submit() could block until earlier requests have completed.
		 * The engine does not need the limits, because the sizes of the driver's queues
		 * already limit the number of requests.
		 */
		{ "objecter_inflight_ops", "0" },
		{ "objecter_inflight_op_bytes", "0" },
	};
	int r = 0;

	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]) && !r; i++)
		r = rados_conf_set(rbd->cluster, settings[i][0], settings[i][1]);
	return r;
}

/* Applies own_defaults. Ignores a failure, because Ceph's own defaults work, too. */
static void read_own_defaults(struct vublk_rbd *rbd)
{
	char path[32];
	int fd = memfd_create("vublk-rbd", MFD_CLOEXEC);

	if (fd < 0)
		return;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (write(fd, own_defaults, sizeof(own_defaults) - 1) == sizeof(own_defaults) - 1)
		rados_conf_read_file(rbd->cluster, path);
	close(fd);
}

/*
 * Reads the user's configuration file twice. librados reports a missing file only before it has read
 * any other file, so the user's file is read before own_defaults. It is read again after them,
 * because the last file that has a setting determines its value.
 */
static int read_file(struct vublk_rbd *rbd, const char *path)
{
	int r = rados_conf_read_file(rbd->cluster, path);

	if (r)
		return r;
	read_own_defaults(rbd);
	r = rados_conf_read_file(rbd->cluster, path);
	return r ? r : force_settings(rbd);
}

static int read_conf(struct vublk_rbd *rbd, const char *path, struct vublk_error *error)
{
	int r;

	/*
	 * By default librados prints messages to standard error. This turns them off, because the
	 * errors of this engine have the same information. The configuration can turn them on.
	 */
	rados_conf_set(rbd->cluster, "log_to_stderr", "false");
	rados_conf_set(rbd->cluster, "err_to_stderr", "false");
	r = read_file(rbd, path);
	if (!r)
		return 0;
	if (!path && r == -ENOENT)
		return vublk_engine_fail(error, ENOENT, "there is no configuration of a Ceph cluster "
					 "in the default places, such as /etc/ceph/ceph.conf; set "
					 "conf=PATH");
	/* EINVAL would mean that the option's value is wrong, so a bad file has another code. */
	return vublk_engine_fail(error, r == -EINVAL ? EMEDIUMTYPE : -r,
				 "cannot read the cluster's configuration %s%s%s (%s); set conf=PATH to "
				 "a valid ceph.conf", path ? "'" : "", path ? path : "in the default "
				 "places", path ? "'" : "", strerrordesc_np(-r));
}

static const char *hint_of(int code)
{
	switch (code) {
	case ETIMEDOUT:
		return "no monitor has answered within client_mount_timeout; check 'mon host' in the "
		       "configuration and the network";
	case ENOENT:
		return "check that the configuration has 'mon host', and that its keyring has the "
		       "user's key";
	case EACCES:
	case EPERM:
		return "check that the user exists and that its key is in the keyring that the "
		       "configuration names";
	default:
		return "check 'mon host' in the configuration";
	}
}

static int connect_cluster(struct vublk_rbd *rbd, const char *user, struct vublk_error *error)
{
	int r = rados_connect(rbd->cluster);

	/*
	 * librados also returns EINVAL if it cannot resolve the address of a monitor. The engine
	 * returns another code, because the options are right and a later start may succeed.
	 */
	if (r)
		return vublk_engine_fail(error, r == -EINVAL ? EMEDIUMTYPE : -r,
					 "cannot connect to the Ceph cluster as the user "
					 "'%s' (%s): %s", user, strerrordesc_np(-r), hint_of(-r));
	return 0;
}

static int open_pool(struct vublk_rbd *rbd, const char *pool, const char *user,
		     struct vublk_error *error)
{
	int r = rados_ioctx_create(rbd->cluster, pool, &rbd->pool);

	if (!r)
		return 0;
	rbd->pool = NULL;
	if (r == -ENOENT)
		return vublk_engine_fail(error, ENOENT, "the Ceph cluster has no pool '%s'; set "
					 "pool=NAME to one of those that 'ceph osd pool ls' lists",
					 pool);
	return vublk_engine_fail(error, -r, "cannot open the pool '%s' as the user '%s': %s", pool,
				 user, strerrordesc_np(-r));
}

static int choose_namespace(struct vublk_rbd *rbd, const char *pool, const char *name,
			    struct vublk_error *error)
{
	bool exists = true;
	int r = rbd_namespace_exists(rbd->pool, name, &exists);

	/*
	 * A user whose capabilities are limited to one namespace cannot read the list of
	 * namespaces, so this failure does not mean that the namespace is missing.
	 */
	if (r && r != -EPERM && r != -EACCES)
		return vublk_engine_fail(error, -r, "cannot look for the namespace '%s' in the pool "
					 "'%s': %s", name, pool, strerrordesc_np(-r));
	if (!exists)
		return vublk_engine_fail(error, ENOENT, "the pool '%s' has no namespace '%s'; set "
					 "namespace=NAME to one of those that 'rbd namespace ls %s' "
					 "lists", pool, name, pool);
	rados_ioctx_set_namespace(rbd->pool, name);
	return 0;
}

int vublk_rbd_cluster_open(struct vublk_rbd *rbd, const struct vublk_engine_params *params,
		     struct vublk_error *error)
{
	const char *user = option(params, "user");
	const char *pool = option(params, "pool");
	const char *name = option(params, "namespace");
	int r;

	if (!option(params, "image"))
		return vublk_engine_fail(error, EINVAL, "the engine rbd needs an image; set image=NAME");
	if (!user || !pool)
		return vublk_engine_fail(error, EINVAL, "%s must be a name, not an empty string",
					 user ? "pool" : "user");
	r = rados_create(&rbd->cluster, user);
	if (r) {
		rbd->cluster = NULL;
		return vublk_engine_fail(error, -r, "cannot prepare a connection to a Ceph cluster as "
					 "the user '%s': %s", user, strerrordesc_np(-r));
	}
	r = read_conf(rbd, option(params, "conf"), error);
	if (!r)
		r = connect_cluster(rbd, user, error);
	if (!r)
		r = open_pool(rbd, pool, user, error);
	if (!r && name)
		r = choose_namespace(rbd, pool, name, error);
	return r;
}

void vublk_rbd_cluster_close(struct vublk_rbd *rbd)
{
	if (rbd->pool)
		rados_ioctx_destroy(rbd->pool);
	if (rbd->cluster)
		rados_shutdown(rbd->cluster);
}
