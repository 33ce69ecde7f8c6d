"""Where text comes from: the Python standard library, a directory of files, TensorFlow Datasets."""

import codecs
import collections
import re
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from theseus_jax.data import catalogue
from theseus_jax.errors import UserError
from theseus_jax.paths import local

# The `encodings` package is left out because nearly all of it is the same 256-row table with other
# values: a file of it in the test split would be known from its neighbours in the train split.
STDLIB_SKIPPED_DIRECTORIES = frozenset(
    {
        "site-packages",
        "dist-packages",
        "__pycache__",
        "test",
        "tests",
        "idlelib",
        "lib2to3",
        "turtledemo",
        "ensurepip",
        "encodings",
    }
)
# Written when Python was built or by the system's packager, so different on every machine.
STDLIB_SKIPPED_PREFIXES = ("_sysconfigdata", "config-", "sitecustomize")


PIECE = 1 << 16  # characters of a text that are read at a time
SEAM = re.compile(r"\S([ \n\t])")
LONGEST = 1 << 20  # characters without a space, after which a text is cut anyway
UTF8 = "utf-8"
BOMS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class Document(NamedTuple):
    """One text. `name` is unique in its source: a relative POSIX path, or `split/index` of a TFDS
    example. held: the text, or the file that it is read from, in the given encoding; of UTF-8 a
    mark at the beginning is left out.
    """

    name: str
    held: str | Path
    encoding: str = UTF8

    def pieces(self) -> Iterator[str]:
        """The text in pieces of about PIECE characters, cut only where a word ends: there no
        token of a byte-level BPE goes on. A word of LONGEST is cut; such pieces are longer than
        any other. Raises UserError for what the encoding does not allow, and for NULs.
        """
        rest = ""
        for read in self._reads():
            rest += read
            while len(rest) > PIECE:
                seam = SEAM.search(rest, PIECE - 1)
                if seam is None and len(rest) < LONGEST:
                    break
                end = seam.start(1) if seam else LONGEST
                yield rest[:end]
                rest = rest[end:]
        if rest:
            yield rest

    def _reads(self) -> Iterator[str]:
        if isinstance(self.held, str):
            yield self.held
            return
        encoding = "utf-8-sig" if codecs.lookup(self.encoding).name == UTF8 else self.encoding
        try:
            with self.held.open(encoding=encoding) as file:
                while read := file.read(PIECE):
                    if "\0" in read:
                        raise UserError(
                            f"{self.held} has NULs: it is no text, or not {self.encoding}; set"
                            " data.encoding to its own, such as utf-16, or remove the file"
                        )
                    yield read
        except UnicodeError as error:
            raise UserError(
                f"{self.held} is not {self.encoding}{_place(self.held, encoding)}; set"
                f" data.encoding to its own, such as {_guess(self.held)}, or remove the file"
            ) from error
        except OSError as error:
            raise UserError(
                f"{self.held} cannot be read ({error.strerror}); give it back, or remove it"
            ) from error

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.pieces())


def _place(file: Path, encoding: str) -> str:
    try:
        file.read_bytes().decode(encoding)
    except UnicodeDecodeError as error:
        return f": byte {error.start} is {error.object[error.start]:#04x}"
    except UnicodeError as error:  # of UTF-16 without a mark
        return f": {error}"
    return ""


def _guess(file: Path) -> str:
    with file.open("rb") as opened:
        return BOMS.get(opened.read(2), "latin-1")


def stdlib_files() -> list[Document]:
    """The source of the running Python's standard library, sorted by name; about 9 MB, PSF licence.

    All `*.py` under `sysconfig.get_path("stdlib")` outside `STDLIB_SKIPPED_DIRECTORIES` and without
    a path part that starts with one of `STDLIB_SKIPPED_PREFIXES`. It changes with the Python
    version, so results on it compare only within one version: `Corpus.sha256` tells.

    Raises UserError where the library is not a directory with text in it (for example inside a zip
    archive).
    """
    root = Path(sysconfig.get_path("stdlib"))

    def is_kept(path: Path) -> bool:
        parts = path.relative_to(root).parts
        return STDLIB_SKIPPED_DIRECTORIES.isdisjoint(parts[:-1]) and not any(
            part.startswith(STDLIB_SKIPPED_PREFIXES) for part in parts
        )

    kept = filter(is_kept, root.rglob("*.py"))
    return _read_files(root, kept, "*.py", 'set source="directory" and a path', UTF8)


