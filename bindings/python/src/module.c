/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The module: its types, its constants, and how errors become exceptions. See core.h. */
#include "core.h"

#include <vublk/statistics.h>
#include <vublk/version.h>

#include <string.h>

static const char error_doc[] =
	"A call or a request has failed. errno is the code, and strerror is the library's sentence.";

PyObject *core_make_error(struct core_disk *disk, const struct vublk_error *error)
{
	struct core_state *state = PyType_GetModuleState(Py_TYPE((PyObject *)disk));

	if (!state)
		return NULL;
	return PyObject_CallFunction(state->error, "is", error->code, error->text);
}

PyObject *core_raise(struct core_disk *disk, const struct vublk_error *error)
{
	PyObject *exception = core_make_error(disk, error);

	if (exception) {
		PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
		Py_DECREF(exception);
	}
	return NULL;
}

PyObject *core_raise_text(struct core_disk *disk, int code, const char *text)
{
	struct vublk_error error = { .code = code };

	strncpy(error.text, text, sizeof(error.text) - 1);
	return core_raise(disk, &error);
}

PyObject *core_result(struct core_disk *disk, int r, const struct vublk_error *error)
{
	if (r < 0)
		return core_raise(disk, error);
	Py_RETURN_NONE;
}

int core_to_u64(PyObject *object, void *value)
{
	PyObject *index = PyNumber_Index(object);
	unsigned long long number;

	if (!index)
		return 0;
	number = PyLong_AsUnsignedLongLong(index);
	Py_DECREF(index);
	if (PyErr_Occurred())
		return 0;
	*(uint64_t *)value = number;
	return 1;
}

static int add_constants(PyObject *module)
{
	static const struct { const char *name; int value; } constants[] = {
		{ "READ", VUBLK_REQUEST_READ },
		{ "WRITE", VUBLK_REQUEST_WRITE },
		{ "FLUSH", VUBLK_REQUEST_FLUSH },
		{ "DISCARD", VUBLK_REQUEST_DISCARD },
		{ "WRITE_ZEROES", VUBLK_REQUEST_WRITE_ZEROES },
		{ "FUA", VUBLK_BLK_FUA },
		{ "NO_UNMAP", VUBLK_BLK_NO_UNMAP },
		{ "RESIZED", VUBLK_BLK_RESIZED },
		{ "CONFIG_CHANGED", VUBLK_BLK_CONFIG_CHANGED },
		{ "GAVE_UP", VUBLK_BLK_GAVE_UP },
		{ "LOST", VUBLK_BLK_LOST },
		{ "RECONNECTED", VUBLK_BLK_RECONNECTED },
		{ "WRITES_LOST", VUBLK_BLK_WRITES_LOST },
	};

	for (size_t i = 0; i < sizeof(constants) / sizeof(constants[0]); i++) {
		if (PyModule_AddIntConstant(module, constants[i].name, constants[i].value))
			return -1;
	}
	return 0;
}

static PyObject *add_type(PyObject *module, PyType_Spec *spec)
{
	PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);

	if (type && PyModule_AddType(module, (PyTypeObject *)type))
		Py_CLEAR(type);
	return type;
}

static int module_exec(PyObject *module)
{
	struct core_state *state = PyModule_GetState(module);
	PyObject *disk_type;

	state->error = PyErr_NewExceptionWithDoc("vublk.Error", error_doc, PyExc_OSError, NULL);
	if (!state->error || PyModule_AddObjectRef(module, "Error", state->error))
		return -1;
	state->buffer_type = add_type(module, &core_buffer_spec);
	if (!state->buffer_type)
		return -1;
	disk_type = add_type(module, &core_disk_spec);
	if (!disk_type)
		return -1;
	Py_DECREF(disk_type);
	return add_constants(module);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
	struct core_state *state = PyModule_GetState(module);

	Py_VISIT(state->error);
	Py_VISIT(state->buffer_type);
	return 0;
}

static int module_clear(PyObject *module)
{
	struct core_state *state = PyModule_GetState(module);

	Py_CLEAR(state->error);
	Py_CLEAR(state->buffer_type);
	return 0;
}

static PyObject *library_version(PyObject *module, PyObject *args)
{
	return PyUnicode_FromString(vublk_version());
}

static PyMethodDef module_methods[] = {
	{ "version", library_version, METH_NOARGS, "Returns the version of libvublk." },
	{ 0 },
};

static PyModuleDef_Slot module_slots[] = {
	{ Py_mod_exec, module_exec },
	{ 0 },
};

static struct PyModuleDef module_definition = {
	PyModuleDef_HEAD_INIT,
	.m_name = "vublk._core",
	.m_size = sizeof(struct core_state),
	.m_methods = module_methods,
	.m_slots = module_slots,
	.m_traverse = module_traverse,
	.m_clear = module_clear,
};

PyMODINIT_FUNC PyInit__core(void);

PyMODINIT_FUNC PyInit__core(void)
{
	return PyModuleDef_Init(&module_definition);
}
