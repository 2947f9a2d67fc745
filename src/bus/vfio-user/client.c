/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The connection to a client: receives commands, has them executed one by one, and sends the
 * answers. commands.c executes them.
 *
 * Key idea: commands are executed in order, and an answer means that the command has taken effect.
 * Some operations take time (a reset, a change of memory that the back-end uses), and the next
 * command could interfere with them. While such an operation is under way, further commands wait in
 * the socket. But clients wait for an answer only for a limited time. So after a shorter timeout
 * the bus serves the client although the PCI model is still busy, which the driver can see in the
 * device's registers.
 *
 * Specification: "Command Concurrency".
 */
#include "bus/vfio-user/private.h"

#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/epoll.h>

#define BATCH 64 /* the number of steps before other sources of the loop get their turn */
#define BUSY_TIMEOUT_NS (UINT64_C(2) * 1000000000) /* clients wait five seconds for an answer */

/* --- the end of a connection ------------------------------------------------------------------ */

void vublk_vfio_user_client_deinit(struct vublk_vfio_user *bus)
{
	vublk_loop_remove(&bus->source);
	vublk_loop_cancel(bus->loop, &bus->serve_task);
	vublk_loop_timer_disarm(&bus->busy_timer);
	vublk_message_timeout_end(&bus->message_timeout);
	vublk_vfio_channel_deinit(&bus->channel);
	bus->command = NULL;
	bus->is_done = false;
	bus->send_failure.code = 0;
}

void vublk_vfio_user_clear(struct vublk_vfio_user *bus)
{
	if (bus->state != VUBLK_VFIO_USER_CLEARING || vublk_virtio_pci_is_busy(bus->pci))
		return;
	vublk_vfio_user_dma_clear(bus);
	vublk_vfio_user_change_state(bus, VUBLK_VFIO_USER_EVENT_CLEARED, NULL);
	bus->bus->client = NULL;
	vublk_bus_client_gone(bus->bus);
}

/*
 * Ends the connection. The guest has lost its disk, so the device is reset, and the back-end
 * returns the rings.
 */
void vublk_vfio_user_client_disconnect(struct vublk_vfio_user *bus, const struct vublk_error *error)
{
	if (!vublk_vfio_user_change_state(bus, VUBLK_VFIO_USER_EVENT_HANG_UP, error->text))
		return;
	vublk_log(bus->log, VUBLK_LOG_DEBUG, "vfio-user: the client sent %" PRIu64 " commands",
		  bus->num_commands);
	vublk_vfio_user_client_deinit(bus);
	vublk_vfio_user_irqs_clear(bus);
	vublk_vfio_user_dma_cancel(bus);
	vublk_virtio_pci_reset(bus->pci);
	vublk_vfio_user_clear(bus);
}

static void disconnect_with_warning(struct vublk_vfio_user *bus, const struct vublk_error *error)
{
	vublk_log_limited(bus->log, &bus->log_limit, VUBLK_LOG_WARNING,
			  "disconnected a vfio-user client: %s", error->text);
	vublk_bus_notify_refused(bus->bus, error);
	vublk_vfio_user_client_disconnect(bus, error);
}

/* --- commands --------------------------------------------------------------------------------- */

static void answer_command(struct vublk_vfio_user *bus)
{
	struct vublk_vfio_header command = bus->command->header;

	bus->command = NULL;
	bus->is_done = false;
	vublk_vfio_user_answer(bus, &command, bus->result, &bus->reply);
}

/*
 * Called when a command has failed. Disconnects the client if its VERSION was refused, or if it
 * sent a message with an invalid header (EPROTO). Otherwise the caller sends the error as the
 * answer.
 */
static void refuse(struct vublk_vfio_user *bus, const struct vublk_error *error)
{
	if (error->code == EPROTO || bus->state == VUBLK_VFIO_USER_NEGOTIATING) {
		disconnect_with_warning(bus, error);
		return;
	}
	vublk_log_limited(bus->log, &bus->log_limit, VUBLK_LOG_DEBUG,
			  "rejected a vfio-user command: %s", error->text);
}

/*
 * Executes bus->command. The answer is sent when the PCI model is idle, or has been busy for too
 * long. If the command has changed memory that is in use, the answer is deferred until the change
 * is applied (dma.c).
 */
static void execute_command(struct vublk_vfio_user *bus)
{
	struct vublk_error error;

	if (bus->state == VUBLK_VFIO_USER_NEGOTIATING &&
	    bus->command->header.command != VUBLK_VFIO_VERSION) {
		vublk_error_set(&error, EPROTO, "its first message is %s (command %u); expected "
				"VERSION", vublk_vfio_command_name(bus->command->header.command),
				bus->command->header.command);
		disconnect_with_warning(bus, &error);
		return;
	}
	bus->result = vublk_vfio_user_execute(bus, &error);
	bus->is_done = true;
	if (bus->result < 0)
		refuse(bus, &error);
	if (!bus->command)
		return;
	if (bus->result >= 0 && vublk_vfio_user_dma_is_command(bus->command) &&
	    vublk_vfio_user_dma_is_in_use(bus)) {
		vublk_vfio_user_dma_defer_answer(bus, bus->command);
		bus->command = NULL;
		bus->is_done = false;
	}
}

/*
 * Receives a command into bus->command. Returns 1 if the command is complete, otherwise 0.
 * Disconnects the client if receiving fails.
 */
