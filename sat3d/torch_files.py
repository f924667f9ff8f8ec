"""The layouts of torch.save, and the names that checkpoints mention, each with our own meaning."""

import struct
from collections.abc import Iterable

import torch

from sat3d.archives import members
from sat3d.errors import InputError
from sat3d.pickles import (
    Array,
    Budget,
    Builder,
    Cursor,
    Dtype,
    Known,
    Module,
    Names,
    no_persistent,
    read_pickle,
)
from sat3d.stored import DTYPES, Region, Storage, StoredTensor, shown, stored_tensor

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_PERSISTENCE_VERSION = 6
_LARGEST_SMALL = 4096

# Name in torch -> number type; the markers stand for the classes, which are never touched.
_STORAGES = {f"torch.{name}Storage": dtype for name, dtype in DTYPES.items()}
_NUMPY = {
    "f2": torch.float16, "f4": torch.float32, "f8": torch.float64, "i1": torch.int8,
    "i2": torch.int16, "i4": torch.int32, "i8": torch.int64, "u1": torch.uint8, "b1": torch.bool,
}  # fmt: skip
_SCALARS = {"f2": "e", "f4": "f", "f8": "d", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B",
            "u2": "H", "u4": "I", "u8": "Q", "b1": "?"}  # fmt: skip


def allowed_names(budget: Budget, classes: Iterable[str] = ()) -> Names:
    """The whole list. ``classes`` are read as inert :class:`Module` records.

    Nothing on it is code of the file, of torch or of numpy.
    """
    builders: dict[str, Builder] = {
        "collections.OrderedDict": _empty_dict,
        "dnnlib.util.EasyDict": _empty_dict,
        "builtins.set": _list_of,
        "__builtin__.set": _list_of,
        "torch.Size": _tuple_of,
        "torch.device": _device,
        "torch._utils._rebuild_tensor": _tensor,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_parameter": _parameter,
        "torch._utils._rebuild_parameter_with_state": _parameter,
        "torch.storage._load_from_bytes": lambda args: _embedded(args, budget),
        "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
        "_codecs.encode": _encoded,
        "numpy.dtype": _dtype,
        "numpy.ndarray": _inert("numpy.ndarray"),
    }
    for package in ("numpy.core", "numpy._core"):
        builders[f"{package}.multiarray.scalar"] = _scalar
        builders[f"{package}.multiarray._reconstruct"] = lambda args: Array()
    for name in ("argparse.Namespace", *classes):
        builders[name] = _inert(name)
    names = {name: Known(name, build) for name, build in builders.items()}
    return names | _storage_names()


def _storage_names() -> Names:
    return {name: Known(name, _no_call) for name in _STORAGES}


def _no_call(args: tuple[object, ...]) -> object:
    raise InputError("its pickle calls a storage class: not allowed")


def _inert(name: str) -> Builder:
    # Arguments of a constructor are of no use without the class.
    return lambda args: Module(name)


def _empty_dict(args: tuple[object, ...]) -> object:
    if args:
        raise InputError("its pickle makes a dict of arguments: not allowed")
    return {}


def _list_of(args: tuple[object, ...]) -> object:
    if len(args) != 1 or type(args[0]) is not list:
        raise InputError("its pickle makes a set of something that is no list: damaged")
    return args[0]


def _tuple_of(args: tuple[object, ...]) -> object:
    if len(args) != 1 or not isinstance(args[0], tuple):
        raise InputError("its pickle makes a shape of something that is no tuple: damaged")
    return args[0]


def _device(args: tuple[object, ...]) -> object:
    return args[0] if args and isinstance(args[0], str) else None


def _tensor(args: tuple[object, ...]) -> object:
    if len(args) < 4 or not isinstance(args[0], Storage):
        raise InputError("its pickle makes a tensor without a storage: damaged")
    return stored_tensor(args[0], *args[1:4])


def _parameter(args: tuple[object, ...]) -> object:
    if not args or not isinstance(args[0], StoredTensor):
        raise InputError("its pickle makes a parameter of something that is no tensor: damaged")
    return args[0]


