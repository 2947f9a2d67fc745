/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Makes or resumes the block device; see device.h. queue.c executes its requests.
 *
 * Key idea: a device whose process has died is not removed. The kernel keeps its requests,
 * including those that the dead process had begun, and gives them to the next process. Resuming a
 * device takes the same steps as making one, except for the first and the last command to the
 * driver.
 */
#include "cli/attach/device.h"

#include "cli/attach/params.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define RESUME_STEP_MS 20
#define RESUME_LIMIT_MS 30000
#define CLOSE_MS 5000

/* --- the device of the socket -------------------------------------------------------- */

static int refuse_served(const struct vublk_attach *attach, struct vublk_error *error)
{
	char node[VUBLK_UBLK_NODE_BYTES];

	return vublk_cli_error(error, EBUSY, "'%s' is already attached as %s by process %d; to attach "
			       "it again, run 'vublk detach' first",
			       attach->socket, vublk_ublk_node(node, 'b', attach->info.dev_id),
			       attach->info.ublksrv_pid);
}

/*
 * Looks for the device of the socket and stores its information in `info`, which stays all zeroes
 * if no device is found. Refuses a device that a running process already serves.
 */
static int find(struct vublk_attach *attach, struct vublk_error *error)
{
	uint64_t mark = vublk_ublk_mark(attach->socket);
	struct ublksrv_ctrl_dev_info *list;
	unsigned count;
	int ret = vublk_ublk_list(&attach->ublk, &list, &count, error);

	if (ret)
		return ret;
	for (unsigned i = 0; i < count; i++)
		if (list[i].ublksrv_flags == mark)
			attach->info = list[i];
	free(list);
	if (!attach->info.nr_hw_queues)
		return 0;
	if (vublk_ublk_is_served(&attach->info))
		return refuse_served(attach, error);
	return 0;
}

/*
 * Removes a device whose process died before it had started the device: there is nothing to resume.
 */
static void remove_begun(struct vublk_attach *attach)
{
	if (!attach->info.nr_hw_queues)
		return;
	attach->is_resumed = attach->info.state != UBLK_S_DEV_DEAD;
	if (!attach->is_resumed)
		vublk_ublk_command(&attach->ublk, UBLK_CMD_DEL_DEV, attach->info.dev_id, NULL, 0, 0);
}

static int refuse_other_id(const struct vublk_attach *attach, struct vublk_error *error)
{
	if (!attach->is_resumed || attach->wanted_id < 0 || attach->wanted_id == attach->info.dev_id)
		return 0;
	return vublk_cli_error(error, EINVAL, "'%s' already has the block device /dev/ublkb%u, which can "
			       "be continued but not renamed; leave out --id", attach->socket, attach->info.dev_id);
}

/*
 * Claims the socket. If another process has the claim and already serves the device, returns the
 * error of find(), which names that device.
 */
static int claim(struct vublk_attach *attach, struct vublk_error *error)
{
	int ret = vublk_ublk_claim(attach->socket, vublk_ublk_mark(attach->socket),
				   &attach->claim_fd, error);
	int found = ret && ret != -EBUSY ? 0 : find(attach, error);

	if (found || ret)
		return found ? found : ret;
	remove_begun(attach);
	return refuse_other_id(attach, error);
}

/* --- the disk ------------------------------------------------------------------------ */

static void signal_fd(int fd)
{
	eventfd_t one = 1;

	if (write(fd, &one, sizeof(one)) < 0)
		return; /* the counter is at its maximum, so the main thread will wake up */
}

static void on_event(void *opaque, enum vublk_blk_event event, const struct vublk_error *error)
{
	struct vublk_attach *attach = opaque;

	vublk_disk_watch_event(&attach->watch, event, error);
	if (event == VUBLK_BLK_GAVE_UP)
		vublk_cli_warn("attach", "%s; all requests of the block device fail",
			       error ? error->text : "the disk has no back-end");
	if (event == VUBLK_BLK_WRITES_LOST)
		vublk_cli_say_limited("attach", &attach->lost_limit, "completed writes of '%s' may be "
				      "lost, because its back-end ended before it had flushed them; the "
				      "next flush fails", attach->socket);
	if (event == VUBLK_BLK_RESIZED)
		signal_fd(attach->resize_fd);
}

/* Chooses the number of queues. A resumed device keeps the number with which it was made. */
static void choose_queues(struct vublk_attach *attach, char text[12])
{
	if (!attach->is_resumed) {
		vublk_disk_limit_queues(&attach->disk, (unsigned)sysconf(_SC_NPROCESSORS_ONLN));
		return;
	}
	snprintf(text, 12, "%u", attach->info.nr_hw_queues);
	attach->disk.num_queues = true;
	vublk_cli_options_add_default(&attach->disk.list, "num-queues", text);
}

