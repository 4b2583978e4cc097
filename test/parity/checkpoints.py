"""Checkpoints of torch.save, good and hostile, and the tensors that the good ones hold."""

import collections
import pickle
import zipfile

import numpy
import torch

from safetensors.torch import load_file

from common import FIXTURES, fresh, normal, write_safetensors


class Code:
    """Pickled, it asks its reader to run a command."""

    def __reduce__(self):
        import os

        return os.system, ("echo harm",)


class Thing:
    """An object of a class that no reader has."""

    def __init__(self):
        self.weight = torch.ones(2)


def tensors() -> dict:
    whole = normal((6, 5), "checkpoints", "whole")
    return {
        "plain.weight": whole,
        "plain.bias": normal((6,), "checkpoints", "bias").half(),
        "thin": normal((3, 2), "checkpoints", "thin").bfloat16(),
        "steps": torch.arange(4),
        "counts": torch.arange(3, dtype=torch.int32),
        "turned": whole.t(),
        "part": whole[1:5:2, 1:4],
        "tied": whole,
        "scalar": torch.tensor(2.5),
        "none": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(normal((2, 2), "checkpoints", "parameter")),
    }


def make() -> None:
    folder = fresh("checkpoints")
    state = collections.OrderedDict(tensors())
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    torch.save(state, folder / "bare.pth")
    torch.save({"state_dict": dict(state), "epoch": 3, "optimizer": {"lr": 0.1, "m": [torch.ones(2)]}}, folder / "wrapped.ckpt")
    nested = {"string_to_param": {"*": torch.nn.Parameter(normal((2, 4), "checkpoints", "token"))}, "name": "cat", "step": None}
    torch.save(nested, folder / "nested.pt", pickle_protocol=4)
    write_safetensors(folder / "bare.safetensors", {k: v.contiguous() for k, v in state.items()})
    write_safetensors(folder / "nested.safetensors", {"string_to_param.*": nested["string_to_param"]["*"]})

    # a LoRA as older repositories have it
    torch.save(load_file(FIXTURES / "compose/pocket/words.kohya.safetensors"), folder / "words.kohya.pt")

    torch.save({"weight": torch.ones(2), "code": Code()}, folder / "code.pt")
    torch.save({"weight": torch.ones(2), "thing": Thing()}, folder / "thing.pt")
    torch.save({"weight": torch.ones(2), "step": numpy.float64(3)}, folder / "numpy.pt")
    torch.save({"weight": torch.ones(2, dtype=torch.complex64)}, folder / "complex.pt")
    torch.save({"weight": torch.ones(2).expand(1000, 2)}, folder / "repeated.pt")
    torch.save({"weight": torch.ones(2)}, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 3}, folder / "empty.pt")
    with zipfile.ZipFile(folder / "bare.pth") as good, zipfile.ZipFile(folder / "compressed.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in good.namelist():
            packed.writestr(zipfile.ZipInfo(name), good.read(name), zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(folder / "pictures.zip", "w") as other:
        other.writestr(zipfile.ZipInfo("a.txt"), "no checkpoint")
    (folder / "pickle.pkl").write_bytes(pickle.dumps({"weight": [1.0]}))
