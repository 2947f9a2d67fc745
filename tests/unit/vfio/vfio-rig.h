/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_VFIO_RIG_H
#define VUBLK_TESTS_VFIO_RIG_H

/*
 * A vfio-user bus, and functions with which the test acts as the bus's client. The back-end is a
 * mock, or a process that listens at a path.
 *
 * Key idea: the client and the bus share one thread. The client's messages wait in the socket until
 * the test runs the bus's loop, so a test runs the same way each time.
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
	int result; /* of the last vublk_bus_process(); 1: the bus continues */
	struct vublk_error failure;
	char path[200];
	char last_word[800]; /* the last log line at WARNING or above */
	unsigned num_warnings;

	int client; /* the client's socket; -1: not connected */
	uint16_t next_id;
	struct vublk_vfio_header header; /* of the last answer, whose payload is in `reply` */
	union vublk_vfio_payload reply;

	int memfd; /* the file of the guest's memory */
	char *memory;
};

/*
 * Opens a bus whose back-end is at `chardev` (NULL: a mock), and waits until the bus listens. Then
 * connects a client, which sends VERSION. `properties` may be NULL.
 */
void vfio_init(struct vfio_rig *rig, const char *chardev, const struct vublk_option *properties,
	       bool transitional);
void vfio_deinit(struct vfio_rig *rig);

/* Runs the bus and the mock until both are idle. */
void vfio_settle(struct vfio_rig *rig);
/* Runs the bus and the mock until the device is in `state`. Fails after 20 s. */
void vfio_expect_state(struct vfio_rig *rig, enum vublk_device_state state);

void vfio_connect(struct vfio_rig *rig);
void vfio_hang_up(struct vfio_rig *rig);
/*
 * Runs the bus, and returns whether it has closed the connection. If so, closes the client's end.
 */
bool vfio_is_closed(struct vfio_rig *rig);
void vfio_say_version(struct vfio_rig *rig);

/* Sends a command without running the bus. Returns the id of the message. */
uint16_t vfio_send(struct vfio_rig *rig, uint16_t command, uint32_t flags, const void *payload,
		   uint32_t bytes, const int *fds, unsigned num_fds);
/* Runs the bus and receives the next answer. Returns whether there was one. */
bool vfio_poll(struct vfio_rig *rig);
/*
 * Waits for the next answer, which must belong to message `id`. Returns the number of payload bytes
 * of the answer, or the error in it as a negative errno.
 */
int vfio_receive(struct vfio_rig *rig, uint16_t id);
/* Calls vfio_send() without flags, then vfio_receive(), whose result it returns. */
int vfio_call(struct vfio_rig *rig, uint16_t command, const void *payload, uint32_t bytes,
	      const int *fds, unsigned num_fds);

int vfio_map(struct vfio_rig *rig, uint64_t address, uint64_t bytes, int fd, uint64_t offset);
int vfio_unmap(struct vfio_rig *rig, uint64_t address, uint64_t bytes);
/* Maps the guest's memory at GUEST_ADDR. */
void vfio_map_guest(struct vfio_rig *rig);
uint16_t vfio_send_map(struct vfio_rig *rig, uint64_t address, uint64_t bytes, int fd,
		       uint64_t offset);
uint16_t vfio_send_unmap(struct vfio_rig *rig, uint64_t address, uint64_t bytes);

/* These access a register of a VFIO region, and wait for the answer. A refusal fails the test. */
uint64_t vfio_read(struct vfio_rig *rig, unsigned region, uint64_t offset, unsigned bytes);
void vfio_write(struct vfio_rig *rig, unsigned region, uint64_t offset, unsigned bytes,
		uint64_t value);
/* Writes to a register without requesting an answer, as QEMU does for memory BARs. */
void vfio_post(struct vfio_rig *rig, unsigned region, uint64_t offset, unsigned bytes,
	       uint64_t value);

int vfio_set_irqs(struct vfio_rig *rig, uint32_t flags, uint32_t index, uint32_t start,
		  uint32_t count, const int *fds, unsigned num_fds);

/*
 * The steps of a driver. vfio_enable_msix() enables MSI-X. vfio_begin_driver() accepts all features
 * and sets FEATURES_OK. vfio_drive() calls vfio_begin_driver(), sets up `num_queues` queues of 16
 * entries, sets DRIVER_OK, and waits until the device runs.
 */
#define QUEUE_ENTRIES 16
#define QUEUE_BYTES 4096
/* Returns an offset in the guest's memory. `part` 0: desc, 1: avail, 2: used. */
uint64_t vfio_ring_part(unsigned queue, unsigned part);
void vfio_enable_msix(struct vfio_rig *rig);
void vfio_begin_driver(struct vfio_rig *rig);
void vfio_drive(struct vfio_rig *rig, unsigned num_queues);

#endif
