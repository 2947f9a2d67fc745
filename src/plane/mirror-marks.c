/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The marks of a mirror's state file, and the thread that syncs them; see mirror-state.h.
 *
 * A letter marks both accesses of a pair that must be ordered:
 *   D  the thread stores the number of a stable batch; the owner loads it before it submits a
 *      write.
 */
#include "plane/mirror-private.h"

#include "util/checked.h"
#include "util/compiler.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/kill-point.h"
#include "util/memfd.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* --- bitmaps ------------------------------------------------------------------------------ */

static bool has_bit(const uint8_t *bitmap, uint64_t n)
{
	return vublk_load_relaxed(&bitmap[n / 8]) >> n % 8 & 1;
}

static void set_bit(uint8_t *bitmap, uint64_t n)
{
	vublk_store_relaxed(&bitmap[n / 8], bitmap[n / 8] | (uint8_t)(1u << n % 8));
}

static void clear_bit(uint8_t *bitmap, uint64_t n)
{
	if (has_bit(bitmap, n))
		vublk_store_relaxed(&bitmap[n / 8], bitmap[n / 8] & (uint8_t)~(1u << n % 8));
}

static uint64_t count_marked(const struct vublk_mirror_marks *marks)
{
	const uint64_t *words = (const uint64_t *)marks->bitmap;
	uint64_t num_clean = 0;

	for (uint64_t i = 0; i < marks->bitmap_bytes / sizeof(*words); i++)
		num_clean += (uint64_t)__builtin_popcountll(words[i]);
	return marks->num_regions - VUBLK_MIN(num_clean, marks->num_regions);
}

/* --- the thread ------------------------------------------------------------------------------ */

/* Returns whether ticket `a` is after ticket `b`. */
static bool is_after(vublk_mirror_state_ticket a, vublk_mirror_state_ticket b)
{
	return (int32_t)(a - b) > 0;
}

static int sync_file(struct vublk_mirror_state *state, struct vublk_error *error)
{
	int r = vublk_mirror_file_sync(&state->file, state->marks.mapping_bytes, error);

	vublk_kill_point("mirror-synced");
	if (!r && vublk_fault_happened(&state->marks.fault))
		return vublk_error_set(error, EIO, "the mirror's state file '%s' was truncated, or its "
				       "storage has failed", state->file.path);
	return r;
}

static void *sync_main(void *opaque)
{
	struct vublk_mirror_state *state = opaque;
	struct vublk_mirror_marks *marks = &state->marks;

	pthread_mutex_lock(&marks->lock);
	while (!marks->must_stop) {
		vublk_mirror_state_ticket batch = marks->requested;
		struct vublk_error error = { 0 };
		int r;

		if (batch == marks->done) {
			pthread_cond_wait(&marks->changed, &marks->lock);
			continue;
		}
		pthread_mutex_unlock(&marks->lock);
		r = sync_file(state, &error);
		pthread_mutex_lock(&marks->lock);
		if (r && !marks->failure.code) {
			marks->failure = error;
			vublk_store_release(&marks->has_failed, true);
		}
		marks->done = batch;
		if (!marks->failure.code)
			vublk_store_release(&marks->stable, batch); /* D */
		vublk_eventfd_signal(marks->event_fd);
		pthread_cond_broadcast(&marks->changed);
	}
	pthread_mutex_unlock(&marks->lock);
	return NULL;
}

static int start_thread(struct vublk_mirror_state *state)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	sigdelset(&all, SIGBUS); /* a fault while SIGBUS is blocked ends the process */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&state->marks.thread, NULL, sync_main, state);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -r;
}

static void stop_thread(struct vublk_mirror_marks *marks)
{
	pthread_mutex_lock(&marks->lock);
	marks->must_stop = true;
	pthread_cond_broadcast(&marks->changed);
	pthread_mutex_unlock(&marks->lock);
	pthread_join(marks->thread, NULL);
	pthread_cond_destroy(&marks->changed);
	pthread_mutex_destroy(&marks->lock);
}

/* --- life ----------------------------------------------------------------------------------- */

