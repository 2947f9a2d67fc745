/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The new process of an upgrade: creates an object with the old object's options, and then takes
 * over the old object's state.
 *
 * Key idea: everything that can fail is done before this process claims the disk, and has no effect
 * outside this process. So after a failure the old process simply continues. If this process is
 * asked to stop before it has the disk, the upgrade fails, because the disk must stay in service.
 */
#include "handover/upgrade.h"

#include "util/atomic.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/kill-point.h"
#include "util/struct.h"

#include <vublk/version.h>

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>

#define NS_PER_MS UINT64_C(1000000)
#define REFUSAL_MS 1000 /* how long the new process waits for the reason for a refusal */
#define MAX_OPTIONS 128
#define MAX_FDS 8192 /* more than the largest device needs */

struct option {
	char name[64], value[512];
};

struct take {
	struct vublk_handover_channel channel;
	uint64_t deadline_ns;
	int stop_fd; /* a signalfd, readable when SIGTERM or SIGINT is pending; -1: none */
	const struct vublk_upgrade_type *type;
	struct vublk_upgrade_host *host; /* part of the object; NULL: there is no object yet */

	struct vublk_upgrade_origin origin;
	struct option *options; /* array of MAX_OPTIONS */
	unsigned num_options;

	/* the state */
	int *fds; /* array of MAX_FDS; owns the descriptors; -1: a section has taken the
		     descriptor */
	unsigned num_fds;
	uint32_t *owner; /* the owner's word (owner.c) */
	uint64_t paused_ns;
	struct vublk_upgrade_extra extra; /* owns its descriptors */
};

/* --- the properties --------------------------------------------------------------------------- */

static int send_hello(struct take *take, struct vublk_error *error)
{
	struct vublk_sections_writer to = { 0 };
	int r;

	vublk_section_begin(&to, "origin", 1, false);
	vublk_section_put_text(&to, VUBLK_VERSION_STRING);
	vublk_upgrade_give_known(take->type->known, &to);
	if (to.failed)
		r = vublk_error_set_errno(error, ENOMEM, "cannot start an upgrade");
	else
		r = vublk_handover_send(&take->channel, VUBLK_HANDOVER_HELLO, to.bytes, to.num_bytes,
					NULL, 0, take->deadline_ns, error);
	vublk_sections_writer_deinit(&to);
	return r;
}

static int read_origin(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct take *take = owner;
	uint64_t pid;

	vublk_section_get_text(from, take->origin.version, sizeof(take->origin.version));
	vublk_section_get_text(from, take->origin.spec, sizeof(take->origin.spec));
	vublk_section_get_text(from, take->origin.folder, sizeof(take->origin.folder));
	take->origin.folder_device = vublk_section_get(from);
	take->origin.folder_inode = vublk_section_get(from);
	pid = vublk_section_get(from);
	/*
	 * So far, origin.pid is what the kernel reports: the process that began to listen on the
	 * socket. An upgrade may have replaced that process.
	 */
	if (pid && take->origin.pid)
		take->origin.pid = (int64_t)pid;
	return 0;
}

static int read_image(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct take *take = owner;

	vublk_fd_close(&take->origin.image_fd);
	take->origin.image_fd = vublk_section_get_fd(from);
	return 0;
}

/*
 * Reads a property. A property that this version does not know is ignored if it has its default
 * value. Otherwise it is an error.
 */
static int read_option(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct take *take = owner;
	struct option *option = &take->options[take->num_options];

	if (take->num_options == MAX_OPTIONS - 1)
		return vublk_error_set(error, EINVAL, "the old process sent more than %d "
				       "properties",
				       MAX_OPTIONS - 1);
	vublk_section_get_text(from, option->name, sizeof(option->name));
	vublk_section_get_text(from, option->value, sizeof(option->value));
	if (take->type->knows_option(take->origin.spec, option->name))
		take->num_options++;
	else if (!vublk_section_get(from))
		return vublk_error_set(error, EINVAL, "the device has the property %s=%s, which "
				       "this version does not support; use a newer version",
				       option->name,
				       option->value);
	return 0;
}

static const struct vublk_section_type option_sections[] = {
	{ "origin", false, read_origin },
	{ "option", false, read_option },
	{ "image", false, read_image },
	{ NULL },
};

/* Checks that relative paths lead to the same files in both processes. */
static int check_folder(const struct take *take, const struct vublk_option *options,
			struct vublk_error *error)
{
	struct stat st;

