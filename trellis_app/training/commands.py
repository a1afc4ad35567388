"""Command line of `python -m trellis_app train <what>`; one function a recipe, started alone or by torchrun."""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trellis_app.errors import TrellisError
from trellis_app.sparse.rowwise import compiled_row_ops, use_row_ops
from trellis_app.training.autoencoders import AutoencoderRecipe, AutoencoderSettings
from trellis_app.training.configs import PARTS, sizes
from trellis_app.training.distributed import Process, process_group
from trellis_app.training.evaluate import EvaluationSettings, evaluate, table
from trellis_app.training.evaluate_texturing import TexturingSettings, evaluate_texturing
from trellis_app.training.evaluate_texturing import table as texturing_table
from trellis_app.training.export_bundle import export_bundle, unpack_bundle
from trellis_app.training.flows import FlowRecipe, FlowSettings
from trellis_app.training.latents import LatentSettings, make_latents, wait_for
from trellis_app.training.matting import MattingRecipe, MattingSettings
from trellis_app.training.optim import OptimSettings
from trellis_app.training.sources import SampleSource
from trellis_app.training.sweep import SweepSettings, sweep
from trellis_app.training.trainer import Recipe, Trainer, TrainSettings, require_budget

Subparsers = Any  # argparse keeps the type of its subparsers private


def add_train_parser(commands: Subparsers) -> None:
    """Add `train` with one subcommand a recipe."""
    parser = commands.add_parser("train", help="train the mini bundle: autoencoders, latents, flows, matting, export")
    kinds = parser.add_subparsers(dest="what", required=True)
    _add_autoencoders(kinds)
    _add_latents(kinds)
    _add_flows(kinds)
    _add_matting(kinds)
    _add_sweep(kinds)
    _add_export(kinds)
    _add_unpack(kinds)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", default="mini", help="mini or tiny")
    parser.add_argument(
        "--library", type=Path, help="npz collection or folder of GLB files; without it, procedural objects"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/mini"), help="run folder: weights, journals, checkpoints"
    )
    parser.add_argument(
        "--workers", type=int, default=max((os.cpu_count() or 2) - 2, 1), help="processes making samples"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))


def _schedule(parser: argparse.ArgumentParser, *, learning_rate: float, ema: float) -> None:
    parser.add_argument("--minutes", type=float, help="length of the whole schedule")
    parser.add_argument("--steps", type=int, help="length of the whole schedule, instead of minutes")
    parser.add_argument("--until", type=float, help="end of the schedule in seconds since the epoch, instead")
    parser.add_argument("--wait-for", type=Path, help="file to wait for, once all is loaded, before training starts")
    parser.add_argument("--save-seconds", type=float, default=math.inf, help="write weights and checkpoint so often")
    parser.add_argument("--call-minutes", type=float, help="checkpoint and leave after so long; run again to continue")
    parser.add_argument("--no-resume", action="store_true", help="start over")
    parser.add_argument("--learning-rate", type=float, default=learning_rate)
    parser.add_argument("--warmup", type=float, default=OptimSettings.warmup, help="share of the schedule")
    parser.add_argument("--ema", type=float, default=ema)
    parser.add_argument(
        "--fuse",
        action="store_true",
        help="fuse row arithmetic with torch.compile (GPU); compiles for a minute and more first",
    )
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--log-every", type=int, default=20)
    parser.add_argument("--validations", type=int, default=4, help="besides the last; -1: not even that")
    parser.add_argument(
        "--final", type=float, default=OptimSettings.final, help="last learning rate / peak; 1: constant"
    )


def _train_settings(options: argparse.Namespace) -> TrainSettings:
    optim = OptimSettings(
        learning_rate=options.learning_rate,
        ema_decay=options.ema,
        muon=options.optimizer == "muon",
        warmup=options.warmup,
        final=options.final,
    )
    settings = TrainSettings(
        out=options.out, minutes=options.minutes, steps=options.steps, until=options.until,
        call_minutes=options.call_minutes, save_seconds=options.save_seconds, seed=options.seed,
        log_every=options.log_every, validations=options.validations, resume=not options.no_resume, optim=optim,
    )  # fmt: skip
    require_budget(settings)
    return settings


def pick_device(name: str) -> str:
    """cpu or cuda."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def _source(options: argparse.Namespace, process: Process) -> SampleSource:
    family = sizes(options.size)
    return SampleSource(
        options.library, family.resolution, family.view_size, max(options.workers // process.size, 1), options.seed
    )


def _train(options: argparse.Namespace, make: Callable[[argparse.Namespace, Process], Recipe]) -> int:
    """Run a recipe to the end of the call; exit code 0."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = _train_settings(options)
    with process_group(options.device) as process:
        torch.manual_seed(options.seed + 1000 * process.rank)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        if options.wait_for is not None:
            wait_for(options.wait_for)
        recipe = make(options, process)
        if options.fuse:
            use_row_ops(recipe.module, compiled_row_ops())
        try:
            Trainer(recipe, settings, process).run()
        finally:
            recipe.close()
    return 0


