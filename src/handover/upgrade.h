/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_HANDOVER_UPGRADE_H
#define VUBLK_HANDOVER_UPGRADE_H

/*
 * Hands an object that serves a disk (a bus or a back-end) to another process; see
 * <vublk/upgrade.h>. give.c runs in the old process, and take.c in the new one. docs/upgrade.md
 * describes the exchange of messages.
 *
 * Key idea: the code here handles the order of the messages, the freeze and the owner's word
 * (owner.c), and does not depend on the kind of object. Each kind of object has a struct
 * vublk_upgrade_type, whose functions write and read the state.
 */
#include "proto/handover.h"
#include "util/log.h"
#include "util/loop.h"
#include "util/sections.h"

#include <vublk/upgrade.h>

#define VUBLK_UPGRADE_PREPARE_MS 10000 /* how long the new process may take to prepare */
#define VUBLK_UPGRADE_TOTAL_MS 30000   /* how long the new process may wait for the old one */
#define VUBLK_UPGRADE_FREEZE_MS 50     /* how long the old process may be frozen */

#define VUBLK_UPGRADE_MAX_TABLES 3

struct vublk_upgrade_host;

/*
 * What the new process knows about the object of the old process before it creates its own object.
 * Valid only during the call to which it is passed.
 */
struct vublk_upgrade_origin {
	int64_t pid;
	char version[32];
	char spec[160];    /* as for vublk_bus_open(); empty: the object is not a bus */
	char folder[1024]; /* the working directory of the old process */
	uint64_t folder_device, folder_inode;
	int image_fd; /* the image of a back-end; owned by take.c; -1: none */
};

/* A kind of object. The argument `object` is that of struct vublk_upgrade_host. */
struct vublk_upgrade_type {
	/* The tables of all sections of the state. The array ends with NULL. */
	const struct vublk_section_type *const *known;
	/* How long the old process waits for a moment at which there is no obstacle. */
	unsigned quiet_ms;

	/* --- the old process --- */

	/* Writes the section `origin`, and a section `option` for each option or property. */
	void (*give_options)(const void *object, struct vublk_sections_writer *to);
	/*
	 * Checks that nothing prevents a handover permanently. After prepare(), this is called
	 * after each turn of the loop, because such an obstacle may also arise during the upgrade.
	 * May be NULL.
	 */
	int (*check)(const void *object, struct vublk_error *error);
	/* Called when the new process is prepared. The object should then remove its obstacles. */
	void (*prepare)(void *object);
	/*
	 * Returns why the object cannot be handed over at this moment, as a static string, or NULL
	 * if it can. After prepare(), this is called after each turn of the loop.
	 */
	const char *(*obstacle)(void *object);
	/*
	 * Called when there is no obstacle. Stops the object's threads until cancel() and returns
	 * NULL. If that is not possible now, leaves the threads running and returns the reason as a
	 * static string. May be NULL.
	 */
	const char *(*freeze)(void *object);
	/* Called when the upgrade has failed, and the object has to continue. */
	void (*cancel)(void *object);
	/*
	 * Returns the time since which requests or messages have been waiting, or 0 if they have
	 * waited only since the freeze. May be NULL.
	 */
	uint64_t (*paused_since)(const void *object);
	/* Writes the sections of the state. */
	void (*give)(const void *object, struct vublk_sections_writer *to);
	/*
	 * Called when the new process has the disk. Finishes the object without touching the disk.
	 */
	void (*handed_over)(void *object);

	/* --- the new process --- */

	bool (*knows_option)(const char *spec, const char *name);
	/* Returns whether the object uses a relative path. */
	bool (*has_relative_path)(const struct vublk_upgrade_origin *origin,
				  const struct vublk_option *options);
	/*
	 * Creates an object with these options. The object has no effect outside this process until
	 * begin(). Sets host->is_anothers. `origin` and `options` are borrowed during the call.
	 */
	int (*make)(const struct vublk_upgrade_origin *origin, const struct vublk_option *options,
		    const struct vublk_log *log, struct vublk_upgrade_host **host,
		    struct vublk_error *error);
	/* Stores the tables with which to read the sections of the state. Returns their number. */
	size_t (*tables)(void *object, struct vublk_section_table tables[VUBLK_UPGRADE_MAX_TABLES]);
	/*
	 * Called after all sections have been read. The functions that are called later cannot
	 * fail.
	 */
	int (*end)(void *object, struct vublk_error *error);
	/*
	 * Called when this process has the disk. Wakes everything that may have been waiting. Must
	 * be short.
	 */
	void (*begin)(void *object);
	/*
	 * Called after begin(), when the old process has been told that this process has the disk.
	 * May be NULL.
	 */
	void (*told)(void *object);
	void (*free)(void *object);
};

struct vublk_upgrade;

