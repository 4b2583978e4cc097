"""PyTorch's operators, forward and backward: one named case each, tensors `<case>.<name>`."""

import json

import torch
import torch.nn.functional as F

from fixture import F64, FIXTURES, TOLERANCE, error, normal, uniform, write_safetensors

CASES = {}  # name: (inputs in the order of the call, function, attributes, cotangent)
still = torch.no_grad()  # around what has no gradient, or one that is zero everywhere: values alone


def case(name, call, attributes=None, dy=None, **inputs) -> None:
    CASES[name] = (inputs, call, attributes or {}, dy)


def n(*shape):
    """Normal values of this shape; each case and input draws its own."""
    return lambda key: normal(shape, *key)


def positive(key):
    return uniform((3, 5), *key, low=0.2, high=3)


def halves(*shape):
    """-1, -0.5, 0, 0.5 or 1: numbers that are often equal."""
    return lambda key: uniform(shape, *key, high=5).floor() / 2 - 1


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

case("swap", lambda x: x.mT, x=n(2, 3, 4, 5))
case("expand", lambda x: x.expand(2, 4, 3, 5), x=n(4, 1, 5))
case("sum_to", lambda x: x.sum_to_size(3, 1, 5), x=n(2, 3, 4, 5))
case(
    "scatter_add",
    lambda ids, x: x.new_zeros(6, 4).index_add(0, ids.flatten(), x.flatten(0, 1)),
    {"rows": 6},
    ids=torch.tensor([[5, 0, 5], [2, 5, 0]]),
    x=n(2, 3, 4),
)
case("neg", torch.neg, x=n(3, 5))
case("sign", still(torch.sign), x=halves(3, 5))
case("floor", still(torch.floor), x=halves(3, 5))
case("greater", still(lambda x, w: (x > w).long()), x=halves(4, 5), w=halves(5))
case("less", still(lambda x, w: (x < w).long()), x=halves(4, 5), w=halves(5))
case("equal", still(lambda x, w: (x == w).long()), x=halves(4, 5), w=halves(5))
case("argmax", still(lambda x: x.argmax(1)), {"axis": 1}, x=halves(2, 7, 3))  # the first of equal ones
case("cast_integers", still(lambda x: x.mul(3).long()), x=n(3, 5))
case(
    "cast_halves",  # PyTorch rounds the cotangent too: to itself, here
    lambda x: x.half().to(x.dtype),
    dy=lambda key: normal((3, 5), *key).half().float(),
    x=n(3, 5),
)
case("normalize", lambda x: F.layer_norm(x, (7,), eps=1e-5), {"eps": 1e-5}, x=n(2, 3, 7))
case("normalize_rows", lambda x: F.layer_norm(x, (7,), eps=1e-6), {"eps": 1e-6}, x=n(4, 7))

case("gemm", torch.mm, x=n(3, 4), w=n(4, 5))
case("gemm_first_turned", lambda x, w: torch.mm(x.T, w), x=n(4, 3), w=n(4, 5))
case("gemm_first_turned_wide", lambda x, w: torch.mm(x.T, w), x=n(4, 7), w=n(4, 3))
case("gemm_second_turned", lambda x, w, b: torch.addmm(b, x, w.T), x=n(3, 4), w=n(5, 4), b=n(5))
case("gemm_both_turned", lambda x, w, b: torch.addmm(b, x.T, w.T), x=n(4, 3), w=n(5, 4), b=n(3, 5))
case("transposed", lambda x, w: x.mT @ w, x=n(2, 4, 3), w=n(2, 4, 6))
case("transposed_wide", lambda x, w: x.mT @ w, x=n(2, 4, 6), w=n(2, 4, 3))
case("accumulate", torch.addcmul, x=n(2, 3, 4), w=n(2, 3, 4), b=n(2, 1, 1))
case(
    "accumulate_low_rank",  # what a LoRA adds: x + b (w qᵀ) kᵀ
    lambda x, w, b, q, k: torch.addcmul(x, w @ q.mT @ k.mT, b),
    x=n(2, 3, 5),
    w=n(2, 3, 4),
    b=n(),
    q=n(2, 4),
    k=n(5, 2),
)
for suffix, stride in {"": 1, "_stride2": 2}.items():
    how = {"stride": stride, "padding": 1}
    size = (4, 3, 3, 3)
    image, made = ((2, 3, 5, 6), (2, 4, 5, 6)) if stride == 1 else ((2, 3, 7, 8), (2, 4, 4, 4))
    case(
        f"conv2d_input_grad{suffix}",
        lambda x, w, image=image, how=how: torch.nn.grad.conv2d_input(image, w, x, **how),
        how | {"shape": image},
        x=n(*made),
        w=n(*size),
    )
    case(
        f"conv2d_weight_grad{suffix}",
        lambda x, w, size=size, how=how: torch.nn.grad.conv2d_weight(x, size, w, **how),
        how | {"shape": size},
        x=n(*image),
        w=n(*made),
    )
case("flip_kernel", lambda w: w.transpose(0, 1).flip(2, 3), w=n(4, 3, 3, 2))


def value(given, key):
    return given if isinstance(given, torch.Tensor) else given(key)


def run(name: str, dtype) -> tuple[dict, dict]:
    """What goes in (inputs, cotangent `dy`) and what comes out (`y`, `d<input>`); without gradients, `y` alone."""
    specs, call, _, dy = CASES[name]
    given = {k: value(v, ("ops", name, k)) for k, v in specs.items()}
    ins = {k: v.to(dtype).requires_grad_() if v.is_floating_point() else v for k, v in given.items()}
    y = call(*ins.values())
    if not y.requires_grad:
        return given, {"y": y}
    key = ("ops", name, "dy")
    given["dy"] = dy(key) if dy else normal(y.shape, *key)
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
    cases = {name: attributes for name, (_, _, attributes, _) in CASES.items()}
    write_safetensors(path, tensors, {"cases": json.dumps(cases, sort_keys=True)})
