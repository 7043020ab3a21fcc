"""MulT's decoders: one per task, with attention maps that are computed once and shared.

The idea (paper, section 3.2; one class, [`SharedWindowAttention`]):

        encoder map x_sa          streams x^t, one per task
              |                    |      |      |
         q^r, k^r  (task r)       v^1    v^2    v^3         own values
              |                    |      |      |
        A^r = softmax(q^r k^r^T / sqrt(d) + B^r)            ONE map per head and window
              |____________________|______|______|
                                A^r v^1 A^r v^2 A^r v^3
                                   |      |      |
                                  W^1    W^2    W^3         own output projections

All streams start as the encoder's coarsest map, and differ from their first own values on.

Maps here are channels-last, (batch, height, width, channels), unless said otherwise; windows (batch, windows, tokens, channels).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_mult import BlockAttention, MulTConfig

_OTHER_REGION = -100.0  # what Swin adds to the scores of tokens that only the cyclic shift brought together


class WindowGrid:
    """Partition of a map of `height` x `width` tokens into square windows, and its inverse.

    The map is zero-padded on the right and bottom to whole windows; padded tokens are not masked (as in Swin). With a shift
    the map is first rolled up and left by it, so that windows straddle the borders of the regular ones. Roll and cut are one
    permutation of the tokens, so both ways are a single copy.

    Args:
        height: rows of the map.
        width: columns of the map.
        window_size: side of a window in tokens.
        shift: tokens to roll by, less than the window size.
        device: of the maps.
    """

    def __init__(self, height: int, width: int, window_size: int, shift: int, device: torch.device | None = None) -> None:
        self.height, self.width, self.window_size, self.shift = height, width, window_size, shift
        rows, columns = self.padded
        across, down = columns // window_size, rows // window_size
        tokens = torch.arange(rows * columns, device=device)
        # For each token of all windows, its position on the padded map; and for each token of the map, its position in the windows.
        map_order = tokens.view(rows, columns).roll((-shift, -shift), dims=(0, 1))
        self._to_windows = map_order.view(down, window_size, across, window_size).transpose(1, 2).flatten()
        window_order = tokens.view(down, across, window_size, window_size).transpose(1, 2).reshape(rows, columns)
        self._to_map = window_order.roll((shift, shift), dims=(0, 1))[:height, :width].flatten()

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width after padding to whole windows."""
        size = self.window_size
        return -(-self.height // size) * size, -(-self.width // size) * size

    def partition(self, maps: Tensor) -> Tensor:
        """(batch, height, width, channels) -> (batch, windows, tokens, channels)."""
        height, width = self.padded
        if (height, width) != (self.height, self.width):
            maps = F.pad(maps, (0, 0, 0, width - self.width, 0, height - self.height))
        return maps.flatten(1, 2).index_select(1, self._to_windows).unflatten(1, (-1, self.window_size**2))

    def merge(self, windows: Tensor) -> Tensor:
        """(batch, windows, tokens, channels) -> (batch, height, width, channels); the inverse of `partition`."""
        return windows.flatten(1, 2).index_select(1, self._to_map).unflatten(1, (self.height, self.width))

    def shift_mask(self, like: Tensor) -> Tensor | None:
        """Scores that keep tokens from opposite borders apart: (windows, 1, tokens, tokens), or None without a shift."""
        if not self.shift:
            return None
        height_region, width_region = (self._region(length, like.device) for length in self.padded)
        region = 3 * height_region[:, None] + width_region[None, :]  # (height, width), after the roll
        unshifted = WindowGrid(*self.padded, self.window_size, shift=0, device=like.device)
        region = unshifted.partition(region[None, :, :, None])[0].squeeze(-1)  # (windows, tokens)
        apart = region[:, :, None] != region[:, None, :]
        return torch.zeros(apart.shape, dtype=like.dtype, device=like.device).masked_fill_(apart, _OTHER_REGION).unsqueeze(1)

    def _region(self, length: int, device: torch.device) -> Tensor:
        """Which of three strips a position belongs to after the roll: inside, before the seam, or beyond it."""
        position = torch.arange(length, device=device)
        return (position >= length - self.window_size).long() + (position >= length - self.shift).long()


class RelativePositionBias(nn.Module):
    """Swin's learned bias B of the offset between two tokens of a window, one number per head (arXiv 2103.14030, equation 4)."""

    index: Tensor

    def __init__(self, window_size: int, heads: int) -> None:
        super().__init__()
        self.window_size = window_size
        self.table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, heads))
        self.register_buffer("index", self.make_index(), persistent=False)

    def make_index(self) -> Tensor:
        """Row of the table for each pair of tokens: (tokens * tokens,) int64."""
        steps = torch.arange(self.window_size)
        row, column = (axis.flatten() for axis in torch.meshgrid(steps, steps, indexing="ij"))
        row_offset = row[:, None] - row[None, :] + self.window_size - 1
        column_offset = column[:, None] - column[None, :] + self.window_size - 1
        return (row_offset * (2 * self.window_size - 1) + column_offset).flatten()

    def forward(self) -> Tensor:
        """The bias as scores to add: (heads, tokens, tokens)."""
        tokens = self.window_size**2
        return self.table[self.index].view(tokens, tokens, -1).permute(2, 0, 1)


