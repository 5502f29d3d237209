"""Writes frames as a video: a GIF (Pillow) or an MP4 (PyAV, optional package)."""

from __future__ import annotations

import importlib
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from purerl.errors import PurerlError
from purerl.runs import files, pictures

FORMATS = (".gif", ".mp4")
# Smaller frames are enlarged by the largest integer factor that stays within this size.
TARGET_PIXELS = 256
# A GIF counts time in hundredths of a second, and browsers slow down frames of less than two hundredths.
GIF_TICKS_PER_SECOND, GIF_MOST_FRAMES_PER_SECOND = 100, 50
MP4_CODEC = "libx264"


def check(path: str | os.PathLike, frames_per_second: float = 15) -> None:
    """Checks before there are any frames whether such a video can be written here.

    Args:
      path, frames_per_second: as in `write_video`.

    Raises:
      PurerlError: another suffix, no PyAV for an MP4, an invalid number of frames per second.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in FORMATS:
        raise PurerlError(f"cannot write a '{path.suffix}' video ({path}); use {' or '.join(FORMATS)}")
    if not 0 < frames_per_second < float("inf"):
        raise PurerlError(f"a video cannot have {frames_per_second} frames per second; use a number above 0")
    if kind == ".gif" and frames_per_second > GIF_MOST_FRAMES_PER_SECOND:
        raise PurerlError(
            f"a GIF shows at most {GIF_MOST_FRAMES_PER_SECOND} frames per second; lower it or write an .mp4"
        )
    if kind == ".mp4":
        _import_av()


def write_video(
    frames: np.ndarray, path: str | os.PathLike, frames_per_second: float = 15, scale: int | None = None
) -> Path:
    """Writes frames as a GIF or an MP4, depending on the file's suffix.

    The write is atomic; missing parent folders are created. A GIF keeps at most 256 colours per frame.

    Args:
      frames: uint8 [T, H, W, 3].
      path: ends in .gif or .mp4.
      frames_per_second: for a GIF at most 50.
      scale: integer factor of enlargement, each pixel becomes a square; None enlarges small frames to about 256 pixels.

    Returns:
      The path.

    Raises:
      PurerlError: another suffix, no PyAV for an MP4, an invalid number of frames per second, a failed write.
      ValueError: no frames, or frames of another type or shape; a scale below 1.
    """
    frames, path = np.asarray(frames), Path(path)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or frames.size == 0:
        raise ValueError(f"frames must be uint8 [T, H, W, 3], not {frames.dtype} {list(frames.shape)}")
    scale = max(1, TARGET_PIXELS // max(frames.shape[1:3])) if scale is None else scale
    if scale < 1:
        raise ValueError(f"cannot enlarge frames by {scale}")
    check(path, frames_per_second)
    encode = _gif if path.suffix.lower() == ".gif" else _mp4
    data = encode(frames, frames_per_second, scale)
    with files.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    files.write_file(path, data)
    return path


def _gif(frames: np.ndarray, frames_per_second: float, scale: int) -> bytes:
    first, *rest = _gif_images(frames, scale)
    data = io.BytesIO()
    first.save(
        data, format="GIF", save_all=True, append_images=rest, loop=0,
        duration=_gif_durations(len(frames), frames_per_second),
    )  # fmt: skip
    return data.getvalue()


def _gif_images(frames: np.ndarray, scale: int) -> Iterator[Image.Image]:
    """Reduces each frame to its own palette while it is small, then enlarges it, which adds no colours."""
    size = frames.shape[2] * scale, frames.shape[1] * scale
    for frame in frames:
        image = Image.fromarray(frame).quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        yield image.resize(size, Image.Resampling.NEAREST)


def _gif_durations(count: int, frames_per_second: float) -> list[int]:
    """Milliseconds per frame, in whole hundredths of a second; rounding errors do not accumulate."""
    ends = np.round(np.arange(count + 1) * GIF_TICKS_PER_SECOND / frames_per_second).astype(int)
    return [int(ticks) * 10 for ticks in np.diff(ends)]


def _mp4(frames: np.ndarray, frames_per_second: float, scale: int) -> bytes:
    av = _import_av()
    rate = max(Fraction(frames_per_second).limit_denominator(10**6), Fraction(1, 10**6))
    height, width = frames.shape[1] * scale, frames.shape[2] * scale
    # H.264 at 4:2:0, the only format that plays everywhere, needs even sizes: the last row or column is repeated.
    padding = ((0, height % 2), (0, width % 2), (0, 0))
    size = {"height": height + height % 2, "width": width + width % 2}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "video.mp4"
        try:
            # faststart puts the index first, so that a browser can start before it has the whole file.
            with av.open(str(out), "w", options={"movflags": "faststart"}) as container:
                stream = container.add_stream(MP4_CODEC, rate=rate, pix_fmt="yuv420p", **size)
                for frame in frames:
                    enlarged = np.pad(frame.repeat(scale, axis=0).repeat(scale, axis=1), padding, mode="edge")
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(enlarged, format="rgb24")))
                container.mux(stream.encode())
        except (av.FFmpegError, ValueError, OverflowError) as error:
            # ValueError: this build of PyAV has no such codec. OverflowError: too many frames per second for MP4.
            raise PurerlError(f"PyAV could not write the MP4 ({error}); write a .gif instead") from error
        return out.read_bytes()


def _import_av() -> ModuleType:
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise PurerlError("an MP4 needs PyAV: pip install av, or write a .gif instead") from error


def write_episode(observations: Sequence[np.ndarray], path: str | os.PathLike, frames_per_second: float = 15) -> Path:
    """Writes observations as a video, one frame each.

    Args:
      observations: T observations of one environment, see `pictures.of_observation`.
      path, frames_per_second: as in `write_video`.

    Returns:
      The path.

    Raises:
      PurerlError: as `write_video` and `pictures.of_observation`.
      ValueError: no observations.
    """
    frames = [pictures.of_observation(observation) for observation in observations]
    return write_video(np.array(frames, np.uint8), path, frames_per_second)
