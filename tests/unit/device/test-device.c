/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The tables of the device: its properties, and its states with their drawing in
 * docs/device-states.md. The other files test-device-*.c test what happens in a state.
 *
 *     test-device --write-drawing    generates the drawing again
 *
 * Key idea: each row of a table is checked, and the drawing is generated and compared.
 */
#include "drawing.h"
#include "harness.h"

#include "device/device.h"

#include "util/checked.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DRAWING VUBLK_SOURCE_ROOT "/docs/device-states.md"

/* --- properties ---------------------------------------------------------------------------- */

static struct vublk_device *new_device(void)
{
	struct vublk_device *device;

	assert_int_equal(vublk_device_new(NULL, 0, NULL, NULL, &device, NULL), 0);
	return device;
}

static void test_properties_are_listed(void **state)
{
	const struct vublk_property *property = vublk_device_properties();
	struct vublk_device *device = new_device();
	char value[256];
	unsigned count = 0;

	for (; property->name; property++, count++) {
		assert_non_null(property->description);
		assert_int_not_equal(property->description[strlen(property->description) - 1], '.');
		assert_int_equal(vublk_device_get_property(device, property->name, value,
							   sizeof(value), NULL), 0);
		assert_string_equal(value, property->default_value ? property->default_value : "");
		if (property->default_value)
			assert_int_equal(vublk_device_set_property(device, property->name, value,
								   NULL), 0);
	}
	assert_true(count >= 10);
	vublk_device_free(device);
}

static void test_bad_values(void **state)
{
	const struct { const char *name, *value, *sentence; } cases[] = {
		{ "colour", "red", "the device has no property 'colour'; 'vublk device "
		  "--list-properties' and vublk_device_properties() list all" },
		{ NULL, "red", "the device has no property ''; 'vublk device "
		  "--list-properties' and vublk_device_properties() list all" },
		{ "num-queues", "-1",
		  "num-queues must be auto or a whole number from 1 to 256, not '-1'" },
		{ "num-queues", "", "num-queues must be auto or a whole number from 1 to 256, not ''" },
		{ "queue-size", "auto",
		  "queue-size must be a whole number from 2 to 1024, not 'auto'" },
		{ "shadow-queue-size", "1",
		  "shadow-queue-size must be auto or a whole number from 2 to 1024, not '1'" },
		{ "queue-size", "4294967296",
		  "queue-size must be a whole number from 2 to 1024, not '4294967296'" },
		{ "num-queues", "0", "num-queues must be auto or a whole number from 1 to 256, not '0'" },
		{ "num-queues", "257", "num-queues must be auto or a whole number from 1 to 256, not '257'" },
		{ "num-queues-limit", "0",
		  "num-queues-limit must be a whole number from 1 to 256, not '0'" },
		{ "queue-size", "2048",
		  "queue-size must be a whole number from 2 to 1024, not '2048'" },
		{ "request-timeout-ms", "0",
		  "request-timeout-ms must be a whole number from 1 to 3600000, not '0'" },
		{ "keepalive-ms", "3600001",
		  "keepalive-ms must be auto or a whole number from 0 to 3600000, not '3600001'" },
		{ "reconnect-ms", "3600001",
		  "reconnect-ms must be a whole number from 0 to 3600000, not '3600001'" },
		{ "realize-retries", "1001",
		  "realize-retries must be a whole number from 0 to 1000, not '1001'" },
		{ "config-wce", "perhaps", "config-wce must be on or off, not 'perhaps'" },
		{ "discard", NULL, "discard must be on or off, not ''" },
		{ "serial", "123456789012345678901",
		  "serial has 21 characters; the maximum is 20" },
	};
	struct vublk_device *device = new_device();
	struct vublk_error error;
	char longer[300], value[8];

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		assert_int_equal(vublk_device_set_property(device, cases[i].name, cases[i].value,
							   &error), -EINVAL);
		assert_string_equal(error.text, cases[i].sentence);
	}
	memset(longer, 'x', sizeof(longer));
	longer[299] = '\0';
	assert_int_equal(vublk_device_set_property(device, "chardev", longer, &error), -EINVAL);
	assert_string_equal(error.text, "chardev has 299 characters; the maximum is 255");
	assert_int_equal(vublk_device_set_property(device, "chardev", "/run/disk", NULL), 0);
	assert_int_equal(vublk_device_get_property(device, "chardev", value, 8, &error), -EINVAL);
	assert_string_equal(error.text, "the value of chardev needs a buffer of 10 bytes; "
			    "the buffer has 8");
	vublk_device_free(device);
}

