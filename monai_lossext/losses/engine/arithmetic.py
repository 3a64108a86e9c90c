"""Arithmetic on the sums of a walk: noted first, then done in one kernel together with its slopes.

A loss is a function of some (B, C) numbers. In torch's operations that is some tens of calls of a device, forth and
back, each of which takes longer than the arithmetic. So the function is called with numbers that note what becomes of
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .plain import TP

# Operations. Their line of WORDS goes on with the lines of the numbers that they take, and whether two of these have
# slopes. Of a row there are kind and first class, of what was given place and shape, of a constant its place, and of a
# total its axis.
ROW, GIVEN, CONSTANT, DETACH, SUM, LEAST, SQRT, LOG, EXP = range(9)
ADD, SUBTRACT, MULTIPLY, DIVIDE, POWER, LESS, AT_MOST, DIFFERENT, WHERE = range(9, 18)
WORDS = 6
WITHOUT_SLOPE = (DETACH, LEAST, LESS, AT_MOST, DIFFERENT)


class Unknown(AttributeError):
    """What cannot be noted."""


class Program(NamedTuple):
    """What was noted of a function of sums."""

    lines: tuple[int, ...]  # WORDS each, the last one of the result
    constants: tuple[float, ...]
    width: int  # classes that it takes, the last ones
    shape: tuple[int, ...]  # of the result, (B or 1, width or 1) or ()
    dtype: torch.dtype  # of the result


class Notes:
    """What is noted while a function of sums, (KINDS, B, C), is called."""

    def __init__(self, sums: Tensor) -> None:
        self.lines: dict[tuple[int, ...], int] = {}
        self.constants: dict[float, int] = {}
        self.given: dict[int, tuple[int, Tensor]] = {}
        self.sums = sums

    def rows(self) -> tuple[Any, ...]:
        """Return the sums by kind, as numbers."""
        return tuple(self.row(kind, 0) for kind in range(len(self.sums)))

    def row(self, kind: int, first: int) -> Number:
        """Return a kind of sums from a class on."""
        batch, channels = self.sums.shape[1:]
        return Number(self, (ROW, kind, first, 0, 0, 0), (batch, channels - first), kind >= TP, first)

    def number(self, x: Any) -> Number:
        """Return a constant or a tensor as a number."""
        if isinstance(x, Number):
            return x
        if not isinstance(x, Tensor):
            return Number(self, (CONSTANT, self.constants.setdefault(float(x), len(self.constants)), 0, 0, 0, 0), ())
        if x.ndim > 2 or x.requires_grad:
            raise Unknown
        place, _ = self.given.setdefault(id(x), (len(self.given), x))
        shape = (1, *x.shape) if x.ndim == 1 else tuple(x.shape)
        return Number(self, (GIVEN, place, *(shape or (1, 1)), 0, 0), shape)

    def program(self, found: Any) -> tuple[Program, Tensor | None]:
        """Return what leads to a number, and what was given, (places, B, width)."""
        if not isinstance(found, Number):
            raise Unknown
        batch, width = self.sums.shape[1], self.sums.shape[2] - (found.first or 0)
        tensors = [x for _, x in self.given.values()]
        if any(x.shape[-1:] not in ((), (1,), (width,)) for x in tensors):
            raise Unknown
        given = torch.stack([x.to(self.sums).expand(batch, width) for x in tensors]) if tensors else None
        lines = tuple(word for line in [*self.lines][: found.place + 1] for word in line)
        return Program(lines, tuple(self.constants), width, found.shape, found.dtype), given


class Number:
    """Numbers of samples and classes, (B or 1, C or 1) or (), that are not there yet; refuses what cannot be noted.

    The slopes of a number are by the sums of the same sample and class. A number of all samples, or of all classes, has
    as many of them, so that it cannot meet numbers of single ones after that.
    """

    def __init__(
        self,
        notes: Notes,
        line: tuple[Any, ...],
        shape: tuple[int, ...],
        slopes: bool = False,
        first: int | None = None,
    ) -> None:
        self.notes, self.shape, self.ndim, self.first = notes, shape, len(shape), first
        self.line, self.place = line, notes.lines.setdefault(line, len(notes.lines))
        self.requires_grad, self.device, self.dtype = slopes, notes.sums.device, notes.sums.dtype

    @classmethod
    def __torch_function__(cls, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note one of torch's functions."""
        name = function.__name__
        rule = RULES.get(name.strip("_"))
        if rule is None or (name.endswith("_") and not name.startswith("_")):  # a change in place would not be seen
            raise Unknown
        return rule(*args, **(kwargs or {}))

    def __getattr__(self, name: str) -> Any:
        """Return a method of tensors that can be noted."""
        if name not in RULES:
            raise Unknown
        return partial(RULES[name], self)

    def __getitem__(self, key: Any) -> Number:
        """Return a row without its first class."""
        if self.line[0] != ROW or self.first or key != (slice(None), slice(1, None)):
            raise Unknown
        return self.notes.row(self.line[1], 1)

    def __bool__(self) -> bool:
        """Refuse to tell what is not known yet."""
        raise Unknown

    __float__ = __int__ = __index__ = __len__ = __iter__ = __bool__  # type: ignore[assignment]


