/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BUS_VFIO_USER_PRIVATE_H
#define VUBLK_BUS_VFIO_USER_PRIVATE_H

/*
 * The vfio-user bus: a virtio-blk PCI device for VMMs with a vfio-user client. The guest's
 * memory and the eventfds of its interrupts come over the socket and go on to the
 * back-end; requests never pass here, but each of the driver's kicks is a message.
 * What it has in common with the other buses is in bus.c.
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
	VUBLK_VFIO_USER_ALONE,       /* there is no client */
	VUBLK_VFIO_USER_NEGOTIATING, /* it has not said its version yet */
	VUBLK_VFIO_USER_SERVING,
	VUBLK_VFIO_USER_CLEARING,    /* it is gone; the back-end gives the rings back */
	VUBLK_VFIO_USER_NUM_STATES,
};

enum vublk_vfio_user_event {
	VUBLK_VFIO_USER_EVENT_CONNECT,
	VUBLK_VFIO_USER_EVENT_VERSION,
	VUBLK_VFIO_USER_EVENT_HANG_UP,
	VUBLK_VFIO_USER_EVENT_CLEARED,
	VUBLK_VFIO_USER_NUM_EVENTS,
};

/* --- memory: vfio-user-dma.c --------------------------------------------------------------- */

#define VUBLK_VFIO_USER_MAX_MAPS VUBLK_MEMORY_MAX_REGIONS
#define VUBLK_VFIO_USER_MAX_ANSWERS 64 /* to maps and unmaps, until these have been done */

struct vublk_vfio_user_map {
	uint64_t address, size_bytes, offset;
	int fd; /* owned; -1: it cannot be mapped, so it is no memory for a disk */
	dev_t file_device;
	ino_t file_inode;
};

/* Memory as the device has it; its file is known by what it is, not by a descriptor. */
struct vublk_vfio_user_region {
	uint64_t address, size_bytes, offset;
	dev_t file_device;
	ino_t file_inode;
};

/* A map or unmap that has not been answered. */
struct vublk_vfio_user_answer {
	struct vublk_vfio_header command;
	struct vublk_vfio_dma_unmap unmap; /* what is echoed; of a map the place alone */
};

enum vublk_vfio_user_dma_phase {
	VUBLK_VFIO_USER_DMA_IDLE,
	VUBLK_VFIO_USER_DMA_HOLDING,  /* the rings are on their way back */
	VUBLK_VFIO_USER_DMA_CHANGING, /* the back-end is told while they run */
};

struct vublk_vfio_user_dma {
	struct vublk_vfio_user_map maps[VUBLK_VFIO_USER_MAX_MAPS]; /* by address */
	unsigned num_maps;
	struct vublk_vfio_user_region given[VUBLK_VFIO_USER_MAX_MAPS]; /* what the device has */
	unsigned num_given;
	struct vublk_vfio_user_answer answers[VUBLK_VFIO_USER_MAX_ANSWERS];
	unsigned num_answers;
	enum vublk_vfio_user_dma_phase phase;
	bool held; /* the rings wait until their memory is there again */
};

/* --- the bus ----------------------------------------------------------------------------------- */

struct vublk_vfio_user {
	enum vublk_vfio_user_state state;
	struct vublk_bus *bus;
	struct vublk_loop *loop;       /* the bus's, like the next two */
	struct vublk_device *device;
	const struct vublk_log *log;
	struct vublk_virtio_pci_options options;
	struct vublk_log_limit log_limit;     /* of what a client can provoke */
	struct vublk_virtio_pci *pci; /* NULL until the device is realized */

	/* the client */
	struct vublk_vfio_channel channel;
	struct vublk_loop_source source;
	uint64_t num_commands; /* that it has sent */
	struct vublk_vfio_message *command; /* the channel's; what is being done */
	bool is_done;          /* ... except that its reply waits for the model */
	unsigned next_write;   /* of a REGION_WRITE_MULTI */
	int result;            /* payload bytes of the reply, or a negative errno */
	union vublk_vfio_payload reply;
	struct vublk_loop_task serve_task;
	struct vublk_message_timeout message_timeout;
	struct vublk_loop_timer patience; /* with a driver that is kept waiting */
	bool out_of_patience;             /* it is over, for what is under way */

	struct vublk_vfio_user_dma dma;
};

/* --- vfio-user-client.c ---------------------------------------------------------------------- */

