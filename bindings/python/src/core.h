/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PYTHON_CORE_H
#define VUBLK_PYTHON_CORE_H

/*
 * The extension module vublk._core: <vublk/blk.h> and <vublk/blocking.h> as the Python types Disk
 * and Buffer. The Python files of the package add waiting, queues and asyncio.
 *
 * Key idea: the GIL is the only lock. All calls except those of blocking.c and Disk.close() keep
 * the GIL, because they never wait for the back-end. The disk's own thread never calls Python:
 * descriptors tell Python code that there are events or completions.
 *
 * Misuse must not crash the interpreter. So each method calls core_enter(), which refuses a closed
 * disk and a forked process, and the disk is not closed before the matching core_leave(). The
 * module maps the memory of Buffers itself and registers it with the disk, because memory of
 * vublk_blk_alloc() would be unmapped when the disk is closed.
 *
 * The module uses the stable ABI only.
 */
#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <vublk/blk.h>
#include <vublk/blocking.h>

#include <stdbool.h>
#include <stdint.h>

struct core_state {
	PyObject *error; /* the class vublk.Error */
	PyObject *buffer_type;
};

/*
 * The mapped memory of a Buffer. It exists from the registration until neither the disk nor the
 * Buffer needs it.
 */
struct core_mapping {
	struct core_mapping *next;
	void *address;
	size_t bytes;
	enum core_mapping_state {
		CORE_ADDING,   /* `change` is registering the memory */
		CORE_READY,
		CORE_REMOVING, /* the Buffer is freed; `change` is unregistering the memory. NULL:
				  the memory stays registered until the disk is closed */
		CORE_DETACHED, /* the disk is closed, or the registration has failed */
	} state;
	struct vublk_blk_change *change;
};

/*
 * A request in flight. `view` keeps the memory of the request valid, and `token` is returned with
 * the completion.
 */
struct core_request {
	struct core_request *next, *previous;
	PyObject *token;
	Py_buffer view; /* `obj` NULL: the request has no memory */
};

struct core_disk {
	PyObject_HEAD
	struct vublk_blk *blk; /* NULL: closed */
	pid_t pid;             /* the process that opened the disk */
	bool is_open;          /* the opening has succeeded */
	bool is_closing;
	unsigned calls;        /* how many methods are being executed; close() fails if there are
				  any */
	struct core_request *requests;
	struct core_mapping *mappings;
	struct vublk_blk_queue *queues[VUBLK_MAX_QUEUES]; /* the queues that the caller has used;
							     NULL: not used */
};

/* --- module.c ------------------------------------------------------------------ */

/* These functions set the exception vublk.Error and return NULL. */
PyObject *core_raise(struct core_disk *disk, const struct vublk_error *error);
PyObject *core_raise_text(struct core_disk *disk, int code, const char *text);
/* Returns a new object of the class vublk.Error. */
PyObject *core_make_error(struct core_disk *disk, const struct vublk_error *error);
/* Returns None, or NULL with an exception if `r` is an error. */
PyObject *core_result(struct core_disk *disk, int r, const struct vublk_error *error);
/* A converter for PyArg_ParseTuple(): an int in the range of uint64_t. */
int core_to_u64(PyObject *object, void *value);

/* --- disk.c ---------------------------------------------------------------------- */

extern PyType_Spec core_disk_spec;
bool core_enter(struct core_disk *disk);
void core_leave(struct core_disk *disk);
bool core_is_forked(const struct core_disk *disk);

/* --- blocking.c: these calls release the GIL. */

PyObject *core_pread(PyObject *self, PyObject *args);
PyObject *core_readinto(PyObject *self, PyObject *args);
PyObject *core_pwrite(PyObject *self, PyObject *args);
PyObject *core_flush(PyObject *self, PyObject *args);
PyObject *core_discard(PyObject *self, PyObject *args);
PyObject *core_write_zeroes(PyObject *self, PyObject *args);
PyObject *core_set_write_cache(PyObject *self, PyObject *args);

/* --- queue.c ---------------------------------------------------------------------- */

PyObject *core_add(PyObject *self, PyObject *args);
PyObject *core_submit(PyObject *self, PyObject *args);
PyObject *core_poll(PyObject *self, PyObject *args);
PyObject *core_arm(PyObject *self, PyObject *args);
PyObject *core_queue_fd(PyObject *self, PyObject *args);
PyObject *core_in_flight(PyObject *self, PyObject *args);
PyObject *core_statistics(PyObject *self, PyObject *args);
int core_visit_requests(struct core_disk *disk, visitproc visit, void *arg);
/* Frees the requests of a disk that is closed. */
void core_drop_requests(struct core_disk *disk);

/* --- buffer.c --------------------------------------------------------------------- */

extern PyType_Spec core_buffer_spec;
PyObject *core_alloc(PyObject *self, PyObject *args);
/* Must be called before vublk_blk_close(), which frees the changes of all mappings. */
void core_forget_changes(struct core_disk *disk);
/* Must be called after vublk_blk_close(). Frees the mappings that no Buffer needs. */
void core_detach_mappings(struct core_disk *disk);

#endif
