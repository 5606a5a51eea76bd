"""The network as SVG: blocks as boxes round their layers, branches side by side, long networks in columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log2

from service.exports.drawing.boxes import Box, Link, Network
from service.exports.drawing.layers import Ranked, ranked
from service.exports.drawing.placing import GUTTER, MARGIN, TRACK, Placed, place
from service.exports.drawing.svg import curve, cut, rounded, tag, title, words

WIDTH = 156.0
HEAD = 17.0  # the box's title
CHIP = 15.0  # one row of layers
FOOT = 15.0  # time and share
PAD = 6.0
LETTER = 5.1  # width of a character of a chip
LEVELS = 3  # strongest step of the colour scale that is used: text stays readable on all of them


@dataclass(frozen=True)
class Drawing:
    """SVG markup and its size in user units."""

    svg: str
    width: float
    height: float


def draw(network: Network, *, aspect: float = 2.0, label: str = "The network and its blocks") -> Drawing:
    """The whole picture.

    Each box is ``<g class="block" data-block="N" tabindex="0">``, N its place in ``network.boxes``, so that a page can
    say more about it; each edge carries ``data-from`` and ``data-to``.
    """
    ends = _ends(network)
    nodes = len(network.boxes) + len(ends)
    links = _between(network, ends)
    graph = ranked(nodes, list(links))
    chips = [_chips(box) for box in network.boxes]
    sizes = {n: (WIDTH, _height(box, chips[n])) for n, box in enumerate(network.boxes)}
    sizes |= dict.fromkeys(range(len(network.boxes), nodes), (WIDTH, 20.0))
    placed = place(graph, sizes, aspect)
    heaviest = max((box.share or 0.0 for box in network.boxes), default=0.0)
    parts = [tag("g", *_edges(graph, placed, links), class_="edges")]
    for number, box in enumerate(network.boxes):
        left, top = placed.x[number] - WIDTH / 2, placed.top[number]
        parts.append(_box(number, box, chips[number], (left, top), sizes[number][1], network, heaviest))
    parts += [
        _end(name, placed.x[number] - WIDTH / 2, placed.top[number])
        for number, (_, name) in enumerate(ends, len(network.boxes))
    ]
    body = tag("g", *parts, class_="scene")
    width, height = placed.width + 2 * PAD, placed.height
    view = f"{-PAD:.0f} 0 {width:.0f} {height:.0f}"
    svg = tag(
        "svg", title(label), _arrow(), body, xmlns="http://www.w3.org/2000/svg", class_="network", viewBox=view,
        width=round(width), height=round(height), role="group", aria_label=label,
    )  # fmt: skip
    return Drawing(svg, width, height)


def level(cores: int | None, most: int) -> int:
    """The step of the colour scale for so many cores: by factors, as what cores bring goes by factors."""
    if not cores or most <= 1:
        return 0
    return round(LEVELS * log2(cores) / log2(most)) if cores < most else LEVELS


# what is drawn ----------------------------------------------------------------------------------------------------


def _ends(network: Network) -> list[tuple[bool, str]]:
    """The model's inputs and outputs, (whether it is an input, text)."""
    seen: dict[tuple[bool, str], None] = {}
    for link in network.links:
        if link.source < 0:
            seen[True, _end_text(link)] = None
        if link.target < 0:
            seen[False, _end_text(link)] = None
    return list(seen)


def _end_text(link: Link) -> str:
    return f"{cut(link.tensor, 14)} {'×'.join(map(str, link.shape))}"


def _between(network: Network, ends: Sequence[tuple[bool, str]]) -> dict[tuple[int, int], list[Link]]:
    number = {end: n for n, end in enumerate(ends, len(network.boxes))}
    links: dict[tuple[int, int], list[Link]] = {}
    for link in network.links:
        source = link.source if link.source >= 0 else number[True, _end_text(link)]
        target = link.target if link.target >= 0 else number[False, _end_text(link)]
        links.setdefault((source, target), []).append(link)
    return links


def _chips(box: Box) -> list[list[tuple[str, float]]]:
    """Rows of layers, each (text, width)."""
    rows: list[list[tuple[str, float]]] = [[]]
    used = 0.0
    for layer in box.layers:
        text = cut(layer.op, 16)
        width = len(text) * LETTER + 8
        if used + width > WIDTH - 2 * PAD and rows[-1]:
            rows.append([])
            used = 0.0
        rows[-1].append((text, width))
        used += width + 3
    return rows


def _height(box: Box, chips: Sequence[object]) -> float:
    if box.view:
        return HEAD + 4
    return HEAD + (CHIP * len(chips) if len(box.layers) > 1 else 0.0) + FOOT + 4


def _box(
    number: int,
    box: Box,
    chips: Sequence[Sequence[tuple[str, float]]],
    corner: tuple[float, float],
    height: float,
    network: Network,
    heaviest: float,
) -> str:
    left, top = corner
    classes = ["block"]
    if box.view:
        classes.append("view")
    elif box.cores is not None:
        classes.append(f"seq-{level(box.cores, network.most_cores)}")
    parts = [
        title(_spoken(box)),
        tag("rect", x=left, y=top, width=WIDTH, height=height, rx=5, class_="frame"),
        words(box.title, left + PAD, top + 12.5, "name", width=25),
    ]
    if len(box.layers) > 1:
        y = top + HEAD
        for row in chips:
            x = left + PAD
            for text, width in row:
                parts.append(tag("rect", x=x, y=y, width=width, height=CHIP - 3, rx=3, class_="chip"))
                parts.append(words(text, x + 4, y + 9, "op"))
                x += width + 3
            y += CHIP
    if not box.view:
        parts += _foot(box, left, top + height, heaviest)
    return tag(
        "g", *parts, class_=" ".join(classes), data_block=number, tabindex=0, role="button", aria_label=_spoken(box)
    )