static int open_disk(struct vublk_attach *attach, struct vublk_error *error)
{
	const struct vublk_blk_handlers handlers = { .event = on_event, .opaque = attach };
	char num_queues[12];
	int ret;

	choose_queues(attach, num_queues);
	vublk_disk_watch_init(&attach->watch, "attach", attach->socket);
	ret = vublk_disk_open("attach", attach->socket, &attach->disk, &handlers, &attach->blk, error);
	if (!ret)
		vublk_disk_watch_start(&attach->watch, attach->blk,
				       vublk_disk_reconnects(&attach->disk));
	return ret;
}

/* --- commands ------------------------------------------------------------------------ */

static int command(struct vublk_attach *attach, unsigned number, void *buffer, size_t bytes,
		   uint64_t data, const char *what, struct vublk_error *error)
{
	int ret = vublk_ublk_command(&attach->ublk, number, attach->info.dev_id, buffer,
				     (uint16_t)bytes, data);

	if (ret < 0)
		return vublk_cli_error_errno(error, -ret, "the ublk driver cannot %s", what);
	return 0;
}

static int explain_add(const struct vublk_attach *attach, int code, struct vublk_error *error)
{
	if (code == EEXIST)
		return vublk_cli_error(error, code, "the block device /dev/ublkb%u already exists; "
				       "choose another --id",
				       (unsigned)attach->wanted_id);
	return vublk_cli_error_errno(error, code, "the ublk driver cannot make a block device");
}

static int add(struct vublk_attach *attach, const struct vublk_blk_info *disk,
	       struct vublk_error *error)
{
	int ret;

	attach->info = (struct ublksrv_ctrl_dev_info){
		.nr_hw_queues = (uint16_t)disk->num_queues,
		.queue_depth = (uint16_t)attach->depth,
		.max_io_buf_bytes = attach->request_bytes,
		.dev_id = attach->wanted_id < 0 ? UINT32_MAX : (uint32_t)attach->wanted_id,
		.ublksrv_pid = getpid(),
		.flags = UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE,
		.ublksrv_flags = vublk_ublk_mark(attach->socket),
	};
	ret = vublk_ublk_command(&attach->ublk, UBLK_CMD_ADD_DEV, attach->info.dev_id, &attach->info,
				 sizeof(attach->info), 0);
	if (ret < 0)
		return explain_add(attach, -ret, error);
	vublk_ublk_record(attach->info.dev_id, attach->socket);
	return 0;
}

/*
 * Prepares the kernel for the new process. The kernel refuses with EBUSY until it has collected the
 * requests of the dead process, and does not notify when it is ready, so this function tries again
 * every RESUME_STEP_MS.
 */
static int begin_resume(struct vublk_attach *attach, struct vublk_error *error)
{
	struct pollfd wake = { .fd = attach->wake_fd, .events = POLLIN };
	int ret = -EBUSY;

	for (unsigned ms = 0; ret == -EBUSY && ms < RESUME_LIMIT_MS; ms += RESUME_STEP_MS) {
		ret = vublk_ublk_command(&attach->ublk, UBLK_CMD_START_USER_RECOVERY,
					 attach->info.dev_id, NULL, 0, 0);
		if (ret == -EBUSY && poll(&wake, 1, RESUME_STEP_MS) > 0)
			return vublk_cli_error(error, EINTR, "interrupted by a signal before %s could be "
					       "continued", attach->node);
	}
	/*
	 * EINVAL: an earlier process sent this command and died before its first queue was ready.
	 * So the kernel is already prepared.
	 */
	if (ret < 0 && ret != -EINVAL)
		return vublk_cli_error_errno(error, -ret, "the ublk driver cannot continue %s",
					     attach->node);
	return 0;
}

static int set_params(struct vublk_attach *attach, const struct vublk_blk_info *disk,
		      struct vublk_error *error)
{
	struct ublk_params now, before = { .len = sizeof(before) };
	int ret = vublk_attach_params(disk, attach->info.max_io_buf_bytes, &now, error);

	if (ret)
		return ret;
	if (!attach->is_resumed)
		return command(attach, UBLK_CMD_SET_PARAMS, &now, sizeof(now), 0,
			       "make a block device with this disk's sizes", error);
	ret = command(attach, UBLK_CMD_GET_PARAMS, &before, sizeof(before), 0,
		      "report the sizes of the block device", error);
	if (!ret)
		ret = vublk_attach_check_params(&before, &now, error);
	if (!ret && now.basic.dev_sectors != before.basic.dev_sectors)
		signal_fd(attach->resize_fd);
	return ret;
}

