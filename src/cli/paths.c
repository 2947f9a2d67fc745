/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Compares the paths of a command line; see paths.h.
 *
 * Key idea: an existing file is identified by its device and inode number, whatever links lead to
 * it. A file that does not exist yet, such as a socket, is identified by its name and its folder.
 */
#include "cli/paths.h"

#include "cli/cli.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static bool is_same_file(const char *a, const char *b)
{
	struct stat file_a, file_b;

	return !stat(a, &file_a) && !stat(b, &file_b) && file_a.st_dev == file_b.st_dev &&
	       file_a.st_ino == file_b.st_ino;
}

/*
 * Returns the part of the path after the last slash. Stores the part up to that slash, or "." if
 * there is no slash, in `folder`.
 */
static const char *split(const char *path, char folder[PATH_MAX])
{
	const char *slash = strrchr(path, '/');

	if (slash)
		snprintf(folder, PATH_MAX, "%.*s/", (int)(slash - path), path);
	else
		strcpy(folder, ".");
	return slash ? slash + 1 : path;
}

static bool is_same(const char *a, const char *b)
{
	char folder_a[PATH_MAX], folder_b[PATH_MAX];
	const char *name_a = split(a, folder_a), *name_b = split(b, folder_b);

	return !strcmp(a, b) || is_same_file(a, b) ||
	       (!strcmp(name_a, name_b) && is_same_file(folder_a, folder_b));
}

static void refuse(struct argp_state *state, const struct vublk_cli_path *a,
		   const struct vublk_cli_path *b)
{
	if (strcmp(a->path, b->path))
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "%s and %s are the same file, '%s' and "
			     "'%s'; give each its own path", a->option, b->option, a->path, b->path);
	else
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "%s and %s are the same path, '%s'; give "
			     "each its own path", a->option, b->option, a->path);
}

void vublk_cli_check_paths(struct argp_state *state, const struct vublk_cli_path *paths,
			   unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		for (unsigned j = 0; j < i; j++)
			if (paths[i].path && paths[j].path && is_same(paths[j].path, paths[i].path))
				refuse(state, &paths[j], &paths[i]);
}
