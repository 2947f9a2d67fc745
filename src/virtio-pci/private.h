/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_PCI_PRIVATE_H
#define VUBLK_VIRTIO_PCI_PRIVATE_H

/*
 * Declarations that the files of the virtio-pci model share. The owner of the model uses only
 * virtio-pci.h.
 */

#include "virtio-pci/virtio-pci.h"
#include "util/checked.h"

#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>

enum {
	VUBLK_VIRTIO_PCI_BAR_LEGACY = 0,
	VUBLK_VIRTIO_PCI_BAR_MSIX = 1,
	VUBLK_VIRTIO_PCI_BAR_MODERN = 4, /* 64 bits: BAR5 has the upper half of its address */
};

/* BAR1 has the MSI-X table and, at this offset, the pending bits. */
#define VUBLK_VIRTIO_PCI_PBA_OFFSET 0x2000
#define VUBLK_VIRTIO_PCI_TABLE_BYTES (VUBLK_VIRTIO_PCI_MAX_VECTORS * PCI_MSIX_ENTRY_SIZE)
#define VUBLK_VIRTIO_PCI_PBA_BYTES ((VUBLK_VIRTIO_PCI_MAX_VECTORS + 63) / 64 * 8)
_Static_assert(VUBLK_VIRTIO_PCI_TABLE_BYTES <= VUBLK_VIRTIO_PCI_PBA_OFFSET, "layout");

/* BAR4 has one page per kind of register. */
#define VUBLK_VIRTIO_PCI_PAGE_BYTES 0x1000
enum vublk_virtio_pci_page {
	VUBLK_VIRTIO_PCI_PAGE_COMMON,
	VUBLK_VIRTIO_PCI_PAGE_ISR,
	VUBLK_VIRTIO_PCI_PAGE_DEVICE,
	VUBLK_VIRTIO_PCI_PAGE_NOTIFY,
	VUBLK_VIRTIO_PCI_NUM_PAGES,
};
#define VUBLK_VIRTIO_PCI_NOTIFY_MULTIPLIER 4

/* The operation in progress, which the driver has to wait for. */
enum vublk_virtio_pci_busy {
	VUBLK_VIRTIO_PCI_IDLE,
	VUBLK_VIRTIO_PCI_RESETTING,      /* the back-end is returning the rings */
	VUBLK_VIRTIO_PCI_RESETTING_BUS,  /* the back-end is returning the rings; then the PCI
					    registers are reset, too */
	VUBLK_VIRTIO_PCI_WRITING_CONFIG, /* the back-end has not confirmed the new value yet */
	VUBLK_VIRTIO_PCI_CHANGING_QUEUE, /* the rings are being stopped, so that queues can be reset
					    or enabled */
	VUBLK_VIRTIO_PCI_NUM_BUSY,
};

struct vublk_virtio_pci_vector {
	int fd; /* owned; -1: the vector has no eventfd */
	bool masked;
	bool pending;
};

enum vublk_virtio_pci_queue_state {
	VUBLK_VIRTIO_PCI_QUEUE_DISABLED,
	VUBLK_VIRTIO_PCI_QUEUE_ENABLED,    /* the driver has enabled the queue, but the device does
					      not have it yet */
	VUBLK_VIRTIO_PCI_QUEUE_ACTIVE,     /* the device has the queue */
	VUBLK_VIRTIO_PCI_QUEUE_CANCELLING, /* the driver has reset the queue before the device got
					      it */
	VUBLK_VIRTIO_PCI_QUEUE_RESETTING,  /* the driver has reset the queue, but the device still
					      has it */
	VUBLK_VIRTIO_PCI_QUEUE_NUM_STATES,
};