	if (!take->type->has_relative_path(&take->origin, options))
		return 0;
	if (!stat(".", &st) && st.st_dev == take->origin.folder_device &&
	    st.st_ino == take->origin.folder_inode)
		return 0;
	return vublk_error_set(error, EINVAL, "the old process uses relative paths, and its working "
			       "directory is '%s'; start the new process there",
			       take->origin.folder);
}

static int make_object(struct take *take, const struct vublk_log *log, struct vublk_error *error)
{
	struct vublk_option list[MAX_OPTIONS] = { { NULL } };
	int r;

	for (unsigned i = 0; i < take->num_options; i++)
		list[i] = (struct vublk_option){ take->options[i].name, take->options[i].value };
	r = check_folder(take, list, error);
	return r < 0 ? r : take->type->make(&take->origin, list, log, &take->host, error);
}

static int expect(struct take *take, enum vublk_handover_kind kind, struct vublk_error *error)
{
	int r = vublk_handover_wait(&take->channel, take->stop_fd, take->deadline_ns, error);

	if (!r && take->channel.header.kind != kind)
		r = vublk_error_set(error, EPROTO, "the old process sent an unexpected message "
				    "(kind %u instead of %u)", take->channel.header.kind, kind);
	return r;
}

static int prepare(struct take *take, const struct vublk_log *log, struct vublk_error *error)
{
	const struct vublk_section_table table = { option_sections, take };
	struct vublk_sections_reader from;
	int r = send_hello(take, error);

	if (!r)
		r = expect(take, VUBLK_HANDOVER_OPTIONS, error);
	if (r < 0)
		return r;
	from = (struct vublk_sections_reader){ take->channel.payload, take->channel.header.bytes,
					       take->channel.fds, take->channel.num_fds };
	r = vublk_sections_read(&from, &table, 1, error);
	if (!r)
		r = make_object(take, log, error);
	vublk_kill_point("new-prepared");
	return r < 0 ? r : vublk_handover_send(&take->channel, VUBLK_HANDOVER_PREPARED, NULL, 0, NULL,
					       0, take->deadline_ns, error);
}

/* --- the state -------------------------------------------------------------------------------- */

static int keep_fds(struct take *take, struct vublk_error *error)
{
	struct vublk_handover_channel *channel = &take->channel;

	if (take->num_fds + channel->num_fds > MAX_FDS)
		return vublk_error_set(error, EPROTO, "the old process sent more than %d "
				       "descriptors",
				       MAX_FDS);
	for (unsigned i = 0; i < channel->num_fds; i++)
		take->fds[take->num_fds++] = vublk_fd_steal(&channel->fds[i]);
	return 0;
}

/*
 * Receives all descriptors and the state. Afterwards nothing else is needed from the old process,
 * so it may even be killed.
 */
static int receive_state(struct take *take, struct vublk_error *error)
{
	int r;

	do {
		r = vublk_handover_wait(&take->channel, take->stop_fd, take->deadline_ns, error);
		if (!r)
			r = keep_fds(take, error);
	} while (!r && take->channel.header.kind == VUBLK_HANDOVER_DESCRIPTORS);
	if (!r && take->channel.header.kind != VUBLK_HANDOVER_STATE)
		r = vublk_error_set(error, EPROTO, "the old process sent an unexpected message "
				    "(kind %u instead of its state)", take->channel.header.kind);
	vublk_kill_point("new-received");
	return r;
}

static int read_owner(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct take *take = owner;
	VUBLK_FD int fd = vublk_section_get_fd(from);

	take->paused_ns = vublk_section_get(from);
	if (fd < 0 || take->owner)
		return vublk_error_set(error, EINVAL, "the old process sent no descriptor, or more "
				       "than one, of the memory that says which process owns the "
				       "disk");
	take->owner = vublk_upgrade_owner_map(fd, error);
	return take->owner ? 0 : -ENOMEM;
}

static int read_extra(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct vublk_upgrade_extra *extra = &((struct take *)owner)->extra;
	uint64_t num_fds;

	vublk_section_get_text(from, extra->text, sizeof(extra->text));
	num_fds = vublk_section_get(from);
	if (extra->num_fds || num_fds > VUBLK_UPGRADE_MAX_FDS)
		return vublk_error_set(error, EINVAL, "the state has too many extra descriptors "
				       "(%u)",
				       (unsigned)num_fds);
	while (extra->num_fds < num_fds)
		extra->fds[extra->num_fds++] = vublk_section_get_fd(from);
	return 0;
}

static const struct vublk_section_type own_sections[] = {
	{ "owner", false, read_owner },
	{ "extra", true, read_extra },
	{ NULL },
};

