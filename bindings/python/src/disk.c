/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The type Disk: opening, closing, properties and events. See core.h. */
#include "core.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- opening --------------------------------------------------------------------- */

/* Returns a string that is valid as long as `object` exists, or NULL with an exception. */
static const char *to_string(PyObject *object)
{
	Py_ssize_t bytes;
	const char *text = PyUnicode_AsUTF8AndSize(object, &bytes);

	if (text && strlen(text) != (size_t)bytes) {
		PyErr_SetString(PyExc_ValueError, "an option contains a null character");
		return NULL;
	}
	return text;
}

/* Makes the array of options from a tuple (name, value, name, value, ...). The caller frees it. */
static struct vublk_option *to_options(PyObject *tuple)
{
	Py_ssize_t count = PyTuple_Size(tuple) / 2;
	struct vublk_option *options = calloc((size_t)count + 1, sizeof(*options));

	if (!options) {
		PyErr_NoMemory();
		return NULL;
	}
	for (Py_ssize_t i = 0; i < count; i++) {
		options[i].name = to_string(PyTuple_GetItem(tuple, 2 * i));
		options[i].value = to_string(PyTuple_GetItem(tuple, 2 * i + 1));
		if (!options[i].name || !options[i].value) {
			free(options);
			return NULL;
		}
	}
	return options;
}

/* Disk(path, options): begins to connect. `path` is bytes, or None with the option fd. */
static PyObject *disk_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
	struct vublk_error error = { 0 };
	struct vublk_option *options;
	struct core_disk *disk;
	PyObject *tuple, *path_bytes;
	char *path = NULL;
	int r;

	if (!PyArg_ParseTuple(args, "OO!:Disk", &path_bytes, &PyTuple_Type, &tuple))
		return NULL;
	if (path_bytes != Py_None && PyBytes_AsStringAndSize(path_bytes, &path, NULL))
		return NULL;
	options = to_options(tuple);
	if (!options)
		return NULL;
	disk = (struct core_disk *)PyType_GenericAlloc(type, 0);
	if (!disk) {
		free(options);
		return NULL;
	}
	disk->pid = getpid();
	r = vublk_blk_open_start(path, options, NULL, 0, &disk->blk, &error);
	free(options);
	if (r < 0) {
		disk->blk = NULL;
		core_raise(disk, &error);
		Py_CLEAR(disk);
	}
	return (PyObject *)disk;
}

bool core_is_forked(const struct core_disk *disk)
{
	return disk->pid != getpid();
}

/* Checks that the disk can be used, and keeps it from being closed until core_leave(). */
bool core_enter(struct core_disk *disk)
{
	struct vublk_error error = { .code = EBADF };

	if (core_is_forked(disk)) {
		snprintf(error.text, sizeof(error.text),
			 "the disk belongs to process %ld and cannot be used after fork(): open it "
			 "again in this process", (long)disk->pid);
	} else if (!disk->blk) {
		snprintf(error.text, sizeof(error.text), "the disk is closed");
	} else if (disk->is_closing) {
		snprintf(error.text, sizeof(error.text), "the disk is being closed");
	} else {
		disk->calls++;
		return true;
	}
	core_raise(disk, &error);
	return false;
}

void core_leave(struct core_disk *disk)
{
	disk->calls--;
}

static PyObject *opening_fd(PyObject *self, PyObject *args)
{
	struct core_disk *disk = (struct core_disk *)self;
	int fd;

	if (!core_enter(disk))
		return NULL;
	fd = vublk_blk_opening_fd(disk->blk);
	core_leave(disk);
	return PyLong_FromLong(fd);
}

static PyObject *open_finish(PyObject *self, PyObject *args)
{
	struct core_disk *disk = (struct core_disk *)self;
	struct vublk_error error = { 0 };
	int r;

	if (!core_enter(disk))
		return NULL;
	r = vublk_blk_open_finish(disk->blk, &error);
	if (!r)
		disk->is_open = true;
	core_leave(disk);
	if (r < 0 && r != -EAGAIN)
		return core_raise(disk, &error);
	return PyBool_FromLong(!r);
}

/* --- closing ------------------------------------------------------------------------- */

/*
 * Releases the GIL while it closes the disk. During this time is_closing makes other methods fail.
 */
