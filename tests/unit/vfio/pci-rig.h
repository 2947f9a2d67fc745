/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_PCI_RIG_H
#define VUBLK_TESTS_PCI_RIG_H

/*
 * The virtio-pci model on a device whose back-end is a mock. The test acts as the driver: it
 * accesses registers by BAR and offset, or calls functions for the steps of a driver.
 *
 * Key idea: the layout of the registers is repeated here instead of taken from the model, so that a
 * test fails if the model moves a register.
 */
#include "mock/device-rig.h"

#include "virtio-pci/virtio-pci.h"

#include <linux/virtio_pci.h>

/* The expected layout: BARs, then offsets in MODERN_BAR, except for PBA, which is in MSIX_BAR. */
#define MSIX_BAR 1
#define MODERN_BAR 4
#define LEGACY_BAR 0
#define COMMON 0x0000
#define ISR 0x1000
#define DEVICE_CONFIG 0x2000
#define NOTIFY 0x3000
#define PBA 0x2000

#define ACKNOWLEDGE 1
#define DRIVER 2
#define DRIVER_OK 4
#define FEATURES_OK 8
#define NEEDS_RESET 64

#define QUEUE_RESET 58 /* offset in the common config; an older <linux/virtio_pci.h> lacks it */
#define RING_RESET 40

struct pci_rig {
	struct device_rig rig; /* first, because on_callback() casts it to struct pci_rig */
	struct mock mock;
	struct vublk_loop loop;
	struct vublk_virtio_pci *pci;
	struct vublk_log log;
	unsigned num_idle; /* calls of the model's callback idle() */
	unsigned num_words;
	char last_word[800];
	bool no_memory; /* the callback before_start() sets no memory */
};

/*
 * Realizes a device and makes a model on it. `prepare` (may be NULL) is called before that, and may
 * set properties and the mock's fields.
 */
void pci_rig_init(struct pci_rig *rig, bool transitional, void (*prepare)(struct pci_rig *rig));
void pci_rig_deinit(struct pci_rig *rig);

/* Runs the device's loop and the model's loop until both are idle. */
void pci_settle(struct pci_rig *rig);
/* Runs both loops until `condition` returns true. Fails after 20 s. */
void pci_wait(struct pci_rig *rig, bool (*condition)(struct pci_rig *rig));

uint64_t pci_read(struct pci_rig *rig, unsigned bar, uint64_t offset, unsigned bytes);
void pci_write(struct pci_rig *rig, unsigned bar, uint64_t offset, unsigned bytes,
	       uint64_t value);
/* These access the register at `offset` of the common config, with the size of that register. */
uint32_t common_read(struct pci_rig *rig, unsigned offset);
void common_write(struct pci_rig *rig, unsigned offset, uint32_t value);
uint32_t config_read(struct pci_rig *rig, unsigned offset, unsigned bytes);
void config_write(struct pci_rig *rig, unsigned offset, unsigned bytes, uint32_t value);

/*
 * Returns the offset of the first capability with this id, or 0 if there is none. For vendor
 * capabilities, `type` must also match.
 */
unsigned find_capability(struct pci_rig *rig, uint8_t id, uint8_t type);
void enable_msix(struct pci_rig *rig, bool enabled);

/*
 * The steps of a driver. accept_features() accepts all offered features except `without`, and sets
 * FEATURES_OK. set_up_queue() sets up a queue of RIG_QUEUE_SIZE in the rig's memory. drive() calls
 * both, for the first `num_queues` queues, sets DRIVER_OK, and checks that the device runs.
 */
void accept_features(struct pci_rig *rig, uint64_t without);
void set_up_queue(struct pci_rig *rig, unsigned queue);
void drive(struct pci_rig *rig, unsigned num_queues);
/* Calls pci_settle(), then checks the state of the device. */
void expect_state(struct pci_rig *rig, enum vublk_device_state state);

uint64_t ring_part(unsigned queue, unsigned part); /* part 0: desc, 1: avail, 2: used */

/* Clears an eventfd, and returns whether it was signalled. */
bool was_signalled(int fd);
/* Clears an eventfd, and returns how often it was signalled. */
uint64_t num_signals(int fd);
/*
 * Returns a new eventfd for the model, which closes it. Stores a duplicate for the test, which
 * closes the duplicate.
 */
int new_eventfd(int *duplicate);

#endif