def _foot(box: Box, left: float, bottom: float, heaviest: float) -> list[str]:
    """Time and share, or what the box hands on where no time is known."""
    if box.together is not None:
        text = f"with others {_milliseconds(box.together)}"
        return [words(text, left + PAD, bottom - 6, "fact", width=28)]
    if box.ms is None or box.share is None:
        return [words("×".join(map(str, box.shape)), left + PAD, bottom - 6, "fact", width=28)]
    # Bars are to scale with the heaviest block, numbers are shares of the whole.
    room = WIDTH - 2 * PAD
    full = room * (box.share / heaviest if heaviest else 0.0)
    return [
        words(_milliseconds(box.ms), left + PAD, bottom - 8, "fact"),
        words(f"{100 * box.share:.1f}%", left + WIDTH - PAD, bottom - 8, "fact", anchor="end"),
        tag("rect", x=left + PAD, y=bottom - 5, width=room, height=2.5, rx=1.25, class_="track"),
        tag("rect", x=left + PAD, y=bottom - 5, width=max(full, 0.5), height=2.5, rx=1.25, class_="share"),
    ]


def _milliseconds(ms: float) -> str:
    return f"{ms:.2f} ms" if ms >= 0.0095 else f"{ms * 1e3:.1f} µs"


def _spoken(box: Box) -> str:
    """The box in one line, for pointers and screen readers."""
    parts = [box.title, f"{len(box.layers)} layers: {', '.join(box.ids)}" if len(box.layers) > 1 else box.ids[0]]
    if box.view:
        parts.append("renames memory, takes no time")
    elif box.cores is not None:
        parts.append(f"{box.cores} {'core' if box.cores == 1 else 'cores'}")
    if box.ms is not None and box.share is not None and not box.view:
        parts.append(f"{box.ms:.3g} ms, {100 * box.share:.1f}% of the time")
    if box.together is not None:
        parts.append(f"at the same time as others, all of them {box.together:.3g} ms")
    return "; ".join(parts)


def _end(text: str, left: float, top: float) -> str:
    return tag(
        "g",
        tag("rect", x=left, y=top, width=WIDTH, height=20, rx=10, class_="frame"),
        words(text, left + WIDTH / 2, top + 13.5, "name", anchor="middle", width=25),
        class_="end",
    )


def _arrow() -> str:
    head = tag("path", d="M0 0L6 3L0 6Z")
    return tag("defs", tag("marker", head, id="arrow", viewBox="0 0 6 6", refX=5.5, refY=3, markerWidth=6,
                           markerHeight=6, markerUnits="userSpaceOnUse", orient="auto"))  # fmt: skip


# edges ------------------------------------------------------------------------------------------------------------


def _edges(graph: Ranked, placed: Placed, links: Mapping[tuple[int, int], Sequence[Link]]) -> list[str]:
    longest = {source: chain for (source, _), chain in sorted(graph.chains.items(), key=lambda c: len(c[1]))}
    drawn = []
    for (source, target), tensors in links.items():
        chain = graph.chains[source, target]
        if chain is not longest[source]:
            chain = chain[-2:]  # it leaves the thread here, which is drawn once
        kind = "edge converted" if any(link.converted for link in tensors) else "edge"
        drawn.append(
            tag("path", title("\n".join(map(_tensor, tensors))), d=_path(placed, chain), class_=kind, data_from=source,
                data_to=target, marker_end="url(#arrow)")
        )  # fmt: skip
    return drawn


def _path(placed: Placed, chain: Sequence[int]) -> str:
    """From box to box: upright past the ranks between, round the ends of columns where it changes over."""
    points = [(placed.x[chain[0]], placed.bottom[chain[0]])]
    data = ""
    for above, below in pairwise(chain):
        last = below == chain[-1]
        entry = (placed.x[below], placed.top[below] - (1.0 if last else 0.0))
        if placed.column[above] != placed.column[below]:
            data += curve(points) if len(points) > 1 else ""
            data += _over(placed, above, points[-1], entry)
            points = [entry]
        else:
            points.append(entry)
        if not last:
            points.append((placed.x[below], placed.bottom[below]))
    return data + (curve(points) if len(points) > 1 else "")


def _over(placed: Placed, node: int, start: tuple[float, float], end: tuple[float, float]) -> str:
    """Down out of one column, up between the two, and into the next from above."""
    column = placed.column[node]
    tracks = placed.tracks[column]
    number = tracks.index(node)
    low = placed.end[column] + MARGIN / 2 + TRACK * number
    high = placed.margin - MARGIN / 2 - TRACK * (len(tracks) - 1 - number)
    middle = placed.right[column] + GUTTER / 2 + TRACK * number
    return rounded([start, (start[0], low), (middle, low), (middle, high), (end[0], high), end], 5)


def _tensor(link: Link) -> str:
    text = f"{link.tensor} {'×'.join(map(str, link.shape))} {link.layout}"
    return f"{text}, converted to {link.converted}" if link.converted else text