static int close_blk(struct core_disk *disk, int wait_ms, struct vublk_error *error)
{
	int r;

	disk->is_closing = true;
	core_forget_changes(disk);
	Py_BEGIN_ALLOW_THREADS
	r = vublk_blk_close(disk->blk, wait_ms, error);
	Py_END_ALLOW_THREADS
	memset(disk->queues, 0, sizeof(disk->queues));
	disk->blk = NULL;
	disk->is_open = false;
	disk->is_closing = false;
	core_detach_mappings(disk);
	core_drop_requests(disk);
	return r;
}

static PyObject *disk_close(PyObject *self, PyObject *args)
{
	struct core_disk *disk = (struct core_disk *)self;
	struct vublk_error error = { 0 };
	int wait_ms, r;

	if (!PyArg_ParseTuple(args, "i:close", &wait_ms))
		return NULL;
	if (!disk->blk)
		Py_RETURN_NONE;
	if (!core_enter(disk))
		return NULL;
	core_leave(disk);
	if (disk->calls) {
		return core_raise_text(disk, EBUSY,
				       "the disk cannot be closed while another thread uses it: "
				       "wait until that thread's call returns");
	}
	r = close_blk(disk, wait_ms, &error);
	return core_result(disk, r, &error);
}

/*
 * Closes a disk that the program has not closed. Does not do so in a forked process, because the
 * disk's thread does not exist there; such a process leaks the disk.
 */
static void disk_finalize(PyObject *self)
{
	struct core_disk *disk = (struct core_disk *)self;
	PyObject *type, *value, *traceback;

	if (!disk->blk || core_is_forked(disk))
		return;
	PyErr_Fetch(&type, &value, &traceback);
	if (disk->is_open &&
	    PyErr_ResourceWarning(NULL, 1, "a disk was not closed: use close() or `with`"))
		PyErr_WriteUnraisable(NULL);
	close_blk(disk, 0, NULL);
	PyErr_Restore(type, value, traceback);
}

/*
 * When this function runs, no Buffer refers to the disk and no request with memory is in flight,
 * because a Buffer holds a reference to the disk, and a request holds one to its Buffer. So Python
 * code that runs during this function cannot use the disk.
 */
static void disk_dealloc(PyObject *self)
{
	struct core_disk *disk = (struct core_disk *)self;
	PyTypeObject *type = Py_TYPE(self);

	PyObject_GC_UnTrack(self);
	disk_finalize(self);
	core_detach_mappings(disk);
	core_drop_requests(disk);
	PyObject_GC_Del(self);
	Py_DECREF(type);
}

/* There is no tp_clear, because the finalizer closes the disk, which breaks all cycles. */
static int disk_traverse(PyObject *self, visitproc visit, void *arg)
{
	Py_VISIT(Py_TYPE(self));
	return core_visit_requests((struct core_disk *)self, visit, arg);
}

/* --- properties and events ---------------------------------------------------------------- */

static PyObject *disk_info(PyObject *self, PyObject *args)
{
	struct core_disk *disk = (struct core_disk *)self;
	struct vublk_blk_info info;

	if (!core_enter(disk))
		return NULL;
	vublk_blk_get_info(disk->blk, &info, sizeof(info));
	core_leave(disk);
	return Py_BuildValue("{s:K,s:I,s:I,s:I,s:K,s:K,s:K,s:N,s:N,s:N,s:N,s:N,s:I,s:I,s:K}",
			     "size", (unsigned long long)info.capacity_bytes,
			     "block_size", info.block_size_bytes,
			     "physical_block_size", info.physical_block_bytes,
			     "optimal_io_size", info.optimal_io_bytes,
			     "max_discard", (unsigned long long)info.max_discard_bytes,
			     "discard_alignment", (unsigned long long)info.discard_alignment_bytes,
			     "max_write_zeroes", (unsigned long long)info.max_write_zeroes_bytes,
			     "read_only", PyBool_FromLong(info.read_only),
			     "can_flush", PyBool_FromLong(info.flush),
			     "write_cache", PyBool_FromLong(info.write_cache),
			     "can_set_write_cache", PyBool_FromLong(info.can_set_write_cache),
			     "write_zeroes_may_unmap", PyBool_FromLong(info.write_zeroes_may_unmap),
			     "num_queues", info.num_queues,
			     "queue_size", info.queue_size,
			     "features", (unsigned long long)info.features);
}

