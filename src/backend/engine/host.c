/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The functions of <vublk/engine.h> that engines call: errors, log, resize and options. */
#include "backend/engine/engine.h"

#include "util/error.h"
#include "util/option.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int vublk_engine_fail(struct vublk_error *error, int code, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vublk_error_set_va(error, code, format, args);
	va_end(args);
	return -code;
}

void vublk_engine_log(struct vublk_engine_host *host, enum vublk_log_level level,
		      const char *format, ...)
{
	char text[VUBLK_ERROR_TEXT_BYTES];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	pthread_mutex_lock(&host->lock);
	vublk_log_limited(host->log, &host->limit, level, "%s", text);
	pthread_mutex_unlock(&host->lock);
}

void vublk_engine_request_refresh(struct vublk_engine_host *host)
{
	if (host->rescan)
		host->rescan(host->rescan_opaque);
}

/* --- options ------------------------------------------------------------------------ */

const struct vublk_property *vublk_engine_find_option(const struct vublk_engine_ops *ops,
						      const char *name)
{
	for (const struct vublk_property *o = ops->options; o && o->name; o++)
		if (!strcmp(o->name, name))
			return o;
	return NULL;
}

int vublk_engine_check_option(const struct vublk_property *option, const char *value,
			      struct vublk_error *error)
{
	uint64_t number;
	unsigned index;
	bool on;

	if (option->words)
		return vublk_parse_word(option->name, value, option->words, &index, error);
	if (!strcmp(option->type, "number"))
		return vublk_parse_u64(option->name, value, 0, UINT64_MAX, &number, error);
	if (!strcmp(option->type, "size"))
		return vublk_parse_bytes(option->name, value, 0, INT64_MAX, &number, error);
	if (!strcmp(option->type, "bool"))
		return vublk_parse_bool(option->name, value, &on, error);
	return 0;
}

const char *vublk_engine_option(const struct vublk_engine_params *params, const char *name)
{
	const struct vublk_property *option = vublk_engine_find_option(params->host->ops, name);
	const char *value = option ? option->default_value : NULL;

	for (const struct vublk_option *o = params->host->options->given; option && o && o->name; o++)
		if (!strcmp(o->name, name))
			value = o->value;
	return value;
}

int vublk_engine_option_number(const struct vublk_engine_params *params, const char *name,
			       uint64_t min, uint64_t max, uint64_t *value,
			       struct vublk_error *error)
{
	const struct vublk_property *option = vublk_engine_find_option(params->host->ops, name);
	const char *text = vublk_engine_option(params, name);

	if (!text)
		return 0;
	return !strcmp(option->type, "size") ?
	       vublk_parse_bytes(name, text, min, max, value, error) :
	       vublk_parse_u64(name, text, min, max, value, error);
}

int vublk_engine_option_bool(const struct vublk_engine_params *params, const char *name,
			     bool *value, struct vublk_error *error)
{
	const char *text = vublk_engine_option(params, name);

	return text ? vublk_parse_bool(name, text, value, error) : 0;
}
