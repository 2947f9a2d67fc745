/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finds the holes of a file (lseek(2) with SEEK_DATA and SEEK_HOLE), and data that could be a hole
 * because it contains only zeroes.
 *
 * Key idea: a file system may report a hole as data, but never data as a hole. So a copy does not
 * have to read a reported hole, and it searches reported data for zeroes.
 */
#include "cli/copy/sparse.h"

#include "cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void vublk_sparse_init(struct vublk_sparse *sparse, int fd, uint64_t bytes, uint32_t unit_bytes)
{
	*sparse = (struct vublk_sparse){ .fd = fd, .unit_bytes = unit_bytes, .end = bytes };
}

static uint64_t round_down(const struct vublk_sparse *sparse, uint64_t offset)
{
	return offset & ~(uint64_t)(sparse->unit_bytes - 1);
}

/*
 * Stores the offset of the first byte of data or of a hole (`whence`: SEEK_DATA or SEEK_HOLE) at or
 * after sparse->position, but at most the end of the walk.
 */
static int seek(const struct vublk_sparse *sparse, int whence, uint64_t *offset)
{
	off_t found = lseek(sparse->fd, (off_t)sparse->position, whence);

	if (found < 0 && errno != ENXIO)
		return -errno;
	*offset = found < 0 || (uint64_t)found > sparse->end ? sparse->end : (uint64_t)found;
	return 0;
}

/*
 * Checks that the file was not truncated during the copy. If it was, seek() reports a hole from the
 * new end to the end of the walk.
 */
static int check_size(const struct vublk_sparse *sparse, struct vublk_error *error)
{
	struct stat st;

	if (fstat(sparse->fd, &st))
		return vublk_cli_error_errno(error, errno, "cannot read the status of the source");
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size >= sparse->end)
		return 0;
	return vublk_cli_error(error, EIO, "the source ends at offset %" PRIu64 ", because it "
			       "became smaller during the copy", (uint64_t)st.st_size);
}

/*
 * Finds out whether the file has a hole at `position` (`hole`), and where the hole or the data ends
 * (`known_end`). A unit that is partly data counts as data.
 */
static int find_next_kind(struct vublk_sparse *sparse, struct vublk_error *error)
{
	uint64_t data = 0, hole = 0;
	int ret;

	sparse->hole = false;
	sparse->known_end = sparse->end;
	if (sparse->fd < 0)
		return 0;
	ret = seek(sparse, SEEK_DATA, &data);
	if (ret == -EINVAL) { /* not supported, for example by block devices */
		sparse->fd = -1;
		return 0;
	}
	if (ret)
		return vublk_cli_error_errno(error, -ret, "cannot find the next data in the source "
					     "from offset %" PRIu64, sparse->position);
	if (data < sparse->end)
		data = round_down(sparse, data);
	if (data > sparse->position) {
		sparse->hole = true;
		sparse->known_end = data;
		return check_size(sparse, error);
	}
	ret = seek(sparse, SEEK_HOLE, &hole);
	if (ret)
		return vublk_cli_error_errno(error, -ret, "cannot find the next hole in the source "
					     "from offset %" PRIu64, sparse->position);
	hole = round_down(sparse, hole + sparse->unit_bytes - 1);
	/*
	 * If the file changes during the walk, the hole may begin at the position itself. Advances
	 * by at least one unit anyway.
	 */
	hole = VUBLK_CLI_MAX(hole, sparse->position + sparse->unit_bytes);
	sparse->known_end = VUBLK_CLI_MIN(hole, sparse->end);
	return 0;
}

int vublk_sparse_next(struct vublk_sparse *sparse, uint64_t max_data, uint64_t max_hole,
		      struct vublk_extent *extent, struct vublk_error *error)
{
	uint64_t max;
	int ret;

	if (sparse->position == sparse->end)
		return 0;
	if (sparse->position == sparse->known_end) {
		ret = find_next_kind(sparse, error);
		if (ret)
			return ret;
	}
	max = sparse->hole ? max_hole : max_data;
	extent->offset = sparse->position;
	extent->bytes = VUBLK_CLI_MIN(sparse->known_end - sparse->position, max);
	extent->hole = sparse->hole;
	sparse->position += extent->bytes;
	return 1;
}

bool vublk_is_zero(const void *data, size_t bytes)
{
	const unsigned char *p = data;

	/* All bytes are zero if the first is zero and each one equals the one before it. */
	return !bytes || (!p[0] && !memcmp(p, p + 1, bytes - 1));
}

size_t vublk_zero_run(const void *data, size_t bytes, size_t unit, bool *zero)
{
	const unsigned char *p = data;
	size_t length = VUBLK_CLI_MIN(unit, bytes);

	*zero = vublk_is_zero(p, length);
	while (length < bytes) {
		size_t next = VUBLK_CLI_MIN(unit, bytes - length);

		if (vublk_is_zero(p + length, next) != *zero)
			break;
		length += next;
	}
	return length;
}