def _add_autoencoders(kinds: Subparsers) -> None:
    parser = kinds.add_parser("autoencoders", help="the three autoencoders, together")
    _common(parser)
    _schedule(parser, learning_rate=1e-3, ema=0.998)
    parser.add_argument("--only", default=",".join(PARTS), help="comma-separated: structure, shape, material")
    parser.add_argument("--voxels-per-step", type=int, default=AutoencoderSettings.voxels_per_step)
    parser.add_argument("--freeze-encoders", action="store_true", help="train decoders only")
    parser.add_argument("--recolour", type=float, default=AutoencoderSettings.recolour_share, help="share of blocks")
    parser.add_argument("--latent-noise", type=float, default=0.0, help="most noise for decoders, in spreads")
    parser.add_argument("--warm-start", type=Path, help="folder of weights to start from")
    parser.set_defaults(run=lambda options: _train(options, _autoencoders))


def _autoencoders(options: argparse.Namespace, process: Process) -> Recipe:
    only = tuple(part for part in PARTS if part in options.only.split(","))
    settings = AutoencoderSettings(
        only=only,
        voxels_per_step=options.voxels_per_step,
        recolour_share=options.recolour,
        latent_noise=options.latent_noise,
    )
    recipe = AutoencoderRecipe(sizes(options.size), settings, _source(options, process), options.warm_start)
    if options.freeze_encoders:
        recipe.freeze_encoders()
    return recipe


def _add_latents(kinds: Subparsers) -> None:
    parser = kinds.add_parser("latents", help="encode samples into shards for the flows")
    _common(parser)
    defaults = LatentSettings()
    parser.add_argument("--samples", type=int, default=defaults.samples, help="stop after so many")
    parser.add_argument("--calibration", type=int, default=defaults.calibration, help="samples for the normalisation")
    parser.add_argument("--shard", type=int, default=defaults.shard)
    parser.add_argument("--views", type=int, default=defaults.views, help="pictures a sample")
    parser.add_argument("--ahead", type=int, default=defaults.ahead, help="pause while so many shards lie unread")
    parser.add_argument("--held-out", type=int, default=48, help="held-out samples for the flows' validation")
    parser.set_defaults(run=_latents)


