"""One picture in, one asset out.

    picture ──prepare──▶ PreparedImage ──features──▶ ImageFeatures
                                                        │
    structure : noise ──sample──▶ latent ──decoder──▶ Occupancy           (preview: voxel blocks)
    shape     : noise on voxels ──sample──▶ ShapeLatent ──decoder──▶ DualGrid   (preview: clay)
    material  : noise on voxels + ShapeLatent ──sample──▶ MaterialLatent ──decoder──▶ OVoxel  (preview: colour)
                                                        │
    finish    : OVoxel ──repair ▶ simplify ▶ unwrap ▶ bake──▶ FinishedAsset

Every stage is a generator of StageEvents, at least one a sampler step, so closing it stops the run within one step.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from trellis_app.cascade import CASCADE_FLOOR, cascade_coords
from trellis_app.catalogue import Catalogue
from trellis_app.devices import choose_device, memory_told, on_cpu, on_device
from trellis_app.errors import BundleError, EmptyAssetError
from trellis_app.export.finish import SHARES, STEPS, finish
from trellis_app.fetching import fetching
from trellis_app.footprint import footprint, network_of
from trellis_app.heartbeat import StopSignal, beating
from trellis_app.image.background import load_matte
from trellis_app.image.cutout import CutoutOptions, Matte, prepare
from trellis_app.image.features import ImageEncoder, load_image_encoder
from trellis_app.memory import MemoryPlan, limit_process, out_of_memory, plan
from trellis_app.models.condition import ConditionMemory
from trellis_app.models.flow_transformer import FlowTransformer
from trellis_app.models.fp8 import check_fp8, use_fp8
from trellis_app.models.latent_flow import LatentFlow
from trellis_app.models.material_vae import MaterialDecoder, attributes
from trellis_app.models.shape_vae import ShapeDecoder, ShapeEncoder, shape_features
from trellis_app.models.structure_flow import StructureFlow
from trellis_app.models.structure_vae import StructureDecoder
from trellis_app.progress import RunClock
from trellis_app.residency import Attempt, Residency
from trellis_app.run import STRUCTURE_IMAGE_SIZE, Run, image_side
from trellis_app.sampling import Velocity, sample
from trellis_app.settings import AppSettings, FinishOptions, GenerationRequest
from trellis_app.sparse.tensor import SparseTensor, SpatialCache
from trellis_app.types import (
    DualGrid,
    ImageFeatures,
    MaterialLatent,
    Occupancy,
    OVoxel,
    PreparedImage,
    ShapeLatent,
    Stage,
    StageEvent,
)
from trellis_app.weights import Bundle, load_bundle, resolve_source

LOG = logging.getLogger(__name__)
ENCODER, MATTE = "image_cond_model", "rembg_model"  # as pipeline.json calls them
NO_SURFACE = "The shape stage produced no surface.", "Try another seed or picture."

Latent = TypeVar("Latent", torch.Tensor, SparseTensor)
Model = TypeVar("Model", bound=nn.Module)
Result = TypeVar("Result", Occupancy, DualGrid, OVoxel)


class ImageTo3D(Catalogue):
    """The loaded bundle on one device; one public method a stage, `generate` runs them all."""

    def __init__(
        self,
        bundle: Bundle,
        device: torch.device,
        *,
        encoder: ImageEncoder | None = None,
        matte: Matte | None = None,
        memory_budget_gb: float | None = None,
        precision: str = "bf16",
    ) -> None:
        """Encoder and background remover are the bundle's own where none is given; precision: of flows on a GPU."""
        if precision == "fp8":
            check_fp8(device)
        self.precision = precision
        super().__init__(bundle)
        self.device = device
        self._encoder = encoder or load_image_encoder(bundle, device)
        self._matte = matte or load_matte(bundle, device)
        sizes = footprint(bundle, {ENCODER: self._encoder, MATTE: self._matte}, device, precision)
        if memory_budget_gb is not None and device.type == "cuda":
            limit_process(device, memory_budget_gb)
        self.residency = Residency(device, functools.partial(plan, sizes, device), memory_budget_gb)
        self._shares: dict[Stage, float] | None = None

    @classmethod
    def load(cls, settings: AppSettings, *, matte: Matte | None = None) -> ImageTo3D:
        """Open the bundle and device that the settings name; raises BundleError or MachineError."""
        device = choose_device(settings.device)
        bundle = load_bundle(resolve_source(settings.bundle, device))
        original = settings.original_encoders
        return cls(
            bundle,
            device,
            encoder=load_image_encoder(bundle, device, original=original),
            matte=matte or load_matte(bundle, device, original=original),
            memory_budget_gb=settings.memory_budget_gb,
            precision=settings.precision,
        )

    @property
    def plan(self) -> MemoryPlan:
        """What stays on the GPU."""
        return self.residency.plan

    def prepare(self, picture: Image.Image, options: CutoutOptions | None = None) -> PreparedImage:
        """Cut the object out of an upright RGB or RGBA picture (image/reading.py) and frame it."""
        with memory_told():
            for attempt in self.residency.attempts(self._drop_recordings):
                with attempt, self._at_hand(MATTE, self._matte):
                    prepared = prepare(picture, self._matte, options)
        return prepared

    @torch.inference_mode()
    def features(self, prepared: PreparedImage, size: int) -> ImageFeatures:
        """Conditioning tokens [1, L, C] at the picture side `size` (encoders with one size ignore it)."""
        with self._at_hand(ENCODER, self._encoder):
            return ImageFeatures(self._encoder.encode([prepared.rgb], size))

    def structure(self, run: Run) -> Generator[StageEvent, None, Occupancy]:
        """Stage 1: which cells of the latent grid each object fills. Raises EmptyAssetError where one fills none."""
        features = run.features(STRUCTURE_IMAGE_SIZE)
        with self._resident("sparse_structure_flow_model", StructureFlow) as flow:
            picture = self._memories(flow, features)
            noise = run.noise([1] * len(features.tokens), flow.params.in_channels, *(3 * [flow.params.resolution]))
            latent = yield from self._sample(
                lambda x, t, conditional: flow(x, t, picture[conditional]), noise, run, Stage.STRUCTURE
            )
        with self._resident("sparse_structure_decoder", StructureDecoder) as decoder:
            occupied = decoder(latent) > 0
        cells = run.preset.structure_cells
        if occupied.shape[-1] != cells:
            occupied = F.max_pool3d(occupied.float(), occupied.shape[-1] // cells) > 0
        coords = torch.argwhere(occupied[:, 0]).int()
        if not bool(occupied.flatten(1).any(dim=1).all()):
            raise EmptyAssetError("The structure stage found no object in the picture.", "Try another seed or picture.")
        return Occupancy(coords, cells)

    def shape(self, occupancy: Occupancy, run: Run) -> Generator[StageEvent, None, ShapeLatent]:
        """Stage 2: the shape latent; a cascade first samples coarsely to find the fine latent voxels."""
        preset = run.preset
        latent = yield from self._shape_latent(occupancy.coords, preset.first, run)
        if preset.cascade_to is None:
            return ShapeLatent(latent, (preset.first,) * latent.batch_size)
        with self._resident("shape_slat_decoder", ShapeDecoder) as decoder:
            voxels = decoder.upsample(latent.fresh(), 4, self.residency.plan.space)
        parts = [voxels[voxels[:, 0] == item] for item in range(latent.batch_size)]
        if not all(map(len, parts)):
            raise EmptyAssetError(*NO_SURFACE)
        fine = [cascade_coords(part, preset.first, preset.cascade_to, run.request.max_tokens) for part in parts]
        coords, resolutions = zip(*fine, strict=True)
        latent = yield from self._shape_latent(torch.cat(coords), CASCADE_FLOOR, run)
        return ShapeLatent(latent, resolutions)

    def _shape_latent(self, coords: torch.Tensor, size: int, run: Run) -> Generator[StageEvent, None, SparseTensor]:
        """Sample with the flow model of `size` and denormalise."""
        features = run.features(image_side(size))
        with self._resident(f"shape_slat_flow_model_{size}", LatentFlow) as flow:
            picture = self._memories(flow, features)
            voxels = SpatialCache(coords)
            noise = SparseTensor(run.noise(voxels.lengths, flow.params.in_channels).to(coords.device), coords, voxels)
            latent = yield from self._sample(
                lambda x, t, conditional: flow(x, t, picture[conditional]), noise, run, Stage.SHAPE
            )
        return self.bundle.config.shape_normalization.denormalise(latent)

    def material(self, shape: ShapeLatent, run: Run) -> Generator[StageEvent, None, MaterialLatent]:
        """Stage 3: the material latent on the rows of the shape latent, which is its second condition."""
        size = run.preset.material
        concat = self.bundle.config.shape_normalization.normalise(shape.latent)
        features = run.features(image_side(size))
        with self._resident(f"tex_slat_flow_model_{size}", LatentFlow) as flow:
            picture = self._memories(flow, features)
            channels = flow.params.in_channels - concat.feats.shape[1]
            noise = concat.replace(run.noise(concat.lengths, channels).to(concat.feats.device))
            latent = yield from self._sample(
                lambda x, t, conditional: flow(x, t, picture[conditional], concat), noise, run, Stage.MATERIAL
            )
        return MaterialLatent(self.bundle.config.material_normalization.denormalise(latent))

    def decode_shape(self, shape: ShapeLatent) -> tuple[DualGrid, tuple[SparseTensor, ...]]:
        """Shape latent -> dual grid, and the subdivisions that guide the material decoder."""
        with self._resident("shape_slat_decoder", ShapeDecoder) as decoder:
            decoding = decoder(shape.latent.fresh(), space=self.residency.plan.space)
            (grid,) = decoder.dual_grids(decoding.raw, shape.resolution)
        if self.residency.plan.frugal:
            forget_neighbours(decoding.subdivisions)
        if len(grid.coords) == 0 or not bool(grid.crossed.any()):
            raise EmptyAssetError(*NO_SURFACE)
        return grid, decoding.subdivisions

    def encode_shape(self, grid: DualGrid) -> ShapeLatent:
        """Dual grid -> shape latent, which remembers the grid's voxels for `decode_material` without guides."""
        coords = F.pad(grid.coords, (1, 0))
        voxels = SparseTensor(shape_features(grid.dual, grid.crossed), coords).to(self.device)
        with self._resident("shape_slat_encoder", ShapeEncoder) as encoder:
            return ShapeLatent(encoder(voxels).mean, (grid.resolution,))

    def decode_material(
        self, material: MaterialLatent, grid: DualGrid, guides: tuple[SparseTensor, ...] | None
    ) -> OVoxel:
        """Material latent -> PBR attributes on the voxels of the dual grid.

        guides: of `decode_shape`; None where the latent came from `encode_shape` of this grid.
        """
        with self._resident("tex_slat_decoder", MaterialDecoder) as decoder:
            latent = material.latent if guides is None else material.latent.fresh()
            raw = decoder(latent, guides, self.residency.plan.space).raw
        return OVoxel(grid, attributes(raw.feats).clamp(0, 1))

    def finish(
        self, asset: OVoxel, options: FinishOptions, clock: RunClock, *, alone: bool = True
    ) -> Generator[StageEvent, None, None]:
        """O-Voxel asset -> mesh with textures; the last event carries the FinishedAsset.

        Works on the pipeline's device, and on the CPU where the GPU has no room. Beats every half second, and can be
        closed at any beat. alone: models may leave the GPU to make room, for no other thread works.
        """
        if alone:
            self.residency.rest()
        try:
            for attempt in self.residency.attempts(self._drop_recordings) if alone else (Attempt(final=True),):
                with attempt:
                    yield from self._finish(on_device(asset, self.device), options, clock)
            return
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        LOG.warning("The GPU has no room for finishing; it is done on the CPU.")
        torch.cuda.empty_cache()
        yield from self._finish(on_cpu(asset), options, clock)

    def _finish(self, asset: OVoxel, options: FinishOptions, clock: RunClock) -> Generator[StageEvent, None, None]:
        signal = StopSignal()
        steps = finish(asset, options, check=signal)
        spent, whole = 0, sum(SHARES)
        for name, share in zip(STEPS, SHARES, strict=True):
            beats = beating(lambda: next(steps), signal)
            done = yield from clock.beats(beats, Stage.FINISH, name, spent, whole)
            spent += share
            yield clock.event(Stage.FINISH, name, spent, whole, done.asset)

    @torch.inference_mode()
    def generate(
        self, prepared: PreparedImage, request: GenerationRequest, *, finish: bool = True
    ) -> Generator[StageEvent, None, None]:
        """Run all stages. The last event of a stage carries its result; see the module's drawing for which.

        request: as given or resolved. Raises EmptyAssetError where a stage finds nothing, MachineError out of memory.
        """
        request = self.resolved(request)
        yield from self.fetch(self.bundle.presets[str(request.preset)].models)
        clock = RunClock(self._shares)
        run = self.begin(prepared, request, clock)
        with memory_told():
            asset = yield from self._asset(run)
            if finish:
                yield from self.finish(asset, request.finish, clock)
        self._shares = clock.shares()

    def _asset(self, run: Run) -> Generator[StageEvent, None, OVoxel]:
        """The three stages; what they hand each other on the device is let go at the end."""
        clock = run.clock
        yield clock.event(Stage.STRUCTURE, "starting", 0, 1)
        for attempt in self.attempts(run):
            with attempt:
                occupancy = yield from self.structure(run)
        yield self.done(clock, Stage.STRUCTURE, occupancy)
        for attempt in self.attempts(run):
            with attempt:
                shape = yield from self.shape(occupancy, run)
        yield clock.event(Stage.SHAPE, "building the surface", 9, 10)
        for attempt in self.attempts(run):
            with attempt:
                grid, guides = self.decode_shape(shape)
        yield self.done(clock, Stage.SHAPE, grid)
        for attempt in self.attempts(run, guides):
            with attempt:
                material = yield from self.material(shape, run)
        yield clock.event(Stage.MATERIAL, "colouring the surface", 9, 10)
        for attempt in self.attempts(run, guides):
            with attempt:
                asset = self.decode_material(material, grid, guides)
        yield self.done(clock, Stage.MATERIAL, asset)
        return asset

    def fetch(self, keys: Sequence[str]) -> Generator[StageEvent, None, None]:
        """Download the weights of these models that are not here yet, an event about every half second.

        The events have a clock of their own: a download says nothing about how long a run takes.
        """
        clock = RunClock({Stage.IMAGE: 1.0})
        for state in fetching(self.bundle.missing(keys)):
            yield clock.event(Stage.IMAGE, state.sentence, state.done_bytes, max(state.total_bytes, 1))

    def begin(self, prepared: PreparedImage, request: GenerationRequest, clock: RunClock) -> Run:
        """What the stages of a run of a resolved request share."""

        @functools.cache
        def features(side: int) -> ImageFeatures:
            return self.features(prepared, side)

        assert request.preset is not None
        self.residency.recover()
        return Run(
            request=request,
            preset=self.bundle.presets[request.preset],
            features=features,
            randoms=(torch.Generator().manual_seed(request.seed),),
            clock=clock,
        )

    def done(self, clock: RunClock, stage: Stage, result: Result) -> StageEvent:
        """The last event of a stage."""
        return clock.event(stage, "done", 1, 1, on_cpu(result))

    def attempts(self, run: Run, guides: tuple[SparseTensor, ...] = ()) -> Iterator[Attempt]:
        """One attempt at a stage; a second one with a smaller memory plan where the GPU ran out of memory.

        guides: of `decode_shape`, whose neighbour maps then go.
        """
        states = [random.get_state() for random in run.randoms]

        def let_go() -> None:
            self._drop_recordings()
            forget_neighbours(guides)
            for random, state in zip(run.randoms, states, strict=True):
                random.set_state(state)

        return self.residency.attempts(let_go)

    def _drop_recordings(self) -> None:
        for model in self.bundle.loaded:
            if isinstance(model, FlowTransformer):
                model.recordings.clear()

    def _at_hand(self, key: str, tool: object) -> AbstractContextManager[object]:
        """The network inside an encoder or background remover on the device, if it has one."""
        network = network_of(tool)
        return self.residency.resident(key, network) if network is not None else nullcontext()

    @contextmanager
    def _resident(self, key: str, kind: type[Model]) -> Iterator[Model]:
        """The bundle's model under `key` on the device for the length of the block."""
        model = self.bundle.model(key, self.device, home=self.residency.home(key))
        if not isinstance(model, kind):
            raise BundleError(
                f"{key} of the bundle {self.bundle.name} is a {type(model).__name__}, not a {kind.__name__}.",
                "Use the pipeline.json that belongs to the bundle.",
            )
        flow: FlowTransformer | None = model if isinstance(model, FlowTransformer) else None
        if self.precision == "fp8" and flow is not None and use_fp8(flow, self.device):
            self.residency.forget(key)
        if flow is not None:
            flow.recordings.enabled = not self.residency.plan.frugal
        with self.residency.resident(key, model):
            try:
                yield model
            finally:
                if flow is not None and not self.residency.stays(key):
                    flow.recordings.clear()

    def _sample(
        self, velocity: Velocity[Latent], noise: Latent, run: Run, stage: Stage
    ) -> Generator[StageEvent, None, Latent]:
        """Euler steps of one flow model, an event each."""
        latent = noise.to(self.device)
        for step in sample(velocity, latent, self.samplers(run.request)[stage]):
            latent = step.x_t
            yield run.clock.event(stage, f"step {step.step} of {step.steps}", step.step, step.steps + 1)
        return latent

    def _memories(self, flow: StructureFlow | LatentFlow, features: ImageFeatures) -> dict[bool, ConditionMemory]:
        """Keys and values of the picture (True) and of the empty condition (False), once for all steps."""
        tokens = features.tokens.to(self.device)
        # All keys and values of zeros are alike, so attention to one of them is attention to all.
        return {True: flow.remember(tokens), False: flow.remember(torch.zeros_like(tokens[:, :1]))}


def forget_neighbours(guides: tuple[SparseTensor, ...]) -> None:
    """Free the neighbour maps that a decoder leaves with its subdivisions for the next decoder."""
    for guide in guides:
        guide.cache.forget_neighbours()
