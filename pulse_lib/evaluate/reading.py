"""Prompts read by the language model: what several have in common once, then of each the rest with
its options behind it; and greedy decoding from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from transformers import DynamicCache

from pulse_lib.model.families import Quick
from pulse_lib.model.forward import last_layer_at, positions_of
from pulse_lib.model.forward import read as read_tokens
from pulse_lib.model.load import LoadedModel

WORTH = 0.1  # share of all tokens that a first pass over common beginnings must save
_PROMPT, _PAD = -1, -2  # in place of an option's number

Options = Sequence[tuple[int, ...]]  # tokens of each option of a question, with the end token


@dataclass(frozen=True)
class Read:
    """B prompts that the model has read, with their options side by side behind them. N = most
    tokens of a row's options, K = keys of the cache.
    """

    cache: DynamicCache
    logits: torch.Tensor  # (B, 1 + N, V) float32: after the prompt, then after an option's token
    _: KW_ONLY
    places: list[dict[tuple[int, int], int]]  # of the token (option, depth) among the logits
    present: torch.Tensor  # (B, K) which keys are the prompt's
    keys: torch.Tensor  # (B, K) place of each key in its row
    last: list[int]  # key of each prompt's last token; an option's are so many behind it
    lengths: list[int]  # tokens of each prompt
    following: list[int]  # position of the token behind each prompt


def read_prompts(
    model: LoadedModel,
    prompts: Sequence[list[int]],
    *,
    images: Sequence[str],
    options: Sequence[Options],
    depth: int,
) -> Read:
    """The prompts and the first `depth` tokens of their options, but for the end token, which
    nothing follows. What the prompts of one picture (`images`; "" for none) have in common is read
    once; an option sees the prompt and itself only, as if it were read alone.
    """
    cache = DynamicCache()
    starts, whose = _starts(prompts, images=images)
    of_start = torch.tensor(whose, device=model.device)
    if any(starts):
        _read_starts(model, cache, starts=starts, images=dict(zip(whose, images, strict=True)))
        cache.batch_select_indices(of_start)
    in_start = (_tensor(model, [[1] * len(s) for s in starts], fill=0) > 0)[of_start]  # (B, P)
    tokens, positions, at, following, option, places, wanted = [], [], [], [], [], [], []
    for prompt, image, k, row in zip(prompts, images, whose, options, strict=True):
        begun, n = len(starts[k]), len(prompt)
        nodes = [(j, d) for j, o in enumerate(row) for d in range(min(len(o) - 1, depth))]
        tokens.append(prompt[begun:] + [row[j][d] for j, d in nodes])
        axes = positions_of(model, prompt, image=image)  # (1 or 3, n)
        following.append(int(axes.max()) + 1)
        behind = [following[-1] + d for _, d in nodes]
        positions.append([[*axis[begun:], *behind] for axis in axes.tolist()])
        at.append([*range(begun, n), *(n + d for _, d in nodes)])
        option.append([_PROMPT] * (n - begun) + [j for j, _ in nodes])
        places.append({node: at for at, node in enumerate(nodes, start=1)})
        wanted.append([n - begun - 1 + at for at in range(1 + len(nodes))])
    of_option = _tensor(model, option, fill=_PAD)  # (B, Q)
    n_new = of_option.shape[1]
    seen = (of_option[:, None] == _PROMPT) | (of_option[:, None] == of_option[:, :, None])
    seen &= torch.ones(n_new, n_new, dtype=torch.bool, device=model.device).tril()
    index = _tensor(model, wanted, fill=0)
    read = torch.zeros_like(of_option, dtype=torch.bool).scatter(1, index, True)
    of_start_keys = torch.arange(in_start.shape[1], device=model.device).expand_as(in_start)
    keys = torch.cat([of_start_keys, _tensor(model, at, fill=0)], dim=-1)
    with last_layer_at(model, read):
        hidden = _continue(
            model,
            cache,
            tokens=_tensor(model, tokens, fill=model.tokenizer.eos_token_id),
            positions=_axes(model, positions),
            keys=keys,
            allowed=torch.cat([in_start[:, None].expand(-1, n_new, -1), seen], dim=-1),
            images=[i for i, t in zip(images, tokens, strict=True) if model.image_token_id in t],
        )
    return Read(
        cache,
        model.network.lm_head(hidden.gather(1, _wide(index, hidden))).float(),
        places=places,
        present=torch.cat([in_start, of_option == _PROMPT], dim=-1),
        keys=keys,
        last=[in_start.shape[1] + w[0] for w in wanted],
        lengths=[len(p) for p in prompts],
        following=following,
    )


def option_logliks(read: Read, options: Sequence[Options]) -> list[list[float]]:
    """Log-likelihood of each row's options in nats: of all their tokens, the end token too. They
    must have been read in full.
    """
    steps = [  # (option, place, token that follows there)
        [(j, 0 if d == 0 else at[j, d - 1], t) for j, o in enumerate(row) for d, t in enumerate(o)]
        for row, at in zip(options, read.places, strict=True)
    ]
    totals = [[0.0] * len(row) for row in options]
    most = max(map(len, steps))
    if most == 0:
        return totals
    filled = [row + [(0, 0, 0)] * (most - len(row)) for row in steps]
    _, place, token = torch.tensor(filled, device=read.logits.device).unbind(-1)  # each (B, most)
    rows = torch.arange(len(steps), device=read.logits.device)[:, None]
    normaliser = read.logits.logsumexp(-1)[rows, place]
    values = (read.logits[rows, place, token] - normaliser).double().tolist()
    for total, row, value in zip(totals, steps, values, strict=True):
        for (j, _, _), v in zip(row, value, strict=False):
            total[j] += v
    return totals


def greedy(
    model: LoadedModel, read: Read, *, options: Sequence[Options], max_new_tokens: int
) -> list[list[int]]:
    """Each row's most likely tokens one after another, up to the end token (left out) or
    `max_new_tokens`. While they are an option's, the next one is known from the reading; only rows
    that say something else are decoded. It takes the cache of `read` with it.
    """
    ends, best = model.end_tokens, read.logits.argmax(-1).tolist()
    said, present, open_rows = [], read.present.clone(), []
    for b, (row, places) in enumerate(zip(options, read.places, strict=True)):
        tokens, path = [best[b][0]], []
        while tokens[-1] not in ends and len(tokens) < max_new_tokens:
            node = _following(row, tokens, places=places)
            if node is None:
                open_rows.append(b)
                break
            path = [places[node[0], d] for d in range(len(tokens))]
            tokens.append(best[b][path[-1]])
        present[b, [read.last[b] + place for place in path]] = True
        said.append(tokens)
    _decode(
        model,
        read,
        said=said,
        present=present,
        rows=open_rows,
        max_new_tokens=max_new_tokens,
    )
    return [tokens[:-1] if tokens[-1] in ends else tokens for tokens in said]


def _following(
    options: Options, tokens: list[int], *, places: dict[tuple[int, int], int]
) -> tuple[int, int] | None:
    """Where an option that begins with these tokens was read up to the last of them."""
    n = len(tokens)
    for j, option in enumerate(options):
        if (j, n - 1) in places and list(option[:n]) == tokens:
            return j, n - 1
    return None


def _decode(
    model: LoadedModel,
    read: Read,
    *,
    said: list[list[int]],
    present: torch.Tensor,
    rows: list[int],
    max_new_tokens: int,
) -> None:
    """Go on with these rows, a token at a time, appending to `said`; a row that has ended is read no
    further.
    """
    ends, kept, keys = model.end_tokens, list(range(len(said))), read.keys
    while rows:
        if len(rows) < len(kept):
            index = torch.tensor([kept.index(b) for b in rows], device=model.device)
            read.cache.batch_select_indices(index)
            present, keys, kept = present[index], keys[index], rows
        present = torch.cat([present, present.new_ones(len(rows), 1)], dim=-1)
        new = [len(said[b]) - 1 for b in rows]  # tokens behind the prompt
        at = [[read.lengths[b] + n] for b, n in zip(rows, new, strict=True)]
        keys = torch.cat([keys, _tensor(model, at, fill=0)], dim=-1)
        n_axes = model.family.n_axes if isinstance(model.family, Quick) else 1
        positions = [[[read.following[b] + n]] * n_axes for b, n in zip(rows, new, strict=True)]
        hidden = _continue(
            model,
            read.cache,
            tokens=torch.tensor([[said[b][-1]] for b in rows], device=model.device),
            positions=_axes(model, positions),
            keys=keys,
            allowed=present[:, None],
        )
        following = model.network.lm_head(hidden[:, -1]).float().argmax(-1).tolist()
        for b, token in zip(rows, following, strict=True):
            said[b].append(token)
        rows = [b for b in rows if said[b][-1] not in ends and len(said[b]) < max_new_tokens]


def _starts(
    prompts: Sequence[list[int]], *, images: Sequence[str]
) -> tuple[list[list[int]], list[int]]:
    """What the prompts of each picture begin with alike, and which of these beginnings each prompt
    has; of each prompt a token is left. A single [] if it would hardly pay.
    """
    by_image: dict[str, list[list[int]]] = {}
    for prompt, image in zip(prompts, images, strict=True):
        by_image.setdefault(image, []).append(prompt)
    starts = []
    for members in by_image.values():
        most = min(map(len, members)) - 1
        columns = enumerate(zip(*members, strict=False))
        alike = next((k for k, tokens in columns if len(set(tokens)) > 1), most)
        starts.append(members[0][: min(alike, most)])
    saved = sum(len(s) * (len(m) - 1) for s, m in zip(starts, by_image.values(), strict=True))
    if saved < WORTH * sum(map(len, prompts)):
        return [[]], [0] * len(prompts)
    number = {image: k for k, image in enumerate(by_image)}
    return starts, [number[image] for image in images]


def _read_starts(
    model: LoadedModel, cache: DynamicCache, *, starts: list[list[int]], images: Mapping[int, str]
) -> None:
    """Read beginnings into an empty cache; `images`: the picture of each, "" for none."""
    # Padding is on the right, so that the causal mask alone is right (and fast); what follows masks
    # it out.
    ids = _tensor(model, starts, fill=model.tokenizer.eos_token_id)
    with last_layer_at(
        model, torch.zeros_like(ids, dtype=torch.bool)
    ):  # only keys and values count
        read_tokens(
            model,
            ids,
            image_ids=[images[k] for k, s in enumerate(starts) if model.image_token_id in s],
            past_key_values=cache,
            use_cache=True,
        )


def _wide(index: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Positions (B, W) as an index of vectors (B, W, H)."""
    return index[..., None].expand(-1, -1, like.shape[-1])


