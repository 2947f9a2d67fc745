/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Back-ends that are handed over to another one within this process, or drained. A case decides
 * when the storage completes requests, and which syncs fail. tests/peers/takeover.py and drain.py
 * test whole programs.
 *
 * Key idea: only the thread that runs a back-end may hand it over or drain it. So each back-end has
 * a thread, which also executes the orders of the case.
 */
#include "backend-rig.h"

#include "util/atomic.h"
#include "util/fd.h"
#include "util/memfd.h"
#include "virtio/dirty-log.h"

#include <vublk/upgrade.h>

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define LOG_BYTES ((RIG_GUEST + RIG_MEMORY) / VUBLK_DIRTY_PAGE_BYTES / 8)

/* --- the storage -------------------------------------------------------------------------------- */

static struct {
	int sync;       /* the errno with which the next sync fails; 0: it succeeds */
	bool is_closed; /* no completion of io_uring reaches the back-end */
} storage;

int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);
unsigned __real_io_uring_peek_batch_cqe(struct io_uring *ring, struct io_uring_cqe **cqes,
					unsigned count);
unsigned __wrap_io_uring_peek_batch_cqe(struct io_uring *ring, struct io_uring_cqe **cqes,
					unsigned count);

/* Like the kernel, reports a lost write only once. */
int __wrap_fdatasync(int fd)
{
	errno = __atomic_exchange_n(&storage.sync, 0, __ATOMIC_SEQ_CST);
	return errno ? -1 : __real_fdatasync(fd);
}

unsigned __wrap_io_uring_peek_batch_cqe(struct io_uring *ring, struct io_uring_cqe **cqes,
					unsigned count)
{
	return vublk_load_acquire(&storage.is_closed) ? 0 :
	       __real_io_uring_peek_batch_cqe(ring, cqes, count);
}

/* --- back-ends with a thread -------------------------------------------------------------------- */

struct host {
	struct vublk_backend *backend;
	pthread_t thread;
	int order_fd;         /* signalled when there is an order */
	int give_fd;          /* the order: hand the back-end over to this socket; -1: drain it */
	uint64_t timeout_ms;  /* of the drain */
	int ordered;          /* the result of the order; 1: not executed yet */
	enum vublk_backend_drain_state drain;
	struct vublk_error failure;
	int result;
};

static void execute(struct host *host)
{
	struct vublk_error error;
	int give_fd, r;

	vublk_eventfd_clear(host->order_fd);
	give_fd = vublk_load_acquire(&host->give_fd);
	if (give_fd >= 0)
		r = vublk_backend_hand_over(host->backend, give_fd, NULL, 0, &error);
	else
		r = vublk_backend_drain(host->backend, host->timeout_ms, &error);
	vublk_store_release(&host->ordered, r);
}

static void note(struct host *host)
{
	struct vublk_backend_info info;

	vublk_backend_get_info(host->backend, &info, sizeof(info));
	host->failure = info.drain_failure;
	vublk_store_release(&host->drain, info.drain);
}

static void *run_host(void *opaque)
{
	struct host *host = opaque;
	struct pollfd wait[] = {
		{ .fd = vublk_backend_fd(host->backend), .events = POLLIN },
		{ .fd = host->order_fd, .events = POLLIN },
	};

	do {
		poll(wait, 2, -1);
		/*
		 * This comes first, because it may end an upgrade, and no order is possible during
		 * an upgrade.
		 */
		host->result = vublk_backend_process(host->backend, NULL);
		note(host);
		if (host->result == 1 && wait[1].revents)
			execute(host);
	} while (host->result == 1);
	return NULL;
}

static void start(struct host *host, struct vublk_backend *backend)
{
	*host = (struct host){ .backend = backend, .order_fd = vublk_eventfd_new(), .ordered = 1 };
	assert_int_equal(pthread_create(&host->thread, NULL, run_host, host), 0);
}

/*
 * Waits until the thread has ended, checks that vublk_backend_process() succeeded, and frees the
 * back-end.
 */
static void join(struct host *host)
{
	assert_int_equal(pthread_join(host->thread, NULL), 0);
	assert_int_equal(host->result, 0);
	vublk_backend_free(host->backend);
	vublk_fd_close(&host->order_fd);
}

