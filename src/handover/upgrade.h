/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_HANDOVER_UPGRADE_H
#define VUBLK_HANDOVER_UPGRADE_H

/*
 * Hands an object that serves a disk, a bus or a back-end, to another process; see
 * <vublk/upgrade.h>. give.c is the old process, take.c the new one; docs/upgrade.md has the
 * exchange of messages.
 *
 * Key idea: the code here knows the order of the messages, the freeze and the word of the owner. It
 * does not know the object: the struct vublk_upgrade_type of the object's kind writes and reads the
 * state.
 */
#include "proto/handover.h"
#include "util/log.h"
#include "util/loop.h"
#include "util/sections.h"

#include <vublk/upgrade.h>

#define VUBLK_UPGRADE_PREPARE_MS 10000 /* how long the new process may take to prepare */
#define VUBLK_UPGRADE_TOTAL_MS 30000   /* the new process waits no longer than this */
#define VUBLK_UPGRADE_FREEZE_MS 50     /* the old process is frozen no longer than this */

#define VUBLK_UPGRADE_MAX_TABLES 3

struct vublk_upgrade_host;

/*
 * What the new process knows about the object before it makes an object of its own. Valid during
 * the call that gets it.
 */
struct vublk_upgrade_origin {
	int64_t pid;
	char version[32];
	char spec[160];    /* of a bus, as for vublk_bus_open(); empty: not a bus */
	char folder[1024]; /* the working directory of the old process */
	uint64_t folder_device, folder_inode;
	int image_fd; /* the image of a back-end, owned by take.c; -1: none */
};

/* A kind of object. `object` is the host's. */
struct vublk_upgrade_type {
	/* The tables of all sections of the state; ends with NULL. */
	const struct vublk_section_type *const *known;
	/* How long the old process waits for a moment at which there is no obstacle. */
	unsigned quiet_ms;

	/* --- the old process --- */

	/* Writes the section `origin`, and a section `option` for each option or property. */
	void (*give_options)(const void *object, struct vublk_sections_writer *to);
	/*
	 * Checks that nothing is in use that cannot be handed over however long the old process waits.
	 * Called after prepare(), after each turn of the loop, because it may have come into use since
	 * the upgrade began. May be NULL.
	 */
	int (*check)(const void *object, struct vublk_error *error);
	/* Called when the new process is prepared, so that the object removes its obstacles. */
	void (*prepare)(void *object);
	/*
	 * Returns why the object cannot be handed over at this moment, as a static string, or NULL
	 * if it can. Called after prepare(), after each turn of the loop.
	 */
	const char *(*obstacle)(void *object);
	/*
	 * Called when there is no obstacle: stops the object's threads. Returns why that is not
	 * possible now, as a static string; the threads run then. NULL: they have stopped until
	 * cancel(). May be NULL.
	 */
	const char *(*freeze)(void *object);
	/* Called when the upgrade has failed: the object continues. */
	void (*cancel)(void *object);
	/*
	 * Returns since when requests or messages have waited, or 0 if they wait since the freeze.
	 * May be NULL.
	 */
	uint64_t (*paused_since)(const void *object);
	/* Writes the sections of the state. */
	void (*give)(const void *object, struct vublk_sections_writer *to);
	/* Called when the new process has the disk: finishes the object without touching the disk. */
	void (*handed_over)(void *object);

	/* --- the new process --- */

	bool (*knows_option)(const char *spec, const char *name);
	/* Returns whether the object uses a path that begins in the working directory. */
	bool (*has_relative_path)(const struct vublk_upgrade_origin *origin,
				  const struct vublk_option *options);
	/*
	 * Makes an object with these options, which has no effect outside this process. Sets
	 * host->is_anothers. `origin` and `options` are borrowed.
	 */
	int (*make)(const struct vublk_upgrade_origin *origin, const struct vublk_option *options,
		    const struct vublk_log *log, struct vublk_upgrade_host **host,
		    struct vublk_error *error);
	/* Stores the tables that read the sections of the state. Returns their number. */
	size_t (*tables)(void *object, struct vublk_section_table tables[VUBLK_UPGRADE_MAX_TABLES]);
	/* Called when all sections have been read. The last step that may fail. */
	int (*end)(void *object, struct vublk_error *error);
	/* Called when this process has the disk: wakes what may have waited. Must be short. */
	void (*begin)(void *object);
	/* Called afterwards, when the old process has been told. May be NULL. */
	void (*told)(void *object);
	void (*free)(void *object);
};

struct vublk_upgrade;

/* The part of an object that the code here uses. The object embeds it. */
struct vublk_upgrade_host {
	const struct vublk_upgrade_type *type; /* NULL: the object cannot be handed over */
	void *object;
	const char *kind, *path; /* for log lines: "bus", and where the object is */
	struct vublk_loop *loop;
	const struct vublk_log *log;
	struct vublk_log_limit *limit;
	/*
	 * Eventfds that a signal handler may signal: the object has to stop, or to read its size or
	 * configuration again. The old process passes on what came too late for it.
	 */
	int stop_fd, refresh_fd;
	struct vublk_upgrade *upgrade; /* the upgrade that is under way; NULL: none */
	bool is_anothers; /* another process owns the disk, because this one has handed it over or
			     has not taken it over yet; no socket file must be removed */
};

