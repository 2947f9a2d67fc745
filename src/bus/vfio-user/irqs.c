/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * SET_IRQS: the eventfds and masks that the client sets for the interrupts. src/virtio-pci/irq.c
 * raises the interrupts.
 *
 * Key idea: the whole command is checked before any part of it takes effect. Only eventfds are
 * accepted, because this process and the back-end write to them, and a write to a file of another
 * kind may block. Neither process reads them: if a client used the same eventfd to receive and to
 * unmask an interrupt, a process that read it would react to its own signals forever.
 *
 * Specification: "VFIO_USER_DEVICE_SET_IRQS"; struct vfio_irq_set in <linux/vfio.h>.
 */
#include "bus/vfio-user/private.h"

#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <inttypes.h>

/* --- the interrupts --------------------------------------------------------------------------- */

unsigned vublk_vfio_user_num_irqs(const struct vublk_vfio_user *bus, unsigned index)
{
	switch (index) {
	case VFIO_PCI_INTX_IRQ_INDEX:
	case VFIO_PCI_ERR_IRQ_INDEX: /* ERR and REQ are accepted, but never raised */
	case VFIO_PCI_REQ_IRQ_INDEX:
		return 1;
	case VFIO_PCI_MSIX_IRQ_INDEX:
		return vublk_virtio_pci_num_vectors(bus->pci);
	default:
		return 0;
	}
}

uint32_t vublk_vfio_user_irq_flags(unsigned index)
{
	if (index == VFIO_PCI_INTX_IRQ_INDEX)
		return VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED;
	if (index == VFIO_PCI_MSIX_IRQ_INDEX)
		return VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE;
	return VFIO_IRQ_INFO_EVENTFD;
}

/* --- checks ----------------------------------------------------------------------------------- */

static bool is_one_of(uint32_t flags, uint32_t mask)
{
	return vublk_is_power_of_two(flags & mask);
}

static int check_range(const struct vublk_vfio_user *bus, const struct vublk_vfio_irq_set *set,
		       struct vublk_error *error)
{
	unsigned count = vublk_vfio_user_num_irqs(bus, set->index);

	if (!is_one_of(set->flags, VFIO_IRQ_SET_DATA_TYPE_MASK) ||
	    !is_one_of(set->flags, VFIO_IRQ_SET_ACTION_TYPE_MASK) ||
	    set->flags & ~(uint32_t)(VFIO_IRQ_SET_DATA_TYPE_MASK | VFIO_IRQ_SET_ACTION_TYPE_MASK))
		return vublk_error_set(error, EINVAL,
				       "SET_IRQS has flags 0x%x; expected one DATA flag, one "
				       "ACTION flag and no other", set->flags);
	if (set->index < VFIO_PCI_NUM_IRQS && vublk_range_within(set->start, set->count, count))
		return 0;
	return vublk_error_set(error, EINVAL,
			       "SET_IRQS names %u interrupt%s starting at number %u, but interrupt "
			       "index %u has only %u interrupt%s",
			       set->count, set->count == 1 ? "" : "s", set->start, set->index,
			       count, count == 1 ? "" : "s");
}

static int check_data(const struct vublk_vfio_irq_set *set, uint32_t data_bytes, unsigned num_fds,
		      struct vublk_error *error)
{
	bool eventfds = set->flags & VFIO_IRQ_SET_DATA_EVENTFD;

	if (set->flags & VFIO_IRQ_SET_DATA_BOOL && data_bytes < set->count)
		return vublk_error_set(error, EINVAL,
				       "SET_IRQS has %u bytes of data; expected at least %u, one "
				       "per interrupt",
				       data_bytes, set->count);
	if (num_fds != (eventfds ? set->count : 0) && !(eventfds && !num_fds))
		return vublk_error_set(error, EINVAL,
				       "SET_IRQS has %u file descriptor%s for %u interrupt%s; "
				       "expected %s",
				       num_fds, num_fds == 1 ? "" : "s", set->count,
				       set->count == 1 ? "" : "s",
				       eventfds ? "none, or one per interrupt" :
				       "none without the flag DATA_EVENTFD");
	if (eventfds && !(set->flags & VFIO_IRQ_SET_ACTION_TRIGGER))
		return vublk_error_set(error, ENOTSUP,
				       "SET_IRQS has eventfds that mask or unmask an interrupt, "
				       "which this device does not support");
	return 0;
}