static void order_drain(struct host *host, uint64_t timeout_ms)
{
	host->timeout_ms = timeout_ms;
	vublk_store_release(&host->give_fd, -1);
	vublk_store_relaxed(&host->ordered, 1);
	vublk_eventfd_signal(host->order_fd);
	while (vublk_load_acquire(&host->ordered) == 1)
		sched_yield();
	assert_int_equal(host->ordered, 0);
}

static void wait_for_drain(struct host *host, enum vublk_backend_drain_state state)
{
	while (vublk_load_acquire(&host->drain) != state)
		sched_yield();
}

/* Hands the back-end of `host` over to a new one, with which `host` continues. */
static void upgrade(struct host *host)
{
	struct vublk_backend *backend;
	struct vublk_error error;
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	vublk_store_release(&host->give_fd, ends[0]);
	vublk_eventfd_signal(host->order_fd);
	if (vublk_backend_take_over(ends[1], NULL, &backend, NULL, 0, &error))
		fail_msg("%s", error.text);
	assert_int_equal(pthread_join(host->thread, NULL), 0);
	assert_int_equal(host->result, 0);
	assert_true(vublk_backend_is_handed_over(host->backend));
	assert_int_equal(vublk_backend_new_process(host->backend), getpid());
	vublk_backend_free(host->backend);
	vublk_fd_close(&host->order_fd);
	start(host, backend);
}

/* Opens a back-end with an image of 1 MiB, and a front-end that has started queue 0. */
static void open_rig(struct backend_rig *rig, struct host *host, const char *io, uint64_t features,
		     struct rig_area *area)
{
	char path[RIG_PATH_BYTES], number[16];
	const struct vublk_option options[] = {
		{ "blk-file", path }, { "num-queues", "4" }, { "io", io }, { "cache", "buffered" },
		{ "fd", number }, { "statistics", "on" }, { 0 },
	};
	int image = rig_make_image(path, 1 << 20), sockets[2];
	struct vublk_backend *backend;
	struct vublk_error error;

	vublk_fd_close(&image);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	snprintf(number, sizeof(number), "%d", sockets[1]);
	if (vublk_backend_open(options, NULL, &backend, &error))
		fail_msg("%s", error.text);
	start(host, backend);
	rig_attach(rig, sockets[0]);
	rig_negotiate(rig);
	if (features)
		assert_int_equal(rig_set_u64(rig, VUBLK_VU_SET_FEATURES, rig->features | features), 0);
	assert_int_equal(rig_set_mem_table(rig), 0);
	rig_get_area(rig, area);
	assert_int_equal(rig_set_area(rig, area), 0);
	rig_start_queue(rig, 0, RIG_SIZE, 0);
}

static void close_rig(struct backend_rig *rig, struct host *host, struct rig_area *area)
{
	rig_drop_area(area);
	rig_close(rig);
	join(host);
}

/* --- upgrades ----------------------------------------------------------------------------------- */

static void set_log(struct backend_rig *rig, int fd)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, VUBLK_VU_SET_LOG_BASE);
	message.payload.log.size_bytes = LOG_BYTES;
	message.header.size = sizeof(message.payload.log);
	message.fds[0] = fd;
	message.num_fds = 1;
	assert_int_equal(rig_send_acked(rig, &message), 0);
}

static bool is_marked(const uint8_t *bits, uint64_t addr)
{
	uint64_t page = addr / VUBLK_DIRTY_PAGE_BYTES;

	return bits[page / 8] >> page % 8 & 1;
}

/*
 * The dirty log is handed over, so the new back-end marks the page to which a read request writes.
 */
static void test_dirty_log(void **state)
{
	int fd = vublk_memfd_new("log", LOG_BYTES, NULL);
	uint8_t *bits = vublk_map_shared(fd, 0, LOG_BYTES, NULL);
	struct backend_rig rig;
	struct rig_area area;
	struct host host;

	open_rig(&rig, &host, "io_uring", VUBLK_BIT(VHOST_F_LOG_ALL), &area);
	set_log(&rig, fd);
	vublk_fd_close(&fd);
	upgrade(&host);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_IN, 0, 0, 512), VIRTIO_BLK_S_OK);
	assert_true(is_marked(bits, rig_data_addr(0)));
	memset(bits, 0, LOG_BYTES);
	upgrade(&host);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_IN, 0, 0, 512), VIRTIO_BLK_S_OK);
	assert_true(is_marked(bits, rig_data_addr(0)));
	close_rig(&rig, &host, &area);
	vublk_unmap(bits, LOG_BYTES);
}

