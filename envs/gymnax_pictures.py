"""Pictures of gymnax games whose observations are vectors, for videos.

gymnax draws some of its games itself, with matplotlib (`render`). Its classic control games it draws with gymnasium and
pygame, which purerl does not need otherwise; they are a few lines and circles, and are drawn here, with Pillow.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from purerl.errors import PurerlError, shown

Render = Callable[[Any], np.ndarray]

WIDTH, HEIGHT = 300, 200  # pixels of a picture
_FINER = 2  # pictures are drawn larger by this factor and then reduced, which smooths the lines
_PAPER, _INK, _PALE = (255, 255, 255), (40, 40, 40), (190, 190, 190)
_FIRST, _SECOND, _GOAL = (0, 114, 178), (213, 94, 0), (0, 158, 115)
_FIGURE_INCHES, _DOTS_PER_INCH = (6.4, 4.8), 50  # matplotlib's own size, which the games place their letters for

Point = tuple[float, float]


def renderer(name: str, env: Any, params: Any) -> Render | None:
    """A function that draws a state of a gymnax environment, uint8 [H, W, 3]; None if nothing here can.

    Args:
      name, env, params: the id, the environment and its parameters, from `gymnax.make`.
    """
    if name in _CLASSIC:
        draw = _CLASSIC[name]
        return lambda state: _drawn(draw, state, params)
    if hasattr(env, "render"):
        stage = _Stage()
        return lambda state: stage.picture(env, state, params)
    return None


# --- classic control -------------------------------------------------------------------------------------------------


class _Sheet:
    """A white sheet to draw on, in the units of the game, y upwards.

    Args:
      centre: what is in the middle of the sheet.
      width: how much of the game the sheet is wide.
    """

    def __init__(self, centre: Point, width: float):
        self._image = Image.new("RGB", (_FINER * WIDTH, _FINER * HEIGHT), _PAPER)
        self._draw, self._centre = ImageDraw.Draw(self._image), centre
        self._scale = _FINER * WIDTH / width

    def _at(self, point: Point) -> Point:
        x, y = (self._scale * (float(a) - b) for a, b in zip(point, self._centre, strict=True))
        return _FINER * WIDTH / 2 + x, _FINER * HEIGHT / 2 - y

    def line(self, points: Sequence[Point], colour: tuple[int, int, int], width: float) -> None:
        """A line through points, with round ends; its width is in the units of the game."""
        self._draw.line([self._at(p) for p in points], colour, max(1, round(width * self._scale)), joint="curve")
        for end in (points[0], points[-1]):
            self.disc(end, width / 2, colour)

    def disc(self, centre: Point, radius: float, colour: tuple[int, int, int]) -> None:
        """A filled circle."""
        (x, y), r = self._at(centre), radius * self._scale
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def polygon(self, points: Sequence[Point], colour: tuple[int, int, int]) -> None:
        """A filled polygon."""
        self._draw.polygon([self._at(p) for p in points], fill=colour)

    def pixels(self) -> np.ndarray:
        """uint8 [H, W, 3]."""
        return np.array(self._image.reduce(_FINER))


def _drawn(draw: Callable[[Any, Any], _Sheet], state: Any, params: Any) -> np.ndarray:
    return draw(state, params).pixels()


def _end(start: Point, length: float, angle: float) -> Point:
    """The end of a rod that makes this angle with the upward direction, clockwise, in radians."""
    return start[0] + length * math.sin(angle), start[1] + length * math.cos(angle)


def _box(centre: Point, width: float, height: float, slope: float = 0.0) -> list[Point]:
    """The corners of a rectangle, turned by an angle from the horizontal."""
    (x, y), c, s = centre, math.cos(slope), math.sin(slope)
    corners = [(a * width / 2, b * height / 2) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    return [(x + c * u - s * v, y + s * u + c * v) for u, v in corners]


def _cart_pole(state: Any, params: Any) -> _Sheet:
    limit, x = float(params.x_threshold), float(state.x)
    sheet = _Sheet((0.0, 0.75), 2 * limit + 0.8)
    sheet.line([(-2 * limit, 0.0), (2 * limit, 0.0)], _PALE, 0.02)
    for side in (-limit, limit):  # an episode ends here
        sheet.line([(side, -0.12), (side, 0.12)], _PALE, 0.02)
    sheet.polygon(_box((x, 0.0), 0.7, 0.36), _INK)
    joint = (x, 0.1)
    sheet.line([joint, _end(joint, 2 * float(params.length), float(state.theta))], _SECOND, 0.13)
    sheet.disc(joint, 0.05, _PALE)
    return sheet


def _pendulum(state: Any, params: Any) -> _Sheet:
    length, pivot = float(params.l), (0.0, 0.0)
    sheet = _Sheet(pivot, 3.6 * length)
    # gymnax counts angles from the top, anticlockwise.
    sheet.line([pivot, _end(pivot, length, -float(state.theta))], _SECOND, 0.18 * length)
    torque = float(np.asarray(state.last_u).reshape(())) / float(params.max_torque)
    if abs(torque) > 0.02:
        _torque_arc(sheet, torque, 0.35 * length)
    sheet.disc(pivot, 0.06 * length, _INK)
    return sheet


def _torque_arc(sheet: _Sheet, torque: float, radius: float) -> None:
    """An arc around the pivot from its top, as long as the torque is large, with a dot at its end."""
    angles = np.linspace(0.0, -torque * 0.75 * math.pi, 24)
    points = [_end((0.0, 0.0), radius, float(angle)) for angle in angles]
    sheet.line(points, _FIRST, 0.04)
    sheet.disc(points[-1], 0.06, _FIRST)


def _acrobot(state: Any, params: Any) -> _Sheet:
    first, second = float(params.link_length_1), float(params.link_length_2)
    reach, pivot = first + second, (0.0, 0.0)
    sheet = _Sheet(pivot, 3.6 * reach)
    sheet.line([(-2 * reach, first), (2 * reach, first)], _GOAL, 0.03)  # the tip must rise above this line
    # Angles are from hanging down, anticlockwise; the second is relative to the first.
    elbow = _end(pivot, first, math.pi - float(state.joint_angle1))
    tip = _end(elbow, second, math.pi - float(state.joint_angle1) - float(state.joint_angle2))
    sheet.line([pivot, elbow], _FIRST, 0.17)
    sheet.line([elbow, tip], _SECOND, 0.17)
    for joint in (pivot, elbow):
        sheet.disc(joint, 0.07, _INK)
    return sheet


def _mountain_car(state: Any, params: Any) -> _Sheet:
    low, high, x = float(params.min_position), float(params.max_position), float(state.position)

    def height(x: float) -> float:
        return 0.45 * math.sin(3 * x)  # the slope that gravity pulls along in these games

    sheet = _Sheet(((low + high) / 2, 0.08), high - low)
    ground = [(float(a), height(float(a))) for a in np.linspace(low - 0.1, high + 0.1, 120)]
    sheet.polygon([*ground, (high + 0.1, -2.0), (low - 0.1, -2.0)], _PALE)
    sheet.line(ground, _INK, 0.012)
    goal = float(params.goal_position)
    sheet.line([(goal, height(goal)), (goal, height(goal) + 0.2)], _INK, 0.012)
    sheet.polygon([(goal, height(goal) + y) for y in (0.2, 0.12)] + [(goal + 0.1, height(goal) + 0.16)], _GOAL)
    slope = math.atan(3 * 0.45 * math.cos(3 * x))

    def on_car(along: float, above: float) -> Point:
        """A point of the car: along the slope, and above it."""
        c, s = math.cos(slope), math.sin(slope)
        return x + c * along - s * above, height(x) + s * along + c * above

    sheet.polygon(_box(on_car(0.0, 0.065), 0.16, 0.06, slope), _SECOND)
    for along in (-0.045, 0.045):
        sheet.disc(on_car(along, 0.028), 0.026, _INK)
    return sheet


_CLASSIC: dict[str, Callable[[Any, Any], _Sheet]] = {
    "CartPole-v1": _cart_pole,
    "Pendulum-v1": _pendulum,
    "Acrobot-v1": _acrobot,
    "MountainCar-v0": _mountain_car,
    "MountainCarContinuous-v0": _mountain_car,
}


# --- what gymnax draws -----------------------------------------------------------------------------------------------


class _Stage:
    """Stands in for matplotlib.pyplot while a game draws itself: there is one figure, which each picture takes anew.

    pyplot would keep a figure for every picture, and open windows where there is a display.
    """

    def __init__(self) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._figure = Figure(figsize=_FIGURE_INCHES, dpi=_DOTS_PER_INCH)
        self._canvas, self._axes = FigureCanvasAgg(self._figure), None

    def subplots(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """(figure, axes) as of pyplot; the size is this figure's own."""
        self._figure.clear()
        kept = {name: value for name, value in kwargs.items() if name not in ("figsize", "dpi", "num")}
        self._axes = self._figure.subplots(*args, **kept)
        return self._figure, self._axes

    def axis(self, *args: Any, **kwargs: Any) -> Any:
        """As pyplot's, of the axes that `subplots` gave last."""
        assert self._axes is not None
        return self._axes.axis(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        shapes = importlib.import_module("matplotlib.patches")  # such as Circle, without the import of all of pyplot
        return getattr(shapes if hasattr(shapes, name) else importlib.import_module("matplotlib.pyplot"), name)

    def picture(self, env: Any, state: Any, params: Any) -> np.ndarray:
        """What `env.render` gives, uint8 [H, W, 3]: an array, or what is on the figure."""
        with self._in_place_of_pyplot(sys.modules[type(env).__module__]):
            found = env.render(state, params)
        if isinstance(found, np.ndarray):
            return found
        figure = found[0] if isinstance(found, tuple) else getattr(found, "figure", None)
        if figure is not self._figure:
            raise PurerlError(
                f"render of {type(env).__name__} gave {shown(found)}: it must return an array uint8 [H, W, 3], or the "
                "figure and the axes of plt.subplots()"
            )
        self._canvas.draw()
        return np.array(self._canvas.buffer_rgba())[..., :3]

    @contextlib.contextmanager
    def _in_place_of_pyplot(self, module: Any) -> Iterator[None]:
        known = getattr(module, "plt", None)
        if known is None:
            yield
            return
        module.plt = self
        try:
            yield
        finally:
            module.plt = known