static int take_command(struct vublk_vfio_user *bus)
{
	struct vublk_error error;
	int r = vublk_vfio_channel_receive(&bus->channel, &bus->command, &error);

	bus->next_write = 0;
	vublk_message_timeout_note(&bus->message_timeout, r > 0, vublk_stream_reader_bytes(&bus->channel.reader));
	if (r < 0 && error.code == ENOTCONN)
		vublk_vfio_user_client_disconnect(bus, &error);
	else if (r < 0)
		disconnect_with_warning(bus, &error);
	bus->num_commands += r > 0;
	return r > 0;
}

/* Returns whether deferred maps and unmaps have to be applied before the next command. */
static bool has_to_apply(const struct vublk_vfio_user *bus)
{
	return bus->dma.num_answers &&
	       (!bus->command || !vublk_vfio_user_dma_is_command(bus->command) ||
		bus->dma.num_answers == VUBLK_VFIO_USER_MAX_ANSWERS);
}

static bool is_waiting(const struct vublk_vfio_user *bus)
{
	return bus->dma.phase != VUBLK_VFIO_USER_DMA_IDLE ||
	       (vublk_virtio_pci_is_busy(bus->pci) && !bus->has_timed_out);
}

/* Does one step. Returns false if there is nothing to do, or if the client has to wait. */
static bool step(struct vublk_vfio_user *bus)
{
	if (is_waiting(bus) || vublk_vfio_channel_wants_write(&bus->channel))
		return false;
	if (bus->is_done && vublk_vfio_user_has_more(bus))
		execute_command(bus);
	else if (bus->is_done)
		answer_command(bus);
	else if (!bus->command && !take_command(bus) && !bus->dma.num_answers)
		return false;
	else if (!vublk_vfio_user_has_client(bus))
		return false;
	else if (has_to_apply(bus))
		vublk_vfio_user_dma_apply(bus);
	else
		execute_command(bus);
	return true;
}

/* --- the loop --------------------------------------------------------------------------------- */

static void watch(struct vublk_vfio_user *bus)
{
	uint32_t events = EPOLLIN;

	if (vublk_vfio_channel_wants_write(&bus->channel))
		events = EPOLLOUT;
	else if (is_waiting(bus))
		events = 0;
	vublk_loop_modify(&bus->source, events);
	if (!vublk_virtio_pci_is_busy(bus->pci))
		vublk_loop_timer_disarm(&bus->busy_timer);
	else if (!bus->busy_timer.loop && !bus->has_timed_out)
		vublk_loop_timer_arm(bus->loop, &bus->busy_timer, vublk_now_ns() + BUSY_TIMEOUT_NS);
}

static bool can_serve(const struct vublk_vfio_user *bus)
{
	return vublk_vfio_user_has_client(bus) && !bus->send_failure.code;
}

static void serve(struct vublk_vfio_user *bus)
{
	unsigned done = 0;

	while (can_serve(bus) && done < BATCH && step(bus))
		done++;
	if (bus->send_failure.code)
		vublk_vfio_user_client_disconnect(bus, &bus->send_failure);
	if (!vublk_vfio_user_has_client(bus))
		return;
	if (done == BATCH)
		vublk_loop_post(bus->loop, &bus->serve_task);
	watch(bus);
}

static void on_task(void *opaque)
{
	serve(opaque);
}

static void on_busy_timer(void *opaque)
{
	struct vublk_vfio_user *bus = opaque;

	vublk_log_limited(bus->log, &bus->log_limit, VUBLK_LOG_WARNING,
			  "the back-end has not answered in time (%u s), so the VMM gets the reply "
			  "to its vfio-user command before the back-end is ready",
			  (unsigned)(BUSY_TIMEOUT_NS / UINT64_C(1000000000)));
	bus->has_timed_out = true;
	serve(bus);
}

/*
 * epoll reports a hang-up even if no event is requested. Commands that the client sent before it
 * hung up are executed first. If they have to wait, the connection ends and they are not executed.
 */
static void on_socket(void *opaque, uint32_t events)
{
	struct vublk_vfio_user *bus = opaque;
	struct vublk_error error;

	if (events & EPOLLOUT && vublk_vfio_channel_flush(&bus->channel, &error) < 0) {
		vublk_vfio_user_client_disconnect(bus, &error);
		return;
	}
	if (events & (EPOLLHUP | EPOLLERR) &&
	    (is_waiting(bus) || vublk_vfio_channel_wants_write(&bus->channel))) {
		vublk_error_set(&error, ENOTCONN, "the client closed the connection");
		vublk_vfio_user_client_disconnect(bus, &error);
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
	bus->busy_timer.fn = on_busy_timer;
	bus->busy_timer.opaque = bus;
}

static void on_message_timeout(void *opaque, const struct vublk_error *error)
{
	disconnect_with_warning(opaque, error);
}

int vublk_vfio_user_accept(struct vublk_vfio_user *bus, int fd, struct vublk_error *error)
{
	int r = vublk_loop_add(bus->loop, &bus->source, fd, EPOLLIN, error);

	if (r < 0) {
		vublk_fd_close(&fd);
		return r;
	}
	vublk_vfio_channel_init(&bus->channel, fd);
	bus->has_timed_out = false;
	bus->num_commands = 0;
	vublk_message_timeout_begin(&bus->message_timeout, bus->loop, bus->bus->listen_fd,
				    bus->bus->message_timeout_ms, on_message_timeout, bus);
	vublk_vfio_user_change_state(bus, VUBLK_VFIO_USER_EVENT_CONNECT, NULL);
	return 0;
}
