"""videos: the written files give the same frames, with the right size and speed."""

import io
import os
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image

from purerl.errors import PurerlError
from purerl.runs import pictures, videos


def colourful(count, height=6, width=8, colours=5, seed=0):
    """uint8 [T, H, W, 3] frames of few colours, all frames different."""
    rng = np.random.default_rng(seed)
    palette = rng.integers(0, 256, (colours, 3), dtype=np.uint8)
    return palette[rng.integers(0, colours, (count, height, width))]


def read_gif(path):
    """(frames [T, H, W, 3], milliseconds of each)."""
    frames, times = [], []
    with Image.open(path) as image:
        for index in range(image.n_frames):
            image.seek(index)
            frames.append(np.asarray(image.convert("RGB")))
            times.append(image.info["duration"])
        assert image.info["loop"] == 0
    return np.stack(frames), times


def test_a_gif_gives_the_frames_back(tmp_path):
    frames = colourful(7)
    path = videos.write_video(frames, tmp_path / "new" / "video.gif", frames_per_second=10, scale=3)
    found, times = read_gif(path)
    np.testing.assert_array_equal(found, frames.repeat(3, axis=1).repeat(3, axis=2))  # squares, nothing in between
    assert times == [100] * 7
    assert [p.name for p in path.parent.iterdir()] == ["video.gif"]


@pytest.mark.parametrize(("size", "scale"), [((64, 64), 4), ((10, 10), 25), ((210, 160), 1), ((300, 20), 1)])
def test_small_frames_are_enlarged(tmp_path, size, scale):
    path = videos.write_video(np.zeros((1, *size, 3), np.uint8), str(tmp_path / "video.gif"))
    with Image.open(path) as image:
        assert image.size == (size[1] * scale, size[0] * scale)


def test_photographic_frames_come_back_nearly(tmp_path):
    ramp = np.stack(np.broadcast_arrays(*np.ogrid[0:256:4, 0:256:4], 128), axis=-1).astype(np.uint8)
    found, _ = read_gif(videos.write_video(ramp[None], tmp_path / "video.gif", scale=1))
    assert np.abs(found[0].astype(int) - ramp).mean() < 8


def test_a_gifs_clock_does_not_drift(tmp_path):
    """15 frames a second are 6.67 hundredths each, which a GIF cannot say: 7, 6, 7 adds up."""
    _, times = read_gif(videos.write_video(colourful(30), tmp_path / "video.gif", frames_per_second=15))
    assert sum(times) == 2000 and set(times) == {60, 70}


def test_frames_that_stand_still_keep_their_time(tmp_path):
    frames = np.repeat(colourful(2), 5, axis=0)
    _, times = read_gif(videos.write_video(frames, tmp_path / "video.gif", frames_per_second=10))
    assert sum(times) == 1000


def test_an_mp4_gives_the_frames_back(tmp_path):
    """Odd sizes are padded to even ones. Skipped where there is no PyAV."""
    av = pytest.importorskip("av")
    frames = np.zeros((10, 5, 7, 3), np.uint8)
    frames[:5, :, :, 0] = 200
    frames[5:, :, :, 2] = 200
    path = videos.write_video(frames, tmp_path / "video.mp4", frames_per_second=5, scale=5)
    with av.open(str(path)) as container:
        (stream,) = container.streams
        assert (stream.codec.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 5)
        assert container.duration == 2_000_000  # microseconds: 10 frames, 5 a second
        found = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]).astype(int)
    assert found.shape == (10, 26, 36, 3)
    assert np.abs(found[:, :25, :35] - frames.repeat(5, axis=1).repeat(5, axis=2)).mean() < 12
    assert [p.name for p in tmp_path.iterdir()] == ["video.mp4"]
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")  # a browser can play it while it loads


@pytest.mark.parametrize("rate", [1e-3, 7.3, 24000 / 1001, 1000])
def test_an_mp4_plays_at_any_rate(tmp_path, rate):
    av = pytest.importorskip("av")
    path = videos.write_video(colourful(4, 16, 16), tmp_path / "video.mp4", frames_per_second=rate, scale=1)
    with av.open(str(path)) as container:
        assert float(container.streams[0].average_rate) == pytest.approx(rate, rel=1e-5)
        assert len(list(container.decode(video=0))) == 4


def test_without_pyav_the_fix_and_the_alternative_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    for do in (videos.check, lambda path: videos.write_video(colourful(2), path)):
        with pytest.raises(PurerlError, match=r"pip install av, or write a \.gif"):
            do(tmp_path / "video.mp4")
    assert list(tmp_path.iterdir()) == []


