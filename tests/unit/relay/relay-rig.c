/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "relay-rig.h"

#include "util/atomic.h"
#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_S 20

/* --- the log ----------------------------------------------------------------- */

/*
 * Appends a line. If there is no room for it, drops the oldest half of the log first. Returns the
 * number of bytes dropped. Ignores a line of more than half of `room`.
 */
static size_t append(char *log, size_t *length, size_t room, const char *text)
{
	size_t bytes = strlen(text), dropped = 0;

	if (bytes + 2 > room / 2)
		return 0;
	if (*length + bytes + 2 > room) {
		dropped = *length / 2;
		memmove(log, log + dropped, *length - dropped);
		*length -= dropped;
	}
	memcpy(log + *length, text, bytes);
	*length += bytes;
	log[(*length)++] = '\n';
	log[*length] = '\0';
	return dropped;
}

static void hear(void *opaque, enum vublk_log_level level, const char *text)
{
	struct relay *relay = opaque;
	size_t dropped;

	if (getenv("RIG_VERBOSE"))
		fprintf(stderr, "[%d] %s\n", level, text);
	pthread_mutex_lock(&relay->lock);
	dropped = append(relay->log, &relay->length, sizeof(relay->log), text);
	relay->heard -= dropped < relay->heard ? dropped : relay->heard;
	if (level != VUBLK_LOG_DEBUG)
		append(relay->loud, &relay->loud_length, sizeof(relay->loud), text);
	pthread_cond_broadcast(&relay->said);
	pthread_mutex_unlock(&relay->lock);
}

void relay_wait(struct relay *relay, const char *words)
{
	struct timespec until;
	const char *found;
	int r = 0;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += PATIENCE_S;
	pthread_mutex_lock(&relay->lock);
	while (!(found = strstr(relay->log + relay->heard, words)) && !r)
		r = pthread_cond_timedwait(&relay->said, &relay->lock, &until);
	if (found)
		relay->heard = (size_t)(found - relay->log) + strlen(words);
	pthread_mutex_unlock(&relay->lock);
	if (!found)
		fail_msg("the relay does not say '%s', but:\n%s", words,
			 relay->log + relay->heard);
}

bool relay_has_said(struct relay *relay, const char *words)
{
	bool has;

	pthread_mutex_lock(&relay->lock);
	has = strstr(relay->log, words) || strstr(relay->loud, words);
	pthread_mutex_unlock(&relay->lock);
	return has;
}

/* --- the back-end ------------------------------------------------------------ */

static void exec_qemu(const struct relay *relay, const char *program, int fd)
{
	char file[256], export[256];

	snprintf(file, sizeof(file), "driver=file,filename=%s,node-name=f", relay->disk);
	snprintf(export, sizeof(export), "type=vhost-user-blk,id=e,node-name=d,addr.type=fd,"
		 "addr.str=%d,writable=on,num-queues=4", fd);
	execlp(program, program, "--blockdev", file, "--blockdev", "driver=raw,file=f,node-name=d",
	       "--export", export, NULL);
	_exit(127);
}

static void exec_serve(const struct relay *relay, int fd, const char *option)
{
	const char *peer = getenv("VUBLK_TEST_PEER");
	char fd_option[32], file_option[200];

	prctl(PR_SET_PDEATHSIG, SIGKILL); /* the back-end must not outlive the case */
	fcntl(fd, F_SETFD, 0);
	if (peer)
		exec_qemu(relay, peer, fd);
	snprintf(fd_option, sizeof(fd_option), "--fd=%d", fd);
	snprintf(file_option, sizeof(file_option), "--blk-file=%s", relay->disk);
	execl(VUBLK_PROGRAM, "vublk", "serve", "-q", fd_option, file_option, "--num-queues=4", "-o",
	      option ? option : "inflight=on", NULL);
	_exit(127);
}

/*
 * The back-end gets a socket that already listens, so the relay can connect before the back-end is
 * ready.
 */
void relay_start_backend(struct relay *relay, const char *option)
{
	int fd = vublk_socket_listen(relay->backend, NULL);

	assert_true(fd >= 0);
	relay->pid = fork();
	assert_true(relay->pid >= 0);
	if (!relay->pid)
		exec_serve(relay, fd, option);
	close(fd);
}

