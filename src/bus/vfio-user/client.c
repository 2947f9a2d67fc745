/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A client of the vfio-user bus: its commands one after the other, and its answers.
 *
 * The idea to read it by: commands are done in their order, and an answer means that it
 * is done. So while something is under way that the next command could run into (a
 * reset, memory that the back-end has not let go of) no further one is taken; they
 * wait in the socket. A client's own time is limited, so patience with a driver that is
 * kept waiting is, too: when it is over the driver sees from its registers that it has
 * to wait.
 *
 * Specification: "Command Concurrency".
 */
#include "bus/vfio-user/private.h"

#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/epoll.h>

#define BATCH 64                               /* commands, before it is others' turn */
#define PATIENCE_NS (UINT64_C(2) * 1000000000) /* clients give a server five seconds */

static void serve(struct vublk_vfio_user *bus);

static bool has_client(const struct vublk_vfio_user *bus)
{
	return bus->state == VUBLK_VFIO_USER_NEGOTIATING || bus->state == VUBLK_VFIO_USER_SERVING;
}

/* --- loss ------------------------------------------------------------------------------------------ */

void vublk_vfio_user_client_deinit(struct vublk_vfio_user *bus)
{
	vublk_loop_remove(&bus->source);
	vublk_loop_cancel(bus->loop, &bus->serve_task);
	vublk_loop_timer_disarm(&bus->patience);
	vublk_message_timeout_end(&bus->message_timeout);
	vublk_vfio_channel_deinit(&bus->channel);
	bus->command = NULL;
	bus->is_done = false;
}

/* What it leaves behind is reset, for its guest is gone: rings and memory are given back. */
void vublk_vfio_user_client_lose(struct vublk_vfio_user *bus, const struct vublk_error *error)
{
	if (!vublk_vfio_user_change_state(bus, VUBLK_VFIO_USER_EVENT_HANG_UP, error->text))
		return;
	vublk_log(bus->log, VUBLK_LOG_DEBUG, "vfio-user: the client sent %" PRIu64 " commands",
		  bus->num_commands);
	vublk_vfio_user_client_deinit(bus);
	vublk_vfio_user_irqs_clear(bus);
	vublk_vfio_user_dma_abandon(bus);
	vublk_virtio_pci_reset(bus->pci);
	vublk_vfio_user_clear(bus);
}

static void lose_liar(struct vublk_vfio_user *bus, const struct vublk_error *error)
{
	vublk_log_limited(bus->log, &bus->log_limit, VUBLK_LOG_WARNING,
			  "a vfio-user client is disconnected: %s", error->text);
	vublk_vfio_user_client_lose(bus, error);
}

/* --- answers ----------------------------------------------------------------------------------------- */

void vublk_vfio_user_client_answer(struct vublk_vfio_user *bus,
				   const struct vublk_vfio_header *command, int result,
				   const void *payload)
{
	struct vublk_vfio_header header = result < 0 ?
		vublk_vfio_error_header(command, -result) :
		vublk_vfio_reply_header(command, (uint32_t)result);
	struct vublk_error error;

	if (has_client(bus) && vublk_vfio_wants_reply(command) &&
	    vublk_vfio_channel_send(&bus->channel, &header, payload, &error) < 0)
		vublk_vfio_user_client_lose(bus, &error);
}

static void answer_command(struct vublk_vfio_user *bus)
{
	struct vublk_vfio_header command = bus->command->header;

	bus->command = NULL;
	bus->is_done = false;
	vublk_vfio_user_client_answer(bus, &command, bus->result, &bus->reply);
}

/* --- commands ----------------------------------------------------------------------------------------- */

/*
 * A client whose first word is no version that is spoken here, or who sends what is no
 * command, is not one; everything else it may try again.
 */
static void refuse(struct vublk_vfio_user *bus, const struct vublk_error *error)
{
	if (error->code == EPROTO || bus->state == VUBLK_VFIO_USER_NEGOTIATING) {
		lose_liar(bus, error);
		return;
	}
	vublk_log_limited(bus->log, &bus->log_limit, VUBLK_LOG_DEBUG,
			  "a vfio-user command is refused: %s", error->text);
}

/* The model makes the driver wait; a memory change keeps its answer for itself. */
static void do_command(struct vublk_vfio_user *bus)
{
	struct vublk_error error;

	if (bus->state == VUBLK_VFIO_USER_NEGOTIATING &&
	    bus->command->header.command != VUBLK_VFIO_VERSION) {
		vublk_error_set(&error, EPROTO, "its first message is %s (command %u), where VERSION is "
				"expected", vublk_vfio_command_name(bus->command->header.command),
				bus->command->header.command);
		lose_liar(bus, &error);
		return;
	}
	bus->result = vublk_vfio_user_do(bus, &error);
	bus->is_done = true;
	if (bus->result < 0)
		refuse(bus, &error);
	if (!bus->command)
		return;
	if (bus->result >= 0 && vublk_vfio_user_dma_is_command(bus->command) &&
	    vublk_vfio_user_dma_is_live(bus)) {
		vublk_vfio_user_dma_owe(bus, bus->command);
		bus->command = NULL;
		bus->is_done = false;
	}
}

