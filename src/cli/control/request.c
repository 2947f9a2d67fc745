/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lines of the control protocol; see request.h. The bytes of a request come from a client and can
 * have any value; client.c limits their number.
 *
 * Key idea: json-c parses the line, with a limit on the depth, and most other checks examine the
 * parsed value. A request with a member that the protocol does not have is refused, so that a
 * misspelt name is never silently ignored. A line with two members of the same name is refused,
 * because two programs may use different ones. To detect such members, this file counts the members
 * in the text, and compares their number with that of the parsed value.
 */
#include "cli/control/request.h"

#include "cli/cli.h"
#include "cli/text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- requests ---------------------------------------------------------------------- */

static size_t skip_blank(const char *line, size_t at, size_t bytes)
{
	while (at < bytes && strchr(" \t\r\n", line[at]) && line[at])
		at++;
	return at;
}

static int not_json(enum json_tokener_error code, int depth, size_t at, struct vublk_error *error)
{
	if (code == json_tokener_error_depth)
		return vublk_cli_error(error, EPROTO, "the line has objects and arrays that are "
				       "nested more than %d levels deep", depth);
	if (code == json_tokener_continue)
		return vublk_cli_error(error, EPROTO, "the line ends in the middle of a JSON "
				       "value");
	return vublk_cli_error(error, EPROTO, "the line is not JSON: %s at byte %zu",
			       json_tokener_error_desc(code), at);
}

/* Returns the number of members of all objects in `text`, which must be valid JSON. */
static size_t count_written(const char *text, size_t bytes)
{
	bool is_string = false;
	size_t count = 0;

	for (size_t i = 0; i < bytes; i++) {
		if (text[i] == '"')
			is_string = !is_string;
		else if (is_string && text[i] == '\\')
			i++;
		else if (!is_string && text[i] == ':')
			count++;
	}
	return count;
}

/* Returns the number of members of all objects in a parsed value. */
static size_t count_parsed(struct json_object *value)
{
	size_t count = 0;

	if (json_object_is_type(value, json_type_array))
		for (size_t i = 0; i < json_object_array_length(value); i++)
			count += count_parsed(json_object_array_get_idx(value, i));
	if (!json_object_is_type(value, json_type_object))
		return count;
	json_object_object_foreach(value, name, member) {
		(void)name;
		count += 1 + count_parsed(member);
	}
	return count;
}

int vublk_control_parse(const char *line, size_t bytes, int depth, struct json_object **value,
			struct vublk_error *error)
{
	struct json_tokener *tokener = json_tokener_new_ex(depth);
	enum json_tokener_error code;
	size_t at;
	int r;

	if (!tokener)
		return vublk_cli_error(error, ENOMEM, "cannot allocate memory for a line");
	json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
	*value = json_tokener_parse_ex(tokener, line, (int)bytes);
	code = json_tokener_get_error(tokener);
	at = json_tokener_get_parse_end(tokener);
	json_tokener_free(tokener);
	if (code != json_tokener_success)
		return not_json(code, depth, at, error);
	/* Of two members with the same name, json-c keeps one, so the two counts differ. */
	if (skip_blank(line, at, bytes) != bytes)
		r = vublk_cli_error(error, EPROTO, "the line has more text after its JSON object, "
				    "at byte %zu", at);
	else if (count_written(line, bytes) != count_parsed(*value))
		r = vublk_cli_error(error, EPROTO, "an object in the line has two members with the "
				    "same name");
	else
		return 0;
	json_object_put(*value);
	*value = NULL;
	return r;
}

static int take_command(struct vublk_control_request *request, struct json_object *value,
			struct vublk_error *error)
{
	const char *name = json_object_get_string(value);

	if (!json_object_is_type(value, json_type_string))
		return vublk_cli_error(error, EPROTO, "'command' must be a string");
	if (strlen(name) >= sizeof(request->command) ||
	    strlen(name) != (size_t)json_object_get_string_len(value))
		return vublk_cli_error(error, EPROTO, "'command' is not the name of a command");
	strcpy(request->command, name);
	return 0;
}

static int take_id(struct vublk_control_request *request, struct json_object *value,
		   struct vublk_error *error)
{
	if (!json_object_is_type(value, json_type_string) &&
	    !json_object_is_type(value, json_type_int))
		return vublk_cli_error(error, EPROTO, "'id' must be a string or an integer");
	request->id = json_object_get(value);
	return 0;
}

static int take_arguments(struct vublk_control_request *request, struct json_object *value,
			  struct vublk_error *error)
{
	if (!json_object_is_type(value, json_type_object))
		return vublk_cli_error(error, EPROTO, "'arguments' must be an object");
	request->arguments = json_object_get(value);
	return 0;
}

static int take_member(struct vublk_control_request *request, const char *name,
		       struct json_object *value, struct vublk_error *error)
{
	if (!strcmp(name, "command"))
		return take_command(request, value, error);
	if (!strcmp(name, "id"))
		return take_id(request, value, error);
	if (!strcmp(name, "arguments"))
		return take_arguments(request, value, error);
	return vublk_cli_error(error, EPROTO, "the request has an unknown member '%.40s'; expected "
			       "only command, id and arguments", name);
}

static int take_members(struct vublk_control_request *request, struct json_object *value,
			struct vublk_error *error)
{
	struct json_object *id;
	int r = 0;

