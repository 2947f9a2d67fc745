/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A client of the control socket: the first byte of the input says how many bytes arrive at a time,
 * the rest are the bytes.
 *
 * Key idea: for any input the lines are those of the input, except those that are too long, which
 * are reported once each. A line is a request, blank, or refused with a sentence; and each answer
 * is one line of JSON that can be parsed.
 */
#include "fuzz.h"

#include "cli/control/client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* The input. The next line is searched from `at` on; the input has been sent up to `sent`. */
struct stream {
	const uint8_t *data;
	size_t size, at, sent;
};

/* Takes the line from the input; returns whether it is complete and not too long. */
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct stream stream = { .data = data + 1, .size = size ? size - 1 : 0 };
	struct vublk_control_client client = { .fd = -1 };
	size_t piece = size && data[0] ? data[0] * 8u : 1;
	int fds[2];

	if (!size)
		return 0;
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
