/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_PCI_PRIVATE_H
#define VUBLK_VIRTIO_PCI_PRIVATE_H

/*
 * Declarations that the files of the virtio-pci model share; the owner of the model does not use
 * them.
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

/* BAR1 */
#define VUBLK_VIRTIO_PCI_PBA_OFFSET 0x2000
#define VUBLK_VIRTIO_PCI_TABLE_BYTES (VUBLK_VIRTIO_PCI_MAX_VECTORS * PCI_MSIX_ENTRY_SIZE)
#define VUBLK_VIRTIO_PCI_PBA_BYTES ((VUBLK_VIRTIO_PCI_MAX_VECTORS + 63) / 64 * 8)
_Static_assert(VUBLK_VIRTIO_PCI_TABLE_BYTES <= VUBLK_VIRTIO_PCI_PBA_OFFSET, "layout");

/* BAR4: one page per kind of register */
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
	VUBLK_VIRTIO_PCI_RESETTING,      /* the back-end returns the rings */
	VUBLK_VIRTIO_PCI_RESETTING_BUS,  /* the same, and the PCI registers are also reset */
	VUBLK_VIRTIO_PCI_WRITING_CONFIG, /* the back-end processes the new value */
	VUBLK_VIRTIO_PCI_CHANGING_QUEUE, /* the rings are held to reset queues or to set them up */
	VUBLK_VIRTIO_PCI_NUM_BUSY,
};

struct vublk_virtio_pci_vector {
	int fd; /* owned; -1: not assigned */
	bool masked;
	bool pending;
};

enum vublk_virtio_pci_queue_state {
	VUBLK_VIRTIO_PCI_QUEUE_DISABLED,
	VUBLK_VIRTIO_PCI_QUEUE_ENABLED,    /* by the driver; the device does not have the queue yet */
	VUBLK_VIRTIO_PCI_QUEUE_ACTIVE,     /* the device has it */
	VUBLK_VIRTIO_PCI_QUEUE_CANCELLING, /* reset by the driver before the device got it */
	VUBLK_VIRTIO_PCI_QUEUE_RESETTING,  /* reset by the driver; the device still has it */
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
	uint16_t vector; /* VIRTIO_MSI_NO_VECTOR: unmapped */
	enum vublk_virtio_pci_queue_state state;
	uint64_t desc_addr, avail_addr, used_addr;
	int kick_fd;
	int call_fd;  /* receives the calls while they cannot go to the driver directly */
	struct vublk_loop_source call_source;
	bool direct;  /* the device has the vector's eventfd */
};

struct vublk_virtio_pci {
	struct vublk_device *device;
	struct vublk_loop *loop;
	const struct vublk_log *log;
	struct vublk_log_limit log_limit; /* for lines that a driver can cause */
	const struct vublk_virtio_pci_ops *ops;
	void *opaque;
	bool transitional;
	enum vublk_virtio_pci_busy busy;
	bool writes_config; /* a write to the config is in progress; a reset waits for its end */
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
	int intx_fd; /* owned; -1: not assigned */
	bool intx_masked;

	/* virtio */
	uint8_t status;
	uint32_t device_feature_select, driver_feature_select;
	uint64_t driver_features;
	uint16_t queue_select;
	uint8_t generation;        /* as the driver sees it */
	uint32_t known_generation; /* the device's, at the last read of its config */
	unsigned num_queues;
	struct vublk_virtio_pci_queue queues[]; /* num_queues */
};

/* --- registers.c ------------------------------------------------------------------------------ */

/* The queue of queue_select, or NULL if the device has no such queue. */
struct vublk_virtio_pci_queue *vublk_virtio_pci_selected(struct vublk_virtio_pci *pci);
void vublk_virtio_pci_write_queue_select(struct vublk_virtio_pci *pci, uint32_t value);
/*
 * The specification requires drivers to write whole registers, so an access that does not
 * match a register is ignored. An access of eight bytes counts as two accesses of four.
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

/* Copies `bytes` at `offset` of `from`, which has `from_bytes`, to `data`; pads with zeroes. */
void vublk_virtio_pci_copy(void *data, unsigned bytes, uint64_t offset, const void *from,
			   unsigned from_bytes);

/* --- busy.c ----------------------------------------------------------------------------------- */

/* The only function that changes `busy`. False: the operation in progress cannot be overridden. */
bool vublk_virtio_pci_set_busy(struct vublk_virtio_pci *pci, enum vublk_virtio_pci_busy busy);

/* --- virtio-pci.c ----------------------------------------------------------------------------- */

/* The features offered to the driver: the device's and the transport's own. */
uint64_t vublk_virtio_pci_features(const struct vublk_virtio_pci *pci);
void vublk_virtio_pci_write_status(struct vublk_virtio_pci *pci, uint32_t value);
/* The driver has written to the notification register of `queue`. */
void vublk_virtio_pci_notify(struct vublk_virtio_pci *pci, unsigned queue);
void vublk_virtio_pci_read_device_config(struct vublk_virtio_pci *pci, uint64_t offset,
					 void *data, unsigned bytes);
void vublk_virtio_pci_write_device_config(struct vublk_virtio_pci *pci, uint64_t offset,
					  const void *data, unsigned bytes);

/* --- queue-state.c ---------------------------------------------------------------------------- */

/* The only function that changes a queue's state. False: the event does nothing in this state. */
bool vublk_virtio_pci_queue_change_state(struct vublk_virtio_pci_queue *queue,
					 enum vublk_virtio_pci_queue_event event);
