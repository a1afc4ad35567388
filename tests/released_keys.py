"""Every key and shape of the released checkpoints, written down from the tables of spec/models.md and nothing else."""

from __future__ import annotations

Shapes = dict[str, tuple[int, ...]]
WIDTH, HIDDEN, HEADS, BLOCKS, PICTURE = 1536, 8192, 12, 30, 1024  # of the flows
WIDTHS, DEPTHS = (1024, 512, 256, 128, 64), (4, 16, 8, 4, 0)  # of the sparse decoders; the encoders' are reversed
LATENT = 32


def _affine(name: str, weight: tuple[int, ...]) -> Shapes:
    """Weight and bias of a linear layer, convolution or norm; the bias has one number an output."""
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def flow(inputs: int, outputs: int) -> Shapes:
    """Spec 2.1 and 2.2: structure and latent flows."""
    keys = {
        **_affine("input_layer", (WIDTH, inputs)),
        **_affine("t_embedder.mlp.0", (WIDTH, 256)),
        **_affine("t_embedder.mlp.2", (WIDTH, WIDTH)),
        **_affine("adaLN_modulation.1", (6 * WIDTH, WIDTH)),
        **_affine("out_layer", (outputs, WIDTH)),
    }
    for i in range(BLOCKS):
        block = f"blocks.{i}"
        keys |= {
            f"{block}.modulation": (6 * WIDTH,),
            **_affine(f"{block}.norm2", (WIDTH,)),
            **_affine(f"{block}.self_attn.to_qkv", (3 * WIDTH, WIDTH)),
            **_affine(f"{block}.cross_attn.to_q", (WIDTH, WIDTH)),
            **_affine(f"{block}.cross_attn.to_kv", (2 * WIDTH, PICTURE)),
            **_affine(f"{block}.mlp.mlp.0", (HIDDEN, WIDTH)),
            **_affine(f"{block}.mlp.mlp.2", (WIDTH, HIDDEN)),
        }
        for attention in ("self_attn", "cross_attn"):
            keys |= _affine(f"{block}.{attention}.to_out", (WIDTH, WIDTH))
            keys |= {f"{block}.{attention}.{part}_rms_norm.gamma": (HEADS, WIDTH // HEADS) for part in "qk"}
    return keys


def _next_block(name: str, width: int) -> Shapes:
    """Spec 2.6: ConvNeXt."""
    return {
        **_affine(f"{name}.norm", (width,)),
        **_affine(f"{name}.conv", (width, 3, 3, 3, width)),
        **_affine(f"{name}.mlp.0", (4 * width, width)),
        **_affine(f"{name}.mlp.2", (width, 4 * width)),
    }


def _levels(widths: tuple[int, ...], depths: tuple[int, ...], *, down: bool, subdivides: bool = False) -> Shapes:
    """The blocks of a sparse encoder or decoder; every level but the last ends with a change of scale."""
    keys: Shapes = {}
    for level, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        for index in range(depth):
            keys |= _next_block(f"blocks.{level}.{index}", width)
        if level + 1 == len(widths):
            break
        scale, following = f"blocks.{level}.{depth}", widths[level + 1]
        first = following // 8 if down else 8 * following
        keys |= _affine(f"{scale}.norm1", (width,))
        keys |= _affine(f"{scale}.conv1", (first, 3, 3, 3, width))
        keys |= _affine(f"{scale}.conv2", (following, 3, 3, 3, following))
        if subdivides:
            keys |= _affine(f"{scale}.to_subdiv", (8, width))
    return keys


def sparse_decoder(outputs: int, *, subdivides: bool) -> Shapes:
    """Spec 2.7."""
    ends = {**_affine("from_latent", (WIDTHS[0], LATENT)), **_affine("output_layer", (outputs, WIDTHS[-1]))}
    return {**ends, **_levels(WIDTHS, DEPTHS, down=False, subdivides=subdivides)}


def sparse_encoder() -> Shapes:
    """Spec 2.7; six channels in, mean and log variance out."""
    ends = {**_affine("input_layer", (WIDTHS[-1], 6)), **_affine("to_latent", (2 * LATENT, WIDTHS[0]))}
    return {**ends, **_levels(WIDTHS[::-1], DEPTHS[::-1], down=True)}


def _residual(name: str, width: int) -> Shapes:
    """Spec 2.3: dense residual block."""
    keys: Shapes = {}
    for part in "12":
        keys |= _affine(f"{name}.norm{part}", (width,))
        keys |= _affine(f"{name}.conv{part}", (width, width, 3, 3, 3))
    return keys


def _dense(widths: tuple[int, int, int], ends: tuple[int, int], scale: tuple[int, int]) -> Shapes:
    """Two residual blocks a width and a change of scale between widths; scale: factor of its channels, its side."""
    factor, side = scale
    first, last = widths[0], widths[-1]
    keys = {
        **_affine("input_layer", (first, ends[0], 3, 3, 3)),
        **_affine("out_layer.0", (last,)),
        **_affine("out_layer.2", (ends[1], last, 3, 3, 3)),
    }
    for index, width in enumerate(widths):
        keys |= _residual(f"blocks.{3 * index}", width) | _residual(f"blocks.{3 * index + 1}", width)
        if width != last:
            keys |= _affine(f"blocks.{3 * index + 2}.conv", (factor * widths[index + 1], width, side, side, side))
    for index in range(2):
        keys |= _residual(f"middle_block.{index}", max(widths))
    return keys


RELEASED: dict[str, Shapes] = {
    "sparse_structure_flow_model": flow(8, 8),
    "shape_slat_flow_model_512": flow(32, 32),
    "shape_slat_flow_model_1024": flow(32, 32),
    "tex_slat_flow_model_512": flow(64, 32),
    "tex_slat_flow_model_1024": flow(64, 32),
    "sparse_structure_decoder": _dense((512, 128, 32), (8, 1), (8, 3)),
    "sparse_structure_encoder": _dense((32, 128, 512), (1, 16), (1, 2)),
    "shape_slat_decoder": sparse_decoder(7, subdivides=True),
    "tex_slat_decoder": sparse_decoder(6, subdivides=False),
    "shape_slat_encoder": sparse_encoder(),
    "tex_slat_encoder": sparse_encoder(),
}
