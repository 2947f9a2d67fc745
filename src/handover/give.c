/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The old process of an upgrade: hands its object to the process at the other end of the channel.
 *
 * Key idea: this process does not run the object's loop while it sends the state. So the object is
 * frozen, and the state cannot change. The freeze has a deadline. As long as the owner's word
 * (owner.c) does not name the new process, this process has changed nothing, and can continue as if
 * it had only been delayed.
 *
 * If this process is asked to stop during the freeze, and the new process does not have the disk
 * yet, the upgrade fails. Signals that come later are passed on to the new process.
 */
#include "handover/upgrade.h"

#include "proto/vhost-user/channel.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/kill-point.h"
#include "util/struct.h"

#include <vublk/version.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#define NS_PER_MS UINT64_C(1000000)
#define AGAIN_MS 1 /* time until the next attempt to freeze the object */

enum phase {
	AWAITS_HELLO,
	AWAITS_PREPARED,
	AWAITS_QUIET, /* the new process is prepared; the object is frozen once there is no
			 obstacle */
	OVER,         /* the handover has ended; after a failure, step() frees it; after a success,
			 it is freed with the object */
};

struct handover {
	struct vublk_upgrade base; /* must be the first member */
	struct vublk_upgrade_host *host;
	const struct vublk_upgrade_type *type;
	struct vublk_handover_channel channel;
	struct vublk_loop_source source;
	struct vublk_loop_timer timer, again;
	enum phase phase;
	struct vublk_upgrade_extra extra; /* owns its descriptors */
	char version[32];
	uint64_t known; /* the sections that the new process knows */
	const char *obstacle; /* why the object could not be frozen so far */
};

static struct handover *of(struct vublk_upgrade *base)
{
	return (struct handover *)base;
}

/* --- the end ------------------------------------------------------------------------------- */

/*
 * Called when the new process has the disk. Signals that came too late for this process are passed
 * on to the new one.
 */
static void pass_signals_on(struct handover *handover)
{
	const struct vublk_upgrade_host *host = handover->host;

	if (vublk_handover_is_readable(host->refresh_fd))
		vublk_handover_send(&handover->channel, VUBLK_HANDOVER_REFRESH, NULL, 0, NULL, 0, 0, NULL);
	if (vublk_handover_is_readable(host->stop_fd))
		vublk_handover_send(&handover->channel, VUBLK_HANDOVER_STOP, NULL, 0, NULL, 0, 0, NULL);
}

static void free_handover(struct vublk_upgrade *base)
{
	struct handover *handover = of(base);

	if (handover->host->is_anothers)
		pass_signals_on(handover);
	vublk_loop_remove(&handover->source);
	vublk_loop_timer_disarm(&handover->timer);
	vublk_loop_timer_disarm(&handover->again);
	vublk_handover_close(&handover->channel);
	for (unsigned i = 0; i < handover->extra.num_fds; i++)
		vublk_fd_close(&handover->extra.fds[i]);
	handover->host->upgrade = NULL;
	free(handover);
}

/*
 * Ends the handover without an upgrade. step() frees the handover later, because a caller may still
 * use it.
 */
static void end(struct handover *handover, const struct vublk_error *why)
{
	const struct vublk_upgrade_host *host = handover->host;

	vublk_log_limited(host->log, host->limit, VUBLK_LOG_WARNING,
			  "this process continues, because the upgrade to process %lld failed: %s",
			  (long long)handover->base.pid, why->text);
	vublk_handover_refuse(&handover->channel, why);
	handover->type->cancel(host->object);
	vublk_loop_remove(&handover->source);
	vublk_loop_timer_disarm(&handover->timer);
	vublk_loop_timer_disarm(&handover->again);
	handover->phase = OVER;
}

static void on_timer(void *opaque)
{
	struct handover *handover = opaque;
	struct vublk_error why;

	if (handover->phase == AWAITS_QUIET)
		vublk_error_set(&why, EBUSY, "the disk could not be handed over within %u ms: %s",
				handover->type->quiet_ms, handover->obstacle);
	else
		vublk_error_set(&why, ETIMEDOUT, "the new process was not ready within %d ms; "
				"try again when the machine is less busy",
				VUBLK_UPGRADE_PREPARE_MS);
	end(handover, &why);
}

/* The timer only wakes the loop, so that step() is called and tries again. */
static void on_again(void *opaque)
{
}

static void set_deadline(struct handover *handover, unsigned ms)
{
	vublk_loop_timer_arm(handover->host->loop, &handover->timer, vublk_now_ns() + ms * NS_PER_MS);
}

