"""What all labelled files share: reading, sizes, fingerprints, and what is said of a damaged file."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluators.datasets import IGNORE
from evaluators.datasets.ade20k import opened
from evaluators.datasets.files import DataError, LabelledFiles, read_image
from evaluators.datasets.folder import opened as folder
from evaluators.datasets.label_maps import IndexedLabels, contiguous
from tests.support import trees
from topformer import UserError
from topformer.cache import CACHE_VARIABLE


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return trees.ade20k_tree(tmp_path / "ade")


def files_of(root: Path) -> tuple[Path, Path]:
    pair = opened(root).pairs["train"][0]
    return root / pair.image, root / pair.labels


def test_a_photograph_is_turned_upright_as_its_exif_says(root: Path) -> None:
    image, _ = files_of(root)
    plain = opened(root).item("train", 0)[0]
    trees.save_photo(image, plain, orientation=6)
    with Image.open(image) as stored:
        assert stored.size == (plain.shape[0], plain.shape[1])  # turned
    turned, labels = opened(root).item("train", 0)
    assert turned.shape[:2] == labels.shape
    assert np.median(np.abs(turned.astype(int) - plain)) < 4


def test_a_map_that_fits_the_photograph_as_stored_is_told_of_the_turn(root: Path) -> None:
    image, labels = files_of(root)
    trees.save_photo(image, trees.picture_of(trees.patchwork("train", 0, classes=range(150))), orientation=6)
    trees.save_grey(labels, np.ones((64, 48), np.uint8))
    with pytest.raises(
        DataError, match=r"has 64x48 px \(height x width\), its image has 48x64 once turned as its EXIF"
    ):
        opened(root).item("train", 0)


def test_grey_and_transparent_photographs_become_rgb(root: Path) -> None:
    image, _ = files_of(root)
    Image.fromarray(np.full(trees.SIZE, 9, np.uint8)).save(image, format="JPEG")
    assert opened(root).item("train", 0)[0].shape == (*trees.SIZE, 3)
    Image.fromarray(np.full((*trees.SIZE, 4), 9, np.uint8)).save(image, format="PNG")
    assert (read_image(image) == 9).all()


def test_at_size_keeps_every_label_in_its_place(root: Path) -> None:
    dataset = opened(root).at_size((96, 128))  # twice the first image
    image, labels = dataset.item("train", 0)
    small = trees.patchwork("train", 0, classes=range(150))
    np.testing.assert_array_equal(labels, small.repeat(2, axis=0).repeat(2, axis=1))
    assert image.shape == (96, 128, 3)
    assert {dataset.item("train", i)[1].shape for i in range(3)} == {(96, 128)}
    assert opened(root).item("train", 0)[1].shape == (48, 64)


def test_halved_labels_are_those_of_the_pixels_right_below_the_middle(tmp_path: Path) -> None:
    root = trees.folder_tree(tmp_path, size=(64, 64))
    values = np.zeros((64, 64), np.uint8)
    values[1::2, 1::2] = 1  # rows and columns 1, 3, 5: a half-sized pixel's middle lies on their upper left edge
    trees.save_grey(root / "masks/train/train-0.png", values)
    assert (folder(root).at_size((32, 32)).item("train", 0)[1] == 1).all()


@pytest.mark.parametrize("size", [(31, 64), (64, 0), (64,)])
def test_a_size_too_small_for_the_network_is_refused(size: tuple[int, int], root: Path) -> None:
    with pytest.raises(UserError, match="images must be at least 32 px"):
        opened(root).at_size(size)


def test_a_data_set_survives_pickling(root: Path) -> None:
    dataset = opened(root).at_size((32, 32))
    fingerprint = dataset.fingerprint
    again = pickle.loads(pickle.dumps(dataset))
    assert again == dataset
    assert again.fingerprint == fingerprint
    np.testing.assert_array_equal(again.item("val", 1)[0], dataset.item("val", 1)[0])


def test_the_fingerprint_is_of_the_content_wherever_it_lies(root: Path, tmp_path: Path) -> None:
    before = opened(root).fingerprint
    assert len(before) == 16
    assert opened(root).fingerprint == before
    shutil.copytree(root, tmp_path / "copy")
    assert opened(tmp_path / "copy").fingerprint == before
    assert opened(root).at_size((32, 32)).fingerprint != before
    assert opened(root).at_size((32, 32)).fingerprint == opened(root).at_size((32, 32)).fingerprint


@pytest.mark.parametrize("which", [0, 1])
def test_a_changed_image_or_label_changes_the_fingerprint(which: int, root: Path) -> None:
    before = opened(root).fingerprint
    path = files_of(root)[which]
    content = path.read_bytes()
    path.write_bytes(content + b"\0")
    assert opened(root).fingerprint != before
    path.write_bytes(content)
    assert opened(root).fingerprint == before


def test_a_change_that_keeps_size_and_time_is_noticed(root: Path) -> None:
    """As unpacking an archive makes them: equal lengths, equal times."""
    before = opened(root).fingerprint
    _, path = files_of(root)
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert opened(root).fingerprint != before


def test_a_removed_pair_changes_the_fingerprint(root: Path) -> None:
    before = opened(root).fingerprint
    for path in files_of(root):
        path.unlink()
    assert opened(root).fingerprint != before


def test_unchanged_files_are_not_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = opened(root).fingerprint

    def refused(path: Path) -> bytes:
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr(Path, "read_bytes", refused)
    assert opened(root).fingerprint == before


def test_a_stopped_fingerprint_goes_on_where_it_was(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(done: int, total: int) -> None:
        assert total == 10
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(root).fingerprinted(stop)
    read: list[Path] = []
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or original(path))  # type: ignore[func-returns-value]
    opened(root).fingerprinted()
    assert len(read) == 6


@pytest.mark.parametrize("written", ["", "[1]", '{"a": 1', "null"])
def test_a_damaged_cache_of_digests_is_made_again(written: str, root: Path, cache: Path) -> None:
    before = opened(root).fingerprint
    (kept,) = (cache / "fingerprints").iterdir()
    kept.write_text(written)
    assert opened(root).fingerprint == before


def test_an_unusable_cache_folder_is_a_sentence(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(root / "objectInfo150.txt"))
    with pytest.raises(UserError, match=f"cannot be used .*{CACHE_VARIABLE}"):
        _ = opened(root).fingerprint


def test_a_file_that_vanished_is_named(root: Path) -> None:
    dataset = opened(root)
    image, labels = files_of(root)
    labels.unlink()
    with pytest.raises(DataError, match=rf"{labels.name} is not there \(any more\)"):
        dataset.item("train", 0)
    image.unlink()
    with pytest.raises(DataError, match=f"{image.name} cannot be read"):
        _ = dataset.fingerprint


def test_a_label_map_of_another_size_is_told_with_both(root: Path) -> None:
    _, labels = files_of(root)
    trees.save_grey(labels, np.ones((48, 63), np.uint8))
    with pytest.raises(DataError, match=rf"{labels.name} has 48x63 px \(height x width\), its image has 48x64; they"):
        opened(root).item("train", 0)


def test_an_illegal_label_is_told_with_what_is_legal(root: Path) -> None:
    _, labels = files_of(root)
    trees.save_grey(labels, np.full(trees.SIZE, 151, np.uint8))
    with pytest.raises(DataError, match=r"no class \(151\); legal are 1 to 150, and 0 and 255 for what is ignored"):
        opened(root).item("train", 0)


def test_maps_of_16_bits_may_hold_larger_numbers_and_refuse_them(tmp_path: Path) -> None:
    trees.save_deep(tmp_path / "map.png", np.array([[0, 1, 2, 255, 256, 65535]], np.uint16))
    found = contiguous(2, zero_is_ignored=False)(tmp_path / "map.png")
    assert found.tolist() == [[0, 1, -1, IGNORE, -1, -1]]


def test_maps_of_one_bit_hold_two_classes(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1").save(tmp_path / "map.png")
    assert IndexedLabels(classes=(0, 1), legal="0 and 1")(tmp_path / "map.png").tolist() == [[0, 1], [1, 0]]


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def test_a_header_that_claims_a_giant_is_refused(tmp_path: Path) -> None:
    (tmp_path / "giant.png").write_bytes(png_header(60_000, 60_000))
    with pytest.raises(DataError, match=r"giant\.png has over 67,108,864 pixels; cut it into pieces"):
        read_image(tmp_path / "giant.png")


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "text": lambda content: b"<html>not found</html>",
    "truncated": lambda content: content[: len(content) // 2],
    "header only": lambda content: content[:30],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("which", [0, 1])
def test_a_damaged_file_is_one_sentence_that_names_it(which: int, damage: str, root: Path) -> None:
    path = files_of(root)[which]
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(DataError, match=r"cannot be read \(.+\); replace or remove it") as error:
        opened(root).item("train", 0)
    assert str(error.value).count(path.name) == 1
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp"])
def test_flipped_bytes_never_raise_anything_else(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"image{suffix}"
    exif = Image.Exif()
    exif[trees.ORIENTATION] = 6
    kept = {} if suffix == ".bmp" else {"exif": exif}
    Image.fromarray(trees.picture_of(trees.patchwork("train", 0, classes=range(9)))).save(path, **kept)
    content = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        changed = bytearray(content)
        for place in random.integers(0, min(len(content), 400), 3):
            changed[place] = random.integers(256)
        path.write_bytes(changed)
        try:
            read_image(path)
        except DataError:
            refused += 1
    assert refused


def test_a_pipe_among_the_images_stops_nothing(root: Path) -> None:
    image, _ = files_of(root)
    image.unlink()
    os.mkfifo(image)
    for read in (lambda: opened(root).item("train", 0), lambda: opened(root).fingerprint):
        with pytest.raises(DataError, match=r"ADE_train_00000001.jpg cannot be read \(not a file\)"):
            read()


@pytest.mark.parametrize("what", ["annotations/training", "annotations/training/ADE_train_00000001.png"])
def test_what_may_not_be_read_is_named(what: str, root: Path) -> None:
    dataset = opened(root)
    (root / what).chmod(0)
    if os.access(root / what, os.R_OK):
        pytest.skip("nothing is forbidden to root")
    try:
        with pytest.raises(UserError, match=rf"{what}.* cannot be read \(Permission denied\)"):
            dataset.item("train", 0)
        if (root / what).is_dir():
            with pytest.raises(UserError, match=rf"the folder .*{what} cannot be read \(Permission denied\)"):
                opened(root)
    finally:
        (root / what).chmod(0o700)


def test_names_that_are_not_utf8_are_read(tmp_path: Path) -> None:
    root = trees.folder_tree(tmp_path)
    for home, suffix in (("images", "jpg"), ("masks", "png")):
        old = root / home / "train" / f"train-0.{suffix}"
        old.rename(os.fsdecode(os.fsencode(old.parent) + b"/caf\xe9." + suffix.encode()))
    dataset = folder(root)
    assert dataset.item("train", 0)[1].shape == trees.SIZE
    assert len(dataset.fingerprint) == 16


def test_no_split_may_be_empty(tmp_path: Path) -> None:
    root = trees.ade20k_tree(tmp_path, val=0)
    for home in ("images/validation", "annotations/validation"):
        (root / home).mkdir(parents=True)
    dataset: LabelledFiles = opened(root)
    with pytest.raises(UserError, match=r"has no val images with labels \(ade20k\)"):
        dataset.require_complete()


def test_a_grey_photograph_of_16_bits_is_not_all_white(tmp_path: Path) -> None:
    """Pillow cuts off what is above 255."""
    trees.save_deep(tmp_path / "deep.png", np.array([[0, 300, 32768, 65535]], np.uint16))
    assert read_image(tmp_path / "deep.png")[0, :, 0].tolist() == [0, 1, 128, 255]


def test_numbers_beyond_a_byte_are_no_photograph(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 76200]], np.int32)).save(tmp_path / "deep.tif")
    with pytest.raises(DataError, match="its values run from 0 to 76200, known are 0 to 255"):
        read_image(tmp_path / "deep.tif")
    Image.fromarray(np.array([[0, 255]], np.float32)).save(tmp_path / "plain.tif")
    assert read_image(tmp_path / "plain.tif")[0, :, 0].tolist() == [0, 255]


def test_a_file_that_claims_a_huge_part_takes_no_memory_for_it(tmp_path: Path) -> None:
    """A changed length of a PNG's pixels had Pillow ask for 2 GiB."""
    path = tmp_path / "huge.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    content = path.read_bytes()
    at = content.index(b"IDAT") - 4
    path.write_bytes(content[:at] + (2**31 - 1).to_bytes(4, "big") + content[at + 4 :])
    tracemalloc.start()
    try:
        with contextlib.suppress(DataError):
            read_image(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