/* The next state by the table; -1: the event does nothing in this state. */
int vublk_virtio_pci_queue_next_state(enum vublk_virtio_pci_queue_state state,
				      enum vublk_virtio_pci_queue_event event);
const char *vublk_virtio_pci_queue_state_name(enum vublk_virtio_pci_queue_state state);
const char *vublk_virtio_pci_queue_event_name(enum vublk_virtio_pci_queue_event event);
/* The values of the registers queue_enable and queue_reset. */
bool vublk_virtio_pci_queue_is_enabled(const struct vublk_virtio_pci_queue *queue);
bool vublk_virtio_pci_queue_is_resetting(const struct vublk_virtio_pci_queue *queue);
/* Whether the device has the queue. */
bool vublk_virtio_pci_queue_is_in_device(const struct vublk_virtio_pci_queue *queue);

/* --- queue.c ---------------------------------------------------------------------------------- */

int vublk_virtio_pci_queues_init(struct vublk_virtio_pci *pci, struct vublk_error *error);
void vublk_virtio_pci_queues_deinit(struct vublk_virtio_pci *pci);
void vublk_virtio_pci_queues_reset(struct vublk_virtio_pci *pci);
/* Gives the device all enabled queues. */
int vublk_virtio_pci_queues_hand_over(struct vublk_virtio_pci *pci, struct vublk_error *error);
bool vublk_virtio_pci_queues_are_handed_over(const struct vublk_virtio_pci *pci);
/* The driver has written 1 to queue_enable or queue_reset. */
void vublk_virtio_pci_queue_enable(struct vublk_virtio_pci_queue *queue);
void vublk_virtio_pci_queue_reset(struct vublk_virtio_pci_queue *queue);
/* Call it when the rings are stopped: hands over or resets the queues that wait for that. */
void vublk_virtio_pci_queues_change(struct vublk_virtio_pci *pci);
/* Sends the queue's calls to the eventfd of its vector or, if they cannot go there, to call_fd. */
void vublk_virtio_pci_queue_route(struct vublk_virtio_pci_queue *queue);

/* --- irq.c, below queue.c --------------------------------------------------------------------- */

void vublk_virtio_pci_irqs_init(struct vublk_virtio_pci *pci);
void vublk_virtio_pci_irqs_deinit(struct vublk_virtio_pci *pci);
/* Delivers a pending interrupt of the vector, if nothing masks it. */
void vublk_virtio_pci_deliver(struct vublk_virtio_pci *pci, struct vublk_virtio_pci_vector *vector);
void vublk_virtio_pci_deliver_intx(struct vublk_virtio_pci *pci);
void vublk_virtio_pci_forget_pending(struct vublk_virtio_pci *pci);
/* Forgets pending interrupts, the ISR and the config's vector; keeps the eventfds. */
void vublk_virtio_pci_irqs_reset(struct vublk_virtio_pci *pci);
/*
 * Returns the eventfd for calls that go to the driver directly; -1: calls cannot go directly now.
 */
int vublk_virtio_pci_direct_fd(const struct vublk_virtio_pci *pci, uint16_t vector);
/* Raises the interrupt of a queue whose calls do not go to the driver directly. */
void vublk_virtio_pci_raise_queue(struct vublk_virtio_pci_queue *queue);
void vublk_virtio_pci_raise_config(struct vublk_virtio_pci *pci);
bool vublk_virtio_pci_intx_level(const struct vublk_virtio_pci *pci);
/* Reads the ISR, which clears it. */
uint8_t vublk_virtio_pci_take_isr(struct vublk_virtio_pci *pci);
/* `vector`, or VIRTIO_MSI_NO_VECTOR if the device has no such vector. */
uint16_t vublk_virtio_pci_accept_vector(const struct vublk_virtio_pci *pci, uint32_t vector);
void vublk_virtio_pci_msix_read(const struct vublk_virtio_pci *pci, uint64_t offset, void *data,
				unsigned bytes);
void vublk_virtio_pci_msix_write(struct vublk_virtio_pci *pci, uint64_t offset,
				 const void *data, unsigned bytes);

/* --- routing.c -------------------------------------------------------------------------------- */

/* Registers of both interfaces: the vector of config changes, and that of the selected queue. */
void vublk_virtio_pci_write_config_vector(struct vublk_virtio_pci *pci, uint32_t value);
void vublk_virtio_pci_write_queue_vector(struct vublk_virtio_pci *pci, uint32_t value);
/* A register that masks all interrupts has changed: command, MSI-X control. */
void vublk_virtio_pci_irqs_update(struct vublk_virtio_pci *pci);

/* --- config-space.c --------------------------------------------------------------------------- */

/* These functions read and write a little-endian field of the contents. */
uint32_t vublk_virtio_pci_config_get(const struct vublk_virtio_pci *pci, unsigned offset,
				     unsigned bytes);
void vublk_virtio_pci_config_set(struct vublk_virtio_pci *pci, unsigned offset, unsigned bytes,
				 uint32_t value);
/* Restores the contents that the space has after power-on. */
void vublk_virtio_pci_config_reset(struct vublk_virtio_pci *pci);
bool vublk_virtio_pci_msix_is_enabled(const struct vublk_virtio_pci *pci);
bool vublk_virtio_pci_msix_is_masked(const struct vublk_virtio_pci *pci); /* the whole function */
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