/* The part of an object that the code here uses. Each object embeds one. */
struct vublk_upgrade_host {
	const struct vublk_upgrade_type *type; /* NULL: the object cannot be handed over */
	void *object;
	const char *kind, *path; /* for log lines: for example "bus", and the path of its socket */
	struct vublk_loop *loop;
	const struct vublk_log *log;
	struct vublk_log_limit *limit;
	/*
	 * Eventfds that a signal handler may signal. The first one stops the object, and the second
	 * one makes it read its size or configuration again. If a signal comes too late for the old
	 * process, the old process passes it on to the new one.
	 */
	int stop_fd, refresh_fd;
	struct vublk_upgrade *upgrade; /* the upgrade that is under way; NULL: no upgrade */
	bool is_anothers; /* another process owns the disk, because this one has handed it over or
			     has not taken it over yet; this process must not remove socket files */
};

/* The points at which tests kill one of the processes (util/kill-point.h). */
#define VUBLK_UPGRADE_KILL_POINTS                                                             \
	"old-asked",     /* the old process has the request for an upgrade */                 \
	"old-options",   /* the old process has sent the properties */                        \
	"old-frozen",    /* the old process is frozen, and has not sent its state */          \
	"old-half",      /* the old process has sent descriptors, but not its state */        \
	"old-sent",      /* the old process has sent everything */                            \
	"old-lost",      /* the new process has the disk */                                   \
	"new-prepared",  /* the new process has an object with the properties */              \
	"new-received",  /* the new process has received everything */                        \
	"new-installed", /* the new process's object has the state */                         \
	"new-owns",      /* the new process has the disk, but has not said so */              \
	"new-told"       /* the new process has told the old one */

/* --- give.c ---------------------------------------------------------------------------- */

/*
 * Begins to hand the object to the process at the other end of `fd`. Takes ownership of `fd`, even
 * on failure. The caller must have checked that the object can be handed over.
 */
int vublk_upgrade_give(struct vublk_upgrade_host *host, int fd,
		       const struct vublk_upgrade_extra *extra, size_t extra_bytes,
		       struct vublk_error *error);
/* Checks that no upgrade is under way. Error: EBUSY if one is. */
int vublk_upgrade_check_free(const struct vublk_upgrade_host *host, struct vublk_error *error);
/*
 * For give_options(). The first function writes the section `origin`, the second one a section
 * `option`.
 */
void vublk_upgrade_put_origin(struct vublk_sections_writer *to, const char *spec);
void vublk_upgrade_put_option(struct vublk_sections_writer *to, const char *name,
			      const char *value, bool is_default);
/* Writes the section with the descriptor of a back-end's image. */
void vublk_upgrade_put_image(struct vublk_sections_writer *to, int fd);

/* --- take.c ---------------------------------------------------------------------------- */

/*
 * Takes an object of the kind `type` over from the process at the other end of `fd`, like
 * vublk_bus_take_over(). Takes ownership of `fd`, even on failure.
 */
int vublk_upgrade_take(const struct vublk_upgrade_type *type, int fd, const struct vublk_log *log,
		       struct vublk_upgrade_host **host, struct vublk_upgrade_extra *extra,
		       size_t extra_bytes, struct vublk_error *error);

/* --- an upgrade that is under way -------------------------------------------------------- */

/* The part of an upgrade that both processes have. give.c and take.c embed it. */
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
 * Must be called when the owner of `host` (a bus or a back-end) is freed. The owner must have
 * released the disk, because this call closes the channel, which tells the other process that the
 * disk is released. The owner's loop and the eventfds of `host` must still be open.
 */
static inline void vublk_upgrade_end(struct vublk_upgrade_host *host)
{
	if (host->upgrade)
		host->upgrade->free(host->upgrade);
}

/* --- owner.c ------------------------------------------------------------------------- */

/* The values of the owner's word, which says which process owns the disk. */
enum vublk_upgrade_owner {
	VUBLK_UPGRADE_UNDECIDED = 0,
	VUBLK_UPGRADE_OLD = 1, /* the old process keeps the disk */
	VUBLK_UPGRADE_NEW = 2,
};

/*
 * Creates a file with an undecided word. Returns the descriptor of the file, or a negative errno.
 */
int vublk_upgrade_owner_new(struct vublk_error *error);
/* Maps the word in the file. On failure returns NULL and fills `error`. */
uint32_t *vublk_upgrade_owner_map(int fd, struct vublk_error *error);
void vublk_upgrade_owner_unmap(uint32_t *word);
/* If the word is undecided, stores `owner` in it and returns true. Otherwise returns false. */
bool vublk_upgrade_owner_claim(uint32_t *word, enum vublk_upgrade_owner owner);

/* --- known.c ------------------------------------------------------------------------- */

/* In each of these functions, `tables` is the member `known` of a type. */

/* Writes a section `knows` for each section that this version knows. */
void vublk_upgrade_give_known(const struct vublk_section_type *const *tables,
			      struct vublk_sections_writer *to);
/*
 * Adds the section `name`, which the other process knows, to the set `known`. The empty set is 0.
 */
void vublk_upgrade_note_known(const struct vublk_section_type *const *tables, uint64_t *known,
			      const char *name);
/*
 * Checks that the other process, whose version is `version`, knows all sections that must not be
 * skipped. `known` is the set of the sections that it knows. Error: ENOTSUP if a section is
 * missing.
 */
int vublk_upgrade_check_known(const struct vublk_section_type *const *tables, uint64_t known,
			      const char *version, struct vublk_error *error);

#endif
