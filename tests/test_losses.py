"""Each loss against oracles. TABLE says which oracle applies to which loss; MUSE's variants are shown
to fail the ones that make a loss right.
"""

import inspect
import math

import pytest
import torch

from pulse_lib.errors import PulseError
from pulse_lib.methods import Method
from pulse_lib.train import losses
from pulse_lib.train.reference import Reference
from pulse_lib.train.terms import loss_value

B, T, V, BETA = 3, 5, 7, 0.3
GAMMA, BETA1, BETA2, SKIP = 0.2, 1.5, 0.7, 1
CLOSED_FORM = "closed form, by loops over Python floats"
CONSTANT = "a constant added to a position's logits changes neither value nor gradient"
MASKED = "what stands at -100 positions changes nothing"
LOOP = "batch = loop over its sequences"
ACCUMULATED = "exact accumulation over micro-batches with n_tokens"
ZERO = "value and gradient zero at the reference"
LIMIT = "2 log 2 / beta at the reference; for beta -> 0 the gradient of the mean sequence_logprob"
GRADCHECK = "gradcheck in float64: no stop-gradient but in the reference"

_ALL = {CLOSED_FORM, CONSTANT, MASKED, LOOP}
TABLE = {
    "sequence_logprob": _ALL | {GRADCHECK},
    "nll": _ALL | {ACCUMULATED, GRADCHECK},
    "gradient_ascent": _ALL | {ACCUMULATED, GRADCHECK},
    "kl_to_reference": _ALL | {ACCUMULATED, GRADCHECK, ZERO},
    "nll_and_kl": _ALL | {ACCUMULATED, GRADCHECK},
    "npo": _ALL | {GRADCHECK, LIMIT},
    # Of the batch as a whole: no sum over its sequences or tokens
    "npo_token_mean": {CLOSED_FORM, CONSTANT, MASKED, GRADCHECK},
    "nll_and_kl_sum": {CLOSED_FORM, CONSTANT, MASKED, GRADCHECK},
    "dpo": _ALL | {GRADCHECK},
    "simnpo": _ALL | {GRADCHECK},
    "undial": _ALL | {ACCUMULATED, GRADCHECK},
    "wga": _ALL | {ACCUMULATED},
    "satimp": _ALL | {ACCUMULATED},
    "ceu": _ALL | {ACCUMULATED},
    # Of hidden states, not of logits: a constant added to them is a change, and it must be seen.
    "rmu": {CLOSED_FORM, MASKED, LOOP, ACCUMULATED, GRADCHECK},
}
MUSE = {"muse_klr": {CLOSED_FORM, MASKED, LOOP}, "muse_npo": {CLOSED_FORM, MASKED, LOOP}}


def those(oracle):
    """The losses that an oracle applies to."""
    return [name for name, oracles in TABLE.items() if oracle in oracles]


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


def means(logits, labels):
    """Mean log-probability of each sequence's answer tokens."""
    return losses.sequence_logprob(logits, labels) / (labels != losses.IGNORE).sum(-1)


def value(name, logits, reference, labels, n_tokens=None):
    """Any loss on a batch, as the training loop would call it. dpo: the rejected answers are the
    labels, the chosen ones the labels shifted by one entry of the vocabulary.
    """
    s = [losses.sequence_logprob(table, labels) for table in (logits, reference)]
    if name == "sequence_logprob":
        return s[0]
    if name == "npo":
        return losses.npo(*s, BETA)
    if name == "npo_token_mean":
        return losses.npo_token_mean(*s, labels, BETA, n_tokens)
    if name == "dpo":
        chosen = torch.where(labels == losses.IGNORE, labels, (labels + 1) % V)
        c = [losses.sequence_logprob(table, chosen) for table in (logits, reference)]
        return losses.dpo(c[0], s[0], c[1], s[1], BETA)
    if name == "simnpo":
        return losses.simnpo(means(logits, labels), BETA, GAMMA)
    if name == "rmu":
        return losses.rmu(logits, reference, labels != losses.IGNORE, n_tokens)
    if name == "muse_klr":
        return losses.muse_klr(logits, reference, labels)
    coefficients = {
        "undial": (BETA,),
        "muse_npo": (BETA,),
        "wga": (BETA,),
        "satimp": (BETA1, BETA2),
        "ceu": (SKIP,),
    }.get(name, ())
    against = ("kl_to_reference", "nll_and_kl", "nll_and_kl_sum", "undial", "muse_npo")
    against = (reference,) if name in against else ()
    return getattr(losses, name)(logits, *against, labels, *coefficients, n_tokens)


