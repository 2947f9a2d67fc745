/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The table of a virtio-pci queue's states, and its drawing in docs/virtio-pci-states.md.
 * test-virtio-pci.c tests what a driver sees of the states.
 *
 * Key idea: the drawing is generated from the table. `test-virtio-pci-states --write-drawing`
 * writes the drawing.
 */
#include "drawing.h"
#include "harness.h"
#include "util/checked.h"
#include "virtio-pci/private.h"

#include <stdlib.h>
#include <string.h>

#define DRAWING VUBLK_SOURCE_ROOT "/docs/virtio-pci-states.md"
#define NUM_STATES VUBLK_VIRTIO_PCI_QUEUE_NUM_STATES
#define NUM_EVENTS VUBLK_VIRTIO_PCI_QUEUE_NUM_EVENTS

static const char *const state_sentences[NUM_STATES] = {
	[VUBLK_VIRTIO_PCI_QUEUE_DISABLED] = "The driver may write the size and the addresses "
		"of the queue.",
	[VUBLK_VIRTIO_PCI_QUEUE_ENABLED] = "The driver has enabled the queue. The device gets it with "
		"DRIVER_OK, or, after DRIVER_OK, when the rings have been stopped for it.",
	[VUBLK_VIRTIO_PCI_QUEUE_ACTIVE] = "The device has the queue.",
	[VUBLK_VIRTIO_PCI_QUEUE_CANCELLING] = "The driver has reset the queue before the device got it; "
		"the register queue_reset shows 1 until the rings have been stopped.",
	[VUBLK_VIRTIO_PCI_QUEUE_RESETTING] = "The driver has reset the queue, and the device still has "
		"it; the register queue_reset shows 1 until the rings have been stopped.",
};

static const char *const event_sentences[NUM_EVENTS] = {
	[VUBLK_VIRTIO_PCI_QUEUE_EVENT_ENABLE] = "the driver writes 1 to queue_enable, or a legacy driver "
		"writes a page number",
	[VUBLK_VIRTIO_PCI_QUEUE_EVENT_ACCEPTED] = "the device has accepted the queue",
	[VUBLK_VIRTIO_PCI_QUEUE_EVENT_BEGIN_RESET] = "the driver writes 1 to queue_reset after DRIVER_OK",
	[VUBLK_VIRTIO_PCI_QUEUE_EVENT_RESET] = "the rings have been stopped for a reset of the queue; a "
		"reset of the queue before DRIVER_OK; a reset of the device",
};

/* Every state can be reached, every event occurs, and all of them have names and sentences. */
static void test_table(void **state)
{
	bool is_reached[NUM_STATES] = { true }, occurs[NUM_EVENTS] = { false };

	for (unsigned round = 0; round < NUM_STATES; round++)
		for (unsigned s = 0; s < NUM_STATES; s++)
			for (unsigned e = 0; e < NUM_EVENTS; e++) {
				int next = vublk_virtio_pci_queue_next_state(s, e);

				assert_in_range(next + 1, 0, NUM_STATES);
				occurs[e] |= next >= 0;
				if (is_reached[s] && next >= 0)
					is_reached[next] = true;
			}
	for (unsigned s = 0; s < NUM_STATES; s++) {
		assert_true(is_reached[s]);
		assert_non_null(vublk_virtio_pci_queue_state_name(s));
		assert_non_null(state_sentences[s]);
	}
	for (unsigned e = 0; e < NUM_EVENTS; e++) {
		assert_true(occurs[e]);
		assert_non_null(vublk_virtio_pci_queue_event_name(e));
		assert_non_null(event_sentences[e]);
	}
}

/* A reset leads from every other state to the initial state, DISABLED. */
static void test_reset_disables(void **state)
{
	for (unsigned s = 0; s < NUM_STATES; s++) {
		int next = vublk_virtio_pci_queue_next_state(s, VUBLK_VIRTIO_PCI_QUEUE_EVENT_RESET);

		if (s == VUBLK_VIRTIO_PCI_QUEUE_DISABLED)
			assert_int_equal(next, -1);
		else
			assert_int_equal(next, VUBLK_VIRTIO_PCI_QUEUE_DISABLED);
	}
}

/*
 * Counts the log lines in `opaque`, and checks that each reports the change from disabled to
 * enabled.
 */
static void count_line(void *opaque, enum vublk_log_level level, const char *text)
{
	assert_int_equal(level, VUBLK_LOG_DEBUG);
	assert_string_equal(text, "virtio-pci: queue 0: disabled, enable -> enabled");
	++*(unsigned *)opaque;
}

static void test_change(void **state)
{
	unsigned num_lines = 0;
	const struct vublk_log log = { count_line, &num_lines, VUBLK_LOG_DEBUG };
	struct vublk_virtio_pci *pci = calloc(1, sizeof(*pci) + sizeof(pci->queues[0]));
	struct vublk_virtio_pci_queue *queue = &pci->queues[0];

	pci->log = &log;
	queue->pci = pci;
	assert_false(vublk_virtio_pci_queue_change_state(queue,
							 VUBLK_VIRTIO_PCI_QUEUE_EVENT_ACCEPTED));
	assert_int_equal(num_lines, 0);
	assert_true(vublk_virtio_pci_queue_change_state(queue,
							VUBLK_VIRTIO_PCI_QUEUE_EVENT_ENABLE));
	assert_int_equal(num_lines, 1);
	assert_true(vublk_virtio_pci_queue_is_enabled(queue));
	assert_false(vublk_virtio_pci_queue_is_in_device(queue));
	free(pci);
}

static void draw(FILE *out)
{
	fprintf(out, "# The states of a virtio-pci queue\n\n"
		"Generated from the table in src/virtio-pci/queue-state.c by "
		"`test-virtio-pci-states --write-drawing`. A test checks that they match.\n\n"
		"```mermaid\nstateDiagram-v2\n    [*] --> disabled\n");
	for (unsigned s = 0; s < NUM_STATES; s++)
		for (unsigned e = 0; e < NUM_EVENTS; e++) {
			int next = vublk_virtio_pci_queue_next_state(s, e);

			if (next >= 0)
				fprintf(out, "    %s --> %s: %s\n",
					vublk_virtio_pci_queue_state_name(s),
					vublk_virtio_pci_queue_state_name((unsigned)next),
					vublk_virtio_pci_queue_event_name(e));
		}
	fprintf(out, "```\n\n| state | what it means |\n|---|---|\n");
	for (unsigned s = 0; s < NUM_STATES; s++)
		fprintf(out, "| %s | %s |\n", vublk_virtio_pci_queue_state_name(s),
			state_sentences[s]);
	fprintf(out, "\n| event | when |\n|---|---|\n");
	for (unsigned e = 0; e < NUM_EVENTS; e++)
		fprintf(out, "| %s | %s |\n", vublk_virtio_pci_queue_event_name(e),
			event_sentences[e]);
}

static void test_drawing(void **state)
{
	vublk_test_compare_drawing(DRAWING, draw);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_table),
		VUBLK_TEST(test_reset_disables),
		VUBLK_TEST(test_change),
		VUBLK_TEST(test_drawing),
	};

	if (argc == 2 && !strcmp(argv[1], "--write-drawing"))
		return vublk_test_write_drawing(DRAWING, draw);
	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