static void test_realize_validates(void **state)
{
	const struct { const char *name, *value, *good, *sentence; } cases[] = {
		{ "chardev", "", "/nowhere",
		  "chardev is not set; set it to the path of the back-end's socket" },
		{ "queue-size", "100", "2", "queue-size must be a power of two from 2 to 1024, not 100" },
		{ "shadow-queue-size", "100", "auto",
		  "shadow-queue-size must be auto or a power of two from 2 to 1024, not 100" },
		{ "seg-max-adjust", "on", "off",
		  "seg-max-adjust needs a queue-size of at least 4, not 2" },
	};
	struct vublk_device *device = new_device();
	struct vublk_error error;

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		vublk_device_set_property(device, cases[i].name, cases[i].value, NULL);
		assert_int_equal(vublk_device_realize(device, &error), -EINVAL);
		assert_string_equal(error.text, cases[i].sentence);
		assert_int_equal(vublk_device_state(device), VUBLK_DEVICE_CREATED);
		vublk_device_set_property(device, cases[i].name, cases[i].good, NULL);
	}
	assert_int_equal(vublk_device_realize(device, &error), 0);
	assert_int_equal(vublk_device_realize(device, &error), -EBUSY);
	assert_string_equal(error.text,
			    "realizing is only possible while the device is created; it is "
			    "realizing");
	assert_int_equal(vublk_device_set_property(device, "discard", "on", &error), -EBUSY);
	assert_string_equal(error.text, "setting a property is only possible while the device is "
			    "created; it is realizing");
	vublk_device_unrealize(device);
	vublk_device_set_property(device, "server", "on", NULL);
	vublk_device_set_property(device, "reconnect-ms", "10", NULL);
	assert_int_equal(vublk_device_realize(device, &error), -EINVAL);
	assert_non_null(strstr(error.text, "reconnect-ms cannot be set with server=on"));
	vublk_device_free(device);
	vublk_device_free(NULL);
}

/*
 * On a device that is not realized, functions that only read succeed. Functions that would change
 * the device report an error.
 */
static void test_questions_to_a_new_device(void **state)
{
	struct vublk_device *device = new_device();
	struct vublk_device_queue queue = { .size = 2 };
	struct vublk_device_info info = { 0 };
	struct vublk_error error;
	uint8_t byte = 1;

	assert_int_equal(vublk_device_num_queues(device), 0);
	assert_int_equal(vublk_device_queue_size(device), 0);
	assert_int_equal(vublk_device_features(device), 0);
	assert_int_equal(vublk_device_status(device), 0);
	assert_int_equal(vublk_device_queue_base(device, 3), 0);
	assert_int_equal(vublk_device_set_queue(device, 0, &queue, sizeof(queue), &error), -EBUSY);
	assert_int_equal(vublk_device_set_memory(device, NULL, 0, &error), -EBUSY);
	assert_int_equal(vublk_device_ack_features(device, 0, &error), -EBUSY);
	assert_int_equal(vublk_device_set_status(device, 0, &error), -EBUSY);
	assert_int_equal(vublk_device_config_write(device, 32, &byte, 1, &error), -ENOTSUP);
	vublk_device_config_read(device, 0, &byte, 1);
	assert_int_equal(byte, 0);
	vublk_device_get_info(device, &info, sizeof(info.chardev));
	assert_int_equal(vublk_device_process(device), 0);
	vublk_device_unrealize(device);
	vublk_device_free(device);
}

static void test_feature_names(void **state)
{
	assert_string_equal(vublk_feature_name(9), "VIRTIO_BLK_F_FLUSH");
	assert_null(vublk_feature_name(63));
	assert_null(vublk_feature_name(64));
	assert_string_equal(vublk_protocol_feature_name(3), "REPLY_ACK");
	assert_null(vublk_protocol_feature_name(200));
}

/* --- states -------------------------------------------------------------------------------- */

/*
 * Every state can be reached, leads to CREATED by unrealize, and has a name. Every event has a
 * name.
 */
static void test_states(void **state)
{
	bool reached[VUBLK_DEVICE_NUM_STATES] = { [VUBLK_DEVICE_CREATED] = true };

	for (int round = 0; round < VUBLK_DEVICE_NUM_STATES; round++)
		for (int s = 0; s < VUBLK_DEVICE_NUM_STATES; s++)
			for (int e = 0; e < VUBLK_DEVICE_NUM_EVENTS; e++) {
				int next = vublk_device_next_state(s, e);

				assert_in_range(next + 1, 0, VUBLK_DEVICE_NUM_STATES);
				if (reached[s] && next >= 0)
					reached[next] = true;
			}
	for (int s = 0; s < VUBLK_DEVICE_NUM_STATES; s++) {
		assert_true(reached[s]);
		assert_non_null(vublk_device_state_name(s));
		if (s != VUBLK_DEVICE_CREATED)
			assert_int_equal(vublk_device_next_state(s, VUBLK_DEVICE_EVENT_UNREALIZE),
					 VUBLK_DEVICE_CREATED);
	}
	for (int e = 0; e < VUBLK_DEVICE_NUM_EVENTS; e++)
		assert_non_null(vublk_device_event_name(e));
	assert_string_equal(vublk_device_state_name(99), "unknown");
}

static void test_front_end_states(void **state)
{
	for (int s = 0; s < VUBLK_FRONTEND_NUM_STATES; s++) {
		assert_non_null(vublk_frontend_state_name(s));
		for (int e = 0; e < VUBLK_FRONTEND_NUM_EVENTS; e++) {
			assert_non_null(vublk_frontend_event_name(e));
			assert_in_range(vublk_frontend_next_state(s, e) + 1, 0,
					VUBLK_FRONTEND_NUM_STATES);
		}
		if (s != VUBLK_FRONTEND_CLOSED)
			assert_int_equal(vublk_frontend_next_state(s, VUBLK_FRONTEND_EVENT_CLOSED),
					 VUBLK_FRONTEND_CLOSED);
	}
}