static int install(struct take *take, struct vublk_error *error)
{
	struct vublk_section_table tables[VUBLK_UPGRADE_MAX_TABLES + 1];
	struct vublk_sections_reader from = { take->channel.payload, take->channel.header.bytes,
					      take->fds, take->num_fds };
	size_t num_tables = take->type->tables(take->host->object, tables);
	int r;

	tables[num_tables++] = (struct vublk_section_table){ own_sections, take };
	r = vublk_sections_read(&from, tables, num_tables, error);
	if (!r && !take->owner)
		r = vublk_error_set(error, EINVAL, "the old process did not send the memory that says "
				    "which process owns the disk");
	if (!r)
		r = take->type->end(take->host->object, error);
	vublk_kill_point("new-installed");
	return r;
}

/* --- the new owner ---------------------------------------------------------------------------- */

/*
 * The last part of an upgrade. The new process serves the disk already, and waits until the old
 * process closes the channel. Until then, the old process passes on the signals that it gets.
 */
struct farewell {
	struct vublk_upgrade base; /* must be the first member */
	struct vublk_upgrade_host *host;
	struct vublk_handover_channel channel;
	struct vublk_loop_source source;
	bool is_over;
};

static void free_farewell(struct vublk_upgrade *base)
{
	struct farewell *farewell = (struct farewell *)base;

	vublk_loop_remove(&farewell->source);
	vublk_handover_close(&farewell->channel);
	farewell->host->upgrade = NULL;
	free(farewell);
}

static void step(struct vublk_upgrade *base)
{
	struct farewell *farewell = (struct farewell *)base;

	if (farewell->is_over)
		free_farewell(base);
}

static void on_end_of_old(struct farewell *farewell)
{
	const struct vublk_upgrade_host *host = farewell->host;

	vublk_loop_remove(&farewell->source);
	farewell->is_over = true;
	vublk_log_limited(host->log, host->limit, VUBLK_LOG_INFO,
			  "the upgrade is complete: process %lld has closed the disk",
			  (long long)farewell->base.pid);
}

static void on_channel(void *opaque, uint32_t events)
{
	struct farewell *farewell = opaque;
	struct vublk_error error;
	int r;

	while ((r = vublk_handover_receive(&farewell->channel, &error)) == 1) {
		if (farewell->channel.header.kind == VUBLK_HANDOVER_STOP)
			vublk_eventfd_signal(farewell->host->stop_fd);
		if (farewell->channel.header.kind == VUBLK_HANDOVER_REFRESH)
			vublk_eventfd_signal(farewell->host->refresh_fd);
	}
	if (r < 0)
		on_end_of_old(farewell);
}

static struct farewell *new_farewell(struct take *take, struct vublk_error *error)
{
	struct farewell *farewell = calloc(1, sizeof(*farewell));

	if (!farewell) {
		vublk_error_set_errno(error, ENOMEM, "cannot allocate memory to take over the disk");
		return NULL;
	}
	farewell->base = (struct vublk_upgrade){ step, free_farewell, take->origin.pid };
	farewell->host = take->host;
	farewell->channel.fd = -1;
	farewell->source = (struct vublk_loop_source){ .fn = on_channel, .opaque = farewell };
	take->host->upgrade = &farewell->base;
	if (vublk_loop_add(take->host->loop, &farewell->source, take->channel.fd, EPOLLIN, error) < 0)
		return NULL;
	return farewell;
}

/* Begins to serve the disk, which now belongs to this process. The upgrade can no longer fail. */
static void begin(struct take *take, struct farewell *farewell)
{
	struct vublk_upgrade_host *host = take->host;
	uint64_t pause_ns;

	host->is_anothers = false;
	vublk_kill_point("new-owns");
	take->type->begin(host->object);
	pause_ns = vublk_now_ns() - take->paused_ns;
	vublk_handover_send(&take->channel, VUBLK_HANDOVER_TAKEN, NULL, 0, NULL, 0, 0, NULL);
	vublk_kill_point("new-told");
	vublk_log_limited(host->log, host->limit, VUBLK_LOG_INFO,
			  "took over the %s at %s from process %lld (version %s); "
			  "requests were paused for %u us",
			  host->kind, host->path, (long long)take->origin.pid, take->origin.version,
			  (unsigned)(pause_ns / 1000));
	if (take->type->told)
		take->type->told(host->object);
	farewell->channel = take->channel;
	take->channel = (struct vublk_handover_channel){ .fd = -1 };
}

/*
 * Called when the old process has claimed the disk before this one. Waits for the old process's
 * refusal, and fails with the reason in it.
 */
