/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A mirror's state file: its life, its phases, and which disk is up to date; see mirror-state.h. */
#include "plane/mirror-private.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/kill-point.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- disks --------------------------------------------------------------------------------- */

int vublk_mirror_state_disk_init(struct vublk_mirror_state_disk *disk, const char *path,
				 const char *serial, uint64_t bytes, struct vublk_error *error)
{
	*disk = (struct vublk_mirror_state_disk){ .bytes = bytes };
	if (serial && strlen(serial) >= sizeof(disk->serial))
		return vublk_error_set(error, ENAMETOOLONG, "the serial '%.32s' has more than %zu "
				       "bytes", serial, sizeof(disk->serial) - 1);
	if (serial)
		strcpy(disk->serial, serial);
	return vublk_mirror_file_absolute(path, disk->path, sizeof(disk->path), error);
}

/*
 * Returns whether `disk` is disk `index` of the header. Compares the serials if all three disks
 * have one and the two serials in the header differ, because a path may lead to another disk than
 * before. Otherwise compares the paths.
 */
static bool is_disk(const struct vublk_mirror_header *header, unsigned index,
		    const struct vublk_mirror_state_disk *disk)
{
	const struct vublk_mirror_state_disk *this = &header->disks[index];
	const struct vublk_mirror_state_disk *other = &header->disks[!index];

	if (this->serial[0] && other->serial[0] && disk->serial[0] &&
	    strcmp(this->serial, other->serial))
		return !strcmp(this->serial, disk->serial);
	return !strcmp(this->path, disk->path);
}

static int check_valid(const struct vublk_mirror_state *state, struct vublk_error *error)
{
	return state->is_invalid ?
		       vublk_error_set(error, EIO, "the mirror's state file '%s' is no longer used, "
				       "because an earlier write to it failed; to mirror again, remove "
				       "the file and restart the device", state->file.path) : 0;
}

/* Writes the header. A failure makes the file unusable, and empties it if possible. */
static int write_header(struct vublk_mirror_state *state, struct vublk_error *error)
{
	int r = vublk_mirror_file_write(&state->file, &state->header, error);

	if (r) {
		state->is_invalid = true;
		state->is_unsafe = vublk_mirror_file_invalidate(&state->file) < 0;
	}
	return r;
}

int vublk_mirror_state_make_safe(struct vublk_mirror_state *state, struct vublk_error *error)
{
	if (!state || !state->is_unsafe)
		return 0;
	state->is_unsafe = vublk_mirror_file_invalidate(&state->file) < 0;
	if (!state->is_unsafe)
		return 0;
	return vublk_error_set(error, EIO, "the mirror's state file '%s' can neither be written nor made "
			       "empty, and its marks are out of date; remove it before the next start",
			       state->file.path);
}

int vublk_mirror_state_admit(const struct vublk_mirror_state *state,
			     const struct vublk_mirror_state_disk *disk, struct vublk_error *error)
{
	const struct vublk_mirror_header *header = &state->header;
	const struct vublk_mirror_state_disk *valid = &header->disks[header->authoritative];
	int r = check_valid(state, error);

	if (r || header->phase == VUBLK_MIRROR_STATE_NEW ||
	    is_disk(header, header->authoritative, disk))
		return r;
	return vublk_error_set(error, ESTALE, "the disk at '%s' is %s: the mirror's state file '%s' "
			       "says that the disk at '%s'%s%s is up to date; start with that disk, or "
			       "remove the file if it is wrong", disk->path,
			       is_disk(header, !header->authoritative, disk) ? "out of date" :
									       "unknown",
			       state->file.path, valid->path,
			       valid->serial[0] ? " with the serial " : "", valid->serial);
}

/* --- life ---------------------------------------------------------------------------------- */

int vublk_mirror_state_open(const char *path, struct vublk_mirror_state **state,
			    struct vublk_error *error)
{
	struct vublk_mirror_state *new = calloc(1, sizeof(*new));
	int r;

	if (!new)
		return vublk_error_set(error, ENOMEM, "cannot allocate memory for the mirror's state");
	new->marks.event_fd = -1;
	r = vublk_mirror_file_open(&new->file, path, &new->header, &new->was_repaired, error);
	if (r) {
		free(new);
		return r;
	}
	*state = new;
	return 0;
}

/* Ages the marks twice, which removes the marks of all regions that are clear now. */
void vublk_mirror_state_suspend(struct vublk_mirror_state *state)
{
	if (!state->marks.mapping)
		return;
	vublk_mirror_state_age(state);
	vublk_mirror_state_age(state);
	vublk_mirror_marks_end(state);
}

void vublk_mirror_state_close(struct vublk_mirror_state *state)
{
	if (!state)
		return;
	vublk_mirror_state_suspend(state);
	vublk_mirror_state_make_safe(state, NULL);
	vublk_mirror_file_close(&state->file);
	free(state);
}

void vublk_mirror_state_get_info(const struct vublk_mirror_state *state,
				 struct vublk_mirror_state_info *info)
{
	*info = (struct vublk_mirror_state_info){
		.phase = state->header.phase,
		.authoritative = state->header.authoritative,
		.disks = { state->header.disks[0], state->header.disks[1] },
		.generation = state->header.generation,
		.region_bytes = state->header.region_bytes,
		.num_regions = vublk_mirror_header_num_regions(&state->header),
		.was_repaired = state->was_repaired,
	};
}

