"""The contenders of `benchmarks/curvature.py`, each run in a process of its own.

A process of its own gives each a fresh allocator and a model that no other has touched: thalweg sets malloc's
thresholds, PyHessian switches the model to eval mode for good and wipes `.grad`.

The peers get what their documentation shows: contiguous tensors, a list of batches, the loss module.
"""

from __future__ import annotations

import math
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from processes import Result
from torch import Tensor, nn

from thalweg.analyses.curvature_profile import curvature_profile
from thalweg.data import fashion_mnist
from thalweg.measures.curvature.spectral_density import spectral_density
from thalweg.measures.curvature.top_eigenvalues import top_eigenvalues
from thalweg.models.registry import build_model
from thalweg.objective.objective import Objective
from thalweg.operators.hessian import Hessian
from thalweg.training.checkpoint import load_weights, save_weights
from thalweg.training.trainer import TrainConfig, train
from training import FORWARD_FLOPS, gemm_rate

MODEL = "small_cnn_bn"
BATCH_SIZES = (32, 64, 128, 256, 512, 1000)

Batches = list[tuple[Tensor, Tensor]]


class Setting:
    """The network, the data and the options of one task."""

    def __init__(self, options: Result) -> None:
        self.options = options
        self.x, self.y = (t[: options["examples"]] for t in fashion_mnist.load("train", options["data_root"]))
        self.model = build_model(MODEL, 1)
        load_weights(options["checkpoint"], self.model)
        self.model.eval()

    def objective(self, num_examples: int | None = None) -> Objective:
        """The mean cross-entropy, batch norm with running statistics."""
        n = len(self.y) if num_examples is None else num_examples
        return Objective(self.model, (self.x[:n], self.y[:n]), batch_norm="running")

    def batches(self, size: int, num_examples: int | None = None) -> Batches:
        """What a loader would give."""
        n = len(self.y) if num_examples is None else min(num_examples, len(self.y))
        return list(zip(self.x[:n].split(size), self.y[:n].split(size), strict=True))

    def best_batches(self, product: Callable[[Batches], object]) -> Batches:
        """All the data in batches of the size at which `product` is fastest; also its warm-up."""
        some = {size: self.batches(size, 2000) for size in BATCH_SIZES}
        seconds = dict.fromkeys(BATCH_SIZES, math.inf)
        # In turns, so that a slow moment of the machine does not decide.
        for _ in range(4):
            for size, batches in some.items():
                seconds[size] = min(seconds[size], timed(lambda b=batches: product(b))[0])
        self.best_size = min(seconds, key=lambda size: seconds[size])
        return self.batches(self.best_size)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds it takes, and what it returns."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def prepare(options: Result) -> Result:
    """Train the paper's network with batch norm (seed 1 unless told), six epochs, unless it is there."""
    if not Path(options["checkpoint"]).exists():
        seed = options.get("seed", 1)
        model = build_model(MODEL, seed)
        data = (fashion_mnist.load(split, options["data_root"]) for split in ("train", "test"))
        train(model, *data, TrainConfig(seed=seed))
        save_weights(options["checkpoint"], model)
    return {}


# -- the largest eigenvalue ---------------------------------------------------------------------------


def top_thalweg(options: Result) -> Result:
    """Ours; the first product on a few examples is the warm-up, the operator's proof is in the time."""
    setting = Setting(options)
    warm = Hessian(setting.objective(256))
    warm @ torch.randn(warm.dim, 2)
    objective = setting.objective()
    seconds, result = timed(lambda: top_eigenvalues(objective, seed=0, **options["arguments"]))
    if "vector" in options:
        torch.save(result.eigenvectors[:, 0], options["vector"])
    return {
        "seconds": seconds,
        "value": result.value,
        "products": result.num_matvecs,
        "note": f"{result.num_subset_matvecs} on subsets",
    }


