/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BUS_VFIO_USER_PRIVATE_H
#define VUBLK_BUS_VFIO_USER_PRIVATE_H

/*
 * The vfio-user bus: a virtio-blk PCI device for VMMs with a vfio-user client. Code that all
 * buses share is in src/bus/bus.c.
 *
 * Key idea: the guest's memory and the eventfds of its interrupts arrive on the socket and
 * are passed to the back-end. So requests bypass this process, and only the driver's kicks
 * are messages to it.
 *
 * The sections below follow the direction of calls: a file calls functions of earlier sections.
 */

#include "bus/bus.h"
#include "virtio-pci/virtio-pci.h"
#include "proto/message-timeout.h"
#include "proto/vfio-user/channel.h"
#include "util/checked.h"
#include "util/loop.h"

#include <vublk/memory.h>

#include <sys/stat.h>

enum vublk_vfio_user_state {
	VUBLK_VFIO_USER_NO_CLIENT,       /* waits for a client */
	VUBLK_VFIO_USER_NEGOTIATING, /* waits for the client's VERSION */
	VUBLK_VFIO_USER_SERVING,
	VUBLK_VFIO_USER_CLEARING,    /* the client has disconnected; the back-end returns the rings */
	VUBLK_VFIO_USER_NUM_STATES,
};

enum vublk_vfio_user_event {
	VUBLK_VFIO_USER_EVENT_CONNECT,
	VUBLK_VFIO_USER_EVENT_VERSION,
	VUBLK_VFIO_USER_EVENT_HANG_UP,
	VUBLK_VFIO_USER_EVENT_CLEARED,
	VUBLK_VFIO_USER_NUM_EVENTS,
};

/* --- memory, of dma.c ------------------------------------------------------------------------- */

#define VUBLK_VFIO_USER_MAX_MAPS VUBLK_MEMORY_MAX_REGIONS
#define VUBLK_VFIO_USER_MAX_ANSWERS 64 /* deferred, to maps and unmaps */

struct vublk_vfio_user_map {
	uint64_t address, size_bytes, offset;
	int fd; /* owned; -1: a back-end cannot map it */
	dev_t file_device;
	ino_t file_inode;
};

/* Memory that the device has. Device and inode identify its file, because descriptors differ. */
struct vublk_vfio_user_region {
	uint64_t address, size_bytes, offset;
	dev_t file_device;
	ino_t file_inode;
};

/* A map or unmap whose answer is deferred. */
struct vublk_vfio_user_answer {
	struct vublk_vfio_header command;
	struct vublk_vfio_dma_unmap unmap; /* the payload to echo; of a map only the address counts */
};

enum vublk_vfio_user_dma_phase {
	VUBLK_VFIO_USER_DMA_IDLE,
	VUBLK_VFIO_USER_DMA_HOLDING,  /* the back-end returns the rings */
	VUBLK_VFIO_USER_DMA_CHANGING, /* the back-end adds memory while the rings run */
};

struct vublk_vfio_user_dma {
	struct vublk_vfio_user_map maps[VUBLK_VFIO_USER_MAX_MAPS]; /* sorted by address */
	unsigned num_maps;
	struct vublk_vfio_user_region regions[VUBLK_VFIO_USER_MAX_MAPS]; /* of the device */
	unsigned num_regions;
	struct vublk_vfio_user_answer answers[VUBLK_VFIO_USER_MAX_ANSWERS];
	unsigned num_answers;
	enum vublk_vfio_user_dma_phase phase;
	bool held; /* the rings wait until the memory that contains them is mapped */
};

/* --- the bus ---------------------------------------------------------------------------------- */

struct vublk_vfio_user {
	enum vublk_vfio_user_state state;
	struct vublk_bus *bus;
	struct vublk_loop *loop;       /* borrowed from the bus, like the next two */
	struct vublk_device *device;
	const struct vublk_log *log;
	struct vublk_virtio_pci_options options;
	struct vublk_log_limit log_limit;     /* for lines that a client can cause */
	struct vublk_virtio_pci *pci; /* NULL until the device is realized */

	/* the connection to the client */
	struct vublk_vfio_channel channel;
	struct vublk_loop_source source;
	uint64_t num_commands; /* received from the client */
	struct vublk_vfio_message *command; /* being executed; in the channel's buffer */
	bool is_done;          /* the command has been executed, and its answer is due */
	unsigned next_write;   /* next element of a REGION_WRITE_MULTI */
	int result;            /* payload bytes of the reply, or a negative errno */
	union vublk_vfio_payload reply;
	struct vublk_loop_task serve_task;
	struct vublk_message_timeout message_timeout;
	struct vublk_error send_failure; /* code 0: every answer could be sent */
	struct vublk_loop_timer busy_timer; /* runs while the model is busy */
	bool has_timed_out; /* the client is served although the model is busy */

