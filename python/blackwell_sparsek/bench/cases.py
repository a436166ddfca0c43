"""Attention problems as values, shared by tests, `bsk validate` and `bsk bench`.

`SMOKE` is small enough for every CI run, `EDGE` holds the sizes where tiles end, and `sweep(count)`
draws problems at random from a seed. What the benches print is in `tables.py`.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blackwell_sparsek._block_lists import ceil_div
from blackwell_sparsek.block_mask import BlockMask

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclasses.dataclass(frozen=True)
class Blocks:
    """A block mask to build: `pattern` is random, skewed, window or document.

    Of skewed blocks one row in ten has six times `density`, the others as much less.
    """

    pattern: str = "random"
    density: float = 0.25
    size: tuple[int, int] = (128, 128)
    heads: str = "q"  # one pattern for "1" = all heads, each "kv" head or each "q" head
    window: int = 1024  # keys to the left, also the length of a document
    sink: int = 0


class Inputs(NamedTuple):
    """What a call takes: `attention_forward(Q, K, V, **options)`."""

    Q: Tensor  # [batch, q_heads, q_len, head_dim]
    K: Tensor  # [batch, kv_heads, kv_len, head_dim]
    V: Tensor  # [batch, kv_heads, kv_len, v_head_dim]
    options: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """One attention problem; `kv_heads`, `kv_len` and `v_head_dim` 0 = as the queries'."""

    batch: int = 1
    q_heads: int = 8
    q_len: int = 512
    head_dim: int = 64
    kv_heads: int = 0
    kv_len: int = 0
    v_head_dim: int = 0
    dtype: str = "fp32"
    is_causal: bool | str = False
    window: tuple[int, int] | None = None
    softcap: float | None = None
    # attn_mask: "", "bool", "additive", or [batch, 1, 1, kv_len]: "padding" keeps a random prefix of
    # the keys in every batch, "padding_eighth" all but the last eighth.
    mask: str = ""
    blocks: Blocks | None = None
    rows_first: bool = False  # Q, K, V as transposed views of [batch, length, heads, head_dim]

    def __post_init__(self) -> None:
        for field, default in (
            ("kv_heads", self.q_heads),
            ("kv_len", self.q_len),
            ("v_head_dim", self.head_dim),
        ):
            if getattr(self, field) == 0:
                object.__setattr__(self, field, default)

    @property
    def name(self) -> str:
        """b1_h8_s512_d64_fp32, and what differs from plain self-attention."""
        heads = f"h{self.q_heads}"
        heads += f"kv{self.kv_heads}" if self.kv_heads != self.q_heads else ""
        length = f"s{self.q_len}" + (f"x{self.kv_len}" if self.kv_len != self.q_len else "")
        dim = f"d{self.head_dim}"
        dim += f"v{self.v_head_dim}" if self.v_head_dim != self.head_dim else ""
        parts = [f"b{self.batch}", heads, length, dim, self.dtype]
        if self.is_causal:
            parts.append("causal" if self.is_causal is True else f"causal_{self.is_causal}")
        if self.window:
            parts.append(f"window{self.window[0]}_{self.window[1]}".replace("-1", "inf"))
        if self.softcap:
            parts.append(f"softcap{self.softcap:g}")
        if self.mask:
            parts.append(self.mask)
        if self.blocks:
            size = "x".join(str(s) for s in dict.fromkeys(self.blocks.size))
            parts.append(f"block{size}_{self.blocks.pattern}")
            if self.blocks.pattern in ("random", "skewed"):
                parts.append(f"density{self.blocks.density:g}_per_{self.blocks.heads}head")
            else:
                parts.append(f"{self.blocks.window}")
            if self.blocks.sink:
                parts.append(f"sink{self.blocks.sink}")
        if self.rows_first:
            parts.append("bshd")
        return "_".join(parts)

    def make(
        self, device: torch.device | str = "cpu", seed: int = 0, *, draw_on_device: bool = False
    ) -> Inputs:
        """Random normal tensors; the same seed gives the same numbers on every device, unless they
        are drawn on the device itself, which large ones need."""
        place = torch.device(device if draw_on_device else "cpu")
        generator = torch.Generator(place).manual_seed(seed)

        def tensor(heads: int, length: int, dim: int) -> Tensor:
            shape = (self.batch, heads, length, dim)
            if self.rows_first:
                shape = (self.batch, length, heads, dim)
            numbers = torch.randn(shape, generator=generator, device=place)
            numbers = numbers.to(DTYPES[self.dtype]).to(device)
            return numbers.transpose(1, 2) if self.rows_first else numbers

        Q = tensor(self.q_heads, self.q_len, self.head_dim)
        K = tensor(self.kv_heads, self.kv_len, self.head_dim)
        V = tensor(self.kv_heads, self.kv_len, self.v_head_dim)
        options: dict[str, Any] = {}
        if self.is_causal:
            options["is_causal"] = self.is_causal
        if self.window is not None:
            options["window"] = self.window
        if self.softcap is not None:
            options["softcap"] = self.softcap
        if self.mask:
            options["attn_mask"] = self._attn_mask(generator).to(device)
        if self.blocks is not None:
            options["block_mask"] = self._block_mask(self.blocks, generator).to(device)
        return Inputs(Q, K, V, options)

    def make_blocks(self, device: torch.device | str, seed: int = 0) -> BlockMask:
        """The block mask by itself, built on the device.

        Raises ValueError where the case has none.
        """
        if self.blocks is None:
            raise ValueError(f"blocks: must be given; got None in {self.name}. Add Blocks(...).")
        return self._block_mask(self.blocks, torch.Generator(device).manual_seed(seed))

    def _attn_mask(self, generator: torch.Generator) -> Tensor:
        place = generator.device
        if self.mask == "padding":  # every batch keeps a prefix of the keys
            shape = (self.batch, 1, 1, 1)
            kept = torch.randint(0, self.kv_len + 1, shape, generator=generator, device=place)
            return torch.arange(self.kv_len, device=place) < kept
        if self.mask == "padding_eighth":
            kept = torch.full((self.batch, 1, 1, 1), self.kv_len - self.kv_len // 8, device=place)
            return torch.arange(self.kv_len, device=place) < kept
        shape = (self.batch, self.q_heads, self.q_len, self.kv_len)
        if self.mask == "bool":
            return torch.rand(shape, generator=generator, device=place) < 0.5
        if self.mask == "additive":
            return torch.randn(shape, generator=generator, device=place).to(DTYPES[self.dtype])
        raise ValueError(
            "mask: must be '', 'bool', 'additive', 'padding' or 'padding_eighth'; "
            f"got {self.mask!r}. Choose one."
        )

    def _block_mask(self, blocks: Blocks, generator: torch.Generator) -> BlockMask:
        heads = {"1": 1, "kv": self.kv_heads, "q": self.q_heads}[blocks.heads]
        if blocks.pattern == "skewed":
            return self._skewed_mask(blocks, heads, generator)
        if blocks.pattern == "random":
            return BlockMask.random(
                self.q_len,
                self.kv_len,
                blocks.density,
                heads=heads,
                diagonal=True,
                generator=generator,
                block_size=blocks.size,
            )
        if blocks.pattern == "window":
            return BlockMask.sliding_window(
                self.q_len,
                self.kv_len,
                blocks.window,
                sink=blocks.sink,
                block_size=blocks.size,
                device=generator.device,
            )
        if blocks.pattern == "document":
            return BlockMask.document(
                torch.arange(self.q_len, device=generator.device) // blocks.window,
                max_document_len=blocks.window,
                block_size=blocks.size,
            )
        raise ValueError(
            "pattern: must be 'random', 'skewed', 'window' or 'document'; "
            f"got {blocks.pattern!r}. Choose one."
        )

    def _skewed_mask(self, blocks: Blocks, heads: int, generator: torch.Generator) -> BlockMask:
        def draw(*shape: int) -> Tensor:
            return torch.rand(1, heads, *shape, generator=generator, device=generator.device)

        q_blocks = ceil_div(self.q_len, blocks.size[0])
        kv_blocks = ceil_div(self.kv_len, blocks.size[1])
        share = torch.where(draw(q_blocks, 1) < 0.1, 6.0, 4 / 9) * blocks.density
        return BlockMask.from_dense(
            draw(q_blocks, kv_blocks) < share, blocks.size, q_len=self.q_len, kv_len=self.kv_len
        )


def varied(case: Case, **changes: Any) -> Case:
    """The case with changes; sizes that followed another one go on following it."""
    for follower, leader in (
        ("kv_heads", "q_heads"),
        ("kv_len", "q_len"),
        ("v_head_dim", "head_dim"),
    ):
        if getattr(case, follower) == getattr(case, leader):
            changes.setdefault(follower, 0)
    return dataclasses.replace(case, **changes)


_PLAIN = Case(q_heads=4, q_len=200, head_dim=64)

SMOKE: tuple[Case, ...] = (
    _PLAIN,
    varied(_PLAIN, dtype="fp16"),
    varied(_PLAIN, dtype="bf16"),
    varied(_PLAIN, is_causal=True),
    varied(_PLAIN, is_causal="lower_right", kv_len=333),
    varied(_PLAIN, batch=2, kv_heads=2, head_dim=128),
    varied(_PLAIN, kv_heads=1, rows_first=True),
    varied(_PLAIN, head_dim=80, v_head_dim=48),
    varied(_PLAIN, window=(64, 0)),
    varied(_PLAIN, window=(30, 30), is_causal=True),
    varied(_PLAIN, softcap=20.0, is_causal=True),
    varied(_PLAIN, batch=2, mask="padding"),
    varied(_PLAIN, mask="bool"),
    varied(_PLAIN, mask="additive", is_causal=True),
    varied(_PLAIN, blocks=Blocks(density=0.5)),
    varied(_PLAIN, q_len=300, blocks=Blocks(density=0.3, size=(64, 64)), is_causal=True),
    varied(_PLAIN, q_len=300, kv_heads=2, blocks=Blocks(density=0.3, size=(64, 16), heads="kv")),
    varied(_PLAIN, q_len=300, blocks=Blocks("window", window=100, sink=4, size=(64, 64))),
    varied(_PLAIN, q_len=300, blocks=Blocks("document", window=90), is_causal=True),
)

# Where tiles end, and one to either side; and the smallest and largest channels.
_LENGTHS = (1, 2, 7, 15, 16, 17, 31, 63, 64, 65, 127, 128, 129, 191, 255, 256, 257)

EDGE: tuple[Case, ...] = (
    *(varied(_PLAIN, q_heads=2, q_len=n, is_causal=True) for n in _LENGTHS),
    *(varied(_PLAIN, q_heads=2, q_len=1, kv_len=n) for n in _LENGTHS[1:]),
    *(varied(_PLAIN, q_heads=2, q_len=n, kv_len=1) for n in (64, 129)),
    *(varied(_PLAIN, q_heads=2, q_len=130, head_dim=d) for d in (16, 24, 40, 72, 96, 192, 256)),
    *(
        varied(_PLAIN, q_heads=2, q_len=257, kv_len=n, is_causal="lower_right")
        for n in (1, 63, 500)
    ),
    *(varied(_PLAIN, q_heads=2, q_len=n, blocks=Blocks(size=(64, 32))) for n in _LENGTHS[-6:]),
    varied(_PLAIN, batch=0),
    varied(_PLAIN, q_heads=12, kv_heads=3, q_len=97),
    varied(_PLAIN, blocks=Blocks(density=0.0), q_len=150),
)


def sweep(count: int, seed: int = 0, longest: int = 300) -> tuple[Case, ...]:
    """`count` problems drawn at random, all options mixed; the same seed gives the same ones."""
    draw = random.Random(seed)
    cases = []
    for _ in range(count):
        kv_heads = draw.choice((1, 2, 3))
        blocks = None
        if draw.random() < 0.4:
            blocks = Blocks(
                density=draw.choice((0.0, 0.2, 0.6, 1.0)),
                size=(draw.choice((64, 128)), draw.choice((16, 32, 64, 128))),
                heads=draw.choice(("1", "kv", "q")),
            )
        cases.append(
            Case(
                batch=draw.choice((1, 2)),
                q_heads=kv_heads * draw.choice((1, 2, 4)),
                kv_heads=kv_heads,
                q_len=draw.randint(1, longest),
                kv_len=draw.randint(1, longest),
                head_dim=8 * draw.randint(2, 16),
                v_head_dim=8 * draw.randint(2, 16),
                dtype=draw.choice(("fp32", "fp16", "bf16")),
                is_causal=draw.choice((False, True, "lower_right")),
                window=draw.choice((None, None, (draw.randint(-1, 100), draw.randint(-1, 100)))),
                softcap=draw.choice((None, None, 15.0)),
                mask=draw.choice(("", "", "bool", "additive", "padding")),
                blocks=blocks,
                rows_first=draw.random() < 0.3,
            )
        )
    return tuple(cases)
