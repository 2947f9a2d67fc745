/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For each struct that can grow: passes one to the library, or gets one from it. The program's
 * headers differ from those that the library is compiled with. With GROWN, the program is newer:
 * its structs have one more member `test_growth` at the end. Without GROWN, the library is newer
 * and has the member.
 *
 *   growth SOCKET    the socket of a back-end
 */
#include <vublk/backend.h>
#include <vublk/blk.h>
#include <vublk/bus.h>
#include <vublk/device.h>
#include <vublk/limit.h>
#include <vublk/notice.h>
#include <vublk/trace.h>

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define GUEST_ADDR 0x100000
#define MEMORY_BYTES 65536

static struct vublk_error error;

#define CHECK(condition) check(condition, __LINE__, #condition)

static void check(bool holds, int line, const char *condition)
{
	if (holds)
		return;
	fprintf(stderr, "growth.c:%d: %s does not hold (last error: %s)\n", line, condition, error.text);
	exit(1);
}

/*
 * A struct that the library must fill, and the bytes after it, which the library must not change.
 */
#define FRAMED(type, name) struct { type it; char after[64]; } name; memset(&name, 0xa5, sizeof(name))
#define CHECK_FRAME(name) do { for (unsigned i_ = 0; i_ < sizeof((name).after); i_++) \
	CHECK((name).after[i_] == (char)0xa5); } while (0)

/*
 * If only the program has a member, the library sets it to 0 in structs that it fills, and refuses
 * any other value in structs that it gets.
 */
#ifdef GROWN
#define CHECK_ZEROED(name) CHECK((name).it.test_growth == 0)
#define CHECK_REFUSED(name, call) do { (name).test_growth = 1; CHECK((call) == -EINVAL); \
	CHECK(strstr(error.text, "or a newer one")); (name).test_growth = 0; } while (0)
#else
#define CHECK_ZEROED(name) ((void)0)
#define CHECK_REFUSED(name, call) ((void)0)
#endif

/* --- the block API ------------------------------------------------------------------ */

static void on_event(void *opaque, enum vublk_blk_event event, const struct vublk_error *why)
{
}

static void use_disk(const char *path)
{
	struct vublk_blk_handlers handlers = { .event = on_event };
	struct vublk_blk_completion completions[2];
	FRAMED(struct vublk_blk_info, info);
	FRAMED(struct vublk_device_info, device);
	FRAMED(struct vublk_blk_event_info, event);
	struct vublk_blk *blk = NULL;
	char *buffer;

	CHECK_REFUSED(handlers, vublk_blk_open(path, NULL, &handlers, sizeof(handlers), &blk, &error));
	CHECK(!vublk_blk_open(path, NULL, &handlers, sizeof(handlers), &blk, &error));
	vublk_blk_get_info(blk, &info.it, sizeof(info.it));
	CHECK(info.it.capacity_bytes == 1 << 20 && info.it.num_queues);
	CHECK_ZEROED(info);
	CHECK_FRAME(info);
	vublk_blk_get_device_info(blk, &device.it, sizeof(device.it));
	CHECK(!strcmp(device.it.chardev, path) && device.it.backend_config_bytes);
	CHECK_ZEROED(device);
	CHECK_FRAME(device);
	CHECK(!vublk_blk_next_event(blk, &event.it, sizeof(event.it)));
	CHECK_FRAME(event);
	buffer = vublk_blk_alloc(blk, 4096, &error);
	CHECK(buffer);
	CHECK(!vublk_blk_write(vublk_blk_queue(blk, 0), 0, buffer, 4096, VUBLK_BLK_FUA, buffer, &error));
	CHECK(!vublk_blk_read(vublk_blk_queue(blk, 0), 4096, buffer, 4096, 0, buffer, &error));
	CHECK(vublk_blk_wait(vublk_blk_queue(blk, 0), completions, 2, 2, -1, &error) == 2);
	for (unsigned i = 0; i < 2; i++)
		CHECK(!completions[i].result && completions[i].user_data == buffer &&
		      !completions[i].reserved);
	CHECK(!vublk_blk_release(blk, buffer, &error));
	CHECK(!vublk_blk_close(blk, -1, &error));
}

/* --- the back-end --------------------------------------------------------------------- */

static void use_backend(const char *path)
{
	char own_path[100];
	const struct vublk_option options[] = {
		{ "engine", "memory" }, { "size", "1M" }, { "socket-path", own_path }, { NULL },
	};
	FRAMED(struct vublk_backend_info, info);
	FRAMED(struct vublk_backend_queue_info, queue);
	FRAMED(struct vublk_request_stats, stats);
	struct vublk_backend *backend;

	snprintf(own_path, sizeof(own_path), "%s-2", path);
	CHECK(!vublk_backend_open(options, NULL, &backend, &error));
	vublk_backend_get_info(backend, &info.it, sizeof(info.it));
	CHECK(info.it.size_bytes == 1 << 20 && info.it.state == VUBLK_BACKEND_LISTENING);
	CHECK_ZEROED(info);
	CHECK_FRAME(info);
	CHECK(vublk_backend_get_queue_info(backend, 0, &queue.it, sizeof(queue.it)) == -EINVAL);
	CHECK_FRAME(queue);
	CHECK(!vublk_backend_get_stats(backend, 0, VUBLK_REQUEST_READ, &stats.it, sizeof(stats.it)));
	CHECK(!stats.it.count && !stats.it.in_flight);
	CHECK_ZEROED(stats);
	CHECK_FRAME(stats);
	vublk_backend_free(backend);
}