static const char *const state_sentences[VUBLK_DEVICE_NUM_STATES] = {
	[VUBLK_DEVICE_CREATED] = "There is no back-end; properties may be set.",
	[VUBLK_DEVICE_REALIZING] = "Connecting to the back-end and negotiating with it, or waiting "
				   "for the next try; with `server`, waiting for a back-end to "
				   "connect.",
	[VUBLK_DEVICE_STOPPED] = "Connected; the driver may set up memory, queues and features.",
	[VUBLK_DEVICE_STARTING] = "Features, memory and rings are being handed to the back-end.",
	[VUBLK_DEVICE_RUNNING] = "The back-end works on the rings.",
	[VUBLK_DEVICE_STOPPING] = "The rings are being stopped; requests that had begun are "
				  "completed, or left in the in-flight area.",
	[VUBLK_DEVICE_LOST] = "The connection to the back-end ended; the driver's set-up is kept until "
			       "unrealize. With `reconnect-ms` the device looks for another "
			       "back-end, with `server` it waits for one.",
	[VUBLK_DEVICE_RECONNECTING] = "Negotiating with the back-end that was found, and comparing "
				      "its offer with what the driver relies on.",
};

static const char *const event_sentences[VUBLK_DEVICE_NUM_EVENTS] = {
	[VUBLK_DEVICE_EVENT_REALIZE] = "`vublk_device_realize()`, and the properties are valid",
	[VUBLK_DEVICE_EVENT_REALIZED] = "the handshake is done and the config is valid",
	[VUBLK_DEVICE_EVENT_REALIZE_FAILED] = "the last try failed",
	[VUBLK_DEVICE_EVENT_START] = "the driver has set DRIVER_OK (a legacy driver: or has kicked), "
				     "the VM runs, and there is a back-end",
	[VUBLK_DEVICE_EVENT_STARTED] = "the back-end has confirmed everything",
	[VUBLK_DEVICE_EVENT_STOP] = "the driver reset the device, the VM was paused, or the back-end "
				    "refused a part of the start",
	[VUBLK_DEVICE_EVENT_STOPPED] = "the back-end has said at which index each ring resumes",
	[VUBLK_DEVICE_EVENT_LOST] = "hang-up, a deadline that passed, a broken rule, or a start that "
				    "was refused and has been undone",
	[VUBLK_DEVICE_EVENT_RECONNECT] = "with `reconnect-ms`, a connection to the socket succeeded; "
					 "with `server`, a back-end has connected",
	[VUBLK_DEVICE_EVENT_RECONNECTED] = "the handshake is done and the back-end can replace the "
					   "lost one; if DRIVER_OK is set, start follows",
	[VUBLK_DEVICE_EVENT_UNREALIZE] = "`vublk_device_unrealize()`",
};

static void draw_transitions(FILE *out)
{
	fprintf(out, "```mermaid\nstateDiagram-v2\n    [*] --> created\n");
	for (int s = 0; s < VUBLK_DEVICE_NUM_STATES; s++)
		for (int e = 0; e < VUBLK_DEVICE_NUM_EVENTS; e++)
			if (vublk_device_next_state(s, e) >= 0)
				fprintf(out, "    %s --> %s: %s\n", vublk_device_state_name(s),
					vublk_device_state_name(vublk_device_next_state(s, e)),
					vublk_device_event_name(e));
	fprintf(out, "```\n");
}

static void draw(FILE *out)
{
	fprintf(out, "# The states of a device\n\n"
		"Made from the table in src/device/state.c by `test-device --write-drawing`; a test "
		"compares.\n\n");
	draw_transitions(out);
	fprintf(out, "\n| state | what it means |\n|---|---|\n");
	for (int s = 0; s < VUBLK_DEVICE_NUM_STATES; s++)
		fprintf(out, "| %s | %s |\n", vublk_device_state_name(s), state_sentences[s]);
	fprintf(out, "\n| event | when |\n|---|---|\n");
	for (int e = 0; e < VUBLK_DEVICE_NUM_EVENTS; e++)
		fprintf(out, "| %s | %s |\n", vublk_device_event_name(e), event_sentences[e]);
}

static void test_drawing(void **state)
{
	vublk_test_compare_drawing(DRAWING, draw);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_properties_are_listed),
		VUBLK_TEST(test_bad_values),
		VUBLK_TEST(test_realize_validates),
		VUBLK_TEST(test_questions_to_a_new_device),
		VUBLK_TEST(test_feature_names),
		VUBLK_TEST(test_states),
		VUBLK_TEST(test_front_end_states),
		VUBLK_TEST(test_drawing),
	};

	if (argc == 2 && !strcmp(argv[1], "--write-drawing"))
		return vublk_test_write_drawing(DRAWING, draw);
	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