static int open_char(struct vublk_attach *attach, struct vublk_error *error)
{
	char node[VUBLK_UBLK_NODE_BYTES];

	attach->char_fd = open(vublk_ublk_node(node, 'c', attach->info.dev_id), O_RDWR | O_CLOEXEC);
	if (attach->char_fd < 0)
		return vublk_cli_error_errno(error, errno, "cannot open %s", node);
	return 0;
}

/* --- threads -------------------------------------------------------------------------- */

static void take_ready(void *opaque, const struct vublk_error *failure)
{
	struct vublk_attach *attach = opaque;

	pthread_mutex_lock(&attach->lock);
	if (failure && !attach->failure.code)
		attach->failure = *failure;
	attach->num_ready++;
	pthread_cond_signal(&attach->changed);
	pthread_mutex_unlock(&attach->lock);
}

static void take_end(void *opaque)
{
	struct vublk_attach *attach = opaque;

	pthread_mutex_lock(&attach->lock);
	attach->num_ended++;
	pthread_mutex_unlock(&attach->lock);
	signal_fd(attach->wake_fd);
}

bool vublk_attach_has_ended(struct vublk_attach *attach)
{
	bool has_ended;

	pthread_mutex_lock(&attach->lock);
	has_ended = attach->num_ended == attach->info.nr_hw_queues;
	pthread_mutex_unlock(&attach->lock);
	return has_ended;
}

/*
 * Ends the threads that wait for requests, by stopping the device. Stopping a resumed device would
 * lose its requests, so in that case ends the process instead, and the device stays.
 */
static void stop(void *opaque)
{
	struct vublk_attach *attach = opaque;

	if (attach->is_resumed) {
		vublk_cli_fail("attach", "cannot start the threads for %s, so it stays as it was", attach->node);
		_exit(VUBLK_EXIT_FAILED);
	}
	vublk_ublk_command(&attach->ublk, UBLK_CMD_STOP_DEV, attach->info.dev_id, NULL, 0, 0);
}

static int wait_for_threads(struct vublk_attach *attach, struct vublk_error *error)
{
	pthread_mutex_lock(&attach->lock);
	while (attach->num_ready < attach->info.nr_hw_queues)
		pthread_cond_wait(&attach->changed, &attach->lock);
	pthread_mutex_unlock(&attach->lock);
	if (attach->failure.code)
		return vublk_cli_error(error, attach->failure.code, "%s", attach->failure.text);
	return 0;
}

static void init_queue(struct vublk_attach *attach, uint16_t index, char *buffers)
{
	const struct ublksrv_ctrl_dev_info *info = &attach->info;

	attach->queues[index] = (struct vublk_attach_queue){
		.ready = take_ready, .ended = take_end, .opaque = attach,
		.name = attach->node, .index = index, .depth = info->queue_depth,
		.buffer_bytes = info->max_io_buf_bytes,
		.is_plain = !(info->flags & UBLK_F_CMD_IOCTL_ENCODE), .char_fd = attach->char_fd,
		.buffers = buffers + (size_t)index * info->queue_depth * info->max_io_buf_bytes,
		.disk = vublk_blk_queue(attach->blk, index),
		.watch = index ? NULL : &attach->watch,
	};
}

static int start_threads(struct vublk_attach *attach, char *buffers, struct vublk_error *error)
{
	uint16_t count = attach->info.nr_hw_queues;
	int ret;

	attach->queues = calloc(count, sizeof(*attach->queues));
	if (!attach->queues)
		return vublk_cli_error_errno(error, ENOMEM, "cannot serve %s", attach->node);
	for (uint16_t i = 0; i < count; i++)
		init_queue(attach, i, buffers);
	ret = vublk_crew_start(&attach->crew, count, vublk_attach_queue_work, attach->queues,
			       sizeof(*attach->queues), stop, attach, error);
	return ret ? ret : wait_for_threads(attach, error);
}

/* --- start and end -------------------------------------------------------------------- */

/*
 * Opens the character device and starts the threads. If the process dies in this function, kernels
 * before 6.16 may be unable to resume the device. So vublk_attach_start() does everything else
 * first.
 */
static int serve(struct vublk_attach *attach, char *buffers, struct vublk_error *error)
{
	int ret = attach->is_resumed ? begin_resume(attach, error) : 0;

	if (!ret)
		ret = open_char(attach, error);
	if (!ret)
		ret = start_threads(attach, buffers, error);
	if (ret)
		return ret;
	return command(attach, attach->is_resumed ? UBLK_CMD_END_USER_RECOVERY : UBLK_CMD_START_DEV,
		       NULL, 0, (uint64_t)getpid(),
		       attach->is_resumed ? "continue the block device" : "start the block device", error);
}

