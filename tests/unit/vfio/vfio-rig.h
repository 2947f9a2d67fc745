/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_VFIO_RIG_H
#define VUBLK_TESTS_VFIO_RIG_H

/*
 * A vfio-user bus, and functions with which the test acts as its client. The back-end is a mock, or
 * a process that listens at a path.
 *
 * Key idea: client and bus share one thread, so the client's messages wait in the socket until
 * the test runs the bus's loop, and a test runs the same way each time.
 */
#include "bus/vfio-user/private.h"
#include "mock/mock-backend.h"
#include "proto/vfio-user/codec.h"

#include <stdbool.h>
#include <stdint.h>

#define GUEST_BYTES (1 << 20)
#define GUEST_ADDR UINT64_C(0x40000000)

struct vfio_rig {
	struct mock mock;
	bool has_mock;
	struct vublk_bus *bus;
	int result; /* of the last process(); 1: the bus continues */
	struct vublk_error failure;
	char path[200];
	char last_word[800]; /* at WARNING or above */
	unsigned num_warnings;

	int client; /* -1: not connected */
	uint16_t next_id;
	struct vublk_vfio_header header; /* of the last answer, whose payload is `reply` */
	union vublk_vfio_payload reply;

	int memfd; /* the guest's memory */
	char *memory;
};

/*
 * Opens a bus whose back-end is at `chardev` (NULL: a mock), and connects a client that sends
 * VERSION.
 */
void vfio_init(struct vfio_rig *rig, const char *chardev, const struct vublk_option *properties,
	       bool transitional);
void vfio_deinit(struct vfio_rig *rig);

/* Runs bus and mock until they have nothing to do. */
void vfio_settle(struct vfio_rig *rig);
/* Waits until the device is in this state. */
void vfio_expect_state(struct vfio_rig *rig, enum vublk_device_state state);

void vfio_connect(struct vfio_rig *rig);
void vfio_hang_up(struct vfio_rig *rig);
/* Whether the bus has closed the connection. If so, closes the client's end. */
bool vfio_is_closed(struct vfio_rig *rig);
void vfio_say_version(struct vfio_rig *rig);

/* Sends a command without running the bus. Returns its id. */
uint16_t vfio_send(struct vfio_rig *rig, uint16_t command, uint32_t flags, const void *payload,
		   uint32_t bytes, const int *fds, unsigned num_fds);
/* Receives the next answer. False: none has arrived. */
bool vfio_poll(struct vfio_rig *rig);
/* Waits for the answer to `id`. Returns its payload bytes, or its error as a negative errno. */
int vfio_receive(struct vfio_rig *rig, uint16_t id);
/* Sends a command and waits for its answer. */
int vfio_call(struct vfio_rig *rig, uint16_t command, const void *payload, uint32_t bytes,
	      const int *fds, unsigned num_fds);

int vfio_map(struct vfio_rig *rig, uint64_t address, uint64_t bytes, int fd, uint64_t offset);
int vfio_unmap(struct vfio_rig *rig, uint64_t address, uint64_t bytes);
/* Maps the guest's memory at GUEST_ADDR. */
void vfio_map_guest(struct vfio_rig *rig);
uint16_t vfio_send_map(struct vfio_rig *rig, uint64_t address, uint64_t bytes, int fd,
		       uint64_t offset);
uint16_t vfio_send_unmap(struct vfio_rig *rig, uint64_t address, uint64_t bytes);

/* Accesses to registers; a refusal fails the test. */
uint64_t vfio_read(struct vfio_rig *rig, unsigned region, uint64_t offset, unsigned bytes);
void vfio_write(struct vfio_rig *rig, unsigned region, uint64_t offset, unsigned bytes,
		uint64_t value);
/* Writes without an answer, as QEMU does to memory BARs. */
void vfio_post(struct vfio_rig *rig, unsigned region, uint64_t offset, unsigned bytes,
	       uint64_t value);

int vfio_set_irqs(struct vfio_rig *rig, uint32_t flags, uint32_t index, uint32_t start,
		  uint32_t count, const int *fds, unsigned num_fds);

/* The steps of a driver: MSI-X, features, queues of 16 entries, DRIVER_OK. */
#define QUEUE_ENTRIES 16
#define QUEUE_BYTES 4096
uint64_t vfio_ring_part(unsigned queue, unsigned part); /* offset: 0 desc, 1 avail, 2 used */
void vfio_enable_msix(struct vfio_rig *rig);
void vfio_begin_driver(struct vfio_rig *rig);
void vfio_drive(struct vfio_rig *rig, unsigned num_queues);

#endif