/* --- the properties -------------------------------------------------------------------------- */

void vublk_upgrade_put_option(struct vublk_sections_writer *to, const char *name,
			      const char *value, bool is_default)
{
	vublk_section_begin(to, "option", 1, false);
	vublk_section_put_text(to, name);
	vublk_section_put_text(to, value);
	vublk_section_put(to, is_default);
}

void vublk_upgrade_put_origin(struct vublk_sections_writer *to, const char *spec)
{
	char folder[1024] = "";
	struct stat st = { 0 };

	if (!getcwd(folder, sizeof(folder)) || stat(".", &st) < 0)
		folder[0] = '\0';
	vublk_section_begin(to, "origin", 1, false);
	vublk_section_put_text(to, VUBLK_VERSION_STRING);
	vublk_section_put_text(to, spec);
	vublk_section_put_text(to, folder);
	vublk_section_put(to, st.st_dev);
	vublk_section_put(to, st.st_ino);
	vublk_section_put(to, (uint64_t)getpid());
}

void vublk_upgrade_put_image(struct vublk_sections_writer *to, int fd)
{
	vublk_section_begin(to, "image", 1, false);
	vublk_section_put_fd(to, fd);
}

static int send_options(struct handover *handover, struct vublk_error *error)
{
	struct vublk_sections_writer to = { 0 };
	int r;

	handover->type->give_options(handover->host->object, &to);
	if (to.failed)
		r = vublk_error_set_errno(error, ENOMEM, "cannot send the properties");
	else
		r = vublk_handover_send(&handover->channel, VUBLK_HANDOVER_OPTIONS, to.bytes,
					to.num_bytes, to.fds, (unsigned)to.num_fds, 0, error);
	vublk_sections_writer_deinit(&to);
	return r;
}

/* --- messages -------------------------------------------------------------------------------- */

static int read_origin(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct handover *handover = owner;

	vublk_section_get_text(from, handover->version, sizeof(handover->version));
	return 0;
}

static int read_knows(void *owner, struct vublk_section *from, struct vublk_error *error)
{
	struct handover *handover = owner;
	char name[VUBLK_SECTION_NAME_BYTES];

	vublk_section_get_text(from, name, sizeof(name));
	vublk_upgrade_note_known(handover->type->known, &handover->known, name);
	return 0;
}

static const struct vublk_section_type hello_sections[] = {
	{ "origin", false, read_origin },
	{ "knows", true, read_knows },
	{ NULL },
};

static int on_hello(struct handover *handover, struct vublk_error *error)
{
	struct vublk_sections_reader from = { handover->channel.payload,
					      handover->channel.header.bytes, NULL, 0 };
	const struct vublk_section_table table = { hello_sections, handover };
	int r = vublk_sections_read(&from, &table, 1, error);

	if (!r)
		r = vublk_upgrade_check_known(handover->type->known, handover->known,
					      handover->version, error);
	if (!r)
		r = send_options(handover, error);
	vublk_kill_point("old-options");
	handover->phase = AWAITS_PREPARED;
	return r;
}

static int on_message(struct handover *handover, struct vublk_error *error)
{
	uint32_t kind = handover->channel.header.kind;

	if (handover->phase == AWAITS_HELLO && kind == VUBLK_HANDOVER_HELLO)
		return on_hello(handover, error);
	if (handover->phase != AWAITS_PREPARED || kind != VUBLK_HANDOVER_PREPARED)
		return vublk_error_set(error, EPROTO, "the new process sent an unexpected message "
				       "(kind %u)", kind);
	handover->phase = AWAITS_QUIET;
	set_deadline(handover, handover->type->quiet_ms);
	handover->type->prepare(handover->host->object);
	return 0;
}

static void on_channel(void *opaque, uint32_t events)
{
	struct handover *handover = opaque;
	struct vublk_error error;
	int r = vublk_handover_receive(&handover->channel, &error);

	if (r > 0)
		r = on_message(handover, &error);
	if (r < 0)
		end(handover, &error);
}

/* --- the freeze ------------------------------------------------------------------------------ */

static void put_extra(const struct handover *handover, struct vublk_sections_writer *to)
{
	vublk_section_begin(to, "extra", 1, true);
	vublk_section_put_text(to, handover->extra.text);
	vublk_section_put(to, handover->extra.num_fds);
	for (unsigned i = 0; i < handover->extra.num_fds; i++)
		vublk_section_put_fd(to, handover->extra.fds[i]);
}