/* --- a bus ------------------------------------------------------------------------------ */

static void use_bus(const char *path)
{
	const struct vublk_option options[] = { { "chardev", path }, { NULL } };
	FRAMED(struct vublk_bus_info, info);
	char spec[120];
	struct vublk_bus *bus;

	snprintf(spec, sizeof(spec), "vhost-user:%s-3", path);
	CHECK(!vublk_bus_open(spec, options, NULL, &bus, &error));
	vublk_bus_get_info(bus, &info.it, sizeof(info.it));
	CHECK(!strcmp(info.it.state, "realizing") && !info.it.has_vmm);
	CHECK_ZEROED(info);
	CHECK_FRAME(info);
	vublk_bus_free(bus);
}

/* --- the device --------------------------------------------------------------------- */

static unsigned num_realized, num_started, num_stopped;

static void on_realized(void *bus, const struct vublk_error *why)
{
	if (why)
		error = *why;
	CHECK(!why);
	num_realized++;
}

static unsigned num_notices;

/* `notice_bytes` is the size of the library's struct. The program's struct may be longer. */
static void on_notice(void *opaque, const struct vublk_notice *notice, size_t notice_bytes)
{
	CHECK(notice_bytes >= offsetof(struct vublk_notice, limits_bytes) +
			      sizeof(notice->limits_bytes));
	if (notice->kind == VUBLK_NOTICE_LIMITS_CHANGED) {
		CHECK(notice->limits->burst_ms == 7 &&
		      notice->limits_bytes >= offsetof(struct vublk_limits, burst_ms) +
					      sizeof(notice->limits->burst_ms));
		return;
	}
	CHECK(notice->kind == VUBLK_NOTICE_CONNECTED && notice->size_bytes == 1 << 20);
	num_notices++;
}

static void on_started(void *bus)
{
	num_started++;
}

static void on_stopped(void *bus, const struct vublk_error *why)
{
	num_stopped++;
}

/* As in on_notice(), `area_bytes` is the size of the library's struct. */
static void on_inflight_made(void *bus, const struct vublk_device_inflight *area, size_t area_bytes,
			     const struct vublk_error *why)
{
	CHECK(area && area_bytes);
}

static void run_until(struct vublk_device *device, const unsigned *count)
{
	struct pollfd pollfd = { .fd = vublk_device_fd(device), .events = POLLIN };

	while (!*count) {
		CHECK(poll(&pollfd, 1, 60000) == 1);
		CHECK(!vublk_device_process(device));
	}
}

static void use_areas(struct vublk_device *device)
{
	struct vublk_device_inflight wanted = { .fd = -1, .num_queues = 1, .queue_size = 128 };
	struct vublk_device_inflight given = { .num_queues = 1, .queue_size = 128, .size_bytes = 16384 };
	FRAMED(struct vublk_device_inflight, got);

	CHECK_REFUSED(wanted, vublk_device_make_inflight(device, &wanted, sizeof(wanted), &error));
	CHECK(vublk_device_make_inflight(device, &wanted, sizeof(wanted), &error) == 1);
	given.fd = memfd_create("inflight", MFD_CLOEXEC);
	CHECK(given.fd >= 0 && !ftruncate(given.fd, 16384));
	CHECK_REFUSED(given, vublk_device_set_inflight(device, &given, sizeof(given), &error));
	CHECK(!vublk_device_set_inflight(device, &given, sizeof(given), &error));
	CHECK(!vublk_device_get_inflight(device, &got.it, sizeof(got.it)));
	CHECK(got.it.size_bytes == 16384 && got.it.queue_size == 128);
	CHECK_ZEROED(got);
	CHECK_FRAME(got);
	close(given.fd);
}

static void use_queue(struct vublk_device *device)
{
	struct vublk_device_queue queue = {
		.size = 128, .desc_addr = GUEST_ADDR, .avail_addr = GUEST_ADDR + 4096,
		.used_addr = GUEST_ADDR + 8192, .kick_fd = -1, .call_fd = -1,
	};
	FRAMED(struct vublk_device_queue, got);
	FRAMED(struct vublk_device_place, place);

	CHECK_REFUSED(queue, vublk_device_set_queue(device, 0, &queue, sizeof(queue), &error));
	CHECK(!vublk_device_set_queue(device, 0, &queue, sizeof(queue), &error));
	CHECK(!vublk_device_get_queue(device, 0, &got.it, sizeof(got.it)));
	CHECK(got.it.size == 128 && got.it.used_addr == queue.used_addr && got.it.kick_fd == -1);
	CHECK_ZEROED(got);
	CHECK_FRAME(got);
	CHECK(!vublk_device_queue_place(device, 0, &place.it, sizeof(place.it), &error));
	CHECK(place.it.is_known && !place.it.base && !place.it.outstanding);
	CHECK_ZEROED(place);
	CHECK_FRAME(place);
}

