"""A folder that `datasets.load_dataset` opens: Parquet files, with pictures as an Image feature."""

import json
from pathlib import Path
from typing import Any

from drs_fast.exporting import pictures
from drs_fast.exporting.format import Format, Part, Pieces
from drs_fast.exporting.source import LABEL, Piece

README = "README.md"
IMAGE = "image"  # the column's name there
CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
---

# Samples of {model}

{rows:,} samples that drs_fast drew with {sampler}. Each follows the law "{law}".

{rule}.

`_export.json` has the same, and the run's settings, for programs.
"""


class HuggingFace(Format):
    """data/train-*.parquet and README.md, which names them. Tables have x as a list."""

    pictures = "where possible"
    needs = ("pyarrow",)

    def name(self, number: int, count: int) -> str:
        return f"data/train-{number:05d}-of-{count:05d}.parquet"

    def last(self) -> list[Part]:
        return [Part(README, 0, 0, shows=False)]

    def made(self, piece: Piece) -> Any:
        import pyarrow

        from drs_fast.exporting import arrow

        plain = {name: rows for name, rows in piece.items() if name != self._picture}
        made = {name: arrow.column(rows) for name, rows in plain.items()}
        if self._picture in piece:
            files = pyarrow.array(pictures.encoded(piece["x"]), pyarrow.binary())
            names = pyarrow.nulls(len(files), pyarrow.string())
            made[IMAGE] = pyarrow.StructArray.from_arrays([files, names], ["bytes", "path"])
        return made

    def write(self, path: Path, part: Part, pieces: Pieces) -> None:
        if part.name == README:
            path.write_text(self._card(), encoding="utf8")
            return
        import pyarrow

        from drs_fast.exporting import arrow

        image = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
        fields = [
            pyarrow.field(IMAGE, image)
            if name == self._picture
            else arrow.field(name, row).with_nullable(True)  # because `datasets` knows no others
            for name, row in self.source.rows.items()
        ]
        facts = {arrow.KEY: json.dumps(self.facts).encode()}
        features = {"info": {"features": self._features()}}
        schema = pyarrow.schema(fields, {**facts, b"huggingface": json.dumps(features).encode()})
        arrow.write(path, schema, pieces(*self.source.rows))

    @property
    def _picture(self) -> str | None:
        return "x" if self.facts["pictures"] else None

    def _features(self) -> dict[str, Any]:
        """The columns in the words of `datasets.Features`."""
        found: dict[str, Any] = {}
        for name, row in self.source.rows.items():
            value = {"dtype": row.dtype, "_type": "Value"}
            labels = self.source.samples.manifest.get("labels")
            if name == self._picture:
                found[IMAGE] = {"_type": "Image"}
            elif name == LABEL and labels is not None:
                found[name] = {"names": list(map(str, range(labels))), "_type": "ClassLabel"}
            elif row.shape == ():
                found[name] = value
            else:
                found[name] = {"feature": value, "length": row.size, "_type": "Sequence"}
        return found

    def _card(self) -> str:
        run = self.facts["run"]
        return CARD.format(
            model=run["model"],
            rows=self.source.n,
            sampler=run["sampler"]["name"],
            law=run["law"],
            rule=self._rule(),
        )

    def _rule(self) -> str:
        rule, ends = self.facts["image_rule"], self.facts["value_range"]
        if rule is None:
            return "x is as the generator makes it"
        where = "" if ends is None else f", with low = {ends[0]:g} and high = {ends[1]:g}"
        return f"How x became what it is: {rule}{where}"
