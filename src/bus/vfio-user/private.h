/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BUS_VFIO_USER_PRIVATE_H
#define VUBLK_BUS_VFIO_USER_PRIVATE_H

/*
 * The vfio-user bus: a virtio-blk PCI device for VMMs with a vfio-user client. The code that all
 * buses share is in src/bus/bus.c.
 *
 * Key idea: the guest's memory and the eventfds of its interrupts arrive on the socket and are
 * passed on to the back-end. So without shadow rings requests bypass this process; only the
 * driver's kicks reach it, as messages.
 *
 * The sections below are layers: a file calls only functions of earlier sections.
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
	VUBLK_VFIO_USER_CLEARING,    /* the client has disconnected, and the device is being
					reset */
	VUBLK_VFIO_USER_NUM_STATES,
};

enum vublk_vfio_user_event {
	VUBLK_VFIO_USER_EVENT_CONNECT,
	VUBLK_VFIO_USER_EVENT_VERSION,
	VUBLK_VFIO_USER_EVENT_HANG_UP,
	VUBLK_VFIO_USER_EVENT_CLEARED,
	VUBLK_VFIO_USER_NUM_EVENTS,
};

/* --- memory (dma.c) --------------------------------------------------------------------------- */

#define VUBLK_VFIO_USER_MAX_MAPS VUBLK_MEMORY_MAX_REGIONS
#define VUBLK_VFIO_USER_MAX_ANSWERS 64 /* the largest number of deferred answers */

struct vublk_vfio_user_map {
	uint64_t address, size_bytes, offset;
	int fd; /* owned; -1: a back-end cannot map this memory */
	dev_t file_device;
	ino_t file_inode;
};

/*
 * A memory region that the device has. `file_device` and `file_inode` identify the file, because
 * one file can have several descriptors.
 */
struct vublk_vfio_user_region {
	uint64_t address, size_bytes, offset;
	dev_t file_device;
	ino_t file_inode;
};

/* A DMA_MAP or DMA_UNMAP whose answer is deferred. */
struct vublk_vfio_user_answer {
	struct vublk_vfio_header command;
	struct vublk_vfio_dma_unmap unmap; /* of an unmap: the payload, which the answer repeats;
					      of a map: only `address`, which identifies the map
					      if it must be undone */
};

enum vublk_vfio_user_dma_phase {
	VUBLK_VFIO_USER_DMA_IDLE,
	VUBLK_VFIO_USER_DMA_HOLDING,  /* the back-end is returning the rings */
	VUBLK_VFIO_USER_DMA_CHANGING, /* the back-end is adding memory while the rings run */
};

struct vublk_vfio_user_dma {
	struct vublk_vfio_user_map maps[VUBLK_VFIO_USER_MAX_MAPS]; /* sorted by address */
	unsigned num_maps;
	struct vublk_vfio_user_region regions[VUBLK_VFIO_USER_MAX_MAPS]; /* the device's */
	unsigned num_regions;
	struct vublk_vfio_user_answer answers[VUBLK_VFIO_USER_MAX_ANSWERS];
	unsigned num_answers;
	enum vublk_vfio_user_dma_phase phase;
	bool held; /* the model holds the rings until all memory that contains them is mapped */
};

/* --- the bus ---------------------------------------------------------------------------------- */

struct vublk_vfio_user {
	enum vublk_vfio_user_state state;
	struct vublk_bus *bus;
	struct vublk_loop *loop;       /* borrowed from the bus, like the next two members */
	struct vublk_device *device;
	const struct vublk_log *log;
	struct vublk_virtio_pci_options options;
	struct vublk_log_limit log_limit;     /* for log lines that a client can cause */
	struct vublk_virtio_pci *pci; /* NULL until the device is realized */

	/* the connection to the client */
	struct vublk_vfio_channel channel;
	struct vublk_loop_source source;
	uint64_t num_commands; /* how many commands the client has sent */
	struct vublk_vfio_message *command; /* the command that is being executed, in the
					       channel's buffer */
	bool is_done;          /* the command has been executed, at least in part; its answer is due
				  unless vublk_vfio_user_has_more() */
	unsigned next_write;   /* index of the next write of a REGION_WRITE_MULTI */
	int result;            /* payload bytes of the reply, or a negative errno */
	union vublk_vfio_payload reply;
	struct vublk_loop_task serve_task;
	struct vublk_message_timeout message_timeout;
	struct vublk_error send_failure; /* why an answer could not be sent; code 0: no failure */
	struct vublk_loop_timer busy_timer; /* armed while the PCI model is busy; limits the wait */
	bool has_timed_out; /* busy_timer has fired, so the client is served although the model is
			       still busy */

	struct vublk_vfio_user_dma dma;
};

/* --- state.c ---------------------------------------------------------------------------------- */

/*
 * The only function that changes the state. Returns false if the event has no effect in this state.
 */
bool vublk_vfio_user_change_state(struct vublk_vfio_user *bus, enum vublk_vfio_user_event event,
				  const char *why);