/* --- mirrors --------------------------------------------------------------------------------- */

/* Returns whether the file has the marks of an interrupted mirror with the same disks and sizes. */
static bool can_resume(const struct vublk_mirror_header *header,
		       const struct vublk_mirror_state_disk *source,
		       const struct vublk_mirror_state_disk *target, uint64_t region_bytes)
{
	unsigned index = header->authoritative;

	return header->phase == VUBLK_MIRROR_STATE_MIRRORING &&
	       is_disk(header, index, source) && is_disk(header, !index, target) &&
	       source->bytes == header->disks[index].bytes &&
	       target->bytes == header->disks[!index].bytes && region_bytes == header->region_bytes;
}

/* Gives the file the size for the mirror. The new bytes are 0, so all regions are marked. */
static int mark_all(struct vublk_mirror_state *state, uint64_t bitmap_bytes,
		    struct vublk_error *error)
{
	const off_t begin = VUBLK_MIRROR_FILE_HEADERS_BYTES;
	int r = 0;

	if (ftruncate(state->file.fd, begin) < 0)
		r = errno;
	vublk_kill_point("mirror-shortened");
	if (!r)
		r = posix_fallocate(state->file.fd, begin, (off_t)bitmap_bytes);
	if (r)
		return vublk_error_set_errno(error, r, "cannot reserve %" PRIu64 " bytes for the "
					     "mirror's state file '%s'", bitmap_bytes, state->file.path);
	return vublk_mirror_file_sync(&state->file, (uint64_t)begin + bitmap_bytes, error);
}

/* Begins a mirror that has to copy the whole disk. */
static int begin_new(struct vublk_mirror_state *state, const struct vublk_mirror_state_disk *source,
		     const struct vublk_mirror_state_disk *target, uint64_t region_bytes,
		     struct vublk_error *error)
{
	struct vublk_mirror_header header = {
		.region_bytes = region_bytes,
		.phase = VUBLK_MIRROR_STATE_MIRRORING,
		.disks = { *source, *target },
	};
	uint64_t num_regions = vublk_mirror_header_num_regions(&header);
	int r;

	if (!num_regions || num_regions > VUBLK_MIRROR_STATE_MAX_REGIONS ||
	    !vublk_is_power_of_two(region_bytes))
		return vublk_error_set(error, EINVAL, "a mirror of %" PRIu64 " bytes cannot have "
				       "regions of %" PRIu64 " bytes", source->bytes, region_bytes);
	r = vublk_mirror_state_end(state, error);
	if (!r)
		r = mark_all(state, vublk_mirror_bitmap_bytes(num_regions), error);
	if (r)
		return r;
	vublk_kill_point("mirror-reserved");
	header.sequence = state->header.sequence;
	header.generation = state->header.generation + 1;
	state->header = header;
	return write_header(state, error);
}

int vublk_mirror_state_begin(struct vublk_mirror_state *state,
			     const struct vublk_mirror_state_disk *source,
			     const struct vublk_mirror_state_disk *target, uint64_t region_bytes,
			     bool *resumed, struct vublk_error *error)
{
	bool resumes = can_resume(&state->header, source, target, region_bytes);
	int r = vublk_mirror_state_admit(state, source, error);

	if (r)
		return r;
	if (state->marks.mapping)
		return vublk_error_set(error, EBUSY, "the disk is being mirrored already");
	if (!strcmp(source->path, target->path))
		return vublk_error_set(error, EINVAL, "'%s' is both the source and the target of the mirror",
				       target->path);
	r = resumes ? vublk_mirror_file_sync(&state->file, 0, error) :
		      begin_new(state, source, target, region_bytes, error);
	if (!r)
		r = vublk_mirror_marks_begin(state, error);
	if (r) {
		vublk_mirror_state_end(state, NULL);
		return r;
	}
	*resumed = resumes;
	return 0;
}

/* Ends the mirror, and records that only the disk with this index is up to date. */
static int become_single(struct vublk_mirror_state *state, unsigned authoritative,
			 struct vublk_error *error)
{
	vublk_mirror_marks_end(state);
	state->header.phase = VUBLK_MIRROR_STATE_SINGLE;
	state->header.authoritative = authoritative;
	state->header.generation++;
	return write_header(state, error);
}

int vublk_mirror_state_end(struct vublk_mirror_state *state, struct vublk_error *error)
{
	int r = check_valid(state, error);

	if (state->header.phase != VUBLK_MIRROR_STATE_MIRRORING || r)
		return r;
	return become_single(state, state->header.authoritative, error);
}

int vublk_mirror_state_commit_switch(struct vublk_mirror_state *state, struct vublk_error *error)
{
	int r = check_valid(state, error);

	if (r)
		return r;
	if (!state->marks.mapping)
		return vublk_error_set(error, EINVAL, "the disk is not being mirrored");
	return become_single(state, !state->header.authoritative, error);
}
