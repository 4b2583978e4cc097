"""PyTorch's operators, forward and backward: one named case each, tensors `<case>.<name>`."""

import json

import torch
import torch.nn.functional as F

from common import F64, FIXTURES, TOLERANCE, error, normal, uniform, write_safetensors

CASES = {}  # name: (inputs in the order of the call, function, attributes)


def case(name, call, attributes=None, **inputs) -> None:
    CASES[name] = (inputs, call, attributes or {})


def n(*shape):
    """Normal values of this shape; each case and input draws its own."""
    return lambda key: normal(shape, *key)


def positive(key):
    return uniform((3, 5), *key, low=0.2, high=3)


def conv(name, x, w, bias=True, **attributes) -> None:
    inputs = {"x": n(*x), "w": n(*w)} | ({"b": n(w[0])} if bias else {})
    case(name, lambda x, w, b=None: F.conv2d(x, w, b, **attributes), attributes, **inputs)


def unary(name, call) -> None:
    case(name, call, x=n(3, 5, 7))


conv("conv2d_3x3", (2, 3, 5, 6), (4, 3, 3, 3), padding=1)
conv("conv2d_3x3_nobias", (1, 3, 4, 5), (2, 3, 3, 3), bias=False, padding=1)
conv("conv2d_3x3_stride2", (2, 3, 7, 8), (4, 3, 3, 3), stride=2, padding=1)
conv("conv2d_3x3_stride2_nopad", (1, 2, 8, 7), (3, 2, 3, 3), stride=2)
conv("conv2d_1x1", (2, 5, 3, 4), (3, 5, 1, 1))
conv("conv2d_1x1_stride2", (2, 5, 5, 4), (3, 5, 1, 1), stride=2)
conv("conv2d_patch", (2, 3, 8, 12), (5, 3, 4, 4), stride=4)
conv("conv2d_groups", (2, 6, 5, 4), (4, 3, 3, 3), padding=1, groups=2)
case(
    "conv2d_pad_right_bottom",  # the VAE encoder's downsampling
    lambda x, w, b: F.conv2d(F.pad(x, (0, 1, 0, 1)), w, b, stride=2),
    {"pad": [0, 1, 0, 1], "stride": 2},
    x=n(2, 3, 6, 8),
    w=n(4, 3, 3, 3),
    b=n(4),
)
case("linear", F.linear, x=n(2, 3, 5), w=n(4, 5), b=n(4))
case("linear_nobias", F.linear, x=n(6, 5), w=n(4, 5))
case("matmul_batched", torch.matmul, x=n(2, 3, 4, 5), w=n(3, 5, 6))
case("embedding", lambda ids, w: F.embedding(ids, w), ids=torch.tensor([[0, 3, 3], [6, 1, 0]]), w=n(7, 4))
case(
    "group_norm",
    lambda x, w, b: F.group_norm(x, 3, w, b, 1e-5),
    {"groups": 3, "eps": 1e-5},
    x=n(2, 6, 4, 5),
    w=n(6),
    b=n(6),
)
case(
    "group_norm_frames",  # statistics over the frames of a clip too: [B, C, F, H, W]
    lambda x, w, b: F.group_norm(x, 2, w, b, 1e-6),
    {"groups": 2, "eps": 1e-6},
    x=n(2, 4, 3, 2, 3),
    w=n(4),
    b=n(4),
)
case("layer_norm", lambda x, w, b: F.layer_norm(x, (6,), w, b, 1e-5), {"eps": 1e-5}, x=n(2, 3, 6), w=n(6), b=n(6))
case("softmax", lambda x: F.softmax(x, -1), {"axis": -1}, x=n(2, 3, 7))
case("softmax_axis1", lambda x: F.softmax(x, 1), {"axis": 1}, x=n(2, 5, 3))
case("log_softmax", lambda x: F.log_softmax(x, -1), {"axis": -1}, x=n(3, 6))
case("logsumexp", lambda x: torch.logsumexp(x, -1), {"axis": -1}, x=n(2, 3, 7))
case("geglu", lambda x: (lambda a, g: a * F.gelu(g))(*x.chunk(2, -1)), x=n(2, 3, 8))
for name, call in {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "relu": F.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "erf": torch.erf,
    "exp": torch.exp,
    "sin": torch.sin,
    "cos": torch.cos,
    "abs": torch.abs,
    "square": torch.square,
    "clamp": lambda x: x.clamp(-0.5, 0.8),
    "mean_all": torch.mean,
    "sum_axis1": lambda x: x.sum(1),
    "mean_last_keepdim": lambda x: x.mean(-1, keepdim=True),
    "max_last": lambda x: x.amax(-1),
    "variance": lambda x: x.var(-1, unbiased=False),
    "l2_norm": lambda x: torch.linalg.vector_norm(x, dim=-1),
    "l2_normalise": lambda x: F.normalize(x, dim=-1),
    "cumsum": lambda x: x.cumsum(1),
    "transpose": lambda x: x.permute(2, 0, 1),
    "slice": lambda x: x[:, 1:4, 2:],
    "flip": lambda x: x.flip(1),
    "pad": lambda x: F.pad(x, (1, 2, 0, 1)),
    "tile": lambda x: x.repeat(1, 2, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(3, dim=0),
}.items():
    unary(name, call)
case("log", torch.log, x=positive)
case("sqrt", torch.sqrt, x=positive)
case("rsqrt", torch.rsqrt, x=positive)
case("add_broadcast", torch.add, x=n(2, 3, 4, 5), w=n(3, 1, 1))
case("mul_broadcast", torch.mul, x=n(2, 3, 4, 5), w=n(2, 1, 4, 1))
case("sub_broadcast", torch.sub, x=n(3, 1), w=n(2, 1, 5))
case("div", torch.div, x=n(3, 5), w=lambda key: uniform((5,), *key, low=0.5, high=2))
case("maximum", torch.maximum, x=n(3, 5), w=n(3, 5))
case("minimum", torch.minimum, x=n(3, 5), w=n(3, 5))
case("where", lambda x, w: torch.where(x > w, x * w, x + w), x=n(4, 5), w=n(4, 5))
case("concat", lambda x, w: torch.cat([x, w], 1), {"axis": 1}, x=n(2, 3, 4), w=n(2, 2, 4))
case("gather_rows", lambda ids, w: w[torch.arange(3), ids], ids=torch.tensor([2, 0, 4]), w=n(3, 5, 2))
case("nearest_2x", lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"), x=n(2, 3, 3, 4))
case("nearest_size", lambda x: F.interpolate(x, size=(7, 9), mode="nearest"), {"size": [7, 9]}, x=n(1, 2, 4, 5))
case("bilinear_2x", lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"), x=n(1, 2, 3, 4))
case("avg_pool2", lambda x: F.avg_pool2d(x, 2), {"kernel": 2}, x=n(2, 3, 4, 6))
case("mse", F.mse_loss, x=n(3, 5), w=n(3, 5))
case("huber", lambda x, w: F.smooth_l1_loss(x, w), {"beta": 1}, x=n(3, 5), w=n(3, 5))
case("cross_entropy", lambda x, ids: F.cross_entropy(x, ids), x=n(4, 6), ids=torch.tensor([1, 5, 0, 3]))

heads = {"q": n(2, 3, 5, 4), "k": n(2, 3, 7, 4), "v": n(2, 3, 7, 4)}
case("attention", F.scaled_dot_product_attention, **heads)
case(
    "attention_causal",
    lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    {"causal": True},
    q=n(2, 3, 6, 4),
    k=n(2, 3, 6, 4),
    v=n(2, 3, 6, 4),
)
case(
    "attention_masked",
    lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
    **heads,
    mask=n(5, 7),
)


def value(given, key):
    return given if isinstance(given, torch.Tensor) else given(key)


def run(name: str, dtype) -> tuple[dict, dict]:
    """What goes in (inputs, cotangent `dy`) and what comes out (`y`, `d<input>`)."""
    specs, call, _ = CASES[name]
    given = {k: value(v, ("ops", name, k)) for k, v in specs.items()}
    ins = {k: v.to(dtype).requires_grad_() if v.is_floating_point() else v for k, v in given.items()}
    y = call(*ins.values())
    given["dy"] = normal(y.shape, "ops", name, "dy")
    wrt = {k: v for k, v in ins.items() if v.is_floating_point()}
    grads = torch.autograd.grad(y, list(wrt.values()), given["dy"].to(dtype))
    return given, {"y": y.detach()} | {f"d{k}": g for k, g in zip(wrt, grads)}


def make() -> None:
    path, tensors = FIXTURES / "ops.safetensors", {}
    for name in CASES:
        single, (given, out) = run(name, torch.float32)[1], run(name, F64)
        for key in out:
            worst = error(single[key], out[key])
            assert worst < TOLERANCE["out"], f"{name}.{key} differs by {worst:.1e}"
        tensors |= {f"{name}.{k}": v.float() if v.is_floating_point() else v for k, v in (given | out).items()}
    cases = {name: attributes for name, (_, _, attributes) in CASES.items()}
    write_safetensors(path, tensors, {"cases": json.dumps(cases, sort_keys=True)})