def test_an_mp4_that_cannot_be_encoded_is_one_error_and_no_file(tmp_path, monkeypatch, capfd):
    av = pytest.importorskip("av")
    for rate in (1e-9, 1e300):  # beyond what an MP4 can count
        with pytest.raises(PurerlError, match=r"^PyAV could not write the MP4 \(.*write a \.gif instead$"):
            videos.write_video(colourful(2), tmp_path / "video.mp4", frames_per_second=rate)
    with monkeypatch.context() as patch:
        patch.setattr(videos, "MP4_CODEC", "no-such-encoder")
        with pytest.raises(PurerlError, match=r"no-such-encoder.*write a \.gif"):
            videos.write_video(colourful(2), tmp_path / "video.mp4")

    class Broken:
        """A container on a disk that fills up while frames are written."""

        def __init__(self, *arguments, **options):
            self.opened = av.open(*arguments, **options)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.opened.close()

        def add_stream(self, *arguments, **options):
            return self.opened.add_stream(*arguments, **options)

        def mux(self, packets):
            raise av.error.FFmpegError(28, "No space left on device")

    fake = types.SimpleNamespace(open=Broken, FFmpegError=av.FFmpegError, VideoFrame=av.VideoFrame)
    monkeypatch.setitem(sys.modules, "av", fake)
    with pytest.raises(PurerlError, match=r"No space left on device.*write a \.gif"):
        videos.write_video(colourful(50, 64, 64), tmp_path / "video.mp4")
    assert list(tmp_path.iterdir()) == []
    said = capfd.readouterr()
    assert said.out == said.err == ""  # the library says nothing of its own


def test_writing_an_mp4_forks_no_process(tmp_path, monkeypatch):
    """A fork beside JAX's threads can hang."""
    pytest.importorskip("av")

    def fail(*_, **__):
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", fail)
    monkeypatch.setattr(os, "fork", fail)
    videos.write_video(colourful(2), tmp_path / "video.mp4")


def test_what_is_known_to_fail_is_refused_before_there_are_frames(tmp_path):
    for name, rate, said in (
        ("x.avi", 15, r"use \.gif or \.mp4"),
        ("x.gif", 60, "at most 50"),
        ("x.gif", 0, "above 0"),
    ):
        with pytest.raises(PurerlError, match=said):
            videos.check(tmp_path / name, rate)
    videos.check(tmp_path / "x.gif", 50)


