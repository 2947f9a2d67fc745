/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Watches for files to appear; see watch.h.
 *
 * Key idea: all watches share one inotify instance, and each watch adds the instance to its own
 * loop. The loop that wakes first reads the events of all watches, and posts a task to the loop of
 * each watch that an event concerns. The other loops find nothing to read. So no watch depends on
 * another watch's thread.
 *
 * Watches of one directory share one kernel watch, which is removed with the last of them. Lock
 * order: this file's lock, then a loop's. Callbacks run without either lock.
 */
#include "util/watch.h"

#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <unistd.h>

#define APPEARS (IN_CREATE | IN_MOVED_TO | IN_ATTRIB)
#define VANISHES (IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED)

/*
 * Limits the reads per call, so that a directory with a constant stream of events does not occupy
 * the loop.
 */
#define READS_PER_CALL 16

static struct {
	pthread_mutex_t lock;
	int fd; /* -1: closed */
	unsigned users;
	unsigned generation;
	struct vublk_watch *watches;
} shared = { .lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1 };

/* --- fork ----------------------------------------------------------------------------- */

static void before_fork(void)
{
	pthread_mutex_lock(&shared.lock);
}

static void after_fork(void)
{
	pthread_mutex_unlock(&shared.lock);
}

/*
 * The child must not use the parent's inotify instance, because the parent would miss the events
 * that the child read.
 */
static void after_fork_in_child(void)
{
	vublk_fd_close(&shared.fd);
	shared.users = 0;
	shared.watches = NULL;
	shared.generation++;
	pthread_mutex_unlock(&shared.lock);
}

static void prepare_for_fork(void)
{
	pthread_atfork(before_fork, after_fork, after_fork_in_child);
}

/* --- events --------------------------------------------------------------------------- */

/*
 * Delivers an event to the watches of its directory. After an overflow any event may be missing, so
 * each watch reports that its file has appeared and that its directory has vanished.
 */
static void deliver(const struct inotify_event *event)
{
	for (struct vublk_watch *watch = shared.watches; watch; watch = watch->next) {
		bool overflow = event->mask & IN_Q_OVERFLOW;
		bool is_its = event->wd == watch->descriptor;
		bool vanished = overflow || (is_its && event->mask & VANISHES);
		bool appeared = overflow || (is_its && event->mask & APPEARS && event->len &&
					     !strcmp(watch->name, event->name));

		if (!vanished && !appeared)
			continue;
		watch->vanished |= vanished;
		watch->appeared |= appeared;
		vublk_loop_post(watch->loop, &watch->task);
	}
}

static void on_events(void *opaque, uint32_t events)
{
	char buffer[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	ssize_t bytes = 1;

	pthread_mutex_lock(&shared.lock);
	for (unsigned i = 0; i < READS_PER_CALL && bytes > 0; i++) {
		bytes = read(shared.fd, buffer, sizeof(buffer));
		/* The kernel returns whole records only. */
		for (ssize_t at = 0; at < bytes;) {
			const struct inotify_event *event = (const void *)(buffer + at);

			deliver(event);
			at += (ssize_t)(sizeof(*event) + event->len);
		}
	}
	pthread_mutex_unlock(&shared.lock);
}

static void on_task(void *opaque)
{
	struct vublk_watch *watch = opaque;
	bool appeared, vanished;

	pthread_mutex_lock(&shared.lock);
	appeared = watch->appeared;
	vanished = watch->vanished;
	watch->appeared = watch->vanished = false;
	pthread_mutex_unlock(&shared.lock);
	if (watch->loop && (appeared || vanished))
		watch->fn(watch->opaque, vanished);
}

/* --- the instance; under the lock ------------------------------------------------------- */

static int open_instance(struct vublk_watch *watch)
{
	if (watch->is_open && watch->generation == shared.generation)
		return 0;
	if (shared.fd < 0)
		shared.fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (shared.fd < 0)
		return -errno;
	shared.users++;
	watch->is_open = true;
	watch->generation = shared.generation;
	return 0;
}

static void remove_watch(struct vublk_watch *watch)
{
	struct vublk_watch **link = &shared.watches;
	bool is_shared = false;

	while (*link && *link != watch)
		link = &(*link)->next;
	if (!*link)
		return;
	*link = watch->next;
	for (struct vublk_watch *other = shared.watches; other; other = other->next)
		is_shared |= other->descriptor == watch->descriptor;
	if (!is_shared)
		inotify_rm_watch(shared.fd, watch->descriptor);
}

/* --- the calls -------------------------------------------------------------------------- */

void vublk_watch_init(struct vublk_watch *watch, void (*fn)(void *opaque, bool vanished),
		      void *opaque)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, prepare_for_fork);
	watch->fn = fn;
	watch->opaque = opaque;
	watch->source = (struct vublk_loop_source){ .fn = on_events };
	watch->task = (struct vublk_loop_task){ .fn = on_task, .opaque = watch };
}

static int add_watch(struct vublk_watch *watch, const char *directory, struct vublk_error *error)
{
	int r;

	pthread_mutex_lock(&shared.lock);
	r = open_instance(watch);
	if (!r) {
		watch->descriptor = inotify_add_watch(shared.fd, directory, APPEARS |
						      IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR);
		r = watch->descriptor < 0 ? -errno : 0;
	}
	if (!r) {
		watch->appeared = watch->vanished = false;
		watch->next = shared.watches;
		shared.watches = watch;
	}
	pthread_mutex_unlock(&shared.lock);
	return r < 0 ? vublk_error_set_errno(error, -r, "cannot watch the directory '%s'",
					     directory) : 0;
}

int vublk_watch_start(struct vublk_watch *watch, struct vublk_loop *loop, const char *path,
		      struct vublk_error *error)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	char directory[VUBLK_WATCH_PATH_BYTES];
	int r;

	if (watch->loop)
		return 0;
	if (strlen(path) >= sizeof(watch->name))
		return vublk_error_set(error, ENAMETOOLONG, "cannot watch '%s': the path is longer "
				       "than %zu bytes", path, sizeof(watch->name) - 1);
	snprintf(directory, sizeof(directory), "%.*s", slash ? (int)(name - path) : 1,
		 slash ? path : ".");
	strcpy(watch->name, name);
	watch->loop = loop; /* set before the first event can be delivered */
	r = add_watch(watch, directory, error);
	if (!r)
		r = vublk_loop_add(loop, &watch->source, shared.fd, EPOLLIN, error);
	if (r < 0)
		vublk_watch_stop(watch);
	return r;
}

void vublk_watch_stop(struct vublk_watch *watch)
{
	if (!watch->loop)
		return;
	vublk_loop_remove(&watch->source);
	pthread_mutex_lock(&shared.lock);
	if (watch->generation == shared.generation)
		remove_watch(watch);
	pthread_mutex_unlock(&shared.lock);
	vublk_loop_cancel(watch->loop, &watch->task);
	watch->loop = NULL;
}

void vublk_watch_close(struct vublk_watch *watch)
{
	vublk_watch_stop(watch);
	if (!watch->is_open)
		return;
	pthread_mutex_lock(&shared.lock);
	if (watch->generation == shared.generation && !--shared.users)
		vublk_fd_close(&shared.fd);
	pthread_mutex_unlock(&shared.lock);
	watch->is_open = false;
}
