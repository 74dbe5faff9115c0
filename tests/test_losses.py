"""Each loss against oracles. The table says which oracle applies to which loss.

| oracle | applies to |
|---|---|
| closed form, by loops in float64 | all |
| a constant added to a position's logits changes nothing | all |
| what stands at -100 positions changes nothing | all |
| batch = loop over its sequences | all |
| exact accumulation over micro-batches with n_tokens | token means |
| value and gradient zero at the reference | kl_to_reference |
| 2 log 2 / beta at the reference; for beta -> 0 the gradient of the mean sequence_logprob | npo |
| gradcheck in float64 | all (none has a stop-gradient but in its reference) |
"""

import inspect
import math

import pytest
import torch

from pulse_lib.errors import PulseError
from pulse_lib.unlearn import losses
from pulse_lib.unlearn.methods import FINETUNE, METHODS, Method, get
from pulse_lib.unlearn.reference import Reference, loss_value

B, T, V, BETA = 3, 5, 7, 0.3
TOKEN_MEANS = ("nll", "gradient_ascent", "kl_to_reference")
ALL = (*TOKEN_MEANS, "sequence_logprob", "npo")


@pytest.fixture
def batch():
    """Logits, reference logits (B, T, V) in float64, labels (B, T) with -100 in different places of
    each row.
    """
    generator = torch.Generator().manual_seed(0)
    logits, reference = (
        3 * torch.randn(B, T, V, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    labels = torch.randint(0, V, (B, T), generator=generator)
    labels[0, 0] = labels[1, 3:] = labels[2, 1] = losses.IGNORE
    return logits, reference, labels


def value(name, logits, reference, labels, n_tokens=None):
    """Any loss on a batch, as the training loop would call it."""
    if name == "sequence_logprob":
        return losses.sequence_logprob(logits, labels)
    if name == "npo":
        s, s_ref = (
            losses.sequence_logprob(logits, labels),
            losses.sequence_logprob(reference, labels),
        )
        return losses.npo(s, s_ref, BETA)
    if name == "kl_to_reference":
        return losses.kl_to_reference(logits, reference, labels, n_tokens)
    return getattr(losses, name)(logits, labels, n_tokens)


def oracle(name, logits, reference, labels):
    """The definition, in Python floats."""

    def log_p(table, b, t):
        row = [float(x) for x in table[b, t]]
        total = math.log(sum(math.exp(x - max(row)) for x in row)) + max(row)
        return [x - total for x in row]

    spots = [(b, t) for b in range(B) for t in range(T) if labels[b, t] != losses.IGNORE]
    answer = {(b, t): log_p(logits, b, t)[labels[b, t]] for b, t in spots}
    s = [sum(v for (b, _), v in answer.items() if b == row) for row in range(B)]
    if name == "sequence_logprob":
        return s
    if name == "npo":
        s_ref = [
            sum(log_p(reference, b, t)[labels[b, t]] for b, t in spots if b == row)
            for row in range(B)
        ]
        terms = [
            2 / BETA * math.log(1 + math.exp(BETA * (x - y))) for x, y in zip(s, s_ref, strict=True)
        ]
        return sum(terms) / B
    if name == "kl_to_reference":
        kl = 0.0
        for b, t in spots:
            q, p = log_p(logits, b, t), log_p(reference, b, t)
            kl += sum(math.exp(y) * (y - x) for x, y in zip(q, p, strict=True))
        return kl / len(spots)
    mean = sum(answer.values()) / len(spots)
    return mean if name == "gradient_ascent" else -mean


def with_gradient(name, logits, reference, labels):
    logits = logits.clone().requires_grad_(True)
    found = value(name, logits, reference, labels).sum()
    found.backward()
    return found.detach(), logits.grad


@pytest.mark.parametrize("name", ALL)
def test_closed_form(name, batch):
    expected = torch.tensor(oracle(name, *batch), dtype=torch.float64)
    torch.testing.assert_close(value(name, *batch), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_float64_stays_and_half_precision_is_widened(name, batch):
    logits, reference, labels = batch
    assert value(name, *batch).dtype == torch.float64
    half = value(name, logits.bfloat16(), reference.bfloat16(), labels)
    assert half.dtype == torch.float32
    exact = value(name, logits.bfloat16().double(), reference.bfloat16().double(), labels)
    torch.testing.assert_close(half.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_a_constant_on_the_logits_changes_nothing(name, batch):
    logits, reference, labels = batch
    shift = torch.linspace(-50, 50, B * T, dtype=torch.float64).reshape(B, T, 1)
    before, gradient = with_gradient(name, logits, reference, labels)
    after, shifted = with_gradient(name, logits + shift, reference - shift, labels)
    torch.testing.assert_close(after, before, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(shifted, gradient, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("filler", [1e6, float("nan"), float("inf")])
def test_masked_positions_do_not_count(name, filler, batch):
    logits, reference, labels = batch
    masked = (labels == losses.IGNORE)[..., None].expand_as(logits)
    before, expected = with_gradient(name, logits, reference, labels)
    after, gradient = with_gradient(
        name, logits.masked_fill(masked, filler), reference.masked_fill(masked, filler), labels
    )
    torch.testing.assert_close((after, gradient), (before, expected))
    assert (gradient[masked] == 0).all() and (gradient[~masked] != 0).any()


@pytest.mark.parametrize("name", ALL)
def test_batch_is_the_loop_over_its_sequences(name, batch):
    logits, reference, labels = batch
    rows = [
        value(name, logits[b : b + 1], reference[b : b + 1], labels[b : b + 1]) for b in range(B)
    ]
    if name == "sequence_logprob":
        expected = torch.cat(rows)
    else:
        counts = (
            (labels != losses.IGNORE).sum(1).double()
            if name in TOKEN_MEANS
            else torch.ones(B, dtype=torch.float64)
        )
        expected = (torch.stack(rows) * counts).sum() / counts.sum()
    torch.testing.assert_close(value(name, *batch), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", TOKEN_MEANS)
def test_accumulation_over_micro_batches_is_exact(name, batch):
    logits, reference, labels = batch
    n_tokens = int((labels != losses.IGNORE).sum())
    whole, gradient = with_gradient(name, logits, reference, labels)
    parts = logits.clone().requires_grad_(True)
    total = 0.0
    for rows in (slice(0, 1), slice(1, 3)):  # the micro-batches hold different numbers of tokens
        part = value(name, parts[rows], reference[rows], labels[rows], n_tokens)
        part.backward()
        total += part.item()
    assert total == pytest.approx(whole.item(), rel=1e-14)
    torch.testing.assert_close(parts.grad, gradient, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("name", TOKEN_MEANS)
def test_no_answer_token_is_an_error(name, batch):
    logits, reference, labels = batch
    nothing = torch.full_like(labels, losses.IGNORE)
    with pytest.raises(ValueError, match="no answer token"):
        value(name, logits, reference, nothing)
    assert value(name, logits, reference, nothing, 4).item() == 0  # a micro-batch may be without


@pytest.mark.parametrize("name", ALL)
def test_gradcheck(name, batch):
    logits, reference, labels = batch
    assert torch.autograd.gradcheck(
        lambda x: value(name, x, reference, labels), logits.clone().requires_grad_(True)
    )


def test_kl_is_zero_at_the_reference_and_positive_elsewhere(batch):
    logits, reference, labels = batch
    found, gradient = with_gradient("kl_to_reference", logits, logits + 3.0, labels)
    assert abs(found.item()) < 1e-13 and gradient.abs().max() < 1e-13
    assert value("kl_to_reference", *batch) > 0.1
    forward, backward = (
        value("kl_to_reference", *batch),
        value("kl_to_reference", reference, logits, labels),
    )
    assert (
        abs(forward - backward) > 0.05
    )  # KL(reference || model), not the other way round: see test_closed_form


def test_kl_with_a_token_the_reference_excludes(batch):
    logits, reference, labels = batch
    reference = reference.clone()
    reference[..., 0] = -float("inf")
    found, gradient = with_gradient("kl_to_reference", logits, reference, labels)
    assert found.isfinite() and gradient.isfinite().all()


def test_nothing_flows_into_the_reference(batch):
    logits, reference, labels = batch
    reference = reference.clone().requires_grad_(True)
    for name in ("kl_to_reference", "npo"):
        assert not value(name, logits, reference, labels).requires_grad


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
def test_npo_at_the_reference(beta):
    s = torch.tensor([-3.0, -40.0], dtype=torch.float64)
    assert losses.npo(s, s, beta).item() == pytest.approx(2 * math.log(2) / beta, rel=1e-14)


def test_npo_gradient_for_small_beta_is_that_of_the_mean_logprob(batch):
    logits, reference, labels = batch
    a, b = (logits.clone().requires_grad_(True) for _ in range(2))
    s_ref = losses.sequence_logprob(reference, labels)
    losses.npo(losses.sequence_logprob(a, labels), s_ref, 1e-7).backward()
    losses.sequence_logprob(b, labels).mean().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-8)


def test_npo_lets_go_of_what_is_forgotten():
    s = torch.tensor([-5.0, -500.0], requires_grad=True)
    losses.npo(s, torch.tensor([-5.0, -5.0]), 0.1).backward()
    assert s.grad[0] == pytest.approx(0.5) and s.grad[1] == pytest.approx(0, abs=1e-12)


# --- the table of methods and the call by name
# ------------------------------------------------------------------------


def test_the_pinned_methods():
    assert list(METHODS) == ["ga", "ga_klr", "npo"]
    assert [m.label for m in METHODS.values()] == ["GA", "GA+KLR", "NPO"]
    assert get("npo").coefficients == {"beta": 0.1} and get("ga_klr").retain_weight == 1.0
    with pytest.raises(PulseError, match="ga, ga_klr, npo"):
        get("gradient_ascent")
    assert get("npo").describe()["coefficients"] == "beta = 0.1"
    assert get("ga_klr").describe()["needs"] == "retain_train, reference"
    assert get("ga").describe()["retain loss"] == "none"


@pytest.mark.parametrize("method", [*METHODS.values(), FINETUNE], ids=lambda m: m.id)
def test_needs_say_what_the_losses_take(method):
    names = [n for n in (method.forget_loss, method.retain_loss) if n]
    taken = {p for name in names for p in inspect.signature(getattr(losses, name)).parameters}
    assert ("reference" in method.needs) == any(p.startswith("reference") for p in taken)
    assert ("retain_train" in method.needs) == bool(method.retain_loss)
    assert set(method.coefficients) <= taken


def test_call_by_name(batch):
    logits, reference, labels = batch
    ids = ["a", "b", "c"]
    kept = Reference(
        logprob=dict(zip(ids, losses.sequence_logprob(reference, labels), strict=True)),
        logits={i: reference[b][labels[b] != losses.IGNORE] for b, i in enumerate(ids)},
    )
    # As the loop has them: supervised positions first, padding behind.
    packed, targets = torch.zeros_like(logits), torch.full_like(labels, losses.IGNORE)
    for b in range(B):
        at = labels[b] != losses.IGNORE
        packed[b, : at.sum()], targets[b, : at.sum()] = logits[b][at], labels[b][at]
    n = int((targets != losses.IGNORE).sum(1).max())
    packed, targets = packed[:, :n], targets[:, :n]
    for name in (*TOKEN_MEANS, "npo"):
        found = loss_value(name, ids, packed, targets, {"beta": BETA}, kept)
        torch.testing.assert_close(found, value(name, *batch))
        shuffled = loss_value(
            name, ids[::-1], packed.flip(0), targets.flip(0), {"beta": BETA}, kept
        )
        torch.testing.assert_close(shuffled, found)


def test_call_by_name_says_what_is_missing(batch):
    logits, _, labels = batch
    call = (["a", "b", "c"], logits, labels)
    with pytest.raises(PulseError, match="none was given"):
        loss_value("npo", *call, {"beta": 0.1}, None)
    with pytest.raises(PulseError, match="'a' has no reference value"):
        loss_value("npo", *call, {"beta": 0.1}, Reference())
    known = Reference(logprob={i: torch.zeros(()) for i in "abc"})
    with pytest.raises(PulseError, match="argument 'beta'"):
        loss_value("npo", *call, {}, known)
    with pytest.raises(PulseError, match="'nothing' is no function"):
        loss_value(Method("x", "X", "nothing", "", "", "").forget_loss, *call, {}, None)
