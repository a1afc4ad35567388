"""Families of buildings, vehicles, plants and robots: a random generator -> painted parts; +Z is the front."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from trellis_app.training.grammar import array, ball, box, circle, curve, extrude, lathe, merge, ring, sweep, tube
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
    metal,
    speckle,
    stone,
    stripes,
    wood,
)
from trellis_app.training.shapes_household import corners


def windows(rng: Rng, wall: float, places: list[tuple[float, float]], size: float) -> Parts:
    """Framed windows on the plane z = wall, centred at (x, y)."""
    frame, pane = Paint((0.93, 0.91, 0.86), roughness=0.7), Paint((0.35, 0.55, 0.7), roughness=0.1)
    if rng.random() < 0.3:
        pane = glow(rng)
    outer = merge(box(size, size * 1.2, 0.06, bevel=0.01).move(x, y, wall) for x, y in places)
    quarter = box(size * 0.36, size * 0.46, 0.08).move(size * 0.21, size * 0.27).mirror("x").mirror("y")
    glass = merge(quarter.move(x, y, wall) for x, y in places)
    return [frame.on(outer), pane.on(glass)]


def house(rng: Rng) -> Parts:
    width, depth, height, pitch = rng.uniform([1.2, 1.0, 0.8, 0.4], [1.9, 1.5, 1.5, 0.9])
    plaster, tiles, door = stone(rng), gloss(rng), wood(rng)
    if rng.random() < 0.6:
        plaster = Paint(hsv(rng.uniform(), rng.uniform(0.05, 0.45), rng.uniform(0.75, 0.95)), roughness=0.9)
    gable = np.array([(-width / 2, 0), (width / 2, 0), (width / 2, height), (0, height + pitch), (-width / 2, height)])
    top, slope = np.array([0, height + pitch]), np.array([width / 2 + 0.15, -pitch * (1 + 0.3 / width)])
    tile = replace(tiles, roughness=0.8, second=darker(tiles.color, 0.75), pattern=stripes(2, depth / 4))
    courses = int(rng.integers(4, 7))
    strips = []
    for k in range(courses):
        begin, end = top + slope * k / courses, top + slope * (k + 1.12) / courses
        low, high = np.array([0, 0.05]), np.array([0, 0.12])
        outline = np.array([begin, end + low, end + high, begin + 0.6 * high])
        strips.append(array(extrude(outline, (depth + 0.3) / 8), 8, (0, 0, (depth + 0.3) / 8)))
    parts = [plaster.on(extrude(gable, depth)), tile.on(merge(strips).mirror())]
    parts.append(door.on(box(0.3, 0.56, 0.06, bevel=0.02).move(rng.uniform(-0.2, 0.2) * width, 0.28, depth / 2)))
    storeys = [height * 0.6] if height < 1.1 else [height * 0.45, height * 0.85]
    parts += windows(rng, depth / 2, [(x * width * 0.33, y) for y in storeys for x in (-1, 1)], 0.24)
    if rng.random() < 0.7:
        brick = stone(rng)
        stack = merge([box(0.2, 0.7, 0.2), box(0.27, 0.08, 0.27).move(y=0.38)])
        parts.append(brick.on(stack.move(width * 0.25, height + pitch * 0.75, -depth * 0.2)))
    if rng.random() < 0.6:
        parts.append(stone(rng).on(box(width + 0.16, 0.12, depth + 0.16, bevel=0.02)))
    return parts


def tower(rng: Rng) -> Parts:
    radius, height, flare = rng.uniform(0.4, 0.65), rng.uniform(1.4, 2.2), rng.uniform(1.05, 1.25)
    rock, roof, sides = stone(rng), gloss(rng), [6, 8, 12, 32][rng.integers(4)]
    levels = np.linspace(0, height, 9)
    wall = np.column_stack([radius * (1.1 - 0.15 * levels / height), levels])
    crown = [(radius * flare, height + 0.12), (radius * flare, height + 0.3)]
    parts = [rock.on(lathe(np.concatenate([wall, crown]), segments=sides))]
    teeth = ring(box(0.16, 0.18, 0.12, bevel=0.015), max(8, sides // 2 if sides < 32 else 12), radius * flare - 0.08)
    parts.append(rock.on(teeth.move(y=height + 0.38)))
    if rng.random() < 0.65:
        peak = height + 0.3 + rng.uniform(0.7, 1.2)
        eaves = [
            (radius * 0.85, height + 0.28),
            (radius * flare + 0.1, height + 0.42),
            (0.25, peak * 0.75 + height * 0.2),
        ]
        cone = lathe([*eaves, (0.0, peak)], segments=sides)
        cloth = box(0.34, 0.2, 0.015).move(0.18, peak + 0.2)
        mast = tube([(0, peak - 0.1, 0), (0, peak + 0.32, 0)], 0.02)
        shingles = replace(roof, roughness=0.8, second=darker(roof.color, 0.8), pattern=speckle(rng))
        parts += [shingles.on(cone), gloss(rng).on(cloth), dark(0.3).on(mast)]
    slit = box(0.1, 0.3, 0.1, bevel=0.02)
    slits = merge(
        [ring(slit, 4, radius).move(y=height * 0.78), ring(slit, 3, radius * 1.02, start=60).move(y=height * 0.45)]
    )
    arch = np.concatenate(
        [[(0.16, 0), (0.16, 0.3)], 0.16 * circle(1, sides=16)[1:8] + [0, 0.3], [(-0.16, 0.3), (-0.16, 0)]]
    )
    parts += [dark(0.18).on(slits), wood(rng).on(extrude(arch, 0.3).move(z=radius * 1.03))]
    rim = extrude(arch * [1.3, 1.15], 0.24).move(z=radius * 1.03)
    return [*parts, replace(rock, color=darker(rock.color, 0.7)).on(rim)]


def car(rng: Rng) -> Parts:
    length, width, low = rng.uniform(2.0, 2.6), rng.uniform(0.95, 1.15), rng.uniform(0.18, 0.26)
    belt, roof = low + rng.uniform(0.38, 0.5), rng.uniform(0.85, 1.2)
    paint, trim, half = gloss(rng), metal(rng), length / 2
    hood, trunk = rng.uniform(0.15, 0.4), rng.uniform(0.0, 0.3)
    nose = rng.uniform(0.7, 0.95) * belt
    body = np.array(
        [
            (-half, low),
            (half, low),
            (half + 0.04, nose * 0.8),
            (half - 0.08, nose),
            (half - 0.5, belt),
            (-half + 0.1, belt),
            (-half - 0.03, belt * 0.75),
        ]
    )
    front, back = half - 0.45 - hood, -half + 0.08 + trunk
    cabin = np.array([(back, belt - 0.02), (front + 0.1, belt - 0.02), (front - 0.3, roof), (back + 0.2, roof)])
    middle = cabin.mean(axis=0)
    shell = [paint.on(extrude(body, width, bevel=0.06)), paint.on(extrude(cabin, width * 0.88, bevel=0.08))]
    pane = (cabin - middle) * [0.84, 0.68] + middle + [0, 0.01]
    split = (pane[0] + pane[1]) / 2, (pane[2] + pane[3]) / 2
    rear = np.array([pane[0], split[0] - [0.03, 0], split[1] - [0.03, 0], pane[3]])
    ahead = np.array([split[0] + [0.03, 0], pane[1], pane[2], split[1] + [0.03, 0]])
    glass = Paint((0.16, 0.22, 0.28), roughness=0.08)
    slant = cabin[2] - cabin[1]
    screen = box(0.03, np.hypot(*slant) * 0.75, width * 0.68).turn("z", np.degrees(np.arctan2(slant[1], slant[0])) - 90)
    panes = [extrude(rear, width * 0.89), extrude(ahead, width * 0.89), screen.move(*((cabin[1] + cabin[2]) / 2))]
    size = rng.uniform(0.2, 0.28)
    tyre = lathe(
        curve([(size * 0.6, -0.1), (size * 0.96, -0.09), (size, 0), (size * 0.96, 0.09), (size * 0.6, 0.1)], 14)
    )
    rim = lathe([(size * 0.6, -0.11), (size * 0.55, 0.11), (size * 0.2, 0.12)], segments=20)
    place = {"x": half * 0.62, "z": width / 2 - 0.06}
    wheels = [corners(part.turn("x", 90).move(y=size), **place) for part in (tyre, rim)]
    lights = [box(0.08, 0.1, 0.2, bevel=0.03).move(x, nose * 0.82, width * 0.33).mirror("z") for x in (half, -half)]
    bumper = box(0.1, 0.1, width * 0.96, bevel=0.03).move(half + 0.02, low + 0.06).mirror("x")
    parts = [*shell, glass.on(merge(panes)), dark().on(wheels[0]), trim.on(wheels[1]), dark(0.3).on(bumper)]
    parts += [glow(rng).on(lights[0]), Paint((0.85, 0.1, 0.08), roughness=0.2).on(lights[1])]
    if rng.random() < 0.3:
        parts.append(
            trim.on(
                array(
                    tube([(0, roof + 0.05, -width * 0.4), (0, roof + 0.05, width * 0.4)], 0.025), 3, (0.22, 0, 0)
                ).move(middle[0])
            )
        )
    return parts


def tree(rng: Rng) -> Parts:
    height, bark, green = rng.uniform(0.8, 1.4), wood(rng), leaf(rng)
    bend = rng.normal(size=2) * 0.12
    path = curve([(0, 0, 0), (bend[0], height * 0.5, bend[1]), (bend[0] * 0.5, height, 0)], 12)
    trunk = sweep(path, circle(rng.uniform(0.1, 0.18), sides=9), scale=np.linspace(1.5, 0.6, 12))
    style = rng.integers(3)
    if style == 0:
        count, wide = int(rng.integers(3, 6)), rng.uniform(0.5, 0.8)
        tiers = [
            lathe([(0.0, 0), (wide * s, -0.06), (0.05, 0.75 * wide)], segments=9) for s in np.linspace(1, 0.45, count)
        ]
        crown = merge(tier.turn("y", 40 * k).move(y=height * 0.55 + 0.42 * wide * k) for k, tier in enumerate(tiers))
    elif style == 1:
        places = rng.normal(size=(int(rng.integers(4, 9)), 3)) * [0.32, 0.2, 0.32]
        crown = (
            merge(ball(rng.uniform(0.3, 0.5), segments=12).move(*place) for place in places)
            .roughen(rng, 0.025)
            .move(y=height + 0.2)
        )
    else:
        spine = curve([(0, 0.02, 0), (0, 0.28, 0.35), (0, 0.18, 0.75), (0, -0.15, 1.0)], 10)
        frond = sweep(spine, circle(1, sides=6) * [0.14, 0.02], scale=np.sin(np.linspace(0.3, 3.0, 10)))
        crown = ring(frond, int(rng.integers(6, 10))).move(*path[-1])
    parts = [replace(bark, roughness=0.95).on(trunk), green.on(crown)]
    if rng.random() < 0.3 and style == 1:
        parts.append(gloss(rng, 0.0).on(ring(ball(0.07, segments=10), 6, 0.55).move(y=height)))
    if rng.random() < 0.4:
        parts.append(
            leaf(rng).on(lathe([(0, -0.12), (0.5, -0.05), (0.42, 0.02), (0, 0.05)], segments=14).roughen(rng, 0.015))
        )
    return parts


def robot(rng: Rng) -> Parts:
    shell, trim, accent, eye = gloss(rng), metal(rng), gloss(rng), glow(rng)
    width, height, head = rng.uniform(0.6, 0.9), rng.uniform(0.6, 0.9), rng.uniform(0.4, 0.6)
    ground, depth = rng.uniform(0.4, 0.6), rng.uniform(0.4, 0.6)
    chest = box(width, height, depth, bevel=0.1).move(y=ground + height / 2)
    if rng.random() < 0.35:
        chest = lathe(curve([(width * 0.35, 0), (width * 0.55, height * 0.5), (width * 0.4, height)], 20)).move(
            y=ground
        )
    top = ground + height + 0.1
    skull = [box(head * 1.25, head, head, bevel=0.09), ball(head * 0.58)][rng.integers(2)].move(y=top + head / 2)
    front = head * 0.5
    eyes = ball(head * 0.15, segments=16).move(head * 0.28, top + head * 0.55, front).mirror()
    visor = box(head * 0.9, head * 0.34, 0.1, bevel=0.04).move(0, top + head * 0.55, front)
    mouth = array(box(0.03, 0.08, 0.06), 4, (0.055, 0, 0)).move(0, top + head * 0.2, front)
    shoulder, reach = ground + height * 0.85, width / 2 + 0.16
    arm = tube(
        [(width / 2, shoulder, 0), (reach, shoulder - 0.05, 0), (reach + 0.03, ground + 0.15, rng.uniform(0, 0.3))],
        0.065,
    )
    hand = ball(0.11, segments=14).move(reach + 0.03, ground + 0.1, 0.15)
    joint = ball(0.12, segments=14).move(width / 2 + 0.03, shoulder)
    neck = array(lathe([(0.11, -0.02), (0.14, 0), (0.11, 0.02)], segments=20), 3, (0, 0.045, 0)).move(y=top - 0.04)
    parts = [shell.on(chest), shell.on(skull), trim.on(neck), trim.on(arm.mirror()), accent.on(hand.mirror())]
    parts += [accent.on(joint.mirror()), dark(0.15).on(visor), eye.on(eyes), trim.on(mouth)]
    panel = box(width * 0.5, height * 0.35, 0.08, bevel=0.03).move(0, ground + height * 0.5, depth / 2)
    dials = array(ball(0.045, segments=12), 3, (width * 0.15, 0, 0)).move(0, ground + height * 0.5, depth / 2 + 0.05)
    parts += [trim.on(panel), glow(rng).on(dials)]
    if rng.random() < 0.6:
        leg = tube([(width * 0.25, ground + 0.05, 0), (width * 0.27, 0.1, 0)], 0.09)
        foot = box(0.26, 0.14, 0.4, bevel=0.05).move(width * 0.27, 0.07, 0.06)
        parts += [trim.on(leg.mirror()), shell.on(foot.mirror())]
    else:
        wheel = lathe([(0.2, -0.06), (0.24, -0.04), (0.24, 0.04), (0.2, 0.06)]).turn("z", 90).move(width * 0.42, 0.24)
        axle = box(width * 0.8, 0.2, 0.14, bevel=0.04).move(y=0.3)
        waist = lathe([(0.1, 0.3), (0.13, ground + 0.06)], segments=20)
        parts += [dark().on(wheel.mirror()), trim.on(axle), trim.on(waist)]
    if rng.random() < 0.6:
        mast = tube([(0, top + head, 0), (0, top + head + 0.25, 0)], 0.02)
        parts += [trim.on(mast), gloss(rng, 0.0).on(ball(0.06, segments=12).move(y=top + head + 0.27))]
    return parts


def rocket(rng: Rng) -> Parts:
    height, wide, foot = rng.uniform(1.6, 2.4), rng.uniform(0.32, 0.5), rng.uniform(0.45, 0.8)
    hull_paint, accent, count = gloss(rng), gloss(rng), int(rng.integers(3, 5))
    side = curve([(wide * 0.55, 0.25), (wide, height * 0.4), (wide * 0.8, height * 0.75), (0.02, height)], 36)
    body = replace(
        hull_paint, second=accent.color, pattern=stripes(1, height * 2, share=0.36, phase=rng.uniform(0.4, 0.62))
    )
    fin = np.array([(0.0, 0.8), (foot, 0.2), (foot * 1.05, -0.05), (foot * 0.8, 0.15), (0.0, 0.35)])
    fin[:, 0] += wide * 0.6
    fins = ring(extrude(fin, 0.08, bevel=0.025).turn("y", -90), count, start=45)
    nozzle = lathe([(wide * 0.4, 0.28), (wide * 0.55, 0.05), (wide * 0.5, 0.05), (wide * 0.3, 0.26)], closed=True)
    radius = float(np.interp(height * 0.6, side[:, 1], side[:, 0]))
    port = lathe([(0.17, -0.05), (0.17, 0.05), (0.12, 0.07)], segments=24).turn("x", 90)
    pane = lathe([(0.12, 0), (0.12, 0.08), (0.08, 0.1), (0, 0.11)], segments=24).turn("x", 90)
    parts = [body.on(lathe(side, segments=48)), accent.on(fins), metal(rng).on(nozzle)]
    parts += [
        metal(rng).on(port.move(0, height * 0.6, radius)),
        Paint((0.3, 0.6, 0.8), roughness=0.05).on(pane.move(0, height * 0.6, radius)),
    ]
    if rng.random() < 0.5:
        parts.append(
            Paint((1.0, 0.6, 0.1), second=(1.0, 0.9, 0.3), pattern=fade(1, -0.4, 0.1)).on(
                lathe(curve([(0.01, -0.5), (0.16, -0.15), (0.12, 0.1)], 14))
            )
        )
    return parts


def mushroom(rng: Rng) -> Parts:
    parts: Parts = []
    cap, stalk = gloss(rng), Paint(hsv(0.11, rng.uniform(0.05, 0.3), 0.92), roughness=0.8)
    for k in range(int(rng.integers(1, 4))):
        size = 1.0 if k == 0 else rng.uniform(0.35, 0.6)
        x, z = (0.0, 0.0) if k == 0 else rng.normal(size=2) * 0.45
        high, wide = rng.uniform(0.5, 0.9) * size, rng.uniform(0.45, 0.7) * size
        stem = lathe(
            curve([(0.2 * size, 0), (0.13 * size, high * 0.6), (0.15 * size, high + 0.1 * size)], 14), segments=24
        )
        dome = curve(
            [
                (wide * 0.6, high),
                (wide, high + 0.05 * size),
                (wide * 0.75, high + 0.4 * size),
                (0.02, high + 0.6 * size),
            ],
            20,
        )
        rows = dome[[9, 12, 16]]
        dots = [
            ring(ball(0.09 * size, segments=10).scale(1, 0.7, 0.7), 7 - 2 * i, r, start=30 * i).move(x, y, z)
            for i, (r, y) in enumerate(rows)
        ]
        parts += [stalk.on(stem.move(x, 0, z)), cap.on(lathe(dome).move(x, 0, z)), stalk.on(merge(dots))]
    return [
        *parts,
        leaf(rng).on(lathe([(0, -0.15), (0.75, -0.08), (0.65, 0.02), (0, 0.06)], segments=18).roughen(rng, 0.02)),
    ]