static uint64_t paused_since(const struct handover *handover, uint64_t frozen_ns)
{
	uint64_t since = handover->type->paused_since ?
			 handover->type->paused_since(handover->host->object) : 0;

	return since ? since : frozen_ns;
}

static int send_state(struct handover *handover, int owner_fd, uint64_t frozen_ns,
		      struct vublk_error *error)
{
	uint64_t deadline_ns = frozen_ns + VUBLK_UPGRADE_FREEZE_MS * NS_PER_MS;
	struct vublk_sections_writer to = { 0 };
	int r;

	vublk_section_begin(&to, "owner", 1, false);
	vublk_section_put_fd(&to, owner_fd);
	vublk_section_put(&to, paused_since(handover, frozen_ns));
	put_extra(handover, &to);
	handover->type->give(handover->host->object, &to);
	if (to.failed)
		r = vublk_error_set_errno(error, ENOMEM, "cannot send the state");
	else
		r = vublk_handover_send_fds(&handover->channel, to.fds, (unsigned)to.num_fds,
					    deadline_ns, error);
	vublk_kill_point("old-half");
	if (!r)
		r = vublk_handover_send(&handover->channel, VUBLK_HANDOVER_STATE, to.bytes,
					to.num_bytes, NULL, 0, deadline_ns, error);
	vublk_sections_writer_deinit(&to);
	vublk_kill_point("old-sent");
	return r;
}

static void hand_over(struct handover *handover, uint64_t frozen_ns)
{
	struct vublk_upgrade_host *host = handover->host;

	vublk_log_limited(host->log, host->limit, VUBLK_LOG_INFO,
			  "process %lld (version %s) has taken over; the handover took %u us",
			  (long long)handover->base.pid, handover->version,
			  (unsigned)((vublk_now_ns() - frozen_ns) / 1000));
	vublk_loop_remove(&handover->source);
	vublk_loop_timer_disarm(&handover->timer);
	vublk_loop_timer_disarm(&handover->again);
	handover->phase = OVER;
	vublk_kill_point("old-lost");
	host->is_anothers = true;
	handover->type->handed_over(host->object);
}

/*
 * Sends the state, and waits for TAKEN until the deadline. Even if TAKEN does not arrive, the new
 * process may have the disk, and only the owner's word says whether it does.
 */
static void freeze(struct handover *handover, uint64_t frozen_ns)
{
	struct vublk_error error = { 0 };
	int fd = vublk_upgrade_owner_new(&error);
	uint32_t *word = fd < 0 ? NULL : vublk_upgrade_owner_map(fd, &error);
	int r = -1;

	vublk_kill_point("old-frozen");
	if (word)
		r = send_state(handover, fd, frozen_ns, &error);
	vublk_fd_close(&fd);
	if (!r)
		r = vublk_handover_wait(&handover->channel, handover->host->stop_fd,
					frozen_ns + VUBLK_UPGRADE_FREEZE_MS * NS_PER_MS, &error);
	if (word && !vublk_upgrade_owner_claim(word, VUBLK_UPGRADE_OLD)) {
		hand_over(handover, frozen_ns);
	} else {
		if (!r)
			vublk_error_set(&error, EPROTO, "the new process sent an unexpected message");
		if (error.code == EINTR)
			vublk_error_set(&error, EINTR, "the old process was asked to stop");
		if (error.code == ETIMEDOUT)
			vublk_error_set(&error, ETIMEDOUT, "the new process needed more than %d ms to "
					"take over; try again when the machine is less busy",
					VUBLK_UPGRADE_FREEZE_MS);
		end(handover, &error);
	}
	vublk_upgrade_owner_unmap(word);
}

/*
 * Returns why the object cannot be handed over now. If it can, stops the object's threads and
 * returns NULL.
 */
static const char *find_obstacle(struct handover *handover, uint64_t now)
{
	const struct vublk_upgrade_type *type = handover->type;
	void *object = handover->host->object;
	const char *obstacle = type->obstacle(object);

	if (obstacle || !type->freeze)
		return obstacle;
	obstacle = type->freeze(object);
	if (obstacle) /* the end of this obstacle may not wake the loop */
		vublk_loop_timer_arm(handover->host->loop, &handover->again, now + AGAIN_MS * NS_PER_MS);
	return obstacle;
}

