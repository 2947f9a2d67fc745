/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The image: its geometry, its lock, and changes of its size.
 *
 * Key idea: an image with the feature exclusive-lock belongs to one client at a time. By default
 * librbd passes the lock to any client that wants to write, so two programs could write to one file
 * system. rbd_lock_acquire() keeps the lock in this process until the image is closed. But it also
 * takes the lock from a program that uses librbd's default, and then the writes of that program
 * fail. So the engine first waits until no other client has the image open for writing.
 */
#include "engines/rbd/rbd.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SECTOR_BYTES 512

/*
 * Before the engine locks the image, it waits until no other client has the image open for writing.
 * It checks LOOKS_PER_SECOND times per second, and waits at most MARGIN_S longer than the cluster
 * takes to notice that a client has died.
 */
#define LOOKS_PER_SECOND 4
#define MARGIN_S 10

/* --- size and geometry ------------------------------------------------------------- */

int vublk_rbd_image_check_size(const struct vublk_rbd *rbd, uint64_t bytes, struct vublk_error *error)
{
	uint32_t block = rbd->engine.geometry.block_bytes;

	if (bytes && !(bytes % block))
		return 0;
	if (!bytes)
		return vublk_engine_fail(error, EMEDIUMTYPE, "%s is empty; resize it with 'rbd resize'",
					 rbd->engine.description);
	return vublk_engine_fail(error, EMEDIUMTYPE, "%s has %" PRIu64 " bytes, which is not a "
				 "multiple of the block size of %" PRIu32 " bytes; resize it with "
				 "'rbd resize'", rbd->engine.description, bytes, block);
}

/*
 * Returns the granularity of discards. If a discard covers only a part of such a unit, librbd
 * ignores that part.
 */
static uint32_t discard_bytes(struct vublk_rbd *rbd, uint64_t object_bytes)
{
	char text[32] = "";
	unsigned long bytes = 0;

	if (!rados_conf_get(rbd->cluster, "rbd_discard_granularity_bytes", text, sizeof(text)))
		bytes = strtoul(text, NULL, 10);
	if (bytes < SECTOR_BYTES || bytes % SECTOR_BYTES)
		return SECTOR_BYTES;
	return (uint32_t)(bytes < object_bytes ? bytes : object_bytes);
}

