/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Keeps track of three things: the operation that the driver has to wait for, the holds that keep
 * the rings stopped, and whether the device needs a reset. The operations themselves are in
 * virtio-pci.c and queue.c.
 *
 * Key idea: only one function changes `busy`, according to a table, and it calls the owner when the
 * operation ends.
 */
#include "virtio-pci/private.h"

#include <linux/virtio_config.h>

#define MAY(to) (1u << VUBLK_VIRTIO_PCI_##to)

/*
 * The operations that may follow each operation. A change of a queue overrides a write to the
 * config, a reset overrides both, and a bus reset overrides every other operation.
 */
static const unsigned char busy_transitions[VUBLK_VIRTIO_PCI_NUM_BUSY] = {
	[VUBLK_VIRTIO_PCI_IDLE] = MAY(RESETTING) | MAY(RESETTING_BUS) | MAY(WRITING_CONFIG) |
				  MAY(CHANGING_QUEUE),
	[VUBLK_VIRTIO_PCI_RESETTING] = MAY(IDLE) | MAY(RESETTING_BUS),
	[VUBLK_VIRTIO_PCI_RESETTING_BUS] = MAY(IDLE),
	[VUBLK_VIRTIO_PCI_WRITING_CONFIG] = MAY(IDLE) | MAY(RESETTING) | MAY(RESETTING_BUS) |
					     MAY(CHANGING_QUEUE),
	[VUBLK_VIRTIO_PCI_CHANGING_QUEUE] = MAY(IDLE) | MAY(RESETTING) | MAY(RESETTING_BUS),
};

bool vublk_virtio_pci_set_busy(struct vublk_virtio_pci *pci, enum vublk_virtio_pci_busy busy)
{
	enum vublk_virtio_pci_busy before = pci->busy;

	if (!(busy_transitions[before] & (1u << busy)))
		return false;
	pci->busy = busy;
	if (before == VUBLK_VIRTIO_PCI_CHANGING_QUEUE && busy != VUBLK_VIRTIO_PCI_IDLE)
		vublk_virtio_pci_release(pci);
	if (busy == VUBLK_VIRTIO_PCI_IDLE && pci->ops->idle)
		pci->ops->idle(pci->opaque);
	return true;
}

bool vublk_virtio_pci_is_busy(const struct vublk_virtio_pci *pci)
{
	return pci->busy != VUBLK_VIRTIO_PCI_IDLE;
}

int vublk_virtio_pci_hold(struct vublk_virtio_pci *pci)
{
	if (!pci->holds++)
		vublk_device_set_vm_running(pci->device, false);
	return vublk_device_has_rings_out(pci->device);
}

void vublk_virtio_pci_release(struct vublk_virtio_pci *pci)
{
	if (pci->holds && !--pci->holds)
		vublk_device_set_vm_running(pci->device, true);
}

bool vublk_virtio_pci_is_driven(const struct vublk_virtio_pci *pci)
{
	return pci->status & VIRTIO_CONFIG_S_DRIVER_OK;
}

void vublk_virtio_pci_on_failure(struct vublk_virtio_pci *pci, const struct vublk_error *error)
{
	vublk_log_limited(pci->log, &pci->log_limit, VUBLK_LOG_WARNING,
			  "the driver must reset the device: %s", error->text);
	pci->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	if (vublk_virtio_pci_is_driven(pci))
		vublk_virtio_pci_raise_config(pci);
}
