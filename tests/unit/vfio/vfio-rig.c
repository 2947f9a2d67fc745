/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Acts as a vfio-user client; see vfio-rig.h. A failure inside the rig fails the test. */
#include "harness.h"

#include "vfio-rig.h"

#include "proto/vhost-user/channel.h"
#include "util/fd.h"
#include "util/loop.h"
#include "util/memfd.h"
#include "virtio/ring.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define DEADLINE_NS (UINT64_C(20) * 1000000000)

/* --- the bus ---------------------------------------------------------------------------------- */

static void on_log(void *opaque, enum vublk_log_level level, const char *text)
{
	struct vfio_rig *rig = opaque;

	printf("# %s\n", text);
	if (level > VUBLK_LOG_WARNING)
		return;
	rig->num_warnings++;
	snprintf(rig->last_word, sizeof(rig->last_word), "%s", text);
}

static bool process(struct vfio_rig *rig, int timeout_ms)
{
	struct pollfd fd = { vublk_bus_fd(rig->bus), POLLIN, 0 };
	bool busy = rig->has_mock && mock_pump(&rig->mock);

	if (poll(&fd, 1, busy ? 0 : timeout_ms) <= 0)
		return busy;
	rig->result = vublk_bus_process(rig->bus, &rig->failure);
	return rig->result == 1;
}

void vfio_settle(struct vfio_rig *rig)
{
	while (process(rig, 0))
		;
}

void vfio_expect_state(struct vfio_rig *rig, enum vublk_device_state state)
{
	struct vublk_device *device = rig->bus->device;
	uint64_t until = vublk_now_ns() + DEADLINE_NS;

	while (vublk_device_state(device) != state) {
		process(rig, 100);
		if (vublk_now_ns() > until)
			fail_msg("the device is %s, not %s",
				 vublk_device_state_name(vublk_device_state(device)),
				 vublk_device_state_name(state));
	}
}

static void start(struct vfio_rig *rig)
{
	uint64_t until = vublk_now_ns() + DEADLINE_NS;

	while (rig->bus->state != VUBLK_BUS_LISTENING && vublk_now_ns() < until)
		process(rig, 100);
	assert_int_equal(rig->bus->state, VUBLK_BUS_LISTENING);
}

void vfio_init(struct vfio_rig *rig, const char *chardev, const struct vublk_option *properties,
	       bool transitional)
{
	const struct vublk_log log = { on_log, rig, VUBLK_LOG_DEBUG };
	struct vublk_option options[16] = {
		{ "queue-size", "16" },
		{ "request-timeout-ms", "5000" },
		{ "reconnect-ms", "0" },
		{ "transitional", transitional ? "on" : "off" },
	};
	struct vublk_error error = { 0 };
	unsigned n = 4;
	char spec[220];

	memset(rig, 0, sizeof(*rig));
	rig->client = -1;
	rig->has_mock = !chardev;
	if (rig->has_mock)
		mock_init(&rig->mock);
	options[n++] = (struct vublk_option){ "chardev", chardev ? chardev : rig->mock.path };
	for (; properties && properties->name; properties++)
		options[n++] = *properties;
	snprintf(rig->path, sizeof(rig->path), "%s/vfio", vublk_test_folder());
	snprintf(spec, sizeof(spec), "vfio-user:%s", rig->path);
	if (vublk_bus_open(spec, options, &log, &rig->bus, &error) < 0)
		fail_msg("%s", error.text);
	rig->memfd = vublk_memfd_new("guest", GUEST_BYTES, NULL);
	rig->memory = vublk_map_shared(rig->memfd, 0, GUEST_BYTES, NULL);
	assert_non_null(rig->memory);
	start(rig);
	vfio_connect(rig);
	vfio_say_version(rig);
}

void vfio_deinit(struct vfio_rig *rig)
{
	vublk_bus_free(rig->bus);
	vublk_fd_close(&rig->client);
	vublk_unmap(rig->memory, GUEST_BYTES);
	vublk_fd_close(&rig->memfd);
	if (rig->has_mock)
		mock_deinit(&rig->mock);
}

/* --- messages --------------------------------------------------------------------------------- */

void vfio_connect(struct vfio_rig *rig)
{
	assert_int_equal(rig->client, -1);
	rig->client = vublk_socket_connect(rig->path, NULL);
	assert_true(rig->client >= 0);
}

void vfio_hang_up(struct vfio_rig *rig)
{
	vublk_fd_close(&rig->client);
	vfio_settle(rig);
}

bool vfio_is_closed(struct vfio_rig *rig)
{
	ssize_t n;
	char byte;

	vfio_settle(rig);
	n = recv(rig->client, &byte, 1, MSG_DONTWAIT | MSG_PEEK);
	/* ECONNRESET means that the bus closed the connection with unread bytes in its socket. */
	if (n > 0 || (n < 0 && errno != ECONNRESET))
		return false;
	vublk_fd_close(&rig->client);
	return true;
}

