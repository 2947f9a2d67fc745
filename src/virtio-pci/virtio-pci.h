/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_PCI_VIRTIO_PCI_H
#define VUBLK_VIRTIO_PCI_VIRTIO_PCI_H

/*
 * A model of a virtio-blk device as a PCI function: its configuration space, its BARs, and the
 * effect of a driver's accesses on a vublk_device. The model has no socket, and does not depend on
 * the protocol between bus and VMM.
 *
 * Key idea: the owner of the model is a bus that presents the PCI function to a VMM. The owner
 * passes the driver's accesses, the eventfds of the interrupts and the device's callbacks on to the
 * model.
 *
 * Layout (virtio 1.3, section 4.1):
 *   BAR1  16 KiB memory    MSI-X table at 0, pending bits at 0x2000
 *   BAR4  16 KiB memory    common config at 0, ISR at 0x1000, device config at 0x2000,
 *                          notifications at 0x3000, four bytes per queue
 *   BAR0  128 bytes I/O    the registers of a legacy driver; transitional devices only
 *
 * All functions must be called on the device's thread.
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
	bool transitional;    /* the device is 1af4:1001 with BAR0, for modern and legacy drivers;
				 false: 1af4:1042, for modern drivers */
	unsigned num_vectors; /* of MSI-X; 0: one per queue and one for the config, up to the
				 maximum */
};

/* Callbacks of the owner. Both may be NULL. */
struct vublk_virtio_pci_ops {
	/*
	 * Called when the driver is ready, or when a legacy driver kicks before it is ready. The
	 * owner must give the device the guest's memory, unless the device already has it. After a
	 * failure the driver has to reset the device.
	 */
	int (*before_start)(void *opaque, struct vublk_error *error);
	/* Called when vublk_virtio_pci_is_busy() has become false. */
	void (*idle)(void *opaque);
};

/*
 * Makes a model of `device`, which must be realized. `ops`, `device`, `loop` and `log` (may be
 * NULL) are borrowed until vublk_virtio_pci_free(). The owner must free the model before the
 * device.
 */
int vublk_virtio_pci_new(struct vublk_device *device, struct vublk_loop *loop,
			 const struct vublk_log *log,
			 const struct vublk_virtio_pci_options *options,
			 const struct vublk_virtio_pci_ops *ops, void *opaque,
			 struct vublk_virtio_pci **pci, struct vublk_error *error);
/* Frees the model. The rings must be stopped, or the device unrealized. NULL is a no-op. */
void vublk_virtio_pci_free(struct vublk_virtio_pci *pci);

/* --- accesses of a driver ---------------------------------------------------------------- */

/* Returns the size of a BAR in bytes, or 0 if the device has no such BAR. */
uint32_t vublk_virtio_pci_bar_bytes(const struct vublk_virtio_pci *pci, unsigned bar);

/*
 * These functions execute a driver's access. Any offset and size are permitted: bytes without a
 * register read as zero, and a write that no register accepts is ignored. A caller that wants to
 * report an access beyond the BAR has to check the offset and size itself.
 */
void vublk_virtio_pci_config_read(struct vublk_virtio_pci *pci, uint64_t offset, void *data,
				  unsigned bytes);
void vublk_virtio_pci_config_write(struct vublk_virtio_pci *pci, uint64_t offset,
				   const void *data, unsigned bytes);
void vublk_virtio_pci_bar_read(struct vublk_virtio_pci *pci, unsigned bar, uint64_t offset,
			       void *data, unsigned bytes);
void vublk_virtio_pci_bar_write(struct vublk_virtio_pci *pci, unsigned bar, uint64_t offset,
				const void *data, unsigned bytes);

/*
 * Resets the device to its state after power-on. The model is busy until the back-end has returned
 * the rings.
 */
void vublk_virtio_pci_reset(struct vublk_virtio_pci *pci);

/*
 * Returns whether an operation is in progress, such as a reset or a write to the config. The driver
 * expects the operation to be complete at the next access. So an owner that can delay the access
 * delays it until the idle callback.
 */
bool vublk_virtio_pci_is_busy(const struct vublk_virtio_pci *pci);

/* --- interrupts ------------------------------------------------------------------------ */

/*
 * MSI-X: an interrupt is a signal to the eventfd of its vector. If the vector has no eventfd, or is
 * masked, the interrupt stays pending until the vector has an eventfd and is unmasked. The model
 * owns the eventfds, which have to be non-blocking; -1: no eventfd.
 */
unsigned vublk_virtio_pci_num_vectors(const struct vublk_virtio_pci *pci);
void vublk_virtio_pci_set_vector_fd(struct vublk_virtio_pci *pci, unsigned vector, int fd);
void vublk_virtio_pci_mask_vector(struct vublk_virtio_pci *pci, unsigned vector, bool masked);
void vublk_virtio_pci_raise_vector(struct vublk_virtio_pci *pci, unsigned vector);

/*
 * INTx is level-triggered, whereas an eventfd carries only edges. So each interrupt also masks
 * INTx, and unmasking INTx signals again if the level is still high. vublk_virtio_pci_raise_intx()
 * only signals the eventfd, whatever the level and the mask are.
 */
void vublk_virtio_pci_set_intx_fd(struct vublk_virtio_pci *pci, int fd);
void vublk_virtio_pci_mask_intx(struct vublk_virtio_pci *pci, bool masked);
void vublk_virtio_pci_raise_intx(struct vublk_virtio_pci *pci);

/* --- callbacks of the device, which the owner passes on -------------------------- */

void vublk_virtio_pci_on_stopped(struct vublk_virtio_pci *pci);
void vublk_virtio_pci_on_config_changed(struct vublk_virtio_pci *pci);
void vublk_virtio_pci_on_config_written(struct vublk_virtio_pci *pci);
/* Called when the device needs a reset, or has lost its back-end permanently. */
void vublk_virtio_pci_on_failure(struct vublk_virtio_pci *pci, const struct vublk_error *error);

/* Returns whether the driver has set DRIVER_OK. */
bool vublk_virtio_pci_is_driven(const struct vublk_virtio_pci *pci);

/*
 * Calls `fn` for the three parts of each enabled queue's ring, until `fn` returns false. Returns
 * the last result of `fn`, or true if no queue is enabled.
 */
bool vublk_virtio_pci_for_each_ring_part(const struct vublk_virtio_pci *pci,
					 bool (*fn)(void *opaque, uint64_t addr, uint64_t bytes),
					 void *opaque);

/*
 * The owner holds the rings while it changes memory that they may be using. A hold stops the rings,
 * and the release of the last hold lets them resume. Each hold needs one release.
 * vublk_virtio_pci_hold() returns 0 if the rings are stopped, and 1 if they are still being
 * stopped; in that case the device's stopped() callback follows.
 */
int vublk_virtio_pci_hold(struct vublk_virtio_pci *pci);
void vublk_virtio_pci_release(struct vublk_virtio_pci *pci);

#endif