def pyhessian(model: nn.Module, batches: Batches) -> Any:
    """Its object over a list of batches."""
    from pyhessian import hessian  # type: ignore[import-not-found]

    return hessian(model, nn.CrossEntropyLoss(), dataloader=batches, cuda=False)


def pyhessian_product(setting: Setting) -> Callable[[Batches], object]:
    """One product with a random vector, for the choice of its batch size."""
    vectors = [torch.randn_like(p) for p in setting.model.parameters()]
    return lambda batches: pyhessian(setting.model, batches).dataloader_hv_product(vectors)


def product_pyhessian(options: Result) -> Result:
    """Seconds of one of its products, at the best batch size: the median of as many as asked for."""
    setting = Setting(options)
    product = pyhessian_product(setting)
    batches = setting.best_batches(product)
    seconds = statistics.median(timed(lambda: product(batches))[0] for _ in range(options["repeats"]))
    return {"seconds": seconds, "size": setting.best_size}


def top_pyhessian(options: Result) -> Result:
    """Power iteration, as its README calls it."""
    setting = Setting(options)
    batches = setting.best_batches(pyhessian_product(setting))
    torch.manual_seed(0)
    theirs, products = counting_pyhessian(setting, batches)
    seconds, (values, _) = timed(lambda: theirs.eigenvalues(tol=1e-3))
    note = f"batches of {setting.best_size}"
    return {"seconds": seconds, "value": values[0], "products": next(products), "note": note}


def counting_pyhessian(setting: Setting, batches: Batches) -> tuple[Any, Iterator[int]]:
    """PyHessian on these batches, and a counter; see `counting`."""
    return counting(pyhessian(setting.model, batches))


def counting(theirs: Any) -> tuple[Any, Iterator[int]]:
    """The same, and a counter whose next value is how many products it has made."""
    products, product = count(), theirs.dataloader_hv_product

    def counted(v: list[Tensor]) -> object:
        next(products)
        return product(v)

    theirs.dataloader_hv_product = counted
    return theirs, products


def top_curvlinops(options: Result) -> Result:
    """Its operator handed to SciPy's `eigsh`, as its documentation's example does."""
    from curvlinops import HessianLinearOperator  # type: ignore[import-not-found]
    from scipy.sparse.linalg import LinearOperator, eigsh

    setting = Setting(options)
    params = [p for p in setting.model.parameters() if p.requires_grad]

    def operator(batches: Batches) -> Any:
        # Its check for determinism is two passes more, which the user may leave out.
        return HessianLinearOperator(
            setting.model, nn.CrossEntropyLoss(), params, batches, check_deterministic=False
        )

    vector = torch.randn(sum(p.numel() for p in params))
    H = operator(setting.best_batches(lambda batches: operator(batches) @ vector)).to_scipy()
    products = 0

    def counted(v: Any) -> Any:
        nonlocal products
        products += 1
        return H @ v

    A = LinearOperator(H.shape, matvec=counted, dtype=H.dtype)
    start = np.random.default_rng(0).standard_normal(H.shape[0])
    seconds, (values, _) = timed(lambda: eigsh(A, k=1, which="LA", tol=1e-3, v0=start))
    note = f"batches of {setting.best_size}"
    return {"seconds": seconds, "value": float(values[0]), "products": products, "note": note}


def double_backward(setting: Setting) -> Callable[[Tensor], Tensor]:
    """Products with the Hessian in float64, by nothing of ours: the reference's."""
    model = setting.model.double()
    params = [p for p in model.parameters() if p.requires_grad]
    sizes = [p.numel() for p in params]

    def product(v: Tensor) -> Tensor:
        pieces = [piece.view_as(p) for piece, p in zip(v.split(sizes), params, strict=True)]
        total = torch.zeros_like(v)
        for x, y in setting.batches(128):
            loss = nn.functional.cross_entropy(model(x.double()), y, reduction="sum")
            slopes = torch.autograd.grad(loss, params, create_graph=True)
            inner = sum((s * p).sum() for s, p in zip(slopes, pieces, strict=True))
            total += torch.cat([g.flatten() for g in torch.autograd.grad(inner, params)])  # type: ignore[arg-type]
        return total / len(setting.y)

    return product


