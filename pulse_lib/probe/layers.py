"""Layer by layer: can the right option still be read from the hidden states, and from which layer on
does the model answer again if it is given those of the model before unlearning?

Both look at the last token of the prompt and at the first token of each option; a question two of
whose options begin alike is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch

from pulse_lib.data.records import Question
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.generate import option_tokens
from pulse_lib.model.adapters import only
from pulse_lib.model.forward import read
from pulse_lib.model.load import LoadedModel
from pulse_lib.model.prompts import encode_questions
from pulse_lib.probe.subject import Subject

READ, PATCHED = "linear probe", "patched"
_RIDGE = 1.0  # for each hidden unit, standardised


def layer_name(number: int) -> str:
    """The condition of a layer; 0 are the embeddings."""
    return f"layer {number:02d}"


def linear_probe(
    subject: Subject, known: Sequence[Question], *, asked: Sequence[Question]
) -> pd.DataFrame:
    """Rows of `asked` and `known` by layer: what the model would say if a linear map made the last
    layer's state out of that layer's. The map is fitted on `known`, people whom it need not forget,
    to the states of the model before unlearning; they themselves are read by a map fitted on the
    other half of them, which shows how well a map can do. option_loglik holds the log-probability
    of each option's first token.

    Raises PulseError if fewer than two people are known, or where a gate answers.
    """
    model = _one_model(subject)
    known, asked = _parted(model, known), _parted(model, asked)
    people = sorted({q.person_id for q in known})
    if len(people) < 2:
        raise PulseError("linear probe: the map needs known people, two at least")
    half = {person: i % 2 for i, person in enumerate(people)}
    model.features.add((q.image for q in [*known, *asked]), subject.images)
    states, unknown = _hidden(subject, known), _hidden(subject, asked)
    with only(model, *subject.target):
        goal = _hidden(subject, known)[:, -1]
    parts = []
    for layer in range(states.shape[1]):
        x = states[:, layer]
        made = _linear(x, goal)(unknown[:, layer])
        parts.append(_read_out(subject, asked, made=made, layer=layer))
        for side in (0, 1):
            inside = torch.tensor([half[q.person_id] == side for q in known])
            here = [q for q, i in zip(known, inside.tolist(), strict=True) if i]
            made = _linear(x[~inside], goal[~inside])(x[inside])
            parts.append(_read_out(subject, here, made=made, layer=layer))
    return pd.concat(parts, ignore_index=True)


def patched(subject: Subject, questions: Sequence[Question]) -> pd.DataFrame:
    """Rows by layer: the subject's answers with the hidden state of the prompt's last token, after
    that layer, taken from the target. option_loglik holds the log-probability of each option's
    first token. Raises PulseError where a gate answers.
    """
    model = _one_model(subject)
    layers = _decoder(model)
    questions = _parted(model, questions)
    model.features.add((q.image for q in questions), subject.images)
    with only(model, *subject.target):
        given = _hidden(subject, questions)
    parts = []
    for number in range(1, len(layers) + 1):
        scores: list[list[float]] = []
        for rows, ids, last in _batches(subject, questions):
            with _replaced(layers[number - 1], given[rows, number], last=last):
                hidden = _forward(model, [questions[i] for i in rows], ids=ids).last_hidden_state
            at = hidden[torch.arange(len(rows)), last]
            logits = torch.log_softmax(model.network.lm_head(at).float(), dim=-1)
            scores += [
                [float(logits[b, t]) for t in _first_tokens(model, questions[i])]
                for b, i in enumerate(rows)
            ]
        parts.append(_as_rows(subject, questions, scores=scores, probe=PATCHED, layer=number))
    return pd.concat(parts, ignore_index=True)


def _one_model(subject: Subject) -> LoadedModel:
    if subject.gated:
        raise PulseError("layers: a gate answers for this model, so there is no one to look into")
    return subject.model


def _decoder(model: LoadedModel) -> torch.nn.ModuleList:
    return model.family.decoder(model.network).layers


def _first_tokens(model: LoadedModel, question: Question) -> list[int]:
    return [tokens[0] for tokens in option_tokens(model, question)]


def _parted(model: LoadedModel, questions: Sequence[Question]) -> list[Question]:
    firsts = [_first_tokens(model, q) for q in questions]
    return [q for q, t in zip(questions, firsts, strict=True) if len(set(t)) == len(t)]


def _batches(
    subject: Subject, questions: Sequence[Question]
) -> Generator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Which questions, their prompts padded on the right, and where each ends."""
    model, prompts = subject.model, encode_questions(subject.model, questions)
    for start in range(0, len(questions), subject.evaluate.batch_size):
        rows = list(range(start, min(start + subject.evaluate.batch_size, len(questions))))
        width = max(len(prompts[i]) for i in rows)
        pad = model.tokenizer.eos_token_id
        ids = [[*prompts[i], *[pad] * (width - len(prompts[i]))] for i in rows]
        last = torch.tensor([len(prompts[i]) - 1 for i in rows])
        yield rows, torch.tensor(ids, device=model.device), last