void relay_kill_backend(struct relay *relay)
{
	kill(relay->pid, SIGKILL);
	assert_int_equal(waitpid(relay->pid, NULL, 0), relay->pid);
	relay->pid = 0;
}

void relay_lose_backend(struct relay *relay)
{
	relay_kill_backend(relay);
	relay_wait(relay, "the disk waits for a back-end");
}

void relay_wait_for_start(struct relay *relay)
{
	relay_wait(relay, "starting, started -> running");
}

void relay_freeze_backend(struct relay *relay)
{
	vublk_test_suspend(relay->pid);
}

void relay_resize(struct relay *relay, uint64_t bytes)
{
	assert_int_equal(truncate(relay->disk, (off_t)bytes), 0);
	kill(relay->pid, SIGHUP);
}

/* --- the relay --------------------------------------------------------------- */

static void *run(void *opaque)
{
	struct relay *relay = opaque;

	struct pollfd wait = { .fd = vublk_bus_fd(relay->bus), .events = POLLIN };

	do {
		void (*hook)(struct relay *) = vublk_load_acquire(&relay->hook);

		if (hook)
			hook(relay);
		poll(&wait, 1, -1);
		relay->result = vublk_bus_process(relay->bus, &relay->error);
	} while (relay->result == 1);
	return NULL;
}

static void make_disk(struct relay *relay)
{
	int fd = open(relay->disk, O_CREAT | O_RDWR | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, RELAY_DISK_BYTES), 0);
	close(fd);
}

static void prepare(struct relay *relay)
{
	memset(relay, 0, sizeof(*relay));
	if (access(VUBLK_PROGRAM, X_OK) < 0)
		vublk_test_skip("the tool is not built");
	signal(SIGPIPE, SIG_IGN);
	pthread_mutex_init(&relay->lock, NULL);
	pthread_cond_init(&relay->said, NULL);
	snprintf(relay->socket, sizeof(relay->socket), "%s/relay", vublk_test_folder());
	snprintf(relay->backend, sizeof(relay->backend), "%s/backend", vublk_test_folder());
	snprintf(relay->disk, sizeof(relay->disk), "%s/disk", vublk_test_folder());
	make_disk(relay);
}

static void open_bus(struct relay *relay, const struct vublk_option *properties)
{
	struct vublk_option all[16] = {
		{ "chardev", relay->backend },
		{ "reconnect-ms", "20" },
		{ "shadow", getenv("VUBLK_TEST_SHADOW") ? "on" : "off" },
	};
	struct vublk_log log = { hear, relay, VUBLK_LOG_DEBUG };
	struct vublk_error error;
	char spec[200];

	for (unsigned n = 3; properties && properties->name; n++)
		all[n] = *properties++;
	snprintf(spec, sizeof(spec), "vhost-user:%s", relay->socket);
	if (vublk_bus_open(spec, all, &log, &relay->bus, &error))
		fail_msg("%s", error.text);
	assert_int_equal(pthread_create(&relay->thread, NULL, run, relay), 0);
}

void relay_open_alone(struct relay *relay, const struct vublk_option *properties)
{
	prepare(relay);
	open_bus(relay, properties);
}

void relay_open(struct relay *relay, const struct vublk_option *properties)
{
	prepare(relay);
	relay_start_backend(relay, NULL);
	open_bus(relay, properties);
	relay_wait(relay, "listening on");
}

void relay_join(struct relay *relay)
{
	assert_int_equal(pthread_join(relay->thread, NULL), 0);
	relay->thread = 0;
}

void relay_close(struct relay *relay)
{
	if (relay->thread) {
		vublk_bus_stop(relay->bus);
		relay_join(relay);
		assert_int_equal(relay->result, 0);
	}
	vublk_bus_free(relay->bus);
	if (relay->pid)
		relay_kill_backend(relay);
	pthread_cond_destroy(&relay->said);
	pthread_mutex_destroy(&relay->lock);
}

/* --- the VMM ----------------------------------------------------------------- */

