/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_PCI_PRIVATE_H
#define VUBLK_VIRTIO_PCI_PRIVATE_H

/* Of the virtio-pci model's own files. */

#include "virtio-pci/virtio-pci.h"
#include "util/checked.h"

#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>

enum {
	VUBLK_VIRTIO_PCI_BAR_LEGACY = 0,
	VUBLK_VIRTIO_PCI_BAR_MSIX = 1,
	VUBLK_VIRTIO_PCI_BAR_MODERN = 4, /* 64 bits: 5 is its upper half */
};

/* Of BAR1. */
#define VUBLK_VIRTIO_PCI_PBA_OFFSET 0x2000
#define VUBLK_VIRTIO_PCI_TABLE_BYTES (VUBLK_VIRTIO_PCI_MAX_VECTORS * PCI_MSIX_ENTRY_SIZE)
#define VUBLK_VIRTIO_PCI_PBA_BYTES ((VUBLK_VIRTIO_PCI_MAX_VECTORS + 63) / 64 * 8)
_Static_assert(VUBLK_VIRTIO_PCI_TABLE_BYTES <= VUBLK_VIRTIO_PCI_PBA_OFFSET, "layout");

/* Of BAR4: a page each. */
#define VUBLK_VIRTIO_PCI_PAGE_BYTES 0x1000
enum vublk_virtio_pci_page {
	VUBLK_VIRTIO_PCI_PAGE_COMMON,
	VUBLK_VIRTIO_PCI_PAGE_ISR,
	VUBLK_VIRTIO_PCI_PAGE_DEVICE,
	VUBLK_VIRTIO_PCI_PAGE_NOTIFY,
	VUBLK_VIRTIO_PCI_NUM_PAGES,
};
#define VUBLK_VIRTIO_PCI_NOTIFY_MULTIPLIER 4

/* Why the driver has to wait. */
enum vublk_virtio_pci_busy {
	VUBLK_VIRTIO_PCI_IDLE,
	VUBLK_VIRTIO_PCI_RESETTING,      /* the rings are on their way back */
	VUBLK_VIRTIO_PCI_RESETTING_BUS,  /* ... and what belongs to PCI goes with them */
	VUBLK_VIRTIO_PCI_WRITING_CONFIG, /* the back-end has the new value */
	VUBLK_VIRTIO_PCI_CHANGING_QUEUE, /* the rings are held to reset queues, or to set them up */
	VUBLK_VIRTIO_PCI_NUM_BUSY,
};

struct vublk_virtio_pci_vector {
	int fd; /* owned; -1: not assigned */
	bool masked;
	bool pending;
};

struct vublk_virtio_pci_queue {
	struct vublk_virtio_pci *pci;
	uint16_t size;
	uint16_t vector; /* VIRTIO_MSI_NO_VECTOR: unmapped */
	bool enabled;
	bool resetting; /* as queue_reset shows it */
	bool is_set;    /* the device has it */
	uint64_t desc_addr, avail_addr, used_addr;
	int kick_fd;
	int call_fd;  /* where calls come while they cannot go to the driver directly */
	struct vublk_loop_source call_source;
	bool direct;  /* the device has the vector's eventfd */
};

struct vublk_virtio_pci {
	struct vublk_device *device;
	struct vublk_loop *loop;
	const struct vublk_log *log;
	struct vublk_log_limit log_limit; /* of what a driver can provoke */
	const struct vublk_virtio_pci_ops *ops;
	void *opaque;
	bool transitional;
	enum vublk_virtio_pci_busy busy;
	bool writes_config; /* also while it is being reset: the reset waits for the write */
	unsigned holds;

	/* PCI */
	uint8_t config[VUBLK_VIRTIO_PCI_CONFIG_BYTES];
	uint8_t writable[VUBLK_VIRTIO_PCI_CONFIG_BYTES]; /* a bit each */
	unsigned msix_cap, pci_cfg_cap; /* where these capabilities are */
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
	uint32_t known_generation; /* the device's, when its config was last read */
	unsigned num_queues;
	struct vublk_virtio_pci_queue queues[]; /* num_queues */
};

/* --- virtio-pci.c ------------------------------------------------------------------------- */

/* The only way to change it; false: it is busy with what cannot be overtaken. */
bool vublk_virtio_pci_set_busy(struct vublk_virtio_pci *pci, enum vublk_virtio_pci_busy busy);

/* NULL when the selector says one that there is not. */
struct vublk_virtio_pci_queue *vublk_virtio_pci_selected(struct vublk_virtio_pci *pci);
/* What the driver is offered: the device's features, and the transport's own. */
uint64_t vublk_virtio_pci_features(const struct vublk_virtio_pci *pci);
void vublk_virtio_pci_write_status(struct vublk_virtio_pci *pci, uint8_t status);
/* A doorbell. */
void vublk_virtio_pci_notify(struct vublk_virtio_pci *pci, unsigned queue);
void vublk_virtio_pci_read_device_config(struct vublk_virtio_pci *pci, uint64_t offset,
					 void *data, unsigned bytes);