	struct vublk_vfio_user_dma dma;
};

/* --- state.c ---------------------------------------------------------------------------------- */

/* The only function that changes the state. False: the event cannot occur in this state. */
bool vublk_vfio_user_change_state(struct vublk_vfio_user *bus, enum vublk_vfio_user_event event,
				  const char *why);
bool vublk_vfio_user_has_client(const struct vublk_vfio_user *bus);

/* --- answers.c -------------------------------------------------------------------------------- */

/*
 * `result`: payload bytes, or a negative errno. If sending fails, the client is disconnected later.
 */
void vublk_vfio_user_answer(struct vublk_vfio_user *bus, const struct vublk_vfio_header *command,
			    int result, const void *payload);
/* An operation that the client may be waiting for has ended: serves it from the loop. */
void vublk_vfio_user_wake(struct vublk_vfio_user *bus);

/* --- version.c -------------------------------------------------------------------------------- */

/* Returns the payload bytes of `reply`, or a negative errno. */
int vublk_vfio_user_negotiate(const struct vublk_vfio_message *message,
			      struct vublk_vfio_version *reply, struct vublk_error *error);

/* --- irqs.c ----------------------------------------------------------------------------------- */

/* The number of interrupts of an index; 0 for an unknown index. */
unsigned vublk_vfio_user_num_irqs(const struct vublk_vfio_user *bus, unsigned index);
uint32_t vublk_vfio_user_irq_flags(unsigned index);
int vublk_vfio_user_set_irqs(struct vublk_vfio_user *bus, struct vublk_vfio_message *message,
			     struct vublk_error *error);
/* Removes all eventfds and masks. */
void vublk_vfio_user_irqs_clear(struct vublk_vfio_user *bus);

/* --- dma.c ------------------------------------------------------------------------------------ */

bool vublk_vfio_user_dma_is_command(const struct vublk_vfio_message *message);
/* These functions change only the table of maps. They return the payload bytes of the answer. */
int vublk_vfio_user_dma_map(struct vublk_vfio_user *bus, struct vublk_vfio_message *message,
			    struct vublk_error *error);
int vublk_vfio_user_dma_unmap(struct vublk_vfio_user *bus,
			      const struct vublk_vfio_message *message,
			      struct vublk_error *error);
/* Whether rings may use the memory, so that the back-end has to learn of each change. */
bool vublk_vfio_user_dma_is_in_use(const struct vublk_vfio_user *bus);
/*
 * Defers the answer to a change. The caller has checked that fewer answers than the maximum are
 * deferred.
 */
void vublk_vfio_user_dma_defer_answer(struct vublk_vfio_user *bus,
			     const struct vublk_vfio_message *message);
/* Applies the changes whose answers are deferred. dma.phase is not IDLE until all are applied. */
void vublk_vfio_user_dma_apply(struct vublk_vfio_user *bus);
void vublk_vfio_user_dma_on_stopped(struct vublk_vfio_user *bus);
void vublk_vfio_user_dma_on_memory_changed(struct vublk_vfio_user *bus,
					   const struct vublk_error *error);
int vublk_vfio_user_dma_before_start(struct vublk_vfio_user *bus, struct vublk_error *error);
/* The client has disconnected: drops the deferred answers. */
void vublk_vfio_user_dma_cancel(struct vublk_vfio_user *bus);
/* The back-end has returned the rings: removes all memory. */
void vublk_vfio_user_dma_clear(struct vublk_vfio_user *bus);

/* --- commands.c ------------------------------------------------------------------------------- */

/*
 * Executes bus->command. Returns the payload bytes of the reply, which is in bus->reply, or a
 * negative errno with an error.
 */
int vublk_vfio_user_execute(struct vublk_vfio_user *bus, struct vublk_error *error);
/* Whether part of the command remains to be executed when the model is idle. */
bool vublk_vfio_user_has_more(const struct vublk_vfio_user *bus);

/* --- client.c --------------------------------------------------------------------------------- */

void vublk_vfio_user_client_init(struct vublk_vfio_user *bus);
/* Takes ownership of `fd`, even on failure. A failure leaves the bus without a client. */
int vublk_vfio_user_accept(struct vublk_vfio_user *bus, int fd, struct vublk_error *error);
/* Ends the connection for the given reason, and resets the device. */
void vublk_vfio_user_client_disconnect(struct vublk_vfio_user *bus, const struct vublk_error *error);
/* Closes the connection immediately. Idempotent. */
void vublk_vfio_user_client_deinit(struct vublk_vfio_user *bus);
/* Accepts the next client, unless the device is still being reset. */
void vublk_vfio_user_clear(struct vublk_vfio_user *bus);

#endif
