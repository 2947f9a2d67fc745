/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The state tables of the relay, and their drawing in docs/relay-states.md.
 *
 * Key idea: the drawing is generated from the tables and compared byte by byte, so that neither can
 * change alone. `test-relay-states --write-drawing` writes the drawing.
 */
#include "bus/relay/relay.h"
#include "drawing.h"
#include "harness.h"
#include "util/checked.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DRAWING VUBLK_SOURCE_ROOT "/docs/relay-states.md"
#define MAX_STATES 16

struct drawing {
	const char *title, *introduction;
	const struct vublk_relay_machine *machine;
	const char *const *state_sentences, *const *event_sentences;
};

/* --- what states and events mean ------------------------------------------------ */

static const char *const session_sentences[VUBLK_RELAY_NUM_SESSION_STATES] = {
	[VUBLK_RELAY_READING] = "The relay waits for a message. A message that needs no answer is "
				"only recorded, and the state does not change.",
	[VUBLK_RELAY_SETTLING] = "A message that needs an answer waits until the device matches what "
				 "the VMM has set up. The VMM is not read meanwhile.",
	[VUBLK_RELAY_ACTING] = "The device executes what the message requests (a write to the "
			       "config, an in-flight area). The VMM gets the answer afterwards.",
	[VUBLK_RELAY_LAST_SETTLING] = "As settling; the session ends after this message.",
	[VUBLK_RELAY_LAST_ACTING] = "As acting; the session ends after this message.",
	[VUBLK_RELAY_CLOSING] = "No further message is read. The session is reset next.",
	[VUBLK_RELAY_ENDING] = "The rings are reclaimed from the back-end, and then the memory.",
	[VUBLK_RELAY_ENDED] = "The back-end has no ring and no memory of this VMM. The session is freed.",
};

static const char *const session_event_sentences[VUBLK_RELAY_NUM_SESSION_EVENTS] = {
	[VUBLK_RELAY_SESSION_MESSAGE] = "a message has been recorded or refused, and is answered",
	[VUBLK_RELAY_SESSION_ASKED] = "the device matches the set-up, and the message needs an answer "
				      "from it",
	[VUBLK_RELAY_SESSION_ANSWERED] = "the answer has been sent",
	[VUBLK_RELAY_SESSION_CLOSE] = "the VMM has disconnected or broken a rule, a message timed out, "
				      "a refusal cannot be answered, or the relay is told to stop",
	[VUBLK_RELAY_SESSION_RESET] = "everything that the VMM set up is forgotten, except its memory",
	[VUBLK_RELAY_SESSION_RECLAIMED] = "the device has no ring and no memory of this VMM",
};

static const char *const set_sentences[VUBLK_RELAY_NUM_SET_STATES] = {
	[VUBLK_RELAY_SET_HERE] = "The device has no ring.",
	/*
	 * The parentheses are for clang, which suspects a missing comma if only a few strings of an
	 * array consist of several parts.
	 */
	[VUBLK_RELAY_SET_OUT] = ("The device has the rings that were handed over, and runs them "
				 "whenever there is a back-end."),
	[VUBLK_RELAY_SET_PAUSING] = "The device stops all rings. Then each position is known.",
};

static const char *const set_event_sentences[VUBLK_RELAY_NUM_SET_EVENTS] = {
	[VUBLK_RELAY_SET_HAND_OVER] = "the device has accepted at least one ring and DRIVER_OK",
	[VUBLK_RELAY_SET_PAUSE] = ("the set of wanted rings has changed, or the address of one of "
				   "them, or a change is due that cannot be made while rings run"),
	[VUBLK_RELAY_SET_RECLAIM] = "the rings have stopped, or their back-end is lost",
};

static const char *const ring_sentences[VUBLK_RELAY_NUM_RING_STATES] = {
	[VUBLK_RELAY_RING_WITHDRAWN] = "The VMM has not started the ring, or has stopped it.",
	[VUBLK_RELAY_RING_WANTED] = "The VMM has started the ring. It is handed over when its set-up "
				    "is complete, it is enabled, its memory is known, and no hold "
				    "delays starts.",
	[VUBLK_RELAY_RING_LEFT] = "The VMM stops the ring and wants it drained, but an earlier "
				  "stop has left requests in the in-flight area. So the ring runs "
				  "once more.",
	[VUBLK_RELAY_RING_HANDED] = "The device has the ring.",
	[VUBLK_RELAY_RING_DRAINING] = "The device has the ring; it is reclaimed when its requests are "
				      "complete.",
	[VUBLK_RELAY_RING_RETURNING] = "The device has the ring, and the VMM has stopped it.",
	[VUBLK_RELAY_RING_UNCERTAIN] = "As withdrawn. In addition, a back-end was lost with "
				       "requests outstanding, and no in-flight area says which it "
				       "had begun.",
	[VUBLK_RELAY_RING_UNCERTAIN_WANTED] = "As wanted, with such requests. The ring is handed over "
					      "only if none of them is outstanding; otherwise the "
					      "driver must reset the device.",
	[VUBLK_RELAY_RING_UNCERTAIN_LEFT] = "As left, with such requests.",
};