def _latents(options: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = LatentSettings(
        samples=options.samples,
        shard=options.shard,
        views=options.views,
        calibration=options.calibration,
        ahead=options.ahead,
    )
    with process_group(options.device) as process:
        source = replace(_source(options, process), held_out_samples=options.held_out)
        try:
            make_latents(sizes(options.size), source, process, out=options.out, settings=settings)
        finally:
            source.close()
    return 0


def _add_flows(kinds: Subparsers) -> None:
    parser = kinds.add_parser("flows", help="image encoder and the three flow transformers, jointly")
    _common(parser)
    _schedule(parser, learning_rate=1e-3, ema=0.9985)
    defaults = FlowSettings()
    parser.add_argument("--batch", type=int, default=defaults.batch, help="pictures a step and process")
    parser.add_argument("--capacity", type=int, default=defaults.capacity, help="shards kept on the device")
    parser.add_argument("--warm-shards", type=int, default=defaults.warm_shards)
    parser.add_argument("--only", default=",".join(PARTS), help="comma-separated: structure, shape, material")
    parser.add_argument("--consume", action="store_true", help="delete shards that were read")
    parser.add_argument("--warm-start", type=Path, help="folder of weights to start from")
    parser.set_defaults(run=lambda options: _train(options, _flows))


def _flows(options: argparse.Namespace, process: Process) -> Recipe:
    settings = FlowSettings(
        only=tuple(part for part in PARTS if part in options.only.split(",")),
        batch=options.batch,
        capacity=options.capacity,
        warm_shards=options.warm_shards,
        consume=options.consume,
    )
    return FlowRecipe(sizes(options.size), settings, process, out=options.out, warm_start=options.warm_start)


def _add_matting(kinds: Subparsers) -> None:
    parser = kinds.add_parser("matting", help="the background remover")
    _common(parser)
    _schedule(parser, learning_rate=2e-3, ema=0.998)
    parser.add_argument("--batch", type=int, default=MattingSettings.batch, help="pictures a step and process")
    parser.add_argument("--warm-start", type=Path, help="folder of weights to start from")
    parser.set_defaults(run=lambda options: _train(options, _matting))


def _matting(options: argparse.Namespace, process: Process) -> Recipe:
    source = replace(_source(options, process), held_out_samples=48)
    return MattingRecipe(sizes(options.size), MattingSettings(batch=options.batch), source, options.warm_start)


def _add_sweep(kinds: Subparsers) -> None:
    parser = kinds.add_parser("sweep", help="choose the samplers' settings on held-out training pictures")
    parser.add_argument("--size", default="mini", help="mini or tiny")
    parser.add_argument("--out", type=Path, default=Path("runs/mini"), help="run folder")
    parser.add_argument("--pictures", type=int, default=SweepSettings.pictures)
    parser.add_argument("--steps", type=int, default=SweepSettings.steps)
    parser.add_argument("--only", default=",".join(PARTS), help="stages, comma-separated: structure, shape, material")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.set_defaults(run=_sweep)


def _sweep(options: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    only = tuple(part for part in PARTS if part in options.only.split(","))
    settings = SweepSettings(options.pictures, options.steps, only)
    scores = sweep(sizes(options.size), options.out, torch.device(pick_device(options.device)), settings)
    sys.stdout.write(json.dumps(scores) + "\n")
    return 0


def _add_export(kinds: Subparsers) -> None:
    parser = kinds.add_parser("export", help="write the trained networks as a bundle")
    parser.add_argument("--size", default="mini", help="mini or tiny")
    parser.add_argument("--out", type=Path, default=Path("runs/mini"), help="run folder")
    parser.add_argument("--bundle", type=Path, default=Path("assets/mini"), help="folder to write")
    parser.add_argument("--credits", type=Path, default=Path("../shared/data/README.md"), help="README of the library")
    parser.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    export_bundle(sizes(options.size), options.out, options.bundle, credits_file=options.credits)
    return 0


def _add_unpack(kinds: Subparsers) -> None:
    parser = kinds.add_parser("unpack", help="make a run folder from a bundle, to train it further")
    parser.add_argument("--size", default="mini", help="mini or tiny")
    parser.add_argument("--bundle", type=Path, default=Path("assets/mini"))
    parser.add_argument("--out", type=Path, default=Path("runs/mini"), help="run folder to write")
    parser.set_defaults(run=_unpack)


def _unpack(options: argparse.Namespace) -> int:
    unpack_bundle(sizes(options.size), options.bundle, options.out)
    return 0


def add_evaluate_parser(commands: Subparsers) -> None:
    """Add `evaluate`: prints a table, then one line of JSON."""
    parser = commands.add_parser("evaluate", help="measure a bundle on a library of objects")
    parser.add_argument("--bundle", default="mini")
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--train-library", type=Path, help="also measure two baselines that answer with its objects")
    parser.add_argument("--limit", type=int, help="measure so many objects only")
    parser.add_argument("--part", default="0/1", help="k/n: every n-th object from the k-th on")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, help="picture of 24 results, .jpg or .png")
    parser.add_argument("--json", type=Path, help="also write the measures to this file")
    parser.add_argument("--no-generation", action="store_true", help="only the reconstruction and the baselines")
    parser.add_argument("--only-generation", action="store_true", help="without the reconstruction")
    parser.add_argument("--texturing", action="store_true", help="measure the texturing of given meshes instead")
    parser.set_defaults(run=_evaluate)


def _part(text: str) -> tuple[int, int]:
    """ "k/n" as two numbers. Raises TrellisError for anything else."""
    first, _, count = text.partition("/")
    if not (first.isdigit() and count.isdigit() and int(first) < int(count)):
        raise TrellisError(f"{text!r} is no part.", "Write k/n, for example 0/8 to 7/8.")
    return int(first), int(count)


def _evaluate(options: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.texturing:
        return _evaluate_texturing(options)
    settings = EvaluationSettings(
        bundle=options.bundle, library=options.library, views=options.views, train_library=options.train_library,
        limit=options.limit, part=_part(options.part), device=pick_device(options.device), workers=options.workers,
        batch=options.batch, seed=options.seed, sheet=options.sheet, generate=not options.no_generation,
        reconstruct=not options.only_generation,
    )  # fmt: skip
    measures = {key: round(value, 5) for key, value in evaluate(settings).items()}
    if options.json is not None:
        options.json.write_text(json.dumps(measures, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{table(measures)}\n{json.dumps(measures)}\n")
    return 0


def _evaluate_texturing(options: argparse.Namespace) -> int:
    settings = TexturingSettings(
        bundle=options.bundle, library=options.library, limit=options.limit, part=_part(options.part),
        device=str(pick_device(options.device)), workers=max(options.workers - 1, 1), seed=options.seed,
    )  # fmt: skip
    report = evaluate_texturing(settings)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{texturing_table(report)}\n{json.dumps(report)}\n")
    return 0
