/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The type Buffer: memory that the back-end reads and writes directly. See core.h.
 *
 * Key idea: the memory is a memfd, which this file maps and registers with the disk. So closing the
 * disk does not unmap the memory, and memoryviews stay valid. A mapping must be kept until the disk
 * has unregistered it. A Buffer that is freed cannot wait for that. So it leaves the mapping in the
 * disk's list, and reap_mappings() unmaps it later.
 */
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct buffer {
	PyObject_HEAD
	struct core_disk *disk;       /* a reference; NULL: released */
	struct core_mapping *mapping; /* NULL: released */
	Py_ssize_t bytes;             /* the length of the Buffer; the mapping is rounded up to
					 whole pages */
	Py_ssize_t exports;
};

/* --- mappings --------------------------------------------------------------------------- */

static void free_mapping(struct core_disk *disk, struct core_mapping *mapping)
{
	struct core_mapping **link = &disk->mappings;

	while (*link != mapping)
		link = &(*link)->next;
	*link = mapping->next;
	munmap(mapping->address, mapping->bytes);
	free(mapping);
}

/* Frees the mappings that the disk has unregistered since the last call. Does not wait. */
static void reap_mappings(struct core_disk *disk)
{
	struct core_mapping *next;

	for (struct core_mapping *mapping = disk->mappings; mapping; mapping = next) {
		next = mapping->next;
		if (mapping->state == CORE_REMOVING && mapping->change &&
		    vublk_blk_change_finish(mapping->change, NULL, NULL) != -EAGAIN)
			free_mapping(disk, mapping);
	}
}

/* Called when the Buffer of the mapping no longer needs it. */
static void drop_mapping(struct core_disk *disk, struct core_mapping *mapping)
{
	if (mapping->state == CORE_DETACHED || core_is_forked(disk)) {
		free_mapping(disk, mapping);
	} else if (disk->is_closing) {
		mapping->state = CORE_REMOVING; /* core_detach_mappings() frees it */
	} else if (mapping->state == CORE_ADDING) {
		vublk_blk_change_cancel(mapping->change);
		free_mapping(disk, mapping);
	} else {
		mapping->state = CORE_REMOVING;
		/* If the call fails, the mapping stays registered until the disk is closed. */
		vublk_blk_unregister_start(disk->blk, mapping->address, &mapping->change, NULL);
		reap_mappings(disk);
	}
}

void core_forget_changes(struct core_disk *disk)
{
	for (struct core_mapping *mapping = disk->mappings; mapping; mapping = mapping->next)
		mapping->change = NULL;
}

void core_detach_mappings(struct core_disk *disk)
{
	struct core_mapping *next;

	for (struct core_mapping *mapping = disk->mappings; mapping; mapping = next) {
		next = mapping->next;
		if (mapping->state == CORE_REMOVING)
			free_mapping(disk, mapping);
		else
			mapping->state = CORE_DETACHED;
	}
}

/*
 * Returns a memfd of `bytes` bytes, or a negative errno. The size is sealed: the back-end gets the
 * descriptor, and if it could shrink the file, an access past the end would raise SIGBUS here.
 */
static int make_memfd(size_t bytes)
{
	int fd = memfd_create("vublk-python", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int r;

	if (fd < 0)
		return -errno;
	if (!ftruncate(fd, (off_t)bytes) && !fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW))
		return fd;
	r = -errno;
	close(fd);
	return r;
}

/*
 * Maps the file `fd` and starts to register the memory. On failure sets an exception and returns
 * false.
 */
static bool register_memory(struct core_disk *disk, struct core_mapping *mapping, int fd)
{
	struct vublk_error error = { 0 };

	mapping->address = mmap(NULL, mapping->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (mapping->address == MAP_FAILED) {
		core_raise_text(disk, errno, "cannot map a buffer: the process has no address "
					     "space left; allocate less");
		return false;
	}
	if (!vublk_blk_register_start(disk->blk, mapping->address, mapping->bytes, fd, 0,
				      &mapping->change, &error))
		return true;
	munmap(mapping->address, mapping->bytes);
	core_raise(disk, &error);
	return false;
}

static struct core_mapping *add_mapping(struct core_disk *disk, Py_ssize_t bytes)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	struct core_mapping *mapping = calloc(1, sizeof(*mapping));
	bool added;
	int fd;

	if (!mapping) {
		PyErr_NoMemory();
		return NULL;
	}
	mapping->bytes = ((size_t)bytes + page - 1) / page * page;
	fd = make_memfd(mapping->bytes);
	if (fd < 0) {
		core_raise_text(disk, -fd, "cannot make a buffer: it is too large, or no memory "
					   "or descriptor is left; allocate less, or close files");
		free(mapping);
		return NULL;
	}
	added = register_memory(disk, mapping, fd);
	close(fd);
	if (!added) {
		free(mapping);
		return NULL;
	}
	mapping->state = CORE_ADDING;
	mapping->next = disk->mappings;
	disk->mappings = mapping;
	return mapping;
}

/* --- the Python type ---------------------------------------------------------------------- */