enum vublk_virtio_pci_queue_event {
	VUBLK_VIRTIO_PCI_QUEUE_EVENT_ENABLE,
	VUBLK_VIRTIO_PCI_QUEUE_EVENT_ACCEPTED,
	VUBLK_VIRTIO_PCI_QUEUE_EVENT_BEGIN_RESET,
	VUBLK_VIRTIO_PCI_QUEUE_EVENT_RESET,
	VUBLK_VIRTIO_PCI_QUEUE_NUM_EVENTS,
};

struct vublk_virtio_pci_queue {
	struct vublk_virtio_pci *pci;
	uint16_t size;
	uint16_t vector; /* VIRTIO_MSI_NO_VECTOR: no vector */
	enum vublk_virtio_pci_queue_state state;
	uint64_t desc_addr, avail_addr, used_addr;
	int kick_fd;
	int call_fd;  /* the queue's own eventfd, for calls that cannot go to the driver directly */
	struct vublk_loop_source call_source;
	bool direct;  /* the device has the vector's eventfd, so calls go to the driver directly */
};

struct vublk_virtio_pci {
	struct vublk_device *device;
	struct vublk_loop *loop;
	const struct vublk_log *log;
	struct vublk_log_limit log_limit; /* for log lines that a driver can cause */
	const struct vublk_virtio_pci_ops *ops;
	void *opaque;
	bool transitional;
	enum vublk_virtio_pci_busy busy;
	bool writes_config; /* a write to the config is in progress; a reset waits until it ends */
	unsigned holds;

	/* PCI */
	uint8_t config[VUBLK_VIRTIO_PCI_CONFIG_BYTES];
	uint8_t writable[VUBLK_VIRTIO_PCI_CONFIG_BYTES]; /* one mask bit per bit of `config` */
	unsigned msix_cap, pci_cfg_cap; /* offsets of these capabilities */
	uint8_t table[VUBLK_VIRTIO_PCI_TABLE_BYTES];

	/* interrupts */
	struct vublk_virtio_pci_vector vectors[VUBLK_VIRTIO_PCI_MAX_VECTORS];
	unsigned num_vectors;
	uint16_t config_vector;
	uint8_t isr;
	int intx_fd; /* owned; -1: no eventfd */
	bool intx_masked;

	/* virtio */
	uint8_t status;
	uint32_t device_feature_select, driver_feature_select;
	uint64_t driver_features;
	uint16_t queue_select;
	uint8_t generation;        /* the generation that the driver sees */
	uint32_t known_generation; /* the device's generation when its config was last read */
	unsigned num_queues;
	struct vublk_virtio_pci_queue queues[]; /* num_queues elements */
};

/* --- registers.c ------------------------------------------------------------------------------ */

/* Returns the queue that queue_select selects, or NULL if the device has no such queue. */
struct vublk_virtio_pci_queue *vublk_virtio_pci_selected(struct vublk_virtio_pci *pci);
void vublk_virtio_pci_write_queue_select(struct vublk_virtio_pci *pci, uint32_t value);
/*
 * A register that a driver can write. The specification requires drivers to write whole registers,
 * so an access that does not match a register is ignored. An access of eight bytes counts as two
 * accesses of four.
 */
struct vublk_virtio_pci_register {
	uint8_t offset;
	uint8_t bytes;
	void (*write)(struct vublk_virtio_pci *pci, uint32_t value);
};
void vublk_virtio_pci_registers_write(struct vublk_virtio_pci *pci,
				      const struct vublk_virtio_pci_register *registers,
				      unsigned num_registers, uint64_t offset, const void *data,
				      unsigned bytes);

/*
 * Copies `bytes` bytes from `offset` of `from` to `data`. `from` has `from_bytes` bytes; bytes past
 * its end read as zero.
 */
void vublk_virtio_pci_copy(void *data, unsigned bytes, uint64_t offset, const void *from,
			   unsigned from_bytes);

/* --- busy.c ----------------------------------------------------------------------------------- */

/*
 * The only function that changes `busy`. Returns false if the operation in progress cannot be
 * overridden.
 */
