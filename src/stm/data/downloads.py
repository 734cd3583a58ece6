"""Data sets that can be downloaded without a form: addresses, licenses, resumed downloads, extraction."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

Advance = Callable[[int, int | None], object]
"""Called with the bytes that a file has so far, and with its size where the server says it."""
CHUNK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """A file to download.

    Attributes:
        url: its address.
        contents: folders that it must hold, next to each other, at whatever depth.
        md5: its published checksum; None if there is none.
    """

    url: str
    contents: tuple[str, ...]
    md5: str | None = None

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Source:
    """A data set, where it comes from and on what terms.

    Attributes:
        title: its name.
        page: its official page.
        terms: its license or terms of use, in a sentence.
        folder: its folder below that of all data sets, as the configurations expect it.
        archives: files to download; none if its page asks for a form or an account.
    """

    title: str
    page: str
    terms: str
    folder: str = ""
    archives: tuple[Archive, ...] = ()


_DAVIS = Source(
    "DAVIS 2016 and 2017, training and validation, 480p",
    "https://davischallenge.org/davis2017/code.html",
    "CC BY 4.0 according to its authors; cite the papers",
    "DAVIS",
    (
        Archive(
            "https://data.vision.ee.ethz.ch/csergi/share/davis/DAVIS-2017-trainval-480p.zip",
            ("JPEGImages", "Annotations", "ImageSets"),
        ),
    ),
)
_SALIENCY = "no license is stated; images from the web, for research"
SOURCES: dict[str, Source] = {
    "davis2016": _DAVIS,
    "davis2017": _DAVIS,
    "ecssd": Source(
        "ECSSD, 1000 images with salient objects",
        "https://www.cse.cuhk.edu.hk/leojia/projects/hsaliency/dataset.html",
        _SALIENCY,
        "ECSSD",
        tuple(
            Archive(f"https://www.cse.cuhk.edu.hk/leojia/projects/hsaliency/data/ECSSD/{name}.zip", (name,))
            for name in ("images", "ground_truth_mask")
        ),
    ),
    "duts": Source(
        "DUTS-TR, 10553 images with salient objects",
        "http://saliencydetection.net/duts/",
        _SALIENCY,
        "DUTS-TR",
        (
            Archive(
                "http://saliencydetection.net/duts/download/DUTS-TR.zip", ("DUTS-TR-Image", "DUTS-TR-Mask")
            ),
        ),
    ),
    "msra10k": Source(
        "MSRA10K, 10000 images with salient objects",
        "https://mmcheng.net/msra10k/",
        _SALIENCY,
        "MSRA10K",
        (Archive("http://mftp.mmcheng.net/Data/MSRA10K_Imgs_GT.zip", ("Imgs",)),),
    ),
    "voc2012": Source(
        "PASCAL VOC 2012, segmentation",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
        "images from Flickr, whose terms of use apply",
        "VOCdevkit/VOC2012",
        (
            Archive(
                "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                ("JPEGImages", "SegmentationObject"),
                "6cd6e144f989b92b3379bac3b3de84fd",
            ),
        ),
    ),
    "coco": Source(
        "COCO 2017, training images and instances, 19 GB",
        "https://cocodataset.org/#download",
        "annotations CC BY 4.0; images from Flickr, whose terms of use apply",
        "coco",
        (
            Archive("http://images.cocodataset.org/zips/train2017.zip", ("train2017",)),
            Archive(
                "http://images.cocodataset.org/annotations/annotations_trainval2017.zip", ("annotations",)
            ),
        ),
    ),
    "youtube_vos": Source("YouTube-VOS", "https://youtube-vos.org/dataset/", "by an account"),
    "mose": Source("MOSE v1 and v2", "https://mose.video/", "CC BY-NC-SA 4.0; from its page"),
    "lvos": Source(
        "LVOS v1 and v2", "https://lingyihongfd.github.io/lvos.github.io/", "for research; from its page"
    ),
    "vost": Source("VOST", "https://www.vostdataset.org/", "CC BY-NC-SA 4.0; from its page"),
    "sav": Source("SA-V", "https://ai.meta.com/datasets/segment-anything-video/", "CC BY 4.0; by a form"),
}
SEEN = "2026-11"
"""When the addresses were last looked up; they were not opened from here."""


def fetch(source: Source, root: Path, advance: Advance = lambda done, size: None, keep: bool = False) -> Path:
    """Download a data set and extract it; what is there already is skipped, a partial file is continued.

    Args:
        source: the data set.
        root: folder of all data sets.
        advance: called while a file arrives.
        keep: keep the archives.

    Returns:
        The data set's folder.

    Raises:
        OSError: the server cannot be reached or the connection is lost; the same call continues.
        ValueError: a file is not what it should be; the message says what to remove.
    """
    folder = root / source.folder
    for archive in source.archives:
        if all((folder / name).exists() for name in archive.contents):
            continue
        file = download(archive, root / ".downloads", advance)
        _extract(file, archive.contents, folder)
        if not keep:
            file.unlink()
    return folder


def download(archive: Archive, folder: Path, advance: Advance = lambda done, size: None) -> Path:
    """Download a file, continuing where an earlier download ended, and compare its checksum.

    Raises:
        OSError: the server cannot be reached, refuses, or ends the connection early.
        ValueError: the checksum differs.
    """
    target, part = folder / archive.name, folder / f"{archive.name}.part"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    done = part.stat().st_size if part.exists() else 0
    try:
        size = _receive(archive.url, part, done, advance)
    except HTTPError as error:
        if error.code != 416:  # the range begins at the end: everything is here
            raise OSError(f"{archive.url}: the server answers {error.code} {error.reason}") from error
        size = None
    except URLError as error:
        raise OSError(f"{archive.url}: cannot be reached ({error.reason})") from error
    received = part.stat().st_size
    if size is not None and received != size:
        raise OSError(f"{archive.url}: ended after {received} of {size} bytes; the same command continues")
    if archive.md5 is not None:
        with part.open("rb") as file:
            md5 = hashlib.file_digest(file, "md5").hexdigest()
        if md5 != archive.md5:
            part.unlink()
            raise ValueError(f"{archive.url}: MD5 must be {archive.md5}; got {md5}; the file was removed")
    return part.replace(target)


def _receive(url: str, part: Path, done: int, advance: Advance) -> int | None:
    """Append to a partial file what is missing, or write it anew if the server sends everything."""
    request = Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    with urlopen(request, timeout=60) as response:
        continues = response.status == 206
        done = done if continues else 0
        length = response.headers.get("Content-Length")
        size = None if length is None else done + int(length)
        if size is not None and shutil.disk_usage(part.parent).free < size - done:
            raise OSError(f"{part.parent}: {(size - done) / 1e9:.1f} GB are needed there; fewer are free")
        with part.open("ab" if continues else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                advance(done, size)
    return size


def _extract(file: Path, contents: Sequence[str], folder: Path) -> None:
    """Extract an archive beside its target, and move the named folders there once they are complete."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as temporary:
        try:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    archive.extractall(temporary)
            else:
                with tarfile.open(file) as archive:
                    archive.extractall(temporary, filter="data")
        except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
            raise ValueError(f"{file}: is no intact archive ({error}); remove it and try again") from error
        places = [Path(temporary), *sorted(path for path in Path(temporary).rglob("*") if path.is_dir())]
        place = next((path for path in places if all((path / name).is_dir() for name in contents)), None)
        if place is None:
            raise ValueError(f"{file}: must hold the folders {', '.join(contents)}; it does not")
        for path in place.iterdir():
            if not (folder / path.name).exists():
                path.replace(folder / path.name)