def counted(name, labels):
    """How many tokens each row adds to the mean of a token-mean loss."""
    found = (labels != losses.IGNORE).sum(1)
    return (found - SKIP).clamp(min=0) if name == "ceu" else found


def oracle(name, logits, reference, labels):
    """The definition, in Python floats."""

    def softmax(row):
        total = sum(math.exp(x - max(row)) for x in row)
        return [math.exp(x - max(row)) / total for x in row]

    def spots(b):
        return [t for t in range(T) if labels[b, t] != losses.IGNORE]

    def log_p(table, b, t, shift=0):
        row = [float(x) for x in table[b, t]]
        return math.log(softmax(row)[(int(labels[b, t]) + shift) % V])

    def total(table, b, shift=0):
        return sum(log_p(table, b, t, shift) for t in spots(b))

    def soft(x):  # -log sigmoid(-x)
        return math.log(1 + math.exp(x))

    def token(b, t, place):
        """What one answer token adds, and how often it counts."""
        z, r = ([float(x) for x in table[b, t]] for table in (logits, reference))
        q, p, y = softmax(z), softmax(r), int(labels[b, t])
        if name == "nll":
            return -math.log(q[y]), 1
        if name == "gradient_ascent":
            return math.log(q[y]), 1
        if name == "kl_to_reference":
            return sum(b * (math.log(b) - math.log(a)) for a, b in zip(q, p, strict=True)), 1
        if name == "nll_and_kl":
            kl = sum(b * (math.log(b) - math.log(a)) for a, b in zip(q, p, strict=True))
            return kl - math.log(q[y]), 1
        if name == "undial":
            aim = softmax([x - BETA * (v == y) for v, x in enumerate(r)])
            return -sum(b * math.log(a) for a, b in zip(q, aim, strict=True)), 1
        if name == "wga":
            return q[y] ** BETA * math.log(q[y]), 1
        if name == "satimp":
            return q[y] ** BETA1 * (1 - q[y]) ** BETA2 * math.log(q[y]), 1
        if name == "ceu":
            others = [v for v in range(V) if v != y]
            rest = sum(q[v] for v in others)
            term = -sum(q[v] / rest * math.log(q[v]) for v in others)
            return (term, 1) if place >= SKIP else (0.0, 0)
        if name == "rmu":
            return sum((a - b) ** 2 for a, b in zip(z, r, strict=True)) / V, 1
        if name == "muse_npo":
            terms = [2 / BETA * soft(BETA * (a - b)) for a, b in zip(z, r, strict=True)]
            return sum(terms) / V, 1
        assert name == "muse_klr"
        return sum(math.exp(b) * (b - a) for a, b in zip(z, r, strict=True)), 1

    rows = range(B)
    if name == "sequence_logprob":
        return [total(logits, b) for b in rows]
    if name == "npo":
        terms = [2 / BETA * soft(BETA * (total(logits, b) - total(reference, b))) for b in rows]
        return sum(terms) / B
    n_spots = sum(len(spots(b)) for b in rows)
    if name == "npo_token_mean":
        mean = sum(total(logits, b) - total(reference, b) for b in rows) / n_spots
        return 2 / BETA * soft(BETA * mean)
    if name == "nll_and_kl_sum":
        kl = 0.0
        for b in rows:
            for t in spots(b):
                q, p = (softmax([float(x) for x in table[b, t]]) for table in (logits, reference))
                kl += sum(j * (math.log(j) - math.log(i)) for i, j in zip(q, p, strict=True))
        return kl / B - sum(total(logits, b) for b in rows) / n_spots
    if name == "dpo":
        gains = [
            total(logits, b, 1) - total(reference, b, 1) - total(logits, b) + total(reference, b)
            for b in rows
        ]
        return sum(soft(-BETA * gain) for gain in gains) / B
    if name == "simnpo":
        m = [total(logits, b) / len(spots(b)) for b in rows]
        return sum(2 / BETA * soft(BETA * x + GAMMA) for x in m) / B
    terms = [token(b, t, place) for b in rows for place, t in enumerate(spots(b))]
    n = B if name == "muse_klr" else sum(weight for _, weight in terms)
    return sum(term for term, _ in terms) / n