	if (!json_object_is_type(value, json_type_object))
		return vublk_cli_error(error, EPROTO, "the line is not a JSON object; expected a "
				       "line such as {\"command\": \"status\"}");
	/*
	 * The id is read first, so that the answer contains it even if something else in the line
	 * is wrong.
	 */
	if (json_object_object_get_ex(value, "id", &id))
		r = take_id(request, id, error);
	if (r)
		return r;
	json_object_object_foreach(value, name, member) {
		r = strcmp(name, "id") ? take_member(request, name, member, error) : 0;
		if (r)
			return r;
	}
	if (!request->command[0])
		return vublk_cli_error(error, EPROTO, "the request has no 'command'");
	return 0;
}

/*
 * Returns whether a name or a string of a line, which must be valid JSON, contains a NUL character.
 * C code would read only the part before it.
 */
static bool has_nul(const char *line, size_t bytes)
{
	for (size_t i = 0; i + 5 < bytes; i++) {
		if (line[i] != '\\')
			continue;
		if (!memcmp(line + i, "\\u0000", 6))
			return true;
		i++;
	}
	return false;
}

int vublk_control_request_parse(const char *line, size_t bytes,
				struct vublk_control_request *request, struct vublk_error *error)
{
	struct json_object *value = NULL;
	int r;

	*request = (struct vublk_control_request){ .id = NULL };
	if (skip_blank(line, 0, bytes) == bytes)
		return 0;
	r = vublk_control_parse(line, bytes, VUBLK_CONTROL_DEPTH, &value, error);
	if (!r)
		r = take_members(request, value, error);
	if (!r && has_nul(line, bytes))
		r = vublk_cli_error(error, EINVAL, "a name or a string in the request contains a NUL "
				    "character (\\u0000)");
	json_object_put(value);
	return r ? r : 1;
}

void vublk_control_request_deinit(struct vublk_control_request *request)
{
	json_object_put(request->id);
	json_object_put(request->arguments);
	request->id = request->arguments = NULL;
}

static bool is_listed(const char *const *names, const char *name)
{
	for (; names && *names; names++)
		if (!strcmp(*names, name))
			return true;
	return false;
}

static int unknown_argument(const char *command, const char *name, const char *const *names,
			    struct vublk_error *error)
{
	char list[256] = "";

	for (const char *const *n = names; n && *n; n++) {
		strncat(list, list[0] ? ", " : "", sizeof(list) - strlen(list) - 1);
		strncat(list, *n, sizeof(list) - strlen(list) - 1);
	}
	if (!list[0])
		return vublk_cli_error(error, EINVAL, "the command '%s' has no argument '%.40s'; it "
				       "has no arguments at all", command, name);
	return vublk_cli_error(error, EINVAL, "the command '%s' has no argument '%.40s'; its "
			       "arguments are %s", command, name, list);
}

int vublk_control_request_check(const struct vublk_control_request *request,
				const char *const *names, struct vublk_error *error)
{
	if (!request->arguments)
		return 0;
	json_object_object_foreach(request->arguments, name, value) {
		(void)value;
		if (!is_listed(names, name))
			return unknown_argument(request->command, name, names, error);
	}
	return 0;
}

/* --- answers ----------------------------------------------------------------------- */

static void replace_malformed(char *text)
{
	while (*text) {
		size_t bytes = vublk_cli_utf8_bytes(text);

		if (!bytes)
			*text = '?';
		text += bytes ? bytes : 1;
	}
}

char *vublk_control_line(struct json_object *object)
{
	const char *text = object ? json_object_to_json_string_ext(object,
			   JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE) : NULL;
	size_t bytes = text ? strlen(text) : 0;
	char *line = text ? malloc(bytes + 2) : NULL;

	if (line) {
		memcpy(line, text, bytes);
		memcpy(line + bytes, "\n", 2);
		replace_malformed(line);
	}
	json_object_put(object);
	return line;
}

static char *answer(const struct vublk_control_request *request, const char *name,
		    struct json_object *value)
{
	struct json_object *object = json_object_new_object();

	if (!object || !value) {
		json_object_put(object);
		json_object_put(value);
		return NULL;
	}
	if (request->id)
		json_object_object_add(object, "id", json_object_get(request->id));
	json_object_object_add(object, name, value);
	return vublk_control_line(object);
}

char *vublk_control_result_line(const struct vublk_control_request *request,
				struct json_object *result)
{
	return answer(request, "result", result ? result : json_object_new_object());
}

char *vublk_control_error_line(const struct vublk_control_request *request,
			       const struct vublk_error *error)
{
	struct json_object *object = json_object_new_object();
	const char *name = strerrorname_np(error->code);

	if (object) {
		json_object_object_add(object, "code",
				       json_object_new_string(name ? name : "EIO"));
		json_object_object_add(object, "message", json_object_new_string(error->text));
	}
	return answer(request, "error", object);
}

const char *vublk_control_error_message(struct json_object *error)
{
	struct json_object *message = NULL;

	json_object_object_get_ex(error, "message", &message);
	if (json_object_is_type(message, json_type_string))
		return json_object_get_string(message);
	return "the process at the control socket reported an error without a description; it is "
	       "not vublk";
}