def _persistent_object(args: tuple[object, ...]) -> object:
    """An object whose source text travels with it; the text is neither run nor kept."""
    meta = args[0] if len(args) == 1 else None
    if type(meta) is not dict or meta.get("type") != "class":
        raise InputError("its pickle has an object with embedded source that is no class")
    if meta.get("version") != _PERSISTENCE_VERSION:
        raise InputError(
            f"it has persistence version {shown(meta.get('version'))}; "
            f"this version reads {_PERSISTENCE_VERSION}"
        )
    name, state = meta.get("class_name"), meta.get("state")
    if not isinstance(name, str) or type(state) is not dict:
        raise InputError("its pickle has an object without class name or state: damaged")
    return Module(name, state)


def _encoded(args: tuple[object, ...]) -> object:
    """Bytes as protocol 2 writes them, of numpy scalars and their like: kept as plain text."""
    if len(args) != 2 or not isinstance(args[0], str) or args[1] not in ("latin1", "latin-1"):
        raise InputError("its pickle encodes text in an unusual way: not allowed")
    return args[0]


def _small(value: object) -> bytes:
    if isinstance(value, str) and len(value) <= _LARGEST_SMALL:
        return value.encode("latin-1")
    if isinstance(value, Region) and value.length <= _LARGEST_SMALL:
        return value.read()
    raise InputError(f"its pickle has {shown(value)} where a few bytes belong: damaged")


def _dtype(args: tuple[object, ...]) -> object:
    code = args[0] if args else None
    if not isinstance(code, str) or code not in _SCALARS:
        raise InputError(
            f"it has numpy numbers of type {shown(code)}; allowed: {', '.join(_SCALARS)}"
        )
    return Dtype(code)


def _scalar(args: tuple[object, ...]) -> object:
    if len(args) != 2 or not isinstance(args[0], Dtype):
        raise InputError("its pickle has a numpy number without a type: damaged")
    return struct.unpack("<" + _SCALARS[args[0].code], _small(args[1]))[0]


