"""Pictures from bytes: only formats that are meant, whole, of a size that a machine can hold, and
upright.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Sequence

import numpy as np

from theseus_jax.data.catalogue import first_line
from theseus_jax.errors import UserError

# others are not tried, whatever a file is called: of some, Pillow starts programs
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")
PIXELS = 89_478_485  # of one picture: what Pillow warns about
ORIENTATION = 0x0112  # EXIF's


def opened(content: bytes, file: Any, formats: Sequence[str] = FORMATS) -> Any:
    """The decoded PIL image of a file's content; of an animation, the first picture. file: its name
    for errors.

    Raises UserError for another format, more pixels than PIXELS, and what cannot be decoded.
    """
    pillow = imaging("reading images")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pillow.Image.DecompressionBombWarning)
            image = pillow.Image.open(io.BytesIO(content), formats=formats)
    except pillow.UnidentifiedImageError as error:
        raise UserError(
            f"{file} is not a readable image: it is none of {', '.join(formats)}; convert, replace"
            " or remove it"
        ) from error
    except Exception as error:
        raise _undecoded(file, error) from error
    if image.width * image.height > PIXELS:
        raise UserError(
            f"{file} has {image.width} x {image.height} pixels, more than {PIXELS:,}; make it"
            " smaller or remove it"
        )
    try:
        image.load()
    except Exception as error:  # a damaged image raises whatever its bytes run into
        raise _undecoded(file, error) from error
    return image


def _undecoded(file: Any, error: Exception) -> UserError:
    return UserError(f"{file} is not a readable image ({first_line(error)}); replace or remove it")


def upright(image: Any) -> Any:
    """A PIL image turned as the EXIF mark of its camera says; itself where there is none."""
    if image.getexif().get(ORIENTATION, 1) == 1:
        return image
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def on_white(image: Any) -> Any:
    """A PIL image whose see-through parts show white behind them; itself where it has none."""
    if "transparency" in image.info or image.mode == "PA":
        image = image.convert("RGBA")
    if image.mode not in ("LA", "RGBA") or image.getchannel("A").getextrema()[0] == 255:
        return image
    white = imaging("reading images").Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white.convert("RGB" if image.mode == "RGBA" else "L")


def check_members(file: Path, archive: zipfile.ZipFile) -> None:
    """Raises UserError for a zip that unpacks to more than half of this machine's memory."""
    size, there = sum(member.file_size for member in archive.infolist()), memory() // 2
    if size > there:
        raise UserError(
            f"{file} unpacks to {size / 2**30:.1f} GiB, more than half of the memory's"
            f" {there / 2**29:.1f}; get it again, or give a smaller one"
        )


def squared(image: Any, size: int) -> np.ndarray:
    """A PIL image as (size, size, channels) uint8, squeezed where it was not square.

    Bilinear, as Pillow resizes: an axis that shrinks gets a filter as many times wider, so that
    every pixel counts.
    """
    return np.asarray(
        image.resize((size, size), imaging("resizing").Image.Resampling.BILINEAR)
    ).reshape(size, size, -1)


def stacked(
    images: Iterable[np.ndarray], count: int, what: str, remedy: str = "get the file again"
) -> np.ndarray:
    """`count` images of one shape as one array, held one at a time beside it.

    Raises UserError for several shapes, for no image, and for more bytes than this machine's memory
    has.
    """
    out = None
    for i, image in enumerate(images):
        if out is None:
            needed, there = count * image.nbytes, memory()
            if needed > there:
                raise UserError(
                    f"{count} of {what} take {needed / 2**30:.1f} GiB at {image.shape}, more than"
                    f" the memory's {there / 2**30:.1f}; set limit, or a smaller size"
                )
            out = np.empty((count, *image.shape), image.dtype)
        if image.shape != out.shape[1:]:
            raise UserError(
                f"{what} have several shapes, such as {out.shape[1:]} and {image.shape}, not one;"
                f" {remedy}"
            )
        out[i] = image
    if out is None:
        raise UserError(f"there are no images among {what}; {remedy}")
    return out


def memory() -> int:
    """The bytes of this machine's main memory; where the system does not tell, more than
    any has.
    """
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 2**63


@contextlib.contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Whatever a damaged file raises inside becomes one UserError that names `path` and what it
    should have been.
    """
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is not a readable {kind} ({first_line(error)}); get it again"
        ) from error


def imaging(purpose: str) -> ModuleType:
    """Pillow with its module Image. Raises UserError with the pip line, naming `purpose`, where it
    is missing.
    """
    try:
        import PIL.Image
    except ImportError as error:
        raise UserError(f"{purpose} needs Pillow ({error}); pip install pillow") from error
    return PIL