def note(operation: int, *of: Any, axis: int | None = None) -> Number:
    """Return the result of an operation on numbers, of which one at least is a :class:`Number`."""
    notes = next(x.notes for x in of if isinstance(x, Number))
    numbers = [notes.number(x) for x in of]
    sizes = [x.shape or (1, 1) for x in numbers]
    shape = tuple(map(max, zip(*sizes, strict=True)))
    firsts = {x.first for x in numbers} - {None}
    rises = torch.is_grad_enabled() and operation not in WITHOUT_SLOPE
    slopes = [x.requires_grad and rises for x in numbers]
    fits = all(n in (1, m) for size in sizes for n, m in zip(size, shape, strict=True))
    if not fits or len(firsts) > 1 or any(s and size != shape for s, size in zip(slopes, sizes, strict=True)):
        raise Unknown
    words = [x.place for x in numbers] + ([] if axis is None else [axis])
    line = operation, *words, *[0] * (3 - len(words)), *slopes[:2], *[0] * (2 - len(slopes))
    if axis is not None:
        shape = tuple(1 if i == axis else n for i, n in enumerate(shape))
    return Number(notes, line, shape if any(x.shape for x in numbers) else (), any(slopes), next(iter(firsts), None))


def over(operation: int, x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Return a total over samples or classes, or over both."""
    if (dim is not None and not keepdim) or (operation == LEAST and x.requires_grad):
        raise Unknown
    for axis in (0, 1) if dim is None else (range(2)[dim],):
        if x.shape and x.shape[axis] > 1:
            x = note(operation, x, axis=axis)
    return x if dim is not None else Number(x.notes, x.line, (), x.requires_grad, x.first)


def power(x: Any, exponent: float) -> Any:
    """Return a power; in general by a logarithm."""
    usual = {2: lambda: x * x, 1: lambda: x, 0.5: lambda: note(SQRT, x), -0.5: lambda: note(DIVIDE, 1, note(SQRT, x))}
    return usual.get(exponent, lambda: note(POWER, x, exponent))()


def clamp(x: Any, min: float, max: float = float("inf")) -> Any:
    """Return numbers held between bounds; NaN stays."""
    x = note(WHERE, min, x, note(LESS, x, min))
    return x if max == float("inf") else note(WHERE, max, x, note(LESS, max, x))


def log1p(x: Any) -> Any:
    """Return log(1 + x), of small x too: what 1 + x is off by is made up for."""
    more = 1 + x
    seen = more != 1
    return note(WHERE, x * more.log() / note(WHERE, more - 1, 1, seen), x, seen)


def to(x: Any, like: Any) -> Any:
    """Return numbers in a type, or that of others."""
    if isinstance(x, Tensor):
        return x.to(like.device, like.dtype)
    found = Number(x.notes, x.line, x.shape, x.requires_grad, x.first)
    found.dtype = getattr(like, "dtype", like)
    return found


# by the names of torch's functions and of Python's operators
RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("add", "radd"), partial(note, ADD)),
    **dict.fromkeys(("mul", "rmul", "and", "rand"), partial(note, MULTIPLY)),
    **dict.fromkeys(("truediv", "div"), partial(note, DIVIDE)),
    "rtruediv": lambda x, y: note(DIVIDE, y, x),
    "sub": partial(note, SUBTRACT),
    "rsub": lambda x, y: note(SUBTRACT, y, x),
    "neg": lambda x: note(MULTIPLY, x, -1),
    "invert": lambda x: note(SUBTRACT, 1, x),
    "or": lambda x, y: note(LESS, 0, note(ADD, x, y)),
    "lt": partial(note, LESS),
    "le": partial(note, AT_MOST),
    "gt": lambda x, y: note(LESS, y, x),
    "ge": lambda x, y: note(AT_MOST, y, x),
    "ne": partial(note, DIFFERENT),
    "eq": lambda x, y: note(SUBTRACT, 1, note(DIFFERENT, x, y)),
    "where": lambda condition, x, y: note(WHERE, x, y, condition),
    "masked_fill": lambda x, condition, y: note(WHERE, y, x, condition),
    "minimum": lambda x, y: note(WHERE, y, x, (y < x) | (y != y)),  # of which NaN is one
    "addcmul": lambda x, y, z, value=1: note(ADD, x, note(MULTIPLY, value, note(MULTIPLY, y, z))),
    "pow": power,
    "sqrt": partial(note, SQRT),
    "log": partial(note, LOG),
    "exp": partial(note, EXP),
    "log1p": log1p,
    "sinh": lambda x: (x.exp() - (-x).exp()) / 2,
    "softplus": lambda x: log1p(x.exp()),
    "abs": lambda x: note(WHERE, -x, x, x < 0),
    "square": lambda x: x * x,
    "clamp": clamp,
    "detach": partial(note, DETACH),
    "sum": partial(over, SUM),
    "mean": lambda x: over(SUM, x) / x.numel(),
    "any": lambda x, dim, keepdim: over(SUM, x, dim, keepdim) > 0,
    "all": lambda x, dim, keepdim: over(SUM, 1 - x, dim, keepdim) <= 0,
    "amin": partial(over, LEAST),
    "numel": lambda x: math.prod(x.shape),
    "to": to,
}
for name, rule in RULES.items():  # of which those of operators count
    setattr(Number, f"__{name}__", lambda *args, rule=rule: rule(*args))

# the same in torch's operations
TORCH: dict[int, Callable[..., Tensor]] = {
    DETACH: lambda x: x,
    SQRT: torch.sqrt,
    LOG: torch.log,
    EXP: torch.exp,
    ADD: torch.add,
    SUBTRACT: torch.sub,
    MULTIPLY: torch.mul,
    DIVIDE: torch.div,
    POWER: torch.pow,
    LESS: lambda x, y: (x < y).to(x),
    AT_MOST: lambda x, y: (x <= y).to(x),
    DIFFERENT: lambda x, y: (x != y).to(x),
    WHERE: lambda x, y, condition: torch.where(condition != 0, x, y),
}


def by_torch(program: Program, sums: Tensor, given: Tensor | None) -> Tensor:
    """Return what a program computes, in torch's operations."""
    found: list[Tensor] = []
    for i in range(0, len(program.lines), WORDS):
        operation, p, q, r, of_p, of_q = program.lines[i : i + WORDS]
        if operation == ROW:
            found.append(sums[p, :, q:])
            continue
        if operation == GIVEN:
            assert given is not None
            found.append(given[p, :q, :r])
            continue
        if operation == CONSTANT:
            found.append(sums.new_full((1, 1), program.constants[p]))
            continue
        x = found[p] if of_p else found[p].detach()
        if operation in (SUM, LEAST):
            found.append(x.sum(q, keepdim=True) if operation == SUM else x.amin(q, keepdim=True))
        elif operation < ADD:
            found.append(TORCH[operation](x))
        else:
            y = found[q] if of_q else found[q].detach()
            found.append(TORCH[operation](x, y, found[r]) if operation == WHERE else TORCH[operation](x, y))
    return found[-1].reshape(program.shape).to(program.dtype)


def noted(function: Callable[[Sequence[Any]], Any], sums: Tensor) -> tuple[Program, Tensor | None] | None:
    """Return what a function does with sums, (KINDS, B, C), and what it was given besides; None if it does more."""
    notes = Notes(sums)
    try:
        return notes.program(function(notes.rows()))
    except (Unknown, TypeError):  # some of torch's options; what else is wrong is so without notes too
        return None
