/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A device on a test bus; see the header.
 *
 * Key idea: each callback counts its calls, keeps the last error, and calls the hook. A failure
 * inside the rig fails the test.
 */
#include "harness.h"

#include "device-rig.h"

#include "util/checked.h"
#include "util/fd.h"
#include "util/loop.h"
#include "util/memfd.h"

#include <linux/virtio_config.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define TIME_LIMIT_NS (UINT64_C(20) * 1000000000)

/* --- callbacks ---------------------------------------------------------------------- */

static void note(struct device_rig *rig, enum rig_callback callback, const struct vublk_error *error)
{
	rig->calls[callback]++;
	rig->errors[callback] = error ? *error : (struct vublk_error){ 0 };
	if (rig->hook)
		rig->hook(rig, callback);
}

static void on_realized(void *bus, const struct vublk_error *error)
{
	note(bus, RIG_REALIZED, error);
}

static void on_started(void *bus)
{
	note(bus, RIG_STARTED, NULL);
}

static void on_stopped(void *bus, const struct vublk_error *error)
{
	note(bus, RIG_STOPPED, error);
}

static void on_lost(void *bus, const struct vublk_error *error)
{
	note(bus, RIG_LOST, error);
}

static void on_config_changed(void *bus)
{
	note(bus, RIG_CONFIG_CHANGED, NULL);
}

static void on_memory_changed(void *bus, const struct vublk_error *error)
{
	note(bus, RIG_MEMORY_CHANGED, error);
}

static void on_config_written(void *bus, const struct vublk_error *error)
{
	note(bus, RIG_CONFIG_WRITTEN, error);
}

static void on_needs_reset(void *bus, const struct vublk_error *error)
{
	note(bus, RIG_NEEDS_RESET, error);
}

static void on_reconnected(void *bus)
{
	note(bus, RIG_RECONNECTED, NULL);
}

static void on_gave_up(void *bus, const struct vublk_error *error)
{
	note(bus, RIG_GAVE_UP, error);
}

static void on_dirty_log_changed(void *bus, const struct vublk_error *error)
{
	note(bus, RIG_DIRTY_LOG_CHANGED, error);
}

static void on_notifiers_changed(void *bus)
{
	note(bus, RIG_NOTIFIERS_CHANGED, NULL);
}

static void on_inflight_made(void *bus, const struct vublk_device_inflight *area, size_t area_bytes,
			     const struct vublk_error *error)
{
	note(bus, RIG_INFLIGHT_MADE, error);
}

static const struct vublk_device_bus_ops rig_ops = {
	.realized = on_realized,
	.started = on_started,
	.stopped = on_stopped,
	.lost = on_lost,
	.config_changed = on_config_changed,
	.memory_changed = on_memory_changed,
	.config_written = on_config_written,
	.needs_reset = on_needs_reset,
	.reconnected = on_reconnected,
	.gave_up = on_gave_up,
	.notifiers_changed = on_notifiers_changed,
	.dirty_log_changed = on_dirty_log_changed,
	.inflight_made = on_inflight_made,
};

/* Protects the members that on_log() writes, because any thread of the device may log. */
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;

static void on_log(void *opaque, enum vublk_log_level level, const char *text)
{
	struct device_rig *rig = opaque;

	pthread_mutex_lock(&log_lock);
	if (!strncmp(text, "attempt ", strlen("attempt "))) {
		rig->num_failed_tries++;
		snprintf(rig->last_failed_try, sizeof(rig->last_failed_try), "%s", text);
	}
	sscanf(text, "the %*[a-z] took %u round trips", &rig->round_trips);
	if (level <= VUBLK_LOG_WARNING)
		rig->num_warnings++;
	if (strstr(text, " not ") && strstr(text, " within ")) {
		rig->num_timeouts++;
		snprintf(rig->last_timeout, sizeof(rig->last_timeout), "%s", text);
	}
	if (level <= VUBLK_LOG_INFO && strstr(text, "tries to reconnect periodically"))
		rig->num_unwatched++;
	if (level <= VUBLK_LOG_INFO)
		snprintf(rig->last_line, sizeof(rig->last_line), "%s", text);
	if (!rig->quiet)
		printf("# %s\n", text);
	pthread_mutex_unlock(&log_lock);
}

/* --- life --------------------------------------------------------------------------- */

void rig_set(struct device_rig *rig, const char *name, const char *value)
{
	struct vublk_error error;

	if (vublk_device_set_property(rig->device, name, value, &error) < 0)
		fail_msg("%s", error.text);
}

