"""The transport form: one stored zip in one canonical form. Reading refuses an archive that is not of that form to the byte.

In: files, or a path. Out: the same bytes for the same files on every machine; or members, after names, offsets and sizes have
been checked. A stored member is as large as its bytes in the archive, so nothing can blow up. Not here: what the members say.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from duomem.bundle.manifest import MANIFEST, NAMES, SIGNATURE
from duomem.errors import DataError, UsageError

TIME = (1980, 1, 1, 0, 0, 0)
"""Every member's time: the first that the format has."""
MODE = 0o100644
"""Every member is a plain file."""
LARGEST = 2_000_000_000
"""Bytes of all members together. More would need ZIP64; such a bundle stays a folder."""
MOST = 64
"""Members of an archive."""
_COPY = 1 << 20


def pack(files: Mapping[str, Path], out: Path) -> None:
    """Write files, by their names in the archive, as one zip. Raises `UsageError` where they are too large for it."""
    total = sum(path.stat().st_size for path in files.values())
    if total > LARGEST:
        raise UsageError(f"{total / 1e9:.1f} GB are too many for the zip form. Keep the bundle as a folder: -o NAME")
    with zipfile.ZipFile(out, "w", allowZip64=False) as archive:
        for name in sorted(files):
            size = files[name].stat().st_size
            info = _info(name, size)
            with files[name].open("rb") as source, archive.open(info, "w") as target:
                while block := source.read(_COPY):
                    target.write(block)


def _info(name: str, size: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, TIME)
    info.create_system, info.create_version, info.extract_version = 3, 20, 20
    info.external_attr = MODE << 16
    info.file_size = size
    return info


class Archive:
    """An archive that is of the canonical form. `sizes` holds its members' sizes in bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.is_file():
            raise DataError(f"{path} is neither a folder nor a file.")
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise DataError(f"{path} is no bundle: {error}. It was cut or damaged, or is another kind of file.") from error
        try:
            self._check()
        except BaseException:
            self._zip.close()
            raise
        self.sizes = {info.filename: info.file_size for info in self._zip.infolist()}

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._zip.close()

    def __contains__(self, name: str) -> bool:
        return name in self.sizes

    def read(self, name: str, largest: int) -> bytes:
        if self.sizes[name] > largest:
            raise DataError(f"{self._path}: {name} has {self.sizes[name]} bytes; no bundle has one that large.")
        try:
            return self._zip.read(name)
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise DataError(f"{self._path}: {name} is damaged: {error}.") from error

    def extract(self, folder: Path) -> None:
        """Write every member below a folder. Names are those of `NAMES`, so none can lead out of it."""
        for name in self.sizes:
            target = folder / name
            target.parent.mkdir(exist_ok=True)
            try:
                with self._zip.open(name) as source, target.open("xb") as file:
                    while block := source.read(_COPY):
                        file.write(block)
            except (zipfile.BadZipFile, EOFError) as error:
                raise DataError(f"{self._path}: {name} is damaged: {error}.") from error

    def _check(self) -> None:
        """The archive is what `pack` writes: known names, sorted, once each; plain stored files; nothing between or around."""
        infos = self._zip.infolist()
        if len(infos) > MOST:
            raise DataError(f"{self._path} has {len(infos)} members; no bundle has that many.")
        names = [info.filename for info in infos]
        for info in infos:
            check_name(info.orig_filename, str(self._path))
        if names != sorted(set(names)):
            raise DataError(f"{self._path}: members are there twice or out of order. {_REPACK}")
        offset = 0
        with self._path.open("rb") as file:
            for info in infos:
                wanted = _info(info.filename, info.file_size)
                wanted.CRC, wanted.compress_size = info.CRC, info.file_size
                header = wanted.FileHeader(zip64=False)
                file.seek(offset)
                if info.header_offset != offset or info.compress_size != info.file_size or file.read(len(header)) != header:
                    raise DataError(f"{self._path}: {info.filename} is not stored as duomem stores it. {_REPACK}")
                offset += len(header) + info.file_size
            self._check_end(file.seek(0, 2), offset, infos)

    def _check_end(self, size: int, start: int, infos: list[zipfile.ZipInfo]) -> None:
        directory = sum(46 + len(info.filename) for info in infos)
        plain = all(
            (info.external_attr, info.internal_attr, info.create_system, info.flag_bits, info.extra, info.comment)
            == (MODE << 16, 0, 3, 0, b"", b"")
            for info in infos
        )
        if self._zip.start_dir != start or size != start + directory + 22 or self._zip.comment or not plain:
            raise DataError(
                f"{self._path}: there is more in the archive than its members, or they are no plain files. {_REPACK}"
            )


_REPACK = "Such an archive is not read; ask its maker for one that `duomem bundle` wrote."


def check_name(name: str, where: str) -> None:
    """Raises `DataError` for a name that no file of a bundle has: paths that lead out, devices, look-alikes, all unknown."""
    if name not in (MANIFEST, SIGNATURE) and not NAMES.fullmatch(name):
        raise DataError(f"{where} holds {name[:80]!r}, and no bundle has a file of that name.")