static int fill_geometry(struct vublk_rbd *rbd, bool read_only, struct vublk_error *error)
{
	struct vublk_engine_geometry *geometry = &rbd->engine.geometry;
	rbd_image_info_t info;
	uint64_t none = 0;
	int r = rbd_stat(rbd->image, &info, sizeof(info));

	if (r)
		return vublk_engine_fail(error, -r, "cannot get the size of %s: %s",
					 rbd->engine.description, strerrordesc_np(-r));
	*geometry = (struct vublk_engine_geometry){
		.size_bytes = info.size,
		.block_bytes = SECTOR_BYTES,
		.physical_block_bytes = 4096,
		.optimal_io_bytes = (uint32_t)info.obj_size,
		.discard_bytes = discard_bytes(rbd, info.obj_size),
		.zeroes_may_unmap = true,
		.read_only = read_only,
	};
	/* If on_update() has already stored a newer size, the exchange fails and returns it. */
	if (!__atomic_compare_exchange_n(&rbd->told_bytes, &none, info.size, false,
					 __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		geometry->size_bytes = none;
	return vublk_rbd_image_check_size(rbd, geometry->size_bytes, error);
}

/* Adds `text` and a separator to the hash (FNV-1a). */
static uint64_t hash(uint64_t hash, const char *text)
{
	for (; *text; text++)
		hash = (hash ^ (uint8_t)*text) * UINT64_C(0x100000001b3);
	return (hash ^ '/') * UINT64_C(0x100000001b3);
}

/*
 * Fills the identity from the ids of the cluster, the pool and the image, which stay the same when
 * the image is renamed. A snapshot and its image are different disks, so the identity also depends
 * on the snapshot's name.
 */
static void fill_identity(struct vublk_rbd *rbd, const char *name, const char *snapshot)
{
	uint64_t identity = UINT64_C(0xcbf29ce484222325);
	char text[256] = "";

	rados_cluster_fsid(rbd->cluster, text, sizeof(text));
	identity = hash(identity, text);
	snprintf(text, sizeof(text), "%" PRId64, rados_ioctx_get_id(rbd->pool));
	identity = hash(identity, text);
	rados_ioctx_get_namespace(rbd->pool, text, sizeof(text));
	identity = hash(identity, text);
	if (rbd_get_id(rbd->image, text, sizeof(text)))
		snprintf(text, sizeof(text), "%s", name); /* an image of the old format has no id */
	identity = hash(identity, text);
	rbd->engine.identity = hash(identity, snapshot ? snapshot : "");
}

/* --- the lock ---------------------------------------------------------------------- */

/*
 * Looks for another client that has the image open for writing; such a client watches the image.
 * Returns 1 and stores the client's address if it finds one, 0 if it finds none, or a negative
 * errno if the cluster does not list the watchers.
 */
static int find_other_client(struct vublk_rbd *rbd, char *address, size_t bytes)
{
	uint64_t own_id = rados_get_instance_id(rbd->cluster);
	rbd_image_watcher_t watchers[32];
	size_t count = 32;
	bool found = false;
	int r = rbd_watchers_list(rbd->image, watchers, &count);

	if (r == -ERANGE) {
		snprintf(address, bytes, "several addresses");
		return 1;
	}
	if (r)
		return r;
	for (size_t i = 0; i < count && !found; i++) {
		found = (uint64_t)watchers[i].id != own_id;
		if (found)
			snprintf(address, bytes, "%s", watchers[i].addr);
	}
	rbd_watchers_list_cleanup(watchers, count);
	return found;
}

/*
 * Returns the longest time that the cluster takes to notice that a client has died. The client's
 * configuration may differ from the cluster's, so this is an estimate.
 */
static unsigned watch_timeout_s(struct vublk_rbd *rbd)
{
	char text[32] = "";
	unsigned long seconds = 0;

	if (!rados_conf_get(rbd->cluster, "osd_client_watch_timeout", text, sizeof(text)))
		seconds = strtoul(text, NULL, 10);
	return seconds && seconds < 600 ? (unsigned)seconds : 30;
}

/*
 * Returns whether a signal that ends the program is pending. Programs such as `vublk serve` block
 * these signals while they start.
 */
static bool is_interrupted(void)
{
	sigset_t pending;

	return !sigpending(&pending) &&
	       (sigismember(&pending, SIGTERM) || sigismember(&pending, SIGINT));
}

static int refuse_interrupted(const struct vublk_rbd *rbd, int found, const char *address,
			      struct vublk_error *error)
{
	if (found < 0)
		return vublk_engine_fail(error, EINTR, "interrupted while waiting for the cluster to "
					 "list the clients of %s",
					 rbd->engine.description);
	return vublk_engine_fail(error, EINTR, "interrupted while waiting for the client at "
				 "%s, which has %s open", address,
				 rbd->engine.description);
}

/*
 * Fills `error` when the wait for other clients has failed. `found` is the last result of
 * find_other_client().
 */
static int refuse_others(const struct vublk_rbd *rbd, int found, const char *address,
			 struct vublk_error *error)
{
	if (found < 0)
		return vublk_engine_fail(error, -found, "cannot find out whether other clients have %s "
					 "open: %s; set exclusive-lock=off to use the image anyway",
					 rbd->engine.description, strerrordesc_np(-found));
	return vublk_engine_fail(error, EBUSY, "the client at %s has %s open; end that client, or set "
				 "exclusive-lock=off to share the image with it", address,
				 rbd->engine.description);
}

/*
 * Waits until no other client has the image open for writing. This wait is normal if the previous
 * back-end was killed, because the cluster still lists that back-end for a while. If the cluster
 * cannot list the clients, this function fails after the same time, because the engine could
 * otherwise take the lock from a client that was not listed.
 */
static int wait_for_others(struct vublk_rbd *rbd, struct vublk_error *error)
{
	const struct timespec interval = { .tv_nsec = 1000000000 / LOOKS_PER_SECOND };
	unsigned looks = (watch_timeout_s(rbd) + MARGIN_S) * LOOKS_PER_SECOND;
	char address[128] = "";
	bool is_logged = false;
	int found = 0;

	for (unsigned i = 0; i < looks; i++) {
		found = find_other_client(rbd, address, sizeof(address));
		if (!found)
			return 0;
		if (is_interrupted())
			return refuse_interrupted(rbd, found, address, error);
		if (found > 0 && !is_logged)
			vublk_engine_log(rbd->host, VUBLK_LOG_INFO, "waiting for the client at %s, "
					 "which has %s open; if that client has died, the cluster "
					 "notices it within %u s", address, rbd->engine.description,
					 watch_timeout_s(rbd));
		is_logged |= found > 0;
		nanosleep(&interval, NULL);
	}
	return refuse_others(rbd, found, address, error);
}

static int refuse_lock(const struct vublk_rbd *rbd, const char *user, int code,
		       struct vublk_error *error)
{
	if (code == EPERM || code == EACCES)
		return vublk_engine_fail(error, code, "cannot lock %s as the user '%s' (%s): to take the "
					 "lock of a client that has died, the user needs the "
					 "capabilities 'profile rbd' for the monitors",
					 rbd->engine.description, user, strerrordesc_np(code));
	return vublk_engine_fail(error, code, "cannot lock %s, perhaps because another client has just "
				 "locked it: %s", rbd->engine.description, strerrordesc_np(code));
}

static int keep_lock(struct vublk_rbd *rbd, const char *user, struct vublk_error *error)
{
	uint64_t features = 0;
	int r = rbd_get_features(rbd->image, &features);

	if (r)
		return vublk_engine_fail(error, -r, "cannot get the features of %s: %s",
					 rbd->engine.description, strerrordesc_np(-r));
	if (!(features & RBD_FEATURE_EXCLUSIVE_LOCK)) {
		vublk_engine_log(rbd->host, VUBLK_LOG_WARNING, "%s does not have the feature "
				 "exclusive-lock, so other clients can open it later; 'rbd feature "
				 "enable' turns the feature on, and exclusive-lock=off turns this "
				 "warning off", rbd->engine.description);
		return 0;
	}
	r = rbd_lock_acquire(rbd->image, RBD_LOCK_MODE_EXCLUSIVE);
	return r ? refuse_lock(rbd, user, -r, error) : 0;
}

static int lock(struct vublk_rbd *rbd, const struct vublk_engine_params *params,
		struct vublk_error *error)
{
	bool wanted = true;
	int r = vublk_engine_option_bool(params, "exclusive-lock", &wanted, error);

	if (r || !wanted)
		return r;
	r = wait_for_others(rbd, error);
	return r ? r : keep_lock(rbd, vublk_engine_option(params, "user"), error);
}

/* --- changes of the size ----------------------------------------------------------- */

/*
 * Called on a thread of librbd when the header of the image has changed, for example because there
 * is a new size or a new snapshot.
 */
static void on_update(void *opaque)
{
	struct vublk_rbd *rbd = opaque;
	uint64_t bytes;

	if (rbd_get_size(rbd->image, &bytes) ||
	    bytes == __atomic_exchange_n(&rbd->told_bytes, bytes, __ATOMIC_RELAXED))
		return;
	vublk_engine_request_refresh(rbd->host);
}

static int watch(struct vublk_rbd *rbd, struct vublk_error *error)
{
	int r = rbd_update_watch(rbd->image, &rbd->watch, on_update, rbd);

	if (r)
		return vublk_engine_fail(error, -r, "cannot watch %s for changes of its size: %s",
					 rbd->engine.description, strerrordesc_np(-r));
	rbd->has_watch = true;
	return 0;
}

/* --- open and close ---------------------------------------------------------------- */

static void describe(struct vublk_rbd *rbd, const struct vublk_engine_params *params)
{
	const char *name = vublk_engine_option(params, "namespace");
	const char *snapshot = vublk_engine_option(params, "snapshot");

	snprintf(rbd->engine.description, sizeof(rbd->engine.description),
		 "the rbd image '%s/%s%s%s%s%s'", vublk_engine_option(params, "pool"),
		 name ? name : "", name ? "/" : "", vublk_engine_option(params, "image"),
		 snapshot ? "@" : "", snapshot ? snapshot : "");
}

static int open_image(struct vublk_rbd *rbd, const struct vublk_engine_params *params,
		      bool read_only, struct vublk_error *error)
{
	const char *name = vublk_engine_option(params, "image");
	const char *user = vublk_engine_option(params, "user");
	int r = read_only ? rbd_open_read_only(rbd->pool, name, &rbd->image, NULL) :
			    rbd_open(rbd->pool, name, &rbd->image, NULL);

	if (!r)
		return 0;
	rbd->image = NULL;
	if (r == -ENOENT)
		return vublk_engine_fail(error, ENOENT, "%s does not exist; set image=NAME to one of "
					 "those that 'rbd ls' lists", rbd->engine.description);
	if (r == -ESHUTDOWN)
		return vublk_engine_fail(error, ESHUTDOWN, "cannot open %s, because the cluster has "
					 "blocklisted this host; find the entry with 'ceph osd blocklist "
					 "ls', and remove it if its reason no longer applies",
					 rbd->engine.description);
	if (r == -EPERM || r == -EACCES)
		return vublk_engine_fail(error, -r, "the user '%s' has no permission to %s %s; give the user the "
					 "capabilities 'profile %s' for the monitors and the pool",
					 user, read_only ? "read" : "write to",
					 rbd->engine.description,
					 read_only ? "rbd-read-only" : "rbd");
	return vublk_engine_fail(error, -r, "cannot open %s as the user '%s': %s",
				 rbd->engine.description, user, strerrordesc_np(-r));
}

static int choose_snapshot(struct vublk_rbd *rbd, const char *snapshot, struct vublk_error *error)
{
	int r = rbd_snap_set(rbd->image, snapshot);

	if (r == -ENOENT)
		return vublk_engine_fail(error, ENOENT, "%s does not exist; set snapshot=NAME to one of "
					 "those that 'rbd snap ls' lists", rbd->engine.description);
	if (r)
		return vublk_engine_fail(error, -r, "cannot open %s: %s", rbd->engine.description,
					 strerrordesc_np(-r));
	return 0;
}

int vublk_rbd_image_open(struct vublk_rbd *rbd, const struct vublk_engine_params *params,
		   struct vublk_error *error)
{
	const char *snapshot = vublk_engine_option(params, "snapshot");
	bool read_only = params->read_only || snapshot;
	int r;

	describe(rbd, params);
	r = open_image(rbd, params, read_only, error);
	if (!r && snapshot)
		r = choose_snapshot(rbd, snapshot, error);
	if (!r && !read_only)
		r = lock(rbd, params, error);
	/*
	 * The image may be resized while lock() waits, so its size is read afterwards. watch()
	 * precedes the reading, so that no later change is missed.
	 */
	if (!r)
		r = watch(rbd, error);
	if (!r)
		r = fill_geometry(rbd, read_only, error);
	if (!r)
		fill_identity(rbd, vublk_engine_option(params, "image"), snapshot);
	return r;
}

void vublk_rbd_image_close(struct vublk_rbd *rbd)
{
	if (rbd->has_watch)
		rbd_update_unwatch(rbd->image, rbd->watch);
	if (rbd->image)
		rbd_close(rbd->image);
}