def array_tensor(array: Array) -> StoredTensor:
    """A numpy array as a tensor. Raises InputError for one that is no plain array of numbers."""
    if len(array.content) != 5:
        raise InputError("it has a numpy array without contents: damaged")
    _, shape, dtype, columns_first, data = array.content
    kind = _NUMPY.get(dtype.code) if isinstance(dtype, Dtype) else None
    if kind is None or columns_first or not isinstance(data, Region):
        raise InputError("it has a numpy array that is no plain array of numbers")
    storage = Storage(kind, data.length // kind.itemsize)
    storage.place(data)
    sizes = shape if isinstance(shape, tuple) else ()
    whole = stored_tensor(storage, 0, (storage.count,), (1,))
    numbers = all(type(size) is int and size >= 0 for size in sizes)
    return whole.reshaped(*sizes) if numbers and len(sizes) <= 8 else whole


def _storage(reference: object, file_size: int) -> tuple[str, Storage]:
    """(key, storage) of a reference ('storage', type, key, location, count[, None])."""
    if not isinstance(reference, tuple) or len(reference) not in (5, 6):
        raise InputError(f"it refers to {shown(reference)} outside its pickle: not allowed")
    kind, marker, key, _, count = reference[:5]  # where it was on the writer's machine: ignored
    if kind != "storage" or not isinstance(marker, Known) or marker.name not in _STORAGES:
        raise InputError(f"it refers to {shown(kind)} outside its pickle: not a storage")
    if len(reference) == 6 and reference[5] is not None:
        raise InputError("it has a storage that is a view of another: not supported")
    dtype = _STORAGES[marker.name]
    if not isinstance(key, str) or type(count) is not int or count < 0:
        raise InputError("it has a storage without a name or size: damaged")
    if count * dtype.itemsize > file_size:
        raise InputError(f"a storage claims {shown(count)} numbers, more than the file holds")
    return key, Storage(dtype, count)


class _Storages:
    """The storages that one pickle refers to, by key: one each, however often it is named."""

    def __init__(self, file_size: int) -> None:
        self.file_size = file_size
        self.by_key: dict[str, Storage] = {}

    def __call__(self, reference: object) -> Storage:
        key, storage = _storage(reference, self.file_size)
        known = self.by_key.setdefault(key, storage)
        if (known.dtype, known.count) != (storage.dtype, storage.count):
            raise InputError(f"it names storage {shown(key)} with two sizes or types: damaged")
        return known


def _embedded(args: tuple[object, ...], budget: Budget) -> object:
    if len(args) != 1 or not isinstance(args[0], Region):
        raise InputError("its pickle has a storage without bytes: damaged")
    # Only storage classes may be named inside, so that nothing nests further.
    value = read_legacy(args[0], _storage_names(), budget)
    if not isinstance(value, Storage):
        raise InputError(f"the bytes of a storage hold {shown(value)}: damaged")
    return value


def is_legacy(region: Region) -> bool:
    """True if the region begins as torch.save's old layout (a pickled number)."""
    start = b"\x80\x02\x8a\n" + LEGACY_MAGIC.to_bytes(10, "little") + b"."
    return region.length > len(start) and region.part(0, len(start)).read() == start


def read_legacy(region: Region, names: Names, budget: Budget) -> object:
    """The value in a file of torch.save's old layout: five pickles, then the storages."""
    if not is_legacy(region):
        raise InputError("a storage in it does not begin as torch writes them: damaged")
    cursor = Cursor(region)
    plain: Names = {}
    read_pickle(cursor, plain, budget)
    version = read_pickle(cursor, plain, budget)
    system = read_pickle(cursor, plain, budget)
    if version != _LEGACY_VERSION or type(system) is not dict:
        raise InputError(f"it has torch's layout {shown(version)}; allowed: {_LEGACY_VERSION}")
    if system.get("little_endian") is not True:
        raise InputError("it was written on a big-endian machine, which is not supported")
    storages = _Storages(region.length)
    value = read_pickle(cursor, names, budget, storages)
    keys = read_pickle(cursor, plain, budget)
    if type(keys) is not list:
        raise InputError("it has no list of storages: damaged")
    for key in keys:
        storage = storages.by_key.pop(key, None) if isinstance(key, str) else None
        if storage is None:
            raise InputError(f"it lists storage {shown(key)}, which nothing uses: damaged")
        if cursor.number(8) != storage.count:
            raise InputError(f"storage {shown(key)} has another size than claimed: damaged")
        storage.place(cursor.skip(storage.count * storage.dtype.itemsize))
    if storages.by_key:
        raise InputError(f"it lacks storage {shown(min(storages.by_key))}: damaged")
    if cursor.remaining:
        raise InputError(f"it has {cursor.remaining} bytes after its storages: damaged")
    return value


def read_zip(file: Region, names: Names, budget: Budget) -> object:
    """The value in a file of torch.save's zip layout."""
    found = members(file)
    top = [name.removesuffix("data.pkl") for name in found if name.endswith("/data.pkl")]
    if len(top) != 1 or top[0].count("/") != 1:
        raise InputError("it is a zip archive, but not one written by torch.save")
    prefix = top[0]
    if any(name.startswith(f"{prefix}code/") or name == f"{prefix}constants.pkl" for name in found):
        raise InputError("it is a TorchScript archive, which carries code; save a state dict")
    order = found.get(f"{prefix}byteorder")
    if order is not None and _small(order) != b"little":
        raise InputError("it was written on a big-endian machine, which is not supported")
    storages = _Storages(file.length)
    cursor = Cursor(found[f"{prefix}data.pkl"])
    value = read_pickle(cursor, names, budget, storages)
    if cursor.remaining:
        raise InputError(f"it has {cursor.remaining} bytes after its pickle: damaged")
    for key, storage in storages.by_key.items():
        region = found.get(f"{prefix}data/{key}")
        if region is None:
            raise InputError(f"its archive lacks storage {shown(key)}: damaged")
        storage.place(region)
    return value


def read_plain(file: Region, names: Names, budget: Budget) -> object:
    """The value in a file that is one pickle."""
    cursor = Cursor(file)
    value = read_pickle(cursor, names, budget, no_persistent)
    if cursor.remaining:
        raise InputError(f"it has {cursor.remaining} bytes after its pickle: damaged")
    return value