/* The setting of the write cache, the base of a stopped ring, and the counters are handed over. */
static void test_settings(void **state)
{
	struct virtio_blk_config config;
	struct vublk_request_stats stats;
	struct backend_rig rig;
	struct rig_area area;
	struct host host;
	unsigned base;

	open_rig(&rig, &host, "io_uring", 0, &area);
	assert_int_equal(rig_set_wce(&rig, 0), 0);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, 0, 512), VIRTIO_BLK_S_OK);
	upgrade(&host);
	rig_get_config(&rig, &config);
	assert_int_equal(config.wce, 0);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 8, 0, 512), VIRTIO_BLK_S_OK);
	base = rig_get_base(&rig, 0);
	assert_int_equal(base, 2);
	upgrade(&host);
	assert_int_equal(vublk_backend_get_stats(host.backend, 0, VUBLK_REQUEST_WRITE, &stats,
						 sizeof(stats)), 0);
	assert_int_equal(stats.count, 2);
	assert_int_equal(rig_get_base(&rig, 0), base);
	assert_int_equal(rig_count_inflight(&area, 0), 0);
	close_rig(&rig, &host, &area);
}

/* After a failed sync, each flush fails, even in the back-end that takes over. */
static void test_failed_sync(void **state)
{
	struct backend_rig rig;
	struct rig_area area;
	struct host host;

	open_rig(&rig, &host, "blocking", 0, &area);
	vublk_store_relaxed(&storage.sync, EIO);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_IOERR);
	upgrade(&host);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, 0, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_IOERR);
	close_rig(&rig, &host, &area);
}

/* --- drains ------------------------------------------------------------------------------------- */

/* If the flush of a drain fails, the back-end does not end, and the driver's flushes fail. */
static void test_drain_cannot_flush(void **state)
{
	struct backend_rig rig;
	struct rig_area area;
	struct host host;

	open_rig(&rig, &host, "blocking", 0, &area);
	vublk_store_relaxed(&storage.sync, EIO);
	order_drain(&host, 60000);
	wait_for_drain(&host, VUBLK_BACKEND_DRAIN_FAILED);
	assert_int_equal(host.failure.code, EIO);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, 0, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_IOERR);
	close_rig(&rig, &host, &area);
}

static void wait_for_inflight(const struct rig_area *area, unsigned count)
{
	while (rig_count_inflight(area, 0) != count)
		sched_yield();
}

/*
 * If the storage does not complete a request, the drain fails, and the queue takes further requests
 * while the first one is still outstanding. A later drain succeeds.
 */
static void test_drain_is_stuck(void **state)
{
	struct backend_rig rig;
	struct rig_area area;
	struct host host;

	open_rig(&rig, &host, "io_uring", 0, &area);
	vublk_store_release(&storage.is_closed, true);
	rig_add(&rig, 0, 0, VIRTIO_BLK_T_OUT, 0, 0, 512);
	rig_kick(&rig, 0);
	wait_for_inflight(&area, 1);
	order_drain(&host, 1);
	wait_for_drain(&host, VUBLK_BACKEND_DRAIN_FAILED);
	assert_int_equal(host.failure.code, ETIMEDOUT);
	rig_add(&rig, 0, 1, VIRTIO_BLK_T_OUT, 8, 512, 512);
	rig_kick(&rig, 0);
	wait_for_inflight(&area, 2);
	vublk_store_release(&storage.is_closed, false);
	rig_add(&rig, 0, 2, VIRTIO_BLK_T_OUT, 16, 1024, 512); /* wakes the worker */
	rig_kick(&rig, 0);
	for (unsigned i = 0; i < 3; i++)
		rig_take(&rig, 0, NULL);
	for (uint16_t i = 0; i < 3; i++)
		assert_int_equal(rig_status(&rig, 0, i), VIRTIO_BLK_S_OK);
	order_drain(&host, 60000);
	rig_wait_for_end(&rig);
	rig_drop_area(&area);
	rig_close(&rig);
	join(&host);
	assert_int_equal(host.drain, VUBLK_BACKEND_DRAINED);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_dirty_log),
		VUBLK_TEST(test_settings),
		VUBLK_TEST(test_failed_sync),
		VUBLK_TEST(test_drain_cannot_flush),
		VUBLK_TEST(test_drain_is_stuck),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