static void use_limits(struct vublk_device *device)
{
	struct vublk_limits given = { .burst_ms = 7 };
	FRAMED(struct vublk_limits, limits);

	CHECK_REFUSED(given, vublk_device_set_limits(device, &given, sizeof(given), &error));
	CHECK(!vublk_device_set_limits(device, &given, sizeof(given), &error));
	vublk_device_get_limits(device, &limits.it, sizeof(limits.it));
	CHECK(limits.it.burst_ms == 7);
	CHECK_FRAME(limits);
	CHECK_ZEROED(limits);
}

static void use_trace(const struct vublk_device *device)
{
	FRAMED(struct vublk_trace_info, info);

	vublk_device_get_trace_info(device, &info.it, sizeof(info.it));
	CHECK(!info.it.is_on && !info.it.number);
	CHECK_FRAME(info);
	CHECK_ZEROED(info);
}

static void use_replay(const struct vublk_device *device)
{
	FRAMED(struct vublk_replay_info, info);

	vublk_device_get_replay(device, &info.it, sizeof(info.it));
	CHECK(!info.it.is_on && !info.it.replays);
	CHECK_FRAME(info);
	CHECK_ZEROED(info);
}

static void use_dirty_log(struct vublk_device *device)
{
	struct vublk_device_dirty_log given = { .size_bytes = 4096 };
	FRAMED(struct vublk_device_dirty_log, got);

	given.fd = memfd_create("dirty log", MFD_CLOEXEC);
	CHECK(given.fd >= 0 && !ftruncate(given.fd, 4096));
	CHECK_REFUSED(given, vublk_device_dirty_log_start(device, &given, sizeof(given), &error));
	CHECK(vublk_device_dirty_log_start(device, &given, sizeof(given), &error) >= 0);
	CHECK(!vublk_device_dirty_log_get(device, &got.it, sizeof(got.it)));
	CHECK(got.it.size_bytes == 4096 && got.it.fd >= 0);
	CHECK_ZEROED(got);
	CHECK_FRAME(got);
	close(given.fd);
}

static void use_device(const char *path)
{
	struct vublk_device_bus_ops ops = {
		.realized = on_realized, .started = on_started, .stopped = on_stopped,
		.inflight_made = on_inflight_made,
	};
	struct vublk_memory_region memory = { .guest_addr = GUEST_ADDR, .size_bytes = MEMORY_BYTES };
	FRAMED(struct vublk_device_info, info);
	struct vublk_device *device;

	memory.fd = memfd_create("memory", MFD_CLOEXEC);
	CHECK(memory.fd >= 0 && !ftruncate(memory.fd, MEMORY_BYTES));
	CHECK_REFUSED(ops, vublk_device_new(&ops, sizeof(ops), NULL, NULL, &device, &error));
	CHECK(!vublk_device_new(&ops, sizeof(ops), NULL, NULL, &device, &error));
	CHECK(!vublk_device_set_property(device, "chardev", path, &error));
	/* A device that does not reconnect has no in-flight area. */
	CHECK(!vublk_device_set_property(device, "reconnect-ms", "1000", &error));
	vublk_device_set_notice_handler(device, on_notice, NULL);
	CHECK(!vublk_device_realize(device, &error));
	run_until(device, &num_realized);
	CHECK(num_notices == 1);
	vublk_device_get_info(device, &info.it, sizeof(info.it));
	CHECK(!strcmp(info.it.chardev, path) && info.it.backend_features);
	CHECK_ZEROED(info);
	CHECK_FRAME(info);
	CHECK(!vublk_device_set_memory(device, &memory, 1, &error));
	use_areas(device);
	use_queue(device);
	use_limits(device);
	use_trace(device);
	use_replay(device);
	use_dirty_log(device);
	CHECK(!vublk_device_ack_features(device, vublk_device_features(device), &error));
	CHECK(vublk_device_set_status(device, 0xf, &error) >= 0);
	run_until(device, &num_started);
	CHECK(vublk_device_set_status(device, 0, &error) >= 0);
	run_until(device, &num_stopped);
	vublk_device_free(device);
	close(memory.fd);
}

int main(int argc, char **argv)
{
	CHECK(argc == 2);
	use_disk(argv[1]);
	use_backend(argv[1]);
	use_bus(argv[1]);
	use_device(argv[1]);
	return 0;
}
