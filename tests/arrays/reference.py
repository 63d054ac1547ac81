"""Does with NumPy what the tests do with arrays on a cluster: one JSON program per line, one JSON answer per line.

A program is a list of operations; each makes a value from former ones, named by their position. The answer has the
shape and the bytes of each value.
"""

import json
import sys
import traceback
import warnings

import numpy as np

TYPES = {
    "bool": np.bool_,
    "u8": np.uint8,
    "i32": np.int32,
    "i64": np.int64,
    "f32": np.float32,
    "f64": np.float64,
    "Complex64": np.complex128,
}


def axes_of(step):
    axes = step.get("axes")
    return None if axes is None else tuple(axes)


def selection(step):
    parts = []
    for part in step["parts"]:
        if isinstance(part, int):
            parts.append(part)
        elif part is None:
            parts.append(np.newaxis)
        else:
            start, stop, width = part
            parts.append(slice(start, stop, width))
    return parts


def sliced(x, step):
    axis = 0
    for part in selection(step):
        if part is np.newaxis:
            x = np.expand_dims(x, axis)
            axis += 1
        elif isinstance(part, int):
            x = np.take(x, part, axis)
        else:
            # A negative step goes backwards through the same range.
            places = range(*slice(part.start, part.stop).indices(x.shape[axis]))
            x = np.take(x, np.array(list(places)[::part.step], dtype=np.int64), axis)
            axis += 1
    return x


def summed(x, kind, axes):
    wide = {"f": np.float64, "c": np.complex128}.get(x.dtype.kind, np.int64)
    return getattr(np, kind)(x.astype(wide), axis=axes)


def joined(re, im):
    out = np.empty(np.shape(re), np.complex128)
    out.real, out.imag = re, im
    return out


def padded(x, step):
    modes = {"Nearest": "edge", "Reflect": "symmetric", "Periodic": "wrap", "Constant": "constant"}
    widths = [(depth, depth) for depth in step["depth"]]
    return np.pad(x, widths, mode=modes[step["mode"]])


def neighbours(x, step):
    """The sum over the window of each element."""
    wide = padded(x, step)
    out = np.zeros_like(x)
    for offset in np.ndindex(*[2 * depth + 1 for depth in step["depth"]]):
        out += wide[tuple(slice(at, at + extent) for at, extent in zip(offset, x.shape))]
    return out