/* The points at which tests kill one of the processes (util/kill-point.h). */
#define VUBLK_UPGRADE_KILL_POINTS                                                             \
	"old-asked",     /* the old process has the request for an upgrade */                 \
	"old-options",   /* it has sent the properties */                                     \
	"old-frozen",    /* it is frozen, and has sent nothing of its state */                \
	"old-half",      /* it has sent the descriptors, but not the state */                 \
	"old-sent",      /* it has sent everything */                                         \
	"old-lost",      /* the new process has the disk */                                   \
	"new-prepared",  /* the new process has an object with the properties */              \
	"new-received",  /* it has received everything */                                     \
	"new-installed", /* its object has the state */                                       \
	"new-owns",      /* it has the disk, but has not told the old process */              \
	"new-told"       /* it has told the old process */

/* --- give.c ---------------------------------------------------------------------------- */

/*
 * Begins to hand the object to the process at `fd`. Takes ownership of `fd`, even on failure. The
 * caller has checked that the object can be handed over.
 */
int vublk_upgrade_give(struct vublk_upgrade_host *host, int fd,
		       const struct vublk_upgrade_extra *extra, size_t extra_bytes,
		       struct vublk_error *error);
/* EBUSY: an upgrade is under way. */
int vublk_upgrade_check_free(const struct vublk_upgrade_host *host, struct vublk_error *error);
/* Writes the section `origin` and one section `option`. For give_options(). */
void vublk_upgrade_put_origin(struct vublk_sections_writer *to, const char *spec);
void vublk_upgrade_put_option(struct vublk_sections_writer *to, const char *name,
			      const char *value, bool is_default);
/* Writes the section with the descriptor of a back-end's image. */
void vublk_upgrade_put_image(struct vublk_sections_writer *to, int fd);

/* --- take.c ---------------------------------------------------------------------------- */

/*
 * Takes an object of the kind `type` over from the process at `fd`, as vublk_bus_take_over() does.
 * Takes ownership of `fd`, even on failure.
 */
int vublk_upgrade_take(const struct vublk_upgrade_type *type, int fd, const struct vublk_log *log,
		       struct vublk_upgrade_host **host, struct vublk_upgrade_extra *extra,
		       size_t extra_bytes, struct vublk_error *error);

/* --- an upgrade that is under way -------------------------------------------------------- */

/* An upgrade at either end. give.c and take.c embed it. */
struct vublk_upgrade {
	void (*step)(struct vublk_upgrade *upgrade);
	void (*free)(struct vublk_upgrade *upgrade);
	int64_t pid; /* the process at the other end */
};

/* Must be called after each turn of the object's loop. */
static inline void vublk_upgrade_step(struct vublk_upgrade_host *host)
{
	if (host->upgrade)
		host->upgrade->step(host->upgrade);
}

/*
 * Must be called when the object is freed: after it has released the disk, because the other
 * process is told, and before its loop and the host's eventfds are closed.
 */
static inline void vublk_upgrade_end(struct vublk_upgrade_host *host)
{
	if (host->upgrade)
		host->upgrade->free(host->upgrade);
}

/* --- owner.c ------------------------------------------------------------------------- */

/* The values of the owner's word, which says which process has the disk. */
enum vublk_upgrade_owner {
	VUBLK_UPGRADE_UNDECIDED = 0,
	VUBLK_UPGRADE_OLD = 1, /* the old process has the disk */
	VUBLK_UPGRADE_NEW = 2,
};

/* Makes a file with an undecided word. Returns its descriptor, or a negative errno. */
int vublk_upgrade_owner_new(struct vublk_error *error);
/* Maps the word. On failure returns NULL, with a sentence in `error`. */
uint32_t *vublk_upgrade_owner_map(int fd, struct vublk_error *error);
void vublk_upgrade_owner_unmap(uint32_t *word);
/* If the word is undecided, stores `owner` in it and returns true. Otherwise returns false. */
bool vublk_upgrade_owner_claim(uint32_t *word, enum vublk_upgrade_owner owner);

/* --- known.c ------------------------------------------------------------------------- */

/* `tables` is the `known` of a type in each of these. */

/* Writes the names of the sections that this version knows, each in a section `knows`. */
void vublk_upgrade_give_known(const struct vublk_section_type *const *tables,
			      struct vublk_sections_writer *to);
/*
 * Adds the section `name`, which the other process knows, to the set `known`. The set begins as 0.
 */
void vublk_upgrade_note_known(const struct vublk_section_type *const *tables, uint64_t *known,
			      const char *name);
/*
 * Checks that the set `known` has all sections that the other process, which has `version`, must
 * know. Error: ENOTSUP and a sentence if a section is missing.
 */
int vublk_upgrade_check_known(const struct vublk_section_type *const *tables, uint64_t known,
			      const char *version, struct vublk_error *error);

#endif