def test_an_episode_is_one_frame_an_observation(tmp_path):
    observations = [np.array([float(i), -1.0], np.float32) for i in range(5)]
    found, _ = read_gif(videos.write_episode(observations, tmp_path / "video.gif", frames_per_second=10))
    np.testing.assert_array_equal(found[3], pictures.of_observation(observations[3]))
    with pytest.raises(ValueError, match="frames must be"):
        videos.write_episode([], tmp_path / "other.gif")


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(PurerlError, match=r"use \.gif or \.mp4"):
        videos.write_video(colourful(2), tmp_path / "video.avi")
    with pytest.raises(PurerlError, match="at most 50"):
        videos.write_video(colourful(2), tmp_path / "video.gif", frames_per_second=60)
    with pytest.raises(PurerlError, match="above 0"):
        videos.write_video(colourful(2), tmp_path / "video.gif", frames_per_second=0)
    with pytest.raises(ValueError, match="enlarge"):
        videos.write_video(colourful(2), tmp_path / "video.gif", scale=0)
    for bad in (colourful(2)[0], colourful(2).astype(float), colourful(2)[..., :1], colourful(2)[:0]):
        with pytest.raises(ValueError, match=r"uint8 \[T, H, W, 3\]"):
            videos.write_video(bad, tmp_path / "video.gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(PurerlError, match="in the way"):
        videos.write_video(colourful(2), tmp_path / "file" / "video.gif")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# --- observations ----------------------------------------------------------------------------------------------------


def test_images_are_shown_as_they_are():
    image = colourful(1, 64, 64)[0]
    np.testing.assert_array_equal(pictures.of_observation(image), image)
    grey = image[..., :1]
    for observation in (grey, grey[..., 0]):
        np.testing.assert_array_equal(pictures.of_observation(observation), np.repeat(grey, 3, axis=-1))


def test_of_a_stack_of_frames_the_last_is_shown():
    images = colourful(2, 8, 8)
    stacked = np.concatenate(images, axis=-1)
    np.testing.assert_array_equal(pictures.of_observation(stacked), images[1])
    stack = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    np.testing.assert_array_equal(pictures.of_observation(stack)[..., 1], stack[..., 3])


@pytest.mark.parametrize("dtype", [bool, np.float32, np.int32])
def test_channels_get_colours_and_the_first_is_on_top(dtype):
    stack = np.zeros((2, 3, 4), dtype)
    stack[0, 1, 2] = 1
    stack[1, 2, [1, 3]] = 1
    frame = pictures.of_observation(stack)
    assert frame.dtype == np.uint8 and frame.shape == (2, 3, 3)
    assert tuple(frame[0, 1]) == pictures.CHANNEL_COLOURS[2] and tuple(frame[1, 2]) == pictures.CHANNEL_COLOURS[1]
    assert (frame.sum(axis=-1) > 0).sum() == 2


def test_brightness_is_the_value_and_never_depends_on_other_pixels():
    stack = np.zeros((1, 4, 1), np.float32)
    stack[0, :, 0] = [0.5, 1, 7, np.nan]
    frame = pictures.of_observation(stack)
    full = np.array(pictures.CHANNEL_COLOURS[0])
    np.testing.assert_array_equal(frame[0], [full // 2, full, full, [0, 0, 0]])


@pytest.mark.parametrize("count", [1, 4, 8, 10, 16])
def test_channel_colours_differ_from_each_other_and_from_black(count):
    colours = np.array([(0, 0, 0), *pictures.channel_colours(count)])
    assert len(colours) == count + 1
    distances = [np.abs(a - b).max() for i, a in enumerate(colours) for b in colours[:i]]
    assert min(distances) >= 40


def test_vectors_become_bars():
    frame = pictures.of_observation(np.array([1.0, -1.0, 0.0, 1e30, np.nan], np.float32))
    middle, places = pictures.TOP + pictures.BAR_MOST, pictures.bar_columns(5)
    assert frame.dtype == np.uint8 and frame.shape[1] >= places[-1].stop
    columns = [frame[pictures.TOP : middle + pictures.BAR_MOST + 1, place.start] for place in places]
    up = [(column == pictures.BAR_COLOURS["positive"]).all(axis=-1) for column in columns]
    down = [(column == pictures.BAR_COLOURS["negative"]).all(axis=-1) for column in columns]
    most = pictures.BAR_MOST  # on either side of the middle line; 1 / (1 + 1) is half of it
    assert [int(rows.sum()) for rows in up] == [most // 2, 0, 0, most, 0]
    assert [int(rows.sum()) for rows in down] == [0, most // 2, 0, 0, 0]
    assert np.flatnonzero(up[0]).max() < most < np.flatnonzero(down[1]).min()
    assert (columns[4] == pictures.BAR_COLOURS["not finite"]).all()


def test_bars_stand_on_labelled_axes():
    """The scale beside them and the numbers below them: a longer vector has other numbers, and the same scale."""
    few, many = (pictures.of_observation(np.zeros(count)) for count in (4, 30))
    below = pictures.TOP + 2 * pictures.BAR_MOST + 2
    for frame in (few, many):
        assert frame[:below, : pictures.LEFT - 6].any() and frame[below:].any()
    np.testing.assert_array_equal(few[:below, : pictures.LEFT], many[:below, : pictures.LEFT])
    assert not np.array_equal(few[below : below + 14], many[below : below + 14])


def test_numbers_and_long_vectors_have_a_picture_too():
    shapes = [pictures.of_observation(vector).shape for vector in (np.int32(3), np.zeros(300), np.zeros(1000))]
    assert [shape[0] for shape in shapes] == [shapes[0][0]] * 3 and shapes[0][1] < 320 < shapes[1][1] < 2100
    assert len(pictures.bar_columns(1000)) == 1000 and pictures.bar_columns(1000)[-1].stop < shapes[2][1]
    with pytest.raises(PurerlError, match="cannot draw"):
        pictures.of_observation(np.zeros((2, 2, 2, 2)))
    with pytest.raises(PurerlError, match="cannot draw"):
        pictures.of_observation(np.zeros(0))


def test_a_frame_of_every_kind_can_be_written(tmp_path):
    for observation in (np.zeros((10, 10, 4), bool), np.zeros(4, np.float32), np.zeros((64, 64, 3), np.uint8)):
        frame = pictures.of_observation(observation)
        data = videos.write_video(np.stack([frame, frame]), tmp_path / "video.gif").read_bytes()
        assert Image.open(io.BytesIO(data)).format == "GIF"