static int prepare(struct vublk_attach *attach, char **buffers, struct vublk_error *error)
{
	struct vublk_blk_info disk = { 0 };
	struct vublk_error cause = { 0 };
	int ret = 0;

	vublk_blk_get_info(attach->blk, &disk, sizeof(disk));
	if (!attach->is_resumed)
		ret = add(attach, &disk, error);
	if (ret)
		return ret;
	vublk_ublk_node(attach->node, 'b', attach->info.dev_id);
	if (disk.num_queues < attach->info.nr_hw_queues)
		return vublk_cli_error(error, EINVAL, "%s cannot be continued, because it has %u "
				       "queues and the disk has only %u; raise --num-queues, or use a "
				       "back-end with more queues", attach->node, attach->info.nr_hw_queues,
				       disk.num_queues);
	*buffers = vublk_blk_alloc(attach->blk, (size_t)attach->info.nr_hw_queues *
				   attach->info.queue_depth * attach->info.max_io_buf_bytes, &cause);
	if (!*buffers)
		return vublk_cli_error(error, cause.code, "%s", cause.text);
	return set_params(attach, &disk, error);
}

int vublk_attach_start(struct vublk_attach *attach, struct vublk_error *error)
{
	char *buffers = NULL;
	int ret;

	pthread_mutex_init(&attach->lock, NULL);
	pthread_cond_init(&attach->changed, NULL);
	attach->char_fd = attach->claim_fd = -1;
	ret = vublk_ublk_open(&attach->ublk, error);
	if (!ret)
		ret = claim(attach, error);
	if (!ret)
		ret = open_disk(attach, error);
	if (!ret)
		ret = prepare(attach, &buffers, error);
	if (!ret)
		ret = serve(attach, buffers, error);
	return ret;
}

void vublk_attach_resize(struct vublk_attach *attach)
{
	struct vublk_blk_info disk = { 0 };
	int ret;

	vublk_blk_get_info(attach->blk, &disk, sizeof(disk));
	ret = vublk_ublk_command(&attach->ublk, UBLK_CMD_UPDATE_SIZE, attach->info.dev_id, NULL, 0,
				 vublk_attach_sectors(&disk));
	/* ENODEV: the kernel has stopped the device. */
	if (ret < 0 && ret != -ENODEV)
		vublk_cli_say_limited("attach", &attach->resized_limit, "the disk at '%s' was resized, but "
				      "%s keeps the size that it had, because this kernel cannot change it "
				      "(Linux 6.16 or later can); detach the device and attach it again", attach->socket,
				      attach->node);
}

void vublk_attach_abandon(struct vublk_attach *attach)
{
	/* The threads of a resumed device end only if the device is stopped or the process ends. */
	if (attach->is_resumed && attach->crew.members)
		_exit(VUBLK_EXIT_FAILED);
	if (!attach->is_resumed && attach->node[0])
		stop(attach);
	vublk_attach_finish(attach);
}

/*
 * Removes the device if the kernel has stopped it. `vublk detach`, which stops the device, also
 * removes it, but may have died before. The driver removes a device only after its process has
 * closed the character device.
 */
static void remove_stopped(struct vublk_attach *attach)
{
	struct ublksrv_ctrl_dev_info info = { 0 };
	uint32_t id = attach->info.dev_id;

	if (vublk_ublk_command(&attach->ublk, UBLK_CMD_GET_DEV_INFO, id, &info, sizeof(info), 0) < 0 ||
	    info.ublksrv_flags != attach->info.ublksrv_flags || info.state != UBLK_S_DEV_DEAD)
		return;
	vublk_ublk_command(&attach->ublk, UBLK_CMD_DEL_DEV, id, NULL, 0, 0);
	vublk_ublk_forget(id);
}

void vublk_attach_finish(struct vublk_attach *attach)
{
	struct vublk_error error = { 0 };

	vublk_crew_finish(&attach->crew);
	if (attach->char_fd >= 0)
		close(attach->char_fd);
	free(attach->queues);
	if (attach->node[0])
		remove_stopped(attach);
	if (attach->blk && vublk_blk_close(attach->blk, CLOSE_MS, &error))
		vublk_cli_warn("attach", "%s", error.text);
	vublk_ublk_close(&attach->ublk);
	if (attach->claim_fd >= 0)
		close(attach->claim_fd);
	free(attach->socket);
}