void vublk_virtio_pci_write_device_config(struct vublk_virtio_pci *pci, uint64_t offset,
					  const void *data, unsigned bytes);

/* --- virtio-pci-queue.c -------------------------------------------------------------------- */

int vublk_virtio_pci_queues_init(struct vublk_virtio_pci *pci, struct vublk_error *error);
void vublk_virtio_pci_queues_deinit(struct vublk_virtio_pci *pci);
void vublk_virtio_pci_queues_reset(struct vublk_virtio_pci *pci);
/* Gives the device all queues that are enabled. */
int vublk_virtio_pci_queues_hand_over(struct vublk_virtio_pci *pci, struct vublk_error *error);
bool vublk_virtio_pci_queues_are_handed_over(const struct vublk_virtio_pci *pci);
/* queue_enable and queue_reset. */
void vublk_virtio_pci_queue_enable(struct vublk_virtio_pci_queue *queue);
void vublk_virtio_pci_queue_reset(struct vublk_virtio_pci_queue *queue);
/* The rings have been taken back for the queues that are to be changed. */
void vublk_virtio_pci_queues_change(struct vublk_virtio_pci *pci);
/* Lets the queue's calls go where its vector leads now. */
void vublk_virtio_pci_queue_route(struct vublk_virtio_pci_queue *queue);

/* --- virtio-pci-irq.c ---------------------------------------------------------------------- */

void vublk_virtio_pci_irqs_init(struct vublk_virtio_pci *pci);
void vublk_virtio_pci_irqs_deinit(struct vublk_virtio_pci *pci);
/* Nothing is pending any more and no event has a vector; the eventfds stay. */
void vublk_virtio_pci_irqs_reset(struct vublk_virtio_pci *pci);
/* The eventfd to which a queue's calls can go without anybody between; -1: none now. */
int vublk_virtio_pci_direct_fd(const struct vublk_virtio_pci *pci, uint16_t vector);
/* The back-end called on a queue whose calls do not go to the driver directly. */
void vublk_virtio_pci_raise_queue(struct vublk_virtio_pci_queue *queue);
void vublk_virtio_pci_raise_config(struct vublk_virtio_pci *pci);
/* What masks interrupts as a whole has changed: command register, MSI-X control. */
void vublk_virtio_pci_irqs_update(struct vublk_virtio_pci *pci);
bool vublk_virtio_pci_intx_level(const struct vublk_virtio_pci *pci);
/* Reads the ISR, which clears it. */
uint8_t vublk_virtio_pci_take_isr(struct vublk_virtio_pci *pci);
/* The vector as it is taken: VIRTIO_MSI_NO_VECTOR for one that there is not. */
uint16_t vublk_virtio_pci_accept_vector(const struct vublk_virtio_pci *pci, uint32_t vector);
void vublk_virtio_pci_msix_read(const struct vublk_virtio_pci *pci, uint64_t offset, void *data,
				unsigned bytes);
void vublk_virtio_pci_msix_write(struct vublk_virtio_pci *pci, uint64_t offset,
				 const void *data, unsigned bytes);

/* --- virtio-pci-config.c ------------------------------------------------------------------- */

/* As after power-on. */
void vublk_virtio_pci_config_reset(struct vublk_virtio_pci *pci);
bool vublk_virtio_pci_msix_is_enabled(const struct vublk_virtio_pci *pci);
bool vublk_virtio_pci_msix_is_masked(const struct vublk_virtio_pci *pci); /* as a whole */
bool vublk_virtio_pci_intx_is_disabled(const struct vublk_virtio_pci *pci);

/* --- virtio-pci-common.c and virtio-pci-legacy.c ---------------------------------------------- */

void vublk_virtio_pci_common_read(struct vublk_virtio_pci *pci, uint64_t offset, void *data,
				  unsigned bytes);
void vublk_virtio_pci_common_write(struct vublk_virtio_pci *pci, uint64_t offset,
				   const void *data, unsigned bytes);
void vublk_virtio_pci_legacy_read(struct vublk_virtio_pci *pci, uint64_t offset, void *data,
				  unsigned bytes);
void vublk_virtio_pci_legacy_write(struct vublk_virtio_pci *pci, uint64_t offset,
				   const void *data, unsigned bytes);

/*
 * Registers are written whole or not at all, as the specification wants it of drivers:
 * an access that is none of a register's is ignored. One of eight bytes is two of four.
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

/* Copies of `from`, of which there are `from_bytes`, what an access wants; the rest is zero. */
void vublk_virtio_pci_copy(void *data, unsigned bytes, uint64_t offset, const void *from,
			   unsigned from_bytes);

#endif