class PerTask(nn.ModuleDict):
    """One module per task, under the task's name.

    A parameter belongs to a single task if and only if it is in one of these containers, anywhere in the model; all others are shared.

    Args:
        tasks: names of the tasks.
        make: function that creates a task's module from its name.

    Raises:
        ValueError: if torch cannot hold a module of that name.
    """

    if TYPE_CHECKING:

        def __getitem__(self, key: str) -> Any: ...  # the class that `make` returns

    def __init__(self, tasks: Iterable[str], make: Callable[[str], nn.Module]) -> None:
        super().__init__()
        for task in tasks:
            if task not in self and hasattr(self, task):
                raise ValueError(f"a task cannot be called {task!r}: torch.nn.ModuleDict has an attribute of that name; choose another")
            self[task] = make(task)


def copy_fitting_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy the weights that both modules have with equal shapes (a reference decoder also has queries and keys)."""
    state = source.state_dict()
    for name, value in target.state_dict().items():
        if name in state and state[name].shape == value.shape:
            value.copy_(state[name])


class AttentionProjections(nn.Module):
    """The linear layers of one task in one block's attention.

    Every task has its own values and output projection. Queries, keys and the position bias exist only for tasks that
    compute an attention map: every task in a `"self"` block, only the reference task in a shared one.
    """

    def __init__(self, config: MulTConfig, channels: int, heads: int, *, skip: bool, makes_map: bool) -> None:
        super().__init__()
        if makes_map:
            self.q_proj = nn.Linear(channels, channels, bias=config.qkv_bias)
            self.k_proj = nn.Linear(channels, channels, bias=config.qkv_bias)
            self.position_bias = RelativePositionBias(config.decoder_window, heads)
        self.v_proj = nn.Linear(2 * channels if skip else channels, channels, bias=config.qkv_bias)
        self.o_proj = nn.Linear(channels, channels)


class SharedWindowAttention(nn.Module):
    """Window attention whose map is computed once and applied to every task's values (paper, equations 1 to 3).

    With t a task, r the reference task and x_sa the encoder map of the same resolution:

        q^r = linear_q^r(x_sa)     k^r = linear_k^r(x_sa)
        A^r = softmax(q^r k^r^T / sqrt(d) + B^r)              one map per head and window, whatever the number of tasks
        v^t = linear_v^t(x^t)                                 or linear_v^t([x^t, x_sa]) with "+skip"
        MHA^t = concat over heads(A^r v^t) W^t

    That is an `"encoder"` block. A `"reference"` block takes q and k from x^r in place of x_sa. In a `"self"` block each task
    is its own reference: plain window attention, nothing is shared.

    The equations are written out for every `config._attn_implementation`, which chooses the encoder's attention function only:
    one softmax and one product per task is faster than a fused function that computes the map again for each task, and the
    returned map is the one that the values are mixed by.
    """

    def __init__(self, config: MulTConfig, channels: int, heads: int, kind: BlockAttention, tasks: Iterable[str]) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be split over {heads} heads; change decoder_num_attention_heads")
        self.config = config
        self.kind = kind
        self.heads = heads
        self.scaling = (channels // heads) ** -0.5  # 1 / sqrt(d)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)
        makers = [config.reference_task] if kind.is_shared else list(tasks)
        self.tasks = PerTask(tasks, lambda task: AttentionProjections(config, channels, heads, skip=kind.skip, makes_map=task in makers))

    def forward(
        self, streams: Mapping[str, Tensor], encoder_map: Tensor | None, shift_mask: Tensor | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Mix every task's stream by its reference task's attention map.

        Args:
            streams: per task, normalised, in windows: (batch, windows, tokens, channels).
            encoder_map: the encoder's map of the same resolution, in the same windows; may be None if the kind does not read it.
            shift_mask: scores to add, (windows, 1, tokens, tokens), or None.

        Returns:
            the mixed streams by task, shaped as they came, and the attention maps by reference task,
            (batch, windows, heads, tokens, tokens).
        """
        mixed, maps = {}, {}
        for reference, tasks in self.tasks_by_reference(streams).items():
            source = encoder_map if self.kind.source == "encoder" else streams[reference]
            query = self.split_heads(self.tasks[reference].q_proj(source))
            key = self.split_heads(self.tasks[reference].k_proj(source))
            bias = self.tasks[reference].position_bias()
            attention = self.attention_map(query, key, bias if shift_mask is None else bias + shift_mask)
            for task in tasks:
                value = self.split_heads(self.tasks[task].v_proj(self.value_input(streams[task], encoder_map)))
                mixed[task] = self.tasks[task].o_proj(self.join_heads(attention @ value))
            maps[reference] = attention
        return mixed, maps

    def tasks_by_reference(self, tasks: Iterable[str]) -> dict[str, list[str]]:
        """The tasks that use an attention map, by the reference task that computes it."""
        reference = self.config.reference_task
        return {reference: list(tasks)} if self.kind.is_shared and reference is not None else {task: [task] for task in tasks}

    def attention_map(self, query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
        """A = softmax(q k^T / sqrt(d) + B), computed in float32, because it sums over tokens, and cast to the type of the values.

        Args:
            query: (batch, windows, heads, tokens, head_dim).
            key: (batch, windows, heads, tokens, head_dim).
            bias: scores to add, broadcasting to the map.

        Returns:
            `Tensor`: (batch, windows, heads, tokens, tokens); each row of queries sums to 1.
        """
        scores = (query * self.scaling) @ key.transpose(-2, -1) + bias  # scaled first, so that half precision does not overflow
        return self.dropout(scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype))

    def value_input(self, stream: Tensor, encoder_map: Tensor | None) -> Tensor:
        """Input of the value projection: the stream, or with `+skip` the stream and the encoder map, concatenated."""
        # One linear layer for both instead of the sum of two, so that adapters can wrap `v_proj` like any other linear layer.
        return torch.cat([stream, encoder_map], dim=-1) if self.kind.skip and encoder_map is not None else stream

    def split_heads(self, tokens: Tensor) -> Tensor:
        """(batch, windows, tokens, channels) -> (batch, windows, heads, tokens, head_dim)."""
        return tokens.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def join_heads(self, tokens: Tensor) -> Tensor:
        """(batch, windows, heads, tokens, head_dim) -> (batch, windows, tokens, channels); the inverse of `split_heads`."""
        return tokens.transpose(-3, -2).flatten(-2)


