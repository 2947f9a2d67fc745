/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_PCI_VIRTIO_PCI_H
#define VUBLK_VIRTIO_PCI_VIRTIO_PCI_H

/*
 * A virtio-blk device as a PCI function: its configuration space and its BARs, and
 * what a driver's accesses to them do to a vublk_device. It knows no socket and no
 * protocol: whoever presents it reads and writes here, gives it eventfds for the
 * interrupts, and passes on what the device calls back.
 *
 * Layout (virtio 1.3, section 4.1):
 *   BAR1  16 KiB memory    MSI-X table at 0, pending bits at 0x2000
 *   BAR4  16 KiB memory    common config at 0, ISR at 0x1000, device config at 0x2000,
 *                          notifications at 0x3000, four bytes a queue
 *   BAR0  128 bytes I/O    the registers of a legacy driver; transitional devices only
 *
 * One thread: the device's.
 */

#include "util/log.h"
#include "util/loop.h"

#include <vublk/device.h>
#include <vublk/error.h>

#include <stdbool.h>
#include <stdint.h>

#define VUBLK_VIRTIO_PCI_NUM_BARS 6
#define VUBLK_VIRTIO_PCI_CONFIG_BYTES 256
#define VUBLK_VIRTIO_PCI_MAX_VECTORS (VUBLK_MAX_QUEUES + 1) /* one for the config */

struct vublk_virtio_pci;

struct vublk_virtio_pci_options {
	bool transitional;    /* 1af4:1001 with BAR0, for legacy drivers too; else 1af4:1042 */
	unsigned num_vectors; /* MSI-X; 0: one a queue and one for the config, as far as they go */
};

/* What it asks of whoever presents it. */
struct vublk_virtio_pci_ops {
	/*
	 * The driver is ready: the device is to be given the guest's memory now, unless it
	 * has it. A failure is the driver's to reset.
	 */
	int (*before_start)(void *opaque, struct vublk_error *error);
	/* vublk_virtio_pci_is_busy() has ended. */
	void (*idle)(void *opaque);
};

/*
 * `device` is realized. `ops`, `device`, `loop` and `log` (may be NULL) are borrowed
 * until vublk_virtio_pci_free(), which the owner calls before the device is freed.
 */
int vublk_virtio_pci_new(struct vublk_device *device, struct vublk_loop *loop,
			 const struct vublk_log *log,
			 const struct vublk_virtio_pci_options *options,
			 const struct vublk_virtio_pci_ops *ops, void *opaque,
			 struct vublk_virtio_pci **pci, struct vublk_error *error);
/* NULL is nothing. The rings are stopped, or the device unrealized. */
void vublk_virtio_pci_free(struct vublk_virtio_pci *pci);

/* --- what a driver does ---------------------------------------------------------------- */

/* 0: there is no such BAR. */
uint32_t vublk_virtio_pci_bar_bytes(const struct vublk_virtio_pci *pci, unsigned bar);

/*
 * Any offset and size: what is not there reads as zero, and what cannot be written, or
 * not in this way, stays as it is. That an access lies within the BAR is the caller's
 * to check, if it wants to tell somebody that it does not.
 */
void vublk_virtio_pci_config_read(struct vublk_virtio_pci *pci, uint64_t offset, void *data,
				  unsigned bytes);
void vublk_virtio_pci_config_write(struct vublk_virtio_pci *pci, uint64_t offset,
				   const void *data, unsigned bytes);
void vublk_virtio_pci_bar_read(struct vublk_virtio_pci *pci, unsigned bar, uint64_t offset,
			       void *data, unsigned bytes);
void vublk_virtio_pci_bar_write(struct vublk_virtio_pci *pci, unsigned bar, uint64_t offset,
				const void *data, unsigned bytes);

/* As after power-on. Busy until the back-end has given the rings back. */
void vublk_virtio_pci_reset(struct vublk_virtio_pci *pci);

/*
 * Whether something that the driver did has not ended yet which it may take for ended
 * with its next access: a reset, a write to the config. Whoever can keep the driver
 * waiting does; the idle callback tells the end.
 */
bool vublk_virtio_pci_is_busy(const struct vublk_virtio_pci *pci);

/* --- interrupts ------------------------------------------------------------------------ */

/*
 * An interrupt is a signal to an eventfd. One that is raised while there is none, or
 * while it is masked, is pending and comes when there is. The eventfds become the
 * model's; -1: none. They are non-blocking eventfds, which the caller has seen to.
 */
unsigned vublk_virtio_pci_num_vectors(const struct vublk_virtio_pci *pci);
void vublk_virtio_pci_set_vector_fd(struct vublk_virtio_pci *pci, unsigned vector, int fd);
void vublk_virtio_pci_mask_vector(struct vublk_virtio_pci *pci, unsigned vector, bool masked);
void vublk_virtio_pci_raise_vector(struct vublk_virtio_pci *pci, unsigned vector);

/*
 * INTx is a level, and an eventfd carries edges: after each signal it is masked, and
 * unmasking it signals again if the level is still high.
 */
void vublk_virtio_pci_set_intx_fd(struct vublk_virtio_pci *pci, int fd);
void vublk_virtio_pci_mask_intx(struct vublk_virtio_pci *pci, bool masked);
void vublk_virtio_pci_raise_intx(struct vublk_virtio_pci *pci);

/* --- what the device said, passed on by the owner of its callbacks -------------------------- */

void vublk_virtio_pci_on_stopped(struct vublk_virtio_pci *pci);
void vublk_virtio_pci_on_config_changed(struct vublk_virtio_pci *pci);
void vublk_virtio_pci_on_config_written(struct vublk_virtio_pci *pci);
/* Of DEVICE_NEEDS_RESET and of a back-end that will not come back. */
void vublk_virtio_pci_on_failure(struct vublk_virtio_pci *pci, const struct vublk_error *error);

/* Whether the driver has set DRIVER_OK, and for how many queues it did. */
bool vublk_virtio_pci_is_driven(const struct vublk_virtio_pci *pci);

/*
 * The places in guest memory that the driver's rings need: calls `fn` for each, until
 * it returns false, which is then the result.
 */
bool vublk_virtio_pci_for_each_ring_part(const struct vublk_virtio_pci *pci,
					 bool (*fn)(void *opaque, uint64_t addr, uint64_t bytes),
					 void *opaque);

/*
 * Takes the rings back for as long as the owner has something to do with memory that
 * they may be using, or lets them go on; holds of several owners count. Returns 0: the
 * rings do not run; 1: the device's stopped() tells.
 */
int vublk_virtio_pci_hold(struct vublk_virtio_pci *pci);
void vublk_virtio_pci_release(struct vublk_virtio_pci *pci);

#endif