void vublk_vfio_user_client_init(struct vublk_vfio_user *bus);
/* Takes the descriptor. On failure it is as if nobody had connected. */
int vublk_vfio_user_accept(struct vublk_vfio_user *bus, int fd, struct vublk_error *error);
/* Has to go, for the reason given. */
void vublk_vfio_user_client_lose(struct vublk_vfio_user *bus, const struct vublk_error *error);
/* Closes what is the client's, at once. Idempotent. */
void vublk_vfio_user_client_deinit(struct vublk_vfio_user *bus);
/* Something that it may wait for has ended. */
void vublk_vfio_user_client_wake(struct vublk_vfio_user *bus);
/* An answer that is not the current command's; a client that cannot be sent it is lost. */
void vublk_vfio_user_client_answer(struct vublk_vfio_user *bus,
				   const struct vublk_vfio_header *command, int result,
				   const void *payload);

/* --- vfio-user-commands.c --------------------------------------------------------------------- */

/*
 * Does bus->command. Payload bytes of the reply, which is in bus->reply, or a negative
 * errno and a sentence.
 */
int vublk_vfio_user_do(struct vublk_vfio_user *bus, struct vublk_error *error);
/* Whether there is more of it to do when the model is not busy any more. */
bool vublk_vfio_user_has_more(const struct vublk_vfio_user *bus);

/* --- vfio-user-version.c ------------------------------------------------------------------------ */

int vublk_vfio_user_negotiate(const struct vublk_vfio_message *message,
			      struct vublk_vfio_version *reply, struct vublk_error *error);

/* --- vfio-user-dma.c ------------------------------------------------------------------------------ */

bool vublk_vfio_user_dma_is_command(const struct vublk_vfio_message *message);
/*
 * Do the client's part and may keep the answer back: 1: it comes when the back-end has
 * followed; 0 or more: payload bytes of an answer now.
 */
int vublk_vfio_user_dma_map(struct vublk_vfio_user *bus, struct vublk_vfio_message *message,
			    struct vublk_error *error);
int vublk_vfio_user_dma_unmap(struct vublk_vfio_user *bus,
			      const struct vublk_vfio_message *message,
			      struct vublk_error *error);
/* Whether rings may be using the memory: changes have to reach the back-end now. */
bool vublk_vfio_user_dma_is_live(const struct vublk_vfio_user *bus);
/* Keeps the answer to a change back. The caller has seen to it that there is room. */
void vublk_vfio_user_dma_owe(struct vublk_vfio_user *bus,
			     const struct vublk_vfio_message *message);
/* Makes the changes that answers are owed to; while it is busy no command is taken. */
void vublk_vfio_user_dma_commit(struct vublk_vfio_user *bus);
void vublk_vfio_user_dma_on_stopped(struct vublk_vfio_user *bus);
void vublk_vfio_user_dma_on_memory_changed(struct vublk_vfio_user *bus,
					   const struct vublk_error *error);
int vublk_vfio_user_dma_before_start(struct vublk_vfio_user *bus, struct vublk_error *error);
/* The client is gone: owes no answer; then, when the rings are back, has no memory. */
void vublk_vfio_user_dma_abandon(struct vublk_vfio_user *bus);
void vublk_vfio_user_dma_clear(struct vublk_vfio_user *bus);

/* --- vfio-user-irqs.c ------------------------------------------------------------------------------- */

/* How many interrupts an index has; 0 also for an index that there is not. */
unsigned vublk_vfio_user_num_irqs(const struct vublk_vfio_user *bus, unsigned index);
uint32_t vublk_vfio_user_irq_flags(unsigned index);
int vublk_vfio_user_set_irqs(struct vublk_vfio_user *bus, struct vublk_vfio_message *message,
			     struct vublk_error *error);
/* Takes all eventfds away. */
void vublk_vfio_user_irqs_clear(struct vublk_vfio_user *bus);

/* --- vfio-user.c -------------------------------------------------------------------------------------- */

/* The only way to another state; false: the event means nothing in this one. */
bool vublk_vfio_user_change_state(struct vublk_vfio_user *bus, enum vublk_vfio_user_event event,
				  const char *why);
/* Nothing of the client is left: the next may come, unless there is still a reset to wait for. */
void vublk_vfio_user_clear(struct vublk_vfio_user *bus);

#endif
