/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Finds the devices that `vublk attach` has made and the processes that serve them; see ublk.h. */
#include "cli/attach/ublk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CLASS "/sys/class/ublk-char"
#define RECORDS "/run/vublk"
#define CLAIMS RECORDS "/attach.lock"
#define MAGIC (UINT64_C(0x7675) << 48) /* "vu" */
#define MAGIC_MASK (UINT64_C(0xffff) << 48)

/* --- the mark -------------------------------------------------------------------- */

/* Computes the hash FNV-1a. */
uint64_t vublk_ublk_mark(const char *socket)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325);

	for (; *socket; socket++)
		hash = (hash ^ (uint8_t)*socket) * UINT64_C(0x100000001b3);
	return MAGIC | ((hash ^ hash >> 48) & ~MAGIC_MASK);
}

bool vublk_ublk_is_ours(const struct ublksrv_ctrl_dev_info *info)
{
	return (info->ublksrv_flags & MAGIC_MASK) == MAGIC;
}

/* Resolves only the path of the directory, because the socket need not exist. */
char *vublk_ublk_canonical(const char *socket)
{
	const char *slash = strrchr(socket, '/');
	char *folder = slash ? strndup(socket, (size_t)(slash - socket) + 1) : strdup(".");
	char *real = folder ? realpath(folder, NULL) : NULL;
	char *result = NULL;

	if (real && asprintf(&result, "%s/%s", strcmp(real, "/") ? real : "",
			     slash ? slash + 1 : socket) < 0)
		result = NULL;
	free(real);
	free(folder);
	return result;
}

/* --- the process ----------------------------------------------------------------- */

static bool has_open(int folder, const char *node)
{
	DIR *dir = fdopendir(folder);
	char target[PATH_MAX];
	bool found = false;

	if (!dir) {
		close(folder);
		return false;
	}
	for (struct dirent *entry = readdir(dir); entry && !found; entry = readdir(dir)) {
		ssize_t length = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);

		target[length < 0 ? 0 : length] = '\0';
		found = !strcmp(target, node);
	}
	closedir(dir);
	return found;
}

bool vublk_ublk_is_served(const struct ublksrv_ctrl_dev_info *info)
{
	char path[64], node[VUBLK_UBLK_NODE_BYTES];
	int folder;

	if (info->ublksrv_pid <= 0)
		return false;
	snprintf(path, sizeof(path), "/proc/%d/fd", info->ublksrv_pid);
	folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return folder >= 0 && has_open(folder, vublk_ublk_node(node, 'c', info->dev_id));
}

/* --- the list -------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
	const struct ublksrv_ctrl_dev_info *left = a, *right = b;

	return (left->dev_id > right->dev_id) - (left->dev_id < right->dev_id);
}

/*
 * Adds the device to the list if `vublk attach` has made it. A device that was removed in the
 * meantime is skipped.
 */
static int add(struct vublk_ublk *ublk, uint32_t id, struct ublksrv_ctrl_dev_info **list,
	       unsigned *count)
{
	struct ublksrv_ctrl_dev_info info = { 0 }, *longer;

	if (vublk_ublk_command(ublk, UBLK_CMD_GET_DEV_INFO, id, &info, sizeof(info), 0) < 0 ||
	    !vublk_ublk_is_ours(&info))
		return 0;
	longer = reallocarray(*list, *count + 1, sizeof(**list));
	if (!longer)
		return -ENOMEM;
	longer[(*count)++] = info;
	*list = longer;
	return 0;
}

int vublk_ublk_list(struct vublk_ublk *ublk, struct ublksrv_ctrl_dev_info **list, unsigned *count,
		    struct vublk_error *error)
{
	DIR *dir = opendir(CLASS);
	struct dirent *entry;
	uint32_t id;
	int ret = 0;

