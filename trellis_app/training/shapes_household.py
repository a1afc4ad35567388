"""Families of things found in a house: a random generator -> painted parts; +Z is the front."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from trellis_app.training.grammar import (
    Solid,
    array,
    ball,
    box,
    circle,
    curve,
    extrude,
    lathe,
    merge,
    ring,
    rounded,
    sweep,
    tube,
)
from trellis_app.training.paints import (
    Paint,
    Parts,
    Rng,
    dark,
    darker,
    fade,
    gloss,
    glow,
    hsv,
    leaf,
    lighter,
    metal,
    stripes,
    wedges,
    wood,
)


def corners(solid: Solid, x: float, z: float) -> Solid:
    """The solid at (x, z) and its three mirror images: legs, wheels, posts."""
    return solid.move(x, 0, z).mirror("x").mirror("z")


def chair(rng: Rng) -> Parts:
    width, depth, height = rng.uniform(0.8, 1.1), rng.uniform(0.8, 1.0), rng.uniform(0.8, 1.05)
    frame, soft = wood(rng) if rng.random() < 0.6 else metal(rng), gloss(rng)
    x, z, splay, thick = width / 2 - 0.09, depth / 2 - 0.09, rng.uniform(0, 0.1), rng.uniform(0.035, 0.06)
    back, lean = rng.uniform(0.8, 1.2), rng.uniform(0.05, 0.2)
    top = height + back
    seat = box(width, 0.1, depth, bevel=0.03).move(y=height)
    leg = tube([(x, height, z), (x + splay, 0, z + splay)], thick).mirror("x").mirror("z")
    post = tube([(x, height, -z), (x, top, -z - lean)], thick).mirror()
    parts = [frame.on(leg), (frame if rng.random() < 0.5 else soft).on(seat)]
    style = rng.integers(3)
    if style == 0:
        count = int(rng.integers(2, 5))
        slat = box(2 * x, 0.5 * back / count, 0.05, bevel=0.02)
        shares = (np.arange(count) + 0.7) / count
        slats = merge(slat.move(y=height + back * share, z=-z - lean * share) for share in shares)
        parts += [frame.on(post), frame.on(slats)]
    elif style == 1:
        panel = extrude(rounded(width, back, 0.25), 0.12, bevel=0.03).turn("x", -np.degrees(np.arctan2(lean, back)))
        parts.append(soft.on(panel.move(y=height + back / 2, z=-z - lean / 2)))
    else:
        spindle = tube([(0, height, -z), (0, top, -z - lean)], 0.025)
        high = (0, top + 0.12, -z - lean - 0.05)
        rail = tube([(-x - 0.05, top, -z - lean), high, (x + 0.05, top, -z - lean)], 0.06)
        spindles = array(spindle, int(rng.integers(3, 7)), (2 * x / 7, 0, 0))
        parts += [frame.on(post), frame.on(spindles), frame.on(rail)]
    if rng.random() < 0.4:
        parts.append(soft.on(box(width * 0.88, 0.12, depth * 0.85, bevel=0.05).move(y=height + 0.1)))
    if rng.random() < 0.35:
        arm = tube([(x, height, z * 0.8), (x + 0.03, height + 0.38, z * 0.75), (x, height + 0.4, -z)], 0.045)
        parts.append(frame.on(arm.mirror()))
    return parts


def table(rng: Rng) -> Parts:
    width, depth, height = rng.uniform(1.2, 2.2), rng.uniform(0.9, 1.3), rng.uniform(0.6, 1.1)
    oak, legs = wood(rng), metal(rng) if rng.random() < 0.3 else wood(rng)
    if rng.random() < 0.4:
        rim = width / 2
        disc = lathe([(0, 0), (rim - 0.04, 0), (rim, 0.04), (rim - 0.04, 0.09), (0, 0.09)]).move(y=height)
        foot = curve([(rim * 0.6, 0), (rim * 0.5, 0.07), (0.12, 0.16), (0.08, height * 0.6), (0.25, height)], 24)
        parts = [oak.on(disc), legs.on(lathe(foot))]
    else:
        grain = replace(oak, second=darker(oak.color, 0.85), pattern=stripes(2, depth / 2))
        planks = int(rng.integers(3, 6))
        board = box(width, 0.09, depth / planks * 0.97, bevel=0.015)
        parts = [grain.on(array(board, planks, (0, 0, depth / planks)).move(y=height + 0.04))]
        thick = rng.uniform(0.09, 0.16)
        turned = curve(
            [(thick * 0.5, 0), (thick * 0.4, height * 0.3), (thick * 0.8, height * 0.55), (0.06, height)], 16
        )
        leg = lathe(turned, segments=16) if rng.random() < 0.5 else box(thick, height, thick).move(y=height / 2)
        parts.append(legs.on(corners(leg, width / 2 - 0.12, depth / 2 - 0.12)))
        if rng.random() < 0.6:
            parts.append(legs.on(box(width - 0.24, 0.14, depth - 0.24).move(y=height - 0.06)))
    if rng.random() < 0.4:
        bowl = lathe([(0, 0.0), (0.12, 0.0), (0.24, 0.14), (0.22, 0.14), (0.1, 0.03), (0, 0.03)])
        fruit = ring(ball(0.075, segments=16), 4, 0.09).move(y=height + 0.21)
        parts += [gloss(rng).on(bowl.move(y=height + 0.09)), gloss(rng, 0.04).on(fruit)]
    return parts


def lamp(rng: Rng) -> Parts:
    height, paint, cloth = rng.uniform(1.0, 1.8), (metal if rng.random() < 0.6 else gloss)(rng), gloss(rng)
    low, high, tall = rng.uniform(0.32, 0.6), rng.uniform(0.12, 0.35), rng.uniform(0.3, 0.6)
    hood = lathe([(low, 0), (high, tall), (high - 0.025, tall), (low - 0.025, 0)], closed=True)
    base = lathe([(0, 0), (0.36, 0), (0.36, 0.04), (0.3, 0.09), (0.06, 0.13), (0, 0.13)])
    if rng.random() < 0.5:
        stem = lathe(
            curve([(0.05, 0.1), (rng.uniform(0.05, 0.25), height * 0.35), (0.06, height * 0.7), (0.03, height)], 24)
        )
        x, y = 0.0, height - 0.15
    else:
        x, y = rng.uniform(0.4, 0.8), height * 0.95 - tall
        stem = tube([(0, 0.08, 0), (-0.1, height * 0.6, 0), (0.15, height, 0), (x, height * 0.95, 0)], 0.035)
    pattern = fade(1, y + tall, y) if rng.random() < 0.5 else stripes(1, tall, share=0.5)
    shade = replace(cloth, second=lighter(cloth.color, 0.5), pattern=pattern)
    bulb = glow(rng).on(ball(0.1).move(x, y + tall * 0.4))
    return [paint.on(base), paint.on(stem), shade.on(hood.move(x, y)), bulb]


def vase(rng: Rng) -> Parts:
    height, wall = rng.uniform(0.9, 1.7), 0.04
    radii = rng.uniform([0.2, 0.3, 0.12, 0.16], [0.35, 0.6, 0.35, 0.4])
    outer = curve(np.column_stack([radii, [0, 0.4 * height, 0.85 * height, height]]), 28)
    inner = np.clip(outer[::-1] - [wall, 0], 0.02, None)
    inner[-1, 1] = 0.05
    body = lathe(np.concatenate([[(0, 0)], outer, inner, [(0, 0.05)]]), segments=48)
    glaze = gloss(rng)
    second = gloss(rng).color
    pattern = [fade(1, 0, height), stripes(1, height / rng.integers(2, 6)), wedges(int(rng.integers(4, 10)))]
    parts = [replace(glaze, second=second, pattern=pattern[rng.integers(3)]).on(body)]
    if rng.random() < 0.3:
        handle = curve(
            [(radii[3], 0.95 * height), (radii[3] + 0.35, 0.85 * height), (radii[1] * 0.9, 0.5 * height)], 20
        )
        parts.append(glaze.on(sweep(np.column_stack([handle, np.zeros(20)]), circle(0.045)).mirror()))
    if rng.random() < 0.5:
        for _ in range(int(rng.integers(3, 8))):
            x, z = rng.normal(size=2) * 0.25
            tip = (x, height + rng.uniform(0.3, 0.7), z)
            stalk = tube([(0, 0.1, 0), (x * 0.3, height, z * 0.3), tip], 0.02)
            petals = ring(ball(0.08, segments=10).scale(1, 0.5, 1.2), 5, 0.09).move(*tip)
            parts += [leaf(rng).on(stalk), gloss(rng).on(petals), gloss(rng, 0.13).on(ball(0.06).move(*tip))]
    return parts


def bottle(rng: Rng) -> Parts:
    height, wide, neck = rng.uniform(1.0, 1.6), rng.uniform(0.25, 0.5), rng.uniform(0.08, 0.14)
    shoulder = rng.uniform(0.45, 0.7) * height
    points = [(wide * 0.9, 0.0), (wide, 0.08), (wide * rng.uniform(0.9, 1.15), shoulder), (neck, shoulder + wide * 0.8)]
    side = np.concatenate([curve(points, 28), [(neck, height), (neck + 0.03, height), (neck + 0.03, height + 0.06)]])
    glass = replace(gloss(rng), roughness=0.08, alpha=rng.uniform(0.4, 0.7))
    shell = (glass if rng.random() < 0.5 else gloss(rng)).on(lathe(side, segments=48))
    liquid = gloss(rng).on(lathe(curve([(wide * 0.8, 0.04), (wide * 0.92, 0.1), (wide * 0.9, shoulder * 0.9)], 16)))
    low, high = shoulder * 0.3, shoulder * 0.75
    band = wide * 1.1
    paper = replace(gloss(rng), roughness=0.9, second=(0.95, 0.93, 0.88), pattern=stripes(1, (high - low) / 2))
    label = paper.on(
        lathe(
            [(band, low), (band, (low + high) / 2), (band, high), (band - 0.06, high), (band - 0.06, low)], closed=True
        )
    )
    cork = wood(rng).on(lathe([(neck - 0.02, height - 0.1), (neck, height + 0.16)], segments=20))
    return [shell, liquid, cork] + ([label] if rng.random() < 0.6 else [])


def mug(rng: Rng) -> Parts:
    height, wide, flare = rng.uniform(0.9, 1.2), rng.uniform(0.38, 0.5), rng.uniform(-0.08, 0.12)
    outer = curve([(wide - 0.06, 0), (wide, 0.08), (wide + flare / 2, height / 2), (wide + flare, height)], 24)
    inner = np.clip(outer[::-1] - [0.06, 0], 0, None)[:-3]
    body = lathe(np.concatenate([[(0, 0)], outer, inner, [(0, inner[-1, 1])]]), segments=56)
    glaze = gloss(rng)
    pattern = [None, stripes(1, height / 3, share=0.5), fade(1, 0.1, height), wedges(8)][rng.integers(4)]
    x = wide + flare / 2 - 0.03
    ear = [(x, height * 0.82, 0), (x + 0.3, height * 0.8, 0), (x + 0.34, height * 0.45, 0), (x - 0.03, height * 0.2, 0)]
    drink = Paint(hsv(rng.uniform(0.03, 0.1), 0.7, rng.uniform(0.2, 0.5)), roughness=0.15)
    surface = lathe([(0, 0), (wide + flare * 0.8 - 0.05, 0), (wide + flare * 0.8 - 0.05, 0.02), (0, 0.02)]).move(
        y=height * 0.85
    )
    colored = replace(glaze, second=gloss(rng).color if rng.random() < 0.5 else (0.95, 0.94, 0.9), pattern=pattern)
    return [colored.on(body), glaze.on(tube(ear, 0.06)), drink.on(surface)]


def teapot(rng: Rng) -> Parts:
    wide, height = rng.uniform(0.5, 0.65), rng.uniform(0.7, 0.95)
    glaze, trim = gloss(rng) if rng.random() < 0.75 else metal(rng), gloss(rng)
    body = lathe(
        curve([(wide * 0.55, 0), (wide, height * 0.45), (wide * 0.75, height * 0.85), (wide * 0.4, height)], 28)
    )
    lid = lathe(curve([(wide * 0.45, height * 0.97), (wide * 0.35, height * 1.08), (0.03, height * 1.16)], 14))
    spout_path = curve(
        [(wide * 0.8, height * 0.35, 0), (wide * 1.35, height * 0.55, 0), (wide * 1.6, height * 0.98, 0)], 20
    )
    spout = sweep(spout_path, circle(0.13), scale=np.linspace(1, 0.5, 20))
    handle = [
        (-wide * 0.6, height * 0.83, 0),
        (-wide * 1.5, height * 0.85, 0),
        (-wide * 1.4, height * 0.35, 0),
        (-wide * 0.9, height * 0.3, 0),
    ]
    pattern = [wedges(8), fade(1, height, 0), stripes(1, height / 2)][rng.integers(3)]
    pot = replace(glaze, second=trim.color, pattern=pattern if rng.random() < 0.6 else None)
    knob = trim.on(ball(0.09).move(y=height * 1.2))
    return [pot.on(body), glaze.on(lid), glaze.on(spout), trim.on(tube(handle, 0.06)), knob]


def chest(rng: Rng) -> Parts:
    width, height, depth = rng.uniform(1.1, 1.6), rng.uniform(0.5, 0.9), rng.uniform(0.7, 1.0)
    oak, iron = wood(rng), metal(rng)
    plank = replace(oak, second=darker(oak.color, 0.8), pattern=stripes(1, height / 2))
    boards = array(box(width, height / 4 * 0.96, depth, bevel=0.015), 4, (0, height / 4, 0)).move(y=height / 2)
    posts = corners(box(0.1, height, 0.1, bevel=0.015).move(y=height / 2), width / 2, depth / 2)
    parts = [plank.on(boards)]
    if rng.random() < 0.5:
        half = depth / 2 * circle(1, sides=20)[:11] * [1, rng.uniform(0.6, 1.0)]
        lid = extrude(half, width).turn("y", 90).move(y=height + 0.02)
        band = extrude(half * 1.06, 0.1).turn("y", 90).move(y=height + 0.02)
        strap = box(0.1, height * 1.02, depth * 1.06).move(y=height / 2)
        straps = array(merge([band, strap]), int(rng.integers(2, 4)), (width * 0.4, 0, 0))
        lock = box(0.2, 0.24, 0.08, bevel=0.02).move(0, height, depth / 2 + 0.04)
        return [
            *parts,
            plank.on(lid),
            iron.on(straps),
            metal(rng).on(lock),
            dark().on(box(0.04, 0.1, 0.1).move(0, height, depth / 2 + 0.05)),
        ]
    beam = box(width + 0.1, 0.12, 0.1, bevel=0.015).move(0, 0.06, depth / 2).mirror("z")
    beams = merge([beam, beam.move(y=height - 0.12)])
    brace = box(0.1, np.hypot(width, height) * 0.86, 0.06).turn("z", np.degrees(np.arctan2(width, height)))
    trim = oak if rng.random() < 0.6 else iron
    trim = replace(trim, color=darker(trim.color, 0.7))
    return [*parts, trim.on(posts), trim.on(beams), trim.on(brace.move(0, height / 2, depth / 2 + 0.01).mirror("z"))]


def sword(rng: Rng) -> Parts:
    length, width, grip = rng.uniform(1.6, 2.6), rng.uniform(0.12, 0.26), rng.uniform(0.4, 0.6)
    steel, brass, leather = metal(rng), metal(rng), replace(gloss(rng), roughness=0.8)
    tip = rng.uniform(0.15, 0.5)
    blade = np.array([(width, 0), (width * rng.uniform(0.7, 1.2), length - tip), (0, length)])
    outline = np.concatenate([blade, blade[-2::-1] * [-1, 1]])
    edge = extrude(outline, 0.09, bevel=0.04)
    groove = extrude(np.array([(0.03, 0), (0.02, length * 0.6), (-0.02, length * 0.6), (-0.03, 0)]), 0.11)
    reach, droop = rng.uniform(0.3, 0.5), rng.uniform(-0.2, 0.2)
    guard = tube([(-reach, droop, 0), (0, 0, 0), (reach, droop, 0)], 0.07, count=16)
    handle = lathe(curve([(0.06, -grip), (0.085, -grip * 0.5), (0.065, 0)], 16), segments=20)
    wrap = replace(leather, second=darker(leather.color, 0.6), pattern=stripes(1, grip / 6))
    gem = gloss(rng).on(ball(0.11, segments=16).move(y=-grip - 0.05))
    return [steel.on(edge), dark(0.35).on(groove), brass.on(guard), wrap.on(handle), gem]


def axe(rng: Rng) -> Parts:
    length, head, drop = rng.uniform(1.4, 2.0), rng.uniform(0.35, 0.6), rng.uniform(0.3, 0.55)
    steel, ash = metal(rng), wood(rng)
    bow = rng.uniform(-0.12, 0.12)
    shaft = tube([(0, 0, 0), (bow, length / 2, 0), (0, length, 0)], 0.06)
    arc = curve([(head, drop), (head * 1.18, 0), (head, -drop)], 14)
    outline = np.concatenate([[(0.05, -0.14)], arc[::-1], [(0.05, 0.14)]])
    blade = extrude(outline, 0.12, bevel=0.05).move(y=length - 0.22)
    if rng.random() < 0.4:
        blade = blade.mirror()
    block = box(0.2, 0.34, 0.2, bevel=0.04).move(y=length - 0.22)
    bands = array(lathe([(0.075, -0.04), (0.075, 0.04)], segments=16), 3, (0, 0.16, 0)).move(y=0.25)
    return [ash.on(shaft), steel.on(blade), metal(rng).on(block), replace(gloss(rng), roughness=0.9).on(bands)]
