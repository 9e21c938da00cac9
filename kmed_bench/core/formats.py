"""Names and versions of the JSON files that rooms and releases exchange, checked before a file is used."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypedDict, TypeVar, cast

from kmed_bench.core.errors import KmedError
from kmed_bench.core.fields import check_fields
from kmed_bench.core.files import parse_json, read_json_text

Content = TypeVar("Content")


class Head(TypedDict):
    """What every file begins with."""

    format: str
    version: int


@dataclasses.dataclass(frozen=True)
class FileFormat(Generic[Content]):
    """One kind of JSON file.

    Attributes
    ----------
    name : str
        Value of the key ``format``.
    version : int
        Raised whenever a reader of the version before could misread the file.
    oldest : int
        Oldest version that can be read as it is; 0 admits files from before the two keys were written.
    remedy : str
        How to get a file of this version, as the end of a sentence.
    fields : mapping
        What every reader needs of the content, each with its type; `fields.check_fields` checks them.
    """

    name: str
    version: int
    oldest: int
    remedy: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def head(self) -> Head:
        """``format`` and ``version`` of a file written now."""
        return {"format": self.name, "version": self.version}

    def check(self, value: object, where: str | Path, *, text: str = "") -> Content:
        """Return a file's content if this release can read it.

        Parameters
        ----------
        where : str or Path
            What the file is called in messages.
        text : str
            The file's JSON, to name lines.

        Raises
        ------
        KmedError
            When the content is no JSON object, of another format or of a version that can't be read, or when a field
            is missing or of another type.
        """
        if not isinstance(value, dict):
            raise KmedError(f"{where} holds a {type(value).__name__} and not a JSON object; {self.remedy}.")
        found, version = value.get("format", self.name), value.get("version", 0)
        if found != self.name or type(version) is not int or version < 0:
            raise KmedError(
                f"{where} has format {found!r:.80}, version {version!r:.80}; {self.name!r} is needed here, so "
                f"check the path, or {self.remedy}."
            )
        if version > self.version:
            raise KmedError(
                f"{where} has version {version} of {self.name}, and this release reads up to {self.version}; install "
                "the release that wrote it or a later one."
            )
        if version < self.oldest:
            raise KmedError(
                f"{where} has version {version} of {self.name}, and this release reads {self.oldest} to "
                f"{self.version}; {self.remedy}."
            )
        check_fields(value, self.fields, where, self.remedy, text=text)
        return cast(Content, value)

    def read(self, path: Path) -> Content:
        """Return the content of a file; raises like `check`, and when the file is missing or no JSON."""
        text = read_json_text(path)
        return self.check(parse_json(text, path), path, text=text)