bool vublk_virtio_pci_set_busy(struct vublk_virtio_pci *pci, enum vublk_virtio_pci_busy busy);

/* --- virtio-pci.c ----------------------------------------------------------------------------- */

/*
 * Returns the features that are offered to a modern driver: the device's features without those
 * that only a legacy driver can use, plus the features of the transport itself.
 */
uint64_t vublk_virtio_pci_features(const struct vublk_virtio_pci *pci);
void vublk_virtio_pci_write_status(struct vublk_virtio_pci *pci, uint32_t value);
/* Called when the driver has written to the notification register of `queue`. */
void vublk_virtio_pci_notify(struct vublk_virtio_pci *pci, unsigned queue);
void vublk_virtio_pci_read_device_config(struct vublk_virtio_pci *pci, uint64_t offset,
					 void *data, unsigned bytes);
void vublk_virtio_pci_write_device_config(struct vublk_virtio_pci *pci, uint64_t offset,
					  const void *data, unsigned bytes);

/* --- queue-state.c ---------------------------------------------------------------------------- */

/*
 * The only function that changes a queue's state. Returns false if the event does nothing in this
 * state.
 */
bool vublk_virtio_pci_queue_change_state(struct vublk_virtio_pci_queue *queue,
					 enum vublk_virtio_pci_queue_event event);
/* Returns the next state according to the table, or -1 if the event does nothing in this state. */
int vublk_virtio_pci_queue_next_state(enum vublk_virtio_pci_queue_state state,
				      enum vublk_virtio_pci_queue_event event);
const char *vublk_virtio_pci_queue_state_name(enum vublk_virtio_pci_queue_state state);
const char *vublk_virtio_pci_queue_event_name(enum vublk_virtio_pci_queue_event event);
/* These functions return the values of the registers queue_enable and queue_reset. */
bool vublk_virtio_pci_queue_is_enabled(const struct vublk_virtio_pci_queue *queue);
bool vublk_virtio_pci_queue_is_resetting(const struct vublk_virtio_pci_queue *queue);
/* Returns whether the device has the queue. */
bool vublk_virtio_pci_queue_is_in_device(const struct vublk_virtio_pci_queue *queue);

/* --- queue.c ---------------------------------------------------------------------------------- */

int vublk_virtio_pci_queues_init(struct vublk_virtio_pci *pci, struct vublk_error *error);
void vublk_virtio_pci_queues_deinit(struct vublk_virtio_pci *pci);
void vublk_virtio_pci_queues_reset(struct vublk_virtio_pci *pci);
/* Gives the device all enabled queues, and removes the disabled ones from it. */
int vublk_virtio_pci_queues_hand_over(struct vublk_virtio_pci *pci, struct vublk_error *error);
bool vublk_virtio_pci_queues_are_handed_over(const struct vublk_virtio_pci *pci);
/* Called when the driver has written 1 to queue_enable or queue_reset. */
void vublk_virtio_pci_queue_enable(struct vublk_virtio_pci_queue *queue);
void vublk_virtio_pci_queue_reset(struct vublk_virtio_pci_queue *queue);
/*
 * Called when the rings have stopped for CHANGING_QUEUE. Hands over or resets the queues that have
 * waited for the stop, and releases the hold on the rings.
 */
void vublk_virtio_pci_queues_change(struct vublk_virtio_pci *pci);
/*
 * If the device has the queue, directs the queue's calls to the eventfd of its vector or, if that
 * is impossible, to call_fd.
 */
void vublk_virtio_pci_queue_route(struct vublk_virtio_pci_queue *queue);

/* --- irq.c, which queue.c calls --------------------------------------------------------------- */

void vublk_virtio_pci_irqs_init(struct vublk_virtio_pci *pci);
void vublk_virtio_pci_irqs_deinit(struct vublk_virtio_pci *pci);
/*
 * Delivers the vector's pending interrupt, if there is one, unless the vector is masked or has no
 * eventfd.
 */