static void look_for_quiet(struct handover *handover)
{
	const struct vublk_upgrade_host *host = handover->host;
	uint64_t now = vublk_now_ns();
	struct vublk_error error;
	const char *obstacle;

	if (handover->type->check && handover->type->check(host->object, &error) < 0) {
		end(handover, &error);
		return;
	}
	obstacle = find_obstacle(handover, now);
	if (obstacle && obstacle != handover->obstacle)
		vublk_log(host->log, VUBLK_LOG_DEBUG, "the upgrade waits: %s", obstacle);
	handover->obstacle = obstacle;
	if (!obstacle)
		freeze(handover, now);
}

/*
 * Called after each turn of the loop. After a successful handover the channel stays open until the
 * object is freed.
 */
static void step(struct vublk_upgrade *base)
{
	struct handover *handover = of(base);
	const struct vublk_upgrade_host *host = handover->host;

	if (handover->phase == AWAITS_QUIET)
		look_for_quiet(handover);
	if (handover->phase == OVER && !host->is_anothers)
		free_handover(base);
}

/* --- the calls ------------------------------------------------------------------------------- */

int vublk_upgrade_check_free(const struct vublk_upgrade_host *host, struct vublk_error *error)
{
	if (!host->upgrade)
		return 0;
	return vublk_error_set(error, EBUSY, "another upgrade, to process %lld, is under way; "
			       "try again when it has ended",
			       (long long)host->upgrade->pid);
}

static int keep_extra(struct handover *handover, const struct vublk_upgrade_extra *given,
		      size_t given_bytes, struct vublk_error *error)
{
	struct vublk_upgrade_extra extra;
	int r = vublk_struct_in(&extra, sizeof(extra), given, given_bytes, "vublk_upgrade_extra",
				error);

	if (r < 0)
		return r;
	if (extra.num_fds > VUBLK_UPGRADE_MAX_FDS)
		return vublk_error_set(error, EINVAL, "the extra state has %u descriptors; the maximum "
				       "is %u", extra.num_fds, (unsigned)VUBLK_UPGRADE_MAX_FDS);
	if (!memchr(extra.text, '\0', sizeof(extra.text)))
		return vublk_error_set(error, EINVAL, "the text of the extra state is not terminated; "
				       "expected at most %zu characters and a NUL",
				       sizeof(extra.text) - 1);
	memcpy(handover->extra.text, extra.text, sizeof(extra.text));
	for (unsigned i = 0; i < extra.num_fds; i++) {
		int fd = fcntl(extra.fds[i], F_DUPFD_CLOEXEC, 0);

		if (fd < 0)
			return vublk_error_set_errno(error, errno, "cannot duplicate descriptor %d",
						     extra.fds[i]);
		handover->extra.fds[handover->extra.num_fds++] = fd;
	}
	return 0;
}

static int begin(struct handover *handover, int given, struct vublk_error *error)
{
	VUBLK_FD int fd = given;
	int r = vublk_socket_check_connected(fd, error);

	if (!r)
		r = vublk_handover_open(&handover->channel, vublk_fd_steal(&fd), error);
	if (!r)
		r = vublk_handover_check_peer(&handover->channel, &handover->base.pid, error);
	if (!r)
		r = vublk_loop_add(handover->host->loop, &handover->source, handover->channel.fd,
				   EPOLLIN, error);
	return r;
}

int vublk_upgrade_give(struct vublk_upgrade_host *host, int given,
		       const struct vublk_upgrade_extra *extra, size_t extra_bytes,
		       struct vublk_error *error)
{
	VUBLK_FD int fd = given;
	struct handover *handover = calloc(1, sizeof(*handover));
	int r;

	if (!handover)
		return vublk_error_set_errno(error, ENOMEM, "cannot start an upgrade");
	handover->base = (struct vublk_upgrade){ .step = step, .free = free_handover };
	handover->host = host;
	handover->type = host->type;
	handover->channel.fd = -1;
	handover->source = (struct vublk_loop_source){ .fn = on_channel, .opaque = handover };
	handover->timer = (struct vublk_loop_timer){ .fn = on_timer, .opaque = handover };
	handover->again = (struct vublk_loop_timer){ .fn = on_again };
	host->upgrade = &handover->base;
	r = keep_extra(handover, extra, extra_bytes, error);
	if (!r)
		r = begin(handover, vublk_fd_steal(&fd), error);
	if (r < 0) {
		free_handover(&handover->base);
		return r;
	}
	set_deadline(handover, VUBLK_UPGRADE_PREPARE_MS);
	vublk_kill_point("old-asked");
	return 0;
}