static const char *const ring_event_sentences[VUBLK_RELAY_NUM_RING_EVENTS] = {
	[VUBLK_RELAY_RING_START] = "SET_VRING_KICK",
	[VUBLK_RELAY_RING_DRAIN] = "GET_VRING_BASE, if all requests must be complete first, and "
				   "the device has the ring or a stop has left requests",
	[VUBLK_RELAY_RING_WITHDRAW] = "any other GET_VRING_BASE, a reset, SET_STATUS 0, or the "
				      "device or the relay refuses the ring",
	[VUBLK_RELAY_RING_HAND_OVER] = "the device has accepted the ring",
	[VUBLK_RELAY_RING_RECLAIM] = "the rings have stopped, or their back-end is lost, and the "
				     "position has been recorded",
	[VUBLK_RELAY_RING_DOUBT] = "requests are outstanding and there is no in-flight area, or the "
				   "ring is outside of the memory",
	[VUBLK_RELAY_RING_CERTAIN] = "a reset, another address or base, an in-flight area of the VMM, "
				     "or no request is outstanding",
};

static const struct drawing drawings[] = {
	{ "The session", "The connected VMM, and the message that the relay is serving.",
	  &vublk_relay_session_machine, session_sentences, session_event_sentences },
	{ "The rings as a set", "The device starts and stops all rings together.",
	  &vublk_relay_set_machine, set_sentences, set_event_sentences },
	{ "A ring", "The VMM starts and stops each ring separately.",
	  &vublk_relay_ring_machine, ring_sentences, ring_event_sentences },
};

/* --- the tables ----------------------------------------------------------------- */

static void expect_reachable(const struct vublk_relay_machine *machine)
{
	bool reached[MAX_STATES] = { true };

	assert_true(machine->num_states <= MAX_STATES);
	for (unsigned round = 0; round < machine->num_states; round++)
		for (unsigned s = 0; s < machine->num_states; s++)
			for (unsigned e = 0; e < machine->num_events; e++) {
				int next = vublk_relay_next_state(machine, s, e);

				assert_in_range(next + 1, 0, machine->num_states);
				if (reached[s] && next >= 0)
					reached[next] = true;
			}
	for (unsigned s = 0; s < machine->num_states; s++)
		if (!reached[s])
			fail_msg("%s cannot be reached", machine->state_names[s]);
}

/*
 * In each table, every state can be reached, every event occurs, and all of them have names and
 * sentences.
 */
static void test_tables(void **state)
{
	for (unsigned d = 0; d < VUBLK_ARRAY_SIZE(drawings); d++) {
		const struct vublk_relay_machine *machine = drawings[d].machine;

		expect_reachable(machine);
		for (unsigned s = 0; s < machine->num_states; s++) {
			assert_non_null(machine->state_names[s]);
			assert_non_null(drawings[d].state_sentences[s]);
		}
		for (unsigned e = 0; e < machine->num_events; e++) {
			bool occurs = false;

			for (unsigned s = 0; s < machine->num_states; s++)
				occurs |= vublk_relay_next_state(machine, s, e) >= 0;
			assert_true(occurs);
			assert_non_null(machine->event_names[e]);
			assert_non_null(drawings[d].event_sentences[e]);
		}
	}
}

/*
 * From any state, the events CLOSE, ANSWERED, RESET and RECLAIMED, in this order, lead to the last
 * state.
 */
static void test_close_ends_a_session(void **state)
{
	const enum vublk_relay_session_event events[] = {
		VUBLK_RELAY_SESSION_CLOSE, VUBLK_RELAY_SESSION_ANSWERED,
		VUBLK_RELAY_SESSION_RESET, VUBLK_RELAY_SESSION_RECLAIMED,
	};

	for (unsigned s = 0; s < VUBLK_RELAY_NUM_SESSION_STATES; s++) {
		unsigned at = s;

		for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(events); i++) {
			int next = vublk_relay_next_state(&vublk_relay_session_machine, at,
							  events[i]);

			at = next < 0 ? at : (unsigned)next;
		}
		assert_int_equal(at, VUBLK_RELAY_ENDED);
	}
}