static PyObject *events_fd(PyObject *self, PyObject *args)
{
	struct core_disk *disk = (struct core_disk *)self;
	struct vublk_error error = { 0 };
	int fd;

	if (!core_enter(disk))
		return NULL;
	fd = vublk_blk_events_fd(disk->blk, &error);
	core_leave(disk);
	return fd < 0 ? core_raise(disk, &error) : PyLong_FromLong(fd);
}

static PyObject *next_event(PyObject *self, PyObject *args)
{
	struct core_disk *disk = (struct core_disk *)self;
	struct vublk_blk_event_info info;
	PyObject *error;
	int r;

	if (!core_enter(disk))
		return NULL;
	r = vublk_blk_next_event(disk->blk, &info, sizeof(info));
	core_leave(disk);
	if (r != 1)
		Py_RETURN_NONE;
	if (!info.error.code)
		return Py_BuildValue("iO", (int)info.event, Py_None);
	error = core_make_error(disk, &info.error);
	return error ? Py_BuildValue("iN", (int)info.event, error) : NULL;
}

static PyObject *get_closed(PyObject *self, void *unused)
{
	return PyBool_FromLong(!((struct core_disk *)self)->blk);
}

static PyMethodDef disk_methods[] = {
	{ "opening_fd", opening_fd, METH_NOARGS,
	  "A descriptor that polls readable when the opening has ended." },
	{ "open_finish", open_finish, METH_NOARGS,
	  "Returns True when the disk is open, and False before." },
	{ "close", disk_close, METH_VARARGS, "close(wait_ms)" },
	{ "info", disk_info, METH_NOARGS, "The properties of the disk, as a dict." },
	{ "events_fd", events_fd, METH_NOARGS, "A descriptor that polls readable while an event waits." },
	{ "next_event", next_event, METH_NOARGS,
	  "Returns (kind, error or None), or None if no event waits." },
	{ "alloc", core_alloc, METH_VARARGS,
	  "alloc(length): a Buffer, which can be used when its finish() has returned True." },
	{ "pread", core_pread, METH_VARARGS, "pread(offset, length)" },
	{ "readinto", core_readinto, METH_VARARGS, "readinto(offset, target)" },
	{ "pwrite", core_pwrite, METH_VARARGS, "pwrite(offset, data, flags)" },
	{ "flush", core_flush, METH_NOARGS, "flush()" },
	{ "discard", core_discard, METH_VARARGS, "discard(offset, length, flags)" },
	{ "write_zeroes", core_write_zeroes, METH_VARARGS, "write_zeroes(offset, length, flags)" },
	{ "set_write_cache", core_set_write_cache, METH_VARARGS, "set_write_cache(on)" },
	{ "add", core_add, METH_VARARGS, "add(queue, kind, offset, memory or length, flags, token)" },
	{ "submit", core_submit, METH_VARARGS, "submit(queue)" },
	{ "poll", core_poll, METH_VARARGS, "poll(queue): a list of (token, error or None)" },
	{ "arm", core_arm, METH_VARARGS, "arm(queue): whether completions may be waiting" },
	{ "queue_fd", core_queue_fd, METH_VARARGS, "queue_fd(queue)" },
	{ "in_flight", core_in_flight, METH_VARARGS, "in_flight(queue)" },
	{ "statistics", core_statistics, METH_NOARGS,
	  "A list of dicts: one for the blocking calls, then one per queue that was used." },
	{ 0 },
};

static PyGetSetDef disk_getset[] = {
	{ "closed", get_closed, NULL, "Whether the disk is closed.", NULL },
	{ 0 },
};

static PyType_Slot disk_slots[] = {
	{ Py_tp_doc, "A disk, for vublk.Disk and vublk.AsyncDisk. Programs use these instead." },
	{ Py_tp_new, disk_new },
	{ Py_tp_finalize, disk_finalize },
	{ Py_tp_dealloc, disk_dealloc },
	{ Py_tp_traverse, disk_traverse },
	{ Py_tp_methods, disk_methods },
	{ Py_tp_getset, disk_getset },
	{ 0 },
};

PyType_Spec core_disk_spec = {
	.name = "vublk._core.Disk",
	.basicsize = sizeof(struct core_disk),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
	.slots = disk_slots,
};