void rig_init(struct device_rig *rig, const char *chardev)
{
	struct vublk_log log = { on_log, rig, VUBLK_LOG_DEBUG };

	memset(rig, 0, sizeof(*rig));
	rig->memfd = -1;
	assert_int_equal(vublk_device_new(&rig_ops, sizeof(rig_ops), rig, &log, &rig->device, NULL), 0);
	if (chardev)
		rig_set(rig, "chardev", chardev);
	rig_set(rig, "queue-size", "16");
	rig_set(rig, "realize-retries", "0");
}

void rig_init_with_mock(struct device_rig *rig, struct mock *mock)
{
	rig_init(rig, mock->path);
	rig->pump = mock_pump;
	rig->pump_opaque = mock;
}

void rig_deinit(struct device_rig *rig)
{
	vublk_device_free(rig->device);
	for (unsigned i = 0; i < rig->num_rings; i++) {
		vublk_driver_ring_deinit(&rig->rings[i]);
		vublk_fd_close(&rig->kicks[i]);
		vublk_fd_close(&rig->callfds[i]);
	}
	vublk_unmap(rig->memory, rig->memory ? RIG_MEMORY_BYTES : 0);
	vublk_fd_close(&rig->memfd);
}

void rig_prepare(struct device_rig *rig, struct mock *mock, const char *reconnect_ms)
{
	mock_init(mock);
	rig_init_with_mock(rig, mock);
	if (reconnect_ms)
		rig_set(rig, "reconnect-ms", reconnect_ms);
}

void rig_begin(struct device_rig *rig, struct mock *mock, const char *reconnect_ms)
{
	rig_prepare(rig, mock, reconnect_ms);
	rig_realize(rig);
}

void rig_init_movable(struct device_rig *rig, struct mock *mock)
{
	rig_init_with_mock(rig, mock);
	rig_set(rig, "reconnect-ms", "1");
	rig_set(rig, "inflight-migration", "on");
}

void rig_begin_movable(struct device_rig *rig, struct mock *mock)
{
	mock_init(mock);
	rig_init_movable(rig, mock);
	rig_realize(rig);
}

void rig_pause(struct device_rig *rig)
{
	assert_int_equal(vublk_device_set_vm_running(rig->device, false), 1);
	rig_wait(rig, RIG_STOPPED, rig->calls[RIG_STOPPED] + 1);
	assert_int_equal(rig->errors[RIG_STOPPED].code, 0);
}

void rig_end(struct device_rig *rig, struct mock *mock)
{
	rig_deinit(rig);
	mock_deinit(mock);
}

/* --- waiting ------------------------------------------------------------------------ */

bool rig_turn(struct device_rig *rig, int timeout_ms)
{
	struct pollfd fd = { vublk_device_fd(rig->device), POLLIN, 0 };
	bool busy = rig->pump && rig->pump(rig->pump_opaque);

	if (poll(&fd, 1, busy ? 0 : timeout_ms) <= 0)
		return busy;
	assert_int_equal(vublk_device_process(rig->device), 0);
	return true;
}

void rig_wait(struct device_rig *rig, enum rig_callback callback, unsigned calls)
{
	uint64_t until = vublk_now_ns() + TIME_LIMIT_NS;

	while (rig->calls[callback] < calls) {
		rig_turn(rig, 100);
		if (vublk_now_ns() > until)
			fail_msg("callback %d was called %u times, not %u; the device is %s",
				 callback, rig->calls[callback], calls,
				 vublk_device_state_name(vublk_device_state(rig->device)));
	}
	assert_int_equal(rig->calls[callback], calls);
}

void rig_settle(struct device_rig *rig)
{
	while (rig_turn(rig, 0))
		;
}

void rig_realize(struct device_rig *rig)
{
	struct vublk_error error;

	if (vublk_device_realize(rig->device, &error) < 0)
		fail_msg("%s", error.text);
	rig_wait(rig, RIG_REALIZED, rig->calls[RIG_REALIZED] + 1);
	if (rig->errors[RIG_REALIZED].code)
		fail_msg("%s", rig->errors[RIG_REALIZED].text);
	assert_int_equal(vublk_device_state(rig->device), VUBLK_DEVICE_STOPPED);
}

void rig_realize_fails(struct device_rig *rig, int code)
{
	assert_int_equal(vublk_device_realize(rig->device, NULL), 0);
	rig_wait(rig, RIG_REALIZED, rig->calls[RIG_REALIZED] + 1);
	assert_int_equal(rig->errors[RIG_REALIZED].code, code);
	assert_int_equal(vublk_device_state(rig->device), VUBLK_DEVICE_CREATED);
}

