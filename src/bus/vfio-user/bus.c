/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Implements the options of the vfio-user bus, and the callbacks of src/bus/bus.c, of the PCI model
 * and of the device. client.c handles the connection to a client.
 *
 * Key idea: the device outlives its clients. When a client disconnects, the device is reset, and
 * the next client is accepted only after the back-end has returned the rings. So no guest ever sees
 * the state of another guest.
 */
#include "bus/vfio-user/private.h"

#include "util/error.h"
#include "util/option.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- callbacks of the PCI model --------------------------------------------------------------- */

static int before_start(void *opaque, struct vublk_error *error)
{
	return vublk_vfio_user_dma_before_start(opaque, error);
}

static void on_idle(void *opaque)
{
	struct vublk_vfio_user *bus = opaque;

	vublk_vfio_user_clear(bus);
	vublk_vfio_user_wake(bus);
}

static const struct vublk_virtio_pci_ops pci_ops = {
	.before_start = before_start,
	.idle = on_idle,
};

/* --- callbacks of the device ------------------------------------------------------------------ */

static struct vublk_vfio_user *of(void *bus)
{
	return ((struct vublk_bus *)bus)->own;
}

static void on_started(void *opaque)
{
	vublk_bus_note_started(opaque);
}

static void on_stopped(void *opaque, const struct vublk_error *error)
{
	struct vublk_vfio_user *bus = of(opaque);

	vublk_bus_note_stopped(opaque, error);
	vublk_virtio_pci_on_stopped(bus->pci);
	vublk_vfio_user_dma_on_stopped(bus);
}

/* The driver notices the loss of a back-end only if the device does not reconnect. */
static void on_lost(void *opaque, const struct vublk_error *error)
{
	struct vublk_vfio_user *bus = of(opaque);

	if (!vublk_device_reconnects(bus->device))
		vublk_virtio_pci_on_failure(bus->pci, error);
	vublk_bus_on_lost(opaque, error);
}

static void on_gave_up(void *opaque, const struct vublk_error *error)
{
	vublk_virtio_pci_on_failure(of(opaque)->pci, error);
	vublk_bus_on_gave_up(opaque, error);
}

static void on_config_changed(void *opaque)
{
	vublk_virtio_pci_on_config_changed(of(opaque)->pci);
}

static void on_config_written(void *opaque, const struct vublk_error *error)
{
	struct vublk_vfio_user *bus = of(opaque);

	if (error)
		vublk_log_limited(bus->log, &bus->log_limit, VUBLK_LOG_WARNING, "%s", error->text);
	vublk_virtio_pci_on_config_written(bus->pci);
}

static void on_memory_changed(void *opaque, const struct vublk_error *error)
{
	vublk_vfio_user_dma_on_memory_changed(of(opaque), error);
}

static void on_needs_reset(void *opaque, const struct vublk_error *error)
{
	vublk_virtio_pci_on_failure(of(opaque)->pci, error);
}

static const struct vublk_device_bus_ops device_ops = {
	.realized = vublk_bus_on_realized,
	.started = on_started,
	.stopped = on_stopped,
	.lost = on_lost,
	.reconnected = vublk_bus_on_reconnected,
	.gave_up = on_gave_up,
	.config_changed = on_config_changed,
	.config_written = on_config_written,
	.memory_changed = on_memory_changed,
	.needs_reset = on_needs_reset,
};

/* --- callbacks of src/bus/bus.c --------------------------------------------------------------- */

enum { OPTION_VECTORS, OPTION_TRANSITIONAL };

static const struct vublk_property options[] = {
	[OPTION_VECTORS] = { "vectors", "auto", "auto",
		"number of MSI-X vectors; auto: one per queue and one for the configuration" },
	[OPTION_TRANSITIONAL] = { "transitional", "bool", "off",
		"also support legacy drivers (1af4:1001, with an I/O BAR)" },
	VUBLK_BUS_OPTIONS,
	{ NULL },
};

static int set_option(struct vublk_bus *opaque, const struct vublk_option *option,
		      struct vublk_error *error)
{
	struct vublk_vfio_user *bus = opaque->own;
	uint64_t vectors;
	int r;

	if (!strcmp(option->name, options[OPTION_TRANSITIONAL].name))
		return vublk_parse_bool(option->name, option->value, &bus->options.transitional,
					error);
	if (option->value && !strcmp(option->value, "auto")) {
		bus->options.num_vectors = 0;
		return 0;
	}
	r = vublk_parse_u64(option->name, option->value, 1, VUBLK_VIRTIO_PCI_MAX_VECTORS, &vectors,
			    error);
	if (!r)
		bus->options.num_vectors = (unsigned)vectors;
	return r;
}

static int open_own(struct vublk_bus *opaque, struct vublk_error *error)
{
	struct vublk_vfio_user *bus = calloc(1, sizeof(*bus));

	if (!bus)
		return vublk_error_set(error, ENOMEM, "cannot allocate memory for a vfio-user bus");
	bus->bus = opaque;
	bus->loop = &opaque->loop;
	bus->device = opaque->device;
	bus->log = &opaque->log;
	vublk_vfio_user_client_init(bus);
	opaque->own = bus;
	return 0;
}

static int on_ready(struct vublk_bus *opaque, struct vublk_error *error)
{
	struct vublk_vfio_user *bus = opaque->own;

	return vublk_virtio_pci_new(bus->device, bus->loop, bus->log, &bus->options, &pci_ops, bus,
				    &bus->pci, error);
}

static int serve(struct vublk_bus *opaque, int fd, struct vublk_error *error)
{
	struct vublk_vfio_user *bus = opaque->own;
	int r = vublk_vfio_user_accept(bus, fd, error);

	if (!r)
		opaque->client = bus;
	return r;
}

static void end_client(struct vublk_bus *opaque)
{
	struct vublk_error error;

	vublk_error_set(&error, ECANCELED, "the bus is being stopped");
	vublk_vfio_user_client_disconnect(opaque->own, &error);
}

static void free_client(struct vublk_bus *opaque)
{
	vublk_vfio_user_client_deinit(opaque->own);
	opaque->client = NULL;
}

static void free_own(struct vublk_bus *opaque)
{
	struct vublk_vfio_user *bus = opaque->own;

	vublk_vfio_user_client_deinit(bus);
	if (bus->pci) {
		vublk_vfio_user_irqs_clear(bus);
		vublk_vfio_user_dma_clear(bus);
		vublk_virtio_pci_free(bus->pci);
	}
	free(bus);
}

/*
 * The defaults of this bus. Clients wait five seconds for an answer, so the back-end has to answer
 * sooner.
 */
static const struct vublk_option defaults[] = {
	{ "request-timeout-ms", "3000" },
	{ NULL },
};

const struct vublk_bus_type vublk_bus_vfio_user = {
	.name = "vfio-user",
	.options = options,
	.set_option = set_option,
	.defaults = defaults,
	.device_ops = &device_ops,
	.open = open_own,
	.ready = on_ready,
	.serve = serve,
	.end = end_client,
	.free_client = free_client,
	.free = free_own,
};
