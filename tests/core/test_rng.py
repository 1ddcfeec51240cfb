import random

import numpy as np
import pytest
import torch

from thalweg.core.rng import generator, normal, preserved_global_rng, stream_seed


def draw(*stream, seed=0):
    return torch.randn(50, generator=generator(seed, *stream))


def test_same_seed_and_stream_same_numbers():
    assert torch.equal(draw("probes", 3), draw("probes", 3))


def test_streams_and_seeds_are_distinct():
    seeds = {
        stream_seed(seed, *stream)
        for seed in range(20)
        for stream in [(), ("a",), ("b",), ("a", 0), ("a", 1), ("a", "b")]
    }
    assert len(seeds) == 120
    assert all(0 <= s < 2**63 for s in seeds), "torch takes seeds below 2**63"
    correlation = torch.corrcoef(torch.stack([draw("a"), draw("b"), draw("a", seed=1)]))
    assert (correlation - torch.eye(3)).abs().max() < 0.5


def test_seeds_do_not_depend_on_the_process():
    # Python's own hash() differs from run to run; a literal pins the derivation across versions.
    assert stream_seed(0, "subset") == 777158813184230745
    assert stream_seed(np.int64(5), "x") == stream_seed(5, "x")


@pytest.mark.parametrize("seed", [None, True, 1.0, "1"])
def test_a_seed_that_is_no_integer_is_refused(seed):
    with pytest.raises(TypeError, match="`seed` must be an integer"):
        stream_seed(seed, "x")


def test_normal_is_the_same_draw_in_every_dtype():
    draws = {
        dtype: normal(generator(0, "x"), 3, 4, like=torch.zeros(1, dtype=dtype))
        for dtype in (torch.float64, torch.float32, torch.bfloat16)
    }
    for dtype, values in draws.items():
        assert values.dtype == dtype
        assert values.shape == (3, 4)
        assert torch.equal(values, draws[torch.float64].to(dtype))


def test_normal_has_the_moments_of_a_standard_normal():
    x = normal(generator(1, "moments"), 20_000, like=torch.zeros(1, dtype=torch.float64))
    assert abs(float(x.mean())) < 4 / 20_000**0.5
    assert abs(float(x.var()) - 1) < 4 * (2 / 20_000) ** 0.5


@pytest.mark.parametrize("fails", [False, True])
def test_global_generators_are_put_back(unchanged, fails):
    def draw_everywhere():
        with preserved_global_rng():
            torch.rand(3)
            torch.manual_seed(7)
            np.random.rand(3)  # noqa: NPY002 - the global generator is the point
            np.random.normal()  # noqa: NPY002 - caches a second number
            random.random()
            random.gauss(0, 1)
            if fails:
                raise KeyboardInterrupt("stop")

    with unchanged():
        if fails:
            with pytest.raises(KeyboardInterrupt, match="stop"):
                draw_everywhere()
        else:
            draw_everywhere()


def test_drawing_from_a_stream_leaves_the_global_generators_alone(unchanged):
    with unchanged():
        normal(generator(0, "x"), 10, like=torch.zeros(1))