static int check_fds(const struct vublk_vfio_message *message, struct vublk_error *error)
{
	for (unsigned i = 0; i < message->num_fds; i++) {
		if (vublk_eventfd_check(message->fds[i], NULL) < 0)
			return vublk_error_set(error, EINVAL,
					       "file descriptor %u of SET_IRQS is not an eventfd", i);
	}
	return 0;
}

/* --- actions ---------------------------------------------------------------------------------- */

static void trigger(struct vublk_vfio_user *bus, uint32_t index, unsigned irq)
{
	if (index == VFIO_PCI_INTX_IRQ_INDEX)
		vublk_virtio_pci_raise_intx(bus->pci);
	if (index == VFIO_PCI_MSIX_IRQ_INDEX)
		vublk_virtio_pci_raise_vector(bus->pci, irq);
}

static void mask(struct vublk_vfio_user *bus, uint32_t index, unsigned irq, bool masked)
{
	if (index == VFIO_PCI_INTX_IRQ_INDEX)
		vublk_virtio_pci_mask_intx(bus->pci, masked);
	if (index == VFIO_PCI_MSIX_IRQ_INDEX)
		vublk_virtio_pci_mask_vector(bus->pci, irq, masked);
}

/* Assigns the eventfd `fd` and takes ownership of it. If `fd` is -1, removes the eventfd. */
static void assign(struct vublk_vfio_user *bus, uint32_t index, unsigned irq, int fd)
{
	switch (index) {
	case VFIO_PCI_INTX_IRQ_INDEX:
		vublk_virtio_pci_set_intx_fd(bus->pci, fd);
		break;
	case VFIO_PCI_MSIX_IRQ_INDEX:
		vublk_virtio_pci_set_vector_fd(bus->pci, irq, fd);
		break;
	default:
		vublk_fd_close(&fd);
	}
}

static void assign_all(struct vublk_vfio_user *bus, struct vublk_vfio_message *message)
{
	const struct vublk_vfio_irq_set *set = &message->payload.irq_set;

	for (unsigned i = 0; i < set->count; i++)
		assign(bus, set->index, set->start + i, vublk_vfio_message_take_fd(message, i));
}

static void act_on_all(struct vublk_vfio_user *bus, const struct vublk_vfio_irq_set *set)
{
	for (unsigned i = 0; i < set->count; i++) {
		if (set->flags & VFIO_IRQ_SET_DATA_BOOL && !set->data[i])
			continue;
		if (set->flags & VFIO_IRQ_SET_ACTION_TRIGGER)
			trigger(bus, set->index, set->start + i);
		else
			mask(bus, set->index, set->start + i,
			     set->flags & VFIO_IRQ_SET_ACTION_MASK);
	}
}

static void disable(struct vublk_vfio_user *bus, uint32_t index)
{
	for (unsigned i = 0; i < vublk_vfio_user_num_irqs(bus, index); i++) {
		assign(bus, index, i, -1);
		mask(bus, index, i, false);
	}
}

void vublk_vfio_user_irqs_clear(struct vublk_vfio_user *bus)
{
	disable(bus, VFIO_PCI_INTX_IRQ_INDEX);
	disable(bus, VFIO_PCI_MSIX_IRQ_INDEX);
}

int vublk_vfio_user_set_irqs(struct vublk_vfio_user *bus, struct vublk_vfio_message *message,
			     struct vublk_error *error)
{
	const struct vublk_vfio_irq_set *set = &message->payload.irq_set;
	uint32_t data_bytes = vublk_vfio_payload_bytes(&message->header) -
			      VUBLK_VFIO_IRQ_SET_BYTES;
	int r = check_range(bus, set, error);

	if (!r)
		r = check_data(set, data_bytes, message->num_fds, error);
	if (!r)
		r = check_fds(message, error);
	if (r < 0)
		return r;
	if (set->flags & VFIO_IRQ_SET_DATA_EVENTFD)
		assign_all(bus, message);
	else if (set->flags & VFIO_IRQ_SET_ACTION_TRIGGER && !set->count)
		disable(bus, set->index);
	else
		act_on_all(bus, set);
	return 0;
}