/* 1: there is a command to be done; 0: not now. */
static int take_command(struct vublk_vfio_user *bus)
{
	struct vublk_error error;
	int r = vublk_vfio_channel_receive(&bus->channel, &bus->command, &error);

	bus->next_write = 0;
	vublk_message_timeout_note(&bus->message_timeout, r > 0, bus->channel.in_bytes);
	if (r < 0 && error.code == ENOTCONN)
		vublk_vfio_user_client_lose(bus, &error);
	else if (r < 0)
		lose_liar(bus, &error);
	bus->num_commands += r > 0;
	return r > 0;
}

/* What is owed for maps and unmaps comes before anything that is not one of them. */
static bool owes_first(const struct vublk_vfio_user *bus)
{
	return bus->dma.num_answers &&
	       (!bus->command || !vublk_vfio_user_dma_is_command(bus->command) ||
		bus->dma.num_answers == VUBLK_VFIO_USER_MAX_ANSWERS);
}

static bool is_waiting(const struct vublk_vfio_user *bus)
{
	return bus->dma.phase != VUBLK_VFIO_USER_DMA_IDLE ||
	       (vublk_virtio_pci_is_busy(bus->pci) && !bus->out_of_patience);
}

/* Does one thing; false: there is nothing to do now. */
static bool step(struct vublk_vfio_user *bus)
{
	if (is_waiting(bus) || vublk_vfio_channel_wants_write(&bus->channel))
		return false;
	if (bus->is_done && vublk_vfio_user_has_more(bus))
		do_command(bus);
	else if (bus->is_done)
		answer_command(bus);
	else if (!bus->command && !take_command(bus) && !bus->dma.num_answers)
		return false;
	else if (!has_client(bus))
		return false;
	else if (owes_first(bus))
		vublk_vfio_user_dma_commit(bus);
	else
		do_command(bus);
	return true;
}

/* --- the loop ------------------------------------------------------------------------------------------ */

static void watch(struct vublk_vfio_user *bus)
{
	uint32_t events = EPOLLIN;

	if (vublk_vfio_channel_wants_write(&bus->channel))
		events = EPOLLOUT;
	else if (is_waiting(bus))
		events = 0;
	vublk_loop_modify(&bus->source, events);
	if (!vublk_virtio_pci_is_busy(bus->pci))
		vublk_loop_timer_disarm(&bus->patience);
	else if (!bus->patience.loop && !bus->out_of_patience)
		vublk_loop_timer_arm(bus->loop, &bus->patience, vublk_now_ns() + PATIENCE_NS);
}

static void serve(struct vublk_vfio_user *bus)
{
	unsigned done = 0;

	while (has_client(bus) && done < BATCH && step(bus))
		done++;
	if (!has_client(bus))
		return;
	if (done == BATCH)
		vublk_loop_post(bus->loop, &bus->serve_task);
	watch(bus);
}

static void on_task(void *opaque)
{
	serve(opaque);
}

static void on_patience(void *opaque)
{
	struct vublk_vfio_user *bus = opaque;

	vublk_log_limited(bus->log, &bus->log_limit, VUBLK_LOG_WARNING,
			  "the back-end keeps the driver waiting; its VMM is answered all the same");
	bus->out_of_patience = true;
	serve(bus);
}

void vublk_vfio_user_client_wake(struct vublk_vfio_user *bus)
{
	if (!vublk_virtio_pci_is_busy(bus->pci))
		bus->out_of_patience = false;
	if (has_client(bus))
		vublk_loop_post(bus->loop, &bus->serve_task);
}

/* A hang-up is told even when nothing is asked for; what was sent before it is taken first. */
static void on_socket(void *opaque, uint32_t events)
{
	struct vublk_vfio_user *bus = opaque;
	struct vublk_error error;

	if (events & EPOLLOUT && vublk_vfio_channel_flush(&bus->channel, &error) < 0) {
		vublk_vfio_user_client_lose(bus, &error);
		return;
	}
	if (events & (EPOLLHUP | EPOLLERR) &&
	    (is_waiting(bus) || vublk_vfio_channel_wants_write(&bus->channel))) {
		vublk_error_set(&error, ENOTCONN, "the client closed the connection");
		vublk_vfio_user_client_lose(bus, &error);
		return;
	}
	serve(bus);
}

void vublk_vfio_user_client_init(struct vublk_vfio_user *bus)
{
	bus->channel.fd = -1;
	bus->source.fn = on_socket;
	bus->source.opaque = bus;
	bus->serve_task.fn = on_task;
	bus->serve_task.opaque = bus;
	bus->patience.fn = on_patience;
	bus->patience.opaque = bus;
}

static void on_message_timeout(void *opaque, const struct vublk_error *error)
{
	lose_liar(opaque, error);
}

int vublk_vfio_user_accept(struct vublk_vfio_user *bus, int fd, struct vublk_error *error)
{
	int r = vublk_loop_add(bus->loop, &bus->source, fd, EPOLLIN, error);

	if (r < 0) {
		vublk_fd_close(&fd);
		return r;
	}
	vublk_vfio_channel_init(&bus->channel, fd);
	bus->out_of_patience = false;
	bus->num_commands = 0;
	vublk_message_timeout_begin(&bus->message_timeout, bus->loop, bus->bus->listen_fd,
				    bus->bus->message_timeout_ms, on_message_timeout, bus);
	vublk_vfio_user_change_state(bus, VUBLK_VFIO_USER_EVENT_CONNECT, NULL);
	return 0;
}