def top_reference(options: Result) -> Result:
    """Two Lanczos steps in float64 from our vector, by double backward and nothing of ours.

    A Ritz value lies below the largest eigenvalue by at most residual^2 / gap; its residual is reported.
    """
    product = double_backward(Setting(options))
    v = torch.load(options["vector"]).double()
    basis = [v / v.norm()]
    images = [product(basis[0])]
    w = images[0] - (basis[0] @ images[0]) * basis[0]
    basis.append(w / w.norm())
    images.append(product(basis[1]))
    V, HV = torch.stack(basis, 1), torch.stack(images, 1)
    values, vectors = torch.linalg.eigh((V.T @ HV + HV.T @ V) / 2)
    residual = float((HV @ vectors[:, 1] - values[1] * (V @ vectors[:, 1])).norm())
    return {"value": float(values[1]), "residual": residual}


# -- both ends, trace, density ------------------------------------------------------------------------


def spectra_reference(options: Result) -> Result:
    """The ends in float64 to a residual of 1e-5 of the norm, the density from three times as many probes.

    The algorithms are ours. The density is in float32, whose rounding is a thousandth of the distances that
    are told apart; that the products are right is shown by one of double backward in float64.
    """
    setting = Setting(options)
    objective = setting.objective()
    density = spectral_density(
        objective, num_probes=24, num_steps=options["budget"] // 24, seed=100, max_memory_bytes=4 << 30
    )
    operator = Hessian(objective)
    v = torch.randn(operator.dim, generator=torch.Generator().manual_seed(0))
    ours = (operator @ v).double()
    precise = objective.to_dtype(torch.float64)
    ends = top_eigenvalues(precise, which="both", rtol=1e-5, certify_rtol=0.05, seed=100)
    theirs = double_backward(setting)(v.double())
    return {
        "top": float(ends.eigenvalues[0]),
        "bottom": float(ends.eigenvalues[1]),
        "residuals": ends.residuals.tolist(),
        "nodes": density.nodes.tolist(),
        "weights": density.weights.tolist(),
        "difference": float((ours - theirs).norm() / theirs.norm()),
    }


def exact_trace(options: Result) -> Result:
    """tr(H) without a probe, by gradients of single examples in float64 and nothing of ours.

    With constant statistics every output of this network is linear in each single parameter, piece by piece
    (convolutions, affine maps, ReLU and max pooling between them), so that the diagonal of H is that of the
    Gauss-Newton matrix. Its trace is the mean over the examples of sum_c p_c ||grad log p_c||^2.
    """
    setting = Setting(options)
    model = setting.model.double()
    params = {k: p.detach() for k, p in model.named_parameters()}

    def log_p(params: dict[str, Tensor], x: Tensor, label: Tensor) -> Tensor:
        return torch.func.functional_call(model, params, (x[None],)).log_softmax(1)[0] @ label

    gradients = torch.func.vmap(torch.func.grad(log_p), in_dims=(None, 0, 0))
    total = 0.0
    for x, _ in setting.batches(64):
        x = x.double()
        with torch.no_grad():
            p = model(x).softmax(1)
        for c in range(p.shape[1]):
            label = nn.functional.one_hot(torch.full((len(x),), c), p.shape[1]).to(x)
            g = gradients(params, x, label)
            total += float(p[:, c] @ sum(t.square().flatten(1).sum(1) for t in g.values()))
    return {"trace": total / len(setting.y)}