static int refuse_late(struct take *take, struct vublk_error *error)
{
	uint64_t deadline_ns = vublk_now_ns() + REFUSAL_MS * NS_PER_MS;
	int r;

	do
		r = vublk_handover_wait(&take->channel, -1, deadline_ns, error);
	while (!r);
	if (r == -ECANCELED)
		return r;
	return vublk_error_set(error, ETIMEDOUT, "the old process continues, because this one needed "
			       "more than %d ms to take over; try again when the machine is less busy",
			       VUBLK_UPGRADE_FREEZE_MS);
}

static int claim(struct take *take, struct vublk_error *error)
{
	struct farewell *farewell = new_farewell(take, error);

	if (!farewell)
		return -ENOMEM;
	if (vublk_handover_is_readable(take->stop_fd))
		return vublk_error_set(error, EINTR, "this process was asked to stop");
	if (!vublk_upgrade_owner_claim(take->owner, VUBLK_UPGRADE_NEW))
		return refuse_late(take, error);
	begin(take, farewell);
	return 0;
}

/* --- the call --------------------------------------------------------------------------------- */

static int run(struct take *take, const struct vublk_log *log, struct vublk_error *error)
{
	int r = vublk_handover_check_peer(&take->channel, &take->origin.pid, error);

	if (!r)
		r = prepare(take, log, error);
	if (!r)
		r = receive_state(take, error);
	if (r < 0)
		return r;
	r = install(take, error);
	/*
	 * If the old process has continued, it changes memory that both processes map, so the state
	 * may seem to be corrupt.
	 */
	if (r < 0 && take->owner && vublk_load_acquire(take->owner) == VUBLK_UPGRADE_OLD)
		return refuse_late(take, error);
	return r < 0 ? r : claim(take, error);
}

/*
 * Returns a descriptor that is readable while SIGTERM or SIGINT is pending. A signal stays pending
 * only if the caller has blocked it. If this function fails, such a signal waits until the upgrade
 * has ended.
 */
static int watch_signals(void)
{
	sigset_t ends;

	sigemptyset(&ends);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGINT);
	return signalfd(-1, &ends, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void deinit(struct take *take)
{
	vublk_fd_close(&take->stop_fd);
	vublk_upgrade_owner_unmap(take->owner);
	vublk_fd_close(&take->origin.image_fd);
	for (unsigned i = 0; i < take->extra.num_fds; i++)
		vublk_fd_close(&take->extra.fds[i]);
	if (take->fds)
		vublk_fd_close_all(take->fds, take->num_fds);
	free(take->fds);
	free(take->options);
	vublk_handover_close(&take->channel);
	free(take);
}

static struct take *new_take(const struct vublk_upgrade_type *type, int fd,
			     struct vublk_error *error)
{
	struct take *take = calloc(1, sizeof(*take));

	if (!take) {
		vublk_fd_close(&fd);
		vublk_error_set_errno(error, ENOMEM, "cannot start an upgrade");
		return NULL;
	}
	take->type = type;
	take->stop_fd = watch_signals();
	take->origin.image_fd = -1;
	take->deadline_ns = vublk_now_ns() + VUBLK_UPGRADE_TOTAL_MS * NS_PER_MS;
	take->options = calloc(MAX_OPTIONS, sizeof(*take->options));
	take->fds = calloc(MAX_FDS, sizeof(*take->fds));
	if (vublk_handover_open(&take->channel, fd, error) < 0)
		;
	else if (!take->options || !take->fds)
		vublk_error_set_errno(error, ENOMEM, "cannot start an upgrade");
	else
		return take;
	deinit(take);
	return NULL;
}

int vublk_upgrade_take(const struct vublk_upgrade_type *type, int fd, const struct vublk_log *log,
		       struct vublk_upgrade_host **host, struct vublk_upgrade_extra *extra,
		       size_t extra_bytes, struct vublk_error *error)
{
	struct take *take = new_take(type, fd, error);
	struct vublk_error own = { 0 };
	int r;

	if (!take)
		return -ENOMEM;
	r = run(take, log, &own);
	if (r == -EINTR)
		vublk_error_set(&own, EINTR, "the new process was asked to stop");
	if (r < 0) {
		if (own.code != ECANCELED && own.code != ENOTCONN)
			vublk_handover_refuse(&take->channel, &own);
		if (r == -EINTR)
			r = -(own.code = ECANCELED);
		if (take->host)
			type->free(take->host->object);
		if (error)
			*error = own;
	} else {
		*host = take->host;
		vublk_struct_out(extra, extra ? extra_bytes : 0, &take->extra, sizeof(take->extra));
		if (extra)
			take->extra.num_fds = 0; /* the caller owns the descriptors now */
	}
	deinit(take);
	return r;
}
