"""Runs every part of exports in Python's onnxruntime and compares it with attune's own run.

    python -m venv venv && venv/bin/pip install onnxruntime numpy
    venv/bin/python test/export/check.py FOLDER...

A folder is what `attune export STACK -o FOLDER` wrote: its check.safetensors holds inputs and what
attune made of them. Ends with 1 where an output differs by more than 1e-4 of its largest entry.
"""

import json
import pathlib
import struct
import sys

import numpy
import onnxruntime

TYPES = {"F32": numpy.float32, "I64": numpy.int64}


def tensors(path):
    """A safetensors file: a length, a JSON header, the bytes."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    found = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + at for at in entry["data_offsets"])
        found[name] = numpy.frombuffer(raw[begin:end], TYPES[entry["dtype"]]).reshape(entry["shape"])
    return found


def worst(folder):
    top = 0.0
    known = tensors(folder / "check.safetensors")
    for name, part in json.loads((folder / "manifest.json").read_text())["parts"].items():
        net = onnxruntime.InferenceSession(folder / part["file"], providers=["CPUExecutionProvider"])
        asked = {one.name: one.shape for one in net.get_inputs()}
        assert asked == {one["name"]: one["shape"] for one in part["inputs"]}, "inputs differ from the manifest"
        outputs = [one["name"] for one in part["outputs"]]
        got = net.run(outputs, {key: known[f"{name}.in.{key}"] for key in asked})
        for output, value in zip(outputs, got):
            want = known[f"{name}.out.{output}"]
            error = float(numpy.abs(value - want).max() / numpy.abs(want).max())
            print(f"{folder.name}/{part['file']} {output} {list(value.shape)}: {error:.1e}")
            top = max(top, error if error == error else float("inf"))
    return top


print(f"onnxruntime {onnxruntime.__version__}")
sys.exit(0 if max(worst(pathlib.Path(folder)) for folder in sys.argv[1:]) <= 1e-4 else 1)