static void expect_predicates(enum vublk_relay_ring_event event,
			      const struct vublk_relay_queue *before,
			      const struct vublk_relay_queue *after)
{
	bool uncertain = vublk_relay_is_uncertain(before), handed = vublk_relay_is_handed(before);
	bool started = vublk_relay_is_started(before), drained = vublk_relay_is_drained(before);

	switch (event) {
	case VUBLK_RELAY_RING_START:
		started = true;
		break;
	case VUBLK_RELAY_RING_DRAIN:
		started = drained = true;
		break;
	case VUBLK_RELAY_RING_WITHDRAW:
		started = drained = false;
		break;
	case VUBLK_RELAY_RING_HAND_OVER:
		assert_true(started && !uncertain);
		handed = true;
		break;
	case VUBLK_RELAY_RING_RECLAIM:
		started &= !drained;
		handed = drained = false;
		break;
	case VUBLK_RELAY_RING_DOUBT:
		assert_false(handed);
		uncertain = true;
		break;
	default:
		uncertain = false;
	}
	assert_int_equal(vublk_relay_is_started(after), started);
	assert_int_equal(vublk_relay_is_handed(after), handed);
	assert_int_equal(vublk_relay_is_drained(after), drained);
	assert_int_equal(vublk_relay_is_uncertain(after), uncertain);
}

/* Each event has exactly the expected effect on the properties of the ring. */
static void test_ring_events(void **state)
{
	for (unsigned s = 0; s < VUBLK_RELAY_NUM_RING_STATES; s++)
		for (unsigned e = 0; e < VUBLK_RELAY_NUM_RING_EVENTS; e++) {
			struct vublk_relay_queue before = { .state = s }, after = { 0 };
			int next = vublk_relay_next_state(&vublk_relay_ring_machine, s, e);

			if (next < 0)
				continue;
			after.state = (enum vublk_relay_ring_state)next;
			expect_predicates(e, &before, &after);
		}
}

/* --- the drawing ---------------------------------------------------------------- */

static void draw_transitions(FILE *out, const struct vublk_relay_machine *machine)
{
	fprintf(out, "```mermaid\nstateDiagram-v2\n    [*] --> %s\n", machine->state_names[0]);
	for (unsigned s = 0; s < machine->num_states; s++)
		for (unsigned e = 0; e < machine->num_events; e++) {
			int next = vublk_relay_next_state(machine, s, e);

			if (next >= 0)
				fprintf(out, "    %s --> %s: %s\n", machine->state_names[s],
					machine->state_names[next], machine->event_names[e]);
		}
	fprintf(out, "```\n");
}

static void draw_one(FILE *out, const struct drawing *drawing)
{
	const struct vublk_relay_machine *machine = drawing->machine;

	fprintf(out, "\n## %s\n\n%s\n\n", drawing->title, drawing->introduction);
	draw_transitions(out, machine);
	fprintf(out, "\n| state | what it means |\n|---|---|\n");
	for (unsigned s = 0; s < machine->num_states; s++)
		fprintf(out, "| %s | %s |\n", machine->state_names[s], drawing->state_sentences[s]);
	fprintf(out, "\n| event | when |\n|---|---|\n");
	for (unsigned e = 0; e < machine->num_events; e++)
		fprintf(out, "| %s | %s |\n", machine->event_names[e], drawing->event_sentences[e]);
}

static void draw(FILE *out)
{
	fprintf(out, "# The states of the relay\n\n"
		"Generated from the tables in src/bus/relay/state.c by `test-relay-states "
		"--write-drawing`. A test checks that they match.\n");
	for (unsigned d = 0; d < VUBLK_ARRAY_SIZE(drawings); d++)
		draw_one(out, &drawings[d]);
}

static void test_drawing(void **state)
{
	vublk_test_compare_drawing(DRAWING, draw);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_tables),
		VUBLK_TEST(test_close_ends_a_session),
		VUBLK_TEST(test_ring_events),
		VUBLK_TEST(test_drawing),
	};

	if (argc == 2 && !strcmp(argv[1], "--write-drawing"))
		return vublk_test_write_drawing(DRAWING, draw);
	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