/* Frees everything except the thread. */
static void free_memory(struct vublk_mirror_marks *marks)
{
	vublk_unmap(marks->mapping, marks->mapping_bytes);
	vublk_fd_close(&marks->event_fd);
	free(marks->recent);
	free(marks->older);
	free(marks->tickets);
	*marks = (struct vublk_mirror_marks){ .event_fd = -1 };
}

static int allocate(struct vublk_mirror_state *state, struct vublk_error *error)
{
	struct vublk_mirror_marks *marks = &state->marks;

	marks->recent = calloc(1, marks->bitmap_bytes);
	marks->older = calloc(1, marks->bitmap_bytes);
	marks->tickets = calloc(marks->num_regions, sizeof(*marks->tickets));
	if (!marks->recent || !marks->older || !marks->tickets)
		return vublk_error_set(error, ENOMEM, "cannot allocate memory for the marks of the "
				       "mirror's state file '%s'",
				       state->file.path);
	marks->event_fd = vublk_eventfd_new();
	if (marks->event_fd < 0)
		return vublk_error_set_errno(error, -marks->event_fd, "cannot create an eventfd for the "
					     "mirror's state file '%s'", state->file.path);
	marks->mapping = vublk_map_guarded(state->file.fd, 0, marks->mapping_bytes, &marks->fault,
					   VUBLK_FAULT_MIRROR_STATE, error);
	if (!marks->mapping)
		return -errno;
	marks->bitmap = (uint8_t *)marks->mapping + VUBLK_MIRROR_FILE_HEADERS_BYTES;
	return 0;
}

int vublk_mirror_marks_begin(struct vublk_mirror_state *state, struct vublk_error *error)
{
	struct vublk_mirror_marks *marks = &state->marks;
	uint64_t num_regions = vublk_mirror_header_num_regions(&state->header);
	uint64_t bitmap_bytes = vublk_mirror_bitmap_bytes(num_regions);
	int r;

	*marks = (struct vublk_mirror_marks){
		.num_regions = num_regions,
		.region_bytes = state->header.region_bytes,
		.mapping_bytes = VUBLK_MIRROR_FILE_HEADERS_BYTES + bitmap_bytes,
		.fault.fd = -1,
		.event_fd = -1,
		.bitmap_bytes = bitmap_bytes,
		.open = 1,
	};
	r = allocate(state, error);
	if (!r) {
		marks->num_marked = count_marked(marks);
		pthread_mutex_init(&marks->lock, NULL);
		pthread_cond_init(&marks->changed, NULL);
		r = start_thread(state);
		if (r)
			vublk_error_set_errno(error, -r, "cannot start the thread that writes the "
					      "mirror's state file '%s'", state->file.path);
	}
	if (r)
		free_memory(marks);
	return r;
}

void vublk_mirror_marks_end(struct vublk_mirror_state *state)
{
	if (!state->marks.mapping)
		return;
	stop_thread(&state->marks);
	free_memory(&state->marks);
}

/* --- marks ------------------------------------------------------------------------------------ */

/* Returns whether the bits cannot be trusted, because a page was lost or a sync has failed. */
static bool is_lost(const struct vublk_mirror_marks *marks)
{
	return VUBLK_UNLIKELY(vublk_fault_happened(&marks->fault)) ||
	       VUBLK_UNLIKELY(vublk_load_relaxed(&marks->has_failed));
}

static vublk_mirror_state_ticket mark(struct vublk_mirror_marks *marks, uint64_t region)
{
	clear_bit(marks->recent, region);
	clear_bit(marks->older, region);
	if (!has_bit(marks->bitmap, region))
		return marks->tickets[region];
	clear_bit(marks->bitmap, region);
	vublk_kill_point("mirror-marked");
	marks->num_marked++;
	marks->tickets[region] = marks->open;
	marks->has_new = true;
	return marks->open;
}

vublk_mirror_state_ticket vublk_mirror_state_mark(struct vublk_mirror_state *state, uint64_t offset,
						  uint64_t bytes)
{
	struct vublk_mirror_marks *marks = &state->marks;
	vublk_mirror_state_ticket newest = vublk_load_acquire(&marks->stable); /* D */
	uint64_t last;

	if (!bytes)
		return newest;
	last = VUBLK_MIN((offset + bytes - 1) / marks->region_bytes, marks->num_regions - 1);
	for (uint64_t region = offset / marks->region_bytes; region <= last; region++) {
		vublk_mirror_state_ticket ticket = mark(marks, region);

		if (is_after(ticket, newest))
			newest = ticket;
	}
	if (is_lost(marks)) {
		marks->has_new = true;
		return marks->open;
	}
	return newest;
}

