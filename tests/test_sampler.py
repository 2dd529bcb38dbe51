"""Sums of codes, likelihoods, draws and the choice, against float64 references that try everything."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sepstream import kernels
from sepstream.contract import SamplingSpec
from sepstream.errors import BundleError, ExpressionError
from sepstream.latent import read_sampling
from sepstream.sampler import Counted, Cut, Gaussian, choose, cut, log_softmax, sum_table

F64 = NDArray[np.float64]
CODES, DIM, DRAWS = 5, 3, 40000


def codebook(codes: int = CODES, dim: int = DIM, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((codes, dim)).astype(np.float32)


def brute_table(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    v = vectors.astype(np.float64)
    sums = 0.5 * v[:, None] + 0.5 * v
    apart = np.square(sums[:, :, None] - v).sum(axis=3)
    return (apart <= apart.min(axis=2, keepdims=True) + 1e-9).argmax(axis=2)


@settings(max_examples=20, deadline=None)
@given(codes=st.integers(2, 40), dim=st.integers(1, 9), seed=st.integers(0, 99))
def test_the_table_of_sums_is_the_nearest_code_of_every_pair(codes, dim, seed):
    vectors = codebook(codes, dim, seed)
    np.testing.assert_array_equal(sum_table(vectors), brute_table(vectors))


def test_of_equal_codes_the_first_stands_in_the_table():
    vectors = np.repeat(codebook(), 2, axis=0)
    assert (sum_table(vectors) % 2 == 0).all()


@pytest.mark.parametrize("name", ["nearest_sums", "draw_listed"])
def test_compiled_and_plain_kernels_agree(name):
    rng = np.random.default_rng(3)
    one = rng.standard_normal((6, 6))
    pairs = rng.integers(0, 6, (9, 2)).astype(np.int32)
    arguments = {
        "nearest_sums": [one, 1e-9],
        "draw_listed": [*rng.random((2, 4, 6)), pairs, rng.random(9), rng.random(4)],
    }[name]
    shape = {"nearest_sums": (6, 6), "draw_listed": (4, 2)}[name]
    compiled, plain = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    getattr(kernels, name)(*arguments, compiled)
    getattr(kernels, name).py_func(*arguments, plain)
    np.testing.assert_array_equal(compiled, plain)


# ---- what is left of a prior


@settings(max_examples=50, deadline=None)
@given(temperature=st.floats(0.3, 3.0), top_k=st.integers(0, 12), top_p=st.floats(0.05, 1.0), seed=st.integers(0, 99))
def test_a_cut_prior_is_the_reference_and_sums_to_one(temperature, top_k, top_p, seed):
    logits = np.random.default_rng(seed).standard_normal((3, 9)).astype(np.float32) * 3
    left = cut(logits, Cut(temperature, top_k, top_p))
    for row, found in zip(logits.astype(np.float64), left, strict=True):
        p = np.exp(row / temperature) / np.exp(row / temperature).sum()
        order = np.argsort(-p)
        kept = list(order[: top_k or len(p)])
        total, wanted = p[kept].sum(), np.zeros(len(p))
        heard = 0.0
        for code in kept:
            if heard >= top_p * total * (1 + 1e-9):
                break
            heard += p[code]
            wanted[code] = p[code]
        np.testing.assert_allclose(found, wanted / wanted.sum(), atol=2e-6)


def test_log_softmax_is_the_logarithm_of_the_softmax_even_of_large_logits():
    logits = np.array([[1000.0, 999.0, -1000.0]], np.float32)
    np.testing.assert_allclose(log_softmax(logits)[0, :2], [-np.log1p(np.exp(-1)), -1 - np.log1p(np.exp(-1))], atol=1e-12)


# ---- draws against the exact posterior


def posterior(weights: F64, first: F64, second: F64) -> F64:
    whole = weights * first[:, None] * second
    return whole / whole.sum()


def frequencies(pairs: NDArray[np.int32]) -> F64:
    return np.bincount(pairs[:, 0] * CODES + pairs[:, 1], minlength=CODES**2).reshape(CODES, CODES) / len(pairs)


def priors() -> tuple[F64, F64]:
    rng = np.random.default_rng(8)
    first, second = rng.dirichlet(np.ones(CODES), 2)
    first[2] = 0.0
    return first, second / second.sum()


def assert_drawn(likelihood: Gaussian | Counted, code: int, first: F64, second: F64, wanted: F64) -> None:
    """Four standard deviations of each frequency, and nothing impossible."""
    rows = [np.tile(each, (DRAWS, 1)) for each in (first, second)]
    found = frequencies(likelihood.draw(code, *rows, np.random.default_rng(4)))
    assert (np.abs(found - wanted) <= 4 * np.sqrt(wanted * (1 - wanted) / DRAWS) + 1e-9).all()


@pytest.mark.parametrize("code", range(CODES))
def test_gaussian_draws_follow_the_exact_posterior(code):
    vectors, (first, second), sigma = codebook(), priors(), 0.7
    v = vectors.astype(np.float64)
    apart = np.square(v[brute_table(vectors)] - v[code]).sum(axis=2)
    wanted = posterior(np.exp(-apart / (2 * sigma**2)), first / first.sum(), second)
    assert_drawn(Gaussian(vectors, sum_table(vectors), sigma), code, first / first.sum(), second, wanted)


def counts() -> NDArray[np.int32]:
    rng = np.random.default_rng(6)
    keys = rng.permutation(CODES**3)[:60]
    return np.stack([keys // 25, keys // 5 % 5, keys % 5, rng.integers(1, 9, 60)], axis=1).astype(np.int32)


@pytest.mark.parametrize("code", range(CODES))
def test_counted_draws_follow_the_exact_posterior(code):
    vectors, (first, second), power, smoothing = codebook(), priors(), 3.0, 0.5
    table = brute_table(vectors)
    tensor = np.zeros((CODES, CODES, CODES))
    for i, j, k, n in counts():
        tensor[i, j, k] += n
    for i, j in product(range(CODES), repeat=2):
        tensor[i, j, table[i, j]] += smoothing
    weights = (tensor / tensor.sum(axis=2, keepdims=True)) ** power
    likelihood = Counted(counts(), sum_table(vectors), power, smoothing, Gaussian(vectors, sum_table(vectors), 0.5))
    wanted = posterior(weights[:, :, code], first / first.sum(), second)
    assert_drawn(likelihood, code, first / first.sum(), second, wanted)


def test_without_counts_the_table_is_believed():
    vectors = codebook(12)
    table, flat = sum_table(vectors), np.full((200, 12), 1 / 12)
    likelihood = Counted(np.zeros((0, 4), np.int32), table, 3.0, 1.0, Gaussian(vectors, table, 0.5))
    for code in np.unique(table):
        pairs = likelihood.draw(int(code), flat, flat, np.random.default_rng(code))
        assert (table[pairs[:, 0], pairs[:, 1]] == code).all()


def test_where_every_likelihood_is_zero_the_likeliest_pair_is_drawn():
    vectors = codebook() * 100
    table = sum_table(vectors)
    gaussian = Gaussian(vectors, table, 1e-3)
    first, second = np.eye(CODES)[[0]], np.full((1, CODES), 1 / CODES)
    code = next(code for code in range(CODES) if not (table[0] == code).any())
    v = vectors.astype(np.float64)
    nearest = np.square(v[table[0]] - v[code]).sum(axis=1).min()
    for likelihood in (gaussian, Counted(np.zeros((0, 4), np.int32), table, 3.0, 1.0, gaussian)):
        ((i, j),) = likelihood.draw(code, first, second, np.random.default_rng(0))
        assert i == 0
        assert np.square(v[table[0, j]] - v[code]).sum() == pytest.approx(nearest)


def test_the_same_generator_draws_the_same_codes():
    vectors, flat = codebook(), np.full((7, CODES), 1 / CODES)
    table = sum_table(vectors)
    for likelihood in (Gaussian(vectors, table, 1.0), Counted(counts(), table, 3.0, 1.0, Gaussian(vectors, table, 1.0))):
        one, other = (likelihood.draw(2, flat, flat, np.random.default_rng(5)) for _ in range(2))
        np.testing.assert_array_equal(one, other)


# ---- the choice


def test_the_chosen_pair_is_that_of_the_published_formula_even_across_draws():
    rng = np.random.default_rng(9)
    first, second = rng.standard_normal((2, 6, 50))
    mixture = 0.5 * first[4] + 0.5 * second[1] + 0.01 * rng.standard_normal(50)
    log_first, log_second = -rng.random((2, 6)) - 1
    prior = log_first[:, None] + log_second
    error = np.array([[np.square(0.5 * a + 0.5 * b - mixture).sum() for b in second] for a in first])
    variance = -error.mean() / (2 * prior.mean())
    wanted = np.unravel_index((prior - error / (2 * variance)).argmax(), prior.shape)
    assert choose(first, second, mixture, log_first, log_second) == tuple(wanted)
    assert tuple(wanted) == (4, 1)


def test_certain_priors_leave_the_choice_to_the_sound():
    first, second = np.eye(3), np.zeros((3, 3))
    assert choose(first, second, 0.5 * first[1], np.zeros(3), np.zeros(3)).first == 1


# ---- settings by hand


def test_settings_replace_those_of_the_bundle():
    spec = read_sampling(SamplingSpec(), ["top_k=32", "temperature=0.5", "likelihood=counts"])
    assert spec == SamplingSpec("counts", temperature=0.5, top_k=32)


@pytest.mark.parametrize(
    ("setting", "kind", "says"),
    [
        ("top_q=3", ExpressionError, "did you mean 'top_"),
        ("top_k", ExpressionError, "expected NAME=VALUE"),
        ("top_k=2.5", ExpressionError, "expected a whole number"),
        ("sigma=wide", ExpressionError, "expected a number"),
        ("top_p=0", BundleError, "top_p is 0.0; expected more than 0"),
        ("temperature=nan", BundleError, "temperature is nan"),
        ("likelihood=count", BundleError, "did you mean 'counts'"),
    ],
)
def test_a_setting_that_is_none_is_told_in_one_line(setting, kind, says):
    with pytest.raises(kind, match=says) as caught:
        read_sampling(SamplingSpec(), [setting])
    assert "\n" not in str(caught.value)
