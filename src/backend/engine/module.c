/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Loads an engine from a module, a shared library that may have been built with the headers of
 * another version of this library.
 *
 * Key idea: a module says which version of <vublk/engine.h> it was built with, and which sizes the
 * structs had there. The library compares these numbers before it uses anything else of the module.
 */
#include "backend/engine/engine.h"

#include "util/error.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATH_VARIABLE "VUBLK_ENGINE_PATH"
#define MODULE_SYMBOL "vublk_engine_module"

/* The name becomes a part of a file name, so it must not lead to another folder. */
static bool is_name(const char *name)
{
	return name[0] && strlen(name) <= 32 &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(name);
}

/* Stores the path of the module in a folder. Returns whether the file exists. */
static bool is_in(const char *folder, size_t length, const char *name, char path[PATH_MAX])
{
	int n = snprintf(path, PATH_MAX, "%.*s/libvublk-engine-%s.so", (int)length, folder, name);

	return folder[0] == '/' && n < PATH_MAX && !access(path, F_OK);
}

static bool find_file(const char *name, char path[PATH_MAX])
{
	const char *folder = secure_getenv(PATH_VARIABLE);

	while (folder && folder[0]) {
		size_t length = strcspn(folder, ":");

		if (length < PATH_MAX && is_in(folder, length, name, path))
			return true;
		folder += length + (folder[length] == ':');
	}
	return is_in(VUBLK_ENGINE_FOLDER, strlen(VUBLK_ENGINE_FOLDER), name, path);
}

static int check_version(const char *path, const struct vublk_engine_module *module,
			 struct vublk_error *error)
{
	if (module->version != VUBLK_ENGINE_VERSION)
		return vublk_error_set(error, ENOTSUP, "%s was built for version %u of the engine "
				       "interface, but this library has version %u; install the "
				       "module that belongs to this library", path, module->version,
				       VUBLK_ENGINE_VERSION);
	if (module->ops_bytes != sizeof(struct vublk_engine_ops) ||
	    module->queue_ops_bytes != sizeof(struct vublk_engine_queue_ops) ||
	    module->engine_bytes != sizeof(struct vublk_engine) ||
	    module->queue_bytes != sizeof(struct vublk_engine_queue) ||
	    module->io_bytes != sizeof(struct vublk_engine_io) ||
	    module->params_bytes != sizeof(struct vublk_engine_params))
		return vublk_error_set(error, ENOTSUP, "%s was built with structs of other sizes than "
				       "this library; build it again with the headers of this "
				       "library", path);
	return 0;
}

static int check_ops(const char *path, const char *name, const struct vublk_engine_ops *ops,
		     struct vublk_error *error)
{
	if (!ops || !ops->name || strcmp(ops->name, name))
		return vublk_error_set(error, ENOTSUP, "%s has the engine '%s', not '%s'; the name of "
				       "the file must be that of the engine", path,
				       ops && ops->name ? ops->name : "", name);
	if (!ops->open || !ops->close || !ops->queue_new)
		return vublk_error_set(error, ENOTSUP, "the engine %s in %s has no function open, "
				       "close or queue_new", name, path);
	return 0;
}

int vublk_engine_load(const char *name, const struct vublk_engine_ops **ops,
		      struct vublk_error *error)
{
	const struct vublk_engine_module *module;
	char path[PATH_MAX];
	void *library;
	int r;

	if (!is_name(name) || !find_file(name, path))
		return -ENOENT;
	/*
	 * Never closed: a module may have threads, and its table of options is used until the
	 * process ends.
	 */
	library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!library)
		return vublk_error_set(error, ENOTSUP, "cannot load the engine %s: %s", name,
				       dlerror());
	module = dlsym(library, MODULE_SYMBOL);
	if (!module)
		return vublk_error_set(error, ENOTSUP, "%s is not a module of vublk, because it has "
				       "no symbol " MODULE_SYMBOL, path);
	r = check_version(path, module, error);
	if (!r)
		r = check_ops(path, name, module->ops, error);
	if (!r)
		*ops = module->ops;
	return r;
}