bool vublk_vfio_user_has_client(const struct vublk_vfio_user *bus);

/* --- answers.c -------------------------------------------------------------------------------- */

/*
 * Sends the answer to `command`, if the client wants one. `result` is the number of bytes of
 * `payload`, or a negative errno. If the answer cannot be sent, serve_task later disconnects the
 * client.
 */
void vublk_vfio_user_answer(struct vublk_vfio_user *bus, const struct vublk_vfio_header *command,
			    int result, const void *payload);
/*
 * Called when an operation for which the client may be waiting has ended. The loop then continues
 * to serve the client.
 */
void vublk_vfio_user_wake(struct vublk_vfio_user *bus);

/* --- version.c -------------------------------------------------------------------------------- */

/*
 * Checks the client's VERSION in `message`, and fills in `reply`. Returns the number of payload
 * bytes of `reply`, or a negative errno.
 */
int vublk_vfio_user_negotiate(const struct vublk_vfio_message *message,
			      struct vublk_vfio_version *reply, struct vublk_error *error);

/* --- irqs.c ----------------------------------------------------------------------------------- */

/* Returns the number of interrupts at a VFIO interrupt index, or 0 if the index is unknown. */
unsigned vublk_vfio_user_num_irqs(const struct vublk_vfio_user *bus, unsigned index);
uint32_t vublk_vfio_user_irq_flags(unsigned index);
int vublk_vfio_user_set_irqs(struct vublk_vfio_user *bus, struct vublk_vfio_message *message,
			     struct vublk_error *error);
/* Removes all eventfds, and unmasks all interrupts. */
void vublk_vfio_user_irqs_clear(struct vublk_vfio_user *bus);

/* --- dma.c ------------------------------------------------------------------------------------ */

bool vublk_vfio_user_dma_is_command(const struct vublk_vfio_message *message);
/*
 * These functions change only the client's table of maps. They return the number of payload bytes
 * of the answer, or a negative errno.
 */
int vublk_vfio_user_dma_map(struct vublk_vfio_user *bus, struct vublk_vfio_message *message,
			    struct vublk_error *error);
int vublk_vfio_user_dma_unmap(struct vublk_vfio_user *bus,
			      const struct vublk_vfio_message *message,
			      struct vublk_error *error);
/*
 * Returns whether the rings may be using the memory. If so, each change has to reach the back-end.
 */
bool vublk_vfio_user_dma_is_in_use(const struct vublk_vfio_user *bus);
/*
 * Defers the answer to a change. The caller must have checked that there is room for another
 * deferred answer.
 */
void vublk_vfio_user_dma_defer_answer(struct vublk_vfio_user *bus,
			     const struct vublk_vfio_message *message);
/*
 * Begins to apply the changes whose answers are deferred. The answers are sent, and dma.phase is
 * IDLE, once the changes are applied or refused, or the rings stay held because the memory that
 * contains them is not mapped.
 */
void vublk_vfio_user_dma_apply(struct vublk_vfio_user *bus);
void vublk_vfio_user_dma_on_stopped(struct vublk_vfio_user *bus);
void vublk_vfio_user_dma_on_memory_changed(struct vublk_vfio_user *bus,
					   const struct vublk_error *error);
int vublk_vfio_user_dma_before_start(struct vublk_vfio_user *bus, struct vublk_error *error);
/* Called when the client has disconnected: drops the deferred answers. */
void vublk_vfio_user_dma_cancel(struct vublk_vfio_user *bus);
/* Called when the back-end has returned the rings: removes all memory. */
void vublk_vfio_user_dma_clear(struct vublk_vfio_user *bus);

/* --- commands.c ------------------------------------------------------------------------------- */

/*
 * Executes bus->command and fills in bus->reply. Returns the number of payload bytes of the reply,
 * or a negative errno.
 */
int vublk_vfio_user_execute(struct vublk_vfio_user *bus, struct vublk_error *error);
/* Returns whether part of the command remains to be executed when the model is idle again. */
bool vublk_vfio_user_has_more(const struct vublk_vfio_user *bus);

/* --- client.c --------------------------------------------------------------------------------- */

void vublk_vfio_user_client_init(struct vublk_vfio_user *bus);
/*
 * Begins to serve a client on `fd`. Takes ownership of `fd`, even on failure. On failure the bus
 * has no client.
 */
int vublk_vfio_user_accept(struct vublk_vfio_user *bus, int fd, struct vublk_error *error);
/* Ends the connection for the reason `error`, and resets the device. */
void vublk_vfio_user_client_disconnect(struct vublk_vfio_user *bus, const struct vublk_error *error);
/* Closes the connection immediately. Idempotent. */
void vublk_vfio_user_client_deinit(struct vublk_vfio_user *bus);
/*
 * If the client has disconnected and the device has been reset, ends the session, so that the bus
 * can accept the next client. Otherwise a no-op.
 */
void vublk_vfio_user_clear(struct vublk_vfio_user *bus);

#endif
