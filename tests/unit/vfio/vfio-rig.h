/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_VFIO_RIG_H
#define VUBLK_TESTS_VFIO_RIG_H

/*
 * A vfio-user client by hand, in the bus's own process and thread: what it sends waits
 * in the socket until the bus's loop is run, so each run is the same. The back-end is a
 * mock, or whatever listens at a path.
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
	int result; /* of the last process(): 1: it goes on */
	struct vublk_error failure;
	char path[200];
	char last_word[800]; /* at WARNING or above */
	unsigned num_warnings;

	int client; /* -1: none */
	uint16_t next_id;
	struct vublk_vfio_header header; /* of the last answer, and its payload */
	union vublk_vfio_payload reply;

	int memfd; /* the guest's memory */
	char *memory;
};

/* A device at `chardev`, or at a mock if NULL, and a client that has said its version. */
void vfio_init(struct vfio_rig *rig, const char *chardev, const struct vublk_option *properties,
	       bool transitional);
void vfio_deinit(struct vfio_rig *rig);

/* Runs everything until there is nothing to do. */
void vfio_settle(struct vfio_rig *rig);
/* Waits until the device is in this state. */
void vfio_expect_state(struct vfio_rig *rig, enum vublk_device_state state);

void vfio_connect(struct vfio_rig *rig);
void vfio_hang_up(struct vfio_rig *rig);
/* Whether the bus closed the connection; it is closed here, too, then. */
bool vfio_is_closed(struct vfio_rig *rig);
void vfio_say_version(struct vfio_rig *rig);

/* Sends a command and nothing else; its id. */
uint16_t vfio_send(struct vfio_rig *rig, uint16_t command, uint32_t flags, const void *payload,
		   uint32_t bytes, const int *fds, unsigned num_fds);
/* Takes the next answer if there is one by now: false if not. */
bool vfio_poll(struct vfio_rig *rig);
/* Waits for the answer to `id`: payload bytes, or the negative errno that it says. */
int vfio_receive(struct vfio_rig *rig, uint16_t id);
/* Both. */
int vfio_call(struct vfio_rig *rig, uint16_t command, const void *payload, uint32_t bytes,
	      const int *fds, unsigned num_fds);

int vfio_map(struct vfio_rig *rig, uint64_t address, uint64_t bytes, int fd, uint64_t offset);
int vfio_unmap(struct vfio_rig *rig, uint64_t address, uint64_t bytes);
/* The guest's memory at GUEST_ADDR. */
void vfio_map_guest(struct vfio_rig *rig);
uint16_t vfio_send_map(struct vfio_rig *rig, uint64_t address, uint64_t bytes, int fd,
		       uint64_t offset);
uint16_t vfio_send_unmap(struct vfio_rig *rig, uint64_t address, uint64_t bytes);

/* Registers; a failure is the test's. */
uint64_t vfio_read(struct vfio_rig *rig, unsigned region, uint64_t offset, unsigned bytes);
void vfio_write(struct vfio_rig *rig, unsigned region, uint64_t offset, unsigned bytes,
		uint64_t value);
/* As QEMU writes to memory BARs: without an answer. */
void vfio_post(struct vfio_rig *rig, unsigned region, uint64_t offset, unsigned bytes,
	       uint64_t value);

int vfio_set_irqs(struct vfio_rig *rig, uint32_t flags, uint32_t index, uint32_t start,
		  uint32_t count, const int *fds, unsigned num_fds);

/* As a driver does it: MSI-X, features, queues of 16 entries, DRIVER_OK. */
#define QUEUE_ENTRIES 16
#define QUEUE_BYTES 4096
uint64_t vfio_ring_part(unsigned queue, unsigned part); /* offset: 0 desc, 1 avail, 2 used */
void vfio_enable_msix(struct vfio_rig *rig);
void vfio_begin_driver(struct vfio_rig *rig);
void vfio_drive(struct vfio_rig *rig, unsigned num_queues);

#endif