def with_gradient(name, logits, reference, labels):
    logits = logits.clone().requires_grad_(True)
    found = value(name, logits, reference, labels).sum()
    found.backward()
    return found.detach(), logits.grad


def test_the_table_is_complete():
    functions = {
        name
        for name, f in vars(losses).items()
        if inspect.isfunction(f) and not name.startswith("_") and f.__module__ == losses.__name__
    }
    assert functions - {"token_logprobs", "skip_leading"} == {*TABLE, *MUSE}


@pytest.mark.parametrize("name", [*those(CLOSED_FORM), *MUSE])
def test_closed_form(name, batch):
    expected = torch.tensor(oracle(name, *batch), dtype=torch.float64)
    torch.testing.assert_close(value(name, *batch), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [*TABLE, *MUSE])
def test_float64_stays_and_half_precision_is_widened(name, batch):
    logits, reference, labels = batch
    assert value(name, *batch).dtype == torch.float64
    half = value(name, logits.bfloat16(), reference.bfloat16(), labels)
    assert half.dtype == torch.float32
    exact = value(name, logits.bfloat16().double(), reference.bfloat16().double(), labels)
    torch.testing.assert_close(half.double(), exact, rtol=1e-5, atol=1e-5)


def shifted(logits, reference, labels):
    """The same distributions, by other logits."""
    shift = torch.linspace(-5, 5, B * T, dtype=torch.float64).reshape(B, T, 1)
    return logits + shift, reference - shift, labels