PyObject *core_alloc(PyObject *self, PyObject *args)
{
	struct core_disk *disk = (struct core_disk *)self;
	struct core_state *state = PyType_GetModuleState(Py_TYPE(self));
	struct buffer *buffer;
	Py_ssize_t bytes;

	if (!PyArg_ParseTuple(args, "n:alloc", &bytes))
		return NULL;
	if (bytes <= 0) {
		return core_raise_text(disk, EINVAL,
				       "the length of a buffer must be positive");
	}
	if (!core_enter(disk))
		return NULL;
	buffer = (struct buffer *)PyType_GenericAlloc((PyTypeObject *)state->buffer_type, 0);
	if (buffer) {
		reap_mappings(disk);
		buffer->bytes = bytes;
		buffer->mapping = add_mapping(disk, bytes);
		if (buffer->mapping) {
			Py_INCREF(self);
			buffer->disk = disk;
		} else {
			Py_CLEAR(buffer);
		}
	}
	core_leave(disk);
	return (PyObject *)buffer;
}

static void drop(struct buffer *buffer)
{
	struct core_disk *disk = buffer->disk;

	buffer->disk = NULL;
	if (buffer->mapping)
		drop_mapping(disk, buffer->mapping);
	buffer->mapping = NULL;
	Py_XDECREF((PyObject *)disk);
}

static PyObject *buffer_release(PyObject *self, PyObject *args)
{
	struct buffer *buffer = (struct buffer *)self;

	if (buffer->exports) {
		PyErr_SetString(PyExc_BufferError,
				"the buffer is in use: release its memoryviews, and wait for its "
				"requests");
		return NULL;
	}
	drop(buffer);
	Py_RETURN_NONE;
}

/*
 * Returns a descriptor that polls readable when the registration has ended. Returns -1 after
 * finish() has returned the result.
 */
static PyObject *get_fd(PyObject *self, void *unused)
{
	const struct core_mapping *mapping = ((struct buffer *)self)->mapping;

	return PyLong_FromLong(mapping && mapping->state == CORE_ADDING && mapping->change ?
			       vublk_blk_change_fd(mapping->change) : -1);
}

/* Returns False while the registration is in progress. When it has ended, returns True or fails. */
static PyObject *buffer_finish(PyObject *self, PyObject *args)
{
	struct buffer *buffer = (struct buffer *)self;
	struct core_mapping *mapping = buffer->mapping;
	struct core_disk *disk = buffer->disk;
	struct vublk_error error = { 0 };
	int r;

	if (!mapping || mapping->state == CORE_READY)
		Py_RETURN_TRUE;
	if (!core_enter(disk))
		return NULL;
	r = vublk_blk_change_finish(mapping->change, NULL, &error);
	core_leave(disk);
	if (r == -EAGAIN)
		Py_RETURN_FALSE;
	mapping->change = NULL;
	mapping->state = r ? CORE_DETACHED : CORE_READY;
	if (!r)
		Py_RETURN_TRUE;
	core_raise(disk, &error);
	drop(buffer);
	return NULL;
}

static int buffer_get(PyObject *self, Py_buffer *view, int flags)
{
	struct buffer *buffer = (struct buffer *)self;

	if (!buffer->mapping || buffer->mapping->state == CORE_ADDING) {
		view->obj = NULL;
		PyErr_SetString(PyExc_BufferError, buffer->mapping ?
				"the buffer is not ready: call finish() until it returns True" :
				"the buffer was released");
		return -1;
	}
	if (PyBuffer_FillInfo(view, self, buffer->mapping->address, buffer->bytes, 0, flags))
		return -1;
	buffer->exports++;
	return 0;
}

static void buffer_put(PyObject *self, Py_buffer *view)
{
	((struct buffer *)self)->exports--;
}

static Py_ssize_t buffer_length(PyObject *self)
{
	return ((struct buffer *)self)->bytes;
}

static PyObject *buffer_view(PyObject *self, PyObject *args)
{
	return PyMemoryView_FromObject(self);
}

static void buffer_dealloc(PyObject *self)
{
	PyTypeObject *type = Py_TYPE(self);

	PyObject_GC_UnTrack(self);
	drop((struct buffer *)self);
	PyObject_GC_Del(self);
	Py_DECREF(type);
}

static int buffer_traverse(PyObject *self, visitproc visit, void *arg)
{
	Py_VISIT(Py_TYPE(self));
	Py_VISIT((PyObject *)((struct buffer *)self)->disk);
	return 0;
}

static PyMethodDef buffer_methods[] = {
	{ "view", buffer_view, METH_NOARGS, "Returns a memoryview of the memory." },
	{ "release", buffer_release, METH_NOARGS,
	  "Frees the memory. Fails with BufferError while a memoryview or a request uses it." },
	{ "finish", buffer_finish, METH_NOARGS,
	  "Returns True when the memory is registered with the disk, and False before." },
	{ 0 },
};

static PyGetSetDef buffer_getset[] = {
	{ "fd", get_fd, NULL,
	  "A descriptor that polls readable when finish() has a result; -1 afterwards.", NULL },
	{ 0 },
};

static PyType_Slot buffer_slots[] = {
	{ Py_tp_doc, "Memory that the back-end reads and writes directly, from alloc() of a disk. "
		     "Stays valid when the disk is closed." },
	{ Py_tp_dealloc, buffer_dealloc },
	{ Py_tp_traverse, buffer_traverse },
	{ Py_tp_methods, buffer_methods },
	{ Py_tp_getset, buffer_getset },
	{ Py_bf_getbuffer, buffer_get },
	{ Py_bf_releasebuffer, buffer_put },
	{ Py_sq_length, buffer_length },
	{ 0 },
};

PyType_Spec core_buffer_spec = {
	.name = "vublk._core.Buffer",
	.basicsize = sizeof(struct buffer),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
	.slots = buffer_slots,
};
