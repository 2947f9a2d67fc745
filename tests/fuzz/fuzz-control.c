/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A hostile client of the control socket. The first byte of the input says how many bytes arrive
 * together. The other bytes are what the client sends.
 *
 * Key idea: for any input, each line is received unchanged. Instead of a line that is too long, one
 * error is reported. A line is a request, blank, or refused with a sentence, and each answer is one
 * line of valid JSON. The same bytes also select events to add and to take. A client gets each
 * event once, in order, or is told that it has missed the event.
 */
#include "fuzz.h"

#include "cli/control/client.h"
#include "cli/control/events.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* The input. The next line begins at offset `at`. The bytes before offset `sent` have been sent. */
struct stream {
	const uint8_t *data;
	size_t size, at, sent;
};

/* Takes the next line of the input, or the rest of the input. Returns false if that is too long. */
static bool take_expected(struct stream *stream, const char **line, size_t *bytes)
{
	const uint8_t *start = stream->data + stream->at;
	const uint8_t *end = memchr(start, '\n', stream->size - stream->at);

	FUZZ_CHECK(end || stream->size - stream->at > VUBLK_CONTROL_LINE_BYTES);
	*line = (const char *)start;
	*bytes = end ? (size_t)(end - start) : stream->size - stream->at;
	stream->at += *bytes + !!end;
	return end && *bytes <= VUBLK_CONTROL_LINE_BYTES;
}

static void check_line(char *line)
{
	struct json_object *object;

	FUZZ_CHECK(line && strchr(line, '\n') == line + strlen(line) - 1);
	object = json_tokener_parse(line);
	FUZZ_CHECK(json_object_is_type(object, json_type_object));
	json_object_put(object);
	free(line);
}

static void check_request(const char *line, size_t bytes)
{
	struct vublk_control_request request;
	struct vublk_error error = { 0 };
	int r = vublk_control_request_parse(line, bytes, &request, &error);

	FUZZ_CHECK(r == 0 || r == 1 || r == -EPROTO);
	FUZZ_CHECK((r < 0) == !!error.text[0]);
	if (r == 1) {
		static const char *const names[] = { "a", NULL };

		FUZZ_CHECK(request.command[0] && strlen(request.command) < VUBLK_CONTROL_NAME_BYTES);
		vublk_control_request_check(&request, names, &error);
		check_line(vublk_control_result_line(&request, NULL));
	}
	if (r < 0)
		check_line(vublk_control_error_line(&request, &error));
	vublk_control_request_deinit(&request);
}

static void check_lines(struct vublk_control_client *client, struct stream *stream)
{
	const char *line, *expected;
	size_t bytes, expected_bytes;
	int r;

	while ((r = vublk_control_client_next_line(client, &line, &bytes))) {
		bool is_whole = take_expected(stream, &expected, &expected_bytes);

		FUZZ_CHECK(r == 1 ? is_whole : r == -EMSGSIZE && !is_whole);
		if (r < 0)
			continue;
		FUZZ_CHECK(bytes == expected_bytes && !memcmp(line, expected, bytes));
		check_request(line, bytes);
	}
}

static bool has_more(int fd)
{
	char byte;

	return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
}

/* Checks an event's line. Returns how many events it reports: 1, or the number of missed events. */
static uint64_t check_event(char *line, uint64_t sequence)
{
	struct json_object *object = json_tokener_parse(line), *value;
	uint64_t count = 1;

	FUZZ_CHECK(json_object_is_type(object, json_type_object));
	FUZZ_CHECK(strchr(line, '\n') == line + strlen(line) - 1);
	if (json_object_object_get_ex(object, "missed", &value))
		count = json_object_get_uint64(value);
	else
		FUZZ_CHECK(json_object_object_get_ex(object, "sequence", &value) &&
			   json_object_get_uint64(value) == sequence);
	json_object_put(object);
	free(line);
	return count;
}

/*
 * Checks the list of events. Each of the first bytes of the input either adds events of one kind or
 * takes events. The reason of an added event is the rest of the input.
 */
static void check_events(const uint8_t *data, size_t size)
{
	struct vublk_control_events *events = vublk_control_events_new();
	uint64_t next = 1, seen = 1;
	char reason[600];
	char *line;

	FUZZ_CHECK(events);
	for (size_t i = 0; i < size && i < 4; i++) {
		const struct vublk_notice notice = {
			.kind = data[i] % (VUBLK_NOTICE_NUM_KINDS + 1), .reason = reason,
		};
		size_t bytes = size - i < sizeof(reason) ? size - i : sizeof(reason) - 1;

		memcpy(reason, data + i, bytes);
		reason[bytes] = '\0';
		for (unsigned n = data[i] & 0x80 ? 0 : 1 + data[i] * 4u; n; n--)
			vublk_control_events_add(events, &notice, sizeof(notice));
		for (unsigned n = data[i] & 7; n && (line = vublk_control_events_take(events, &next)); n--)
			seen += check_event(line, seen);
		FUZZ_CHECK(seen == next && next <= vublk_control_events_next(events));
	}
	vublk_control_events_free(events);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct stream stream = { .data = data + 1, .size = size ? size - 1 : 0 };
	struct vublk_control_client client = { .fd = -1 };
	size_t piece = size && data[0] ? data[0] * 8u : 1;
	int fds[2];

	if (!size)
		return 0;
	check_events(data, size);
	FUZZ_CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds));
	vublk_control_client_open(&client, fds[0]);
	while (stream.sent < stream.size) {
		size_t left = stream.size - stream.sent, bytes = left < piece ? left : piece;

		FUZZ_CHECK(send(fds[1], stream.data + stream.sent, bytes, 0) == (ssize_t)bytes);
		stream.sent += bytes;
		do {
			FUZZ_CHECK(!vublk_control_client_receive(&client));
			check_lines(&client, &stream);
		} while (has_more(fds[0]));
	}
	close(fds[1]);
	vublk_control_client_close(&client);
	return 0;
}