	*list = NULL;
	*count = 0;
	if (!dir)
		return vublk_cli_error_errno(error, errno, "cannot list " CLASS);
	while (!ret && (entry = readdir(dir)))
		if (sscanf(entry->d_name, "ublkc%u", &id) == 1)
			ret = add(ublk, id, list, count);
	closedir(dir);
	if (ret) {
		free(*list);
		*list = NULL;
		return vublk_cli_error_errno(error, -ret, "cannot list the ublk devices");
	}
	if (*list)
		qsort(*list, *count, sizeof(**list), compare);
	return 0;
}

/* --- the claim ------------------------------------------------------------------- */

/*
 * Describes the lock of a socket, which covers one byte of the file CLAIMS. The offset of that byte
 * is the mark without its magic.
 */
static struct flock lock_of(uint64_t mark)
{
	return (struct flock){
		.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)(mark & ~MAGIC_MASK), .l_len = 1,
	};
}

static int open_claims(int flags)
{
	return open(CLAIMS, flags | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0600);
}

/*
 * Returns whether another process has the lock. If so, stores the number of that process in `pid`;
 * 0: the process is in another PID namespace.
 */
static bool is_locked(int fd, uint64_t mark, pid_t *pid)
{
	struct flock lock = lock_of(mark);

	if (fcntl(fd, F_GETLK, &lock) || lock.l_type == F_UNLCK)
		return false;
	*pid = lock.l_pid;
	return true;
}

static int explain_claim(int fd, int code, uint64_t mark, const char *socket, struct vublk_error *error)
{
	pid_t pid = 0;

	if (code != EAGAIN && code != EACCES)
		return vublk_cli_error_errno(error, code, "cannot lock " CLAIMS);
	is_locked(fd, mark, &pid);
	return vublk_cli_error(error, EBUSY, "process %d is about to attach '%s' or to remove its block "
			       "device; wait until that process is done, or end it and try again", pid, socket);
}

int vublk_ublk_claim(const char *socket, uint64_t mark, int *fd, struct vublk_error *error)
{
	struct flock lock = lock_of(mark);
	int ret;

	mkdir(RECORDS, 0755);
	*fd = open_claims(O_CREAT);
	if (*fd < 0)
		return vublk_cli_error_errno(error, errno, "cannot open " CLAIMS);
	if (!fcntl(*fd, F_SETLK, &lock))
		return 0;
	ret = explain_claim(*fd, errno, mark, socket, error);
	close(*fd);
	*fd = -1;
	return ret;
}

bool vublk_ublk_is_claimed(const struct ublksrv_ctrl_dev_info *info)
{
	int fd = open_claims(0);
	pid_t pid;
	bool is_claimed = fd >= 0 && is_locked(fd, info->ublksrv_flags, &pid);

	if (fd >= 0)
		close(fd);
	return is_claimed;
}

/* --- the record ------------------------------------------------------------------ */

static const char *record_path(char path[64], uint32_t id)
{
	snprintf(path, 64, RECORDS "/ublkb%u", id);
	return path;
}

void vublk_ublk_record(uint32_t id, const char *socket)
{
	char path[64];
	int fd;

	mkdir(RECORDS, 0755);
	fd = open(record_path(path, id), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0)
		return;
	if (write(fd, socket, strlen(socket)) < 0)
		unlink(path);
	close(fd);
}

void vublk_ublk_forget(uint32_t id)
{
	char path[64];

	unlink(record_path(path, id));
}

char *vublk_ublk_recorded(const struct ublksrv_ctrl_dev_info *info)
{
	char path[64], socket[PATH_MAX];
	int fd = open(record_path(path, info->dev_id), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	ssize_t length;

	if (fd < 0)
		return NULL;
	length = read(fd, socket, sizeof(socket) - 1);
	close(fd);
	socket[length < 0 ? 0 : length] = '\0';
	return vublk_ublk_mark(socket) == info->ublksrv_flags ? strdup(socket) : NULL;
}