void vfio_say_version(struct vfio_rig *rig)
{
	static const char text[] = "{\"capabilities\":{\"pgsizes\":4096,\"max_msg_fds\":16,"
		"\"max_dma_maps\":65535,\"max_data_xfer_size\":1048576,\"migration\":"
		"{\"max_bitmap_size\":268435456,\"pgsize\":4096},\"write_multiple\":true}}";
	struct { uint16_t major, minor; char text[sizeof(text)]; } version = { 0, 0, "" };

	memcpy(version.text, text, sizeof(text));
	assert_true(vfio_call(rig, VUBLK_VFIO_VERSION, &version, sizeof(version), NULL, 0) > 4);
}

uint16_t vfio_send(struct vfio_rig *rig, uint16_t command, uint32_t flags, const void *payload,
		   uint32_t bytes, const int *fds, unsigned num_fds)
{
	struct vublk_vfio_header header = {
		rig->next_id++, command, (uint32_t)sizeof(header) + bytes, flags, 0,
	};
	struct iovec iov[] = { { &header, sizeof(header) }, { (void *)payload, bytes } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
	union { struct cmsghdr align; char bytes[CMSG_SPACE(sizeof(int) * 64)]; } control = { 0 };

	if (num_fds) {
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * num_fds);
		CMSG_FIRSTHDR(&msg)->cmsg_level = SOL_SOCKET;
		CMSG_FIRSTHDR(&msg)->cmsg_type = SCM_RIGHTS;
		CMSG_FIRSTHDR(&msg)->cmsg_len = CMSG_LEN(sizeof(int) * num_fds);
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), fds, sizeof(int) * num_fds);
	}
	assert_int_equal(sendmsg(rig->client, &msg, MSG_NOSIGNAL), header.size);
	return header.id;
}

bool vfio_poll(struct vfio_rig *rig)
{
	vfio_settle(rig);
	if (recv(rig->client, &rig->header, sizeof(rig->header), MSG_DONTWAIT | MSG_PEEK) !=
	    sizeof(rig->header))
		return false;
	assert_int_equal(recv(rig->client, &rig->header, sizeof(rig->header), 0),
			 sizeof(rig->header));
	assert_true(rig->header.size >= 16 && rig->header.size <= 16 + sizeof(rig->reply));
	if (rig->header.size > 16)
		assert_int_equal(recv(rig->client, &rig->reply, rig->header.size - 16, MSG_WAITALL),
				 rig->header.size - 16);
	return true;
}

int vfio_receive(struct vfio_rig *rig, uint16_t id)
{
	uint64_t until = vublk_now_ns() + DEADLINE_NS;

	while (!vfio_poll(rig)) {
		process(rig, 10);
		if (vublk_now_ns() > until)
			fail_msg("no answer to message %u", id);
	}
	assert_int_equal(rig->header.id, id);
	assert_int_equal(rig->header.flags & ~VUBLK_VFIO_FLAG_ERROR, VUBLK_VFIO_TYPE_REPLY);
	if (!(rig->header.flags & VUBLK_VFIO_FLAG_ERROR))
		return (int)rig->header.size - 16;
	assert_int_equal(rig->header.size, 16);
	assert_int_not_equal(rig->header.error, 0);
	return -(int)rig->header.error;
}

int vfio_call(struct vfio_rig *rig, uint16_t command, const void *payload, uint32_t bytes,
	      const int *fds, unsigned num_fds)
{
	uint16_t id = vfio_send(rig, command, 0, payload, bytes, fds, num_fds);
	int r = vfio_receive(rig, id);

	assert_int_equal(rig->header.command, command);
	return r;
}

/* --- memory ----------------------------------------------------------------------------------- */

uint16_t vfio_send_map(struct vfio_rig *rig, uint64_t address, uint64_t bytes, int fd,
		       uint64_t offset)
{
	struct vublk_vfio_dma_map map = { sizeof(map), 3, offset, address, bytes };

	return vfio_send(rig, VUBLK_VFIO_DMA_MAP, 0, &map, sizeof(map), &fd, fd >= 0);
}

uint16_t vfio_send_unmap(struct vfio_rig *rig, uint64_t address, uint64_t bytes)
{
	struct vublk_vfio_dma_unmap unmap = { sizeof(unmap), 0, address, bytes };

	return vfio_send(rig, VUBLK_VFIO_DMA_UNMAP, 0, &unmap, sizeof(unmap), NULL, 0);
}

int vfio_map(struct vfio_rig *rig, uint64_t address, uint64_t bytes, int fd, uint64_t offset)
{
	return vfio_receive(rig, vfio_send_map(rig, address, bytes, fd, offset));
}

int vfio_unmap(struct vfio_rig *rig, uint64_t address, uint64_t bytes)
{
	int r = vfio_receive(rig, vfio_send_unmap(rig, address, bytes));

	if (r >= 0) {
		assert_int_equal(r, sizeof(rig->reply.unmap));
		assert_int_equal(rig->reply.unmap.address, address);
		assert_int_equal(rig->reply.unmap.size, bytes);
	}
	return r;
}