class BlockLayers(nn.Module):
    """A task's layers of a block, except attention: two layer norms, the MLP, and stochastic depth on both branches."""

    def __init__(self, config: MulTConfig, channels: int, drop_path: float) -> None:
        super().__init__()
        hidden = int(config.mlp_ratio * channels)
        self.layernorm_before = nn.LayerNorm(channels, eps=config.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(channels, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(channels, hidden)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(hidden, channels)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.drop_path = StochasticDepth(drop_path, mode="row")

    def forward(self, stream: Tensor, attended: Tensor) -> Tensor:
        """Add the attended map to the stream, then the MLP of the sum; all (batch, height, width, channels)."""
        stream = stream + self.drop_path(self.dropout(attended))
        hidden = self.activation(self.fc1(self.layernorm_after(stream)))
        return stream + self.drop_path(self.dropout(self.fc2(hidden)))


class MulTDecoderBlock(GradientCheckpointingLayer):
    """One transformer block of all decoders: shared attention, then each task's own MLP."""

    def __init__(
        self, config: MulTConfig, channels: int, heads: int, kind: BlockAttention, shift: int, drop_path: float, tasks: Iterable[str]
    ) -> None:
        super().__init__()
        self.window_size = config.decoder_window
        self.shift = shift
        self.attention = SharedWindowAttention(config, channels, heads, kind, tasks)
        self.tasks = PerTask(tasks, lambda task: BlockLayers(config, channels, drop_path))

    def forward(self, streams: Mapping[str, Tensor], encoder_map: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Streams and encoder map (batch, height, width, channels) in; new streams, and attention maps by reference task, out."""
        grid = WindowGrid(encoder_map.shape[1], encoder_map.shape[2], self.window_size, self.shift, encoder_map.device)
        # The encoder map enters as the backbone normalised it; padding comes after the norm, as in the authors' code.
        windows = {task: grid.partition(self.tasks[task].layernorm_before(stream)) for task, stream in streams.items()}
        encoder_windows = grid.partition(encoder_map) if self.attention.kind.reads_encoder_map else None
        mixed, maps = self.attention(windows, encoder_windows, grid.shift_mask(encoder_map))
        return {task: self.tasks[task](stream, grid.merge(mixed[task])) for task, stream in streams.items()}, maps


def channels_first(maps: Tensor) -> Tensor:
    """(batch, height, width, channels) -> (batch, channels, height, width)."""
    return maps.permute(0, 3, 1, 2)


def channels_last(maps: Tensor) -> Tensor:
    """(batch, channels, height, width) -> (batch, height, width, channels)."""
    return maps.permute(0, 2, 3, 1)


def resize(maps: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Bilinear resize, (batch, height, width, channels) -> (batch, *size, channels)."""
    return channels_last(F.interpolate(channels_first(maps), size=size, mode="bilinear", align_corners=False))


class Upsampling(nn.Module):
    """Bring a stream to the next finer encoder map: bilinear resize, layer norm, bias-free linear layer to its channels."""

    def __init__(self, channels: int, next_channels: int, layer_norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=layer_norm_eps)
        self.reduction = nn.Linear(channels, next_channels, bias=False)

    def forward(self, stream: Tensor, size: tuple[int, int]) -> Tensor:
        """(batch, height, width, channels) -> (batch, *size, next_channels)."""
        return self.reduction(self.norm(resize(stream, size)))


class MulTDecoderStage(nn.Module):
    """The blocks of all decoders at one resolution, and the step up to the next."""

    def __init__(self, blocks: list[MulTDecoderBlock], upsampling: PerTask | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.tasks: Any = upsampling  # None after the last stage, which does not upsample

    def upsample(self, streams: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Bring every stream to the next stage's resolution and channels."""
        return {task: self.tasks[task](stream, size) for task, stream in streams.items()}


@dataclass
class MulTDecoderOutput:
    """Output of every decoder, see `decoders.py`.

    Args:
        streams: each task's stream at the end of every stage, coarsest first, (batch, channels, height, width).
        attentions: one map per shared block, (batch, windows, heads, tokens, tokens); empty unless requested, or if none is shared.
    """

    streams: dict[str, tuple[Tensor, ...]]
    attentions: tuple[Tensor, ...]


def check_reference(module: nn.Module, reference: str | None) -> None:
    """Refuse a reference task that was changed in the configuration after the model was built: it has no projections for shared maps.

    Nothing is checked while a graph is traced.

    Args:
        module: a model or a decoder.
        reference: the configuration's `reference_task`.

    Raises:
        ValueError: naming both tasks.
    """
    if torch.compiler.is_compiling():
        return
    for each in module.modules():
        if isinstance(each, SharedWindowAttention) and each.kind.is_shared:
            (built,) = (task for task in each.tasks if hasattr(each.tasks[task], "q_proj"))
            if built != reference:
                raise ValueError(
                    f"config.reference_task is {reference!r}, and the model was built with {built!r}, whose projections make the shared "
                    "maps; choose the reference task before the model is built"
                )
            return  # all blocks have the same


def streams_to_run(stages: Iterable[Any], tasks: list[str]) -> list[str]:
    """The requested tasks, and the reference task if a `"reference"` block needs its stream.

    An `"encoder"` block needs only the reference task's projections, not its stream.

    Args:
        stages: of a decoder, with `blocks` each.
        tasks: the requested ones.
    """
    attentions = [block.attention for stage in stages for block in stage.blocks]
    needed = [a.config.reference_task for a in attentions if a.kind.source == "reference"][:1]
    return list(dict.fromkeys(tasks + needed))


def run_blocks(
    blocks: Iterable[MulTDecoderBlock], streams: Mapping[str, Tensor], encoder_map: Tensor
) -> tuple[Mapping[str, Tensor], list[Tensor]]:
    """Run a stage's blocks one after the other; returns the new streams, and the map of each block that shares one."""
    shared = []
    for block in blocks:
        streams, maps = block(streams, encoder_map)
        if block.attention.kind.is_shared:
            shared += maps.values()
    return streams, shared


def stage_blocks(config: MulTConfig, channels: list[int], heads: list[int]) -> Iterator[list[MulTDecoderBlock]]:
    """The blocks of all decoder stages, as `config.block_attention` lists their kinds; regular and shifted windows alternate.

    Args:
        config: the model's configuration.
        channels: of each stage, coarsest first.
        heads: of each stage.

    Raises:
        ValueError: if heads or block lists do not fit the stages.
    """
    kinds = config.block_attention_of_stages(len(channels))
    drop_path = iter(torch.linspace(0, config.drop_path_rate, sum(map(len, kinds)), device="cpu").tolist())
    tasks = list(config.task_specs)
    for stage, width in enumerate(channels):
        yield [
            MulTDecoderBlock(config, width, heads[stage], kind, index % 2 * (config.decoder_window // 2), next(drop_path), tasks)
            for index, kind in enumerate(kinds[stage])
        ]


class MulTDecoder(nn.Module):
    """One decoder per task, run side by side from the coarsest encoder map to the finest (paper, section 3.2 and figure 2).

    Args:
        config: the model's configuration.
        channels: of the encoder maps, finest first, as `backbone.channels` gives them.

    Raises:
        ValueError: if heads or block lists do not fit the encoder's stages.
    """

    _no_split_modules: ClassVar[list[str]] = ["MulTDecoderBlock"]
    reads_every_map: ClassVar[bool] = False  # finer maps are read only by blocks that share them or add them to their values

    def __init__(self, config: MulTConfig, channels: list[int]) -> None:
        super().__init__()
        channels = [*reversed(channels)]  # from here on coarsest first, in the order in which the decoders run
        tasks = list(config.task_specs)
        self.stages: Iterable[Any] = nn.ModuleList(
            MulTDecoderStage(blocks, _upsampling(config, channels[stage : stage + 2], tasks))
            for stage, blocks in enumerate(stage_blocks(config, channels, decoder_heads(config, channels)))
        )

    def forward(self, feature_maps: Iterable[Tensor], tasks: list[str], return_maps: bool = False) -> MulTDecoderOutput:
        """Decode the wanted tasks.

        Args:
            feature_maps: of the encoder, finest first, (batch, channels, height, width) each.
            tasks: which streams to return.
            return_maps: whether to collect the shared attention maps.
        """
        encoder_maps = [channels_last(maps).contiguous() for maps in feature_maps][::-1]
        streams: Mapping[str, Tensor] = dict.fromkeys(streams_to_run(self.stages, tasks), encoder_maps[0])
        stage_streams, attentions = [], []
        for number, (stage, encoder_map) in enumerate(zip(self.stages, encoder_maps)):
            streams, maps = run_blocks(stage.blocks, streams, encoder_map)
            if return_maps:
                attentions += maps
            # The next stage and the heads read the returned tensors themselves, so that gradients reach them.
            stage_streams.append({task: channels_first(stream) for task, stream in streams.items()})
            if number + 1 < len(encoder_maps):
                streams = {task: channels_last(stream) for task, stream in stage_streams[-1].items()}
                streams = stage.upsample(streams, tuple(encoder_maps[number + 1].shape[1:3]))
        return MulTDecoderOutput({task: tuple(stage[task] for stage in stage_streams) for task in tasks}, tuple(attentions))


def _upsampling(config: MulTConfig, channels: list[int], tasks: list[str]) -> PerTask | None:
    """Each task's step to the channels of the next stage; None after the last stage."""
    return PerTask(tasks, lambda task: Upsampling(channels[0], channels[1], config.layer_norm_eps)) if len(channels) == 2 else None


def decoder_heads(config: MulTConfig, channels: list[int]) -> list[int]:
    """Heads per decoder stage, coarsest first: as configured, else the backbone's reversed, else about one per 32 channels."""
    heads = config.decoder_num_attention_heads
    if heads is None:
        encoder_heads: Any = getattr(config.backbone_config, "num_heads", None)
        fits = isinstance(encoder_heads, (list, tuple)) and len(encoder_heads) == len(channels)
        heads = list(reversed(encoder_heads)) if fits else [_fitting_heads(width) for width in channels]
    if len(heads) != len(channels):
        raise ValueError(f"decoder_num_attention_heads has {len(heads)} numbers for {len(channels)} encoder maps; give one per map")
    return list(heads)


def _fitting_heads(channels: int) -> int:
    """One head per 32 channels, or the next smaller number that divides the channels."""
    return next(heads for heads in range(max(1, channels // 32), 0, -1) if channels % heads == 0)