def calculate(step, values):
    op = step["op"]
    x = values[step["x"]] if "x" in step else None
    y = values[step["y"]] if "y" in step else None
    axes = axes_of(step)
    if op == "data":
        return np.frombuffer(bytes.fromhex(step["bytes"]), TYPES[step["dtype"]]).reshape(step["shape"])
    if op == "arange":
        bounds = (step["start"], step["stop"], step["step"])
        return np.arange(*[bound / step["divisor"] for bound in bounds]) if step["divisor"] > 1 else np.arange(*bounds)
    if op == "linspace":
        return np.linspace(step["start"], step["stop"], step["count"])
    if op == "full":
        return np.full(step["shape"], step["number"])
    if op in ("add", "subtract", "multiply", "minimum", "maximum", "less", "less_equal", "greater", "greater_equal",
              "equal", "not_equal", "logical_and", "logical_or", "logical_xor", "fmod", "hypot", "arctan2", "power",
              "bitwise_and", "bitwise_or", "bitwise_xor"):
        return getattr(np, op)(x, y)
    if op == "divide":
        if x.dtype.kind in "iu":
            quotient = np.zeros(np.broadcast_shapes(x.shape, y.shape), x.dtype)
            a, b = np.broadcast_arrays(x, y)
            # (Towards zero, as Rust does; 0 where the divisor is 0.)
            safe = np.where(b == 0, 1, b)
            exact = np.array([int(abs(int(p)) // abs(int(q))) * (1 if (p < 0) == (q < 0) else -1)
                              for p, q in zip(a.ravel(), safe.ravel())], dtype=object).reshape(a.shape)
            quotient[...] = np.where(b == 0, 0, np.vectorize(wrap(x.dtype), otypes=[x.dtype])(exact) if exact.size else 0)
            return quotient
        return np.divide(x, y)
    if op == "reciprocal":
        return np.divide(np.ones((), x.dtype), x)
    if op in ("negative", "absolute", "square", "sqrt", "cbrt", "exp", "expm1", "log", "log1p", "log2", "log10", "sin",
              "cos", "tan", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "floor", "ceil", "rint", "trunc", "sign",
              "isnan", "isinf", "isfinite", "conjugate", "angle", "real", "imag", "logical_not",
              "invert"):
        return getattr(np, op)(x)
    if op == "clip":
        return np.clip(x, TYPES[step["dtype"]](step["low"]), TYPES[step["dtype"]](step["high"]))
    if op == "where":
        return np.where(values[step["mask"]], x, y)
    if op == "cast":
        return x.real.astype(TYPES[step["dtype"]]) if x.dtype.kind == "c" and step["dtype"] != "Complex64" \
            else x.astype(TYPES[step["dtype"]])
    if op == "slice":
        return sliced(x, step)
    if op == "take":
        return np.take(x, step["index"], axis=step["axis"])
    if op == "swapaxes":
        return np.swapaxes(x, step["a"], step["b"])
    if op == "squeeze":
        return np.squeeze(x)
    if op == "permute":
        return np.transpose(x, step["order"])
    if op == "reshape":
        return np.reshape(x, step["shape"])
    if op == "broadcast":
        return np.broadcast_to(x, step["shape"])
    if op == "concatenate":
        return np.concatenate([values[at] for at in step["of"]], axis=step["axis"])
    if op == "stack":
        return np.stack([values[at] for at in step["of"]], axis=step["axis"])
    if op in ("rechunk", "persist"):
        return x
    if op in ("sum", "prod"):
        return summed(x, op, axes)
    if op in ("cumsum", "cumprod"):
        return summed(x, op, step["axis"])
    if op == "mean":
        if x.dtype.kind == "c":
            # (NumPy's own has NaN beside an infinite part.)
            return joined(np.mean(x.real, axis=axes), np.mean(x.imag, axis=axes))
        return np.mean(x.astype(np.float64), axis=axes)
    if op in ("var", "std"):
        wide = x if x.dtype.kind == "c" else x.astype(np.float64)
        return getattr(np, op)(wide, axis=axes, ddof=step["ddof"])
    if op in ("min", "max", "any", "all"):
        return getattr(np, op)(x, axis=axes)
    if op in ("argmin", "argmax"):
        return getattr(np, op)(x, axis=step["axis"])
    if op == "matmul":
        return np.matmul(x, y)
    if op == "tensordot":
        return np.tensordot(x, y, (step["axes_x"], step["axes_y"]))
    if op == "norm":
        return np.linalg.norm(x.astype(np.complex128).ravel())
    if op == "histogram":
        return np.histogram(x.astype(np.float64), step["bins"], (step["low"], step["high"]))[0]
    if op == "neighbours":
        return neighbours(x, step)
    raise ValueError(f"no operation {op}")


def wrap(dtype):
    bits = dtype.itemsize * 8
    signed = dtype.kind == "i"

    def wrapped(number):
        number &= (1 << bits) - 1
        return number - (1 << bits) if signed and number >> (bits - 1) else number

    return wrapped


def answer(program):
    values, results, scales = [], [], []
    for step in program:
        value = np.asarray(calculate(step, values)).astype(TYPES[step["result"]])
        operands = [step[name] for name in ("x", "y") if name in step] + step.get("of", [])
        # An error is as large as what was rounded on the way: the numbers of this step, and those that its operands,
        # unless they are exact, have their errors from.
        scale = max([largest(value), *(largest(values[at]) for at in operands),
                     *(scales[at] for at in operands if not program[at]["exact"])])
        values.append(value)
        scales.append(scale)
        results.append({"shape": list(value.shape), "bytes": np.ascontiguousarray(value).tobytes().hex(), "scale": scale})
    return results


def largest(value):
    """The largest magnitude of its finite numbers."""
    finite = np.abs(value[np.isfinite(value)].astype(np.complex128))
    return float(finite.max()) if finite.size else 0.0


def main():
    np.seterr(all="ignore")
    warnings.filterwarnings("ignore")
    for line in sys.stdin:
        try:
            result = {"results": answer(json.loads(line))}
        except Exception:
            result = {"error": traceback.format_exc()}
        print(json.dumps(result), flush=True)


main()