/* --- the driver ----------------------------------------------------------------------- */

static void make_memory(struct device_rig *rig)
{
	if (rig->memory)
		return;
	rig->memfd = vublk_memfd_new("rig", RIG_MEMORY_BYTES, NULL);
	assert_true(rig->memfd >= 0);
	rig->memory = vublk_map_shared(rig->memfd, 0, RIG_MEMORY_BYTES, NULL);
	assert_non_null(rig->memory);
}

/* The parts of the ring of queue `index`, as offsets in the memory. */
static uint64_t desc_offset(unsigned index)
{
	return (uint64_t)index * RIG_QUEUE_BYTES;
}

static uint64_t avail_offset(unsigned index)
{
	return desc_offset(index) + vublk_split_desc_bytes(RIG_QUEUE_SIZE);
}

static uint64_t used_offset(unsigned index)
{
	return desc_offset(index) + RIG_QUEUE_BYTES / 2;
}

static void make_ring(struct device_rig *rig, unsigned index)
{
	struct vublk_split_ring memory = {
		(void *)(rig->memory + desc_offset(index)),
		(void *)(rig->memory + avail_offset(index)),
		(void *)(rig->memory + used_offset(index)),
	};

	memset(rig->memory + desc_offset(index), 0, RIG_QUEUE_BYTES);
	if (index < rig->num_rings) {
		vublk_driver_ring_deinit(&rig->rings[index]);
	} else {
		rig->kicks[index] = vublk_eventfd_new();
		rig->callfds[index] = vublk_eventfd_new();
		rig->num_rings = index + 1;
	}
	assert_int_equal(vublk_driver_ring_init(&rig->rings[index], &memory, RIG_QUEUE_SIZE, 0,
						vublk_device_features(rig->device), NULL), 0);
}

void rig_set_indices(struct device_rig *rig, unsigned queue, uint16_t used, uint16_t avail)
{
	((struct vring_used *)(rig->memory + used_offset(queue)))->idx = used;
	((struct vring_avail *)(rig->memory + avail_offset(queue)))->idx = avail;
}

void rig_set_avail_event(struct device_rig *rig, unsigned queue, uint16_t event)
{
	struct vring_used *used = (void *)(rig->memory + used_offset(queue));

	*(uint16_t *)&used->ring[RIG_QUEUE_SIZE] = event;
}

static void set_queue(struct device_rig *rig, unsigned index)
{
	struct vublk_device_queue queue = {
		.size = RIG_QUEUE_SIZE,
		.desc_addr = RIG_GUEST_ADDR + desc_offset(index),
		.avail_addr = RIG_GUEST_ADDR + avail_offset(index),
		.used_addr = RIG_GUEST_ADDR + used_offset(index),
		.kick_fd = rig->kicks[index],
		.call_fd = rig->callfds[index],
	};
	struct vublk_error error;

	if (vublk_device_set_queue(rig->device, index, &queue, sizeof(queue), &error) < 0)
		fail_msg("%s", error.text);
}

void rig_set_up(struct device_rig *rig, unsigned num_queues)
{
	struct vublk_memory_region region;
	struct vublk_error error;

	make_memory(rig);
	region = (struct vublk_memory_region){ RIG_GUEST_ADDR, RIG_MEMORY_BYTES, rig->memfd, 0 };
	if (vublk_device_ack_features(rig->device, vublk_device_features(rig->device) &
				      ~rig->refused_features, &error) < 0 ||
	    vublk_device_set_memory(rig->device, &region, 1, &error) < 0)
		fail_msg("%s", error.text);
	for (unsigned i = 0; i < num_queues; i++) {
		make_ring(rig, i);
		set_queue(rig, i);
	}
}

void rig_start(struct device_rig *rig, unsigned num_queues)
{
	struct vublk_error error;

	rig_set_up(rig, num_queues);
	if (vublk_device_set_status(rig->device, VIRTIO_CONFIG_S_DRIVER_OK, &error) < 0)
		fail_msg("%s", error.text);
	rig_wait(rig, RIG_STARTED, rig->calls[RIG_STARTED] + 1);
	assert_int_equal(vublk_device_state(rig->device), VUBLK_DEVICE_RUNNING);
}

