/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Calls that wait for the back-end: <vublk/blocking.h>, and the write cache. They release the GIL,
 * so that other Python threads can run. See core.h.
 */
#include "core.h"

/* The arguments of one call, which is made without the GIL. */
struct call {
	struct core_disk *disk;
	uint64_t offset, bytes;
	void *memory;
	unsigned flags;
	int (*function)(const struct call *call, struct vublk_error *error);
};

static PyObject *make(const struct call *call)
{
	struct vublk_error error = { 0 };
	int r;

	if (!core_enter(call->disk))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	r = call->function(call, &error);
	Py_END_ALLOW_THREADS
	core_leave(call->disk);
	return core_result(call->disk, r, &error);
}

static int do_read(const struct call *call, struct vublk_error *error)
{
	return vublk_blk_pread(call->disk->blk, call->offset, call->memory, call->bytes, 0, error);
}

static int do_write(const struct call *call, struct vublk_error *error)
{
	return vublk_blk_pwrite(call->disk->blk, call->offset, call->memory, call->bytes,
				call->flags, error);
}

static int do_flush(const struct call *call, struct vublk_error *error)
{
	return vublk_blk_pflush(call->disk->blk, 0, error);
}

static int do_discard(const struct call *call, struct vublk_error *error)
{
	return vublk_blk_pdiscard(call->disk->blk, call->offset, call->bytes, call->flags, error);
}

static int do_write_zeroes(const struct call *call, struct vublk_error *error)
{
	return vublk_blk_pwrite_zeroes(call->disk->blk, call->offset, call->bytes, call->flags,
				       error);
}

static int do_set_write_cache(const struct call *call, struct vublk_error *error)
{
	return vublk_blk_set_write_cache(call->disk->blk, call->flags, error);
}

PyObject *core_pread(PyObject *self, PyObject *args)
{
	struct call call = { .disk = (struct core_disk *)self, .function = do_read };
	PyObject *data, *done;
	Py_ssize_t bytes;

	if (!PyArg_ParseTuple(args, "O&n:pread", core_to_u64, &call.offset, &bytes))
		return NULL;
	if (bytes < 0) {
		PyErr_SetString(PyExc_ValueError, "the length of a read must not be negative");
		return NULL;
	}
	data = PyBytes_FromStringAndSize(NULL, bytes);
	if (!data)
		return NULL;
	call.bytes = (uint64_t)bytes;
	call.memory = PyBytes_AsString(data);
	done = make(&call);
	if (!done)
		Py_CLEAR(data);
	Py_XDECREF(done);
	return data;
}

PyObject *core_readinto(PyObject *self, PyObject *args)
{
	struct call call = { .disk = (struct core_disk *)self, .function = do_read };
	PyObject *done;
	Py_buffer view;

	if (!PyArg_ParseTuple(args, "O&w*:readinto", core_to_u64, &call.offset, &view))
		return NULL;
	call.memory = view.buf;
	call.bytes = (uint64_t)view.len;
	done = make(&call);
	PyBuffer_Release(&view);
	return done;
}

PyObject *core_pwrite(PyObject *self, PyObject *args)
{
	struct call call = { .disk = (struct core_disk *)self, .function = do_write };
	PyObject *done;
	Py_buffer view;

	if (!PyArg_ParseTuple(args, "O&y*I:pwrite", core_to_u64, &call.offset, &view, &call.flags))
		return NULL;
	call.memory = view.buf;
	call.bytes = (uint64_t)view.len;
	done = make(&call);
	PyBuffer_Release(&view);
	return done;
}

PyObject *core_flush(PyObject *self, PyObject *args)
{
	struct call call = { .disk = (struct core_disk *)self, .function = do_flush };

	return make(&call);
}

/* Makes a call that has an offset, a number of bytes and flags. */
static PyObject *make_with_range(struct call *call, PyObject *args, const char *format)
{
	if (!PyArg_ParseTuple(args, format, core_to_u64, &call->offset, core_to_u64, &call->bytes,
			      &call->flags))
		return NULL;
	return make(call);
}

PyObject *core_discard(PyObject *self, PyObject *args)
{
	struct call call = { .disk = (struct core_disk *)self, .function = do_discard };

	return make_with_range(&call, args, "O&O&I:discard");
}

PyObject *core_write_zeroes(PyObject *self, PyObject *args)
{
	struct call call = { .disk = (struct core_disk *)self, .function = do_write_zeroes };

	return make_with_range(&call, args, "O&O&I:write_zeroes");
}

PyObject *core_set_write_cache(PyObject *self, PyObject *args)
{
	struct call call = { .disk = (struct core_disk *)self, .function = do_set_write_cache };
	int on;

	if (!PyArg_ParseTuple(args, "p:set_write_cache", &on))
		return NULL;
	call.flags = (unsigned)on;
	return make(&call);
}
