"""The reader of pickles and of torch's layouts, against pickle and torch on files they trust."""

import argparse
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from recipes import hostile
from sat3d.errors import InputError
from sat3d.foreign import open_checkpoint, state_dict, tensor_of
from sat3d.pickles import Module
from sat3d.stored import Storage, StoredTensor, stored_tensor

PLAIN = {
    "none": None,
    "flags": [True, False],
    "integers": [0, 1, -1, 255, 256, 65535, 65536, -(2**31), 2**31, 2**70, -(2**70)],
    "numbers": [0.5, -1e300, float("inf")],
    "texts": ["", "ä", "x" * 300, "\U0001f600"],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "dicts": {"a": {}, 7: {"b": [{}]}},
    "shared": [[1]] * 2,
}


def written(folder, value, protocol):
    path = folder / f"p{protocol}.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_are_read_as_pickle_reads_them(tmp_path, protocol):
    with open_checkpoint(written(tmp_path, PLAIN, protocol)) as checkpoint:
        assert checkpoint.root == PLAIN
        assert checkpoint.layout == "pickle"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_sets_become_lists_and_other_dicts_plain_ones(tmp_path, protocol):
    value = {"set": {1, 2}, "empty": set(), "ordered": OrderedDict(a=1)}
    with open_checkpoint(written(tmp_path, value, protocol)) as checkpoint:
        assert checkpoint.root == {"set": [1, 2], "empty": [], "ordered": {"a": 1}}


@pytest.mark.parametrize("protocol", [3, 4])
def test_numpy_numbers_and_arrays_are_read(tmp_path, protocol):
    value = {"gain": np.float64(1.5), "count": np.int64(-3), "array": np.arange(6.0).reshape(2, 3)}
    with open_checkpoint(written(tmp_path, value, protocol)) as checkpoint:
        assert checkpoint.root["gain"] == 1.5
        assert checkpoint.root["count"] == -3
        read = tensor_of(checkpoint.root["array"]).read()
    assert torch.equal(read, torch.arange(6.0, dtype=torch.float64).reshape(2, 3))


def tensors():
    base = torch.arange(24.0)
    return {
        **{str(t): torch.ones(3).to(t) for t in (torch.float16, torch.bfloat16, torch.float64)},
        **{str(t): torch.arange(5).to(t) for t in (torch.int64, torch.int8, torch.uint8)},
        "flags": torch.tensor([True, False, True]),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "view": base[4:10],
        "transposed": base.reshape(4, 6).t(),
        "shared": base,
        "parameter": nn.Parameter(torch.tensor([1.0, -0.0, 3.0])),
    }


@pytest.mark.parametrize("layout", ["torch zip", "torch legacy", "pickle"])
def test_tensors_are_bit_equal_in_every_layout(tmp_path, layout):
    path = tmp_path / "file"
    if layout == "pickle":
        path.write_bytes(pickle.dumps(tensors()))
    else:
        torch.save(tensors(), path, _use_new_zipfile_serialization=layout == "torch zip")
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.layout == layout
        read = {key: value.read() for key, value in state_dict(checkpoint.root).items()}
    for key, expected in tensors().items():
        assert read[key].dtype == expected.dtype
        assert read[key].is_contiguous()
        assert torch.equal(read[key], expected), key