void relay_connect(struct relay *relay, struct backend_rig *rig)
{
	struct vublk_error error;
	int fd = vublk_socket_connect(relay->socket, &error);

	if (fd < 0)
		fail_msg("%s", error.text);
	rig_attach(rig, fd);
}

void relay_driver_ok(struct backend_rig *rig)
{
	assert_int_equal(rig_set_u64(rig, VUBLK_VU_SET_STATUS, 0xf), 0);
}

void relay_set_up_vmm(struct relay *relay, struct backend_rig *rig)
{
	relay_connect(relay, rig);
	rig_negotiate(rig);
	assert_int_equal(rig_set_mem_table(rig), 0);
}

static void start_queues(struct backend_rig *rig, unsigned num_queues)
{
	for (unsigned i = 0; i < num_queues; i++)
		rig_start_queue(rig, i, RIG_SIZE, 0);
	relay_driver_ok(rig);
}

void relay_start_vmm(struct relay *relay, struct backend_rig *rig, unsigned num_queues)
{
	relay_set_up_vmm(relay, rig);
	start_queues(rig, num_queues);
}

void relay_start_vmm_with_area(struct relay *relay, struct backend_rig *rig,
			       struct rig_area *area, unsigned num_queues)
{
	relay_set_up_vmm(relay, rig);
	rig_get_area(rig, area);
	assert_int_equal(rig_set_area(rig, area), 0);
	start_queues(rig, num_queues);
}

void relay_reset_device(struct backend_rig *rig)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, VUBLK_VU_RESET_DEVICE);
	assert_int_equal(rig_send_acked(rig, &message), 0);
}

void relay_close_vmm(struct relay *relay, struct backend_rig *rig)
{
	rig_close(rig);
	relay_wait(relay, "the VMM disconnected");
}

void relay_begin(struct relay *relay, struct backend_rig *rig, unsigned num_queues)
{
	relay_open(relay, NULL);
	relay_start_vmm(relay, rig, num_queues);
}

void relay_end(struct relay *relay, struct backend_rig *rig)
{
	relay_close_vmm(relay, rig);
	relay_close(relay);
}

/* --- requests ---------------------------------------------------------------- */

void relay_write_and_read(struct backend_rig *rig, unsigned first, unsigned num_queues, char salt)
{
	for (unsigned q = first; q < first + num_queues; q++) {
		uint64_t sector = 1024 + q * 100; /* after the sectors of relay_add_requests() */
		char *data = rig_data(rig, q);

		memset(data, salt + (char)q, RELAY_BLOCK);
		assert_int_equal(rig_io(rig, q, VIRTIO_BLK_T_OUT, sector, 0, RELAY_BLOCK),
				 VIRTIO_BLK_S_OK);
		assert_int_equal(rig_io(rig, q, VIRTIO_BLK_T_IN, sector, RELAY_BLOCK, RELAY_BLOCK),
				 VIRTIO_BLK_S_OK);
		assert_memory_equal(data, data + RELAY_BLOCK, RELAY_BLOCK);
	}
}

void relay_add_requests(struct backend_rig *rig, unsigned queue)
{
	for (uint16_t token = 0; token < RELAY_REQUESTS; token++)
		rig_add(rig, queue, token, VIRTIO_BLK_T_OUT, queue * 256 + token * 8u,
			token * RELAY_BLOCK, RELAY_BLOCK);
}

void relay_send_requests(struct backend_rig *rig, unsigned queue)
{
	relay_add_requests(rig, queue);
	rig_kick(rig, queue);
}

void relay_take_requests(struct backend_rig *rig, unsigned queue)
{
	bool taken[RELAY_REQUESTS] = { false };

	for (unsigned i = 0; i < RELAY_REQUESTS; i++) {
		uint16_t token = rig_take(rig, queue, NULL);

		assert_true(token < RELAY_REQUESTS && !taken[token]);
		taken[token] = true;
		assert_int_equal(rig_status(rig, queue, token), VIRTIO_BLK_S_OK);
	}
	assert_false(vublk_driver_ring_has_completion(&rig->queues[queue].driver));
}

void relay_expect_signal(int fd)
{
	struct pollfd wait = { .fd = fd, .events = POLLIN };

	assert_int_equal(poll(&wait, 1, PATIENCE_S * 1000), 1);
}