def _continue(
    model: LoadedModel,
    cache: DynamicCache,
    *,
    tokens: torch.Tensor,
    positions: torch.Tensor,
    keys: torch.Tensor,
    allowed: torch.Tensor,
    images: Sequence[str] = (),
) -> torch.Tensor:
    """Hidden states (B, Q, H) of `tokens` (B, Q) at `positions` ((B, Q), or (3, B, Q)), behind what
    the cache holds; `allowed` (B, Q, K): which keys each sees, its own included; `keys` (B, K): their
    places in the row. `images`: those of the rows whose tokens show one, in order.
    """
    family = model.family
    assert isinstance(family, Quick)
    mask = family.mask(
        model.network,
        allowed,
        keys=keys,
        queries=keys[:, -tokens.shape[1] :],
        of_image=tokens == model.image_token_id,
        dtype=model.dtype,
    )
    return read_tokens(
        model,
        tokens,
        image_ids=images,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state


def _axes(model: LoadedModel, rows: Sequence[Sequence[Sequence[int]]]) -> torch.Tensor:
    """Positions of rows, axis by axis, as the model takes them: (B, Q), or (3, B, Q)."""
    axes = [_tensor(model, axis, fill=0) for axis in zip(*rows, strict=True)]
    return axes[0] if len(axes) == 1 else torch.stack(axes)


def _tensor(model: LoadedModel, rows: Sequence[Sequence[int]], *, fill: int) -> torch.Tensor:
    """Rows as (B, length of the longest), padded on the right."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], device=model.device)