def test_a_state_dict_keeps_its_keys_and_an_arguments_object_becomes_a_record(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    options = argparse.Namespace(size=256, name="x")
    torch.save({"model": model.state_dict(), "args": options}, tmp_path / "file.pt")
    with open_checkpoint(tmp_path / "file.pt") as checkpoint:
        record = checkpoint.root["args"]
        assert record == Module("argparse.Namespace", {"size": 256, "name": "x"})
        found = {k: v.read() for k, v in state_dict(checkpoint.root["model"]).items()}
    for key, value in model.state_dict().items():
        assert torch.equal(found[key], value)


def test_classes_are_read_only_where_their_names_are_given(tmp_path):
    path = written(tmp_path, nn.Softplus(), 4)
    outside = r"'torch\.nn\.modules\.activation\.Softplus', which is not on the list"
    with pytest.raises(InputError, match=outside), open_checkpoint(path):
        pass
    with open_checkpoint(path, ["torch.nn.modules.activation.Softplus"]) as checkpoint:
        assert isinstance(checkpoint.root, Module)
        assert checkpoint.root.state["beta"] == 1


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    path = tmp_path / "file.pt"
    torch.save({"a": torch.zeros(1000)}, path)
    with open_checkpoint(path) as checkpoint:
        tensor = checkpoint.root["a"]
        assert isinstance(tensor, StoredTensor)
        assert (tensor.shape, tensor.bytes) == ((1000,), 4000)
        with path.open("r+b") as file:
            file.truncate(100)
        with pytest.raises(InputError, match="truncated"):
            tensor.read()


def module(**modules):
    return Module("M", {"_modules": modules})


def test_state_dict_names_follow_the_modules_and_leave_out_what_torch_does():
    tensor = stored_tensor(Storage(torch.float32, 1), 0, (1,), (1,))
    part = Module(
        "Part",
        {
            "_parameters": {"weight": tensor, "bias": None},
            "_buffers": {"kept": tensor, "passing": tensor},
            "_non_persistent_buffers_set": ["passing"],
            "attribute": tensor,
        },
    )
    found = state_dict(module(a=part, b=module(c=part), nothing=None))
    assert list(found) == ["a.weight", "a.kept", "b.c.weight", "b.c.kept"]


def test_modules_with_hooks_are_refused():
    with pytest.raises(InputError, match="_forward_hooks"):
        state_dict(Module("M", {"_forward_hooks": {0: "f"}}))


def test_module_trees_that_are_no_network_are_refused_at_once():
    shared = module()
    for _ in range(30):
        shared = module(a=shared, b=shared)
    with pytest.raises(InputError, match="no network"):
        state_dict(shared)
    cyclic = module()
    cyclic.state["_modules"]["again"] = cyclic
    with pytest.raises(InputError, match="no network"):
        state_dict(cyclic)
    parameters = {str(k): None for k in range(10_000)}
    wide = Module("M", {"_modules": {}, "_parameters": parameters})
    with pytest.raises(InputError, match="no network"):
        state_dict(module(**{str(k): wide for k in range(1000)}))
    with pytest.raises(InputError, match="part named"):
        state_dict(Module("M", {"_parameters": {"x" * 10**6: None}}))


@pytest.mark.parametrize("layout", ["torch zip", "torch legacy", "pickle"])
def test_every_truncation_of_a_checkpoint_is_refused_in_one_line(tmp_path, layout):
    path = tmp_path / "file"
    content = {"a": torch.arange(40.0), "b": [torch.ones(3), {"c": 1}]}
    if layout == "pickle":
        path.write_bytes(pickle.dumps(content, 4))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=layout == "torch zip")
    data = path.read_bytes()
    for length in range(0, len(data), max(1, len(data) // 150)):
        path.write_bytes(data[:length])
        with pytest.raises(InputError) as caught, open_checkpoint(path):
            pass
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", ["torch zip", "torch legacy", "pickle", "safetensors"])
def test_random_damage_is_refused_or_harmless(tmp_path, layout):
    """Whatever bytes change, the outcome is a value or an InputError, never another exception."""
    from safetensors.torch import save_file

    path = tmp_path / "file"
    content = {"a": torch.arange(40.0), "b": torch.ones(2, 3)}
    if layout == "safetensors":
        save_file(content, path)
    elif layout == "pickle":
        path.write_bytes(hostile.snapshot(hostile.tensor(hostile.storage([1.0, 2.0]))))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=layout == "torch zip")
    data = path.read_bytes()
    draws = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        changed = bytearray(data)
        for place in draws.integers(0, len(data), size=3):
            changed[place] = draws.integers(256)
        path.write_bytes(bytes(changed))
        try:
            with open_checkpoint(path) as checkpoint:
                for tensor in state_dict(checkpoint.root).values():
                    tensor.read()
        except InputError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 20  # most of an archive's bytes are padding