void rig_stop(struct device_rig *rig)
{
	assert_int_equal(vublk_device_set_status(rig->device, 0, NULL), 0);
	rig_wait(rig, RIG_STOPPED, rig->calls[RIG_STOPPED] + 1);
	assert_int_equal(rig->errors[RIG_STOPPED].code, 0);
	assert_int_equal(vublk_device_state(rig->device), VUBLK_DEVICE_STOPPED);
}

static void wait_for_state(struct device_rig *rig, enum vublk_device_state from)
{
	uint64_t until = vublk_now_ns() + TIME_LIMIT_NS;

	while (vublk_device_state(rig->device) == from) {
		rig_turn(rig, 100);
		assert_true(vublk_now_ns() < until);
	}
}

int rig_try_session(struct device_rig *rig, unsigned num_queues, struct vublk_error *error)
{
	assert_int_equal(vublk_device_realize(rig->device, NULL), 0);
	wait_for_state(rig, VUBLK_DEVICE_REALIZING);
	*error = rig->errors[RIG_REALIZED];
	if (error->code)
		return error->code;
	rig_set_up(rig, num_queues);
	assert_int_equal(vublk_device_set_status(rig->device, VIRTIO_CONFIG_S_DRIVER_OK, NULL), 0);
	wait_for_state(rig, VUBLK_DEVICE_STARTING);
	if (vublk_device_state(rig->device) == VUBLK_DEVICE_RUNNING)
		assert_int_equal(vublk_device_set_status(rig->device, 0, NULL), 0);
	wait_for_state(rig, VUBLK_DEVICE_STOPPING);
	*error = rig->errors[RIG_STOPPED];
	return error->code;
}

static bool is_read(uint32_t type)
{
	return type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
}

/*
 * A queue's data area begins with the header and the status byte. The data follows one page later.
 * Queues do not share an area, because only the driver, in this process, orders their requests. The
 * thread sanitizer of a back-end in another process does not see that order and would report a
 * race.
 */
static uint64_t data_offset(unsigned queue)
{
	return RIG_DATA_OFFSET + (uint64_t)queue * RIG_DATA_BYTES;
}

void rig_submit(struct device_rig *rig, unsigned queue, uint32_t type, uint64_t sector, const void *data,
		unsigned bytes)
{
	char *area = rig->memory + data_offset(queue);
	uint64_t addr = RIG_GUEST_ADDR + data_offset(queue);
	struct virtio_blk_outhdr header = { .type = type, .sector = sector };
	struct vublk_ring_buffer buffers[] = {
		{ addr, sizeof(header) }, { addr + 4096, bytes }, { addr + 64, 1 },
	};
	bool reads = is_read(type);

	assert_true(bytes <= RIG_DATA_BYTES - 4096);
	memcpy(area, &header, sizeof(header));
	if (!reads && bytes)
		memcpy(area + 4096, data, bytes);
	area[64] = 0x55;
	if (!bytes)
		buffers[1] = buffers[2];
	assert_int_equal(vublk_driver_ring_add(&rig->rings[queue], buffers,
					       reads || !bytes ? 1 : 2, reads && bytes ? 2 : 1,
					       NULL, 0), 0);
	vublk_driver_ring_publish(&rig->rings[queue]);
	vublk_eventfd_signal(rig->kicks[queue]);
}

uint8_t rig_finish(struct device_rig *rig, unsigned queue)
{
	struct pollfd call = { rig->callfds[queue], POLLIN, 0 };
	uint16_t token;
	uint32_t written;
	int r;

	while (!(r = vublk_driver_ring_take(&rig->rings[queue], &token, &written, NULL))) {
		if (!vublk_driver_ring_enable_calls(&rig->rings[queue]))
			continue;
		assert_true(poll(&call, 1, 20000) == 1);
		vublk_eventfd_clear(rig->callfds[queue]);
	}
	assert_int_equal(r, 1);
	return (uint8_t)rig->memory[data_offset(queue) + 64];
}

void rig_expect_notified_once(struct device_rig *rig, unsigned num_queues)
{
	for (unsigned i = 0; i < num_queues; i++) {
		assert_int_equal(vublk_eventfd_clear(rig->kicks[i]), 1);
		assert_int_equal(vublk_eventfd_clear(rig->callfds[i]), 1);
	}
}

uint8_t rig_request(struct device_rig *rig, unsigned queue, uint32_t type, uint64_t sector, void *data,
		    unsigned bytes)
{
	uint8_t status;

	rig_submit(rig, queue, type, sector, data, bytes);
	status = rig_finish(rig, queue);
	if (is_read(type))
		memcpy(data, rig->memory + data_offset(queue) + 4096, bytes);
	return status;
}