void vfio_map_guest(struct vfio_rig *rig)
{
	assert_int_equal(vfio_map(rig, GUEST_ADDR, GUEST_BYTES, rig->memfd, 0), 0);
}

/* --- registers -------------------------------------------------------------------------------- */

uint64_t vfio_read(struct vfio_rig *rig, unsigned region, uint64_t offset, unsigned bytes)
{
	struct { uint64_t offset; uint32_t region, count; } read = { offset, region, bytes };
	uint64_t value = 0;

	assert_int_equal(vfio_call(rig, VUBLK_VFIO_REGION_READ, &read, sizeof(read), NULL, 0),
			 sizeof(read) + bytes);
	assert_int_equal(rig->reply.access.offset, offset);
	assert_int_equal(rig->reply.access.count, bytes);
	memcpy(&value, rig->reply.access.data, VUBLK_MIN(bytes, 8u));
	return value;
}

static uint16_t send_write(struct vfio_rig *rig, uint32_t flags, unsigned region, uint64_t offset,
			   unsigned bytes, uint64_t value)
{
	struct { uint64_t offset; uint32_t region, count; uint64_t value; } write = {
		offset, region, bytes, value,
	};

	return vfio_send(rig, VUBLK_VFIO_REGION_WRITE, flags, &write, 16 + bytes, NULL, 0);
}

void vfio_write(struct vfio_rig *rig, unsigned region, uint64_t offset, unsigned bytes,
		uint64_t value)
{
	assert_int_equal(vfio_receive(rig, send_write(rig, 0, region, offset, bytes, value)), 16);
}

void vfio_post(struct vfio_rig *rig, unsigned region, uint64_t offset, unsigned bytes,
	       uint64_t value)
{
	send_write(rig, VUBLK_VFIO_FLAG_NO_REPLY, region, offset, bytes, value);
}

int vfio_set_irqs(struct vfio_rig *rig, uint32_t flags, uint32_t index, uint32_t start_irq,
		  uint32_t count, const int *fds, unsigned num_fds)
{
	uint32_t set[] = { 20, flags, index, start_irq, count };

	return vfio_call(rig, VUBLK_VFIO_DEVICE_SET_IRQS, set, sizeof(set), fds, num_fds);
}

/* --- a driver --------------------------------------------------------------------------------- */

uint64_t vfio_ring_part(unsigned queue, unsigned part)
{
	uint64_t at = (uint64_t)queue * QUEUE_BYTES;

	if (part == 1)
		at += vublk_split_desc_bytes(QUEUE_ENTRIES);
	if (part == 2)
		at += QUEUE_BYTES / 2;
	return at;
}

void vfio_enable_msix(struct vfio_rig *rig)
{
	unsigned at = (unsigned)vfio_read(rig, 7, PCI_CAPABILITY_LIST, 1);

	while (at && vfio_read(rig, 7, at, 1) != PCI_CAP_ID_MSIX)
		at = (unsigned)vfio_read(rig, 7, at + PCI_CAP_LIST_NEXT, 1);
	vfio_write(rig, 7, at + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
}

void vfio_begin_driver(struct vfio_rig *rig)
{
	for (unsigned i = 0; i < 2; i++) {
		vfio_post(rig, 4, VIRTIO_PCI_COMMON_DFSELECT, 4, i);
		vfio_post(rig, 4, VIRTIO_PCI_COMMON_GFSELECT, 4, i);
		vfio_post(rig, 4, VIRTIO_PCI_COMMON_GF, 4,
			  vfio_read(rig, 4, VIRTIO_PCI_COMMON_DF, 4));
	}
	vfio_post(rig, 4, VIRTIO_PCI_COMMON_STATUS, 1, 11);
	assert_int_equal(vfio_read(rig, 4, VIRTIO_PCI_COMMON_STATUS, 1), 11);
}

void vfio_drive(struct vfio_rig *rig, unsigned num_queues)
{
	vfio_begin_driver(rig);
	for (unsigned i = 0; i < num_queues; i++) {
		vfio_post(rig, 4, VIRTIO_PCI_COMMON_Q_SELECT, 2, i);
		vfio_post(rig, 4, VIRTIO_PCI_COMMON_Q_SIZE, 2, QUEUE_ENTRIES);
		for (unsigned part = 0; part < 3; part++)
			vfio_post(rig, 4, VIRTIO_PCI_COMMON_Q_DESCLO + 8 * part, 8,
				  GUEST_ADDR + vfio_ring_part(i, part));
		vfio_post(rig, 4, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	}
	vfio_post(rig, 4, VIRTIO_PCI_COMMON_STATUS, 1, 15);
	vfio_expect_state(rig, VUBLK_DEVICE_RUNNING);
	assert_int_equal(vfio_read(rig, 4, VIRTIO_PCI_COMMON_STATUS, 1), 15);
}