void vublk_virtio_pci_deliver(struct vublk_virtio_pci *pci, struct vublk_virtio_pci_vector *vector);
void vublk_virtio_pci_deliver_intx(struct vublk_virtio_pci *pci);
void vublk_virtio_pci_forget_pending(struct vublk_virtio_pci *pci);
/* Clears pending interrupts, the ISR and the config's vector. The eventfds stay. */
void vublk_virtio_pci_irqs_reset(struct vublk_virtio_pci *pci);
/* Returns the vector's eventfd if calls can go to the driver directly, or -1 if they cannot. */
int vublk_virtio_pci_direct_fd(const struct vublk_virtio_pci *pci, uint16_t vector);
/*
 * Raises the queue's interrupt. Called when a call of the queue did not go to the driver directly.
 */
void vublk_virtio_pci_raise_queue(struct vublk_virtio_pci_queue *queue);
void vublk_virtio_pci_raise_config(struct vublk_virtio_pci *pci);
bool vublk_virtio_pci_intx_level(const struct vublk_virtio_pci *pci);
/* Returns the ISR and clears it, as a driver's read does. */
uint8_t vublk_virtio_pci_take_isr(struct vublk_virtio_pci *pci);
/* Returns `vector`, or VIRTIO_MSI_NO_VECTOR if the device has no such vector. */
uint16_t vublk_virtio_pci_accept_vector(const struct vublk_virtio_pci *pci, uint32_t vector);
void vublk_virtio_pci_msix_read(const struct vublk_virtio_pci *pci, uint64_t offset, void *data,
				unsigned bytes);
void vublk_virtio_pci_msix_write(struct vublk_virtio_pci *pci, uint64_t offset,
				 const void *data, unsigned bytes);

/* --- routing.c -------------------------------------------------------------------------------- */

/*
 * These functions execute a write by a modern or legacy driver to the vector of config changes, or
 * to the vector of the selected queue.
 */
void vublk_virtio_pci_write_config_vector(struct vublk_virtio_pci *pci, uint32_t value);
void vublk_virtio_pci_write_queue_vector(struct vublk_virtio_pci *pci, uint32_t value);
/* Called when a register that can mask all interrupts (command, MSI-X control) may have changed. */
void vublk_virtio_pci_irqs_update(struct vublk_virtio_pci *pci);

/* --- config-space.c --------------------------------------------------------------------------- */

/* These functions read and write a little-endian field of the configuration space. */
uint32_t vublk_virtio_pci_config_get(const struct vublk_virtio_pci *pci, unsigned offset,
				     unsigned bytes);
void vublk_virtio_pci_config_set(struct vublk_virtio_pci *pci, unsigned offset, unsigned bytes,
				 uint32_t value);
/* Restores the configuration space and the MSI-X table to their contents after power-on. */
void vublk_virtio_pci_config_reset(struct vublk_virtio_pci *pci);
bool vublk_virtio_pci_msix_is_enabled(const struct vublk_virtio_pci *pci);
bool vublk_virtio_pci_msix_is_masked(const struct vublk_virtio_pci *pci); /* by the Function Mask
									     bit */
bool vublk_virtio_pci_intx_is_disabled(const struct vublk_virtio_pci *pci);

/* --- common-config.c and legacy-config.c ------------------------------------------------------ */

void vublk_virtio_pci_common_read(struct vublk_virtio_pci *pci, uint64_t offset, void *data,
				  unsigned bytes);
void vublk_virtio_pci_common_write(struct vublk_virtio_pci *pci, uint64_t offset,
				   const void *data, unsigned bytes);
void vublk_virtio_pci_legacy_read(struct vublk_virtio_pci *pci, uint64_t offset, void *data,
				  unsigned bytes);
void vublk_virtio_pci_legacy_write(struct vublk_virtio_pci *pci, uint64_t offset,
				   const void *data, unsigned bytes);

#endif