def spectra_thalweg(options: Result) -> Result:
    """Ours: everything in one pass within a budget of products."""
    setting = Setting(options)
    warm = Hessian(setting.objective(256))
    warm @ torch.randn(warm.dim, 8)
    objective = setting.objective()
    seconds, profile = timed(lambda: curvature_profile(objective, max_matvecs=options["budget"], seed=0))
    return {
        "seconds": seconds,
        "top": profile.lambda_max,
        "bottom": profile.lambda_min,
        "trace": float(profile.trace),
        "nodes": profile.density.nodes.tolist(),
        "weights": profile.density.weights.tolist(),
        "products": profile.num_matvecs,
    }


def spectra_pyhessian(options: Result) -> Result:
    """Its three calls; the lower end is the smallest Ritz value of its density, for it has no other."""
    setting = Setting(options)
    batches = setting.best_batches(pyhessian_product(setting))

    def eig(T: Tensor, eigenvectors: bool) -> tuple[Tensor, Tensor]:
        # Torch has dropped its `eig` since the peer was published; T is symmetric, and decomposed alike.
        values, vectors = torch.linalg.eigh(T)
        return torch.stack([values, torch.zeros_like(values)], 1), vectors

    torch.eig = eig  # type: ignore[attr-defined]
    torch.manual_seed(0)
    theirs, products = counting_pyhessian(setting, batches)
    top_seconds, (values, _) = timed(lambda: theirs.eigenvalues(tol=1e-3))
    trace_seconds, samples = timed(theirs.trace)
    density_seconds, (nodes, weights) = timed(lambda: theirs.density(iter=30, n_v=10))
    return {
        "seconds": top_seconds + trace_seconds + density_seconds,
        "products": next(products),
        "top": values[0],
        "bottom": float(np.min(nodes)),
        "trace": float(np.mean(samples)),
        "nodes": np.ravel(nodes).tolist(),
        "weights": (np.ravel(weights) / len(nodes)).tolist(),
        "note": f"{top_seconds:.0f} + {trace_seconds:.0f} ({len(samples)} probes) + {density_seconds:.0f} s, "
        f"batches of {setting.best_size}",
    }


# -- arithmetic ---------------------------------------------------------------------------------------


def product_flops(columns: int) -> float:
    """Of one example: a gradient 3 F, each tangent 6 F more."""
    return FORWARD_FLOPS * (3 + 6 * columns)


def product_seconds(operator: Hessian, columns: int, repeats: int) -> float:
    """Median of one block product."""
    V = torch.randn(operator.dim, columns)
    operator @ V
    return statistics.median(timed(lambda: operator @ V)[0] for _ in range(repeats))


def rate(options: Result) -> Result:
    """Products with blocks, as a share of the GEMM rate measured before and after."""
    objective = Setting(options).objective(1024)
    operator = Hessian(objective)
    before = gemm_rate()
    seconds = {k: product_seconds(operator, k, options["repeats"]) for k in (1, 2, 4, 8)}
    gemm = max(before, gemm_rate())
    share = {k: product_flops(k) * 1024 / s / gemm for k, s in seconds.items()}
    return {"gemm": gemm, "product_seconds": seconds, "share": share}


def scaling(options: Result) -> Result:
    """One product: seconds and the memory at its peak beyond what stood before, in MiB."""
    setting = Setting(options)
    n, columns = options["product"]
    operator = Hessian(setting.objective(n))
    _ = operator.check
    V = torch.randn(operator.dim, columns)
    before = peak_mib()
    seconds = timed(lambda: operator @ V)[0]
    # A basis of the input's and the output's size is the caller's.
    return {"seconds": seconds, "peak": peak_mib() - before - V.nbytes / 2**20}


def peak_mib() -> float:
    """Most memory the process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


TASKS: dict[str, Callable[[Result], Result]] = {
    f.__name__: f
    for f in (
        prepare,
        top_thalweg,
        product_pyhessian,
        top_pyhessian,
        top_curvlinops,
        top_reference,
        spectra_reference,
        exact_trace,
        spectra_thalweg,
        spectra_pyhessian,
        rate,
        scaling,
    )
}
