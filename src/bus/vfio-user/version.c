/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * VERSION, the first message: a version number, and capabilities as JSON text.
 *
 * Key idea: the answer has the capabilities that both the client and this server have. Its text is
 * at most as long as the client's, because some clients have no room for more.
 *
 * Specification: "VFIO_USER_VERSION".
 */
#include "bus/vfio-user/private.h"

#include "util/error.h"

#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#define TEXT_OFFSET VUBLK_VFIO_VERSION_BYTES

/*
 * The capabilities of this server. The most important ones come first, because the last ones are
 * left out if the text gets too long.
 */
static const struct {
	const char *name;
	int number; /* the value; -1: the boolean true */
} capabilities[] = {
	{ "max_data_xfer_size", VUBLK_VFIO_MAX_TRANSFER_BYTES },
	{ "max_msg_fds", VUBLK_VFIO_MAX_FDS },
	{ "max_dma_maps", VUBLK_VFIO_USER_MAX_MAPS },
	{ "pgsizes", 4096 },
	{ "write_multiple", -1 },
};

static int check_version(const struct vublk_vfio_version *version, struct vublk_error *error)
{
	if (version->major == VUBLK_VFIO_MAJOR)
		return 0;
	return vublk_error_set(error, EPROTO,
			       "the client uses vfio-user %u.%u; expected version %u",
			       version->major, version->minor, VUBLK_VFIO_MAJOR);
}

/* Parses the client's text. If the text is not a JSON object, fills `error` and returns NULL. */
static struct json_object *parse(const char *text, uint32_t bytes, struct vublk_error *error)
{
	struct json_tokener *tokener = json_tokener_new();
	struct json_object *object = NULL;

	if (bytes && !text[bytes - 1] && tokener)
		object = json_tokener_parse_ex(tokener, text, (int)bytes);
	json_tokener_free(tokener);
	if (json_object_is_type(object, json_type_object))
		return object;
	json_object_put(object);
	vublk_error_set(error, EPROTO, "the capabilities in the client's VERSION are not a JSON object");
	return NULL;
}

/* Returns those of the first `count` capabilities that the client also names. */
static struct json_object *answer(struct json_object *client, size_t count)
{
	struct json_object *root = json_object_new_object(), *own, *of_client;

	if (!json_object_object_get_ex(client, "capabilities", &of_client) ||
	    !json_object_is_type(of_client, json_type_object))
		return root;
	own = json_object_new_object();
	json_object_object_add(root, "capabilities", own);
	for (size_t i = 0; i < count; i++) {
		int number = capabilities[i].number;

		if (json_object_object_get_ex(of_client, capabilities[i].name, NULL))
			json_object_object_add(own, capabilities[i].name, number < 0 ?
					       json_object_new_boolean(true) :
					       json_object_new_int(number));
	}
	return root;
}

/*
 * Writes an answer with as many capabilities as fit into `room` bytes. Returns the size of the text
 * with its NUL, or 0 if no answer fits.
 */
static int write_answer(struct json_object *client, char *text, size_t room)
{
	size_t bytes = 0;

	for (size_t count = VUBLK_ARRAY_SIZE(capabilities) + 1; count-- && !bytes;) {
		struct json_object *root = answer(client, count);
		const char *string = json_object_to_json_string_ext(root, JSON_C_TO_STRING_PLAIN);

		if (string && strlen(string) < room) {
			bytes = strlen(string) + 1;
			memcpy(text, string, bytes);
		}
		json_object_put(root);
	}
	return (int)bytes;
}

int vublk_vfio_user_negotiate(const struct vublk_vfio_message *message,
			      struct vublk_vfio_version *reply, struct vublk_error *error)
{
	const struct vublk_vfio_version *version = &message->payload.version;
	uint32_t bytes = vublk_vfio_payload_bytes(&message->header) - TEXT_OFFSET;
	struct json_object *client;
	int r = check_version(version, error);

	if (r < 0)
		return r;
	reply->major = VUBLK_VFIO_MAJOR;
	reply->minor = VUBLK_MIN(version->minor, (uint16_t)VUBLK_VFIO_MINOR);
	if (!bytes)
		return TEXT_OFFSET;
	client = parse(version->text, bytes, error);
	if (!client)
		return -EPROTO;
	r = write_answer(client, reply->text, bytes);
	json_object_put(client);
	return TEXT_OFFSET + r;
}