def directory_files(
    path: str | Path,
    pattern: str = "*.txt",
    encoding: str = UTF8,
    passed: collections.Counter[str] | None = None,
) -> list[Document]:
    """The files under `path`, at any depth, whose name matches the glob `pattern`, sorted by
    relative name; hidden ones, and those in hidden folders, are passed over and counted in
    `passed`.

    encoding: one of Python's. Raises UserError for an empty path or pattern, an unknown encoding or
    one that is not of text, a missing directory, no matching file, one that is no file, only empty
    files, and text in another encoding.
    """
    if not str(path):
        raise UserError(
            'path is empty; a directory of text files was expected; set path, or source="stdlib"'
        )
    if not pattern or Path(pattern).is_absolute():
        raise UserError(
            f'pattern is {pattern!r}; a relative glob was expected; give one such as "*.txt"'
        )
    try:
        "".encode(encoding)
    except (LookupError, ValueError) as error:
        raise UserError(
            f"data.encoding is {encoding!r}, which Python does not know as one of text; set for"
            " example utf-8, utf-16, latin-1 or cp1252"
        ) from error
    root, passed = local(path), collections.Counter() if passed is None else passed
    remedy = "give a directory that holds such files, or another pattern"

    def is_seen(path: Path) -> bool:
        parts = path.relative_to(root).parts
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
        passed["hidden files"] += hidden and path.is_file()
        return not hidden

    found = filter(is_seen, root.rglob(pattern))
    return _read_files(root, found, pattern, remedy, encoding)


def tfds_documents(
    name: str, data_dir: str | Path = "", splits: Sequence[str] = ("train",), text_key: str = ""
) -> list[Document]:
    """The texts of a prepared TensorFlow Datasets data set, one document per example, without
    TensorFlow.

    Args:
      name: a name of the catalogue, with an optional `/config`.
      data_dir: where it was prepared; empty for TFDS's own default.
      splits: the data set's splits to read, in this order.
      text_key: the feature that holds the text; empty for the one called "text", or else the only
        one.

    Raises UserError when the package or the prepared data is missing, for an unknown name or split,
    and where `text_key` does not settle which feature to read.
    """
    if not name:
        raise UserError(
            'dataset is empty; a TensorFlow Datasets name was expected; set one such as "lm1b"'
        )
    tfds, features = catalogue.opened(name, data_dir, 'source="tfds"')
    key = _text_key(features, tfds.features.Text, name, text_key)
    documents = []
    for split in splits:
        examples = catalogue.examples(tfds, name, split, data_dir)
        for index in range(len(examples)):
            text = examples[index][key]
            documents.append(Document(f"{split}/{index:08d}", decoded(text, name, index)))
    return _with_text(documents, f"dataset {name!r}", "give another dataset or text_key")


def decoded(text: bytes | str, name: str, index: int) -> str:
    """An example's text. Raises UserError for bytes that are not UTF-8."""
    try:
        return text.decode(UTF8) if isinstance(text, bytes) else str(text)
    except UnicodeDecodeError as error:
        raise UserError(
            f"example {index} of {name!r} is not UTF-8 (byte {error.start}); give another set, or"
            " prepare this one anew"
        ) from error


def _text_key(features: Any, text_type: type, name: str, text_key: str) -> str:
    keys = sorted(key for key, feature in features.items() if isinstance(feature, text_type))
    if not keys:
        raise UserError(
            f"dataset {name!r} has no text feature, only {sorted(features)}; give one of text"
        )
    if text_key in keys:
        return text_key
    if not text_key and ("text" in keys or len(keys) == 1):
        return "text" if "text" in keys else keys[0]
    raise UserError(
        f"text_key is {text_key!r} but the text features of {name!r} are {keys}; "
        "set it to one of them"
    )


def _read_files(
    root: Path, paths: Iterable[Path], pattern: str, remedy: str, encoding: str
) -> list[Document]:
    if not root.is_dir():
        raise UserError(f"{str(root)!r} is not a directory; {remedy}")
    found = [path for path in paths if not path.is_dir()]
    odd = [path for path in found if not path.is_file()]
    if odd:
        kind = "a pipe or device" if odd[0].exists() else "a link to nothing"
        raise UserError(f"{odd[0]} is {kind}, no text; remove it")
    names = sorted(path.relative_to(root).as_posix() for path in found)
    if not names:
        raise UserError(f"no file under {str(root)!r} matches {pattern!r}; {remedy}")
    documents = [Document(name, root / name, encoding) for name in names]
    return _with_text(documents, f"{len(names)} files under {str(root)!r}", remedy)


def _with_text(documents: list[Document], what: str, remedy: str) -> list[Document]:
    if not any(piece.strip() for document in documents for piece in document.pieces()):
        raise UserError(f"{what}: every text is empty; {remedy}")
    return documents