void vublk_mirror_state_clear(struct vublk_mirror_state *state, uint64_t region)
{
	set_bit(state->marks.recent, region);
}

/*
 * Removes the marks of the regions in `older`. Then the regions in `recent` move to `older`.
 * Returns how many marks were removed.
 */
static uint64_t remove_marks(struct vublk_mirror_marks *marks)
{
	uint64_t *words = (uint64_t *)marks->bitmap;
	uint64_t *older = (uint64_t *)marks->older, *recent = (uint64_t *)marks->recent;
	uint64_t num_removed = 0;

	for (uint64_t i = 0; i < marks->bitmap_bytes / sizeof(*words); i++) {
		/* stores only changes, so that unchanged pages of a large bitmap stay clean */
		if (older[i]) {
			num_removed += (uint64_t)__builtin_popcountll(older[i] & ~words[i]);
			vublk_store_relaxed(&words[i], words[i] | older[i]);
			older[i] = 0;
		}
		if (recent[i]) {
			older[i] = recent[i];
			recent[i] = 0;
		}
	}
	marks->num_marked -= VUBLK_MIN(num_removed, marks->num_marked);
	return num_removed;
}

uint64_t vublk_mirror_state_age(struct vublk_mirror_state *state)
{
	uint64_t num_removed = is_lost(&state->marks) ? 0 : remove_marks(&state->marks);

	state->marks.has_new = true;
	vublk_kill_point("mirror-aged");
	return num_removed;
}

bool vublk_mirror_state_is_marked(const struct vublk_mirror_state *state, uint64_t region)
{
	return !has_bit(state->marks.bitmap, region) || is_lost(&state->marks);
}

uint64_t vublk_mirror_state_num_marked(const struct vublk_mirror_state *state)
{
	return state->marks.num_marked;
}

/* --- syncs ------------------------------------------------------------------------------------ */

bool vublk_mirror_state_is_stable(const struct vublk_mirror_state *state,
				  vublk_mirror_state_ticket ticket)
{
	return !is_after(ticket, vublk_load_acquire(&state->marks.stable)); /* D */
}

bool vublk_mirror_state_has_failed(const struct vublk_mirror_state *state)
{
	return vublk_load_acquire(&state->marks.has_failed);
}

int vublk_mirror_state_fd(const struct vublk_mirror_state *state)
{
	return state->marks.event_fd;
}

void vublk_mirror_state_start_sync(struct vublk_mirror_state *state)
{
	struct vublk_mirror_marks *marks = &state->marks;

	if (!marks->has_new)
		return;
	marks->has_new = false;
	pthread_mutex_lock(&marks->lock);
	marks->requested = marks->open++;
	pthread_cond_broadcast(&marks->changed);
	pthread_mutex_unlock(&marks->lock);
}

static int get_failure(struct vublk_mirror_marks *marks, struct vublk_error *error)
{
	return marks->failure.code ?
		       vublk_error_set(error, marks->failure.code, "%s", marks->failure.text) : 0;
}

int vublk_mirror_state_take_result(struct vublk_mirror_state *state, struct vublk_error *error)
{
	struct vublk_mirror_marks *marks = &state->marks;
	int r;

	vublk_eventfd_clear(marks->event_fd);
	pthread_mutex_lock(&marks->lock);
	r = get_failure(marks, error);
	pthread_mutex_unlock(&marks->lock);
	return r;
}

int vublk_mirror_state_sync(struct vublk_mirror_state *state, struct vublk_error *error)
{
	struct vublk_mirror_marks *marks = &state->marks;
	int r;

	vublk_mirror_state_start_sync(state);
	pthread_mutex_lock(&marks->lock);
	while (marks->done != marks->requested)
		pthread_cond_wait(&marks->changed, &marks->lock);
	r = get_failure(marks, error);
	pthread_mutex_unlock(&marks->lock);
	return r;
}
