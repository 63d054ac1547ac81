"""Writes and checks array files with NumPy, h5py and zarr: one JSON request per line, one JSON answer per line.

Element k of every array, in row-major order, is a function of k that `number` in main.rs has as well.
"""

import json
import sys
import traceback

import h5py
import numcodecs
import numpy
import zarr


def expected(dtype, shape):
    k = numpy.arange(int(numpy.prod(shape)), dtype="i8")
    kind = numpy.dtype(dtype).kind
    if kind == "b":
        values = k % 3 == 0
    elif kind == "c":
        values = (k * 0.5 - 3) + 1j * (-k)
    elif kind == "u":
        values = k * 7 % 251
    elif kind == "i":
        values = k * 1003 - 77
    else:
        values = k * 0.5 - 3
    return values.astype(dtype).reshape(shape)


def write(request):
    values = expected(request["dtype"], request["shape"])
    path, options = request["path"], request["options"]
    for key in ("chunks", "shards"):
        if key in options:
            options[key] = tuple(options[key])
    if request["format"] == "npy":
        if options.pop("order", "C") == "F":
            values = numpy.asfortranarray(values)
        version = tuple(options.pop("version", (1, 0)))
        with open(path, "wb") as file:
            numpy.lib.format.write_array(file, values, version=version)
    elif request["format"] == "hdf5":
        rows = options.pop("rows", len(values))
        with h5py.File(path, "w") as file:
            dataset = file.create_dataset(request["dataset"], shape=values.shape, dtype=values.dtype, **options)
            dataset[:rows] = values[:rows]
    else:
        if (compressor := options.pop("blosc", None)) is not None:
            codec = numcodecs.Blosc if options["zarr_format"] == 2 else zarr.codecs.BloscCodec
            options["compressors"] = codec(cname=compressor)
        if (level := options.pop("gzip", None)) is not None:
            options["compressors"] = zarr.codecs.GzipCodec(level=level)
        array = zarr.create_array(store=path, shape=values.shape, dtype=values.dtype, **options)
        array[...] = values
    return {}


def link(request):
    """A file with a dataset of its own, and a link to one of another file."""
    with h5py.File(request["path"], "w") as file:
        file["decoy"] = numpy.zeros(4096)
        file["link"] = h5py.ExternalLink(request["to"], request["dataset"])
    return {}


def check(request):
    path = request["path"]
    if request["format"] == "npy":
        found = numpy.load(path)
    elif request["format"] == "hdf5":
        with h5py.File(path, "r") as file:
            found = file[request["dataset"]][...]
    else:
        found = zarr.open_array(path, mode="r")[...]
    wanted = expected(request["dtype"], request["shape"])
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    assert found.dtype == wanted.dtype, (found.dtype, wanted.dtype)
    numpy.testing.assert_array_equal(found, wanted)
    return {}


for line in sys.stdin:
    request = json.loads(line)
    try:
        answer = {"write": write, "link": link, "check": check}[request["do"]](request)
    except Exception:
        answer = {"error": traceback.format_exc()}
    print(json.dumps(answer), flush=True)
