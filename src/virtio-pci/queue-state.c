/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The states of a queue between driver and device, and the table of their transitions. The files
 * that cause an event do the work that the event requires; this file only changes the state.
 *
 * Key idea: a driver may enable or reset a queue at any time, but the device accepts or drops a
 * queue only while no ring runs. All states except disabled and active stand for a change by the
 * driver that the device has not made yet.
 *
 * docs/virtio-pci-states.md is the drawing of this table; test-virtio-pci-states compares the two.
 */
#include "virtio-pci/private.h"

static const char *const state_names[VUBLK_VIRTIO_PCI_QUEUE_NUM_STATES] = {
	[VUBLK_VIRTIO_PCI_QUEUE_DISABLED] = "disabled",
	[VUBLK_VIRTIO_PCI_QUEUE_ENABLED] = "enabled",
	[VUBLK_VIRTIO_PCI_QUEUE_ACTIVE] = "active",
	[VUBLK_VIRTIO_PCI_QUEUE_CANCELLING] = "cancelling",
	[VUBLK_VIRTIO_PCI_QUEUE_RESETTING] = "resetting",
};

static const char *const event_names[VUBLK_VIRTIO_PCI_QUEUE_NUM_EVENTS] = {
	[VUBLK_VIRTIO_PCI_QUEUE_EVENT_ENABLE] = "enable",
	[VUBLK_VIRTIO_PCI_QUEUE_EVENT_ACCEPTED] = "accepted",
	[VUBLK_VIRTIO_PCI_QUEUE_EVENT_BEGIN_RESET] = "begin reset",
	[VUBLK_VIRTIO_PCI_QUEUE_EVENT_RESET] = "reset",
};

#define ON(event, state) \
	[VUBLK_VIRTIO_PCI_QUEUE_EVENT_##event] = VUBLK_VIRTIO_PCI_QUEUE_##state + 1

/* An entry is the next state plus 1; 0: the event does nothing in this state. */
static const unsigned char
transitions[VUBLK_VIRTIO_PCI_QUEUE_NUM_STATES][VUBLK_VIRTIO_PCI_QUEUE_NUM_EVENTS] = {
	[VUBLK_VIRTIO_PCI_QUEUE_DISABLED] = { ON(ENABLE, ENABLED) },
	[VUBLK_VIRTIO_PCI_QUEUE_ENABLED] = {
		ON(ACCEPTED, ACTIVE),
		ON(BEGIN_RESET, CANCELLING),
		ON(RESET, DISABLED),
	},
	[VUBLK_VIRTIO_PCI_QUEUE_ACTIVE] = {
		ON(BEGIN_RESET, RESETTING),
		ON(RESET, DISABLED),
	},
	[VUBLK_VIRTIO_PCI_QUEUE_CANCELLING] = { ON(RESET, DISABLED) },
	[VUBLK_VIRTIO_PCI_QUEUE_RESETTING] = { ON(RESET, DISABLED) },
};

const char *vublk_virtio_pci_queue_state_name(enum vublk_virtio_pci_queue_state state)
{
	return state_names[state];
}

const char *vublk_virtio_pci_queue_event_name(enum vublk_virtio_pci_queue_event event)
{
	return event_names[event];
}

int vublk_virtio_pci_queue_next_state(enum vublk_virtio_pci_queue_state state,
				      enum vublk_virtio_pci_queue_event event)
{
	return transitions[state][event] - 1;
}

bool vublk_virtio_pci_queue_change_state(struct vublk_virtio_pci_queue *queue,
					 enum vublk_virtio_pci_queue_event event)
{
	int next = vublk_virtio_pci_queue_next_state(queue->state, event);

	if (next < 0)
		return false;
	vublk_log(queue->pci->log, VUBLK_LOG_DEBUG, "virtio-pci: queue %u: %s, %s -> %s",
		  (unsigned)(queue - queue->pci->queues), state_names[queue->state],
		  event_names[event], state_names[next]);
	queue->state = (enum vublk_virtio_pci_queue_state)next;
	return true;
}

bool vublk_virtio_pci_queue_is_enabled(const struct vublk_virtio_pci_queue *queue)
{
	return queue->state != VUBLK_VIRTIO_PCI_QUEUE_DISABLED;
}

bool vublk_virtio_pci_queue_is_resetting(const struct vublk_virtio_pci_queue *queue)
{
	return queue->state == VUBLK_VIRTIO_PCI_QUEUE_CANCELLING ||
	       queue->state == VUBLK_VIRTIO_PCI_QUEUE_RESETTING;
}

bool vublk_virtio_pci_queue_is_in_device(const struct vublk_virtio_pci_queue *queue)
{
	return queue->state == VUBLK_VIRTIO_PCI_QUEUE_ACTIVE ||
	       queue->state == VUBLK_VIRTIO_PCI_QUEUE_RESETTING;
}