@pytest.mark.parametrize("name", those(CONSTANT))
def test_a_constant_on_the_logits_changes_nothing(name, batch):
    before, gradient = with_gradient(name, *batch)
    after, other = with_gradient(name, *shifted(*batch))
    torch.testing.assert_close(after, before, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(other, gradient, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", [*those(MASKED), *MUSE])
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


@pytest.mark.parametrize("name", [*those(LOOP), *MUSE])
def test_batch_is_the_loop_over_its_sequences(name, batch):
    logits, reference, labels = batch
    rows = [
        value(name, logits[b : b + 1], reference[b : b + 1], labels[b : b + 1]) for b in range(B)
    ]
    if name == "sequence_logprob":
        expected = torch.cat(rows)
    else:
        per_token = ACCUMULATED in TABLE.get(name, ()) or name == "muse_npo"
        weights = (counted(name, labels) if per_token else torch.ones(B)).double()
        expected = (torch.stack(rows) * weights).sum() / weights.sum()
    torch.testing.assert_close(value(name, *batch), expected, rtol=1e-12, atol=1e-12)


def test_mllmu_s_npo_in_parts_is_that_of_the_batch(batch):
    """Value and gradient, when each part is told the whole batch's ratio and number of tokens; and
    it is no mean over sequences.
    """
    logits, reference, labels = batch
    n_tokens = int((labels != losses.IGNORE).sum())
    whole, gradient = with_gradient("npo_token_mean", *batch)
    known = losses.sequence_logprob(reference, labels)
    ratio = (losses.sequence_logprob(logits, labels) - known).sum() / n_tokens
    parts = logits.clone().requires_grad_(True)
    for rows in (slice(0, 1), slice(1, 3)):
        s = losses.sequence_logprob(parts[rows], labels[rows])
        found = losses.npo_token_mean(s, known[rows], labels[rows], BETA, n_tokens, ratio)
        found.backward()
        torch.testing.assert_close(found.detach(), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts.grad, gradient, rtol=1e-10, atol=1e-12)
    alone = [value("npo_token_mean", *(t[b : b + 1] for t in batch)) for b in range(B)]
    assert abs(float(torch.stack(alone).mean() - whole)) > 1e-3


def test_mllmu_s_kl_is_torch_s_batchmean(batch):
    logits, reference, labels = batch
    every = torch.zeros_like(labels)  # their code masks nothing
    theirs = torch.nn.functional.kl_div(
        logits.log_softmax(-1), reference.softmax(-1), reduction="batchmean"
    )
    ours = value("nll_and_kl_sum", logits, reference, every) - value(
        "nll", logits, reference, every
    )
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(ours, T * losses.kl_to_reference(logits, reference, every))


@pytest.mark.parametrize("name", [*those(ACCUMULATED), "muse_npo"])
def test_accumulation_over_micro_batches_is_exact(name, batch):
    logits, reference, labels = batch
    n_tokens = int(counted(name, labels).sum())
    whole, gradient = with_gradient(name, logits, reference, labels)
    parts = logits.clone().requires_grad_(True)
    total = 0.0
    for rows in (slice(0, 1), slice(1, 3)):  # the micro-batches hold different numbers of tokens
        part = value(name, parts[rows], reference[rows], labels[rows], n_tokens)
        part.backward()
        total += part.item()
    assert total == pytest.approx(whole.item(), rel=1e-13)
    torch.testing.assert_close(parts.grad, gradient, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("name", [*those(ACCUMULATED), "muse_npo"])
def test_no_answer_token_is_an_error(name, batch):
    logits, reference, labels = batch
    nothing = torch.full_like(labels, losses.IGNORE)
    with pytest.raises(ValueError, match="no answer token|no position"):
        value(name, logits, reference, nothing)
    assert value(name, logits, reference, nothing, 4).item() == 0  # a micro-batch may be without


@pytest.mark.parametrize("name", those(GRADCHECK))
def test_gradcheck(name, batch):
    logits, reference, labels = batch
    assert torch.autograd.gradcheck(
        lambda x: value(name, x, reference, labels), logits.clone().requires_grad_(True)
    )


@pytest.mark.parametrize("name", ["wga", "satimp", "ceu"])
def test_stop_gradient(name, batch):
    """The gradient is that of the loss with its weights, or its target, held as numbers."""
    logits, _, labels = batch
    x = logits.clone().requires_grad_(True)
    logp = losses.token_logprobs(x, labels)
    p = logp.detach().exp()
    n = int(counted(name, labels).sum())
    if name == "ceu":
        kept = losses.skip_leading(labels, SKIP)
        q = torch.softmax(logits, -1)
        onehot = torch.nn.functional.one_hot(kept.clamp(min=0), V).bool()
        q = q.masked_fill(onehot, 0) / (1 - q[onehot]).reshape(B, T, 1)
        terms = -(q * torch.log_softmax(x, -1)).sum(-1) * (kept != losses.IGNORE)
        (terms.sum() / n).backward()
    else:
        weight = p**BETA if name == "wga" else p**BETA1 * (1 - p) ** BETA2
        ((weight * logp).sum() / n).backward()
    torch.testing.assert_close(with_gradient(name, *batch)[1], x.grad, rtol=1e-10, atol=1e-12)


def test_weighted_losses_end_in_the_plain_one(batch):
    logits, _, labels = batch
    plain = with_gradient("gradient_ascent", *batch)
    for call in (
        lambda x: losses.wga(x, labels, 0.0),
        lambda x: losses.satimp(x, labels, 0.0, 0.0),
    ):
        x = logits.clone().requires_grad_(True)
        found = call(x)
        found.backward()
        torch.testing.assert_close((found.detach(), x.grad), plain)


def test_undial_without_lowering_is_distillation(batch):
    """beta = 0: cross-entropy to the reference, so its gradient is that of the KL, zero at the
    reference.
    """
    logits, reference, labels = batch
    x = logits.clone().requires_grad_(True)
    losses.undial(x, reference, labels, 0.0).backward()
    torch.testing.assert_close(x.grad, with_gradient("kl_to_reference", *batch)[1])
    lowered = losses.undial(reference, reference, labels, 50.0)
    assert lowered > losses.undial(reference, reference, labels, 0.0)


def test_ceu_leaves_the_first_answer_tokens_out(batch):
    logits, _, labels = batch
    assert losses.skip_leading(torch.tensor([[-100, 4, 5, -100, 6]]), 2).tolist() == [
        [-100, -100, -100, -100, 6]
    ]
    everywhere = losses.ceu(logits, labels)
    changed = logits.clone()
    changed[1, 0] += torch.arange(V)  # the first answer token of row 1
    assert losses.ceu(changed, labels) != everywhere
    assert losses.ceu(changed, labels, SKIP) == losses.ceu(logits, labels, SKIP)
    with pytest.raises(ValueError, match="no answer token"):
        losses.ceu(logits, labels, T)


def test_rmu_with_one_vector_for_all_positions(batch):
    hidden, _, labels = batch
    vector, mask = torch.arange(V, dtype=torch.float64), labels != losses.IGNORE
    expected = losses.rmu(hidden, vector.expand(B, T, V), mask)
    assert losses.rmu(hidden, vector, mask) == expected > 0
    assert losses.rmu(hidden, hidden, mask) == 0
    assert losses.rmu(hidden + 1.0, hidden, mask).item() == pytest.approx(1.0)


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_dpo_and_simnpo_at_known_points(beta):
    s = torch.tensor([-3.0, -40.0], dtype=torch.float64)
    assert losses.dpo(s, s - 1, s, s - 1, beta).item() == pytest.approx(math.log(2), rel=1e-14)
    assert losses.dpo(s + 5, s, s, s, beta) < math.log(2) < losses.dpo(s, s + 5, s, s, beta)
    expected = 2 / beta * math.log(1 + math.exp(beta * -3.0 + 0.5))
    assert losses.simnpo(s[:1], beta, 0.5).item() == pytest.approx(expected, rel=1e-12)


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
    for name in ("kl_to_reference", "npo", "dpo", "undial", "rmu", *MUSE):
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


# --- what MUSE's variants are -------------------------------------------------------------------


@pytest.mark.parametrize("name", MUSE)
def test_muse_fails_the_constant(name, batch):
    before, gradient = with_gradient(name, *batch)
    after, other = with_gradient(name, *shifted(*batch))
    assert abs(after - before) > 0.1 and (other - gradient).abs().max() > 1e-3


def test_muse_klr_fails_at_the_reference(batch):
    logits, _, labels = batch
    found, gradient = with_gradient("muse_klr", logits, logits, labels)
    at = labels != losses.IGNORE
    assert found == 0
    torch.testing.assert_close(gradient[at], -logits[at].exp() / B)
    # +5 on all logits changes no probability, and the "KL" falls below zero without end
    assert value("muse_klr", logits + 5, logits, labels) < -10


def test_muse_npo_fails_to_see_the_labels(batch):
    logits, reference, labels = batch
    others = torch.where(labels == losses.IGNORE, labels, (labels + 3) % V)
    assert value("muse_npo", logits, reference, others) == value("muse_npo", *batch)
    assert value("npo", logits, reference, others) != value("npo", *batch)
    at = labels != losses.IGNORE
    gradient = with_gradient("muse_npo", logits, logits, labels)[1]
    torch.testing.assert_close(gradient[at], torch.full_like(gradient[at], 1 / (V * int(at.sum()))))
    stepped = torch.log_softmax(logits - 100 * gradient, -1)
    torch.testing.assert_close(stepped, torch.log_softmax(logits, -1))


# --- the call by name
# ------------------------------------------------------------------------


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
    for name in ("nll", "gradient_ascent", "kl_to_reference", "npo"):
        found = loss_value(
            name, ids, logits=packed, labels=targets, coefficients={"beta": BETA}, reference=kept
        )
        torch.testing.assert_close(found, value(name, *batch))
        shuffled = loss_value(
            name,
            ids[::-1],
            logits=packed.flip(0),
            labels=targets.flip(0),
            coefficients={"beta": BETA},
            reference=kept,
        )
        torch.testing.assert_close(shuffled, found)


def test_call_by_name_says_what_is_missing(batch):
    logits, _, labels = batch
    ids, call = ["a", "b", "c"], {"logits": logits, "labels": labels}
    with pytest.raises(PulseError, match="none was given"):
        loss_value("npo", ids, **call, coefficients={"beta": 0.1}, reference=None)
    with pytest.raises(PulseError, match="'a' has no reference value"):
        loss_value("npo", ids, **call, coefficients={"beta": 0.1}, reference=Reference())
    known = Reference(logprob={i: torch.zeros(()) for i in "abc"})
    with pytest.raises(PulseError, match="argument 'beta'"):
        loss_value("npo", ids, **call, coefficients={}, reference=known)
    with pytest.raises(PulseError, match="'nothing' is no function"):
        name = Method(
            "x", "X", forget_loss="nothing", retain_loss="", loss="", source=""
        ).forget_loss
        loss_value(name, ids, **call, coefficients={}, reference=None)