@torch.no_grad()
def _forward(model: LoadedModel, questions: Sequence[Question], *, ids: torch.Tensor, **how: bool):
    return read(model, ids, image_ids=[q.image for q in questions if q.image], **how)


def _hidden(subject: Subject, questions: Sequence[Question]) -> torch.Tensor:
    """Hidden states at the last token of each prompt (questions, layers + 1, H), float32 on the CPU;
    the last layer's without the final norm.
    """
    found, layers, model = [], _decoder(subject.model), subject.model
    for rows, ids, last in _batches(subject, questions):
        kept = _Kept()
        hooks = [layer.register_forward_hook(kept) for layer in layers]
        try:
            asked = [questions[i] for i in rows]
            states = _forward(model, asked, ids=ids, output_hidden_states=True).hidden_states
        finally:
            for hook in hooks:
                hook.remove()
        at = torch.arange(len(rows))
        found.append(torch.stack([s[at, last].float().cpu() for s in (states[0], *kept)], dim=1))
    return torch.cat(found)


class _Kept(list):
    """What a hooked layer gave, one tensor a layer."""

    def __call__(self, module, args, out) -> None:
        self.append(_tensor(out))


def _tensor(out) -> torch.Tensor:
    return out[0] if isinstance(out, tuple) else out


@contextmanager
def _replaced(
    layer: torch.nn.Module, given: torch.Tensor, *, last: torch.Tensor
) -> Generator[None]:
    """Inside, what the layer gives for the last token of each prompt is `given` (B, H)."""

    def change(module, args, out):
        hidden = _tensor(out).clone()
        at = torch.arange(len(last))
        hidden[at, last] = given.to(hidden.device, hidden.dtype)
        return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

    hook = layer.register_forward_hook(change)
    try:
        yield
    finally:
        hook.remove()


def _linear(x: torch.Tensor, y: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The map h -> h + W h + c from states x (n, H) to y (n, H): least squares with a ridge on W, so
    that with few examples it stays near to the state as it is.
    """
    centre, scale, missing = x.mean(0), x.std(0).clamp_min(1e-6), (y - x).double()

    def plain(states: torch.Tensor) -> torch.Tensor:
        return ((states - centre) / scale).double()

    z = plain(x)
    ridge = _RIDGE * x.shape[1] * torch.eye(len(x), dtype=torch.float64)
    weights = z.T @ torch.linalg.solve(z @ z.T + ridge, missing - missing.mean(0))
    return lambda states: states + (plain(states) @ weights + missing.mean(0)).float()


@torch.no_grad()
def _read_out(
    subject: Subject, questions: Sequence[Question], *, made: torch.Tensor, layer: int
) -> pd.DataFrame:
    model, head = subject.model, subject.model.network.lm_head
    decoder = model.family.decoder(model.network)
    normed = decoder.norm(made.to(head.weight.device, head.weight.dtype))
    logits = torch.log_softmax(head(normed).float(), dim=-1)
    scores = [
        [float(row[t]) for t in _first_tokens(subject.model, q)]
        for q, row in zip(questions, logits, strict=True)
    ]
    return _as_rows(subject, questions, scores=scores, probe=READ, layer=layer)


def _as_rows(
    subject: Subject,
    questions: Sequence[Question],
    *,
    scores: Sequence[Sequence[float]],
    probe: str,
    layer: int,
) -> pd.DataFrame:
    """Rows whose response is the option with the highest score."""
    best = [int(np.argmax(s)) for s in scores]
    answers = pd.DataFrame(
        {
            "question_id": [q.id for q in questions],
            "response": [q.options[b] for q, b in zip(questions, best, strict=True)],
            "option_loglik": pd.Series([list(s) for s in scores], dtype=object),
        }
    )
    return subject.rows(questions, answers, probe=probe, condition=layer_name(layer))
